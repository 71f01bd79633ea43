//! How words and their payloads become messages, and messages become words again, in one way for all four directions.
//!
//! [`Outbox`] is where a reactor puts words. Its [`OutboxStream`] takes all that has gathered whenever the connection
//! has room, so that batches form by themselves under load and a lone word is not delayed. [`Assembler`] puts the
//! pieces of large payloads together again. Neither blocks, and neither copies a payload.

use distwasm_proto::wire;
use thiserror::Error;

pub use crate::outbox::{Outbox, OutboxStream, Overflow, Sending};
use crate::payload::{Gathering, Payload, Shelf};

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
    payload: Gathering,
    bytes_total: u64,
}

impl<W: Word> Assembler<W> {
    /// An assembler that refuses payloads over `payload_bytes_max`.
    pub fn new(payload_bytes_max: u64) -> Assembler<W> {
        Assembler { payload_bytes_max, pending: None, shelf: Shelf::default() }
    }

    /// Whether a payload has begun and is not here as a whole.
    pub fn is_within_payload(&self) -> bool {
        self.pending.is_some()
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
                if begun.data.len() as u64 == bytes {
                    return Ok(Some((word, Ok(self.shelf.keep(begun.data.into())))));
                }
                let mut payload = Gathering::default();
                payload.push(begun.data);
                self.complete(Pending { word, payload, bytes_total: bytes })
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
        Ok(Some((pending.word, Ok(self.shelf.keep(pending.payload.finish())))))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use bytes::Bytes;
    use distwasm_proto::limits::MESSAGE_FILL_BYTES;
    use futures_core::Stream;

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
