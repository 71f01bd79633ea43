//! Bytes in transit: an input, a result, or a program, as the chunks in which they arrived.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use distwasm_proto::limits::{COPIED_BYTES_MAX, SHELF_BYTES, SHELVED_BYTES_MAX};

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

    /// The chunks in their order; no chunk is empty.
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
        let mut whole = BytesMut::with_capacity(usize::try_from(self.bytes).unwrap_or(0));
        self.chunks().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.freeze()
    }
}

/// Room for small payloads that stay when the large message that they came in goes: many of them lie in one block.
#[derive(Debug, Default)]
pub struct Shelf {
    block: BytesMut,
}

impl Shelf {
    /// Returns the payload, copied here if it is small, so that keeping it does not keep the large buffer it came in.
    pub fn keep(&mut self, payload: Payload) -> Payload {
        if payload.bytes > COPIED_BYTES_MAX as u64 {
            return payload;
        }
        match payload.rest.as_slice() {
            [] => self.keep_bytes(&payload.first).into(),
            // Put together, it lies in memory of its own.
            _ => payload.contiguous().into(),
        }
    }

    /// A copy of these bytes.
    pub fn keep_bytes(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > SHELVED_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.block.capacity() < bytes.len() {
            self.block = BytesMut::with_capacity(SHELF_BYTES);
        }
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }
}

struct Reader<'a, I> {
    chunks: I,
    /// The rest of the current chunk.
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

    #[test]
    fn what_is_small_is_copied_to_the_shelf_and_what_is_large_stays_where_it_is() {
        let mut shelf = Shelf::default();
        for bytes in [0, 1, 100, SHELVED_BYTES_MAX, SHELVED_BYTES_MAX + 1, SHELF_BYTES, COPIED_BYTES_MAX] {
            let original = Payload::from(vec![7; bytes]);
            let kept = shelf.keep(original.clone());
            assert_eq!(kept.contiguous(), original.contiguous());
            assert!(bytes == 0 || kept.first.as_ptr() != original.first.as_ptr(), "{bytes}");
        }
        let original = Payload::from(vec![7; COPIED_BYTES_MAX + 1]);
        assert_eq!(shelf.keep(original.clone()).first.as_ptr(), original.first.as_ptr());
        let mut split = Payload::from(Bytes::from_static(b"ab"));
        split.push(Bytes::from_static(b"c"));
        assert_eq!(shelf.keep(split).contiguous(), "abc");
    }
}
