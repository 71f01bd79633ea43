//! The original's ABI: `ProcessStdio(size)` on one instance that lives from unit to unit.
//!
//! For each unit the export is called with the input's length, reads the input from stdin, and writes a 32-bit
//! little-endian length and that many bytes to stdout. After a failure the instance is thrown away.

use std::sync::Arc;

use bytes::Bytes;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    pipe::HEADER_BYTES,
};
use wasmtime::{InstancePre, Store, TypedFunc};

use super::{Abi, Unit, no_guest};
use crate::guest::{self, Grants, Guest};
use crate::verdict;

/// A program with `ProcessStdio`.
pub struct ProcessStdio {
    linked: InstancePre<Guest>,
    grants: Arc<Grants>,
    /// `None` after a failure, until the next unit. Always `None` if each unit gets an instance of its own.
    instance: Option<Instance>,
    /// The last unit's answer, preceded by its length. The next one reuses its buffer.
    answer: Vec<u8>,
}

struct Instance {
    store: Store<Guest>,
    process: TypedFunc<i32, ()>,
    /// The guest has answered and exited, and must not be called again.
    is_spent: bool,
}

impl ProcessStdio {
    /// Makes and initialises the first instance.
    pub fn start(linked: InstancePre<Guest>, mut grants: Arc<Grants>) -> Result<ProcessStdio, Failure> {
        // The length before the answer goes through stdout, too.
        let granted = Arc::make_mut(&mut grants);
        granted.output_bytes_max = granted.output_bytes_max.saturating_add(HEADER_BYTES);
        let instance = Some(Instance::new(&linked, &grants, None)?).filter(|_| !grants.fresh);
        Ok(ProcessStdio { linked, grants, instance, answer: Vec::new() })
    }
}

impl Abi for ProcessStdio {
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            // An instance that serves many units is not told of the first one.
            None => Instance::new(&self.linked, &self.grants, unit.description.filter(|_| self.grants.fresh))?,
        };
        instance.process(unit.input, &mut self.answer)?;
        let is_kept = !instance.is_spent && !self.grants.fresh;
        self.instance = Some(instance).filter(|_| is_kept);
        Ok(self.answer.get(HEADER_BYTES..).unwrap_or_default())
    }
}

impl Instance {
    fn new(linked: &InstancePre<Guest>, grants: &Arc<Grants>, description: Option<Bytes>) -> Result<Instance, Failure> {
        let mut store =
            guest::store(linked.module().engine(), grants, description).map_err(|error| no_guest(&error))?;
        match Instance::initialise(linked, &mut store) {
            Ok(process) => Ok(Instance { store, process, is_spent: false }),
            Err(error) => {
                // Exit status 0 is allowed in the initialiser only. Here it means that there is no instance.
                verdict::of_error(&error, store.data())?;
                Err(verdict::of_answer("exited while it was instantiated".to_owned(), store.data()))
            }
        }
    }

    fn initialise(linked: &InstancePre<Guest>, store: &mut Store<Guest>) -> wasmtime::Result<TypedFunc<i32, ()>> {
        let instance = linked.instantiate(&mut *store)?;
        let process = instance.get_typed_func(&mut *store, "ProcessStdio")?;
        super::initialise(&instance, store)?;
        Ok(process)
    }

    fn process(&mut self, input: Bytes, answer: &mut Vec<u8>) -> Result<(), Failure> {
        let size = i32::try_from(input.len()).map_err(|_| {
            Failure::new(FailureKind::Input, format!("an input of {} bytes is longer than 2 GiB - 1", input.len()))
        })?;
        let guest = self.store.data_mut();
        guest.bounds.begin();
        guest.stdio.lock().begin(input, answer);
        let ended = self.process.call(&mut self.store, size);
        let guest = self.store.data();
        guest.stdio.lock().end(answer);
        if let Err(error) = ended {
            verdict::of_error(&error, guest)?;
            self.is_spent = true;
        }
        self.check(answer)
    }

    /// Checks that stdout holds exactly one answer.
    fn check(&self, output: &[u8]) -> Result<(), Failure> {
        let broken = |message: String| {
            let message = if self.is_spent { format!("exited with status 0 and {message}") } else { message };
            Err(verdict::of_answer(message, self.store.data()))
        };
        let Some((header, body)) = output.split_first_chunk::<HEADER_BYTES>() else {
            let count = output.len();
            return broken(format!("wrote {count} bytes to stdout, where the answer's length alone takes 4"));
        };
        let claimed = u32::from_le_bytes(*header) as usize;
        if claimed != body.len() {
            let wrote = body.len();
            return broken(format!("claims an answer of {claimed} bytes, but wrote {wrote} after the length"));
        }
        Ok(())
    }
}
