//! One unit: the latency until its result.

use std::{
    cell::Cell,
    fmt::Write as _,
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};

use super::{command_line::Contest, cpus};
use crate::{
    contest::{self, Contestant, Standing},
    figures::{Figures, bytes, time},
    inputs::Inputs,
    kingdom::Kingdom,
    options::{Kind, Run},
    place::{Place, program, root},
    processes,
    report::{Bound, Chapter, Goal, Table},
    say,
};

const RUNS: usize = 20;
const RUNS_UNKNOWN: usize = 5;
const PROGRAM_BYTES: usize = 1 << 20;

/// Measures a program that the machine knows, and programs that it does not know.
pub(super) fn measure(options: &Run, place: &Place) -> Result<Chapter> {
    let kingdom = Kingdom::new(place, cpus(options))?;
    let inputs = Inputs::sums(place.path().join("input"), 1)?;
    let contest = Contest { options, place, guest: root().join("examples/summer/summer.wasm"), inputs };
    let contestants = [contest.guest_loop(Kind::Kept)?, contest.queen(Some(&kingdom)), contest.queen(None)];
    let standings = contest::hold(place, RUNS, &contestants)?;
    let wall_ms = |at: usize| standings.get(at).map_or(0.0, |standing| standing.wall_us().median() / 1000.0);
    let unknown = unknown(options, place, &kingdom)?;
    let goals = vec![
        Goal::figure("first", "known program, running kingdom", wall_ms(1), Bound::AtMost(60.0), "ms"),
        Goal::figure("first", "known program, local", wall_ms(2), Bound::AtMost(120.0), "ms"),
        Goal::figure(
            "first",
            "unknown program, kingdom: beyond compiling",
            unknown.beyond_ms(1),
            Bound::AtMost(100.0),
            "ms",
        ),
        Goal::figure(
            "first",
            "unknown program, local: beyond compiling",
            unknown.beyond_ms(2),
            Bound::AtMost(100.0),
            "ms",
        ),
    ];
    let work = format!(
        "One unit, from the start of `queen` to its end. First with a program that the machine knows, {RUNS} times; \
         then with one of {} that is new each time, {RUNS_UNKNOWN} times, beside `peasant compile` of another such \
         program.",
        bytes(unknown.program_bytes as u64)
    );
    Ok(Chapter {
        work,
        tables: vec![contest::table(&standings), unknown.table()],
        goals,
        notes: contest::notes(&standings),
        ..Chapter::default()
    })
}

/// Compiling alone, then the system with programs that it does not know.
struct Unknown {
    program_bytes: usize,
    standings: Vec<(&'static str, Vec<f64>)>,
}

impl Unknown {
    /// The median of the time that each round took beyond its compiling.
    fn beyond_ms(&self, at: usize) -> f64 {
        let walls = |at: usize| self.standings.get(at).map(|(_, walls)| walls.as_slice()).unwrap_or_default();
        let beyond = walls(at).iter().zip(walls(0)).map(|(system, alone)| (system - alone) / 1000.0);
        beyond.collect::<Figures>().median()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["unknown program", "wall, median", "spread"]);
        for (name, walls) in &self.standings {
            let wall: Figures = walls.iter().copied().collect();
            let spread = format!("{} to {}", time(wall.min()), time(wall.max()));
            table.row([(*name).to_owned(), time(wall.median()), spread]);
        }
        table
    }
}

fn unknown(options: &Run, place: &Place, kingdom: &Kingdom) -> Result<Unknown> {
    let programs = Programs::new(place)?;
    let mut walls = [const { Vec::new() }; 3];
    for _ in 0..RUNS_UNKNOWN {
        for (at, wall) in walls.iter_mut().enumerate() {
            let (guest, inputs) = (programs.another()?, Inputs::echoed(place.path().join("input-unknown"), 1)?);
            let contest = Contest { options, place, guest: guest.clone(), inputs };
            let wall_us = match at {
                0 => compile(place, &guest)?,
                1 => once(place, contest.queen(Some(kingdom)))?,
                _ => once(place, contest.queen(None))?,
            };
            say::note(&format!("  unknown program: {}", time(wall_us)));
            wall.push(wall_us);
        }
    }
    let names = ["`peasant compile`", "king, duke, queen, peasants", "queen without a king"];
    let standings = names.into_iter().zip(walls).collect();
    Ok(Unknown { program_bytes: programs.base.len(), standings })
}

fn compile(place: &Place, guest: &PathBuf) -> Result<f64> {
    place.await_calm();
    let mut command = program("peasant")?;
    command.arg("compile").arg("--output").arg(place.path().join("compiled-alone")).stdin(File::open(guest)?);
    let finished = processes::run(&mut command, |_| ())?;
    ensure!(finished.status == Some(0), "the program does not compile");
    Ok(finished.wall_us as f64)
}

fn once(place: &Place, contestant: Contestant<'_>) -> Result<f64> {
    let standings = contest::hold_cold(place, 1, &[contestant])?;
    Ok(standings.first().map(Standing::wall_us).context("no standing")?.median())
}

/// Large programs that differ.
struct Programs {
    folder: PathBuf,
    base: Vec<u8>,
    made: Cell<u32>,
}

impl Programs {
    /// Builds a program of real functions until it is large enough, after one that echoes.
    fn new(place: &Place) -> Result<Programs> {
        let echo = fs::read_to_string(root().join("bench/guests/trap.wat"))?;
        let mut text = echo.trim_end().strip_suffix(')').context("the guest ends without its bracket")?.to_owned();
        for number in 0..PROGRAM_BYTES / FUNCTION_BYTES {
            let (a, b) = (number * 7919 + 100_000_000, number * 104_729 + 200_000_000);
            write!(
                text,
                "(func (export \"f{number}\") (param i32 i32) (result i32) (local i32) (loop $again \
                   (local.set 2 (i32.add (i32.mul (local.get 0) (i32.const {a})) (local.get 2))) \
                   (if (i32.gt_u (local.get 2) (i32.const {b})) (then (local.set 1 (i32.xor (local.get 1) (local.get 2)))) \
                     (else (i32.store (i32.and (local.get 2) (i32.const 65528)) (local.get 1)))) \
                   (local.set 0 (i32.sub (local.get 0) (i32.load (i32.and (local.get 1) (i32.const 65528))))) \
                   (br_if $again (i32.rem_u (local.get 0) (i32.const 3)))) (local.get 1))"
            )?;
        }
        text.push(')');
        let base = wat::parse_str(&text)?;
        Ok(Programs { folder: place.folder("programs")?, base, made: Cell::new(0) })
    }

    /// Another program that no cache knows. It differs only in a section without meaning.
    fn another(&self) -> Result<PathBuf> {
        let number = self.made.replace(self.made.get() + 1);
        let mut bytes = self.base.clone();
        // A custom section: its kind, its length, the length of its name, its name, and its content.
        bytes.extend_from_slice(&[0, 13, 4]);
        bytes.extend_from_slice(b"seen");
        bytes.extend_from_slice(format!("{number:08}").as_bytes());
        let path = self.folder.join(format!("unknown-{number}.wasm"));
        fs::write(&path, bytes)?;
        Ok(path)
    }
}

/// The size of one of the functions in the program, with its export.
const FUNCTION_BYTES: usize = 90;
