//! The simulated world: one king, dukes, peasants and queens in one thread, and a queue of events by time.
//!
//! The real king, dukes and queens run here, behind their real borders. Everything between them is simulated: links
//! that delay messages, keep their order, lose them and break; peasants that run, fail, hang and die; disks that are
//! slow or full; dukes and queens that leave, fall silent and come back; kings that fall and restart with nothing;
//! processes that are halted for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use distwasm_duke::{cache::Supply, peasant::InputNo, reactor::Read};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    time::Time,
    wire::{DukeOrder, DukeWord, QueenNews, QueenWord},
};
use distwasm_transport::transfer::OutboxStream;

use super::{
    duke::Duke,
    halts::{Halted, Process},
    king::King,
    output_folders::OutputFolders,
    queen::Queen,
    tally::Tally,
    weather::{DUKE_BYTES_MIN, Dice, QueenPlan, Slowness, Weather},
    wires::{Parcel, Said},
};

/// Everything that can be due.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// Words for the king, from one link.
    ToKing(Sender, Said),
    /// Orders for a duke, over this link.
    ToDuke(DukeId, Parcel<DukeOrder>),
    /// News for a queen, over this link.
    ToQueen(JobId, u64, Parcel<QueenNews>),
    /// The king notices that a link is broken.
    KingMisses(Sender),
    KingFalls,
    KingTick,
    /// Somebody cancels the job of this queen.
    JobCancelled(JobId),
    DukeTick(DukeId),
    /// A duke starts, perhaps in the place of another.
    DukeComes(Option<DukeId>),
    DukeDies(DukeId),
    /// A lying duke lies, or leaves if the time of faults is over.
    DukeLies(DukeId),
    DukeFallsSilent(DukeId),
    DukeDrains(DukeId),
    /// A duke's link breaks.
    DukeCutOff(DukeId),
    /// A duke without a link finds the king again.
    DukeReturns(DukeId),
    QueenComes(usize),
    Queen(JobId, QueenDue),
    /// A process is halted for this many microseconds.
    Halts(Process, u64),
    GoesOn(Process),
    /// Something happens to the peasant with this number, if this baron still has it.
    Peasant(DukeId, BaronId, u64, PeasantDue),
    /// Parts of a streamed input are stored.
    Stored(DukeId, InputNo),
    /// A part of a result is read.
    ResultRead(DukeId, Read, Range<u64>),
    /// A duke has tried to make a supply, in its attempt with this number.
    Made(DukeId, Supply, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    /// A duke's link.
    Duke(DukeId),
    /// A queen's link to a job, by number: the first, the second, …
    Queen(JobId, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueenDue {
    /// Its link breaks.
    CutOff,
    /// It finds the king, or finds it again.
    Returns,
    /// It has looked for the king for too long.
    GivesUp,
    Leaves,
    /// It is killed.
    Dies,
    /// If it lies: it lies, or leaves if the time of faults is over.
    Lies,
    /// It reads the next piece of its waiting news.
    Hears,
    Deadline,
    /// It finds inputs.
    Lists,
    ReadersWork,
    ReadersStop,
    /// Outputs are written.
    Writes,
    /// Parts of a streamed result are stored.
    Stores(AttemptId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeasantDue {
    Ready,
    Unfit,
    /// It cannot load the compiled program.
    Spoiled,
    /// A large answer begins to arrive.
    AnswerBegins(UnitNo),
    /// An answer has arrived.
    Answers {
        unit: UnitNo,
        is_done: bool,
    },
    /// An answer is in a file of the duke.
    AnswersInFile(UnitNo),
    /// An answer needs such a file.
    NeedsFile,
    /// The current unit has ended; the next one begins.
    Next,
    /// There is room for its answer.
    Room,
    Dies,
    Gone,
}

impl PeasantDue {
    /// Whose answer is in a file.
    pub(super) fn unit(self) -> Option<UnitNo> {
        if let PeasantDue::AnswersInFile(unit) = self { Some(unit) } else { None }
    }
}

/// See the module's documentation.
pub struct World {
    pub(super) now: Time,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    pub(super) tally: Tally,
    pub(super) king: King,
    /// Dukes, by machine.
    pub(super) dukes: BTreeMap<DukeId, Duke>,
    /// The machine of each link.
    pub(super) machines: BTreeMap<DukeId, DukeId>,
    /// Machines of dukes that lie, or did.
    pub(super) liars: BTreeSet<DukeId>,
    /// Dukes' links that are slow.
    pub(super) slow_links: BTreeMap<DukeId, Slowness>,
    pub(super) queens: BTreeMap<JobId, Queen>,
    /// Where dukes write results.
    pub(super) folders: OutputFolders,
    /// How long each attempt runs in any case, in microseconds.
    pub(super) spared: BTreeMap<AttemptId, u64>,
    pub(super) plans: Vec<QueenPlan>,
    due: BTreeMap<(Time, u64), Due>,
    dues_made: u64,
    /// What dukes and queens say, until it is sent off.
    pub(super) duke_wires: BTreeMap<DukeId, OutboxStream<DukeWord>>,
    pub(super) queen_wires: BTreeMap<Sender, OutboxStream<QueenWord>>,
    /// The latest arrival on each link in each direction, so that messages keep their order.
    pub(super) arrivals: BTreeMap<(Sender, bool), Time>,
    /// When each broken link broke: later arrivals are lost.
    pub(super) cuts: BTreeMap<(Sender, bool), Time>,
    /// Processes that are halted.
    pub(super) halted: BTreeMap<Process, Halted>,
    links_made: u64,
    /// The largest number that a job had.
    pub(super) last_job: u64,
    log: Option<Vec<String>>,
}

/// More events than any simulated kingdom needs. Reaching it means an endless loop.
const EVENTS_MAX: u64 = 2_000_000;

impl World {
    /// The world of a seed, before anything has happened. `log` keeps a line for each event.
    pub fn new(seed: u64, log: bool) -> World {
        let mut dice = Dice::new(seed);
        let weather = Weather::draw(&mut dice);
        let plans = (0..weather.queens).map(|_| weather.queen(&mut dice)).collect();
        let mut world = World::empty(dice, weather, plans, log);
        for _ in 0..world.weather.dukes {
            let in_us = world.dice.below(3_000_000);
            world.later(in_us, Due::DukeComes(None));
        }
        world
    }

    /// A world without faults: dukes with these numbers of processors, and these queens.
    pub fn fair(dukes: &[u32], plans: Vec<QueenPlan>) -> World {
        World::preempting(0, dukes, plans)
    }

    /// The same with a king that takes slots by force that are not back after this many microseconds.
    pub fn preempting(preempt_after_us: u64, dukes: &[u32], plans: Vec<QueenPlan>) -> World {
        let weather = Weather { preempt_after_us, ..Weather::fair() };
        let mut world = World::empty(Dice::new(0), weather, plans, false);
        for cpus in dukes {
            world.new_duke(*cpus, DUKE_BYTES_MIN, None);
        }
        world
    }

    /// Slows down the link of a duke that was there from the start.
    pub fn slow_down(&mut self, duke: usize, slowness: Slowness) {
        let machine = self.dukes.keys().nth(duke).copied();
        let links = self.machines.iter().filter(|(_, of)| Some(**of) == machine);
        self.slow_links.extend(links.map(|(link, _)| (*link, slowness)));
    }

    fn empty(dice: Dice, weather: Weather, plans: Vec<QueenPlan>, log: bool) -> World {
        let mut world = World {
            now: Time::default(),
            dice,
            king: King::new(Time::default(), 0, &weather),
            weather,
            tally: Tally::default(),
            dukes: BTreeMap::new(),
            machines: BTreeMap::new(),
            liars: BTreeSet::new(),
            slow_links: BTreeMap::new(),
            queens: BTreeMap::new(),
            folders: OutputFolders::default(),
            spared: BTreeMap::new(),
            plans,
            due: BTreeMap::new(),
            dues_made: 0,
            duke_wires: BTreeMap::new(),
            queen_wires: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            cuts: BTreeMap::new(),
            halted: BTreeMap::new(),
            links_made: 0,
            last_job: 0,
            log: log.then(Vec::new),
        };
        for (number, comes_us) in world.plans.iter().map(|plan| plan.comes_us).enumerate().collect::<Vec<_>>() {
            world.later(comes_us, Due::QueenComes(number));
        }
        if world.weather.king_falls_us > 0 {
            let in_us = world.dice.below(2 * world.weather.king_falls_us);
            world.later(in_us, Due::KingFalls);
        }
        world.king_halts_later();
        world
    }

    /// Runs all events until this time.
    pub fn run_until(&mut self, until: Time) {
        while self.due.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.next();
        }
    }

    /// Runs until all units have ended; returns when that is.
    ///
    /// # Panics
    ///
    /// When a check fails, or nothing happens any more.
    pub fn run_until_done(&mut self) -> Time {
        let is_done = |queen: &Queen| queen.ended() == queen.plan().units.len();
        while self.queens.len() < self.plans.len() || !self.queens.values().all(is_done) {
            assert!(self.next(), "every_unit_ends");
        }
        self.now
    }

    /// The slots that each project has.
    pub fn slots_of_projects(&self) -> BTreeMap<&str, u32> {
        self.king.reactor.scheduler().slots_of_projects()
    }

    /// How many units of each queen are done, in the order in which the queens started.
    pub fn units_done(&self) -> Vec<usize> {
        self.queens.values().map(Queen::ended).collect()
    }

    /// Runs all events, checks every invariant after each, and checks at the end that every job has ended.
    ///
    /// # Panics
    ///
    /// When a check fails.
    pub fn run(&mut self) -> Tally {
        while self.next() {}
        self.check_rest();
        self.tally
    }

    /// Runs the next event. Returns whether there was one.
    fn next(&mut self) -> bool {
        let Some(((at, _), due)) = self.due.pop_first() else { return false };
        self.now = at;
        self.tally.events += 1;
        assert!(self.tally.events < EVENTS_MAX, "kingdom_comes_to_rest: {due:?}");
        self.note(&due);
        if let Some(due) = self.put_off(due) {
            self.step(due);
        }
        true
    }

    fn note(&mut self, due: &Due) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>12} {due:?}", self.now.0));
        }
    }

    /// The log, a line for each event. Empty unless it was asked for.
    pub fn log(&self) -> &[String] {
        self.log.as_deref().unwrap_or_default()
    }

    fn step(&mut self, due: Due) {
        match due {
            Due::ToKing(sender, said) => {
                if !self.is_cut(sender, true) {
                    self.king_hears(sender, said);
                }
            }
            Due::ToDuke(link, orders) => {
                if !self.is_cut(Sender::Duke(link), false) {
                    self.duke_hears(link, orders);
                }
            }
            Due::ToQueen(job, link, news) => {
                if !self.is_cut(Sender::Queen(job, link), false) {
                    self.queen_gets(job, link, news);
                }
            }
            Due::KingMisses(sender) => {
                self.king_misses(sender);
                self.king_runs();
            }
            Due::KingFalls => self.king_falls(),
            Due::JobCancelled(queen) => self.job_cancelled(queen),
            Due::Halts(process, for_us) => self.halts(process, for_us),
            Due::GoesOn(process) => self.goes_on(process),
            Due::DukeCutOff(duke) => self.duke_cut_off(duke),
            Due::DukeReturns(duke) => self.duke_returns(duke),
            Due::KingTick => self.king_ticks(),
            Due::DukeTick(duke) => self.duke_ticks(duke),
            Due::DukeComes(after) => self.duke_comes(after),
            Due::DukeDies(duke) => self.duke_dies(duke),
            Due::DukeLies(duke) => self.duke_lies(duke),
            Due::DukeDrains(duke) => self.duke_drains(duke),
            Due::DukeFallsSilent(duke) => self.duke_falls_silent(duke),
            Due::QueenComes(number) => self.queen_comes(number),
            Due::Queen(job, due) => self.queen_due(job, due),
            Due::Peasant(duke, baron, peasant, due) => self.peasant_due(duke, baron, peasant, due),
            Due::Stored(duke, input) => self.input_stored(duke, input),
            Due::ResultRead(duke, read, part) => self.result_read(duke, read, part),
            Due::Made(duke, supply, number) => self.supply_made(duke, supply, number),
        }
    }

    // ---- Time and links -------------------------------------------------------------------------------------------

    pub(super) fn later(&mut self, in_us: u64, due: Due) {
        self.at(Time(self.now.0 + in_us), due);
    }

    pub(super) fn at(&mut self, at: Time, due: Due) {
        self.dues_made += 1;
        self.due.insert((at.max(self.now), self.dues_made), due);
    }

    /// Takes all events of this kind out of the queue.
    pub(super) fn take_dues(&mut self, is_of_kind: impl Fn(Time, &Due) -> bool) -> Vec<(Time, Due)> {
        self.due.extract_if(.., |(at, _), due| is_of_kind(*at, due)).map(|((at, _), due)| (at, due)).collect()
    }

    /// Takes the next event out of the queue, if it is due at this very moment and of this kind.
    pub(super) fn take_due_now(&mut self, is_of_kind: impl Fn(&Due) -> bool) -> Option<Due> {
        let next = self.due.first_entry().filter(|next| next.key().0 == self.now && is_of_kind(next.get()))?;
        let due = next.remove();
        self.note(&due);
        Some(due)
    }

    pub(super) fn faults_go_on(&self) -> bool {
        self.now.0 < self.weather.faults_end_us
    }

    pub(super) fn next_link(&mut self) -> u64 {
        self.links_made += 1;
        self.links_made
    }

    /// A number that no job has had. Later jobs have larger ones.
    pub(super) fn next_number(&self) -> JobId {
        JobId(self.last_job + 1)
    }

    // ---- The end --------------------------------------------------------------------------------------------------

    /// Checks that, with nothing left to happen, every job has ended, every input has its verdict, and every slot is
    /// free.
    fn check_rest(&self) {
        for (job, queen) in &self.queens {
            queen.check_end(*job);
        }
        self.king.check_rest();
        for (id, duke) in &self.dukes {
            assert!(duke.is_idle(), "duke_is_idle_at_the_end: {id}");
        }
    }
}
