//! Tries units again elsewhere that have been running for longer than finished units explain (backup tasks, as in J.
//! Dean and S. Ghemawat, "MapReduce", 2004, section 3.6): the first answer wins, and the other attempt is ended.
//!
//! This happens when a job has no waiting units and a slot of another duke is idle: to a unit that has run for
//! `STRAGGLER_FACTOR` times as long as finished units and `STRAGGLER_PATIENCE` on top, whose duke has been away for
//! `AWAY_PATIENCE`, or whose result is overdue.

use std::time::Duration;

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId},
    limits::{AWAY_PATIENCE, STRAGGLER_FACTOR, STRAGGLER_LOOK, STRAGGLER_PATIENCE},
    time::Time,
};

use super::{Action, Alarm, Scheduler, job::Job, late::Idle, ledger::Attempt};

impl Scheduler {
    /// Schedules a look at a job if all its remaining units are running.
    pub(super) fn watch(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let may_straggle = job.spec.speculate && job.units_waiting() == 0 && job.units.open() > 0;
        if may_straggle && !self.timers.is_set(Alarm::Stragglers(id)) {
            self.timers.set(Alarm::Stragglers(id), self.now.after(STRAGGLER_LOOK));
        }
    }

    /// Starts a second attempt for each straggler, as far as there are slots with nothing to do.
    pub(super) fn look_for_stragglers(&mut self, id: JobId, actions: &mut Vec<Action>) {
        self.give_late_units(id, actions);
        // It is watched again when nothing waits any more.
        let Some(job) = self.jobs.get(&id).filter(|job| job.units_waiting() == 0) else { return };
        let attempts = self.ledger.attempts_of_job(id);
        let straggler = |id: &AttemptId| Some((self.straggles_since(job, *id)?, *id));
        let mut stragglers: Vec<(Time, AttemptId)> = attempts.iter().filter_map(straggler).collect();
        stragglers.sort_unstable();
        self.distrust_links(id, &stragglers);
        for (since, attempt) in stragglers {
            let Some(Attempt { duke, unit, .. }) = self.ledger.attempt(attempt).copied() else { continue };
            if let Some(elsewhere) = self.idle_elsewhere(id, duke, since) {
                self.start(id, elsewhere, unit, true, actions);
            }
        }
        if !attempts.is_empty() {
            self.watch(id);
        }
    }

    /// Since when an attempt runs, or its result is on its way, if that is too long.
    fn straggles_since(&self, job: &Job, id: AttemptId) -> Option<Time> {
        let attempt = self.ledger.attempt(id)?;
        if !job.units.get(attempt.unit).is_some_and(|unit| unit.trying == 1 && unit.has_input) {
            return None;
        }
        let away_since = self.ledger.duke(attempt.duke).and_then(|duke| duke.away_since);
        let is_cut_off = away_since.is_some_and(|since| since.after(AWAY_PATIENCE) <= self.now);
        let (since, takes_long) = match job.results.get(id) {
            // A unit whose input is on its way does not run yet.
            None => (attempt.moved, job.is_explained_until(attempt.moved).is_some_and(|until| until <= self.now)),
            // No other attempt would bring it to a queen that is away.
            Some(result) if result.is_streamed() && job.yields_from.is_some() => (result.since, false),
            Some(result) => (result.since, job.results.is_hopeless(result, self.now)),
        };
        (is_cut_off || takes_long).then_some(since)
    }

    /// The next results from the dukes of these attempts would be late, too, if theirs are.
    fn distrust_links(&mut self, id: JobId, stragglers: &[(Time, AttemptId)]) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        for (_, attempt) in stragglers {
            if job.results.get(*attempt).is_some()
                && let Some(attempt) = self.ledger.attempt(*attempt)
            {
                job.results.distrust(attempt.duke);
            }
        }
    }

    /// A duke where a slot of the job is idle that a unit reaches earlier than the attempt `since` then has taken already.
    fn idle_elsewhere(&self, id: JobId, not_here: DukeId, since: Time) -> Option<DukeId> {
        let job = self.jobs.get(&id)?;
        let mut idle = self.idle_leases(id, job).into_iter();
        let is_sooner = |idle: &Idle| idle.takes_us <= self.now.micros_since(since);
        idle.find(|idle| idle.duke != not_here && is_sooner(idle)).map(|idle| idle.duke)
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
