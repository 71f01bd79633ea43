//! The simulated world: one king, dukes, peasants and queens in one thread, and a queue of what is due when.
//!
//! The real scheduler, rosters and submissions run here; all that is made up is what lies between them: links that
//! delay messages, keep their order, and break; peasants that run, fail, hang and die; queens who leave.

use std::collections::BTreeMap;

use distwasm_king::scheduler::{self, Scheduler};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    time::Time,
};

use super::{
    duke::Duke,
    queen::Queen,
    weather::{DUKE_BYTES_MIN, Dice, EVIDENCE_BYTES, QueenPlan, Weather},
};

/// Everything that can be due.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// A word for the king, from one link.
    ToKing(Sender, KingWord),
    /// An order for a duke.
    ToDuke(DukeId, DukeOrder),
    /// News for a queen.
    ToQueen(JobId, QueenNews),
    /// A queen's connection takes results.
    Take(JobId, u64),
    KingTick,
    DukeTick(DukeId),
    DukeComes,
    DukeDies(DukeId),
    DukeFallsSilent(DukeId),
    DukeDrains(DukeId),
    QueenComes(usize),
    QueenLeaves(JobId),
    QueenTick(JobId),
    /// Something happens to the peasant that this baron had under this number.
    Peasant(DukeId, BaronId, u64, PeasantDue),
    Compiled(DukeId, JobId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    Duke(DukeId),
    Queen(JobId),
}

#[derive(Clone, Debug)]
pub(super) enum KingWord {
    Event(scheduler::Event),
    /// A unit of a queen.
    Unit {
        job: JobId,
        unit: UnitNo,
        bytes: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum DukeOrder {
    OpenLease { job: JobId, slot_bytes: u64 },
    CloseLease { job: JobId },
    Grant { job: JobId, slots: u32 },
    AskBack { job: JobId, slots: u32 },
    Start { job: JobId, unit: UnitNo, attempt: AttemptId, alone: bool },
    Fetch { attempt: AttemptId },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum QueenNews {
    Welcome,
    Verdict { unit: UnitNo, done: bool },
    Ended,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeasantDue {
    Ready,
    Unfit,
    /// Its first unit is through, and the answer is on its way.
    Answers {
        attempt: AttemptId,
        begun: bool,
    },
    /// The unit at hand is through; the next begins.
    Next,
    Dies,
    Gone,
}

/// Counts of what happened, so that a run of seeds can be seen to have met everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Tally {
    pub events: u64,
    pub verdicts: u64,
    pub failed: u64,
    pub dukes_lost: u64,
    pub dukes_drained: u64,
    pub queens_left: u64,
    pub queens_stopped: u64,
    pub peasants_died: u64,
    pub jobs_unfit: u64,
    pub slots_asked_back: u64,
    pub offers: u64,
}

impl Tally {
    /// Adds another tally to this one.
    pub fn add(&mut self, other: Tally) {
        self.events += other.events;
        self.verdicts += other.verdicts;
        self.failed += other.failed;
        self.dukes_lost += other.dukes_lost;
        self.dukes_drained += other.dukes_drained;
        self.queens_left += other.queens_left;
        self.queens_stopped += other.queens_stopped;
        self.peasants_died += other.peasants_died;
        self.jobs_unfit += other.jobs_unfit;
        self.slots_asked_back += other.slots_asked_back;
        self.offers += other.offers;
    }
}

/// See the module's documentation.
pub struct World {
    pub(super) now: Time,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    pub(super) tally: Tally,
    pub(super) scheduler: Scheduler,
    pub(super) dukes: BTreeMap<DukeId, Duke>,
    pub(super) queens: BTreeMap<JobId, Queen>,
    pub(super) plans: Vec<QueenPlan>,
    /// What the king holds of each job's inputs.
    pub(super) held: BTreeMap<JobId, BTreeMap<UnitNo, u64>>,
    due: BTreeMap<(Time, u64), Due>,
    dues_made: u64,
    /// The latest arrival on each link in each direction, so that messages keep their order.
    arrivals: BTreeMap<(Sender, bool), Time>,
    links_made: u64,
    log: Option<Vec<String>>,
}

/// No simulated kingdom has this much to do; more is a loop that never ends.
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
            world.later(in_us, Due::DukeComes);
        }
        world
    }

