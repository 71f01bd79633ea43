//! Handles the ends of attempts: their units get a verdict, or run again.

use std::collections::BTreeMap;

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{KILLS_MAX, RESULT_UNASKED_BYTES_MAX},
};

use super::{Action, Attempt, Outcome, Scheduler, Verdict, results::LargeResult, units::UnitState};

impl Scheduler {
    pub(super) fn on_attempt_ended(
        &mut self,
        duke: DukeId,
        id: AttemptId,
        outcome: Outcome,
        run_us: u64,
        actions: &mut Vec<Action>,
    ) {
        // The job may have ended while the answer was in transit, or the duke been given up.
        let Some(attempt) = self.attempts.get(&id).copied().filter(|attempt| attempt.duke == duke) else { return };
        let Attempt { job: job_id, unit: unit_no, .. } = attempt;
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.results.measure(id, self.now);
        let is_offered = job.results.get(id).is_some_and(LargeResult::is_offered);
        let is_large = matches!(outcome, Outcome::Done { bytes } if bytes > RESULT_UNASKED_BYTES_MAX);
        if is_offered || (is_large && attempt.runs) {
            actions.push(Action::ExpelDuke { duke, why: "it sent a result that was to wait until it is fetched" });
            return;
        }
        self.heritage.attempt_ended(id);
        if attempt.runs && matches!(outcome, Outcome::Done { .. } | Outcome::Failed { .. }) {
            job.record_work(run_us);
        }
        let (retries, is_unclaimed) = (job.spec.retries, job.unclaimed);
        let Some(unit) = job.units.get_mut(unit_no) else { return };
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
                unit.avoid = Some(duke);
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
        }
    }

    pub(super) fn on_result_offered(
        &mut self,
        duke: DukeId,
        id: AttemptId,
        bytes: u64,
        run_us: u64,
        actions: &mut Vec<Action>,
    ) {
        // The job may have ended while the offer was in transit, or the duke been given up.
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| attempt.duke == duke) else { return };
        if !attempt.runs {
            actions.push(Action::ExpelDuke { duke, why: "it offered a result twice" });
            return;
        }
        attempt.runs = false;
        let Attempt { job: job_id, input_bytes, .. } = *attempt;
        self.unload(duke, job_id, input_bytes);
        if let Some(job) = self.jobs.get_mut(&job_id) {
            job.record_work(run_us);
            job.results.offer(id, duke, bytes, self.now);
        }
    }

    /// Forgets an attempt, and puts its unit back to the front of its job.
    fn again(&mut self, id: AttemptId) {
        if let Some(Attempt { job, unit, .. }) = self.release_attempt(id) {
            self.put_back(job, unit);
        }
    }

    /// Puts a unit back to the front of its job, unless another attempt of it is still running.
    pub(super) fn put_back(&mut self, job_id: JobId, no: UnitNo) {
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

    /// Forgets an attempt that gave its unit a verdict, and another of the same unit if there is one.
    fn conclude(
        &mut self,
        id: AttemptId,
        Attempt { job, unit, .. }: Attempt,
        verdict: Verdict,
        bytes: u64,
        actions: &mut Vec<Action>,
    ) {
        self.forget_twin(id, job, unit, actions);
        self.release_attempt(id);
        self.hold_result(job, bytes);
        self.report(job, unit, verdict, actions);
    }

    /// Takes an attempt out of every table that knows it.
    pub(super) fn release_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        if let Some(unit) = self.jobs.get_mut(&attempt.job).and_then(|job| job.units.get_mut(attempt.unit)) {
            unit.trying -= 1;
        }
        if attempt.runs {
            self.unload(attempt.duke, attempt.job, attempt.input_bytes);
        } else {
            self.remove_result(id, attempt.duke, attempt.job);
        }
        Some(attempt)
    }

    /// Has dukes forget these attempts.
    pub(super) fn forget_attempts(
        &mut self,
        is_unwanted: impl Fn(AttemptId, &Attempt) -> bool,
        actions: &mut Vec<Action>,
    ) {
        for (attempt, Attempt { duke, .. }) in self.take_attempts(is_unwanted) {
            actions.push(Action::ForgetAttempt { duke, attempt });
        }
    }

    /// Takes these attempts out of every table that knows them.
    pub(super) fn take_attempts(
        &mut self,
        is_taken: impl Fn(AttemptId, &Attempt) -> bool,
    ) -> BTreeMap<AttemptId, Attempt> {
        let taken = self.attempts.iter().filter(|(id, attempt)| is_taken(**id, attempt));
        let ids: Vec<AttemptId> = taken.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| Some((id, self.release_attempt(id)?))).collect()
    }
}
