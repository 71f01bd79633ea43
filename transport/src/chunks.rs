//! A buffer of several chunks, for data that arrives from a connection or goes into a pipe, without putting it
//! together.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use distwasm_proto::limits::COALESCED_BYTES_MAX;

/// Bytes in transit, as a list of chunks; no chunk is empty.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// The last chunk was put together here, and has memory of its own.
    last_is_own: bool,
}

impl Chunks {
    /// Appends data that has arrived. Short chunks are copied together, so that the list takes no more memory than the
    /// data, however a peer cuts it.
    pub fn gather(&mut self, data: Bytes) {
        let is_short = |data: &Bytes| data.len() <= COALESCED_BYTES_MAX;
        let Some(last) = self.chunks.pop_back_if(|last| is_short(last) && is_short(&data)) else {
            return self.push(data);
        };
        self.bytes += data.len();
        // A chunk that came as it is may lie in a far larger buffer of the connection.
        let own = if self.last_is_own { last.try_into_mut() } else { Err(last) };
        let mut both = own.unwrap_or_else(|last| BytesMut::from(&last[..]));
        both.extend_from_slice(&data);
        self.chunks.push_back(both.freeze());
        self.last_is_own = true;
    }

    /// Appends a chunk. Empty ones are left out.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.chunks.push_back(chunk);
            self.last_is_own = false;
        }
    }

    /// The chunks in their order, without the first bytes.
    pub(crate) fn iter_from(&self, mut without: usize) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(move |chunk| {
            let skipped = without.min(chunk.len());
            without -= skipped;
            chunk.get(skipped..).unwrap_or_default()
        })
    }

    /// Copies the first bytes, as many as there are and have room.
    pub fn peek(&self, target: &mut [u8]) {
        let bytes = self.chunks.iter().flatten();
        target.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    }

    /// Takes the first `bytes` bytes. There must be that many.
    pub fn split_to(&mut self, bytes: usize) -> Chunks {
        let mut first = Chunks::default();
        while first.bytes < bytes {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let part = chunk.split_to(chunk.len().min(bytes - first.bytes));
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            self.bytes -= part.len();
            first.push(part);
        }
        first
    }
}

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], AsRef::as_ref)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.chunks).map(|(slice, chunk)| *slice = IoSlice::new(chunk));
        filled.count()
    }

    fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(chunk) = self.chunks.front_mut() {
            if bytes < chunk.len() {
                return chunk.advance(bytes);
            }
            bytes -= chunk.len();
            self.chunks.pop_front();
        }
    }

    /// Without a copy where the bytes lie in one chunk.
    fn copy_to_bytes(&mut self, bytes: usize) -> Bytes {
        match self.chunks.front_mut() {
            Some(chunk) if chunk.len() > bytes => {
                self.bytes -= bytes;
                chunk.split_to(bytes)
            }
            Some(chunk) if chunk.len() == bytes => {
                self.bytes -= bytes;
                self.chunks.pop_front().unwrap_or_default()
            }
            _ => {
                let mut gathered = BytesMut::with_capacity(bytes);
                gathered.put(self.take(bytes));
                gathered.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_chunks_that_arrive_are_put_together_and_long_ones_stay_where_they_are() {
        let mut chunks = Chunks::default();
        let bytes: Vec<u8> = (0..1 << 20).map(|number: u32| (number % 251) as u8).collect();
        bytes.chunks(1).for_each(|byte| chunks.gather(Bytes::copy_from_slice(byte)));
        assert!(chunks.chunks.len() <= bytes.len() / COALESCED_BYTES_MAX, "{}", chunks.chunks.len());
        let long = Bytes::from(vec![7; COALESCED_BYTES_MAX + 1]);
        chunks.gather(long.clone());
        chunks.gather(Bytes::from_static(b"end"));
        assert_eq!(chunks.remaining(), bytes.len() + long.len() + 3);
        assert_eq!(chunks.copy_to_bytes(bytes.len()), bytes);
        let kept = chunks.copy_to_bytes(long.len());
        assert_eq!(kept.as_ptr(), long.as_ptr());
        assert_eq!(chunks.copy_to_bytes(3), "end");
    }
}
