//! Results in files of the duke's own, without names: they may have any size, and go to their queen in parts. Nothing of
//! them is left when a duke ends, however it ends.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::Bytes;
use distwasm_process::files;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    limits::PART_BYTES_MAX,
    wire::is_offered,
};
use tokio::sync::OwnedSemaphorePermit;

use super::Answer;
use crate::cache::Cache;

/// A result in a file, and the room that it takes of what the duke may hold.
#[derive(Debug)]
pub struct KeptResult {
    /// Its size, at least 1.
    pub bytes: u64,
    /// `None` in a simulation.
    file: Option<Arc<File>>,
    room: Option<OwnedSemaphorePermit>,
}

impl KeptResult {
    /// A result of this size.
    pub fn new(bytes: u64, file: Option<Arc<File>>) -> KeptResult {
        KeptResult { bytes, file, room: None }
    }

    /// Whether it has got the room that it takes.
    pub(super) fn has_room(&self) -> bool {
        self.room.is_some()
    }

    /// Gives it that room.
    pub(super) fn with_room(self, room: OwnedSemaphorePermit) -> KeptResult {
        KeptResult { room: Some(room), ..self }
    }

    /// Its file.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }
}

/// Reads a part of a result, in pieces that fit into one word each. It may block.
pub(crate) fn read_part(file: &File, part: Range<u64>) -> io::Result<Vec<Bytes>> {
    let mut pieces = Vec::new();
    let mut next = part.start;
    while next < part.end {
        let bytes = (part.end - next).min(PART_BYTES_MAX as u64);
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read_exact_at(&mut data, next)?;
        pieces.push(data.into());
        next += bytes;
    }
    Ok(pieces)
}

/// A file for a result that is being written.
#[derive(Debug)]
pub(crate) struct OpenResult {
    pub(super) written: File,
    read: File,
}

impl OpenResult {
    /// An empty file. It may block.
    pub(crate) fn make(store: &Cache) -> io::Result<OpenResult> {
        let (written, read) = store.make_nameless()?;
        Ok(OpenResult { written, read })
    }

    /// All has been written. A small result is read back, because it needs no file. It may block.
    pub(super) fn finish(self) -> io::Result<Answer> {
        let OpenResult { written, mut read } = self;
        files::close(written)?;
        let bytes = read.metadata()?.len();
        if is_offered(bytes) {
            return Ok(Answer::Kept(KeptResult::new(bytes, Some(Arc::new(read)))));
        }
        let mut result = Vec::new();
        read.read_to_end(&mut result)?;
        Ok(Answer::Result(distwasm_transport::payload::Payload::from(result).into()))
    }
}

/// The duke's own file cannot hold a result. That says nothing about the folder of the outputs.
pub(super) fn cannot_keep(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Other, format!("its duke cannot keep its result: {why}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(content: &[u8]) -> Answer {
        let place = tempfile::tempdir().unwrap();
        let store = Cache::open(place.path(), "engine".to_owned()).unwrap();
        let result = OpenResult::make(&store).unwrap();
        (&result.written).write_all(content).unwrap();
        result.finish().unwrap()
    }

    #[test]
    fn a_large_result_stays_in_its_file_and_a_small_one_does_not() {
        let content: Vec<u8> = (0..2 * PART_BYTES_MAX + 7).map(|number| (number % 251) as u8).collect();
        let Answer::Kept(kept) = written(&content) else { panic!() };
        let file = kept.file().unwrap();
        assert_eq!(kept.bytes, content.len() as u64);
        let pieces = read_part(&file, 3..kept.bytes).unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PART_BYTES_MAX, PART_BYTES_MAX, 4]);
        assert_eq!(pieces.concat(), content[3..]);
        assert!(read_part(&file, 0..kept.bytes + 1).is_err());
        let Answer::Result(held) = written(b"small") else { panic!() };
        assert_eq!(held.result.contiguous().as_ref(), b"small");
    }
}
