//! The bytes that the king holds: inputs until their units have a verdict, programs until their last job is over.

use std::collections::HashMap;

use distwasm_proto::{digest::Digest, ids::UnitNo, payload::Payload};

/// The inputs of one job.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    inputs: HashMap<UnitNo, Payload>,
    bytes: u64,
}

impl Inputs {
    pub(crate) fn insert(&mut self, unit: UnitNo, input: Payload) {
        self.bytes += input.bytes();
        self.inputs.insert(unit, input);
    }

    pub(crate) fn get(&self, unit: UnitNo) -> Option<&Payload> {
        self.inputs.get(&unit)
    }

    pub(crate) fn remove(&mut self, unit: UnitNo) {
        if let Some(input) = self.inputs.remove(&unit) {
            self.bytes -= input.bytes();
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The programs of all jobs, each held once.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    programs: HashMap<Digest, (Payload, usize)>,
}

impl Programs {
    /// Takes in the program of one more job.
    pub(crate) fn insert(&mut self, digest: Digest, program: Payload) {
        self.programs.entry(digest).or_insert((program, 0)).1 += 1;
    }

    pub(crate) fn get(&self, digest: Digest) -> Option<&Payload> {
        self.programs.get(&digest).map(|(program, _)| program)
    }

    /// One job less needs the program.
    pub(crate) fn release(&mut self, digest: Digest) {
        if let Some((_, jobs)) = self.programs.get_mut(&digest) {
            *jobs -= 1;
            if *jobs == 0 {
                self.programs.remove(&digest);
            }
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.programs.values().map(|(program, _)| program.bytes()).sum()
    }
}
