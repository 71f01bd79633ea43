//! The conditions and faults of a simulated kingdom, all drawn from one seed.

use distwasm_jobs::run_limits::FailureLimit;
use distwasm_proto::{
    guest::Places,
    ids::{JobId, UnitNo},
    limits::{RESULT_UNASKED_BYTES_MAX, RESULTS_BYTES, TRANSFER_WINDOW_BYTES, WINDOW_BYTES, WINDOW_UNITS},
};

/// A small random number generator (S. Vigna, SplitMix64, 2015). The same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice with this seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True in `chance` of a thousand cases.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The conditions of one seed. Chances are in thousandths.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Dukes that live at a time.
    pub dukes: u64,
    /// The number of queens.
    pub queens: u64,
    /// Units of each queen, at most.
    pub units_max: u64,
    /// The queen's window of units, as the king sets it.
    pub window_units: u32,
    /// The memory of the king for payloads, in bytes.
    pub memory_bytes: u64,
    /// The longest delay of a message, in microseconds.
    pub delay_us_max: u64,
    /// How much of one streamed input may be on its way to a duke.
    pub window_bytes: u64,
    /// How slow the links of some dukes are.
    pub slow_links: Slowness,
    /// The interval in microseconds at which the king handles messages. Those that came meanwhile may be one batch.
    pub king_listens_us: u64,
    /// Chance that one more word is handled in the same batch.
    pub king_is_busy: u64,
    /// Chance that a duke dies with a unit that it gets.
    pub duke_dies: u64,
    /// Chance that a duke falls silent with a unit that it gets: nothing arrives any more, and no connection closes.
    pub duke_falls_silent: u64,
    /// Chance that a duke begins a graceful shutdown with a unit that it gets.
    pub duke_drains: u64,
    /// Chance that a duke's link breaks with a unit that it gets.
    pub duke_is_cut_off: u64,
    /// Chance that a queen's link breaks with a verdict that it gets.
    pub queen_is_cut_off: u64,
    /// Chance that a queen stops reading news for a while after a verdict that it gets.
    pub queen_stalls: u64,
    /// Chance that a duke lies.
    pub duke_lies: u64,
    /// Chance that a queen lies.
    pub queen_lies: u64,
    /// Chance that a duke is halted with a unit that it gets.
    pub duke_halts: u64,
    /// Chance that a queen is halted with a verdict that it gets.
    pub queen_halts: u64,
    /// How long a king runs until it is halted, on average, in microseconds; 0 for never.
    pub king_halts_us: u64,
    /// How long kings live, on average, in microseconds; 0 for no limit.
    pub king_falls_us: u64,
    /// Chance that a queen leaves with a verdict that it gets.
    pub queen_leaves: u64,
    /// Chance that a queen is killed with a verdict that it gets.
    pub queen_dies: u64,
    /// How long slots that are owed may take to come back until they are taken by force, in microseconds; 0 for ever.
    pub preempt_after_us: u64,
    /// Chance that the job of a queen is cancelled with a verdict that the queen gets.
    pub job_cancelled: u64,
    /// Chance that an output cannot be written.
    pub outputs_fail: u64,
    /// Chance that a peasant dies for no fault of its unit.
    pub peasant_dies: u64,
    /// Chance that a peasant cannot be started.
    pub start_fails: u64,
    /// Chance that a unit is not an ordinary one.
    pub odd_units: u64,
    /// Chance that a program is unfit.
    pub unfit: u64,
    /// When faults stop, in microseconds.
    pub faults_end_us: u64,
}

/// How a slow link differs from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slowness {
    /// The most that is added to the delay of each message.
    pub delay_us_max: u64,
    /// The additional time for inputs and results, by their size.
    pub us_per_kib: u64,
}

/// What a unit does to its peasant. It is the same in each attempt, except for those named `Once`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Answers.
    Ordinary,
    /// Fails.
    Fails,
    /// Fails at the first attempt, and answers at later ones.
    FailsOnce,
    /// Kills its peasant.
    Kills,
    /// Never answers.
    Hangs,
    /// Does not answer at the first attempt, and answers at later ones.
    HangsOnce,
    /// Never arrives whole.
    Broken,
}

