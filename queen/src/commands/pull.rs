//! `queen pull`: fetches a program that a king keeps.

use std::path::PathBuf;

use clap::Args;
use distwasm_proto::{
    digest::{Digest, Hasher},
    limits::{OPENING_WITHIN, PROGRAM_BYTES_MAX},
    program_name::ProgramRef,
    wire::{FindProgramRequest, ProgramVersion, PullProgramWord, pull_program_word::Word},
};
use distwasm_transport::link::Remote;
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    ask::{AskError, AskedKing},
    new_file::{NewFile, NewFileError},
    programs,
};

/// Fetches a program that a king keeps, and writes it into a new file. Prints the version.
#[derive(Args, Debug)]
pub struct PullOptions {
    /// The program: NAME, which is its newest version, NAME:VERSION or sha256:DIGITS
    #[arg(value_name = "NAME[:VERSION]")]
    pub program: ProgramRef,

    /// The file, which must not exist yet
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The king that keeps it.
    #[command(flatten)]
    pub king: AskedKing,
}

/// Why a program was not fetched.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PullError {
    #[error(transparent)]
    File(#[from] NewFileError),
    #[error(transparent)]
    Asked(#[from] AskError),
    #[error("{program} did not come whole from the king at {king}: nothing is kept; fetch it again")]
    BrokenOff { program: ProgramRef, king: String },
    #[error("what came from the king at {king} is not {program}, whose digest it told: nothing is kept")]
    Garbled { program: ProgramRef, king: String },
    #[error("{program} did not come within {OPENING_WITHIN:?} from the king at {king}: nothing is kept")]
    Slow { program: ProgramRef, king: String },
    #[error("interrupted: nothing is kept")]
    Interrupted,
}

/// Fetches a program; returns its version as people name it.
///
/// # Errors
///
/// When the king does not send it, or it cannot be written. Then no file is left.
pub async fn pull(options: &PullOptions, interrupted: &CancellationToken) -> Result<String, PullError> {
    let mut file = NewFile::create(&options.file)?;
    let request = FindProgramRequest { program: options.program.to_string() };
    let asked = async |remote: Remote| programs::client(&remote).pull_program(remote.request(request)).await;
    let fetched = async {
        let words = options.king.ask_within(OPENING_WITHIN, asked).await?;
        let program = options.fetch(words, &mut file).await?;
        tokio::task::block_in_place(|| file.finish())?;
        Ok::<ProgramVersion, PullError>(program)
    };
    let fetched = interrupted.run_until_cancelled(timeout(OPENING_WITHIN, fetched)).await;
    let slow = |_| PullError::Slow { program: options.program.clone(), king: options.king_name() };
    let program = fetched.ok_or(PullError::Interrupted)?.map_err(slow)??;
    Ok(format!("{}:{}", program.name, program.version))
}

impl PullOptions {
    fn king_name(&self) -> String {
        self.king.king_address.to_string()
    }

    /// Writes what comes into a file, and checks that it is the program.
    async fn fetch(
        &self,
        mut words: Streaming<PullProgramWord>,
        file: &mut NewFile,
    ) -> Result<ProgramVersion, PullError> {
        let broken_off = || PullError::BrokenOff { program: self.program.clone(), king: self.king_name() };
        let garbled = || PullError::Garbled { program: self.program.clone(), king: self.king_name() };
        let Some(Word::Begin(program)) = self.next(&mut words).await? else { return Err(broken_off()) };
        if program.bytes > PROGRAM_BYTES_MAX {
            return Err(garbled());
        }
        let (mut hasher, mut bytes) = (Hasher::default(), 0);
        while bytes < program.bytes {
            let Some(Word::Piece(piece)) = self.next(&mut words).await? else { return Err(broken_off()) };
            bytes += piece.len() as u64;
            if bytes > program.bytes || piece.is_empty() {
                return Err(garbled());
            }
            hasher.update(&piece);
            tokio::task::block_in_place(|| file.write(&piece))?;
        }
        if Digest::from_wire(&program.digest) != Some(hasher.finish()) {
            return Err(garbled());
        }
        Ok(program)
    }

    async fn next(&self, words: &mut Streaming<PullProgramWord>) -> Result<Option<Word>, PullError> {
        let word = words.message().await.map_err(|status| self.king.refused(&status))?;
        Ok(word.and_then(|word| word.word))
    }
}
