//! Reads of the database, beside its writer.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use distwasm_proto::limits::{LISTED_ENTRIES_BYTES, LISTED_ENTRIES_MAX, STORE_READS_MAX};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::connection;
use crate::{Entry, Key, Page, Revision, StorageError};

/// Connections that read. They are opened when they are needed, and kept.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Readers {
        Readers { path, idle: Mutex::default(), turns: Semaphore::new(STORE_READS_MAX) }
    }

    /// Reads with one of the connections, when it has its turn.
    pub(crate) async fn read<T: Send + 'static>(
        self: Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let readers = Arc::clone(&self);
        let _turn = self.turns.acquire().await.map_err(|_| StorageError::Closed)?;
        spawn_blocking(move || readers.read_now(read)).await.map_err(|_| StorageError::Closed)?
    }

    fn read_now<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StorageError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => connection::open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let value = read(&connection).map_err(|error| StorageError::of_sql("read", &self.path, error))?;
        // After an error, the next read has a new connection.
        idle().push(connection);
        Ok(value)
    }
}

/// The entry with this key.
pub(crate) fn get(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Entry>> {
    let mut query = connection.prepare("SELECT key, value, revision FROM entries WHERE key = ?1")?;
    query.query_row([key.as_str()], entry).optional()
}

/// The entries whose keys begin with a prefix, behind `after`.
pub(crate) fn list(connection: &Connection, prefix: &str, after: Option<&Key>, most: usize) -> rusqlite::Result<Page> {
    let most = most.clamp(1, LISTED_ENTRIES_MAX);
    let mut query = connection
        .prepare("SELECT key, value, revision FROM entries WHERE key >= ?1 AND key < ?2 AND key > ?3 ORDER BY key")?;
    // Keys have only characters that come before this one.
    let (end, after) = (format!("{prefix}\x7f"), after.map_or("", Key::as_str));
    let mut rows = query.query(params![prefix, end, after])?;
    let (mut page, mut bytes) = (Page::default(), 0);
    while let Some(row) = rows.next()? {
        if page.entries.len() >= most || bytes >= LISTED_ENTRIES_BYTES {
            page.has_more = true;
            break;
        }
        let entry = entry(row)?;
        bytes += entry.value.len();
        page.entries.push(entry);
    }
    Ok(page)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let key = Key::new(row.get::<_, String>(0)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))?;
    let revision = u64::try_from(row.get::<_, i64>(2)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Integer, Box::new(error))
    })?;
    Ok(Entry { key, value: row.get::<_, Vec<u8>>(1)?.into(), revision: Revision(revision) })
}
