//! Results that are folders: each comes as an archive, is unpacked to a folder of another name beside its output, and gets
//! the output's name when it is whole. If it is dropped before, nothing of it is left.
//!
//! Archives come from guests by way of dukes. Only what a peasant packs is accepted: plain files and folders, each folder
//! before its content.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Component, Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files,
    unfinished::unfinished_name,
};
use distwasm_proto::limits::{OUTPUT_FOLDER_DEPTH_MAX, OUTPUT_FOLDER_ENTRIES_MAX, OUTPUT_FOLDER_PATH_BYTES_MAX};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use tar::{Archive, Entry, EntryType};

use super::{create, rename, rename::exchange};
use crate::descriptors::when_there_are;

/// The permissions of a folder, as far as the user's mask allows.
const EVERYBODY_ENTERS: Mode = Mode::from_raw_mode(0o777);

/// A result as a folder, under a name that is not its own.
pub(super) struct Unpacked<'a> {
    /// The folder that it is in.
    parent: &'a File,
    name: String,
    /// The size of all files together.
    bytes: u64,
    sync: bool,
}

impl Drop for Unpacked<'_> {
    fn drop(&mut self) {
        match files::remove_tree(self.parent, self.name.as_ref()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // A run over all inputs of the folder removes it.
                tracing::warn!(name = self.name, %error, "an unfinished or replaced output cannot be removed");
            }
            _ => {}
        }
    }
}

impl<'a> Unpacked<'a> {
    /// Unpacks an archive into `parent`; with `sync`, all of it is on the disk afterwards.
    pub(super) fn of(parent: &'a File, archive: impl Read, sync: bool) -> io::Result<Unpacked<'a>> {
        let name = unfinished_name();
        mkdirat(parent, &name, EVERYBODY_ENTERS)?;
        let mut unpacked = Unpacked { parent, name, bytes: 0, sync };
        let root = when_there_are(|| Ok(openat(parent, &unpacked.name, FOLDER, Mode::empty())?))?;
        unpacked.bytes = Unpacking::into(root.into(), sync)?.unpack(archive)?;
        Ok(unpacked)
    }

    /// Gives it the name of its output; returns its size. An earlier output is exchanged for it and removed, if it
    /// `replaces` that.
    pub(super) fn give_name(self, name: &OsStr, replaces: bool) -> io::Result<u64> {
        match replaces {
            // What was there has the other name then, and is removed under that: but not before the new one is on the disk.
            true => {
                exchange(self.parent, self.name.as_ref(), name)?;
                if self.sync {
                    self.parent.sync_all()?;
                }
            }
            false => rename((self.parent, &self.name), (self.parent, name), false)?,
        }
        Ok(self.bytes)
    }
}

/// To open a folder that is not a link.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that is being filled from an archive.
struct Unpacking {
    root: File,
    /// The folder of the last entry, which the next one is likely to be in, too.
    last: (PathBuf, File),
    sync: bool,
}

impl Unpacking {
    fn into(root: File, sync: bool) -> io::Result<Unpacking> {
        let last = (PathBuf::new(), when_there_are(|| root.try_clone())?);
        Ok(Unpacking { root, last, sync })
    }

    /// Unpacks all entries. Returns how many bytes are in the files.
    fn unpack(mut self, archive: impl Read) -> io::Result<u64> {
        let (mut bytes, mut count) = (0, 0);
        // The path of the next entry, if it is a long one: it comes in an entry of its own.
        let mut long = None;
        // Otherwise the library would read names of any length into memory, and other kinds of entries as well.
        for entry in Archive::new(archive).entries()?.raw(true) {
            let mut entry = entry?;
            if entry.header().entry_type() == EntryType::GNULongName && long.is_none() {
                long = Some(long_path(&mut entry)?);
                continue;
            }
            count += 1;
            if count > OUTPUT_FOLDER_ENTRIES_MAX {
                return Err(odd(&format!("has more than {OUTPUT_FOLDER_ENTRIES_MAX} entries")));
            }
            let path = long.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            bytes += self.entry(&path, entry).map_err(|error| at(&path, &error))?;
        }
        self.leave()?;
        Ok(bytes)
    }

    /// Unpacks an entry. Returns how many bytes are in it.
    fn entry(&mut self, path: &[u8], mut entry: Entry<'_, impl Read>) -> io::Result<u64> {
        let (folder, name) = plain(path).map_err(odd)?;
        self.enter(folder)?;
        let (_, folder) = &self.last;
        match entry.header().entry_type() {
            EntryType::Directory => {
                mkdirat(folder, name, EVERYBODY_ENTERS)?;
                Ok(0)
            }
            EntryType::Regular => {
                let bytes = entry.size();
                let copy = |file: &mut File| io::copy(&mut entry, file);
                let copied = create(folder, name, self.sync, copy)?;
                if copied == bytes { Ok(bytes) } else { Err(odd("ends too early")) }
            }
            _ => Err(odd("has something that is neither a file nor a folder")),
        }
    }

