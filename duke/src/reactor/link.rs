//! The reactor's end of the link to the king. Words go into the outbox of the current link; without a link they are
//! lost, and whatever matters is said again on the next link.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    PROTOCOL, VERSION,
    ids::AttemptId,
    secret::Secret,
    wire::{self, DukeWord, duke_word::Word},
};
use distwasm_transport::{payload::Payload, transfer::Outbox};

/// What a duke says of itself to each king.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// The name under which its machine appears.
    pub hostname: String,
    /// Peasants at a time.
    pub cpus: u32,
    /// Memory of all guests together, in bytes.
    pub ram_bytes: u64,
    /// The machine's labels.
    pub labels: BTreeMap<String, String>,
    /// The walls around its peasants and compilers, by name.
    pub walls: Vec<String>,
    /// Made up at random by this process.
    pub boot: u64,
    /// The secret of its place, unique among all machines.
    pub seat: Secret,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Link {
    outbox: Option<Outbox<DukeWord>>,
    /// The number of links so far.
    links: u64,
    /// The last attempt that the king handed out or called back over this link, and the one that it was told of.
    arrived: Option<AttemptId>,
    told: Option<AttemptId>,
}

impl Link {
    pub(super) fn is_up(&self) -> bool {
        self.outbox.is_some()
    }

    /// Says hello over a new link, and names what the duke holds from before. Words may follow at once.
    pub(super) fn greet(&mut self, outbox: Outbox<DukeWord>, introduction: &Introduction, holds: Vec<wire::HeldLease>) {
        self.links += 1;
        let Introduction { hostname, cpus, ram_bytes, labels, walls, boot, seat } = introduction.clone();
        outbox.push(Word::Hello(Box::new(wire::DukeHello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            hostname,
            cpus,
            ram_bytes,
            labels: labels.into_iter().collect(),
            boot,
            seat: seat.to_wire(),
            held_leases: u32::try_from(holds.len()).unwrap_or(u32::MAX),
            link: self.links,
            walls,
        })));
        holds.into_iter().for_each(|held| outbox.push(Word::HeldLease(Box::new(held))));
        (self.outbox, self.arrived, self.told) = (Some(outbox), None, None);
    }

    pub(super) fn say(&self, word: Word) {
        self.say_with(word, Payload::default());
    }

    pub(super) fn say_with(&self, word: Word, payload: Payload) {
        if let Some(outbox) = &self.outbox {
            outbox.push_with(word, payload);
        }
    }

    /// An order about this attempt has arrived. Those about earlier attempts came before.
    pub(super) fn has_arrived(&mut self, attempt: AttemptId) {
        self.arrived = self.arrived.max(Some(attempt));
    }

    /// Tells the king what has arrived, if that is new. The word takes the place of an older one that still waits.
    pub(super) fn tell_arrived(&mut self) {
        if let (Some(outbox), Some(attempt)) = (&self.outbox, self.arrived.filter(|_| self.arrived != self.told)) {
            outbox.push_latest(Word::InputsArrived(wire::InputsArrived { attempt: attempt.0 }));
            self.told = self.arrived;
        }
    }

    /// Says a word that others may overtake.
    pub(super) fn say_behind(&self, word: Word) {
        if let Some(outbox) = &self.outbox {
            outbox.push_behind(word);
        }
    }

    /// Drops the results of these attempts from the outbox, unless a part of them has been sent, and the parts of these
    /// transfers.
    pub(super) fn take_back(&self, attempts: &BTreeSet<AttemptId>, transfers: &BTreeSet<u64>) {
        let is_unwanted = |word: &DukeWord| match &word.word {
            Some(Word::AttemptEnded(ended)) => attempts.contains(&AttemptId(ended.attempt)),
            Some(Word::ResultPart(part)) => transfers.contains(&part.transfer),
            _ => false,
        };
        if let Some(outbox) = self.outbox.as_ref().filter(|_| !attempts.is_empty() || !transfers.is_empty()) {
            outbox.take_back(is_unwanted);
        }
    }

    /// Says goodbye after everything else, and why, if there is a link. There is none afterwards.
    pub(super) fn end(&mut self, reason: String) {
        if let Some(outbox) = self.outbox.take() {
            outbox.push(Word::End(wire::End { reason, come_back: false, refused: false }));
            outbox.close();
        }
    }

    /// The link is gone.
    pub(super) fn lose(&mut self) {
        self.outbox = None;
    }
}
