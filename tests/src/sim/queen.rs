//! A simulated queen: the real reactor with the real border of its link, and threads that list, read and write in
//! simulated time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use distwasm_jobs::{
    inputs::{ReadOrder, Sent, numbers::Numbers},
    king_link::{Border, KingNews, LinkError, words},
    outputs::{Stored, Written},
    reactor::{Command, Happening, Reactor},
    request::{InPlaces, JobRequest, Scheduling},
    run_limits::RunLimits,
    submission::End,
};
use distwasm_king::{authority::Origin, scheduler::JobSpec};
use distwasm_proto::{
    guest::GuestSettings,
    ids::{AttemptId, JobId, UnitNo},
    time::Time,
    wire::{self, QueenNews, QueenWord, queen_word::Word},
};
use distwasm_transport::{payload::Payload, transfer::Outbox};

use super::{
    halts::Process,
    keys::key_of,
    oracle::Oracle,
    readers::Inbox,
    results::SimResult,
    weather::{QueenPlan, UnitPlan},
    wires::Parcel,
    world::{Due, QueenDue, Sender, World},
};

/// One queen.
#[derive(Debug)]
pub(super) struct Queen {
    plan: Arc<QueenPlan>,
    pub(super) reactor: Reactor<Oracle>,
    /// News that it has yet to read.
    pub(super) inbox: Inbox,
    /// Happenings that the reactor handles next.
    pub(super) happens: VecDeque<Happening>,
    /// How many inputs have been listed, whether more are about to be, and whether there are no more.
    pub(super) listed: usize,
    pub(super) lists: bool,
    pub(super) listing_ended: bool,
    /// Orders for the readers, what the readers have done that the reactor has not heard, and whether they are at work.
    pub(super) orders: VecDeque<ReadOrder>,
    pub(super) sent: VecDeque<Sent>,
    pub(super) reads: bool,
    pub(super) numbers: Numbers,
    /// How writing went, of outputs that are still being written, with their results.
    pub(super) unwritten: VecDeque<(Payload, Written)>,
    /// How much of streamed results is in files, by attempt, and whether the files are whole.
    pub(super) results: BTreeMap<AttemptId, SimResult>,
    /// How storing parts of them goes.
    pub(super) storing: BTreeMap<AttemptId, Stored>,
    /// The attempts of the transfers that the king has offered over the current link.
    pub(super) offered: BTreeMap<u64, AttemptId>,
    /// The input of each unit.
    pub(super) units: Vec<usize>,
    /// Units whose first attempt has failed, so that later attempts can be distinguished.
    pub(super) failed_once: BTreeSet<UnitNo>,
    /// Units that hung once.
    pub(super) hung_once: BTreeSet<UnitNo>,
    /// Attempts of its units, by all kings.
    pub(super) attempts: BTreeSet<AttemptId>,
    pub(super) link: QueenLink,
    pub(super) request: JobRequest,
    /// The king's number for its job.
    pub(super) number: JobId,
    /// How often lying dukes have said that its program is unfit.
    pub(super) slanders: u32,
    /// A king has said that it cancelled the job, and has not fallen since.
    pub(super) cancelled: bool,
    /// A king has said so at any time.
    pub(super) was_cancelled: bool,
    /// How often bad luck struck a unit.
    pub(super) struck: BTreeMap<UnitNo, u32>,
    /// It was stopped before its job was done.
    left: bool,
    pub(super) killed: bool,
    pub(super) gave_up: bool,
    /// If it lies: the number of the next unit, as far as the king has been told.
    pub(super) lied_to: u64,
}

/// A queen's link to the king.
#[derive(Debug, Default)]
pub(super) struct QueenLink {
    /// The number of the try to open one, from the first on.
    pub(super) number: u64,
    /// While the connection stands as far as the queen knows.
    pub(super) outbox: Option<Outbox<QueenWord>>,
    pub(super) border: Border,
    /// Until the king has welcomed the queen: the state of its job, if it comes back to one.
    pub(super) seeks: Option<Option<wire::Resumption>>,
}

