//! Talk for people, on stderr.

use std::{
    io::{self, Write},
    path::Path,
};

use distwasm_proto::{exit::Exit, limits::FAILURES_SHOWN, time::Clock};

use super::{Counts, FailedUnit, FailureFile, Reporter, Summary, progress::Progress};

/// Lines of a failed unit's stderr that the summary shows.
const STDERR_LINES_SHOWN: usize = 5;

/// Tells people of a run, and keeps its failures.
pub struct Human {
    clock: Clock,
    progress: Progress,
    quiet: bool,
    verbose: bool,
    waits_for: String,
    skipped: u64,
    first_failures: Vec<FailedUnit>,
    failures: FailureFile,
}

/// Writes a line to stderr. Where nobody can read it there is nobody to tell.
pub(super) fn talk(line: &str) {
    let _written = writeln!(io::stderr(), "{line}");
}

/// A number of bytes for people.
pub(super) fn megabytes(bytes: f64) -> String {
    if bytes < 1e5 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}

impl Human {
    /// Somebody who tells of a run that begins now.
    pub fn new(clock: Clock, quiet: bool, verbose: bool, failures: FailureFile) -> Human {
        Human {
            clock,
            progress: Progress::new(quiet),
            quiet,
            verbose,
            waits_for: String::new(),
            skipped: 0,
            first_failures: Vec::new(),
            failures,
        }
    }

    /// Ends the progress, and gives back the failures.
    pub fn finish(self) -> (Vec<FailedUnit>, FailureFile) {
        self.progress.finish();
        (self.first_failures, self.failures)
    }
}

impl Reporter for Human {
    fn skipped(&mut self, path: &Path, why: &str) {
        self.skipped += 1;
        if !self.quiet {
            self.progress.say(&format!("skipped {}: it is {why}", path.display()));
        }
    }

    fn failed(&mut self, unit: FailedUnit) {
        self.failures.record(&unit);
        if self.verbose {
            self.progress.say(&format!("failed: {}: {}", unit.path.display(), unit.failure.message));
        }
        if self.first_failures.len() < FAILURES_SHOWN {
            self.first_failures.push(unit);
        }
    }

    fn state(&mut self, _slots: u32, _dukes: u32, waits_for: &str) {
        if self.waits_for != waits_for {
            waits_for.clone_into(&mut self.waits_for);
            if !self.quiet && !waits_for.is_empty() {
                self.progress.say(&format!("waiting: {waits_for}"));
            }
        }
    }

    fn progress(&mut self, counts: &Counts) {
        self.progress.update(&self.clock, counts, &self.waits_for);
    }
}

/// Tells how a run ended: the first failures, then the figures, then what to do.
pub fn print_summary(summary: &Summary, first_failures: &[FailedUnit], quiet: bool) {
    if let Some(why) = &summary.cut_short {
        talk(&format!("error: {why}"));
    }
    for unit in first_failures {
        print_failure(unit);
    }
    let counts = &summary.counts;
    let told = first_failures.len() as u64;
    if counts.failed > told {
        talk(&format!("... and {} more", counts.failed - told));
    }
    if let Some(path) = &summary.failures {
        talk(&format!("all failures: {}", path.display()));
    }
    if quiet {
        return;
    }
    let seconds = summary.elapsed.as_secs_f64();
    talk(&format!(
        "{} done, {} skipped (done before), {} failed in {seconds:.3} s ({:.0} units/s)",
        counts.done,
        counts.done_before,
        counts.failed,
        summary.units_per_second()
    ));
    match summary.exit {
        Exit::Done => {}
        Exit::SomeFailed => talk("run the same command again to try what failed once more"),
        Exit::CouldNotRun if counts.done == 0 => {}
        Exit::CouldNotRun | Exit::Interrupted => talk("what is done is kept; run the same command again to go on"),
    }
}

fn print_failure(unit: &FailedUnit) {
    let tried = match (unit.attempts, unit.duke.is_empty()) {
        (0 | 1, true) => String::new(),
        (0 | 1, false) => format!(" (on {})", unit.duke),
        (attempts, _) => format!(" (after {attempts} attempts, the last on {})", unit.duke),
    };
    talk(&format!("failed: {}: {}{tried}", unit.path.display(), unit.failure.message));
    let stderr = String::from_utf8_lossy(&unit.failure.stderr);
    let lines: Vec<&str> = stderr.trim_end().lines().collect();
    for line in lines.iter().take(STDERR_LINES_SHOWN) {
        talk(&format!("    stderr: {line}"));
    }
    if lines.len() > STDERR_LINES_SHOWN {
        talk(&format!("    stderr: ... {} more lines", lines.len() - STDERR_LINES_SHOWN));
    }
}
