//! Benchmarks of the whole system, and the loops that it is compared with. Their results are in `results/`.
//!
//! [`cases`] has one file for each case. Most of them are a contest ([`contest`]): the system, in a kingdom of its own
//! ([`kingdom`]), and its references, each a command whose time, processor time and memory are measured in the same
//! way ([`processes`]), take turns on the same inputs ([`inputs`]). The references are other faces of this program
//! ([`guest_loop`], [`one`]). Cases without files use a simulated queen and simulated dukes
//! ([`generator`], [`echo_dukes`]), and one measures a king that others flood ([`flood`]). Results go
//! to [`report`] and [`chart`].

pub mod cases;
pub mod chart;
pub mod contest;
pub mod echo_dukes;
pub mod figures;
pub mod flood;
pub mod generator;
pub mod guest_loop;
pub mod inputs;
pub mod kingdom;
pub mod native;
pub mod one;
pub mod options;
pub mod place;
pub mod processes;
pub mod report;
pub mod say;

#[path = "../../examples/hash/src/search.rs"]
#[allow(
    missing_docs,
    clippy::indexing_slicing,
    dead_code,
    reason = "the example's own search, which is not specific to WASM"
)]
mod search;
#[path = "../../examples/hash/src/sha256.rs"]
#[allow(missing_docs, clippy::indexing_slicing, reason = "the example's own hash")]
mod sha256;

use std::process::ExitCode;

use anyhow::Result;

use crate::options::{Command, Options};

/// Runs the command line.
///
/// # Errors
///
/// When something cannot be measured, or a result is wrong.
pub fn run(options: Options) -> Result<ExitCode> {
    match options.command {
        None => cases::run(&options.run),
        Some(Command::Loop(options)) => guest_loop::run(&options),
        Some(Command::One(options)) => one::run(&options),
        Some(Command::EchoDuke(options)) => echo_dukes::run(&options),
        Some(Command::Flood(options)) => flood::run(&options),
    }
}
