//! How attempts end, as the king is told.

use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::AttemptId,
    wire::{self, duke_word::Word},
};

use super::{
    Hands, Reactor,
    away::{Left, Remains},
};
use crate::{peasant::Answer, roster::Outcome};

impl<H: Hands> Reactor<H> {
    pub(super) fn report(&mut self, attempt: AttemptId, outcome: Outcome, run_us: u64) {
        // The attempt may have been forgotten.
        let Some((job, input)) = self.inputs.remove(&attempt) else { return };
        let remains = match outcome {
            Outcome::Returned { suspect: true } => return self.give_back(attempt, wire::Outcome::Suspected, run_us),
            Outcome::Returned { suspect: false } => return self.give_back(attempt, wire::Outcome::Returned, run_us),
            Outcome::Preempted => return self.give_back(attempt, wire::Outcome::Preempted, run_us),
            Outcome::Killed(baron) => {
                let ending = self.endings.get(&baron).map_or("how it ended is not known", String::as_str);
                Remains::Killed(Failure::new(FailureKind::Killed, format!("its peasant died: {ending}")))
            }
            Outcome::TimedOut(timeout) => {
                let message = format!("took longer than the time-out of {timeout:?}");
                Remains::Failure(Failure::new(FailureKind::Timeout, message))
            }
            Outcome::Answered(answer) => match self.answers.remove(&answer) {
                Some(Answer::Result(held)) => Remains::Result(held),
                Some(Answer::Failure(failure)) => Remains::Failure(failure),
                Some(Answer::Written(unfinished)) => Remains::Written(unfinished),
                Some(Answer::Kept(kept)) => Remains::Kept(kept),
                Some(Answer::NeedsFile(_)) => return self.run_with_file(job, attempt, input),
                // The answer was put there with the event that leads here.
                None => return self.give_back(attempt, wire::Outcome::Returned, run_us),
            },
        };
        self.release(attempt);
        self.leave_behind(attempt, Left::new(job, attempt, &input, run_us, remains));
    }

    /// Gives an attempt back. What has come of its input is kept for the next one.
    pub(super) fn give_back(&mut self, attempt: AttemptId, outcome: wire::Outcome, run_us: u64) {
        self.arrivals.keep(attempt);
        let mut ended = wire::AttemptEnded { attempt: attempt.0, run_us, ..wire::AttemptEnded::default() };
        ended.set_outcome(outcome);
        self.link.say(Word::AttemptEnded(ended));
    }

    /// Tells the king how an attempt ended, and keeps its result or failure until the king does not need it any more.
    pub(super) fn leave_behind(&mut self, attempt: AttemptId, mut left: Left) {
        left.say(&self.link);
        self.left.insert(attempt, left);
    }
}
