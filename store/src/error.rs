//! Why a store cannot do what it is asked for.

use std::{
    error::Error as StdError,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use distwasm_proto::{digest::Digest, limits::BATCH_CHANGES_MAX};
use rusqlite::ErrorCode;
use thiserror::Error;

use crate::{Key, Revision};

/// What the system or the database said. Those whose batches were written together share it.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why what is kept cannot be read or written.
#[derive(Clone, Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StorageError {
    #[error("there is no space left for {} (free some on its disk; nothing that was kept is lost)", .path.display())]
    Full { path: PathBuf, source: Cause },
    #[error("{} cannot be written to (is its file system mounted read-only, or does it belong to another user?)", .path.display())]
    ReadOnly { path: PathBuf, source: Cause },
    #[error(
        "{} is damaged: `king check --data {}` tells what can be told. Restore a backup of that folder, or move store.db, \
         store.db-wal, store.db-shm and blobs out of it: then the king starts with nothing but its key and tokens",
        .path.display(), .path.parent().unwrap_or(Path::new(".")).display()
    )]
    Damaged { path: PathBuf, source: Cause },
    #[error("failed to {what} {}", .path.display())]
    Failed { what: &'static str, path: PathBuf, source: Cause },
    #[error("the store is closed, because its king ends")]
    Closed,
}

impl StorageError {
    /// What the system said when something was done to a file.
    pub(crate) fn of_io(what: &'static str, path: &Path, error: io::Error) -> StorageError {
        let (path, kind, source) = (path.to_owned(), error.kind(), Arc::new(error));
        match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StorageError::Full { path, source },
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => StorageError::ReadOnly { path, source },
            _ => StorageError::Failed { what, path, source },
        }
    }

    /// What the database said.
    pub(crate) fn of_sql(what: &'static str, path: &Path, error: rusqlite::Error) -> StorageError {
        let (path, code, source) = (path.to_owned(), error.sqlite_error_code(), Arc::new(error));
        match code {
            Some(ErrorCode::DiskFull) => StorageError::Full { path, source },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StorageError::ReadOnly { path, source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StorageError::Damaged { path, source },
            _ => StorageError::Failed { what, path, source },
        }
    }
}

/// Why a batch was not written. Nothing of it was done.
#[derive(Clone, Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CommitError {
    #[error("{key} has changed meanwhile")]
    Conflict { key: Key, found: Option<Revision> },
    #[error("{key} names the blob {digest}, which is not here")]
    NoBlob { key: Key, digest: Digest },
    #[error("a batch has {changes} changes, and may have {BATCH_CHANGES_MAX}")]
    TooMany { changes: usize },
    #[error("the value of {key} has {bytes} bytes, which is too long")]
    TooLong { key: Key, bytes: usize },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a blob was not written. Nothing of it is kept.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BlobWriteError {
    #[error("it has more than the {bytes_max} bytes that were announced")]
    TooLong { bytes_max: u64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a blob cannot be read.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BlobReadError {
    #[error("there is no blob {digest} (`king check` tells what else is missing)")]
    Missing { digest: Digest },
    #[error("the bytes of {} do not have the digest that is its name: it was damaged, and must come from a backup", .path.display())]
    Damaged { path: PathBuf },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("another king{} uses {}: end it first, or give this one another folder (--data)", by(*.holder), .folder.display())]
    Taken { folder: PathBuf, holder: Option<u32> },
    #[error(
        "{} was written by a newer version of distwasm, with schema {found}, and this one knows schemas up to {known}: use that \
         version, or --data with another folder",
        .path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is a database, but not that of a king: --data names another folder", .path.display())]
    Foreign { path: PathBuf },
    #[error("{} has no store.db: a king that is started with --data {0} makes it", .folder.display())]
    None { folder: PathBuf },
    #[error(
        "{} has the bytes of programs, but its database store.db is missing or empty: restore a backup into another folder \
         (`king restore`), or remove the folder blobs in it to begin anew",
        .folder.display()
    )]
    Lost { folder: PathBuf },
    #[error("a restore into {} did not come to its end: run `king restore` again", .folder.display())]
    HalfRestored { folder: PathBuf },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn by(holder: Option<u32>) -> String {
    holder.map(|holder| format!(" (process {holder})")).unwrap_or_default()
}