/// One unit.
#[derive(Clone, Copy, Debug)]
pub struct UnitPlan {
    /// What it does.
    pub nature: Nature,
    /// How long it runs.
    pub run_us: u64,
    /// Size of its input.
    pub input_bytes: u64,
    /// Size of its result.
    pub result_bytes: u64,
}

/// One queen and its job.
#[derive(Clone, Debug)]
pub struct QueenPlan {
    /// The key of fair sharing.
    pub project: String,
    /// The memory of a slot; may be more than any duke has.
    pub min_ram_bytes: u64,
    /// At most one slot on each duke.
    pub one_per_machine: bool,
    /// The retry limit of failed units.
    pub retries: u32,
    /// The weight of its project, unless another job of the project has a larger one.
    pub weight: u32,
    /// The priority within its project.
    pub priority: i32,
    /// The most slots at a time.
    pub max_parallel: Option<u32>,
    /// The zone that it requires; there are two.
    pub zone: Option<u64>,
    /// The timeout of one unit; always set if units hang.
    pub timeout_us: Option<u64>,
    /// Whether units that take long are tried twice.
    pub speculate: bool,
    /// Whether the program is unfit.
    pub unfit: bool,
    /// Which of a few programs it is otherwise.
    pub program: usize,
    /// Whether the program is compiled to deterministic code.
    pub deterministic: bool,
    /// The number of failures that stops the run.
    pub failures_max: Option<FailureLimit>,
    /// How long the run may take.
    pub time_limit_us: Option<u64>,
    /// How long it takes to read each piece of news.
    pub reads_every_us: u64,
    /// How long its disk takes at most to list, read or write something.
    pub disk_us: u64,
    /// The queens of earlier runs that were killed.
    pub replaces: Vec<JobId>,
    /// Whether it lies.
    pub lies: bool,
    /// Whether dukes read the inputs.
    pub dukes_read: bool,
    /// Whether dukes write the outputs.
    pub dukes_write: bool,
    /// Carried inputs of this size and more are streamed.
    pub streamed_from: u64,
    /// Carried results of this size and more go to files at the dukes, and come in parts.
    pub kept_from: u64,
    /// Its peasants cannot answer such a unit without a file.
    pub needs_files: bool,
    /// Its inputs.
    pub units: Vec<UnitPlan>,
    /// When it starts.
    pub comes_us: u64,
}

/// The size of each failure.
pub const EVIDENCE_BYTES: u64 = 1000;

/// The least memory of a simulated duke.
pub const DUKE_BYTES_MIN: u64 = 1 << 30;

/// The programs of most jobs.
const PROGRAMS: [&[u8]; 4] = [b"a program", b"another program", b"a third program", b"a fourth program"];

/// The program of jobs whose program is unfit.
pub const UNFIT_PROGRAM: &[u8] = b"an unfit program";

impl QueenPlan {
    /// The folders that dukes see.
    pub(super) fn places(&self) -> Places {
        let place = |is_seen: bool, path: &str| is_seen.then(|| path.into());
        Places { input: place(self.dukes_read, "/in"), output: place(self.dukes_write, "/out"), probe: None }
    }

    /// Whether an attempt of the unit is sure to reach a peasant.
    pub(super) fn is_tried(&self, unit: &UnitPlan) -> bool {
        match unit.nature {
            Nature::Broken => false,
            // Its duke may not be able to store its input.
            Nature::Fails => unit.input_bytes < self.streamed_from,
            _ => true,
        }
    }

    /// Whether the result of a unit goes to a file at its duke. Those of some units that fail cannot be read there.
    pub(super) fn keeps(&self, no: UnitNo, unit: &UnitPlan) -> bool {
        let fails_there = unit.nature != Nature::Fails || no.0.is_multiple_of(2);
        !self.dukes_write && unit.result_bytes >= self.kept_from.max(1) && fails_there
    }

