//! The jail: the walls around the process itself, in case a guest gets out of the engine, or a program out of the
//! compiler.
//!
//! They are raised before a byte of the program is read. A process opens what it was given, [enters](Jail::enter) the
//! jail while it has only one thread (each thread has capabilities and landlock rules of its own, which its later
//! threads inherit), starts the threads that it needs, and [locks](Jail::lock) the jail.

#[cfg(target_os = "linux")]
mod empty_root;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod memory_folder;
#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(target_os = "linux")]
use linux as os;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
use other as os;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use distwasm_proto::walls::Wall;
use wasmtime::PoolingAllocationConfig;

pub use os::leaves_root;

/// The walls around this process, and why some do not stand.
#[derive(Debug, Default)]
pub struct Jail {
    /// The walls that hold.
    pub holds: Vec<Wall>,
    /// The other walls, and why they do not hold.
    pub missing: Vec<(Wall, String)>,
}

/// Why the jail is not good enough.
#[derive(Debug, thiserror::Error)]
#[error("the jail lacks {wall}: {why}")]
pub struct Weak {
    wall: Wall,
    why: String,
}

/// What a process in the jail does that others do not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// It opens files beneath folders that it shares.
    pub reads_files: bool,
    /// It makes and changes files in a folder in memory.
    pub writes_files: bool,
    /// It gets open files over a socket.
    pub takes_files: bool,
}

/// At the very start: no descriptors but the three streams and `kept`, a process group of its own, no core files.
pub fn open(kept: Option<RawFd>) -> io::Result<()> {
    os::open(kept)
}

/// Makes a folder in memory for `bytes` bytes in `files` files. It has no name, so that only this process can get at it,
/// and it is gone with the process.
///
/// The process must have only one thread, and must not have entered the jail.
pub fn make_scratch(bytes: u64, files: u64) -> io::Result<OwnedFd> {
    os::make_scratch(bytes, files)
}

/// The folders that a process in the jail may open files in.
#[derive(Clone, Debug, Default)]
pub struct Open<'a> {
    /// Those that it may read.
    pub shares: Vec<BorrowedFd<'a>>,
    /// The one in memory that it may write to.
    pub scratch: Option<BorrowedFd<'a>>,
}

impl Jail {
    /// Raises the walls that each thread has for itself. Nothing but what is beneath the folders in `open` can be opened
    /// from now on.
    ///
    /// The process must have only one thread.
    pub fn enter(open: &Open<'_>) -> Jail {
        // They need files of /proc, and remember what they found.
        has_swap();
        rustix::param::page_size();
        PoolingAllocationConfig::is_pagemap_scan_available();
        let mut jail = Jail::default();
        os::enter(&mut jail, open);
        jail
    }

    /// Raises the rest: no new threads or processes, and only the system calls that are needed.
    ///
    /// # Errors
    ///
    /// When one of the `required` walls does not hold.
    pub fn lock(&mut self, needs: Needs, required: &[Wall]) -> Result<(), Weak> {
        os::lock(self, needs);
        match required.iter().find(|wall| !self.holds.contains(wall)) {
            None => Ok(()),
            Some(wall) => {
                let why = self.missing.iter().find(|(missing, _)| missing == wall).map(|(_, why)| why.clone());
                Err(Weak { wall: *wall, why: why.unwrap_or_default() })
            }
        }
    }

    fn record(&mut self, wall: Wall, raised: Result<(), impl ToString>) {
        match raised {
            Ok(()) => self.holds.push(wall),
            Err(why) => self.missing.push((wall, why.to_string())),
        }
    }
}

/// For compiling: bounds on processor time and memory. Other processes go first.
pub fn limit_compiling(cpu_seconds: u64, data_bytes: u64) -> io::Result<()> {
    os::limit_compiling(cpu_seconds, data_bytes)
}

/// Lets the stack of the process grow to this size.
pub fn let_stack_grow(bytes: u64) -> io::Result<()> {
    os::let_stack_grow(bytes)
}

/// Before the first guest, and after the engine has made its files in memory: no bytes into files.
pub fn limit_files() -> io::Result<()> {
    os::limit_files()
}

/// For a peasant that gets files to write to: a limit of the user on the size of files is an error, and does not kill.
pub fn survive_file_limit() {
    os::survive_file_limit();
}

/// Whether memory may be swapped out here.
pub fn has_swap() -> bool {
    static HAS_SWAP: OnceLock<bool> = OnceLock::new();
    *HAS_SWAP.get_or_init(os::has_swap)
}
