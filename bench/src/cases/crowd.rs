//! As many jobs as a king takes, of a project each: the cost of opening them, and how soon each queen is answered.

use std::time::Duration;

use anyhow::Result;
use distwasm_proto::limits::JOBS_MAX;

use super::links::{self, Dukes};
use crate::{
    figures::{Figures, digits},
    generator,
    kingdom::Kingdom,
    options::Run,
    place::Place,
    processes,
    report::{Bound, Chapter, Goal, Table},
};

/// How many queens open jobs at the same time, each one job after the other.
const QUEENS: usize = 32;
const DUKES: Dukes = Dukes { dukes: 1, cpus: 64, unit_us: 1_000_000 };

/// Opens the jobs, as often as there are runs.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let mut table = Table::new(&["king's CPU", "an answer, median", "the slowest answer"]);
    let (mut cpu, mut slowest) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        place.await_calm();
        let kingdom = Kingdom::without_dukes(place)?;
        let _dukes = links::echo_dukes(place, &kingdom, DUKES)?;
        let king_us = || processes::cpu_us(kingdom.king.id()).unwrap_or(0);
        let before = king_us();
        let answers: Figures =
            generator::crowd(&kingdom.address, QUEENS, JOBS_MAX / QUEENS)?.into_iter().map(as_ms).collect();
        let king = Duration::from_micros(king_us() - before);
        cpu.push(king.as_secs_f64());
        slowest.push(answers.max());
        table.row([
            format!("{} s", digits(king.as_secs_f64())),
            format!("{} ms", digits(answers.median())),
            format!("{} ms", digits(answers.max())),
        ]);
    }
    let median = |figures: Vec<f64>| figures.into_iter().collect::<Figures>().median();
    let goals = vec![
        Goal::figure("crowd", "king's CPU to open 1,024 jobs", median(cpu), Bound::AtMost(1.0), "s"),
        Goal::figure("crowd", "slowest answer meanwhile", median(slowest), Bound::AtMost(100.0), "ms"),
    ];
    let work = format!(
        "{JOBS_MAX} jobs of a project each, with a unit each, on 64 slots of a simulated duke. {QUEENS} queens open them \
         over connections of their own; each waits for the king's answer before it opens its next job."
    );
    Ok(Chapter { work, tables: vec![table], goals, ..Chapter::default() })
}

fn as_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
