//! Peers whose links broke, and the state that they bring back: to this king, or to a new one.
//!
//! A duke is authoritative about what it runs. When it comes back, it names its slots and its attempts, and they
//! replace the king's view of the duke: an attempt that the king started there and the duke does not name was lost in
//! transit, and its unit runs again. A new king accepts attempts of the king before it, for jobs whose queens are about
//! to come back. A king never accepts an attempt that it has given up itself.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{DukeId, JobId, UnitNo},
    limits::{AWAY_PATIENCE, SETTLE_WITHIN},
};

use super::{
    Action, Alarm, Attempt, HeldAttempt, HeldLease, JobEnd, JobSpec, Resumption, Scheduler,
    duke::{Duke, Lease, Room},
    job::Job,
    units::UnitState,
};

/// A duke that joins.
pub(super) struct Joining {
    pub(super) id: DukeId,
    pub(super) cpus: u32,
    pub(super) ram_bytes: u64,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) was: Option<DukeId>,
    pub(super) holds: Vec<HeldLease>,
}

impl Scheduler {
    // ---- Dukes ----------------------------------------------------------------------------------------------------

    /// Gives nothing new to a duke whose link broke; the duke keeps its units while it may come back.
    pub(super) fn on_duke_away(&mut self, id: DukeId) {
        // The duke may have been expelled before its link broke.
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| duke.away_since.is_none()) else { return };
        duke.away_since = Some(self.now);
        self.hungry.extend(duke.leases.keys());
        self.timers.set(Alarm::DukeAway(id), self.now.after(self.grace));
        // The slots that this asks back are free when the duke is back, or gone.
        self.withdraw(id);
        self.recall_results(id);
    }

    /// Results that wait at a duke, or are in transit from it, take no room while it is away: it will offer them again.
    fn recall_results(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get(&id) else { return };
        let jobs: Vec<JobId> = duke.leases.keys().copied().collect();
        for job_id in jobs {
            let Some(job) = self.jobs.get_mut(&job_id) else { continue };
            for attempt in job.results.recall(id) {
                let Some(attempt) = self.attempts.get_mut(&attempt) else { continue };
                (attempt.runs, attempt.since) = (true, self.now);
                let bytes = attempt.input_bytes;
                self.load(id, job_id, 1, bytes);
            }
            self.change_load(id, job_id, |lease| lease.blocked = false);
        }
    }

    pub(super) fn on_duke_overdue(&mut self, id: DukeId, actions: &mut Vec<Action>) {
        self.on_duke_lost(id);
        actions.push(Action::ForgetDuke { duke: id });
    }

    pub(super) fn on_duke_joined(&mut self, joining: Joining, actions: &mut Vec<Action>) {
        let Joining { id, cpus, ram_bytes, labels, was, holds } = joining;
        let mut before = was.map(|was| self.take_attempts(|_, attempt| attempt.duke == was)).unwrap_or_default();
        if let Some(was) = was {
            self.on_duke_lost(was);
        }
        let known = self.dukes.insert(id, Duke::new(cpus, ram_bytes, labels));
        debug_assert!(known.is_none(), "a duke's id is never used twice");
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
                    actions.push(Action::ForgetAttempt { duke: id, attempt: attempt.attempt });
                }
            }
            if let Some(job) = self.jobs.get_mut(&held.job) {
                let Job { waiting, suspects, units, .. } = job;
                for queue in [waiting, suspects] {
                    queue.retain(|no| units.get_mut(*no).is_some_and(|unit| unit.state == UnitState::Waiting));
                }
            }
        }
        for attempt in before.into_values().rev() {
            self.put_back(attempt.job, attempt.unit);
        }
        self.unpark_if_all_are_here();
        self.deal = true;
    }

    /// Takes over a lease that a duke brings back; returns whether the duke's machine has room for it.
    fn adopt_lease(&mut self, id: DukeId, held: &HeldLease, actions: &mut Vec<Action>) -> bool {
        let is_new = !held.closed && !self.has_job(held.job);
        let may_bring_until = self.heritage.may_bring_job(held.job).filter(|_| is_new);
        let Some(duke) = self.dukes.get_mut(&id) else { return false };
        let slot = Room { cpus: 1, bytes: held.slot_bytes };
        if held.slot_bytes > duke.ram_bytes {
            return false;
        }
        let Some(free) = held.slots.checked_add(held.leaving).and_then(|slots| duke.free.minus(slot.times(slots)))
        else {
            return false;
        };
        let mut lease = Lease::new(slot);
        (lease.slots, lease.releasing, lease.since) = (held.slots, held.leaving, self.now);
        if let Some(until) = may_bring_until {
            let spec = JobSpec::default();
            let project = self.projects.enter(&spec);
            let mut job = Job::new(held.key, spec, project);
            job.unclaimed = true;
            self.jobs.insert(held.job, job);
            self.timers.set(Alarm::QueenAway(held.job), until);
        }
        let fits = |job: &Job| job.unclaimed || duke.capacity(&job.spec).is_some_and(|fit| fits(&lease, fit));
        let is_wanted = |job: &&mut Job| job.key == held.key && !held.closed && fits(job);
        if let Some(job) = self.jobs.get_mut(&held.job).filter(is_wanted) {
            job.slots += lease.slots;
            job.releasing += lease.releasing;
            if lease.slots > 0 {
                job.by_load.insert((lease.load(), id));
            }
            self.hungry.insert(held.job);
        } else {
            lease.close();
            if !held.closed {
                actions.push(Action::CloseLease { duke: id, job: held.job });
            }
        }
        duke.free = free;
        let known = duke.leases.insert(held.job, lease);
        debug_assert!(known.is_none(), "the service names each job once");
        duke.forget_lease_if_over(held.job);
        self.keep_to_bound(held.job, actions);
        true
    }

    /// Closes leases that dukes brought before the job's spec was known, and that do not fit the spec.
    fn close_misfits(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let is_misfit = |duke: &Duke| {
            let lease = duke.leases.get(&id).filter(|lease| !lease.is_closed());
            lease.is_some_and(|lease| !duke.capacity(&job.spec).is_some_and(|fit| fits(lease, fit)))
        };
        let misfits: Vec<DukeId> =
            self.dukes.iter().filter(|(_, duke)| is_misfit(duke)).map(|(duke, _)| *duke).collect();
        for duke_id in misfits {
            for Attempt { unit, .. } in
                self.take_attempts(|_, attempt| attempt.duke == duke_id && attempt.job == id).into_values().rev()
            {
                self.put_back(id, unit);
            }
            let (Some(duke), Some(job)) = (self.dukes.get_mut(&duke_id), self.jobs.get_mut(&id)) else { continue };
            let Some(lease) = duke.leases.get_mut(&id) else { continue };
            job.by_load.remove(&(lease.load(), duke_id));
            job.slots -= lease.slots;
            job.releasing -= lease.releasing;
            lease.close();
            job.results.forget_duke(duke_id);
            actions.push(Action::CloseLease { duke: duke_id, job: id });
            duke.forget_lease_if_over(id);
        }
    }

    /// Asks back slots that came with dukes and go beyond the job's `max_parallel`.
    fn keep_to_bound(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let is_over = |job: &&Job| job.spec.max_parallel.is_some_and(|max| job.slots + job.reserved > max);
        while let Some((_, duke)) = self.jobs.get(&id).filter(is_over).and_then(|job| job.by_load.first().copied()) {
            self.ask_back(id, duke, actions);
        }
    }

    /// Takes over an attempt that a duke brings back; returns whether it is wanted.
    fn adopt_attempt(&mut self, id: DukeId, job_id: JobId, held: HeldAttempt, known: bool) -> bool {
        let lease = self.dukes.get(&id).and_then(|duke| duke.leases.get(&job_id));
        let is_open = lease.is_some_and(|lease| !lease.is_closed());
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
        if self.attempts.contains_key(&held.attempt) {
            return false;
        }
        unit.state = UnitState::Trying;
        unit.trying += 1;
        unit.attempts = unit.attempts.max(held.number);
        let attempt =
            Attempt { duke: id, job: job_id, unit: held.unit, input_bytes: held.bytes, since: self.now, runs: true };
        self.attempts.insert(held.attempt, attempt);
        self.load(id, job_id, 1, held.bytes);
        true
    }

    // ---- Queens ---------------------------------------------------------------------------------------------------

    pub(super) fn on_job_opened(
        &mut self,
        id: JobId,
        key: u64,
        spec: JobSpec,
        resumes: &Resumption,
        actions: &mut Vec<Action>,
    ) {
        debug_assert!(self.jobs.get(&id).is_none_or(|job| job.key == key), "the service knows whose job it is");
        let is_new = self.jobs.get(&id).is_none_or(|job| job.unclaimed);
        if is_new {
            let project = self.projects.enter(&spec);
            let job = self.jobs.entry(id).or_insert_with(|| Job::new(key, spec.clone(), project));
            if job.unclaimed {
                (job.unclaimed, job.spec) = (false, spec);
                let unclaimed = std::mem::replace(&mut job.project, project);
                self.projects.leave(unclaimed, self.jobs.values());
            }
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.timers.stop(Alarm::QueenAway(id));
        (job.yields_from, job.told) = (None, None);
        // The queen says over each link when there are no more units.
        job.closed = false;
        let unwanted: BTreeSet<_> = job.units.resume(resumes.sent, &resumes.lacking).into_iter().collect();
        if is_new && job.units.open() > unwanted.len() as u64 {
            job.awaits_dukes = Some(resumes.dukes);
            self.timers.set(Alarm::Unpark(id), self.now.after(SETTLE_WITHIN));
        }
        self.drop_claims(id, &unwanted, actions);
        self.close_misfits(id, actions);
        self.keep_to_bound(id, actions);
        self.unpark_if_all_are_here();
        self.deal = true;
    }

    /// Has dukes forget attempts of units whose verdicts the queen has.
    fn drop_claims(&mut self, id: JobId, unwanted: &BTreeSet<UnitNo>, actions: &mut Vec<Action>) {
        self.forget_attempts(|_, attempt| attempt.job == id && unwanted.contains(&attempt.unit), actions);
        if let Some(job) = self.jobs.get_mut(&id) {
            unwanted.iter().for_each(|unit| job.units.drop_earlier(*unit));
        }
    }

    /// Whether a job may keep its number: this king knows it by this key, or may still learn of it as a job of an
    /// earlier king.
    pub fn may_resume(&self, id: JobId, key: u64) -> bool {
        match self.jobs.get(&id) {
            Some(job) => job.key == key,
            None => self.heritage.may_bring_job(id).is_some(),
        }
    }

    /// Whether there is a job of this number.
    pub fn has_job(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    pub(super) fn on_queen_away(&mut self, id: JobId) {
        // The queen's job may have ended.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.yields_from = Some(self.now.after(AWAY_PATIENCE));
        self.timers.set(Alarm::QueenAway(id), self.now.after(self.grace));
        self.deal = true;
    }

    pub(super) fn on_queen_overdue(&mut self, id: JobId, actions: &mut Vec<Action>) {
        self.remove_job(id, actions);
        actions.push(Action::EndJob { job: id, end: JobEnd::Abandoned });
    }

    // ---- A king that has just begun -------------------------------------------------------------------------------

    /// Lets parked units run once as many dukes are here as there were: then no missing duke can have one of them.
    fn unpark_if_all_are_here(&mut self) {
        let here = self.dukes.values().filter(|duke| duke.away_since.is_none()).count();
        let is_awaited_no_more = |job: &Job| job.awaits_dukes.is_some_and(|dukes| here >= dukes as usize);
        let complete: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| is_awaited_no_more(job)).map(|(id, _)| *id).collect();
        complete.into_iter().for_each(|job| self.unpark(job));
    }

    /// Lets the parked units run, which no duke has claimed.
    pub(super) fn unpark(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.awaits_dukes.take().is_none() {
            return;
        }
        self.timers.stop(Alarm::Unpark(id));
        for (no, unit) in job.units.earlier_mut().filter(|(_, unit)| unit.state == UnitState::Parked) {
            unit.state = UnitState::Waiting;
            job.waiting.push_back(no);
        }
        self.hungry.insert(id);
        self.deal = true;
    }
}

