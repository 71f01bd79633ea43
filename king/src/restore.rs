//! `king restore`: makes a folder of a backup.

use std::{fs::File, io, path::PathBuf};

use distwasm_process::files;
use distwasm_store::restore::{self, RestoreError};
use thiserror::Error;

use crate::{
    data::{DataError, DataFolder},
    options::RestoreFlags,
};

/// Why a backup was not restored.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RestoreCommandError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("failed to open {}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} was not restored, and nothing of it is kept", .path.display())]
    Restore { path: PathBuf, source: RestoreError },
    #[error("failed to write to stdout")]
    Print(#[source] io::Error),
}

/// Restores a backup into a folder that keeps nothing yet, and prints what is there then.
///
/// # Errors
///
/// When it is not a whole backup, or the folder keeps something.
pub fn run(flags: &RestoreFlags) -> Result<(), RestoreCommandError> {
    let path = &flags.file;
    let file = File::open(path).map_err(|source| RestoreCommandError::Open { path: path.clone(), source })?;
    let data = DataFolder::open(Some(&flags.data))?;
    let restored = restore::restore(data.path(), io::BufReader::new(file));
    let report = restored.map_err(|source| RestoreCommandError::Restore { path: path.clone(), source })?;
    let text = format!(
        "{}: {} values, {} blobs of {} bytes\n",
        data.path().display(),
        report.entries,
        report.blobs,
        report.blob_bytes
    );
    files::write_stdout(text.as_bytes()).map_err(RestoreCommandError::Print)
}
