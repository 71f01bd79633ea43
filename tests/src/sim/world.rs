//! The simulated world: one king, dukes, peasants and queens in one thread, and a queue of events by time.
//!
//! The real scheduler, rosters and submissions run here. Everything between them is simulated: links that delay
//! messages, keep their order, lose them and break; peasants that run, fail, hang and die; dukes and queens that leave,
//! fall silent and come back; kings that fall and restart with nothing; processes that are halted for a while.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_king::scheduler::{self, HeldLease, JobSpec, Outcome, Resumption};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    limits::UNIT_BYTES_MAX,
    time::Time,
};

use super::{
    duke::Duke,
    halts::{Halted, Process},
    king::King,
    queen::Queen,
    tally::Tally,
    weather::{DUKE_BYTES_MIN, Dice, QueenPlan, Slowness, Weather},
};

/// Everything that can be due.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// A word for the king, from one link.
    ToKing(Sender, KingWord),
    /// An order for a duke, over this link.
    ToDuke(DukeId, DukeOrder),
    /// News for a queen, over this link.
    ToQueen(JobId, u64, QueenNews),
    /// The king notices that a link is broken.
    KingMisses(Sender),
    KingFalls,
    KingTick,
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
    /// A duke without a king gives up its jobs, after its grace time.
    DukeGivesUp(DukeId, Time),
    QueenCutOff(JobId),
    QueenReturns(JobId),
    QueenComes(usize),
    QueenLeaves(JobId),
    /// A lying queen lies, or leaves if the time of faults is over.
    QueenLies(JobId),
    /// A queen reads the next piece of its waiting news.
    QueenReads(JobId),
    QueenTick(JobId),
    /// A process is halted for this many microseconds.
    Halts(Process, u64),
    GoesOn(Process),
    /// Something happens to the peasant with this number, if this baron still has it.
    Peasant(DukeId, BaronId, u64, PeasantDue),
    Compiled(DukeId, JobId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    /// A duke's link.
    Duke(DukeId),
    /// A queen's link to a job, by number: the first, the second, …
    Queen(JobId, u64),
}

#[derive(Clone, Debug)]
pub(super) enum KingWord {
    /// A duke's word.
    Event(scheduler::Event),
    /// A duke joins, and names what it holds.
    Joins(Box<Joining>),
    /// A queen opens a job, or resumes it.
    Opens(Box<Opening>),
    /// A unit of a queen, without a size if its input does not come whole.
    Unit { unit: UnitNo, bytes: Option<u64> },
    /// A queen has sent this many units, and there are no more.
    Closed(u64),
    /// A queen has heard this many verdicts.
    Heard(u64),
    /// A queen leaves.
    Leaves,
}

/// A queen with a new link.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) key: u64,
    pub(super) spec: JobSpec,
    /// The job that it resumes.
    pub(super) resumes: Option<(JobId, Resumption)>,
}

/// A duke with a new link.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    pub(super) machine: DukeId,
    /// The duke whose place it takes.
    pub(super) after: Option<DukeId>,
    pub(super) cpus: u32,
    pub(super) ram_bytes: u64,
    pub(super) zone: u64,
    pub(super) holds: Vec<HeldLease>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum DukeOrder {
    OpenLease { job: JobId, slot_bytes: u64 },
    CloseLease { job: JobId },
    Grant { job: JobId, slots: u32 },
    AskBack { job: JobId, slots: u32 },
    Start { job: JobId, unit: UnitNo, attempt: AttemptId, number: u32, alone: bool },
    Forget { attempt: AttemptId },
    Fetch { attempt: AttemptId },
}

