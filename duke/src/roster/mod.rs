//! The duke's roster: a pure state machine that decides which peasant runs which unit.
//!
//! Like the king's scheduler it takes events with a time and returns actions, without a clock, I/O or payload bytes.
//! It keeps one *baron* for each slot that the king granted; a baron keeps one peasant at a time. Units of a job wait
//! in one queue for all barons of that job. A peasant's pipe holds only enough of them to hide the cost of waking it.
//!
//! If a peasant dies or exceeds a timeout with several units in its pipe, all of them are *suspects*: they run again
//! one at a time, so that only the unit that is to blame is blamed.

mod check;
mod deadlines;
mod forget;
mod lease;
mod rescue;
mod words;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use distwasm_proto::{
    ids::{BaronId, JobId},
    limits::{PIPE_BYTES, RESULT_UNASKED_BYTES_MAX, STARTS_FAILED_MAX},
    time::Time,
};

use lease::{Lease, Program, Queued};

pub use words::{Action, AnswerId, Event, Outcome};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Roster {
    leases: BTreeMap<JobId, Lease>,
    barons: BTreeMap<BaronId, Baron>,
    barons_made: u64,
    /// The time of the last call.
    handled: Time,
}

/// One slot and its peasant.
#[derive(Debug)]
struct Baron {
    job: JobId,
    state: State,
    /// Units that the peasant was given and has not answered, in order.
    pipe: VecDeque<Queued>,
    pipe_bytes: u64,
    /// When the first unit in the pipe had its turn, or when the peasant was started.
    turn_since: Time,
    /// While a long answer is being read: when the first unit had run.
    answering_since: Option<Time>,
    /// That answer waits for room.
    waits: bool,
    /// Asked back by the king: nothing new for it.
    leaving: bool,
}

/// The state of a baron's peasant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
    /// Killed because its work is not wanted any more, or because it was not ready in time.
    Unwanted,
}

impl Roster {
    /// Handles a batch of events, and appends the actions that follow from them to `actions`.
    pub fn handle(&mut self, now: Time, events: impl IntoIterator<Item = Event>, actions: &mut Vec<Action>) {
        self.excuse_standstill(now);
        for event in events {
            self.on_event(now, event, actions);
        }
        self.feed(now, actions);
    }

    /// Whether there is no slot, so that no unit runs or waits.
    pub fn is_idle(&self) -> bool {
        self.barons.is_empty()
    }

