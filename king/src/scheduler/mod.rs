//! The king's scheduler: a pure state machine that decides which unit runs on which duke.
//!
//! Everything that happens comes in as an [`Event`] with the time at which it happened; everything that is to be done
//! goes out as an [`Action`]. There is no clock in here, no randomness, no lock and no I/O, and payload bytes live
//! elsewhere: the scheduler moves ids and sizes. The same events give the same actions.
//!
//! Deciding has two levels. `slots` deals out the slots of dukes to jobs, seldom, by fair sharing. `feed` keeps a job's
//! slots supplied with units, all the time. Reading order: [`Event`], [`Action`], [`Scheduler::handle`], then one
//! `on_…` function for each event; the state is in `job` and `duke`.

mod attempts;
mod away;
mod check;
mod drain;
mod duke;
mod events;
mod evictions;
mod feed;
mod heritage;
mod job;
mod longest;
mod overview;
mod projects;
mod ranking;
mod results;
mod slots;
mod stragglers;
mod timers;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{BROKEN_SLOTS_REST, GRACE},
    time::Time,
};

use away::Joining;
use duke::{Duke, Lease};
use heritage::Heritage;
use job::Job;
use projects::Projects;
use timers::{Alarm, Timers};
use units::UnitState;

pub use events::{
    Action, Census, Event, HeldAttempt, HeldLease, JobEnd, JobSpec, JobStatus, LongestAttempt, Outcome, Resumption,
    Verdict, WaitsFor,
};
pub use overview::Overview;

/// See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    /// How long a peer whose link broke may take to come back.
    grace: Duration,
    heritage: Heritage,
    /// When the last batch of events came.
    now: Time,
    dukes: BTreeMap<DukeId, Duke>,
    jobs: BTreeMap<JobId, Job>,
    projects: Projects,
    attempts: BTreeMap<AttemptId, Attempt>,
    /// Jobs whose slots may want units, or whose results may be fetched.
    hungry: BTreeSet<JobId>,
    /// Whether slots may have to be dealt out again.
    deal: bool,
    timers: Timers,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    duke: DukeId,
    job: JobId,
    unit: UnitNo,
    input_bytes: u64,
    /// When it was handed to its duke, or its result was recalled.
    since: Time,
    /// Queued or running at its duke. Otherwise its result is offered or in transit.
    runs: bool,
}

impl Default for Scheduler {
    fn default() -> Scheduler {
        Scheduler::new(Time::default(), GRACE, 0)
    }
}

impl Scheduler {
    /// The scheduler of a king that begins `now`. Jobs of earlier kings have numbers up to `began`, and their attempts
    /// have numbers up to `began << 20`.
    pub fn new(now: Time, grace: Duration, began: u64) -> Scheduler {
        Scheduler {
            grace,
            heritage: Heritage::new(now, grace, began),
            now,
            dukes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            projects: Projects::default(),
            attempts: BTreeMap::new(),
            hungry: BTreeSet::new(),
            deal: false,
            timers: Timers::default(),
        }
    }

    /// Handles a batch of events, and appends the actions that follow from them to `actions`.
    pub fn handle(&mut self, now: Time, events: impl IntoIterator<Item = Event>, actions: &mut Vec<Action>) {
        self.now = now;
        self.heritage.expire(now);
        self.projects.charge(now, self.jobs.values());
        for event in events {
            self.on_event(event, actions);
        }
        self.ring(actions);
        self.deal_slots(actions);
        self.feed_jobs(actions);
        self.watch_longest();
        self.tell_states(actions);
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next()
    }

    fn ring(&mut self, actions: &mut Vec<Action>) {
        while let Some(alarm) = self.timers.ring(self.now) {
            match alarm {
                Alarm::DukeAway(duke) => self.on_duke_overdue(duke, actions),
                Alarm::QueenAway(job) => self.on_queen_overdue(job, actions),
                Alarm::Unpark(job) => self.unpark(job),
                Alarm::Stragglers(job) => self.look_for_stragglers(job, actions),
                Alarm::Results(job) => self.look_at_results(job),
                Alarm::Deal => self.deal = true,
                Alarm::Longest => self.find_longest(),
            }
        }
    }

