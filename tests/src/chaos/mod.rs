//! Trouble for real processes, from a seed: peasants, dukes, kings and queens are killed, peasants and dukes are
//! stopped, links are cut, frozen, delayed and throttled, file systems fail late, and every process has few
//! descriptors, while queens run one job after another, whose files are carried, seen by dukes, or here. Every output
//! must be right, complete, and present once, with nothing unfinished beside them.

mod proxy;
mod way;

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, process::Command, thread, time::Duration};

use distwasm_process::clock::Clock;
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use crate::real::{King, Place, Process, behind_shell, fail_late, guest, memory_bytes, peasants_of, runs, until};

pub use proxy::{Proxy, Weather};
pub use way::{ALL, Way};

/// Dukes at a time, each with two slots.
const DUKES: usize = 3;

/// Units of one job. Each takes some milliseconds.
const UNITS: u64 = 600;

/// The longest pause between two troubles. The average is half of it.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// How much more memory a process may have after a job than after its first one. Allocators keep some for later.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// How often each trouble was made, and what it cost.
#[derive(Debug, Default)]
pub struct Toll {
    jobs: u64,
    troubles: BTreeMap<&'static str, u64>,
    /// Units that failed because their peasants were killed three times.
    given_up: u64,
    /// Outputs that were lost on close, and written again by a later queen.
    lost: u64,
    /// Jobs after which a further run had to remove what a duke that was away had left.
    swept: u64,
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let troubles: Vec<String> = self.troubles.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let Toll { jobs, given_up, lost, swept, .. } = self;
        let troubles = troubles.join(", ");
        write!(f, "{jobs} jobs of {UNITS} units, {given_up} units given up, {lost} outputs lost and found, ")?;
        write!(f, "{swept} output folders swept again; {troubles}")
    }
}

/// A duke, and its way to the king.
struct Farm {
    duke: Process,
    proxy: Proxy,
    /// Processes (the duke, or its peasants) that were stopped and must be continued later.
    stopped: Vec<u32>,
}

struct Chaos {
    random: Rng,
    king: King,
    /// The proxy between the queens and the king.
    door: Proxy,
    /// The folder of the king's and the dukes' files.
    place: Place,
    farms: Vec<Farm>,
    /// The memory of the king and of each duke after its first job, by process id.
    memory: BTreeMap<u32, u64>,
    toll: Toll,
}

/// Runs jobs amid trouble for `seconds`, and at least one job of each of these ways to its end.
///
/// # Panics
///
/// When a check fails.
pub fn run(seed: u64, seconds: u64, ways: &[Way]) -> Toll {
    let clock = Clock::start();
    let place = Place::default();
    let mut random = Rng::with_seed(seed);
    let king = new_king(&place, &mut random);
    let door = Proxy::start(&king.address);
    let (memory, toll) = (BTreeMap::new(), Toll::default());
    let mut chaos = Chaos { random, king, door, place, farms: Vec::new(), memory, toll };
    for number in 0..DUKES {
        let farm = chaos.new_farm(number);
        chaos.farms.push(farm);
    }
    for (number, way) in ways.iter().cycle().enumerate() {
        if number >= ways.len() && clock.now().0 >= seconds * 1_000_000 {
            break;
        }
        chaos.run_job(*way);
    }
    chaos.end()
}

/// A king that does not wait long for queens that were killed.
fn new_king(place: &Place, random: &mut Rng) -> King {
    place.king_behind_shell(&few_descriptors(random), &["--grace", "5s", "--insecure"])
}

/// A limit of a few more descriptors than a process needs at least.
fn few_descriptors(random: &mut Rng) -> String {
    format!("ulimit -n {}", random.u32(40..120))
}

impl Chaos {
    fn new_farm(&mut self, number: usize) -> Farm {
        let proxy = Proxy::start(&self.king.address);
        let cache = self.place.path().join(format!("cache-{number}"));
        let args = ["--insecure", "--cache", cache.to_str().unwrap()];
        let mut duke = self.place.duke_command_at(&proxy.address, &args);
        duke.arg("--allow-dir").arg(std::env::temp_dir());
        let duke = self.place.start(&mut behind_shell(&few_descriptors(&mut self.random), &duke), "duke");
        Farm { duke, proxy, stopped: Vec::new() }
    }

