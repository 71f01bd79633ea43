//! What a king remembers: values by key, and blobs by digest.
//!
//! [`Store`] is all that the king knows of it. It is made for several implementations, so it promises only what a single
//! database and a replicated log (such as the key-value buckets of NATS JetStream) can both keep: batches that are
//! atomic, a revision for each key, compare-and-set, lists by prefix, and a watch that may miss changes but says so.
//! [`sqlite::SqliteStore`] is the implementation for one king with one disk.
//!
//! What was acknowledged is there after the process is killed at any moment, and after a power failure as far as the disk
//! keeps what it has acknowledged.

mod backup;
mod batch;
mod blobs;
pub mod check;
mod error;
mod folder;
mod key;
pub mod restore;
pub mod sqlite;
mod watch;

use std::{fmt::Debug, future::Future, pin::Pin};

use bytes::Bytes;
use distwasm_proto::digest::Digest;

pub use backup::Backup;
pub use batch::{Batch, Expected};
pub use blobs::Blob;
pub use error::{BlobReadError, BlobWriteError, Cause, CommitError, OpenError, StorageError};
pub use key::{Key, NotAKey};
pub use watch::{Changed, News, Watch};

/// An answer of a store that takes a while.
pub type Answer<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// The number of a commit. Later commits have higher numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A value, and the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The commit that wrote the value.
    pub revision: Revision,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries in the order of their keys.
    pub entries: Vec<Entry>,
    /// There are more behind the last one.
    pub has_more: bool,
}

/// A place that keeps values by key, and blobs by digest.
pub trait Store: Debug + Send + Sync {
    /// The entry with this key.
    fn get(&self, key: &Key) -> Answer<'static, Option<Entry>, StorageError>;

    /// Entries whose keys begin with `prefix` and come after `after`, in the order of the bytes of their keys: at most
    /// `most`, and fewer if they are large. A page is of one moment; several pages are of several moments.
    fn list(&self, prefix: &str, after: Option<&Key>, most: usize) -> Answer<'static, Page, StorageError>;

    /// Makes all changes of a batch, or none. Answered when they are on disk. A caller that stops waiting does not know
    /// whether they were made.
    fn commit(&self, batch: Batch) -> Answer<'_, Revision, CommitError>;

    /// Tells of changes from now on to keys that begin with `prefix`.
    fn watch(&self, prefix: &str) -> Watch;

    /// Begins to write a blob of at most this many bytes.
    fn write_blob(&self, bytes_max: u64) -> Answer<'static, Box<dyn BlobWriter>, BlobWriteError>;

    /// Begins to read a blob.
    fn read_blob(&self, digest: Digest) -> Answer<'static, Box<dyn BlobReader>, BlobReadError>;

    /// Begins a backup of all that is kept now.
    fn back_up(&self) -> Answer<'_, Backup, StorageError>;
}

/// A blob that is being written. If this is dropped before the end, nothing is kept.
pub trait BlobWriter: Send {
    /// Writes the next bytes.
    fn write(&mut self, bytes: Bytes) -> Answer<'_, (), BlobWriteError>;

    /// Ends the blob, and has it on disk. It stays if an entry names it before the [`Blob`] is dropped.
    fn finish(self: Box<Self>) -> Answer<'static, Blob, BlobWriteError>;
}

/// A blob that is being read.
pub trait BlobReader: Send {
    /// All of its bytes.
    fn bytes(&self) -> u64;

    /// The next bytes; `None` at the end. The last ones come only if all of them have the digest.
    fn next(&mut self) -> Answer<'_, Option<Bytes>, BlobReadError>;
}
