//! The roster's record of one job on this machine.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use distwasm_proto::{
    ids::{AttemptId, BaronId},
    limits::{PIPE_QUEUE, PIPE_UNITS_MAX},
    time::UnitTime,
};

/// One job on this machine.
#[derive(Debug)]
pub(super) struct Lease {
    /// The timeout of one unit.
    pub(super) timeout: Option<Duration>,
    /// How long a peasant may take to load and initialise the program.
    pub(super) start_within: Duration,
    pub(super) program: Program,
    /// All barons of the job, including those that are leaving.
    pub(super) barons: BTreeSet<BaronId>,
    /// How many peasants in a row ended before they were ready.
    pub(super) starts_failed: u32,
    /// Of the slots that are leaving, how many are wanted at once.
    pub(super) forced: u32,
    /// Slots that became free since the job was closed.
    pub(super) slots_to_release: u32,
    closed: bool,
    queue: VecDeque<Queued>,
    suspects: VecDeque<Queued>,
    pub(super) unit_time: UnitTime,
}

/// The state of a job's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Pending,
    Ready,
    Unfit,
    /// It could not be obtained, and is asked for again with the next slot.
    Missing,
}

/// One unit on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) attempt: AttemptId,
    pub(super) bytes: u64,
    /// It must be alone in its pipe.
    pub(super) alone: bool,
    /// How long it runs until its slot may be taken.
    pub(super) spared: Duration,
    /// Its answer from the pipe that it is in is not wanted any more.
    pub(super) unwanted: bool,
}

impl Lease {
    pub(super) fn new(timeout: Option<Duration>, start_within: Duration) -> Lease {
        Lease {
            timeout,
            start_within,
            program: Program::Pending,
            barons: BTreeSet::new(),
            starts_failed: 0,
            forced: 0,
            slots_to_release: 0,
            closed: false,
            queue: VecDeque::new(),
            suspects: VecDeque::new(),
            unit_time: UnitTime::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn close(&mut self) {
        (self.closed, self.forced) = (true, 0);
        self.queue.clear();
        self.suspects.clear();
    }

    pub(super) fn enqueue(&mut self, unit: Queued) {
        let queue = if unit.alone { &mut self.suspects } else { &mut self.queue };
        queue.push_back(unit);
    }

    /// Forgets a unit that waits in a queue. Returns whether there was one.
    pub(super) fn drop_waiting(&mut self, attempt: AttemptId) -> bool {
        let before = self.queue.len() + self.suspects.len();
        for queue in [&mut self.queue, &mut self.suspects] {
            queue.retain(|unit| unit.attempt != attempt);
        }
        self.queue.len() + self.suspects.len() < before
    }

    /// Puts units back in front, to run again. They were in a pipe and are not to blame.
    pub(super) fn put_back(&mut self, units: &[Queued]) {
        for unit in units.iter().rev() {
            let queue = if unit.alone { &mut self.suspects } else { &mut self.queue };
            queue.push_front(*unit);
        }
    }

    /// Queues units to run again, each alone in a pipe.
    pub(super) fn suspect(&mut self, units: &[Queued]) {
        self.suspects.extend(units.iter().map(|unit| Queued { alone: true, ..*unit }));
    }

    /// The next unit for a baron. A suspect needs an empty pipe, and no other unit starts until all suspects have
    /// started.
    pub(super) fn next_for(&mut self, pipe_is_empty: bool) -> Option<Queued> {
        match (self.suspects.is_empty(), pipe_is_empty) {
            (true, _) => self.queue.pop_front(),
            (false, true) => self.suspects.pop_front(),
            (false, false) => None,
        }
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Queued> + use<> {
        std::mem::take(&mut self.suspects).into_iter().chain(std::mem::take(&mut self.queue))
    }

    /// All units that wait in the queues.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Queued> {
        self.suspects.iter().chain(&self.queue)
    }

    /// How many units should be in a pipe. A long unit has the pipe for itself, so that the next unit can go to the
    /// peasant that is free first.
    pub(super) fn depth(&self) -> usize {
        let Some(units) = self.unit_time.units_in(PIPE_QUEUE) else { return 1 };
        usize::try_from(units).unwrap_or(usize::MAX).clamp(1, PIPE_UNITS_MAX)
    }
}
