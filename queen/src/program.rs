//! Reads the program of a job or a check.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use distwasm_proto::{file_type::why_no_program, limits::PROGRAM_BYTES_MAX};
use distwasm_transport::payload::Payload;
use thiserror::Error;

/// Why a program cannot be used.
#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("failed to read the program {}", .path.display())]
    Unread { path: PathBuf, source: io::Error },
    #[error("the program {} has more than {} MB", .path.display(), PROGRAM_BYTES_MAX >> 20)]
    TooLarge { path: PathBuf },
    #[error("{}: {why}", .path.display())]
    NotWasm { path: PathBuf, why: String },
}

/// The default name of a project: the file name of the program, without its extension.
pub fn project_of(program: &Path) -> String {
    program.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Reads a program.
///
/// # Errors
///
/// When it cannot be read, is too large, or is not WebAssembly.
pub fn read_program(path: &Path) -> Result<Payload, ProgramError> {
    let cannot_read = |source| ProgramError::Unread { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(cannot_read)?;
    if metadata.len() > PROGRAM_BYTES_MAX {
        return Err(ProgramError::TooLarge { path: path.to_owned() });
    }
    // A device or a pipe has no size, and may have no end.
    let mut program = Vec::new();
    let mut file = fs::File::open(path).map_err(cannot_read)?.take(PROGRAM_BYTES_MAX + 1);
    file.read_to_end(&mut program).map_err(cannot_read)?;
    if program.len() as u64 > PROGRAM_BYTES_MAX {
        return Err(ProgramError::TooLarge { path: path.to_owned() });
    }
    match why_no_program(&program) {
        Some(why) => Err(ProgramError::NotWasm { path: path.to_owned(), why }),
        None => Ok(program.into()),
    }
}
