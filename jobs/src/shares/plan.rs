//! The plan of one archive: which entries it has, and how large it and they are, before any file is read.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use distwasm_proto::{
    guest::disk_bytes,
    limits::{SHARE_PATH_BYTES_MAX, SHARES_ENTRIES_MAX},
};
use tar::{Builder, EntryType, Header};

use super::ShareError;

/// The entries of one directory's archive, in their order.
#[derive(Debug)]
pub(super) struct Plan {
    /// The directory, with its links followed.
    pub(super) root: PathBuf,
    entries: Vec<Entry>,
    /// How many entries there are; not all are kept if there are too many.
    pub(super) count: usize,
    /// The archive's size.
    pub(super) bytes: u64,
    /// What the entries take of a duke's disk.
    pub(super) disk_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    /// The path in the archive.
    name: String,
    /// Where it is, with its links followed.
    source: PathBuf,
    found: Metadata,
}

/// The unit of an archive's size.
pub(super) const BLOCK_BYTES: u64 = 512;

/// Links may make a directory look far larger than it is; counting ends here.
const COUNTED_MAX: usize = 2 * SHARES_ENTRIES_MAX;

impl Plan {
    pub(super) fn of(folder: &Path) -> Result<Plan, ShareError> {
        let cannot_read = |source| ShareError::Read { path: folder.to_owned(), source };
        let root = fs::canonicalize(folder).map_err(cannot_read)?;
        if !fs::metadata(&root).map_err(cannot_read)?.is_dir() {
            return Err(ShareError::NoFolder { path: folder.to_owned() });
        }
        // The end of an archive is two empty blocks.
        let mut plan =
            Plan { root: root.clone(), entries: Vec::new(), count: 0, bytes: 2 * BLOCK_BYTES, disk_bytes: 0 };
        plan.look_through(&Inside { shown: folder, name: "", source: &root, outer: None })?;
        if plan.count > SHARES_ENTRIES_MAX {
            return Err(ShareError::TooMany { path: folder.to_owned(), count: plan.count, or_more: false });
        }
        Ok(plan)
    }

