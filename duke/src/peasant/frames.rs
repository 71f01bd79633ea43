//! Units on their way into a peasant's pipe, as frames.

use std::{fs::File, sync::Arc};

use bytes::{Bytes, BytesMut};
use distwasm_proto::{
    ids::UnitNo,
    limits::GATHERED_BYTES_MAX,
    pipe::{Description, Header, Reference},
};
use distwasm_transport::{chunks::Chunks, payload::Payload};

/// The duke's number for a streamed input that it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputNo(pub u64);

/// One attempt of a unit, as a peasant gets it.
#[derive(Clone, Debug)]
pub struct UnitInput {
    /// The unit.
    pub unit: UnitNo,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The unit's name, as the queen calls it.
    pub name: Bytes,
    /// Where its bytes are.
    pub content: Content,
    /// The result is to be left in the job's output folder.
    pub is_left: bool,
    /// The result goes to a file of the duke's own: it may have any size.
    pub is_kept: bool,
}

/// Where the bytes of a unit are.
#[derive(Clone, Debug)]
pub enum Content {
    /// Here.
    Carried(Payload),
    /// In the file of the unit's name beneath the job's input folder.
    Referenced {
        /// How long the file was when it was listed.
        listed_bytes: u64,
    },
    /// In a file of the duke, without a name, when all of them have come.
    Streamed {
        /// How many there are.
        bytes: u64,
        /// The file, which the hands add when the unit goes to a peasant.
        file: Option<Arc<File>>,
    },
}

impl UnitInput {
    /// Its size in a pipe.
    pub fn bytes(&self) -> u64 {
        let carried = match &self.content {
            Content::Carried(content) => content.bytes(),
            Content::Referenced { listed_bytes: bytes } | Content::Streamed { bytes, .. } => size_of_val(bytes) as u64,
        };
        self.name.len() as u64 + carried
    }

    /// Whether its duke opens files for it.
    pub(super) fn is_referenced(&self) -> bool {
        !matches!(self.content, Content::Carried(_)) || self.is_left || self.is_kept
    }
}

/// Headers and bodies on their way into a pipe: short ones are gathered, long ones are not copied, and many go with one
/// system call.
#[derive(Default)]
pub(crate) struct Frames {
    chunks: Chunks,
    gathered: BytesMut,
}

impl Frames {
    /// Appends the frames of a unit: its description, with a reference for a peasant that takes files, and then its
    /// content, unless that is in a file.
    pub(crate) fn push(&mut self, input: &UnitInput, reference: Option<Reference>) {
        let UnitInput { unit, number: attempt, ref name, ref content, .. } = *input;
        let description = Description { unit, attempt, name };
        match reference {
            Some(reference) => description.append_with(reference, |part| self.gathered.extend_from_slice(part)),
            None => description.append(|part| self.gathered.extend_from_slice(part)),
        }
        let Content::Carried(content) = content else { return };
        // The border refuses inputs that do not fit a frame.
        let body_bytes = usize::try_from(content.bytes()).unwrap_or(usize::MAX);
        self.gathered.extend_from_slice(&Header { body_bytes, is_failure: false }.encode());
        if body_bytes <= GATHERED_BYTES_MAX {
            content.chunks().for_each(|chunk| self.gathered.extend_from_slice(chunk));
        } else {
            self.chunks.push(self.gathered.split().freeze());
            content.chunks().for_each(|chunk| self.chunks.push(chunk.clone()));
        }
    }

    /// The bytes to write.
    pub(crate) fn finish(mut self) -> Chunks {
        self.chunks.push(self.gathered.freeze());
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn a_unit_is_two_frames() {
        for content in [vec![], vec![b'a'; 3], vec![b'a'; GATHERED_BYTES_MAX + 1]] {
            let name = Bytes::from_static(b"sub/\xff");
            let input = UnitInput {
                unit: UnitNo(5),
                number: 2,
                name: name.clone(),
                content: Content::Carried(content.clone().into()),
                is_left: false,
                is_kept: false,
            };
            let mut frames = Frames::default();
            frames.push(&input, None);
            let mut frames = frames.finish();
            let written = frames.copy_to_bytes(frames.remaining());
            let frame = distwasm_proto::pipe::parse(&written).unwrap();
            let expected = Description { unit: UnitNo(5), attempt: 2, name: &name };
            assert_eq!(Description::parse(frame.body), Some(expected));
            let rest = &written[frame.header.frame_bytes()..];
            let frame = distwasm_proto::pipe::parse(rest).unwrap();
            assert_eq!((frame.body, frame.header.frame_bytes()), (content.as_slice(), rest.len()));
        }
    }

    #[test]
    fn a_unit_whose_input_is_in_a_file_is_one_frame() {
        let name = Bytes::from_static(b"a");
        let content = Content::Referenced { listed_bytes: 3 };
        let input =
            UnitInput { unit: UnitNo(5), number: 2, name: name.clone(), content, is_left: true, is_kept: false };
        let reference = Reference { input_bytes: Some(3), output: true };
        let mut frames = Frames::default();
        frames.push(&input, Some(reference));
        let mut frames = frames.finish();
        let written = frames.copy_to_bytes(frames.remaining());
        let frame = distwasm_proto::pipe::parse(&written).unwrap();
        assert_eq!((frame.header.frame_bytes(), input.bytes()), (written.len(), 1 + 8));
        assert_eq!(Reference::parse(frame.body), Some(reference));
        let expected = Description { unit: UnitNo(5), attempt: 2, name: &name };
        assert_eq!(Description::parse(&frame.body[Reference::BYTES..]), Some(expected));
    }
}
