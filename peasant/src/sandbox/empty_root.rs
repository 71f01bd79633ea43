//! An empty folder as the root of the process, in its own mount namespace.
//!
//! The folder is a file system in memory that has no other name, and cannot be written.

use std::ffi::{CStr, c_uint};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::process::{chdir, fchdir};

use super::memory_folder::{self, done};

const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;

/// Makes an empty folder the root, and lets go of all mounts that there were.
pub fn enter() -> io::Result<()> {
    keep_mounts_here()?;
    let folder = memory_folder::make(&[], memory_folder::READ_ONLY)?;
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
