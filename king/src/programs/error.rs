//! Why something cannot be done with programs, and what a peer hears of it.

use distwasm_proto::{
    error_text::chain,
    limits::{PROGRAM_BYTES_MAX, PROGRAM_NAMES_MAX, PROGRAM_PIECE_WITHIN, PROGRAM_VERSIONS_MAX},
    program_name::{ProgramName, ProgramNameError, ProgramRef},
};
use distwasm_store::{BlobReadError, BlobWriteError, CommitError, StorageError};
use thiserror::Error;
use tonic::{Code, Status};
use tracing::warn;

use crate::authority::Refusal;

/// Why something cannot be done with programs.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProgramsError {
    #[error("this king keeps no programs: one that is started with `king --data DIR` does")]
    NoStore,
    #[error(transparent)]
    Name(#[from] ProgramNameError),
    #[error("there is no program {0} that this peer may see; `queen programs` lists them")]
    NotFound(ProgramRef),
    #[error("there is no program {program}: there are versions {versions}")]
    NoVersion { program: ProgramRef, versions: String },
    #[error("several programs have digests that begin with {0}: name more of its digits")]
    Ambiguous(String),
    #[error("{0} (--project says to which project a new program belongs)")]
    Refused(Refusal),
    #[error("the name {0} is that of a program of another project: push under another name")]
    NameTaken(ProgramName),
    #[error(
        "the program {name} belongs to project {project}, and not to {wanted}: leave --project out, or take another name"
    )]
    OtherProject { name: ProgramName, project: String, wanted: String },
    #[error("a project's name has 1 to 255 bytes, and no control characters (--project names another)")]
    Project,
    #[error(
        "the king keeps {PROGRAM_NAMES_MAX} programs, which is as many as it can: remove some (queen programs rm NAME)"
    )]
    TooManyNames,
    #[error(
        "{0} has {PROGRAM_VERSIONS_MAX} versions, which is as many as a king keeps: remove some (queen programs rm {0}:VERSION)"
    )]
    TooManyVersions(ProgramName),
    #[error("a program may have {} MB", PROGRAM_BYTES_MAX >> 20)]
    TooLarge,
    #[error("{0}")]
    NotWasm(String),
    #[error("the program that came is not the one that was announced; push it again")]
    Garbled,
    #[error("it broke the protocol: {0}")]
    Nonsense(&'static str),
    #[error("the program did not come whole: nothing of it is kept")]
    BrokenOff,
    #[error(
        "nothing came for {PROGRAM_PIECE_WITHIN:?} in the middle of the program: nothing of it is kept; push it again"
    )]
    Slow,
    #[error("as many programs travel as the king has room for{0}: try again in a moment")]
    Busy(&'static str),
    #[error("others keep changing {0} at the same time: push it again")]
    Contended(ProgramName),
    #[error("what is written down under {key} in the king's store is damaged (`king check` tells more)")]
    Record { key: String },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Commit(CommitError),
    #[error(transparent)]
    Write(#[from] BlobWriteError),
    #[error(transparent)]
    Read(#[from] BlobReadError),
}

impl ProgramsError {
    /// What the peer hears. What is wrong with the king's own disk stands in full in its log, and paths only there.
    pub(crate) fn to_status(&self) -> Status {
        if let Some((code, text)) = self.own_trouble() {
            warn!(error = chain(self), "the store does not do what is asked of it");
            return Status::new(code, text);
        }
        Status::new(self.code(), self.to_string())
    }

    fn code(&self) -> Code {
        match self {
            ProgramsError::NotFound(_) | ProgramsError::NoVersion { .. } => Code::NotFound,
            ProgramsError::Refused(_) => Code::PermissionDenied,
            ProgramsError::NameTaken(_) | ProgramsError::OtherProject { .. } => Code::AlreadyExists,
            ProgramsError::TooManyNames | ProgramsError::TooManyVersions(_) | ProgramsError::Busy(_) => {
                Code::ResourceExhausted
            }
            ProgramsError::Contended(_) | ProgramsError::BrokenOff | ProgramsError::Garbled => Code::Aborted,
            ProgramsError::Slow => Code::DeadlineExceeded,
            ProgramsError::Name(_)
            | ProgramsError::Ambiguous(_)
            | ProgramsError::Project
            | ProgramsError::TooLarge
            | ProgramsError::Write(BlobWriteError::TooLong { .. })
            | ProgramsError::NotWasm(_)
            | ProgramsError::Nonsense(_) => Code::InvalidArgument,
            ProgramsError::NoStore
            | ProgramsError::Record { .. }
            | ProgramsError::Storage(_)
            | ProgramsError::Commit(_)
            | ProgramsError::Write(_)
            | ProgramsError::Read(_) => Code::FailedPrecondition,
        }
    }

    /// Trouble of the king, for its peers.
    fn own_trouble(&self) -> Option<(Code, &'static str)> {
        let storage = match self {
            ProgramsError::Storage(error)
            | ProgramsError::Commit(CommitError::Storage(error))
            | ProgramsError::Write(BlobWriteError::Storage(error))
            | ProgramsError::Read(BlobReadError::Storage(error)) => error,
            ProgramsError::Read(_) => {
                return Some((
                    Code::DataLoss,
                    "the king has lost the bytes of this program: `king check` tells more to its operator; push it again",
                ));
            }
            _ => return None,
        };
        Some(match storage {
            StorageError::Full { .. } => (
                Code::ResourceExhausted,
                "the king's disk is full, so it keeps nothing new; what it has stays: its operator must make room",
            ),
            StorageError::ReadOnly { .. } => (
                Code::FailedPrecondition,
                "the king cannot write to its disk, so it keeps nothing new; its log tells its operator why",
            ),
            StorageError::Damaged { .. } | StorageError::Failed { .. } => (
                Code::FailedPrecondition,
                "the king's store does not do what is asked of it; its log tells its operator why",
            ),
            StorageError::Closed => (Code::Unavailable, "the king is shutting down"),
        })
    }

    /// Whether nobody is to blame, and the same may go well later.
    pub(crate) fn may_pass(&self) -> bool {
        self.own_trouble().is_some_and(|(code, _)| code == Code::Unavailable)
    }

    /// What the queen of a job hears.
    pub(crate) fn for_peer(&self) -> String {
        self.to_status().message().to_owned()
    }
}
