//! Limits of a king on its peers' words and on the slots of jobs.

use std::time::Duration;

use super::{MESSAGE_WORDS, MIB};

/// Words of one message that a king takes: some times as many as dukes and queens send in one.
pub const MESSAGE_WORDS_MAX: usize = 4 * MESSAGE_WORDS;

/// What a message may take in memory when a king has decoded it: somewhat more than the largest ones of honest peers, which
/// are those of a duke that comes back with as many attempts as fit a message.
pub const MESSAGE_DECODED_BYTES_MAX: usize = 32 * MIB;

/// A message up to this size is decoded at once, whatever it takes in memory: less than two hundred and fifty times as much. Most
/// messages of an idle kingdom are shorter.
pub const MESSAGE_LIGHT_BYTES: usize = 512;

/// What an attempt that a duke brings back takes of a king's memory: in the words of the duke, with its unit, in the books.
pub const HELD_ATTEMPT_BYTES: u64 = 256;

/// The part of a king's memory, as a divisor, for messages that are decoded and wait for the reactor: half of what is
/// not for payloads. If it is taken, the king reads no more until the reactor has handled some.
pub const DECODED_DIVISOR: u64 = 16;

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
