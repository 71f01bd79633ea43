//! Peers that come back to this king or come to a new one, and the state that they bring.
//!
//! A duke is authoritative about what it runs. When it comes back, it names its slots and its attempts, and they
//! replace the king's view of the duke: an attempt that the king started there and the duke does not name was lost in
//! transit, and its unit runs again. A new king accepts attempts of the king before it, for jobs whose queens are about
//! to come back. A king never accepts an attempt that it has given up itself.
//!
//! A queen is authoritative about what is wanted. It names the units that have no verdict; those that may be at a duke
//! that has yet to come back wait for it, `DUKES_AWAITED` at most.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::DUKES_AWAITED,
    secret::Mark,
};

use super::{
    Action, Alarm, HeldAttempt, HeldLease, JobSpec, Resumption, Scheduler,
    job::Job,
    ledger::{Attempt, Duke, Lease, Room},
    units::UnitState,
};

impl Scheduler {
    // ---- Dukes ----------------------------------------------------------------------------------------------------

    /// Takes over what a duke brings back. Units of its attempts `before` that it does not name run again.
    pub(super) fn take_back(
        &mut self,
        id: DukeId,
        holds: Vec<HeldLease>,
        mut before: BTreeMap<AttemptId, Attempt>,
        actions: &mut Vec<Action>,
    ) {
        for held in holds {
            if !self.adopt_lease(id, &held, actions) {
                actions.push(Action::ExpelDuke { duke: id, why: "it came back with more slots than its machine has" });
                break;
            }
            for attempt in held.attempts {
                let is_known = |known: &Attempt| known.job == held.job && known.unit == attempt.unit;
                let known = before.get(&attempt.attempt).is_some_and(is_known);
                if self.adopt_attempt(id, held.job, attempt, known) {
                    before.remove(&attempt.attempt);
                } else {
                    actions.push(Action::ForgetAttempt { duke: id, attempt: attempt.attempt, unused: false });
                }
            }
            if let Some(Job { waiting, suspects, units, .. }) = self.jobs.get_mut(&held.job) {
                for queue in [waiting, suspects] {
                    queue.retain(|no| units.get(*no).is_some_and(|unit| unit.state == UnitState::Waiting));
                }
            }
        }
        self.put_all_back(before);
    }

    /// Takes over a lease that a duke brings back; returns whether the duke's machine has room for it.
    fn adopt_lease(&mut self, id: DukeId, held: &HeldLease, actions: &mut Vec<Action>) -> bool {
        let slot = Room { cpus: 1, bytes: held.slot_bytes };
        let all = held.slots.checked_add(held.leaving);
        let has_room = |duke: &Duke| slot.bytes <= duke.ram_bytes && all.is_some_and(|all| duke.has_free(slot, all));
        if !self.ledger.duke(id).is_some_and(has_room) {
            return false;
        }
        if !held.closed {
            self.learn_job(held.job, held.mark);
        }
        let lease = Lease::returning(slot, held.slots, held.leaving, self.now);
        let fits = |job: &Job| job.unclaimed || self.ledger.duke(id).is_some_and(|duke| fits(&lease, duke, job));
        let is_wanted = |job: &Job| job.mark == held.mark && !held.closed && job.may_keep_lease(id) && fits(job);
        let is_wanted = self.jobs.get(&held.job).is_some_and(is_wanted);
        self.ledger.adopt(id, held.job, lease, is_wanted);
        if is_wanted {
            self.hungry.insert(held.job);
        } else if !held.closed {
            actions.push(Action::CloseLease { duke: id, job: held.job });
        }
        self.keep_to_bound(held.job, actions);
        true
    }

    /// Adds a job that only a duke has named, if it may be one of an earlier king.
    fn learn_job(&mut self, id: JobId, mark: Mark) {
        if self.has_job(id) {
            return;
        }
        let Some(until) = self.heritage.may_bring_job(id).filter(|_| !self.heritage.is_replaced(mark)) else { return };
        let spec = JobSpec::default();
        let project = self.projects.enter(&spec);
        self.jobs.insert(id, Job { unclaimed: true, ..Job::new(mark, spec, project) });
        self.timers.set(Alarm::QueenAway(id), until);
    }

    /// Closes leases that dukes brought before the job's spec was known, and that do not fit the spec.
    pub(super) fn close_misfits(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let is_misfit = |(_, duke): &(DukeId, &Duke)| {
            let lease = duke.leases.get(&id).filter(|lease| !lease.is_closed());
            lease.is_some_and(|lease| !fits(lease, duke, job))
        };
        let misfits: Vec<DukeId> = self.ledger.dukes().filter(is_misfit).map(|(duke, _)| duke).collect();
        for duke in misfits {
            let attempts = self.take_attempts(self.ledger.attempts_of_lease(duke, id));
            self.put_all_back(attempts);
            self.ledger.close(duke, id);
            self.look_at_link(duke);
            self.forget_links(duke, vec![id]);
            actions.push(Action::CloseLease { duke, job: id });
        }
    }

