//! The simulated king: the real scheduler, and what his reactor keeps beside it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use distwasm_king::scheduler::{self, Action, JobEnd, Outcome, Scheduler, Verdict};
use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{GRACE, WINDOW_BYTES, WINDOW_UNITS},
    time::Time,
};

use super::{
    weather::EVIDENCE_BYTES,
    world::{Due, DukeOrder, Joining, KingWord, QueenNews, RENUMBERED, Sender, World, queen_of},
};

/// The king.
#[derive(Debug, Default)]
pub(super) struct King {
    pub(super) scheduler: Scheduler,
    /// When the clock rings next.
    ticks_at: Option<Time>,
    jobs: BTreeMap<JobId, Job>,
    /// The jobs of queens' links.
    links: BTreeMap<Sender, JobId>,
    /// Who sits where: the last link of each machine, as far as he knows.
    seats: BTreeMap<DukeId, DukeId>,
    /// Verdicts on units of jobs whose queens have yet to come.
    unclaimed: BTreeMap<JobId, VecDeque<Said>>,
    /// Attempts that ended in this batch, and where.
    evidence: BTreeMap<AttemptId, DukeId>,
}

#[derive(Debug, Default)]
struct Job {
    link: u64,
    held: BTreeMap<UnitNo, u64>,
    /// How many units the queen had numbered when she last came back, and those of them that she is to send once more.
    numbered: u64,
    awaited: BTreeSet<UnitNo>,
    /// The link over which the queen said that there are no more units.
    closed_over: u64,
    said: VecDeque<Said>,
}

/// A verdict that the queen has not heard.
#[derive(Debug)]
struct Said {
    unit: UnitNo,
    done: bool,
    bytes: u64,
    by: Option<(DukeId, AttemptId)>,
}

impl King {
    fn begin(now: Time) -> King {
        // Later than any attempt of a king before him: none makes a thousand attempts in a microsecond.
        King { scheduler: Scheduler::new(now, GRACE, (now.0 + 1) << 10), ..King::default() }
    }

    /// With nothing more to happen every job has ended, and everything is free.
    pub(super) fn check_rest(&self) {
        let census = self.scheduler.census();
        assert_eq!((census.jobs, census.units_running), (0, 0), "every_job_ends");
        assert_eq!((census.slots_granted, census.results_bytes), (0, 0), "everything_is_free_at_the_end");
        assert!(self.jobs.is_empty() && self.unclaimed.is_empty(), "nothing_is_held_at_the_end");
    }
}

impl World {
    /// The king dies, and another takes his place, who knows nothing.
    pub(super) fn king_falls(&mut self) {
        if !self.faults_go_on() {
            return;
        }
        self.tally.kings_fallen += 1;
        self.king = King::begin(self.now);
        let dukes: Vec<DukeId> = self.dukes.keys().copied().collect();
        for duke in dukes {
            self.duke_is_alone(duke);
        }
        let queens: Vec<JobId> = self.queens.keys().copied().collect();
        for queen in queens {
            self.queen_is_alone(queen);
        }
        let in_us = self.dice.below(2 * self.weather.king_falls_us);
        self.later(in_us, Due::KingFalls);
    }