    fn run_job(&mut self, way: Way) {
        let place = Place::default();
        for number in 0..UNITS {
            place.write(format!("{}/{number}", number % 7), format!("slow {number}"));
        }
        let mut queen = self.new_queen(&place, way);
        while queen.is_running() {
            thread::park_timeout(PAUSE_MAX.mul_f64(self.random.f64()));
            if self.random.u8(..20) == 0 {
                // Dropping the queen kills it. The next one resumes the run.
                drop(queen);
                queen = self.new_queen(&place, way);
                *self.toll.troubles.entry("queens killed").or_default() += 1;
            } else if way == Way::Here {
                self.kill_peasant_of(queen.id());
            } else {
                self.make_trouble();
            }
        }
        self.make_peace();
        let mut ended = queen.finish();
        assert!(matches!(ended.status, Some(0 | 1)), "{}", ended.stderr);
        let lost = failures(&place).into_iter().filter(|(_, kind)| kind == "output").count();
        if lost > 0 {
            // Lost outputs are reported, and do not count as done.
            assert_eq!(ended.status, Some(1), "{}", ended.stderr);
            self.toll.lost += lost as u64;
            ended = self.start(&place, way, &mut way.queen(&place, &self.door.address)).finish();
        }
        let outputs = place.outputs();
        let failures = failures(&place);
        assert!(failures.values().all(|kind| kind == "killed"), "{failures:?}");
        assert_eq!(ended.status, Some(i32::from(!failures.is_empty())), "{failures:?}\n{}", ended.stderr);
        for number in 0..UNITS {
            let name = PathBuf::from(format!("{}/{number}", number % 7));
            match outputs.get(&name) {
                Some(output) => assert_eq!(output, format!("slow {number}").as_bytes()),
                None => assert!(failures.contains_key(&name.display().to_string()), "nothing of {}", name.display()),
            }
        }
        assert_eq!(outputs.len() + failures.len(), UNITS as usize, "{:?}\n{}", outputs.keys(), ended.stderr);
        self.toll.given_up += failures.len() as u64;
        self.toll.jobs += 1;
        self.sweep(&place);
        self.check_memory();
    }

    /// Nothing unfinished is left when all is over: a duke that was away when the job ended may leave an output that it
    /// had told of, which the next run removes.
    fn sweep(&mut self, place: &Place) {
        self.king.expect_metric("distwasm_units{state=\"running\"}", |units| units == 0);
        let mut sweeps = 0;
        let sweep = || {
            let left = way::unfinished(&place.output());
            if !left.is_empty() {
                sweeps += 1;
                let run = place.queen(guest("slow.wat"), &[]);
                assert!(matches!(run.status, Some(0 | 1)), "{}", run.stderr);
            }
            left.is_empty().then_some(())
        };
        until("an output folder with nothing unfinished", sweep, || format!("{:?}", way::unfinished(&place.output())));
        self.toll.swept += u64::from(sweeps > 0);
    }

    /// No process has kept memory of a job that is over.
    fn check_memory(&mut self) {
        let dukes = self.farms.iter().map(|farm| farm.duke.id());
        let before = std::mem::take(&mut self.memory);
        for id in dukes.chain([self.king.process.id()]) {
            let now = memory_bytes(id);
            let first = before.get(&id).copied().unwrap_or(now);
            assert!(now <= first + GROWTH_BYTES_MAX, "process {id} had {first} bytes of memory, and now has {now}");
            self.memory.insert(id, first);
        }
    }

    fn new_queen(&mut self, place: &Place, way: Way) -> Process {
        let mut queen = behind_shell(
            &format!("ulimit -n {}", self.random.u32(way.descriptors())),
            &way.queen(place, &self.door.address),
        );
        if way.writes_outputs() && self.random.u8(..3) == 0 {
            fs::create_dir_all(place.output()).unwrap();
            fail_late(&mut queen, &place.output().canonicalize().unwrap().join(""), libc::EIO);
            queen.env("LATE_ONE_IN", self.random.u32(2..100).to_string());
            *self.toll.troubles.entry("disks that fail late").or_default() += 1;
        }
        self.start(place, way, &mut queen)
    }

