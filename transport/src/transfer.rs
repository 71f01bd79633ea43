//! How words and their payloads become messages, and messages become words again, in one way for all four directions.
//!
//! [`Outbox`] is where a reactor puts words. Its [`OutboxStream`] takes all that has gathered whenever the connection
//! has room, so that batches form by themselves under load and a lone word is not delayed. [`Assembler`] puts the
//! pieces of large payloads together again. Neither blocks, and neither copies a payload.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use distwasm_proto::{
    limits::{MESSAGE_FILL_BYTES, MESSAGE_WORDS, PIECE_BYTES},
    wire,
};
use futures_core::Stream;
use thiserror::Error;

use crate::payload::{Payload, Shelf};

/// One word of a stream, as far as carrying payloads goes.
pub trait Word: prost::Message + Sized + Send + 'static {
    /// The message that carries words of this kind.
    type Message: Send + 'static;
    /// The place of the word's payload, if the word may carry one.
    fn payload(&mut self) -> Option<&mut Option<wire::Payload>>;
    /// The word that continues a payload.
    fn of_piece(piece: wire::Piece) -> Self;
    /// The piece, or the word itself if it is not a piece.
    fn into_piece(self) -> Result<wire::Piece, Self>;
    /// A message of these words.
    fn message(words: Vec<Self>) -> Self::Message;
}

macro_rules! words {
    ($message:ident { $field:ident } of $word:ident { $inner:ident: $oneof:path } carrying $($carrier:ident . $payload:ident),+) => {
        impl Word for wire::$word {
            type Message = wire::$message;

            fn payload(&mut self) -> Option<&mut Option<wire::Payload>> {
                use $oneof as Inner;
                match &mut self.$inner {
                    $(Some(Inner::$carrier(carrier)) => Some(&mut carrier.$payload),)+
                    _ => None,
                }
            }

            fn of_piece(piece: wire::Piece) -> Self {
                use $oneof as Inner;
                wire::$word { $inner: Some(Inner::Piece(piece)) }
            }

            fn into_piece(self) -> Result<wire::Piece, Self> {
                use $oneof as Inner;
                match self.$inner {
                    Some(Inner::Piece(piece)) => Ok(piece),
                    $inner => Err(wire::$word { $inner }),
                }
            }

            fn message(words: Vec<Self>) -> wire::$message {
                wire::$message { $field: words }
            }
        }
    };
}

words!(FromDuke { words } of DukeWord { word: wire::duke_word::Word } carrying AttemptEnded.result);
words!(ToDuke { orders } of DukeOrder { order: wire::duke_order::Order } carrying StartAttempt.input, Blob.payload);
words!(FromQueen { words } of QueenWord { word: wire::queen_word::Word } carrying OpenJob.program, ShareData.archive, Unit.input);
words!(ToQueen { news } of QueenNews { news: wire::queen_news::News } carrying Verdict.result);

// ---- Outgoing ------------------------------------------------------------------------------------------------------

/// Outgoing words. The code that puts words in bounds them: the scheduler's windows count the words that wait here.
pub struct Outbox<W> {
    state: Arc<Mutex<State<W>>>,
}

struct State<W> {
    words: VecDeque<Waiting<W>>,
    /// The rest of the payload whose first part was sent.
    pieces: VecDeque<Bytes>,
    closed: bool,
    waker: Option<Waker>,
}

struct Waiting<W> {
    word: W,
    payload: Payload,
}

impl<W> Clone for Outbox<W> {
    fn clone(&self) -> Self {
        Outbox { state: Arc::clone(&self.state) }
    }
}

impl<W> fmt::Debug for Outbox<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

fn lock<W>(state: &Mutex<State<W>>) -> MutexGuard<'_, State<W>> {
    // Nothing in here can panic half-way through a change; a poisoned lock still guards a whole state.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Word> Outbox<W> {
    /// An empty outbox and the stream that empties it.
    pub fn new() -> (Outbox<W>, OutboxStream<W>) {
        let state =
            Arc::new(Mutex::new(State { words: VecDeque::new(), pieces: VecDeque::new(), closed: false, waker: None }));
        (Outbox { state: Arc::clone(&state) }, OutboxStream { state })
    }

    /// Appends a word without a payload.
    pub fn push(&self, word: impl Into<W>) {
        self.push_with(word, Payload::default());
    }

    /// Appends a word with its payload. A word for a connection that is gone is dropped.
    pub fn push_with(&self, word: impl Into<W>, payload: Payload) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        state.words.push_back(Waiting { word: word.into(), payload });
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Takes out the words that are not wanted any more, if no part of them was sent.
    pub fn take_back(&self, is_unwanted: impl Fn(&W) -> bool) {
        lock(&self.state).words.retain(|waiting| !is_unwanted(&waiting.word));
    }

    /// Ends the stream after the words that are in it.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// The stream that empties an [`Outbox`].