    /// A world where nothing goes wrong: dukes with so many processors each, and these queens.
    pub fn fair(dukes: &[u32], plans: Vec<QueenPlan>) -> World {
        let mut world = World::empty(Dice::new(0), Weather::fair(), plans, false);
        for cpus in dukes {
            world.duke_joins(*cpus, DUKE_BYTES_MIN);
        }
        world
    }

    fn empty(dice: Dice, weather: Weather, plans: Vec<QueenPlan>, log: bool) -> World {
        let mut world = World {
            now: Time::default(),
            dice,
            weather,
            tally: Tally::default(),
            scheduler: Scheduler::default(),
            dukes: BTreeMap::new(),
            queens: BTreeMap::new(),
            plans,
            held: BTreeMap::new(),
            due: BTreeMap::new(),
            dues_made: 0,
            arrivals: BTreeMap::new(),
            links_made: 0,
            log: log.then(Vec::new),
        };
        for (number, comes_us) in world.plans.iter().map(|plan| plan.comes_us).enumerate().collect::<Vec<_>>() {
            world.later(comes_us, Due::QueenComes(number));
        }
        world
    }

    /// Lets happen what happens until then.
    pub fn run_until(&mut self, until: Time) {
        while self.due.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.next();
        }
    }

    /// The slots that each project has.
    pub fn slots_of_projects(&self) -> BTreeMap<&str, u32> {
        self.scheduler.slots_of_projects()
    }

    /// How many units of each queen are done, in the order in which they came.
    pub fn units_done(&self) -> Vec<usize> {
        self.queens.values().map(Queen::verdicts).collect()
    }

    /// Lets everything happen, checks every invariant after each event, and at the end that every job has ended.
    ///
    /// # Panics
    ///
    /// When something is not as it must be.
    pub fn run(&mut self) -> Tally {
        while self.next() {}
        self.check_rest();
        self.tally
    }

    /// Lets the next thing happen; says whether there was any.
    fn next(&mut self) -> bool {
        let Some(((at, _), due)) = self.due.pop_first() else { return false };
        self.now = at;
        self.tally.events += 1;
        assert!(self.tally.events < EVENTS_MAX, "kingdom_comes_to_rest: {due:?}");
        if let Some(log) = &mut self.log {
            log.push(format!("{:>12} {due:?}", at.0));
        }
        self.step(due);
        true
    }

    /// What happened, a line for each event, if it was kept.
    pub fn log(&self) -> &[String] {
        self.log.as_deref().unwrap_or_default()
    }

    fn step(&mut self, due: Due) {
        match due {
            Due::ToKing(sender, word) => self.king_hears(sender, word),
            Due::ToDuke(duke, order) => self.duke_hears(duke, order),
            Due::ToQueen(job, news) => self.queen_hears(job, news),
            Due::Take(job, bytes) => self.king_handles(vec![scheduler::Event::ResultsTaken { job, bytes }]),
            Due::KingTick => self.king_handles(vec![scheduler::Event::Tick]),
            Due::DukeTick(duke) => self.duke_handles(duke, vec![distwasm_duke::roster::Event::Tick]),
            Due::DukeComes => self.duke_comes(),
            Due::DukeDies(duke) => self.duke_dies(duke),
            Due::DukeDrains(duke) => self.duke_drains(duke),
            Due::DukeFallsSilent(duke) => self.duke_falls_silent(duke),
            Due::QueenComes(number) => self.queen_comes(number),
            Due::QueenLeaves(job) => self.queen_leaves(job),
            Due::QueenTick(job) => self.queen_handles(job, vec![distwasm_queen::submission::Event::Tick]),
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
        let delay = self.dice.below(self.weather.delay_us_max);
        let arrival = self.arrivals.entry((link, to_king)).or_default();
        let at = Time(self.now.0 + delay).max(*arrival);
        *arrival = at;
        self.at(at, due);
    }

    pub(super) fn faults_go_on(&self) -> bool {
        self.now.0 < self.weather.faults_end_us
    }

    pub(super) fn next_link(&mut self) -> u64 {
        self.links_made += 1;
        self.links_made
    }

    fn duke_comes(&mut self) {
        let cpus = 1 + self.dice.below(4) as u32;
        let ram_bytes = DUKE_BYTES_MIN * (1 + self.dice.below(3));
        self.duke_joins(cpus, ram_bytes);
    }

    fn duke_joins(&mut self, cpus: u32, ram_bytes: u64) {
        let duke = DukeId(self.next_link());
        // Whoever wants to be in the first zone finds a duke there in the end.
        let first_zone_is_empty = self.dukes.values().all(|duke| duke.zone != 0);
        let zone = if first_zone_is_empty { 0 } else { self.dice.below(2) };
        self.dukes.insert(duke, Duke::new(cpus, ram_bytes, zone));
        let labels = [("zone".to_owned(), zone.to_string())].into_iter().collect();
        let joined = scheduler::Event::DukeJoined { duke, cpus, ram_bytes, labels };
        self.send(Sender::Duke(duke), true, Due::ToKing(Sender::Duke(duke), KingWord::Event(joined)));
    }

    /// The duke is gone at once; the king sees it a little later.
    fn duke_dies(&mut self, duke: DukeId) {
        if self.dukes.remove(&duke).is_none() {
            return;
        }
        self.tally.dukes_lost += 1;
        let lost = KingWord::Event(scheduler::Event::DukeLost { duke });
        self.send(Sender::Duke(duke), true, Due::ToKing(Sender::Duke(duke), lost));
        let back_in = self.dice.below(5_000_000);
        self.later(back_in, Due::DukeComes);
    }

    /// Nothing comes from the duke any more, though no connection was closed; keepalive finds it after 20 s.
    fn duke_falls_silent(&mut self, duke: DukeId) {
        if self.dukes.remove(&duke).is_none() {
            return;
        }
        self.tally.dukes_lost += 1;
        let lost = KingWord::Event(scheduler::Event::DukeLost { duke });
        self.later(20_000_000, Due::ToKing(Sender::Duke(duke), lost));
        self.later(25_000_000, Due::DukeComes);
    }

    // ---- The end --------------------------------------------------------------------------------------------------

    /// With nothing more to happen: every job has ended, every input is settled, and every slot is free.
    fn check_rest(&self) {
        for (job, queen) in &self.queens {
            queen.check_end(*job);
        }
        let census = self.scheduler.census();
        assert_eq!((census.jobs, census.units_running), (0, 0), "every_job_ends");
        assert_eq!((census.slots_granted, census.results_bytes), (0, 0), "everything_is_free_at_the_end");
        assert!(self.held.values().all(BTreeMap::is_empty), "no_input_is_held_at_the_end");
        for (id, duke) in &self.dukes {
            assert!(duke.is_idle(), "duke_is_idle_at_the_end: {id}");
        }
    }
}