#[derive(Clone, Debug)]
pub(super) enum QueenNews {
    /// The king takes the job under this number, and knows these units of it.
    Welcome {
        number: JobId,
        known: Vec<UnitNo>,
    },
    Verdict {
        unit: UnitNo,
        done: bool,
    },
    Ended,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeasantDue {
    Ready,
    Unfit,
    /// It cannot load the compiled program.
    Spoiled,
    /// Its first unit has ended, and the answer is in transit.
    Answers {
        attempt: AttemptId,
        begun: bool,
    },
    /// The current unit has ended; the next one begins.
    Next,
    /// There is room for its answer.
    Room,
    Dies,
    Gone,
}

/// The bound on queens and links of a kingdom. Job numbers rise by this, so that each one names its queen.
const QUEENS_MAX: u64 = 1_000_000;

/// The queen whose job has this number.
pub(super) fn queen_of(job: JobId) -> JobId {
    JobId(job.0 % QUEENS_MAX)
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
    pub(super) plans: Vec<QueenPlan>,
    due: BTreeMap<(Time, u64), Due>,
    dues_made: u64,
    /// The latest arrival on each link in each direction, so that messages keep their order.
    arrivals: BTreeMap<(Sender, bool), Time>,
    /// When each broken link broke: later arrivals are lost.
    pub(super) cuts: BTreeMap<(Sender, bool), Time>,
    /// Processes that are halted.
    pub(super) halted: BTreeMap<Process, Halted>,
    links_made: u64,
    jobs_made: u64,
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
        let mut world = World::empty(Dice::new(0), Weather::fair(), plans, false);
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
            weather,
            tally: Tally::default(),
            king: King::default(),
            dukes: BTreeMap::new(),
            machines: BTreeMap::new(),
            liars: BTreeSet::new(),
            slow_links: BTreeMap::new(),
            queens: BTreeMap::new(),
            plans,
            due: BTreeMap::new(),
            dues_made: 0,
            arrivals: BTreeMap::new(),
            cuts: BTreeMap::new(),
            halted: BTreeMap::new(),
            links_made: 0,
            jobs_made: 0,
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

    /// The slots that each project has.
    pub fn slots_of_projects(&self) -> BTreeMap<&str, u32> {
        self.king.scheduler.slots_of_projects()
    }

    /// How many units of each queen are done, in the order in which the queens started.
    pub fn units_done(&self) -> Vec<usize> {
        self.queens.values().map(Queen::verdicts).collect()
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
            Due::ToKing(sender, word) => {
                if !self.is_cut(sender, true) {
                    self.king_hears(sender, word);
                }
            }
            Due::ToDuke(link, order) => {
                if !self.is_cut(Sender::Duke(link), false) {
                    self.duke_hears(link, order);
                }
            }
            Due::ToQueen(job, link, news) => {
                if !self.is_cut(Sender::Queen(job, link), false) {
                    self.queen_gets(job, link, news);
                }
            }
            Due::KingMisses(sender) => {
                self.king_misses(sender);
                self.king_settles();
            }
            Due::KingFalls => self.king_falls(),
            Due::Halts(process, for_us) => self.halts(process, for_us),
            Due::GoesOn(process) => self.goes_on(process),
            Due::DukeCutOff(duke) => self.duke_cut_off(duke),
            Due::DukeReturns(duke) => self.duke_returns(duke),
            Due::DukeGivesUp(duke, since) => self.duke_gives_up(duke, since),
            Due::QueenCutOff(job) => self.queen_cut_off(job),
            Due::QueenReturns(job) => self.queen_returns(job),
            Due::KingTick => self.king_ticks(),
            Due::DukeTick(duke) => self.duke_ticks(duke),
            Due::DukeComes(after) => self.duke_comes(after),
            Due::DukeDies(duke) => self.duke_dies(duke),
            Due::DukeLies(duke) => self.duke_lies(duke),
            Due::DukeDrains(duke) => self.duke_drains(duke),
            Due::DukeFallsSilent(duke) => self.duke_falls_silent(duke),
            Due::QueenComes(number) => self.queen_comes(number),
            Due::QueenLeaves(job) => self.queen_leaves(job),
            Due::QueenLies(job) => self.queen_lies(job),
            Due::QueenReads(job) => self.queen_reads(job),
            Due::QueenTick(job) => self.queen_handles(job, vec![distwasm_jobs::submission::Event::Tick]),
            Due::Peasant(duke, baron, peasant, due) => self.peasant_due(duke, baron, peasant, due),
            Due::Compiled(duke, job) => self.compiled(duke, job),
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

    /// Sends something over a link: late, but in order.
    pub(super) fn send(&mut self, link: Sender, to_king: bool, due: Due) {
        self.send_later(0, link, to_king, due);
    }

    /// Sends something over a link after a pause of the sender: late, but in order.
    pub(super) fn send_later(&mut self, in_us: u64, link: Sender, to_king: bool, due: Due) {
        let mut at = self.now.0 + in_us + self.dice.below(self.weather.delay_us_max);
        let mut transfer_us = 0;
        if let Sender::Duke(link) = link
            && let Some(Slowness { delay_us_max, us_per_kib }) = self.slow_links.get(&link).copied()
        {
            at += self.dice.below(delay_us_max + 1);
            transfer_us = (self.payload_bytes(&due).min(UNIT_BYTES_MAX) * us_per_kib) >> 10;
        }
        let arrival = self.arrivals.get(&(link, to_king)).copied().unwrap_or_default();
        let mut at = arrival.0.max(at) + transfer_us;
        if to_king {
            at = at.next_multiple_of(self.weather.king_listens_us);
        }
        self.arrivals.insert((link, to_king), Time(at));
        self.at(Time(at), due);
    }

    /// The size of the payload that goes between king and duke with this message.
    fn payload_bytes(&self, due: &Due) -> u64 {
        match due {
            Due::ToKing(
                _,
                KingWord::Event(scheduler::Event::AttemptEnded { outcome: Outcome::Done { bytes }, .. }),
            ) => *bytes,
            Due::ToDuke(_, DukeOrder::Start { job, unit, .. }) => self.queen_of(*job).unit(*unit).input_bytes,
            _ => 0,
        }
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

    /// Breaks a link: messages in transit may be lost, in both directions. The king notices it separately.
    pub(super) fn cut(&mut self, link: Sender) {
        for to_king in [true, false] {
            let in_us = self.dice.below(self.weather.delay_us_max);
            self.cuts.insert((link, to_king), Time(self.now.0 + in_us));
        }
    }

    /// Loses all messages in transit over broken links.
    pub(super) fn lose_what_was_cut_off(&mut self) {
        for cut in self.cuts.values_mut() {
            *cut = self.now.min(*cut);
        }
    }

    pub(super) fn is_cut(&self, link: Sender, to_king: bool) -> bool {
        self.cuts.get(&(link, to_king)).is_some_and(|cut| *cut <= self.now)
    }

    pub(super) fn queen_of(&self, job: JobId) -> &Queen {
        &self.queens[&queen_of(job)]
    }

    pub(super) fn faults_go_on(&self) -> bool {
        self.now.0 < self.weather.faults_end_us
    }

    pub(super) fn next_link(&mut self) -> u64 {
        self.links_made += 1;
        self.links_made
    }

    /// The number of the next job, if it is this queen's.
    pub(super) fn next_number(&self, queen: JobId) -> JobId {
        JobId((self.jobs_made + 1) * QUEENS_MAX + queen.0)
    }

    /// A new number for a job of this queen.
    pub(super) fn number_job(&mut self, queen: JobId) -> JobId {
        let number = self.next_number(queen);
        self.jobs_made += 1;
        number
    }

    /// A number that no job has had. Later jobs have larger ones.
    pub(super) fn last_number(&mut self) -> u64 {
        self.number_job(JobId(QUEENS_MAX - 1)).0
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
