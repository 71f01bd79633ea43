//! The cases, one file for each kind.

mod bulk;
mod command_line;
mod cpu;
mod crowd;
mod first;
mod floods;
mod growth;
mod links;
mod million;
mod stream;
mod tiny;
mod wide;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    options::Run,
    place::Place,
    report::{self, Chapter},
    say,
};

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Many tiny files, one instance for all
    Tiny,
    /// Many tiny files, without a king
    TinyLocal,
    /// Many tiny files, a new instance for each
    TinyCommand,
    /// Units of ten milliseconds
    Cpu,
    /// Files of 64 KiB
    Medium,
    /// Files of a mebibyte
    Bulk,
    /// Files of a quarter of a gibibyte
    Huge,
    /// One file of eight gibibytes, beside `cp`
    Stream,
    /// Tiny files of which one in a hundred fails
    Error,
    /// Units without files, for the king's own cost
    Million,
    /// One unit
    First,
    /// Units of ten milliseconds, while others flood the king
    Floods,
    /// Many simulated dukes
    Wide,
    /// As many jobs as there may be
    Crowd,
    /// More units, and larger ones
    Growth,
}

/// Measures the chosen cases.
///
/// # Errors
///
/// When something cannot be measured, or a result is wrong.
pub fn run(options: &Run) -> Result<ExitCode> {
    let mut chapters = Vec::new();
    for name in Name::value_variants() {
        if !options.case.is_empty() && !options.case.contains(name) {
            continue;
        }
        let said = name.to_possible_value().context("a case without a name")?.get_name().to_owned();
        say::note(&format!("{said}:"));
        let place = Place::new(options)?;
        let mut chapter = measure(*name, options, &place).with_context(|| format!("case {said}"))?;
        chapter.name = said;
        say::result(&chapter.markdown());
        chapters.push(chapter);
    }
    say::result(&format!("## Goals\n\n{}", report::summary(&chapters).markdown()));
    if !options.no_results {
        say::note(&format!("written to {}", report::write(options, &chapters)?.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(name: Name, options: &Run, place: &Place) -> Result<Chapter> {
    match name {
        Name::Tiny => tiny::kingdom(options, place),
        Name::TinyLocal => tiny::local(options, place),
        Name::TinyCommand => tiny::command(options, place),
        Name::Cpu => cpu::measure(options, place),
        Name::Medium => bulk::medium(options, place),
        Name::Bulk => bulk::bulk(options, place),
        Name::Huge => bulk::huge(options, place),
        Name::Stream => stream::measure(options, place),
        Name::Error => tiny::error(options, place),
        Name::Million => million::measure(options, place),
        Name::First => first::measure(options, place),
        Name::Floods => floods::measure(options, place),
        Name::Wide => wide::measure(options, place),
        Name::Crowd => crowd::measure(options, place),
        Name::Growth => growth::measure(options, place),
    }
}

/// The number of units, multiplied by the scale.
fn scaled(options: &Run, units: u64) -> u64 {
    ((units as f64 * options.scale) as u64).max(1)
}

/// The number of peasants, and of threads of the loops.
fn cpus(options: &Run) -> usize {
    options.cpus.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
