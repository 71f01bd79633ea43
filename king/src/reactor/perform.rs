//! Performs the scheduler's actions: orders to dukes, news to queens.

use std::time::Duration;

use bytes::Bytes;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{DukeId, JobId, UnitNo},
    wire::{self, duke_order::Order, queen_news::News},
};
use distwasm_transport::payload::Payload;
use tracing::{info, warn};

use super::{Duke, Evidence, Queen, Reactor, Unheard};
use crate::payloads::UnitInput;
use crate::scheduler::{Action, JobEnd, JobStatus, LongestAttempt, Verdict, WaitsFor};

impl Reactor {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::OpenLease { duke, job, slot_bytes, fresh } => {
                let Some(queen) = self.queens.get(&job) else { return };
                let order = wire::OpenLease {
                    job: job.0,
                    program_digest: queen.digest.to_wire(),
                    slot_bytes,
                    timeout_ms: millis(queen.timeout.or(self.timeout_max)),
                    start_ms: millis(queen.timeout),
                    guest: Some(queen.guest.to_wire()),
                    mark: queen.mark.to_wire(),
                    fresh,
                };
                self.tell_duke(duke, Order::OpenLease(Box::new(order)));
            }
            Action::GrantSlots { duke, job, slots } => {
                self.tell_duke(duke, Order::GrantSlots(wire::GrantSlots { job: job.0, slots }));
            }
            Action::ReleaseSlots { duke, job, slots } => {
                self.tell_duke(duke, Order::ReleaseSlots(wire::ReleaseSlots { job: job.0, slots }));
            }
            Action::TakeSlots { duke, job, slots } => {
                let project = self.queens.get(&job).map(|queen| queen.project.as_str());
                info!(duke = duke.0, job = job.0, project, slots, "slots that another job is owed are taken by force");
                self.tell_duke(duke, Order::TakeSlots(wire::TakeSlots { job: job.0, slots }));
            }
            Action::CloseLease { duke, job } => {
                self.recall(duke, |start| start.job == job.0);
                self.end_transfers(duke, |_, transfer| transfer.job == job);
                self.tell_duke(duke, Order::CloseLease(wire::CloseLease { job: job.0 }));
            }
            Action::StartAttempt { .. } => self.start_attempt(action),
            Action::ForgetAttempt { duke, attempt, unused } => {
                self.recall(duke, |start| start.attempt == attempt.0);
                self.end_transfers(duke, |key, _| key.1 == attempt);
                let forgettable = self.forgettable.entry(duke).or_default();
                if unused { &mut forgettable.unused } else { &mut forgettable.attempts }.push(attempt.0);
            }
            Action::ForgetDuke { duke } => {
                if let Some(forgotten) = self.forget_duke(duke) {
                    let host = forgotten.machine.hostname;
                    warn!(duke = duke.0, host, "a duke has not come back; its units run again elsewhere");
                }
            }
            Action::FetchResult { duke, attempt, .. } if self.transfers.fetch((duke, attempt)) => {
                self.offer_output((duke, attempt));
            }
            Action::FetchResult { duke, attempt, bytes } => {
                if let Some(duke) = self.dukes.get(&duke) {
                    duke.fetches.add(attempt, bytes);
                }
                self.tell_duke(duke, Order::SendResult(wire::SendResult { attempt: attempt.0 }));
            }
            Action::Report { job, unit, verdict, attempts } => self.report(job, unit, verdict, attempts),
            Action::TellStatus { job, status } => self.tell_status(job, status),
            Action::EndJob { job, end } => self.end_job(job, end),
            Action::ExpelDuke { duke, why } => self.expel_duke(duke, why),
        }
    }

    /// Gives a duke a unit.
    fn start_attempt(&mut self, action: Action) {
        let Action::StartAttempt { duke, job, unit, attempt, number, alone, spared_us } = action else { return };
        let (Some(duke), Some(queen)) = (self.dukes.get(&duke), self.queens.get(&job)) else { return };
        let Some(input) = queen.inputs.get(unit) else { return };
        let UnitInput { name, in_places, streamed, .. } = input;
        let order = wire::StartAttempt {
            job: job.0,
            unit: unit.0,
            attempt: attempt.0,
            alone,
            input: None,
            name: name.clone(),
            number,
            spared_us,
            in_places: *in_places,
            streamed: *streamed,
        };
        duke.peer.outbox.push_with(Order::StartAttempt(order), input.content.clone());
        self.totals.attempts += 1;
    }

    /// Gives an order that no window counts.
    pub(super) fn tell_duke(&self, id: DukeId, order: Order) {
        // A duke that is already gone is about to be lost to the scheduler too.
        let Some(Duke { peer, machine, .. }) = self.dukes.get(&id) else { return };
        if peer.outbox.push_uncounted(order, merge_forgets).is_err() {
            warn!(duke = id.0, host = machine.hostname, "a duke does not read its orders; its link ends");
            peer.outbox.clear();
            let reason = "it does not read its orders".to_owned();
            peer.send_away(Order::End(wire::End { reason, come_back: true, refused: false }));
        }
    }

    /// Takes back units that a duke has not read: nothing counts them any more.
    fn recall(&self, duke: DukeId, is_unwanted: impl Fn(&wire::StartAttempt) -> bool) {
        let Some(duke) = self.dukes.get(&duke) else { return };
        duke.peer.outbox.take_back(
            |word: &wire::DukeOrder| matches!(&word.order, Some(Order::StartAttempt(start)) if is_unwanted(start)),
        );
    }

    fn report(&mut self, job: JobId, unit: UnitNo, verdict: Verdict, attempts: u32) {
        let mut queen = self.queens.get_mut(&job);
        if let Some(queen) = &mut queen {
            queen.inputs.remove(unit);
            queen.awaited.remove(&unit);
        }
        let mut stored = None;
        let (by, outcome) = match verdict {
            Verdict::Done(attempt) | Verdict::Failed(attempt) => match self.evidence.remove(&attempt) {
                Some(Evidence { duke, run_us, outcome, stored: is_stored }) => {
                    stored = is_stored.then_some(attempt.0);
                    (Some((duke, attempt, run_us)), outcome)
                }
                // Does not happen: the evidence is stored with the event that leads here.
                None => (None, Err(Failure::new(FailureKind::Other, "the king lost the evidence"))),
            },
            Verdict::Broken => {
                // There is always one: it was stored with the event that leads here.
                let failure = queen.as_mut().and_then(|queen| queen.broken.remove(&unit));
                (None, Err(failure.unwrap_or_else(|| Failure::new(FailureKind::Input, ""))))
            }
        };
        let run_us = by.map(|(.., run_us)| run_us);
        // The verdict on a failure names the duke's host.
        let failed_by = by.filter(|_| outcome.is_err()).and_then(|(duke, ..)| self.dukes.get(&duke));
        let duke = failed_by.map(|duke| duke.machine.hostname.clone()).unwrap_or_default();
        let by = by.map(|(duke, attempt, _)| (duke, attempt));
        let (result, weight, failure) = match outcome {
            Ok(result) => (result, 0, None),
            Err(failure) => (Payload::default(), failure.bytes(), Some(Box::new(failure.into()))),
        };
        let done = failure.is_none();
        if done {
            self.totals.units_done += 1;
            self.totals.result_bytes += result.bytes();
        } else {
            self.totals.units_failed += 1;
        }
        let verdict = wire::Verdict { unit: unit.0, done, result: None, failure, attempts, duke, run_us, stored };
        let Some(queen) = queen else {
            if self.scheduler.has_job(job) {
                // The job is known only from dukes that came back to a new king.
                self.unclaimed.entry(job).or_default().push_back(Unheard { verdict, result, weight, by });
            } else if let Some((duke, attempt)) = by {
                // The queen left in this batch.
                self.let_go(duke, attempt);
            }
            return;
        };
        // Without a link the outbox drops this; the verdict is sent again when the queen comes back.
        queen.peer.outbox.push_with(News::Verdict(verdict.clone()), result.clone());
        *(if done { &mut queen.done } else { &mut queen.failed }) += 1;
        queen.unheard.push_back(Unheard { verdict, result, weight, by });
    }

    fn tell_status(&mut self, job: JobId, status: JobStatus) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        queen.status = status;
        self.tell_state(job);
    }

    /// Tells a queen the state of its job, as it is now.
    pub(super) fn tell_state(&mut self, job: JobId) {
        let Some(&Queen { status, window_bytes, .. }) = self.queens.get(&job) else { return };
        let JobStatus { slots, dukes, waits_for, longest } = status;
        let longest = longest.map(|longest| self.describe_longest(longest, Bytes::new()));
        let compiling = self.describe_compilation(job);
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let waits_for = queen.waits_for(waits_for);
        let state = wire::JobState { slots, dukes, waits_for, longest, window_bytes, compiling };
        queen.peer.outbox.push_latest(News::JobState(state));
    }

    /// Describes a unit that has been running for long, for people.
    pub(super) fn describe_longest(&self, longest: LongestAttempt, name: Bytes) -> wire::LongestUnit {
        let LongestAttempt { unit, duke, since, .. } = longest;
        let duke = self.dukes.get(&duke).map(|duke| duke.machine.hostname.clone()).unwrap_or_default();
        let running_ms = self.now.micros_since(since) / 1000;
        wire::LongestUnit { unit: unit.0, name, duke, running_ms }
    }

    fn end_job(&mut self, job: JobId, end: JobEnd) {
        let Some(queen) = self.forget_queen(job) else { return };
        info!(job = job.0, project = queen.project, ?end, "a job ended");
        let (failure, cancelled) = match end {
            JobEnd::Complete => (None, false),
            JobEnd::Unfit => (queen.unfit, false),
            JobEnd::Cancelled => (None, true),
            JobEnd::Abandoned => return,
        };
        let failure = failure.map(wire::Failure::from);
        // Units that the queen has not been told of yet are told before this.
        queen.peer.outbox.push(News::JobEnded(wire::JobEnded { failure, cancelled }));
        queen.peer.close(News::End(wire::End::default()));
    }
}

