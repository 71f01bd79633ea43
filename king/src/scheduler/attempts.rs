//! How attempts end: their units get a verdict, or run again.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{AttemptId, JobId, UnitNo},
    limits::KILLS_MAX,
};

use super::{Action, Outcome, Scheduler, Verdict, ledger::Attempt, units::UnitState};

impl Scheduler {
    /// Decides what the outcome of an attempt means for its unit.
    pub(super) fn judge(
        &mut self,
        id: AttemptId,
        attempt: Attempt,
        outcome: Outcome,
        run_us: u64,
        actions: &mut Vec<Action>,
    ) {
        let patience = self.rules.preempt_after.unwrap_or_default();
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        let (retries, is_unclaimed) = (job.spec.retries, job.unclaimed);
        let Some(unit) = job.units.get_mut(attempt.unit) else { return };
        match outcome {
            Outcome::Done { bytes } => self.conclude(id, attempt, Verdict::Done(id), bytes, actions),
            Outcome::Failed { bytes } => {
                unit.failures += 1;
                // The retry limit is unknown until the queen claims the job.
                if unit.failures <= retries || is_unclaimed {
                    self.again(id);
                } else {
                    self.conclude(id, attempt, Verdict::Failed(id), bytes, actions);
                }
            }
            Outcome::Killed { bytes } => {
                unit.kills += 1;
                unit.avoid = Some(attempt.duke);
                if unit.kills < KILLS_MAX {
                    self.again(id);
                } else {
                    self.conclude(id, attempt, Verdict::Failed(id), bytes, actions);
                }
            }
            Outcome::Returned { suspect } => {
                unit.suspect |= suspect;
                self.again(id);
            }
            Outcome::Preempted => {
                unit.set_preempted(run_us, patience);
                self.again(id);
            }
        }
    }

    /// A unit fails that comes without its input.
    pub(super) fn on_unit_broken(&mut self, id: JobId, no: UnitNo, bytes: u64, actions: &mut Vec<Action>) {
        // The queen may send units while it is being told that its job failed.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(arrived) = job.units.arrive(no, 0) else { return };
        if arrived.trying > 0 {
            // A duke that came back runs the unit. Without its input the unit cannot be tried again.
            self.forget_attempts(self.ledger.attempts_of_units(id, |unit| unit == no), actions);
        }
        self.report(id, no, Verdict::Broken, bytes, actions);
        self.hungry.insert(id);
    }

    /// A unit whose input cannot be read fails, wherever it is.
    pub(super) fn on_input_broken(&mut self, id: JobId, no: UnitNo, bytes: u64, actions: &mut Vec<Action>) {
        // An earlier event of this batch may have given the unit its verdict, or ended the job.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(state) = job.units.get(no).map(|unit| unit.state).filter(|state| *state != UnitState::Reported) else {
            return;
        };
        if state == UnitState::Waiting {
            job.waiting.retain(|waiting| *waiting != no);
            job.suspects.retain(|waiting| *waiting != no);
        }
        self.forget_attempts(self.ledger.attempts_of_units(id, |unit| unit == no), actions);
        self.report(id, no, Verdict::Broken, bytes, actions);
        self.hungry.insert(id);
    }

    /// Ends an attempt, and puts its unit back to the front of its job.
    fn again(&mut self, id: AttemptId) {
        if let Some(Attempt { job, unit, .. }) = self.end_attempt(id) {
            self.put_back(job, unit);
        }
    }

    /// Ends an attempt that gave its unit a verdict, and another of the same unit if there is one.
    fn conclude(
        &mut self,
        id: AttemptId,
        Attempt { job, unit, .. }: Attempt,
        verdict: Verdict,
        bytes: u64,
        actions: &mut Vec<Action>,
    ) {
        self.forget_twin(id, job, unit, actions);
        self.end_attempt(id);
        self.report(job, unit, verdict, bytes, actions);
    }

    /// Forgets the other attempt of a unit that is about to have its verdict, if it has two.
    fn forget_twin(&mut self, id: AttemptId, job: JobId, no: UnitNo, actions: &mut Vec<Action>) {
        if self.jobs.get(&job).and_then(|job| job.units.get(no)).is_some_and(|unit| unit.trying > 1) {
            let mut twins = self.ledger.attempts_of_units(job, |unit| unit == no);
            twins.remove(&id);
            self.forget_attempts(twins, actions);
        }
    }

    /// Gives a unit its verdict. The result or the evidence has `bytes` bytes, which the king holds for the queen.
    pub(super) fn report(&mut self, id: JobId, unit: UnitNo, verdict: Verdict, bytes: u64, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let attempts = job.units.close(unit);
        job.results.hold(bytes);
        job.unheard += 1;
        actions.push(Action::Report { job: id, unit, verdict, attempts });
        // A job with fewer units than slots has slots to spare.
        let account = self.ledger.account(id);
        self.deal |= account.slots > job.need(account);
    }

    /// Puts units back to the fronts of their jobs, in the order in which they were tried.
    pub(super) fn put_all_back(&mut self, attempts: BTreeMap<AttemptId, Attempt>) {
        for attempt in attempts.into_values().rev() {
            self.put_back(attempt.job, attempt.unit);
        }
    }

    /// Puts a unit back to the front of its job, unless another attempt of it is still running.
    fn put_back(&mut self, job_id: JobId, no: UnitNo) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let Some(unit) = job.units.get_mut(no).filter(|unit| unit.state == UnitState::Trying && unit.trying == 0)
        else {
            return;
        };
        if !unit.has_input {
            unit.state = UnitState::Missing;
        } else if unit.is_suspect() {
            unit.state = UnitState::Waiting;
            job.suspects.push_back(no);
        } else {
            unit.state = UnitState::Waiting;
            job.waiting.push_front(no);
        }
        self.hungry.insert(job_id);
    }

    /// Has dukes forget these attempts.
    pub(super) fn forget_attempts(&mut self, unwanted: BTreeSet<AttemptId>, actions: &mut Vec<Action>) {
        for (attempt, Attempt { duke, .. }) in self.take_attempts(unwanted) {
            actions.push(Action::ForgetAttempt { duke, attempt, unused: true });
        }
    }

    /// Ends these attempts.
    pub(super) fn take_attempts(&mut self, ids: BTreeSet<AttemptId>) -> BTreeMap<AttemptId, Attempt> {
        ids.into_iter().filter_map(|id| Some((id, self.end_attempt(id)?))).collect()
    }

    /// Strikes an attempt out of the ledger, the results, and its unit.
    fn end_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.ledger.end(id)?;
        let job = self.jobs.get_mut(&attempt.job)?;
        if let Some(unit) = job.units.get_mut(attempt.unit) {
            unit.trying -= 1;
        }
        if !attempt.runs {
            self.remove_result(id, attempt.duke, attempt.job);
        }
        self.hungry.insert(attempt.job);
        Some(attempt)
    }
}
