//! The commands of the queen: a job, and the tools beside it.

pub mod admin;
pub mod ask;
pub mod cancel;
pub mod check;
pub mod dry_run;
pub mod dukes;
pub mod help;
pub mod jobs;
pub mod new;
pub mod new_file;
pub mod programs;
pub mod pull;
pub mod push;
pub mod run;
