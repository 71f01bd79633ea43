//! Makes trouble for real processes, for minutes, and reports what happened.
#![allow(clippy::print_stdout, reason = "it is a program for the terminal")]

use clap::Parser;

/// Runs jobs on a kingdom of real processes while peasants, dukes, kings and queens are killed, peasants and dukes are
/// stopped, and links are cut, frozen, delayed and throttled. The files of the jobs are carried, seen by the dukes, or on
/// this machine alone. Ends with a panic, and the logs, when an output is not right or something is left behind.
#[derive(Debug, Parser)]
struct Options {
    /// How many seconds to run
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// The seed of the order of troubles
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let options = Options::parse();
    println!("{}", distwasm_tests::chaos::run(options.seed, options.seconds, &distwasm_tests::chaos::ALL));
}
