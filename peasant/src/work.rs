//! The loop: every input that has arrived is answered, in order, and the answers leave when no whole input is left.

use std::io::{self, Read, Write};
use std::path::Path;

use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::{PROGRAM_BYTES_MAX, UNIT_BYTES_MAX};

use crate::abi::{self, Abi};
use crate::answers::Answers;
use crate::guest::Grants;
use crate::inputs::{InputError, Inputs};
use crate::program::{Program, Unfit};

/// Why a peasant stopped before its inputs ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The program cannot run; its duke has been told.
    #[error("the program cannot run: {0}")]
    Program(String),
    /// The next input cannot be had.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Nobody takes the answers.
    #[error("cannot write to stdout")]
    Output(#[from] io::Error),
    /// The sandbox could not be closed, so no guest was let in.
    #[error("cannot close the sandbox")]
    Sandbox(#[source] io::Error),
}

/// Where the program comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The first frame.
    FirstFrame,
    /// A file of the duke's own cache.
    Compiled(&'a Path),
}

/// Serves until the inputs end. `close_sandbox` is called when the program is loaded and before any of it runs.
pub fn serve(
    source: Source<'_>,
    grants: Grants,
    stdin: impl Read,
    stdout: impl Write,
    close_sandbox: impl FnOnce() -> io::Result<()>,
) -> Result<(), WorkError> {
    let mut inputs = Inputs::new(stdin);
    let mut answers = Answers::new(stdout);
    let started = load(source, &mut inputs)?.map_err(|why| not_loaded(source, why)).and_then(|program| {
        program.make_image().map_err(unfit)?;
        Ok(close_sandbox().map(|()| abi::start(&program, grants)))
    });
    let started = match started {
        Ok(Ok(started)) => started.map_err(|failure| cannot_be_initialised(&failure)),
        Ok(Err(error)) => return Err(WorkError::Sandbox(error)),
        Err(failure) => Err(failure),
    };
    match started {
        Ok(mut guest) => {
            answers.write_ready()?;
            answer_all(&mut inputs, &mut answers, guest.as_mut())
        }
        Err(failure) => {
            answers.push(Err(&failure), answers.now())?;
            answers.write_held()?;
            Err(WorkError::Program(failure.message))
        }
    }
}

fn load(source: Source<'_>, inputs: &mut Inputs<impl Read>) -> Result<Result<Program, Unfit>, WorkError> {
    match source {
        // SAFETY: the file is the duke's own, as the manual of the flag demands.
        Source::Compiled(path) => Ok(unsafe { Program::load(path) }),
        Source::FirstFrame => match inputs.next(PROGRAM_BYTES_MAX) {
            Ok(Some(bytes)) => Ok(Program::compile(&bytes).and_then(Program::ready)),
            Ok(None) => Ok(Err(Unfit("no program came before the end of stdin".to_owned()))),
            Err(InputError::TooLong { got, most }) => {
                Ok(Err(Unfit(format!("a program of {got} bytes is longer than the {most} that are allowed"))))
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// A compiled program that cannot be loaded is the cache's fault, not the program's.
fn not_loaded(source: Source<'_>, why: Unfit) -> Failure {
    match source {
        Source::FirstFrame => unfit(why),
        Source::Compiled(_) => Failure::new(FailureKind::Other, why.0),
    }
}

fn unfit(unfit: Unfit) -> Failure {
    Failure::new(FailureKind::Program, unfit.0)
}

/// Whatever kind of failure it was: before the first unit it is the program's.
fn cannot_be_initialised(failure: &Failure) -> Failure {
    Failure::new(FailureKind::Program, format!("cannot be initialised: {}", failure.message))
        .with_stderr(&failure.stderr)
}

fn answer_all(
    inputs: &mut Inputs<impl Read>,
    answers: &mut Answers<impl Write>,
    guest: &mut dyn Abi,
) -> Result<(), WorkError> {
    loop {
        let input = match inputs.next_arrived(UNIT_BYTES_MAX) {
            Ok(Some(input)) => input,
            Ok(None) => {
                answers.write_held()?;
                match inputs.next(UNIT_BYTES_MAX)? {
                    Some(input) => input,
                    None => return Ok(()),
                }
            }
            Err(error) => {
                answers.write_held()?;
                return Err(error.into());
            }
        };
        let began = answers.now();
        match guest.answer(input) {
            Ok(answer) => answers.push(Ok(answer), began)?,
            Err(failure) => answers.push(Err(&failure), began)?,
        }
    }
}
