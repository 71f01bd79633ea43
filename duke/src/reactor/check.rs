//! The reactor's invariants, and what a test may ask it. The simulation checks them after each call of `handle`.

use distwasm_proto::{
    ids::{AttemptId, JobId, UnitNo},
    secret::Mark,
};

use super::{Hands, Job, Reactor};
use crate::{cache::Supply, peasant::InputNo};

impl<H: Hands> Reactor<H> {
    /// Asserts every invariant, also those of the roster.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        self.roster.check();
        self.supplies.check();
        let is_done = self.events.is_empty() && self.answers.is_empty() && self.endings.is_empty();
        assert!(is_done, "all_that_happened_is_handled");
        let is_open = |job| self.jobs.get(&job).is_some_and(|job| job.open);
        for (attempt, (job, _)) in &self.inputs {
            assert!(is_open(*job), "only_open_jobs_have_attempts: {attempt}");
            assert!(!self.left.contains_key(attempt), "attempt_runs_or_has_ended: {attempt}");
        }
        self.arrivals.check(|attempt| self.inputs.contains_key(&attempt), is_open);
        for (attempt, arrival) in self.arrivals.iter() {
            assert!(is_open(arrival.job), "only_open_jobs_have_arrivals: {attempt}");
            let is_elsewhere = self.inputs.contains_key(&attempt) || self.left.contains_key(&attempt);
            assert!(!is_elsewhere, "attempt_waits_for_its_input_or_runs: {attempt}");
            assert!(self.roster.slots_of(arrival.job).0 > 0, "inputs_come_for_slots: {attempt}");
        }
        for attempt in self.roster.attempts() {
            assert!(self.inputs.contains_key(&attempt), "only_what_is_wanted_is_run: {attempt}");
        }
        assert_eq!(self.roster.attempts().count(), self.inputs.len(), "no_attempt_is_lost");
        for (attempt, left) in &self.left {
            assert!(is_open(left.job), "only_open_jobs_have_results: {attempt}");
        }
        assert!(self.link.is_up() || self.left.values().all(|left| !left.said), "results_are_said_over_a_link");
        assert_eq!(
            self.blobs.keys().copied().collect::<Vec<_>>(),
            self.supplies.held(),
            "blobs_that_are_needed_are_held"
        );
        let is_waiting = self.link.is_up() || self.given_up_at().is_some();
        assert!(is_waiting || self.jobs.values().all(|job| !job.open), "jobs_without_a_king_have_a_deadline");
    }

    /// The mark of a job that it has.
    pub fn mark_of(&self, job: JobId) -> Option<Mark> {
        self.jobs.get(&job).map(|job| job.mark)
    }

    /// The attempts that have not ended, in no order.
    pub fn running(&self) -> impl Iterator<Item = AttemptId> {
        self.inputs.keys().copied()
    }

    /// The attempts whose end, with the result, was said over the current link, in no order.
    pub fn said(&self) -> impl Iterator<Item = AttemptId> {
        self.left.iter().filter(|(_, left)| left.said).map(|(attempt, _)| *attempt)
    }

    /// The attempts that have ended, and whose end has yet to be said over the current link, in no order.
    pub fn unsaid(&self) -> impl Iterator<Item = AttemptId> {
        self.left.iter().filter(|(_, left)| !left.said).map(|(attempt, _)| *attempt)
    }

    /// The job and the unit of an attempt, until the king says that it is not needed any more.
    pub fn unit_of(&self, attempt: AttemptId) -> Option<(JobId, UnitNo)> {
        let running = self.inputs.get(&attempt).map(|(job, input)| (*job, input.unit));
        let arriving = self.arrivals.get(attempt).map(|arrival| (arrival.job, arrival.input.unit));
        running.or(arriving).or_else(|| self.left.get(&attempt).map(|left| (left.job, UnitNo(left.held.unit))))
    }

    /// The attempts whose streamed inputs have not come.
    pub fn arriving(&self) -> impl Iterator<Item = AttemptId> {
        self.arrivals.iter().map(|(attempt, _)| attempt)
    }

    /// Where the streamed input of an attempt is stored, once it has begun to come.
    pub fn input_of(&self, attempt: AttemptId) -> Option<InputNo> {
        self.arrivals.file_of(attempt)
    }

    /// The job and the unit of a streamed input.
    pub fn unit_of_input(&self, input: InputNo) -> Option<(JobId, UnitNo)> {
        self.arrivals.unit_of(input)
    }

    /// Whether nothing is left of any job.
    pub fn is_at_rest(&self) -> bool {
        let holds_nothing = self.inputs.is_empty() && self.left.is_empty() && self.arrivals.is_empty();
        self.jobs.is_empty() && self.roster.is_idle() && holds_nothing && self.supplies.is_empty()
    }

    /// Whether a job that the king has not closed cannot begin without this supply.
    pub fn awaits(&self, supply: &Supply) -> bool {
        let waits = |job: &Job| job.open && job.made.is_none() && job.unfit.is_none();
        self.jobs.values().any(|job| waits(job) && job.needs.contains(supply))
    }
}
