//! Gives a finished file or folder its name, and never replaces something that has that name already, or exchanges the two.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use distwasm_process::unfinished::unfinished_name;
#[cfg(target_os = "linux")]
use rustix::fs::{RenameFlags, renameat_with};
use rustix::{
    fs::{AtFlags, linkat, renameat, statat, unlinkat},
    io::Errno,
};

/// Renames a file or a folder to a name that is not in use.
///
/// # Errors
///
/// `AlreadyExists` when the name is in use, or any other error of the system. Nothing is renamed then.
pub fn rename_new(from_folder: impl AsFd, from: &OsStr, to_folder: impl AsFd, to: &OsStr) -> io::Result<()> {
    let ways = [rename_no_replace, link_and_unlink, look_and_rename];
    let (from_folder, to_folder) = (from_folder.as_fd(), to_folder.as_fd());
    let mut refused = Errno::NOSYS;
    for way in ways {
        match way((from_folder, from), (to_folder, to)) {
            Ok(()) => return Ok(()),
            Err(error) if is_unsupported(error) => refused = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused.into())
}

/// Exchanges a folder for the one of another name in the same folder.
///
/// # Errors
///
/// As the system has it; both names are there then, unless the process ends in the middle of it.
pub fn exchange(folder: impl AsFd, one: &OsStr, other: &OsStr) -> io::Result<()> {
    let folder = folder.as_fd();
    match rename_exchange(folder, one, other) {
        Err(error) if is_unsupported(error) => {
            let aside = unfinished_name();
            rename_new(folder, other, folder, aside.as_ref())?;
            if let Err(error) = rename_new(folder, one, folder, other) {
                rename_new(folder, aside.as_ref(), folder, other)?;
                return Err(error);
            }
            rename_new(folder, aside.as_ref(), folder, one)
        }
        exchanged => Ok(exchanged?),
    }
}

#[cfg(target_os = "linux")]
fn rename_exchange(folder: BorrowedFd<'_>, one: &OsStr, other: &OsStr) -> Result<(), Errno> {
    renameat_with(folder, one, folder, other, RenameFlags::EXCHANGE)
}

#[cfg(not(target_os = "linux"))]
fn rename_exchange(_: BorrowedFd<'_>, _: &OsStr, _: &OsStr) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// A name in an open folder.
type Name<'a> = (BorrowedFd<'a>, &'a OsStr);

/// Whether a file system does not support this way; another way may work. Folders, for one, cannot be linked.
fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::MLINK)
}

#[cfg(target_os = "linux")]
fn rename_no_replace(from: Name<'_>, to: Name<'_>) -> Result<(), Errno> {
    renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE)
}

#[cfg(not(target_os = "linux"))]
fn rename_no_replace(_: Name<'_>, _: Name<'_>) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// For NFS, which cannot rename without replacing.
fn link_and_unlink(from: Name<'_>, to: Name<'_>) -> Result<(), Errno> {
    linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?;
    // The file has its new name; if the old one stays, the next run removes it.
    let _removed = unlinkat(from.0, from.1, AtFlags::empty());
    Ok(())
}

/// The last resort: a file that appears between the two calls is replaced.
fn look_and_rename(from: Name<'_>, to: Name<'_>) -> Result<(), Errno> {
    match statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => renameat(from.0, from.1, to.0, to.1),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::symlink,
    };

    use super::*;

    #[test]
    fn each_way_gives_a_new_name_and_takes_none() {
        for way in [rename_no_replace, link_and_unlink, look_and_rename] {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            let opened = File::open(folder.path()).unwrap();
            let rename = |to: &str| way((opened.as_fd(), "from".as_ref()), (opened.as_fd(), to.as_ref()));
            fs::write(path("from"), "new").unwrap();
            fs::write(path("file"), "old").unwrap();
            fs::create_dir(path("folder")).unwrap();
            symlink("nowhere", path("link")).unwrap();
            for taken in ["file", "folder", "link"] {
                assert_eq!(rename(taken), Err(Errno::EXIST), "{taken}");
            }
            assert_eq!(fs::read_to_string(path("file")).unwrap(), "old");
            rename("to").unwrap();
            assert_eq!(fs::read_to_string(path("to")).unwrap(), "new");
            assert!(!path("from").exists());
        }
    }

    #[test]
    fn two_folders_exchange_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        for name in ["new", "old"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(name), "").unwrap();
        }
        exchange(&opened, "new".as_ref(), "old".as_ref()).unwrap();
        assert!(folder.path().join("old/new").exists() && folder.path().join("new/old").exists());
        assert_eq!(exchange(&opened, "new".as_ref(), "missing".as_ref()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn folders_are_renamed_too() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        fs::create_dir(folder.path().join("from")).unwrap();
        rename_new(&opened, "from".as_ref(), &opened, "to".as_ref()).unwrap();
        assert!(folder.path().join("to").is_dir());
        // Without the first way, as on file systems that do not know it.
        assert_eq!(link_and_unlink((opened.as_fd(), "to".as_ref()), (opened.as_fd(), "x".as_ref())), Err(Errno::PERM));
    }
}
