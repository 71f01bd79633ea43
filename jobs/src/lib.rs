//! The engine of the queen: runs one job to its end, without a command line and without a terminal.
//!
//! [`run()`] lists inputs, submits the job to a king, sends what the king has room for, and writes each result as it
//! arrives. It tells a [`Reporter`](report::Reporter) what happens. The pure [`submission`] decides how much may be open
//! at a time, and how the run ends.

mod descriptors;
mod inputs;
pub mod job_note;
mod king_link;
mod outputs;
mod reactor;
pub mod report;
pub mod request;
pub mod run_limits;
pub mod shares;
pub mod submission;
mod work_queue;

pub use descriptors::when_there_are;
pub use king_link::LinkError;
pub use outputs::rename::rename_new;
pub use reactor::{CutShort, Ending, Folders, Terms, describe, run};

use distwasm_proto::limits::{READERS, WRITERS};

/// Threads that a run may block all the time: the readers and writers, one that lists inputs, and one that ends the
/// readers' connection when the run is over.
pub const BLOCKING_THREADS: usize = READERS + WRITERS + 2;
