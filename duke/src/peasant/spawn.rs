//! Starts child processes that cannot outlive the duke.
//!
//! The kernel kills a child whose parent *thread* ends (`PR_SET_PDEATHSIG`), so all children are started by one thread
//! that lives as long as the duke's runtime.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use distwasm_process::{
    handed::{self, Arguments, Handed},
    handover,
};
use distwasm_proto::{
    limits::{PIPE_BUFFER_BYTES, REFERENCED_UNITS_MAX},
    walls::{self, Wall},
};
use thiserror::Error;
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::cache::Cache;

/// Starts peasants.
#[derive(Clone, Debug)]
pub struct Spawner {
    peasant: Arc<Path>,
    requests: mpsc::Sender<Request>,
    /// The walls that each child must raise: a child whose jail is weaker does not start.
    walls: Arc<[Wall]>,
    /// Units whose files each peasant may have open at a time.
    units_with_files: usize,
    /// Where large results are kept.
    store: Option<Cache>,
}

struct Request {
    args: Arguments,
    /// A socket that the child inherits.
    socket: Option<OwnedFd>,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Why a peasant could not be started.
#[derive(Debug, Error)]
#[error("failed to start {}", .peasant.display())]
pub struct SpawnError {
    peasant: PathBuf,
    source: io::Error,
}

/// How many requests may wait for the spawning thread. With more, their barons wait.
const REQUESTS: usize = 16;

impl Spawner {
    /// Starts the thread. It ends when the last clone of the spawner is gone.
    ///
    /// # Errors
    ///
    /// When there is no thread for it.
    pub fn start(peasant: &Path) -> io::Result<Spawner> {
        let (requests, mut waiting) = mpsc::channel::<Request>(REQUESTS);
        let peasant: Arc<Path> = peasant.into();
        let (program, runtime) = (Arc::clone(&peasant), Handle::current());
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _inside = runtime.enter();
            while let Some(Request { args, socket, answer }) = waiting.blocking_recv() {
                // If the baron was dropped, the child is dropped here, which kills it.
                let _sent = answer.send(spawn(&program, args, socket.as_ref()));
            }
        })?;
        Ok(Spawner { peasant, requests, walls: Arc::default(), units_with_files: REFERENCED_UNITS_MAX, store: None })
    }

    /// A spawner whose children must raise these walls.
    pub(crate) fn demanding(self, walls: &[Wall]) -> Spawner {
        Spawner { walls: walls.into(), ..self }
    }

    /// A spawner whose peasants have the files of at most this many units open at a time.
    pub fn with_files_of(self, units_with_files: usize) -> Spawner {
        Spawner { units_with_files, ..self }
    }

    /// A spawner for peasants whose large results are kept there.
    pub(crate) fn with_store(self, store: Cache) -> Spawner {
        Spawner { store: Some(store), ..self }
    }

    /// Where large results are kept.
    pub(super) fn store(&self) -> Option<Cache> {
        self.store.clone()
    }

    /// Units whose files each peasant may have open at a time.
    pub(crate) fn units_with_files(&self) -> usize {
        self.units_with_files
    }

    /// Starts a peasant with piped standard streams, in a process group of its own, without the duke's environment.
    pub(crate) async fn spawn(&self, args: Arguments) -> Result<Child, SpawnError> {
        self.spawn_with(args, None).await
    }

    /// Starts a peasant, as [`Spawner::spawn`] does, that takes descriptors from this socket.
    pub(crate) async fn spawn_with(&self, mut args: Arguments, socket: Option<OwnedFd>) -> Result<Child, SpawnError> {
        if !self.walls.is_empty() {
            let names = walls::names(self.walls.iter().copied());
            args.shown.extend(["--walls".into(), names.into()]);
        }
        let (answer, answered) = oneshot::channel();
        let ended = || io::Error::other("the thread that starts processes has ended");
        let child = match self.requests.send(Request { args, socket, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(ended()),
        };
        child.map_err(|source| SpawnError { peasant: self.peasant.to_path_buf(), source })
    }
}

fn spawn(program: &Path, mut args: Arguments, socket: Option<&OwnedFd>) -> io::Result<Child> {
    if let Some(socket) = socket {
        args.shown.extend([handover::FLAG.into(), socket.as_raw_fd().to_string().into()]);
    }
    let (args, handed) = args.split()?;
    let mut command = Command::new(program);
    command.args(args).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    confine(&mut command, [handed.as_ref().map(Handed::descriptor), socket.map(AsRawFd::as_raw_fd)]);
    let child = command.spawn()?;
    enlarge(child.stdin.as_ref());
    enlarge(child.stdout.as_ref());
    Ok(child)
}

/// Enlarges a pipe's buffer, so that a large unit takes fewer turns of reader and writer.
#[cfg(target_os = "linux")]
fn enlarge(pipe: Option<&impl std::os::fd::AsFd>) {
    // The system bounds the total of a user's pipe buffers. Beyond it the pipe keeps its size.
    let _enlarged = pipe.map(|pipe| rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BUFFER_BYTES));
}

#[cfg(not(target_os = "linux"))]
fn enlarge<P>(_pipe: Option<&P>) {}

#[cfg(target_os = "linux")]
fn confine(command: &mut Command, kept: [Option<RawFd>; 2]) {
    let duke = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The duke may have died before the line above.
        if rustix::process::getppid() != Some(duke) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        rustix::thread::set_no_new_privs(true)?;
        close_on_exec_from(3)?;
        kept.iter().flatten().try_for_each(|kept| handed::keep_open(*kept))
    };
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(before_exec);
    }
}

#[cfg(not(target_os = "linux"))]
fn confine(command: &mut Command, kept: [Option<RawFd>; 2]) {
    let before_exec = move || kept.iter().flatten().try_for_each(|kept| handed::keep_open(*kept));
    // SAFETY: as above.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Keeps all descriptors from `first` on from reaching the program that is executed next.
#[cfg(target_os = "linux")]
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes three integers and touches only the flags of open descriptors.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
