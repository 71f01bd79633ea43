//! The report of a run, for people and for machines. stdout is data, stderr is talk.

mod human;
mod opening;
mod progress;
mod summary;

pub use human::{Human, Verbosity, print_summary};
pub(crate) use human::{harmless, harmless_path};
pub use opening::Opening;
pub(crate) use opening::{left_out as left_out_words, shown};
pub use summary::{Summary, print_json};
