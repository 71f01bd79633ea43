//! A simulated queen: the real submission, and an oracle that knows how each of its units must end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use distwasm_jobs::run_limits::RunLimits;
use distwasm_jobs::submission::{Action, End, Event, Submission};
use distwasm_king::scheduler::JobSpec;
use distwasm_proto::{
    PROTOCOL, VERSION,
    digest::Digest,
    ids::{AttemptId, JobId, UnitNo},
    time::Time,
    wire::{self, QueenNews, QueenWord, queen_news::News, queen_word::Word},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Assembler, Outbox},
};

use super::{
    halts::Process,
    readers::Inbox,
    weather::{EVIDENCE_BYTES, Nature, QueenPlan, UnitPlan},
    wires::{Parcel, Said, payload},
    world::{Due, Sender, World},
};

/// One queen.
#[derive(Debug)]
pub(super) struct Queen {
    plan: QueenPlan,
    pub(super) submission: Submission,
    /// News that it has yet to read.
    pub(super) inbox: Inbox,
    /// Inputs that were listed but not read.
    backlog: VecDeque<usize>,
    /// The input of each unit.
    pub(super) units: Vec<usize>,
    verdicts: BTreeMap<UnitNo, bool>,
    /// Units whose first attempt has failed, so that later attempts can be distinguished.
    pub(super) failed_once: BTreeSet<UnitNo>,
    /// Units that hung once.
    pub(super) hung_once: BTreeSet<UnitNo>,
    /// Inputs that could not be read.
    unreadable: usize,
    /// Attempts of its units, by all kings.
    pub(super) attempts: BTreeSet<AttemptId>,
    /// The number of its link, from the first on, and whether the link stands as far as the queen knows.
    pub(super) link: u64,
    pub(super) linked: bool,
    outbox: Option<Outbox<QueenWord>>,
    assembler: Assembler<QueenNews>,
    welcomed: bool,
    /// The king's number for its job.
    pub(super) number: JobId,
    /// A lying duke has said that its program is unfit.
    pub(super) slandered: bool,
    /// The number of dukes, as far as it knows.
    dukes: u32,
    /// How often bad luck struck a unit.
    pub(super) struck: BTreeMap<UnitNo, u32>,
    end: Option<End>,
    left: bool,
    /// If it lies: the number of the next unit, as far as the king has been told.
    pub(super) lied_to: u64,
}

impl Queen {
    fn new(job: JobId, plan: QueenPlan, now: Time) -> Queen {
        let backlog = (0..plan.units.len()).collect();
        let ends_at = plan.time_limit_us.map(|limit_us| Time(now.0 + limit_us));
        let limits = RunLimits { failures: plan.failures_max, ends_at };
        Queen {
            plan,
            submission: Submission::new(limits),
            inbox: Inbox::default(),
            backlog,
            units: Vec::new(),
            verdicts: BTreeMap::new(),
            failed_once: BTreeSet::new(),
            hung_once: BTreeSet::new(),
            unreadable: 0,
            attempts: BTreeSet::new(),
            link: 1,
            linked: true,
            outbox: None,
            assembler: Assembler::new(u64::MAX),
            welcomed: false,
            number: job,
            slandered: false,
            dukes: 2,
            struck: BTreeMap::new(),
            end: None,
            left: false,
            lied_to: 0,
        }
    }

    /// Its link, if the link stands as far as the queen knows and the queen still needs it.
    pub(super) fn standing_link(&self) -> Option<u64> {
        (self.linked && !self.is_over() && !self.plan.units.is_empty()).then_some(self.link)
    }

    /// Whether its run is over.
    pub(super) fn is_over(&self) -> bool {
        self.left || self.end.is_some()
    }

    /// The state of its job. A queen that was never welcomed opens a new job.
    fn resumption(&self) -> Option<wire::Resumption> {
        let (sent, lacking) = self.submission.lacking();
        let lacking = lacking.into_iter().map(|unit| unit.0).collect();
        let (job, dukes, link) = (self.number.0, self.dukes, self.link);
        self.welcomed.then_some(wire::Resumption { job, sent, lacking, dukes, link })
    }

