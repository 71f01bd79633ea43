//! The bytes that the king holds: inputs until their units have a verdict, blobs until their last job is over.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use distwasm_proto::{digest::Digest, ids::UnitNo};
use distwasm_transport::payload::Payload;
use rustc_hash::FxHashMap;

/// A unit's name and content.
#[derive(Clone, Debug)]
pub struct UnitInput {
    /// The queen's name for the unit.
    pub name: Bytes,
    /// Its content.
    pub content: Payload,
}

impl UnitInput {
    /// Its size, as the windows count it.
    pub(crate) fn bytes(&self) -> u64 {
        self.name.len() as u64 + self.content.bytes()
    }
}

/// The bytes of the inputs that are held for a job. The reactor counts them, and the border of the queen's link reads
/// them before it lets in a long input.
#[derive(Clone, Debug, Default)]
pub struct HeldBytes(Arc<AtomicU64>);

impl HeldBytes {
    /// How many there are, as far as the reactor has handled what has arrived.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// The inputs of one job.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    inputs: FxHashMap<UnitNo, UnitInput>,
    held: HeldBytes,
}

impl Inputs {
    /// The queen has a link, whose border reads the bytes there.
    pub(crate) fn count_in(&mut self, held: HeldBytes) {
        held.set(self.bytes());
        self.held = held;
    }

    pub(crate) fn insert(&mut self, unit: UnitNo, input: UnitInput) {
        self.held.set(self.bytes() + input.bytes());
        self.inputs.insert(unit, input);
    }

    pub(crate) fn get(&self, unit: UnitNo) -> Option<&UnitInput> {
        self.inputs.get(&unit)
    }

    pub(crate) fn remove(&mut self, unit: UnitNo) {
        if let Some(input) = self.inputs.remove(&unit) {
            self.held.set(self.bytes() - input.bytes());
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.held.get()
    }

    pub(crate) fn count(&self) -> usize {
        self.inputs.len()
    }

    pub(crate) fn units(&self) -> impl Iterator<Item = UnitNo> {
        self.inputs.keys().copied()
    }
}

/// Programs, or archives of shares. Each is held once, however many jobs need it.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    blobs: HashMap<Digest, (Payload, usize)>,
}

impl Blobs {
    /// Counts one more job that needs the blob.
    pub(crate) fn insert(&mut self, digest: Digest, blob: Payload) {
        self.blobs.entry(digest).or_insert((blob, 0)).1 += 1;
    }

    pub(crate) fn get(&self, digest: Digest) -> Option<&Payload> {
        self.blobs.get(&digest).map(|(blob, _)| blob)
    }

    /// Counts one job fewer. Returns whether it was the last one; then the blob is dropped.
    pub(crate) fn release(&mut self, digest: Digest) -> bool {
        let Some((_, jobs)) = self.blobs.get_mut(&digest) else { return false };
        *jobs -= 1;
        let is_last = *jobs == 0;
        if is_last {
            self.blobs.remove(&digest);
        }
        is_last
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.values().map(|(blob, _)| blob.bytes()).sum()
    }
}
