//! The roster's record of one slot and its peasant.

use std::collections::VecDeque;

use distwasm_proto::{
    ids::JobId,
    limits::{PIPE_BYTES, RESCUE_AFTER},
    time::Time,
};

use super::lease::Queued;

/// One slot and its peasant.
#[derive(Debug)]
pub(super) struct Baron {
    pub(super) job: JobId,
    pub(super) stage: Stage,
    /// Units that the peasant was given and has not answered, in order.
    pub(super) pipe: VecDeque<Queued>,
    pub(super) pipe_bytes: u64,
    /// When the first unit in the pipe had its turn, or when the peasant was started.
    pub(super) turn_since: Time,
    /// While a long answer is being read: when the first unit had run.
    pub(super) answering_since: Option<Time>,
    /// That answer waits for room.
    pub(super) waits: bool,
    /// Asked back by the king: nothing new for it.
    pub(super) leaving: bool,
    /// Its peasant is to be replaced: nothing new for the peasant.
    pub(super) outdated: bool,
}

/// The stage that a baron's peasant has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is no peasant: the program is not compiled yet, or unfit.
    Vacant,
    /// Started, not ready.
    Starting,
    /// Ready.
    Serving,
    /// Told to end: it has nothing left to do.
    Ending,
    /// Killed because the first unit in its pipe took too long.
    TimedOut,
    /// Killed after a timeout or as unwanted, but the first unit was answered meanwhile: no unit is to blame.
    Spared,
    /// Killed because the first unit in its pipe is not wanted any more, or because its answer found no room.
    Disturbed,
    /// Killed because its slot was taken by force.
    Preempted,
    /// Killed because its work is not wanted any more, or because it was not ready in time.
    Unwanted,
}

impl Baron {
    pub(super) fn new(job: JobId, now: Time) -> Baron {
        Baron {
            job,
            stage: Stage::Vacant,
            pipe: VecDeque::new(),
            pipe_bytes: 0,
            turn_since: now,
            answering_since: None,
            waits: false,
            leaving: false,
            outdated: false,
        }
    }

    pub(super) fn start(&mut self, now: Time) {
        (self.stage, self.outdated) = (Stage::Starting, false);
        self.turn_since = now;
    }

    pub(super) fn end_answer(&mut self) {
        (self.answering_since, self.waits) = (None, false);
    }

    pub(super) fn take_first(&mut self) -> Option<Queued> {
        let unit = self.pipe.pop_front()?;
        self.pipe_bytes -= unit.bytes;
        Some(unit)
    }

    /// Whether one more unit may go into the pipe. If `depth` allows it, one unit may always wait beside the one that
    /// runs. A suspect stays alone.
    pub(super) fn has_room(&self, depth: usize) -> bool {
        let Some(first) = self.pipe.front() else { return true };
        let units = self.pipe.len();
        !first.alone && units < depth && (self.pipe_bytes < PIPE_BYTES || units == 1)
    }

    /// Whether the first unit has had its turn for long.
    pub(super) fn is_slow(&self, now: Time) -> bool {
        !self.pipe.is_empty() && self.turn_since.after(RESCUE_AFTER) <= now
    }

    /// Whether a unit that is still wanted waits behind the one that has its turn.
    pub(super) fn has_waiting(&self) -> bool {
        self.stage == Stage::Serving && self.pipe.iter().skip(1).any(|unit| !unit.unwanted)
    }
}
