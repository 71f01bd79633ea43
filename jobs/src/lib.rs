//! The engine of the queen: runs one job to its end, without a command line and without a terminal.
//!
//! [`run()`] lists inputs, submits the job to a king, sends what the king has room for, and writes each result as it
//! arrives. It tells a [`Reporter`](report::Reporter) what happens. The pure [`submission`] decides how much may be open
//! at a time, and how the run ends; the [`reactor`] around it holds inputs and outputs.
//!
//! A simulation runs the [`reactor`] without [`run()`]: it turns the king's messages into news with
//! [`king_link::Border`], gives units their numbers with [`inputs::numbers::Numbers`], and says the words of
//! [`king_link::words`].

mod descriptors;
pub mod file_time;
pub mod history;
pub mod inputs;
pub mod job_note;
pub mod king_link;
pub mod output_name;
pub mod outputs;
pub mod reactor;
pub mod report;
pub mod request;
mod run;
pub mod run_limits;
pub mod selection;
pub mod shares;
pub mod submission;
mod work_queue;

pub use descriptors::when_there_are;
pub use outputs::rename::rename_new;
pub use run::{Folders, Terms, run};

use distwasm_proto::limits::{READERS, WRITERS};

/// Threads that a run may block all the time: the readers and writers, one that lists inputs, and one that ends the
/// readers' connection when the run is over.
pub const BLOCKING_THREADS: usize = READERS + WRITERS + 2;
