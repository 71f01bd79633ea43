//! The `queen` program: see [`distwasm_queen`].

use std::process::ExitCode;

use distwasm_process::{files, logging, shutdown::Signals, start, stderr};
use distwasm_proto::{error_text::chain, exit::Exit};
use distwasm_queen::{
    command_line::CommandLine,
    commands::{
        admin::{self, BackupError},
        cancel::{CancelOptions, cancel},
        check::check,
        dry_run::{DryRunError, dry_run},
        dukes, jobs,
        new::{self, Made},
        programs::{self, RemoveOptions},
        pull::{self, PullError},
        push::{self, PushError},
        run,
    },
    options::Options,
    prepare::PrepareError,
    report::{print_json, print_summary},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    start::begin();
    let exit = run_program();
    stderr::flush();
    exit
}

fn run_program() -> ExitCode {
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
    let runtime = match start::runtime(command_line.blocking_threads()) {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let interrupted = CancellationToken::new();
    // The run has a thread of the runtime, and this thread handles signals even while the run waits for a file.
    let run = runtime.spawn(run(command_line, interrupted.clone()));
    let exit = runtime.block_on(end_of(run, &interrupted));
    // After a second Ctrl-C some threads may still be running; they are not waited for.
    runtime.shutdown_background();
    exit
}

/// The first signal starts a graceful shutdown, the second ends the run at once.
async fn end_of(run: JoinHandle<ExitCode>, interrupted: &CancellationToken) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let signals = async {
        signals.next().await;
        interrupted.cancel();
        signals.next().await;
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
        CommandLine::Page(text) => say(text),
        CommandLine::New(options) => match new::write(options) {
            Ok(made) => tell(&made),
            Err(error) => fail(&error),
        },
        CommandLine::Jobs(options) => match jobs::list(options).await {
            Ok(list) if options.json => say(list.jobs.iter().map(|job| jobs::to_json(job) + "\n").collect::<String>()),
            Ok(list) => say(jobs::Table(&list)),
            Err(error) => fail(&error),
        },
        CommandLine::Dukes(options) => match dukes::list(options).await {
            Ok(list) if options.json => {
                say(list.dukes.iter().map(|duke| dukes::to_json(duke) + "\n").collect::<String>())
            }
            Ok(list) => say(dukes::Table(&list)),
            Err(error) => fail(&error),
        },
        CommandLine::OneJob(options) => match jobs::find(options).await {
            Ok(job) if options.jobs.json => say(jobs::to_json(&job) + "\n"),
            Ok(job) => say(jobs::Sheet(&job)),
            Err(error) => fail(&error),
        },
        CommandLine::Cancel(options) => cancel_all(options).await,
        CommandLine::Push(options) => match push::push(options, &interrupted).await {
            Ok(pushed) => {
                if !pushed.is_new {
                    stderr::say(&format!("{} has these bytes already", pushed.version));
                }
                say(pushed.version + "\n")
            }
            Err(error) => stopped(&error, matches!(error, PushError::Interrupted { .. })),
        },
        CommandLine::Programs(king, json) => match programs::list(king).await {
            Ok(list) if *json => say(list.iter().map(|program| programs::to_json(program) + "\n").collect::<String>()),
            Ok(list) => say(programs::Table(&list)),
            Err(error) => fail(&error),
        },
        CommandLine::RemovePrograms(options) => remove_all(options).await,
        CommandLine::Pull(options) => match pull::pull(options, &interrupted).await {
            Ok(version) => say(version + "\n"),
            Err(error) => stopped(&error, matches!(error, PullError::Interrupted)),
        },
        CommandLine::Backup(options) => match admin::back_up(options, &interrupted).await {
            Ok(done) => say(done + "\n"),
            Err(error) => stopped(&error, matches!(error, BackupError::Interrupted)),
        },
    }
}

/// Removes one program after the other, also after one that cannot be.
async fn remove_all(RemoveOptions { programs, king }: &RemoveOptions) -> ExitCode {
    let mut exit = Exit::Done.into();
    for program in programs {
        match programs::remove(king, program).await {
            Ok(done) => stderr::say(&done),
            Err(error) => exit = fail(&error),
        }
    }
    exit
}

/// Cancels one job after the other, also after one that cannot be.
async fn cancel_all(options: &CancelOptions) -> ExitCode {
    let mut exit = Exit::Done.into();
    for job in &options.jobs {
        match cancel(options, *job).await {
            Ok(done) => stderr::say(&done),
            Err(error) => exit = fail(&error),
        }
    }
    exit
}

async fn run_job(options: &Options, interrupted: CancellationToken) -> ExitCode {
    if options.dry_run {
        return match dry_run(options, &interrupted).await {
            Ok(exit) => exit.into(),
            Err(DryRunError::Prepare(error)) => not_begun(&error),
            Err(error) => fail(&error),
        };
    }
    let report = match run::run(options, interrupted).await {
        Ok(report) => report,
        Err(error) => return not_begun(&error),
    };
    // Messages of the run come before the summary.
    stderr::flush();
    print_summary(&report.summary, &report.first_failures, options.quiet);
    if options.json
        && let Err(error) = print_json(&report.summary)
    {
        return fail(&std::io::Error::other(format!("failed to print the summary: {error}")));
    }
    report.summary.exit.into()
}

fn not_begun(error: &PrepareError) -> ExitCode {
    stopped(error, error.is_interruption())
}

/// Says why something did not come to its end.
fn stopped(error: &dyn std::error::Error, is_interruption: bool) -> ExitCode {
    let failed = fail(error);
    if is_interruption { Exit::Interrupted.into() } else { failed }
}

fn say(what: impl std::fmt::Display) -> ExitCode {
    match files::write_stdout(what.to_string().as_bytes()) {
        Ok(()) => Exit::Done.into(),
        Err(error) => fail(&std::io::Error::other(format!("failed to write to stdout: {error}"))),
    }
}

fn tell(made: &Made) -> ExitCode {
    stderr::say(&format!("wrote {}; these lines build and run it:", made.folder.display()));
    stderr::flush();
    say(made)
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    stderr::say(&format!("error: {}", chain(error)));
    Exit::CouldNotRun.into()
}
