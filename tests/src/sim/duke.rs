//! A simulated duke: the real roster, and peasants that do what their units' nature is.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use distwasm_duke::roster::{Action, AnswerId, Event, Outcome, Roster};
use distwasm_king::scheduler;
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    limits::RESULT_UNASKED_BYTES_MAX,
    time::Time,
};

use super::{
    weather::{EVIDENCE_BYTES, Nature},
    world::{Due, DukeOrder, KingWord, PeasantDue, Sender, World},
};

/// One duke.
#[derive(Debug)]
pub(super) struct Duke {
    cpus: u32,
    ram_bytes: u64,
    /// Its label.
    pub(super) zone: u64,
    roster: Roster,
    slot_bytes: BTreeMap<JobId, u64>,
    attempts: BTreeMap<AttemptId, (JobId, UnitNo)>,
    offered: BTreeMap<AttemptId, u64>,
    peasants: BTreeMap<BaronId, Peasant>,
    peasants_made: u64,
    answers: BTreeMap<AnswerId, bool>,
    answers_made: u64,
    draining: bool,
}

/// One peasant.
#[derive(Debug)]
struct Peasant {
    number: u64,
    job: JobId,
    /// What it has not begun.
    pipe: VecDeque<AttemptId>,
    busy: bool,
    /// Answers leave in order; none leaves before this.
    answers_after: Time,
    dead: bool,
}

impl Duke {
    pub(super) fn new(cpus: u32, ram_bytes: u64, zone: u64) -> Duke {
        Duke {
            cpus,
            ram_bytes,
            zone,
            roster: Roster::default(),
            slot_bytes: BTreeMap::new(),
            attempts: BTreeMap::new(),
            offered: BTreeMap::new(),
            peasants: BTreeMap::new(),
            peasants_made: 0,
            answers: BTreeMap::new(),
            answers_made: 0,
            draining: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.peasants.is_empty() && self.slot_bytes.is_empty() && self.attempts.is_empty() && self.offered.is_empty()
    }

    fn check(&self, id: DukeId) {
        self.roster.check();
        assert!(self.peasants.len() <= self.cpus as usize, "no_more_peasants_than_processors: {id}");
        let bytes: u64 =
            self.peasants.values().map(|peasant| self.slot_bytes.get(&peasant.job).copied().unwrap_or(0)).sum();
        assert!(bytes <= self.ram_bytes, "no_more_memory_than_the_machine_has: {id}");
    }
}

impl World {
    pub(super) fn duke_hears(&mut self, id: DukeId, order: DukeOrder) {
        // An order to a duke who died on the way.
        if !self.dukes.contains_key(&id) {
            return;
        }
        let mut input_bytes = 0;
        let mut timeout = None;
        match &order {
            DukeOrder::Start { job, unit, .. } => {
                input_bytes = self.queens[job].unit(*unit).input_bytes;
                if self.faults_go_on() && self.dice.permille(self.weather.duke_dies) {
                    let in_us = self.dice.below(20_000);
                    self.later(in_us, Due::DukeDies(id));
                } else if self.faults_go_on() && self.dice.permille(self.weather.duke_falls_silent) {
                    let in_us = self.dice.below(20_000);
                    self.later(in_us, Due::DukeFallsSilent(id));
                } else if self.faults_go_on() && self.dice.permille(self.weather.duke_drains) {
                    let in_us = self.dice.below(20_000);
                    self.later(in_us, Due::DukeDrains(id));
                }
            }
            DukeOrder::OpenLease { job, .. } => {
                timeout = self.queens[job].plan().timeout_us.map(Duration::from_micros);
            }
            _ => {}
        }
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let event = match order {
            DukeOrder::OpenLease { job, slot_bytes } => {
                duke.slot_bytes.insert(job, slot_bytes);
                Event::LeaseOpened { job, timeout }
            }
            DukeOrder::CloseLease { job } => {
                duke.attempts.retain(|_, (of, _)| *of != job);
                let attempts = &duke.attempts;
                duke.offered.retain(|attempt, _| attempts.contains_key(attempt));
                Event::LeaseClosed { job }
            }
            DukeOrder::Grant { job, slots } => Event::SlotsGranted { job, slots },
            DukeOrder::AskBack { job, slots } => Event::SlotsAskedBack { job, slots },
            DukeOrder::Start { job, unit, attempt, alone } => {
                let known = duke.attempts.insert(attempt, (job, unit));
                assert!(known.is_none(), "attempt_is_started_once: {attempt}");
                Event::AttemptArrived { job, attempt, bytes: input_bytes, alone }
            }
            DukeOrder::Fetch { attempt } => {
                let bytes = duke.offered.remove(&attempt);
                let bytes = bytes.unwrap_or_else(|| panic!("only_offers_are_fetched: {attempt}"));
                duke.attempts.remove(&attempt);
                let outcome = scheduler::Outcome::Done { bytes };
                self.duke_says(id, scheduler::Event::AttemptEnded { duke: id, attempt, outcome, run_us: 0 });
                return self.leave_if_drained(id);
            }
        };
        self.duke_handles(id, vec![event]);
    }

