//! A backup: all that a store keeps at one moment, as a tar archive that is made while it is read.
//!
//! The first file in it says what it is. Then come the database, as a copy that SQLite makes, and the blobs. A blob that is
//! in it is pinned until it has been read.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use distwasm_process::files;
use distwasm_proto::{
    digest::{Digest, Hasher},
    limits::PIECE_BYTES,
};
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    Blob, BlobReadError, StorageError,
    blobs::Blobs,
    folder::{BLOBS, DATABASE},
};

/// The file that says what the archive is, and its content: the version of the format.
pub(crate) const MARKER: &str = "distwasm-backup";
pub(crate) const FORMAT: &str = "1\n";

/// Pieces that wait for a slow reader.
const PIECES_WAITING: usize = 2;

/// A backup that is being made. If this is dropped, it is given up.
#[derive(Debug)]
pub struct Backup {
    pieces: mpsc::Receiver<Result<Bytes, BlobReadError>>,
}

impl Backup {
    /// The next bytes; `None` after the last ones. After an error there are no more, and the backup is of no use.
    pub async fn next(&mut self) -> Option<Result<Bytes, BlobReadError>> {
        self.pieces.recv().await
    }
}

/// What a backup is made of. The copy of the database is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// A copy of the database.
    pub(crate) database: PathBuf,
    /// The blobs that it names.
    pub(crate) held: Vec<Blob>,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // If it cannot be removed, the next start removes it.
        let _removed = fs::remove_file(&self.database);
    }
}

/// Begins to make a backup.
pub(crate) fn begin(snapshot: Snapshot, blobs: Arc<Blobs>) -> Backup {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    // It ends with the last piece, or when nobody takes them any more.
    drop(spawn_blocking(move || {
        let mut pieces = Pieces { gathered: Vec::new(), sender: sender.clone() };
        let failure = match write(&snapshot, &blobs, &mut pieces) {
            // The reader has all of it, or has gone.
            Ok(()) | Err(Failure::Gone) => return,
            Err(Failure::Read(error)) => error,
        };
        let _told = sender.blocking_send(Err(failure));
    }));
    Backup { pieces }
}

/// Why a backup is not made to its end.
enum Failure {
    Gone,
    Read(BlobReadError),
}

impl From<BlobReadError> for Failure {
    fn from(error: BlobReadError) -> Failure {
        Failure::Read(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Failure {
        Failure::Read(error.into())
    }
}

fn write(snapshot: &Snapshot, blobs: &Blobs, pieces: &mut Pieces) -> Result<(), Failure> {
    let mut archive = tar::Builder::new(pieces);
    let gone = |_| Failure::Gone;
    archive.append_data(&mut header(FORMAT.len() as u64), MARKER, FORMAT.as_bytes()).map_err(gone)?;
    append(&mut archive, &snapshot.database, DATABASE).map(drop)?;
    for blob in &snapshot.held {
        let (path, digest) = (blobs.path(blob.digest()), blob.digest());
        let found = append(&mut archive, &path, &format!("{BLOBS}/{digest}"))?;
        if found != digest {
            return Err(BlobReadError::Damaged { path }.into());
        }
    }
    archive.into_inner().and_then(Pieces::finish).map_err(gone)
}

fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header
}

/// Appends a file; returns the digest of its bytes.
fn append(archive: &mut tar::Builder<&mut Pieces>, path: &Path, name: &str) -> Result<Digest, Failure> {
    let failed = |error| StorageError::of_io("read", path, error);
    let file = files::open_own(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut reading = Reading { file, hasher: Hasher::default(), error: None };
    let appended = archive.append_data(&mut header(bytes), name, (&mut reading).take(bytes));
    if let Some(error) = reading.error {
        return Err(failed(error).into());
    }
    appended.map_err(|_| Failure::Gone)?;
    Ok(reading.hasher.finish())
}

/// A file that is read, and makes its digest on the way.
struct Reading {
    file: File,
    hasher: Hasher,
    /// Why it could not be read.
    error: Option<io::Error>,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(read) => {
                self.hasher.update(buffer.get(..read).unwrap_or_default());
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Gathers what is written to pieces, and hands them on.
struct Pieces {
    gathered: Vec<u8>,
    sender: mpsc::Sender<Result<Bytes, BlobReadError>>,
}

impl Pieces {
    fn hand_on(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.gathered);
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() { Ok(()) } else { self.hand_on() }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.gathered.len().min(PIECE_BYTES);
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.gathered.extend_from_slice(taken);
        if self.gathered.len() >= PIECE_BYTES {
            self.hand_on()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
