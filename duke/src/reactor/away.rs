//! What a duke keeps while its link is broken, and what it says when it is back.
//!
//! It names all its slots and attempts, and says again what the king may not have heard. It keeps the result or failure
//! of an attempt until the king says that it is not needed any more: the king may be lost before the queen has it.

use std::collections::{BTreeSet, HashMap};

use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{AttemptId, JobId},
    limits::HELD_ATTEMPTS_NAMED,
    time::Time,
    wire::{self, DukeWord, duke_word::Word},
};
use distwasm_transport::{payload::Payload, transfer::Outbox};
use tracing::{info, warn};

use super::{Hands, Reactor, link::Link, results::Reading};
use crate::{
    border::{KingOrder, LinkError},
    peasant::{HeldResult, KeptResult, Unfinished, UnitInput},
    roster::Event,
};

/// The result or failure of an attempt that has ended.
pub(super) struct Left {
    pub(super) job: JobId,
    /// The attempt, as the king knows it.
    pub(super) held: wire::HeldAttempt,
    run_us: u64,
    remains: Remains,
    /// The end of the attempt, with its result, was said over the current link.
    pub(super) said: bool,
    /// It was said over any link.
    is_known: bool,
    /// The part of its result that the king has asked for last, over the current link.
    pub(super) reading: Option<Reading>,
}

/// A result, or why there is none.
pub(super) enum Remains {
    Result(HeldResult),
    /// The result is in the job's output folder.
    Written(Unfinished),
    /// The result is in a file of the duke's own.
    Kept(KeptResult),
    Failure(Failure),
    Killed(Failure),
}

impl Left {
    pub(super) fn new(job: JobId, attempt: AttemptId, input: &UnitInput, run_us: u64, remains: Remains) -> Left {
        Left { job, held: name(attempt, input), run_us, remains, said: false, is_known: false, reading: None }
    }

    /// Whether it is a result that the king must ask for.
    fn is_offered(&self) -> bool {
        self.is_kept() || matches!(&self.remains, Remains::Result(held) if wire::is_offered(held.result.bytes()))
    }

    /// Whether it is a result in a file.
    pub(super) fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    /// The result in a file.
    pub(super) fn kept(&self) -> Option<&KeptResult> {
        if let Remains::Kept(kept) = &self.remains { Some(kept) } else { None }
    }

    /// The file of the result cannot be read.
    pub(super) fn lose_result(&mut self, why: &str, link: &Link) {
        let failure = Failure::new(FailureKind::Other, format!("its duke cannot read its result: {why}"));
        self.remains = Remains::Failure(failure);
        self.say(link);
    }

    /// Tells the king how the attempt ended, or that there is a large result.
    pub(super) fn say(&mut self, link: &Link) {
        match &self.remains {
            Remains::Result(held) if self.is_offered() => {
                self.offer(held.result.bytes(), false, link);
            }
            Remains::Kept(kept) => self.offer(kept.bytes, true, link),
            Remains::Result(_) | Remains::Written(_) | Remains::Failure(_) | Remains::Killed(_) => self.say_ended(link),
        }
    }

    fn offer(&self, result_bytes: u64, streamed: bool, link: &Link) {
        let (attempt, run_us) = (self.held.attempt, self.run_us);
        link.say(Word::ResultOffered(wire::ResultOffered { attempt, result_bytes, run_us, streamed }));
    }

    pub(super) fn say_ended(&mut self, link: &Link) {
        let (outcome, failure, result) = match &self.remains {
            Remains::Result(held) => (wire::Outcome::Done, None, held.result.clone()),
            Remains::Written(unfinished) => {
                (wire::Outcome::Done, None, Payload::from(unfinished.name().as_bytes().to_vec()))
            }
            // The king does not ask for it as a whole.
            Remains::Kept(_) => return,
            Remains::Failure(failure) => (wire::Outcome::Failed, Some(failure), Payload::default()),
            Remains::Killed(failure) => (wire::Outcome::Killed, Some(failure), Payload::default()),
        };
        let failure = failure.cloned().map(|failure| Box::new(failure.into()));
        let (attempt, run_us) = (self.held.attempt, self.run_us);
        let mut ended = wire::AttemptEnded { attempt, run_us, failure, ..Default::default() };
        ended.set_outcome(outcome);
        link.say_with(Word::AttemptEnded(ended), result);
        self.said = link.is_up();
        self.is_known |= self.said;
    }

    /// What was written stays where it is, also when this is dropped, if its queen may know of it and give it its name.
    fn leave_output(&mut self) {
        if let Remains::Written(unfinished) = &mut self.remains
            && self.is_known
        {
            unfinished.leave();
        }
    }
}

/// An attempt, as the duke names it to a king.
fn name(attempt: AttemptId, input: &UnitInput) -> wire::HeldAttempt {
    let (unit, number, bytes) = (input.unit.0, input.number, input.bytes());
    wire::HeldAttempt { attempt: attempt.0, unit, bytes, number }
}

impl<H: Hands> Reactor<H> {
    /// When the jobs are given up, if no king is found before. What was named to a king is not given up until it
    /// answers.
    pub(super) fn given_up_at(&self) -> Option<Time> {
        self.away_since.filter(|_| !self.link.is_up()).map(|since| since.after(self.settings.grace))
    }

