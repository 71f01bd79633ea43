//! Systems without known walls.

use std::io;
use std::os::fd::BorrowedFd;

use distwasm_proto::walls::Wall;

use super::Jail;

/// At the very start: nothing.
pub fn open() -> io::Result<()> {
    Ok(())
}

/// Whether the process takes another user's id in the jail: it does not.
pub fn leaves_root() -> bool {
    false
}

/// The walls of each thread: none.
pub fn enter(_jail: &mut Jail, _shares: &[BorrowedFd<'_>]) {}

/// The rest: nothing.
pub fn lock(jail: &mut Jail, _reads_files: bool) {
    for wall in Wall::all() {
        jail.record(wall, Err("not known for this system"));
    }
}

/// For compiling: nothing.
pub fn limit_compiling(_cpu_seconds: u64, _data_bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Before the first guest: nothing.
pub fn limit_files() -> io::Result<()> {
    Ok(())
}

/// Whether memory may be swapped out here: unknown, so yes.
pub fn has_swap() -> bool {
    true
}
