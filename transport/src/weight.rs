//! How much memory a message takes when it is decoded, found from its bytes before it is decoded.
//!
//! A field that takes two bytes in a message may take hundreds in memory. A receiver says what each repeated field takes
//! ([`Kind`]), and lets messages in through a [`Gate`].

use std::sync::Arc;

use distwasm_proto::limits::{MESSAGE_DECODED_BYTES_MAX, MESSAGE_LIGHT_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::stream::StreamError;

/// The fields of a kind of message that take memory of their own, by their numbers.
#[derive(Debug)]
pub struct Kind(pub &'static [(u64, Part)]);

/// What a field takes each time that it occurs, in bytes, besides what it has in the message.
#[derive(Debug)]
pub enum Part {
    /// A message, and what is in it.
    Message(usize, &'static Kind),
    /// A text, bytes, or an entry of a map.
    Each(usize),
    /// A number, alone or packed with others.
    Number(usize),
}

/// What is a message with nothing in it that takes memory of its own.
pub const PLAIN: Kind = Kind(&[]);

/// Lets messages in, in the order in which they ask, as long as there is room for what they take. All streams of a
/// receiver share it, so that messages that wait for the receiver have a bound together.
#[derive(Clone, Debug)]
pub struct Gate {
    room: Arc<Semaphore>,
    most: u32,
}

/// The room of one message, given back when this is dropped.
#[derive(Debug)]
pub struct Admission(#[expect(dead_code, reason = "what counts is when it is dropped")] OwnedSemaphorePermit);

/// Room is counted in units of this many bytes.
const UNIT_BYTES: u64 = 1024;

impl Gate {
    /// A gate with room for this many bytes, or for one larger message.
    pub fn new(bytes: u64) -> Gate {
        let most = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        Gate { room: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Waits for the room that a message of this kind takes, whose first bytes these chunks are. A short message needs
    /// none.
    ///
    /// # Errors
    ///
    /// When it would take more than any message does.
    pub(crate) async fn admit<'a>(
        &self,
        kind: &'static Kind,
        chunks: impl Iterator<Item = &'a [u8]>,
        bytes: usize,
    ) -> Result<Option<Admission>, StreamError> {
        if bytes <= MESSAGE_LIGHT_BYTES {
            return Ok(None);
        }
        let weight = weigh(kind, chunks, bytes);
        if weight > MESSAGE_DECODED_BYTES_MAX as u64 {
            return Err(StreamError::TooHeavy { bytes: weight });
        }
        let units = u32::try_from((weight + bytes as u64).div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.most);
        // It is never closed.
        Ok(Arc::clone(&self.room).acquire_many_owned(units).await.ok().map(Admission))
    }
}

/// What the first `bytes` bytes of these chunks take when they are decoded as a message of this kind, besides these
/// bytes. What comes after something that is not a message counts nothing: nothing of it is decoded.
pub fn weigh<'a>(kind: &'static Kind, chunks: impl Iterator<Item = &'a [u8]>, bytes: usize) -> u64 {
    let mut walk = Walk { chunks, chunk: &[], left: bytes, weight: 0 };
    let _whole = walk.message(kind, 0);
    walk.weight
}

/// A walk over the fields of a message.
struct Walk<'a, I> {
    chunks: I,
    /// The rest of the current chunk.
    chunk: &'a [u8],
    /// How many bytes of the message come yet.
    left: usize,
    weight: u64,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Walk<'a, I> {
    /// Walks over a message that ends where `end` bytes are left. `None` if it is not one.
    fn message(&mut self, kind: &'static Kind, end: usize) -> Option<()> {
        while self.left > end {
            let key = self.number()?;
            let part = kind.0.iter().find(|(number, _)| *number == key >> 3).map(|(_, part)| part);
            match (key & 7, part) {
                (0, part) => {
                    self.number()?;
                    if let Some(Part::Number(bytes)) = part {
                        self.weight += *bytes as u64;
                    }
                }
                (1, _) => self.skip(8)?,
                (5, _) => self.skip(4)?,
                (2, part) => {
                    let length = usize::try_from(self.number()?).ok()?;
                    let after = self.left.checked_sub(length)?;
                    match part {
                        Some(Part::Message(bytes, kind)) => {
                            self.weight += *bytes as u64;
                            self.message(kind, after)?;
                        }
                        Some(Part::Each(bytes)) => self.weight += *bytes as u64,
                        Some(Part::Number(bytes)) => {
                            while self.left > after {
                                self.number()?;
                                self.weight += *bytes as u64;
                            }
                        }
                        None => {}
                    }
                    // What is within has its bytes, or more.
                    self.skip(self.left.checked_sub(after)?)?;
                }
                // The beginning and the end of a group, which is skipped when it is decoded.
                (3 | 4, _) => {}
                _ => return None,
            }
        }
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        while self.chunk.is_empty() {
            self.chunk = self.chunks.next()?;
        }
        let (first, rest) = self.chunk.split_first()?;
        self.left = self.left.checked_sub(1)?;
        self.chunk = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.left = self.left.checked_sub(bytes)?;
        let mut missing = bytes;
        while missing > 0 {
            if self.chunk.is_empty() {
                self.chunk = self.chunks.next()?;
            }
            let part = missing.min(self.chunk.len());
            self.chunk = self.chunk.get(part..)?;
            missing -= part;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    static WORD: Kind = Kind(&[(1, Part::Each(10)), (2, Part::Number(7)), (3, Part::Message(1, &PLAIN))]);
    static WORDS: Kind = Kind(&[(1, Part::Message(100, &WORD))]);

    /// The weight of these bytes, however they are cut.
    fn weight(bytes: &[u8]) -> u64 {
        let whole = weigh(&WORDS, [bytes].into_iter(), bytes.len());
        for size in [1, 2, 3] {
            assert_eq!(weigh(&WORDS, bytes.chunks(size), bytes.len()), whole, "{bytes:?} in chunks of {size}");
        }
        whole
    }

    #[test]
    fn each_field_weighs_what_it_takes_in_memory() {
        assert_eq!(weight(&[]), 0);
        assert_eq!(weight(&[0x0a, 0, 0x0a, 0]), 200, "two empty words");
        assert_eq!(weight(&[0x0a, 4, 0x0a, 0, 0x0a, 0]), 120, "texts");
        assert_eq!(weight(&[0x0a, 3, 0x0a, 1, b'x']), 110, "what a text has in the message comes on top");
        assert_eq!(weight(&[0x0a, 4, 0x10, 1, 0x10, 2]), 114, "numbers");
        assert_eq!(weight(&[0x0a, 5, 0x12, 3, 1, 0x80, 1]), 114, "packed numbers");
        assert_eq!(weight(&[0x0a, 4, 0x1a, 2, 0x0a, 0]), 101, "what is not known within a message");
        assert_eq!(weight(&[0x0a, 7, 0x2a, 0, 0x25, 0, 0, 0, 0]), 100, "fields that are not known");
    }

    #[test]
    fn what_is_not_a_message_weighs_what_is_before_it() {
        assert_eq!(weight(&[0x0a, 0, 0x0a, 9, 0x0a, 0]), 100, "a word that is cut off");
        assert_eq!(weight(&[0x0a, 2, 0x0a, 9, 0x0a, 0]), 100, "a text that is longer than its word");
        assert_eq!(weight(&[0x0a, 0, 0x0f, 0x0a, 0]), 100);
        assert_eq!(weight(&[0xff; 20]), 0);
        assert_eq!(weight(&[0x0a]), 0);
    }

    #[tokio::test]
    async fn a_gate_has_room_for_some_messages_or_for_a_large_one() {
        let gate = Gate::new(1 << 20);
        let admit = async |words| {
            let message = [0x0a, 0].repeat(words);
            gate.admit(&WORDS, [&message[..]].into_iter(), message.len()).await
        };
        assert!(admit(MESSAGE_LIGHT_BYTES / 2).await.unwrap().is_none());
        let first = admit(8000).await.unwrap();
        assert!(first.is_some());
        {
            let waits = std::pin::pin!(admit(8000));
            assert!(waits.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(first);
        // This one takes all there is.
        let large = admit(100_000).await.unwrap();
        assert_eq!(gate.room.available_permits(), 0);
        drop(large);
        assert!(matches!(admit(1_000_000).await, Err(StreamError::TooHeavy { bytes: 100_000_000 })));
        assert_eq!(gate.room.available_permits(), 1 << 10);
    }
}
