//! Limits of a king on its peers' words and on the slots of jobs.

use std::time::Duration;

/// A unit that was preempted is not preempted again before it has run for this many times as long: a unit of any length
/// ends at some time, and loses at most as much time again as it takes.
pub const PREEMPTED_FACTOR: u32 = 2;

/// How long a unit may take by default if the king can be reached from other machines: a unit that loops must not hold
/// its slot forever, and one that takes a day is more than anybody has reported.
pub const TIMEOUT_BEYOND_LOOPBACK: Duration = Duration::from_secs(24 * 3600);

/// How often the only duke of a job may call its program unfit, whoever came and went meanwhile: each time costs a
/// compilation, and a job must end at some time.
pub const UNFIT_WORDS_MAX: u32 = 3;
