//! `--prune`: finds the outputs whose inputs are gone, and removes them.
//!
//! An input that is there counts, whatever the filters of this run say about it. Only regular files are removed, and
//! folders that become empty by that.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files,
};
use rustix::fs::{AtFlags, unlinkat};
use thiserror::Error;

use crate::{
    history::RECORD_FOLDER,
    inputs::{
        Kind, read_folder,
        survey::{Survey, SurveyError},
    },
    outputs::is_unfinished,
};

/// Why nothing was removed, or not everything.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PruneError {
    #[error(
        "there is no input at all, so all outputs would be removed (--prune); if that is meant, remove the output folder"
    )]
    NoInputs,
    #[error(transparent)]
    Survey(#[from] SurveyError),
    #[error("failed to read the folder {} of outputs (--prune)", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("failed to remove {} (--prune)", .path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// The outputs in a folder whose inputs are gone, as paths below it, in the order of their names.
///
/// # Errors
///
/// When it cannot be known whether an input is gone.
pub fn orphans(survey: &Survey<'_>, output: &Path) -> Result<Vec<PathBuf>, PruneError> {
    let renamed = match &survey.listing.output_name {
        Some(name) => Some(survey.all_outputs(name)?),
        None => None,
    };
    let has_inputs = match &renamed {
        Some(outputs) => !outputs.is_empty(),
        None => survey.has_inputs()?,
    };
    if !has_inputs {
        return Err(PruneError::NoInputs);
    }
    let mut orphans = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let whole = output.join(&folder);
        let entries = match read_folder(&whole, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(|source| PruneError::Unreadable { path: whole, source })?,
        };
        for (name, kind) in entries {
            let path = folder.join(&name);
            match kind {
                Kind::Folder if path != Path::new(RECORD_FOLDER) => folders.push(path),
                // Links are somebody else's: no output is one.
                Kind::File(..) if !is_unfinished(&name) && !output.join(&path).is_symlink() => {
                    let has_input = match &renamed {
                        Some(outputs) => outputs.has(&path),
                        None => may_be_there(&survey.input.join(&path)),
                    };
                    orphans.extend((!has_input).then_some(path));
                }
                Kind::File(..) | Kind::Folder | Kind::Other(_) | Kind::Unseen(_) => {}
            }
        }
    }
    orphans.sort_unstable();
    Ok(orphans)
}

/// Whether an input is there, or nobody can say.
fn may_be_there(input: &Path) -> bool {
    match input.symlink_metadata() {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Removes outputs, and the folders that become empty.
///
/// # Errors
///
/// When one cannot be removed; those after it stay.
pub fn remove(output: &Path, orphans: &[PathBuf]) -> Result<(), PruneError> {
    for orphan in orphans {
        let removed = remove_in(output, orphan, |folder, name| files::remove_in(folder, name));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PruneError::Remove { path: output.join(orphan), source: error });
            }
            _ => {}
        }
        // A folder that is not empty stays.
        let remove_folder = |folder: &File, name: &Path| Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?);
        let folders = orphan.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty());
        let _kept = folders.map(|folder| remove_in(output, folder, remove_folder)).find(Result::is_err);
    }
    Ok(())
}

/// Removes something from its folder. Links are not followed: no output that was found is behind one.
fn remove_in(output: &Path, path: &Path, remove: impl FnOnce(&File, &Path) -> io::Result<()>) -> io::Result<()> {
    let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
    let folder = beneath::open_folder(File::open(output)?, parent, Links::Refused, Missing::Stays)?;
    remove(&folder, Path::new(name))
}
