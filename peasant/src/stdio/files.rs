//! Inputs and outputs that are files, which the duke has opened.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::fs::FileExt;

use bytes::{Buf, Bytes};
use distwasm_process::{aligned::Aligned, files};
use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::{FILE_BUFFER_BYTES, GUEST_READ_BYTES, UNIT_BYTES_MAX};

use super::StdioError;

/// The input of a unit.
#[derive(Debug)]
pub enum Input {
    /// Its bytes.
    Bytes(Bytes),
    /// A file that is read when the guest wants it.
    File(FileInput),
}

impl Default for Input {
    fn default() -> Input {
        Input::Bytes(Bytes::new())
    }
}

impl Input {
    /// An input of this size in a file. A small one is read at once.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of_file(file: File, bytes: u64) -> Result<Input, StdioError> {
        let input = FileInput { file: Aligned(At { file, place: 0 }), bytes, buffer: Bytes::new() };
        if bytes > FILE_BUFFER_BYTES as u64 {
            return Ok(Input::File(input));
        }
        Ok(Input::Bytes(input.whole().map_err(StdioError::Input)?))
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        match self {
            Input::Bytes(bytes) => bytes.len() as u64,
            Input::File(file) => file.bytes,
        }
    }

    /// Fails if a guest cannot take it as a whole.
    pub fn check_size(&self) -> Result<(), Failure> {
        let bytes = self.bytes();
        if bytes <= UNIT_BYTES_MAX {
            return Ok(());
        }
        let why = format!(
            "an input of {bytes} bytes is longer than 2 GiB - 1; a program that reads it from stdin piece by piece, \
             a command, has no such limit"
        );
        Err(Failure::new(FailureKind::Input, why))
    }

    /// All of it.
    pub fn whole(self) -> Result<Bytes, Failure> {
        self.check_size()?;
        match self {
            Input::Bytes(bytes) => Ok(bytes),
            Input::File(file) => file.whole().map_err(|error| StdioError::Input(error).into()),
        }
    }
}

/// An input that is read from a file.
#[derive(Debug)]
pub struct FileInput {
    file: Aligned<At>,
    /// The size that the duke has seen. What somebody appends is not part of the input.
    bytes: u64,
    /// Bytes that were read, and that the guest has not got.
    buffer: Bytes,
}

impl FileInput {
    /// Reads as much into `target` as there is: straight, or through a buffer if the guest asks for little.
    pub(super) fn read(&mut self, mut target: &mut [u8]) -> io::Result<usize> {
        let wanted = target.len();
        while !target.is_empty() && (self.left() > 0 || !self.buffer.is_empty()) {
            let count = if !self.buffer.is_empty() {
                let count = self.buffer.len().min(target.len());
                self.buffer.copy_to_slice(target.get_mut(..count).unwrap_or_default());
                count
            } else if target.len() < FILE_BUFFER_BYTES {
                self.buffer = self.next(FILE_BUFFER_BYTES)?;
                continue;
            } else {
                let most = target.len().min(usize::try_from(self.left()).unwrap_or(usize::MAX));
                match self.file.read(target.get_mut(..most).unwrap_or_default()) {
                    Ok(0) => return Err(self.ended()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    count => count?,
                }
            };
            target = mem::take(&mut target).get_mut(count..).unwrap_or_default();
        }
        Ok(wanted - target.len())
    }

    /// Takes at most `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            self.buffer = self.next(count.clamp(FILE_BUFFER_BYTES, GUEST_READ_BYTES))?;
        }
        Ok(self.buffer.split_to(count.min(self.buffer.len())))
    }

    /// The next `count` bytes, or those that are left.
    fn next(&mut self, count: usize) -> io::Result<Bytes> {
        let count = usize::try_from(self.left()).unwrap_or(usize::MAX).min(count);
        let mut bytes = Vec::with_capacity(count);
        self.file.append(&mut bytes, count)?;
        if bytes.len() < count { Err(self.ended()) } else { Ok(bytes.into()) }
    }

    /// The file itself, of which nothing was read.
    pub fn into_file(self) -> File {
        self.file.0.file
    }

    fn whole(mut self) -> io::Result<Bytes> {
        self.next(usize::try_from(self.bytes).unwrap_or(usize::MAX))
    }

    /// Bytes that were not read yet.
    fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.file.0.place)
    }

    fn ended(&self) -> io::Error {
        let (bytes, got) = (self.bytes, self.file.0.place);
        io::Error::other(format!("it had {bytes} bytes when it was opened, and ended after {got}"))
    }
}

/// A file that is read from a place on. The file's own position is not used: other peasants may have the same open file.
#[derive(Debug)]
struct At {
    file: File,
    place: u64,
}

impl Read for At {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(target, self.place)?;
        self.place += count as u64;
        Ok(count)
    }
}

/// An output that goes to a file.
#[derive(Debug)]
pub struct FileOutput {
    file: File,
    /// Bytes before the answer that do not go to the file.
    head: Vec<u8>,
    head_bytes: usize,
    body_bytes: u64,
}

/// What a guest wrote for a unit whose output went to a file.
#[derive(Debug)]
pub struct Written {
    /// The bytes before the answer.
    pub head: Vec<u8>,
    /// The size of the answer.
    pub body_bytes: u64,
}

impl FileOutput {
    /// Writes all but the first `head_bytes` to this file.
    pub fn new(file: File, head_bytes: usize) -> FileOutput {
        FileOutput { file, head: Vec::new(), head_bytes, body_bytes: 0 }
    }

    /// The bytes that it has taken for the file.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Writes, or gathers a little in `gathered`.
    pub(super) fn write(&mut self, bytes: &[u8], gathered: &mut Vec<u8>) -> io::Result<()> {
        let missing = self.head_bytes - self.head.len();
        let (head, body) = bytes.split_at(missing.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.body_bytes += body.len() as u64;
        if gathered.len() + body.len() > FILE_BUFFER_BYTES {
            self.file.write_all(gathered)?;
            gathered.clear();
        }
        if body.len() >= FILE_BUFFER_BYTES {
            return self.file.write_all(body);
        }
        gathered.extend_from_slice(body);
        Ok(())
    }

    /// Writes what was gathered, and closes the file.
    pub(super) fn finish(mut self, gathered: &mut Vec<u8>) -> io::Result<Written> {
        self.file.write_all(gathered)?;
        gathered.clear();
        files::close(self.file)?;
        Ok(Written { head: self.head, body_bytes: self.body_bytes })
    }
}

/// An answer that is there as a whole: returns it, or writes it to the file that should hold it.
pub fn deliver(answer: &[u8], output: Option<File>) -> Result<&[u8], Failure> {
    let Some(mut file) = output else { return Ok(answer) };
    let written = file.write_all(answer).and_then(|()| files::close(file));
    written.map(|()| &[][..]).map_err(|error| StdioError::Output(error).into())
}
