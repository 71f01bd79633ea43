//! The files of a unit: its scratch, its input and its result by name.

use super::{KIB, MIB};

/// The scratch of a unit, if the queen has no other wish: what compilers and archivers write beside their result. It is
/// memory, so at most half of what the slot has.
pub const SCRATCH_BYTES: u64 = 256 * MIB as u64;

/// Bytes of memory for each file of a scratch, by which the number of its files is bounded: a quarter million in 1 GiB.
/// An empty file takes about a KiB of the kernel's memory, and removing one 2 microseconds.
pub const SCRATCH_FILE_BYTES: u64 = 4 * KIB as u64;

/// Bytes that are kept of the start of a guest's stdout, if it ends with a status that is no result.
pub const STDOUT_KEPT_BYTES: usize = 8 * KIB;

/// Files of the smallest scratch. The system takes 0 for no bound.
pub const SCRATCH_FILES_MIN: u64 = 64;

/// Files and folders in a result that is a folder: as many as a directory of a web site or a split archive has. Their names
/// are sorted in memory, folder by folder.
pub const OUTPUT_FOLDER_ENTRIES_MAX: usize = 100_000;

/// How deep files may lie in a result that is a folder. Removing a tree takes a descriptor for each level.
pub const OUTPUT_FOLDER_DEPTH_MAX: usize = 64;

/// The longest name in the archive of a result that is a folder: as deep as files may lie, each part of the longest name.
pub const OUTPUT_FOLDER_PATH_BYTES_MAX: u64 = 64 * 256;

/// How deep folders may lie in each other that are removed: more than outputs have, and fewer than there are descriptors.
pub const REMOVED_DEPTH_MAX: usize = 256;

/// The longest ending of a file with a result, after its dot.
pub const OUTPUT_ENDING_BYTES_MAX: usize = 32;

/// Ranges in a list of exit statuses: no program has as many meanings.
pub const STATUS_RANGES_MAX: usize = 64;

/// Files that a guest may have open at once. The process needs some descriptors besides.
pub const GUEST_DESCRIPTORS_MAX: usize = 768;

/// Bytes of a path that a reason quotes.
pub const PATH_QUOTED_BYTES_MAX: usize = 200;
