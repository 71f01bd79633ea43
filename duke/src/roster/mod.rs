//! The duke's roster: a pure state machine that decides which peasant runs which unit.
//!
//! Like the king's scheduler it takes events with a time and returns actions, without a clock, I/O or payload bytes.
//! It keeps one *baron* for each slot that the king granted; a baron keeps one peasant at a time. Units of a job wait
//! in one queue for all barons of that job. A peasant's pipe holds only enough of them to hide the cost of waking it.
//!
//! If a peasant dies or exceeds a timeout with several units in its pipe, all of them are *suspects*: they run again
//! one at a time, so that only the unit that is to blame is blamed. The king sends a unit that killed a peasant to another
//! duke if there is one, always alone, and gives it up after `KILLS_MAX`.
//!
//! A pipe holds about `PIPE_QUEUE` of work, and is refilled when no more than half is left.

mod baron;
mod check;
mod deadlines;
mod events;
mod force;
mod lease;
mod rescue;

use std::{collections::BTreeMap, time::Duration};

use distwasm_proto::{
    ids::{AttemptId, BaronId, JobId},
    limits::STARTS_FAILED_MAX,
    time::Time,
};

use baron::{Baron, Stage};
use lease::{Lease, Program, Queued};

pub use events::{Action, AnswerId, Event, Outcome};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Roster {
    leases: BTreeMap<JobId, Lease>,
    barons: BTreeMap<BaronId, Baron>,
    barons_made: u64,
    /// The time of the last call.
    handled: Time,
}

impl Roster {
    /// Handles a batch of events, and appends the actions that follow from them to `actions`.
    pub fn handle(&mut self, now: Time, events: impl IntoIterator<Item = Event>, actions: &mut Vec<Action>) {
        self.excuse_standstill(now);
        for event in events {
            self.on_event(now, event, actions);
        }
        self.take_slots(now, actions);
        self.retire_outdated(actions);
        self.feed(now, actions);
    }

    /// Whether there is no slot, so that no unit runs or waits.
    pub fn is_idle(&self) -> bool {
        self.barons.is_empty()
    }

    /// How many slots serve a job, and how many are being given back.
    pub fn slots_of(&self, job: JobId) -> (u32, u32) {
        let Some(lease) = self.leases.get(&job) else { return (0, 0) };
        let barons = || lease.barons.iter().filter_map(|id| self.barons.get(id));
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let staying = barons().filter(|baron| !baron.leaving && !lease.is_closed()).count();
        (count(staying), count(barons().count() - staying) + lease.slots_to_release)
    }

