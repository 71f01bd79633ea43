//! The guest's stdin, stdout and stderr, in bounded memory: nothing that a guest does reaches the real pipes. Stdin and
//! stdout may be files, which the duke has opened for the unit.

mod files;
pub mod streams;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::{PEASANT_BUFFER_KEPT_BYTES, STDERR_HALF_BYTES, STDOUT_KEPT_BYTES};

pub use files::{FileInput, FileOutput, Input, Written, deliver};

/// The streams of one guest, which its store and [`streams`] share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Stdio>>);

impl Shared {
    /// Makes streams shareable.
    pub fn new(stdio: Stdio) -> Shared {
        Shared(Arc::new(Mutex::new(stdio)))
    }

    /// The streams. Only one thread ever locks them, so this never waits.
    pub fn lock(&self) -> MutexGuard<'_, Stdio> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The three standard streams of one guest.
#[derive(Debug)]
pub struct Stdio {
    /// The rest of the input that the guest has not read. Empty means the end of the file.
    input: Input,
    /// The output, or what is gathered of it before it goes to the file.
    output: Vec<u8>,
    file: Option<FileOutput>,
    output_bytes_max: usize,
    file_bytes_max: u64,
    /// What becomes of output to stdout.
    output_use: OutputUse,
    stderr: Stderr,
}

/// What becomes of output to stdout.
#[derive(Clone, Copy, Debug)]
enum OutputUse {
    /// It is the answer.
    Answer,
    /// The answer is elsewhere, and it is part of the log.
    Log,
    /// The answer is elsewhere, and it is dropped.
    Nothing,
}

/// The guest cannot go on with its streams, and is ended.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// It has written more to stdout than it may.
    #[error("answer is longer than {output_bytes_max} bytes")]
    OutputTooLong {
        /// The bound.
        output_bytes_max: u64,
    },
    /// It has written more to stdout than its peasant holds in memory. A file would hold it.
    #[error("answer is longer than {output_bytes_max} bytes")]
    OutputTooLongForMemory {
        /// The bound.
        output_bytes_max: u64,
    },
    /// The file of its input cannot be read.
    #[error("cannot read the input: {0}")]
    Input(#[source] io::Error),
    /// Its input cannot be copied into its scratch, where it wants to change it.
    #[error("cannot copy the input into the scratch: {0}")]
    Scratch(#[source] io::Error),
    /// The file of its output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl StdioError {
    /// An output is longer than the peasant's memory takes, and may be as long as this in a file.
    pub fn too_long_for_memory(output_bytes_max: u64, file_bytes_max: u64) -> StdioError {
        match file_bytes_max > output_bytes_max {
            true => StdioError::OutputTooLongForMemory { output_bytes_max },
            false => StdioError::OutputTooLong { output_bytes_max },
        }
    }

    /// The kind of failure that the unit ends in.
    pub fn kind(&self) -> FailureKind {
        match self {
            StdioError::OutputTooLong { .. } => FailureKind::Answer,
            StdioError::OutputTooLongForMemory { .. } => FailureKind::LongAnswer,
            StdioError::Input(_) => FailureKind::Input,
            StdioError::Scratch(_) => FailureKind::Memory,
            StdioError::Output(error) => FailureKind::of_output(error.kind()),
        }
    }
}

impl From<StdioError> for Failure {
    fn from(error: StdioError) -> Failure {
        Failure::new(error.kind(), error.to_string())
    }
}

impl Stdio {
    /// Empty streams; stdout takes at most `output_bytes_max` bytes for one unit, or `file_bytes_max` into a file.
    pub fn new(output_bytes_max: usize, file_bytes_max: u64) -> Stdio {
        Stdio {
            input: Input::default(),
            output: Vec::new(),
            file: None,
            output_bytes_max,
            file_bytes_max,
            output_use: OutputUse::Answer,
            stderr: Stderr::default(),
        }
    }

    /// Drops all output to stdout from now on.
    pub fn drop_output(&mut self) {
        self.output_use = OutputUse::Nothing;
    }

    /// Adds all output to stdout to that to stderr from now on.
    pub fn log_output(&mut self) {
        self.output_use = OutputUse::Log;
    }

    /// Begins a unit: `input` to read, nothing written yet. The output goes to `file`, if there is one. Reuses the buffer of
    /// `answer`, an earlier answer.
    pub fn begin(&mut self, input: Input, file: Option<FileOutput>, answer: &mut Vec<u8>) {
        self.input = input;
        self.file = file;
        self.stderr = Stderr::default();
        self.output = std::mem::take(answer);
        self.output.clear();
        self.output.shrink_to(PEASANT_BUFFER_KEPT_BYTES);
    }

    /// Ends a unit: drops its input, and returns its output to stdout in `answer`. If the output went to a file, that is
    /// closed, and nothing is in `answer`.
    pub fn end(&mut self, answer: &mut Vec<u8>) -> Result<Option<Written>, StdioError> {
        self.input = Input::default();
        *answer = std::mem::take(&mut self.output);
        let written = self.file.take().map(|file| file.finish(answer)).transpose();
        if written.is_err() {
            answer.clear();
        }
        written.map_err(StdioError::Output)
    }

    /// The start of what the guest has written to stdout, as far as it has not gone to a file.
    pub fn output_start(&self) -> &[u8] {
        let is_whole = self.file.as_ref().is_none_or(|file| file.body_bytes() == self.output.len() as u64);
        let end = self.output.len().min(STDOUT_KEPT_BYTES);
        self.output.get(..end).filter(|_| is_whole).unwrap_or_default()
    }

    /// Reads as much of the input into `target` as there is.
    pub fn read(&mut self, target: &mut [u8]) -> Result<usize, StdioError> {
        let input = match &mut self.input {
            Input::Bytes(input) => input,
            Input::File(file) => return file.read(target).map_err(StdioError::Input),
        };
        let count = target.len().min(input.len());
        if let (Some(target), Some(source)) = (target.get_mut(..count), input.get(..count)) {
            target.copy_from_slice(source);
        }
        input.advance(count);
        if input.is_empty() {
            // Frees the input before the answer takes as much memory.
            *input = Bytes::new();
        }
        Ok(count)
    }

    /// Takes at most `count` bytes of the input; none only at its end.
    pub fn take(&mut self, count: usize) -> Result<Bytes, StdioError> {
        match &mut self.input {
            Input::Bytes(input) => Ok(input.split_to(count.min(input.len()))),
            Input::File(file) => file.take(count).map_err(StdioError::Input),
        }
    }

    /// Writes to stdout, all or nothing.
    pub fn write_output(&mut self, bytes: &[u8]) -> Result<(), StdioError> {
        match self.output_use {
            OutputUse::Answer => {}
            OutputUse::Log => {
                self.stderr.write(bytes);
                return Ok(());
            }
            OutputUse::Nothing => return Ok(()),
        }
        if let Some(file) = &mut self.file {
            if bytes.len() as u64 > self.file_bytes_max.saturating_sub(file.body_bytes()) {
                return Err(StdioError::OutputTooLong { output_bytes_max: self.file_bytes_max });
            }
            return file.write(bytes, &mut self.output).map_err(StdioError::Output);
        }
        if bytes.len() > self.output_bytes_max.saturating_sub(self.output.len()) {
            return Err(StdioError::too_long_for_memory(self.output_bytes_max as u64, self.file_bytes_max));
        }
        self.output.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes to stderr. Bytes that do not fit are only counted.
    pub fn write_stderr(&mut self, bytes: &[u8]) {
        self.stderr.write(bytes);
    }

    /// The kept part of the guest's output to stderr in this unit.
    pub fn stderr(&self) -> Vec<u8> {
        self.stderr.kept()
    }
}

/// The start and the end of a log, each [`STDERR_HALF_BYTES`] long.
#[derive(Debug, Default)]
struct Stderr {
    first: Vec<u8>,
    /// A ring once it is full.
    last: Vec<u8>,
    /// The position of the oldest byte in the full ring, where the next byte goes.
    oldest: usize,
    left_out: u64,
}

impl Stderr {
    fn write(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(STDERR_HALF_BYTES - self.first.len()));
        self.first.extend_from_slice(first);
        let (skipped, rest) = rest.split_at(rest.len().saturating_sub(STDERR_HALF_BYTES));
        self.left_out += skipped.len() as u64;
        let (fill, mut rest) = rest.split_at(rest.len().min(STDERR_HALF_BYTES - self.last.len()));
        self.last.extend_from_slice(fill);
        self.left_out += rest.len() as u64;
        while !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min(STDERR_HALF_BYTES - self.oldest));
            if let Some(place) = self.last.get_mut(self.oldest..self.oldest + part.len()) {
                place.copy_from_slice(part);
            }
            self.oldest = (self.oldest + part.len()) % STDERR_HALF_BYTES;
            rest = later;
        }
    }

