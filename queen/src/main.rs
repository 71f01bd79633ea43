//! The `queen` program: see [`distwasm_queen`].

use std::{io::Write, process::ExitCode};

use clap::Parser;
use distwasm_proto::{exit::Exit, link::chain, logging};
use distwasm_queen::{
    options::Options,
    report::{print_json, print_summary},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let options = Options::parse();
    let level = match options.verbose {
        0 if options.quiet => "error",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    logging::start(options.log_format, level);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let exit = runtime.block_on(run_or_give_up(&options));
    // After a second Ctrl-C some threads may still be at work; they are not waited for.
    runtime.shutdown_background();
    exit
}

/// Runs; the first signal ends the run in good order, the second at once.
async fn run_or_give_up(options: &Options) -> ExitCode {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return fail(&error),
    };
    let mut next_signal = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let interrupted = CancellationToken::new();
    let signals = async {
        next_signal().await;
        interrupted.cancel();
        next_signal().await;
    };
    tokio::select! {
        exit = run(options, interrupted.clone()) => exit,
        () = signals => Exit::Interrupted.into(),
    }
}

async fn run(options: &Options, interrupted: CancellationToken) -> ExitCode {
    let report = match distwasm_queen::run(options, interrupted).await {
        Ok(report) => report,
        Err(error) => return fail(&error),
    };
    print_summary(&report.summary, &report.first_failures, options.quiet);
    if options.json
        && let Err(error) = print_json(&report.summary)
    {
        return fail(&std::io::Error::other(format!("failed to print the summary: {error}")));
    }
    report.summary.exit.into()
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    // Where nobody can read it there is nobody to tell.
    let _written = writeln!(std::io::stderr(), "error: {}", chain(error));
    Exit::CouldNotRun.into()
}