impl Queen {
    fn new(job: JobId, plan: QueenPlan, now: Time, window_bytes: u64) -> Queen {
        let ends_at = plan.time_limit_us.map(|limit_us| Time(now.0 + limit_us));
        let limits = RunLimits { failures: plan.failures_max, ends_at };
        let plan = Arc::new(plan);
        Queen {
            reactor: Reactor::new(limits, InPlaces::of(&request(&plan, job)), Oracle::new(job, Arc::clone(&plan)))
                .with_window(window_bytes),
            inbox: Inbox::default(),
            happens: VecDeque::new(),
            listed: 0,
            lists: false,
            listing_ended: false,
            orders: VecDeque::new(),
            sent: VecDeque::new(),
            reads: false,
            numbers: Numbers::default(),
            unwritten: VecDeque::new(),
            results: BTreeMap::new(),
            storing: BTreeMap::new(),
            offered: BTreeMap::new(),
            units: Vec::new(),
            failed_once: BTreeSet::new(),
            hung_once: BTreeSet::new(),
            attempts: BTreeSet::new(),
            link: QueenLink::default(),
            request: request(&plan, job),
            number: job,
            slanders: 0,
            cancelled: false,
            was_cancelled: false,
            struck: BTreeMap::new(),
            left: false,
            killed: false,
            gave_up: false,
            lied_to: 0,
            plan,
        }
    }

    /// Its link, if the link stands as far as the queen knows and the queen still needs it.
    pub(super) fn standing_link(&self) -> Option<u64> {
        (self.link.outbox.is_some() && !self.is_over()).then_some(self.link.number)
    }

    /// Whether its run is over.
    pub(super) fn is_over(&self) -> bool {
        self.killed || self.reactor.end().is_some()
    }

    pub(super) fn spec(&self) -> JobSpec {
        let JobRequest { scheduling, .. } = &self.request;
        JobSpec {
            project: self.request.project.clone(),
            min_ram_bytes: self.request.min_ram_bytes,
            one_per_machine: self.request.one_per_machine,
            retries: self.request.retries,
            weight: scheduling.weight,
            priority: scheduling.priority,
            max_parallel: scheduling.max_parallel,
            requires: scheduling.requires.clone().into_iter().collect(),
            speculate: scheduling.speculate,
            payer: Origin::Here,
        }
    }

    /// How many of its inputs have ended.
    pub(super) fn ended(&self) -> usize {
        self.reactor.reporter().ended()
    }

    pub(super) fn plan(&self) -> &QueenPlan {
        &self.plan
    }

    pub(super) fn unit(&self, unit: UnitNo) -> UnitPlan {
        match self.units.get(unit.0 as usize) {
            Some(input) => self.plan.units[*input],
            // A liar may give a unit any number.
            None if self.plan.lies => self.plan.units[unit.0 as usize % self.plan.units.len()],
            None => panic!("unit_was_sent: {unit}"),
        }
    }

    pub(super) fn result_bytes(&self, unit: UnitNo) -> u64 {
        self.unit(unit).result_bytes
    }

    /// Checks that every job ends, and every unit has its verdict.
    pub(super) fn check_end(&self, job: JobId) {
        if self.killed || self.plan.lies {
            return;
        }
        assert!(self.unwritten.is_empty(), "every_output_is_written: {job}");
        let (counts, ends) = (self.reactor.counts(), self.reactor.reporter().counts());
        assert_eq!((counts.done, counts.failed), ends, "counts_are_of_inputs: {job}");
        if self.left {
            return;
        }
        // A job may be over before its program is known if none of its units arrives.
        let tried = self.plan.units.iter().any(|unit| self.plan.is_tried(unit));
        let expected = match self.reactor.end() {
            _ if self.cancelled => End::Cancelled,
            Some(End::Cancelled) if self.was_cancelled => End::Cancelled,
            Some(End::Unfit) if self.slanders > 1 || (self.plan.unfit && !tried) => End::Unfit,
            _ if self.plan.unfit && tried => End::Unfit,
            _ => End::Complete,
        };
        assert_eq!(self.reactor.end(), Some(expected), "every_job_ends: {job}");
        if expected == End::Complete {
            assert_eq!(self.ended(), self.plan.units.len(), "every_unit_has_its_verdict: {job}");
        }
    }
}

