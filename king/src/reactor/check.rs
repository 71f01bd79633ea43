//! The reactor's invariants, and what a test may ask it. The simulation checks them after each call of `handle`.

use distwasm_proto::ids::{AttemptId, JobId};

use super::{Reactor, Unheard};
use crate::scheduler::Scheduler;

impl Reactor {
    /// Checks every invariant, also those of the scheduler.
    ///
    /// # Panics
    ///
    /// When one does not hold. Its message begins with the name of the invariant.
    pub fn check(&self) {
        self.scheduler.check();
        let is_done = self.events.is_empty() && self.evidence.is_empty() && self.forgettable.is_empty();
        assert!(is_done, "all_that_happened_is_handled");
        assert_eq!(self.seats.len(), self.dukes.len(), "each_duke_has_a_seat_of_its_own");
        for (id, duke) in &self.dukes {
            assert_eq!(self.seats.get(&duke.machine.seat), Some(id), "each_duke_sits_in_its_seat: {id}");
        }
        for (id, queen) in &self.queens {
            assert!(self.scheduler.has_job(*id), "each_queen_has_a_job: {id}");
            assert!(!self.unclaimed.contains_key(id), "verdicts_are_told_when_the_queen_is_there: {id}");
            let of_link = queen.link.map(|link| self.links.get(&link));
            assert!(of_link.is_none_or(|job| job == Some(id)), "the_link_of_a_queen_leads_to_its_job: {id}");
            let open = queen.inputs.count() + queen.broken.len();
            assert!(open <= self.window_units as usize, "windows_are_kept: {id}: {open}");
            let judged = queen.unheard.iter().find(|verdict| queen.inputs.get(verdict.unit()).is_some());
            assert!(judged.is_none(), "inputs_are_held_until_the_verdict: {id}");
        }
        self.transfers.check();
        for ((duke, attempt), transfer) in self.transfers.iter() {
            let of_attempt = self.scheduler.place_of(attempt);
            let expected = Some((duke, transfer.job, transfer.unit));
            assert_eq!(of_attempt, expected, "transfers_are_of_attempts: {attempt}");
            let runs = self.scheduler.unit_at(duke, attempt).is_some();
            assert_eq!(runs, transfer.result.is_none(), "results_are_of_attempts_that_are_done: {attempt}");
            assert!(self.dukes.contains_key(&duke), "transfers_go_over_a_link: {attempt}");
        }
        for (duke, job) in self.compilations.iter() {
            assert!(self.dukes.contains_key(&duke), "dukes_that_compile_are_here: {duke}");
            assert!(self.scheduler.has_job(job), "what_is_compiled_is_for_a_job: {job}");
        }
        for id in self.unclaimed.keys() {
            assert!(self.scheduler.has_job(*id), "verdicts_without_a_queen_are_of_a_job: {id}");
        }
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The jobs that queens have opened, and whether their queens have a link.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, bool)> {
        self.queens.iter().map(|(id, queen)| (*id, queen.link.is_some()))
    }

    /// The verdicts of a job that its queen has not heard: the attempts that led to them, and their bytes.
    pub fn unheard(&self, job: JobId) -> impl Iterator<Item = (Option<AttemptId>, u64)> {
        let unheard = self.queens.get(&job).into_iter().flat_map(|queen| &queen.unheard);
        unheard.map(|verdict: &Unheard| (verdict.by.map(|(_, attempt)| attempt), verdict.bytes()))
    }

    /// Whether nothing is left of any job.
    pub fn is_at_rest(&self) -> bool {
        self.queens.is_empty() && self.unclaimed.is_empty() && self.programs.bytes() == 0 && self.shares.bytes() == 0
    }
}
