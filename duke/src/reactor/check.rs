//! The reactor's invariants, by name. The simulation checks them after each call of `handle`.

use super::Reactor;

impl<H> Reactor<H> {
    /// Asserts every invariant, also those of the roster.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        self.roster.check();
        let is_done = self.events.is_empty() && self.answers.is_empty() && self.endings.is_empty();
        assert!(is_done, "all_that_happened_is_handled");
        let is_open = |job| self.jobs.get(&job).is_some_and(|job| job.open);
        for (attempt, (job, _)) in &self.inputs {
            assert!(is_open(*job), "only_open_jobs_have_attempts: {attempt}");
            assert!(!self.left.contains_key(attempt), "attempt_runs_or_has_ended: {attempt}");
        }
        for attempt in self.roster.attempts() {
            assert!(self.inputs.contains_key(&attempt), "only_what_is_wanted_is_run: {attempt}");
        }
        assert_eq!(self.roster.attempts().count(), self.inputs.len(), "no_attempt_is_lost");
        for (attempt, left) in &self.left {
            assert!(is_open(left.job), "only_open_jobs_have_results: {attempt}");
        }
        assert!(self.link.is_up() || self.left.values().all(|left| !left.said), "results_are_said_over_a_link");
    }
}
