//! Large files: the cost of a byte, and whether memory stays within its bounds.

use anyhow::Result;

use super::{command_line::Contest, cpus, scaled};
use crate::{
    contest::{self, Contestant, Standing},
    inputs::{Inputs, text},
    kingdom::Kingdom,
    options::{Kind, Run, Task},
    place::{Place, root},
    report::{Bound, Chapter, Goal},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const MEDIUM_UNITS: u64 = 2000;
const BULK_UNITS: u64 = 1000;
const HUGE_UNITS: u64 = 8;
const HUGE_MIB: usize = 256;
/// Runs that each take many seconds.
const HUGE_RUNS: usize = 3;

fn upper<'a>(options: &'a Run, place: &'a Place, units: u64, bytes: usize) -> Result<Contest<'a>> {
    let inputs = Inputs::make(place.path().join("input"), units, Task::Upper, |number| text(number, bytes))?;
    Ok(Contest { options, place, guest: root().join("tests/guests/upper.wat"), inputs })
}

/// Files of a mebibyte.
pub(super) fn bulk(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let units = scaled(options, BULK_UNITS);
    let contest = upper(options, place, units, MIB)?;
    let mut contestants = every_way(&contest, &kingdom)?;
    contestants.push(contest.native_loop(Task::Upper));
    contestants.extend(contest.process_each(units, 2)?);
    contestants.extend(contest.python_pool(2)?);
    let standings = contest::hold(place, options.runs, &contestants)?;
    let contest = Contest { guest: root().join("bench/guests/upper-bytes.wat"), ..contest };
    let bytewise = contest::hold(place, options.runs, &every_way(&contest, &kingdom)?)?;
    let work = format!(
        "{units} files of 1 MiB, in upper case: first by `tests/guests/upper.wat`, with vector instructions, and then by \
         `bench/guests/upper-bytes.wat`, one byte at a time."
    );
    let mut goals = goals("bulk", &standings, 3.5, 1.05, 1.15);
    goals.push(Goal::ratio("bulk", "carried, one byte at a time ÷ loop (a)", contest::ratio(&bytewise, 1), 3.5));
    let peak_mib = contest::peak_mib_of_all(standings.get(ALONE), cpus(options));
    goals.push(Goal::figure("bulk", "alone: peak memory of all processes", peak_mib, Bound::AtMost(100.0), "MiB"));
    Ok(Chapter {
        work,
        tables: vec![contest::table(&standings), contest::table(&bytewise)],
        goals,
        notes: contest::notes(&standings),
        ..Chapter::default()
    })
}

/// The loops, and all ways in which the bytes of files can reach a guest.
fn every_way<'a>(contest: &Contest<'a>, kingdom: &'a Kingdom) -> Result<Vec<Contestant<'a>>> {
    Ok(vec![
        contest.guest_loop(Kind::Kept)?,
        contest.queen(Some(kingdom)),
        contest.queen(None),
        contest.shared(kingdom),
        contest.guest_loop(Kind::Tight)?,
    ])
}

/// The place of the queen without a king in [`every_way`].
const ALONE: usize = 2;

/// The goals for [`every_way`].
fn goals(case: &str, standings: &[Standing], carried: f64, alone: f64, shared: f64) -> Vec<Goal> {
    let goals = [("carried", carried), ("alone", alone), ("shared", shared)].into_iter().zip(1..);
    let goal = |((way, bound), at)| {
        Goal::ratio(case, &format!("{way}: wall ÷ loop (a)"), contest::ratio(standings, at), bound)
    };
    goals.map(goal).collect()
}

/// Files of 64 KiB.
pub(super) fn medium(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let units = scaled(options, MEDIUM_UNITS);
    let contest = upper(options, place, units, 64 * KIB)?;
    let standings = contest::hold(place, options.runs, &every_way(&contest, &kingdom)?)?;
    Ok(Chapter {
        work: format!("{units} files of 64 KiB, in upper case by `tests/guests/upper.wat`."),
        tables: vec![contest::table(&standings)],
        goals: goals("medium", &standings, 6.1, 1.1, 1.25),
        notes: contest::notes(&standings),
        ..Chapter::default()
    })
}

/// Files of a quarter of a gibibyte. The king's bound is `max(WINDOW_BYTES, largest input)`, as much again for results,
/// and `CONNECTION_WINDOW_BYTES` for each of two connections. The queen's bound is one result and one that arrives.
pub(super) fn huge(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let units = scaled(options, HUGE_UNITS);
    let contest = upper(options, place, units, HUGE_MIB * MIB)?;
    let standings = contest::hold(place, options.runs.min(HUGE_RUNS), &every_way(&contest, &kingdom)?)?;
    let peak_mib = |process: &str| {
        let peaks = standings.get(1).map(Standing::peaks).unwrap_or_default();
        peaks.get(process).copied().unwrap_or(0) as f64 / 1024.0
    };
    let work = format!("{units} files of {HUGE_MIB} MiB, in upper case by `tests/guests/upper.wat`.");
    let programs_own = 32.0;
    let king_mib = 2.0 * HUGE_MIB as f64 + 2.0 * 16.0 + programs_own;
    let queen_mib = 2.0 * HUGE_MIB as f64 + 9.0 + 16.0 + programs_own;
    let mut goals = goals("huge", &standings, 2.0, 0.6, 0.7);
    goals.extend([
        Goal::figure("huge", "peak memory of the king", peak_mib("king"), Bound::AtMost(king_mib), "MiB"),
        Goal::figure("huge", "peak memory of the queen", peak_mib("queen"), Bound::AtMost(queen_mib), "MiB"),
    ]);
    let note =
        "The bounds on memory are those of ARCHITECTURE.md: an input and a result of the largest size for the king, \
                a result and the one that arrives for the queen; 16 MiB for each connection; 32 MiB for the program \
                itself."
            .to_owned();
    let notes = std::iter::once(note).chain(contest::notes(&standings)).collect();
    Ok(Chapter { work, tables: vec![contest::table(&standings)], goals, notes, ..Chapter::default() })
}
