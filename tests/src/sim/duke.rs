//! A simulated duke: the real roster, and peasants that behave as the nature of their units says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use distwasm_duke::roster::{Action, AnswerId, Event, Outcome, Roster};
use distwasm_king::scheduler::{self, HeldAttempt, HeldLease};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    time::Time,
    wire::is_offered,
};

use super::{
    halts::Process,
    room::Room,
    weather::{EVIDENCE_BYTES, Nature, Slowness, Weather},
    world::{Due, DukeOrder, Joining, KingWord, PeasantDue, Sender, World, queen_of},
};

/// One duke, on one machine, over all its links.
#[derive(Debug)]
pub(super) struct Duke {
    /// The current link, as far as the duke knows.
    pub(super) link: Option<DukeId>,
    /// When the last link broke, if the duke has anything from it.
    pub(super) away_since: Option<Time>,
    pub(super) cpus: u32,
    pub(super) ram_bytes: u64,
    /// Its label.
    pub(super) zone: u64,
    /// How slow its links are, if they are slow.
    pub(super) slowness: Option<Slowness>,
    roster: Roster,
    /// When its next tick is due.
    ticks_at: Option<Time>,
    pub(super) slot_bytes: BTreeMap<JobId, u64>,
    /// The rooms for large results, by job.
    pub(super) rooms: BTreeMap<JobId, Room>,
    /// Jobs that are over, but whose peasants the duke still has.
    closed: BTreeSet<JobId>,
    unfit: BTreeSet<JobId>,
    pub(super) attempts: BTreeMap<AttemptId, Held>,
    pub(super) left: BTreeMap<AttemptId, Left>,
    pub(super) peasants: BTreeMap<BaronId, Peasant>,
    pub(super) peasants_made: u64,
    pub(super) answers: BTreeMap<AnswerId, bool>,
    pub(super) answers_made: u64,
    draining: bool,
    /// Attempts that it claims but never had.
    pub(super) claims: BTreeSet<AttemptId>,
}

/// An attempt that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) job: JobId,
    pub(super) unit: UnitNo,
    pub(super) bytes: u64,
    pub(super) number: u32,
}

/// The result or failure of an attempt, until the king says that it is not needed any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    held: Held,
    pub(super) outcome: scheduler::Outcome,
    run_us: u64,
    pub(super) said: bool,
}

/// One peasant.
#[derive(Debug)]
pub(super) struct Peasant {
    pub(super) number: u64,
    pub(super) job: JobId,
    /// Units that it has not begun.
    pub(super) pipe: VecDeque<AttemptId>,
    pub(super) busy: bool,
    /// The earliest time for its next answer, so that answers leave in order.
    pub(super) answers_after: Time,
    pub(super) dead: bool,
    /// Its answer waits for room. Its later answers wait behind it, in `behind`.
    pub(super) waits: bool,
    pub(super) behind: VecDeque<(AttemptId, bool)>,
}

