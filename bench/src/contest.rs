//! A contest: the system and its references take turns on the same inputs. Each is a command, and all are measured in
//! the same way.

use std::{
    fs::{self, File},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    figures::{Figures, bytes, digits, time},
    inputs::Inputs,
    kingdom::Kingdom,
    place::{Place, tail},
    processes::{self, Peaks, Watch},
    report::Table,
    say,
};

/// Makes the command of one run, given the output folder.
pub type MakeCommand<'a> = Box<dyn Fn(&Path) -> Result<Command> + 'a>;

/// One of the commands that are compared.
pub struct Contestant<'a> {
    /// Its name in the table.
    pub name: String,
    /// The name of its first process.
    pub process: &'static str,
    /// Its inputs.
    pub inputs: Inputs,
    /// It runs in the first `rounds_max` rounds only.
    pub rounds_max: usize,
    /// Its command.
    pub command: MakeCommand<'a>,
    /// The kingdom that works for it.
    pub kingdom: Option<&'a Kingdom>,
    /// The expected exit status.
    pub status: i32,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// From start to end, in microseconds.
    pub wall_us: u64,
    /// Processor time of all its processes together, in microseconds.
    pub cpu_us: u64,
    /// Processor time of all other processes of the machine, in microseconds.
    pub others_us: u64,
    /// The most memory of each kind of process, in KiB.
    pub peaks: Peaks,
}

/// The results of a contestant.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// The number of units of each run.
    pub units: u64,
    /// All runs except the warm-up.
    pub samples: Vec<Sample>,
}

impl Standing {
    /// Wall times from start to end, in microseconds.
    pub fn wall_us(&self) -> Figures {
        self.samples.iter().map(|sample| sample.wall_us as f64).collect()
    }

    /// Wall time of a unit, in microseconds.
    pub fn wall_us_each(&self) -> f64 {
        self.wall_us().median() / self.units.max(1) as f64
    }

    /// Processor times of all processes, in microseconds.
    pub fn cpu_us(&self) -> Figures {
        self.samples.iter().map(|sample| sample.cpu_us as f64).collect()
    }

    /// Processor time of a unit, in microseconds.
    pub fn cpu_us_each(&self) -> f64 {
        self.cpu_us().median() / self.units.max(1) as f64
    }

    /// The most memory of each kind of process in any run, in KiB.
    pub fn peaks(&self) -> Peaks {
        let mut peaks = Peaks::new();
        for (name, kib) in self.samples.iter().flat_map(|sample| &sample.peaks) {
            let peak = peaks.entry(name.clone()).or_default();
            *peak = (*peak).max(*kib);
        }
        peaks
    }

    fn memory(&self) -> String {
        let peaks = self.peaks();
        let text: Vec<String> = peaks.iter().map(|(name, kib)| format!("{name} {}", bytes(kib << 10))).collect();
        text.join(", ")
    }
}

