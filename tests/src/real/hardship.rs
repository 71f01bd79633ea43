//! Hardship for processes: file systems that fail late, limits, and users with fewer rights.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{Place, programs, root};

/// Makes a program lose its writes to files below a path. Closing such a file fails with this error number.
pub fn fail_late(command: &mut Command, below: &Path, error: i32) {
    command.env("LD_PRELOAD", late_library()).env("LATE_BELOW", below).env("LATE_ERRNO", error.to_string());
}

/// The library that makes files fail late.
fn late_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build_library("late"))
}

/// When a program is killed among the calls that change something below a folder.
#[derive(Clone, Copy, Debug)]
pub enum Death {
    /// Before the Nth such call, counted from 1.
    Before(u32),
    /// When the Nth such call is done; of a write, half is.
    Within(u32),
}

/// Kills a program when it changes something whose path begins like this. The path has no links.
pub fn die_at(command: &mut Command, below: &Path, death: Death) {
    let (at, how) = match death {
        Death::Before(at) => (at, "before"),
        Death::Within(at) => (at, "torn"),
    };
    command.env("LD_PRELOAD", mortal_library()).env("MORTAL_BELOW", below);
    command.env("MORTAL_AT", at.to_string()).env("MORTAL_HOW", how);
}

/// As long as a file exists, has all that a program changes fail with this error number, where paths begin like this.
pub fn fail_while(command: &mut Command, below: &Path, file: &Path, error: i32) {
    command.env("LD_PRELOAD", mortal_library()).env("MORTAL_BELOW", below);
    command.env("MORTAL_WHILE", file).env("MORTAL_ERRNO", error.to_string());
}

/// The library that kills programs, or has their writes fail.
fn mortal_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build_library("mortal"))
}

/// A library of `tests/preload`, built by the compiler that links the tests.
fn build_library(name: &str) -> PathBuf {
    let library = programs().join(format!("{name}-{}.so", std::process::id()));
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(root().join(format!("tests/preload/{name}.c")));
    assert!(compile.arg("-ldl").status().unwrap().success(), "tests/preload/{name}.c does not compile");
    let shared = programs().join(format!("{name}.so"));
    // Tests in other processes may build the same library at the same time.
    fs::rename(&library, &shared).unwrap();
    shared
}

/// A command that runs lines of a shell, such as `ulimit -n 100`, and then `command`.
pub fn behind_shell(shell: &str, command: &Command) -> Command {
    let mut limited = Command::new("bash");
    limited
        .arg("-c")
        .arg(format!("{shell}\nexec \"$@\""))
        .arg("bash")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// A user without rights and without other processes, if this one may become another.
pub fn stranger() -> Option<u32> {
    // Tests that run at the same time each use another user.
    rustix::process::geteuid().is_root().then(|| 100_000 + std::process::id())
}

impl Place {
    /// Makes the command run as this user, and the folders of this place writable for everybody.
    pub fn run_as(&self, user: u32, command: &mut Command) {
        let everybody = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        for folder in [self.path(), &self.input()] {
            everybody(folder);
        }
        command.uid(user).gid(user);
    }

    /// A copy of the programs that every user can run.
    pub fn programs_for_all(&self) -> PathBuf {
        let folder = self.path().join("programs");
        fs::create_dir(&folder).unwrap();
        for program in ["king", "duke", "queen", "peasant"] {
            let (from, to) = (programs().join(program), folder.join(program));
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).unwrap();
        }
        folder
    }
}