    pub(super) fn on_connected(&mut self, outbox: Outbox<DukeWord>) {
        let holds = self.holdings();
        self.link.greet(outbox, &self.settings.introduction, holds);
        self.say_again();
    }

    pub(super) fn on_ordered(&mut self, orders: Vec<KingOrder>) {
        for order in orders {
            if let Err(error) = self.on_order(order) {
                self.link.end(error.to_string());
                return self.on_lost(&error);
            }
        }
        self.link.tell_arrived();
    }

    pub(super) fn on_welcome(&mut self) {
        self.away_since = None;
        self.is_in_haste = true;
    }

    pub(super) fn on_lost(&mut self, error: &LinkError) {
        self.link.lose();
        self.arrivals.lose_link();
        if let LinkError::Refused(why) = error {
            self.refused = Some(why.clone());
            return;
        }
        warn!(%error, "the link to the king is gone; trying to reach it again");
        if !self.jobs.is_empty() {
            self.away_since.get_or_insert(self.now);
        }
        // The king may not have heard what was said last.
        self.left.values_mut().for_each(|left| (left.said, left.reading) = (false, None));
    }

    /// All slots and attempts that this duke has for a king.
    fn holdings(&self) -> Vec<wire::HeldLease> {
        let begun = self.inputs.iter().map(|(attempt, (job, input))| (*job, name(*attempt, input)));
        let arriving = self.arrivals.iter().map(|(attempt, arrival)| (arrival.job, name(attempt, &arrival.input)));
        let ended = self.left.values().map(|left| (left.job, left.held));
        let mut attempts_of: HashMap<JobId, Vec<wire::HeldAttempt>> = HashMap::new();
        for (job, held) in begun.chain(arriving).chain(ended) {
            attempts_of.entry(job).or_default().push(held);
        }
        let mut holds = Vec::with_capacity(self.jobs.len());
        for (id, job) in &self.jobs {
            let (slots, leaving) = self.roster.slots_of(*id);
            let mut attempts = attempts_of.remove(id).unwrap_or_default();
            attempts.sort_unstable_by_key(|held| held.attempt);
            let lease = wire::HeldLease {
                job: id.0,
                mark: job.mark.to_wire(),
                slot_bytes: job.slot_bytes,
                slots,
                leaving,
                closed: !job.open,
                attempts: Vec::new(),
            };
            let mut named = attempts.chunks(HELD_ATTEMPTS_NAMED).map(<[_]>::to_vec);
            holds.push(wire::HeldLease { attempts: named.next().unwrap_or_default(), ..lease.clone() });
            holds.extend(named.map(|attempts| wire::HeldLease { attempts, ..lease.clone() }));
        }
        holds
    }

    /// Says again what a king may not have heard.
    fn say_again(&mut self) {
        let mut left: Vec<AttemptId> = self.left.keys().copied().collect();
        left.sort_unstable();
        for attempt in left {
            if let Some(left) = self.left.get_mut(&attempt) {
                left.say(&self.link);
            }
        }
        for digest in self.supplies.wanted() {
            self.link.say(Word::BlobWanted(wire::BlobWanted { digest: digest.to_wire() }));
        }
        for (id, _) in self.jobs.iter().filter(|(_, job)| job.open && job.unfit.is_some()) {
            self.tell_unfit(*id);
        }
        self.supplies.forget_compiling();
        if self.drained_at.is_some() {
            self.link.say(Word::Draining(wire::Draining {}));
        }
    }

    /// No king came back in time: gives up all jobs.
    pub(super) fn give_up_jobs(&mut self) {
        (self.away_since, self.is_in_haste) = (None, false);
        info!(jobs = self.jobs.len(), "the king has not come back; its jobs are given up");
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        jobs.into_iter().for_each(|job| self.close_job(job));
    }

    /// The duke leaves: what it has written, and a king knows of, stays for its queen.
    pub(super) fn leave_outputs(&mut self) {
        self.left.values_mut().for_each(Left::leave_output);
    }

    pub(super) fn close_job(&mut self, id: JobId) {
        // A king that has just started may not know that the job is already over.
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.open) else { return };
        job.open = false;
        self.supplies.cancel(id);
        self.release_job(id);
        let left: Vec<AttemptId> =
            self.left.iter().filter(|(_, left)| left.job == id).map(|(attempt, _)| *attempt).collect();
        self.forget_attempts(left, false);
        self.events.push(Event::LeaseClosed { job: id });
    }

    pub(super) fn forget_attempts(&mut self, attempts: Vec<AttemptId>, are_unused: bool) {
        let (mut unsent, mut transfers) = (BTreeSet::new(), BTreeSet::new());
        for attempt in attempts {
            if let Some(mut left) = self.left.remove(&attempt) {
                // It may still wait behind others on a slow link.
                if left.said && left.is_offered() {
                    unsent.insert(attempt);
                }
                transfers.extend(left.reading.map(|reading| reading.transfer));
                if !are_unused {
                    left.leave_output();
                }
            } else if self.drop_arrival(attempt) {
                // The roster does not know it yet.
            } else if let Some((job, _)) = self.inputs.get(&attempt) {
                self.events.push(Event::AttemptForgotten { job: *job, attempt });
            }
        }
        self.link.take_back(&unsent, &transfers);
    }
}
