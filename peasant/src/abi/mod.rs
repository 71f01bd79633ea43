//! The ways to call a guest. Each is one file, and one arm in [`start`].

mod call;
mod command;
mod component;
mod process_stdio;

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use distwasm_process::files;
use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::pipe::Description;
use tokio::runtime::{Builder, Runtime};
use wasmtime::{Instance, Store};
use wasmtime_wasi::I32Exit;

use crate::guest::{self, Grants, Guest};
use crate::program::{ModuleEntry, ModuleProgram, Program};
use crate::stdio::{Input, StdioError};
use crate::unit_files::{PackError, UnitFiles};

/// One unit, as its guest gets it.
#[derive(Debug)]
pub struct Unit {
    /// The input.
    pub input: Input,
    /// The file that the answer goes to, if it does not go through the pipe.
    pub output: Option<File>,
    /// The body of a [`Description`], if the duke sends them.
    pub description: Option<Bytes>,
}

/// A guest that is ready for units.
pub trait Abi {
    /// Answers one unit; with nothing if the answer is in the unit's file. After a failure the next unit gets a new
    /// instance.
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure>;

    /// What the guest has written to its log in the last unit, if its result is left in a file.
    fn log(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Initialises a program's guest. `runtime` comes from [`runtime`].
pub fn start(program: Program, grants: Grants, runtime: Option<Runtime>) -> Result<Box<dyn Abi>, Failure> {
    let names_output = grants.args.name_output();
    if names_output && !program.is_command() {
        let why = "the arguments name its result as a file ({out}) or a folder ({outdir}), which only a program with _start can have";
        return Err(Failure::new(FailureKind::Program, why));
    }
    let opens_files = program.opens_files();
    if !opens_files && (names_output || grants.args.name_input()) && grants.files.is_some() {
        let why = "the arguments name its input or result as a file ({}, {out} or {outdir}), but it imports no function that opens files";
        return Err(Failure::new(FailureKind::Program, why));
    }
    let grants = Arc::new(grants);
    let guest = start_guest(program, &grants, runtime)?;
    Ok(match grants.files.as_ref().filter(|_| opens_files) {
        Some(files) => Box::new(WithFiles { files: Arc::clone(files), grants, guest, answer: Vec::new() }),
        None => guest,
    })
}

fn start_guest(program: Program, grants: &Arc<Grants>, runtime: Option<Runtime>) -> Result<Box<dyn Abi>, Failure> {
    let grants = Arc::clone(grants);
    match (program, runtime) {
        (Program::Module(program), Some(runtime)) => {
            let entered = runtime.enter();
            let guest = start_module(program, grants)?;
            drop(entered);
            Ok(Box::new(InRuntime { runtime, guest }))
        }
        (Program::Module(program), None) => start_module(program, grants),
        (Program::Component(program), Some(runtime)) => {
            Ok(Box::new(component::Component::start(program, grants, runtime)?))
        }
        (Program::Component(_), None) => Err(Failure::new(FailureKind::Other, "a component needs a runtime")),
    }
}

fn start_module(program: ModuleProgram, grants: Arc<Grants>) -> Result<Box<dyn Abi>, Failure> {
    Ok(match program.entry {
        ModuleEntry::ProcessStdio => Box::new(process_stdio::ProcessStdio::start(program.linked, grants)?),
        ModuleEntry::Command => Box::new(command::Command::start(program.linked, grants)?),
        ModuleEntry::Call(name) => Box::new(call::Call::start(program.linked, &name, grants)?),
    })
}

/// The runtime that `wasmtime-wasi` needs for components, and for modules that may open files; by itself it would make one
/// with threads, of which there can be none in the jail. What a guest does with files is done by the thread itself.
pub fn runtime(program: &Program) -> io::Result<Option<Runtime>> {
    program.opens_files().then(|| Builder::new_current_thread().enable_time().build()).transpose()
}

/// A guest with files of its own.
struct WithFiles {
    files: Arc<UnitFiles>,
    grants: Arc<Grants>,
    guest: Box<dyn Abi>,
    /// An answer that was left in a file.
    answer: Vec<u8>,
}

impl Abi for WithFiles {
    fn answer(&mut self, mut unit: Unit) -> Result<&[u8], Failure> {
        let arguments = &self.grants.args;
        let description = unit.description.clone();
        let filling = guest::filling(description.as_ref().and_then(|bytes| Description::parse(bytes)));
        unit.input = self.files.begin(arguments, &filling, unit.input)?;
        if !arguments.name_output() {
            let answered = self.guest.answer(unit);
            let answered = answered.map_err(|failure| self.files.explain(failure));
            self.files.end();
            return answered;
        }
        let output = unit.output.take();
        let answered = self.guest.answer(unit).map(drop).map_err(|failure| self.files.explain(failure));
        let delivered = answered.and_then(|()| {
            let delivered = self.files.check_room().and_then(|()| match arguments.name_output_folder() {
                true => deliver_folder(&self.files, output, &self.grants, &mut self.answer),
                false => {
                    let result = self.files.result(&arguments.output_path(&filling))?;
                    deliver_file(result, output, &self.grants, &mut self.answer)
                }
            });
            delivered.map_err(|failure| failure.with_stderr(&self.guest.log()))
        });
        self.files.end();
        delivered.map(|()| &*self.answer)
    }
}

/// Makes a file the answer, or writes it to the file that should hold that.
fn deliver_file(mut result: File, output: Option<File>, grants: &Grants, answer: &mut Vec<u8>) -> Result<(), Failure> {
    answer.clear();
    let bytes = result.metadata().map_err(StdioError::Output)?.len();
    let (in_memory, in_file) = (grants.output_bytes_max as u64, grants.file_bytes_max);
    match output {
        None if bytes > in_memory => return Err(StdioError::too_long_for_memory(in_memory, in_file).into()),
        Some(_) if bytes > in_file => return Err(StdioError::OutputTooLong { output_bytes_max: in_file }.into()),
        _ => {}
    }
    let written = match output {
        None => result.read_to_end(answer).map(drop),
        Some(mut output) => io::copy(&mut result, &mut output).and_then(|_| files::close(output)),
    };
    written.map_err(|error| StdioError::Output(error).into())
}

/// Makes an archive of the folder of results the answer, or writes it to the file that should hold that.
fn deliver_folder(
    files: &UnitFiles,
    output: Option<File>,
    grants: &Grants,
    answer: &mut Vec<u8>,
) -> Result<(), Failure> {
    answer.clear();
    let (in_memory, in_file) = (grants.output_bytes_max as u64, grants.file_bytes_max);
    let (packed, too_long) = match output {
        None => (files.pack(answer, in_memory), StdioError::too_long_for_memory(in_memory, in_file)),
        Some(mut output) => {
            let packed = files.pack(&mut output, in_file);
            let closed = packed.and_then(|()| files::close(output).map_err(PackError::Write));
            (closed, StdioError::OutputTooLong { output_bytes_max: in_file })
        }
    };
    packed.map_err(|error| match error {
        PackError::NoResult(failure) => failure,
        PackError::TooLong => too_long.into(),
        PackError::Write(error) => StdioError::Output(error).into(),
    })
}

/// A module that may open files.
struct InRuntime {
    runtime: Runtime,
    guest: Box<dyn Abi>,
}

impl Abi for InRuntime {
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure> {
        let _entered = self.runtime.enter();
        self.guest.answer(unit)
    }

    fn log(&self) -> Vec<u8> {
        self.guest.log()
    }
}

/// If a guest cannot be made, the machine is to blame.
fn no_guest(error: &wasmtime::Error) -> Failure {
    Failure::new(FailureKind::Other, format!("{error:#}"))
}

/// Calls the initialiser of a module that is not a command: `_initialize`, else `_start`. It may exit with status 0.
fn initialise(instance: &Instance, store: &mut Store<Guest>) -> wasmtime::Result<()> {
    for name in ["_initialize", "_start"] {
        if instance.get_func(&mut *store, name).is_some() {
            let called = instance.get_typed_func::<(), ()>(&mut *store, name)?.call(store, ());
            return match called {
                Err(error) if !matches!(error.downcast_ref(), Some(I32Exit(0))) => Err(error),
                _ => Ok(()),
            };
        }
    }
    Ok(())
}
