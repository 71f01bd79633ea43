//! Limits on what a king has on its way to a duke.

use std::time::Duration;

/// Inputs that may be on their way to a duke before anything is known of its link: a link of a megabit a second carries
/// them within half a second, and on a fast one they are confirmed within a millisecond.
pub const LINK_BYTES_FIRST: u64 = 64 << 10;

/// Inputs that may be on their way to a duke however slow its link is, so that a message carries more than one of them.
pub const LINK_BYTES_MIN: u64 = 16 << 10;

/// Besides what a link carries in its latency, as much may be on its way as it carries in this time, or once more in its
/// latency if that is longer: slots whose king hears of them a little late have work meanwhile, and a link that turns
/// out to be faster is measured to be so.
pub const LINK_AHEAD: Duration = Duration::from_millis(100);

/// Inputs that are sent together are measured together, up to this many bytes.
pub const LINK_FLIGHT_BYTES: u64 = 16 << 10;

/// What a unit takes on a link besides its input and its result.
pub const LINK_UNIT_BYTES: u64 = 64;

/// For how long what was measured of a link counts, at least: the best of this time, or of twice this time.
pub const LINK_MEMORY: Duration = Duration::from_secs(10);

/// At the end of a job, how much earlier a unit must arrive elsewhere to be sent there, too: processes of a busy machine
/// are that late now and then. Also the time from one search for such units to the next.
pub const LATE_AFTER: Duration = Duration::from_millis(20);

/// Bytes of results of a job that may be in transit from one duke. A single larger result comes alone.
pub const FETCHED_BYTES: u64 = 16 << 20;

/// The lower bound of that, for slow links: more bytes make a link no faster, and other words wait behind them.
pub const FETCHED_BYTES_MIN: u64 = 64 << 10;

/// Between these two bounds, no more bytes are in transit than the link carries in this time.
pub const FETCHED_AHEAD: Duration = Duration::from_secs(1);

/// Bytes of results of a job that may be in transit from one duke before the first has arrived. A duke that has more waits
/// with them, and gets no more units, until its link is known: on a fast one that is a moment, and a slow one would not
/// carry them anyway.
pub const FETCHED_BYTES_FIRST: u64 = 256 << 10;
