//! Keeps a job's slots supplied with units, and fetches results as there is room for them.

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::FULL_LOOK,
};

use super::{Action, Alarm, Attempt, Scheduler, results::LargeResult, units::UnitState};

impl Scheduler {
    /// Hands out units of all jobs whose slots may want some, and fetches results that there is room for.
    pub(super) fn feed_jobs(&mut self, actions: &mut Vec<Action>) {
        for job in std::mem::take(&mut self.hungry) {
            self.fetch_results(job, actions);
            self.feed(job, actions);
            self.watch(job);
            self.watch_results(job);
        }
    }

    /// Fills the slots of every lease that is at most half full: many units travel in one message, and the slots have
    /// enough work meanwhile. All slots get one unit before any slot gets a second.
    fn feed(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        // Back-pressure: a queen that does not take its results gets no more of them.
        if job.results.is_full() || (job.waiting.is_empty() && job.suspects.is_empty()) {
            return;
        }
        let depth = job.depth();
        let is_low = |(load, _): &&(u32, DukeId)| *load <= depth / 2;
        let mut low: Vec<DukeId> = job.by_load.iter().take_while(is_low).map(|(_, duke)| *duke).collect();
        while !low.is_empty() {
            low.retain(|duke| self.start_round(id, *duke, depth, actions));
        }
    }

    /// Starts one unit for each slot of a lease; returns whether the lease may want more.
    fn start_round(&mut self, job_id: JobId, duke_id: DukeId, depth: u32, actions: &mut Vec<Action>) -> bool {
        let Some(lease) = self.dukes.get(&duke_id).and_then(|duke| duke.leases.get(&job_id)) else { return false };
        if lease.load() >= depth {
            return false;
        }
        let slots = lease.slots;
        let (mut started, mut bytes) = (0, 0);
        while started < slots {
            let Some(unit) = self.take_unit(job_id, duke_id) else { break };
            bytes += self.start(job_id, duke_id, unit, actions);
            started += 1;
        }
        self.load(duke_id, job_id, started, bytes);
        started == slots
    }

    /// The next unit for this duke. A unit that killed a peasant here goes to another duke, if there is one.
    fn take_unit(&mut self, job_id: JobId, duke_id: DukeId) -> Option<UnitNo> {
        let job = self.jobs.get_mut(&job_id)?;
        let runs_elsewhere = |(_, duke): &(u32, DukeId)| {
            let lease = self.dukes.get(duke).and_then(|duke| duke.leases.get(&job_id));
            *duke != duke_id && lease.is_some_and(|lease| !lease.blocked)
        };
        let only_duke = !job.suspects.is_empty() && !job.by_load.iter().any(runs_elsewhere);
        let units = &mut job.units;
        let may_run_here =
            |unit: &UnitNo| only_duke || units.get_mut(*unit).is_some_and(|unit| unit.avoid != Some(duke_id));
        if let Some(place) = job.suspects.iter().position(may_run_here) {
            return job.suspects.remove(place);
        }
        job.waiting.pop_front()
    }

    /// Starts an attempt of a unit: the first, or a second beside one that takes long. The caller must add the attempt,
    /// with the bytes that this returns, to the load of the lease.
    pub(super) fn start(&mut self, job_id: JobId, duke_id: DukeId, unit_no: UnitNo, actions: &mut Vec<Action>) -> u64 {
        let Some(unit) = self.jobs.get_mut(&job_id).and_then(|job| job.units.get_mut(unit_no)) else { return 0 };
        debug_assert!(unit.has_input && unit.trying < 2, "a unit that runs has its input, and runs twice at most");
        // Other units must not wait behind one that may take long.
        let alone = unit.is_suspect() || unit.trying > 0;
        unit.state = UnitState::Trying;
        unit.trying += 1;
        unit.attempts = unit.attempts.saturating_add(1);
        let (input_bytes, number) = (unit.bytes, unit.attempts);
        let id = self.heritage.next_attempt();
        let attempt = Attempt { duke: duke_id, job: job_id, unit: unit_no, input_bytes, since: self.now, runs: true };
        self.attempts.insert(id, attempt);
        actions.push(Action::StartAttempt { duke: duke_id, job: job_id, unit: unit_no, attempt: id, number, alone });
        input_bytes
    }

    /// Fetches offered results as far as there is room for them.
    fn fetch_results(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let fetching = job.results.fetch(self.now);
        actions.extend(fetching.wanted.into_iter().map(|(duke, attempt)| Action::FetchResult { duke, attempt }));
        for duke in fetching.blocked {
            self.change_load(duke, id, |lease| lease.blocked = true);
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
        self.change_load(duke, job_id, |lease| lease.blocked = is_blocked);
        // There may be room for another offer now.
        self.hungry.insert(job_id);
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
        let slots_wanted = job.slots_wanted();
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
            attempt.job == id
                && attempt.runs
                && attempt.since.after(FULL_LOOK) <= self.now
                && job.is_explained_until(attempt.since).is_none_or(|until| until > self.now)
        };
        u32::try_from(self.attempts.values().filter(is_long).count()).unwrap_or(u32::MAX).min(job.slots)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use distwasm_proto::time::Time;

    use super::*;
    use crate::scheduler::{Event, JobSpec, Outcome, Resumption};

    #[test]
    fn a_suspect_does_not_wait_for_a_duke_whose_link_is_full() {
        let (job, full, other) = (JobId(1), DukeId(1), DukeId(2));
        let mut scheduler = Scheduler::default();
        let mut handle = |events: Vec<Event>| {
            let mut actions = Vec::new();
            scheduler.handle(Time(1), events, &mut actions);
            scheduler.check();
            let start = |action: &Action| match action {
                Action::StartAttempt { duke, unit, attempt, .. } => Some((*duke, *unit, *attempt)),
                _ => None,
            };
            actions.iter().filter_map(start).collect::<Vec<_>>()
        };
        let labels = BTreeMap::new;
        let joined = |duke| Event::DukeJoined {
            duke,
            cpus: 1,
            ram_bytes: 1 << 30,
            labels: labels(),
            was: None,
            holds: Vec::new(),
        };
        let opened = Event::JobOpened { job, key: 1, spec: JobSpec::default(), resumes: Resumption::default() };
        let unit = |unit| Event::UnitAdded { job, unit: UnitNo(unit), bytes: 1 };
        let begun = handle([joined(full), joined(other), opened].into_iter().chain((0..4).map(unit)).collect());
        let at = |duke: DukeId| begun.iter().filter(move |(at, ..)| *at == duke).copied();
        let offered =
            at(full).map(|(duke, _, attempt)| Event::ResultOffered { duke, attempt, bytes: 20 << 20, run_us: 1 });
        handle(offered.collect());
        let (duke, killer, attempt) = at(other).next().unwrap();
        let killed = Event::AttemptEnded { duke, attempt, outcome: Outcome::Killed { bytes: 1 }, run_us: 1 };
        let (_, behind, second) = at(other).nth(1).unwrap();
        let returned = Outcome::Returned { suspect: false };
        let returned = Event::AttemptEnded { duke, attempt: second, outcome: returned, run_us: 0 };
        let again = handle(vec![killed, returned]);
        let again: Vec<(DukeId, UnitNo)> = again.into_iter().map(|(duke, unit, _)| (duke, unit)).collect();
        assert!(again.contains(&(other, killer)), "{again:?} instead of {killer} and {behind}");
    }
}
