//! Blobs: bytes in plain files that are named by their SHA-256.
//!
//! A file is written under an unfinished name, synced, renamed, and its folder synced. From then until an entry names the
//! blob, or nobody means to have it named any more, the blob is *pinned*. The database counts which blobs are named. Those
//! that are neither named nor pinned are removed by the writer of the store (which alone removes blobs), and at the next
//! start after a crash.

mod reading;
mod writing;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use distwasm_proto::digest::Digest;
use tracing::warn;

pub(crate) use reading::{FileReader, digest_of};
pub(crate) use writing::FileWriter;

use crate::StorageError;

/// The beginning of the names of files that are being written.
const UNFINISHED: &str = "unfinished-";

/// A blob that was written. It stays as long as this lives, and afterwards if an entry names it.
#[derive(Clone, Debug)]
pub struct Blob {
    bytes: u64,
    pin: Arc<Pin>,
}

impl Blob {
    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.pin.digest
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The files of the blobs.
pub(crate) struct Blobs {
    folder: PathBuf,
    pins: Mutex<Pins>,
    unfinished: AtomicU64,
    /// Has the writer of the store look for blobs that nobody wants any more.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs").field("folder", &self.folder).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Pins {
    /// How many want each blob to stay.
    pinned: HashMap<Digest, usize>,
    /// Blobs that were pinned, and may be named or not.
    loose: Vec<Digest>,
}

/// Keeps a blob.
#[derive(Debug)]
struct Pin {
    digest: Digest,
    blobs: Arc<Blobs>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.blobs.pins();
        if let Some(count) = pins.pinned.get_mut(&self.digest) {
            *count -= 1;
            if *count > 0 {
                return;
            }
        }
        pins.pinned.remove(&self.digest);
        pins.loose.push(self.digest);
        drop(pins);
        (self.blobs.wake)();
    }
}

impl Blobs {
    pub(crate) fn new(folder: PathBuf, wake: impl Fn() + Send + Sync + 'static) -> Blobs {
        Blobs { folder, pins: Mutex::default(), unfinished: AtomicU64::new(0), wake: Box::new(wake) }
    }

    /// Where a blob is.
    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// A name that no other file has.
    pub(crate) fn unfinished_path(&self) -> PathBuf {
        self.folder.join(format!("{UNFINISHED}{}", self.unfinished.fetch_add(1, Ordering::Relaxed)))
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        // Nothing in here can panic half-way through a change.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a blob that is there, or that is going to be.
    pub(crate) fn pin(self: &Arc<Blobs>, digest: Digest, bytes: u64) -> Blob {
        *self.pins().pinned.entry(digest).or_default() += 1;
        Blob { bytes, pin: Arc::new(Pin { digest, blobs: Arc::clone(self) }) }
    }

    /// Blobs that were pinned until a moment ago.
    pub(crate) fn take_loose(&self) -> Vec<Digest> {
        std::mem::take(&mut self.pins().loose)
    }

    /// Removes a blob that no entry names, unless it is pinned. For the writer of the store alone.
    pub(crate) fn remove(&self, digest: Digest) {
        let pins = self.pins();
        if pins.pinned.contains_key(&digest) {
            return;
        }
        // The lock is kept: whoever writes the same blob now pins it first, and gives it its name afterwards.
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %path.display(), %error, "a blob that nothing names cannot be removed; the next start tries again");
            }
            _ => {}
        }
    }
}

/// What lies in the folder of the blobs.
#[derive(Debug)]
pub(crate) enum Found {
    /// A blob, by its name.
    Blob(Digest),
    /// A file that was being written when its process ended.
    Unfinished,
    /// Something that a store does not make.
    Other,
}

/// All that lies in the folder of the blobs.
pub(crate) fn list(
    folder: &Path,
) -> Result<impl Iterator<Item = Result<(PathBuf, Found), StorageError>>, StorageError> {
    let failed = |error| StorageError::of_io("list", folder, error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let folder = folder.to_owned();
    Ok(entries.map(move |entry| {
        let entry = entry.map_err(|error| StorageError::of_io("list", &folder, error))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let name = entry.file_name();
        let found = match name.to_str() {
            Some(name) if is_file && name.starts_with(UNFINISHED) => Found::Unfinished,
            Some(name) if is_file => Digest::from_hex(name).map_or(Found::Other, Found::Blob),
            _ => Found::Other,
        };
        Ok((entry.path(), found))
    }))
}
