//! Files without a name, which get one when they are whole. If their process ends before, nothing is left of them.

use std::{ffi::OsStr, fs::File};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, unlinkat},
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

/// Gives a file that was made by [`create`] a name that is not in use.
///
/// # Errors
///
/// `EXIST` when the name is in use, or any other error of the system.
pub fn give_name(file: &File, folder: &File, name: &OsStr) -> Result<(), Errno> {
    // Linux 6.10 and later allow this to the user who has opened the file.
    match linkat(file, "", folder, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::INVAL) => give_name_by_path(file, folder, name),
        done => done,
    }
}

fn give_name_by_path(file: &File, folder: &File, name: &OsStr) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, path, folder, name, AtFlags::SYMLINK_FOLLOW)
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
        let ways: [fn(&File, &File, &OsStr) -> Result<(), Errno>; 2] = [give_name, give_name_by_path];
        for (way, name) in ways.into_iter().zip(["a", "b"]) {
            let mut file = create(&folder, Mode::RUSR | Mode::WUSR).unwrap();
            file.write_all(b"whole").unwrap();
            assert!(!place.path().join(name).exists());
            way(&file, &folder, name.as_ref()).unwrap();
            assert_eq!(fs::read(place.path().join(name)).unwrap(), b"whole");
            let other = create(&folder, Mode::RUSR | Mode::WUSR).unwrap();
            assert_eq!(way(&other, &folder, name.as_ref()), Err(Errno::EXIST));
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }
}