    pub(super) fn duke_handles(&mut self, id: DukeId, events: Vec<Event>) {
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let mut actions = Vec::new();
        duke.roster.handle(now, events, &mut actions);
        for action in actions {
            self.duke_acts(id, action);
        }
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.check(id);
        duke.answers.clear();
        if let Some(deadline) = duke.roster.next_deadline() {
            self.at(deadline, Due::DukeTick(id));
        }
        self.leave_if_drained(id);
    }

    /// A duke begins to leave in peace.
    pub(super) fn duke_drains(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| !duke.draining) else { return };
        duke.draining = true;
        self.duke_says(id, scheduler::Event::DukeDraining { duke: id });
        self.leave_if_drained(id);
    }

    fn leave_if_drained(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get(&id).filter(|duke| duke.draining && duke.roster.is_idle()) else { return };
        if !duke.attempts.is_empty() || !duke.offered.is_empty() {
            return;
        }
        self.dukes.remove(&id);
        self.tally.dukes_drained += 1;
        self.duke_says(id, scheduler::Event::DukeLost { duke: id });
        let back_in = self.dice.below(5_000_000);
        self.later(back_in, Due::DukeComes);
    }

    fn duke_says(&mut self, id: DukeId, event: scheduler::Event) {
        self.send(Sender::Duke(id), true, Due::ToKing(Sender::Duke(id), KingWord::Event(event)));
    }