    /// Opens the folder of the next entry.
    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        if self.last.0 != folder {
            self.leave()?;
            let open = || beneath::open_folder(&self.root, folder, Links::Refused, Missing::Stays);
            self.last = (folder.to_owned(), when_there_are(open)?);
        }
        Ok(())
    }

    /// Nothing more comes into the last folder for now.
    fn leave(&self) -> io::Result<()> {
        if self.sync { self.last.1.sync_all() } else { Ok(()) }
    }
}

/// The path in an entry that has nothing else in it.
fn long_path(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.size() > OUTPUT_FOLDER_PATH_BYTES_MAX {
        return Err(odd("has a path that is too long"));
    }
    let mut path = Vec::new();
    entry.read_to_end(&mut path)?;
    // It ends with a NUL.
    path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
    Ok(path)
}

/// An error with an entry of the archive. That the disk is full stays recognisable; a name that is taken within the
/// folder is not one that is taken by an earlier output.
fn at(path: &[u8], error: &io::Error) -> io::Error {
    let kind = if error.kind() == ErrorKind::AlreadyExists { ErrorKind::Other } else { error.kind() };
    io::Error::new(kind, format!("at {} in it: {error}", String::from_utf8_lossy(path)))
}

/// The archive is not one that a peasant packs.
fn odd(what: &str) -> io::Error {
    io::Error::other(format!("the archive of its result {what}"))
}

/// The folder and the name of an entry.
fn plain(path: &[u8]) -> Result<(&Path, &OsStr), &'static str> {
    const LEADS_OUT: &str = "has a path that leads out of it";
    let path = Path::new(std::str::from_utf8(path).map_err(|_| "has a path that is not UTF-8")?);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(LEADS_OUT);
    }
    if path.components().count() > OUTPUT_FOLDER_DEPTH_MAX {
        return Err("has a path that is too deep");
    }
    path.parent().zip(path.file_name()).ok_or(LEADS_OUT)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tar::{Builder, Header};

    use super::*;

    /// An archive of these entries, as a liar could make it: names are not checked.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o7777);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name_literal("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_folder_gets_its_name_when_it_is_whole_and_replaces_another_only_if_it_may() {
        let place = tempfile::tempdir().unwrap();
        let parent = File::open(place.path()).unwrap();
        let entries = [
            (EntryType::Directory, "sub", ""),
            (EntryType::Regular, "sub/a", "one"),
            (EntryType::Regular, "b", "four"),
            (EntryType::Directory, "empty/", ""),
        ];
        let unpack = |archive: &[u8], replaces| {
            Unpacked::of(&parent, archive, true).and_then(|unpacked| unpacked.give_name("out".as_ref(), replaces))
        };
        assert_eq!(unpack(&archive(&entries), false).unwrap(), 7);
        assert_eq!(fs::read_to_string(place.path().join("out/sub/a")).unwrap(), "one");
        assert_eq!(unpack(&archive(&entries), false).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(unpack(&archive(&[(EntryType::Regular, "new", "")]), true).unwrap(), 0);
        let names = |path: &str| fs::read_dir(place.path().join(path)).unwrap().count();
        assert!(place.path().join("out/new").exists() && names("out") == 1);
        drop(Unpacked::of(&parent, &*archive(&entries), false).unwrap());
        assert_eq!(names(""), 1, "what has no name of its own is removed");
    }

    #[test]
    fn an_archive_that_no_peasant_packs_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let parent = File::open(place.path()).unwrap();
        assert!(plain("d/".repeat(OUTPUT_FOLDER_DEPTH_MAX + 1).as_bytes()).is_err());
        let long = "n".repeat(20_000);
        let mut cut = archive(&[(EntryType::Regular, "a", &"x".repeat(600))]);
        cut.truncate(700);
        for (archive, why) in [
            (archive(&[(EntryType::Regular, "../a", "")]), "leads out"),
            (archive(&[(EntryType::Regular, "/etc/a", "")]), "leads out"),
            (archive(&[(EntryType::Regular, "", "")]), "leads out"),
            (archive(&[(EntryType::Symlink, "a", "")]), "neither a file nor a folder"),
            (archive(&[(EntryType::Link, "a", "")]), "neither a file nor a folder"),
            (archive(&[(EntryType::Fifo, "a", "")]), "neither a file nor a folder"),
            (archive(&[(EntryType::Regular, "a", "1"), (EntryType::Regular, "a", "2")]), "File exists"),
            (archive(&[(EntryType::Regular, "a", "1"), (EntryType::Regular, "a/b", "2")]), "Not a directory"),
            (archive(&[(EntryType::Regular, "a/b", "")]), "No such file"),
            (archive(&[(EntryType::GNULongName, "long", &long), (EntryType::Regular, "a", "")]), "too long"),
            (archive(&[(EntryType::XHeader, "a", "9 path=b\n"), (EntryType::Regular, "a", "")]), "neither"),
            (cut, "ends too early"),
            (b"no archive".repeat(100), ""),
        ] {
            let error = Unpacked::of(&parent, &*archive, false).err().unwrap().to_string();
            assert!(error.contains(why), "{why}: {error}");
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{why}");
        }
    }
}
