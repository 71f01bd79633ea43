//! Many tiny files: the cost of a unit that does nearly nothing.

use std::path::PathBuf;

use anyhow::Result;

use super::{command_line::Contest, cpus, scaled};
use crate::{
    contest::{self, Contestant, Standing},
    inputs::Inputs,
    kingdom::Kingdom,
    options::{Kind, Run, Task},
    place::{Place, root},
    report::{Bound, Chapter, Goal},
};

const UNITS: u64 = 10_000;
/// Units of the contestants that start a process or an interpreter each time.
const UNITS_SLOW: u64 = 1000;

fn summer(name: &str) -> PathBuf {
    root().join("examples/summer").join(name)
}

fn sums<'a>(options: &'a Run, place: &'a Place, guest: &str) -> Result<Contest<'a>> {
    let inputs = Inputs::sums(place.path().join("input"), scaled(options, UNITS))?;
    Ok(Contest { options, place, guest: summer(guest), inputs })
}

/// Through a kingdom.
pub(super) fn kingdom(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let contest = sums(options, place, "summer.wasm")?;
    let mut contestants = vec![contest.guest_loop(Kind::Kept)?, contest.queen(Some(&kingdom))];
    contestants.push(contest.shared(&kingdom));
    contestants.push(contest.guest_loop(Kind::Tight)?);
    contestants.push(contest.native_loop(Task::Sum));
    contestants.extend(contest.process_each(scaled(options, UNITS_SLOW), 1)?);
    contestants.extend(contest.python_pool(2)?);
    let standings = contest::hold(place, options.runs, &contestants)?;
    let mut chapter = chapter(&standings, "files of about 15 bytes, summed by `examples/summer/summer.wasm`");
    chapter.goals = vec![
        Goal::ratio("tiny", "carried: wall ÷ loop (a)", contest::ratio(&standings, 1), 1.3),
        Goal::ratio("tiny", "shared: wall ÷ loop (a)", contest::ratio(&standings, 2), 1.1),
        Goal::figure("tiny", "CPU of all processes a unit", cpu(&standings), Bound::AtMost(60.0), "µs"),
    ];
    Ok(chapter)
}

/// By a queen alone.
pub(super) fn local(options: &Run, place: &Place) -> Result<Chapter> {
    let contest = sums(options, place, "summer.wasm")?;
    let contestants = [contest.guest_loop(Kind::Kept)?, contest.queen(None), contest.guest_loop(Kind::Tight)?];
    let standings = contest::hold(place, options.runs, &contestants)?;
    let mut chapter = chapter(&standings, "files of about 15 bytes, summed by `summer.wasm`, without a king");
    chapter.goals = vec![Goal::ratio("tiny-local", "wall ÷ loop (a)", contest::ratio(&standings, 1), 0.9)];
    Ok(chapter)
}

/// With an instance for each unit.
pub(super) fn command(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let contest = sums(options, place, "summer-command.wasm")?;
    let contestants = [contest.guest_loop(Kind::Fresh)?, contest.queen(Some(&kingdom))];
    let standings = contest::hold(place, options.runs, &contestants)?;
    let mut chapter = chapter(
        &standings,
        "files of about 15 bytes, summed by `summer-command.wasm`, a plain program: a new instance each",
    );
    chapter.goals = vec![Goal::ratio("tiny-command", "wall ÷ loop (a)", contest::ratio(&standings, 1), 1.0)];
    Ok(chapter)
}

/// One in a hundred traps.
pub(super) fn error(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let guest = root().join("bench/guests/trap.wat");
    let units = scaled(options, UNITS);
    let inputs = Inputs::echoed(place.path().join("input-good"), units)?;
    let good = Contest { options, place, guest: guest.clone(), inputs };
    let inputs = Inputs::echoed(place.path().join("input"), units)?.with_failures(100)?;
    let bad = Contest { options, place, guest, inputs };
    let contestants = [
        Contestant { name: "no unit traps: king, duke, queen, peasants".to_owned(), ..good.queen(Some(&kingdom)) },
        Contestant { name: "1 % trap: king, duke, queen, peasants".to_owned(), status: 1, ..bad.queen(Some(&kingdom)) },
        Contestant { name: "1 % trap: loop (a), kept instances".to_owned(), status: 1, ..bad.guest_loop(Kind::Kept)? },
    ];
    let standings = contest::hold(place, options.runs, &contestants)?;
    let mut chapter = chapter(&standings, "files of about 15 bytes, echoed by `bench/guests/trap.wat`");
    chapter.notes.push("Here × loop compares with the first row, the run without failures.".to_owned());
    chapter.goals = vec![Goal::ratio("error", "wall ÷ the same without failures", contest::ratio(&standings, 1), 1.15)];
    Ok(chapter)
}

fn chapter(standings: &[Standing], work: &str) -> Chapter {
    let units = standings.first().map_or(0, |first| first.units);
    let work = format!("{} {work}.", crate::figures::count(units));
    Chapter { work, tables: vec![contest::table(standings)], notes: contest::notes(standings), ..Chapter::default() }
}

fn cpu(standings: &[Standing]) -> f64 {
    standings.get(1).map_or(0.0, Standing::cpu_us_each)
}
