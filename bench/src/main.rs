//! The `bench` program. Everything it does is in the library.

use std::process::ExitCode;

use clap::Parser;
use distwasm_bench::{options::Options, say};

fn main() -> ExitCode {
    match distwasm_bench::run(Options::parse()) {
        Ok(status) => status,
        Err(error) => {
            say::note(&format!("bench: {error:#}"));
            ExitCode::from(2)
        }
    }
}
