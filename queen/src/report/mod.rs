//! The report of a run, for people and for machines. stdout is data, stderr is talk.

mod human;
mod overture;
mod progress;
mod summary;

pub use human::{Human, Manner, escape_controls, print_summary};
pub(crate) use human::{harmless, harmless_path};
pub use overture::Overture;
pub(crate) use overture::{left_out as left_out_words, shown};
pub(crate) use summary::left_out_json;
pub use summary::{Summary, print_json};