impl Duke {
    pub(super) fn new(cpus: u32, ram_bytes: u64, zone: u64, slowness: Option<Slowness>) -> Duke {
        Duke {
            link: None,
            away_since: None,
            cpus,
            ram_bytes,
            zone,
            slowness,
            roster: Roster::default(),
            ticks_at: None,
            slot_bytes: BTreeMap::new(),
            rooms: BTreeMap::new(),
            closed: BTreeSet::new(),
            unfit: BTreeSet::new(),
            attempts: BTreeMap::new(),
            left: BTreeMap::new(),
            peasants: BTreeMap::new(),
            peasants_made: 0,
            answers: BTreeMap::new(),
            answers_made: 0,
            draining: false,
            claims: BTreeSet::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.peasants.is_empty() && self.slot_bytes.is_empty() && self.attempts.is_empty() && self.left.is_empty()
    }

    /// Forgets a job's attempts and results. Returns whether the job was open.
    fn close(&mut self, job: JobId) -> bool {
        if !self.slot_bytes.contains_key(&job) || !self.closed.insert(job) {
            return false;
        }
        self.attempts.retain(|_, held| held.job != job);
        self.left.retain(|_, left| left.held.job != job);
        true
    }

    /// The duke has a new link, and names what it holds.
    pub(super) fn links(&mut self, link: DukeId) -> Joining {
        self.link = Some(link);
        let Duke { cpus, ram_bytes, zone, .. } = *self;
        Joining { machine: link, after: None, cpus, ram_bytes, zone, holds: self.holdings() }
    }

    /// All slots and attempts that it has for a king.
    fn holdings(&self) -> Vec<HeldLease> {
        let held = |(attempt, held): (&AttemptId, &Held)| HeldAttempt {
            attempt: *attempt,
            unit: held.unit,
            bytes: held.bytes,
            number: held.number,
        };
        let lease = |(job, slot_bytes): (&JobId, &u64)| {
            let (slots, leaving) = self.roster.slots_of(*job);
            let begun = self.attempts.iter().filter(|(_, held)| held.job == *job).map(held);
            let ended = self.left.iter().filter(|(_, left)| left.held.job == *job);
            let attempts = begun.chain(ended.map(|(attempt, left)| held((attempt, &left.held)))).collect();
            HeldLease {
                job: *job,
                key: queen_of(*job).0,
                slot_bytes: *slot_bytes,
                slots,
                leaving,
                closed: self.closed.contains(job),
                attempts,
            }
        };
        self.slot_bytes.iter().map(lease).collect()
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
    /// Draws a fault for a duke that gets a unit: at most one, soon.
    fn strike_duke(&mut self, id: DukeId) {
        let Weather { duke_dies, duke_falls_silent, duke_drains, duke_is_cut_off, duke_halts, .. } = self.weather;
        let halt_us = self.halt_us();
        let chances = [
            (duke_dies, Due::DukeDies(id)),
            (duke_falls_silent, Due::DukeFallsSilent(id)),
            (duke_drains, Due::DukeDrains(id)),
            (duke_is_cut_off, Due::DukeCutOff(id)),
            (duke_halts, Due::Halts(Process::Duke(id), halt_us)),
        ];
        for (chance, due) in chances {
            if self.faults_go_on() && self.dice.permille(chance) {
                let in_us = self.dice.below(20_000);
                return self.later(in_us, due);
            }
        }
    }

    pub(super) fn duke_hears(&mut self, link: DukeId, order: DukeOrder) {
        // The duke may have died while the order was in transit, or may have another link by now.
        let Some(id) = self.machines.get(&link).copied() else { return };
        if self.dukes.get(&id).is_none_or(|duke| duke.link != Some(link)) {
            return;
        }
        let mut input_bytes = 0;
        let mut timeout = None;
        match &order {
            DukeOrder::Start { job, unit, .. } => {
                input_bytes = self.queen_of(*job).unit(*unit).input_bytes;
                self.strike_duke(id);
            }
            DukeOrder::OpenLease { job, .. } => {
                timeout = self.queen_of(*job).plan().timeout_us.map(Duration::from_micros);
            }
            _ => {}
        }
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.away_since = None;
        let event = match order {
            // The liar did not name this job, so the king has forgotten that it has it.
            DukeOrder::OpenLease { job, .. } if self.liars.contains(&id) && duke.slot_bytes.contains_key(&job) => {
                return;
            }
            DukeOrder::OpenLease { job, slot_bytes } => {
                duke.slot_bytes.insert(job, slot_bytes);
                Event::LeaseOpened { job, timeout }
            }
            DukeOrder::CloseLease { job } => {
                if !duke.close(job) {
                    return;
                }
                Event::LeaseClosed { job }
            }
            DukeOrder::Grant { job, slots } => Event::SlotsGranted { job, slots },
            DukeOrder::AskBack { job, slots } => Event::SlotsAskedBack { job, slots },
            DukeOrder::Forget { attempt } => {
                if duke.left.remove(&attempt).is_some() {
                    self.make_room(id);
                    return self.leave_if_drained(id);
                }
                let Some(held) = duke.attempts.get(&attempt) else { return };
                Event::AttemptForgotten { job: held.job, attempt }
            }
            DukeOrder::Start { job, unit, attempt, number, alone } => {
                let held = Held { job, unit, bytes: input_bytes, number };
                let known = duke.attempts.insert(attempt, held);
                assert!(known.is_none(), "attempt_is_started_once: {attempt}");
                Event::AttemptArrived { job, attempt, bytes: input_bytes, alone }
            }
            DukeOrder::Fetch { .. } if self.liars.contains(&id) && self.dice.permille(300) => {
                // The liar keeps the result that it offered.
                return;
            }
            DukeOrder::Fetch { attempt } => {
                let left = duke.left.get_mut(&attempt).filter(|left| !left.said);
                let Some(left) = left else {
                    assert!(self.liars.contains(&id), "only_offers_are_fetched: {attempt}");
                    return;
                };
                left.said = true;
                let Left { outcome, run_us, .. } = *left;
                self.duke_says(id, |duke| scheduler::Event::AttemptEnded { duke, attempt, outcome, run_us });
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
        if !self.liars.contains(&id) {
            duke.check(id);
        }
        duke.answers.clear();
        if let Some(deadline) = duke.roster.next_deadline()
            && duke.ticks_at.is_none_or(|at| deadline < at)
        {
            duke.ticks_at = Some(deadline);
            self.at(deadline, Due::DukeTick(id));
        }
        self.make_room(id);
        self.leave_if_drained(id);
    }

    pub(super) fn duke_ticks(&mut self, id: DukeId) {
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| duke.ticks_at.is_some_and(|at| at <= now)) else {
            return;
        };
        duke.ticks_at = None;
        self.duke_handles(id, vec![Event::Tick]);
    }

    /// A duke begins a graceful shutdown.
    pub(super) fn duke_drains(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| !duke.draining) else { return };
        duke.draining = true;
        self.duke_says(id, |duke| scheduler::Event::DukeDraining { duke });
        self.leave_if_drained(id);
    }

    fn leave_if_drained(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get(&id).filter(|duke| duke.draining && duke.roster.is_idle()) else { return };
        if !duke.attempts.is_empty() || duke.left.values().any(|left| !left.said) {
            return;
        }
        self.duke_says(id, |duke| scheduler::Event::DukeLost { duke });
        self.remove_duke(id);
        self.tally.dukes_drained += 1;
        let back_in = self.dice.below(5_000_000);
        self.later(back_in, Due::DukeComes(None));
    }

    /// Says something over the current link. Without a link it is lost.
    pub(super) fn duke_says(&mut self, id: DukeId, event: impl FnOnce(DukeId) -> scheduler::Event) {
        let Some(link) = self.dukes.get(&id).and_then(|duke| duke.link) else { return };
        let sender = Sender::Duke(link);
        self.send(sender, true, Due::ToKing(sender, KingWord::Event(event(link))));
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
                assert!(duke.attempts.contains_key(&attempt), "only_what_is_wanted_is_run: {id}, {attempt}");
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
            Action::Drop { attempt } => {
                duke.attempts.remove(&attempt);
            }
            Action::TellUnfit { job } => {
                duke.unfit.insert(job);
                self.duke_says(id, |duke| scheduler::Event::ProgramUnfit { duke, job });
            }
            Action::TellReleased { job, slots } => {
                self.duke_says(id, |duke| scheduler::Event::SlotsReleased { duke, job, slots });
            }
            Action::TellBroken { job, slots } => {
                self.duke_says(id, |duke| scheduler::Event::SlotsBroken { duke, job, slots });
            }
            Action::Forget { job } => {
                duke.slot_bytes.remove(&job);
                duke.closed.remove(&job);
                duke.unfit.remove(&job);
            }
        }
    }

    fn report(&mut self, id: DukeId, attempt: AttemptId, outcome: Outcome, run_us: u64) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // The attempt may have been forgotten.
        let Some(held) = duke.attempts.remove(&attempt) else { return };
        let Held { job, unit, .. } = held;
        let outcome = match outcome {
            Outcome::Answered(answer) if duke.answers[&answer] => {
                let bytes = self.queen_of(job).result_bytes(unit);
                self.tally.offers += u64::from(is_offered(bytes));
                scheduler::Outcome::Done { bytes }
            }
            Outcome::Answered(_) | Outcome::TimedOut(_) => scheduler::Outcome::Failed { bytes: EVIDENCE_BYTES },
            Outcome::Killed(_) => {
                let nature = self.queen_of(job).unit(unit).nature;
                let by_chance = self.weather.peasant_dies > 0;
                assert!(nature == Nature::Kills || by_chance, "only_the_guilty_is_blamed: {job}, {unit}");
                scheduler::Outcome::Killed { bytes: EVIDENCE_BYTES }
            }
            Outcome::Returned { suspect } => {
                let outcome = scheduler::Outcome::Returned { suspect };
                return self.duke_says(id, |duke| scheduler::Event::AttemptEnded { duke, attempt, outcome, run_us });
            }
        };
        self.leave_behind(id, attempt, Left { held, outcome, run_us, said: false });
    }