/// The king's side of the world.
impl World {
    fn king_hears(&mut self, sender: Sender, word: KingWord) {
        let event = match word {
            KingWord::Event(event) => event,
            KingWord::Unit { job, unit, bytes } => {
                self.check_window(job, bytes);
                if let Some(held) = self.held.get_mut(&job) {
                    held.insert(unit, bytes);
                }
                scheduler::Event::UnitAdded { job, unit, bytes }
            }
        };
        match (&event, sender) {
            (scheduler::Event::JobOpened { job, .. }, _) => {
                self.held.insert(*job, BTreeMap::new());
                self.send(sender, false, Due::ToQueen(*job, QueenNews::Welcome));
            }
            (scheduler::Event::QueenLost { job }, _) => {
                self.held.remove(job);
            }
            _ => {}
        }
        let mut events = vec![event];
        // Now and then several words are handled as one batch.
        while self.dice.permille(300) {
            let next = self.due.first_entry().filter(|next| {
                next.key().0 == self.now && matches!(next.get(), Due::ToKing(Sender::Duke(_), KingWord::Event(_)))
            });
            let Some(Due::ToKing(_, KingWord::Event(event))) =
                next.map(std::collections::btree_map::OccupiedEntry::remove)
            else {
                break;
            };
            events.push(event);
        }
        self.king_handles(events);
    }