/// A timeout in milliseconds; 0 for none.
fn millis(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// Adds attempts that a duke may forget to those that it has not been told of yet.
fn merge_forgets(last: &mut wire::DukeOrder, next: &wire::DukeOrder) -> bool {
    match (&mut last.order, &next.order) {
        (Some(Order::Forget(last)), Some(Order::Forget(next))) => {
            last.attempts.extend_from_slice(&next.attempts);
            last.unused.extend_from_slice(&next.unused);
            true
        }
        _ => false,
    }
}

impl Queen {
    /// The reason why the job waits, as text.
    pub(super) fn waits_for(&self, waits_for: Option<WaitsFor>) -> String {
        match waits_for {
            None => String::new(),
            Some(WaitsFor::Duke) => "there is no duke; start one with `duke --king-address ...`".to_owned(),
            Some(WaitsFor::Labels) => format!("no duke has {}", self.requires),
            Some(WaitsFor::Memory { largest_bytes }) => format!(
                "each slot must have {} MB (--min-ram), and the largest duke has {} MB (its --ram-limit)",
                self.min_ram_bytes >> 20,
                largest_bytes >> 20
            ),
            Some(WaitsFor::Queen) => "the king can hold no more results, and the job's queen takes none".to_owned(),
            Some(WaitsFor::Slot) => match &self.complaint {
                Some(complaint) => complaint.message.clone(),
                None => "all slots serve other jobs".to_owned(),
            },
        }
    }
}
