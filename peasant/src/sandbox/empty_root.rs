//! An empty folder as the root of the process, in its own mount namespace.
//!
//! The folder is a file system in memory that has no other name, and cannot be written.

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::{chdir, fchdir};

/// The command of `fsconfig` that makes the file system.
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
/// Read-only, no set-user-id, no devices, no execution.
const MOUNT_ATTRIBUTES: c_uint = 1 | 2 | 4 | 8;

/// Makes an empty folder the root, and lets go of all mounts that there were.
pub fn enter() -> io::Result<()> {
    keep_mounts_here()?;
    let folder = empty_folder()?;
    // SAFETY: both paths are strings of this program, and the descriptor is open.
    let moved = unsafe {
        let (nothing, root) = (c"".as_ptr(), c"/".as_ptr());
        libc::syscall(libc::SYS_move_mount, folder.as_raw_fd(), nothing, libc::AT_FDCWD, root, MOVE_MOUNT_F_EMPTY_PATH)
    };
    done(moved)?;
    fchdir(&folder)?;
    // The old root ends up on top of the new one, from where it is taken away.
    let here: &CStr = c".";
    // SAFETY: the path is a string of this program.
    done(unsafe { libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()) })?;
    // SAFETY: the path is a string of this program.
    done(unsafe { libc::umount2(here.as_ptr(), libc::MNT_DETACH) }.into())?;
    Ok(chdir("/")?)
}

/// What is mounted in this namespace from now on is seen in no other one.
fn keep_mounts_here() -> io::Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is a string of this program; the other pointers may be null with these flags.
    done(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), flags, ptr::null()) }.into()).map(drop)
}

/// A file system in memory that is mounted nowhere.
fn empty_folder() -> io::Result<OwnedFd> {
    // SAFETY: the name is a string of this program.
    let made = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) };
    let system = owned(made)?;
    let (none, zero): (*const u8, c_int) = (ptr::null(), 0);
    // SAFETY: the descriptor is open, and this command takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, system.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, zero) };
    done(made)?;
    // SAFETY: the descriptor is open.
    let mounted = unsafe { libc::syscall(libc::SYS_fsmount, system.as_raw_fd(), FSMOUNT_CLOEXEC, MOUNT_ATTRIBUTES) };
    owned(mounted)
}

fn done(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> io::Result<OwnedFd> {
    let descriptor = c_int::try_from(done(result)?).map_err(io::Error::other)?;
    // SAFETY: the system call has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