    fn duke_acts(&mut self, id: DukeId, action: Action) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        match action {
            Action::PrepareProgram { job } => {
                let in_us = self.dice.below(200_000);
                self.later(in_us, Due::Compiled(id, job));
            }
            Action::Spawn { baron, job } => self.spawn(id, baron, job),
            Action::Feed { baron, attempt } => {
                let Some(peasant) = duke.peasants.get_mut(&baron) else { panic!("fed_peasant_lives: {baron}") };
                peasant.pipe.push_back(attempt);
                self.peasant_goes_on(id, baron);
            }
            Action::Retire { baron } => {
                let number = duke.peasants[&baron].number;
                self.later(100, Due::Peasant(id, baron, number, PeasantDue::Gone));
            }
            Action::Kill { baron } => {
                let number = duke.peasants[&baron].number;
                let in_us = self.dice.below(2_000);
                self.later(in_us, Due::Peasant(id, baron, number, PeasantDue::Dies));
            }
            Action::Report { attempt, outcome, run_us } => self.report(id, attempt, outcome, run_us),
            Action::Offer { attempt, bytes, run_us, .. } => {
                duke.offered.insert(attempt, bytes);
                self.tally.offers += 1;
                self.duke_says(id, scheduler::Event::ResultOffered { duke: id, attempt, bytes, run_us });
            }
            Action::TellUnfit { job } => self.duke_says(id, scheduler::Event::ProgramUnfit { duke: id, job }),
            Action::TellReleased { job, slots } => {
                self.duke_says(id, scheduler::Event::SlotsReleased { duke: id, job, slots });
            }
            Action::TellBroken { job, slots } => {
                self.duke_says(id, scheduler::Event::SlotsBroken { duke: id, job, slots });
            }
            Action::Forget { job } => {
                duke.slot_bytes.remove(&job);
            }
        }
    }

    fn report(&mut self, id: DukeId, attempt: AttemptId, outcome: Outcome, run_us: u64) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some((job, unit)) = duke.attempts.remove(&attempt) else { panic!("ended_attempt_is_known: {attempt}") };
        let outcome = match outcome {
            Outcome::Answered(answer) if duke.answers[&answer] => {
                let bytes = self.queens[&job].result_bytes(unit);
                scheduler::Outcome::Done { bytes }
            }
            Outcome::Answered(_) | Outcome::TimedOut(_) => scheduler::Outcome::Failed { bytes: EVIDENCE_BYTES },
            Outcome::Killed(_) => {
                let nature = self.queens[&job].unit(unit).nature;
                let by_chance = self.weather.peasant_dies > 0;
                assert!(nature == Nature::Kills || by_chance, "only_the_guilty_is_blamed: {job}, {unit}");
                scheduler::Outcome::Killed { bytes: EVIDENCE_BYTES }
            }
            Outcome::Returned { suspect } => scheduler::Outcome::Returned { suspect },
        };
        self.duke_says(id, scheduler::Event::AttemptEnded { duke: id, attempt, outcome, run_us });
    }

    pub(super) fn compiled(&mut self, id: DukeId, job: JobId) {
        let unfit = self.queens[&job].plan().unfit && self.dice.permille(500);
        let broken = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let event = match (broken, unfit) {
            (true, _) => Event::ProgramBroken { job },
            (false, true) => Event::ProgramUnfit { job },
            (false, false) => Event::ProgramReady { job },
        };
        self.duke_handles(id, vec![event]);
    }

    // ---- Peasants -------------------------------------------------------------------------------------------------

    fn spawn(&mut self, id: DukeId, baron: BaronId, job: JobId) {
        let fails = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let unfit = self.queens[&job].plan().unfit;
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.peasants_made += 1;
        let number = duke.peasants_made;
        let peasant = Peasant { number, job, pipe: VecDeque::new(), busy: false, answers_after: now, dead: false };
        assert!(duke.peasants.insert(baron, peasant).is_none(), "baron_has_one_peasant: {baron}");
        let due = match (fails, unfit) {
            (true, _) => PeasantDue::Dies,
            (false, true) => PeasantDue::Unfit,
            (false, false) => PeasantDue::Ready,
        };
        let in_us = 1_000 + self.dice.below(5_000);
        self.later(in_us, Due::Peasant(id, baron, number, due));
    }

    pub(super) fn peasant_due(&mut self, id: DukeId, baron: BaronId, number: u64, due: PeasantDue) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some(peasant) = duke.peasants.get_mut(&baron).filter(|peasant| peasant.number == number) else { return };
        if peasant.dead && due != PeasantDue::Gone {
            return;
        }
        match due {
            PeasantDue::Ready => self.duke_handles(id, vec![Event::PeasantReady { baron }]),
            PeasantDue::Unfit => {
                let job = peasant.job;
                self.duke_handles(id, vec![Event::ProgramUnfit { job }]);
                self.later(100, Due::Peasant(id, baron, number, PeasantDue::Dies));
            }
            PeasantDue::Next => {
                peasant.busy = false;
                self.peasant_goes_on(id, baron);
            }
            PeasantDue::Answers { attempt, begun } => self.peasant_answers(id, baron, attempt, begun),
            PeasantDue::Dies => {
                peasant.dead = true;
                self.tally.peasants_died += 1;
                self.later(200, Due::Peasant(id, baron, number, PeasantDue::Gone));
            }
            PeasantDue::Gone => {
                duke.peasants.remove(&baron);
                self.duke_handles(id, vec![Event::PeasantGone { baron }]);
            }
        }
    }

    /// Begins the next unit, if there is one and nothing else is running.
    fn peasant_goes_on(&mut self, id: DukeId, baron: BaronId) {
        let dies_by_chance = self.faults_go_on() && self.dice.permille(self.weather.peasant_dies);
        let holds_back = self.dice.pick(&[0, 0, 1_000, 20_000]);
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some(peasant) = duke.peasants.get_mut(&baron).filter(|peasant| !peasant.busy && !peasant.dead) else {
            return;
        };
        let Some(attempt) = peasant.pipe.pop_front() else { return };
        peasant.busy = true;
        let number = peasant.number;
        // The job may be over, and its attempts forgotten, while its peasants still run.
        let Some((job, unit)) = duke.attempts.get(&attempt).copied() else { return };
        let plan = self.queens[&job].unit(unit);
        let ends = Time(now.0 + plan.run_us);
        let due = |due| Due::Peasant(id, baron, number, due);
        match plan.nature {
            Nature::Hangs => {}
            Nature::Kills => self.at(ends, due(PeasantDue::Dies)),
            // A unit under which three peasants die is to blame, whatever it did: bad luck strikes twice at most.
            _ if dies_by_chance && self.strikes(job, unit) => self.at(ends, due(PeasantDue::Dies)),
            _ => {
                let Some(peasant) = self.dukes.get_mut(&id).and_then(|duke| duke.peasants.get_mut(&baron)) else {
                    return;
                };
                let leaves = peasant.answers_after.max(Time(ends.0 + holds_back));
                let large = plan.result_bytes > RESULT_UNASKED_BYTES_MAX;
                let arrives = Time(leaves.0 + if large { 300 } else { 0 });
                peasant.answers_after = arrives;
                if large {
                    self.at(leaves, due(PeasantDue::Answers { attempt, begun: true }));
                }
                self.at(arrives, due(PeasantDue::Answers { attempt, begun: false }));
                self.at(ends, due(PeasantDue::Next));
            }
        }
    }

    /// Whether bad luck may strike this unit once more; notes that it does.
    fn strikes(&mut self, job: JobId, unit: UnitNo) -> bool {
        let Some(queen) = self.queens.get_mut(&job) else { return false };
        let struck = queen.struck.entry(unit).or_insert(0);
        *struck += 1;
        *struck <= 2
    }

    fn peasant_answers(&mut self, id: DukeId, baron: BaronId, attempt: AttemptId, begun: bool) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // The job may be over.
        let Some((job, unit)) = duke.attempts.get(&attempt).copied() else { return };
        if begun {
            return self.duke_handles(id, vec![Event::AnswerBegun { baron }]);
        }
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let plan = queen.unit(unit);
        let done = match plan.nature {
            Nature::Fails => false,
            Nature::FailsOnce => !queen.failed_once.insert(unit),
            Nature::Ordinary | Nature::Kills | Nature::Hangs | Nature::Broken => true,
        };
        duke.answers_made += 1;
        let answer = AnswerId(duke.answers_made);
        duke.answers.insert(answer, done);
        let bytes = if done { plan.result_bytes } else { 0 };
        self.duke_handles(id, vec![Event::Answered { baron, answer, done, bytes }]);
    }
}
