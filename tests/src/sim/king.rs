//! The simulated king: the real scheduler, and the state that the king's reactor keeps beside it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use distwasm_king::scheduler::{self, Action, JobEnd, Scheduler, Verdict};
use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{GRACE, REACTOR_BATCH, RESULT_UNASKED_BYTES_MAX, RESULTS_BYTES},
    time::Time,
};

use super::{
    border::Borders,
    halts::Process,
    weather::EVIDENCE_BYTES,
    world::{Due, DukeOrder, KingWord, QueenNews, Sender, World, queen_of},
};

/// The king.
#[derive(Debug, Default)]
pub(super) struct King {
    pub(super) scheduler: Scheduler,
    /// When the next tick is due.
    ticks_at: Option<Time>,
    /// Checks words before the king handles them.
    pub(super) borders: Borders,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// The jobs of queens' links.
    pub(super) links: BTreeMap<Sender, JobId>,
    /// The last link of each machine, as far as the king knows.
    pub(super) seats: BTreeMap<DukeId, DukeId>,
    /// Which dukes have a part in which jobs, as the king gave it or as the dukes claimed.
    pub(super) leases: BTreeSet<(DukeId, JobId)>,
    /// Jobs that are over.
    pub(super) ended: BTreeSet<JobId>,
    /// Verdicts on units of jobs whose queens have yet to come.
    pub(super) unclaimed: BTreeMap<JobId, VecDeque<Said>>,
    /// Events of the next batch.
    pub(super) events: Vec<scheduler::Event>,
    /// Results and failures of attempts that ended in this batch.
    pub(super) evidence: BTreeMap<AttemptId, Evidence>,
    /// When results were fetched.
    pub(super) fetched: BTreeMap<AttemptId, Time>,
    /// Attempts whose dukes may forget them.
    pub(super) settled: Vec<(DukeId, AttemptId)>,
}

/// A job that a queen has opened.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: u64,
    pub(super) link: u64,
    pub(super) held: BTreeMap<UnitNo, u64>,
    /// Units whose inputs did not come whole, until their verdicts are told.
    pub(super) broken: BTreeSet<UnitNo>,
    /// How many units the queen had numbered when it last came back, and (`awaited`) those that it is to send again.
    pub(super) numbered: u64,
    pub(super) awaited: BTreeSet<UnitNo>,
    pub(super) said: VecDeque<Said>,
}

/// The result or failure of an attempt: at which duke, and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    pub(super) duke: DukeId,
    pub(super) bytes: u64,
    /// It was in transit for too long.
    pub(super) late: bool,
}

/// A verdict that the queen has not heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) unit: UnitNo,
    pub(super) done: bool,
    pub(super) bytes: u64,
    pub(super) late: bool,
    pub(super) by: Option<(DukeId, AttemptId)>,
}

impl King {
    fn begin(now: Time, began: u64) -> King {
        King { scheduler: Scheduler::new(now, GRACE, began), ..King::default() }
    }

    /// Checks that no job that is over comes back, though a duke may still name it.
    fn check_ended(&self) {
        let comes_again = self.ended.iter().find(|job| self.scheduler.has_job(**job));
        assert!(comes_again.is_none(), "job_that_ended_is_over: {comes_again:?}");
    }

    /// Checks that, with nothing left to happen, every job has ended and every slot is free.
    pub(super) fn check_rest(&self) {
        let census = self.scheduler.census();
        assert_eq!((census.jobs, census.units_running), (0, 0), "every_job_ends");
        assert_eq!((census.slots_granted, census.results_bytes), (0, 0), "everything_is_free_at_the_end");
        assert!(self.jobs.is_empty() && self.unclaimed.is_empty(), "nothing_is_held_at_the_end");
    }
}

