//! Summer as a plain command: a fresh instance for each addition.

use std::process::ExitCode;

#[path = "../sum.rs"]
mod sum;

fn main() -> ExitCode {
    distwasm_guest::command(sum::answer)
}
