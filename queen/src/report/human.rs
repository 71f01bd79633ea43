//! Talk for people, on stderr.

use std::{
    io::{self, IsTerminal},
    path::Path,
    time::Duration,
};

use distwasm_jobs::report::{Compiling, Counts, FailedUnit, LongestInput, Reporter};
use distwasm_process::{
    clock::{Clock, time_of_day},
    stderr,
};
use distwasm_proto::{
    exit::Exit,
    limits::{FAILURES_SHOWN, FIRST_LINE_WITHIN},
    text,
    time::Time,
};
use indicatif::HumanCount;

use super::{
    FirstLine, Summary,
    first_line::left_out,
    progress::{Activity, Progress},
};
use crate::failures_file::FailureFile;

/// Lines of a longer reason that the summary shows, and of the start and the end of a failed unit's stderr.
const LINES_SHOWN: usize = 5;

/// How people are told of a run.
#[derive(Clone, Copy, Debug)]
pub struct Verbosity {
    /// Only of errors and failures.
    pub quiet: bool,
    /// Also of each failure as it happens.
    pub verbose: bool,
    /// With a bar that shows the progress, if there is a terminal.
    pub bar: bool,
}

/// Tells people of a run, and keeps its failures.
pub struct Human {
    clock: Clock,
    progress: Progress,
    quiet: bool,
    verbose: bool,
    waits_for: String,
    /// When the job began to wait for that.
    waits_since: Time,
    /// Whether that was printed, or need not be.
    wait_is_told: bool,
    longest: Option<LongestInput>,
    compiling: Option<Compiling>,
    first_failures: Vec<FailedUnit>,
    failures: Option<FailureFile>,
    /// The words at the start, until they are printed.
    first_line: Option<FirstLine>,
}

/// Characters of one line of a guest's words that are shown.
const LINE_CHARS_SHOWN: usize = 200;

/// Characters that are shown of the reason why a job waits. The cause stands at its end, after hosts and paths.
const WAIT_CHARS_SHOWN: usize = 4000;

/// How long a job waits before that is printed. Most waits are over at once.
const WAIT_TOLD_AFTER: Duration = Duration::from_secs(1);

/// Prints a line for people.
pub(super) fn talk(line: &str) {
    stderr::say(line);
}

/// A name or a guest's words as one line that is safe for a terminal: control characters are written as escapes.
pub(crate) fn harmless(text: &str) -> String {
    harmless_up_to(LINE_CHARS_SHOWN, text)
}

fn harmless_up_to(chars: usize, text: &str) -> String {
    match text.char_indices().nth(chars) {
        Some((place, _)) => text::line(text.get(..place).unwrap_or_default()).into_owned() + " ...",
        None => text::line(text).into_owned(),
    }
}

/// A path as one line that is safe for a terminal. It is shown in full, because users will look for it.
pub(crate) fn harmless_path(path: &Path) -> String {
    text::line(&path.to_string_lossy()).into_owned()
}

/// A number of bytes for people.
pub(super) fn megabytes(bytes: f64) -> String {
    if bytes < 1e5 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}

impl Human {
    /// A reporter of a run that begins now. Only a terminal gets the words at its start.
    pub fn new(
        clock: Clock,
        Verbosity { quiet, verbose, bar }: Verbosity,
        failures: Option<FailureFile>,
        first_line: FirstLine,
    ) -> Human {
        let human = Human {
            clock,
            progress: Progress::new(quiet || !bar),
            quiet,
            verbose,
            waits_for: String::new(),
            waits_since: Time::default(),
            wait_is_told: true,
            longest: None,
            compiling: None,
            first_failures: Vec::new(),
            failures,
            first_line: (!quiet && io::stderr().is_terminal()).then_some(first_line),
        };
        if let Some((file, error)) = human.failures.as_ref().and_then(|file| Some((file, file.error()?))) {
            let path = file.path().display();
            human.warn(&format!("failures cannot be kept in {path}: {error} (--failures names another file)"));
        }
        human
    }

    /// Prints a warning before the run.
    pub fn warn(&self, what: &str) {
        if !self.quiet {
            self.progress.say(&format!("warning: {what}"));
        }
    }

    /// Ends the progress, and returns the failures.
    pub fn finish(self) -> (Vec<FailedUnit>, Option<FailureFile>) {
        self.progress.finish();
        (self.first_failures, self.failures)
    }
}

impl Reporter for Human {
    fn skipped(&mut self, path: &Path, why: &str) {
        if !self.quiet {
            self.progress.say(&format!("skipped {}: it is {why}", harmless_path(path)));
        }
    }

    fn failed(&mut self, unit: FailedUnit) {
        // Without a file, the summary shows the failure.
        let is_kept = self.failures.as_mut().is_none_or(|file| file.record(&unit, time_of_day()));
        // A failure that is not in the file is printed.
        if self.verbose || !is_kept {
            let reason = unit.failure.message.lines().next().unwrap_or_default();
            self.progress.say(&format!("failed: {}: {}", harmless_path(&unit.path), harmless(reason)));
        }
        if self.first_failures.len() < FAILURES_SHOWN {
            self.first_failures.push(unit);
        }
    }

    fn waits(&mut self, waits_for: &str) {
        if self.waits_for != waits_for {
            self.waits_for = harmless_up_to(WAIT_CHARS_SHOWN, waits_for);
            self.waits_since = self.clock.now();
            self.wait_is_told = self.quiet || waits_for.is_empty();
        }
    }

    fn longest(&mut self, longest: Option<LongestInput>) {
        self.longest = longest;
    }

    fn compiling(&mut self, compiling: Option<Compiling>) {
        self.compiling = compiling;
    }

