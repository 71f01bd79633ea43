//! Makes trouble for real processes, for minutes, and says what came of it.
#![allow(clippy::print_stdout, reason = "it is a program for the terminal")]

use clap::Parser;

/// Runs jobs on a kingdom of real processes while peasants, dukes, kings and queens are killed, peasants and dukes are
/// stopped, and links are cut, frozen, delayed and throttled. Ends with a panic, and the logs, when an output is not right.
#[derive(Debug, Parser)]
struct Options {
    /// For how long
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// What the order of troubles is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let options = Options::parse();
    println!("{}", distwasm_tests::chaos::run(options.seed, options.seconds));
}
