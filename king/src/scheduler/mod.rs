//! The king's scheduler: a pure state machine that decides which unit runs on which duke.
//!
//! Everything that happens comes in as an [`Event`] with the time at which it happened; everything that is to be done
//! goes out as an [`Action`]. There is no clock in here, no randomness, no lock and no I/O, and payload bytes live
//! elsewhere: the scheduler moves ids and sizes. The same events give the same actions.
//!
//! Deciding has two levels. `slots` deals out the slots of dukes to jobs, seldom, by fair sharing. `feed` keeps
//! the slots that a job has supplied with units, all the time. Reading order: [`Event`], [`Action`],
//! [`Scheduler::handle`], then one `on_…` function for each event; the state is in `job` and `duke`.

mod check;
mod drain;
mod duke;
mod evictions;
mod feed;
mod job;
mod projects;
mod slots;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{BROKEN_SLOTS_REST, KILLS_MAX, RESULT_UNASKED_BYTES_MAX},
    time::Time,
};

use duke::{Duke, Lease};
use job::{Job, Unit, UnitState};
use projects::Projects;

pub use job::{JobSpec, JobStatus, WaitsFor};
pub use words::{Action, Census, Event, JobEnd, Outcome, Verdict};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Scheduler {
    dukes: BTreeMap<DukeId, Duke>,
    jobs: BTreeMap<JobId, Job>,
    projects: Projects,
    attempts: BTreeMap<AttemptId, Attempt>,
    attempts_made: u64,
    /// Jobs whose slots may want units, or whose results may be fetched.
    hungry: BTreeSet<JobId>,
    /// Whether slots may have to be dealt out anew.
    deal: bool,
    /// When slots may have to be dealt out anew, though nothing happens.
    deal_at: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    duke: DukeId,
    job: JobId,
    unit: UnitNo,
    input_bytes: u64,
    stage: Stage,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// At its duke: queued or running.
    Running,
    /// Done; its result of this size waits at the duke until there is room.
    Offered(u64),
    /// Its result of this size is under way.
    Fetched(u64),
}

impl Scheduler {
    /// Takes in a batch of events, and appends to `actions` what follows from them.
    pub fn handle(&mut self, now: Time, events: impl IntoIterator<Item = Event>, actions: &mut Vec<Action>) {
        self.projects.charge(now, self.jobs.values());
        for event in events {
            self.on_event(now, event, actions);
        }
        self.deal_slots(now, actions);
        self.feed_jobs(actions);
        self.tell_states(actions);
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deal_at
    }

