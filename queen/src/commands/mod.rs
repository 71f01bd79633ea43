//! The commands of the queen: a job, and the tools beside it.

pub mod ask;
pub mod cancel;
pub mod check;
pub mod dry_run;
pub mod dukes;
pub mod help;
pub mod jobs;
pub mod new;
pub mod run;
