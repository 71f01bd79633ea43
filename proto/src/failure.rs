//! Why a unit or a program failed, in the form that travels from the peasant to the queen.

use std::io::ErrorKind;

use byteorder::{ByteOrder, LittleEndian};

use crate::limits::{FAILURE_MESSAGE_BYTES_MAX, STDERR_BYTES_MAX, STDOUT_KEPT_BYTES};

/// The kind of a failure, as far as programs need to tell one from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FailureKind {
    /// The program cannot be compiled, linked or initialised. Ends the job, not a unit.
    Program,
    /// The guest ended with a non-zero exit status.
    Exit,
    /// The guest trapped: unreachable, out of bounds, division by zero, stack exhausted, and the like.
    Trap,
    /// The guest wanted more memory than its slot has.
    Memory,
    /// The guest's answer breaks the ABI or is longer than allowed.
    Answer,
    /// The guest took longer than the job's timeout.
    Timeout,
    /// The peasant died under the unit: a signal, the kernel's out-of-memory killer.
    Killed,
    /// The input could not be read, or did not match its announcement.
    Input,
    /// The output could not be written.
    Output,
    /// The output could not be written, and no other can be: the disk is full, for example.
    NoOutputs,
    /// The guest's answer is longer than what its peasant holds in memory, and would fit a file: its duke runs the unit
    /// again with one.
    LongAnswer,
    /// A kind that this version does not know, from a newer peer.
    Other,
}

impl FailureKind {
    /// Every kind, with its number on the wire and its name in reports.
    const TABLE: [(FailureKind, u8, &'static str); 12] = [
        (FailureKind::Other, 0, "other"),
        (FailureKind::Program, 1, "program"),
        (FailureKind::Exit, 2, "exit"),
        (FailureKind::Trap, 3, "trap"),
        (FailureKind::Memory, 4, "memory"),
        (FailureKind::Answer, 5, "answer"),
        (FailureKind::Timeout, 6, "timeout"),
        (FailureKind::Killed, 7, "killed"),
        (FailureKind::Input, 8, "input"),
        (FailureKind::Output, 9, "output"),
        (FailureKind::NoOutputs, 10, "output"),
        (FailureKind::LongAnswer, 11, "answer"),
    ];

    /// The kind of an output that was not written because of such an error.
    pub fn of_output(error: ErrorKind) -> FailureKind {
        match error {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => FailureKind::NoOutputs,
            _ => FailureKind::Output,
        }
    }

    /// The kind's number on the wire.
    pub fn code(self) -> u8 {
        Self::TABLE.iter().find(|(kind, _, _)| *kind == self).map_or(0, |(_, code, _)| *code)
    }

    /// The kind with this number, [`FailureKind::Other`] if there is none.
    pub fn from_code(code: u8) -> FailureKind {
        Self::TABLE.iter().find(|(_, known, _)| *known == code).map_or(FailureKind::Other, |(kind, _, _)| *kind)
    }

    /// One word for reports, stable across versions.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(kind, _, _)| *kind == self).map_or("other", |(_, _, name)| *name)
    }
}

/// Why a unit or a program failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of the failure.
    pub kind: FailureKind,
    /// A lowercase fragment without a full stop, for people; several lines where a backtrace is known.
    pub message: String,
    /// The guest's stderr, shortened in the middle; any bytes.
    pub stderr: Vec<u8>,
    /// The start of the guest's stdout, if it exited with a status that is no result; any bytes.
    pub stdout: Vec<u8>,
}