    /// Asks back slots that came with dukes and go beyond the job's `max_parallel`.
    pub(super) fn keep_to_bound(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(max) = self.jobs.get(&id).and_then(|job| job.spec.max_parallel) else { return };
        while self.ledger.account(id).promised() > max {
            let Some(duke) = self.ledger.account(id).least_loaded().next() else { return };
            self.ask_back(id, duke, actions);
        }
    }

    /// Takes over an attempt that a duke brings back; returns whether it is wanted.
    fn adopt_attempt(&mut self, id: DukeId, job_id: JobId, held: HeldAttempt, known: bool) -> bool {
        let is_open = self.ledger.lease(id, job_id).is_some_and(|lease| !lease.is_closed());
        let Some(job) = self.jobs.get_mut(&job_id).filter(|_| is_open) else { return false };
        if !known && !self.heritage.may_bring_attempt(held.attempt) {
            return false;
        }
        let unit = if job.unclaimed { job.units.claim(held.unit) } else { job.units.get_mut(held.unit) };
        let may_be = |state| match state {
            UnitState::Missing | UnitState::Parked | UnitState::Waiting => !known,
            UnitState::Trying => known,
            UnitState::Reported => false,
        };
        let Some(unit) = unit.filter(|unit| may_be(unit.state)) else { return false };
        if self.ledger.attempt(held.attempt).is_some() {
            return false;
        }
        unit.state = UnitState::Trying;
        unit.trying += 1;
        unit.attempts = unit.attempts.max(held.number);
        let (input_bytes, since) = (held.bytes, self.now);
        let attempt = Attempt { duke: id, job: job_id, unit: held.unit, input_bytes, since, moved: since, runs: true };
        self.ledger.start(held.attempt, attempt);
        true
    }

    // ---- Queens ---------------------------------------------------------------------------------------------------

    /// Adds a job that a queen opens, or gives a job that only dukes have named its spec. Returns whether the king had
    /// not heard of it from a queen.
    pub(super) fn claim_job(&mut self, id: JobId, mark: Mark, spec: JobSpec) -> bool {
        let known = self.jobs.get_mut(&id);
        debug_assert!(known.as_ref().is_none_or(|job| job.mark == mark), "the service knows whose job it is");
        match known {
            Some(job) if !job.unclaimed => return false,
            Some(job) => {
                let project = self.projects.enter(&spec);
                let unclaimed = std::mem::replace(&mut job.project, project);
                (job.unclaimed, job.spec) = (false, spec);
                self.projects.leave(unclaimed, self.jobs.values());
            }
            None => {
                let project = self.projects.enter(&spec);
                self.jobs.insert(id, Job::new(mark, spec, project));
            }
        }
        true
    }

    /// Goes on with a job whose queen is here. If the job `is_new`, units that the queen has numbered before may be at
    /// dukes that are not back yet.
    pub(super) fn resume_job(&mut self, id: JobId, resumes: &Resumption, is_new: bool, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        (job.yields_from, job.told) = (None, None);
        // The queen says over each link when there are no more units.
        (job.closed, job.is_by_size) = (false, false);
        let unwanted: BTreeSet<UnitNo> = job.units.resume(resumes.sent, &resumes.lacking).into_iter().collect();
        if is_new && job.units.open() > unwanted.len() as u64 {
            job.awaits_dukes = Some(resumes.dukes);
            self.timers.set(Alarm::Unpark(id), self.now.after(DUKES_AWAITED));
        }
        self.drop_claims(id, &unwanted, actions);
    }

    /// Has dukes forget attempts of units whose verdicts the queen has.
    fn drop_claims(&mut self, id: JobId, unwanted: &BTreeSet<UnitNo>, actions: &mut Vec<Action>) {
        self.forget_attempts(self.ledger.attempts_of_units(id, |unit| unwanted.contains(&unit)), actions);
        if let Some(job) = self.jobs.get_mut(&id) {
            unwanted.iter().for_each(|unit| job.units.drop_earlier(*unit));
        }
    }

    // ---- A king that has just begun -------------------------------------------------------------------------------

