//! Simulates kingdoms from seeds, and reports the seed that breaks an invariant.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for the terminal")]

use std::process::ExitCode;

use clap::Parser;
use distwasm_process::clock::Clock;
use distwasm_tests::sim::{Tally, World, run_seed};

/// Simulates kingdoms from seeds: dukes die, come, fall silent and lie; queens leave, halt and lie; messages are late;
/// units fail, hang and kill their peasants. Every invariant is checked after every event.
#[derive(Debug, Parser)]
struct Options {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Go on after a seed that breaks an invariant
    #[arg(long)]
    all: bool,
    /// Print every event
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let clock = Clock::start();
    if options.log {
        return replay(options.first);
    }
    // The first broken seed is reported below, without a backtrace of the simulator itself.
    std::panic::set_hook(Box::new(|_| ()));
    let mut tally = Tally::default();
    let mut is_whole = true;
    for seed in options.first..options.first + options.seeds {
        match run_seed(seed) {
            Ok(seen) => tally.add(seen),
            Err(broken) => {
                eprintln!("{broken}");
                is_whole = false;
                if !options.all {
                    break;
                }
            }
        }
    }
    println!("{} seeds in {:.1} s: {tally:?}", options.seeds, clock.now().0 as f64 / 1e6);
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64) -> ExitCode {
    let mut world = World::new(seed, true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    for line in world.log() {
        println!("{line}");
    }
    match result {
        Ok(tally) => {
            println!("{tally:?}");
            ExitCode::SUCCESS
        }
        Err(panic) => {
            eprintln!("{}", distwasm_tests::sim::describe(&*panic));
            ExitCode::FAILURE
        }
    }
}
