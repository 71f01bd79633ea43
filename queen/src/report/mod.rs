//! The report of a run, for people and for machines. stdout is data, stderr is talk.

mod announcement;
mod human;
mod progress;
mod summary;

pub use announcement::Announcement;
pub(crate) use announcement::{left_out as left_out_words, shown};
pub use human::{Human, Verbosity, print_summary};
pub(crate) use human::{harmless, harmless_path};
pub use summary::{Summary, print_json};
