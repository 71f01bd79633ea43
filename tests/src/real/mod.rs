//! The small language of tests with real processes: a place, a king, dukes, queens, and expectations of them.
//!
//! Each test has its own folder and its own ports. Nothing sleeps: [`until`] waits for a condition, and reports the
//! last state if it does not come true. The logs of all processes are shown when a test fails.

mod guests;
mod hardship;
mod process;
mod screen;

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

use distwasm_process::clock::Clock;
use tempfile::TempDir;

pub use guests::guest;
pub use hardship::{Death, behind_shell, die_at, fail_late, fail_while, stranger};
pub use process::{
    Finished, Process, memory_bytes, peak_memory_bytes, peak_memory_bytes_of_running, peak_memory_of_children,
    peasants_of, runs,
};
pub use screen::screen;

/// How long a test waits for a condition. Far longer than needed, so that no test fails on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` returns a value.
///
/// # Panics
///
/// When it does not in time. `state` then describes the last state.
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

/// Waits up to `seconds` until `condition` returns a value.
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

/// Waits until a king has written where it listens; `state` tells how things are if it does not.
pub fn king_address(port_file: &Path, state: impl FnOnce() -> String) -> String {
    let read = || fs::read_to_string(port_file).ok().map(|text| text.trim().to_owned());
    until("the king's port file", read, state)
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder of the four programs, built from the current sources, in the profile of the tests.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Test programs are in a subfolder of the programs' folder.
        let this = std::env::current_exe().unwrap();
        let mut folders = this.ancestors().skip(1).skip_while(|folder| folder.ends_with("deps"));
        let folder = folders.next().unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(root());
        // What `cargo test` says of the crate of the tests: some build scripts would run again because of it, and then
        // much would be built again for each of the two.
        for (name, _) in std::env::vars_os() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
                build.env_remove(name);
            }
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the programs do not build");
        folder
    })
}

