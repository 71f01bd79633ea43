//! The original's ABI: `ProcessStdio(size)` on one instance that lives from unit to unit.
//!
//! For each unit the export is called with the input's length, reads the input from stdin, and writes a 32-bit
//! little-endian length and that many bytes to stdout. After a failure the instance is thrown away.

use bytes::Bytes;
use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::pipe::HEADER_BYTES;
use wasmtime::{InstancePre, Store, TypedFunc};

use super::Abi;
use crate::guest::{self, Grants, Guest};
use crate::verdict;

/// A program with `ProcessStdio`.
pub struct ProcessStdio {
    linked: InstancePre<Guest>,
    grants: Grants,
    /// `None` after a failure, until the next unit.
    instance: Option<Instance>,
}

struct Instance {
    store: Store<Guest>,
    process: TypedFunc<i32, ()>,
    /// It has answered and exited, and must not be called again.
    is_spent: bool,
}

impl ProcessStdio {
    /// Makes and initialises the first instance.
    pub fn start(linked: InstancePre<Guest>, mut grants: Grants) -> Result<ProcessStdio, Failure> {
        // The length before the answer goes through stdout too.
        grants.output_bytes_max = grants.output_bytes_max.saturating_add(HEADER_BYTES);
        let instance = Instance::new(&linked, &grants)?;
        Ok(ProcessStdio { linked, grants, instance: Some(instance) })
    }
}

impl Abi for ProcessStdio {
    fn answer(&mut self, input: Bytes) -> Result<&[u8], Failure> {
        let mut instance = match self.instance.take().filter(|instance| !instance.is_spent) {
            Some(instance) => instance,
            None => Instance::new(&self.linked, &self.grants)?,
        };
        instance.process(input)?;
        self.instance.insert(instance).answer()
    }
}

impl Instance {
    fn new(linked: &InstancePre<Guest>, grants: &Grants) -> Result<Instance, Failure> {
        let mut store = guest::store(linked.module().engine(), grants);
        match Instance::initialise(linked, &mut store) {
            Ok(process) => Ok(Instance { store, process, is_spent: false }),
            Err(error) => {
                // Exit status 0 was dealt with where it may happen; here it would mean an instance that never came to be.
                verdict::of_error(&error, store.data())?;
                Err(verdict::of_answer("exited while it was instantiated".to_owned(), store.data()))
            }
        }
    }

    fn initialise(linked: &InstancePre<Guest>, store: &mut Store<Guest>) -> wasmtime::Result<TypedFunc<i32, ()>> {
        let instance = linked.instantiate(&mut *store)?;
        let process = instance.get_typed_func(&mut *store, "ProcessStdio")?;
        let mut start = None;
        for name in ["_initialize", "_start"] {
            if start.is_none() && instance.get_func(&mut *store, name).is_some() {
                start = Some(instance.get_typed_func::<(), ()>(&mut *store, name)?);
            }
        }
        match start.map(|start| start.call(&mut *store, ())) {
            Some(Err(error)) if !is_exit_0(&error) => Err(error),
            _ => Ok(process),
        }
    }

    fn process(&mut self, input: Bytes) -> Result<(), Failure> {
        let size = input.len();
        let guest = self.store.data_mut();
        guest.stdio.begin(input);
        guest.bounds.begin();
        let size = i32::try_from(size).map_err(|_| {
            Failure::new(FailureKind::Input, format!("an input of {size} bytes is longer than 2 GiB - 1"))
        })?;
        let ended = self.process.call(&mut self.store, size);
        self.store.data_mut().stdio.end();
        if let Err(error) = ended {
            verdict::of_error(&error, self.store.data())?;
            self.is_spent = true;
        }
        self.answer().map(|_| ())
    }

    /// The answer that stdout holds, if it is exactly one.
    fn answer(&self) -> Result<&[u8], Failure> {
        let guest = self.store.data();
        let output = guest.stdio.output();
        let broken = |message: String| {
            let message = if self.is_spent { format!("exited with status 0 and {message}") } else { message };
            verdict::of_answer(message, guest)
        };
        let Some((header, body)) = output.split_first_chunk::<HEADER_BYTES>() else {
            let count = output.len();
            return Err(broken(format!("wrote {count} bytes to stdout, where the answer's length alone takes 4")));
        };
        let claimed = u32::from_le_bytes(*header) as usize;
        if claimed != body.len() {
            return Err(broken(format!(
                "claims an answer of {claimed} bytes, but wrote {} after the length",
                body.len()
            )));
        }
        Ok(body)
    }
}

fn is_exit_0(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(wasmtime_wasi::I32Exit(0)))
}