pub struct OutboxStream<W> {
    state: Arc<Mutex<State<W>>>,
}

impl<W: Word> Stream for OutboxStream<W> {
    type Item = W::Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<W::Message>> {
        let mut state = lock(&self.state);
        let words = state.next_batch();
        if words.is_empty() {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(W::message(words)))
    }
}

impl<W> Drop for OutboxStream<W> {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.words.clear();
        state.pieces.clear();
    }
}

impl<W: Word> State<W> {
    /// Takes words and pieces until a message is full.
    fn next_batch(&mut self) -> Vec<W> {
        let mut words = Vec::new();
        let mut room = MESSAGE_FILL_BYTES;
        while room > 0 && words.len() < MESSAGE_WORDS {
            let word = if let Some(data) = take_part(&mut self.pieces, PIECE_BYTES.min(room)) {
                W::of_piece(wire::Piece { data, broken: String::new() })
            } else if let Some(Waiting { mut word, payload }) = self.words.pop_front() {
                if let Some(place) = word.payload() {
                    self.pieces.extend(payload.chunks().cloned());
                    let data = take_part(&mut self.pieces, PIECE_BYTES.min(room)).unwrap_or_default();
                    *place = Some(wire::Payload { bytes_total: payload.bytes(), data });
                }
                word
            } else {
                break;
            };
            room = room.saturating_sub(word.encoded_len());
            words.push(word);
        }
        words
    }
}

/// The first chunk, or as much of it as there is room for.
fn take_part(chunks: &mut VecDeque<Bytes>, room: usize) -> Option<Bytes> {
    let chunk = chunks.front_mut()?;
    if chunk.len() > room {
        return Some(chunk.split_to(room));
    }
    chunks.pop_front()
}

// ---- Incoming ------------------------------------------------------------------------------------------------------

/// A peer's stream does not follow the rules for payloads. Ends its link.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TransferError {
    #[error("a payload of {bytes} bytes, more than the {max} that are allowed")]
    TooLarge { bytes: u64, max: u64 },
    #[error("a payload continued that had not begun")]
    UnexpectedPiece,
    #[error("a word came in the middle of a payload")]
    UnexpectedWord,
    #[error("a payload longer than was announced")]
    TooLong,
}

/// A word with its payload: all of it, or why its sender could not send the rest.
pub type Arrived<W> = (W, Result<Payload, String>);

/// Puts payloads together from a word and its pieces.
#[derive(Debug)]
pub struct Assembler<W> {
    payload_bytes_max: u64,
    pending: Option<Pending<W>>,
    shelf: Shelf,
}

#[derive(Debug)]
struct Pending<W> {
    word: W,
    payload: Payload,
    bytes_total: u64,
}

impl<W: Word> Assembler<W> {
    /// An assembler that refuses payloads over `payload_bytes_max`.
    pub fn new(payload_bytes_max: u64) -> Assembler<W> {
        Assembler { payload_bytes_max, pending: None, shelf: Shelf::default() }
    }

    /// Takes in one word of a message; returns the word that is complete with it, if one is.
    pub fn accept(&mut self, word: W) -> Result<Option<Arrived<W>>, TransferError> {
        match (word.into_piece(), self.pending.take()) {
            (Ok(_), None) => Err(TransferError::UnexpectedPiece),
            (Err(_), Some(_)) => Err(TransferError::UnexpectedWord),
            (Ok(piece), Some(pending)) if !piece.broken.is_empty() => Ok(Some((pending.word, Err(piece.broken)))),
            (Ok(piece), Some(mut pending)) => {
                pending.payload.push(piece.data);
                self.complete(pending)
            }
            (Err(mut word), None) => {
                let Some(begun) = word.payload().and_then(Option::take) else {
                    return Ok(Some((word, Ok(Payload::default()))));
                };
                let (bytes, max) = (begun.bytes_total, self.payload_bytes_max);
                if bytes > max {
                    return Err(TransferError::TooLarge { bytes, max });
                }
                self.complete(Pending { word, payload: begun.data.into(), bytes_total: bytes })
            }
        }
    }

