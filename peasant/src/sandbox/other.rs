//! Systems without known walls.

use std::io;

/// At the very start: nothing.
pub fn open() -> io::Result<()> {
    Ok(())
}

/// For compiling: nothing.
pub fn limit_compiling(_cpu_seconds: u64, _data_bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Before the first guest: nothing.
pub fn close() -> io::Result<()> {
    Ok(())
}

/// Whether memory may be swapped out here: unknown, so yes.
pub fn has_swap() -> bool {
    true
}
