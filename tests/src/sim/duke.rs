//! A simulated duke: the real roster, and peasants that behave as the nature of their units says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use distwasm_duke::roster::{Action, AnswerId, Event, Outcome, Roster};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    time::Time,
    wire::{self, DukeOrder, DukeWord, duke_order::Order, duke_word::Word, is_offered},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Assembler, Outbox},
};

use super::{
    halts::Process,
    room::Room,
    weather::{Nature, Slowness, Weather},
    wires::Parcel,
    world::{Due, PeasantDue, World},
};

/// One duke, on one machine, over all its links.
#[derive(Debug)]
pub(super) struct Duke {
    /// The number of its process, and of its place on the machine.
    pub(super) boot: DukeId,
    pub(super) seat: DukeId,
    /// How many links it has had.
    pub(super) links: u64,
    /// The current link, as far as the duke knows.
    pub(super) link: Option<DukeId>,
    pub(super) outbox: Option<Outbox<DukeWord>>,
    pub(super) assembler: Assembler<DukeOrder>,
    /// When the last link broke, if the duke has anything from it.
    pub(super) away_since: Option<Time>,
    pub(super) cpus: u32,
    pub(super) ram_bytes: u64,
    /// Its label.
    pub(super) zone: u64,
    /// How slow its links are, if they are slow.
    pub(super) slowness: Option<Slowness>,
    pub(super) roster: Roster,
    /// When its next tick is due.
    ticks_at: Option<Time>,
    pub(super) leases: BTreeMap<JobId, Lease>,
    /// The rooms for large results, by job.
    pub(super) rooms: BTreeMap<JobId, Room>,
    /// Jobs that are over, but whose peasants the duke still has.
    pub(super) closed: BTreeSet<JobId>,
    pub(super) unfit: BTreeSet<JobId>,
    pub(super) attempts: BTreeMap<AttemptId, Held>,
    pub(super) left: BTreeMap<AttemptId, Left>,
    pub(super) peasants: BTreeMap<BaronId, Peasant>,
    pub(super) peasants_made: u64,
    pub(super) answers: BTreeMap<AnswerId, bool>,
    pub(super) answers_made: u64,
    pub(super) draining: bool,
    /// Attempts that it claims but never had.
    pub(super) claims: BTreeSet<AttemptId>,
}

/// A part in a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// Whose job it is: the key of the job.
    pub(super) queen: JobId,
    pub(super) slot_bytes: u64,
}

/// An attempt that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) job: JobId,
    pub(super) queen: JobId,
    pub(super) unit: UnitNo,
    pub(super) bytes: u64,
    pub(super) number: u32,
}

/// The result or failure of an attempt, until the king says that it is not needed any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) held: Held,
    pub(super) end: AttemptEnd,
    pub(super) run_us: u64,
    pub(super) said: bool,
}