    /// Goes through a folder in the order of names, each folder before its content.
    fn look_through(&mut self, inside: &Inside) -> Result<(), ShareError> {
        let cannot_read = |source| ShareError::Read { path: inside.shown.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(inside.source).map_err(cannot_read)? {
            let name = entry.map_err(cannot_read)?.file_name();
            let shown = || inside.shown.join(&name);
            names.push(name.to_str().ok_or_else(|| ShareError::Name { path: shown() })?.to_owned());
            if self.count + names.len() > COUNTED_MAX {
                let (path, count) = (self.root.clone(), COUNTED_MAX);
                return Err(ShareError::TooMany { path, count, or_more: true });
            }
        }
        names.sort();
        for name in names {
            let shown = inside.shown.join(&name);
            let (source, found) = self.follow(&shown, inside.source.join(&name))?;
            let name = if inside.name.is_empty() { name } else { format!("{}/{name}", inside.name) };
            if name.len() > SHARE_PATH_BYTES_MAX {
                return Err(ShareError::LongPath { path: shown });
            }
            self.count += 1;
            self.bytes += entry_bytes(&name, &found);
            let taken_bytes = disk_bytes(found.is_file().then_some(found.len()));
            self.disk_bytes = self.disk_bytes.saturating_add(taken_bytes);
            let folder = found.is_dir().then(|| (name.clone(), source.clone()));
            if self.count <= SHARES_ENTRIES_MAX {
                self.entries.push(Entry { name, source, found });
            }
            if let Some((name, source)) = folder {
                if inside.is_within(&source) {
                    return Err(ShareError::Loop { path: shown });
                }
                self.look_through(&Inside { shown: &shown, name: &name, source: &source, outer: Some(inside) })?;
            }
        }
        Ok(())
    }

    /// The regular file or folder that is there, with links followed.
    fn follow(&self, shown: &Path, source: PathBuf) -> Result<(PathBuf, Metadata), ShareError> {
        let cannot_read = |source| ShareError::Read { path: shown.to_owned(), source };
        let mut found = fs::symlink_metadata(&source).map_err(cannot_read)?;
        let mut source = source;
        if found.is_symlink() {
            let target = fs::canonicalize(&source);
            source = target.map_err(|source| ShareError::Link { path: shown.to_owned(), source })?;
            if !source.starts_with(&self.root) {
                return Err(ShareError::LeadsOut { path: shown.to_owned(), target: source });
            }
            found = fs::symlink_metadata(&source).map_err(cannot_read)?;
        }
        let kind = found.file_type();
        let what = match kind {
            _ if kind.is_file() || kind.is_dir() => return Ok((source, found)),
            _ if kind.is_fifo() => "a named pipe",
            _ if kind.is_socket() => "a socket",
            _ if kind.is_block_device() || kind.is_char_device() => "a device",
            _ => "neither a file nor a folder",
        };
        Err(ShareError::Special { path: shown.to_owned(), what })
    }

    pub(super) fn pack(self) -> Result<Vec<u8>, ShareError> {
        let mut archive = Builder::new(Vec::with_capacity(usize::try_from(self.bytes).unwrap_or(0)));
        for Entry { name, source, found } in self.entries {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let cannot_pack = |error| ShareError::Read { path: source.clone(), source: error };
            if found.is_dir() {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o555);
                header.set_size(0);
                archive.append_data(&mut header, &name, io::empty()).map_err(cannot_pack)?;
                continue;
            }
            let content = read_unchanged(&source, &found)?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o444);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, &name, content.as_slice()).map_err(cannot_pack)?;
        }
        let archive = archive.into_inner().map_err(|source| ShareError::Read { path: self.root, source })?;
        debug_assert_eq!(archive.len() as u64, self.bytes, "the size of an archive is known before");
        Ok(archive)
    }
}

/// A folder that is being scanned.
struct Inside<'a> {
    /// Its path as the user would write it.
    shown: &'a Path,
    /// Its path in the archive.
    name: &'a str,
    /// Where it is, with its links followed.
    source: &'a Path,
    /// The folder that it is in.
    outer: Option<&'a Inside<'a>>,
}

impl Inside<'_> {
    /// Whether this is `folder`, or lies in it.
    fn is_within(&self, folder: &Path) -> bool {
        self.source == folder || self.outer.is_some_and(|outer| outer.is_within(folder))
    }
}

/// The bytes of an entry in an archive: its header, its content, and its name a second time if it is long.
fn entry_bytes(name: &str, found: &Metadata) -> u64 {
    const SHORT_NAME_BYTES_MAX: usize = 100;
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
    let long_name = if name.len() > SHORT_NAME_BYTES_MAX { BLOCK_BYTES + blocks(name.len() as u64 + 1) } else { 0 };
    let content = if found.is_dir() { 0 } else { blocks(found.len()) };
    BLOCK_BYTES + long_name + content
}

/// Reads a file, and checks that it is still the one that was found and has not changed meanwhile.
fn read_unchanged(path: &Path, found: &Metadata) -> Result<Vec<u8>, ShareError> {
    let cannot_read = |source| ShareError::Read { path: path.to_owned(), source };
    // Something else may have its name by now; opening a named pipe would block without limit.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let mut file: File = opened.map_err(cannot_read)?;
    let mut content = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0) + 1);
    (&mut file).take(found.len() + 1).read_to_end(&mut content).map_err(cannot_read)?;
    let now = file.metadata().map_err(cannot_read)?;
    let state = |file: &Metadata| {
        (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
    };
    if state(&now) != state(found) || content.len() as u64 != found.len() {
        return Err(ShareError::Changed { path: path.to_owned() });
    }
    Ok(content)
}
