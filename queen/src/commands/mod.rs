//! The commands of the queen: a job, and the tools beside it.

pub mod check;
pub mod help;
pub mod jobs;
pub mod new;
pub mod plan;
pub mod run;
