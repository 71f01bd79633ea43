//! The `queen` program: see [`distwasm_queen`].

use std::{io::Write, process::ExitCode};

use distwasm_proto::{exit::Exit, link::chain, logging, memory};
use distwasm_queen::{
    check::check,
    command_line::CommandLine,
    jobs,
    new::{self, Made},
    options::Options,
    report::{print_json, print_summary},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    memory::keep_together();
    let command_line = CommandLine::parse();
    if let CommandLine::Job(options) = &command_line {
        let level = match options.verbose {
            0 if options.quiet => "error",
            0 => "warn",
            1 => "info",
            _ => "debug",
        };
        logging::start(options.log_format, level);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let interrupted = CancellationToken::new();
    // On a thread of the runtime: all that it waits for happens there, and signals are heard while it waits for a file.
    let run = runtime.spawn(run(command_line, interrupted.clone()));
    let exit = runtime.block_on(end_of(run, &interrupted));
    // After a second Ctrl-C some threads may still be at work; they are not waited for.
    runtime.shutdown_background();
    exit
}

/// The first signal ends the run in good order, the second at once.
async fn end_of(run: JoinHandle<ExitCode>, interrupted: &CancellationToken) -> ExitCode {
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
    let signals = async {
        next_signal().await;
        interrupted.cancel();
        next_signal().await;
    };
    tokio::select! {
        exit = run => exit.unwrap_or_else(|error| fail(&error)),
        () = signals => Exit::Interrupted.into(),
    }
}

async fn run(command_line: CommandLine, interrupted: CancellationToken) -> ExitCode {
    match &command_line {
        CommandLine::Job(options) => run_job(options, interrupted).await,
        CommandLine::Check(options) => match check(options, &interrupted).await {
            Ok(exit) => exit.into(),
            Err(error) => fail(&error),
        },
        CommandLine::New(options) => match new::write(options) {
            Ok(made) => tell(&made),
            Err(error) => fail(&error),
        },
        CommandLine::Jobs(options) => match jobs::list(options).await {
            Ok(list) if options.json => say(list.jobs.iter().map(|job| jobs::to_json(job) + "\n").collect::<String>()),
            Ok(list) => say(jobs::Table(&list)),
            Err(error) => fail(&error),
        },
        CommandLine::OneJob(options) => match jobs::find(options).await {
            Ok(job) if options.jobs.json => say(jobs::to_json(&job) + "\n"),
            Ok(job) => say(jobs::Sheet(&job)),
            Err(error) => fail(&error),
        },
    }
}

async fn run_job(options: &Options, interrupted: CancellationToken) -> ExitCode {
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

fn say(what: impl std::fmt::Display) -> ExitCode {
    match write!(std::io::stdout(), "{what}") {
        Ok(()) => Exit::Done.into(),
        Err(error) => fail(&error),
    }
}

fn tell(made: &Made) -> ExitCode {
    // The folder is there whether or not anybody reads this.
    let _written = writeln!(std::io::stderr(), "wrote {}; these lines build and run it:", made.folder.display());
    let _written = write!(std::io::stdout(), "{made}");
    Exit::Done.into()
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    // Where nobody can read it there is nobody to tell.
    let _written = writeln!(std::io::stderr(), "error: {}", chain(error));
    Exit::CouldNotRun.into()
}
