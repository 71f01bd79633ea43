//! The report of a run, for people and for machines. stdout is data, stderr is talk.

mod human;
mod progress;
mod summary;

pub use human::{Human, escape_controls, print_summary};
pub use summary::{Summary, print_json};