/// Whether the king would grant such a lease: at most `slots_max` slots, each of size `slot`.
fn fits(lease: &Lease, (slots_max, slot): (u32, Room)) -> bool {
    lease.slot == slot && lease.slots <= slots_max
}

#[cfg(test)]
mod tests {
    use distwasm_proto::{ids::AttemptId, time::Time};

    use super::*;
    use crate::scheduler::{Event, Outcome};

    const JOB: JobId = JobId(1);
    const OLD: DukeId = DukeId(1);
    const NEW: DukeId = DukeId(2);

    fn handle(scheduler: &mut Scheduler, now: Time, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        scheduler.handle(now, events, &mut actions);
        scheduler.check();
        actions
    }

    fn joined(duke: DukeId, was: Option<DukeId>, holds: Vec<HeldLease>) -> Event {
        Event::DukeJoined { duke, cpus: 1, ram_bytes: 1 << 30, labels: BTreeMap::new(), was, holds }
    }

    fn holds(slots: u32, attempts: &[(u64, u64)]) -> HeldLease {
        let attempts = attempts.iter().map(|(attempt, unit)| HeldAttempt {
            attempt: AttemptId(*attempt),
            unit: UnitNo(*unit),
            bytes: 1,
            number: u32::MAX,
        });
        let (key, slot_bytes, leaving, closed) = (7, 1 << 30, 0, false);
        HeldLease { job: JOB, key, slot_bytes, slots, leaving, closed, attempts: attempts.collect() }
    }

