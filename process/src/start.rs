//! How a program begins and ends: descriptors, threads, runtime, log, exit status.

use std::{error::Error, io, num::NonZero, process::ExitCode, sync::Mutex, thread};

use distwasm_proto::{
    error_text::chain,
    exit::Exit,
    limits::{BLOCKING_THREADS_MAX, DESCRIPTORS_EXPECTED, DESCRIPTORS_MAX, WORKER_THREADS_MAX},
};
use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::{
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
    let ended = runtime(blocking).map_err(Into::into).and_then(|runtime| runtime.block_on(run()).map_err(Into::into));
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

/// The first steps of every program, before it has threads.
pub fn begin() {
    keep_memory_private();
    memory::keep_together();
    raise_descriptors();
    make_room_for_descriptors();
    // If the thread cannot be started, stderr is written directly; the runtime reports the lack of threads.
    let _started = stderr::start();
}

/// Keeps other processes of this user from tracing this one and from reading its memory and environment, where secrets
/// are, and the kernel from writing it into a core file.
#[cfg(target_os = "linux")]
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // If a kernel refuses, the process is as it always was.
    let _kept = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

#[cfg(not(target_os = "linux"))]
fn keep_memory_private() {}

/// Raises this process's limit of descriptors to the most that it may have. Programs are started with a low limit for
/// the sake of old ones that use `select`.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    if limit.current.is_some_and(|current| current < most) {
        // If this is refused, the limit stays as it is and is counted with.
        let _raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit });
    }
}

/// Grows the table of descriptors while there is one thread: later, the kernel lets a thread wait until no other one uses
/// the old table.
pub fn make_room_for_descriptors() {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_EXPECTED).min(DESCRIPTORS_EXPECTED);
    let last = i32::try_from(most.saturating_sub(1)).unwrap_or(0);
    // Closed at once; the table stays as large as it is. Without it the process is only slower.
    let _last = fcntl_dupfd_cloexec(io::stderr(), last);
}

/// Starts a runtime that has the threads it needs: its own, and `blocking` more that work for as long as it does.
///
/// # Errors
///
/// When these threads cannot be started. Without this check the runtime would wait for them forever.
pub fn runtime(blocking: usize) -> Result<Runtime, ProcessError> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(WORKER_THREADS_MAX);
    try_threads(workers + blocking + 1)?;
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(workers).max_blocking_threads(blocking.max(1) + BLOCKING_THREADS_MAX).enable_all();
    builder.build().map_err(ProcessError::Runtime)
}

/// Starts `wanted` threads that exist at the same time, and ends them again.
fn try_threads(wanted: usize) -> Result<(), ProcessError> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let _closed = gate.lock();
        for started in 0..wanted {
            if let Err(source) = thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())) {
                return Err(ProcessError::Threads { wanted, started, source });
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowance::descriptors_left;

    #[test]
    fn descriptors_are_raised_to_what_is_allowed_and_counted() {
        raise_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum.map(|most| most.min(DESCRIPTORS_MAX)).or(limit.current));
        let are_counted = || {
            let before = descriptors_left();
            let _files: Vec<_> = (0..20).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
            let taken = before.unwrap_or(0).saturating_sub(descriptors_left().unwrap_or(0));
            before.is_none() || taken > 5
        };
        // Other tests of this process open and close files meanwhile, but not all the time.
        assert!((0..1000).any(|_| are_counted()));
    }

    #[test]
    fn threads_that_cannot_be_had_are_told_of() {
        try_threads(8).unwrap();
    }
}
