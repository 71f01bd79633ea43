//! Runs the work of one pure part, so that `scripts/instructions` can count its instructions.

use clap::Parser;
use distwasm_tests::pure::{Part, work};

/// Runs the work of one pure part. It is the same in each run.
#[derive(Debug, Parser)]
struct Options {
    /// The part
    #[arg(value_enum)]
    part: Part,
}

fn main() {
    work(Options::parse().part);
}
