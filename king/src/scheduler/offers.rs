//! Results that dukes offer: large ones, which wait until there is room, and streamed ones, which go to queens in parts.

use distwasm_proto::ids::{AttemptId, DukeId};

use super::{Action, Scheduler};

impl Scheduler {
    /// A duke has a result that it does not send unasked.
    pub(super) fn on_result_offered(
        &mut self,
        duke: DukeId,
        id: AttemptId,
        (bytes, streamed): (u64, bool),
        run_us: u64,
        actions: &mut Vec<Action>,
    ) {
        // The job may have ended while the offer was in transit, or the duke been given up.
        let Some(attempt) = self.attempt_at(duke, id).copied() else { return };
        if !attempt.runs {
            actions.push(Action::ExpelDuke { duke, why: "it offered a result twice" });
            return;
        }
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        job.record_work(run_us.min(self.now.micros_since(attempt.since)));
        job.results.offer(id, duke, (bytes, streamed), self.now);
        self.ledger.set_done(id);
        self.hungry.insert(attempt.job);
    }

    /// Parts of a streamed result move.
    pub(super) fn on_result_moved(&mut self, id: AttemptId) {
        // An earlier event of this batch may have ended the attempt.
        let job = self.ledger.attempt(id).map(|attempt| attempt.job);
        if let Some(job) = job.and_then(|job| self.jobs.get_mut(&job)) {
            job.results.set_moved(id, self.now);
        }
    }
}
