//! The report of a run, for people and for machines. stdout is data, stderr is talk.

mod first_line;
mod human;
mod progress;
mod summary;

pub use first_line::FirstLine;
pub(crate) use first_line::{left_out as left_out_words, shown};
pub use human::{Human, Verbosity, print_summary};
pub(crate) use human::{harmless, harmless_path};
pub use summary::{Summary, print_json};
