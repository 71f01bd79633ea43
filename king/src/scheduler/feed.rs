//! Keeps a job's slots supplied with units, and fetches results as there is room for them.
//!
//! Each slot has about `SLOT_QUEUE` of work, within `SLOT_UNITS_MIN` to `SLOT_UNITS_MAX` units, and less near the end of
//! a job, so that all slots end at about the same time. Slots are refilled, many units at a time, when no more than half
//! is left: short units cost messages and wake-ups once for each batch. A duke gets no more than its link carries in time
//! (`ledger/link.rs`).

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::FULL_LOOK,
};

use super::{Action, Alarm, Scheduler, ledger::Attempt, results::LargeResult, room::Room, units::UnitState};

impl Scheduler {
    /// Hands out units of all jobs whose slots may want some, and fetches results that there is room for.
    pub(super) fn feed_jobs(&mut self, actions: &mut Vec<Action>) {
        self.hungry.append(&mut self.short);
        if self.hungry.is_empty() {
            return;
        }
        let mut room = Room::count(self.result_bounds, &self.jobs);
        for job in std::mem::take(&mut self.hungry) {
            self.fetch_results(job, &mut room, actions);
            self.feed(job, actions);
            self.give_late_units(job, actions);
            self.watch(job);
            self.watch_results(job);
        }
    }

    // ---- Units ----------------------------------------------------------------------------------------------------

    /// Fills the slots of every lease that is at most half full: many units travel in one message, and the slots have
    /// enough work meanwhile. All slots get one unit before any slot gets a second.
    fn feed(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        // Back-pressure: a queen that does not take its results gets no more of them.
        if job.results.is_full() || job.units_waiting() == 0 {
            return;
        }
        let account = self.ledger.account(id);
        let depth = job.depth(account.slots.saturating_sub(self.ledger.crowded_slots(id)));
        let is_low = |(load, _): &&(u32, DukeId)| *load <= depth / 2;
        let mut low: Vec<DukeId> = account.by_load.iter().take_while(is_low).map(|(_, duke)| *duke).collect();
        while !low.is_empty() {
            low.retain(|duke| self.start_round(id, *duke, depth, actions));
        }
    }

    /// Starts one unit for each slot of a lease, as far as the link has room; returns whether the lease may want more.
    fn start_round(&mut self, job: JobId, duke: DukeId, depth: u32, actions: &mut Vec<Action>) -> bool {
        let Some((Some(lease), link)) = self.ledger.duke(duke).map(|duke| (duke.leases.get(&job), &duke.link)) else {
            return false;
        };
        if lease.load().is_none_or(|load| load >= depth) {
            return false;
        }
        let (slots, mut room) = (lease.slots, link.room());
        for _ in 0..slots {
            if room == 0 {
                self.ledger.await_room(duke);
                return false;
            }
            let Some(unit) = self.take_unit(job, duke) else { return false };
            room = room.saturating_sub(self.start(job, duke, unit, false, actions));
        }
        true
    }

    /// The next unit for this duke. A unit that killed a peasant here goes to another duke, if there is one.
    fn take_unit(&mut self, job_id: JobId, duke_id: DukeId) -> Option<UnitNo> {
        let job = self.jobs.get_mut(&job_id)?;
        if job.suspects.is_empty() {
            return job
                .next_waiting(|bytes| self.ledger.duke(duke_id).is_some_and(|duke| duke.link.is_slow_for(bytes)));
        }
        let is_open = |duke| self.ledger.lease(duke, job_id).is_some_and(|lease| !lease.blocked);
        let only_duke = !self.ledger.account(job_id).least_loaded().any(|duke| duke != duke_id && is_open(duke));
        let may_run_here =
            |unit: &UnitNo| only_duke || job.units.get(*unit).is_some_and(|unit| unit.avoid != Some(duke_id));
        match job.suspects.iter().position(may_run_here) {
            Some(place) => job.suspects.remove(place),
            None => job.waiting.pop_front(),
        }
    }

    /// Starts an attempt of a unit: the first, or a second beside one that is late or takes long. In the last case other
    /// units must not wait behind it. Returns what it takes on the link.
    pub(super) fn start(
        &mut self,
        id: JobId,
        duke: DukeId,
        no: UnitNo,
        takes_long: bool,
        actions: &mut Vec<Action>,
    ) -> u64 {
        let Some(job) = self.jobs.get_mut(&id) else { return 0 };
        let link_bytes = job.link_bytes();
        let Some(unit) = job.units.get_mut(no) else { return 0 };
        debug_assert!(unit.has_input && unit.trying < 2, "a unit that runs has its input, and runs twice at most");
        let alone = unit.is_suspect() || takes_long;
        unit.state = UnitState::Trying;
        unit.trying += 1;
        unit.attempts = unit.attempts.saturating_add(1);
        let (input_bytes, number, spared_us) = (unit.bytes, unit.attempts, unit.spared_us());
        let attempt = self.heritage.next_attempt();
        let bytes = input_bytes.saturating_add(link_bytes);
        let since = self.now;
        let begun = Attempt { duke, job: id, unit: no, input_bytes, since, moved: since, runs: true };
        self.ledger.send(attempt, begun, bytes);
        actions.push(Action::StartAttempt { duke, job: id, unit: no, attempt, number, alone, spared_us });
        bytes
    }