    pub(super) fn king_hears(&mut self, sender: Sender, word: KingWord) {
        if let (Sender::Duke(link), KingWord::Event(_)) = (sender, &word)
            && !self.is_known(link)
        {
            return;
        }
        let mut word = word;
        if let Sender::Queen(queen, link) = sender {
            if let KingWord::Event(scheduler::Event::JobOpened { job, .. }) = word
                && self.king.jobs.get(&job).is_none_or(|job| job.link < link)
            {
                return self.queen_joins(sender, word);
            }
            let Some(number) = self.king.links.get(&sender).copied() else { return };
            if queen_of(number) != queen || self.king.jobs.get(&number).is_some_and(|job| job.link > link) {
                // She has another link by now.
                return;
            }
            word.renumber(number);
        }
        let event = match word {
            KingWord::Event(event) => event,
            KingWord::Joins(joining) => return self.duke_joins(sender, *joining),
            KingWord::Unit { job, unit, bytes } => {
                self.check_window(job, bytes);
                let Some(of_job) = self.king.jobs.get_mut(&job) else { return };
                if unit.0 < of_job.numbered && !of_job.awaited.remove(&unit) {
                    // A duke that came back had it, and it has its verdict.
                    return;
                }
                let known = of_job.held.insert(unit, bytes);
                assert!(known.is_none(), "unit_arrives_once: {job}, {unit}");
                scheduler::Event::UnitAdded { job, unit, bytes }
            }
            KingWord::Heard(job) => {
                let Some(said) = self.king.jobs.get_mut(&job).and_then(|job| job.said.pop_front()) else { return };
                self.forget(said.by);
                scheduler::Event::VerdictsHeard { job, verdicts: 1, bytes: said.bytes }
            }
        };
        let mut events = vec![event];
        // Now and then several words are handled as one batch.
        while self.dice.permille(300) {
            let Some(event) = self.next_word_of_duke() else { break };
            events.push(event);
        }
        match events.first() {
            Some(scheduler::Event::QueenLost { job }) => {
                self.king.jobs.remove(job);
            }
            Some(scheduler::Event::JobClosed { job: id }) => {
                if let Some(job) = self.king.jobs.get_mut(id) {
                    assert!(job.closed_over < job.link, "job_is_closed_once_over_a_link: {id}");
                    job.closed_over = job.link;
                }
            }
            _ => {}
        }
        let (kept, given_up): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| self.is_expected(event));
        for event in given_up {
            if let scheduler::Event::AttemptEnded { duke, attempt, .. } = event {
                self.forget(Some((duke, attempt)));
            }
        }
        self.king_handles(kept);
    }

    /// A queen opens a job, or comes back to it.
    fn queen_joins(&mut self, sender: Sender, word: KingWord) {
        let (Sender::Queen(_, link), KingWord::Event(mut event)) = (sender, word) else { return };
        let scheduler::Event::JobOpened { job, key, resumes, .. } = &mut event else { return };
        // What was dropped is another job now.
        let is_dropped = !self.king.jobs.contains_key(job) && !self.king.scheduler.may_resume(*job, *key);
        if is_dropped && resumes.sent > 0 {
            job.0 += RENUMBERED;
        }
        self.king.links.insert(sender, *job);
        let lacking: BTreeSet<UnitNo> = resumes.lacking.iter().copied().collect();
        let heard = self.welcome(*job, link, resumes.sent, &lacking);
        // What she is being told has its verdict.
        let said = self.king.jobs.get(job).into_iter().flat_map(|job| &job.said);
        let said: BTreeSet<UnitNo> = said.map(|said| said.unit).collect();
        resumes.lacking.retain(|unit| !said.contains(unit));
        self.king_handles(std::iter::once(event).chain(heard).collect());
    }

    /// What was given up is never believed.
    fn is_expected(&mut self, event: &scheduler::Event) -> bool {
        let scheduler::Event::AttemptEnded { duke, attempt, outcome, .. } = event else { return true };
        let expected = self.king.scheduler.expects(*duke, *attempt);
        if expected && !matches!(outcome, Outcome::Returned { .. }) {
            self.king.evidence.insert(*attempt, *duke);
        }
        expected || matches!(outcome, Outcome::Returned { .. })
    }

    /// Tells a queen what need not be sent again, and the verdicts that she has not heard.
    fn welcome(&mut self, id: JobId, link: u64, numbered: u64, lacking: &BTreeSet<UnitNo>) -> Option<scheduler::Event> {
        let unclaimed = self.king.unclaimed.remove(&id).unwrap_or_default();
        let job = self.king.jobs.entry(id).or_insert_with(|| Job { said: unclaimed, ..Job::default() });
        job.link = link;
        let lacks = |said: &Said| lacking.contains(&said.unit);
        let (said, heard): (Vec<Said>, Vec<Said>) = job.said.drain(..).partition(lacks);
        job.said = said.into();
        let known: BTreeSet<UnitNo> = job.held.keys().copied().chain(job.said.iter().map(|said| said.unit)).collect();
        (job.numbered, job.awaited) = (numbered, lacking.difference(&known).copied().collect());
        let known = known.into_iter().collect();
        let news: Vec<QueenNews> = std::iter::once(QueenNews::Welcome { number: id, known })
            .chain(job.said.iter().map(|said| QueenNews::Verdict { unit: said.unit, done: said.done }))
            .collect();
        for news in news {
            self.tell_queen(id, link, news);
        }
        let (verdicts, bytes) = (heard.len() as u64, heard.iter().map(|said| said.bytes).sum());
        heard.into_iter().for_each(|said| self.forget(said.by));
        (verdicts > 0).then_some(scheduler::Event::VerdictsHeard { job: id, verdicts, bytes })
    }

    /// A word of a duke that arrives at this very moment.
    fn next_word_of_duke(&mut self) -> Option<scheduler::Event> {
        match self.take_due_now(|due| matches!(due, Due::ToKing(Sender::Duke(_), KingWord::Event(_))))? {
            Due::ToKing(Sender::Duke(link), KingWord::Event(event)) => {
                let arrives = !self.is_cut(Sender::Duke(link), true) && self.is_known(link);
                arrives.then_some(event)
            }
            _ => None,
        }
    }

    /// Whether this is the last link of its machine, as far as the king knows.
    fn is_known(&self, link: DukeId) -> bool {
        self.machines.get(&link).and_then(|machine| self.king.seats.get(machine)) == Some(&link)
    }

    fn duke_joins(&mut self, sender: Sender, joining: Joining) {
        let Sender::Duke(link) = sender else { panic!("only dukes offer machines: {sender:?}") };
        let Joining { machine, after, cpus, ram_bytes, zone, holds } = joining;
        if let Some(lost) = after.and_then(|after| self.king.seats.remove(&after)) {
            self.king_handles(vec![scheduler::Event::DukeLost { duke: lost }]);
        }
        if self.king.seats.get(&machine).is_some_and(|last| *last > link) {
            // A link that broke may bring its hello after the next one has.
            return;
        }
        let was = self.king.seats.insert(machine, link);
        let labels = [("zone".to_owned(), zone.to_string())].into_iter().collect();
        self.tally.attempts_kept += holds.iter().map(|lease| lease.attempts.len() as u64).sum::<u64>();
        self.king_handles(vec![scheduler::Event::DukeJoined { duke: link, cpus, ram_bytes, labels, was, holds }]);
    }

    /// The king sees that a link is broken, if there is no newer one.
    pub(super) fn king_misses(&mut self, sender: Sender) {
        match sender {
            Sender::Duke(link) => {
                if self.is_known(link) {
                    self.king_handles(vec![scheduler::Event::DukeAway { duke: link }]);
                }
            }
            Sender::Queen(_, link) => {
                let Some(job) = self.king.links.get(&sender).copied() else { return };
                if self.king.jobs.get(&job).is_some_and(|job| job.link == link) {
                    self.king_handles(vec![scheduler::Event::QueenAway { job }]);
                }
            }
        }
    }

    /// A queen keeps to her window.
    fn check_window(&self, id: JobId, bytes: u64) {
        let Some(job) = self.king.jobs.get(&id) else { return };
        let held_bytes: u64 = job.held.values().sum();
        let units = job.held.len() + job.said.len();
        assert!(units < WINDOW_UNITS as usize, "king_holds_no_more_units_than_the_window: {id}");
        let fits = held_bytes == 0 || held_bytes + bytes <= WINDOW_BYTES;
        assert!(fits, "king_holds_no_more_bytes_than_the_window: {id}");
    }

    pub(super) fn king_handles(&mut self, events: Vec<scheduler::Event>) {
        let mut actions = Vec::new();
        self.king.scheduler.handle(self.now, events, &mut actions);
        self.king.scheduler.check();
        for action in actions {
            self.king_acts(action);
        }
        // What led to no verdict is run again, or was given up: nobody needs what it left.
        for (attempt, duke) in std::mem::take(&mut self.king.evidence) {
            self.forget(Some((duke, attempt)));
        }
        if let Some(deadline) = self.king.scheduler.next_deadline()
            && self.king.ticks_at.is_none_or(|at| deadline < at)
        {
            self.king.ticks_at = Some(deadline);
            self.at(deadline, Due::KingTick);
        }
    }

    pub(super) fn king_ticks(&mut self) {
        // An earlier king's clock may ring, too.
        if self.king.ticks_at.is_some_and(|at| at <= self.now) {
            self.king.ticks_at = None;
            self.king_handles(vec![scheduler::Event::Tick]);
        }
    }

    fn forget(&mut self, by: Option<(DukeId, AttemptId)>) {
        if let Some((duke, attempt)) = by {
            self.send(Sender::Duke(duke), false, Due::ToDuke(duke, DukeOrder::Forget { attempt }));
        }
    }

    fn king_acts(&mut self, action: Action) {
        let (duke, order) = match action {
            Action::OpenLease { duke, job, slot_bytes } => (duke, DukeOrder::OpenLease { job, slot_bytes }),
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
                (duke, DukeOrder::Forget { attempt })
            }
            Action::FetchResult { duke, attempt } => (duke, DukeOrder::Fetch { attempt }),
            Action::Report { job, unit, verdict, .. } => return self.king_reports(job, unit, verdict),
            Action::TellStatus { .. } => return,
            Action::EndJob { job, end } => return self.king_ends_job(job, end),
            Action::ForgetDuke { duke } => {
                self.king.seats.retain(|_, link| *link != duke);
                return;
            }
            Action::ExpelDuke { duke, why } => panic!("honest_duke_is_not_expelled: {duke}: {why}"),
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
        let by = match verdict {
            Verdict::Done(attempt) | Verdict::Failed(attempt) => {
                let duke = self.king.evidence.remove(&attempt);
                assert!(duke.is_some(), "verdict_has_its_evidence: {id}, {unit}");
                duke.map(|duke| (duke, attempt))
            }
            Verdict::Broken => None,
        };
        let done = matches!(verdict, Verdict::Done(_));
        let bytes = if done { self.queen_of(id).result_bytes(unit) } else { EVIDENCE_BYTES };
        let said = Said { unit, done, bytes, by };
        let Some(job) = self.king.jobs.get_mut(&id) else {
            return self.king.unclaimed.entry(id).or_default().push_back(said);
        };
        job.held.remove(&unit);
        job.awaited.remove(&unit);
        job.said.push_back(said);
        let link = job.link;
        self.tell_queen(id, link, QueenNews::Verdict { unit, done });
    }

    fn king_ends_job(&mut self, id: JobId, end: JobEnd) {
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

    fn tell_queen(&mut self, id: JobId, link: u64, news: QueenNews) {
        let queen = queen_of(id);
        self.send(Sender::Queen(queen, link), false, Due::ToQueen(queen, link, news));
    }
}

impl KingWord {
    /// Has a queen's word be about the job of her link.
    fn renumber(&mut self, number: JobId) {
        use scheduler::Event;
        match self {
            KingWord::Unit { job, .. }
            | KingWord::Heard(job)
            | KingWord::Event(Event::UnitBroken { job, .. } | Event::JobClosed { job } | Event::QueenLost { job }) => {
                *job = number;
            }
            KingWord::Event(_) | KingWord::Joins(_) => {}
        }
    }
}