impl Job {
    /// Checks that large results are held within their bound, except a single larger one. Overdue results have room of
    /// their own.
    fn check_results(&self, id: JobId) {
        let in_time = || self.said.iter().filter(|said| !said.late).map(|said| said.bytes);
        let large = || in_time().filter(|bytes| *bytes > RESULT_UNASKED_BYTES_MAX);
        let is_within = large().sum::<u64>() <= RESULTS_BYTES || large().count() == 1;
        assert!(is_within, "results_are_held_within_the_bound: {id}");
    }
}

impl World {
    /// The king dies, and another takes its place, which knows nothing.
    pub(super) fn king_falls(&mut self) {
        if !self.faults_go_on() {
            return;
        }
        self.tally.kings_fallen += 1;
        let began = self.last_number();
        self.king = King::begin(self.now, began);
        self.halted.remove(&Process::King);
        let dukes: Vec<DukeId> = self.dukes.keys().copied().collect();
        for duke in dukes {
            self.duke_loses_king(duke);
        }
        let queens: Vec<JobId> = self.queens.keys().copied().collect();
        for queen in queens {
            self.queen_loses_king(queen);
        }
        // The next king has none of the old king's links.
        self.lose_what_was_cut_off();
        let in_us = self.dice.below(2 * self.weather.king_falls_us);
        self.later(in_us, Due::KingFalls);
    }

    /// The king hears a word, and perhaps others that arrive at this very moment, as one batch.
    pub(super) fn king_hears(&mut self, sender: Sender, word: KingWord) {
        self.king_takes(sender, word);
        let mut inputs = 1;
        while inputs < REACTOR_BATCH && self.dice.permille(self.weather.king_is_busy) {
            match self.take_due_now(|due| matches!(due, Due::ToKing(..) | Due::KingMisses(_))) {
                Some(Due::ToKing(sender, word)) if !self.is_cut(sender, true) => self.king_takes(sender, word),
                Some(Due::KingMisses(sender)) => self.king_misses(sender),
                Some(_) => {}
                None => break,
            }
            inputs += 1;
        }
        self.tally.words_batched += inputs as u64 - 1;
        self.king_settles();
    }

    /// Lets the scheduler handle events, and performs its actions, until no events are left.
    pub(super) fn king_settles(&mut self) {
        while !self.king.events.is_empty() {
            let events = std::mem::take(&mut self.king.events);
            let mut actions = Vec::new();
            self.king.scheduler.handle(self.now, events, &mut actions);
            self.king.scheduler.check();
            self.king.check_ended();
            for action in actions {
                self.king_acts(action);
            }
        }
        // An attempt without a verdict runs again or was given up, so its result is not needed.
        let evidence = std::mem::take(&mut self.king.evidence).into_iter();
        self.king.settled.extend(evidence.map(|(attempt, Evidence { duke, .. })| (duke, attempt)));
        for (duke, attempt) in std::mem::take(&mut self.king.settled) {
            self.send(Sender::Duke(duke), false, Due::ToDuke(duke, DukeOrder::Forget { attempt }));
        }
        if let Some(deadline) = self.king.scheduler.next_deadline()
            && self.king.ticks_at.is_none_or(|at| deadline < at)
        {
            self.king.ticks_at = Some(deadline);
            self.at(deadline, Due::KingTick);
        }
    }

    pub(super) fn king_ticks(&mut self) {
        // The tick may be an earlier king's.
        if self.king.ticks_at.is_some_and(|at| at <= self.now) {
            self.king.ticks_at = None;
            self.king.events.push(scheduler::Event::Tick);
            self.king_settles();
        }
    }

