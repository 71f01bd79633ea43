//! The ways to call a guest. Each is one file, and one arm in [`start`].

mod call;
mod command;
mod component;
mod process_stdio;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use distwasm_proto::failure::{Failure, FailureKind};
use tokio::runtime::{Builder, Runtime};
use wasmtime::{Instance, Store};
use wasmtime_wasi::I32Exit;

use crate::guest::{Grants, Guest};
use crate::program::{ModuleEntry, ModuleProgram, Program};
use crate::stdio::Input;

/// One unit, as its guest gets it.
#[derive(Debug)]
pub struct Unit {
    /// The input.
    pub input: Input,
    /// The file that the answer goes to, if it does not go through the pipe.
    pub output: Option<File>,
    /// The body of a [`Description`](distwasm_proto::pipe::Description), if the duke sends them.
    pub description: Option<Bytes>,
}

/// A guest that is ready for units.
pub trait Abi {
    /// Answers one unit; with nothing if the answer is in the unit's file. After a failure the next unit gets a new
    /// instance.
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure>;
}

/// Initialises a program's guest. `runtime` comes from [`runtime`].
pub fn start(program: Program, grants: Grants, runtime: Option<Runtime>) -> Result<Box<dyn Abi>, Failure> {
    let grants = Arc::new(grants);
    match (program, runtime) {
        (Program::Module(program), Some(runtime)) => {
            let entered = runtime.enter();
            let guest = start_module(program, grants)?;
            drop(entered);
            Ok(Box::new(WithFiles { runtime, guest }))
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

/// The runtime of a guest that may read files, with its thread for them. Must be made before the jail is locked.
pub fn runtime_for_files(grants: &Grants) -> io::Result<Option<Runtime>> {
    if grants.dirs.is_empty() {
        return Ok(None);
    }
    let runtime = current_thread()?;
    // Starts the thread now. It never ends, because another could not be started later.
    runtime.block_on(runtime.spawn_blocking(|| ()))?;
    Ok(Some(runtime))
}

/// The runtime that `wasmtime-wasi` needs for components, and for modules that may read files; by itself it would make
/// one with more threads. `for_files` comes from [`runtime_for_files`].
pub fn runtime(program: &Program, for_files: Option<Runtime>) -> io::Result<Option<Runtime>> {
    match (program, for_files) {
        (Program::Component(_), None) => current_thread().map(Some),
        (_, for_files) => Ok(for_files),
    }
}

fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().max_blocking_threads(1).thread_keep_alive(FOR_EVER).build()
}

/// No limit in practice, longer than any process lives: 30 years.
const FOR_EVER: Duration = Duration::from_secs(1_000_000_000);

/// A module that may read files.
struct WithFiles {
    runtime: Runtime,
    guest: Box<dyn Abi>,
}

impl Abi for WithFiles {
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure> {
        let _entered = self.runtime.enter();
        self.guest.answer(unit)
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
