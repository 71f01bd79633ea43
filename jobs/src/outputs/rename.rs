//! Gives a finished file or folder its name. Something that has that name already is never replaced; a folder can be
//! exchanged for it.

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

/// Gives a folder another name in the same folder. What had that name before gets the folder's old name, or another one of
/// unfinished outputs; it is there until it is removed.
///
/// # Errors
///
/// As the system has it; both names are as they were then.
pub fn exchange(folder: impl AsFd, new: &OsStr, name: &OsStr) -> io::Result<()> {
    let folder = folder.as_fd();
    match rename_exchange(folder, new, name) {
        // What was to be replaced is gone.
        Err(Errno::NOENT) => rename_new(folder, new, folder, name),
        Err(error) if is_unsupported(error) => exchange_in_steps(folder, new, name),
        exchanged => Ok(exchanged?),
    }
}

/// For file systems that cannot exchange names: between the steps there is nothing of this name, and if the process ends
/// there, the next run makes the output anew.
fn exchange_in_steps(folder: BorrowedFd<'_>, new: &OsStr, name: &OsStr) -> io::Result<()> {
    let aside = unfinished_name();
    match rename_new(folder, name, folder, aside.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return rename_new(folder, new, folder, name),
        moved => moved?,
    }
    rename_new(folder, new, folder, name).map_err(|error| match rename_new(folder, aside.as_ref(), folder, name) {
        Ok(()) => error,
        Err(_) => io::Error::other(format!("{error}; the earlier output is called {aside} now")),
    })?;
    // It is removed under the name by which its successor was known. If it keeps the other name, the next run removes it.
    let _renamed = rename_new(folder, aside.as_ref(), folder, new);
    Ok(())
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
    fn a_folder_is_exchanged_for_the_one_that_has_its_name() {
        let at_once = |folder: &File| exchange(folder, "new".as_ref(), "old".as_ref());
        let in_steps = |folder: &File| exchange_in_steps(folder.as_fd(), "new".as_ref(), "old".as_ref());
        for way in [at_once, in_steps] {
            let folder = tempfile::tempdir().unwrap();
            let opened = File::open(folder.path()).unwrap();
            let make = |name: &str| {
                fs::create_dir(folder.path().join(name)).unwrap();
                fs::write(folder.path().join(name).join(name), "").unwrap();
            };
            make("new");
            way(&opened).unwrap();
            assert!(folder.path().join("old/new").exists(), "there was nothing of that name");
            make("new");
            fs::rename(folder.path().join("old/new"), folder.path().join("old/old")).unwrap();
            way(&opened).unwrap();
            assert!(folder.path().join("old/new").exists() && folder.path().join("new/old").exists());
            fs::remove_dir_all(folder.path().join("new")).unwrap();
            assert_eq!(way(&opened).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert!(folder.path().join("old/new").exists() && fs::read_dir(folder.path()).unwrap().count() == 1);
        }
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
