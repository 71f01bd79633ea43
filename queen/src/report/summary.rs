//! The summary at the end of a run.

use std::{io, path::PathBuf, time::Duration};

use distwasm_jobs::{report::Counts, selection::LeftOut};
use distwasm_process::files;
use distwasm_proto::exit::Exit;
use serde::Serialize;

/// A run in figures.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The label of the job.
    pub project: String,
    /// The counts of inputs and bytes.
    pub counts: Counts,
    /// How long it took.
    pub elapsed: Duration,
    /// How many files among the outputs were removed, because no input has them as its output.
    pub pruned: u64,
    /// The file of all failures, if there were any.
    pub failures: Option<PathBuf>,
    /// Why it ended before everything was done, if it did.
    pub cut_short: Option<String>,
    /// Whether too many failures ended it.
    pub stopped: bool,
    /// Whether the user expects that all outputs may be empty.
    pub empty_is_ok: bool,
    /// Whether all inputs ran, also those that had outputs.
    pub forced: bool,
    /// Whether the run tried only failures of earlier runs.
    pub retry: bool,
    /// The exit status.
    pub exit: Exit,
}

#[derive(Serialize)]
struct Json<'a> {
    project: &'a str,
    status: u8,
    done: u64,
    skipped: u64,
    failed: u64,
    empty: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<u64>,
    newer: u64,
    outdated: u64,
    #[serde(skip_serializing_if = "LeftOut::is_nothing")]
    left_out: LeftOut,
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<u64>,
    seconds: f64,
    units_per_second: f64,
    bytes_sent: u64,
    bytes_written: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Summary {
    /// Units that were settled per second.
    pub fn units_per_second(&self) -> f64 {
        let units = self.counts.done + self.counts.failed;
        units as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// Prints the summary as one line of JSON on stdout.
///
/// # Errors
///
/// When stdout cannot be written; a reader that went away is not an error.
pub fn print_json(summary: &Summary) -> io::Result<()> {
    let counts = &summary.counts;
    let json = Json {
        project: &summary.project,
        status: summary.exit.status(),
        done: counts.done,
        skipped: counts.done_before,
        failed: counts.failed,
        empty: counts.empty,
        gone: summary.retry.then_some(counts.gone),
        newer: counts.newer,
        outdated: counts.outdated,
        left_out: counts.left_out,
        pruned: (summary.pruned > 0).then_some(summary.pruned),
        seconds: summary.elapsed.as_secs_f64(),
        units_per_second: summary.units_per_second(),
        bytes_sent: counts.bytes_sent,
        bytes_written: counts.bytes_written,
        failures_file: summary.failures.as_ref().map(|path| path.to_string_lossy().into_owned()),
        error: summary.cut_short.as_deref(),
    };
    let mut line = serde_json::to_string(&json)?;
    line.push('\n');
    files::write_stdout(line.as_bytes())
}