    fn start(&mut self, place: &Place, way: Way, queen: &mut Command) -> Process {
        *self.toll.troubles.entry(way.name()).or_default() += 1;
        place.start(queen, "queen")
    }

    fn kill_peasant_of(&mut self, process: u32) {
        if let Some(peasant) = self.random.choice(peasants_that_serve(process)) {
            signal(peasant, Signal::KILL);
            *self.toll.troubles.entry("peasants killed").or_default() += 1;
        }
    }

    /// Kills the king, and starts another in its place.
    fn replace_king(&mut self) {
        self.king.process.signal(Signal::KILL);
        self.king = new_king(&self.place, &mut self.random);
        self.door.lead_to(&self.king.address);
        self.farms.iter().for_each(|farm| farm.proxy.lead_to(&self.king.address));
    }

    fn make_trouble(&mut self) {
        let at = self.random.usize(..self.farms.len());
        let peasant = self.random.choice(peasants_that_serve(self.farms[at].duke.id()));
        let farm = &mut self.farms[at];
        let trouble = match self.random.u8(..14) {
            0..=2 => {
                peasant.into_iter().for_each(|peasant| signal(peasant, Signal::KILL));
                "peasants killed"
            }
            3 => {
                if let Some(peasant) = peasant {
                    signal(peasant, Signal::STOP);
                    farm.stopped.push(peasant);
                }
                "peasants stopped"
            }
            4 => {
                signal(farm.duke.id(), Signal::STOP);
                farm.stopped.push(farm.duke.id());
                "dukes stopped"
            }
            5 => {
                // Dropping the duke kills it.
                self.farms[at] = self.new_farm(at);
                "dukes killed"
            }
            6 => {
                farm.proxy.cut();
                "links cut"
            }
            7 => {
                farm.proxy.set(Weather::Frozen);
                "links frozen"
            }
            8 => {
                farm.proxy.set(Weather::Delayed(self.random.u64(1..100)));
                "links delayed"
            }
            9 => {
                farm.proxy.set(Weather::Throttled(self.random.u64(1_000..100_000)));
                "links throttled"
            }
            10 => {
                self.door.cut();
                "queens cut off"
            }
            11 => {
                self.replace_king();
                "kings killed"
            }
            _ => {
                farm.make_peace();
                "calm"
            }
        };
        *self.toll.troubles.entry(trouble).or_default() += 1;
    }

    fn make_peace(&mut self) {
        self.farms.iter_mut().for_each(Farm::make_peace);
    }

    /// Ends all processes, and checks that no peasant is left.
    fn end(mut self) -> Toll {
        self.make_peace();
        let peasants: Vec<u32> = self.farms.iter().flat_map(|farm| peasants_of(farm.duke.id())).collect();
        self.farms.clear();
        until("the peasants' end", || (!peasants.iter().copied().any(runs)).then_some(()), || format!("{peasants:?}"));
        self.king.expect_metric("distwasm_dukes", |dukes| dukes == 0);
        self.toll
    }
}

impl Farm {
    fn make_peace(&mut self) {
        self.proxy.set(Weather::Fine);
        for process in self.stopped.drain(..) {
            signal(process, Signal::CONT);
        }
    }
}

/// The peasants of a process that run guests. A compiler that is killed counts as broken by its program, and ends the job;
/// without a peasant that tells about the jail, its duke does not start.
fn peasants_that_serve(process: u32) -> Vec<u32> {
    peasants_of(process).into_iter().filter(|id| serves(*id)).collect()
}

/// Whether a process is a peasant that runs guests: it has flags, and no subcommand.
fn serves(process: u32) -> bool {
    let first = |line: Vec<u8>| line.split(|byte| *byte == 0).nth(1).is_some_and(|first| first.starts_with(b"--"));
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(first)
}

fn signal(process: u32, signal: Signal) {
    // It may have ended since it was looked up.
    let _sent = kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal);
}

/// The kinds of failures, by the names of the units that failed.
fn failures(place: &Place) -> BTreeMap<String, String> {
    let text = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    lines.map(|line| (word(&line["input"]), word(&line["kind"]))).collect()
}