/// What comes of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum AttemptEnd {
    /// A result of this size.
    Done(u64),
    Failed,
    Killed,
    Returned {
        suspect: bool,
    },
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
    pub(super) fn new(
        boot: DukeId,
        seat: DukeId,
        cpus: u32,
        ram_bytes: u64,
        zone: u64,
        slowness: Option<Slowness>,
    ) -> Duke {
        Duke {
            boot,
            seat,
            links: 0,
            outbox: None,
            assembler: Assembler::new(u64::MAX),
            link: None,
            away_since: None,
            cpus,
            ram_bytes,
            zone,
            slowness,
            roster: Roster::default(),
            ticks_at: None,
            leases: BTreeMap::new(),
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
        self.peasants.is_empty() && self.leases.is_empty() && self.attempts.is_empty() && self.left.is_empty()
    }

    /// Forgets a job's attempts and results. Returns whether the job was open.
    fn close(&mut self, job: JobId) -> bool {
        if !self.leases.contains_key(&job) || !self.closed.insert(job) {
            return false;
        }
        self.attempts.retain(|_, held| held.job != job);
        self.left.retain(|_, left| left.held.job != job);
        true
    }

    fn check(&self, id: DukeId) {
        self.roster.check();
        assert!(self.peasants.len() <= self.cpus as usize, "no_more_peasants_than_processors: {id}");
        let bytes: u64 = self
            .peasants
            .values()
            .filter_map(|peasant| self.leases.get(&peasant.job))
            .map(|lease| lease.slot_bytes)
            .sum();
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

    pub(super) fn duke_hears(&mut self, link: DukeId, Parcel(orders): Parcel<DukeOrder>) {
        // The duke may have died while the orders were in transit, or may have another link by now.
        let Some(id) = self.machines.get(&link).copied() else { return };
        if orders.is_empty() && self.dukes.get(&id).is_some_and(|duke| duke.link == Some(link)) {
            return self.duke_is_alone(id);
        }
        for order in orders {
            let Some(duke) = self.dukes.get_mut(&id).filter(|duke| duke.link == Some(link)) else { return };
            match duke.assembler.accept(order) {
                Ok(Some((DukeOrder { order: Some(order) }, Ok(payload)))) => self.duke_obeys(id, order, &payload),
                Ok(None) => {}
                other => panic!("orders_of_a_king_fit_together: {other:?}"),
            }
        }
    }

    fn duke_obeys(&mut self, id: DukeId, order: Order, input: &Payload) {
        let lies = self.liars.contains(&id);
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let event = match order {
            Order::Welcome(_) => return duke.away_since = None,
            // The liar did not name this job, so the king has forgotten that it has it.
            Order::OpenLease(lease) if lies && duke.leases.contains_key(&JobId(lease.job)) => return,
            Order::OpenLease(lease) => {
                let (job, queen) = (JobId(lease.job), JobId(lease.key));
                duke.leases.insert(job, Lease { queen, slot_bytes: lease.slot_bytes });
                let timeout = (lease.timeout_ms > 0).then(|| Duration::from_millis(lease.timeout_ms));
                Event::LeaseOpened { job, timeout }
            }
            Order::CloseLease(wire::CloseLease { job }) => {
                if !duke.close(JobId(job)) {
                    return;
                }
                Event::LeaseClosed { job: JobId(job) }
            }
            Order::GrantSlots(wire::GrantSlots { job, slots }) => Event::SlotsGranted { job: JobId(job), slots },
            Order::ReleaseSlots(wire::ReleaseSlots { job, slots }) => Event::SlotsAskedBack { job: JobId(job), slots },
            Order::Forget(forget) => {
                return forget.attempts.into_iter().for_each(|it| self.duke_forgets(id, AttemptId(it)));
            }
            Order::StartAttempt(wire::StartAttempt { job, unit, attempt, number, alone, .. }) => {
                let (job, unit, attempt, bytes) = (JobId(job), UnitNo(unit), AttemptId(attempt), input.bytes());
                let Some(Lease { queen, .. }) = duke.leases.get(&job).copied() else {
                    // A liar claims leases that it does not have, and never answers.
                    assert!(lies, "attempts_are_of_open_leases: {attempt}");
                    return;
                };
                let known = duke.attempts.insert(attempt, Held { job, queen, unit, bytes, number });
                assert!(known.is_none(), "attempt_is_started_once: {attempt}");
                let queen = &self.queens[&queen];
                let is_whole = bytes == queen.unit(unit).input_bytes;
                assert!(is_whole || queen.plan().lies, "attempt_comes_with_its_input: {attempt}");
                self.strike_duke(id);
                Event::AttemptArrived { job, attempt, bytes, alone }
            }
            // The liar keeps the result that it offered.
            Order::SendResult(_) if lies && self.dice.permille(300) => return,
            Order::SendResult(wire::SendResult { attempt }) => return self.duke_sends(id, AttemptId(attempt)),
            Order::End(_) if lies => return self.liar_is_sent_away(id),
            Order::End(_) => return self.duke_is_alone(id),
            Order::Blob(_) | Order::Piece(_) => panic!("nothing_comes_that_was_not_asked_for: {id}: {order:?}"),
        };
        self.duke_handles(id, vec![event]);
    }

    fn duke_forgets(&mut self, id: DukeId, attempt: AttemptId) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        if duke.left.remove(&attempt).is_some() {
            self.make_room(id);
            return self.leave_if_drained(id);
        }
        let Some(held) = duke.attempts.get(&attempt) else { return };
        self.tally.attempts_forgotten += 1;
        let job = held.job;
        self.duke_handles(id, vec![Event::AttemptForgotten { job, attempt }]);
    }

    /// Sends a result that it offered.
    fn duke_sends(&mut self, id: DukeId, attempt: AttemptId) {
        let Some(left) = self.dukes.get_mut(&id).and_then(|duke| duke.left.get_mut(&attempt)) else {
            assert!(self.liars.contains(&id), "only_offers_are_fetched: {attempt}");
            return;
        };
        let was_said = std::mem::replace(&mut left.said, true);
        assert!(!was_said || self.liars.contains(&id), "results_are_fetched_once: {attempt}");
        let Left { end, run_us, .. } = *left;
        self.say_ended(id, attempt, end, run_us);
        self.leave_if_drained(id);
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
        self.duke_says(id, Word::Draining(wire::Draining {}));
        self.leave_if_drained(id);
    }

    pub(super) fn leave_if_drained(&mut self, id: DukeId) {
        let Some(duke) = self.dukes.get(&id).filter(|duke| duke.draining && duke.roster.is_idle()) else { return };
        if !duke.attempts.is_empty() || duke.left.values().any(|left| !left.said) {
            return;
        }
        self.duke_says(id, Word::End(wire::End::default()));
        self.remove_duke(id);
        self.tally.dukes_drained += 1;
        let back_in = self.dice.below(5_000_000);
        self.later(back_in, Due::DukeComes(None));
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
                self.say_unfit(id, job);
            }
            Action::TellReleased { job, slots } => {
                self.duke_says(id, Word::SlotsReleased(wire::SlotsReleased { job: job.0, slots }));
            }
            Action::TellBroken { job, slots } => {
                let reason = "peasants do not start".to_owned();
                self.duke_says(id, Word::SlotsBroken(wire::SlotsBroken { job: job.0, slots, reason }));
            }
            Action::Forget { job } => {
                duke.leases.remove(&job);
                duke.closed.remove(&job);
                duke.unfit.remove(&job);
            }
        }
    }

    fn report(&mut self, id: DukeId, attempt: AttemptId, outcome: Outcome, run_us: u64) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // The attempt may have been forgotten.
        let Some(held) = duke.attempts.remove(&attempt) else { return };
        let Held { queen, unit, .. } = held;
        let end = match outcome {
            Outcome::Answered(answer) if duke.answers[&answer] => {
                let bytes = self.queens[&queen].result_bytes(unit);
                self.tally.offers += u64::from(is_offered(bytes));
                AttemptEnd::Done(bytes)
            }
            Outcome::Answered(_) | Outcome::TimedOut(_) => AttemptEnd::Failed,
            Outcome::Killed(_) => {
                let nature = self.queens[&queen].unit(unit).nature;
                let by_chance = self.weather.peasant_dies > 0;
                assert!(nature == Nature::Kills || by_chance, "only_the_guilty_is_blamed: {queen}, {unit}");
                AttemptEnd::Killed
            }
            Outcome::Returned { suspect } => {
                return self.say_ended(id, attempt, AttemptEnd::Returned { suspect }, run_us);
            }
        };
        self.leave_behind(id, attempt, Left { held, end, run_us, said: false });
    }

    fn leave_behind(&mut self, id: DukeId, attempt: AttemptId, left: Left) {
        if let Some(duke) = self.dukes.get_mut(&id) {
            duke.left.insert(attempt, left);
        }
        self.say_left(id, attempt);
    }

    /// Reports how an attempt ended, or offers its large result.
    pub(super) fn say_left(&mut self, id: DukeId, attempt: AttemptId) {
        let Some(left) = self.dukes.get_mut(&id).and_then(|duke| duke.left.get_mut(&attempt)) else { return };
        let Left { end, run_us, .. } = *left;
        match end {
            AttemptEnd::Done(bytes) if is_offered(bytes) => self.say_offered(id, attempt, bytes, run_us),
            _ => {
                left.said = true;
                self.say_ended(id, attempt, end, run_us);
            }
        }
    }

    pub(super) fn compiled(&mut self, id: DukeId, job: JobId) {
        // The job may be over.
        let Some(lease) = self.dukes.get(&id).and_then(|duke| duke.leases.get(&job)) else { return };
        let unfit = self.queens[&lease.queen].plan().unfit && self.dice.permille(500);
        let broken = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let event = match (broken, unfit) {
            (true, _) => Event::ProgramBroken { job },
            (false, true) => Event::ProgramUnfit { job },
            (false, false) => Event::ProgramReady { job },
        };
        self.duke_handles(id, vec![event]);
    }

    /// No king came back in time: gives up all jobs.
    pub(super) fn duke_gives_up(&mut self, id: DukeId, since: Time) {
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| duke.away_since == Some(since)) else { return };
        if duke.link.is_some() {
            return;
        }
        let jobs: Vec<JobId> = duke.leases.keys().copied().collect();
        let closed = jobs.into_iter().filter(|job| duke.close(*job)).map(|job| Event::LeaseClosed { job });
        let closed: Vec<Event> = closed.collect();
        self.duke_handles(id, closed);
    }
}