    fn on_event(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::DukeJoined { duke: id, cpus, ram_bytes, labels, was, holds } => {
                self.on_duke_joined(Joining { id, cpus, ram_bytes, labels, was, holds }, actions);
            }
            Event::DukeDraining { duke } => self.on_duke_draining(duke, actions),
            Event::DukeAway { duke } => self.on_duke_away(duke),
            Event::DukeLost { duke } => self.on_duke_lost(duke),
            Event::JobOpened { job, key, spec, resumes } => self.on_job_opened(job, key, spec, &resumes, actions),
            Event::UnitAdded { job, unit, bytes } => self.on_unit_added(job, unit, bytes),
            Event::UnitBroken { job, unit, bytes } => self.on_unit_broken(job, unit, bytes, actions),
            Event::JobClosed { job } => self.on_job_closed(job, actions),
            Event::QueenAway { job } => self.on_queen_away(job),
            Event::QueenLost { job } => self.remove_job(job, actions),
            Event::AttemptEnded { duke, attempt, outcome, run_us } => {
                self.on_attempt_ended(duke, attempt, outcome, run_us, actions);
            }
            Event::ResultOffered { duke, attempt, bytes, run_us } => {
                self.on_result_offered(duke, attempt, bytes, run_us, actions);
            }
            Event::VerdictsHeard { job, verdicts, bytes } => self.on_verdicts_heard(job, verdicts, bytes, actions),
            Event::ProgramUnfit { duke, job } => self.on_program_unfit(duke, job, actions),
            Event::SlotsReleased { duke, job, slots } => self.on_slots_released(duke, job, slots, actions),
            Event::SlotsBroken { duke, job, slots } => self.on_slots_broken(duke, job, slots, actions),
            Event::Tick => self.deal = true,
        }
    }

    fn on_duke_lost(&mut self, id: DukeId) {
        // A duke that was expelled is lost again when its link has ended.
        let Some(duke) = self.dukes.remove(&id) else { return };
        self.timers.stop(Alarm::DukeAway(id));
        for (job_id, lease) in duke.leases.iter().filter(|(_, lease)| !lease.is_closed()) {
            if let Some(job) = self.jobs.get_mut(job_id) {
                job.slots -= lease.slots;
                job.releasing -= lease.releasing;
                job.by_load.remove(&(lease.load(), id));
            }
        }
        for job_id in &duke.reserved {
            if let Some(job) = self.jobs.get_mut(job_id) {
                job.reserved -= 1;
            }
        }
        for Attempt { job, unit, .. } in self.take_attempts(|_, attempt| attempt.duke == id).into_values().rev() {
            self.put_back(job, unit);
        }
        for job_id in duke.leases.keys() {
            if let Some(job) = self.jobs.get_mut(job_id) {
                job.results.forget_duke(id);
            }
        }
        self.deal = true;
    }

    fn on_unit_added(&mut self, id: JobId, no: UnitNo, bytes: u64) {
        // The queen may send units while it is being told that its job failed.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let may_be_at_a_duke = job.awaits_dukes.is_some() && job.units.is_earlier(no);
        // A unit that is sent again may have arrived the first time, too.
        let Some(unit) = job.units.arrive(no, bytes) else { return };
        if unit.state == UnitState::Waiting {
            if may_be_at_a_duke {
                unit.state = UnitState::Parked;
            } else {
                job.waiting.push_back(no);
            }
        }
        self.deal |= job.wants_slot() && !job.passed_over;
        self.hungry.insert(id);
    }

    fn on_unit_broken(&mut self, id: JobId, unit: UnitNo, bytes: u64, actions: &mut Vec<Action>) {
        // The queen may send units while it is being told that its job failed.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(arrived) = job.units.arrive(unit, 0) else { return };
        if arrived.trying > 0 {
            // A duke that came back runs the unit. Without its input the unit cannot be tried again.
            self.forget_attempts(|_, attempt| attempt.job == id && attempt.unit == unit, actions);
        }
        self.hold_result(id, bytes);
        self.report(id, unit, Verdict::Broken, actions);
    }

    fn on_job_closed(&mut self, id: JobId, actions: &mut Vec<Action>) {
        // The job may have failed already.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.closed = true;
        self.end_if_complete(id, actions);
    }

    fn on_verdicts_heard(&mut self, id: JobId, verdicts: u64, bytes: u64, actions: &mut Vec<Action>) {
        // A job that failed as a whole is over before its last verdicts are heard.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        debug_assert!(job.unheard >= verdicts, "more was heard than was said");
        job.results.let_go(bytes);
        job.unheard = job.unheard.saturating_sub(verdicts);
        self.hungry.insert(id);
        self.end_if_complete(id, actions);
    }

    fn on_program_unfit(&mut self, duke: DukeId, id: JobId, actions: &mut Vec<Action>) {
        // Another duke may have said so before.
        if !self.jobs.contains_key(&id) {
            return;
        }
        if !self.dukes.get(&duke).is_some_and(|duke| duke.leases.contains_key(&id)) {
            actions.push(Action::ExpelDuke { duke, why: "it judged the program of a job that it was never given" });
            return;
        }
        self.remove_job(id, actions);
        actions.push(Action::EndJob { job: id, end: JobEnd::Unfit });
    }

    fn on_slots_released(&mut self, id: DukeId, job: JobId, slots: u32, actions: &mut Vec<Action>) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // The duke may have given the slots back as broken before it heard that they are wanted back.
        let Some(lease) = duke.leases.get_mut(&job) else { return };
        if slots > lease.releasing {
            actions.push(Action::ExpelDuke { duke: id, why: "it released more slots than were asked back" });
            return;
        }
        lease.releasing -= slots;
        let is_counted = !lease.is_closed();
        duke.free_slots(job, slots);
        if let Some(job) = self.jobs.get_mut(&job).filter(|_| is_counted) {
            job.releasing -= slots;
        }
        self.deal = true;
    }

    fn on_slots_broken(&mut self, id: DukeId, job_id: JobId, slots: u32, actions: &mut Vec<Action>) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // The job may have ended, and its lease with it.
        let Some(lease) = duke.leases.get_mut(&job_id) else { return };
        if slots > lease.slots + lease.releasing {
            actions.push(Action::ExpelDuke { duke: id, why: "it gave back more slots than it was granted" });
            return;
        }
        let load = lease.load();
        // The duke takes the slots that were asked back meanwhile from the remaining ones, and releases them as usual.
        let staying = slots.min(lease.slots);
        lease.slots -= staying;
        lease.releasing -= slots - staying;
        lease.broken_until = Some(self.now.after(BROKEN_SLOTS_REST));
        let (slots_left, load_now, is_counted) = (lease.slots, lease.load(), !lease.is_closed());
        duke.free_slots(job_id, slots);
        if let Some(job) = self.jobs.get_mut(&job_id).filter(|_| is_counted) {
            job.slots -= staying;
            job.releasing -= slots - staying;
            job.by_load.remove(&(load, id));
            if slots_left > 0 {
                job.by_load.insert((load_now, id));
            }
        }
        self.deal = true;
    }

    // ---- Shared by the above --------------------------------------------------------------------------------------

    /// Counts a result that arrived and waits for the queen to take it.
    fn hold_result(&mut self, id: JobId, bytes: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.results.hold(bytes);
            self.hungry.insert(id);
        }
    }

    fn report(&mut self, id: JobId, unit: UnitNo, verdict: Verdict, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let attempts = job.units.close(unit);
        job.unheard += 1;
        actions.push(Action::Report { job: id, unit, verdict, attempts });
        // A job with fewer units than slots has slots to spare.
        self.deal |= job.slots > job.need();
    }

    fn end_if_complete(&mut self, id: JobId, actions: &mut Vec<Action>) {
        if self.jobs.get(&id).is_some_and(|job| job.closed && job.units.open() == 0 && job.unheard == 0) {
            self.remove_job(id, actions);
            actions.push(Action::EndJob { job: id, end: JobEnd::Complete });
        }
    }

    /// Forgets a job, and has its dukes end their work for it.
    fn remove_job(&mut self, id: JobId, actions: &mut Vec<Action>) {
        // The queen of a job that has ended goes away, too.
        let Some(Job { project, .. }) = self.jobs.remove(&id) else { return };
        self.projects.leave(project, self.jobs.values());
        self.heritage.job_ended(id);
        for alarm in [Alarm::QueenAway(id), Alarm::Unpark(id), Alarm::Stragglers(id), Alarm::Results(id)] {
            self.timers.stop(alarm);
        }
        self.attempts.retain(|_, attempt| attempt.job != id);
        self.hungry.remove(&id);
        for (duke_id, duke) in &mut self.dukes {
            duke.reserved.retain(|job| *job != id);
            if let Some(lease) = duke.leases.get_mut(&id) {
                lease.close();
                actions.push(Action::CloseLease { duke: *duke_id, job: id });
                duke.forget_lease_if_over(id);
            }
        }
        self.deal = true;
    }

    /// Adds `attempts` attempts to a duke's load for a job.
    fn load(&mut self, duke_id: DukeId, job_id: JobId, attempts: u32, input_bytes: u64) {
        self.change_load(duke_id, job_id, |lease| {
            lease.running += attempts;
            lease.running_bytes += input_bytes;
        });
    }

    /// Takes one attempt off a duke's load for a job.
    fn unload(&mut self, duke_id: DukeId, job_id: JobId, input_bytes: u64) {
        self.change_load(duke_id, job_id, |lease| {
            lease.running -= 1;
            lease.running_bytes -= input_bytes;
        });
        self.hungry.insert(job_id);
    }

    /// Changes a lease, and its place in its job's order of loads.
    fn change_load(&mut self, duke_id: DukeId, job_id: JobId, change: impl FnOnce(&mut Lease)) {
        let Some(lease) = self.dukes.get_mut(&duke_id).and_then(|duke| duke.leases.get_mut(&job_id)) else { return };
        let before = lease.load();
        change(lease);
        let (after, slots) = (lease.load(), lease.slots);
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.by_load.remove(&(before, duke_id));
        if slots > 0 {
            job.by_load.insert((after, duke_id));
        }
    }

    fn tell_states(&mut self, actions: &mut Vec<Action>) {
        let staying = self.staying();
        for (id, job) in &mut self.jobs {
            let status = job.status(&self.dukes, staying);
            if job.told != Some(status) {
                job.told = Some(status);
                actions.push(Action::TellStatus { job: *id, status });
            }
        }
    }

    // ---- Queries --------------------------------------------------------------------------------------------------

    /// Whether this duke may say how this attempt ended.
    pub fn expects(&self, duke: DukeId, attempt: AttemptId) -> bool {
        self.attempts.get(&attempt).is_some_and(|attempt| attempt.duke == duke)
    }
}
