//! Limits of streamed inputs and results, which are never in memory as a whole.

use super::{KIB, MIB};

/// Carried inputs of this size and more are streamed, and results that a peasant sends through its pipe. For smaller ones,
/// a file at the duke costs more than their memory is worth, and they need no round trip.
pub const STREAMED_BYTES_MIN: u64 = 16 * MIB as u64;

/// The size of a file, at most: no system has a larger one, and sums of positions do not overflow.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// The bytes of one streamed input or result that may be between the queen's file and the duke's: what a link of 160 megabits a
/// second carries within 100 milliseconds.
pub const TRANSFER_WINDOW_BYTES: u64 = 2 * MIB as u64;

/// The bytes in one word of a streamed input or result: other words wait for no more than these.
pub const PART_BYTES_MAX: usize = 256 * KIB;

/// Streamed inputs of one job that come to one duke at a time: as many as keep any link busy. Others wait at the duke.
pub const TRANSFERS_AT_DUKE_MAX: usize = 16;

/// Transfers that wait for room at the king of which one batch of events looks at, so that a batch stays short.
pub const TRANSFERS_LOOKED_AT: usize = 64;

/// Attempts at one unit that a king may name at a time to a queen, which keeps what it has of their results. There are two,
/// or a few more that dukes bring to a new king.
pub const ATTEMPTS_AT_UNIT_MAX: usize = 64;
