//! Bytes on their way: an input, a result, or a program, as the chunks in which they arrived.

use std::io::{self, Read};

use bytes::Bytes;

use crate::limits::COPIED_BYTES_MAX;

/// Bytes as a list of chunks, so that large ones are neither copied nor need one large allocation.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    first: Bytes,
    rest: Vec<Bytes>,
    bytes: u64,
}

impl Payload {
    /// Appends a chunk. Empty chunks are left out.
    pub fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len() as u64;
        if chunk.is_empty() {
            return;
        }
        if self.first.is_empty() {
            self.first = chunk;
        } else {
            self.rest.push(chunk);
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The chunks in their order; none is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest).filter(|chunk| !chunk.is_empty())
    }

    /// Reads the bytes in their order, without a copy of all of them.
    pub fn reader(&self) -> impl Read + '_ {
        Reader { chunks: self.chunks(), chunk: &[] }
    }

    /// All bytes in one piece; copies only if there are several chunks.
    pub fn contiguous(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        self.chunks().flatten().copied().collect()
    }

    /// The same bytes, copied if they are few, so that keeping them does not keep the large buffer they came in.
    #[must_use]
    pub fn detached(self) -> Payload {
        if self.bytes > COPIED_BYTES_MAX as u64 {
            return self;
        }
        Payload::from(Bytes::copy_from_slice(&self.contiguous()))
    }
}

struct Reader<'a, I> {
    chunks: I,
    /// What is left of the chunk at hand.
    chunk: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a Bytes>> Read for Reader<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk = self.chunks.next().map_or(&[], AsRef::as_ref);
        }
        self.chunk.read(buffer)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload { bytes: bytes.len() as u64, first: bytes, rest: Vec::new() }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Bytes::from(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_through_all_chunks() {
        let mut payload = Payload::default();
        for chunk in [&b""[..], b"ab", b"", b"c", b"defg"] {
            payload.push(Bytes::from_static(chunk));
        }
        let mut read = String::new();
        payload.reader().read_to_string(&mut read).unwrap();
        assert_eq!(read, "abcdefg");
    }
}
