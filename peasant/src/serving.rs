//! The loop: answers every input that has arrived, in order, and writes the answers when no complete input is left.

use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;

use bytes::{Buf, Bytes};
use distwasm_process::handover::{ReceiveError, Receiver};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    limits::{PROGRAM_BYTES_MAX, REFERENCED_ANSWERS_HELD, UNIT_BYTES_MAX, UNIT_DESCRIPTION_BYTES_MAX},
    pipe::{Description, Reference},
    walls::Wall,
};

use crate::abi::{self, Abi, Unit};
use crate::answers::{Answers, Held};
use crate::determinism::Clock;
use crate::guest::Grants;
use crate::inputs::{InputError, Inputs};
use crate::program::{CompiledFile, LoadError, Program, Unfit};
use crate::sandbox::{self, Jail, Needs, Weak};
use crate::stdio::Input;

/// Why a peasant stopped before its inputs ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The program cannot run; its duke has been told.
    #[error("the program cannot run: {0}")]
    Program(String),
    /// The next input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The frame that should describe the next unit does not.
    #[error("a frame of {0} bytes on stdin does not describe a unit")]
    Description(usize),
    /// The socket of open files cannot be used.
    #[error("cannot use the socket of open files")]
    Socket(#[source] io::Error),
    /// The open files of the next unit do not come.
    #[error(transparent)]
    Files(#[from] ReceiveError),
    /// The answers cannot be written.
    #[error("cannot write to stdout")]
    Output(#[from] io::Error),
    /// A thread of the peasant cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The size of files cannot be limited.
    #[error("cannot limit the size of files")]
    Limit(#[source] io::Error),
    /// A wall that was wanted does not hold, so no program was read.
    #[error(transparent)]
    Jail(#[from] Weak),
}

/// Where the program comes from.
#[derive(Debug)]
pub enum ProgramSource {
    /// The first frame.
    FirstFrame,
    /// A file of the duke's own cache.
    Compiled(CompiledFile),
}

/// What comes for each unit.
#[derive(Debug)]
pub enum Framing {
    /// Its input.
    Inputs,
    /// Its description, then its input.
    Described,
    /// Its description with a reference, and its files; then its input, if that is not a file.
    WithFiles(Receiver),
}

/// Enough, because the watcher calls nothing but the system.
const WATCHER_STACK_BYTES: usize = 64 << 10;

/// What a peasant was started with, opened.
#[derive(Debug)]
pub struct Intake {
    /// Where the program comes from.
    pub source: ProgramSource,
    /// What the guest gets.
    pub grants: Grants,
}

/// Opens what a peasant needs, before the process enters the jail.
pub fn open(compiled: Option<&Path>, mut grants: Grants) -> Result<Intake, StartError> {
    grants.claim_stack()?;
    grants.open_dirs()?;
    grants.make_files()?;
    let source = match compiled {
        Some(path) => ProgramSource::Compiled(CompiledFile::open(path)?),
        None => ProgramSource::FirstFrame,
    };
    Ok(Intake { source, grants })
}

/// The last part of the jail, which is locked when all threads have started.
pub struct Lock<'a> {
    /// The jail that the process has entered.
    pub jail: Jail,
    /// The walls that must hold.
    pub required: &'a [Wall],
}

/// Serves until the inputs end. What could not be opened is told to the duke like any other reason why there is no guest.
/// Without a `lock` the process is not jailed, as in tests that serve within their own process.
pub fn serve(
    intake: Result<Intake, StartError>,
    framing: Framing,
    stdin: impl Read,
    stdout: impl Write + Send,
    lock: Option<Lock<'_>>,
) -> Result<(), ServeError> {
    let mut inputs = Inputs::new(stdin);
    let held = Held::new(stdout, Clock::Real);
    thread::scope(|scope| {
        // Started before the jail is locked, because no new threads are possible afterwards.
        let watcher = thread::Builder::new().stack_size(WATCHER_STACK_BYTES).spawn_scoped(scope, || held.watch());
        let watcher = watcher.map_err(ServeError::Thread)?;
        let takes_files = matches!(framing, Framing::WithFiles(_));
        let held_max = if takes_files { REFERENCED_ANSWERS_HELD } else { usize::MAX };
        let mut answers = Answers::new(&held, watcher.thread().clone(), held_max);
        let needs = intake.as_ref().map_or_else(|_| Needs::default(), |intake| intake.grants.needs());
        let writes_files = takes_files || needs.writes_files;
        let is_jailed = lock.is_some();
        if let Some(Lock { mut jail, required }) = lock {
            jail.lock(Needs { takes_files, ..needs }, required)?;
            if writes_files {
                sandbox::survive_file_limit();
            }
        }
        match intake.and_then(|intake| start(intake, is_jailed && !writes_files, &mut inputs)) {
            Ok(mut guest) => {
                answers.write_ready()?;
                answer_all(framing, &mut inputs, &mut answers, guest.as_mut())
            }
            Err(StartError::Failed(failure)) => {
                answers.push(Err(&failure), answers.now())?;
                answers.write_held()?;
                Err(ServeError::Program(failure.message))
            }
            Err(StartError::Stopped(error)) => Err(error),
        }
    })
}

/// Why there is no guest.
#[derive(Debug)]
pub enum StartError {
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
    Intake { source, grants }: Intake,
    limits_files: bool,
    inputs: &mut Inputs<impl Read>,
) -> Result<Box<dyn Abi>, StartError> {
    let program = load(&source, &grants, inputs)?;
    program.make_image()?;
    let runtime = abi::runtime(&program);
    let runtime = runtime.map_err(|error| Failure::new(FailureKind::Other, format!("no runtime: {error}")))?;
    if limits_files {
        sandbox::limit_files().map_err(ServeError::Limit)?;
    }
    Ok(abi::start(program, grants, runtime).map_err(|failure| cannot_be_initialised(&failure))?)
}

fn load(source: &ProgramSource, grants: &Grants, inputs: &mut Inputs<impl Read>) -> Result<Program, StartError> {
    let bytes = match source {
        // SAFETY: the file comes from the duke's own cache, as the manual of the flag demands.
        ProgramSource::Compiled(file) => return Ok(unsafe { Program::load(file, grants) }?),
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
    mut framing: Framing,
    inputs: &mut Inputs<impl Read>,
    answers: &mut Answers<'_, impl Write>,
    guest: &mut dyn Abi,
) -> Result<(), ServeError> {
    while let Some(unit) = next_unit(&mut framing, inputs, answers)? {
        let began = answers.now();
        match unit.and_then(|unit| guest.answer(unit)) {
            Ok(answer) => answers.push(Ok(answer), began)?,
            Err(failure) => answers.push(Err(&failure), began)?,
        }
    }
    Ok(())
}

/// The next unit, or why it cannot be run.
fn next_unit(
    framing: &mut Framing,
    inputs: &mut Inputs<impl Read>,
    answers: &mut Answers<'_, impl Write>,
) -> Result<Option<Result<Unit, Failure>>, ServeError> {
    let (mut description, mut input, mut output) = (None, None, None);
    if !matches!(framing, Framing::Inputs) {
        let Some(mut body) = next(UNIT_DESCRIPTION_BYTES_MAX, inputs, answers)? else { return Ok(None) };
        let wrong = ServeError::Description(body.len());
        if let Framing::WithFiles(files) = framing {
            let Some(reference) = Reference::parse(&body) else { return Err(wrong) };
            body.advance(Reference::BYTES);
            input = reference.input_bytes.map(|bytes| files.next_file().map(|file| (file, bytes))).transpose()?;
            output = reference.output.then(|| files.next_file()).transpose()?;
        }
        if Description::parse(&body).is_none() {
            return Err(wrong);
        }
        description = Some(body);
    }
    let input = match input {
        Some((file, bytes)) => Input::of_file(file, bytes).map_err(Failure::from),
        None => match next(UNIT_BYTES_MAX, inputs, answers)? {
            Some(input) => Ok(Input::Bytes(input)),
            None => return Ok(None),
        },
    };
    Ok(Some(input.map(|input| Unit { input, output, description })))
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
