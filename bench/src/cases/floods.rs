//! A queen whose work goes on while others flood the king.

use std::process::Command;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::{command_line::Contest, cpu, cpus, scaled};
use crate::{
    contest::{self, Standing},
    figures::{bytes, digits, time},
    kingdom::{Daemon, Kingdom},
    options::{FloodKind, Run, Wire},
    place::{Place, root},
    report::{Bound, Chapter, Goal, Table},
};

const UNITS: u64 = 200;
/// The memory that the king may use for others.
const MEMORY_MB: u64 = 256;
/// What a king needs without any job, with so many connections.
const BASE_MB: f64 = 40.0;

/// A job of 200 units, alone and beside each kind of flood.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    ensure!(place.wire() == Wire::Socket, "floods come over TCP, and the queen uses the king's socket");
    let units = scaled(options, UNITS);
    let inputs = cpu::searches(place, units)?;
    let flags = ["--insecure", "--memory-limit", &MEMORY_MB.to_string()].map(str::to_owned);
    let kingdom = Kingdom::with_flags(place, cpus(options), &flags)?;
    let contest = Contest { options, place, guest: root().join("examples/hash/hash.wasm"), inputs };
    let run = || -> Result<Standing> {
        let mut standings = contest::hold(place, options.runs, &[contest.queen(Some(&kingdom))])?;
        Ok(standings.swap_remove(0))
    };
    let alone = run()?.wall_us().median();
    let mut table = Table::new(&["beside", "wall, median", "× alone", "king's peak memory"]);
    table.row(["nothing".to_owned(), time(alone), "1".to_owned(), String::new()]);
    let mut goals = Vec::new();
    for kind in FloodKind::value_variants() {
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["flood", "--insecure", "--king-address", &kingdom.address.to_string(), "--kind", &name]);
        let mut flood = Daemon::start(command, "flood", place.path())?;
        flood.await_word("ready")?;
        let standing = run()?;
        ensure!(!flood.has_ended()?, "the flood ended: {}", flood.last_words());
        let (wall, peaks) = (standing.wall_us().median(), standing.peaks());
        let king_kib = peaks.get("king").copied().unwrap_or(0);
        table.row([name.clone(), time(wall), digits(wall / alone), bytes(king_kib << 10)]);
        let peak_mb = king_kib as f64 * 1024.0 / 1e6;
        goals.push(Goal::figure("floods", &format!("{name}: wall ÷ alone"), wall / alone, Bound::AtMost(2.0), ""));
        let most = BASE_MB + MEMORY_MB as f64 * 1.2;
        goals.push(Goal::figure("floods", &format!("{name}: king's peak"), peak_mb, Bound::AtMost(most), "MB"));
    }
    let work = format!(
        "{units} searches of 20,000 to 40,000 hashes by a queen over the king's socket, while 40 strangers at a time flood the king \
         over TCP. The first kind of flood only keeps one processor busy. The king has `--memory-limit {MEMORY_MB}`."
    );
    Ok(Chapter { work, tables: vec![table], goals, ..Chapter::default() })
}
