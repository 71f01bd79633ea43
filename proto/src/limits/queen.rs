//! The limits of a queen.

use std::time::Duration;

use super::MIB;

/// Inputs that are listed ahead of being read.
pub const LISTED_MAX: usize = 4096;

/// Inputs that the readers may have at a time.
pub const READING_MAX: usize = 512;

/// Threads that read inputs: enough to hide the latency of a file system on a network.
pub const READERS: usize = 4;

/// Threads that write outputs.
pub const WRITERS: usize = 4;

/// An input up to this size goes into one message with others; a larger one is sent in pieces as it is read.
pub const GATHERED_INPUT_BYTES_MAX: u64 = 64 << 10;

/// Messages that may wait for the connection to the king.
pub const MESSAGES_WAITING: usize = 4;

/// Bytes of results that a queen may hold until they are written. A single larger result is held alone.
pub const UNWRITTEN_BYTES: u32 = 64 << 20;

/// Verdicts that a queen has before it tells the king so, unless few units are left.
pub const HEARD_TOGETHER: usize = 64;

/// Bytes of results that such verdicts have before a queen tells the king so, even if there are fewer verdicts.
pub const HEARD_BYTES: u64 = MIB as u64;

/// How long a queen tries to reach a king before it gives up.
pub const KING_PATIENCE: Duration = Duration::from_secs(10);

/// How long a queen or a duke that leaves tries to tell the king.
pub const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// The number of finished units from which the share of failed ones says something about the rest.
pub const FAILURES_JUDGED_FROM: u64 = 100;

/// Lines of a failures file that are read: their names take about 200 MB, and a run with more of them has one cause,
/// for which it is better run again as a whole.
pub const FAILURES_READ_MAX: u64 = 1_000_000;

/// A line of a failures file: a message, a stderr and a name of the largest sizes, each byte escaped, are half of it.
pub const FAILURE_LINE_BYTES_MAX: u64 = 1 << 20;

/// Entries of a folder among which the real name of an existing output is looked for: enough for most folders.
pub const ENTRIES_SEARCHED_MAX: usize = 10_000;

/// Links that are followed on the way to one folder of outputs; Linux follows as many.
pub const LINKS_FOLLOWED_MAX: usize = 40;

/// How often a file is opened again while all descriptors are in use, and the pause in between: ten seconds in all.
pub const DESCRIPTOR_TRIES: u32 = 200;
#[expect(missing_docs, reason = "described with the limit above")]
pub const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// Jobs of killed queens that a queen has a king end, and keys in a note: queens that are killed before the king has
/// heard of their jobs hand on those that they were to replace.
pub const REPLACED_MAX: usize = 8;

/// Longer than any note about a job.
pub const JOB_NOTE_BYTES_MAX: u64 = 4096;

/// Failures that the summary shows; the rest are in the file of failures.
pub const FAILURES_SHOWN: usize = 10;

/// How often a run that is not watched on a terminal reports its progress.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// The name of a new project: as long as the names of files in archives and packages may be everywhere.
pub const PROJECT_NAME_BYTES_MAX: usize = 64;

/// A record of the runs into an output folder; more than a full one takes, whatever the arguments.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Runs that a record names, if their programs, arguments or settings differ. Nothing is known of earlier ones.
pub const RUNS_RECORDED_MAX: usize = 64;

/// The longest name of an output, as Linux has it. A longer one would fail at its end, when the unit has run.
pub const FILE_NAME_BYTES_MAX: usize = 255;

/// The longest path of an output below its folder, as Linux has it.
pub const OUTPUT_PATH_BYTES_MAX: usize = 4095;

/// A list of inputs: ten million names of 100 bytes. They are in memory while the run lasts, each as one more word.
pub const INPUT_LIST_BYTES_MAX: u64 = 1 << 30;

/// A file of globs: compiled, they take up to a hundred times as much.
pub const GLOBS_BYTES_MAX: u64 = 1 << 20;

/// Names that a message shows when several are at fault.
pub const NAMES_SHOWN: usize = 5;

/// How long the words at the start of a run wait for the end of the listing, so that they can say how many inputs there
/// are. A folder of 100,000 files is listed by then.
pub const FIRST_LINE_WITHIN: Duration = Duration::from_secs(1);