    /// The job's program.
    pub fn program(&self) -> &'static [u8] {
        if self.unfit { UNFIT_PROGRAM } else { PROGRAMS[self.program] }
    }

    /// An ordinary job with `units` units that all run equally long.
    pub fn steady(project: &str, units: usize, run_us: u64) -> QueenPlan {
        let unit = UnitPlan { nature: Nature::Ordinary, run_us, input_bytes: 1, result_bytes: 1 };
        QueenPlan {
            project: project.to_owned(),
            min_ram_bytes: 0,
            one_per_machine: false,
            retries: 0,
            weight: 1,
            priority: 0,
            max_parallel: None,
            zone: None,
            timeout_us: None,
            speculate: true,
            unfit: false,
            program: 0,
            deterministic: false,
            failures_max: None,
            time_limit_us: None,
            reads_every_us: 0,
            disk_us: 0,
            replaces: Vec::new(),
            lies: false,
            dukes_read: false,
            dukes_write: false,
            streamed_from: u64::MAX,
            kept_from: u64::MAX,
            needs_files: false,
            units: vec![unit; units],
            comes_us: 0,
        }
    }
}

impl Weather {
    /// No faults, only delays of a millisecond.
    pub fn fair() -> Weather {
        Weather {
            dukes: 0,
            queens: 0,
            units_max: 0,
            window_units: WINDOW_UNITS,
            memory_bytes: 1 << 40,
            delay_us_max: 1_000,
            window_bytes: TRANSFER_WINDOW_BYTES,
            slow_links: Slowness::default(),
            king_listens_us: 1,
            king_is_busy: 300,
            duke_dies: 0,
            duke_falls_silent: 0,
            duke_drains: 0,
            duke_is_cut_off: 0,
            queen_is_cut_off: 0,
            queen_stalls: 0,
            duke_lies: 0,
            queen_lies: 0,
            duke_halts: 0,
            queen_halts: 0,
            king_halts_us: 0,
            king_falls_us: 0,
            queen_leaves: 0,
            queen_dies: 0,
            preempt_after_us: 0,
            job_cancelled: 0,
            outputs_fail: 0,
            peasant_dies: 0,
            start_fails: 0,
            odd_units: 0,
            unfit: 0,
            faults_end_us: 0,
        }
    }

    /// Whether there are no faults: then chance decides about little.
    pub fn is_fair(&self) -> bool {
        self.faults_end_us == 0
    }

    /// Draws the weather of a seed. Most faults are absent from most seeds, so that each is seen alone, too.
    pub fn draw(dice: &mut Dice) -> Weather {
        Weather {
            dukes: 1 + dice.below(5),
            queens: 1 + dice.below(4),
            units_max: dice.pick(&[1, 5, 40, 120]),
            window_units: dice.pick(&[WINDOW_UNITS, WINDOW_UNITS, 20, 2]),
            // In the smallest, two of the largest inputs have no room beside each other.
            memory_bytes: dice.pick(&[1 << 40, 512 << 20, 400 << 20, 400 << 20, 400 << 20, 400 << 20]),
            delay_us_max: dice.pick(&[1, 500, 50_000]),
            window_bytes: dice.pick(&[TRANSFER_WINDOW_BYTES, TRANSFER_WINDOW_BYTES, 40, 1]),
            slow_links: Slowness {
                delay_us_max: dice.pick(&[0, 0, 0, 200_000, 2_000_000]),
                us_per_kib: dice.pick(&[0, 0, 0, 100, 1_000]),
            },
            king_listens_us: dice.pick(&[1, 1, 1_000, 20_000]),
            king_is_busy: dice.pick(&[0, 300, 950]),
            duke_dies: dice.pick(&[0, 0, 2, 20]),
            duke_falls_silent: dice.pick(&[0, 0, 0, 5]),
            duke_drains: dice.pick(&[0, 0, 5, 30]),
            duke_is_cut_off: dice.pick(&[0, 0, 5, 30]),
            queen_is_cut_off: dice.pick(&[0, 0, 5, 30]),
            queen_stalls: dice.pick(&[0, 0, 10, 50]),
            duke_lies: dice.pick(&[0, 0, 0, 0, 400]),
            queen_lies: dice.pick(&[0, 0, 0, 0, 400]),
            duke_halts: dice.pick(&[0, 0, 0, 0, 20]),
            queen_halts: dice.pick(&[0, 0, 0, 0, 20]),
            king_halts_us: dice.pick(&[0, 0, 0, 0, 3_000_000]),
            king_falls_us: dice.pick(&[0, 0, 0, 1_000_000, 10_000_000]),
            queen_leaves: dice.pick(&[0, 0, 10]),
            queen_dies: dice.pick(&[0, 0, 0, 10]),
            preempt_after_us: dice.pick(&[0, 20_000, 50_000, 300_000, 3_000_000]),
            job_cancelled: dice.pick(&[0, 0, 0, 40]),
            outputs_fail: dice.pick(&[0, 0, 0, 20]),
            peasant_dies: dice.pick(&[0, 0, 5]),
            start_fails: dice.pick(&[0, 0, 0, 300]),
            odd_units: dice.pick(&[0, 50, 400]),
            unfit: dice.pick(&[0, 0, 200]),
            faults_end_us: 60_000_000,
        }
    }

