//! Simulated peasants: they behave as the nature of their units says.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use distwasm_duke::{
    peasant::{Answer, HeldResult, HeldRoom, PeasantEvent, PeasantNews},
    reactor::Happening,
};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{BaronId, DukeId, JobId, UnitNo},
    limits::REACTOR_BATCH,
    time::Time,
    wire::is_offered,
};

use super::{
    weather::{EVIDENCE_BYTES, Nature},
    wires::payload,
    world::{Due, PeasantDue, World},
};

/// One peasant.
pub(super) struct Peasant {
    pub(super) number: u64,
    pub(super) job: JobId,
    /// Whose job it is.
    pub(super) queen: JobId,
    /// The file of its compiled program.
    program: PathBuf,
    pub(super) slot_bytes: u64,
    pub(super) room: HeldRoom,
    pub(super) takes_files: bool,
    /// Units that it has not begun, and whether their results go to files.
    pub(super) pipe: VecDeque<(UnitNo, bool)>,
    busy: bool,
    /// The earliest time for its next answer, so that answers leave in order.
    pub(super) answers_after: Time,
    life: Life,
    /// A large answer that is being read.
    pub(super) reading: Option<HeldResult>,
    /// The size of a large answer that waits for room. Later answers wait behind it, in `behind`.
    pub(super) waits_for: Option<u64>,
    behind: VecDeque<PeasantDue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Lives,
    Dead,
    /// Dead, and its duke knows it.
    Gone,
}

impl Peasant {
    /// Whether it is the peasant with this number, and lives.
    pub(super) fn lives_as(&self, number: u64) -> bool {
        self.number == number && self.life == Life::Lives
    }
}

impl World {
    /// Starts a peasant for a job of a queen.
    pub(super) fn hire(
        &mut self,
        id: DukeId,
        baron: BaronId,
        (job, queen): (JobId, JobId),
        program: PathBuf,
        slot_bytes: u64,
        room: HeldRoom,
    ) {
        let fails = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let now = self.now;
        let unfit = self.queens[&queen].plan().unfit;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.peasants_made += 1;
        let number = duke.peasants_made;
        let peasant = Peasant {
            number,
            job,
            queen,
            program,
            slot_bytes,
            room,
            takes_files: false,
            pipe: VecDeque::new(),
            busy: false,
            answers_after: now,
            life: Life::Lives,
            reading: None,
            waits_for: None,
            behind: VecDeque::new(),
        };
        assert!(duke.peasants.insert(baron, peasant).is_none(), "baron_has_one_peasant: {baron}");
        let spoiled = fails && self.dice.permille(300);
        let due = match (fails, unfit) {
            (true, _) if spoiled => PeasantDue::Spoiled,
            (true, _) => PeasantDue::Dies,
            (false, true) => PeasantDue::Unfit,
            (false, false) => PeasantDue::Ready,
        };
        let in_us = 1_000 + self.dice.below(5_000);
        self.later(in_us, Due::Peasant(id, baron, number, due));
    }

    /// Something happens to a peasant, and perhaps to others of its duke at this very moment: the duke hears of it at
    /// once.
    pub(super) fn peasant_due(&mut self, id: DukeId, baron: BaronId, number: u64, due: PeasantDue) {
        let mut news = Vec::new();
        self.peasant_acts(id, baron, number, due, &mut news);
        while !news.is_empty() && news.len() < REACTOR_BATCH && self.dice.permille(900) {
            let is_here = |due: &Due| matches!(due, Due::Peasant(of, ..) if *of == id);
            let Some(Due::Peasant(_, baron, number, due)) = self.take_due_now(is_here) else { break };
            self.peasant_acts(id, baron, number, due, &mut news);
        }
        if !news.is_empty() {
            self.duke_handles(id, Happening::Peasants(news));
        }
    }

