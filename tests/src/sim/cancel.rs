//! Somebody cancels jobs, also those whose queens are away.

use distwasm_king::{authority::Identity, inbox::Happening};
use distwasm_proto::ids::JobId;
use tokio::sync::oneshot;

use super::{
    keys::mark_of,
    world::{Due, World},
};

impl World {
    /// Somebody cancels the job of a queen.
    pub(super) fn job_cancelled(&mut self, queen: JobId) {
        let Some(job) = self.queens.get(&queen).map(|queen| queen.number) else { return };
        // Without a welcome it has no number yet, and its number at an earlier king may be another job's.
        if self.king.reactor.scheduler().mark_of(job) != Some(mark_of(queen)) {
            return;
        }
        let (answer, mut answered) = oneshot::channel();
        self.king.batch.push(Happening::JobCancelled { job, caller: Identity::Trusted, answer });
        self.king_runs();
        let is_cancelled = answered.try_recv().is_ok_and(|answer| answer.is_ok());
        assert!(!self.king.reactor.scheduler().has_job(job), "job_that_was_cancelled_is_over: {job}");
        if let Some(queen) = self.queens.get_mut(&queen).filter(|_| is_cancelled) {
            (queen.cancelled, queen.was_cancelled) = (true, true);
            self.tally.jobs_cancelled += 1;
        }
    }

    /// A queen has got a verdict, or lost its link: its job may be cancelled soon.
    pub(super) fn strike_job(&mut self, queen: JobId, chance: u64) {
        if self.faults_go_on() && self.dice.permille(chance) {
            let within_us = self.dice.pick(&[10_000, 1_000_000]);
            let in_us = self.dice.below(within_us);
            self.later(in_us, Due::JobCancelled(queen));
        }
    }
}
