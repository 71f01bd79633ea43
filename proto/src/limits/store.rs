//! The limits of what a king remembers, and of the programs in it.

use std::time::Duration;

use super::{KIB, MIB};

/// The name of a value in a store: a path of a few parts, of which one may be a digest and one a name.
pub const KEY_BYTES_MAX: usize = 256;

/// One value: a record of a few hundred bytes, or a list of a few thousand numbers. What is larger is a blob.
pub const VALUE_BYTES_MAX: usize = 256 * KIB;

/// Changes in one batch, which are in memory until they are on disk.
pub const BATCH_CHANGES_MAX: usize = 256;

/// Batches that are written together. Their callers wait for one fsync instead of one each.
pub const BATCHES_TOGETHER_MAX: usize = 64;

/// Batches that wait for the writer of a store. Then callers wait before they hand in more.
pub const BATCHES_WAITING_MAX: usize = 64;

/// Entries that are listed at a time, and the bytes of their values beyond which a list is cut earlier.
pub const LISTED_ENTRIES_MAX: usize = 1000;
#[expect(missing_docs, reason = "described with the limit above")]
pub const LISTED_ENTRIES_BYTES: usize = MIB;

/// Reads of a store at a time: each has a connection to the database, with a cache of 2 MiB at most.
pub const STORE_READS_MAX: usize = 4;

/// Changes that a slow watcher of a store may be behind. Beyond that it is told how many it has missed.
pub const CHANGES_HELD_MAX: usize = 1024;

/// What the system may need of a disk while a blob is written, for databases and logs: less free space than this is
/// left to it, and the blob is refused.
pub const DISK_FREE_BYTES_MIN: u64 = 64 << 20;

/// A database of up to this size is looked through when it is opened, which takes some tens of milliseconds. Damage in a
/// larger one is found when it is read, and by `king check`.
pub const DATABASE_CHECKED_BYTES_MAX: u64 = 16 << 20;

/// The write-ahead log of a database is cut back to this size when it was larger.
pub const DATABASE_LOG_BYTES: u64 = 16 << 20;

/// Problems of a store that are listed one by one. With more of them, one knows enough.
pub const PROBLEMS_SHOWN: usize = 100;

/// How long the name of a program may be: it is typed, and shown in columns.
pub const PROGRAM_NAME_BYTES_MAX: usize = 64;

/// Programs by name, with those of which only the last number is kept: far more than people can tell apart.
pub const PROGRAM_NAMES_MAX: usize = 10_000;

/// Versions of one program that are kept: one each day for years. Their numbers are in one record.
pub const PROGRAM_VERSIONS_MAX: usize = 1000;

/// How often a push begins again because somebody else has changed the same program meanwhile. Each time, somebody else
/// has got on.
pub const PUSH_TRIES_MAX: u32 = 16;

/// Programs that travel into a store or out of it at a time. A bounded origin may have half of them.
pub const PROGRAM_STREAMS_MAX: usize = 8;

/// How long the next piece of a program may take to come, or to be taken. A peer that stops in the middle holds one of
/// few places.
pub const PROGRAM_PIECE_WITHIN: Duration = Duration::from_secs(30);

/// A message with a piece of a program: the piece, of at most `PIECE_BYTES`, and what stands around it.
pub const PROGRAM_MESSAGE_BYTES_MAX: usize = 272 * KIB;

/// Backups that a king makes at a time. Each has a thread, and a copy of the database on disk.
pub const BACKUPS_MAX: usize = 2;

/// The hexadecimal digits of a digest that name a program at least: enough to tell apart all that a king can keep.
pub const DIGEST_DIGITS_MIN: usize = 8;