    fn on_event(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::LeaseOpened { job, timeout } => self.on_lease_opened(job, timeout, actions),
            Event::LeaseClosed { job } => self.on_lease_closed(job, actions),
            Event::SlotsGranted { job, slots } => self.on_slots_granted(now, job, slots, actions),
            Event::SlotsAskedBack { job, slots } => self.on_slots_asked_back(job, slots, actions),
            Event::AttemptArrived { job, attempt, bytes, alone } => {
                self.on_attempt_arrived(job, Queued { attempt, bytes, alone, unwanted: false }, actions);
            }
            Event::AttemptForgotten { job, attempt } => self.on_attempt_forgotten(job, attempt, actions),
            Event::ProgramReady { job } => self.on_program_ready(now, job, actions),
            Event::ProgramUnfit { job } => self.on_program_unfit(job, actions),
            Event::ProgramBroken { job } => self.on_program_broken(job, actions),
            Event::ProgramSpoiled { job } => self.on_program_spoiled(job, actions),
            Event::PeasantReady { baron } => self.on_peasant_ready(baron),
            Event::AnswerBegun { baron, waits } => self.on_answer_begun(now, baron, waits),
            Event::Answered { baron, answer, done, bytes } => {
                self.on_answered(now, baron, answer, done.then_some(bytes), actions);
            }
            Event::PeasantGone { baron } => self.on_peasant_gone(now, baron, actions),
            Event::Tick => self.on_tick(now, actions),
        }
    }

    fn on_lease_opened(&mut self, job: JobId, timeout: Option<Duration>, actions: &mut Vec<Action>) {
        let known = self.leases.insert(job, Lease::new(timeout));
        debug_assert!(known.is_none(), "the border lets a job be opened once");
        actions.push(Action::PrepareProgram { job });
    }

    fn on_lease_closed(&mut self, job: JobId, actions: &mut Vec<Action>) {
        // The border lets only open jobs through.
        let Some(lease) = self.leases.get_mut(&job) else { return };
        lease.close();
        let barons: Vec<BaronId> = lease.barons.iter().copied().collect();
        for id in barons {
            self.dismiss(id, actions);
        }
        self.release_if_closed(job, actions);
    }

    fn on_slots_granted(&mut self, now: Time, job: JobId, slots: u32, actions: &mut Vec<Action>) {
        // The border lets only open jobs through.
        let Some(lease) = self.leases.get_mut(&job) else { return };
        if lease.program == Program::Missing {
            lease.program = Program::Pending;
            actions.push(Action::PrepareProgram { job });
        }
        for _ in 0..slots {
            self.barons_made += 1;
            let id = BaronId(self.barons_made);
            lease.barons.insert(id);
            let mut baron = Baron::new(job, now);
            if lease.program == Program::Ready {
                baron.start(now);
                actions.push(Action::Spawn { baron: id, job });
            }
            self.barons.insert(id, baron);
        }
    }

    fn on_slots_asked_back(&mut self, job: JobId, slots: u32, actions: &mut Vec<Action>) {
        for _ in 0..slots {
            let Some(lease) = self.leases.get(&job) else { return };
            let staying =
                lease.barons.iter().filter_map(|id| Some((*id, self.barons.get(id)?))).filter(|(_, b)| !b.leaving);
            // The baron with the fewest units leaves first.
            let idlest = staying.min_by_key(|(id, baron)| (baron.state == State::Serving, baron.pipe.len(), *id));
            // The king may ask for slots back before it hears that they were given back as broken.
            let Some((id, _)) = idlest else { break };
            self.leave(id, actions);
        }
        self.return_orphans(job, actions);
    }

    fn on_attempt_arrived(&mut self, job: JobId, unit: Queued, actions: &mut Vec<Action>) {
        // The border lets only open jobs through.
        let Some(lease) = self.leases.get_mut(&job) else { return };
        lease.enqueue(unit);
        self.return_orphans(job, actions);
    }

    fn on_program_ready(&mut self, now: Time, job: JobId, actions: &mut Vec<Action>) {
        // The job may have ended while its program was compiled.
        let Some(lease) = self.leases.get_mut(&job).filter(|lease| !lease.is_closed()) else { return };
        lease.program = Program::Ready;
        for id in &lease.barons {
            let Some(baron) = self.barons.get_mut(id).filter(|baron| baron.state == State::Vacant) else { continue };
            baron.start(now);
            actions.push(Action::Spawn { baron: *id, job });
        }
    }

    fn on_program_unfit(&mut self, job: JobId, actions: &mut Vec<Action>) {
        // The job may have ended meanwhile, or another peasant may have reported the same program.
        let Some(lease) = self.leases.get_mut(&job) else { return };
        if lease.is_closed() || lease.program == Program::Unfit {
            return;
        }
        lease.program = Program::Unfit;
        actions.push(Action::TellUnfit { job });
    }

    fn on_program_broken(&mut self, job: JobId, actions: &mut Vec<Action>) {
        // The job may have ended meanwhile, or its program may have been found to be unfit.
        let Some(lease) = self.leases.get_mut(&job).filter(|lease| !lease.is_closed()) else { return };
        if lease.program != Program::Unfit {
            lease.program = Program::Missing;
            self.give_up(job, actions);
        }
    }

    fn on_program_spoiled(&mut self, job: JobId, actions: &mut Vec<Action>) {
        // The job may have ended meanwhile, or another peasant may have reported it already.
        let is_used = |lease: &&mut Lease| !lease.is_closed() && lease.program == Program::Ready;
        if let Some(lease) = self.leases.get_mut(&job).filter(is_used) {
            lease.program = Program::Pending;
            actions.push(Action::PrepareProgram { job });
        }
    }

    fn on_peasant_ready(&mut self, id: BaronId) {
        // It may have been killed while it became ready.
        let Some(baron) = self.barons.get_mut(&id).filter(|baron| baron.state == State::Starting) else { return };
        baron.state = State::Serving;
        if let Some(lease) = self.leases.get_mut(&baron.job) {
            lease.starts_failed = 0;
        }
    }

    fn on_answer_begun(&mut self, now: Time, id: BaronId, waits: bool) {
        if let Some(baron) = self.barons.get_mut(&id) {
            (baron.answering_since, baron.waits) = (Some(now), waits);
        }
    }

    fn on_answered(
        &mut self,
        now: Time,
        id: BaronId,
        answer: AnswerId,
        result_bytes: Option<u64>,
        actions: &mut Vec<Action>,
    ) {
        // The peasant was killed because its job is over: its answer is not needed.
        let Some(baron) = self.barons.get_mut(&id).filter(|baron| baron.state != State::Unwanted) else { return };
        let Some(unit) = baron.take_first() else {
            // It answers without a unit, so it cannot be trusted with the next one.
            if baron.state == State::Serving {
                actions.push(Action::Kill { baron: id });
            }
            return;
        };
        let run_us = baron.answering_since.unwrap_or(now).micros_since(baron.turn_since);
        baron.turn_since = now;
        baron.end_answer();
        let done_leaving = baron.leaving && baron.pipe.is_empty() && baron.state == State::Serving;
        if done_leaving {
            baron.state = State::Ending;
        } else if matches!(baron.state, State::TimedOut | State::Disturbed) {
            baron.state = State::Spared;
        }
        if let Some(lease) = self.leases.get_mut(&baron.job) {
            lease.unit_time.measure(run_us);
        }
        let attempt = unit.attempt;
        match result_bytes.filter(|bytes| *bytes > RESULT_UNASKED_BYTES_MAX) {
            // The unit went to another peasant, or is not wanted any more.
            _ if unit.unwanted => {}
            Some(bytes) => actions.push(Action::Offer { attempt, answer, bytes, run_us }),
            None => actions.push(Action::Report { attempt, outcome: Outcome::Answered(answer), run_us }),
        }
        if done_leaving {
            actions.push(Action::Retire { baron: id });
        }
    }

    fn on_peasant_gone(&mut self, now: Time, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.get_mut(&id) else { return };
        let (job, state) = (baron.job, baron.state);
        let run_us = now.micros_since(baron.turn_since);
        let is_single = baron.pipe.len() == 1;
        let unanswered: Vec<Queued> = baron.pipe.drain(..).filter(|unit| !unit.unwanted).collect();
        baron.pipe_bytes = 0;
        baron.end_answer();
        baron.state = State::Vacant;
        let leaving = baron.leaving;
        let Some(lease) = self.leases.get_mut(&job) else { return };
        match (unanswered.as_slice(), state) {
            ([], _) | (_, State::Unwanted) => {}
            (units, State::Disturbed) => lease.put_back(units),
            // Nothing else was in the pipe: this unit is to blame.
            ([unit], State::TimedOut) if is_single => {
                let timeout = lease.timeout.unwrap_or_default();
                let (attempt, outcome) = (unit.attempt, Outcome::TimedOut(timeout));
                actions.push(Action::Report { attempt, outcome, run_us });
            }
            ([unit], State::Serving) if is_single => {
                let (attempt, outcome) = (unit.attempt, Outcome::Killed(id));
                actions.push(Action::Report { attempt, outcome, run_us });
            }
            (units, _) => lease.suspect(units),
        }
        let failed_to_start = state == State::Starting && lease.program == Program::Ready && !leaving;
        lease.starts_failed += u32::from(failed_to_start);
        if lease.is_closed() || leaving {
            self.remove(id, actions);
        } else if lease.starts_failed >= STARTS_FAILED_MAX || lease.program == Program::Missing {
            self.give_up(job, actions);
        } else if lease.program == Program::Ready {
            baron.start(now);
            actions.push(Action::Spawn { baron: id, job });
        }
    }

    // ---- Shared by the above --------------------------------------------------------------------------------------

    /// Lets a baron finish its units, and then ends it.
    fn leave(&mut self, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.get_mut(&id) else { return };
        baron.leaving = true;
        match baron.state {
            State::Vacant => self.remove(id, actions),
            State::Starting => {
                baron.state = State::Unwanted;
                actions.push(Action::Kill { baron: id });
            }
            State::Serving if baron.pipe.is_empty() => {
                baron.state = State::Ending;
                actions.push(Action::Retire { baron: id });
            }
            State::Serving | State::Ending | State::TimedOut | State::Spared | State::Disturbed | State::Unwanted => {}
        }
    }

    /// Ends a baron whose job is over.
    fn dismiss(&mut self, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.get_mut(&id) else { return };
        baron.pipe.clear();
        baron.pipe_bytes = 0;
        match baron.state {
            State::Vacant => self.remove(id, actions),
            State::Starting | State::Serving | State::Ending => {
                baron.state = State::Unwanted;
                actions.push(Action::Kill { baron: id });
            }
            State::TimedOut | State::Spared | State::Disturbed => baron.state = State::Unwanted,
            State::Unwanted => {}
        }
    }

    /// Forgets a baron without a peasant, and tells the king of the free slot. The slots of a closed job are reported
    /// all at once.
    fn remove(&mut self, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.remove(&id) else { return };
        let job = baron.job;
        let Some(lease) = self.leases.get_mut(&job) else { return };
        lease.barons.remove(&id);
        if lease.is_closed() {
            lease.slots_to_release += 1;
            self.release_if_closed(job, actions);
        } else {
            actions.push(Action::TellReleased { job, slots: 1 });
            self.return_orphans(job, actions);
        }
    }

    fn release_if_closed(&mut self, job: JobId, actions: &mut Vec<Action>) {
        let Some(lease) = self.leases.get(&job).filter(|lease| lease.is_closed() && lease.barons.is_empty()) else {
            return;
        };
        let slots = lease.slots_to_release;
        self.leases.remove(&job);
        if slots > 0 {
            actions.push(Action::TellReleased { job, slots });
        }
        actions.push(Action::Forget { job });
    }

    /// Gives all slots of a job back to the king, because no peasant can be started.
    fn give_up(&mut self, job: JobId, actions: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&job) else { return };
        lease.starts_failed = 0;
        let staying = lease
            .barons
            .iter()
            .copied()
            .filter(|id| self.barons.get(id).is_some_and(|baron| baron.state == State::Vacant && !baron.leaving));
        let vacant: Vec<BaronId> = staying.collect();
        let slots = u32::try_from(vacant.len()).unwrap_or(u32::MAX);
        for id in vacant {
            self.barons.remove(&id);
            lease.barons.remove(&id);
        }
        actions.push(Action::TellBroken { job, slots });
        self.return_orphans(job, actions);
    }

    /// Gives units back if their job has no baron any more.
    fn return_orphans(&mut self, job: JobId, actions: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&job) else { return };
        let barons = &self.barons;
        let has_baron = lease.barons.iter().any(|id| barons.get(id).is_some_and(|baron| !baron.leaving));
        if has_baron || lease.is_closed() {
            return;
        }
        for unit in lease.take_all() {
            actions.push(Action::Report {
                attempt: unit.attempt,
                outcome: Outcome::Returned { suspect: unit.alone },
                run_us: 0,
            });
        }
    }

    /// Fills every pipe that is at most half full: many units go with one write, and the peasant has enough meanwhile.
    /// If there are suspects, pipes run empty first. No unit is put behind one that takes long.
    fn feed(&mut self, now: Time, actions: &mut Vec<Action>) {
        for (id, baron) in &mut self.barons {
            if baron.state != State::Serving || baron.leaving || baron.is_slow(now) {
                continue;
            }
            let Some(lease) = self.leases.get_mut(&baron.job) else { continue };
            let depth = lease.depth();
            if baron.pipe.len() > depth / 2 {
                continue;
            }
            while baron.has_room(depth) {
                let Some(unit) = lease.next_for(baron.pipe.is_empty()) else { break };
                if baron.pipe.is_empty() {
                    baron.turn_since = now;
                }
                baron.pipe_bytes += unit.bytes;
                baron.pipe.push_back(unit);
                actions.push(Action::Feed { baron: *id, attempt: unit.attempt });
            }
        }
    }
}

impl Baron {
    fn new(job: JobId, now: Time) -> Baron {
        Baron {
            job,
            state: State::Vacant,
            pipe: VecDeque::new(),
            pipe_bytes: 0,
            turn_since: now,
            answering_since: None,
            waits: false,
            leaving: false,
        }
    }

    fn start(&mut self, now: Time) {
        self.state = State::Starting;
        self.turn_since = now;
    }

    fn end_answer(&mut self) {
        (self.answering_since, self.waits) = (None, false);
    }

    fn take_first(&mut self) -> Option<Queued> {
        let unit = self.pipe.pop_front()?;
        self.pipe_bytes -= unit.bytes;
        Some(unit)
    }

    /// Whether one more unit may go into the pipe. If `depth` allows it, one unit may always wait beside the one that
    /// runs. A suspect stays alone.
    fn has_room(&self, depth: usize) -> bool {
        let Some(first) = self.pipe.front() else { return true };
        let units = self.pipe.len();
        !first.alone && units < depth && (self.pipe_bytes < PIPE_BYTES || units == 1)
    }
}