    /// Its first word on a link.
    fn opening(&self, key: JobId) -> wire::OpenJob {
        let spec = self.spec();
        wire::OpenJob {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            project: spec.project,
            program_digest: Digest::of([self.plan.program()]).to_wire(),
            program: None,
            min_ram_bytes: spec.min_ram_bytes,
            one_per_machine: spec.one_per_machine,
            timeout_ms: self.plan.timeout_us.map_or(0, |timeout_us| timeout_us / 1000),
            retries: spec.retries,
            guest: Some(wire::GuestSettings::default()),
            weight: spec.weight,
            priority: spec.priority,
            max_parallel: spec.max_parallel.unwrap_or(0),
            requires: spec.requires.into_iter().collect(),
            speculate: spec.speculate,
            key: key.0,
            resumes: self.resumption(),
            replaces: None,
        }
    }

    pub(super) fn spec(&self) -> JobSpec {
        let plan = &self.plan;
        JobSpec {
            project: plan.project.clone(),
            min_ram_bytes: plan.min_ram_bytes,
            one_per_machine: plan.one_per_machine,
            retries: plan.retries,
            weight: plan.weight,
            priority: plan.priority,
            max_parallel: plan.max_parallel,
            requires: plan.zone.map(|zone| ("zone".to_owned(), zone.to_string())).into_iter().collect(),
            speculate: plan.speculate,
        }
    }

    pub(super) fn verdicts(&self) -> usize {
        self.verdicts.len()
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

    /// Checks that the unit gets the verdict that it deserves.
    fn check_verdict(&self, job: JobId, unit: UnitNo, done: bool) {
        let deserves = match self.unit(unit).nature {
            Nature::Ordinary => true,
            Nature::Fails | Nature::Kills | Nature::Hangs | Nature::Broken => false,
            // If a duke or a peasant was lost with the first failure, the unit may have had a second first attempt.
            Nature::FailsOnce | Nature::HangsOnce => done || self.plan.retries > 0,
        };
        assert_eq!(done, deserves, "unit_gets_the_verdict_it_deserves: {job}, {unit}: {:?}", self.unit(unit));
    }

    /// Checks that every job ends, and every unit has its verdict.
    pub(super) fn check_end(&self, job: JobId) {
        if self.left || self.plan.lies {
            return;
        }
        // A job may be over before its program is known if none of its units arrives.
        let tried = self.plan.units.iter().any(|unit| unit.nature != Nature::Broken);
        let expected = match self.end {
            Some(End::Unfit) if self.slandered || (self.plan.unfit && !tried) => End::Unfit,
            _ if self.plan.unfit && tried => End::Unfit,
            _ => End::Complete,
        };
        assert_eq!(self.end, Some(expected), "every_job_ends: {job}");
        if expected == End::Complete {
            assert_eq!(
                self.verdicts.len() + self.unreadable,
                self.plan.units.len(),
                "every_unit_has_its_verdict: {job}"
            );
        }
    }
}

impl World {
    pub(super) fn queen_comes(&mut self, number: usize) {
        let job = JobId(self.next_link());
        let plan = self.plans[number].clone();
        let mut events: Vec<Event> =
            plan.units.iter().map(|unit| Event::InputListed { bytes: unit.input_bytes }).collect();
        events.push(Event::ListingEnded);
        let has_units = !plan.units.is_empty();
        let queen = Queen::new(job, plan, self.now);
        if let Some(deadline) = queen.submission.next_deadline() {
            self.at(deadline, Due::QueenTick(job));
        }
        let lies = queen.plan.lies;
        self.queens.insert(job, queen);
        if has_units {
            self.open_job(job);
        }
        if lies {
            self.queen_begins_to_lie(job);
        }
        self.queen_handles(job, events);
    }

    /// Opens its job, or resumes it.
    pub(super) fn open_job(&mut self, job: JobId) {
        let Some(queen) = self.queens.get(&job) else { return };
        let (mut opening, lies) = (queen.opening(job), queen.plan.lies);
        let program = Bytes::from_static(queen.plan.program());
        let sender = Sender::Queen(job, queen.link);
        if lies {
            self.claim_falsely(job, &mut opening);
        }
        let outbox = self.wire_queen(sender);
        let Some(queen) = self.queens.get_mut(&job) else { return };
        (queen.outbox, queen.assembler) = (Some(outbox), Assembler::new(u64::MAX));
        self.tell_king_with(job, Word::OpenJob(Box::new(opening)), program.into());
    }

    pub(super) fn queen_leaves(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        if queen.left || queen.end.is_some() {
            return;
        }
        self.tally.queens_left += 1;
        self.queen_handles(job, vec![Event::Interrupted]);
    }

