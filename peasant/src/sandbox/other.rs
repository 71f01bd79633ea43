//! Systems without known walls.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use distwasm_proto::walls::Wall;

use super::{Jail, Needs, Open};

/// At the very start: nothing.
pub fn open(_kept: Option<RawFd>) -> io::Result<()> {
    Ok(())
}

/// Whether the process takes another user's id in the jail: it does not.
pub fn leaves_root() -> bool {
    false
}

/// The walls of each thread: none.
pub fn enter(_jail: &mut Jail, _open: &Open<'_>) {}

/// A folder in memory: not known for this system.
pub fn make_scratch(_bytes: u64, _files: u64) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The rest: nothing.
pub fn lock(jail: &mut Jail, _needs: Needs) {
    for wall in Wall::all() {
        jail.record(wall, Err("not known for this system"));
    }
}

/// For compiling: nothing.
pub fn limit_compiling(_cpu_seconds: u64, _data_bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Lets the stack of the process grow: not known for this system.
pub fn let_stack_grow(_bytes: u64) -> io::Result<()> {
    Err(io::Error::other("not known for this system"))
}

/// Before the first guest: nothing.
pub fn limit_files() -> io::Result<()> {
    Ok(())
}

/// A limit of the user on the size of files kills.
pub fn survive_file_limit() {}

/// Whether memory may be swapped out here: unknown, so yes.
pub fn has_swap() -> bool {
    true
}
