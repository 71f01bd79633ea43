//! Shared directories: each unpacked once for the machine, and kept in the cache.
//!
//! Archives come from the network. Only what a queen packs is accepted: plain files and folders, each folder before its
//! contents. Any other archive is refused as a whole: nothing of it is ever used, and nothing is written elsewhere.
//!
//! A process that uses a directory holds a lock on it, which the kernel releases when the process ends. No duke removes
//! a locked directory.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use distwasm_process::files;
use distwasm_proto::{
    digest::Digest,
    guest::disk_bytes,
    limits::{SHARES_DISK_BYTES_MAX, SHARES_ENTRIES_MAX},
};
use distwasm_transport::payload::Payload;
use rustix::fs::OFlags;
use tar::{Archive, Entry, EntryType};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::folders::{Folders, touch};

impl UnpackError {
    /// Whether the archive is at fault, so that no other machine can unpack it.
    pub(crate) fn is_unfit(&self) -> bool {
        match self {
            UnpackError::Read(_) | UnpackError::TooMany | UnpackError::TooLarge | UnpackError::Odd { .. } => true,
            UnpackError::Write { .. }
            | UnpackError::TooLargeHere { .. }
            | UnpackError::Stopped
            | UnpackError::Removed { .. } => false,
        }
    }
}

/// A shared directory that is in use.
#[derive(Debug)]
pub struct SharedFolder {
    path: PathBuf,
    _lock: File,
}

/// Why a directory cannot be shared on this machine.
#[derive(Debug, Error)]
pub(crate) enum UnpackError {
    #[error("failed to unpack a shared directory to {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to read the archive of a shared directory")]
    Read(#[source] io::Error),
    #[error("the archive of a shared directory has more than {SHARES_ENTRIES_MAX} files and folders")]
    TooMany,
    #[error("the files of a shared directory take more than {} MB of a disk", SHARES_DISK_BYTES_MAX >> 20)]
    TooLarge,
    #[error(
        "the files of a shared directory take more than {} MB of the file system of {}",
        SHARES_DISK_BYTES_MAX >> 20, .path.display()
    )]
    TooLargeHere { path: PathBuf },
    #[error("the archive of a shared directory has {name:?}, which is not a plain file or folder inside it")]
    Odd { name: String },
    /// No job waits for it any more.
    #[error("unpacking a shared directory was stopped")]
    Stopped,
    #[error("the shared directory {} was removed while it was being put in place", .path.display())]
    Removed { path: PathBuf },
}

impl SharedFolder {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks a directory against removal. `None` if it does not exist or is about to be removed, or if others may write
    /// to it.
    fn hold(path: PathBuf) -> Option<SharedFolder> {
        let file = open_folder(&path).ok()?;
        // On a file system without locks, nothing is ever removed.
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return None;
        }
        // It may have been removed between opening and locking.
        let (held, there) = (file.metadata().ok()?, fs::symlink_metadata(&path).ok()?);
        let is_there = (held.dev(), held.ino()) == (there.dev(), there.ino());
        (is_there && there.is_dir() && files::is_ours_alone(&held)).then_some(SharedFolder { path, _lock: file })
    }
}

/// The directory of this archive, if the cache has it.
pub(crate) fn find(folders: &Folders, digest: Digest) -> Option<Arc<SharedFolder>> {
    let folder = SharedFolder::hold(folders.share(digest))?;
    touch(&folder._lock);
    Some(Arc::new(folder))
}

/// Unpacks an archive, and returns its directory. Nothing is left of it if it is stopped.
pub(crate) fn unpack(
    folders: &Folders,
    digest: Digest,
    archive: &Payload,
    stop: &CancellationToken,
) -> Result<Arc<SharedFolder>, UnpackError> {
    let (path, unfinished) = (folders.share(digest), folders.unfinished_share(digest));
    make_folder(&unfinished)?;
    let kept = unpack_to(&unfinished, archive, stop).and_then(|lock| {
        match fs::rename(&unfinished, &path) {
            Ok(()) => info!(share = %digest, "unpacked a shared directory"),
            // Another duke may have been faster; its directory has the same content.
            Err(_) if path.is_dir() => {}
            Err(source) => return Err(UnpackError::Write { path: path.clone(), source }),
        }
        let found = find(folders, digest);
        drop(lock);
        found.ok_or(UnpackError::Removed { path })
    });
    // After a success this folder does not exist any more.
    let _removed = fs::remove_dir_all(&unfinished);
    kept
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::Write { path: path.to_owned(), source }
}

