//! Plain WASI programs: stdin in, stdout out, a fresh instance for each unit.

use std::sync::Arc;

use distwasm_proto::failure::Failure;
use wasmtime::{InstancePre, Store};

use super::{Abi, Unit, no_guest};
use crate::guest::{self, Grants, Guest};
use crate::stdio::FileOutput;
use crate::verdict;

/// A program with `_start`.
pub struct Command {
    linked: InstancePre<Guest>,
    grants: Arc<Grants>,
    /// The last unit's answer. The next one reuses its buffer.
    answer: Vec<u8>,
    /// The last unit's log, if results are left in files.
    log: Vec<u8>,
}

impl Command {
    /// Makes one instance, which warms the pool and shows that the program fits into its memory.
    pub fn start(linked: InstancePre<Guest>, grants: Arc<Grants>) -> Result<Command, Failure> {
        let mut store = guest::store(linked.module().engine(), &grants, None).map_err(|error| no_guest(&error))?;
        if let Err(error) = linked.instantiate(&mut store) {
            verdict::of_error(&error, store.data())?;
        }
        Ok(Command { linked, grants, answer: Vec::new(), log: Vec::new() })
    }

    fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let instance = self.linked.instantiate(&mut *store)?;
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
    }
}

impl Abi for Command {
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure> {
        let engine = self.linked.module().engine();
        let mut store = guest::store(engine, &self.grants, unit.description).map_err(|error| no_guest(&error))?;
        let file = unit.output.map(|file| FileOutput::new(file, 0));
        store.data().stdio.lock().begin(unit.input, file, &mut self.answer);
        let judged = match self.run(&mut store) {
            Ok(()) => verdict::of_return(store.data()),
            Err(error) => verdict::of_error(&error, store.data()),
        };
        if self.grants.args.name_output() {
            self.log = store.data().stdio.lock().stderr();
        }
        let written = store.data().stdio.lock().end(&mut self.answer);
        judged?;
        written.map_err(|error| verdict::of_stdio(&error, store.data()))?;
        Ok(&self.answer)
    }

    fn log(&self) -> Vec<u8> {
        self.log.clone()
    }
}