    /// Draws a queen.
    pub fn queen(&self, dice: &mut Dice) -> QueenPlan {
        let timeout_us = dice.pick(&[None, Some(5_000_000)]);
        let typical_us = dice.pick(&[10, 1_000, 30_000, 400_000]);
        let large = dice.permille(200);
        let units =
            (0..dice.below(self.units_max + 1)).map(|_| self.unit(dice, timeout_us, typical_us, large)).collect();
        QueenPlan {
            project: format!("project {}", dice.below(3)),
            min_ram_bytes: dice.pick(&[0, 0, DUKE_BYTES_MIN / 4, DUKE_BYTES_MIN]),
            one_per_machine: dice.permille(150),
            retries: dice.pick(&[0, 0, 1, 2]),
            weight: dice.pick(&[1, 1, 2, 3, 1000]),
            priority: dice.pick(&[0, 0, 0, 1, -100]),
            max_parallel: dice.pick(&[None, None, None, Some(1), Some(3)]),
            zone: dice.pick(&[None, None, None, None, Some(0)]),
            timeout_us,
            speculate: dice.permille(800),
            unfit: dice.permille(self.unfit),
            program: dice.pick(&[0, 0, 1, 2, 3]),
            deterministic: dice.permille(200),
            failures_max: dice.pick(&[
                None,
                None,
                None,
                Some(FailureLimit::Count(1)),
                Some(FailureLimit::Share(50_000)),
            ]),
            time_limit_us: dice.pick(&[None, None, None, Some(200_000), Some(3_000_000)]),
            reads_every_us: dice.pick(&[0, 0, 0, 0, 20_000, 300_000]),
            disk_us: dice.pick(&[0, 0, 1_000, 200_000]),
            replaces: Vec::new(),
            lies: dice.permille(self.queen_lies),
            dukes_read: dice.permille(150),
            dukes_write: dice.permille(200),
            streamed_from: self.streamed_from(dice, large),
            kept_from: self.streamed_from(dice, large),
            needs_files: dice.permille(400),
            units,
            comes_us: dice.below(2_000_000),
        }
    }

    /// Large inputs and results do not go through tiny windows: that would take all day.
    fn streamed_from(&self, dice: &mut Dice, large: bool) -> u64 {
        match large {
            true if self.window_bytes < TRANSFER_WINDOW_BYTES => u64::MAX,
            true => dice.pick(&[u64::MAX, u64::MAX, u64::MAX, 100_000, WINDOW_BYTES / 2]),
            false => dice.pick(&[u64::MAX, u64::MAX, 1, 50]),
        }
    }

    fn unit(&self, dice: &mut Dice, timeout_us: Option<u64>, typical_us: u64, large: bool) -> UnitPlan {
        let mut nature = Nature::Ordinary;
        if dice.permille(self.odd_units) {
            let hangs = |nature| if timeout_us.is_some() { nature } else { Nature::Fails };
            let (hangs, hangs_once) = (hangs(Nature::Hangs), hangs(Nature::HangsOnce));
            nature = dice.pick(&[Nature::Fails, Nature::FailsOnce, Nature::Kills, hangs, hangs_once, Nature::Broken]);
        }
        let bytes = |dice: &mut Dice, max: u64| {
            let small = dice.below(100);
            let choices = [small, small, 100_000, max / 3, max - 1, max + max / 2];
            if large { dice.pick(&choices) } else { small }
        };
        UnitPlan {
            nature,
            run_us: 1 + dice.below(2 * typical_us),
            input_bytes: bytes(dice, WINDOW_BYTES),
            result_bytes: bytes(dice, RESULTS_BYTES).max(if large { RESULT_UNASKED_BYTES_MAX } else { 0 }),
        }
    }
}