/// The job of a queen with this plan.
fn request(plan: &QueenPlan, queen: JobId) -> JobRequest {
    JobRequest {
        min_ram_bytes: plan.min_ram_bytes,
        one_per_machine: plan.one_per_machine,
        scheduling: Scheduling {
            weight: plan.weight,
            priority: plan.priority,
            max_parallel: plan.max_parallel,
            requires: plan.zone.map(|zone| ("zone".to_owned(), zone.to_string())).into_iter().collect(),
            speculate: plan.speculate,
        },
        guest: GuestSettings { deterministic: plan.deterministic, places: plan.places(), ..Default::default() },
        timeout: plan.timeout_us.map(Duration::from_micros),
        retries: plan.retries,
        replaces: plan.replaces.iter().map(|queen| key_of(*queen)).collect(),
        streamed_from_bytes: plan.streamed_from,
        ..JobRequest::new(&plan.project, Bytes::from_static(plan.program()).into(), key_of(queen))
    }
}

impl World {
    pub(super) fn queen_comes(&mut self, number: usize) {
        let job = JobId(self.next_link());
        let plan = self.plans[number].clone();
        let lies = plan.lies;
        let queen = Queen::new(job, plan, self.now, self.weather.window_bytes);
        if let Some(deadline) = queen.reactor.next_deadline() {
            self.at(deadline, Due::Queen(job, QueenDue::Deadline));
        }
        self.queens.insert(job, queen);
        if lies {
            self.queen_begins_to_lie(job);
        }
        self.queen_lists(job);
    }

    pub(super) fn queen_due(&mut self, job: JobId, due: QueenDue) {
        if self.queens.get(&job).is_none_or(|queen| queen.killed) {
            return;
        }
        match due {
            QueenDue::CutOff => self.queen_cut_off(job),
            QueenDue::Returns => self.queen_says_hello(job),
            QueenDue::GivesUp => self.queen_gives_up(job),
            QueenDue::Leaves => self.queen_leaves(job),
            QueenDue::Dies => self.queen_dies(job),
            QueenDue::Lies => self.queen_lies(job),
            QueenDue::Hears => self.queen_reads(job),
            QueenDue::Deadline => self.queen_happens(job, Happening::DeadlineReached),
            QueenDue::Lists => self.queen_lists(job),
            QueenDue::ReadersWork => self.readers_work(job),
            QueenDue::ReadersStop => self.queen_happens(job, Happening::ReadersStopped),
            QueenDue::Writes => self.writers_work(job),
            QueenDue::Stores(attempt) => self.writers_store(job, attempt),
        }
    }

