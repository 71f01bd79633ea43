//! A simulated duke: the real reactor and the real border of each of its links, with hands that the world moves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use distwasm_duke::{
    border::{Border, KingOrder, LinkError},
    cache::{MakeError, Supply},
    peasant::{Content, InputNo},
    reactor::{Ending, Happening, Introduction, Reactor, ReactorSettings},
};
use distwasm_proto::{
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{AttemptId, BaronId, DukeId},
    secret::Secret,
    time::Time,
    wire::{self, DukeOrder, DukeWord, duke_word::Word},
};
use distwasm_transport::transfer::Outbox;

use super::{
    halts::Process,
    hands::{Deed, SimHands},
    peasants::Peasant,
    weather::{Nature, Slowness, UNFIT_PROGRAM, Weather},
    wires::{Parcel, part_of},
    world::{Due, PeasantDue, Sender, World},
};

/// One duke, on one machine, over all its links.
pub(super) struct Duke {
    /// The number of its place on the machine.
    pub(super) seat: DukeId,
    /// The current link, as far as the duke knows.
    pub(super) link: Option<DukeLink>,
    pub(super) cpus: u32,
    pub(super) ram_bytes: u64,
    /// Its label.
    pub(super) zone: u64,
    /// How slow its links are, if they are slow.
    pub(super) slowness: Option<Slowness>,
    pub(super) reactor: Reactor<SimHands>,
    /// When its next tick is due.
    ticks_at: Option<Time>,
    pub(super) peasants: BTreeMap<BaronId, Peasant>,
    pub(super) peasants_made: u64,
    /// How many programs it may compile at a time.
    parallel: u32,
    /// Its compilers, which have numbers, and whether they were stopped.
    compilers: BTreeMap<Supply, (u64, bool)>,
    compilers_made: u64,
    /// Peasants, by their numbers, whose large answers wait for room.
    pub(super) waiting: VecDeque<(BaronId, u64)>,
    /// The link over which it last said that it is leaving.
    leaving_said: Option<DukeId>,
    /// Attempts that it claims but never had.
    pub(super) claims: BTreeSet<AttemptId>,
    /// How many bytes of streamed inputs have come.
    pub(super) stored: BTreeMap<InputNo, u64>,
    /// It was killed, and has not put anything in order.
    pub(super) is_killed: Arc<AtomicBool>,
}

/// The duke's side of a link.
pub(super) struct DukeLink {
    pub(super) number: DukeId,
    pub(super) outbox: Outbox<DukeWord>,
    border: Border,
}

