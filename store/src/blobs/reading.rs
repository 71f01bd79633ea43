//! Reads a blob, and makes sure that its bytes are those that were written.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use distwasm_process::files;
use distwasm_proto::{
    digest::{Digest, Hasher},
    limits::PIECE_BYTES,
};
use tokio::task::spawn_blocking;

use crate::{Answer, BlobReadError, BlobReader, StorageError};

/// Reads a blob from its file.
pub(crate) struct FileReader {
    bytes: u64,
    /// `None` while it is read, after its end, and after an error.
    reading: Option<Reading>,
}

struct Reading {
    digest: Digest,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    /// What was read last: it is passed on when it is known whether it is the end.
    ahead: Bytes,
}

impl FileReader {
    /// Opens the file of a blob.
    pub(crate) fn begin(path: &Path, digest: Digest) -> Result<FileReader, BlobReadError> {
        let failed = |error| StorageError::of_io("read", path, error);
        let file = match files::open_own(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(BlobReadError::Missing { digest }),
            file => file.map_err(failed)?,
        };
        let bytes = file.metadata().map_err(failed)?.len();
        let (hasher, ahead) = (Hasher::default(), Bytes::new());
        let mut reading = Reading { digest, path: path.to_owned(), file, hasher, ahead };
        reading.ahead = reading.read()?;
        Ok(FileReader { bytes, reading: Some(reading) })
    }
}

impl BlobReader for FileReader {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn next(&mut self) -> Answer<'_, Option<Bytes>, BlobReadError> {
        Box::pin(async move {
            let Some(mut reading) = self.reading.take() else { return Ok(None) };
            let read = spawn_blocking(move || reading.next().map(|next| (next, reading))).await;
            let (next, reading) = read.map_err(|_| StorageError::Closed)??;
            self.reading = (!reading.ahead.is_empty()).then_some(reading);
            Ok((!next.is_empty()).then_some(next))
        })
    }
}

impl Reading {
    fn next(&mut self) -> Result<Bytes, BlobReadError> {
        let ahead = self.read()?;
        if ahead.is_empty() && std::mem::take(&mut self.hasher).finish() != self.digest {
            return Err(BlobReadError::Damaged { path: self.path.clone() });
        }
        Ok(std::mem::replace(&mut self.ahead, ahead))
    }

    /// The next bytes of the file; empty at its end.
    fn read(&mut self) -> Result<Bytes, StorageError> {
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        let read = (&self.file).take(PIECE_BYTES as u64).read_to_end(&mut bytes);
        read.map_err(|error| StorageError::of_io("read", &self.path, error))?;
        self.hasher.update(&bytes);
        Ok(bytes.into())
    }
}

/// The digest of a file's bytes, read piece by piece.
pub(crate) fn digest_of(path: &Path) -> Result<(Digest, u64), StorageError> {
    let failed = |error| StorageError::of_io("read", path, error);
    let mut file = files::open_own(path).map_err(failed)?;
    let (mut hasher, mut piece, mut bytes) = (Hasher::default(), vec![0; PIECE_BYTES], 0);
    loop {
        let read = match file.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.map_err(failed)?,
        };
        if read == 0 {
            return Ok((hasher.finish(), bytes));
        }
        hasher.update(piece.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}
