//! Tests of the real processes speak this small language: a place, a king, dukes, queens, and what to expect of them.
//!
//! Each test has a folder of its own and ports of its own. Nothing sleeps: [`until`] waits for a condition, and tells
//! the last state when it does not come true. The logs of all processes are shown when a test fails.

mod guests;
mod hardship;
mod process;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use distwasm_proto::time::Clock;
use tempfile::TempDir;

pub use guests::guest;
pub use hardship::{behind_shell, fail_late, stranger};
pub use process::{Finished, Process, memory_bytes, peak_memory_bytes, peak_memory_of_children, peasants_of, runs};

/// How long a test waits for anything. Far longer than it takes, so that a loaded machine fails no test.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` gives something.
///
/// # Panics
///
/// When it does not in time; `state` tells how things are then.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>, state: impl FnOnce() -> String) -> T {
    let clock = Clock::start();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Duration::from_micros(clock.now().0) < PATIENCE, "{what} did not come true; now: {}", state());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Waits for so many seconds until `condition` gives something, if it does.
pub fn within_seconds<T>(seconds: u64, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let clock = Clock::start();
    loop {
        let found = condition();
        if found.is_some() || clock.now().0 >= seconds * 1_000_000 {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder of the four programs, built from the sources as they are, in the profile of the tests.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Tests stand in a folder of their own beside the programs.
        let this = std::env::current_exe().unwrap();
        let mut folders = this.ancestors().skip(1).skip_while(|folder| folder.ends_with("deps"));
        let folder = folders.next().unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(root());
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the programs do not build");
        folder
    })
}

/// A folder for one test, with an input and an output folder.
pub struct Place {
    folder: TempDir,
}

impl Default for Place {
    fn default() -> Place {
        let folder = tempfile::Builder::new().prefix("distwasm-test-").tempdir().unwrap();
        fs::create_dir(folder.path().join("input")).unwrap();
        Place { folder }
    }
}

impl Place {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of inputs.
    pub fn input(&self) -> PathBuf {
        self.path().join("input")
    }

    /// The folder of outputs, which queens make.
    pub fn output(&self) -> PathBuf {
        self.path().join("output")
    }

    /// Writes an input.
    pub fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        let path = self.input().join(Path::new(name.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes so many inputs for summer, `1 + 1`, `2 + 2` and so on.
    pub fn write_sums(&self, count: u64) {
        for number in 1..=count {
            self.write(number.to_string(), format!("{number} + {number}"));
        }
    }

    /// Every sum is there and right, and nothing else is.
    pub fn expect_sums(&self, count: u64) {
        let expected: BTreeMap<PathBuf, Vec<u8>> = (1..=count)
            .map(|number| (PathBuf::from(number.to_string()), format!("{}\n", 2 * number).into_bytes()))
            .collect();
        let outputs = self.outputs();
        assert_eq!(outputs.len(), expected.len(), "some outputs are missing, or too many");
        assert_eq!(outputs, expected);
    }

    /// All files below the output folder, with their contents.
    pub fn outputs(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(self.output().join(&folder)) else { continue };
            for entry in entries {
                let entry = entry.unwrap();
                let path = folder.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                } else {
                    // An unfinished output may get its name, or vanish, between the two looks.
                    files.extend(fs::read(entry.path()).ok().map(|content| (path, content)));
                }
            }
        }
        files
    }

    /// How many whole outputs there are.
    pub fn outputs_count(&self) -> usize {
        let is_whole = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().starts_with(".distwasm-");
        fs::read_dir(self.output()).map_or(0, |entries| entries.flatten().filter(is_whole).count())
    }

    /// A program, one of the four or any by its path, with no king in its environment and a cache of this place.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DISTWASM_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.env("DISTWASM_CACHE", self.path().join("cache")).stdin(Stdio::null());
        command
    }

    /// A queen on this place's folders, not started.
    pub fn queen_command(&self, guest: impl AsRef<Path>) -> Command {
        let mut command = self.command("queen");
        command.arg("--binary").arg(guest.as_ref());
        command.arg("--input").arg(self.input()).arg("--output").arg(self.output());
        command
    }

    /// Runs a queen on this machine alone, to her end.
    pub fn queen(&self, guest: impl AsRef<Path>, args: &[&str]) -> Finished {
        Finished::of(self.queen_command(guest).args(args))
    }

    /// Starts a queen of a kingdom.
    pub fn start_queen(&self, king: &King, guest: impl AsRef<Path>, args: &[&str]) -> Process {
        self.start_queen_at(&king.address, guest, args)
    }

    /// Starts a queen who looks for a king at this address.
    pub fn start_queen_at(&self, address: &str, guest: impl AsRef<Path>, args: &[&str]) -> Process {
        self.start(self.queen_command(guest).arg("--king-address").arg(address).args(args), "queen")
    }

    /// Starts a command of this place.
    pub fn start(&self, command: &mut Command, name: &str) -> Process {
        Process::start(command, name, self.path())
    }

    /// Starts a king, and waits until he listens.
    pub fn king(&self) -> King {
        self.king_with(&[])
    }

    /// Starts a king with these flags, and waits until he listens.
    pub fn king_with(&self, args: &[&str]) -> King {
        self.king_behind_shell("", args)
    }

    /// The same behind lines of a shell, which may set limits.
    pub fn king_behind_shell(&self, shell: &str, args: &[&str]) -> King {
        let port_file = self.path().join(format!("port-{}", fs::read_dir(self.path()).unwrap().count()));
        let mut command = self.command("king");
        command.args(["--port", "0", "--http", "127.0.0.1:0", "--port-file"]).arg(&port_file).args(args);
        let process = self.start(&mut behind_shell(shell, &command), "king");
        let address = until(
            "the king's port file",
            || fs::read_to_string(&port_file).ok().map(|text| text.trim().to_owned()),
            || process.log(),
        );
        let http = until("the king's address for HTTP", || process.logged_value("http="), || process.log());
        King { process, address, http }
    }

    /// Starts a duke of two processors.
    pub fn duke(&self, king: &King, args: &[&str]) -> Process {
        self.duke_at(&king.address, args)
    }

    /// Starts a duke who looks for a king at this address.
    pub fn duke_at(&self, address: &str, args: &[&str]) -> Process {
        self.start(&mut self.duke_command_at(address, args), "duke")
    }

    /// The same, not started.
    pub fn duke_command_at(&self, address: &str, args: &[&str]) -> Command {
        let mut command = self.command("duke");
        command.args(["--king-address", address, "--num-cpus", "2", "--ram-limit", "2048"]).args(args);
        command
    }
}

/// A king who listens.
pub struct King {
    /// His process.
    pub process: Process,
    /// Where dukes and queens reach him.
    pub address: String,
    http: String,
}

impl King {
    /// A page of his HTTP port: the status line and the body.
    pub fn page(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: king\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// One of his figures, by its name with its label.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.page("/metrics");
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {name} in {body}")).parse().unwrap()
    }

    /// Waits until a figure is what it should be.
    pub fn expect_metric(&self, name: &str, expected: impl Fn(u64) -> bool) {
        until(name, || expected(self.metric(name)).then_some(()), || self.page("/metrics").1);
    }
}
