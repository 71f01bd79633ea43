//! Files without a name, which get one when they are whole. If their process ends before, nothing is left of them.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat, open, openat, unlinkat},
    io::Errno,
};

use crate::unfinished::unfinished_name;

/// Makes a file without a name, for writing, in the file system of this folder. Its permissions are `mode`, as far as the
/// user's mask allows.
///
/// # Errors
///
/// When it cannot be made; some file systems have no such files.
#[cfg(target_os = "linux")]
pub fn create(folder: &File, mode: Mode) -> Result<File, Errno> {
    openat(folder, ".", OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, mode).map(File::from)
}

/// Only Linux has files without a name.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn create(_: &File, _: Mode) -> Result<File, Errno> {
    Err(Errno::OPNOTSUPP)
}

/// A handle of a file that was made by [`create`], by which it can get a name after it was closed: only closing a file
/// tells whether its bytes are kept.
///
/// # Errors
///
/// When there can be none; `/proc` may be missing.
#[cfg(target_os = "linux")]
pub fn handle(file: &File) -> Result<OwnedFd, Errno> {
    open(path(file.as_fd()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Only Linux has files without a name.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn handle(_: &File) -> Result<OwnedFd, Errno> {
    Err(Errno::OPNOTSUPP)
}

/// Opens a file again to read it, by its [`handle`].
///
/// # Errors
///
/// When it cannot be opened.
pub fn read(handle: &OwnedFd) -> Result<File, Errno> {
    open(path(handle.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

/// Gives a file that was made by [`create`] a name that is not in use. `file` is the open file, or its [`handle`].
///
/// # Errors
///
/// `EXIST` when the name is in use, or any other error of the system.
pub fn give_name(file: impl AsFd, folder: &File, name: &OsStr) -> Result<(), Errno> {
    let file = file.as_fd();
    // Linux 6.10 and later allow this to the user who has opened the file.
    match linkat(file, "", folder, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::INVAL) => give_name_by_path(file, folder, name),
        done => done,
    }
}

fn give_name_by_path(file: BorrowedFd<'_>, folder: &File, name: &OsStr) -> Result<(), Errno> {
    linkat(CWD, path(file), folder, name, AtFlags::SYMLINK_FOLLOW)
}

fn path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Finds out whether files without a name can be made in a folder, and get one: the file system or a missing `/proc` may
/// not allow it.
///
/// # Errors
///
/// Why not.
pub fn try_in(folder: &File) -> Result<(), Errno> {
    let name = unfinished_name();
    give_name(&create(folder, Mode::RUSR | Mode::WUSR)?, folder, name.as_ref())?;
    unlinkat(folder, &name, AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn a_file_appears_with_its_name_and_never_takes_one_that_is_in_use() {
        let place = tempfile::tempdir().unwrap();
        let folder = File::open(place.path()).unwrap();
        try_in(&folder).unwrap();
        for (by_path, name) in [(false, "a"), (true, "b")] {
            let way = |file: BorrowedFd<'_>| match by_path {
                true => give_name_by_path(file, &folder, name.as_ref()),
                false => give_name(file, &folder, name.as_ref()),
            };
            let mut file = create(&folder, Mode::RUSR | Mode::WUSR).unwrap();
            file.write_all(b"whole").unwrap();
            assert!(!place.path().join(name).exists());
            let handle = handle(&file).unwrap();
            drop(file);
            way(handle.as_fd()).unwrap();
            assert_eq!(fs::read(place.path().join(name)).unwrap(), b"whole");
            let other = create(&folder, Mode::RUSR | Mode::WUSR).unwrap();
            assert_eq!(way(other.as_fd()), Err(Errno::EXIST));
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }
}
