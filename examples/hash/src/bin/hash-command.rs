//! Hash as a plain command: a fresh instance for each search.

use std::process::ExitCode;

#[path = "../answer.rs"]
mod answer;
#[path = "../search.rs"]
mod search;
#[path = "../sha256.rs"]
mod sha256;

fn main() -> ExitCode {
    distwasm_guest::command(answer::answer)
}
