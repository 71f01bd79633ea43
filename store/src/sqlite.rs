//! A store in one folder: a SQLite database for the entries, and plain files for the blobs.
//!
//! One thread writes: it takes the batches that have gathered, and commits them together, so that their callers share one
//! fsync. Reads have connections of their own beside it. The database has a write-ahead log and syncs it at each commit
//! (`journal_mode=WAL`, `synchronous=FULL`), so that what was acknowledged survives a power failure.

mod apply;
mod connection;
mod readers;
pub(crate) mod schema;
mod writer;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use distwasm_proto::{
    digest::Digest,
    limits::{BATCH_CHANGES_MAX, BATCHES_WAITING_MAX, VALUE_BYTES_MAX},
};
use rusqlite::Connection;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tracing::{info, warn};

use crate::{
    Answer, Backup, Batch, BlobReadError, BlobReader, BlobWriteError, BlobWriter, CommitError, Entry, Key, OpenError,
    Page, Revision, StorageError, Store, Watch, backup,
    batch::What,
    blobs::{self, Blobs, FileReader, FileWriter, Found},
    folder::{Folder, has_store, why_not_new},
    watch::Hub,
};
use readers::Readers;
use writer::{Order, Writer};

pub(crate) use connection::open as open_connection;

/// A store in a folder. Dropping it ends its writer, after what was handed in before.
#[derive(Debug)]
pub struct SqliteStore {
    folder: Arc<Folder>,
    readers: Arc<Readers>,
    blobs: Arc<Blobs>,
    hub: Arc<Hub>,
    /// `None` while this is dropped.
    orders: Option<mpsc::Sender<Order>>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the store in a folder that only this user may enter, or makes one. Waits for the disk.
    ///
    /// # Errors
    ///
    /// When another process has it, when it is damaged or was written by a newer version, and when the disk does not do
    /// what is asked of it.
    pub fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
        let folder = Arc::new(Folder::take(folder)?);
        let database = folder.database();
        if let Some(error) = why_not_new(folder.path()) {
            return Err(error);
        }
        let mut connection = connection::open_or_make(&database)?;
        schema::migrate(&mut connection, &database)?;
        connection::check(&connection, &database)?;
        let (orders, inbox) = mpsc::channel(BATCHES_WAITING_MAX);
        let waker = orders.downgrade();
        let wake = move || {
            // If there are so many orders that there is no room for one more, the writer looks after them anyway.
            let _woken = waker.upgrade().map(|orders| orders.try_send(Order::Collect));
        };
        let blobs = Arc::new(Blobs::new(folder.blobs(), wake));
        sweep(&connection, &database, &folder.blobs())?;
        let hub = Arc::new(Hub::default());
        let writer = Writer::new(connection, database.clone(), Arc::clone(&blobs), Arc::clone(&hub))?;
        let writer = thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(inbox));
        let writer = writer.map_err(|error| StorageError::of_io("start a thread for", &database, error))?;
        let readers = Arc::new(Readers::new(database));
        Ok(SqliteStore { folder, readers, blobs, hub, orders: Some(orders), writer: Some(writer) })
    }

    /// Opens the store in a folder, if there is one.
    ///
    /// # Errors
    ///
    /// When there is none, and as for [`SqliteStore::open`].
    pub fn open_existing(folder: &Path) -> Result<SqliteStore, OpenError> {
        if !has_store(folder) {
            return Err(why_not_new(folder).unwrap_or_else(|| OpenError::None { folder: folder.to_owned() }));
        }
        SqliteStore::open(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'static, T, StorageError> {
        let readers = Arc::clone(&self.readers);
        Box::pin(async move { readers.read(read).await })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            warn!(folder = %self.folder.path().display(), "the writer of the store has failed: a fault in distwasm");
        }
    }
}

impl Store for SqliteStore {
    fn get(&self, key: &Key) -> Answer<'static, Option<Entry>, StorageError> {
        let key = key.clone();
        self.read(move |connection| readers::get(connection, &key))
    }

    fn list(&self, prefix: &str, after: Option<&Key>, most: usize) -> Answer<'static, Page, StorageError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.read(move |connection| readers::list(connection, &prefix, after.as_ref(), most))
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Revision, CommitError> {
        Box::pin(async move {
            check_size(&batch)?;
            let (answer, answered) = oneshot::channel();
            let orders = self.orders.as_ref().ok_or(StorageError::Closed)?;
            orders.send(Order::Commit(batch, answer)).await.map_err(|_| StorageError::Closed)?;
            answered.await.unwrap_or_else(|_| Err(StorageError::Closed.into()))
        })
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.hub.watch(prefix)
    }

    fn write_blob(&self, bytes_max: u64) -> Answer<'static, Box<dyn BlobWriter>, BlobWriteError> {
        let blobs = Arc::clone(&self.blobs);
        Box::pin(async move {
            let begun = spawn_blocking(move || FileWriter::begin(&blobs, bytes_max)).await;
            Ok(Box::new(begun.map_err(|_| StorageError::Closed)??) as Box<dyn BlobWriter>)
        })
    }

    fn back_up(&self) -> Answer<'_, Backup, StorageError> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let orders = self.orders.as_ref().ok_or(StorageError::Closed)?;
            orders.send(Order::Snapshot(answer)).await.map_err(|_| StorageError::Closed)?;
            let snapshot = answered.await.map_err(|_| StorageError::Closed)??;
            Ok(backup::begin(snapshot, Arc::clone(&self.blobs)))
        })
    }

    fn read_blob(&self, digest: Digest) -> Answer<'static, Box<dyn BlobReader>, BlobReadError> {
        let path = self.blobs.path(digest);
        Box::pin(async move {
            let begun = spawn_blocking(move || FileReader::begin(&path, digest)).await;
            Ok(Box::new(begun.map_err(|_| StorageError::Closed)??) as Box<dyn BlobReader>)
        })
    }
}

fn check_size(batch: &Batch) -> Result<(), CommitError> {
    let changes = batch.changes.len();
    if changes > BATCH_CHANGES_MAX {
        return Err(CommitError::TooMany { changes });
    }
    let too_long = batch.changes.iter().find_map(|change| match &change.what {
        What::Put { value, .. } if value.len() > VALUE_BYTES_MAX => Some((&change.key, value.len())),
        _ => None,
    });
    too_long.map_or(Ok(()), |(key, bytes)| Err(CommitError::TooLong { key: key.clone(), bytes }))
}

/// Removes what a process has left that was killed: files that were being written, and blobs that no entry names yet, or
/// not any more.
fn sweep(connection: &Connection, database: &Path, folder: &Path) -> Result<(), OpenError> {
    let mut is_named = apply::named_query(connection).map_err(|error| StorageError::of_sql("read", database, error))?;
    let mut removed = 0;
    for found in blobs::list(folder)? {
        let (path, found): (PathBuf, Found) = found?;
        let is_left = match found {
            Found::Unfinished => true,
            Found::Blob(digest) => {
                !is_named.exists([digest.as_bytes()]).map_err(|error| StorageError::of_sql("read", database, error))?
            }
            Found::Other => {
                warn!(path = %path.display(), "something lies in the folder of the store that does not belong there");
                false
            }
        };
        if is_left {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                // A king with a disk that takes nothing still serves.
                Err(error) => warn!(path = %path.display(), %error, "a file that nothing names cannot be removed"),
            }
        }
    }
    if removed > 0 {
        info!(removed, folder = %folder.display(), "removed files of the store that nothing names");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
