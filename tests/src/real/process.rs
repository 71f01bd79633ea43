//! Processes of a test: started, watched, killed and waited for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// A running process, with its standard error in a file. Dropping it kills it.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    stdout: PathBuf,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status, if it was not killed.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Process {
    /// Starts a process.
    pub fn start(command: &mut Command, name: &str, folder: &Path) -> Process {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = folder.join(format!("{name}-{number}.log"));
        let stdout = folder.join(format!("{name}-{number}.out"));
        command.stdout(fs::File::create(&stdout).unwrap()).stderr(fs::File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        Process { child, name: name.to_owned(), log, stdout }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned()
    }

    /// The word after `key` in its log, without quotes.
    pub fn logged_value(&self, key: &str) -> Option<String> {
        let log = self.log();
        let value = log.split_once(key)?.1.split_whitespace().next()?;
        Some(value.trim_matches('"').to_owned())
    }

    /// Waits until its log contains `text`.
    pub fn expect_log(&self, text: &str) {
        until(text, || self.log().contains(text).then_some(()), || self.log());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it ends.
    pub fn finish(mut self) -> Finished {
        let log = self.log.clone();
        let show = || fs::read_to_string(&log).unwrap_or_default();
        let status: ExitStatus = until("the end of a process", || self.child.try_wait().unwrap(), show);
        let stdout = String::from_utf8_lossy(&fs::read(&self.stdout).unwrap()).into_owned();
        Finished { status: status.code(), stdout, stderr: self.log() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read(&self.log).unwrap_or_default();
            eprintln!("---- log of {} ----\n{}", self.name, String::from_utf8_lossy(&log));
        }
    }
}

impl Finished {
    /// Runs a command until it ends.
    pub fn of(command: &mut Command) -> Finished {
        let output = command.stdin(Stdio::null()).output().unwrap();
        Finished {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks that it ended with this exit status, and wrote each of these texts to its standard error.
    pub fn expect(&self, status: i32, said: &[&str]) {
        assert_eq!(self.status, Some(status), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for text in said {
            assert!(self.stderr.contains(text), "nothing about {text:?} in: {}", self.stderr);
        }
    }
}

/// The peasants that are children of a process.
pub fn peasants_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|id| is_peasant(*id, parent)).collect()
}

fn is_peasant(id: u32, parent: u32) -> bool {
    stat(id).is_some_and(|stat| stat.name == "peasant" && stat.runs && stat.parent == parent)
}

/// Whether this process exists and has not ended. A zombie has ended.
pub fn runs(id: u32) -> bool {
    stat(id).is_some_and(|stat| stat.runs)
}

struct Stat {
    name: String,
    runs: bool,
    parent: u32,
}

/// The kernel's record of a process. `None` if it does not exist.
fn stat(id: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let runs = !matches!(fields.next()?, "Z" | "X");
    Some(Stat { name: name.to_owned(), runs, parent: fields.next()?.parse().ok()? })
}

/// The peak memory of the largest child that this process has waited for, in bytes.
pub fn peak_memory_of_children() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`, which is valid if all bytes are zero, before and after the call.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    u64::try_from(usage.ru_maxrss).unwrap() << 10
}

/// The peak memory of a process, in bytes.
pub fn peak_memory_bytes(id: u32) -> u64 {
    peak_memory_bytes_of_running(id).unwrap()
}

/// The peak memory of a process that may have ended, in bytes.
pub fn peak_memory_bytes_of_running(id: u32) -> Option<u64> {
    status_bytes(id, "VmHWM:")
}

/// The current memory of a process, in bytes.
pub fn memory_bytes(id: u32) -> u64 {
    status_bytes(id, "VmRSS:").unwrap()
}

/// `None` if the process has ended: then it has no memory, even while nobody has waited for it.
fn status_bytes(id: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10)
}
