//! A job: runs a program over a folder of inputs, on this machine or a kingdom.

use distwasm_jobs::{
    Terms,
    reactor::{CutShort, Ending},
    report::FailedUnit,
};
use distwasm_process::clock::Clock;
use distwasm_proto::{error_text::chain, exit::Exit};
use distwasm_transport::link::KingAddress;
use tokio_util::sync::CancellationToken;

use crate::{
    failures_file::Scope,
    local::{self, Kingdom},
    options::{Options, OptionsError, Prepared},
    report::{Human, Summary},
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
pub async fn run(options: &Options, interrupted: CancellationToken) -> Result<Report, OptionsError> {
    let clock = Clock::start();
    let prepared = tokio::task::block_in_place(|| options.prepare())?;
    let Prepared { request, folders, failures, note, _output_lock } = prepared;
    let (folders, request) = (&folders, &request);
    let mut human = Human::new(clock, options.quiet, options.verbose > 0, failures);
    options.idle_flags.iter().for_each(|flag| human.warn(flag));
    let note = note.as_ref();
    let terms = Terms { clock, limits: options.limits(), grace: options.grace, note, interrupted: &interrupted };
    let ending = match &options.king_address {
        Some(address) => {
            let address = KingAddress::Tcp(address.clone());
            distwasm_jobs::run(folders, &address, request, &mut human, &terms, std::future::pending()).await
        }
        None => {
            let mut kingdom = Kingdom::start(options)?;
            let address = kingdom.address.clone();
            let ending = distwasm_jobs::run(folders, &address, request, &mut human, &terms, kingdom.trouble()).await;
            kingdom.end().await;
            ending
        }
    };
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
    let mut exit = match &cut_short {
        Some(CutShort::Interrupted) => Exit::Interrupted,
        Some(CutShort::TooManyFailed { .. }) => Exit::SomeFailed,
        Some(_) => Exit::CouldNotRun,
        None if counts.failed > 0 => Exit::SomeFailed,
        None => Exit::Done,
    };
    let (first_failures, failures) = human.finish();
    let retry = folders.only.is_some();
    let stopped = matches!(cut_short, Some(CutShort::TooManyFailed { .. }));
    let mut cut_short = cut_short.map(|why| why.to_string());
    let scope = Scope { input: &folders.input, output: &folders.output, listed_all: counts.all_found };
    let failures = tokio::task::block_in_place(|| failures.finish(&scope)).unwrap_or_else(|error| {
        // The file is incomplete, and the exit status must say so.
        exit = if exit == Exit::Interrupted { exit } else { Exit::CouldNotRun };
        cut_short.get_or_insert(chain(&error));
        None
    });
    let elapsed = std::time::Duration::from_micros(clock.now().0);
    let summary =
        Summary { project: request.project.clone(), counts, elapsed, failures, cut_short, stopped, retry, exit };
    Ok(Report { summary, first_failures })
}
