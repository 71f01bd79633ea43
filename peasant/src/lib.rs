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
pub mod jail;
pub mod last_words;
pub mod options;
pub mod program;
pub mod sandbox;
pub mod serving;
pub mod stdio;
pub mod unit_files;
pub mod verdict;
pub mod wasi;

use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use distwasm_process::{files, handed, handover, start};
use distwasm_proto::{exit::Exit, limits::PROGRAM_BYTES_MAX, walls::Wall};

use crate::check::{CheckError, CheckedInput};
use crate::guest::Grants;
use crate::options::{Command, CompileLimits, Options, Serve, grants_to_compile};
use crate::program::{Program, Unfit};
use crate::sandbox::{Jail, Needs, Open, Weak};
use crate::serving::{Framing, Lock, ServeError};

/// The exit status of `peasant compile` if the machine, not the program, is to blame: for example a full disk.
pub const TROUBLE: u8 = 1;

/// Runs the command line.
pub fn run(options: Options) -> ExitCode {
    if let Err(error) = sandbox::open(options.serve.descriptors) {
        return report("cannot raise the sandbox", &error, TROUBLE);
    }
    let required = &*options.walls;
    match options.command {
        None => match serve(&options.serve, required).and_then(|()| Ok(files::close_stdout()?)) {
            Ok(()) => Exit::Done.into(),
            Err(ServeError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
            Err(error) => report("stopped", &error, Exit::CouldNotRun.status()),
        },
        Some(Command::Compile { output, limits, calling }) => {
            match compile(&output, &grants_to_compile(&calling), limits, required) {
                Ok(()) => Exit::Done.into(),
                Err(CompileError::Unfit(unfit)) => say(&unfit.to_string(), Exit::CouldNotRun.status()),
                Err(error) => report(&format!("cannot compile to {}", output.display()), &error, TROUBLE),
            }
        }
        Some(Command::Check { name, input, input_name, within_ms, guest }) => {
            let input = input.map(|path| CheckedInput { path, name: input_name });
            match check::check(&name, input, Duration::from_millis(within_ms), guest.grants(), required) {
                Ok(()) => Exit::Done.into(),
                Err(CheckError::Unfit(why)) => say(&format!("{name}: {why}"), Exit::CouldNotRun.status()),
                Err(CheckError::Failed(why)) => {
                    say(&format!("{name} failed on the input: {why}"), Exit::SomeFailed.status())
                }
                Err(error) => report("cannot check", &error, TROUBLE),
            }
        }
        Some(Command::Jail { of, share, attempt }) => match jail::show(of, share, &attempt) {
            Ok(()) => Exit::Done.into(),
            Err(error) => report("cannot tell about the jail", &error, TROUBLE),
        },
    }
}

/// Says why the arguments cannot be used.
pub fn refuse(error: &io::Error) -> ExitCode {
    report("cannot read its arguments", error, Exit::CouldNotRun.status())
}

fn serve(options: &Serve, required: &[Wall]) -> Result<(), ServeError> {
    let framing = match options.descriptors {
        Some(number) => {
            // While there is one thread.
            start::make_room_for_descriptors();
            let socket = handed::inherited(handover::FLAG, number).map_err(ServeError::Socket)?;
            Framing::WithFiles(handover::Receiver::new(socket))
        }
        None if options.described => Framing::Described,
        None => Framing::Inputs,
    };
    let intake = serving::open(options.compiled.as_deref(), options.guest.grants());
    let compilers = engine::compilers();
    let jail = Jail::enter(&intake.as_ref().map_or_else(|_| Open::default(), |intake| intake.grants.open_folders()));
    if options.compiled.is_none() {
        engine::start_compilers(compilers);
    }
    // Reads larger than the buffer of the standard library's stdin bypass it.
    let (stdin, stdout) = (io::stdin().lock(), answers::stdout()?);
    serving::serve(intake, framing, stdin, stdout, Some(Lock { jail, required }))
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
    /// A wall that was wanted does not hold, so no program was read.
    #[error(transparent)]
    Jail(#[from] Weak),
}

fn compile(output: &Path, grants: &Grants, limits: CompileLimits, required: &[Wall]) -> Result<(), CompileError> {
    let mut file = files::create_private(output)?;
    enter_to_compile(&Open::default(), limits)?.lock(Needs::default(), required)?;
    let compiled = Program::compile(&read_program()?, grants)?.serialize()?;
    file.write_all(&compiled)?;
    file.sync_all()?;
    Ok(files::close(file)?)
}

/// Enters the jail of a compiler, and starts its threads.
fn enter_to_compile(open: &Open<'_>, limits: CompileLimits) -> io::Result<Jail> {
    let compilers = engine::compilers();
    let jail = Jail::enter(open);
    engine::start_compilers(compilers);
    sandbox::limit_compiling(limits.cpu_seconds, limits.data_bytes)?;
    Ok(jail)
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
