//! A peasant: one process that runs one WebAssembly program over the inputs on its stdin.
//!
//! The way of an input: [`inputs`] → [`work`] → [`abi`] → the guest, which calls [`wasi`] on its [`stdio`] →
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
pub mod stdio;
pub mod verdict;
pub mod wasi;
pub mod work;

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use distwasm_process::files;
use distwasm_proto::{exit::Exit, limits::PROGRAM_BYTES_MAX};

use crate::guest::Grants;
use crate::options::{Command, Options, Serve, grants_to_compile};
use crate::program::{Program, Unfit};
use crate::work::{Manner, Source, WorkError};

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
            Err(WorkError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
            Err(error) => report("stopped", &error, Exit::CouldNotRun.status()),
        },
        Some(Command::Compile { output, calling }) => match compile(&output, &grants_to_compile(&calling)) {
            Ok(Ok(())) => Exit::Done.into(),
            Ok(Err(unfit)) => say(&unfit.to_string(), Exit::CouldNotRun.status()),
            Err(error) => report(&format!("cannot compile to {}", output.display()), &error, TROUBLE),
        },
        Some(Command::Check { name, input, within_ms, guest }) => {
            let asked = check::Asked { name, input, within: Duration::from_millis(within_ms), grants: guest.grants() };
            match check::check(asked) {
                Ok(Ok(())) => Exit::Done.into(),
                Ok(Err(bad)) => say(&bad.to_string(), bad.exit().status()),
                Err(error) => report("cannot check", &error, TROUBLE),
            }
        }
        Some(Command::Fingerprint) => match fingerprint() {
            Ok(()) => Exit::Done.into(),
            Err(error) => report("no fingerprint", error.as_ref(), TROUBLE),
        },
    }
}

fn serve(options: &Serve) -> Result<(), WorkError> {
    let source = options.compiled.as_deref().map_or(Source::FirstFrame, Source::Compiled);
    let manner = Manner { source, described: options.described };
    // Reads larger than the buffer of the standard library's stdin bypass it.
    work::serve(manner, options.guest.grants(), io::stdin().lock(), answers::stdout()?, sandbox::close)
}

fn compile(output: &Path, grants: &Grants) -> io::Result<Result<(), Unfit>> {
    sandbox::limit_compiling()?;
    let compiled = match read_program()?.and_then(|bytes| Program::compile(&bytes, grants)?.serialize()) {
        Ok(compiled) => compiled,
        Err(unfit) => return Ok(Err(unfit)),
    };
    let mut file = File::create(output)?;
    file.write_all(&compiled)?;
    file.sync_all()?;
    files::close(file)?;
    Ok(Ok(()))
}

/// All of stdin.
fn read_program() -> io::Result<Result<Vec<u8>, Unfit>> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(PROGRAM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PROGRAM_BYTES_MAX {
        return Ok(Err(Unfit(format!("a program longer than the {PROGRAM_BYTES_MAX} bytes that are allowed"))));
    }
    Ok(Ok(bytes))
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
