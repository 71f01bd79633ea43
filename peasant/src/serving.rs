//! The loop: answers every input that has arrived, in order, and writes the answers when no complete input is left.

use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;

use bytes::Bytes;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    limits::{PROGRAM_BYTES_MAX, UNIT_BYTES_MAX, UNIT_DESCRIPTION_BYTES_MAX},
    pipe::Description,
};

use crate::abi::{self, Abi, Unit};
use crate::answers::{Answers, Held};
use crate::determinism::Clock;
use crate::guest::Grants;
use crate::inputs::{InputError, Inputs};
use crate::program::{LoadError, Program, Unfit};

/// Why a peasant stopped before its inputs ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The program cannot run; its duke has been told.
    #[error("the program cannot run: {0}")]
    Program(String),
    /// The next input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The frame that should describe the next unit is too short.
    #[error("a frame of {0} bytes on stdin is too short to describe a unit")]
    Description(usize),
    /// The answers cannot be written.
    #[error("cannot write to stdout")]
    Output(#[from] io::Error),
    /// The watcher thread cannot be started.
    #[error("cannot start a thread")]
    Watcher(#[source] io::Error),
    /// The sandbox could not be closed, so no guest was run.
    #[error("cannot close the sandbox")]
    Sandbox(#[source] io::Error),
}

/// Where the program comes from.
#[derive(Clone, Copy, Debug)]
pub enum ProgramSource<'a> {
    /// The first frame.
    FirstFrame,
    /// A file of the duke's own cache.
    Compiled(&'a Path),
}

/// Enough, because the watcher calls nothing but the system.
const WATCHER_STACK_BYTES: usize = 64 << 10;

/// How the peasant takes in its program and its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Intake<'a> {
    /// Where the program comes from.
    pub source: ProgramSource<'a>,
    /// Whether a description precedes each input.
    pub described: bool,
}

/// Serves until the inputs end. `close_sandbox` is called when the program is loaded and before any of it runs.
pub fn serve(
    intake: Intake<'_>,
    grants: Grants,
    stdin: impl Read,
    stdout: impl Write + Send,
    close_sandbox: impl FnOnce() -> io::Result<()>,
) -> Result<(), ServeError> {
    let mut inputs = Inputs::new(stdin);
    let held = Held::new(stdout, Clock::Real);
    thread::scope(|scope| {
        // Started before the sandbox is closed, because no new threads are possible afterwards.
        let watcher = thread::Builder::new().stack_size(WATCHER_STACK_BYTES).spawn_scoped(scope, || held.watch());
        let watcher = watcher.map_err(ServeError::Watcher)?;
        let answers = Answers::new(&held, watcher.thread().clone());
        serve_to(answers, intake, grants, &mut inputs, close_sandbox)
    })
}

fn serve_to(
    mut answers: Answers<'_, impl Write>,
    intake: Intake<'_>,
    grants: Grants,
    inputs: &mut Inputs<impl Read>,
    close_sandbox: impl FnOnce() -> io::Result<()>,
) -> Result<(), ServeError> {
    match start(intake.source, grants, inputs, close_sandbox) {
        Ok(mut guest) => {
            answers.write_ready()?;
            answer_all(intake.described, inputs, &mut answers, guest.as_mut())
        }
        Err(StartError::Failed(failure)) => {
            answers.push(Err(&failure), answers.now())?;
            answers.write_held()?;
            Err(ServeError::Program(failure.message))
        }
        Err(StartError::Stopped(error)) => Err(error),
    }
}

/// Why there is no guest.
enum StartError {
    /// The duke is told this failure.
    Failed(Failure),
    /// The peasant stops, and its duke sees no more than its end.
    Stopped(ServeError),
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> StartError {
        StartError::Failed(failure)
    }
}

impl From<Unfit> for StartError {
    fn from(unfit: Unfit) -> StartError {
        Failure::new(FailureKind::Program, unfit.0).into()
    }
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> StartError {
        match error {
            LoadError::Unfit(why) => why.into(),
            LoadError::File(why) => Failure::new(FailureKind::Other, why).into(),
        }
    }
}

impl From<ServeError> for StartError {
    fn from(error: ServeError) -> StartError {
        StartError::Stopped(error)
    }
}

fn start(
    source: ProgramSource<'_>,
    grants: Grants,
    inputs: &mut Inputs<impl Read>,
    close_sandbox: impl FnOnce() -> io::Result<()>,
) -> Result<Box<dyn Abi>, StartError> {
    let program = load(source, &grants, inputs)?;
    program.make_image()?;
    let runtime = abi::runtime(&program, &grants);
    let runtime = runtime.map_err(|error| Failure::new(FailureKind::Other, format!("no runtime: {error}")))?;
    close_sandbox().map_err(ServeError::Sandbox)?;
    Ok(abi::start(program, grants, runtime).map_err(|failure| cannot_be_initialised(&failure))?)
}

fn load(source: ProgramSource<'_>, grants: &Grants, inputs: &mut Inputs<impl Read>) -> Result<Program, StartError> {
    let bytes = match source {
        // SAFETY: the file comes from the duke's own cache, as the manual of the flag demands.
        ProgramSource::Compiled(path) => return Ok(unsafe { Program::load(path, grants) }?),
        ProgramSource::FirstFrame => match inputs.next(PROGRAM_BYTES_MAX) {
            Ok(bytes) => bytes.ok_or_else(|| Unfit("no program came before the end of stdin".to_owned()))?,
            Err(InputError::TooLong { got, most }) => {
                return Err(
                    Unfit(format!("a program of {got} bytes is longer than the {most} that are allowed")).into()
                );
            }
            Err(error) => return Err(ServeError::Input(error).into()),
        },
    };
    Ok(Program::compile(&bytes, grants)?.ready(grants)?)
}

/// Before the first unit, every failure of the guest is the program's failure. A failure of the machine stays one.
fn cannot_be_initialised(failure: &Failure) -> Failure {
    let kind = if failure.kind == FailureKind::Other { FailureKind::Other } else { FailureKind::Program };
    Failure::new(kind, format!("cannot be initialised: {}", failure.message)).with_stderr(&failure.stderr)
}

fn answer_all(
    described: bool,
    inputs: &mut Inputs<impl Read>,
    answers: &mut Answers<'_, impl Write>,
    guest: &mut dyn Abi,
) -> Result<(), ServeError> {
    loop {
        let mut description = None;
        if described {
            description = next(UNIT_DESCRIPTION_BYTES_MAX, inputs, answers)?;
            match &description {
                Some(body) if Description::parse(body).is_none() => return Err(ServeError::Description(body.len())),
                Some(_) => {}
                None => return Ok(()),
            }
        }
        let Some(input) = next(UNIT_BYTES_MAX, inputs, answers)? else { return Ok(()) };
        let began = answers.now();
        match guest.answer(Unit { input, description }) {
            Ok(answer) => answers.push(Ok(answer), began)?,
            Err(failure) => answers.push(Err(&failure), began)?,
        }
    }
}

/// The next frame. If it has not arrived, held answers are written before waiting for it.
fn next(
    bytes_max: u64,
    inputs: &mut Inputs<impl Read>,
    answers: &mut Answers<'_, impl Write>,
) -> Result<Option<Bytes>, ServeError> {
    match inputs.next_arrived(bytes_max) {
        Ok(Some(body)) => Ok(Some(body)),
        Ok(None) => {
            answers.write_held()?;
            Ok(inputs.next(bytes_max)?)
        }
        Err(error) => {
            answers.write_held()?;
            Err(error.into())
        }
    }
}
