//! How cost grows with the number of units, and with their size.

use std::fs;

use anyhow::Result;

use super::{command_line::Contest, cpus, scaled};
use crate::{
    contest::{self, Standing},
    figures::{bytes, count, digits, time},
    inputs::{Inputs, text},
    kingdom::Kingdom,
    options::{Kind, Run, Task},
    place::{Place, root},
    report::{Chapter, Table},
};

const COUNTS: [u64; 3] = [1000, 10_000, 100_000];
const COUNT_LONG: u64 = 1_000_000;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Sizes of files, and how many of each.
const SIZES: [(usize, u64); 6] =
    [(0, 10_000), (KIB, 10_000), (64 * KIB, 2000), (MIB, 200), (16 * MIB, 16), (256 * MIB, 4)];
const RUNS: usize = 3;

/// Measures more and more units, and then larger and larger ones.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let mut counts =
        Table::new(&["units", "wall", "wall a unit", "× loop", "CPU a unit", "king's peak", "queen's peak"]);
    let mut held = Vec::new();
    let is_long = options.long && options.scale >= 1.0;
    for units in COUNTS.into_iter().chain(is_long.then_some(COUNT_LONG)) {
        let inputs = Inputs::sums(place.path().join("input"), scaled(options, units))?;
        let contest = Contest { options, place, guest: root().join("examples/summer/summer.wasm"), inputs };
        let (reference, system) = hold(&contest, &kingdom)?;
        counts.row([
            count(system.units),
            time(system.wall_us().median()),
            time(system.wall_us_each()),
            digits(system.wall_us_each() / reference.wall_us_each()),
            time(system.cpu_us_each()),
            peak(&system, "king"),
            peak(&system, "queen"),
        ]);
        held.extend([reference, system]);
        fs::remove_dir_all(place.path().join("input"))?;
    }
    let mut sizes =
        Table::new(&["size", "files", "wall a unit", "wall a MiB", "× loop", "CPU a unit", "CPU a MiB", "king's peak"]);
    for (size, units) in SIZES {
        let units = scaled(options, units);
        let inputs = Inputs::make(place.path().join("input"), units, Task::Upper, |number| text(number, size))?;
        let contest = Contest { options, place, guest: root().join("tests/guests/upper.wat"), inputs };
        let (reference, system) = hold(&contest, &kingdom)?;
        let each_mib = |us: f64| if size == 0 { "-".to_owned() } else { time(us * MIB as f64 / size as f64) };
        sizes.row([
            bytes(size as u64),
            count(system.units),
            time(system.wall_us_each()),
            each_mib(system.wall_us_each()),
            digits(system.wall_us_each() / reference.wall_us_each()),
            time(system.cpu_us_each()),
            each_mib(system.cpu_us_each()),
            peak(&system, "king"),
        ]);
        held.extend([reference, system]);
        fs::remove_dir_all(place.path().join("input"))?;
    }
    let work = "Sums by `examples/summer/summer.wasm`, more and more of them; then files of all sizes, in upper case by \
                `tests/guests/upper.wat`. Through king, duke, queen and peasants; × loop compares with loop (a) on the same \
                files."
        .to_owned();
    Ok(Chapter { work, tables: vec![counts, sizes], notes: contest::notes(&held), ..Chapter::default() })
}

fn hold(contest: &Contest<'_>, kingdom: &Kingdom) -> Result<(Standing, Standing)> {
    let contestants = [contest.guest_loop(Kind::Kept)?, contest.queen(Some(kingdom))];
    let standings = contest::hold(contest.place, contest.options.runs.min(RUNS), &contestants)?;
    let [reference, system] =
        <[Standing; 2]>::try_from(standings).map_err(|_| anyhow::anyhow!("a contestant is missing"))?;
    Ok((reference, system))
}

fn peak(standing: &Standing, process: &str) -> String {
    standing.peaks().get(process).map_or_else(|| "-".to_owned(), |kib| bytes(kib << 10))
}
