//! The duke's link to the king: his orders, checked, and the words that go back.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use distwasm_proto::{
    PROTOCOL, VERSION,
    digest::Digest,
    guest::{GuestError, GuestSettings},
    ids::{AttemptId, JobId, UnitNo},
    limits::{HELLO_WITHIN, PROGRAM_BYTES_MAX, SHARES_BYTES_MAX, UNIT_BYTES_MAX},
    link::KingAddress,
    payload::Payload,
    transfer::{Arrived, Assembler, Outbox, TransferError},
    wire::{self, DukeOrder, DukeWord, duke_order::Order, duke_word::Word},
};
use thiserror::Error;
use tokio::time::timeout;
use tonic::Streaming;

use crate::work::Input;

/// What this duke offers.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    pub(crate) cpus: u32,
    pub(crate) ram_bytes: u64,
    pub(crate) labels: BTreeMap<String, String>,
}

/// What the king orders.
#[derive(Debug)]
pub(crate) enum Told {
    LeaseOpened { job: JobId, digest: Digest, slot_bytes: u64, timeout: Option<Duration>, guest: GuestSettings },
    LeaseClosed { job: JobId },
    SlotsGranted { job: JobId, slots: u32 },
    SlotsAskedBack { job: JobId, slots: u32 },
    AttemptArrived { job: JobId, attempt: AttemptId, alone: bool, input: Input },
    ResultWanted { attempt: AttemptId },
    BlobArrived { digest: Digest, blob: Payload },
}

/// Why a link could not be made, or ended.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("failed to connect: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the connection ended without a word")]
    Silent,
    #[error("the king said nothing within {HELLO_WITHIN:?}; is it a king who listens there?")]
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

/// A link that stands.
pub(crate) struct KingLink {
    pub(crate) outbox: Outbox<DukeWord>,
    orders: Streaming<wire::ToDuke>,
    assembler: Assembler<DukeOrder>,
    /// Orders that came with the welcome.
    early: Vec<DukeOrder>,
}

impl Drop for KingLink {
    fn drop(&mut self) {
        // The king does not notice that nobody listens any more; he notices that nobody speaks any more.
        self.outbox.close();
    }
}

impl KingLink {
    /// Connects once, says hello, and waits for the welcome.
    pub(crate) async fn open(address: &KingAddress, machine: &Machine) -> Result<KingLink, LinkError> {
        let connect = |error: tonic::transport::Error| LinkError::Connect(distwasm_proto::link::chain(&error));
        let mut king = address.connect().await.map_err(connect)?;
        let (outbox, words) = Outbox::new(Box::new(|_| ()));
        outbox.push(Word::Hello(wire::DukeHello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            hostname: machine.hostname.clone(),
            cpus: machine.cpus,
            ram_bytes: machine.ram_bytes,
            labels: machine.labels.clone().into_iter().collect(),
        }));
        let welcomed = async {
            let orders = king.volunteer(words).await.map_err(|status| broken(&status))?.into_inner();
            let assembler = Assembler::new(UNIT_BYTES_MAX.max(PROGRAM_BYTES_MAX).max(SHARES_BYTES_MAX));
            let mut link = KingLink { outbox, orders, assembler, early: Vec::new() };
            let mut words = link.next_words().await?.into_iter();
            match words.next().and_then(|word| word.order) {
                Some(Order::Welcome(_)) => {
                    link.early = words.collect();
                    Ok(link)
                }
                Some(Order::End(end)) => Err(LinkError::Ended(end.reason)),
                _ => Err(LinkError::Nonsense("its first word is no welcome")),
            }
        };
        timeout(HELLO_WITHIN, welcomed).await.map_err(|_| LinkError::NoWelcome)?
    }

    /// The orders of the next message. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Result<Vec<Told>, LinkError> {
        let words = if self.early.is_empty() { self.next_words().await? } else { std::mem::take(&mut self.early) };
        let mut orders = Vec::with_capacity(words.len());
        for word in words {
            if let Some(arrived) = self.assembler.accept(word)? {
                orders.push(check_order(arrived)?);
            }
        }
        Ok(orders)
    }

    async fn next_words(&mut self) -> Result<Vec<DukeOrder>, LinkError> {
        match self.orders.message().await {
            Ok(Some(message)) => Ok(message.orders),
            Ok(None) => Err(LinkError::Silent),
            Err(status) => Err(broken(&status)),
        }
    }

    /// Says goodbye, and waits for the king to hear it, and all that was said before: he closes the stream. A king who
    /// does not within this time notices that the link is gone.
    pub(crate) async fn leave(mut self, patience: Duration) {
        self.outbox.push(Word::End(wire::End { reason: "the duke is leaving".to_owned() }));
        self.outbox.close();
        let closed = async { while self.next_words().await.is_ok() {} };
        let _heard = timeout(patience, closed).await;
    }
}

fn broken(status: &tonic::Status) -> LinkError {
    LinkError::Broken(status.message().to_owned())
}

fn check_order((word, payload): Arrived<DukeOrder>) -> Result<Told, LinkError> {
    let payload = payload.map_err(|_| LinkError::Nonsense("it broke off in a payload"))?;
    let digest = |bytes: &[u8]| Digest::from_wire(bytes).ok_or(LinkError::Nonsense("a digest has 32 bytes"));
    match word.order {
        Some(Order::OpenLease(lease)) => Ok(Told::LeaseOpened {
            job: JobId(lease.job),
            digest: digest(&lease.program_digest)?,
            slot_bytes: lease.slot_bytes,
            timeout: (lease.timeout_ms > 0).then(|| Duration::from_millis(lease.timeout_ms)),
            guest: GuestSettings::from_wire(lease.guest)?,
        }),
        Some(Order::CloseLease(close)) => Ok(Told::LeaseClosed { job: JobId(close.job) }),
        Some(Order::GrantSlots(grant)) => Ok(Told::SlotsGranted { job: JobId(grant.job), slots: grant.slots }),
        Some(Order::ReleaseSlots(release)) => {
            Ok(Told::SlotsAskedBack { job: JobId(release.job), slots: release.slots })
        }
        Some(Order::StartAttempt(start)) => Ok(Told::AttemptArrived {
            job: JobId(start.job),
            attempt: AttemptId(start.attempt),
            alone: start.alone,
            input: Input {
                unit: UnitNo(start.unit),
                number: start.number,
                // The message that it came in may be a hundred times larger.
                name: Bytes::copy_from_slice(&start.name),
                content: payload,
            },
        }),
        Some(Order::SendResult(send)) => Ok(Told::ResultWanted { attempt: AttemptId(send.attempt) }),
        Some(Order::Blob(blob)) => Ok(Told::BlobArrived { digest: digest(&blob.digest)?, blob: payload }),
        Some(Order::End(end)) => Err(LinkError::Ended(end.reason)),
        Some(Order::Welcome(_)) => Err(LinkError::Nonsense("a second welcome")),
        Some(Order::Piece(_)) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
    }
}
