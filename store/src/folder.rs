//! The folder of a store, which one process has at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use distwasm_process::files;
use distwasm_proto::digest::Digest;

use crate::{OpenError, StorageError};

const LOCK: &str = "store.lock";
pub(crate) const DATABASE: &str = "store.db";
pub(crate) const BLOBS: &str = "blobs";
/// The database of a restore that has not come to its end.
pub(crate) const RESTORED: &str = "unfinished-store.db";

/// The folder of a store. Nobody else opens a store there until this is dropped, or its process has ended.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes a folder that only this user may enter.
    pub(crate) fn take(path: &Path) -> Result<Folder, OpenError> {
        // SQLite follows no links, wherever they are in a path.
        let path = fs::canonicalize(path).map_err(|error| StorageError::of_io("open", path, error))?;
        let lock = lock(&path)?;
        let blobs = path.join(BLOBS);
        let made = fs::DirBuilder::new().mode(0o700).create(&blobs);
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(StorageError::of_io("create", &blobs, error).into());
            }
            // A folder that was made must be there after a power failure, before there is anything in it.
            Ok(()) => sync(&path)?,
            Err(_) => {}
        }
        Ok(Folder { path, lock })
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The folder of the blobs.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join(BLOBS)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is just being started may still have it.
        let _unlocked = self.lock.unlock();
    }
}

/// Why no new store may begin in a folder without a database, if it may not: there was one, whose blobs would be swept.
pub(crate) fn why_not_new(path: &Path) -> Option<OpenError> {
    let has_bytes = |name: String| fs::metadata(path.join(name)).is_ok_and(|found| found.len() > 0);
    // A database that was just made may have all of its pages in its log.
    if has_bytes(DATABASE.to_owned()) || has_bytes(format!("{DATABASE}-wal")) {
        return None;
    }
    if path.join(RESTORED).exists() {
        return Some(OpenError::HalfRestored { folder: path.to_owned() });
    }
    let mut blobs = fs::read_dir(path.join(BLOBS)).into_iter().flatten().flatten();
    let is_blob = |name: &str| Digest::from_hex(name).is_some();
    let has_blobs = blobs.any(|entry| entry.file_name().to_str().is_some_and(is_blob));
    has_blobs.then(|| OpenError::Lost { folder: path.to_owned() })
}

/// Whether a folder has a store in it.
pub(crate) fn has_store(path: &Path) -> bool {
    path.join(DATABASE).is_file()
}

/// Has the names in a folder on disk.
pub(crate) fn sync(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| StorageError::of_io("keep the names in", path, error))
}

/// The lock ends with the process, however that ends.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let failed = |error| StorageError::of_io("lock", &path, error);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = files::open_own_with(options, &path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Without a number, the message has none.
            let _read = file.take(32).read_to_string(&mut text);
            return Err(OpenError::Taken { folder: folder.to_owned(), holder: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error).into()),
    }
    // It is only for the message above: a full disk is no reason to refuse to read.
    let _told = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}