impl Duke {
    /// A duke with this number, on a machine of this size.
    pub(super) fn new(
        number: DukeId,
        seat: DukeId,
        (cpus, ram_bytes): (u32, u64),
        zone: u64,
        (grace_us, window_bytes): (u64, u64),
    ) -> Duke {
        let introduction = Introduction {
            hostname: number.to_string(),
            cpus,
            ram_bytes,
            labels: [("zone".to_owned(), zone.to_string())].into(),
            walls: Vec::new(),
            boot: number.0,
            seat: Secret::new(u128::from(seat.0).to_be_bytes()),
        };
        let grace = Duration::from_micros(grace_us);
        let parallel = if number.0.is_multiple_of(3) { 2 } else { 1 };
        let settings = ReactorSettings { introduction, grace, parallel, is_alone: false, window_bytes };
        Duke {
            seat,
            link: None,
            cpus,
            ram_bytes,
            zone,
            slowness: None,
            reactor: Reactor::new(settings, SimHands::default()),
            ticks_at: None,
            peasants: BTreeMap::new(),
            peasants_made: 0,
            parallel,
            compilers: BTreeMap::new(),
            compilers_made: 0,
            waiting: VecDeque::new(),
            leaving_said: None,
            claims: BTreeSet::new(),
            stored: BTreeMap::new(),
            is_killed: Arc::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let has_nothing = self.peasants.is_empty() && self.compilers.is_empty() && self.stored.is_empty();
        has_nothing && self.reactor.is_at_rest()
    }

    /// The number of the current link.
    pub(super) fn link(&self) -> Option<DukeId> {
        self.link.as_ref().map(|link| link.number)
    }

    /// Whether another compiler would be one too many.
    fn compiles_enough(&self) -> bool {
        self.compilers.len() >= self.parallel as usize
    }

    fn check_compilers(&self, id: DukeId) {
        assert!(self.compilers.len() <= self.parallel as usize, "no_more_compilers_than_may_run: {id}");
        for (supply, (_, stopped)) in &self.compilers {
            assert!(
                *stopped || self.reactor.awaits(supply),
                "no_compiler_runs_for_which_no_job_waits: {id}: {supply:?}"
            );
        }
    }

    fn check(&self, id: DukeId) {
        assert!(self.peasants.len() <= self.cpus as usize, "no_more_peasants_than_processors: {id}");
        let bytes: u64 = self.peasants.values().map(|peasant| peasant.slot_bytes).sum();
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

    /// A connection to the king stands.
    pub(super) fn duke_connects(&mut self, id: DukeId, number: DukeId) {
        let outbox = self.wire_duke(number);
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.link = Some(DukeLink { number, outbox: outbox.clone(), border: Border::default() });
        self.duke_handles(id, Happening::Connected(outbox));
    }

    pub(super) fn duke_hears(&mut self, number: DukeId, Parcel(orders): Parcel<DukeOrder>) {
        // The duke may have died while the orders were in transit, or may have another link by now.
        let Some(id) = self.machines.get(&number).copied() else { return };
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some(link) = duke.link.as_mut().filter(|link| link.number == number) else { return };
        if orders.is_empty() {
            return self.duke_is_alone(id, LinkError::Silent);
        }
        match link.border.take(wire::ToDuke { orders }) {
            Ok(mut orders) => {
                if self.liars.contains(&id) {
                    // The liar keeps results that it offered.
                    orders.retain(|order| {
                        let is_wanted =
                            matches!(order, KingOrder::ResultWanted { .. } | KingOrder::ResultPartWanted { .. });
                        !is_wanted || !self.dice.permille(300)
                    });
                }
                self.watch_orders(id, &orders);
                self.duke_handles(id, Happening::Ordered(orders));
            }
            Err(LinkError::Ended(_)) if self.liars.contains(&id) => self.liar_is_sent_away(id),
            Err(error @ LinkError::Ended(_)) => self.duke_is_alone(id, error),
            Err(error) => panic!("orders_of_a_king_pass_the_border: {id}: {error}"),
        }
    }

    /// Takes note of what a duke is about to be told.
    fn watch_orders(&mut self, id: DukeId, orders: &[KingOrder]) {
        for order in orders {
            match order {
                KingOrder::AttemptArrived { .. } => self.strike_duke(id),
                KingOrder::Forget { attempts, unused } => {
                    let Some(duke) = self.dukes.get(&id) else { return };
                    let is_named = |attempt: &AttemptId| attempts.contains(attempt) || unused.contains(attempt);
                    let ended = duke.reactor.running().filter(is_named);
                    self.tally.attempts_forgotten += ended.count() as u64;
                }
                _ => {}
            }
        }
    }

    /// Lets a duke's reactor handle what has happened, and does what it orders.
    pub(super) fn duke_handles(&mut self, id: DukeId, happening: Happening) {
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.reactor.handle(now, &mut vec![happening]);
        duke.reactor.check();
        for deed in duke.reactor.hands().take() {
            self.duke_does(id, deed);
        }
        self.duke_speaks(id);
        self.make_room(id);
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.check_compilers(id);
        if !self.liars.contains(&id) {
            duke.check(id);
        }
        if let Some(ending) = duke.reactor.ending() {
            return self.duke_leaves(id, &ending);
        }
        if let Some(deadline) = duke.reactor.next_deadline()
            && duke.ticks_at.is_none_or(|at| deadline < at)
        {
            duke.ticks_at = Some(deadline);
            self.at(deadline, Due::DukeTick(id));
        }
    }

    pub(super) fn duke_ticks(&mut self, id: DukeId) {
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id).filter(|duke| duke.ticks_at.is_some_and(|at| at <= now)) else {
            return;
        };
        duke.ticks_at = None;
        self.duke_handles(id, Happening::Tick);
    }

    /// A duke begins a graceful shutdown.
    pub(super) fn duke_drains(&mut self, id: DukeId) {
        if self.dukes.get(&id).is_none_or(|duke| duke.reactor.is_draining()) {
            return;
        }
        let patience_us = self.dice.pick(&[1_000, 100_000, 10_000_000, 60_000_000]);
        let patience = Duration::from_micros(patience_us);
        self.duke_handles(id, Happening::Draining { patience });
    }

    /// A graceful shutdown is over: the duke says goodbye.
    fn duke_leaves(&mut self, id: DukeId, ending: &Ending) {
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        duke.reactor.leave(now);
        let unsaid = duke.reactor.unsaid().next();
        if let Some(link) = duke.link() {
            self.carry_to_king(0, Sender::Duke(link));
        }
        drop(self.take_duke(id));
        match ending {
            Ending::Drained => {
                assert!(unsaid.is_none(), "drained_duke_has_said_how_its_attempts_ended: {id}: {unsaid:?}");
                self.tally.dukes_drained += 1;
            }
            Ending::OutOfTime => self.tally.dukes_out_of_time += 1,
            Ending::Refused(why) => panic!("duke_without_a_token_is_let_in: {id}: {why}"),
            Ending::Hopeless(why) => panic!("only_a_duke_that_is_alone_gives_up: {id}: {why}"),
        }
        let back_in = self.dice.below(5_000_000);
        self.later(back_in, Due::DukeComes(None));
    }

    fn duke_does(&mut self, id: DukeId, deed: Deed) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        match deed {
            Deed::Hire { baron, job, program, slot_bytes, takes_files, room } => {
                let mark = duke.reactor.mark_of(job);
                let Some(queen) = mark.and_then(|mark| self.queen_of(mark)) else {
                    panic!("peasants_are_of_open_leases: {job}")
                };
                self.hire(id, baron, (job, queen), program, slot_bytes, room);
                let peasant = self.dukes.get_mut(&id).and_then(|duke| duke.peasants.get_mut(&baron));
                if let Some(peasant) = peasant {
                    peasant.takes_files = takes_files;
                }
            }
            Deed::Feed(baron, file, input) => {
                let Some(peasant) = duke.peasants.get_mut(&baron) else { panic!("fed_peasant_lives: {baron}") };
                let queen = &self.queens[&peasant.queen];
                let is_whole = match &input.content {
                    Content::Carried(content) => content.bytes() == queen.unit(input.unit).input_bytes,
                    Content::Referenced { listed_bytes } => *listed_bytes == queen.unit(input.unit).input_bytes,
                    Content::Streamed { bytes, .. } => {
                        let takes_files = peasant.takes_files || queen.plan().dukes_write;
                        assert!(takes_files, "peasant_takes_the_file_of_its_input: {baron}");
                        self.tally.inputs_streamed += 1;
                        let stored = file.and_then(|file| duke.stored.get(&file).copied());
                        let is_there = stored == Some(*bytes) || queen.plan().lies;
                        assert!(is_there, "streamed_input_is_whole: {id}, {}", input.unit);
                        *bytes == queen.unit(input.unit).input_bytes
                    }
                };
                assert!(is_whole || queen.plan().lies, "attempt_comes_with_its_input: {}", input.unit);
                peasant.pipe.push_back((input.unit, input.is_kept));
                self.peasant_goes_on(id, baron);
            }
            Deed::Store(input, part) => self.store(id, input, &part),
            Deed::Read(bytes, read, part) => self.duke_reads(id, bytes, read, part),
            Deed::Discard(input) => drop(duke.stored.remove(&input)),
            Deed::Retire(baron) => {
                if let Some(number) = duke.peasants.get(&baron).map(|peasant| peasant.number) {
                    self.later(100, Due::Peasant(id, baron, number, PeasantDue::Gone));
                }
            }
            Deed::Kill(baron) => {
                if let Some(number) = duke.peasants.get(&baron).map(|peasant| peasant.number) {
                    let in_us = self.dice.below(2_000);
                    self.later(in_us, Due::Peasant(id, baron, number, PeasantDue::Dies));
                }
            }
            Deed::Bury(baron) => drop(duke.peasants.remove(&baron)),
            Deed::Make(supply) => {
                duke.compilers_made += 1;
                let number = duke.compilers_made;
                let before = duke.compilers.insert(supply.clone(), (number, false));
                assert!(before.is_none(), "supply_is_made_once_at_a_time: {id}: {supply:?}");
                self.tally.compilers_busy += u64::from(duke.compiles_enough());
                let us_max = self.dice.pick(&[200_000, 200_000, 5_000_000]);
                let in_us = if self.weather.is_fair() { 100_000 } else { self.dice.below(us_max) };
                self.later(in_us, Due::Made(id, supply, number));
            }
            Deed::Stop(supply) => {
                let Some((number, stopped)) = duke.compilers.get_mut(&supply) else {
                    panic!("stopped_compiler_runs: {id}: {supply:?}")
                };
                let number = *number;
                *stopped = true;
                self.tally.compilers_stopped += 1;
                let in_us = self.dice.below(20_000);
                self.later(in_us, Due::Made(id, supply, number));
            }
        }
    }

