//! Writes a blob.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use distwasm_process::files;
use distwasm_proto::{digest::Hasher, limits::DISK_FREE_BYTES_MIN};
use rustix::{fs::statvfs, io::Errno};
use tokio::task::spawn_blocking;

use super::{Blob, Blobs};
use crate::{Answer, BlobWriteError, BlobWriter, StorageError, folder::sync};

/// Writes a blob into a file.
pub(crate) struct FileWriter {
    bytes_max: u64,
    /// `None` while bytes are written, and after an error.
    unfinished: Option<Unfinished>,
}

/// A file that has no blob's name yet. It is removed if this is dropped.
struct Unfinished {
    blobs: Arc<Blobs>,
    path: PathBuf,
    file: Option<File>,
    hasher: Hasher,
    bytes: u64,
}

impl FileWriter {
    /// Creates the file, if the disk has room for what is announced.
    pub(crate) fn begin(blobs: &Arc<Blobs>, bytes_max: u64) -> Result<FileWriter, BlobWriteError> {
        check_room(&blobs.folder, bytes_max)?;
        let path = blobs.unfinished_path();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| StorageError::of_io("create", &path, error))?;
        let unfinished =
            Unfinished { blobs: Arc::clone(blobs), path, file: Some(file), hasher: Hasher::default(), bytes: 0 };
        Ok(FileWriter { bytes_max, unfinished: Some(unfinished) })
    }
}

/// A disk that is full to the last byte stops more than a king.
fn check_room(folder: &Path, bytes: u64) -> Result<(), StorageError> {
    let found = statvfs(folder).map_err(|error| StorageError::of_io("look at", folder, error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < bytes.saturating_add(DISK_FREE_BYTES_MIN) {
        return Err(StorageError::of_io("write to", folder, Errno::NOSPC.into()));
    }
    Ok(())
}

impl BlobWriter for FileWriter {
    fn write(&mut self, bytes: Bytes) -> Answer<'_, (), BlobWriteError> {
        Box::pin(async move {
            let bytes_max = self.bytes_max;
            let mut unfinished = self.unfinished.take().ok_or(StorageError::Closed)?;
            if unfinished.bytes.saturating_add(bytes.len() as u64) > bytes_max {
                return Err(BlobWriteError::TooLong { bytes_max });
            }
            let written = spawn_blocking(move || unfinished.write(&bytes).map(|()| unfinished)).await;
            self.unfinished = Some(written.map_err(|_| StorageError::Closed)??);
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> Answer<'static, Blob, BlobWriteError> {
        Box::pin(async move {
            let unfinished = self.unfinished.ok_or(StorageError::Closed)?;
            let finished = spawn_blocking(move || unfinished.finish()).await;
            Ok(finished.map_err(|_| StorageError::Closed)??)
        })
    }
}

impl Unfinished {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let mut file = self.file.as_ref().ok_or(StorageError::Closed)?;
        file.write_all(bytes).map_err(|error| StorageError::of_io("write", &self.path, error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Blob, StorageError> {
        let file = self.file.take().ok_or(StorageError::Closed)?;
        let kept = file.sync_all().and_then(|()| files::close(file));
        kept.map_err(|error| StorageError::of_io("write", &self.path, error))?;
        let digest = std::mem::take(&mut self.hasher).finish();
        // Before it has its name, so that nobody removes it as a blob that nothing names.
        let blob = self.blobs.pin(digest, self.bytes);
        // It may be there already, and in good order or not: these are its bytes in any case.
        let path = self.blobs.path(digest);
        fs::rename(&self.path, &path).map_err(|error| StorageError::of_io("name", &path, error))?;
        self.path.clear();
        sync(&self.blobs.folder)?;
        Ok(blob)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // If it cannot be removed, the next start removes it.
            let _removed = fs::remove_file(&self.path);
        }
    }
}
