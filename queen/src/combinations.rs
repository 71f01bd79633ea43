//! Flags of a job that mean nothing together, or not what they seem to mean.

use std::path::Path;

use distwasm_jobs::inputs::Names;
use thiserror::Error;

use crate::{input_place::STANDARD, options::Options};

/// Why flags cannot be used together.
#[derive(Debug, Error)]
pub enum CombinationError {
    #[error(
        "--output-name has no {{word}} in it, so all inputs would have one output; {{stem}} is an input's name without its extension"
    )]
    OneName,
    #[error("--prune removes single files, and each output is a folder of them ({{outdir}} after --)")]
    PruneFolders,
    #[error("{flag} has no effect on the output to stdout (--output -)")]
    Stdout { flag: &'static str },
    #[error("--output - writes one result to stdout, and there is more than one input: --input names one file, or `-`")]
    StdoutSeveral,
    #[error("--output - writes a result to stdout, and --json would print a summary there")]
    StdoutJson,
    #[error("{flag} is for a folder of inputs, and here they are named one by one")]
    NamedInputs { flag: &'static str },
    #[error(
        "with {flag} the numbers of inputs are others than without, and they are in the names of outputs (--output-name)"
    )]
    Numbers { flag: &'static str },
}

/// Checks flags together with the inputs that they name.
///
/// # Errors
///
/// When they cannot be used together.
pub fn check(options: &Options, names: &Names) -> Result<(), CombinationError> {
    let is_single = match names {
        Names::Stdin(_) => true,
        Names::Listed(names) => names.len() == 1,
        Names::All | Names::Failed(_) => false,
    };
    let first = |flags: &[(&'static str, bool)]| flags.iter().find(|(_, is_set)| *is_set).map(|(flag, _)| *flag);
    let name = options.output_name.as_ref();
    let (prune, retry_failed) = (("--prune", options.prune), ("--retry-failed", options.retry_failed));
    if options.output == Path::new(STANDARD) {
        let idle = [
            ("--output-name", name.is_some()),
            ("--update", options.update),
            ("--force", options.force),
            ("--sync", options.sync),
            prune,
            retry_failed,
        ];
        if let Some(flag) = first(&idle) {
            return Err(CombinationError::Stdout { flag });
        }
        if !is_single {
            return Err(CombinationError::StdoutSeveral);
        }
        if options.json && !options.dry_run {
            return Err(CombinationError::StdoutJson);
        }
    }
    if !matches!(names, Names::All)
        && let Some(flag) = first(&[prune, retry_failed])
    {
        return Err(CombinationError::NamedInputs { flag });
    }
    if options.prune && options.guest.arguments().name_output_folder() {
        return Err(CombinationError::PruneFolders);
    }
    let Some(name) = name else { return Ok(()) };
    if name.is_constant() && !is_single {
        return Err(CombinationError::OneName);
    }
    let shard = ("--shard", options.selection.shard.is_some());
    match first(&[prune, retry_failed, shard]).filter(|_| name.has_number()) {
        Some(flag) => Err(CombinationError::Numbers { flag }),
        None => Ok(()),
    }
}
