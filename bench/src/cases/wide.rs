//! Many dukes with many slots: whether one king keeps them all busy, and the cost for each.

use std::time::Duration;

use anyhow::{Context, Result};

use super::links::{self, Demand, Dukes};
use crate::{
    contest,
    figures::{bytes, count, digits},
    kingdom::{Daemon, Kingdom},
    options::Run,
    place::Place,
    report::{Bound, Chapter, Goal, Table},
    say,
};

const UNIT_US: u64 = 50_000;
/// How many dukes, and how many slots each has.
const KINGDOMS: [(usize, u32); 5] = [(1, 64), (10, 64), (100, 64), (200, 64), (1000, 16)];
/// Units that the queen has open for each slot: twice as many as slots have queued.
const OPEN_SLOT: u64 = 8;
const SETTLING: Duration = Duration::from_secs(3);
const STEADY: Duration = Duration::from_secs(10);

/// Measures one kingdom after another.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let mut table = Table::new(&[
        "dukes",
        "slots",
        "units a second",
        "offered",
        "slot time busy",
        "king's CPU a unit",
        "king's processors",
        "dukes' CPU a unit",
        "king's peak memory",
    ]);
    let steady = STEADY.mul_f64(options.scale.clamp(0.3, 1.0));
    let (mut goals, mut disturbances) = (Vec::new(), Vec::new());
    for (dukes, cpus) in KINGDOMS {
        place.await_calm();
        let kingdom = Kingdom::without_dukes(place)?;
        let daemon = links::echo_dukes(place, &kingdom, Dukes { dukes, cpus, unit_us: UNIT_US })?;
        // The job ends in the last second.
        let within = SETTLING + steady + Duration::from_secs(1);
        let slots = dukes as u64 * u64::from(cpus);
        let open_max = OPEN_SLOT * slots;
        let measured = links::submit(&kingdom, &daemon, Demand { units: u64::MAX, within: Some(within), open_max })?;
        disturbances.push(measured.disturbance());
        let rate = rate(&daemon, SETTLING, SETTLING + steady)?;
        let offered = slots as f64 * 1e6 / UNIT_US as f64;
        let busy = 100.0 * rate / offered;
        let cells = [
            count(dukes as u64),
            count(slots),
            count(rate as u64),
            count(offered as u64),
            format!("{} %", digits(busy)),
            format!("{} µs", digits(measured.each(measured.king_cpu_us))),
            digits(measured.king_processors()),
            format!("{} µs", digits(measured.each(measured.dukes_cpu_us))),
            bytes(measured.peak_kib << 10),
        ];
        say::note(&format!("  {}", cells.join(", ")));
        table.row(cells);
        if (dukes, cpus) == (200, 64) {
            goals.push(Goal::figure("wide", "slot time busy, 200 dukes of 64 slots", busy, Bound::AtLeast(97.0), "%"));
        }
    }
    let work = format!(
        "Units of 50 ms without end, through one king, to simulated dukes with a connection each, all in one process of one \
         thread; the queen is a link, too. The king's processors are how many it kept busy. Busy slot time is counted \
         over {} s after the first {} s.",
        digits(steady.as_secs_f64()),
        SETTLING.as_secs()
    );
    Ok(Chapter {
        work,
        tables: vec![table],
        goals,
        notes: contest::disturbance(disturbances.into_iter()),
        ..Chapter::default()
    })
}

/// Attempts begun in a second, between two times after the first.
fn rate(dukes: &Daemon, from: Duration, to: Duration) -> Result<f64> {
    let log = dukes.log();
    let counts: Vec<(f64, f64)> = log
        .lines()
        .filter_map(|line| {
            let (us, began) = line.strip_prefix("began ")?.split_once(' ')?;
            Some((us.parse().ok()?, began.parse().ok()?))
        })
        .collect();
    let origin = counts.first().context("no attempt began")?.0;
    let after = |time: Duration| counts.iter().find(|(us, _)| us - origin >= time.as_micros() as f64 - 1e5);
    let (begin, end) = after(from).zip(after(to)).with_context(|| format!("the job was too short: {counts:?}"))?;
    Ok((end.1 - begin.1) * 1e6 / (end.0 - begin.0))
}
