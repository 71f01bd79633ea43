//! A peasant: one process that runs one WebAssembly program over the inputs on its stdin.
//!
//! The way of an input: [`inputs`] → [`serving`] → [`abi`] → the guest, which calls [`wasi`] on its [`stdio`] →
//! [`verdict`] if it fails → [`answers`]. Before that, [`program`] makes the guest from bytes and [`sandbox`] closes
//! the process.

pub mod abi;
pub mod answers;
pub mod check;
pub mod determinism;
pub mod engine;
pub mod guest;
pub mod inputs;
pub mod options;
pub mod program;
pub mod sandbox;
pub mod serving;
pub mod stdio;
pub mod verdict;
pub mod wasi;

use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use distwasm_process::files;
use distwasm_proto::{exit::Exit, limits::PROGRAM_BYTES_MAX};

use crate::check::CheckError;
use crate::guest::Grants;
use crate::options::{Command, Options, Serve, grants_to_compile};
use crate::program::{Program, Unfit};
use crate::serving::{Intake, ProgramSource, ServeError};

/// The exit status of `peasant compile` if the machine, not the program, is to blame: for example a full disk.
pub const TROUBLE: u8 = 1;

/// Runs the command line.
pub fn run(options: Options) -> ExitCode {
    if let Err(error) = sandbox::open() {
        return report("cannot raise the sandbox", &error, TROUBLE);
    }
    match options.command {
        None => match serve(&options.serve).and_then(|()| Ok(files::close_stdout()?)) {
            Ok(()) => Exit::Done.into(),
            Err(ServeError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
            Err(error) => report("stopped", &error, Exit::CouldNotRun.status()),
        },
        Some(Command::Compile { output, cpu_seconds, data_bytes, calling }) => {
            let limited = sandbox::limit_compiling(cpu_seconds, data_bytes).map_err(CompileError::Machine);
            match limited.and_then(|()| compile(&output, &grants_to_compile(&calling))) {
                Ok(()) => Exit::Done.into(),
                Err(CompileError::Unfit(unfit)) => say(&unfit.to_string(), Exit::CouldNotRun.status()),
                Err(CompileError::Machine(error)) => {
                    report(&format!("cannot compile to {}", output.display()), &error, TROUBLE)
                }
            }
        }
        Some(Command::Check { name, input, within_ms, guest }) => {
            match check::check(&name, input, Duration::from_millis(within_ms), guest.grants()) {
                Ok(()) => Exit::Done.into(),
                Err(CheckError::Unfit(why)) => say(&format!("{name}: {why}"), Exit::CouldNotRun.status()),
                Err(CheckError::Failed(why)) => {
                    say(&format!("{name} failed on the input: {why}"), Exit::SomeFailed.status())
                }
                Err(CheckError::Machine(error)) => report("cannot check", &error, TROUBLE),
            }
        }
        Some(Command::Fingerprint) => match fingerprint() {
            Ok(()) => Exit::Done.into(),
            Err(error) => report("no fingerprint", error.as_ref(), TROUBLE),
        },
    }
}

fn serve(options: &Serve) -> Result<(), ServeError> {
    let source = options.compiled.as_deref().map_or(ProgramSource::FirstFrame, ProgramSource::Compiled);
    let intake = Intake { source, described: options.described };
    // Reads larger than the buffer of the standard library's stdin bypass it.
    serving::serve(intake, options.guest.grants(), io::stdin().lock(), answers::stdout()?, sandbox::close)
}

/// Why a program could not be compiled.
#[derive(Debug, thiserror::Error)]
enum CompileError {
    /// The program cannot run anywhere.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The machine is to blame.
    #[error(transparent)]
    Machine(#[from] io::Error),
}

fn compile(output: &Path, grants: &Grants) -> Result<(), CompileError> {
    let compiled = Program::compile(&read_program()?, grants)?.serialize()?;
    let mut file = files::create_private(output)?;
    file.write_all(&compiled)?;
    file.sync_all()?;
    Ok(files::close(file)?)
}

/// All of stdin.
fn read_program() -> Result<Vec<u8>, CompileError> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(PROGRAM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PROGRAM_BYTES_MAX {
        return Err(Unfit(format!("a program longer than the {PROGRAM_BYTES_MAX} bytes that are allowed")).into());
    }
    Ok(bytes)
}

fn fingerprint() -> Result<(), Box<dyn Error>> {
    let fingerprint = engine::fingerprint(&engine::plain(false)?);
    Ok(writeln!(io::stdout(), "{fingerprint}")?)
}

/// Writes an error and its causes to stderr, and returns the status.
fn report(what: &str, error: &dyn Error, status: u8) -> ExitCode {
    let mut text = format!("peasant: {what}");
    let mut cause = Some(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    say(&text, status)
}

fn say(message: &str, status: u8) -> ExitCode {
    // stderr may be closed; there is no other place to report to.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(status)
}
