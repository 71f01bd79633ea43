//! What a reactor does to its machine, as a trait: the duke does it to processes and files, a test only pretends to.

use std::ops::Range;

use bytes::Bytes;
use distwasm_proto::ids::{AttemptId, BaronId, JobId};
use distwasm_transport::payload::Payload;

use crate::{
    cache::{Made, Recipe, Supply},
    peasant::{HeldRoom, InputNo, KeptResult, PeasantSettings, UnitInput},
};

/// What a read of a part of a result is called: the attempt, and a number that no other read has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Whose result it is.
    pub attempt: AttemptId,
    /// The number.
    pub number: u64,
}

/// See the module's documentation. No call waits: what comes of it is told to the reactor as a
/// [`Happening`](super::Happening).
pub trait Hands {
    /// Starts a peasant for a baron that has none. Its large results take `room`.
    ///
    /// The peasant's news follow as [`Happening::Peasants`](super::Happening::Peasants), and last that it is gone, also
    /// if it could not be started.
    fn hire(&mut self, baron: BaronId, job: JobId, settings: PeasantSettings, room: HeldRoom);

    /// Writes a unit into a peasant's pipe. If its input is streamed, all of it is `stored`.
    fn feed(&mut self, baron: BaronId, stored: Option<InputNo>, input: UnitInput);

    /// Stores the next part of a streamed input. [`Happening::InputStored`](super::Happening::InputStored) follows, for
    /// one part or several; after a failure nothing does.
    fn store(&mut self, input: InputNo, part: Bytes);

    /// Reads a part of a result. [`Happening::ResultRead`](super::Happening::ResultRead) follows, with what this read is
    /// called.
    fn read(&mut self, result: &KeptResult, read: Read, part: Range<u64>);

    /// What is stored of an input is not needed any more. What is said of it later is not heard.
    fn discard(&mut self, input: InputNo);

    /// Lets a peasant end when it has answered everything.
    fn retire(&mut self, baron: BaronId);

    /// Ends a peasant at once.
    fn kill(&mut self, baron: BaronId);

    /// A peasant has ended, as its last news said: nothing is to be kept of it.
    fn bury(&mut self, baron: BaronId);

    /// A supply, if the cache has it.
    fn find(&mut self, supply: &Supply) -> Option<Made>;

    /// Makes a supply from its blob. [`Happening::SupplyTried`](super::Happening::SupplyTried) follows, when nothing is
    /// left of the work.
    fn make(&mut self, supply: Supply, blob: Payload);

    /// Stops making a supply, if it is being made.
    fn stop(&mut self, supply: &Supply);

    /// Removes a compiled program that cannot be loaded from the cache.
    fn remove(&mut self, recipe: &Recipe);

    /// No job is left: memory that is not needed any more may be given back to the system.
    fn give_memory_back(&mut self);
}
