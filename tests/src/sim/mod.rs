//! The whole kingdom in one thread, from one seed: the real king, real dukes and real queens in a made-up world.

mod bound;
mod cancel;
mod duke;
mod halts;
mod hands;
mod keys;
mod king;
mod liars;
mod links;
mod lying_queens;
mod oracle;
mod output_folders;
mod peasants;
mod queen;
mod readers;
mod results;
mod room;
mod tally;
mod threads;
mod weather;
mod wires;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use bound::{Duke, a_duke_more_makes_no_job_slower, takes_us};
pub use tally::Tally;
pub use weather::{Dice, Nature, QueenPlan, Slowness};
pub use world::World;

/// A seed that breaks an invariant.
#[derive(Debug)]
pub struct Broken {
    /// The seed.
    pub seed: u64,
    /// What went wrong.
    pub why: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Broken { seed, why } = self;
        write!(f, "{why}\nreplay: cargo run -p distwasm-tests --bin simulate -- --first {seed} --seeds 1 --log")
    }
}

/// The first of this many seeds also has a kingdom that gets one more duke.
const BOUND_EVERY: u64 = 20;

/// Runs one seed.
///
/// # Errors
///
/// When an invariant does not hold.
pub fn run_seed(seed: u64) -> Result<Tally, Broken> {
    let run = || {
        if seed.is_multiple_of(BOUND_EVERY) {
            a_duke_more_makes_no_job_slower(seed);
        }
        World::new(seed, false).run()
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Broken { seed, why: describe(&*panic) })
}

/// The message of a panic.
pub fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