    /// A part of a streamed input comes, and is stored some time later.
    fn store(&mut self, id: DukeId, input: InputNo, part: &Bytes) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let stored = duke.stored.entry(input).or_insert(0);
        let offset = *stored;
        *stored += part.len() as u64;
        // It may have been given up in the same batch.
        if let Some((job, unit)) = duke.reactor.unit_of_input(input)
            && let Some(queen) = duke.reactor.mark_of(job).and_then(|mark| self.queen_of(mark))
        {
            let is_right = *part == part_of(unit, offset, part.len() as u64);
            assert!(is_right || self.queens[&queen].plan().lies, "parts_come_in_order_and_once: {id}, {input:?}");
        }
        let us_max = self.dice.pick(&[1, 100, 20_000]);
        let in_us = self.dice.below(us_max);
        self.later(in_us, Due::Stored(id, input));
    }

    /// Some parts of an input are stored. Some of the units that fail have inputs that cannot be stored.
    pub(super) fn input_stored(&mut self, id: DukeId, input: InputNo) {
        let Some(duke) = self.dukes.get(&id) else { return };
        let Some(bytes) = duke.stored.get(&input).copied() else { return };
        let of_unit = duke.reactor.unit_of_input(input);
        let owner = of_unit.and_then(|(job, unit)| Some((self.queen_of(duke.reactor.mark_of(job)?)?, unit)));
        let nature = owner.map(|(queen, unit)| self.queens[&queen].unit(unit).nature);
        let is_full = nature == Some(Nature::Fails) && input.0.is_multiple_of(2);
        let stored = if is_full { Err("the disk is full".to_owned()) } else { Ok(bytes) };
        self.duke_handles(id, Happening::InputStored { input, stored });
    }

    /// A supply has been made, or could not be.
    pub(super) fn supply_made(&mut self, id: DukeId, supply: Supply, number: u64) {
        let is_unfit = supply.digest() == Digest::of([UNFIT_PROGRAM]) && self.dice.permille(500);
        let is_kept = self.dice.permille(500);
        let is_broken = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let in_time = self.dice.permille(300);
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // A compiler that was stopped has two ends: the first of them counts.
        let Some((_, stopped)) = duke.compilers.get(&supply).copied().filter(|(made, _)| *made == number) else {
            return;
        };
        duke.compilers.remove(&supply);
        let result = match (is_broken, is_unfit) {
            _ if stopped && !in_time => Err(MakeError::Stopped),
            (true, _) => Err(MakeError::Trouble("the disk is full".to_owned())),
            (false, true) => Err(MakeError::Unfit(Failure::new(FailureKind::Program, "it is unfit"))),
            (false, false) => Ok(duke.reactor.hands().compile(&supply, is_kept)),
        };
        self.duke_handles(id, Happening::SupplyTried { supply, result });
    }

    // ---- Words ----------------------------------------------------------------------------------------------------

    /// Sends off what the reactor has said. If it has ended the link, the duke drops it.
    fn duke_speaks(&mut self, id: DukeId) {
        let Some(link) = self.dukes.get(&id).and_then(Duke::link) else { return };
        self.carry_to_king(0, Sender::Duke(link));
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        // A link may have broken before the duke notices it.
        let is_told = duke.leaving_said == Some(link) || !self.duke_wires.contains_key(&link);
        assert!(is_told || !duke.reactor.is_draining(), "king_is_told_that_a_duke_is_leaving: {id}");
        if !duke.reactor.is_linked() {
            duke.link = None;
            self.duke_wires.remove(&link);
            self.duke_returns_later(id);
        }
    }

    /// Takes note of what a duke says over a link. What a liar says of itself is made false here.
    pub(super) fn watch_duke(&mut self, link: DukeId, words: Vec<DukeWord>) -> Vec<DukeWord> {
        let Some(id) = self.machines.get(&link).copied() else { return words };
        let lies = self.liars.contains(&id);
        for word in &words {
            match &word.word {
                Some(Word::ResultOffered(_)) => self.tally.offers += 1,
                Some(Word::Draining(_)) => {
                    if let Some(duke) = self.dukes.get_mut(&id) {
                        duke.leaving_said = Some(link);
                    }
                }
                Some(Word::AttemptEnded(ended)) if ended.outcome() == wire::Outcome::Killed && !lies => {
                    self.check_blame(id, AttemptId(ended.attempt));
                }
                Some(Word::AttemptEnded(ended)) if ended.outcome() == wire::Outcome::Preempted && !lies => {
                    self.tally.units_preempted += 1;
                    let spared_us = self.spared.get(&AttemptId(ended.attempt)).copied().unwrap_or(0);
                    assert!(ended.run_us >= spared_us, "unit_that_was_preempted_gets_longer: {id}: {}", ended.run_us);
                }
                Some(Word::End(end)) => {
                    let is_leaving = end.reason == "the duke is leaving";
                    assert!(is_leaving || lies, "orders_of_a_king_can_be_obeyed: {id}: {}", end.reason);
                }
                _ => {}
            }
        }
        if lies { self.embellish(id, words) } else { words }
    }

    fn check_blame(&self, id: DukeId, attempt: AttemptId) {
        let Some(duke) = self.dukes.get(&id) else { return };
        // It may have been forgotten as soon as it was said.
        let Some((job, unit)) = duke.reactor.unit_of(attempt) else { return };
        let Some(queen) = duke.reactor.mark_of(job).and_then(|mark| self.queen_of(mark)) else {
            panic!("attempts_are_of_jobs: {attempt}")
        };
        let nature = self.queens[&queen].unit(unit).nature;
        let by_chance = self.weather.peasant_dies > 0;
        assert!(nature == Nature::Kills || by_chance, "only_the_guilty_is_blamed: {queen}, {unit}");
    }
}
