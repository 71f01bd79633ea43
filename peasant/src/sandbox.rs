//! The walls around the process itself, in case a guest gets out of the engine.
//!
//! They are raised in two steps: harmless restrictions at the very start, and the rest when the engine is set up and
//! the program is loaded, before the first instruction of a guest.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as os;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
use other as os;

use std::io;

/// At the very start: no descriptors but the three streams, a process group of its own, no core files.
pub fn open() -> io::Result<()> {
    os::open()
}

/// For compiling: bounds on processor time and memory. Other processes go first.
pub fn limit_compiling(cpu_seconds: u64, data_bytes: u64) -> io::Result<()> {
    os::limit_compiling(cpu_seconds, data_bytes)
}

/// Before the first guest: no new privileges, no new threads or processes, no files, not to be traced.
pub fn close() -> io::Result<()> {
    os::close()
}

/// Whether memory may be swapped out here.
pub fn has_swap() -> bool {
    os::has_swap()
}
