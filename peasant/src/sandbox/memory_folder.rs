//! Folders in memory: file systems that are mounted nowhere, and known by their descriptor alone.

use std::ffi::{CStr, CString, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// The commands of `fsconfig` that set an option, and that make the file system.
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;

/// Of a mount: no set-user-id, no devices, no execution.
pub const FOR_DATA: c_uint = 2 | 4 | 8;
/// And read-only.
pub const READ_ONLY: c_uint = 1 | FOR_DATA;

/// Makes one with these options of `tmpfs`, and these attributes of its mount.
pub fn make(options: &[(&CStr, String)], attributes: c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is a string of this program.
    let made = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) };
    let system = owned(made)?;
    for (key, value) in options {
        let value = CString::new(value.as_str())?;
        let (system, zero): (_, c_int) = (system.as_raw_fd(), 0);
        // SAFETY: the descriptor is open, and key and value are strings that outlive the call.
        done(unsafe {
            libc::syscall(libc::SYS_fsconfig, system, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), zero)
        })?;
    }
    let (none, zero): (*const u8, c_int) = (ptr::null(), 0);
    // SAFETY: the descriptor is open, and this command takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, system.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, zero) };
    done(made)?;
    // SAFETY: the descriptor is open.
    let mounted = unsafe { libc::syscall(libc::SYS_fsmount, system.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) };
    owned(mounted)
}

/// The result of a system call.
pub fn done(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> io::Result<OwnedFd> {
    let descriptor = c_int::try_from(done(result)?).map_err(io::Error::other)?;
    // SAFETY: the system call has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