    /// Lets parked units run once as many dukes are here as there were: then no missing duke can have one of them.
    pub(super) fn unpark_if_all_are_here(&mut self) {
        let here = self.ledger.dukes().filter(|(_, duke)| duke.away_since.is_none()).count();
        let are_here = |job: &Job| job.awaits_dukes.is_some_and(|dukes| here >= dukes as usize);
        let complete: Vec<JobId> = self.jobs.iter().filter(|(_, job)| are_here(job)).map(|(id, _)| *id).collect();
        complete.into_iter().for_each(|job| self.unpark(job));
    }

    /// Lets the parked units run, which no duke has claimed.
    pub(super) fn unpark(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.awaits_dukes = None;
        self.timers.stop(Alarm::Unpark(id));
        for (no, unit) in job.units.earlier_mut().filter(|(_, unit)| unit.state == UnitState::Parked) {
            unit.state = UnitState::Waiting;
            job.waiting.push_back(no);
        }
        self.hungry.insert(id);
        self.deal = true;
    }
}

/// Whether the king would grant such a lease.
fn fits(lease: &Lease, duke: &Duke, job: &Job) -> bool {
    duke.capacity(&job.spec).is_some_and(|(slots_max, slot)| lease.slot == slot && lease.slots <= slots_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{
        Event, JobEnd,
        testing::{Kingdom, RAM_BYTES, joined, mark_of, returned},
    };

    const JOB: JobId = JobId(7);
    const OLD: DukeId = DukeId(1);
    const NEW: DukeId = DukeId(2);

    /// A duke that was given two units, and whose link broke.
    fn cut_off() -> Kingdom {
        let mut kingdom = Kingdom::new().duke(OLD, 1).job(JOB, JobSpec::default(), 2);
        kingdom.tell([Event::DukeAway { duke: OLD }]);
        kingdom
    }

    /// The duke comes back with this many slots, and with these attempts at these units.
    fn back_with(slots: u32, attempts: &[(u64, u64)]) -> [Event; 1] {
        let attempts = attempts.iter().map(|(attempt, unit)| HeldAttempt {
            attempt: AttemptId(*attempt),
            unit: UnitNo(*unit),
            bytes: 1,
            number: u32::MAX,
        });
        let (mark, slot_bytes, leaving, closed) = (mark_of(JOB), RAM_BYTES, 0, false);
        let held = HeldLease { job: JOB, mark, slot_bytes, slots, leaving, closed, attempts: attempts.collect() };
        [joined(NEW, 1, Some(OLD), vec![held])]
    }

    /// The units that are started, and which try of each unit it is.
    fn tries(actions: &[Action]) -> Vec<(UnitNo, u32)> {
        let start = |action: &Action| match action {
            Action::StartAttempt { unit, number, .. } => Some((*unit, *number)),
            _ => None,
        };
        actions.iter().filter_map(start).collect()
    }

    #[test]
    fn an_attempt_goes_on_if_its_duke_names_it_and_is_made_again_if_not() {
        let mut kingdom = cut_off();
        assert_eq!(tries(&kingdom.tell(back_with(1, &[(1, 0)]))), [(UnitNo(1), 2)]);
        let expects = |attempt| kingdom.scheduler.expects(NEW, AttemptId(attempt));
        assert!(expects(1) && !expects(2));
        // The duke lied about how often the unit was tried, which is a number without further effect.
        assert_eq!(tries(&kingdom.tell([returned(NEW, AttemptId(1))])), [(UnitNo(0), u32::MAX)]);
    }

    #[test]
    fn a_duke_that_lies_about_its_attempts_loses_no_unit() {
        for lie in [&[(1, 1), (2, 1)][..], &[(2, 0), (2, 1)], &[(9, 0)], &[(1, 5)], &[(1, 0), (1, 0), (1, 0)]] {
            let mut kingdom = cut_off();
            kingdom.tell(back_with(1, lie));
            let census = kingdom.scheduler.census();
            assert_eq!(census.units_waiting + census.units_running, 2, "{lie:?}");
        }
    }

    #[test]
    fn a_duke_with_more_slots_than_its_machine_has_is_expelled() {
        for slots in [2, u32::MAX] {
            let actions = cut_off().tell(back_with(slots, &[(1, 0)]));
            assert!(actions.iter().any(|action| matches!(action, Action::ExpelDuke { .. })));
        }
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_grace_time() {
        let mut kingdom = cut_off();
        kingdom.tell([Event::QueenAway { job: JOB }]);
        let mut told = Vec::new();
        while kingdom.scheduler.has_job(JOB) {
            told.extend(kingdom.wait_for_timer().unwrap());
        }
        assert!(told.contains(&Action::ForgetDuke { duke: OLD }));
        assert!(told.contains(&Action::EndJob { job: JOB, end: JobEnd::Abandoned }));
    }
}
