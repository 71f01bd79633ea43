//! A million tiny units without files, through one king: the king's cost, and its memory.

use std::fs;

use anyhow::Result;

use super::{
    cpus,
    links::{self, Demand, Dukes, Measured},
    scaled,
};
use crate::{
    contest,
    figures::{Figures, bytes, count, digits},
    generator::Job,
    kingdom::Kingdom,
    options::Run,
    place::{Place, root},
    report::{Bound, Chapter, Goal, Table},
    say,
};

const UNITS: u64 = 1_000_000;
const RUNS: usize = 3;
const ALONE: Dukes = Dukes { dukes: 1, cpus: 64, unit_us: 0 };

/// Measures with a simulated duke, and with a real one.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let mut table = Table::new(&[
        "",
        "units",
        "units a second",
        "king's CPU a unit",
        "king's processors",
        "dukes' CPU",
        "queen's CPU",
        "king's peak memory",
    ]);
    let largest = scaled(options, UNITS);
    let (mut fastest, mut disturbances) = (Figures::default(), Vec::new());
    for units in [1000, 10_000, 100_000, largest] {
        let runs = if units == largest { options.runs.min(RUNS) } else { 1 };
        let mut rates = Vec::new();
        for _ in 0..runs {
            // Each measurement has its own kingdom, so that memory is that of these units.
            place.await_calm();
            let kingdom = Kingdom::without_dukes(place)?;
            let dukes = links::echo_dukes(place, &kingdom, ALONE)?;
            let measured = links::submit(&kingdom, &dukes, Demand { units, within: None, open_max: u64::MAX })?;
            row(&mut table, "simulated duke", &measured);
            disturbances.push(measured.disturbance());
            rates.push(measured.units_per_second());
        }
        fastest = rates.into_iter().collect();
    }
    for units in [10_000, largest] {
        place.await_calm();
        let kingdom = Kingdom::new(place, cpus(options))?;
        let program = fs::read(root().join("examples/summer/summer.wasm"))?.into();
        let mut job =
            Job { king: kingdom.address.clone(), program, units: 1, within: None, open_max: u64::MAX, are_sums: true };
        // The first job has the program compiled.
        links::measure(&kingdom, &job, || 0)?;
        job.units = units;
        let king = kingdom.king.id();
        let others = || kingdom.cpu_us() - crate::processes::cpu_us(king).unwrap_or(0);
        let measured = links::measure(&kingdom, &job, others)?;
        row(&mut table, "duke with peasants and summer", &measured);
        disturbances.push(measured.disturbance());
    }
    let work = "Units of about 15 bytes that a queen makes up, through one king; verdicts counted, and each result looked \
                at. The queen is a single link in the benchmark's own process. The simulated duke has 64 slots and answers \
                at once. The real one's CPU includes that of its peasants."
        .to_owned();
    let goal = Goal::figure("million", "units a second", fastest.median(), Bound::AtLeast(150_000.0), "");
    Ok(Chapter {
        work,
        tables: vec![table],
        goals: vec![goal],
        notes: contest::disturbance(disturbances.into_iter()),
        ..Chapter::default()
    })
}

fn row(table: &mut Table, who: &str, measured: &Measured) {
    let each = |cpu_us| format!("{} µs", digits(measured.each(cpu_us)));
    let cells = [
        who.to_owned(),
        count(measured.outcome.units),
        count(measured.units_per_second() as u64),
        each(measured.king_cpu_us),
        digits(measured.king_processors()),
        each(measured.dukes_cpu_us),
        each(measured.queen_cpu_us),
        bytes(measured.peak_kib << 10),
    ];
    say::note(&format!("  {}", cells.join(", ")));
    table.row(cells);
}