    /// A duke that was given two units, and whose link broke.
    fn cut_off() -> Scheduler {
        let mut scheduler = Scheduler::default();
        let unit = |unit| Event::UnitAdded { job: JOB, unit: UnitNo(unit), bytes: 1 };
        let opened = Event::JobOpened { job: JOB, key: 7, spec: JobSpec::default(), resumes: Resumption::default() };
        handle(&mut scheduler, Time(1), [joined(OLD, None, Vec::new()), opened, unit(0), unit(1)]);
        handle(&mut scheduler, Time(2), [Event::DukeAway { duke: OLD }]);
        scheduler
    }

    fn started(actions: &[Action]) -> Vec<(UnitNo, u32)> {
        let start = |action: &Action| match action {
            Action::StartAttempt { unit, number, .. } => Some((*unit, *number)),
            _ => None,
        };
        actions.iter().filter_map(start).collect()
    }

    #[test]
    fn what_a_duke_names_goes_on_and_what_it_does_not_name_runs_again() {
        let mut scheduler = cut_off();
        let actions = handle(&mut scheduler, Time(3), [joined(NEW, Some(OLD), vec![holds(1, &[(1, 0)])])]);
        assert_eq!(started(&actions), [(UnitNo(1), 2)]);
        assert!(scheduler.expects(NEW, AttemptId(1)) && !scheduler.expects(NEW, AttemptId(2)));
        let back = Event::AttemptEnded {
            duke: NEW,
            attempt: AttemptId(1),
            outcome: Outcome::Returned { suspect: false },
            run_us: 0,
        };
        // The duke lied about how often the unit was tried, which is a number without further effect.
        assert_eq!(started(&handle(&mut scheduler, Time(4), [back])), [(UnitNo(0), u32::MAX)]);
    }