    /// A queen keeps to her window.
    fn check_window(&self, job: JobId, bytes: u64) {
        use distwasm_proto::limits::{WINDOW_BYTES, WINDOW_UNITS};
        let Some(held) = self.held.get(&job) else { return };
        let held_bytes: u64 = held.values().sum();
        assert!(held.len() < WINDOW_UNITS as usize, "king_holds_no_more_units_than_the_window: {job}");
        assert!(
            held_bytes == 0 || held_bytes + bytes <= WINDOW_BYTES,
            "king_holds_no_more_bytes_than_the_window: {job}"
        );
    }

    /// A guest may be told which try of its unit it is.
    fn check_number(&mut self, job: JobId, unit: UnitNo, number: u32) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let tries = queen.tries.entry(unit).or_insert(0);
        *tries += 1;
        assert_eq!(number, *tries, "attempts_are_numbered_from_1: {job}, {unit}");
    }

    fn king_handles(&mut self, events: Vec<scheduler::Event>) {
        let mut actions = Vec::new();
        self.scheduler.handle(self.now, events, &mut actions);
        self.scheduler.check();
        for action in actions {
            self.king_acts(action);
        }
        if let Some(deadline) = self.scheduler.next_deadline() {
            self.at(deadline, Due::KingTick);
        }
    }

    fn king_acts(&mut self, action: scheduler::Action) {
        use scheduler::Action;
        let (duke, order) = match action {
            Action::OpenLease { duke, job, slot_bytes } => (duke, DukeOrder::OpenLease { job, slot_bytes }),
            Action::CloseLease { duke, job } => (duke, DukeOrder::CloseLease { job }),
            Action::GrantSlots { duke, job, slots } => (duke, DukeOrder::Grant { job, slots }),
            Action::ReleaseSlots { duke, job, slots } => {
                self.tally.slots_asked_back += u64::from(slots);
                (duke, DukeOrder::AskBack { job, slots })
            }
            Action::StartAttempt { duke, job, unit, attempt, number, alone } => {
                self.check_number(job, unit, number);
                assert!(self.held[&job].contains_key(&unit), "input_is_held_until_the_verdict: {job}, {unit}");
                (duke, DukeOrder::Start { job, unit, attempt, alone })
            }
            Action::FetchResult { duke, attempt } => (duke, DukeOrder::Fetch { attempt }),
            Action::Report { job, unit, verdict, .. } => {
                let done = matches!(verdict, scheduler::Verdict::Done(_));
                if let Some(held) = self.held.get_mut(&job) {
                    held.remove(&unit);
                }
                let result_bytes = if done { self.queens[&job].result_bytes(unit) } else { EVIDENCE_BYTES };
                self.send(Sender::Queen(job), false, Due::ToQueen(job, QueenNews::Verdict { unit, done }));
                if result_bytes > 0 {
                    let slowly = self.dice.pick(&[10, 1_000, 300_000]);
                    let in_us = self.dice.below(slowly);
                    self.later(in_us, Due::Take(job, result_bytes));
                }
                return;
            }
            Action::TellStatus { .. } => return,
            Action::EndJob { job, end } => {
                self.held.remove(&job);
                let news = match end {
                    scheduler::JobEnd::Complete => QueenNews::Ended,
                    scheduler::JobEnd::Unfit => QueenNews::Failed,
                };
                return self.send(Sender::Queen(job), false, Due::ToQueen(job, news));
            }
            Action::ExpelDuke { duke, why } => panic!("honest_duke_is_not_expelled: {duke}: {why}"),
        };
        self.send(Sender::Duke(duke), false, Due::ToDuke(duke, order));
    }
}