    /// Hears news. Returns whether there was a verdict.
    pub(super) fn queen_hears(&mut self, job: JobId, link: u64, Parcel(news): Parcel<QueenNews>) -> bool {
        let mut has_verdict = false;
        let is_over = news.is_empty();
        for news in news {
            let Some(queen) = self.queens.get_mut(&job) else { return false };
            if queen.left || !queen.linked || queen.link != link {
                return has_verdict;
            }
            match queen.assembler.accept(news) {
                Ok(Some((QueenNews { news: Some(news) }, Ok(result)))) => {
                    has_verdict |= matches!(news, News::Verdict(_));
                    self.queen_obeys(job, link, news, &result);
                }
                Ok(None) => {}
                other => panic!("news_of_a_king_fit_together: {other:?}"),
            }
        }
        if is_over && self.queens.get(&job).is_some_and(|queen| queen.link == link) {
            self.queen_is_alone(job);
        }
        has_verdict
    }

    fn queen_obeys(&mut self, job: JobId, link: u64, news: News, result: &Payload) {
        let leaves = self.faults_go_on() && self.dice.permille(self.weather.queen_leaves);
        let is_cut_off = self.faults_go_on() && self.dice.permille(self.weather.queen_is_cut_off);
        let is_halted = self.faults_go_on() && self.dice.permille(self.weather.queen_halts);
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let event = match news {
            News::Welcome(wire::QueenWelcome { job: number, window_units, window_bytes, known, .. }) => {
                queen.number = JobId(number);
                let mut events = vec![Event::Welcomed { window_units, window_bytes }];
                if std::mem::replace(&mut queen.welcomed, true) {
                    events.push(Event::CameBack { known: known.into_iter().map(UnitNo).collect() });
                }
                return self.queen_handles(job, events);
            }
            News::Verdict(wire::Verdict { unit, done, failure, .. }) => {
                let unit = UnitNo(unit);
                if queen.plan.lies && !queen.submission.expects(unit) {
                    // A liar does not wait for units that it never sent, or sent twice.
                    return;
                }
                assert!(queen.submission.expects(unit), "verdict_is_on_an_open_unit: {job}, {unit}");
                if !queen.plan.lies {
                    queen.check_verdict(job, unit, done);
                    let expected = if done { queen.result_bytes(unit) } else { 0 };
                    assert_eq!(result.bytes(), expected, "verdict_comes_with_its_result: {job}, {unit}");
                    assert_eq!(failure.is_none(), done, "a_failure_has_its_reason: {job}, {unit}");
                }
                let lost = failure.is_some_and(|failure| failure.message.contains("lost the evidence"));
                assert!(!lost, "verdict_has_its_evidence: {job}, {unit}");
                assert!(queen.verdicts.insert(unit, done).is_none(), "no_verdict_twice: {job}, {unit}");
                self.tally.verdicts += 1;
                self.tally.failed += u64::from(!done);
                let slowly = self.dice.pick(&[10, 1_000, 300_000]);
                let in_us = self.dice.below(slowly);
                let heard = Word::VerdictsHeard(wire::VerdictsHeard { verdicts: 1 });
                self.tell_king_later(in_us, job, heard, Payload::default());
                Event::VerdictArrived { unit, done }
            }
            News::JobEnded(wire::JobEnded { failure: None }) => Event::JobEnded,
            News::JobEnded(wire::JobEnded { failure: Some(_) }) => {
                self.tally.jobs_unfit += 1;
                Event::JobFailed
            }
            News::End(end) if end.reason.is_empty() => return,
            News::End(end) if end.come_back => return self.queen_is_alone(job),
            // The king has detected its lies, and ends its link for good.
            News::End(_) => {
                self.cut(Sender::Queen(job, link));
                Event::KingLost
            }
            News::JobState(_) => return,
            News::Piece(_) => panic!("pieces_are_put_together"),
        };
        let written = match event {
            Event::VerdictArrived { unit, done: true } => Some(Event::OutputWritten { unit }),
            _ => None,
        };
        self.queen_handles(job, std::iter::once(event).chain(written).collect());
        if leaves {
            let in_us = self.dice.below(10_000);
            self.later(in_us, Due::QueenLeaves(job));
        }
        if is_halted {
            let (in_us, for_us) = (self.dice.below(10_000), self.halt_us());
            self.later(in_us, Due::Halts(Process::Queen(job), for_us));
        }
        if is_cut_off {
            let in_us = self.dice.below(10_000);
            self.later(in_us, Due::QueenCutOff(job));
        }
    }

