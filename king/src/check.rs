//! `king check`: looks through what a king keeps.

use std::{fmt::Write, io};

use distwasm_process::files;
use distwasm_store::{OpenError, check};
use thiserror::Error;

use crate::{
    data::{DataError, DataFolder},
    options::CheckFlags,
};

/// Why what a king keeps is not called whole.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CheckError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("failed to write to stdout")]
    Print(#[source] io::Error),
    #[error(
        "{problems} problems were found: stdout lists them. What is lost must come from a backup; a program can also be pushed \
         again, which mends its bytes"
    )]
    Problems { problems: usize },
}

/// Looks through the store in a folder, and prints what there is and what is wrong.
///
/// # Errors
///
/// When something is wrong, or it cannot be found out.
pub fn run(flags: &CheckFlags) -> Result<(), CheckError> {
    let data = DataFolder::existing(&flags.data)?;
    let report = check::check(data.path())?;
    let mut text = format!(
        "{}: {} values, {} blobs of {} bytes\n",
        data.path().display(),
        report.entries,
        report.blobs,
        report.blob_bytes
    );
    // Writing to a string does not fail.
    for problem in &report.problems {
        let _written = writeln!(text, "  {problem}");
    }
    if report.unnamed > 0 {
        let _written = writeln!(text, "  {} files that nothing names: the next start removes them", report.unnamed);
    }
    files::write_stdout(text.as_bytes()).map_err(CheckError::Print)?;
    let problems = report.problems.len();
    if problems > 0 { Err(CheckError::Problems { problems }) } else { Ok(()) }
}
