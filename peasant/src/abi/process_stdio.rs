//! The original's ABI: `ProcessStdio(size)` on one instance that lives from unit to unit.
//!
//! For each unit the export is called with the input's length, reads the input from stdin, and writes a 32-bit
//! little-endian length and that many bytes to stdout. After a failure the instance is thrown away.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use distwasm_proto::{failure::Failure, pipe::HEADER_BYTES};
use wasmtime::{InstancePre, Store, TypedFunc};

use super::{Abi, Unit, no_guest};
use crate::guest::{self, Grants, Guest};
use crate::stdio::{FileOutput, Input, Written};
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
        instance.process(unit.input, unit.output, &mut self.answer)?;
        let is_kept = !instance.is_spent && !self.grants.fresh;
        self.instance = Some(instance).filter(|_| is_kept);
        Ok(self.answer.get(HEADER_BYTES..).unwrap_or_default())
    }
}

/// Whether a byte is one that programs print. A length of four such bytes would be at least 150 MB.
fn is_of_text(byte: &u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')
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

    fn process(&mut self, input: Input, output: Option<File>, answer: &mut Vec<u8>) -> Result<(), Failure> {
        input.check_size()?;
        // The check has seen that it fits.
        let size = i32::try_from(input.bytes()).unwrap_or(i32::MAX);
        let guest = self.store.data_mut();
        guest.bounds.begin();
        guest.stdio.lock().begin(input, output.map(|file| FileOutput::new(file, HEADER_BYTES)), answer);
        let ended = self.process.call(&mut self.store, size);
        let guest = self.store.data();
        let written = guest.stdio.lock().end(answer);
        if let Err(error) = ended {
            verdict::of_error(&error, guest)?;
            self.is_spent = true;
        }
        match written.map_err(|error| verdict::of_stdio(&error, guest))? {
            Some(Written { head, body_bytes }) => self.check(&head, body_bytes),
            None => {
                let (head, body) = answer.split_at(answer.len().min(HEADER_BYTES));
                self.check(head, body.len() as u64)
            }
        }
    }

    /// Checks that stdout got exactly one answer.
    fn check(&self, head: &[u8], body_bytes: u64) -> Result<(), Failure> {
        let broken = |message: String| {
            let message = if self.is_spent { format!("exited with status 0 and {message}") } else { message };
            Err(verdict::of_answer(message, self.store.data()))
        };
        let Ok(header) = <[u8; HEADER_BYTES]>::try_from(head) else {
            let count = head.len();
            return broken(format!("wrote {count} bytes to stdout, where the answer's length alone takes 4"));
        };
        let claimed = u32::from_le_bytes(header);
        if u64::from(claimed) != body_bytes && header.iter().all(is_of_text) {
            let text = String::from_utf8_lossy(&header);
            return broken(format!(
                "wrote text to stdout, which begins with `{}`: stdout is for the answer alone, its length in 4 bytes and \
                 then its bytes; print to stderr instead (eprintln!, console.error)",
                text.trim_end()
            ));
        }
        if u64::from(claimed) != body_bytes {
            return broken(format!("claims an answer of {claimed} bytes, but wrote {body_bytes} after the length"));
        }
        Ok(())
    }
}
