//! What this machine has, as far as this process may use it.

use std::{fs, path::PathBuf};

use distwasm_proto::limits::{DUKE_CPUS_MAX, NAME_BYTES_MAX};

/// The machine's name.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() || name.len() > NAME_BYTES_MAX { "unnamed".to_owned() } else { name }
}

/// Processors that this process may use: affinity and cgroup quota are respected.
pub fn cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(DUKE_CPUS_MAX).min(DUKE_CPUS_MAX)
}

/// Bytes of memory that this process may use: the machine's, or less where a cgroup limits it.
pub fn memory_bytes() -> u64 {
    let all = meminfo_total().unwrap_or(u64::MAX);
    cgroup_limits().into_iter().fold(all, u64::min)
}

fn meminfo_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The limits of this process's cgroup and all above it; version 2, and version 1's own group.
fn cgroup_limits() -> Vec<u64> {
    let Ok(groups) = fs::read_to_string("/proc/self/cgroup") else { return Vec::new() };
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            let folder = PathBuf::from("/sys/fs/cgroup").join(path);
            files.extend(
                folder
                    .ancestors()
                    .take_while(|folder| folder.starts_with("/sys/fs/cgroup"))
                    .map(|f| f.join("memory.max")),
            );
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.limit_in_bytes"));
        }
    }
    // A group without a limit says "max", and the root has no such file.
    files.into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).collect()
}

/// What tells this machine, since it was switched on, from every other; empty where the system does not say.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
