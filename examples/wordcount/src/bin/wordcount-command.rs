//! Wordcount as a plain command: a fresh instance for each text.

use std::process::ExitCode;

#[path = "../count.rs"]
mod count;

fn main() -> ExitCode {
    distwasm_guest::command(count::answer)
}
