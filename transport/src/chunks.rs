//! A buffer of several chunks, for data that arrives from a connection or goes into a pipe, without putting it
//! together.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes in transit, as a list of chunks; no chunk is empty.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Chunks {
    /// Appends a chunk. Empty ones are left out.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
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
