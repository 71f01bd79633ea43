//! Trouble for real processes, from a seed: peasants, dukes, kings and queens are killed, peasants and dukes are stopped,
//! links are cut, frozen, delayed and throttled, while queens run one job after the other. Every output must be right,
//! whole, and there once.

mod proxy;

use std::{collections::BTreeMap, fmt, fs, path::PathBuf, thread, time::Duration};

use distwasm_proto::time::Clock;
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use crate::real::{King, Place, Process, guest, memory_bytes, peasants_of, runs, until};

pub use proxy::{Proxy, Weather};

/// Dukes at a time, each with two slots.
const DUKES: usize = 3;

/// Units of one job, each of some milliseconds.
const UNITS: u64 = 600;

/// The longest pause between two troubles; they average half of it.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// How much more memory a process may have after a job than after its first: what allocators keep for later.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// What was done to whom, how often.
#[derive(Debug, Default)]
pub struct Toll {
    jobs: u64,
    troubles: BTreeMap<&'static str, u64>,
    /// Units that failed because their peasants were killed three times.
    given_up: u64,
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let troubles: Vec<String> = self.troubles.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let Toll { jobs, given_up, .. } = self;
        write!(f, "{jobs} jobs of {UNITS} units, {given_up} units given up; {}", troubles.join(", "))
    }
}

/// A duke, and his way to the king.
struct Farm {
    duke: Process,
    proxy: Proxy,
    /// What he or one of his peasants must get later: to go on.
    stopped: Vec<u32>,
}

struct Chaos {
    random: Rng,
    king: King,
    /// The queens' way to the king.
    door: Proxy,
    /// Where the king and the dukes have their files.
    place: Place,
    farms: Vec<Farm>,
    /// What the king and the dukes had of memory after their first job, by their processes' numbers.
    memory: BTreeMap<u32, u64>,
    toll: Toll,
}

/// Runs jobs in the midst of trouble for so long, and one to its end at least.
///
/// # Panics
///
/// When something is not as it should be.
pub fn run(seed: u64, seconds: u64) -> Toll {
    let clock = Clock::start();
    let place = Place::default();
    let king = new_king(&place);
    let door = Proxy::start(&king.address);
    let (random, memory, toll) = (Rng::with_seed(seed), BTreeMap::new(), Toll::default());
    let mut chaos = Chaos { random, king, door, place, farms: Vec::new(), memory, toll };
    for number in 0..DUKES {
        let farm = chaos.new_farm(number);
        chaos.farms.push(farm);
    }
    loop {
        chaos.run_job();
        if clock.now().0 >= seconds * 1_000_000 {
            return chaos.end();
        }
    }
}

/// A king who does not wait long for queens that were killed.
fn new_king(place: &Place) -> King {
    place.king_with(&["--grace", "5s"])
}

impl Chaos {
    fn new_farm(&self, number: usize) -> Farm {
        let proxy = Proxy::start(&self.king.address);
        let cache = self.place.path().join(format!("cache-{number}"));
        let duke = self.place.duke_at(&proxy.address, &["--cache", cache.to_str().unwrap()]);
        Farm { duke, proxy, stopped: Vec::new() }
    }

    fn run_job(&mut self) {
        let place = Place::default();
        for number in 0..UNITS {
            place.write(format!("{}/{number}", number % 7), format!("slow {number}"));
        }
        let mut queen = self.new_queen(&place);
        while queen.is_running() {
            thread::park_timeout(PAUSE_MAX.mul_f64(self.random.f64()));
            if self.random.u8(..20) == 0 {
                // Dropped, she is killed. The next goes on where she was.
                drop(queen);
                queen = self.new_queen(&place);
                *self.toll.troubles.entry("queens killed").or_default() += 1;
            } else {
                self.make_trouble();
            }
        }
        self.make_peace();
        let ended = queen.finish();
        let outputs = place.outputs();
        let failures = failures(&place);
        assert!(matches!(ended.status, Some(0 | 1)), "{}", ended.stderr);
        for number in 0..UNITS {
            let name = PathBuf::from(format!("{}/{number}", number % 7));
            match outputs.get(&name) {
                Some(output) => assert_eq!(output, format!("slow {number}").as_bytes()),
                None => assert!(failures.contains(&name.display().to_string()), "nothing of {}", name.display()),
            }
        }
        assert_eq!(outputs.len() + failures.len(), UNITS as usize, "{:?}\n{}", outputs.keys(), ended.stderr);
        self.toll.given_up += failures.len() as u64;
        self.toll.jobs += 1;
        self.check_memory();
    }

    /// Nobody has kept anything of a job that is over.
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

    fn new_queen(&self, place: &Place) -> Process {
        place.start_queen_at(&self.door.address, guest("slow.wat"), &[])
    }

    /// Kills the king, and has another take his place.
    fn replace_king(&mut self) {
        self.king.process.signal(Signal::KILL);
        self.king = new_king(&self.place);
        self.door.lead_to(&self.king.address);
        self.farms.iter().for_each(|farm| farm.proxy.lead_to(&self.king.address));
    }

    fn make_trouble(&mut self) {
        let at = self.random.usize(..self.farms.len());
        let peasants = peasants_of(self.farms[at].duke.id());
        let peasant = self.random.choice(peasants);
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
                // Dropped, he is killed.
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

    /// Ends everything: no peasant is left.
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

fn signal(process: u32, signal: Signal) {
    // It may have ended since it was looked up.
    let _sent = kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal);
}

/// The units that failed, by name: killed each time, for nothing else is wrong with them.
fn failures(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.path().join("output.failures.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .map(|line| {
            assert_eq!(line["kind"], "killed", "{line}");
            line["input"].as_str().unwrap().to_owned()
        })
        .collect()
}