    pub(super) fn queen_leaves(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| !queen.is_over()) else { return };
        queen.left = true;
        self.tally.queens_left += 1;
        self.queen_happens(job, Happening::Interrupted);
    }

    /// It is killed, and started again at once or later: what has no output is tried again.
    fn queen_dies(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| !queen.is_over() && !queen.plan.lies) else {
            return;
        };
        queen.killed = true;
        self.tally.queens_killed += 1;
        let oracle = queen.reactor.reporter();
        let is_unwritten = |place: &usize| {
            let writing = queen.unwritten.iter().map(|(_, written)| super::oracle::place_of(&written.path));
            !oracle.is_done(*place) || writing.into_iter().any(|it| it == *place)
        };
        let units = (0..queen.plan.units.len()).filter(is_unwritten).map(|place| queen.plan.units[place]).collect();
        let replaces = queen.plan.replaces.iter().copied().chain([job]).collect();
        self.plans.push(QueenPlan { units, replaces, ..QueenPlan::clone(&queen.plan) });
        let back_in = self.dice.below(5_000_000);
        self.later(back_in, Due::QueenComes(self.plans.len() - 1));
        self.halted.remove(&Process::Queen(job));
        self.drop_queens_link(job);
    }

    /// Hears news. Returns whether there was a verdict.
    pub(super) fn queen_hears(&mut self, job: JobId, link: u64, Parcel(news): Parcel<QueenNews>) -> bool {
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| queen.standing_link() == Some(link)) else {
            return false;
        };
        if queen.link.border.is_over() {
            return false;
        }
        if news.is_empty() {
            self.queen_loses_link(job, LinkError::Silent);
            return false;
        }
        let mut news = match queen.link.border.take(wire::ToQueen { news }) {
            Ok(news) => news,
            Err(error) => {
                assert!(matches!(error, LinkError::Ended { .. }), "news_of_a_king_fits_together: {job}: {error}");
                self.queen_loses_link(job, error);
                return false;
            }
        };
        if queen.plan.lies {
            // It has not waited for units that it never sent, or sent twice.
            while let Some(sent) = queen.sent.pop_front() {
                queen.happens.push_back(Happening::Sent(sent));
            }
            self.queen_goes_on(job);
            let Some(queen) = self.queens.get(&job).filter(|queen| !queen.is_over()) else { return false };
            let submission = queen.reactor.submission();
            news.retain(|news| match news {
                KingNews::Verdict(verdict) => submission.expects(verdict.unit),
                // It sends no byte of what it has announced.
                KingNews::PartWanted(_) => false,
                KingNews::OutputOffered(offered) => submission.expects(offered.unit),
                _ => true,
            });
        }
        let verdicts = news.iter().filter(|news| matches!(news, KingNews::Verdict(_))).count();
        self.watch_queens_news(job, &news);
        if let Some(KingNews::Welcome(_)) = news.first() {
            let Some(queen) = self.queens.get_mut(&job) else { return false };
            queen.link.seeks = None;
            let rest = news.split_off(1);
            self.queen_happens(job, Happening::News(news));
            news = rest;
        }
        if !news.is_empty() {
            self.queen_happens(job, Happening::News(news));
        }
        (0..verdicts).for_each(|_| self.strike_queen(job));
        verdicts > 0
    }

    /// Something may happen to a queen that has got a verdict.
    fn strike_queen(&mut self, job: JobId) {
        if !self.faults_go_on() {
            return;
        }
        let weather = &self.weather;
        let (leaves, dies, halts) = (weather.queen_leaves, weather.queen_dies, weather.queen_halts);
        let chances =
            [(leaves, QueenDue::Leaves), (dies, QueenDue::Dies), (weather.queen_is_cut_off, QueenDue::CutOff)];
        for (chance, due) in chances {
            if self.dice.permille(chance) {
                let in_us = self.dice.below(10_000);
                self.later(in_us, Due::Queen(job, due));
            }
        }
        self.strike_job(job, self.weather.job_cancelled);
        if self.dice.permille(halts) {
            let (in_us, for_us) = (self.dice.below(10_000), self.halt_us());
            self.later(in_us, Due::Halts(Process::Queen(job), for_us));
        }
    }

    /// Lets the reactor handle something.
    pub(super) fn queen_happens(&mut self, job: JobId, happening: Happening) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        queen.happens.push_back(happening);
        self.queen_goes_on(job);
    }

    /// Lets the reactor handle everything that has happened, and performs its commands.
    pub(super) fn queen_goes_on(&mut self, job: JobId) {
        let now = self.now;
        while let Some(queen) = self.queens.get_mut(&job)
            && let Some(happening) = queen.happens.pop_front()
        {
            // What was sent must be known before the answers to it, and before the king is told what is lacking.
            let depends = matches!(happening, Happening::News(_) | Happening::LinkLost(_) | Happening::ReadersStopped);
            let sent = if depends { std::mem::take(&mut queen.sent) } else { VecDeque::new() };
            let happenings = sent.into_iter().map(Happening::Sent).chain([happening]);
            let commands = queen.reactor.handle(now, happenings);
            queen.reactor.check();
            commands.into_iter().for_each(|command| self.perform_for_queen(job, command));
        }
        self.queen_lists_later(job);
    }

    fn perform_for_queen(&mut self, job: JobId, command: Command) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        match command {
            Command::Seek(resumes) => {
                let comes_back = resumes.is_some();
                queen.link.seeks = Some(resumes);
                if comes_back { self.queen_returns_later(job) } else { self.queen_says_hello(job) }
            }
            Command::DropLink => self.drop_queens_link(job),
            Command::StopReaders => {
                queen.numbers.close();
                let in_us = self.disk_us(job);
                self.later(in_us, Due::Queen(job, QueenDue::ReadersStop));
            }
            Command::OpenReaders(link, _) => {
                queen.numbers.open(link);
                self.readers_work_later(job);
            }
            Command::Read(orders) => {
                queen.orders.extend(orders);
                self.readers_work_later(job);
            }
            Command::Write(outputs) => self.queen_writes(job, outputs),
            Command::Say(word) => {
                let slowly = self.dice.pick(&[10, 1_000, 300_000]);
                let in_us = self.dice.below(slowly);
                self.queen_says(in_us, job, word);
            }
            Command::NoteJob(number) => queen.number = JobId(number),
            Command::Leave => self.queen_ends(job),
        }
    }

    fn queen_ends(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let stopped = match queen.reactor.end() {
            Some(End::TooManyFailed { failed, finished }) => {
                let limit = queen.plan.failures_max;
                let is_exceeded = limit.is_some_and(|limit| limit.is_exceeded(failed, finished));
                assert!(is_exceeded, "run_is_stopped_for_cause: {job}");
                true
            }
            Some(End::OutOfTime) => true,
            Some(End::NoOutputs) => self.weather.outputs_fail > 0,
            Some(End::KingLost) => queen.gave_up,
            _ => false,
        };
        queen.left |= stopped;
        self.tally.queens_stopped += u64::from(stopped);
        queen.numbers.end();
        queen.orders.clear();
        // A queen that has not been welcomed again does not say that it leaves.
        if matches!(queen.link.seeks, Some(Some(_))) {
            self.drop_queens_link(job);
        } else {
            self.queen_says(0, job, words::leaving());
        }
    }

    /// Says something over its link. Without a link it is lost.
    pub(super) fn queen_says(&mut self, in_us: u64, job: JobId, word: Word) {
        let Some(QueenLink { number, outbox: Some(outbox), .. }) = self.queens.get(&job).map(|queen| &queen.link)
        else {
            return;
        };
        outbox.push(word);
        self.carry_to_king(in_us, Sender::Queen(job, *number));
    }

    /// Opens a link, if it seeks one: opens its job, or comes back to it.
    pub(super) fn queen_says_hello(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| !queen.is_over()) else { return };
        let (Some(resumes), None) = (&queen.link.seeks, &queen.link.outbox) else { return };
        queen.link.number += 1;
        let sender = Sender::Queen(job, queen.link.number);
        let resumes = resumes.clone().map(|resumes| wire::Resumption { link: queen.link.number, ..resumes });
        let mut words = words::hello(&queen.request, resumes);
        if queen.plan.lies
            && let Some((Word::OpenJob(opening), _)) = words.first_mut()
        {
            self.claim_falsely(job, opening);
        }
        let outbox = self.wire_queen(sender);
        words.into_iter().for_each(|(word, payload)| outbox.push_with(word, payload));
        let Some(queen) = self.queens.get_mut(&job) else { return };
        (queen.link.outbox, queen.link.border) = (Some(outbox), Border::default());
        self.carry_to_king(0, sender);
    }
}
