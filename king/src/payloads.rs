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

use crate::budget::{Account, Claim, Full};

/// A unit's name and content.
#[derive(Debug)]
pub struct UnitInput {
    /// The queen's name for the unit.
    pub name: Bytes,
    /// Its content.
    pub content: Payload,
    /// What the queen says of its places, for the duke.
    pub in_places: bool,
}

impl UnitInput {
    /// Its size, as the windows count it.
    pub(crate) fn bytes(&self) -> u64 {
        self.name.len() as u64 + self.content.bytes()
    }
}

/// The bytes of the inputs that are held for a job. The reactor counts them, and the border of the queen's link reads
/// them before it lets in an input.
#[derive(Clone, Debug)]
pub struct HeldBytes {
    bytes: Arc<AtomicU64>,
    account: Account,
}

impl HeldBytes {
    /// None yet, on the account of the queen.
    pub fn new(account: Account) -> HeldBytes {
        HeldBytes { bytes: Arc::default(), account }
    }

    /// How many there are, as far as the reactor has handled what has arrived.
    pub(crate) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes the room for an input of this size that begins to arrive beside those that are `arriving`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn claim(&self, arriving: &mut Claim, bytes: u64) -> Result<(), Full> {
        let own = self.get().saturating_add(arriving.bytes());
        if own.saturating_add(bytes) > self.account.reserve() {
            return arriving.add(bytes);
        }
        arriving.force(bytes);
        Ok(())
    }

    /// Nothing arrives yet.
    pub(crate) fn arriving(&self) -> Claim {
        Claim::new(self.account.clone())
    }

    /// How many bytes the queen may have open, inputs on their way among them.
    pub(crate) fn window(&self) -> u64 {
        self.account.window(self.get())
    }

    /// The longest input for which there may be room.
    pub(crate) fn longest(&self) -> u64 {
        self.account.most()
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.account.take(bytes);
    }

    fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.account.give_back(bytes);
    }
}

/// The room that a queen takes up.
#[derive(Debug)]
pub struct QueenRoom {
    /// Where the bytes of its inputs are counted.
    pub held: HeldBytes,
    /// The room for its program and the archives of its shared directories.
    pub claim: Option<Claim>,
}

/// The inputs of one job.
#[derive(Debug)]
pub(crate) struct Inputs {
    inputs: FxHashMap<UnitNo, UnitInput>,
    held: HeldBytes,
}

impl Inputs {
    /// None yet.
    pub(crate) fn new(held: HeldBytes) -> Inputs {
        Inputs { inputs: FxHashMap::default(), held }
    }

    /// The queen has another link, whose border reads the bytes there.
    pub(crate) fn count_in(&mut self, held: HeldBytes) {
        held.add(self.bytes());
        self.held.remove(self.bytes());
        self.held = held;
    }

    pub(crate) fn insert(&mut self, unit: UnitNo, input: UnitInput) {
        self.held.add(input.bytes());
        self.inputs.insert(unit, input);
    }

    /// Where the bytes are counted.
    pub(crate) fn held(&self) -> &HeldBytes {
        &self.held
    }

    pub(crate) fn get(&self, unit: UnitNo) -> Option<&UnitInput> {
        self.inputs.get(&unit)
    }

    pub(crate) fn remove(&mut self, unit: UnitNo) {
        if let Some(input) = self.inputs.remove(&unit) {
            self.held.remove(input.bytes());
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

impl Drop for Inputs {
    fn drop(&mut self) {
        self.held.remove(self.bytes());
    }
}

/// Programs, or archives of shares. Each is held once, however many jobs need it.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    blobs: HashMap<Digest, Blob>,
}

#[derive(Debug)]
struct Blob {
    content: Payload,
    jobs: usize,
    /// The room that the first queen took for it.
    _claim: Option<Claim>,
}

impl Blobs {
    /// Counts one more job that needs the blob. The claim on its room is given back if the blob is here already.
    pub(crate) fn insert(&mut self, digest: Digest, claim: Option<Claim>, content: Payload) {
        self.blobs.entry(digest).or_insert(Blob { content, jobs: 0, _claim: claim }).jobs += 1;
    }

    pub(crate) fn get(&self, digest: Digest) -> Option<&Payload> {
        self.blobs.get(&digest).map(|blob| &blob.content)
    }

    /// Counts one job fewer. Returns whether it was the last one; then the blob is dropped.
    pub(crate) fn release(&mut self, digest: Digest) -> bool {
        let Some(blob) = self.blobs.get_mut(&digest) else { return false };
        blob.jobs -= 1;
        let is_last = blob.jobs == 0;
        if is_last {
            self.blobs.remove(&digest);
        }
        is_last
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.values().map(|blob| blob.content.bytes()).sum()
    }
}
