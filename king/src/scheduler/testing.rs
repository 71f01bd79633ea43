//! A small language for the scheduler's unit tests: a kingdom that is told events.

use std::{collections::BTreeMap, time::Duration};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::RESULTS_BYTES,
    secret::{Mark, Purpose, Secret},
    time::Time,
};

use super::{Action, Event, HeldLease, JobSpec, Outcome, ResultBounds, Resumption, Rules, Scheduler};

/// The memory of each duke, in bytes.
pub(super) const RAM_BYTES: u64 = 1 << 30;

/// A scheduler, and the attempts that it has started. Its invariants are checked after every batch of events.
pub(super) struct Kingdom {
    pub(super) scheduler: Scheduler,
    now: Time,
    started: Vec<(DukeId, UnitNo, AttemptId)>,
}

impl Kingdom {
    pub(super) fn new() -> Kingdom {
        Kingdom::under(Rules::default())
    }

    /// With these rules.
    pub(super) fn under(rules: Rules) -> Kingdom {
        let bounds = ResultBounds { most: u64::MAX, reserve: RESULTS_BYTES };
        let scheduler = Scheduler::new(Time::default(), rules, 0, bounds);
        Kingdom { scheduler, now: Time::default(), started: Vec::new() }
    }

    /// With one more duke.
    pub(super) fn duke(mut self, duke: DukeId, cpus: u32) -> Kingdom {
        self.tell([joined(duke, cpus, None, Vec::new())]);
        self
    }

    /// With a job of this many units, which are there at once.
    pub(super) fn job(mut self, job: JobId, spec: JobSpec, units: u64) -> Kingdom {
        self.open(job, spec, units);
        self
    }

    /// Opens a job with this many units; returns the actions that follow.
    pub(super) fn open(&mut self, job: JobId, spec: JobSpec, units: u64) -> Vec<Action> {
        let opened = Event::JobOpened { job, mark: mark_of(job), spec, resumes: Resumption::default() };
        let units = (0..units).map(|unit| Event::UnitAdded { job, unit: UnitNo(unit), bytes: 1 });
        self.tell(std::iter::once(opened).chain(units))
    }

    /// Handles one batch of events; returns the actions that follow.
    pub(super) fn tell(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.scheduler.handle(self.now, events, &mut actions);
        self.scheduler.check();
        self.started.extend(started(&actions));
        actions
    }

    /// Lets time pass; returns the actions that follow.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<Action> {
        self.now = self.now.after(time);
        self.tell([Event::Tick])
    }

    /// Lets time pass until the first timer rings; returns the actions that follow, or `None` if there is no timer.
    pub(super) fn wait_for_timer(&mut self) -> Option<Vec<Action>> {
        self.now = self.scheduler.next_deadline()?.max(self.now);
        Some(self.tell([Event::Tick]))
    }

    /// The units that were started on a duke so far, and the attempts at them.
    pub(super) fn started_on(&self, duke: DukeId) -> Vec<(UnitNo, AttemptId)> {
        self.started.iter().filter(|(on, ..)| *on == duke).map(|(_, unit, attempt)| (*unit, *attempt)).collect()
    }
}

/// The attempts that these actions start.
pub(super) fn started(actions: &[Action]) -> Vec<(DukeId, UnitNo, AttemptId)> {
    let start = |action: &Action| match action {
        Action::StartAttempt { duke, unit, attempt, .. } => Some((*duke, *unit, *attempt)),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

/// The mark of a job: that of a key made of its number.
pub(super) fn mark_of(JobId(job): JobId) -> Mark {
    Secret::new(u128::from(job).to_be_bytes()).mark(Purpose::Job)
}

pub(super) fn joined(duke: DukeId, cpus: u32, was: Option<DukeId>, holds: Vec<HeldLease>) -> Event {
    Event::DukeJoined { duke, cpus, ram_bytes: RAM_BYTES, labels: BTreeMap::new(), was, holds }
}

pub(super) fn ended(duke: DukeId, attempt: AttemptId, outcome: Outcome) -> Event {
    Event::AttemptEnded { duke, attempt, outcome, run_us: 1 }
}

pub(super) fn done(duke: DukeId, attempt: AttemptId) -> Event {
    ended(duke, attempt, Outcome::Done { bytes: 1 })
}

pub(super) fn returned(duke: DukeId, attempt: AttemptId) -> Event {
    ended(duke, attempt, Outcome::Returned { suspect: false })
}