impl Failure {
    /// Adds something to the first line of the message.
    pub fn add(&mut self, what: &str) {
        let end = self.message.find('\n').unwrap_or(self.message.len());
        self.message.insert_str(end, &format!("; {what}"));
        self.message.truncate(self.message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX));
    }

    /// A failure without any stderr. A message over [`FAILURE_MESSAGE_BYTES_MAX`] is cut.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        let mut message = message.into();
        if message.len() > FAILURE_MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX));
        }
        Failure { kind, message, stderr: Vec::new(), stdout: Vec::new() }
    }

    /// This failure with the guest's stderr, of which at most [`STDERR_BYTES_MAX`] bytes are kept.
    #[must_use]
    pub fn with_stderr(mut self, stderr: &[u8]) -> Failure {
        self.stderr = stderr.get(..STDERR_BYTES_MAX).unwrap_or(stderr).to_vec();
        self
    }

    /// This failure with the start of the guest's stdout, of which at most [`STDOUT_KEPT_BYTES`] are kept.
    #[must_use]
    pub fn with_stdout(mut self, stdout: &[u8]) -> Failure {
        self.stdout = stdout.get(..STDOUT_KEPT_BYTES).unwrap_or(stdout).to_vec();
        self
    }

    /// Its size in memory, as limits count it.
    pub fn bytes(&self) -> u64 {
        (self.message.len() + self.stderr.len() + self.stdout.len()) as u64
    }

    /// The body of a failure frame: kind (u8), lengths of message and stdout (u32, little-endian), message, stdout, stderr.
    pub fn encode(&self) -> Vec<u8> {
        let mut body =
            Vec::with_capacity(Self::HEAD_BYTES + self.message.len() + self.stdout.len() + self.stderr.len());
        body.push(self.kind.code());
        for part in [self.message.as_bytes(), &self.stdout] {
            body.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        body.extend_from_slice(self.message.as_bytes());
        body.extend_from_slice(&self.stdout);
        body.extend_from_slice(&self.stderr);
        body
    }

    const HEAD_BYTES: usize = 9;

    /// Reads the output of [`Failure::encode`]. Bytes that make no sense still make a failure, which says so.
    pub fn decode(body: &[u8]) -> Failure {
        let read = || {
            let kind = FailureKind::from_code(*body.first()?);
            let (head, rest) = body.split_at_checked(Self::HEAD_BYTES)?;
            let length = |at: usize| Some(LittleEndian::read_u32(head.get(at..at + 4)?) as usize);
            let (message, rest) = rest.split_at_checked(length(1)?)?;
            let (stdout, stderr) = rest.split_at_checked(length(5)?)?;
            let message = String::from_utf8_lossy(message);
            Some(Failure::new(kind, message).with_stdout(stdout).with_stderr(stderr))
        };
        read().unwrap_or_else(|| {
            Failure::new(
                FailureKind::Other,
                format!("the peasant reported a failure of {} unreadable bytes", body.len()),
            )
        })
    }
}

impl From<crate::wire::Failure> for Failure {
    fn from(wire: crate::wire::Failure) -> Failure {
        let kind = u8::try_from(wire.kind).map_or(FailureKind::Other, FailureKind::from_code);
        Failure::new(kind, wire.message).with_stderr(&wire.stderr).with_stdout(&wire.stdout)
    }
}

impl From<Failure> for crate::wire::Failure {
    fn from(failure: Failure) -> crate::wire::Failure {
        let kind = failure.kind.code().into();
        let (stderr, stdout) = (failure.stderr.into(), failure.stdout.into());
        crate::wire::Failure { kind, message: failure.message, stderr, stdout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_number_and_a_name_of_its_own() {
        for (kind, code, name) in FailureKind::TABLE {
            assert_eq!(FailureKind::from_code(code), kind);
            assert_eq!((kind.code(), kind.name()), (code, name));
        }
        assert_eq!(FailureKind::from_code(200), FailureKind::Other);
    }

    #[test]
    fn nonsense_decodes_into_a_failure_that_says_so() {
        for body in [&b""[..], b"\x02", b"\x02\xff\xff\xff\xff\0\0\0\0", b"\x02\0\0\0\0\xff\xff\xff\xffabc"] {
            assert_eq!(Failure::decode(body).kind, FailureKind::Other, "{body:?}");
        }
    }

    #[test]
    fn long_evidence_is_cut() {
        let failure = Failure::new(FailureKind::Exit, "ä".repeat(FAILURE_MESSAGE_BYTES_MAX));
        let failure =
            failure.with_stderr(&vec![b'x'; STDERR_BYTES_MAX + 1]).with_stdout(&[b'y'; STDOUT_KEPT_BYTES + 1]);
        assert!(failure.message.len() <= FAILURE_MESSAGE_BYTES_MAX);
        assert_eq!((failure.stderr.len(), failure.stdout.len()), (STDERR_BYTES_MAX, STDOUT_KEPT_BYTES));
        assert_eq!(Failure::decode(&failure.encode()), failure);
    }
}
