//! Units on their way into a peasant's pipe, as frames.

use bytes::{Bytes, BytesMut};
use distwasm_proto::{
    ids::UnitNo,
    limits::GATHERED_BYTES_MAX,
    pipe::{Description, Header},
};
use distwasm_transport::{chunks::Chunks, payload::Payload};

/// One attempt of a unit, as a peasant gets it.
#[derive(Clone, Debug)]
pub struct UnitInput {
    /// The unit.
    pub unit: UnitNo,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The unit's name, as the queen calls it.
    pub name: Bytes,
    /// The bytes of the unit.
    pub content: Payload,
}

impl UnitInput {
    /// Its size in a pipe.
    pub fn bytes(&self) -> u64 {
        self.name.len() as u64 + self.content.bytes()
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
    /// Appends the frames of a unit: its description, and then its content.
    pub(crate) fn push(&mut self, input: &UnitInput) {
        let UnitInput { unit, number: attempt, ref name, ref content } = *input;
        Description { unit, attempt, name }.append(|part| self.gathered.extend_from_slice(part));
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
            let input = UnitInput { unit: UnitNo(5), number: 2, name: name.clone(), content: content.clone().into() };
            let mut frames = Frames::default();
            frames.push(&input);
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
}
