//! The resources that the system still allows this process: descriptors, threads and processes, and the cgroups'
//! limits.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use distwasm_proto::limits::OPEN_DESCRIPTORS_ASSUMED;
use rustix::process::{Resource, getrlimit};

/// Descriptors that this process may still open; `None` where there is no limit that matters.
pub fn descriptors_left() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile).current?;
    let open = fs::read_dir("/proc/self/fd").map_or(OPEN_DESCRIPTORS_ASSUMED, |open| open.count() as u64);
    Some(limit.saturating_sub(open))
}

/// Processes and threads that this process and its children may still start; `None` where there is no limit, or it
/// cannot be found out. Other processes may start some meanwhile, so that a start may fail nevertheless.
pub fn processes_left() -> Option<u64> {
    processes_left_to_user().into_iter().chain(processes_left_in_cgroup()).min()
}

/// By `ulimit -u`, which counts threads of all processes of a user, and does not hold for root.
fn processes_left_to_user() -> Option<u64> {
    let limit = getrlimit(Resource::Nproc).current?;
    let user = rustix::process::getuid();
    if user.is_root() {
        return None;
    }
    let is_own = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|found| found.uid() == user.as_raw());
    let threads = |process: fs::DirEntry| fs::read_dir(process.path().join("task")).map_or(0, Iterator::count);
    let processes = fs::read_dir("/proc").ok()?.flatten().filter(is_own);
    let running: usize = processes.map(threads).sum();
    Some(limit.saturating_sub(running as u64))
}

/// By the cgroups of this process.
fn processes_left_in_cgroup() -> Option<u64> {
    let current = |limit: &Path| read_number(&limit.with_file_name("pids.current")).unwrap_or(0);
    let limits = cgroup_limits("pids", "pids.max", "pids.max").into_iter();
    limits.map(|(file, most)| most.saturating_sub(current(&file))).min()
}

/// The limits of this process's cgroup and of all above it, each with its file: `v2` in version 2, and the file `v1` of
/// a controller in version 1, where only the group itself is looked at.
pub fn cgroup_limits(controller: &str, v2: &str, v1: &str) -> Vec<(PathBuf, u64)> {
    let root = Path::new("/sys/fs/cgroup");
    // In a container without a view of its own group, the group is the root of what it sees.
    let mut files = vec![root.join(v2)];
    for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            let group = root.join(path);
            let groups = group.ancestors().take_while(|group| group.starts_with(root));
            files.extend(groups.map(|group| group.join(v2)));
        } else if controllers.split(',').any(|name| name == controller) {
            files.push(root.join(controller).join(path).join(v1));
        }
    }
    // A group without a limit says "max", and the root has no such file.
    files.into_iter().filter_map(|file| Some((read_number(&file)?, file))).map(|(limit, file)| (file, limit)).collect()
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
