//! Limits of a king on its peers' words and on the slots of jobs.

use std::time::Duration;

use super::WINDOW_UNITS;

/// Words of one message that a king takes: a queen may send all units of its window again in one, and some more. Each
/// takes up to 300 bytes when it is decoded, however few it has on the wire.
pub const MESSAGE_WORDS_MAX: usize = 2 * WINDOW_UNITS as usize;

/// How long the reason may be for which a queen could not send an input: that of a file system is a sentence.
pub const BROKEN_REASON_BYTES_MAX: usize = 512;

/// A unit that was preempted is not preempted again before it has run for this many times as long: a unit of any length
/// ends at some time, and loses at most as much time again as it takes.
pub const PREEMPTED_FACTOR: u32 = 2;

/// How long a unit may take by default if the king can be reached from other machines: a unit that loops must not hold
/// its slot forever, and one that takes a day is more than anybody has reported.
pub const TIMEOUT_BEYOND_LOOPBACK: Duration = Duration::from_secs(24 * 3600);

/// How often the only duke of a job may call its program unfit, whoever came and went meanwhile: each time costs a
/// compilation, and a job must end at some time.
pub const UNFIT_WORDS_MAX: u32 = 3;

/// The least memory that a king may be given: a job with a large program fits.
pub const KING_MEMORY_BYTES_MIN: u64 = 64 << 20;

/// The memory of a king where that of the machine is unknown.
pub const UNKNOWN_MEMORY_KING_BYTES: u64 = 2 << 30;

/// Bytes of inputs, and of results, that each job may have at the king, however little room is left: tens of thousands
/// of the smallest units, for all jobs together a quarter of a gibibyte.
pub const JOB_RESERVE_BYTES: u64 = 256 << 10;

/// Bytes of each message that has not come whole which are not counted: most messages are no longer.
pub const MESSAGE_UNCOUNTED_BYTES: u64 = 64 << 10;

/// The longest request besides the two streams: none has more than a name in it.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Each job may have this part of the room that the others leave: eight busy jobs take half of it, and there is always
/// some left for the next.
pub const WINDOW_PART: u64 = 8;
