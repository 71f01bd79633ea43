//! Units of about ten milliseconds: the cost of scheduling for units with real work.

use anyhow::Result;

use super::{command_line::Contest, cpus, scaled};
use crate::{
    contest,
    inputs::Inputs,
    kingdom::Kingdom,
    options::{Kind, Run, Task},
    place::{Place, root},
    report::{Chapter, Goal},
    search,
};

const UNITS: u64 = 1000;
/// The number of different searches; more would take long to find.
const SEARCHES: u64 = 50;
/// How many hashes a search needs: about 10 ms in the guest.
const HASHES: std::ops::Range<u64> = 20_000..40_000;

/// Searches for hashes that begin with zeros.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let units = scaled(options, UNITS);
    let inputs = searches(place, units)?;
    let kingdom = Kingdom::new(place, cpus(options))?;
    let contest = Contest { options, place, guest: root().join("examples/hash/hash.wasm"), inputs };
    let mut contestants = vec![contest.guest_loop(Kind::Kept)?, contest.queen(Some(&kingdom))];
    contestants.push(contest.queen(None));
    contestants.push(contest.native_loop(Task::Hash));
    contestants.extend(contest.process_each(units, 2)?);
    contestants.extend(contest.python_pool(2)?);
    let standings = contest::hold(place, options.runs, &contestants)?;
    let work = format!("{units} searches of 20,000 to 40,000 hashes by `examples/hash/hash.wasm`.");
    let goals = vec![Goal::ratio("cpu", "wall ÷ loop (a)", contest::ratio(&standings, 1), 1.03)];
    Ok(Chapter {
        work,
        tables: vec![contest::table(&standings)],
        goals,
        notes: contest::notes(&standings),
        ..Chapter::default()
    })
}

/// Inputs that each take about ten milliseconds.
pub(super) fn searches(place: &Place, units: u64) -> Result<Inputs> {
    let searches: Vec<u64> = (1..).filter(|a| is_right_length(*a)).take(usize::try_from(SEARCHES)?).collect();
    Inputs::make(place.path().join("input"), units, Task::Hash, |number| {
        let at = usize::try_from(number % SEARCHES).unwrap_or(0);
        format!("{} 4\n", searches.get(at).copied().unwrap_or(0)).into_bytes()
    })
}

/// Whether the search for four zeros takes about as long as it should.
fn is_right_length(a: u64) -> bool {
    i64::try_from(a).is_ok_and(|a| HASHES.contains(&search::find(a, 4)))
}
