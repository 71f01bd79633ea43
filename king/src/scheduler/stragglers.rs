//! Tries units again elsewhere that have been running for longer than finished units explain (backup tasks, as in J.
//! Dean and S. Ghemawat, "MapReduce", 2004, section 3.6): the first answer wins, and the other attempt is ended.

use std::time::Duration;

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{AWAY_PATIENCE, STRAGGLER_FACTOR, STRAGGLER_LOOK, STRAGGLER_PATIENCE},
    time::Time,
};

use super::{Action, Alarm, Attempt, Scheduler, job::Job};

impl Scheduler {
    /// Schedules a look at a job if all its remaining units are running.
    pub(super) fn watch(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let may_straggle = job.spec.speculate && job.waiting.is_empty() && job.suspects.is_empty();
        if may_straggle && job.units.open() > 0 && !self.timers.is_set(Alarm::Stragglers(id)) {
            self.timers.set(Alarm::Stragglers(id), self.now.after(STRAGGLER_LOOK));
        }
    }

    /// Starts a second attempt for each straggler, as far as there are slots with nothing to do.
    pub(super) fn look_for_stragglers(&mut self, id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(&id) else { return };
        if !job.waiting.is_empty() || !job.suspects.is_empty() {
            // It is watched again when nothing waits any more.
            return;
        }
        let mut stragglers: Vec<(Time, AttemptId)> = self
            .attempts
            .iter()
            .filter(|(attempt_id, attempt)| attempt.job == id && self.straggles(**attempt_id, attempt))
            .map(|(attempt, Attempt { since, .. })| {
                (job.results.get(*attempt).map_or(*since, |result| result.since), *attempt)
            })
            .collect();
        let is_busy = self.attempts.values().any(|attempt| attempt.job == id);
        stragglers.sort_unstable();
        for (_, attempt) in stragglers {
            let Some(Attempt { duke, unit, .. }) = self.attempts.get(&attempt).copied() else { continue };
            let Some(elsewhere) = self.idle_elsewhere(id, duke) else { continue };
            let bytes = self.start(id, elsewhere, unit, actions);
            self.load(elsewhere, id, 1, bytes);
        }
        if is_busy {
            self.watch(id);
        }
    }

    fn straggles(&self, id: AttemptId, attempt: &Attempt) -> bool {
        let Some(job) = self.jobs.get(&attempt.job) else { return false };
        let is_single = job.units.get(attempt.unit).is_some_and(|unit| unit.trying == 1 && unit.has_input);
        if !is_single {
            return false;
        }
        let away_since = self.dukes.get(&attempt.duke).and_then(|duke| duke.away_since);
        let is_cut_off = away_since.is_some_and(|since| since.after(AWAY_PATIENCE) <= self.now);
        let takes_long = match job.results.get(id) {
            None => job.is_explained_until(attempt.since).is_some_and(|until| until <= self.now),
            Some(result) => job.results.is_hopeless(result, self.now),
        };
        is_cut_off || takes_long
    }

    /// A duke where a slot of the job is idle, and no result is in transit that the next one would wait for.
    fn idle_elsewhere(&self, id: JobId, not_here: DukeId) -> Option<DukeId> {
        let job = self.jobs.get(&id)?;
        let has_idle = |duke: &DukeId| {
            let lease = self.dukes.get(duke).and_then(|duke| duke.leases.get(&id));
            lease.is_some_and(|lease| lease.running < lease.slots && job.results.in_transit_from(*duke) == 0)
        };
        job.by_load.iter().map(|(_, duke)| *duke).find(|duke| *duke != not_here && has_idle(duke))
    }

    /// Ends the other attempt of a unit that is about to have its verdict, if it has two.
    pub(super) fn forget_twin(&mut self, id: AttemptId, job: JobId, unit: UnitNo, actions: &mut Vec<Action>) {
        let unit_of_job = self.jobs.get(&job).and_then(|job| job.units.get(unit));
        if unit_of_job.is_some_and(|unit| unit.trying > 1) {
            self.forget_attempts(|other, attempt| other != id && attempt.job == job && attempt.unit == unit, actions);
        }
    }
}

impl Job {
    /// Until when a unit that was handed out at `since` runs no longer than finished units explain; `None` if no unit
    /// has finished.
    pub(super) fn is_explained_until(&self, since: Time) -> Option<Time> {
        let typical = Duration::from_micros(self.unit_time.average_us()?);
        Some(since.after(typical.saturating_mul(STRAGGLER_FACTOR)).after(STRAGGLER_PATIENCE))
    }
}