/// Makes a folder that is not there yet. Whatever the user's mask, peasants may read it under another user's id; other
/// users cannot enter the cache.
fn make_folder(path: &Path) -> Result<(), UnpackError> {
    let made = DirBuilder::new().mode(0o755).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755))).map_err(cannot_write(path))
}

/// Unpacks an archive into a new folder. The folder counts as used until the lock is dropped.
fn unpack_to(folder: &Path, archive: &Payload, stop: &CancellationToken) -> Result<File, UnpackError> {
    let lock = open_folder(folder).map_err(cannot_write(folder))?;
    // On a file system without locks, nothing is ever removed.
    let _locked = lock.try_lock_shared();
    let mut archive = Archive::new(archive.reader());
    // What the entries take of any disk, and of this one.
    let (mut planned_bytes, mut taken_bytes) = (0_u64, 0);
    for (count, entry) in archive.entries().map_err(UnpackError::Read)?.enumerate() {
        let mut entry = entry.map_err(UnpackError::Read)?;
        if stop.is_cancelled() {
            return Err(UnpackError::Stopped);
        }
        if count >= SHARES_ENTRIES_MAX {
            return Err(UnpackError::TooMany);
        }
        let is_folder = entry.header().entry_type() == EntryType::Directory;
        planned_bytes = planned_bytes.saturating_add(disk_bytes((!is_folder).then(|| entry.size())));
        if planned_bytes > SHARES_DISK_BYTES_MAX {
            return Err(UnpackError::TooLarge);
        }
        taken_bytes += unpack_entry(folder, &mut entry)?;
        if taken_bytes > SHARES_DISK_BYTES_MAX {
            return Err(UnpackError::TooLargeHere { path: folder.to_owned() });
        }
    }
    Ok(lock)
}

/// Unpacks an entry, and returns what it takes of the disk.
fn unpack_entry(folder: &Path, entry: &mut Entry<'_, impl Read>) -> Result<u64, UnpackError> {
    let name = entry.path_bytes();
    let odd = || UnpackError::Odd { name: String::from_utf8_lossy(&name).into_owned() };
    let path = folder.join(plain(&name).ok_or_else(odd)?);
    match entry.header().entry_type() {
        EntryType::Directory => {
            make_folder(&path)?;
            Ok(fs::symlink_metadata(&path).map_err(cannot_write(&path))?.blocks() * STAT_BLOCK_BYTES)
        }
        EntryType::Regular => {
            drop(name);
            let mut file = OpenOptions::new();
            // Only a new name: an existing entry is never overwritten or followed.
            let file = file.write(true).create_new(true).mode(0o444).open(&path);
            let mut file = file.map_err(cannot_write(&path))?;
            file.set_permissions(Permissions::from_mode(0o444)).map_err(cannot_write(&path))?;
            let bytes = entry.size();
            let copied = io::copy(entry, &mut file).map_err(cannot_write(&path))?;
            let taken = file.metadata().map_err(cannot_write(&path))?.blocks() * STAT_BLOCK_BYTES;
            files::close(file).map_err(cannot_write(&path))?;
            if copied != bytes {
                return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(taken)
        }
        _ => Err(odd()),
    }
}

/// The unit in which the system tells what a file takes of its disk.
pub(super) const STAT_BLOCK_BYTES: u64 = 512;

/// The path, if it cannot lead out of its folder.
fn plain(name: &[u8]) -> Option<&Path> {
    let path = Path::new(std::str::from_utf8(name).ok()?);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && path.components().next().is_some()).then_some(path)
}

/// Opens a directory; a link to one is not followed.
fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Whether a process uses a directory, or its lock cannot be checked.
pub(crate) fn is_used(path: &Path) -> bool {
    open_folder(path).is_ok_and(|folder| folder.try_lock().is_err())
}

