//! What a run reports while it lasts: its counts, its failures, and what it waits for.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use distwasm_proto::{failure::Failure, time::Time};

use crate::selection::LeftOut;

/// How often progress is shown on a terminal: a tenth of a second looks alive.
pub const PROGRESS_DRAWN_EVERY: Duration = Duration::from_millis(100);

/// The progress so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Inputs found so far that had no output when the run began.
    pub found: u64,
    /// All inputs were found.
    pub all_found: bool,
    /// Inputs that had their output before.
    pub done_before: u64,
    /// Inputs among those that were changed after their outputs were written.
    pub newer: u64,
    /// Other inputs among those whose outputs were made by another program, or with other arguments or settings.
    pub outdated: u64,
    /// Inputs that were left out, by what.
    pub left_out: LeftOut,
    /// Inputs that were to be tried again, and are not inputs any more.
    pub gone: u64,
    /// Outputs that are in their place.
    pub done: u64,
    /// Outputs among those that are empty.
    pub empty: u64,
    /// Inputs that failed.
    pub failed: u64,
    /// Bytes of inputs that were sent.
    pub bytes_sent: u64,
    /// Bytes of outputs that are in their place.
    pub bytes_written: u64,
    /// Slots that serve the job at present.
    pub slots: u32,
}

/// An input that has no output because something failed.
#[derive(Clone, Debug)]
pub struct FailedUnit {
    /// The input, below the input folder.
    pub path: PathBuf,
    /// Why.
    pub failure: Failure,
    /// How it was tried, if it was.
    pub tried: Tried,
}

/// The input that has been running longest.
#[derive(Clone, Debug)]
pub struct LongestInput {
    /// The input, below the input folder.
    pub path: PathBuf,
    /// The host that it runs on.
    pub duke: String,
    /// Since when.
    pub since: Time,
}

/// A duke that compiles the program.
#[derive(Clone, Debug)]
pub struct Compiling {
    /// Its host.
    pub duke: String,
    /// Since when.
    pub since: Time,
}

/// How an input was tried.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// How often; 0 if it never was.
    pub attempts: u32,
    /// The host on which it was tried last; empty if it never was.
    pub duke: String,
    /// How long that took, in microseconds, if it is known.
    pub run_us: Option<u64>,
}

/// Reports the events of a run as they happen.
pub trait Reporter: Send {
    /// Something in the input folder is not an input.
    fn skipped(&mut self, path: &Path, why: &str);
    /// An input failed.
    fn failed(&mut self, unit: FailedUnit);
    /// The reason why the job waits; empty if it does not wait.
    fn waits(&mut self, waits_for: &str);
    /// The input that has been running longest, if one has been running for long.
    fn longest(&mut self, longest: Option<LongestInput>);
    /// The duke that has been compiling the program longest, if one compiles it.
    fn compiling(&mut self, compiling: Option<Compiling>);
    /// All inputs were found.
    fn listed(&mut self, counts: &Counts);
    /// Called about every [`PROGRESS_DRAWN_EVERY`].
    fn progress(&mut self, counts: &Counts);
}

impl<R: Reporter + ?Sized> Reporter for &mut R {
    fn skipped(&mut self, path: &Path, why: &str) {
        (**self).skipped(path, why);
    }

    fn failed(&mut self, unit: FailedUnit) {
        (**self).failed(unit);
    }

    fn waits(&mut self, waits_for: &str) {
        (**self).waits(waits_for);
    }

    fn longest(&mut self, longest: Option<LongestInput>) {
        (**self).longest(longest);
    }

    fn compiling(&mut self, compiling: Option<Compiling>) {
        (**self).compiling(compiling);
    }

    fn listed(&mut self, counts: &Counts) {
        (**self).listed(counts);
    }

    fn progress(&mut self, counts: &Counts) {
        (**self).progress(counts);
    }
}
