//! One file that is larger than memory should be: how fast bytes stream through a program.

use anyhow::Result;

use super::{command_line::Contest, cpus};
use crate::{
    contest,
    inputs::Inputs,
    options::Run,
    place::{Place, root},
    report::{Bound, Chapter, Goal},
};

const GIB: u64 = 1 << 30;
const FILE_GIB: u64 = 8;
/// Runs that each take seconds.
const RUNS: usize = 3;

/// A copy through a guest that reads and writes 60 KiB at a time, without a king, beside `cp`.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let bytes = ((FILE_GIB * GIB) as f64 * options.scale) as u64;
    let inputs = Inputs::hole(place.path().join("input"), bytes)?;
    let contest = Contest { options, place, guest: root().join("tests/guests/echo.wat"), inputs };
    let standings = contest::hold(place, options.runs.min(RUNS), &[contest.cp(), contest.queen(None)])?;
    let speed = 1.0 / contest::ratio(&standings, 1);
    let peak_mib = contest::peak_mib_of_all(standings.get(1), cpus(options));
    let work = format!(
        "One file of {}, nearly all of it a hole, copied by `tests/guests/echo.wat`, 60 KiB at a time. Here × loop \
         compares with `cp`.",
        crate::figures::bytes(bytes)
    );
    Ok(Chapter {
        work,
        tables: vec![contest::table(&standings)],
        goals: vec![
            Goal::figure("stream", "speed ÷ `cp`", speed, Bound::AtLeast(0.8), ""),
            Goal::figure("stream", "peak memory of all processes", peak_mib, Bound::AtMost(128.0), "MiB"),
        ],
        notes: contest::notes(&standings),
        ..Chapter::default()
    })
}
