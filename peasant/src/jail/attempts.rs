//! What a guest that has got out of the engine might try, one thing at a time: in the jail each is refused.

use std::ffi::{CString, c_int, c_long};
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{ptr, thread};

use rustix::process::{Pid, Resource, Rlimit, Signal, setrlimit};

/// Tries one thing: at a path, an address, or a process or descriptor by its number.
///
/// # Errors
///
/// When it is refused.
pub fn attempt(what: &str, place: &str) -> io::Result<()> {
    match what {
        "open" => File::open(place).map(drop),
        "read" => fs::read(place).map(drop),
        "write" => File::options().write(true).open(place).map(drop),
        "create" => File::create(place).map(drop),
        "list" => fs::read_dir(place).map(drop),
        "connect" => TcpStream::connect(place).map(drop),
        "abstract" => abstract_socket(place),
        "descriptor" => descriptor(number(place)?),
        "overwrite" => overwrite(number(place)?),
        "truncate" => truncate(number(place)?),
        "terminal" => type_into_terminal(),
        "thread" => thread::Builder::new().spawn(|| ()).map(drop),
        "descriptors" => raise(Resource::Nofile),
        "processes" => raise(Resource::Nproc),
        "kill" => Ok(rustix::process::kill_process(process(place)?, Signal::CONT)?),
        "kill-group" => Ok(rustix::process::kill_process_group(process(place)?, Signal::CONT)?),
        _ => system_call(what, place),
    }
}

/// Tries a system call with arguments that would do no harm if it were allowed.
fn system_call(what: &str, place: &str) -> io::Result<()> {
    let path = CString::new(place)?;
    let (path, none, zero) = (path.as_ptr(), ptr::null::<u8>(), 0 as c_int);
    let arguments = [path, ptr::null()];
    let other = place.parse::<c_int>().unwrap_or(0);
    let remote = libc::iovec { iov_base: ptr::null_mut(), iov_len: 1 };
    let (new_user, empty) = (libc::CLONE_NEWUSER | libc::SIGCHLD, [0_u64; 16]);
    // SAFETY: the pointers are to whole values that outlive the calls, or null, which the kernel refuses. None of the
    // calls changes memory of this process; a child that is made only ends.
    let result: c_long = unsafe {
        match what {
            "fork" => end_child(libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, none)),
            "namespaces" => end_child(libc::syscall(libc::SYS_clone, new_user, none, none, none, none)),
            "clone3" => end_child(libc::syscall(libc::SYS_clone3, empty.as_ptr(), size_of_val(&empty))),
            "execute" => libc::execve(path, arguments.as_ptr(), arguments.as_ptr().add(1)).into(),
            "unshare" => libc::unshare(libc::CLONE_NEWUSER).into(),
            "trace" => libc::ptrace(libc::PTRACE_SEIZE, other, none, none),
            "memory" => libc::process_vm_readv(other, &raw const remote, 1, &raw const remote, 1, 0) as c_long,
            "mount" => libc::mount(c"none".as_ptr(), c"/".as_ptr(), c"tmpfs".as_ptr(), 0, ptr::null()).into(),
            "chroot" => libc::chroot(c"/".as_ptr()).into(),
            "setuid" => libc::syscall(libc::SYS_setuid, zero),
            "socket" => libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).into(),
            "netlink" => libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0).into(),
            "bpf" => libc::syscall(libc::SYS_bpf, zero, none, zero),
            "io-uring" => libc::syscall(libc::SYS_io_uring_setup, 1, empty.as_ptr()),
            "keys" => libc::syscall(libc::SYS_keyctl, zero, -3, zero),
            "page-faults" => libc::syscall(libc::SYS_userfaultfd, 1),
            "counters" => libc::syscall(libc::SYS_perf_event_open, empty.as_ptr(), zero, -1, -1, zero),
            "dump" => libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into(),
            "old-calls" => old_call(),
            _ => return Err(io::Error::other(format!("nothing is known by the name {what}"))),
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ends at once if this is the child.
fn end_child(result: c_long) -> c_long {
    if result == 0 {
        // SAFETY: ends the process without running anything else in it.
        unsafe { libc::_exit(0) };
    }
    result
}

/// Asks for the process's number by the way of 32-bit programs, where the numbers of calls mean others.
#[cfg(target_arch = "x86_64")]
fn old_call() -> c_long {
    let result: i32;
    // SAFETY: the call takes no arguments and changes only the register of its result, and those named here.
    unsafe {
        std::arch::asm!(
            "int 0x80", inlateout("eax") 20 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _
        );
    }
    result.into()
}

#[cfg(not(target_arch = "x86_64"))]
fn old_call() -> c_long {
    -1
}

fn abstract_socket(name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
}

/// Reads from a descriptor that the parent may have left open.
fn descriptor(number: i32) -> io::Result<()> {
    // SAFETY: nothing else in this process uses the descriptor while it is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let mut byte = [0];
    rustix::io::read(borrowed, &mut byte)?;
    Ok(())
}

/// Writes to a descriptor that was handed over for reading, also after asking for more rights.
fn overwrite(number: i32) -> io::Result<()> {
    // SAFETY: nothing else in this process uses the descriptor while it is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // The kernel does not change for what a file is open.
    let _asked = rustix::fs::fcntl_setfl(borrowed, rustix::fs::OFlags::RDWR);
    rustix::io::write(borrowed, b"#")?;
    Ok(())
}

/// Empties a file that was handed over for reading.
fn truncate(number: i32) -> io::Result<()> {
    // SAFETY: as above.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::fs::ftruncate(borrowed, 0)?)
}

/// Types a byte into the terminal of this process.
fn type_into_terminal() -> io::Result<()> {
    let stdin = io::stdin();
    // SAFETY: the request reads one byte.
    let done = unsafe { libc::ioctl(stdin.as_raw_fd(), libc::TIOCSTI, c"#".as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn raise(resource: Resource) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(4096), maximum: Some(4096) })?)
}

fn number(text: &str) -> io::Result<i32> {
    text.parse().map_err(io::Error::other)
}

fn process(text: &str) -> io::Result<Pid> {
    Pid::from_raw(number(text)?).ok_or_else(|| io::Error::other("0 is not a process"))
}