    #[test]
    fn a_duke_that_lies_about_what_it_has_loses_no_unit() {
        for lie in [&[(1, 1), (2, 1)][..], &[(2, 0), (2, 1)], &[(9, 0)], &[(1, 5)], &[(1, 0), (1, 0), (1, 0)]] {
            let mut scheduler = cut_off();
            handle(&mut scheduler, Time(3), [joined(NEW, Some(OLD), vec![holds(1, lie)])]);
            assert_eq!(scheduler.census().units_waiting + scheduler.census().units_running, 2, "{lie:?}");
        }
        for slots in [2, u32::MAX] {
            let mut scheduler = cut_off();
            let actions = handle(&mut scheduler, Time(3), [joined(NEW, Some(OLD), vec![holds(slots, &[(1, 0)])])]);
            assert!(actions.iter().any(|action| matches!(action, Action::ExpelDuke { .. })));
        }
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_grace_time() {
        let mut scheduler = cut_off();
        handle(&mut scheduler, Time(5), [Event::QueenAway { job: JOB }]);
        let overdue = scheduler.next_deadline().unwrap();
        let mut now = overdue;
        let mut told = Vec::new();
        while let Some(deadline) = scheduler.next_deadline().filter(|_| scheduler.has_job(JOB)) {
            now = now.max(deadline);
            told.extend(handle(&mut scheduler, now, [Event::Tick]));
        }
        assert!(told.contains(&Action::ForgetDuke { duke: OLD }));
        assert!(told.contains(&Action::EndJob { job: JOB, end: JobEnd::Abandoned }));
    }
}
