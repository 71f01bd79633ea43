//! The `peasant` program. Everything it does is in the library.

use std::env;
use std::process::ExitCode;

use clap::Parser;
use distwasm_peasant::options::Options;
use distwasm_process::handed;

fn main() -> ExitCode {
    match handed::expand(env::args_os()) {
        Ok(args) => distwasm_peasant::run(Options::parse_from(args)),
        Err(error) => distwasm_peasant::refuse(&error),
    }
}