/// Lets the contestants take turns: a warm-up round, and `rounds` that count. Results are checked each time.
///
/// # Errors
///
/// When something cannot be run, or has a wrong result.
pub fn hold(place: &Place, rounds: usize, contestants: &[Contestant<'_>]) -> Result<Vec<Standing>> {
    turns(place, 0..=rounds, contestants)
}

/// Lets the contestants take turns for `rounds` rounds, without a warm-up. Results are checked each time.
///
/// # Errors
///
/// When something cannot be run, or has a wrong result.
pub fn hold_cold(place: &Place, rounds: usize, contestants: &[Contestant<'_>]) -> Result<Vec<Standing>> {
    turns(place, 1..=rounds, contestants)
}

fn turns(place: &Place, rounds: RangeInclusive<usize>, contestants: &[Contestant<'_>]) -> Result<Vec<Standing>> {
    let mut standings: Vec<Standing> = contestants
        .iter()
        .map(|who| Standing { name: who.name.clone(), units: who.inputs.units, samples: Vec::new() })
        .collect();
    for round in rounds {
        for (who, standing) in contestants.iter().zip(&mut standings) {
            if round > who.rounds_max {
                continue;
            }
            let sample = take_turn(place, who).with_context(|| format!("in round {round}, {}", who.name))?;
            let what = if round == 0 { "warm-up".to_owned() } else { format!("round {round}") };
            say::note(&format!("  {what}: {}: {}", who.name, time(sample.wall_us as f64)));
            if round > 0 {
                standing.samples.push(sample);
            }
        }
    }
    Ok(standings)
}

fn take_turn(place: &Place, who: &Contestant<'_>) -> Result<Sample> {
    let arena = place.folder("arena")?;
    let output = arena.join("output");
    fs::create_dir(&output)?;
    let mut command = (who.command)(&output)?;
    let log = place.path().join("contestant.log");
    let file = File::create(&log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let mut watched = who.kingdom.map(Kingdom::members).unwrap_or_default();
    watched.iter().for_each(|(_, id)| processes::forget_peak(*id));
    place.await_calm();
    let machine_us_before = processes::machine_cpu_us();
    let cpu_us_before = who.kingdom.map_or(0, Kingdom::cpu_us);
    let mut watch = None;
    let finished = processes::run(&mut command, |id| {
        watched.push((who.process.to_owned(), id));
        watch = Some(Watch::start(watched));
    })?;
    let peaks = watch.map(Watch::stop).unwrap_or_default();
    if finished.status != Some(who.status) {
        let kingdom = who.kingdom.map(Kingdom::last_words).unwrap_or_default();
        bail!("it ended with {:?}: {}\n{kingdom}", finished.status, tail(&log));
    }
    if let Some(kingdom) = who.kingdom {
        kingdom.settle()?;
    }
    let cpu_us = finished.cpu_us + who.kingdom.map_or(0, Kingdom::cpu_us).saturating_sub(cpu_us_before);
    let others_us = (processes::machine_cpu_us() - machine_us_before).saturating_sub(cpu_us);
    who.inputs.check(&output)?;
    fs::remove_dir_all(&arena)?;
    Ok(Sample { wall_us: finished.wall_us, cpu_us, others_us, peaks })
}

/// The wall time of a unit as a ratio to that of the first contestant; 0 if there is no such contestant.
pub fn ratio(standings: &[Standing], at: usize) -> f64 {
    match (standings.first(), standings.get(at)) {
        (Some(reference), Some(standing)) => standing.wall_us_each() / reference.wall_us_each(),
        _ => 0.0,
    }
}

/// The most memory of all its processes together with so many peasants, if all need their most at the same time, in MiB.
pub fn peak_mib_of_all(standing: Option<&Standing>, peasants: usize) -> f64 {
    let peaks = standing.map(Standing::peaks).unwrap_or_default();
    let kib = |(name, kib): (&String, &u64)| if name == "peasant" { kib * peasants as u64 } else { *kib };
    peaks.iter().map(kib).sum::<u64>() as f64 / 1024.0
}

/// The name of the tight loop in tables.
pub const TIGHT: &str = "tight loop: one process, files as a duke treats them";

/// All standings as a table. Times for each unit are compared with those of the first, and of the tight loop.
pub fn table(standings: &[Standing]) -> Table {
    let header = ["", "wall, median", "spread", "× loop", "× tight", "CPU", "CPU a unit", "peak memory"];
    let mut table = Table::new(&header);
    let reference = standings.first().map_or(0.0, Standing::wall_us_each);
    let tight = standings.iter().find(|standing| standing.name == TIGHT).map(Standing::wall_us_each);
    for standing in standings {
        let (wall, runs) = (standing.wall_us(), standing.samples.len());
        let spread = match runs {
            1 => "one run".to_owned(),
            _ => format!("{} to {}", time(wall.min()), time(wall.max())),
        };
        let fewer = standings.first().is_some_and(|first| first.units != standing.units);
        let name = if fewer { format!("{}, {} units", standing.name, standing.units) } else { standing.name.clone() };
        table.row([
            name,
            time(wall.median()),
            spread,
            digits(standing.wall_us_each() / reference),
            tight.map_or_else(|| "-".to_owned(), |tight| digits(standing.wall_us_each() / tight)),
            time(standing.cpu_us().median()),
            time(standing.cpu_us_each()),
            standing.memory(),
        ]);
    }
    table
}

/// A note for the reader if other processes were busy on the machine meanwhile.
pub fn notes(standings: &[Standing]) -> Vec<String> {
    let samples = standings.iter().flat_map(|standing| &standing.samples);
    disturbance(samples.map(|sample| (sample.wall_us, sample.others_us)))
}

/// A note from wall times, each with the processor time of other processes meanwhile, in microseconds.
pub fn disturbance(times: impl Iterator<Item = (u64, u64)>) -> Vec<String> {
    let (wall_us, others_us) = times.fold((0, 0), |(wall, others), (more, too)| (wall + more, others + too));
    let percent = 100.0 * others_us as f64 / wall_us.max(1) as f64;
    if percent <= DISTURBANCE_PERCENT {
        return Vec::new();
    }
    let percent = digits(percent);
    vec![format!("Other processes used {percent} % of one processor during the runs: these figures are disturbed.")]
}

/// The part of one processor that other processes, including kernel threads, may use before it is noted.
const DISTURBANCE_PERCENT: f64 = 15.0;

/// A folder for a contestant's own inputs.
pub fn own_folder(place: &Place, name: &str) -> PathBuf {
    place.path().join(format!("input-{name}"))
}