    fn listed(&mut self, counts: &Counts) {
        if let Some(first_line) = self.first_line.take() {
            self.progress.say(&first_line.line(counts));
        }
    }

    fn progress(&mut self, counts: &Counts) {
        if self.first_line.is_some() && self.clock.now() >= Time::default().after(FIRST_LINE_WITHIN) {
            self.listed(counts);
        }
        // Most waits are over before anybody could read of them.
        let is_long = self.waits_since.after(WAIT_TOLD_AFTER) <= self.clock.now();
        if is_long && !std::mem::replace(&mut self.wait_is_told, true) {
            self.progress.say(&format!("waiting: {}", self.waits_for));
        }
        let waits_for = if is_long { self.waits_for.as_str() } else { "" };
        let activity = Activity { waits_for, compiling: self.compiling.as_ref(), longest: self.longest.as_ref() };
        self.progress.update(&self.clock, counts, activity);
    }
}

/// Prints how a run ended: the first failures, then the figures, then the next step.
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
    if let Some(line) = outdated(counts.newer, counts.outdated) {
        talk(&line);
    }
    let left_out = left_out(&counts.left_out);
    if !left_out.is_empty() {
        talk(&left_out.join(", "));
    }
    match summary.pruned {
        0 => {}
        1 => talk("1 file among the outputs was removed: it is the output of no input"),
        pruned => {
            talk(&format!("{} files among the outputs were removed: they are outputs of no input", HumanCount(pruned)));
        }
    }
    if counts.gone > 0 {
        talk(&format!("{} of the earlier failures are skipped: they are not inputs any more", counts.gone));
    }
    if summary.exit == Exit::Done && counts.found + counts.done_before + counts.gone == 0 {
        talk(match summary.retry {
            false if !left_out.is_empty() => "all files are left out, so there is nothing to do",
            false => "there is no file among the inputs, so there is nothing to do",
            true => "no failures of earlier runs are known, so there is nothing to try again",
        });
    }
    if counts.done > 0 && counts.empty == counts.done && !summary.empty_is_ok {
        warn_of_nothing(counts.done);
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
        Exit::SomeFailed if summary.stopped => {
            talk("finished outputs are kept; run the same command again to go on, with --retry-failed to try only the");
            talk("failed units, or with a higher --max-failures to let more fail");
        }
        Exit::SomeFailed if summary.forced => talk("run the same command without --force to retry the failed units"),
        Exit::SomeFailed => talk("run the same command again to retry the failed units"),
        Exit::CouldNotRun if counts.done == 0 => {}
        Exit::CouldNotRun | Exit::Interrupted if summary.forced => {
            talk("finished outputs are kept; the same command with --update in place of --force goes on");
        }
        Exit::CouldNotRun | Exit::Interrupted => talk("finished outputs are kept; run the same command again to go on"),
    }
}

/// A program that writes nothing mostly does not find its input.
fn warn_of_nothing(outputs: u64) {
    talk(if outputs == 1 { "warning: the output is empty" } else { "warning: all outputs are empty" });
    talk(
        "does the program read its input as a file ({} after --) or write its result to one ({out} or {outdir})? --ok-empty says",
    );
    talk("that an empty output is right");
}

/// A line about skipped inputs that another run would treat otherwise.
fn outdated(newer: u64, outdated: u64) -> Option<String> {
    let kinds = [
        (newer, "is newer than its output", "are newer than their outputs"),
        (
            outdated,
            "has an outdated output (of another program, folder, arguments or settings)",
            "have outdated outputs (of another program, folder, arguments or settings)",
        ),
    ];
    let told: Vec<String> = kinds
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .enumerate()
        .map(|(place, (count, one, many))| {
            let of = if place == 0 { " of the skipped inputs" } else { "" };
            format!("{}{of} {}", HumanCount(count), if count == 1 { one } else { many })
        })
        .collect();
    let them = if newer + outdated == 1 { "it" } else { "them" };
    (!told.is_empty()).then(|| format!("{}; --update runs {them} again", told.join(", and ")))
}

fn print_failure(unit: &FailedUnit) {
    let tried = match (unit.tried.attempts, unit.tried.duke.is_empty()) {
        (0 | 1, true) => String::new(),
        (0 | 1, false) => format!(" (on {})", harmless(&unit.tried.duke)),
        (attempts, _) => format!(" (after {attempts} attempts, the last on {})", harmless(&unit.tried.duke)),
    };
    let mut reason = unit.failure.message.lines();
    let first = reason.next().unwrap_or_default();
    talk(&format!("failed: {}: {}{tried}", harmless_path(&unit.path), harmless(first)));
    show_lines("", &reason.collect::<Vec<_>>(), 0);
    let stderr = String::from_utf8_lossy(&unit.failure.stderr);
    // What went wrong stands at its start or at its end.
    show_lines("stderr: ", &stderr.trim_end().lines().collect::<Vec<_>>(), LINES_SHOWN);
}

/// Shows the first lines of some text, and the last `last` of them, each after a prefix.
fn show_lines(prefix: &str, lines: &[&str], last: usize) {
    let (first, rest) = lines.split_at(lines.len().min(LINES_SHOWN));
    let (left_out, last) = rest.split_at(rest.len().saturating_sub(last));
    let show = |lines: &[&str]| lines.iter().for_each(|line| talk(&format!("    {prefix}{}", harmless(line))));
    show(first);
    match left_out.len() {
        0 => {}
        1 => show(left_out),
        more => talk(&format!("    {prefix}... {more} more lines")),
    }
    show(last);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_guests_cannot_control_a_terminal() {
        assert_eq!(harmless(&"ä".repeat(300)), "ä".repeat(LINE_CHARS_SHOWN) + " ...");
        assert_eq!(harmless_path(Path::new("new\nline")), "new\\nline");
    }
}
