//! What this process may have of the system: descriptors, threads, processes. Known before anything is promised.

use std::{
    error::Error,
    fs, io,
    num::NonZero,
    process::ExitCode,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::{
    exit::Exit,
    limits::{BLOCKING_THREADS_MAX, DESCRIPTORS_MAX, WORKER_THREADS_MAX},
    link::chain,
    logging::{self, LogFormat},
    memory, stderr,
};

/// Why this process cannot work at all.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProcessError {
    #[error(
        "this process needs {wanted} threads and could start {started} (`ulimit -u` and the cgroup's pids.max bound them)"
    )]
    Threads { wanted: usize, started: usize, source: io::Error },
    #[error("failed to start the runtime")]
    Runtime(#[source] io::Error),
}

/// The whole life of a program that serves: a king or a duke. `blocking` threads of it work for as long as it does.
pub fn serve<F, E>(format: LogFormat, blocking: usize, run: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    begin();
    logging::start(format, "info");
    let ended =
        start_runtime(blocking).map_err(Into::into).and_then(|runtime| runtime.block_on(run()).map_err(Into::into));
    let exit = match ended {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{}", chain(error.as_ref()));
            Exit::CouldNotRun
        }
    };
    stderr::flush();
    exit.into()
}

/// What every program does first, before it has threads.
pub fn begin() {
    memory::keep_together();
    raise_descriptors();
    // Without a thread for it stderr is written as it comes; why there is none is told when the runtime wants more.
    let _started = stderr::start();
}

/// Lets this process have as many descriptors as it may. Programs are started with a low limit for the sake of old
/// ones that use `select`.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    if limit.current.is_some_and(|current| current < most) {
        // Where it is refused the limit stays, and what fits it is counted.
        let _raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit });
    }
}

/// Starts a runtime that has what it needs: its own threads, and `blocking` more that work for as long as it does.
///
/// # Errors
///
/// When so many threads cannot be started. The runtime by itself would wait for them without an end.
pub fn start_runtime(blocking: usize) -> Result<Runtime, ProcessError> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(WORKER_THREADS_MAX);
    try_threads(workers + blocking + 1)?;
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).max_blocking_threads(blocking.max(1) + BLOCKING_THREADS_MAX).enable_all();
    builder.build().map_err(ProcessError::Runtime)
}

/// Starts so many threads at the same time, and ends them again.
fn try_threads(wanted: usize) -> Result<(), ProcessError> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = |gate: Arc<(Mutex<bool>, Condvar)>| {
        move || {
            let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(gate.1.wait_while(open, |open| !*open));
        }
    };
    let mut threads = Vec::new();
    let mut refused = None;
    while threads.len() < wanted && refused.is_none() {
        match thread::Builder::new().spawn(wait(Arc::clone(&gate))) {
            Ok(thread) => threads.push(thread),
            Err(error) => refused = Some(error),
        }
    }
    *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    gate.1.notify_all();
    let started = threads.len();
    for thread in threads {
        // They do nothing that could fail.
        let _ended = thread.join();
    }
    refused.map_or(Ok(()), |source| Err(ProcessError::Threads { wanted, started, source }))
}

/// Descriptors that this process may still open; `None` where there is no limit that matters.
pub fn descriptors_left() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile).current?;
    // Where nobody can look, what programs are started with and a little more.
    const OPEN_AT_LEAST: u64 = 16;
    let open = fs::read_dir("/proc/self/fd").map_or(OPEN_AT_LEAST, |open| open.count() as u64);
    Some(limit.saturating_sub(open))
}

/// Processes and threads that this process and its children may still start; `None` where there is no limit, or it
/// cannot be found out. What others start meanwhile is not known: a start may fail nevertheless.
pub fn processes_left() -> Option<u64> {
    processes_left_to_user().into_iter().chain(processes_left_in_cgroup()).min()
}

/// By `ulimit -u`, which counts threads of all processes of a user, and does not hold for root.
fn processes_left_to_user() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let limit = getrlimit(Resource::Nproc).current?;
    let user = rustix::process::getuid();
    if user.is_root() {
        return None;
    }
    let is_own = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|found| found.uid() == user.as_raw());
    let threads = |process: fs::DirEntry| fs::read_dir(process.path().join("task")).map_or(0, Iterator::count);
    let processes = fs::read_dir("/proc").ok()?.flatten().filter(is_own);
    let running: usize = processes.map(threads).sum();
    Some(limit.saturating_sub(running as u64))
}

/// By the cgroup, version 2.
fn processes_left_in_cgroup() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = std::path::Path::new("/sys/fs/cgroup").join(path);
    let read = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    // A group without a limit says "max".
    Some(read("pids.max")?.saturating_sub(read("pids.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_raised_to_what_is_allowed_and_counted() {
        raise_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum.map(|most| most.min(DESCRIPTORS_MAX)).or(limit.current));
        let before = descriptors_left();
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files meanwhile.
        let taken = before.unwrap_or(0).saturating_sub(descriptors_left().unwrap_or(0));
        assert!(before.is_none() || taken > 5, "{taken}");
        drop(files);
    }

    #[test]
    fn threads_that_cannot_be_had_are_told_of() {
        try_threads(8).unwrap();
    }
}
