//! Plain WASI programs: stdin in, stdout out, a fresh instance for each unit.

use bytes::Bytes;
use distwasm_proto::failure::Failure;
use wasmtime::{InstancePre, Store};

use super::Abi;
use crate::guest::{self, Grants, Guest};
use crate::verdict;

/// A program with `_start`.
pub struct Command {
    linked: InstancePre<Guest>,
    grants: Grants,
    /// The last unit's answer, whose room the next one uses again.
    answer: Vec<u8>,
}

impl Command {
    /// Makes one instance, which warms the pool and shows that the program fits into its memory.
    pub fn start(linked: InstancePre<Guest>, grants: Grants) -> Result<Command, Failure> {
        let mut store = guest::store(linked.module().engine(), &grants);
        if let Err(error) = linked.instantiate(&mut store) {
            verdict::of_error(&error, store.data())?;
        }
        Ok(Command { linked, grants, answer: Vec::new() })
    }

    fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let instance = self.linked.instantiate(&mut *store)?;
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
    }
}

impl Abi for Command {
    fn answer(&mut self, input: Bytes) -> Result<&[u8], Failure> {
        let mut store = guest::store(self.linked.module().engine(), &self.grants);
        let stdio = &mut store.data_mut().stdio;
        stdio.swap_output(std::mem::take(&mut self.answer));
        stdio.begin(input);
        let ended = self.run(&mut store);
        self.answer = store.data_mut().stdio.swap_output(Vec::new());
        match ended {
            Ok(()) => Ok(&self.answer),
            Err(error) => verdict::of_error(&error, store.data()).map(|()| self.answer.as_slice()),
        }
    }
}