    fn complete(&mut self, pending: Pending<W>) -> Result<Option<Arrived<W>>, TransferError> {
        let Pending { bytes_total, ref payload, .. } = pending;
        if payload.bytes() > bytes_total {
            return Err(TransferError::TooLong);
        }
        if payload.bytes() < bytes_total {
            self.pending = Some(pending);
            return Ok(None);
        }
        Ok(Some((pending.word, Ok(self.shelf.keep(pending.payload)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Unit, queen_word::Word as Said};

    fn unit(unit: u64) -> Said {
        Said::Unit(Unit { unit, ..Unit::default() })
    }

    fn drain(stream: &mut OutboxStream<wire::QueenWord>) -> Vec<wire::FromQueen> {
        let mut context = Context::from_waker(Waker::noop());
        let mut messages = Vec::new();
        while let Poll::Ready(Some(message)) = Pin::new(&mut *stream).poll_next(&mut context) {
            messages.push(message);
        }
        messages
    }

    #[test]
    fn what_is_taken_back_is_not_sent_and_what_has_begun_is_sent_whole() {
        let (outbox, mut stream) = Outbox::<wire::QueenWord>::new();
        let payload = || Payload::from(Bytes::from(vec![7; 3 * MESSAGE_FILL_BYTES]));
        (0..3).for_each(|number| outbox.push_with(unit(number), payload()));
        let first = Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()));
        outbox.take_back(|word| !matches!(&word.word, Some(Said::Unit(unit)) if unit.unit == 2));
        let Poll::Ready(Some(first)) = first else { panic!("a full outbox has something to send") };
        let mut assembler = Assembler::new(1 << 30);
        let words = std::iter::once(first).chain(drain(&mut stream)).flat_map(|message| message.words);
        let arrived: Vec<_> = words.filter_map(|word| assembler.accept(word).unwrap()).collect();
        let numbers = arrived.iter().map(|(word, payload)| match &word.word {
            Some(Said::Unit(unit)) => (unit.unit, payload.as_ref().map(Payload::bytes)),
            other => panic!("a unit, not {other:?}"),
        });
        let bytes = 3 * MESSAGE_FILL_BYTES as u64;
        assert_eq!(numbers.collect::<Vec<_>>(), [(0, Ok(bytes)), (2, Ok(bytes))]);
    }

    #[test]
    fn payloads_of_all_sizes_arrive_whole_and_in_order() {
        let (outbox, mut stream) = Outbox::<wire::QueenWord>::new();
        let sizes = [0, 1, 15, MESSAGE_FILL_BYTES - 1, MESSAGE_FILL_BYTES, 3 * MESSAGE_FILL_BYTES + 7, 0];
        for (number, size) in sizes.into_iter().enumerate() {
            let mut payload = Payload::default();
            for chunk in vec![number as u8; size].chunks(700_000) {
                payload.push(Bytes::copy_from_slice(chunk));
            }
            outbox.push_with(unit(number as u64), payload);
        }
        let mut assembler = Assembler::new(1 << 30);
        let mut arrived = Vec::new();
        for message in drain(&mut stream) {
            let data: usize = message.words.iter().map(prost::Message::encoded_len).sum();
            assert!(data < 2 * MESSAGE_FILL_BYTES, "a message of {data} bytes");
            for word in message.words {
                arrived.extend(assembler.accept(word).unwrap());
            }
        }
        assert_eq!(arrived.len(), sizes.len());
        for (number, ((word, payload), size)) in arrived.into_iter().zip(sizes).enumerate() {
            assert_eq!(word.word, Some(unit(number as u64)));
            assert_eq!(payload.unwrap().contiguous(), vec![number as u8; size]);
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let begin = |bytes_total, data: &'static [u8]| -> wire::QueenWord {
            let data = Bytes::from_static(data);
            let input = Some(wire::Payload { bytes_total, data });
            Said::Unit(Unit { input, ..Unit::default() }).into()
        };
        let piece = |data: &'static [u8]| -> wire::QueenWord {
            Said::Piece(wire::Piece { data: Bytes::from_static(data), broken: String::new() }).into()
        };
        let fate = |words: Vec<wire::QueenWord>| {
            let mut assembler = Assembler::new(10);
            words.into_iter().try_for_each(|word| assembler.accept(word).map(drop)).err()
        };
        assert_eq!(fate(vec![begin(2, b"ab"), begin(3, b"a"), piece(b"bc")]), None);
        assert_eq!(fate(vec![begin(11, b"")]), Some(TransferError::TooLarge { bytes: 11, max: 10 }));
        assert_eq!(fate(vec![begin(1, b"ab")]), Some(TransferError::TooLong));
        assert_eq!(fate(vec![begin(2, b"a"), piece(b"bc")]), Some(TransferError::TooLong));
        assert_eq!(fate(vec![piece(b"a")]), Some(TransferError::UnexpectedPiece));
        assert_eq!(fate(vec![begin(2, b"a"), begin(2, b"ab")]), Some(TransferError::UnexpectedWord));
    }

    #[test]
    fn a_payload_whose_sender_gives_up_is_told_as_broken() {
        let mut assembler = Assembler::<wire::QueenWord>::new(10);
        let input = Some(wire::Payload { bytes_total: 5, data: Bytes::from_static(b"ab") });
        assert!(assembler.accept(Said::Unit(Unit { unit: 7, input, ..Unit::default() }).into()).unwrap().is_none());
        let broken = wire::Piece { data: Bytes::new(), broken: "cut short".into() };
        let (_, payload) = assembler.accept(Said::Piece(broken).into()).unwrap().unwrap();
        assert_eq!(payload.unwrap_err(), "cut short");
    }
}
