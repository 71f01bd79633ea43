//! The king's scheduler: a pure state machine that decides which unit runs on which duke.
//!
//! Everything that happens comes in as an [`Event`] with the time at which it happened; everything that is to be done
//! goes out as an [`Action`]. There is no clock in here, no randomness, no lock and no I/O, and payload bytes live
//! elsewhere: the scheduler moves ids and sizes. The same events give the same actions.
//!
//! Deciding has two levels. `deal` deals out the slots of dukes to jobs, seldom, by fair sharing. `feed` keeps a job's
//! slots supplied with units, all the time. Reading order: [`Event`], [`Action`], [`Scheduler::handle`], then one
//! `on_…` function for each event. The state is in machines of its own: `ledger` (dukes, slots, attempts), `job` with
//! its `units` and `results`, `projects`, `heritage`, `timers`.

mod attempts;
mod check;
mod deal;
mod events;
mod evictions;
mod feed;
mod heritage;
mod job;
mod late;
mod ledger;
mod longest;
mod offers;
mod overview;
mod preemption;
mod projects;
mod ranking;
mod results;
mod returning;
mod room;
mod stragglers;
#[cfg(test)]
mod testing;
mod timers;
mod unfit;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{AWAY_PATIENCE, BROKEN_SLOTS_REST, RESULTS_BYTES},
    secret::Mark,
    time::Time,
    wire::is_offered,
};

use heritage::Heritage;
use job::Job;
use ledger::{Account, Attempt, Duke, Ledger, Overdrawn};
use projects::Projects;
use results::LargeResult;
use timers::{Alarm, Timers};
use units::UnitState;

pub use events::{
    Action, Census, Event, HeldAttempt, HeldLease, JobEnd, JobSpec, JobStatus, LongestAttempt, Outcome, Resumption,
    Rules, Verdict, WaitsFor,
};
pub use overview::Overview;
pub use room::ResultBounds;

/// See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    rules: Rules,
    /// When the last batch of events came.
    now: Time,
    ledger: Ledger,
    jobs: BTreeMap<JobId, Job>,
    projects: Projects,
    heritage: Heritage,
    timers: Timers,
    /// Jobs whose slots may want units, or whose results may be fetched.
    hungry: BTreeSet<JobId>,
    /// Jobs that would fetch results if other jobs left more room.
    short: BTreeSet<JobId>,
    result_bounds: ResultBounds,
    /// Whether slots may have to be dealt out again.
    deal: bool,
}

impl Default for Scheduler {
    fn default() -> Scheduler {
        let result_bounds = ResultBounds { most: u64::MAX, reserve: RESULTS_BYTES };
        Scheduler::new(Time::default(), Rules::default(), 0, result_bounds)
    }
}

impl Scheduler {
    /// The scheduler of a king that begins `now`. Jobs of earlier kings have numbers up to `began`, and their attempts
    /// have numbers up to `began << 20`.
    pub fn new(now: Time, rules: Rules, began: u64, result_bounds: ResultBounds) -> Scheduler {
        Scheduler {
            rules,
            now,
            ledger: Ledger::default(),
            jobs: BTreeMap::new(),
            projects: Projects::default(),
            heritage: Heritage::new(now, rules.grace, began),
            timers: Timers::default(),
            hungry: BTreeSet::new(),
            short: BTreeSet::new(),
            result_bounds,
            deal: false,
        }
    }

