//! A job: runs a program over a folder of inputs, on this machine or a kingdom.

use std::io::{self, IsTerminal};

use distwasm_jobs::{
    Folders, Terms,
    inputs::Names,
    outputs::{self, OutputPlace},
    reactor::{CutShort, Ending},
    report::{Counts, FailedUnit},
    request::JobRequest,
    selection::LeftOut,
};
use distwasm_process::clock::Clock;
use distwasm_proto::{error_text::chain, exit::Exit};
use tokio_util::sync::CancellationToken;

use crate::{
    failures_file::Scope,
    local::{self, Kingdom},
    options::Options,
    prepare::{Preparation, PrepareError, prepare},
    program::{self, JobProgram},
    report::{FirstLine, Human, Summary, Verbosity, harmless_path, shown},
};

/// A run that is over.
#[derive(Debug)]
pub struct Report {
    /// The figures.
    pub summary: Summary,
    /// The first failures, in full.
    pub first_failures: Vec<FailedUnit>,
}

/// Runs the job that the options describe, until it is done or `interrupted`.
///
/// # Errors
///
/// When the run cannot begin: wrong files or folders. All other errors are in the report.
pub async fn run(options: &Options, interrupted: CancellationToken) -> Result<Report, PrepareError> {
    let clock = Clock::start();
    let king = options.king()?;
    let program = program::find(options).await?;
    let prepared = tokio::task::block_in_place(|| prepare(options, &program, &interrupted))?;
    let Preparation { folders, request, failures, note, pruned, warnings, _input, _probe, _lock } = prepared;
    let (folders, request) = (&folders, &request);
    let (address, mut kingdom) = match king {
        Some(address) => (address, None),
        None => {
            let kingdom = Kingdom::start(options, request);
            (kingdom.address.clone(), Some(kingdom))
        }
    };
    let first_line = first_line(options, &program, folders, kingdom.as_ref());
    // A bar would stand in the middle of a result.
    let is_disturbed = matches!(folders.output, OutputPlace::Stdout) && io::stdout().is_terminal();
    let verbosity = Verbosity { quiet: options.quiet, verbose: options.verbose > 0, bar: !is_disturbed };
    let mut human = Human::new(clock, verbosity, failures, first_line);
    warnings.iter().for_each(|warning| human.warn(warning));
    let note = note.as_ref();
    let terms = Terms { clock, limits: options.limits(), grace: options.grace, note, interrupted: &interrupted };
    let trouble = async {
        match &mut kingdom {
            Some(kingdom) => kingdom.trouble().await,
            None => std::future::pending().await,
        }
    };
    let ending = distwasm_jobs::run(folders, &address, request, &mut human, &terms, trouble).await;
    if let Some(kingdom) = kingdom {
        kingdom.end().await;
    }
    tokio::task::block_in_place(|| sweep(folders, request, &ending));
    let Ending { counts, mut cut_short } = ending;
    if counts.found == 0 && cut_short.is_none() {
        // It is unknown whether this program made the outputs; check at least that it can run.
        let rehearsed = interrupted.run_until_cancelled(local::rehearse(options, request)).await;
        cut_short = match rehearsed {
            Some(Ok(())) => None,
            Some(Err(failure)) => Some(CutShort::unfit(&failure)),
            None => Some(CutShort::Interrupted),
        };
    }
    if matches!(folders.output, OutputPlace::Stdout) && counts.left_out != LeftOut::default() {
        // A program that reads stdout would take nothing for the result.
        cut_short.get_or_insert(CutShort::LeftOut);
    }
    let mut exit = match &cut_short {
        Some(CutShort::Interrupted) => Exit::Interrupted,
        Some(CutShort::TooManyFailed { .. }) => Exit::SomeFailed,
        Some(_) => Exit::CouldNotRun,
        None if counts.failed > 0 => Exit::SomeFailed,
        None => Exit::Done,
    };
    let (first_failures, failures) = human.finish();
    let retry = matches!(folders.rules.names, Names::Failed(_));
    let stopped = matches!(cut_short, Some(CutShort::TooManyFailed { .. }));
    let mut cut_short = cut_short.map(|why| why.to_string());
    let scope = Scope { folders, listed_all: has_listed_all(folders, &counts) };
    let finish = || failures.map_or(Ok(None), |failures| failures.finish(&scope));
    let failures = tokio::task::block_in_place(finish).unwrap_or_else(|error| {
        // The file is incomplete, and the exit status must say so.
        exit = if exit == Exit::Interrupted { exit } else { Exit::CouldNotRun };
        cut_short.get_or_insert(chain(&error));
        None
    });
    let elapsed = std::time::Duration::from_micros(clock.now().0);
    let (project, pruned) = (request.project.clone(), pruned as u64);
    let (forced, empty_is_ok) = (options.force, options.ok_empty);
    let summary =
        Summary { project, counts, elapsed, pruned, failures, cut_short, stopped, empty_is_ok, forced, retry, exit };
    Ok(Report { summary, first_failures })
}

/// Removes results of dukes that came too late to get a name. Their units run again.
fn sweep(folders: &Folders, request: &JobRequest, ending: &Ending) {
    let may_be_left = ending.cut_short.is_some() && request.guest.places.output.is_some() && folders.rules.sweeps;
    if let (OutputPlace::Folder(folder), true) = (&folders.output, may_be_left) {
        outputs::sweep(folder);
    }
}

/// Whether all files below the input folder were looked at.
fn has_listed_all(folders: &Folders, counts: &Counts) -> bool {
    let is_whole = matches!(folders.rules.names, Names::All | Names::Failed(_));
    counts.all_found && counts.left_out.is_nothing() && folders.rules.selection.limit.is_none() && is_whole
}

/// The words at the start of the run.
fn first_line(options: &Options, program: &JobProgram, folders: &Folders, kingdom: Option<&Kingdom>) -> FirstLine {
    let inputs = match &folders.rules.names {
        Names::Stdin(_) => "inputs from stdin".to_owned(),
        Names::All => format!("inputs of {}", shown(&options.input)),
        Names::Failed(_) => format!("inputs of {} that failed before", shown(&options.input)),
        Names::Listed(_) => match &options.selection.input_list {
            Some(list) => format!("inputs of {} that {} lists", shown(&options.input), shown(list)),
            None => format!("inputs: {}", shown(&options.input)),
        },
    };
    let place = match (&options.king_address, kingdom.map_or(0, |kingdom| kingdom.slots)) {
        (Some(king), _) => format!("at {king}"),
        (None, 1) => "1 slot on this machine".to_owned(),
        (None, slots) => format!("{slots} slots on this machine"),
    };
    FirstLine { program: harmless_path(&program.shown), inputs, place }
}
