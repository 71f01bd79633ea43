//! `queen push`: has a king keep a program by name.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Args;
use distwasm_duke::jail::RequiredJail;
use distwasm_process::{flags, guest_flags::GuestFlags};
use distwasm_proto::{
    digest::Digest,
    exit::Exit,
    limits::{OPENING_WITHIN, PIECE_BYTES},
    program_name::ProgramName,
    wire::{PushBegin, PushProgramWord, push_program_word::Word},
};
use distwasm_transport::{link::Remote, payload::Payload};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::{
    ask::{AskError, AskedKing},
    check::{self, CheckError, CheckOptions},
    programs,
};
use crate::{
    program::{ProgramError, read_program},
    selection_options::SelectionOptions,
};

/// Has a king keep a program, as the newest version of a name. Then `queen --binary @NAME` runs it.
///
/// Prints the version. Bytes that are the newest version already are not a new one. A program that would not run is not
/// pushed: it is tried on this machine first, as `queen check` does it.
#[derive(Args, Debug)]
pub struct PushOptions {
    /// Its name: 1 to 64 lowercase letters, digits, `.`, `_` and `-`
    #[arg(value_name = "NAME")]
    pub name: ProgramName,

    /// The program: a WebAssembly module or component, binary or text
    #[arg(value_name = "PROGRAM")]
    pub program: PathBuf,

    /// The project to which a new program belongs: peers that may have jobs of this project see, run and change it
    /// [default: the name]
    #[arg(short, long, value_name = "NAME", env = "DISTWASM_PROJECT")]
    pub project: Option<String>,

    /// The king that keeps it.
    #[command(flatten)]
    pub king: AskedKing,

    /// The settings with which the program is tried; they are not kept
    #[command(flatten)]
    pub guest: GuestFlags,

    /// Memory that the program may take when it is tried, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576
    /// bytes) [default: 1024]
    #[arg(long, value_name = "SIZE", default_value_t = 0, hide_default_value = true, env = "DISTWASM_MIN_RAM", value_parser = flags::megabytes)]
    pub min_ram: u64,

    /// How long the program may take to initialise, such as 30s or 5min [default: 10s]
    #[arg(long, value_name = "DURATION", env = "DISTWASM_TIMEOUT", value_parser = flags::positive_duration)]
    pub timeout: Option<Duration>,

    /// The peasant program, which tries it [default: `peasant` beside this program, else in PATH]
    #[arg(long, value_name = "PATH", env = "DISTWASM_PEASANT")]
    pub peasant: Option<PathBuf>,
}

/// Why a program was not pushed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PushError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("{name} is not pushed: the program would not run, for the reason above")]
    Unfit { name: ProgramName },
    #[error("{name} was not pushed")]
    Asked { name: ProgramName, source: AskError },
    #[error(
        "the king at {king} tells nothing of the program that was pushed: `queen programs` shows whether it is there"
    )]
    NoAnswer { king: String },
    #[error("interrupted: `queen programs` shows whether {name} is there")]
    Interrupted { name: ProgramName },
}

/// What the king keeps now.
#[derive(Debug)]
pub struct Pushed {
    /// As people name it.
    pub version: String,
    /// The king did not have it before.
    pub is_new: bool,
}

/// Tries a program, and has the king keep it.
///
/// Call it from a thread that lives as long as this: see [`check::check`].
///
/// # Errors
///
/// When the program would not run, or the king does not keep it.
pub async fn push(options: &PushOptions, interrupted: &CancellationToken) -> Result<Pushed, PushError> {
    let name = &options.name;
    let program = tokio::task::block_in_place(|| read_program(&options.program))?;
    match check::would_run(&options.check(), &program, interrupted).await? {
        Exit::Done => {}
        Exit::Interrupted => return Err(PushError::Interrupted { name: name.clone() }),
        Exit::SomeFailed | Exit::CouldNotRun => return Err(PushError::Unfit { name: name.clone() }),
    }
    let begin = PushBegin {
        name: name.to_string(),
        project: options.project.clone().unwrap_or_default(),
        bytes_total: program.bytes(),
        digest: Digest::of(program.chunks().map(AsRef::as_ref)).to_wire(),
    };
    let asked = async |remote: Remote| {
        let words = tokio_stream::iter(words(begin, &program));
        programs::client(&remote).push_program(remote.request(words)).await
    };
    let pushed = interrupted.run_until_cancelled(options.king.ask_within(OPENING_WITHIN, asked)).await;
    let reply = pushed.ok_or_else(|| PushError::Interrupted { name: name.clone() })?;
    let reply = reply.map_err(|source| PushError::Asked { name: name.clone(), source })?;
    let no_answer = || PushError::NoAnswer { king: options.king.king_address.to_string() };
    let program = reply.program.ok_or_else(no_answer)?;
    Ok(Pushed { version: format!("{name}:{}", program.version), is_new: reply.is_new })
}

/// What is sent: the beginning, and the program in pieces.
fn words(begin: PushBegin, program: &Payload) -> Vec<PushProgramWord> {
    let mut words = vec![PushProgramWord { word: Some(Word::Begin(begin)) }];
    for chunk in program.chunks() {
        let mut rest: Bytes = chunk.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            words.push(PushProgramWord { word: Some(Word::Piece(piece)) });
        }
    }
    words
}

impl PushOptions {
    fn check(&self) -> CheckOptions {
        CheckOptions {
            program: self.program.clone(),
            input: None,
            selection: SelectionOptions::default(),
            guest: self.guest.clone(),
            min_ram: self.min_ram,
            timeout: self.timeout,
            peasant: self.peasant.clone(),
            cache: None,
            require_jail: RequiredJail::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_travels_in_pieces_of_a_bounded_size() {
        let mut program = Payload::default();
        program.push(Bytes::from(vec![1; 2 * PIECE_BYTES + 1]));
        program.push(Bytes::from_static(b"end"));
        let words = words(PushBegin::default(), &program);
        assert!(matches!(words[0].word, Some(Word::Begin(_))));
        let bytes = words[1..].iter().map(|word| match &word.word {
            Some(Word::Piece(piece)) => piece.len(),
            _ => 0,
        });
        let bytes: Vec<usize> = bytes.collect();
        assert!(bytes.iter().all(|bytes| (1..=PIECE_BYTES).contains(bytes)), "{bytes:?}");
        assert_eq!(bytes.iter().sum::<usize>() as u64, program.bytes());
    }
}
