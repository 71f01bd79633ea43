//! The memory that a process may use: how much there is, keeping it close to the bytes that are counted, and giving
//! freed memory back to the machine.

use std::fs;

use distwasm_proto::limits::DUKE_RAM_BYTES_MAX;

use crate::allowance;

/// Has all threads take memory from one arena. To be called before there are threads.
///
/// By default each thread has an arena of its own, and memory freed in one is not available to the next: a king that
/// may hold two files of 256 MiB took up to a gibibyte. One arena is not slower here, since little is taken and freed
/// in small pieces.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_together() {
    // SAFETY: the call takes two numbers; its setting bounds how many arenas there will be.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Other systems have other allocators.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_together() {}

/// Gives freed memory back to the system. The allocator keeps it otherwise, for as long as the process lives. Worth it
/// when a job is over, not more often.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: the call takes a number, and changes nothing but free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other systems have other allocators.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

/// Bytes of memory that this process may use: the machine's, or less within a cgroup. `None` if it cannot be found out.
pub fn usable_bytes() -> Option<u64> {
    let machine = meminfo_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).or_else(sysinfo_total);
    let groups = allowance::cgroup_limits("memory", "memory.max", "memory.limit_in_bytes");
    let groups = groups.into_iter().map(|(_, bytes)| bytes);
    let known = machine.into_iter().chain(groups).filter(|bytes| (1..=DUKE_RAM_BYTES_MAX).contains(bytes));
    known.min()
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// The memory that the kernel reports where `/proc` is hidden.
fn sysinfo_total() -> Option<u64> {
    let info = rustix::system::sysinfo();
    info.totalram.checked_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_amount_of_memory_is_not_made_up() {
        assert_eq!(meminfo_total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), Some(24 << 20));
        for text in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 1 MB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(meminfo_total(text), None, "{text}");
        }
        assert!(sysinfo_total().is_some_and(|bytes| bytes > 1 << 20));
        assert!(usable_bytes().is_some_and(|bytes| bytes <= DUKE_RAM_BYTES_MAX));
    }
}
