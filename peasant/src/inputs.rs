//! Reads frames as they arrive, and returns each when it is complete.

use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};
use distwasm_process::aligned::Aligned;
use distwasm_proto::{
    limits::PEASANT_READ_BYTES,
    pipe::{HEADER_BYTES, Header},
};

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Reading failed.
    #[error("cannot read stdin")]
    Read(#[from] io::Error),
    /// The sender stopped in the middle.
    #[error("stdin ended in the middle of a frame: {got} bytes of {wanted} were there")]
    CutOff {
        /// Bytes of the frame that arrived, its header included.
        got: usize,
        /// Bytes that it should have, as far as known.
        wanted: usize,
    },
    /// The frame is marked as a failure, which only a peasant's answers may be.
    #[error("a frame on stdin has the top bit of its length set: no input is longer than 2 GiB - 1")]
    Failure,
    /// The frame is longer than its use allows.
    #[error("a frame on stdin has {got} bytes, where at most {most} are allowed")]
    TooLong {
        /// Length of the body.
        got: usize,
        /// The bound.
        most: u64,
    },
}

/// A stream of frames.
#[derive(Debug)]
pub struct Inputs<R> {
    source: Aligned<R>,
    /// Bytes that have arrived and are not returned yet.
    buffer: BytesMut,
    /// The target of each read. Short frames are copied once more, but this buffer never has to be cleared.
    chunk: Box<[u8]>,
}

impl<R: Read> Inputs<R> {
    /// Frames from `source`, which should not have a buffer of its own.
    pub fn new(source: R) -> Inputs<R> {
        Inputs {
            source: Aligned(source),
            buffer: BytesMut::new(),
            chunk: vec![0; PEASANT_READ_BYTES].into_boxed_slice(),
        }
    }

    /// The next frame's body, waiting for it; `None` at the end.
    pub fn next(&mut self, body_bytes_max: u64) -> Result<Option<Bytes>, InputError> {
        loop {
            if let Some(body) = self.next_arrived(body_bytes_max)? {
                return Ok(Some(body));
            }
            if let Some(header) = Header::parse(&self.buffer).filter(|header| header.body_bytes > self.chunk.len()) {
                return self.rest_of(header).map(Some);
            }
            let count = match self.source.read(&mut self.chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            match self.chunk.get(..count) {
                None | Some([]) if self.buffer.is_empty() => return Ok(None),
                None | Some([]) => return Err(self.cut_off()),
                Some(part) => self.buffer.extend_from_slice(part),
            }
        }
    }

    /// The next frame's body, if all of it has arrived.
    pub fn next_arrived(&mut self, body_bytes_max: u64) -> Result<Option<Bytes>, InputError> {
        let Some(header) = Header::parse(&self.buffer) else { return Ok(None) };
        if header.is_failure {
            return Err(InputError::Failure);
        }
        if header.body_bytes as u64 > body_bytes_max {
            return Err(InputError::TooLong { got: header.body_bytes, most: body_bytes_max });
        }
        if self.buffer.len() < header.frame_bytes() {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(header.frame_bytes());
        frame.advance(HEADER_BYTES);
        Ok(Some(frame.freeze()))
    }

    /// The body of a long frame of which a part has arrived. The rest is read into its final buffer.
    fn rest_of(&mut self, header: Header) -> Result<Bytes, InputError> {
        self.buffer.advance(HEADER_BYTES);
        let mut body = Vec::with_capacity(header.body_bytes);
        body.extend_from_slice(&self.buffer);
        self.buffer.clear();
        let missing = header.body_bytes.saturating_sub(body.len());
        self.source.append(&mut body, missing)?;
        if body.len() < header.body_bytes {
            return Err(InputError::CutOff { got: HEADER_BYTES + body.len(), wanted: header.frame_bytes() });
        }
        Ok(body.into())
    }

    fn cut_off(&self) -> InputError {
        let wanted = Header::parse(&self.buffer).map_or(HEADER_BYTES, Header::frame_bytes);
        InputError::CutOff { got: self.buffer.len(), wanted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `bytes` in pieces of `piece`.
    struct Pieces<'a> {
        bytes: &'a [u8],
        piece: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            let count = self.piece.min(target.len()).min(self.bytes.len());
            let (part, rest) = self.bytes.split_at(count);
            target[..count].copy_from_slice(part);
            self.bytes = rest;
            Ok(count)
        }
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let bodies: [&[u8]; 4] = [b"one", b"", &[7; 100_000], b"four"];
        let mut bytes = Vec::new();
        for body in bodies {
            bytes.extend_from_slice(&Header::of_body(body).unwrap().encode());
            bytes.extend_from_slice(body);
        }
        for piece in [1, 3, 1000, 1 << 20] {
            let mut inputs = Inputs::new(Pieces { bytes: &bytes, piece });
            for body in bodies {
                assert_eq!(inputs.next(1 << 20).unwrap().unwrap(), body);
            }
            assert!(inputs.next(1 << 20).unwrap().is_none());
        }
        for cut in [1, 3, 5, bytes.len() - 1] {
            let mut inputs = Inputs::new(Pieces { bytes: &bytes[..cut], piece: 10 });
            let error = std::iter::repeat_with(|| inputs.next(1 << 20)).find_map(Result::err).unwrap();
            assert!(matches!(error, InputError::CutOff { .. }), "cut at {cut}: {error}");
        }
    }

    #[test]
    fn a_frame_that_must_not_be_is_refused_by_its_header() {
        let next = |bytes: &[u8]| Inputs::new(bytes).next(10).unwrap_err();
        assert!(matches!(next(&[11, 0, 0, 0]), InputError::TooLong { got: 11, most: 10 }));
        assert!(matches!(next(&[0, 0, 0, 0x80]), InputError::Failure));
    }
}
