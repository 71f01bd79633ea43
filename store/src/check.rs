//! Looks through a store: whether its database is whole, and each blob is there with the bytes of its digest.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use distwasm_proto::{digest::Digest, limits::PROBLEMS_SHOWN};
use rusqlite::{Connection, OpenFlags};

use crate::{
    OpenError, StorageError,
    blobs::{self, Found, digest_of},
    folder::{Folder, has_store, why_not_new},
    sqlite::{open_connection, schema},
};

/// What a look through a store has found.
#[derive(Debug, Default)]
pub struct Report {
    /// Values that are kept.
    pub entries: u64,
    /// Blobs that are kept.
    pub blobs: u64,
    /// The bytes of these blobs.
    pub blob_bytes: u64,
    /// Files that nothing names, which the next start removes.
    pub unnamed: u64,
    /// What is wrong. If there are [`PROBLEMS_SHOWN`] of them, there may be more.
    pub problems: Vec<Problem>,
}

/// Something that is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The database is not whole, as SQLite says it.
    Database(String),
    /// A blob that an entry names is not there.
    Missing {
        /// The blob.
        digest: Digest,
        /// One of the keys that name it.
        key: String,
    },
    /// The file of a blob has other bytes.
    Damaged {
        /// The file.
        path: PathBuf,
        /// One of the keys that name it.
        key: String,
    },
    /// The file of a blob cannot be read.
    Unread {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The count of those that name a blob is wrong, so that it would be removed too early, or never.
    Miscounted {
        /// The blob.
        digest: Digest,
        /// How many the database has counted.
        counted: i64,
        /// How many there are.
        named: i64,
    },
    /// Something in the folder of the blobs that a store does not make.
    Strange(PathBuf),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Database(why) => write!(f, "the database is damaged: {why}"),
            Problem::Missing { digest, key } => write!(f, "the blob {digest} of {key} is missing"),
            Problem::Damaged { path, key } => {
                write!(f, "{}, a blob of {key}, does not have the bytes whose digest is its name", path.display())
            }
            Problem::Unread { path, why } => write!(f, "{} cannot be read: {why}", path.display()),
            Problem::Miscounted { digest, counted, named } => {
                write!(f, "the blob {digest} is named {named} times, and the database has counted {counted}")
            }
            Problem::Strange(path) => write!(f, "{} does not belong there", path.display()),
        }
    }
}

impl Report {
    fn add(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push(problem);
        }
    }
}

/// Looks through the store in a folder, and changes nothing. Reads all of it.
///
/// # Errors
///
/// When there is none, when a king uses it, and when it cannot be opened at all.
pub fn check(folder: &Path) -> Result<Report, OpenError> {
    if let Some(error) = why_not_new(folder) {
        return Err(error);
    }
    if !has_store(folder) {
        return Err(OpenError::None { folder: folder.to_owned() });
    }
    let folder = Folder::take(folder)?;
    check_all(&folder.database(), &folder.blobs())
}

/// Looks through a database, and the blobs in a folder.
pub(crate) fn check_all(path: &Path, blobs: &Path) -> Result<Report, OpenError> {
    // Not for writing; but after a crash, SQLite first makes the index of the log anew.
    let connection = open_connection(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    schema::check_owner(&connection, path)?;
    let (found, known) = (schema::version(&connection, path)?, schema::VERSION);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    let mut report = Report::default();
    check_database(&connection, path, &mut report)?;
    check_blobs(&connection, path, blobs, &mut report)?;
    Ok(report)
}

fn check_database(connection: &Connection, path: &Path, report: &mut Report) -> Result<(), StorageError> {
    let failed = |error| StorageError::of_sql("read", path, error);
    for pragma in [format!("PRAGMA integrity_check({PROBLEMS_SHOWN})"), "PRAGMA foreign_key_check".to_owned()] {
        let mut query = connection.prepare(&pragma).map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let said: String = row.get(0).map_err(failed)?;
            if said != "ok" {
                report.add(Problem::Database(said));
            }
        }
    }
    let count: i64 = connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).map_err(failed)?;
    report.entries = u64::try_from(count).unwrap_or(0);
    let mut query = connection
        .prepare(
            "SELECT digest, named, (SELECT count(*) FROM names WHERE names.digest = blobs.digest) AS those FROM blobs \
             WHERE named <> those",
        )
        .map_err(failed)?;
    let mut rows = query.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let digest = Digest::from(row.get::<_, [u8; 32]>(0).map_err(failed)?);
        let (counted, named) = (row.get(1).map_err(failed)?, row.get(2).map_err(failed)?);
        report.add(Problem::Miscounted { digest, counted, named });
    }
    Ok(())
}

fn check_blobs(connection: &Connection, path: &Path, folder: &Path, report: &mut Report) -> Result<(), StorageError> {
    let mut files = BTreeMap::new();
    for found in blobs::list(folder)? {
        match found? {
            (path, Found::Blob(digest)) => _ = files.insert(digest, path),
            (_, Found::Unfinished) => report.unnamed += 1,
            (path, Found::Other) => report.add(Problem::Strange(path)),
        }
    }
    let failed = |error| StorageError::of_sql("read", path, error);
    let mut query = connection.prepare("SELECT digest, min(key) FROM names GROUP BY digest").map_err(failed)?;
    let mut rows = query.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let digest = Digest::from(row.get::<_, [u8; 32]>(0).map_err(failed)?);
        let key: String = row.get(1).map_err(failed)?;
        let Some(path) = files.remove(&digest) else {
            report.add(Problem::Missing { digest, key });
            continue;
        };
        match digest_of(&path) {
            Ok((found, bytes)) if found == digest => {
                report.blobs += 1;
                report.blob_bytes += bytes;
            }
            Ok(_) => report.add(Problem::Damaged { path, key }),
            Err(error) => report.add(Problem::Unread { path, why: why(&error) }),
        }
    }
    report.unnamed += files.len() as u64;
    Ok(())
}

/// What the system said.
fn why(error: &StorageError) -> String {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}