    pub(super) fn queen_handles(&mut self, job: JobId, mut events: Vec<Event>) {
        while !events.is_empty() {
            let (now, mut actions) = (self.now, Vec::new());
            let Some(queen) = self.queens.get_mut(&job) else { return };
            for event in events.drain(..) {
                queen.submission.handle(now, event, &mut actions);
                queen.submission.check();
            }
            for action in actions {
                match action {
                    Action::ReadInputs { count } => events.extend(self.read_inputs(job, count)),
                    Action::SendAgain { units } => units.into_iter().for_each(|unit| self.send_unit(job, unit)),
                    Action::CloseJob { units } => self.tell_king(job, Word::CloseJob(wire::CloseJob { units })),
                    Action::Finish { end } => self.queen_ends(job, end),
                }
            }
        }
    }

    fn queen_ends(&mut self, job: JobId, end: End) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        queen.end = Some(end);
        let stopped = match end {
            End::TooManyFailed { failed, finished } => {
                let limit = queen.plan.failures_max;
                assert!(
                    limit.is_some_and(|limit| limit.is_exceeded(failed, finished)),
                    "run_is_stopped_for_cause: {job}"
                );
                true
            }
            End::OutOfTime => true,
            End::Complete | End::Unfit | End::KingLost | End::NoOutputs | End::Interrupted => false,
        };
        // If no input could be read, the job was never closed.
        let unopened = end == End::Complete && queen.units.is_empty() && !queen.plan.units.is_empty();
        // A queen that lied about its job may leave it in the belief that it is over.
        queen.left = stopped || end == End::Interrupted || unopened || queen.plan.lies;
        self.tally.queens_stopped += u64::from(stopped);
        if queen.left {
            self.tell_king(job, Word::End(wire::End::default()));
        }
    }

    /// Reads inputs. Readers are instant here: inputs are sent as soon as they are read.
    fn read_inputs(&mut self, job: JobId, count: usize) -> Vec<Event> {
        let mut sent = Vec::new();
        for _ in 0..count {
            let Some(queen) = self.queens.get_mut(&job) else { break };
            let Some(input) = queen.backlog.pop_front() else { panic!("no_more_is_read_than_was_listed: {job}") };
            let UnitPlan { nature, input_bytes: bytes, .. } = queen.plan.units[input];
            if nature == Nature::Broken && input % 3 == 0 {
                queen.unreadable += 1;
                sent.push(Event::InputFailed { bytes });
                continue;
            }
            let unit = UnitNo(queen.units.len() as u64);
            queen.units.push(input);
            self.send_unit(job, unit);
            sent.push(Event::UnitSent { unit, bytes });
        }
        sent
    }

    fn send_unit(&mut self, job: JobId, unit: UnitNo) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let UnitPlan { nature, input_bytes: bytes, .. } = queen.unit(unit);
        if queen.standing_link().is_some() {
            self.tell_king_unit(job, unit, (nature != Nature::Broken).then_some(bytes));
        }
    }

    /// Sends a unit with an input of this size; without one, an input that does not come whole.
    pub(super) fn tell_king_unit(&mut self, job: JobId, unit: UnitNo, bytes: Option<u64>) {
        let word = Word::Unit(wire::Unit { unit: unit.0, input: None, name: Bytes::new() });
        if let Some(bytes) = bytes {
            return self.tell_king_with(job, word, payload(bytes));
        }
        let Word::Unit(mut word) = word else { return };
        word.input = Some(wire::Payload { bytes_total: EVIDENCE_BYTES, data: Bytes::new() });
        let broken = "x".repeat(EVIDENCE_BYTES as usize);
        let piece = Word::Piece(wire::Piece { data: Bytes::new(), broken });
        let Some(queen) = self.queens.get(&job).filter(|queen| queen.linked) else { return };
        let sender = Sender::Queen(job, queen.link);
        for parcel in self.parcels(vec![Word::Unit(word).into(), piece.into()]) {
            self.send(sender, true, Due::ToKing(sender, Said::Queen(parcel)));
        }
    }

    /// Says something over its link. Without a link it is lost.
    pub(super) fn tell_king(&mut self, job: JobId, word: Word) {
        self.tell_king_with(job, word, Payload::default());
    }

    fn tell_king_with(&mut self, job: JobId, word: Word, payload: Payload) {
        self.tell_king_later(0, job, word, payload);
    }

    fn tell_king_later(&mut self, in_us: u64, job: JobId, word: Word, payload: Payload) {
        let Some(queen) = self.queens.get(&job).filter(|queen| queen.linked) else { return };
        let Some(outbox) = &queen.outbox else { return };
        let sender = Sender::Queen(job, queen.link);
        outbox.push_with(word, payload);
        self.carry_to_king(in_us, sender);
    }
}
