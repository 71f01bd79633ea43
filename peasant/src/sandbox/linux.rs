//! The walls on Linux.

use std::io::{self, IsTerminal};

use distwasm_proto::limits::COMPILE_NICENESS;
use rustix::fs::{FileType, fstat};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, nice, set_dumpable_behavior, setpgid, setrlimit};
use rustix::thread::set_no_new_privs;

/// At the very start.
pub fn open() -> io::Result<()> {
    close_descriptors();
    if !io::stdin().is_terminal() {
        // Fails for a session leader, which already has a group of its own. Skipped on a terminal, which would be lost.
        let _ = setpgid(None, None);
    }
    limit(Resource::Core, 0)
}

/// For compiling: processor time and memory.
pub fn limit_compiling(cpu_seconds: u64, data_bytes: u64) -> io::Result<()> {
    nice(COMPILE_NICENESS)?;
    // At the first of the two the process gets SIGXCPU, which tells its duke the reason.
    lower(Resource::Cpu, cpu_seconds, cpu_seconds.saturating_add(1))?;
    // The address space is not limited, because the engine reserves gigabytes of it that it never touches.
    lower(Resource::Data, data_bytes, data_bytes)
}

/// Lowers a limit. A lower one of the user stays: raising it is not allowed to everybody.
fn lower(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let there = getrlimit(resource);
    let least = |wanted: u64, there: Option<u64>| Some(there.map_or(wanted, |there| there.min(wanted)));
    let (current, maximum) = (least(current, there.current), least(maximum, there.maximum));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}

/// Before the first guest.
pub fn close() -> io::Result<()> {
    // Not earlier: files in /proc/self would belong to root, and the engine's pool needs one of them.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    limit(Resource::Nproc, 0)?;
    // The limit would kill a peasant that is used by hand and writes to a file.
    if !is_file(io::stdout()) && !is_file(io::stderr()) {
        limit(Resource::Fsize, 0)?;
    }
    Ok(())
}

/// Whether memory may be swapped out here. Counts as yes if it cannot be found out.
pub fn has_swap() -> bool {
    // The first line is a heading.
    std::fs::read_to_string("/proc/swaps").map_or(true, |swaps| swaps.lines().count() > 1)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

fn is_file(stream: impl std::os::fd::AsFd) -> bool {
    fstat(stream).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn close_descriptors() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the process has opened nothing yet, so no descriptor from 3 on is owned by anything in it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if result == 0 {
        return;
    }
    // A kernel before 5.9.
    const LAST: libc::c_int = 65_535;
    for descriptor in FIRST as libc::c_int..=LAST {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
}