    /// All attempts up to this one that were handed to a duke have arrived there.
    pub(super) fn on_inputs_arrived(&mut self, id: DukeId, attempt: AttemptId) {
        self.ledger.arrive(id, attempt, self.now);
        self.look_at_link(id);
    }

    /// Looks at the jobs of a duke again if there is room on its link that they have waited for.
    pub(super) fn look_at_link(&mut self, id: DukeId) {
        self.hungry.extend(self.ledger.take_relieved(id));
    }

    // ---- Results --------------------------------------------------------------------------------------------------

    /// Fetches offered results as far as there is room for them.
    fn fetch_results(&mut self, id: JobId, room: &mut Room, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let fetching = job.results.fetch(self.now, room.of(job));
        room.take(job, fetching.wanted.iter().map(|(.., bytes)| bytes).sum());
        if job.results.is_short() {
            self.short.insert(id);
        }
        let wanted = fetching.wanted.into_iter();
        actions.extend(wanted.map(|(duke, attempt, bytes)| Action::FetchResult { duke, attempt, bytes }));
        for duke in fetching.blocked {
            self.ledger.set_blocked(duke, id, true);
            // Another job may have use for the slots of this lease.
            self.timers.set(Alarm::Deal, self.now);
        }
    }

    /// Takes out a result that was offered or in transit.
    pub(super) fn remove_result(&mut self, id: AttemptId, duke: DukeId, job_id: JobId) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let is_offered = job.results.get(id).is_some_and(LargeResult::is_offered);
        let was_blocked = job.results.is_blocked(duke);
        job.results.remove(id);
        let is_blocked = job.results.is_blocked(duke);
        self.deal |= is_offered || was_blocked != is_blocked;
        self.ledger.set_blocked(duke, job_id, is_blocked);
    }

    /// Results that wait at a duke, or are in transit from it, take no room while it is away: it will offer them again.
    pub(super) fn recall_results(&mut self, id: DukeId) {
        let Some(duke) = self.ledger.duke(id) else { return };
        let jobs: Vec<JobId> = duke.leases.keys().copied().collect();
        for job_id in jobs {
            let Some(job) = self.jobs.get_mut(&job_id) else { continue };
            for attempt in job.results.recall(id) {
                self.ledger.set_undone(attempt, self.now);
            }
            self.ledger.set_blocked(id, job_id, false);
        }
    }

    /// Forgets what is known of the link of a duke that works for these jobs no more.
    pub(super) fn forget_links(&mut self, duke: DukeId, jobs: Vec<JobId>) {
        for job in jobs {
            if let Some(job) = self.jobs.get_mut(&job) {
                job.results.forget_duke(duke);
            }
        }
    }

    /// Schedules a look at a job that can hold no more results.
    fn watch_results(&mut self, id: JobId) {
        if self.jobs.get_mut(&id).is_some_and(|job| job.results.observe()) {
            self.timers.set(Alarm::Results(id), self.now.after(FULL_LOOK));
        }
    }

    /// Looks at a job whose room for results was full: which of them are overdue, and how many slots it can use.
    pub(super) fn look_at_results(&mut self, id: JobId) {
        let long_at_work = self.long_at_work(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.results.set_overdue(self.now) {
            self.hungry.insert(id);
        }
        let slots_wanted = job.slots_wanted(self.ledger.account(id));
        if job.results.look(long_at_work, slots_wanted) {
            self.timers.set(Alarm::Results(id), self.now.after(FULL_LOOK));
        }
        self.deal = true;
    }

    /// Slots whose units have been running for at least the time from one look to the next, and not longer than
    /// finished units explain: a unit that runs longer waits for room for its result.
    fn long_at_work(&self, id: JobId) -> u32 {
        let Some(job) = self.jobs.get(&id) else { return 0 };
        let is_long = |attempt: &&Attempt| {
            attempt.runs
                && attempt.since.after(FULL_LOOK) <= self.now
                && job.is_explained_until(attempt.since).is_none_or(|until| until > self.now)
        };
        let attempts = self.ledger.attempts_of_job(id);
        let long = attempts.into_iter().filter_map(|id| self.ledger.attempt(id)).filter(is_long).count();
        u32::try_from(long).unwrap_or(u32::MAX).min(self.ledger.account(id).slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{
        Event, JobSpec, Outcome,
        testing::{Kingdom, ended, returned, started},
    };

    #[test]
    fn a_suspect_does_not_wait_for_a_blocked_duke() {
        let (job, slow, other) = (JobId(1), DukeId(1), DukeId(2));
        let mut kingdom = Kingdom::new().duke(slow, 1).duke(other, 1).job(job, JobSpec::default(), 4);
        let offered =
            |(_, attempt)| Event::ResultOffered { duke: slow, attempt, bytes: 20 << 20, run_us: 1, streamed: false };
        let offers: Vec<Event> = kingdom.started_on(slow).into_iter().map(offered).collect();
        kingdom.tell(offers);
        let on_other = kingdom.started_on(other);
        let ((killer, first), (_, second)) = (on_other[0], on_other[1]);
        let again = kingdom.tell([ended(other, first, Outcome::Killed { bytes: 1 }), returned(other, second)]);
        let is_tried_again = started(&again).into_iter().any(|(duke, unit, _)| (duke, unit) == (other, killer));
        assert!(is_tried_again, "{again:?}");
    }
}
