//! `--dry-run`: says what a run would do with each input, and why, and runs nothing.

use std::{
    collections::HashSet,
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use distwasm_jobs::{
    inputs::{self, Finding, Input, Outdated, Reason, Tally},
    report::Counts,
    selection::LeftOut,
};
use distwasm_process::{files, stderr};
use distwasm_proto::{exit::Exit, limits::REACTOR_QUEUE, text};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    failures_file::{self, hex_of},
    options::Options,
    prepare::{Plan, PrepareError, plan},
    program,
    report::{harmless_path, left_out_words},
};

/// Why a dry run cannot begin, or not be printed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DryRunError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("failed to print what would be done")]
    Print(#[source] io::Error),
}

/// Prints what a run with these options would do, as text or, with `--json`, as one JSON object a line.
///
/// # Errors
///
/// When such a run could not begin, or stdout cannot be written.
pub async fn dry_run(options: &Options, interrupted: &CancellationToken) -> Result<Exit, DryRunError> {
    let program = program::find(options).await.map_err(PrepareError::from)?;
    let planned = tokio::task::block_in_place(|| plan(options, &program, interrupted))?;
    let (sender, mut found) = mpsc::channel(REACTOR_QUEUE);
    let folders = planned.folders.clone();
    let lister = tokio::task::spawn_blocking(move || inputs::list(&folders, &sender));
    let mut printer = Printer::new(options, &planned);
    planned.warnings.iter().for_each(|warning| stderr::say(&format!("warning: {warning}")));
    let ended = loop {
        let finding = tokio::select! {
            finding = found.recv() => finding,
            () = interrupted.cancelled() => break Ok(Exit::Interrupted),
        };
        let Some(finding) = finding else { break printer.finish(&planned.orphans).map(|()| Exit::Done) };
        if let Err(error) = printer.print(finding) {
            break Err(error);
        }
    };
    // The lister ends when nobody takes its findings.
    drop(found);
    let _ended = lister.await;
    match ended {
        // A reader that went away has read as much as it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Done),
        ended => ended.map_err(DryRunError::Print),
    }
}

/// What would be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Run,
    /// It is done.
    Skip,
    /// It is not an input.
    Ignore,
    Fail,
    Prune,
}

/// One file, and what would be done with it.
#[derive(Serialize)]
struct Line<'a> {
    action: Action,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
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
    #[serde(skip_serializing_if = "LeftOut::is_nothing")]
    left_out: LeftOut,
}

/// Prints findings, and counts them.
struct Printer {
    json: bool,
    /// Inputs that failed in earlier runs.
    failed_before: HashSet<PathBuf>,
    stdout: BufWriter<io::Stdout>,
    counts: Counts,
}

impl Printer {
    fn new(options: &Options, planned: &Plan) -> Printer {
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
                names.iter().try_for_each(|(path, how)| self.file(Action::Skip, how.map_or("done", word_of), path))
            }
            Finding::Gone => Ok(()),
            Finding::Skipped { path, why } => self.file(Action::Ignore, &why, &path),
            Finding::Unusable { path, failure } => {
                self.counts.failed += 1;
                self.file(Action::Fail, &failure.message, &path)
            }
        }
    }

    fn run(&mut self, input: &Input) -> io::Result<()> {
        self.counts.found += 1;
        let reason = match input.reason {
            Reason::New if self.failed_before.contains(&input.path) => "failed before",
            Reason::New => "new",
            Reason::Outdated(how) => word_of(how),
            Reason::Forced => "forced",
        };
        self.line(Action::Run, reason, Some(&input.path), input.output.as_deref(), Some(input.bytes))
    }

    fn file(&mut self, action: Action, reason: &str, path: &Path) -> io::Result<()> {
        self.line(action, reason, Some(path), None, None)
    }

    fn line(
        &mut self,
        action: Action,
        reason: &str,
        input: Option<&Path>,
        output: Option<&Path>,
        bytes: Option<u64>,
    ) -> io::Result<()> {
        if self.json {
            let name = |path: Option<&Path>| path.map(|path| path.to_string_lossy().into_owned());
            let (input_hex, output_hex) = (input.and_then(hex_of), output.and_then(hex_of));
            let (input, output) = (name(input), name(output));
            return self.json(&Line { action, reason, input, input_hex, output, output_hex, bytes });
        }
        let arrow = if input.is_some() && output.is_some() { " -> " } else { "" };
        let name = |path: Option<&Path>| path.map(harmless_path).unwrap_or_default();
        let (path, reason) = (name(input) + arrow + &name(output), text::line(reason));
        match action {
            // A reason of any length comes last.
            Action::Fail => writeln!(self.stdout, "fail  {path}: {reason}"),
            Action::Ignore => writeln!(self.stdout, "ignore {path}: it is {reason}"),
            Action::Run => writeln!(self.stdout, "run   {reason:<18} {path}"),
            Action::Skip => writeln!(self.stdout, "skip  {reason:<18} {path}"),
            Action::Prune => writeln!(self.stdout, "prune {reason:<18} {path}"),
        }
    }

    fn json(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, line)?;
        self.stdout.write_all(b"\n")
    }

    fn finish(&mut self, orphans: &[PathBuf]) -> io::Result<()> {
        orphans.iter().try_for_each(|orphan| self.line(Action::Prune, "of no input", None, Some(orphan), None))?;
        let Counts { found: run, done_before: skip, failed: fail, newer, outdated, left_out, .. } = self.counts;
        let prune = orphans.len() as u64;
        if self.json {
            self.json(&Total { run, skip, fail, prune, newer, outdated, left_out })?;
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
        files::close_stdout()
    }
}

fn word_of(outdated: Outdated) -> &'static str {
    match outdated {
        Outdated::Input => "changed",
        Outdated::Folder => "folder changed",
        Outdated::Program => "program changed",
        Outdated::Arguments => "arguments changed",
        Outdated::Settings => "settings changed",
    }
}