/// Removes a directory that no process uses, unless there is something in it that no duke has put there. Returns
/// whether it did.
pub(crate) fn remove_unused(path: &Path) -> io::Result<bool> {
    let folder = open_folder(path)?;
    if folder.try_lock().is_err() || folder_size(path).is_none() {
        return Ok(false);
    }
    // A duke that opened it meanwhile sees that it does not have this name any more.
    let is_removed = path.to_string_lossy().ends_with(REMOVED);
    let removed = if is_removed { path.to_owned() } else { path.with_extension(REMOVED) };
    if !is_removed {
        fs::rename(path, &removed)?;
    }
    fs::remove_dir_all(&removed)?;
    Ok(true)
}

/// The ending of directories that are being removed.
const REMOVED: &str = "removed.tmp";

/// What something takes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes, in whole blocks.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) entries: u64,
}

impl Size {
    /// The size of a file, or of a folder without its contents.
    pub(crate) fn of(found: &fs::Metadata) -> Size {
        Size { bytes: found.blocks() * STAT_BLOCK_BYTES, entries: 1 }
    }
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, other: Size) {
        self.bytes += other.bytes;
        self.entries += other.entries;
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Size>>(sizes: I) -> Size {
        sizes.fold(Size::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// The size of a directory with its contents. Entries that cannot be read count as nothing. `None` if a user has put
/// something into it: all files of a duke are without permission to write.
pub(crate) fn folder_size(path: &Path) -> Option<Size> {
    let mut size = fs::symlink_metadata(path).map(|found| Size::of(&found)).unwrap_or_default();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            size += Size::of(&found);
            if found.is_dir() {
                folders.push(entry.path());
            } else if !found.is_file() || found.mode() & 0o222 != 0 {
                return None;
            }
        }
    }
    Some(size)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tar::{Builder, Header};

    use super::*;

    /// An archive of these entries, as a liar could make it: names are not checked.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Payload {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o7777);
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name_literal("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap().into()
    }

    fn digest_of(archive: &Payload) -> Digest {
        Digest::of(archive.chunks().map(AsRef::as_ref))
    }

    fn folders() -> (tempfile::TempDir, Folders) {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::open(&folder.path().join("cache"), "engine".to_owned()).unwrap();
        (folder, folders)
    }

    fn unpacked(folders: &Folders, archive: &Payload) -> Result<Arc<SharedFolder>, UnpackError> {
        unpack(folders, digest_of(archive), archive, &CancellationToken::new())
    }

    const GOOD: [(EntryType, &str, &str); 3] =
        [(EntryType::Directory, "sub", ""), (EntryType::Regular, "sub/b", "bb"), (EntryType::Regular, "a", "a")];

    #[test]
    fn a_share_is_unpacked_once_and_found_again() {
        let (_folder, folders) = folders();
        let good = archive(&GOOD);
        let digest = digest_of(&good);
        assert!(find(&folders, digest).is_none());
        let folder = unpacked(&folders, &good).unwrap();
        assert_eq!(folder.path(), folders.share(digest));
        assert_eq!(fs::read_to_string(folder.path().join("sub/b")).unwrap(), "bb");
        let mode = |name| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a"), mode("sub")), (0o444, 0o755));
        let size = folder_size(folder.path()).unwrap();
        assert!(size.entries == 4 && size.bytes.is_multiple_of(STAT_BLOCK_BYTES), "{size:?}");
        // Another duke may come too late.
        unpacked(&folders, &good).unwrap();
        assert_eq!(fs::read_dir(folder.path().parent().unwrap()).unwrap().count(), 1);
        assert!(find(&folders, digest).is_some());
    }

    #[test]
    fn an_archive_that_lies_leaves_nothing_behind() {
        let (folder, folders) = folders();
        use EntryType as E;
        let bad: [&[(EntryType, &str, &str)]; 12] = [
            &[(E::Regular, "../out", "x")],
            &[(E::Regular, "/tmp/distwasm-out", "x")],
            &[(E::Directory, "sub", ""), (E::Regular, "sub/../../out", "x")],
            &[(E::Symlink, "link", "")],
            &[(E::Link, "link", "")],
            &[(E::Char, "device", "")],
            &[(E::Fifo, "pipe", "")],
            &[(E::GNUSparse, "sparse", "")],
            &[(E::Regular, "a", "x"), (E::Regular, "a", "y")],
            &[(E::Regular, "none/a", "x")],
            &[(E::Regular, "a", "x"), (E::Regular, "a/b", "y")],
            &[(E::Directory, ".", "")],
        ];
        for entries in bad {
            let lie = archive(&[&GOOD, entries].concat());
            assert!(unpacked(&folders, &lie).is_err(), "{entries:?}");
        }
        for nonsense in [vec![b'x'; 2000], archive(&GOOD).contiguous()[..1500].to_vec()] {
            let lie = Payload::from(nonsense);
            assert!(unpacked(&folders, &lie).is_err());
        }
        assert_eq!(fs::read_dir(folders.share(digest_of(&archive(&GOOD))).parent().unwrap()).unwrap().count(), 0);
        assert!(!folder.path().join("out").exists() && !Path::new("/tmp/distwasm-out").exists());
    }

    /// An archive with this number of files of this size.
    fn files(count: usize, bytes: usize) -> Payload {
        let mut builder = Builder::new(Vec::new());
        let content = vec![b'x'; bytes];
        for number in 0..count {
            let mut header = Header::new_gnu();
            header.set_mode(0o444);
            header.set_size(bytes as u64);
            builder.append_data(&mut header, number.to_string(), content.as_slice()).unwrap();
        }
        builder.into_inner().unwrap().into()
    }

    #[test]
    fn more_than_a_job_may_share_is_refused_for_good_and_leaves_nothing_behind() {
        let (_folder, folders) = folders();
        // Sparse sizes: the archive ends before the content does.
        let large = {
            let mut header = Header::new_gnu();
            header.set_mode(0o444);
            header.set_path("large").unwrap();
            header.set_size(SHARES_DISK_BYTES_MAX + 1);
            header.set_cksum();
            Payload::from(header.as_bytes().to_vec())
        };
        let many = files(SHARES_ENTRIES_MAX + 1, 0);
        let refused = |archive: &Payload| {
            let error = unpacked(&folders, archive).unwrap_err();
            assert!(error.is_unfit());
            error.to_string()
        };
        assert!(refused(&large).contains("take more than 512 MB of a disk"));
        assert!(refused(&many).contains("more than 100000 files and folders"));
        assert_eq!(fs::read_dir(folders.shares()).unwrap().count(), 0);
    }

    #[test]
    fn small_files_count_as_what_they_take_of_the_disk() {
        let (_folder, folders) = folders();
        let unpacked = unpacked(&folders, &files(1000, 1)).unwrap();
        let size = folder_size(unpacked.path()).unwrap();
        assert_eq!(size.entries, 1001);
        let file = fs::metadata(unpacked.path().join("7")).unwrap();
        assert!(size.bytes >= 1000 * file.blocks() * STAT_BLOCK_BYTES, "{size:?}");
    }

    #[test]
    fn nothing_is_left_of_what_is_stopped() {
        let (_folder, folders) = folders();
        let (good, stop) = (archive(&GOOD), CancellationToken::new());
        stop.cancel();
        assert!(matches!(unpack(&folders, digest_of(&good), &good, &stop), Err(UnpackError::Stopped)));
        assert_eq!(fs::read_dir(folders.shares()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_is_not_removed() {
        let (_folder, folders) = folders();
        let good = archive(&GOOD);
        let digest = digest_of(&good);
        let (first, second) = (unpacked(&folders, &good).unwrap(), find(&folders, digest).unwrap());
        drop(first);
        assert!(!remove_unused(second.path()).unwrap());
        let unused = archive(&GOOD[2..]);
        drop(unpacked(&folders, &unused).unwrap());
        fs::create_dir(folders.unfinished_share(digest)).unwrap();
        crate::cache::Cache { folders: folders.clone() }.evict_to(Size::default());
        assert!(second.path().join("a").exists());
        assert!(find(&folders, digest_of(&unused)).is_none());
        assert_eq!(fs::read_dir(second.path().parent().unwrap()).unwrap().count(), 1);
        let path = second.path().to_owned();
        drop(second);
        assert!(remove_unused(&path).unwrap());
        assert!(find(&folders, digest).is_none());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }
}
