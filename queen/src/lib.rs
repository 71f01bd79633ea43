//! The queen: the command line. `distwasm-jobs` runs the jobs; this crate is what people see of it.
//!
//! [`command_line`] parses the arguments, [`commands`] has one file for each command, and [`report`] shows people and
//! programs what happens.

mod combinations;
pub mod command_line;
pub mod commands;
mod failures_file;
mod guest_options;
mod headings;
mod input_place;
mod local;
pub mod options;
mod output_folder;
pub mod prepare;
mod program;
mod refusal;
pub mod report;
mod scheduling_options;
pub mod selection_options;
pub mod shared_folders;
mod templates;
