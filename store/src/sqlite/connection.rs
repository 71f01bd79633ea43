//! Opens a database of a store.

use std::{fs::OpenOptions, io::ErrorKind, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use distwasm_proto::limits::{DATABASE_CHECKED_BYTES_MAX, DATABASE_LOG_BYTES};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema;
use crate::{OpenError, StorageError, folder};

/// How long a connection waits for another one of this process. None waits for long: there is one writer, and a log.
const BUSY_WITHIN: Duration = Duration::from_secs(10);

/// Opens a database to write to it, and makes one if there is none.
pub(crate) fn open_or_make(path: &Path) -> Result<Connection, OpenError> {
    // SQLite gives its other files the permissions of this one.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => folder::sync(path.parent().unwrap_or(path))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StorageError::of_io("create", path, error).into()),
    }
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let failed = |error| StorageError::of_sql("open", path, error);
    schema::check_owner(&connection, path)?;
    // Answers with the mode that it is in then.
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY), None);
        return Err(StorageError::of_sql("open", path, error).into());
    }
    let settings = format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; \
         PRAGMA journal_size_limit = {DATABASE_LOG_BYTES};"
    );
    connection.execute_batch(&settings).map_err(failed)?;
    Ok(connection)
}

/// Opens a database that is there.
pub(crate) fn open(path: &Path, access: OpenFlags) -> Result<Connection, StorageError> {
    let failed = |error| StorageError::of_sql("open", path, error);
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_WITHIN).map_err(failed)?;
    // No SQL comes from elsewhere, and no schema either; a damaged schema must not run anything.
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;").map_err(failed)?;
    Ok(connection)
}

/// Looks through a small database.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<(), StorageError> {
    let failed = |error| StorageError::of_sql("read", path, error);
    let bytes = path.metadata().map_err(|error| StorageError::of_io("read", path, error))?.len();
    if bytes > DATABASE_CHECKED_BYTES_MAX {
        return Ok(());
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found == "ok" {
        return Ok(());
    }
    Err(failed(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error { code: ErrorCode::DatabaseCorrupt, extended_code: 0 },
        Some(found),
    )))
}