    /// Handles a batch of events, and appends the actions that follow from them to `actions`.
    pub fn handle(&mut self, now: Time, events: impl IntoIterator<Item = Event>, actions: &mut Vec<Action>) {
        self.now = now;
        self.heritage.expire(now);
        let taken = |(id, account): (JobId, &Account)| Some((self.jobs.get(&id)?.project, account.taken()));
        self.projects.charge(now, self.ledger.accounts().filter_map(taken));
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

    /// Whether this duke may say how this attempt ended.
    pub fn expects(&self, duke: DukeId, attempt: AttemptId) -> bool {
        self.attempt_at(duke, attempt).is_some()
    }

    /// The unit that this duke tries with this attempt, and has not told the end of.
    pub fn unit_at(&self, duke: DukeId, attempt: AttemptId) -> Option<(JobId, UnitNo)> {
        self.attempt_at(duke, attempt).filter(|attempt| attempt.runs).map(|attempt| (attempt.job, attempt.unit))
    }

    /// The duke that has this attempt, and the attempt's unit.
    pub fn place_of(&self, attempt: AttemptId) -> Option<(DukeId, JobId, UnitNo)> {
        self.ledger.attempt(attempt).map(|attempt| (attempt.duke, attempt.job, attempt.unit))
    }

    /// All attempts at a unit.
    pub fn attempts_at(&self, job: JobId, unit: UnitNo) -> BTreeSet<AttemptId> {
        self.ledger.attempts_of_units(job, |of| of == unit)
    }

    /// The longest result of this attempt for which there may be room, in bytes.
    pub fn longest_result(&self, attempt: AttemptId) -> Option<u64> {
        let job = self.jobs.get(&self.ledger.attempt(attempt)?.job)?;
        Some(self.result_bounds.longest(job))
    }

    /// Whether a job may keep its number: this king knows it by this mark, or may still learn of it as a job of an
    /// earlier king.
    pub fn may_resume(&self, id: JobId, mark: Mark) -> bool {
        match self.jobs.get(&id) {
            Some(job) => job.mark == mark,
            None => self.heritage.may_bring_job(id).is_some(),
        }
    }

    /// Whether the queen of the job with this mark was killed and started again as another job.
    pub fn is_replaced(&self, mark: Mark) -> bool {
        self.heritage.is_replaced(mark)
    }

    /// The mark of a job, if there is one of this number.
    pub fn mark_of(&self, id: JobId) -> Option<Mark> {
        self.jobs.get(&id).map(|job| job.mark)
    }

    /// The jobs with this mark.
    pub fn jobs_of(&self, mark: Mark) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, job)| job.mark == mark).map(|(id, _)| *id).collect()
    }

    /// Whether there is a job of this number.
    pub fn has_job(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    fn on_event(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::DukeJoined { duke: id, cpus, ram_bytes, labels, was, holds } => {
                self.on_duke_joined(id, Duke::new(cpus, ram_bytes, labels), was, holds, actions);
            }
            Event::DukeDraining { duke } => self.on_duke_draining(duke, actions),
            Event::DukeAway { duke } => self.on_duke_away(duke),
            Event::DukeLost { duke } => self.on_duke_lost(duke),
            Event::JobOpened { job, mark, spec, resumes } => self.on_job_opened(job, mark, spec, &resumes, actions),
            Event::UnitAdded { job, unit, bytes } => self.on_unit_added(job, unit, bytes),
            Event::UnitBroken { job, unit, bytes } => self.on_unit_broken(job, unit, bytes, actions),
            Event::InputMoved { attempt } => self.ledger.set_input_moved(attempt, self.now),
            Event::InputBroken { job, unit, bytes } => self.on_input_broken(job, unit, bytes, actions),
            Event::JobClosed { job } => self.on_job_closed(job, actions),
            Event::QueenAway { job } => self.on_queen_away(job),
            Event::QueenLost { job } => self.on_queen_lost(job, actions),
            Event::JobCancelled { job } => self.end_job(job, JobEnd::Cancelled, actions),
            Event::JobReplaced { mark } => self.on_job_replaced(mark, actions),
            Event::AttemptEnded { duke, attempt, outcome, run_us } => {
                self.on_attempt_ended(duke, attempt, outcome, run_us, actions);
            }
            Event::InputsArrived { duke, attempt } => self.on_inputs_arrived(duke, attempt),
            Event::ResultOffered { duke, attempt, bytes, run_us, streamed } => {
                self.on_result_offered(duke, attempt, (bytes, streamed), run_us, actions);
            }
            Event::ResultMoved { attempt } => self.on_result_moved(attempt),
            Event::VerdictsHeard { job, verdicts, bytes } => self.on_verdicts_heard(job, verdicts, bytes, actions),
            Event::ProgramUnfit { duke, job } => self.on_program_unfit(duke, job, actions),
            Event::SlotsReleased { duke, job, slots } => self.on_slots_released(duke, job, slots, actions),
            Event::SlotsBroken { duke, job, slots } => self.on_slots_broken(duke, job, slots, actions),
            Event::Tick => self.deal = true,
        }
    }

    fn ring(&mut self, actions: &mut Vec<Action>) {
        while let Some(alarm) = self.timers.ring(self.now) {
            match alarm {
                Alarm::DukeAway(duke) => self.on_duke_overdue(duke, actions),
                Alarm::QueenAway(job) => self.on_queen_overdue(job, actions),
                Alarm::Unpark(job) => self.unpark(job),
                Alarm::Stragglers(job) => self.look_for_stragglers(job, actions),
                Alarm::Results(job) => self.look_at_results(job),
                Alarm::Deal | Alarm::Preempt => self.deal = true,
                Alarm::Longest => self.find_longest(),
            }
        }
    }

    // ---- Dukes ----------------------------------------------------------------------------------------------------

    fn on_duke_joined(
        &mut self,
        id: DukeId,
        duke: Duke,
        was: Option<DukeId>,
        holds: Vec<HeldLease>,
        actions: &mut Vec<Action>,
    ) {
        let mut before = BTreeMap::new();
        if let Some(was) = was {
            before = self.take_attempts(self.ledger.attempts_of_duke(was));
            self.carry_doubts(was, id);
            self.on_duke_lost(was);
        }
        self.ledger.join(id, duke);
        self.take_back(id, holds, before, actions);
        self.unpark_if_all_are_here();
        self.deal = true;
    }

    /// Asks back all slots of a duke that is going to leave: it finishes the units that it runs, and those that it has
    /// not begun come back, and go elsewhere.
    fn on_duke_draining(&mut self, duke: DukeId, actions: &mut Vec<Action>) {
        for (job, slots) in self.ledger.withdraw(duke) {
            actions.push(Action::ReleaseSlots { duke, job, slots });
        }
        self.deal = true;
    }

    /// Gives nothing new to a duke whose link broke; the duke keeps its units while it may come back.
    fn on_duke_away(&mut self, id: DukeId) {
        // The duke may have been expelled before its link broke.
        let Some(duke) = self.ledger.duke(id).filter(|duke| duke.away_since.is_none()) else { return };
        self.hungry.extend(duke.leases.keys());
        self.timers.set(Alarm::DukeAway(id), self.now.after(self.rules.grace));
        // The slots that this asks back are free when the duke is back, or gone.
        self.ledger.set_away(id, self.now);
        self.recall_results(id);
        self.deal = true;
    }

    fn on_duke_overdue(&mut self, id: DukeId, actions: &mut Vec<Action>) {
        self.on_duke_lost(id);
        actions.push(Action::ForgetDuke { duke: id });
    }

    fn on_duke_lost(&mut self, id: DukeId) {
        let attempts = self.take_attempts(self.ledger.attempts_of_duke(id));
        // A duke that was expelled is lost again when its link has ended.
        let Some(jobs) = self.ledger.lose(id) else { return };
        self.timers.stop(Alarm::DukeAway(id));
        self.forget_doubts(id);
        self.forget_links(id, jobs);
        self.put_all_back(attempts);
        self.deal = true;
    }

    fn on_slots_released(&mut self, duke: DukeId, job: JobId, slots: u32, actions: &mut Vec<Action>) {
        match self.ledger.release(duke, job, slots) {
            Ok(is_known) => self.deal |= is_known,
            Err(Overdrawn) => {
                actions.push(Action::ExpelDuke { duke, why: "it released more slots than were asked back" });
            }
        }
    }

    fn on_slots_broken(&mut self, duke: DukeId, job: JobId, slots: u32, actions: &mut Vec<Action>) {
        match self.ledger.break_slots(duke, job, slots, self.now.after(BROKEN_SLOTS_REST)) {
            Ok(is_known) => self.deal |= is_known,
            Err(Overdrawn) => {
                actions.push(Action::ExpelDuke { duke, why: "it gave back more slots than it was granted" });
            }
        }
    }

    // ---- Attempts -------------------------------------------------------------------------------------------------

    fn on_attempt_ended(
        &mut self,
        duke: DukeId,
        id: AttemptId,
        outcome: Outcome,
        run_us: u64,
        actions: &mut Vec<Action>,
    ) {
        // The job may have ended while the answer was in transit, or the duke been given up.
        let Some(attempt) = self.attempt_at(duke, id).copied() else { return };
        let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
        job.results.measure(id, self.now);
        let waits = job.results.get(id).is_some_and(LargeResult::is_offered);
        let is_large = matches!(outcome, Outcome::Done { bytes } if is_offered(bytes));
        if waits || (is_large && attempt.runs) {
            actions.push(Action::ExpelDuke { duke, why: "it sent a result that was to wait until it is fetched" });
            return;
        }
        // A duke cannot have run a unit for longer than it had it.
        let run_us = run_us.min(self.now.micros_since(attempt.since));
        match outcome {
            Outcome::Done { bytes } if attempt.runs => {
                job.record_work(run_us);
                job.record_result(bytes);
            }
            Outcome::Failed { .. } if attempt.runs => job.record_work(run_us),
            _ => {}
        }
        self.heritage.attempt_ended(id);
        self.judge(id, attempt, outcome, run_us, actions);
    }

    fn attempt_at(&self, duke: DukeId, id: AttemptId) -> Option<&Attempt> {
        self.ledger.attempt(id).filter(|attempt| attempt.duke == duke)
    }

    // ---- Queens ---------------------------------------------------------------------------------------------------

    fn on_job_opened(&mut self, id: JobId, mark: Mark, spec: JobSpec, resumes: &Resumption, actions: &mut Vec<Action>) {
        let is_new = self.claim_job(id, mark, spec);
        self.timers.stop(Alarm::QueenAway(id));
        self.resume_job(id, resumes, is_new, actions);
        self.close_misfits(id, actions);
        self.keep_to_bound(id, actions);
        self.unpark_if_all_are_here();
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
        self.deal |= job.wants_slot(self.ledger.account(id)) && !job.fits_nowhere;
        self.hungry.insert(id);
    }

    fn on_job_closed(&mut self, id: JobId, actions: &mut Vec<Action>) {
        // The job may have failed already.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.closed = true;
        job.put_largest_first();
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

    fn on_queen_away(&mut self, id: JobId) {
        // The queen's job may have ended.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.yields_from = Some(self.now.after(AWAY_PATIENCE));
        self.timers.set(Alarm::QueenAway(id), self.now.after(self.rules.grace));
        self.deal = true;
    }

    fn on_queen_overdue(&mut self, id: JobId, actions: &mut Vec<Action>) {
        self.end_job(id, JobEnd::Abandoned, actions);
    }

    fn on_queen_lost(&mut self, id: JobId, actions: &mut Vec<Action>) {
        self.remove_job(id, actions);
    }

    fn on_job_replaced(&mut self, mark: Mark, actions: &mut Vec<Action>) {
        self.jobs_of(mark).into_iter().for_each(|id| self.remove_job(id, actions));
        self.heritage.job_replaced(mark);
    }

    // ---- The end of a job -----------------------------------------------------------------------------------------

    fn end_if_complete(&mut self, id: JobId, actions: &mut Vec<Action>) {
        if self.jobs.get(&id).is_some_and(|job| job.closed && job.units.open() == 0 && job.unheard == 0) {
            self.end_job(id, JobEnd::Complete, actions);
        }
    }

    fn end_job(&mut self, id: JobId, end: JobEnd, actions: &mut Vec<Action>) {
        self.remove_job(id, actions);
        actions.push(Action::EndJob { job: id, end });
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
        self.hungry.remove(&id);
        self.short.remove(&id);
        for duke in self.ledger.close_job(id) {
            self.look_at_link(duke);
            actions.push(Action::CloseLease { duke, job: id });
        }
        self.deal = true;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{Kingdom, done, joined, returned, started},
        *,
    };

    const JOB: JobId = JobId(1);
    const DUKE: DukeId = DukeId(2);
    const OTHER: DukeId = DukeId(3);

    /// A duke with both its slots at work for a job of two units.
    fn at_work() -> Kingdom {
        let kingdom = Kingdom::new().duke(DUKE, 2).job(JOB, JobSpec::default(), 2);
        assert_eq!(kingdom.started_on(DUKE), [(UnitNo(0), AttemptId(1)), (UnitNo(1), AttemptId(2))]);
        kingdom
    }

    #[test]
    fn a_draining_duke_is_asked_for_its_slots_and_gets_no_new_ones() {
        let mut kingdom = at_work();
        let released = Event::SlotsReleased { duke: DUKE, job: JOB, slots: 2 };
        let asked_back = Action::ReleaseSlots { duke: DUKE, job: JOB, slots: 2 };
        assert!(kingdom.tell([Event::DukeDraining { duke: DUKE }]).contains(&asked_back));
        // It finishes one unit, gives the other back, and its slots are free: it gets no new unit.
        let actions = kingdom.tell([done(DUKE, AttemptId(1)), returned(DUKE, AttemptId(2)), released]);
        let verdict = Verdict::Done(AttemptId(1));
        assert!(actions.contains(&Action::Report { job: JOB, unit: UnitNo(0), verdict, attempts: 1 }));
        assert_eq!(started(&actions), []);
        assert_eq!(kingdom.scheduler.census().slots_granted, 0);
        let actions = kingdom.tell([joined(OTHER, 2, None, Vec::new()), Event::DukeLost { duke: DUKE }]);
        assert_eq!(started(&actions), [(OTHER, UnitNo(1), AttemptId(3))]);
    }

    #[test]
    fn a_duke_that_drains_twice_or_is_not_known_changes_nothing() {
        let mut kingdom = at_work();
        kingdom.tell([Event::DukeDraining { duke: DUKE }]);
        let again = kingdom.tell([Event::DukeDraining { duke: DUKE }, Event::DukeDraining { duke: OTHER }]);
        assert_eq!(again, []);
    }
}
