//! The walls on Linux.

use std::io::{self, IsTerminal};
use std::os::fd::{OwnedFd, RawFd};

use distwasm_proto::{
    limits::{COMPILE_NICENESS, JAIL_DESCRIPTORS_MAX},
    walls::Wall,
};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{FileType, Gid, Uid, fstat};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getegid, geteuid, getppid, getrlimit, getuid, nice,
    parent_process_death_signal, set_dumpable_behavior, set_parent_process_death_signal, setpgid, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::{Jail, Needs, Open, empty_root, memory_folder, seccomp};

/// At the very start.
pub fn open(kept: Option<RawFd>) -> io::Result<()> {
    close_descriptors(kept);
    if !io::stdin().is_terminal() {
        // Fails for a session leader, which already has a group of its own. Skipped on a terminal, which would be lost.
        let _ = setpgid(None, None);
    }
    limit(Resource::Core, 0)
}

/// Raises the walls of each thread: from what needs the most rights to what takes the last one away.
pub fn enter(jail: &mut Jail, open: &Open<'_>) {
    jail.record(
        Wall::NoNewPrivileges,
        set_no_new_privs(true)
            .map_err(io::Error::from)
            .and_then(|()| if no_new_privs()? { Ok(()) } else { Err(io::Error::other("the kernel does not keep it")) }),
    );
    jail.record(Wall::NotRoot, leave_root());
    enter_namespaces(jail);
    jail.record(Wall::EmptyRoot, empty_root::enter());
    enter_landlock(jail, open);
    jail.record(Wall::NoCapabilities, drop_capabilities());
    jail.record(Wall::NotDumpable, become_undumpable());
}

/// Raises the walls that all threads have together.
pub fn lock(jail: &mut Jail, needs: Needs) {
    jail.record(Wall::Limits, limit_jail());
    jail.record(Wall::Seccomp, seccomp::lock(needs));
}

/// Whether the process takes another user's id in the jail: root does.
pub fn leaves_root() -> bool {
    getuid().is_root() || geteuid().is_root()
}

/// The user and the group `nobody`, as on most systems: they own nothing.
const NOBODY: u32 = 65_534;

/// Becomes nobody, if the process is root's.
fn leave_root() -> io::Result<()> {
    if !leaves_root() {
        return Ok(());
    }
    let (parent, signal) = (getppid(), parent_process_death_signal()?);
    drop_bounding_set();
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // The change of user clears it.
    set_parent_process_death_signal(signal)?;
    // The parent may have died before the line above.
    if signal.is_some() && getppid() != parent {
        return Err(io::Error::other("the parent of this process has ended"));
    }
    Ok(())
}

/// Each by itself, because a system may forbid some of them. The user's namespace comes first: it gives the right to
/// make the others, and no id in it stands for one outside.
fn enter_namespaces(jail: &mut Jail) {
    for (wall, flag) in [
        (Wall::UserNamespace, libc::CLONE_NEWUSER),
        (Wall::NetworkNamespace, libc::CLONE_NEWNET),
        (Wall::MountNamespace, libc::CLONE_NEWNS),
        (Wall::IpcNamespace, libc::CLONE_NEWIPC),
        (Wall::UtsNamespace, libc::CLONE_NEWUTS),
    ] {
        // SAFETY: the process has only one thread, and shares no descriptors or memory with another process.
        let done = unsafe { libc::unshare(flag) };
        jail.record(wall, if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) });
    }
}

/// Denies files, network and other processes, as far as the kernel's landlock knows them.
fn enter_landlock(jail: &mut Jail, open: &Open<'_>) {
    let walls = [(Wall::LandlockFiles, 1), (Wall::LandlockNetwork, 4), (Wall::LandlockScope, 6)];
    let restricted = restrict(open);
    for (wall, since) in walls {
        jail.record(
            wall,
            match &restricted {
                Ok(version) if *version >= since => Ok(()),
                Ok(0) => Err("this kernel has no landlock, or it is switched off".to_owned()),
                Ok(version) => Err(format!("this kernel has version {version} of landlock, and it came with {since}")),
                Err(error) => Err(error.to_string()),
            },
        );
    }
}

/// Denies what landlock can deny, except in the folders of `open`. Returns the version of landlock; 0 for none.
fn restrict(open: &Open<'_>) -> Result<i32, RulesetError> {
    let newest = ABI::V10;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(newest))?.handle_access(AccessNet::from_all(newest))?;
    let mut ruleset = ruleset.scope(Scope::from_all(newest))?.create()?;
    for share in &open.shares {
        ruleset = ruleset.add_rule(PathBeneath::new(share, AccessFs::ReadFile | AccessFs::ReadDir))?;
    }
    if let Some(scratch) = &open.scratch {
        ruleset = ruleset.add_rule(PathBeneath::new(scratch, files_and_folders()))?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            effective_abi as i32
        }
        _ => 0,
    })
}