    /// Appends what the duke hears of it.
    fn peasant_acts(&mut self, id: DukeId, baron: BaronId, number: u64, due: PeasantDue, news: &mut Vec<PeasantNews>) {
        let peasant = self.dukes.get_mut(&id).and_then(|duke| duke.peasants.get_mut(&baron));
        let Some(peasant) = peasant.filter(|peasant| peasant.number == number) else { return };
        if peasant.life == Life::Gone || (peasant.life == Life::Dead && due != PeasantDue::Gone) {
            return;
        }
        let job = peasant.job;
        let event = match due {
            PeasantDue::Ready => PeasantEvent::Ready,
            PeasantDue::Unfit => {
                self.later(100, Due::Peasant(id, baron, number, PeasantDue::Dies));
                PeasantEvent::Unfit(Failure::new(FailureKind::Program, "it is unfit"))
            }
            PeasantDue::Spoiled => {
                let program = peasant.program.clone();
                if let Some(duke) = self.dukes.get_mut(&id) {
                    duke.reactor.hands().cannot_load(job, program);
                }
                self.later(100, Due::Peasant(id, baron, number, PeasantDue::Dies));
                PeasantEvent::Unloadable("it is spoiled".to_owned())
            }
            PeasantDue::Next => {
                peasant.busy = false;
                return self.peasant_goes_on(id, baron);
            }
            PeasantDue::AnswerBegins(_)
            | PeasantDue::Answers { .. }
            | PeasantDue::AnswersInFile(_)
            | PeasantDue::NeedsFile
                if peasant.waits_for.is_some() =>
            {
                return peasant.behind.push_back(due);
            }
            PeasantDue::AnswerBegins(unit) => {
                let bytes = self.queens[&peasant.queen].result_bytes(unit);
                PeasantEvent::AnswerBegun { waits: self.begin_to_read(id, baron, bytes) }
            }
            PeasantDue::Answers { unit, is_done: true } if self.queens[&peasant.queen].plan().dukes_write => {
                let bytes = self.queens[&peasant.queen].result_bytes(unit);
                let is_killed = self.dukes.get(&id).map(|duke| Arc::clone(&duke.is_killed)).unwrap_or_default();
                self.tally.results_written += 1;
                PeasantEvent::Answered(vec![Answer::Written(self.folders.write(bytes, is_killed))])
            }
            PeasantDue::AnswersInFile(_) | PeasantDue::NeedsFile => {
                let (queen, unit) = (peasant.queen, due.unit());
                PeasantEvent::Answered(vec![self.answer_in_file(queen, unit)])
            }
            PeasantDue::Answers { unit, is_done: true } => {
                let small = || payload(self.queens[&peasant.queen].result_bytes(unit)).into();
                PeasantEvent::Answered(vec![Answer::Result(peasant.reading.take().unwrap_or_else(small))])
            }
            PeasantDue::Answers { is_done: false, .. } => {
                let message = "x".repeat(EVIDENCE_BYTES as usize);
                PeasantEvent::Answered(vec![Answer::Failure(Failure::new(FailureKind::Exit, message))])
            }
            PeasantDue::Room => {
                peasant.waits_for = None;
                return self.peasant_goes_on_answering(id, baron, number, news);
            }
            PeasantDue::Dies => {
                peasant.life = Life::Dead;
                self.tally.peasants_died += 1;
                return self.later(200, Due::Peasant(id, baron, number, PeasantDue::Gone));
            }
            PeasantDue::Gone => {
                peasant.life = Life::Gone;
                PeasantEvent::Gone("it ended".to_owned())
            }
        };
        news.push(PeasantNews { baron, job, event });
    }

    /// The answers behind one that waited are read, until one of them must wait.
    fn peasant_goes_on_answering(&mut self, id: DukeId, baron: BaronId, number: u64, news: &mut Vec<PeasantNews>) {
        loop {
            let peasant = self.dukes.get_mut(&id).and_then(|duke| duke.peasants.get_mut(&baron));
            let Some(peasant) = peasant.filter(|peasant| peasant.waits_for.is_none()) else { return };
            let Some(due) = peasant.behind.pop_front() else { return };
            self.peasant_acts(id, baron, number, due, news);
        }
    }

