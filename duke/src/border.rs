//! The duke's border: the king's words, checked once, become orders that cannot be wrong.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use distwasm_proto::{
    digest::Digest,
    guest::{GuestError, GuestSettings},
    ids::{AttemptId, JobId, UnitNo},
    limits::{
        FILE_BYTES_MAX, HELLO_WITHIN, PROGRAM_BYTES_MAX, SHARES_BYTES_MAX, START_WITHIN, TRANSFER_WINDOW_BYTES,
        UNIT_BYTES_MAX,
    },
    secret::Mark,
    wire::{self, DukeOrder, duke_order::Order},
};
use distwasm_transport::{
    payload::{Payload, Shelf},
    stream::StreamError,
    transfer::{Arrived, Assembler, TransferError},
};
use thiserror::Error;

use crate::peasant::{Content, UnitInput};

/// A checked order of the king.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum KingOrder {
    /// The king accepts the duke. Always the first order on a link.
    Welcome,
    /// The duke gets a part in a job.
    LeaseOpened {
        job: JobId,
        mark: Mark,
        digest: Digest,
        slot_bytes: u64,
        timeout: Option<Duration>,
        start_within: Duration,
        guest: Arc<GuestSettings>,
        fresh: bool,
    },
    /// The job is over.
    LeaseClosed { job: JobId },
    /// Slots for a job.
    SlotsGranted { job: JobId, slots: u32 },
    /// Slots are wanted back.
    SlotsAskedBack { job: JobId, slots: u32 },
    /// Slots that were asked back are wanted at once.
    SlotsTaken { job: JobId, slots: u32 },
    /// A unit to run. Its slot is not taken before it has run for as long as it is spared. The folders of its job are
    /// used for it if it is in places.
    AttemptArrived { job: JobId, attempt: AttemptId, alone: bool, spared: Duration, input: UnitInput, in_places: bool },
    /// A part of a streamed input that the duke has asked for. It is not empty.
    InputPart { attempt: AttemptId, offset: u64, data: Bytes },
    /// A result that was offered is to be sent.
    ResultWanted { attempt: AttemptId },
    /// A part of a streamed result is to be sent. It has a byte, and no more than
    /// [`TRANSFER_WINDOW_BYTES`].
    ResultPartWanted { attempt: AttemptId, transfer: u64, from: u64, until: u64 },
    /// What these attempts left is not needed any more, and they are not to go on. What was written for those that were
    /// unused is removed.
    Forget { attempts: Vec<AttemptId>, unused: Vec<AttemptId> },
    /// A blob that the duke asked for.
    BlobArrived { digest: Digest, blob: Payload },
}

