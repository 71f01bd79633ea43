//! What the writers are told, and how they handle results that came in parts.

use std::{io, path::Path};

use bytes::Bytes;
use distwasm_process::files;
use distwasm_proto::ids::AttemptId;
use distwasm_transport::payload::Payload;

use super::{
    Output, WriteError, Writer,
    growing::{Growing, Parts, ResultFile},
};
use crate::{descriptors::when_there_are, inputs::Input};

/// A result that is here.
#[derive(Debug)]
pub enum Arrived {
    /// In memory.
    Whole(Payload),
    /// In a file, all of it.
    InFile(ResultFile),
    /// It came in parts, and could not be kept.
    Lost(WriteError),
}

/// Something that the writers are to do.
#[derive(Debug)]
pub enum WriteOrder {
    /// Write an output.
    Output(Output),
    /// Write parts of a result to its file. The output comes from this input.
    Parts(Input, Parts),
}

/// Parts of a result were written.
#[derive(Debug)]
pub struct Stored {
    /// Whose result it is.
    pub attempt: AttemptId,
    /// Where it is.
    pub file: ResultFile,
    /// How much of it is written in all, or why it cannot be kept.
    pub outcome: Result<u64, WriteError>,
}

/// Writes parts of a result to its file; without a writer it is one that goes to stdout.
pub(super) fn store(writer: Option<&mut Writer<'_>>, input: &Input, parts: Parts) -> Stored {
    let Parts { attempt, data, is_last, file } = parts;
    let outcome = match writer {
        Some(writer) => {
            let stored = writer.append(input, &file, &data, is_last);
            stored.map_err(|error| writer.explain(input.output(), &error))
        }
        None => append(&file, &data, is_last, false, Growing::aside).map_err(|error| unshown(&error)),
    };
    Stored { attempt, file, outcome }
}

/// Appends parts to the file of a result, which is made for the first ones.
fn append(
    file: &ResultFile,
    data: &[Bytes],
    is_last: bool,
    sync: bool,
    make: impl FnOnce() -> io::Result<Growing>,
) -> io::Result<u64> {
    let mut growing = file.lock();
    let open = match growing.take() {
        Some(open) => open,
        None => make()?,
    };
    growing.insert(open).append(data, is_last, sync)
}

/// Writes a result to stdout. Returns its size.
pub(super) fn show(result: &Arrived) -> io::Result<u64> {
    match result {
        Arrived::Whole(result) => files::write_stdout_chunks(result.chunks()).map(|()| result.bytes()),
        Arrived::InFile(file) => file.lock().take().ok_or_else(nothing_stored)?.show(),
        Arrived::Lost(_) => Err(nothing_stored()),
    }
}

pub(super) fn nothing_stored() -> io::Error {
    io::Error::other("nothing of it was stored")
}

pub(super) fn unshown(error: &io::Error) -> WriteError {
    WriteError { why: format!("it cannot be written to stdout: {error}"), hopeless: true }
}

impl Writer<'_> {
    /// Appends parts of a result to its file beside the place of its output. Returns its size.
    fn append(&mut self, input: &Input, file: &ResultFile, data: &[Bytes], is_last: bool) -> io::Result<u64> {
        let path = input.output();
        let opened = when_there_are(|| self.open_folder(path.parent().unwrap_or(Path::new(""))))?;
        let stored = append(file, data, is_last, self.writing.sync, || Growing::beside(&opened.1))?;
        self.last = Some(opened);
        Ok(stored)
    }
}