/// All that a guest does with files, folders and links. Among it is moving them between folders.
fn files_and_folders() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Makes a folder in memory.
pub fn make_scratch(bytes: u64, files: u64) -> io::Result<OwnedFd> {
    if !leaves_root() {
        own_mounts()?;
    }
    let options = [(c"size", bytes.to_string()), (c"nr_inodes", files.to_string()), (c"mode", "0777".to_owned())];
    memory_folder::make(&options, memory_folder::FOR_DATA)
}

/// Gets the right to mount something, in namespaces of its own. Files can only be made on what is mounted there by an id
/// that means something there. The jail's own namespaces are made within these, and no id means anything in them.
fn own_mounts() -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    // SAFETY: the process has only one thread, and shares no descriptors or memory with another process.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Drops all capabilities, also those that the process has only within its own namespaces.
fn drop_capabilities() -> io::Result<()> {
    drop_bounding_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    clear_ambient_capability_set()?;
    let left = capabilities(None)?;
    if (left.effective | left.permitted | left.inheritable).is_empty() {
        Ok(())
    } else {
        Err(io::Error::other("some cannot be dropped"))
    }
}

/// Drops capabilities from the set that bounds what executed programs may get. Only a privileged process can do it, and
/// without new privileges it is one more lock on the same door.
fn drop_bounding_set() {
    for capability in CapabilitySet::all().iter() {
        // An older kernel does not know the last ones.
        if remove_capability_from_bounding_set(capability) == Err(Errno::PERM) {
            return;
        }
    }
}

fn become_undumpable() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    match dumpable_behavior()? {
        DumpableBehavior::NotDumpable => Ok(()),
        _ => Err(io::Error::other("the kernel does not keep it")),
    }
}

fn limit_jail() -> io::Result<()> {
    limit(Resource::Core, 0)?;
    limit(Resource::Nproc, 0)?;
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    limit(Resource::Nofile, most.min(JAIL_DESCRIPTORS_MAX))
}

/// For compiling: processor time and memory.
pub fn limit_compiling(cpu_seconds: u64, data_bytes: u64) -> io::Result<()> {
    nice(COMPILE_NICENESS)?;
    // At the first of the two the process gets SIGXCPU, which tells its duke the reason.
    lower(Resource::Cpu, cpu_seconds, cpu_seconds.saturating_add(1))?;
    // The address space is not limited, because the engine reserves gigabytes of it that it never touches.
    lower(Resource::Data, data_bytes, data_bytes)
}

/// Lets the stack of the process grow to this size. What is free below it was decided when the process began.
pub fn let_stack_grow(bytes: u64) -> io::Result<()> {
    let there = getrlimit(Resource::Stack);
    if there.current.is_none_or(|current| current >= bytes) {
        return Ok(());
    }
    match there.maximum {
        Some(most) if most < bytes => {
            Err(io::Error::other(format!("the limit of this machine is {} KB (ulimit -Hs)", most >> 10)))
        }
        _ => Ok(setrlimit(Resource::Stack, Rlimit { current: Some(bytes), ..there })?),
    }
}

/// Lowers a limit. A lower one of the user stays: raising it is not allowed to everybody.
fn lower(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let there = getrlimit(resource);
    let least = |wanted: u64, there: Option<u64>| Some(there.map_or(wanted, |there| there.min(wanted)));
    let (current, maximum) = (least(current, there.current), least(maximum, there.maximum));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}

/// Before the first guest.
pub fn limit_files() -> io::Result<()> {
    // The limit would kill a peasant that is used by hand and writes to a file.
    if is_file(io::stdout()) || is_file(io::stderr()) { Ok(()) } else { limit(Resource::Fsize, 0) }
}

/// Before the first guest that writes to files.
pub fn survive_file_limit() {
    // SAFETY: to ignore a signal runs nothing when it comes.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
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

fn close_descriptors(kept: Option<RawFd>) {
    const FIRST: libc::c_uint = 3;
    let kept = kept.and_then(|kept| libc::c_uint::try_from(kept).ok()).filter(|kept| *kept >= FIRST);
    match kept {
        None => close_range(FIRST, libc::c_uint::MAX),
        Some(kept) => {
            if kept > FIRST {
                close_range(FIRST, kept - 1);
            }
            close_range(kept.saturating_add(1), libc::c_uint::MAX);
        }
    }
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the process has opened nothing yet, so no descriptor from `first` on is owned by anything in it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        return;
    }
    // A kernel before 5.9.
    const LAST: libc::c_uint = 65_535;
    for descriptor in first..=last.min(LAST) {
        // SAFETY: as above.
        unsafe { libc::close(descriptor.cast_signed()) };
    }
}
