//! `--dry-run`: says what a run would do with each input, and why, and runs nothing.

use std::{
    collections::HashSet,
    io::{self, BufWriter, ErrorKind, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use distwasm_jobs::{
    inputs::{self, Finding, Input, Reason, Tally},
    report::Counts,
};
use distwasm_proto::{exit::Exit, failure::Failure, limits::REACTOR_QUEUE};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    failures_file,
    options::Options,
    prepare::{Planned, PrepareError, plan},
    report::{escape_controls, harmless_path, left_out_json, left_out_words},
};

/// Prints what a run with these options would do, as text or, with `--json`, as one JSON object a line.
///
/// # Errors
///
/// When such a run could not begin, or stdout cannot be written.
pub async fn dry_run(options: &Options, interrupted: &CancellationToken) -> Result<Exit, PrepareError> {
    let planned = tokio::task::block_in_place(|| plan(options, interrupted))?;
    let (sender, mut found) = mpsc::channel(REACTOR_QUEUE);
    let folders = planned.folders.clone();
    let lister = tokio::task::spawn_blocking(move || inputs::list(&folders, &sender));
    let mut printer = Printer::new(options, &planned);
    planned.warnings.iter().for_each(|warning| distwasm_process::stderr::say(&format!("warning: {warning}")));
    let printed = loop {
        let finding = tokio::select! {
            finding = found.recv() => finding,
            () = interrupted.cancelled() => return Ok(Exit::Interrupted),
        };
        let Some(finding) = finding else { break printer.finish(&planned.orphans) };
        if let Err(error) = printer.print(finding) {
            break Err(error);
        }
    };
    // The lister ends when nobody takes its findings.
    drop(found);
    let _ended = lister.await;
    match printed {
        // A reader that went away has read as much as it wanted.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(PrepareError::Print(error)),
        _ => Ok(Exit::Done),
    }
}

/// The action of removing an output.
const PRUNE: &str = "prune";

/// Prints findings, and counts them.
struct Printer {
    json: bool,
    /// Inputs that failed in earlier runs.
    failed_before: HashSet<PathBuf>,
    stdout: BufWriter<io::Stdout>,
    counts: Counts,
}

/// One line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    action: &'static str,
    reason: &'a str,
    #[serde(flatten)]
    names: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// A name, and its bytes in hexadecimal if it is not UTF-8, as the file of failures has it.
fn name(what: &str, path: &Path) -> Vec<(String, serde_json::Value)> {
    let hex = || path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let hex = path.to_str().is_none().then(|| (format!("{what}_hex"), hex().into()));
    std::iter::once((what.to_owned(), path.to_string_lossy().into())).chain(hex).collect()
}

/// The last line of JSON.
#[derive(Serialize)]
struct Total {
    run: u64,
    skip: u64,
    fail: u64,
    prune: u64,
    newer: u64,
    outdated: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<serde_json::Value>,
}

impl Printer {
    fn new(options: &Options, planned: &Planned) -> Printer {
        // A file that cannot be read is told by the run itself.
        let names = planned.failures.as_deref().map(|path| failures_file::names(path).unwrap_or_default());
        Printer {
            json: options.json,
            failed_before: names.unwrap_or_default().into_iter().collect(),
            stdout: BufWriter::new(io::stdout()),
            counts: Counts::default(),
        }
    }

    fn print(&mut self, finding: Finding) -> io::Result<()> {
        match finding {
            Finding::Inputs(inputs) => inputs.iter().try_for_each(|input| self.run(input)),
            Finding::Tally(Tally { done, newer, outdated, names, left_out }) => {
                self.counts.done_before += done;
                self.counts.newer += newer;
                self.counts.outdated += outdated;
                self.counts.left_out.add(left_out);
                names.iter().try_for_each(|(path, reason)| self.line("skip", word_of(*reason), path, None, None))
            }
            Finding::Gone => Ok(()),
            Finding::Skipped { path, why } => self.line("skip", &why, &path, None, None),
            Finding::Unusable { path, failure: Failure { message, .. } } => {
                self.counts.failed += 1;
                self.line("fail", &message, &path, None, None)
            }
        }
    }

    fn run(&mut self, input: &Input) -> io::Result<()> {
        self.counts.found += 1;
        let failed_before = input.reason == Reason::New && self.failed_before.contains(&input.path);
        let reason = if failed_before { "failed before" } else { word_of(input.reason) };
        self.line("run", reason, &input.path, input.output.as_deref(), Some(input.bytes))
    }

    fn line(
        &mut self,
        action: &'static str,
        reason: &str,
        path: &Path,
        output: Option<&Path>,
        bytes: Option<u64>,
    ) -> io::Result<()> {
        if self.json {
            let mut names = name(if action == PRUNE { "output" } else { "input" }, path);
            names.extend(output.into_iter().flat_map(|output| name("output", output)));
            return self.json(&Line { action, reason, names: names.into_iter().collect(), bytes });
        }
        let output = output.map(|output| format!(" -> {}", harmless_path(output))).unwrap_or_default();
        let (reason, path) = (escape_controls(reason), harmless_path(path));
        match action {
            // A reason of any length comes last.
            "fail" => writeln!(self.stdout, "{action:<5} {path}: {reason}"),
            _ => writeln!(self.stdout, "{action:<5} {reason:<18} {path}{output}"),
        }
    }

    fn json(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, line)?;
        self.stdout.write_all(b"\n")
    }

    fn finish(&mut self, orphans: &[PathBuf]) -> io::Result<()> {
        orphans.iter().try_for_each(|orphan| self.line(PRUNE, "input is gone", orphan, None, None))?;
        let Counts { found: run, done_before: skip, failed: fail, newer, outdated, left_out, .. } = self.counts;
        let prune = orphans.len() as u64;
        if self.json {
            self.json(&Total { run, skip, fail, prune, newer, outdated, left_out: left_out_json(&left_out) })?;
        } else {
            let mut words = vec![format!("{run} to run"), format!("{skip} done")];
            let others = [
                (fail, "to fail"),
                (prune, "to prune"),
                (newer, "of the done changed"),
                (outdated, "of the done made otherwise"),
            ];
            words.extend(others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
            words.extend(left_out_words(&left_out));
            writeln!(self.stdout, "{}", words.join(", "))?;
        }
        self.stdout.flush()?;
        distwasm_process::files::close_stdout()
    }
}

fn word_of(reason: Reason) -> &'static str {
    match reason {
        Reason::New => "new",
        Reason::Changed => "changed",
        Reason::Program => "program changed",
        Reason::Arguments => "arguments changed",
        Reason::Settings => "settings changed",
        Reason::Forced => "forced",
        Reason::Done => "done",
    }
}
