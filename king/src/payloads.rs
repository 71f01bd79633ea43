//! The bytes that the king holds: inputs until their units have a verdict, blobs until their last job is over.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use distwasm_proto::{
    digest::Digest,
    ids::{JobId, UnitNo},
};
use distwasm_transport::payload::Payload;
use rustc_hash::FxHashMap;

use crate::{
    authority::Origin,
    budget::{Account, Claim, Full, OriginPart, WholePart},
};

/// A unit's name and content.
#[derive(Debug)]
pub struct UnitInput {
    /// The queen's name for the unit.
    pub name: Bytes,
    /// Its content.
    pub content: Payload,
    /// What the queen says of its places, for the duke.
    pub in_places: bool,
    /// Its content is the size of its input, in 8 bytes, and the rest is asked for.
    pub streamed: bool,
}

impl UnitInput {
    /// Its size, as the windows count it.
    pub(crate) fn bytes(&self) -> u64 {
        self.name.len() as u64 + self.content.bytes()
    }

    /// The size of a streamed input.
    pub(crate) fn streamed_bytes(&self) -> Option<u64> {
        if self.streamed { self.content.size_of_input() } else { None }
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

    /// What may be taken without asking.
    pub(crate) fn reserve(&self) -> u64 {
        self.account.reserve().max(1)
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
    pub claim: Claim,
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
    /// The jobs that need it, with the origins of their queens. The jobs of one origin share what counts for it.
    jobs: BTreeMap<JobId, (Origin, Arc<OriginPart>)>,
    /// Its room in the king's memory, once for all jobs.
    _room: WholePart,
}

impl Blobs {
    /// Notes one more job that needs the blob. Of the claim on its room, what was claimed before is given back.
    pub(crate) fn insert(&mut self, digest: Digest, (job, origin): (JobId, Origin), claim: Claim, content: Payload) {
        let (room, of_origin) = claim.into_parts();
        let new = || Blob { content, jobs: BTreeMap::new(), _room: room };
        let jobs = &mut self.blobs.entry(digest).or_insert_with(new).jobs;
        let known = jobs.values().find(|(other, _)| *other == origin).map(|(_, part)| Arc::clone(part));
        jobs.insert(job, (origin, known.unwrap_or_else(|| Arc::new(of_origin))));
    }

    pub(crate) fn get(&self, digest: Digest) -> Option<&Payload> {
        self.blobs.get(&digest).map(|blob| &blob.content)
    }

    /// The job does not need the blob any more. Returns whether it was the last one; then the blob is dropped.
    pub(crate) fn release(&mut self, digest: Digest, job: JobId) -> bool {
        let Some(blob) = self.blobs.get_mut(&digest) else { return false };
        blob.jobs.remove(&job);
        let is_over = blob.jobs.is_empty();
        if is_over {
            self.blobs.remove(&digest);
        }
        is_over
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.values().map(|blob| blob.content.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use crate::budget::Budget;

    use super::*;

    #[test]
    fn a_blob_counts_once_for_all_and_once_for_each_origin_that_uses_it() {
        let pot = Budget::new(8 << 30).programs;
        let origin = |last| Origin::Address([10, 0, 0, last].into());
        let (half, digest) = (pot.most() / 2, Digest::of([b"program".as_slice()]));
        let mut blobs = Blobs::default();
        let insert = |blobs: &mut Blobs, job, last| {
            let mut claim = Claim::new(pot.account(origin(last)));
            // The bytes need not be here to be counted.
            claim.add(half).unwrap();
            blobs.insert(digest, (JobId(job), origin(last)), claim, Payload::default());
        };
        let has_room = |last| pot.account(origin(last)).check(1).is_ok();
        insert(&mut blobs, 1, 1);
        insert(&mut blobs, 2, 2);
        assert_eq!(pot.taken(), half, "it is held once");
        assert!(!has_room(1) && !has_room(2) && has_room(3));
        // The origin that brought it is not kept out by the other one's use.
        assert!(!blobs.release(digest, JobId(1)));
        assert!(has_room(1) && !has_room(2));
        assert_eq!(pot.taken(), half);
        // A second job of an origin counts nothing more, and the blob counts until the last of them.
        drop(Claim::new(pot.account(origin(1))));
        insert(&mut blobs, 3, 1);
        assert!(!has_room(1) && !blobs.release(digest, JobId(2)) && has_room(2));
        assert!(!blobs.release(digest, JobId(7)), "that job does not use it");
        assert!(blobs.release(digest, JobId(3)));
        assert_eq!((pot.taken(), has_room(1), blobs.bytes()), (0, true, 0));
    }
}
