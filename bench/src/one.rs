//! A process for one input, as `xargs` and similar tools start it.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};

use crate::{guest_loop::Callee, options::One};

/// Answers one input.
///
/// # Errors
///
/// When the input has no answer.
pub fn run(options: &One) -> Result<ExitCode> {
    let mut callee = Callee::guest(&options.compiled, false)?;
    let answer = callee.answer(fs::read(&options.input)?)?;
    let name = options.output.file_name().context("an output has a name")?.to_string_lossy();
    let unfinished = options.output.with_file_name(format!(".unfinished-{name}"));
    fs::write(&unfinished, answer)?;
    fs::rename(&unfinished, &options.output)?;
    Ok(ExitCode::SUCCESS)
}