    fn leave_behind(&mut self, id: DukeId, attempt: AttemptId, left: Left) {
        if let Some(duke) = self.dukes.get_mut(&id) {
            duke.left.insert(attempt, left);
        }
        self.say_left(id, attempt);
    }

    /// Reports how an attempt ended, or offers its large result.
    fn say_left(&mut self, id: DukeId, attempt: AttemptId) {
        let Some(left) = self.dukes.get_mut(&id).and_then(|duke| duke.left.get_mut(&attempt)) else { return };
        let Left { outcome, run_us, .. } = *left;
        match outcome {
            scheduler::Outcome::Done { bytes } if is_offered(bytes) => {
                self.duke_says(id, |duke| scheduler::Event::ResultOffered { duke, attempt, bytes, run_us });
            }
            _ => {
                left.said = true;
                self.duke_says(id, |duke| scheduler::Event::AttemptEnded { duke, attempt, outcome, run_us });
            }
        }
    }

    pub(super) fn compiled(&mut self, id: DukeId, job: JobId) {
        let unfit = self.queen_of(job).plan().unfit && self.dice.permille(500);
        let broken = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let event = match (broken, unfit) {
            (true, _) => Event::ProgramBroken { job },
            (false, true) => Event::ProgramUnfit { job },
            (false, false) => Event::ProgramReady { job },
        };
        self.duke_handles(id, vec![event]);
    }

