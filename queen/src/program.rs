//! The program of a job or a check: read from a file, or named to the king that keeps it.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use distwasm_jobs::request::Program;
use distwasm_proto::{
    digest::Digest,
    file_type::why_no_program,
    limits::PROGRAM_BYTES_MAX,
    program_name::{ProgramNameError, ProgramRef},
};
use distwasm_transport::payload::Payload;
use thiserror::Error;

use crate::{
    commands::{
        ask::{AskError, AskedKing},
        programs,
    },
    guest_options::file_name,
    options::Options,
};

/// The program of a job, with its names.
#[derive(Clone, Debug)]
pub struct JobProgram {
    /// The program.
    pub program: Program,
    /// What a guest is called by default.
    pub argv0: String,
    /// What its project is called by default.
    pub project: String,
    /// What it is called in messages.
    pub shown: PathBuf,
}

/// Why a program cannot be used.
#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("failed to read the program {}", .path.display())]
    Unread { path: PathBuf, source: io::Error },
    #[error("the program {} has more than {} MB", .path.display(), PROGRAM_BYTES_MAX >> 20)]
    TooLarge { path: PathBuf },
    #[error("{}: {why}", .path.display())]
    NotWasm { path: PathBuf, why: String },
    #[error("{0} (--binary @NAME names a program that a king keeps; ./@NAME is a file)")]
    Name(#[from] ProgramNameError),
    #[error("{program} is a program that a king keeps, and --king-address names no king")]
    NoKing { program: String },
    #[error(transparent)]
    Asked(#[from] AskError),
    #[error("the king at {king} tells no digest of {program}")]
    NoDigest { program: String, king: String },
}

/// What `--binary` names: a file, or with `@` before it a program that the king keeps.
///
/// # Errors
///
/// When there is no such program, or it cannot be read.
pub async fn find(options: &Options) -> Result<JobProgram, ProgramError> {
    let Some(named) = options.binary.to_str().and_then(|text| text.strip_prefix('@')) else {
        let program = tokio::task::block_in_place(|| read_program(&options.binary))?;
        let shown = options.binary.file_name().map_or_else(|| options.binary.clone(), PathBuf::from);
        return Ok(JobProgram {
            program: Program::Carried(program),
            argv0: file_name(&options.binary),
            project: project_of(&options.binary),
            shown,
        });
    };
    let program: ProgramRef = named.parse()?;
    let Some(king_address) = options.king_address.clone() else {
        return Err(ProgramError::NoKing { program: format!("@{program}") });
    };
    let king = AskedKing { king_address, token: options.token.clone() };
    let found = programs::find(&king, &program).await?;
    let shown = format!("{}:{}", found.name, found.version);
    let no_digest = || ProgramError::NoDigest { program: shown.clone(), king: king.king_address.to_string() };
    let digest = Digest::from_wire(&found.digest).ok_or_else(no_digest)?;
    Ok(JobProgram {
        program: Program::Kept { digest, bytes: found.bytes },
        argv0: found.name.clone(),
        project: found.name,
        shown: shown.into(),
    })
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
