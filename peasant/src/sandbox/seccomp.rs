//! The system calls that a process in the jail may make.
//!
//! A call that is not on the list fails with EPERM, because a library may try one and go on without it; of a thread that
//! is started with `clone3`, the C library wants to hear ENOSYS. A call that no library makes by itself, and that is of
//! use only to a guest that has got out, ends the process with SIGSYS: so the escape is seen.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Needs;

/// What every process in the jail needs: memory, its open descriptors, clocks, waiting, signals of its own, and its end.
const ALWAYS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered by the filter for this one call.
    libc::SYS_clone3,
];

/// Calls of older kinds that only some processors have.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_arch_prctl];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// What a process needs beside that to read files beneath open folders.
const READING: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fchdir,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
];

/// What a process needs beside that to make, change and remove files in its scratch.
const WRITING: &[c_long] = &[
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_fdatasync,
];

/// What a process needs beside that to get open files. To read and write them, it needs nothing more.
const TAKING: &[c_long] = &[libc::SYS_recvmsg];

/// What only a guest that has got out would do.
const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_acct,
    libc::SYS_personality,
];

/// Requests to devices: is it a terminal, which pages have changed, and close it when a program is executed. Not among
/// them is the one that types into a terminal.
const IOCTLS: &[u64] = &[TCGETS, PAGEMAP_SCAN, FIOCLEX];

// The C library has these numbers in types that differ from system to system.
const TCGETS: u64 = 0x5401;
const FIOCLEX: u64 = 0x5451;

/// The scan of changed pages by which the engine resets memories.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Requests about descriptors. Not among them are those that send signals.
const FCNTLS: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// Naming threads and memory for who looks from outside.
const PRCTLS: &[i32] = &[libc::PR_SET_NAME, libc::PR_SET_VMA];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Bounds the system calls of all threads.
pub fn lock(needs: Needs) -> io::Result<()> {
    let architecture = TargetArch::try_from(ARCH).map_err(io::Error::other)?;
    let program = |rules: Rules, others, matched| {
        let filter = SeccompFilter::new(rules, others, matched, architecture)?;
        BpfProgram::try_from(filter)
    };
    let plain = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    let not_there = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let forbidden = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let programs = [
        program(plain(&[libc::SYS_clone3]), SeccompAction::Allow, not_there),
        program(plain(DEADLY), SeccompAction::Allow, SeccompAction::KillProcess),
        allowed(needs).and_then(|rules| program(rules, forbidden, SeccompAction::Allow)),
    ];
    // Of several filters the strictest answer counts. The last one forbids to add others.
    for program in programs {
        install(&program.map_err(io::Error::other)?)?;
    }
    Ok(())
}

fn allowed(needs: Needs) -> Result<Rules, BackendError> {
    let reading = if needs.reads_files || needs.writes_files { READING } else { &[] };
    let writing = if needs.writes_files { WRITING } else { &[] };
    let taking = if needs.takes_files { TAKING } else { &[] };
    let mut rules: Rules =
        [ALWAYS, OLD, reading, writing, taking].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let one_of = |argument, values: Vec<u64>| -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |value| {
            let is_it = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
            SeccompRule::new(vec![is_it])
        };
        values.into_iter().map(rule).collect()
    };
    let numbers = |values: &[i32]| values.iter().map(|value| u64::from(value.cast_unsigned())).collect();
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS.to_vec())?);
    rules.insert(libc::SYS_fcntl, one_of(1, numbers(FCNTLS))?);
    rules.insert(libc::SYS_prctl, one_of(0, numbers(PRCTLS))?);
    // Its own limits, which it can only lower.
    rules.insert(libc::SYS_prlimit64, one_of(0, vec![0])?);
    // A process that aborts sends itself a signal.
    rules.insert(libc::SYS_tgkill, one_of(0, vec![own])?);
    Ok(rules)
}

/// Installs a filter in all threads. It does not slow the guest down: kernels before 5.16 would switch off a speculation
/// of the processor otherwise, by which a guest could only read its own process.
fn install(program: &BpfProgram) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let program = libc::sock_fprog { len: length, filter };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the pointer is to a program of this length, which the kernel copies; the layout of its instructions is the
    // kernel's.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match done {
        0 => Ok(()),
        // The number of a thread that could not be brought in line.
        1.. => Err(io::Error::other("a thread has another filter")),
        _ => Err(io::Error::last_os_error()),
    }
}
