//! Bytes in transit: an input, a result, or a program, as the chunks in which they arrived.

use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use distwasm_proto::limits::{COPIED_BYTES_MAX, SHELF_BYTES, SHELVED_BYTES_MAX};

/// Bytes as a list of chunks, so that large ones are neither copied nor need one large allocation. A clone shares the
/// list.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    first: Bytes,
    /// The chunks after the first, if there are any.
    rest: Option<Arc<Vec<Bytes>>>,
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
            Arc::make_mut(self.rest.get_or_insert_default()).push(chunk);
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The chunks in their order; no chunk is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        std::iter::once(&self.first).chain(rest).filter(|chunk| !chunk.is_empty())
    }

    /// The chunk with this number, counted from 0.
    pub(crate) fn chunk(&self, number: usize) -> Option<&Bytes> {
        match number.checked_sub(1) {
            None => Some(&self.first).filter(|first| !first.is_empty()),
            Some(number) => self.rest.as_ref()?.get(number),
        }
    }

    /// Reads the bytes in their order, without a copy of all of them.
    pub fn reader(&self) -> impl Read + '_ {
        Reader { chunks: self.chunks(), chunk: &[] }
    }

    /// All bytes in one piece; copies only if there are several chunks.
    pub fn contiguous(&self) -> Bytes {
        if self.rest.is_none() {
            return self.first.clone();
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(self.bytes).unwrap_or(0));
        self.chunks().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.freeze()
    }

    /// The size that stands in place of an input that is not carried whole: 8 bytes, little-endian. `None` if it is
    /// something else.
    pub fn size_of_input(&self) -> Option<u64> {
        <[u8; 8]>::try_from(&*self.contiguous()).map(u64::from_le_bytes).ok()
    }
}

/// A payload that is arriving. Short pieces are copied together, so that neither the list of chunks nor the messages that
/// the pieces came in take more memory than the payload.
#[derive(Debug, Default)]
pub struct Gathering {
    whole: Payload,
    /// Short pieces after the last chunk of `whole`.
    short: BytesMut,
}

impl Gathering {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() > COPIED_BYTES_MAX {
            self.cut();
            return self.whole.push(piece);
        }
        self.short.extend_from_slice(&piece);
        if self.short.len() >= COPIED_BYTES_MAX {
            self.cut();
        }
    }

    /// Bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.whole.bytes + self.short.len() as u64
    }

    /// The payload, as far as it has arrived.
    pub fn finish(mut self) -> Payload {
        self.cut();
        self.whole
    }

    fn cut(&mut self) {
        self.whole.push(std::mem::take(&mut self.short).freeze());
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
        match payload.rest {
            None => self.keep_bytes(&payload.first).into(),
            // Put together, it lies in memory of its own.
            Some(_) => payload.contiguous().into(),
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
        Payload { bytes: bytes.len() as u64, first: bytes, rest: None }
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
    fn short_pieces_are_put_together_and_a_clone_shares_the_list() {
        let mut gathering = Gathering::default();
        let bytes: Vec<u8> = (0..1 << 20).map(|number: u32| (number % 251) as u8).collect();
        bytes.chunks(1).for_each(|piece| gathering.push(Bytes::copy_from_slice(piece)));
        let long = Bytes::from(vec![1; COPIED_BYTES_MAX + 1]);
        gathering.push(long.clone());
        assert_eq!(gathering.bytes(), (bytes.len() + long.len()) as u64);
        gathering.push(Bytes::from_static(b"end"));
        let payload = gathering.finish();
        assert_eq!(payload.chunks().count(), (bytes.len() / COPIED_BYTES_MAX) + 2);
        assert_eq!(payload.contiguous(), [&bytes[..], &long, b"end"].concat());
        assert!(payload.chunks().any(|chunk| chunk.as_ptr() == long.as_ptr()), "a long piece is not copied");
        let clone = payload.clone();
        assert!(Arc::ptr_eq(clone.rest.as_ref().unwrap(), payload.rest.as_ref().unwrap()));
        let numbered: Vec<&Bytes> = (0..).map_while(|number| payload.chunk(number)).collect();
        assert_eq!(numbered, payload.chunks().collect::<Vec<_>>());
        assert_eq!(Payload::default().chunk(0), None);
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
