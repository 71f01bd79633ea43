//! A king between a simulated queen and simulated dukes: the cost of the king itself.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::{
    generator::{self, Job, Outcome},
    kingdom::{Daemon, Kingdom},
    place::Place,
    processes,
};

/// Any bytes: no simulated duke looks at the program.
const PROGRAM: &[u8] = b"\0asm\x01\0\0\0";

/// One run.
pub(super) struct Measured {
    pub(super) outcome: Outcome,
    pub(super) king_cpu_us: u64,
    pub(super) dukes_cpu_us: u64,
    pub(super) queen_cpu_us: u64,
    /// Processor time of all other processes of the machine.
    pub(super) others_us: u64,
    /// The king's peak memory, in KiB.
    pub(super) peak_kib: u64,
}

impl Measured {
    /// The part of this processor time for one unit, in microseconds.
    pub(super) fn each(&self, cpu_us: u64) -> f64 {
        cpu_us as f64 / self.outcome.units.max(1) as f64
    }

    /// The wall time, and the processor time of others meanwhile.
    pub(super) fn disturbance(&self) -> (u64, u64) {
        (self.outcome.wall_us, self.others_us)
    }

    /// How many processors the king kept busy.
    pub(super) fn king_processors(&self) -> f64 {
        self.king_cpu_us as f64 / self.outcome.wall_us.max(1) as f64
    }

    pub(super) fn units_per_second(&self) -> f64 {
        self.outcome.units as f64 * 1e6 / self.outcome.wall_us.max(1) as f64
    }
}

/// The size of simulated dukes.
#[derive(Clone, Copy)]
pub(super) struct Dukes {
    pub(super) dukes: usize,
    pub(super) cpus: u32,
    pub(super) unit_us: u64,
}

/// How many units are to run.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    pub(super) units: u64,
    pub(super) within: Option<Duration>,
    pub(super) open_max: u64,
}

/// Starts simulated dukes of a king, in a separate process.
pub(super) fn echo_dukes(place: &Place, kingdom: &Kingdom, dukes: Dukes) -> Result<Daemon> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("echo-duke").args(&kingdom.flags).args(["--dukes", &dukes.dukes.to_string()]);
    command.args(["--cpus", &dukes.cpus.to_string(), "--unit-us", &dukes.unit_us.to_string()]);
    let mut daemon = Daemon::start(command, "dukes", place.path())?;
    daemon.await_word("ready").context("the simulated dukes did not join")?;
    Ok(daemon)
}

/// Submits made-up units to a king with simulated dukes.
pub(super) fn submit(kingdom: &Kingdom, dukes: &Daemon, demand: Demand) -> Result<Measured> {
    let (program, Demand { units, within, open_max }) = (Bytes::from_static(PROGRAM), demand);
    let job = Job { king: kingdom.address.clone(), program, units, within, open_max, are_sums: false };
    measure(kingdom, &job, || processes::cpu_us(dukes.id()).unwrap_or(0))
}

/// Submits a job to any kingdom. `dukes_cpu_us` returns the processor time of the dukes so far.
pub(super) fn measure(kingdom: &Kingdom, job: &Job, dukes_cpu_us: impl Fn() -> u64) -> Result<Measured> {
    let king = kingdom.king.id();
    let cpu_us = || [Some(king), Some(std::process::id())].map(|id| id.and_then(processes::cpu_us).unwrap_or(0));
    let machine_before = processes::machine_cpu_us();
    let (before, dukes_before) = (cpu_us(), dukes_cpu_us());
    processes::forget_peak(king);
    let outcome = generator::submit(job).with_context(|| kingdom.last_words())?;
    kingdom.settle()?;
    let (after, dukes_after) = (cpu_us(), dukes_cpu_us());
    let ([king_before, queen_before], [king_after, queen_after]) = (before, after);
    let (king_cpu_us, queen_cpu_us) = (king_after - king_before, queen_after - queen_before);
    let dukes_cpu_us = dukes_after - dukes_before;
    let ours_us = king_cpu_us + queen_cpu_us + dukes_cpu_us;
    let others_us = (processes::machine_cpu_us() - machine_before).saturating_sub(ours_us);
    Ok(Measured {
        outcome,
        king_cpu_us,
        dukes_cpu_us,
        queen_cpu_us,
        others_us,
        peak_kib: processes::peak_kib(king).unwrap_or(0),
    })
}