/// The folder of sockets, for all places: a queen of one may work for the king of another. Kings that are killed leave
/// files there, which is not a place for the user's own.
fn runtime_folder() -> PathBuf {
    let folder = programs().join("run");
    fs::create_dir_all(&folder).unwrap();
    folder
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

    /// The folder of outputs, which queens create.
    pub fn output(&self) -> PathBuf {
        self.path().join("output")
    }

    /// The folder of the key and the tokens of this place's kings.
    pub fn data(&self) -> PathBuf {
        self.path().join("state/distwasm/king")
    }

    /// Writes an input.
    pub fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
        let path = self.input().join(Path::new(name.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes `count` inputs for summer: `1 + 1`, `2 + 2` and so on.
    pub fn write_sums(&self, count: u64) {
        for number in 1..=count {
            self.write(number.to_string(), format!("{number} + {number}"));
        }
    }

    /// Checks that every sum is there and right, and nothing else is there.
    pub fn expect_sums(&self, count: u64) {
        let expected: BTreeMap<PathBuf, Vec<u8>> = (1..=count)
            .map(|number| (PathBuf::from(number.to_string()), format!("{}\n", 2 * number).into_bytes()))
            .collect();
        let outputs = self.outputs();
        assert_eq!(outputs.len(), expected.len(), "some outputs are missing, or too many");
        assert_eq!(outputs, expected);
    }

    /// All outputs, with their contents; the record of the runs is none.
    pub fn outputs(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(self.output().join(&folder)) else { continue };
            for entry in entries {
                let entry = entry.unwrap();
                let path = folder.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    folders.extend((path != Path::new(".distwasm")).then_some(path));
                } else {
                    // An unfinished output may be renamed or removed between listing and reading.
                    files.extend(fs::read(entry.path()).ok().map(|content| (path, content)));
                }
            }
        }
        files
    }

    /// The number of complete outputs.
    pub fn outputs_count(&self) -> usize {
        let is_whole = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().starts_with(".distwasm");
        fs::read_dir(self.output()).map_or(0, |entries| entries.flatten().filter(is_whole).count())
    }

    /// A command for one of the four programs, or any by its path, with no king in its environment, this place's
    /// cache and data, and a folder for sockets.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("DISTWASM_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.env("DISTWASM_CACHE", self.path().join("cache")).env("XDG_STATE_HOME", self.path().join("state"));
        command.env("XDG_RUNTIME_DIR", runtime_folder()).stdin(Stdio::null());
        command
    }

    /// The command of a queen on this place's folders.
    pub fn queen_command(&self, guest: impl AsRef<Path>) -> Command {
        let mut command = self.command("queen");
        command.arg("--binary").arg(guest.as_ref());
        command.arg("--input").arg(self.input()).arg("--output").arg(self.output());
        command
    }

    /// Runs a queen in local mode until it ends.
    pub fn queen(&self, guest: impl AsRef<Path>, args: &[&str]) -> Finished {
        Finished::of(self.queen_command(guest).args(args))
    }

    /// Starts a queen of a kingdom.
    pub fn start_queen(&self, king: &King, guest: impl AsRef<Path>, args: &[&str]) -> Process {
        self.start_queen_at(&king.address, guest, args)
    }

    /// Starts a queen that connects to this address.
    pub fn start_queen_at(&self, address: &str, guest: impl AsRef<Path>, args: &[&str]) -> Process {
        self.start(self.queen_command(guest).arg("--king-address").arg(address).args(args), "queen")
    }

    /// Starts a command of this place.
    pub fn start(&self, command: &mut Command, name: &str) -> Process {
        Process::start(command, name, self.path())
    }

    /// Starts a king for this user, and waits until it listens.
    pub fn king(&self) -> King {
        self.king_with(&[])
    }

    /// Starts a king that takes plaintext over TCP, as proxies and hand-made peers need, and waits until it listens.
    pub fn insecure_king(&self) -> King {
        self.king_with(&["--insecure"])
    }

    /// Starts a king with these flags, and waits until it listens.
    pub fn king_with(&self, args: &[&str]) -> King {
        self.king_behind_shell("", args)
    }

    /// Starts a king with these flags behind lines of a shell, which may set limits, and waits until it listens.
    pub fn king_behind_shell(&self, shell: &str, args: &[&str]) -> King {
        let port_file = self.path().join(format!("port-{}", fs::read_dir(self.path()).unwrap().count()));
        let mut command = self.command("king");
        command.env("DISTWASM_HTTP", "127.0.0.1:0").arg("--port-file").arg(&port_file).args(args);
        // A flag may be given only once.
        if !args.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        // Tests look at the metrics without a token.
        command.env("DISTWASM_METRICS_OPEN", "true");
        let process = self.start(&mut behind_shell(shell, &command), "king");
        let address = king_address(&port_file, || process.log());
        let http = until("the king's address for HTTP", || process.logged_value("http="), || process.log());
        King { process, address, http }
    }

    /// Starts a duke with two processors.
    pub fn duke(&self, king: &King, args: &[&str]) -> Process {
        self.duke_at(&king.address, args)
    }

    /// Starts a duke with two processors that connects to this address.
    pub fn duke_at(&self, address: &str, args: &[&str]) -> Process {
        self.start(&mut self.duke_command_at(address, args), "duke")
    }

    /// The command of a duke that connects to this address, with two processors unless the flags say otherwise.
    pub fn duke_command_at(&self, address: &str, args: &[&str]) -> Command {
        let mut command = self.command("duke");
        command.args(["--king-address", address]).args(args);
        for [flag, value] in [["--num-cpus", "2"], ["--ram-limit", "2048"]] {
            // A flag may be given only once.
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command
    }
}

/// A king that listens.
pub struct King {
    /// The king's process.
    pub process: Process,
    /// The address for dukes and queens.
    pub address: String,
    /// The address of its HTTP port.
    pub http: String,
}

impl King {
    /// Fetches a page from its HTTP port. Returns the status line and the body.
    pub fn page(&self, path: &str) -> (String, String) {
        self.page_with(path, None)
    }

    /// Fetches a page, with a token if there is one.
    pub fn page_with(&self, path: &str, token: Option<&str>) -> (String, String) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: king\r\n{token}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// The value of a metric, by its name with its label.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.page("/metrics");
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {name} in {body}")).parse().unwrap()
    }

    /// Waits until a metric has an expected value.
    pub fn expect_metric(&self, name: &str, expected: impl Fn(u64) -> bool) {
        until(name, || expected(self.metric(name)).then_some(()), || self.page("/metrics").1);
    }
}