    fn kept(&self) -> Vec<u8> {
        let mut kept = self.first.clone();
        if self.left_out > 0 {
            kept.extend_from_slice(format!("\n[... {} bytes left out ...]\n", self.left_out).as_bytes());
        }
        let (newer, older) = self.last.split_at(self.oldest.min(self.last.len()));
        kept.extend_from_slice(older);
        kept.extend_from_slice(newer);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distwasm_proto::limits::STDERR_BYTES_MAX;

    #[test]
    fn a_short_log_is_kept_whole_however_it_is_cut() {
        let log: Vec<u8> = (0..2 * STDERR_HALF_BYTES).map(|i| (i % 251) as u8).collect();
        for piece in [1, 7, 1000, log.len()] {
            let mut stderr = Stderr::default();
            log.chunks(piece).for_each(|part| stderr.write(part));
            assert!(stderr.kept() == log, "in pieces of {piece}");
        }
    }

    #[test]
    fn of_a_long_log_both_ends_are_kept() {
        let log: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        let note = format!("\n[... {} bytes left out ...]\n", log.len() - 2 * STDERR_HALF_BYTES);
        let mut wanted = log[..STDERR_HALF_BYTES].to_vec();
        wanted.extend_from_slice(note.as_bytes());
        wanted.extend_from_slice(&log[log.len() - STDERR_HALF_BYTES..]);
        for piece in [1, 7, 1000, 40_000, 100_000, log.len()] {
            let mut stderr = Stderr::default();
            log.chunks(piece).for_each(|part| stderr.write(part));
            assert!(stderr.kept() == wanted, "in pieces of {piece}");
        }
        assert!(wanted.len() <= STDERR_BYTES_MAX);
    }

    #[test]
    fn stdout_takes_exactly_what_it_may() {
        let mut stdio = Stdio::new(4, 0);
        stdio.write_output(b"abc").unwrap();
        assert!(stdio.write_output(b"de").is_err());
        stdio.write_output(b"d").unwrap();
        assert_eq!(stdio.output, b"abcd");
        stdio.begin(Input::Bytes(Bytes::from_static(b"xyz")), None, &mut Vec::new());
        assert_eq!(stdio.output, b"");
        let mut target = [0; 2];
        assert_eq!((stdio.read(&mut target).unwrap(), target), (2, *b"xy"));
        assert_eq!((stdio.read(&mut target).unwrap(), target[0], stdio.read(&mut target).unwrap()), (1, b'z', 0));
    }
}
