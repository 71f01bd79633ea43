//! Runs the structured fuzzer for some time: see [`distwasm_tests::fuzz`].
#![allow(clippy::print_stdout, reason = "it is a program for the terminal")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use clap::Parser;
use distwasm_process::clock::Clock;
use distwasm_proto::time::Time;
use distwasm_tests::fuzz::{Corpus, episode};

/// Fuzzes the borders of all processes, and the king behind its own.
#[derive(Parser)]
struct Options {
    /// How long, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// The seed of the first episode
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let Options { seconds, seed } = Options::parse();
    let (clock, mut corpus, mut next) = (Clock::start(), Corpus::default(), seed);
    let ends_at = Time::default().after(Duration::from_secs(seconds));
    while clock.now() < ends_at {
        if let Err(broken) = catch_unwind(AssertUnwindSafe(|| episode(&mut corpus, next))) {
            println!("episode {next} broke, after those from {seed} on: --seed {seed} leads there again");
            resume_unwind(broken);
        }
        next += 1;
    }
    println!("{} episodes from seed {seed}, {} different answers: nothing broke", next - seed, corpus.answers());
}
