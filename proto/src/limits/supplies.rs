//! The limits of what a duke makes and keeps for its jobs: compiled programs and shared directories.

use std::time::Duration;

/// Processor time for compiling one program. The slowest seen in practice takes 64 s. The default of
/// `--compile-timeout`.
pub const COMPILE_WITHIN: Duration = Duration::from_secs(300);

/// How many times longer than that compiling may take by the clock: beside units that take all cores, a nice process gets
/// a tenth of one.
pub const COMPILE_PATIENCE_FACTOR: u32 = 10;

/// The number of slots up to which a duke compiles one program at a time by default; above it two.
pub const COMPILE_ALONE_SLOTS_MAX: u32 = 4;

/// The share of a duke's memory for guests that all its compilers together may take, as a divisor. It comes on top of
/// what the guests take, and by default they may take half of the machine's.
pub const COMPILE_RAM_DIVISOR: u64 = 2;

/// Memory of a compiler, however much its duke offers. Compiling the largest programs seen in practice takes a quarter
/// of it.
pub const COMPILE_DATA_BYTES_MAX: u64 = 8 << 30;

/// Memory of a compiler, however little its duke offers: ten times what compilers of ordinary small programs need, with
/// the stacks of their threads.
pub const COMPILE_DATA_BYTES_MIN: u64 = 256 << 20;

/// The niceness of compilers: units that run go first. A lower class of scheduling would starve compilers on a machine
/// that has work for all its cores.
pub const COMPILE_NICENESS: i32 = 10;

/// Blobs that a duke may have asked for, or hold in memory until something is made from them, at a time: enough to hide
/// the time of a transfer. A king that starts again may lack some of them until their queens are back, and the duke does
/// not ask for others meanwhile.
pub const BLOBS_AHEAD_MAX: usize = 4;

/// What compiled programs and shared directories take of a disk, without directories that running jobs share. Beyond
/// this, the oldest are deleted.
pub const CACHE_BYTES_MAX: u64 = 1 << 30;

/// Files and folders of them, with the same exception: those of two and a half of the largest jobs. A file system may
/// have one inode for 16 KiB and no more, and a cache should not take them from others.
pub const CACHE_ENTRIES_MAX: u64 = 250_000;
