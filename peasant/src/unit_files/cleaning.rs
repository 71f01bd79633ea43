//! Empties the files of a unit, whatever its guest has made of them: within few descriptors, and quickly if there is
//! nothing to empty.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use distwasm_proto::arguments::{INPUT_FOLDER, OUTPUT_FOLDER};
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, StatVfs, fchmod, fstat, fstatvfs, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// The folders that the guest may write to, in the root that it may write to as well.
const FOLDERS: [&str; 3] = ["tmp", INPUT_FOLDER, OUTPUT_FOLDER];
/// The folder of placeholders. Nobody may write to it, so that it stays as it is.
const DEVICES: &str = "dev";

/// What is in the root when nothing else is.
#[derive(Debug)]
pub struct Skeleton {
    /// The inodes of the folders, in the order of [`FOLDERS`], and of the devices.
    folders: [u64; FOLDERS.len()],
    devices: u64,
    empty: Usage,
    /// The guest cannot change the folder of devices, because this process may not do it either.
    is_fixed: Option<bool>,
}

/// What is in use of a file system in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    blocks: u64,
    files: u64,
}

impl Usage {
    fn of(root: BorrowedFd<'_>) -> io::Result<Usage> {
        let StatVfs { f_blocks, f_bfree, f_files, f_ffree, .. } = fstatvfs(root)?;
        Ok(Usage { blocks: f_blocks - f_bfree, files: f_files - f_ffree })
    }
}

impl Skeleton {
    /// Makes the folders, beside those of the placeholders.
    pub fn make(root: BorrowedFd<'_>) -> io::Result<Skeleton> {
        let devices = inode(root, DEVICES)?.ok_or(Errno::NOENT)?;
        let mut folders = [0; FOLDERS.len()];
        for (folder, name) in folders.iter_mut().zip(FOLDERS) {
            *folder = make_folder(root, name)?;
        }
        Ok(Skeleton { folders, devices, empty: Usage::of(root)?, is_fixed: None })
    }

    /// Empties the folders, if there is anything in them.
    pub fn clean(&mut self, root: BorrowedFd<'_>) -> io::Result<()> {
        if !self.is_clean(root)? {
            self.remove_others(root)?;
            self.put_right(root)?;
            self.empty = Usage::of(root)?;
        }
        Ok(())
    }

    /// Each file takes an inode, so that no other file is there if the folders are, and no more inodes are in use than
    /// at the beginning. The folder of devices cannot have changed.
    fn is_clean(&mut self, root: BorrowedFd<'_>) -> io::Result<bool> {
        if Usage::of(root)? != self.empty || inode(root, DEVICES)? != Some(self.devices) {
            return Ok(false);
        }
        for (folder, name) in self.folders.iter().zip(FOLDERS) {
            if inode(root, name)? != Some(*folder) {
                return Ok(false);
            }
        }
        let is_fixed = *self.is_fixed.get_or_insert_with(|| {
            let path = format!("{DEVICES}/.new");
            let made = openat(root, &path, super::NEW, Mode::empty()).is_ok();
            let _removed = unlinkat(root, &path, AtFlags::empty());
            !made
        });
        Ok(is_fixed)
    }

    /// Removes all but the folders, wherever in the root these are, and empties those.
    fn remove_others(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        let mut deep = Deep { root, count: 0, folders: Vec::new() };
        for name in names(root)? {
            match statat(root, &*name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino {
                devices if devices == self.devices => {}
                folder if self.folders.contains(&folder) => deep.empty(&open_folder(root, &name)?)?,
                _ => deep.remove(root, &name)?,
            }
        }
        while let Some(name) = deep.folders.pop() {
            deep.empty(&open_folder(root, &name)?)?;
            unlinkat(root, &*name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    /// Gives the folders their names again, and makes those that are missing.
    fn put_right(&mut self, root: BorrowedFd<'_>) -> io::Result<()> {
        // Two of them may have each other's names.
        let mut count = 0;
        for name in names(root)? {
            move_aside(root, &name, root, &mut count)?;
        }
        for name in names(root)? {
            let found = statat(root, &*name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
            let folder = self.folders.iter().zip(FOLDERS).find(|(folder, _)| **folder == found);
            match folder {
                Some((_, right)) => renameat(root, &*name, root, right)?,
                None if found == self.devices => renameat(root, &*name, root, DEVICES)?,
                None => return Err(io::Error::other("something is left in it")),
            }
        }
        for (folder, name) in self.folders.iter_mut().zip(FOLDERS) {
            if inode(root, name)?.is_none() {
                *folder = make_folder(root, name)?;
            }
        }
        Ok(())
    }
}

/// Removes trees of any depth with two descriptors: a folder that is not empty is moved into the root, and comes later.
struct Deep<'a> {
    root: BorrowedFd<'a>,
    /// The number of folders that were moved.
    count: usize,
    folders: Vec<CString>,
}

impl Deep<'_> {
    fn empty(&mut self, folder: &OwnedFd) -> io::Result<()> {
        for name in names(folder.as_fd())? {
            self.remove(folder.as_fd(), &name)?;
        }
        Ok(())
    }

    fn remove(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        match unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return Ok(done?),
        }
        match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            done => return Ok(done?),
        }
        self.folders.push(move_aside(folder, name, self.root, &mut self.count)?);
        Ok(())
    }
}

/// Moves what has this name in `folder` into the root, under a name that nothing has there. `count` counts these names.
fn move_aside(folder: BorrowedFd<'_>, name: &CStr, root: BorrowedFd<'_>, count: &mut usize) -> io::Result<CString> {
    loop {
        let place = CString::new(format!(".aside-{count}"))?;
        *count += 1;
        match renameat_with(folder, name, root, &*place, RenameFlags::NOREPLACE) {
            // The guest has made a file of this name.
            Err(Errno::EXIST) => {}
            moved => return Ok(moved.map(|()| place)?),
        }
    }
}

/// The inode of a name, if there is one.
fn inode(root: BorrowedFd<'_>, name: &str) -> io::Result<Option<u64>> {
    match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found.st_ino)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The names in a folder. They are read before any is removed, which would change what comes next.
pub(super) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let entries = Dir::read_from(folder)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_owned()));
    let is_real = |name: &io::Result<CString>| !matches!(name, Ok(name) if [c".", c".."].contains(&name.as_c_str()));
    names.filter(is_real).collect()
}

fn open_folder(root: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(root, name, flags, Mode::empty())?)
}

fn make_folder(root: BorrowedFd<'_>, name: &str) -> io::Result<u64> {
    mkdirat(root, name, Mode::from_raw_mode(0o777))?;
    let name = CString::new(name)?;
    let folder = open_folder(root, &name)?;
    // Whatever the user's mask is.
    fchmod(&folder, Mode::from_raw_mode(0o777))?;
    Ok(fstat(&folder)?.st_ino)
}