/// Why a link could not be made, or ended.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LinkError {
    #[error("failed to connect: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Broken(StreamError),
    #[error("the king does not let this duke in: {0}")]
    Refused(String),
    #[error("the connection ended without a word")]
    Silent,
    #[error("the king said nothing within {HELLO_WITHIN:?}; is it a king that listens there?")]
    NoWelcome,
    #[error("the king ended it: {0}")]
    Ended(String),
    #[error("the king's words do not fit together: {0}")]
    Transfer(#[from] TransferError),
    #[error("what the king says of a job's guests cannot be: {0}")]
    Guest(#[from] GuestError),
    #[error("what the king says cannot be: {0}")]
    Nonsense(&'static str),
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> LinkError {
        match error {
            StreamError::Denied(why) => LinkError::Refused(why),
            error => LinkError::Broken(error),
        }
    }
}

impl From<wire::End> for LinkError {
    fn from(end: wire::End) -> LinkError {
        if end.refused { LinkError::Refused(end.reason) } else { LinkError::Ended(end.reason) }
    }
}

/// Checks what a king says over one link.
#[derive(Debug)]
pub struct Border {
    assembler: Assembler<DukeOrder>,
    names: Shelf,
    /// The king has accepted the duke.
    is_welcome: bool,
}

impl Default for Border {
    fn default() -> Border {
        let payload_bytes_max = UNIT_BYTES_MAX.max(PROGRAM_BYTES_MAX).max(SHARES_BYTES_MAX);
        Border { assembler: Assembler::new(payload_bytes_max), names: Shelf::default(), is_welcome: false }
    }
}

impl Border {
    /// Takes in one message, and returns the orders that are complete with it.
    ///
    /// # Errors
    ///
    /// When the king ends the link, or says what no king may say. Nothing more can be taken in then.
    pub fn take(&mut self, message: wire::ToDuke) -> Result<Vec<KingOrder>, LinkError> {
        let mut orders = Vec::with_capacity(message.orders.len());
        let mut words = message.orders.into_iter();
        if !self.is_welcome {
            match words.next().and_then(|word| word.order) {
                Some(Order::Welcome(_)) => orders.push(KingOrder::Welcome),
                Some(Order::End(end)) => return Err(end.into()),
                _ => return Err(LinkError::Nonsense("its first word is not a welcome")),
            }
            self.is_welcome = true;
        }
        for word in words {
            if let Some(arrived) = self.assembler.accept(word)? {
                orders.push(self.check_order(arrived)?);
            }
        }
        Ok(orders)
    }

    fn check_order(&mut self, (word, payload): Arrived<DukeOrder>) -> Result<KingOrder, LinkError> {
        let payload = payload.map_err(|_| LinkError::Nonsense("it broke off in a payload"))?;
        let digest = |bytes: &[u8]| Digest::from_wire(bytes).ok_or(LinkError::Nonsense("a digest has 32 bytes"));
        match word.order {
            Some(Order::OpenLease(lease)) => Ok(KingOrder::LeaseOpened {
                job: JobId(lease.job),
                mark: Mark::from_wire(&lease.mark).ok_or(LinkError::Nonsense("the mark of a job has 16 bytes"))?,
                digest: digest(&lease.program_digest)?,
                slot_bytes: lease.slot_bytes,
                timeout: (lease.timeout_ms > 0).then(|| Duration::from_millis(lease.timeout_ms)),
                start_within: START_WITHIN.max(Duration::from_millis(lease.start_ms)),
                guest: Arc::new(GuestSettings::from_wire(lease.guest)?),
                fresh: lease.fresh,
            }),
            Some(Order::CloseLease(close)) => Ok(KingOrder::LeaseClosed { job: JobId(close.job) }),
            Some(Order::GrantSlots(grant)) => Ok(KingOrder::SlotsGranted { job: JobId(grant.job), slots: grant.slots }),
            Some(Order::ReleaseSlots(release)) => {
                Ok(KingOrder::SlotsAskedBack { job: JobId(release.job), slots: release.slots })
            }
            Some(Order::TakeSlots(take)) => Ok(KingOrder::SlotsTaken { job: JobId(take.job), slots: take.slots }),
            Some(Order::StartAttempt(start)) => Ok(KingOrder::AttemptArrived {
                job: JobId(start.job),
                attempt: AttemptId(start.attempt),
                alone: start.alone,
                spared: Duration::from_micros(start.spared_us),
                input: UnitInput {
                    unit: UnitNo(start.unit),
                    number: start.number,
                    // Copied out, because the message that it came in may be a hundred times larger.
                    name: self.names.keep_bytes(&start.name),
                    content: if start.streamed { streamed(&payload)? } else { Content::Carried(payload) },
                    is_left: false,
                    is_kept: false,
                },
                in_places: start.in_places,
            }),
            Some(Order::InputPart(wire::InputPart { attempt, offset, data })) => {
                if data.is_empty() {
                    return Err(LinkError::Nonsense("a part of an input without bytes"));
                }
                Ok(KingOrder::InputPart { attempt: AttemptId(attempt), offset, data })
            }
            Some(Order::ResultPartWanted(wire::ResultPartWanted { attempt, transfer, from, until })) => {
                if until.checked_sub(from).is_none_or(|bytes| bytes == 0 || bytes > TRANSFER_WINDOW_BYTES) {
                    return Err(LinkError::Nonsense("it asks for a part of a result that cannot be"));
                }
                Ok(KingOrder::ResultPartWanted { attempt: AttemptId(attempt), transfer, from, until })
            }
            Some(Order::SendResult(send)) => Ok(KingOrder::ResultWanted { attempt: AttemptId(send.attempt) }),
            Some(Order::Forget(forget)) => {
                let [attempts, unused] =
                    [forget.attempts, forget.unused].map(|attempts| attempts.into_iter().map(AttemptId).collect());
                Ok(KingOrder::Forget { attempts, unused })
            }
            Some(Order::Blob(blob)) => Ok(KingOrder::BlobArrived { digest: digest(&blob.digest)?, blob: payload }),
            Some(Order::End(end)) => Err(end.into()),
            Some(Order::Welcome(_)) => Err(LinkError::Nonsense("a second welcome")),
            Some(Order::Piece(_)) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
        }
    }
}

/// The content of a unit whose input is streamed: the word has its size.
fn streamed(size: &Payload) -> Result<Content, LinkError> {
    let bytes = size.size_of_input().filter(|bytes| (1..=FILE_BYTES_MAX).contains(bytes));
    let bytes = bytes.ok_or(LinkError::Nonsense("a streamed input has its size in 8 bytes"))?;
    Ok(Content::Streamed { bytes, file: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(orders: impl IntoIterator<Item = Order>) -> wire::ToDuke {
        wire::ToDuke { orders: orders.into_iter().map(DukeOrder::from).collect() }
    }

    fn welcome() -> Order {
        Order::Welcome(wire::DukeWelcome::default())
    }

    /// What becomes of these words after the welcome.
    fn fate(orders: impl IntoIterator<Item = Order>) -> Result<Vec<KingOrder>, LinkError> {
        let mut border = Border::default();
        border.take(message([welcome()])).unwrap();
        border.take(message(orders))
    }

    #[test]
    fn a_king_welcomes_a_duke_first() {
        let close = || Order::CloseLease(wire::CloseLease { job: 1 });
        let orders = Border::default().take(message([welcome(), close()])).unwrap();
        assert!(matches!(orders.as_slice(), [KingOrder::Welcome, KingOrder::LeaseClosed { job: JobId(1) }]));
        for first in [message([]), message([close(), welcome()])] {
            assert!(matches!(Border::default().take(first), Err(LinkError::Nonsense(_))));
        }
        let end = Order::End(wire::End { reason: "full".to_owned(), come_back: true, refused: false });
        assert!(matches!(Border::default().take(message([end])), Err(LinkError::Ended(why)) if why == "full"));
        assert!(matches!(fate([welcome()]), Err(LinkError::Nonsense(_))));
    }

    #[test]
    fn an_order_arrives_when_its_payload_is_whole() {
        let data = |data: &'static [u8]| wire::Piece { data: data.into(), broken: String::new() };
        let begun = Some(wire::Payload { bytes_total: 4, data: b"ab".as_slice().into() });
        let start = wire::StartAttempt { attempt: 5, input: begun, ..Default::default() };
        let mut border = Border::default();
        let orders = border.take(message([welcome(), Order::StartAttempt(start)])).unwrap();
        assert!(matches!(orders.as_slice(), [KingOrder::Welcome]));
        let orders = border.take(message([Order::Piece(data(b"cd"))])).unwrap();
        let [KingOrder::AttemptArrived { attempt: AttemptId(5), input, .. }] = orders.as_slice() else {
            panic!("{orders:?}");
        };
        let Content::Carried(content) = &input.content else { panic!() };
        assert_eq!(content.contiguous().as_ref(), b"abcd");
    }

    #[test]
    fn what_no_king_says_ends_the_link() {
        let blob = Order::Blob(wire::Blob { digest: vec![1; 31].into(), ..Default::default() });
        assert!(matches!(fate([blob]), Err(LinkError::Nonsense(_))));
        assert!(matches!(fate([Order::Piece(wire::Piece::default())]), Err(LinkError::Transfer(_))));
        for size in [vec![1; 7], vec![0; 8], vec![255; 8]] {
            let input = Some(wire::Payload { bytes_total: size.len() as u64, data: size.into() });
            let start = wire::StartAttempt { input, streamed: true, ..Default::default() };
            assert!(matches!(fate([Order::StartAttempt(start)]), Err(LinkError::Nonsense(_))));
        }
        assert!(matches!(fate([Order::InputPart(wire::InputPart::default())]), Err(LinkError::Nonsense(_))));
        let unknown = wire::ToDuke { orders: vec![DukeOrder::default()] };
        let mut border = Border::default();
        border.take(message([welcome()])).unwrap();
        assert!(matches!(border.take(unknown), Err(LinkError::Nonsense(_))));
    }
}