    fn on_event(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::DukeJoined { duke, cpus, ram_bytes, labels } => self.on_duke_joined(duke, cpus, ram_bytes, labels),
            Event::DukeDraining { duke } => self.on_duke_draining(duke, actions),
            Event::DukeLost { duke } => self.on_duke_lost(duke),
            Event::JobOpened { job, spec } => self.on_job_opened(job, spec),
            Event::UnitAdded { job, unit, bytes } => self.on_unit_added(job, unit, bytes),
            Event::UnitBroken { job, unit, bytes } => self.on_unit_broken(job, unit, bytes, actions),
            Event::JobClosed { job } => self.on_job_closed(job, actions),
            Event::QueenLost { job } => self.remove_job(job, actions),
            Event::AttemptEnded { duke, attempt, outcome, run_us } => {
                self.on_attempt_ended(duke, attempt, outcome, run_us, actions);
            }
            Event::ResultOffered { duke, attempt, bytes, run_us } => {
                self.on_result_offered(duke, attempt, bytes, run_us, actions);
            }
            Event::ResultsTaken { job, bytes } => self.on_results_taken(job, bytes),
            Event::ProgramUnfit { duke, job } => self.on_program_unfit(duke, job, actions),
            Event::SlotsReleased { duke, job, slots } => self.on_slots_released(duke, job, slots, actions),
            Event::SlotsBroken { duke, job, slots } => self.on_slots_broken(now, duke, job, slots, actions),
            Event::Tick => self.deal = true,
        }
    }

    fn on_duke_joined(&mut self, duke: DukeId, cpus: u32, ram_bytes: u64, labels: BTreeMap<String, String>) {
        let known = self.dukes.insert(duke, Duke::new(cpus, ram_bytes, labels));
        debug_assert!(known.is_none(), "a duke's id is never used twice");
        self.deal = true;
    }

    fn on_duke_lost(&mut self, id: DukeId) {
        // A duke that was expelled is lost once more when its link has ended.
        let Some(duke) = self.dukes.remove(&id) else { return };
        for (job_id, lease) in &duke.leases {
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
        let lost: Vec<AttemptId> =
            self.attempts.iter().filter(|(_, attempt)| attempt.duke == id).map(|(id, _)| *id).collect();
        for attempt in lost.into_iter().rev() {
            self.again(attempt);
        }
        self.deal = true;
    }

    fn on_job_opened(&mut self, job: JobId, spec: JobSpec) {
        self.projects.enter(&spec);
        let known = self.jobs.insert(job, Job::new(spec));
        debug_assert!(known.is_none(), "a job's id is never used twice");
        self.deal = true;
    }

    fn on_unit_added(&mut self, id: JobId, unit: UnitNo, bytes: u64) {
        // The queen may send units while she is being told that her job failed.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let expected = job.units.push(Unit::new(bytes));
        debug_assert!(expected == unit && !job.closed, "the service checks the order of units");
        job.waiting.push_back(unit);
        self.deal |= job.wants_slot() && !job.passed_over;
        self.hungry.insert(id);
    }

    fn on_unit_broken(&mut self, id: JobId, unit: UnitNo, bytes: u64, actions: &mut Vec<Action>) {
        // The queen may send units while she is being told that her job failed.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let expected = job.units.push(Unit::new(0));
        debug_assert!(expected == unit && !job.closed, "the service checks the order of units");
        self.hold_result(id, bytes);
        self.report(id, unit, Verdict::Broken, actions);
    }

    fn on_job_closed(&mut self, id: JobId, actions: &mut Vec<Action>) {
        // The job may have failed already.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.closed = true;
        self.end_if_complete(id, actions);
    }

    fn on_attempt_ended(
        &mut self,
        duke: DukeId,
        id: AttemptId,
        outcome: Outcome,
        run_us: u64,
        actions: &mut Vec<Action>,
    ) {
        // The job may have ended while the answer was on its way, or the duke been given up.
        let Some(attempt) = self.attempts.get(&id).copied().filter(|attempt| attempt.duke == duke) else { return };
        let Attempt { job: job_id, unit: unit_no, .. } = attempt;
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let fetched = matches!(attempt.stage, Stage::Fetched(_));
        let unasked_too_large = matches!(outcome, Outcome::Done { bytes } if bytes > RESULT_UNASKED_BYTES_MAX);
        if matches!(attempt.stage, Stage::Offered(_)) || (unasked_too_large && !fetched) {
            actions.push(Action::ExpelDuke { duke, why: "it sent a result that was to wait until it is fetched" });
            return;
        }
        if !fetched && matches!(outcome, Outcome::Done { .. } | Outcome::Failed { .. }) {
            job.unit_time.measure(run_us);
        }
        let retries = job.spec.retries;
        let Some(unit) = job.units.get_mut(unit_no) else { return };
        match outcome {
            Outcome::Done { bytes } => {
                self.release_attempt(id);
                self.hold_result(job_id, bytes);
                self.report(job_id, unit_no, Verdict::Done(id), actions);
            }
            Outcome::Failed { bytes } => {
                unit.failures += 1;
                if unit.failures <= retries {
                    self.again(id);
                } else {
                    self.release_attempt(id);
                    self.hold_result(job_id, bytes);
                    self.report(job_id, unit_no, Verdict::Failed(id), actions);
                }
            }
            Outcome::Killed { bytes } => {
                unit.kills += 1;
                unit.avoid = Some(duke);
                if unit.kills < KILLS_MAX {
                    self.again(id);
                } else {
                    self.release_attempt(id);
                    self.hold_result(job_id, bytes);
                    self.report(job_id, unit_no, Verdict::Failed(id), actions);
                }
            }
            Outcome::Returned { suspect } => {
                unit.suspect |= suspect;
                self.again(id);
            }
        }
    }

    fn on_result_offered(&mut self, duke: DukeId, id: AttemptId, bytes: u64, run_us: u64, actions: &mut Vec<Action>) {
        // The job may have ended while the offer was on its way, or the duke been given up.
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| attempt.duke == duke) else { return };
        if attempt.stage != Stage::Running {
            actions.push(Action::ExpelDuke { duke, why: "it offered a result twice" });
            return;
        }
        attempt.stage = Stage::Offered(bytes);
        let Attempt { job: job_id, input_bytes, .. } = *attempt;
        self.unload(duke, job_id, input_bytes);
        if let Some(job) = self.jobs.get_mut(&job_id) {
            job.unit_time.measure(run_us);
            job.offers.push_back(id);
        }
    }

    fn on_results_taken(&mut self, id: JobId, bytes: u64) {
        // The last results of a job are taken after its end.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        debug_assert!(job.results_bytes >= bytes, "more was taken than was held");
        job.results_bytes = job.results_bytes.saturating_sub(bytes);
        self.hungry.insert(id);
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
        duke.free_slots(job, slots);
        if let Some(job) = self.jobs.get_mut(&job) {
            job.releasing -= slots;
        }
        self.deal = true;
    }

    fn on_slots_broken(&mut self, now: Time, id: DukeId, job_id: JobId, slots: u32, actions: &mut Vec<Action>) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // The job may have ended, and its lease with it.
        let Some(lease) = duke.leases.get_mut(&job_id) else { return };
        if slots > lease.slots + lease.releasing {
            actions.push(Action::ExpelDuke { duke: id, why: "it gave back more slots than it was granted" });
            return;
        }
        let load = lease.load();
        // What was asked back meanwhile the duke takes from those that are left, and releases them as usual.
        let staying = slots.min(lease.slots);
        lease.slots -= staying;
        lease.releasing -= slots - staying;
        lease.broken_until = Some(now.after(BROKEN_SLOTS_REST));
        let (slots_left, load_now) = (lease.slots, lease.load());
        duke.free_slots(job_id, slots);
        if let Some(job) = self.jobs.get_mut(&job_id) {
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

    /// Puts an attempt's unit back to the front of its job, and forgets the attempt.
    fn again(&mut self, id: AttemptId) {
        let Some(Attempt { job: job_id, unit, .. }) = self.release_attempt(id) else { return };
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        if let Some(state) = job.units.get_mut(unit) {
            state.state = UnitState::Waiting;
            if state.is_suspect() {
                job.suspects.push_back(unit);
            } else {
                job.waiting.push_front(unit);
            }
        }
        self.hungry.insert(job_id);
    }

    /// Takes an attempt out of every table that knows it.
    fn release_attempt(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        match attempt.stage {
            Stage::Running => self.unload(attempt.duke, attempt.job, attempt.input_bytes),
            Stage::Offered(_) => {
                if let Some(job) = self.jobs.get_mut(&attempt.job) {
                    job.offers.retain(|offer| *offer != id);
                }
            }
            Stage::Fetched(bytes) => {
                if let Some(job) = self.jobs.get_mut(&attempt.job) {
                    job.results_bytes = job.results_bytes.saturating_sub(bytes);
                    // There is room for another offer now.
                    self.hungry.insert(attempt.job);
                }
            }
        }
        Some(attempt)
    }

    fn report(&mut self, id: JobId, unit: UnitNo, verdict: Verdict, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let attempts = job.units.close(unit);
        actions.push(Action::Report { job: id, unit, verdict, attempts });
        // A job with fewer units than slots has slots to spare.
        self.deal |= job.slots > job.need();
        self.end_if_complete(id, actions);
    }

    fn end_if_complete(&mut self, id: JobId, actions: &mut Vec<Action>) {
        if self.jobs.get(&id).is_some_and(|job| job.closed && job.units.open() == 0) {
            self.remove_job(id, actions);
            actions.push(Action::EndJob { job: id, end: JobEnd::Complete });
        }
    }

    /// Forgets a job, and has its dukes end what they do for it.
    fn remove_job(&mut self, id: JobId, actions: &mut Vec<Action>) {
        // A queen whose job has ended goes away.
        let Some(Job { spec, .. }) = self.jobs.remove(&id) else { return };
        self.projects.leave(&spec.project, self.jobs.values());
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

    /// One attempt less at a duke for a job.
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
        let staying = self.dukes.values().filter(|duke| !duke.draining).count();
        let staying = u32::try_from(staying).unwrap_or(u32::MAX);
        for (id, job) in &mut self.jobs {
            let status = job.status(&self.dukes, staying);
            if job.told != Some(status) {
                job.told = Some(status);
                actions.push(Action::TellStatus { job: *id, status });
            }
        }
    }

    // ---- For those who ask ----------------------------------------------------------------------------------------

    /// Counts of what there is.
    pub fn census(&self) -> Census {
        Census {
            jobs: self.jobs.len(),
            dukes: self.dukes.len(),
            slots: self.dukes.values().map(|duke| u64::from(duke.cpus)).sum(),
            slots_granted: self.jobs.values().map(|job| u64::from(job.slots)).sum(),
            units_waiting: self.jobs.values().map(|job| (job.waiting.len() + job.suspects.len()) as u64).sum(),
            units_running: self.attempts.len() as u64,
            results_bytes: self.jobs.values().map(|job| job.results_bytes).sum(),
        }
    }

    /// The slots that each project has, those among them that are being given back.
    pub fn slots_of_projects(&self) -> BTreeMap<&str, u32> {
        let mut slots = BTreeMap::new();
        for job in self.jobs.values() {
            *slots.entry(job.spec.project.as_str()).or_insert(0) += job.slots + job.releasing;
        }
        slots
    }
}