    fn king_acts(&mut self, action: Action) {
        let (duke, order) = match action {
            Action::OpenLease { duke, job, slot_bytes } => {
                self.king.leases.insert((duke, job));
                (duke, DukeOrder::OpenLease { job, slot_bytes })
            }
            Action::CloseLease { duke, job } => (duke, DukeOrder::CloseLease { job }),
            Action::GrantSlots { duke, job, slots } => (duke, DukeOrder::Grant { job, slots }),
            Action::ReleaseSlots { duke, job, slots } => {
                self.tally.slots_asked_back += u64::from(slots);
                (duke, DukeOrder::AskBack { job, slots })
            }
            Action::StartAttempt { duke, job, unit, attempt, number, alone } => {
                self.check_start(job, unit, attempt, number);
                (duke, DukeOrder::Start { job, unit, attempt, number, alone })
            }
            Action::ForgetAttempt { duke, attempt } => {
                self.tally.attempts_forgotten += 1;
                return self.king.settled.push((duke, attempt));
            }
            Action::FetchResult { duke, attempt } => {
                self.king.fetched.insert(attempt, self.now);
                (duke, DukeOrder::Fetch { attempt })
            }
            Action::Report { job, unit, verdict, .. } => return self.king_reports(job, unit, verdict),
            Action::TellStatus { .. } => return,
            Action::EndJob { job, end } => return self.king_ends_job(job, end),
            Action::ForgetDuke { duke } => {
                self.king.seats.retain(|_, link| *link != duke);
                return;
            }
            Action::ExpelDuke { duke, why } => return self.expel_duke(duke, why),
        };
        self.send(Sender::Duke(duke), false, Due::ToDuke(duke, order));
    }

    fn check_start(&mut self, job: JobId, unit: UnitNo, attempt: AttemptId, number: u32) {
        let is_held = self.king.jobs.get(&job).is_some_and(|job| job.held.contains_key(&unit));
        assert!(is_held, "input_is_held_until_the_verdict: {job}, {unit}");
        let Some(queen) = self.queens.get_mut(&queen_of(job)) else { panic!("jobs_are_of_queens: {job}") };
        assert!(number > 0, "attempts_are_numbered_from_1: {job}, {unit}");
        assert!(queen.attempts.insert(attempt), "attempt_has_a_number_of_its_own: {attempt}");
    }

    fn king_reports(&mut self, id: JobId, unit: UnitNo, verdict: Verdict) {
        let (by, bytes, late) = match verdict {
            Verdict::Done(attempt) | Verdict::Failed(attempt) => {
                let evidence = self.king.evidence.remove(&attempt);
                let Some(Evidence { duke, bytes, late }) = evidence else {
                    panic!("verdict_has_its_evidence: {id}, {unit}");
                };
                (Some((duke, attempt)), bytes, late)
            }
            Verdict::Broken => (None, EVIDENCE_BYTES, false),
        };
        let done = matches!(verdict, Verdict::Done(_));
        let said = Said { unit, done, bytes, late, by };
        let Some(job) = self.king.jobs.get_mut(&id) else {
            // The job is known only from dukes, or its queen left in this very batch.
            if self.king.scheduler.has_job(id) {
                self.king.unclaimed.entry(id).or_default().push_back(said);
            } else {
                self.king.settled.extend(by);
            }
            return;
        };
        job.held.remove(&unit);
        job.awaited.remove(&unit);
        job.broken.remove(&unit);
        job.said.push_back(said);
        job.check_results(id);
        let link = job.link;
        self.tell_queen(id, link, QueenNews::Verdict { unit, done });
    }

    fn king_ends_job(&mut self, id: JobId, end: JobEnd) {
        self.king.ended.insert(id);
        self.king.unclaimed.remove(&id);
        let job = self.king.jobs.remove(&id);
        let news = match end {
            JobEnd::Complete => QueenNews::Ended,
            JobEnd::Unfit => QueenNews::Failed,
            JobEnd::Abandoned => {
                self.tally.jobs_abandoned += 1;
                return;
            }
        };
        let Some(Job { link, .. }) = job else { return };
        self.tell_queen(id, link, news);
    }

    pub(super) fn tell_queen(&mut self, id: JobId, link: u64, news: QueenNews) {
        let queen = queen_of(id);
        self.send(Sender::Queen(queen, link), false, Due::ToQueen(queen, link, news));
    }
}
