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

/// The library that makes files fail late, built by the compiler that links the tests.
fn late_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = programs().join(format!("late-{}.so", std::process::id()));
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(root().join("tests/preload/late.c"));
        assert!(compile.arg("-ldl").status().unwrap().success(), "tests/preload/late.c does not compile");
        let shared = programs().join("late.so");
        // Tests in other processes may build the same library at the same time.
        fs::rename(&library, &shared).unwrap();
        shared
    })
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
