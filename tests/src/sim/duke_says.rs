//! What a simulated duke says to the king.

use distwasm_proto::{
    PROTOCOL, VERSION,
    failure::{Failure, FailureKind},
    ids::{AttemptId, DukeId, JobId},
    wire::{self, duke_word::Word},
};
use distwasm_transport::{payload::Payload, transfer::Assembler};

use super::{
    duke::{AttemptEnd, Duke, Held, Lease},
    weather::EVIDENCE_BYTES,
    wires::payload,
    world::{Sender, World},
};

impl Duke {
    /// Its first word on a link.
    fn hello(&self, held_leases: usize) -> wire::DukeHello {
        wire::DukeHello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            hostname: self.boot.to_string(),
            cpus: self.cpus,
            ram_bytes: self.ram_bytes,
            labels: [("zone".to_owned(), self.zone.to_string())].into_iter().collect(),
            boot: self.boot.0,
            seat: self.seat.0,
            held_leases: held_leases as u32,
            link: self.links,
        }
    }

    /// All slots and attempts that it has for a king.
    fn holdings(&self) -> Vec<wire::HeldLease> {
        let name = |(attempt, held): (&AttemptId, &Held)| {
            let Held { unit, bytes, number, .. } = *held;
            wire::HeldAttempt { attempt: attempt.0, unit: unit.0, bytes, number }
        };
        let lease = |(job, lease): (&JobId, &Lease)| {
            let (slots, leaving) = self.roster.slots_of(*job);
            let begun = self.attempts.iter().filter(|(_, held)| held.job == *job).map(name);
            let ended = self.left.iter().filter(|(_, left)| left.held.job == *job);
            let attempts = begun.chain(ended.map(|(attempt, left)| name((attempt, &left.held)))).collect();
            let (key, slot_bytes, closed) = (lease.queen.0, lease.slot_bytes, self.closed.contains(job));
            wire::HeldLease { job: job.0, key, slot_bytes, slots, leaving, closed, attempts }
        };
        self.leases.iter().map(lease).collect()
    }
}

impl World {
    /// Says something over the current link. Without a link it is lost.
    pub(super) fn duke_says(&mut self, id: DukeId, word: Word) {
        self.duke_says_with(id, word, Payload::default());
    }

    fn duke_says_with(&mut self, id: DukeId, word: Word, payload: Payload) {
        let Some(Duke { link: Some(link), outbox: Some(outbox), .. }) = self.dukes.get(&id) else { return };
        outbox.push_with(word, payload);
        self.carry_to_king(0, Sender::Duke(*link));
    }

    /// Says how an attempt ended.
    pub(super) fn say_ended(&mut self, id: DukeId, attempt: AttemptId, end: AttemptEnd, run_us: u64) {
        let (outcome, result_bytes) = match end {
            AttemptEnd::Done(bytes) => (wire::Outcome::Done, bytes),
            AttemptEnd::Failed => (wire::Outcome::Failed, 0),
            AttemptEnd::Killed => (wire::Outcome::Killed, 0),
            AttemptEnd::Returned { suspect: false } => (wire::Outcome::Returned, 0),
            AttemptEnd::Returned { suspect: true } => (wire::Outcome::Suspected, 0),
        };
        let failure = matches!(end, AttemptEnd::Failed | AttemptEnd::Killed).then(|| Box::new(evidence().into()));
        let mut ended = wire::AttemptEnded { attempt: attempt.0, run_us, failure, ..Default::default() };
        ended.set_outcome(outcome);
        self.duke_says_with(id, Word::AttemptEnded(ended), payload(result_bytes));
    }

    pub(super) fn say_offered(&mut self, id: DukeId, attempt: AttemptId, result_bytes: u64, run_us: u64) {
        self.duke_says(id, Word::ResultOffered(wire::ResultOffered { attempt: attempt.0, result_bytes, run_us }));
    }

    pub(super) fn say_unfit(&mut self, id: DukeId, job: JobId) {
        let failure = Some(Failure::new(FailureKind::Program, "it is unfit").into());
        self.duke_says(id, Word::ProgramUnfit(wire::ProgramUnfit { job: job.0, failure }));
    }

    /// Greets a king over a new link, and says again what the king may not have heard.
    pub(super) fn greet_king(&mut self, id: DukeId) {
        let Some(link) = self.dukes.get(&id).and_then(|duke| duke.link) else { return };
        let outbox = self.wire_duke(link);
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        (duke.outbox, duke.assembler) = (Some(outbox.clone()), Assembler::new(u64::MAX));
        duke.links += 1;
        let mut holds = duke.holdings();
        if self.liars.contains(&id) {
            self.embellish(id, &mut holds);
        }
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        outbox.push(Word::Hello(Box::new(duke.hello(holds.len()))));
        holds.into_iter().for_each(|held| outbox.push(Word::HeldLease(Box::new(held))));
        self.carry_to_king(0, Sender::Duke(link));
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let (draining, left): (bool, Vec<AttemptId>) = (duke.draining, duke.left.keys().copied().collect());
        let unfit: Vec<JobId> = duke.unfit.difference(&duke.closed).copied().collect();
        duke.left.values_mut().for_each(|left| left.said = false);
        left.into_iter().for_each(|attempt| self.say_left(id, attempt));
        for job in unfit {
            self.say_unfit(id, job);
        }
        if draining {
            self.duke_says(id, Word::Draining(wire::Draining {}));
            self.leave_if_drained(id);
        }
    }
}

/// Why a unit failed.
fn evidence() -> Failure {
    Failure::new(FailureKind::Exit, "x".repeat(EVIDENCE_BYTES as usize))
}