    fn on_event(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::LeaseOpened { job, timeout, start_within } => {
                self.on_lease_opened(job, timeout, start_within, actions);
            }
            Event::LeaseClosed { job } => self.on_lease_closed(job, actions),
            Event::SlotsGranted { job, slots } => self.on_slots_granted(now, job, slots, actions),
            Event::SlotsAskedBack { job, slots } => self.on_slots_asked_back(job, slots, actions),
            Event::SlotsTaken { job, slots } => self.on_slots_taken(job, slots),
            Event::AttemptArrived { job, attempt, bytes, alone, spared } => {
                self.on_attempt_arrived(job, Queued { attempt, bytes, alone, spared, unwanted: false }, actions);
            }
            Event::AttemptForgotten { job, attempt } => self.on_attempt_forgotten(job, attempt, actions),
            Event::PeasantsOutdated { job } => self.on_peasants_outdated(job),
            Event::ProgramReady { job } => self.on_program_ready(now, job, actions),
            Event::ProgramUnfit { job } => self.on_program_unfit(job, actions),
            Event::ProgramBroken { job } => self.on_program_broken(job, actions),
            Event::ProgramSpoiled { job } => self.on_program_spoiled(job, actions),
            Event::PeasantReady { baron } => self.on_peasant_ready(baron),
            Event::AnswerBegun { baron, waits } => self.on_answer_begun(now, baron, waits),
            Event::Answered { baron, answer } => self.on_answered(now, baron, answer, actions),
            Event::PeasantGone { baron } => self.on_peasant_gone(now, baron, actions),
            Event::Tick => self.on_tick(now, actions),
        }
    }

    fn on_lease_opened(
        &mut self,
        job: JobId,
        timeout: Option<Duration>,
        start_within: Duration,
        actions: &mut Vec<Action>,
    ) {
        let known = self.leases.insert(job, Lease::new(timeout, start_within));
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
            let idlest = staying.min_by_key(|(id, baron)| (baron.stage == Stage::Serving, baron.pipe.len(), *id));
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

    /// Forgets a unit that waits, or ends the peasant that runs it. A unit that waits in a pipe still runs: it is
    /// short.
    fn on_attempt_forgotten(&mut self, job: JobId, attempt: AttemptId, actions: &mut Vec<Action>) {
        // The attempt may have been reported, and its job may be over.
        let Some(lease) = self.leases.get_mut(&job) else { return };
        actions.push(Action::Drop { attempt });
        if lease.drop_waiting(attempt) {
            return;
        }
        for id in &lease.barons {
            let Some(baron) = self.barons.get_mut(id) else { continue };
            let Some(place) = baron.pipe.iter().position(|unit| unit.attempt == attempt) else { continue };
            if let Some(unit) = baron.pipe.get_mut(place) {
                unit.unwanted = true;
            }
            if place == 0 && baron.stage == Stage::Serving {
                baron.stage = Stage::Disturbed;
                actions.push(Action::Kill { baron: *id });
            }
        }
    }

    /// Peasants that were started before finish their units, and are started again.
    fn on_peasants_outdated(&mut self, job: JobId) {
        // The job may be over.
        let Some(lease) = self.leases.get(&job) else { return };
        for id in &lease.barons {
            if let Some(baron) = self.barons.get_mut(id) {
                baron.outdated = baron.stage != Stage::Vacant;
            }
        }
    }

    /// Lets outdated peasants end that have nothing to do.
    fn retire_outdated(&mut self, actions: &mut Vec<Action>) {
        for (id, baron) in &mut self.barons {
            if baron.outdated && baron.stage == Stage::Serving && baron.pipe.is_empty() {
                baron.stage = Stage::Ending;
                actions.push(Action::Retire { baron: *id });
            }
        }
    }

    fn on_program_ready(&mut self, now: Time, job: JobId, actions: &mut Vec<Action>) {
        // The job may have ended while its program was compiled.
        let Some(lease) = self.leases.get_mut(&job).filter(|lease| !lease.is_closed()) else { return };
        lease.program = Program::Ready;
        for id in &lease.barons {
            let Some(baron) = self.barons.get_mut(id).filter(|baron| baron.stage == Stage::Vacant) else { continue };
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
        let Some(baron) = self.barons.get_mut(&id).filter(|baron| baron.stage == Stage::Starting) else { return };
        baron.stage = Stage::Serving;
        if let Some(lease) = self.leases.get_mut(&baron.job) {
            lease.starts_failed = 0;
        }
    }

    fn on_answer_begun(&mut self, now: Time, id: BaronId, waits: bool) {
        if let Some(baron) = self.barons.get_mut(&id) {
            (baron.answering_since, baron.waits) = (Some(now), waits);
        }
    }

    fn on_answered(&mut self, now: Time, id: BaronId, answer: AnswerId, actions: &mut Vec<Action>) {
        // The peasant was killed because its job is over: its answer is not needed.
        let Some(baron) = self.barons.get_mut(&id).filter(|baron| baron.stage != Stage::Unwanted) else { return };
        let Some(unit) = baron.take_first() else {
            // It answers without a unit, so it cannot be trusted with the next one.
            if baron.stage == Stage::Serving {
                actions.push(Action::Kill { baron: id });
            }
            return;
        };
        let run_us = baron.answering_since.unwrap_or(now).micros_since(baron.turn_since);
        baron.turn_since = now;
        baron.end_answer();
        let done_leaving = baron.leaving && baron.pipe.is_empty() && baron.stage == Stage::Serving;
        if done_leaving {
            baron.stage = Stage::Ending;
        } else if matches!(baron.stage, Stage::TimedOut | Stage::Disturbed | Stage::Preempted) {
            baron.stage = Stage::Spared;
        }
        if let Some(lease) = self.leases.get_mut(&baron.job) {
            lease.unit_time.measure(run_us);
        }
        // An unwanted unit went to another peasant, or was forgotten.
        if !unit.unwanted {
            let (attempt, outcome) = (unit.attempt, Outcome::Answered(answer));
            actions.push(Action::Report { attempt, outcome, run_us });
        }
        if done_leaving {
            actions.push(Action::Retire { baron: id });
        }
    }

    fn on_peasant_gone(&mut self, now: Time, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.get_mut(&id) else { return };
        let (job, state) = (baron.job, baron.stage);
        let run_us = now.micros_since(baron.turn_since);
        let is_single = baron.pipe.len() == 1;
        let has_begun = baron.pipe.front().is_some_and(|unit| !unit.unwanted);
        let unanswered: Vec<Queued> = baron.pipe.drain(..).filter(|unit| !unit.unwanted).collect();
        baron.pipe_bytes = 0;
        baron.end_answer();
        baron.stage = Stage::Vacant;
        let leaving = baron.leaving;
        let Some(lease) = self.leases.get_mut(&job) else { return };
        match (unanswered.as_slice(), state) {
            ([], _) | (_, Stage::Unwanted) => {}
            ([first, others @ ..], Stage::Preempted) if has_begun => {
                let (attempt, outcome) = (first.attempt, Outcome::Preempted);
                actions.push(Action::Report { attempt, outcome, run_us });
                lease.put_back(others);
            }
            (units, Stage::Disturbed | Stage::Preempted) => lease.put_back(units),
            // Nothing else was in the pipe: this unit is to blame.
            ([unit], Stage::TimedOut) if is_single => {
                let timeout = lease.timeout.unwrap_or_default();
                let (attempt, outcome) = (unit.attempt, Outcome::TimedOut(timeout));
                actions.push(Action::Report { attempt, outcome, run_us });
            }
            ([unit], Stage::Serving) if is_single => {
                let (attempt, outcome) = (unit.attempt, Outcome::Killed(id));
                actions.push(Action::Report { attempt, outcome, run_us });
            }
            (units, _) => lease.suspect(units),
        }
        let failed_to_start = state == Stage::Starting && lease.program == Program::Ready && !leaving;
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
        match baron.stage {
            Stage::Vacant => self.remove(id, actions),
            Stage::Starting => {
                baron.stage = Stage::Unwanted;
                actions.push(Action::Kill { baron: id });
            }
            Stage::Serving if baron.pipe.is_empty() => {
                baron.stage = Stage::Ending;
                actions.push(Action::Retire { baron: id });
            }
            Stage::Serving
            | Stage::Ending
            | Stage::TimedOut
            | Stage::Spared
            | Stage::Disturbed
            | Stage::Preempted
            | Stage::Unwanted => {}
        }
    }

    /// Ends a baron whose job is over.
    fn dismiss(&mut self, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.get_mut(&id) else { return };
        baron.pipe.clear();
        baron.pipe_bytes = 0;
        match baron.stage {
            Stage::Vacant => self.remove(id, actions),
            Stage::Starting | Stage::Serving | Stage::Ending => {
                baron.stage = Stage::Unwanted;
                actions.push(Action::Kill { baron: id });
            }
            Stage::TimedOut | Stage::Spared | Stage::Disturbed | Stage::Preempted => baron.stage = Stage::Unwanted,
            Stage::Unwanted => {}
        }
    }

    /// Forgets a baron without a peasant, and tells the king of the free slot. The slots of a closed job are reported
    /// all at once.
    fn remove(&mut self, id: BaronId, actions: &mut Vec<Action>) {
        let Some(baron) = self.barons.remove(&id) else { return };
        let job = baron.job;
        let Some(lease) = self.leases.get_mut(&job) else { return };
        lease.barons.remove(&id);
        lease.forced = lease.forced.saturating_sub(u32::from(baron.leaving));
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
            .filter(|id| self.barons.get(id).is_some_and(|baron| baron.stage == Stage::Vacant && !baron.leaving));
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
            if baron.stage != Stage::Serving || baron.leaving || baron.outdated || baron.is_slow(now) {
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