    /// Begins the next unit, if there is one and nothing else is running.
    pub(super) fn peasant_goes_on(&mut self, id: DukeId, baron: BaronId) {
        let dies_by_chance = self.faults_go_on() && self.dice.permille(self.weather.peasant_dies);
        let slowest_us = if self.weather.is_fair() { 1_000 } else { 20_000 };
        let holds_back = self.dice.pick(&[0, 0, 1_000, slowest_us]);
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let is_free = |peasant: &&mut Peasant| !peasant.busy && peasant.life == Life::Lives;
        let Some(peasant) = duke.peasants.get_mut(&baron).filter(is_free) else { return };
        let Some((unit, is_kept)) = peasant.pipe.pop_front() else { return };
        peasant.busy = true;
        let (number, queen) = (peasant.number, peasant.queen);
        let plan = self.queens[&queen].unit(unit);
        let of_queen = self.queens[&queen].plan();
        let dukes_write = of_queen.dukes_write;
        let in_file = of_queen.keeps(unit, &plan);
        let needs_file = of_queen.needs_files && !(is_kept && (peasant.takes_files || of_queen.dukes_read));
        let ends = Time(self.now.0 + plan.run_us);
        let due = |due| Due::Peasant(id, baron, number, due);
        match plan.nature {
            Nature::Hangs => {}
            Nature::HangsOnce if self.hangs_now(queen, unit) => {}
            Nature::Kills => self.at(ends, due(PeasantDue::Dies)),
            // A unit that three peasants died with is blamed in any case, so bad luck strikes a unit twice at most.
            _ if dies_by_chance && self.strikes(queen, unit) => self.at(ends, due(PeasantDue::Dies)),
            nature => {
                let fails = matches!(nature, Nature::Fails | Nature::Broken)
                    || (nature == Nature::FailsOnce && self.fails_now(queen, unit));
                let in_file = in_file && (!fails || nature == Nature::Fails);
                let is_large = !fails && !dukes_write && !in_file && is_offered(plan.result_bytes);
                let Some(peasant) = self.dukes.get_mut(&id).and_then(|duke| duke.peasants.get_mut(&baron)) else {
                    return;
                };
                let leaves = peasant.answers_after.max(Time(ends.0 + holds_back));
                let arrives = Time(leaves.0 + if is_large { 300 } else { 0 });
                peasant.answers_after = arrives;
                if is_large {
                    self.at(leaves, due(PeasantDue::AnswerBegins(unit)));
                }
                let answers = match in_file {
                    true if needs_file => PeasantDue::NeedsFile,
                    true => PeasantDue::AnswersInFile(unit),
                    false => PeasantDue::Answers { unit, is_done: !fails },
                };
                self.at(arrives, due(answers));
                self.at(ends, due(PeasantDue::Next));
            }
        }
    }

    /// Whether bad luck may strike this unit once more. Counts the strike.
    fn strikes(&mut self, queen: JobId, unit: UnitNo) -> bool {
        let Some(queen) = self.queens.get_mut(&queen) else { return false };
        let struck = queen.struck.entry(unit).or_insert(0);
        *struck += 1;
        *struck <= 2
    }

    /// Whether this is the first attempt of a unit that hangs once.
    fn hangs_now(&mut self, queen: JobId, unit: UnitNo) -> bool {
        self.queens.get_mut(&queen).is_some_and(|queen| queen.hung_once.insert(unit))
    }

    /// Whether this is the first attempt of a unit that fails once.
    fn fails_now(&mut self, queen: JobId, unit: UnitNo) -> bool {
        self.queens.get_mut(&queen).is_some_and(|queen| queen.failed_once.insert(unit))
    }
}
