//! The `peasant` program. Everything it does is in the library.

use std::process::ExitCode;

use clap::Parser;
use distwasm_peasant::options::Options;

fn main() -> ExitCode {
    distwasm_peasant::run(Options::parse())
}