    // ---- Coming back ----------------------------------------------------------------------------------------------

    /// Says again what a king may not have heard.
    pub(super) fn say_again(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let (draining, left): (bool, Vec<AttemptId>) = (duke.draining, duke.left.keys().copied().collect());
        let unfit: Vec<JobId> = duke.unfit.difference(&duke.closed).copied().collect();
        duke.left.values_mut().for_each(|left| left.said = false);
        left.into_iter().for_each(|attempt| self.say_left(id, attempt));
        for job in unfit {
            self.duke_says(id, |duke| scheduler::Event::ProgramUnfit { duke, job });
        }
        if draining {
            self.duke_says(id, |duke| scheduler::Event::DukeDraining { duke });
            self.leave_if_drained(id);
        }
    }

    /// No king came back in time: gives up all jobs.
    pub(super) fn duke_gives_up(&mut self, id: DukeId, since: Time) {
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| duke.away_since == Some(since)) else { return };
        if duke.link.is_some() {
            return;
        }
        let jobs: Vec<JobId> = duke.slot_bytes.keys().copied().collect();
        let closed = jobs.into_iter().filter(|job| duke.close(*job)).map(|job| Event::LeaseClosed { job });
        let closed: Vec<Event> = closed.collect();
        self.duke_handles(id, closed);
    }
}
