//! Where the file of failures is.

use std::{
    io,
    path::{Path, PathBuf},
};

use distwasm_jobs::{outputs::OutputPlace, selection::Shard};
use distwasm_process::beneath;
use thiserror::Error;

use super::default_failures_path;
use crate::output_folder::{self, beside};

/// Why the path of a file of failures cannot be used.
#[derive(Debug, Error)]
pub enum FailuresPathError {
    #[error("failed to open the file of failures {} (--failures)", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("the file of failures {} (--failures) is in the input folder, and would be an input", .path.display())]
    AmongInputs { path: PathBuf },
    #[error("the file of failures {} (--failures) is in the output folder, and with --output-name any name there may be one of an output", .path.display())]
    InOutput { path: PathBuf },
    #[error("the file of failures {} (--failures) has the name of an output: that of the input {}", .path.display(), .input.display())]
    AmongOutputs { path: PathBuf, input: PathBuf },
}

/// The path of the failures file: the one that the user named, or one beside the output folder. Without either, there is
/// no file.
///
/// # Errors
///
/// When the path cannot be used.
pub fn failures_path(
    named: Option<&Path>,
    input: &Path,
    output: &OutputPlace,
    shard: Option<Shard>,
    renames: bool,
) -> Result<Option<PathBuf>, FailuresPathError> {
    let Some(path) = named else {
        return Ok(match output {
            OutputPlace::Folder(output) => Some(default_failures_path(&beside(output, shard))),
            OutputPlace::Stdout => None,
        });
    };
    let cannot_open = |source| FailuresPathError::Unusable { path: path.to_owned(), source };
    if path.is_symlink() && !path.exists() {
        return Err(cannot_open(io::Error::other("it is a link to nothing")));
    }
    beneath::check_link(path).map_err(cannot_open)?;
    let resolved = output_folder::resolve(path).map_err(cannot_open)?;
    if resolved.starts_with(input) {
        return Err(FailuresPathError::AmongInputs { path: path.to_owned() });
    }
    let OutputPlace::Folder(output) = output else { return Ok(Some(resolved)) };
    if renames && resolved.starts_with(output) {
        return Err(FailuresPathError::InOutput { path: path.to_owned() });
    }
    match resolved.strip_prefix(output).map(|below| input.join(below)) {
        Ok(input) if input.symlink_metadata().is_ok() => {
            Err(FailuresPathError::AmongOutputs { path: path.to_owned(), input })
        }
        _ => Ok(Some(resolved)),
    }
}
