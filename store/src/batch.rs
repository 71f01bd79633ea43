//! A batch: changes that are made together, or not at all.

use bytes::Bytes;
use distwasm_proto::digest::Digest;

use crate::{Blob, Key, Revision};

/// Changes that are made together. A batch with no changes succeeds.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) changes: Vec<Change>,
    pub(crate) holds: Vec<Blob>,
}

/// What must be true of a key before its change, or nothing of the batch is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// It has no value.
    Absent,
    /// It has the value of this commit.
    At(Revision),
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) expected: Expected,
    pub(crate) what: What,
}

/// What becomes of a key.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Put { value: Bytes, blobs: Vec<Digest> },
    Delete,
    Nothing,
}

impl Batch {
    /// Gives a key this value, which names these blobs. Each of them is kept as long as the value, and must be named by
    /// another value or be held ([`Batch::hold`]).
    #[must_use]
    pub fn put(self, key: Key, expected: Expected, value: impl Into<Bytes>, blobs: &[Digest]) -> Batch {
        self.with(key, expected, What::Put { value: value.into(), blobs: blobs.to_vec() })
    }

    /// Takes a key's value away, if it has one.
    #[must_use]
    pub fn delete(self, key: Key, expected: Expected) -> Batch {
        self.with(key, expected, What::Delete)
    }

    /// Makes the batch depend on a key, without changing it.
    #[must_use]
    pub fn expect(self, key: Key, expected: Expected) -> Batch {
        self.with(key, expected, What::Nothing)
    }

    /// Keeps a blob that was written, and that no value names yet, until the batch is done.
    #[must_use]
    pub fn hold(mut self, blob: Blob) -> Batch {
        self.holds.push(blob);
        self
    }

    fn with(mut self, key: Key, expected: Expected, what: What) -> Batch {
        self.changes.push(Change { key, expected, what });
        self
    }
}
