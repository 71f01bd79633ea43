//! Has one of the pure parts do its work, for `scripts/instructions` to count what it takes.

use clap::Parser;
use distwasm_tests::pure::{Part, work};

/// Has one of the pure parts do its work, always the same.
#[derive(Debug, Parser)]
struct Options {
    /// Which
    #[arg(value_enum)]
    part: Part,
}

fn main() {
    work(Options::parse().part);
}
