//! `--prune`: finds the files in a folder of outputs that no input has as its output, and removes them.
//!
//! An input that is there counts, whatever the filters of this run say about it. Only regular files are removed, and
//! folders that become empty by that.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files,
    unfinished::{OWN_FOLDER, is_unfinished},
};
use rustix::fs::{AtFlags, unlinkat};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    file_time::FileTime,
    inputs::{
        EntryKind, read_folder,
        survey::{Survey, SurveyError},
    },
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

/// The files in a folder of outputs that no input has as its output, as paths below it, in the order of their names.
/// Files in `kept` are left out.
///
/// # Errors
///
/// When it cannot be known whether an input is gone.
pub fn orphans(survey: &Survey<'_>, output: &Path, kept: &[&Path]) -> Result<Vec<PathBuf>, PruneError> {
    let renamed = match &survey.rules.output_name {
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
    let device = device(output);
    let mut orphans = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let whole = output.join(&folder);
        if survey.interrupted.is_cancelled() {
            return Err(SurveyError::Interrupted.into());
        }
        if !folder.as_os_str().is_empty() && is_apart(device, &whole) {
            continue;
        }
        let entries = match read_folder(&whole, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(|source| PruneError::Unreadable { path: whole, source })?,
        };
        for (name, kind) in entries {
            let path = folder.join(&name);
            match kind {
                EntryKind::Folder if path != Path::new(OWN_FOLDER) => folders.push(path),
                EntryKind::File { .. } if !is_unfinished(&name) => {
                    let has_input = match &renamed {
                        Some(outputs) => outputs.has(&path),
                        None => may_be_there(&survey.input.join(&path)),
                    };
                    let whole = output.join(&path);
                    if !has_input && !kept.contains(&whole.as_path()) && may_be_ours(survey, &whole) {
                        orphans.push(path);
                    }
                }
                EntryKind::File { .. } | EntryKind::Folder | EntryKind::Other(_) | EntryKind::Unseen(_) => {}
            }
        }
    }
    orphans.sort_unstable();
    Ok(orphans)
}

/// The file system of a folder. One that cannot be asked is another one.
fn device(folder: &Path) -> Option<u64> {
    fs::metadata(folder).map(|found| found.dev()).ok()
}

/// Whether a folder does not belong to the outputs, which are on this device: it is a file system of its own, the output
/// folder of other runs, or a repository.
fn is_apart(outputs_on: Option<u64>, folder: &Path) -> bool {
    outputs_on != device(folder) || folder.join(OWN_FOLDER).exists() || folder.ends_with(".git")
}

/// Whether this file may be an output from these inputs: no output is a link, and each is as old as a run over this
/// folder of inputs.
fn may_be_ours(survey: &Survey<'_>, output: &Path) -> bool {
    let found = output.symlink_metadata().ok().filter(fs::Metadata::is_file);
    found.is_some_and(|found| survey.rules.history.is_from_here(FileTime::of(&found)))
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
/// When one cannot be removed, or the user interrupts it; those after it stay.
pub fn remove(output: &Path, orphans: &[PathBuf], interrupted: &CancellationToken) -> Result<(), PruneError> {
    for orphan in orphans {
        if interrupted.is_cancelled() {
            return Err(SurveyError::Interrupted.into());
        }
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
