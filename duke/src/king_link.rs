//! The duke's link to the king: checked orders in one direction, words in the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    time::Duration,
};

use distwasm_process::{clock::Clock, repeats::Repeats};
use distwasm_proto::{
    PROTOCOL, VERSION,
    digest::Digest,
    guest::{GuestError, GuestSettings},
    ids::{AttemptId, JobId, UnitNo},
    limits::{HELLO_WITHIN, PROGRAM_BYTES_MAX, RETURN_BACKOFF_MAX, SHARES_BYTES_MAX, UNIT_BYTES_MAX},
    wire::{self, DukeOrder, DukeWord, duke_order::Order, duke_word::Word},
};
use distwasm_transport::{
    backoff::Backoff,
    link::{King, KingAddress, why_unreached},
    payload::{Payload, Shelf},
    stream::{Incoming, StreamError},
    transfer::{Arrived, Assembler, Outbox, OutboxStream, TransferError},
};
use thiserror::Error;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{peasant::UnitInput, seat::Seat};

/// The machine that this duke offers.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    pub(crate) cpus: u32,
    pub(crate) ram_bytes: u64,
    pub(crate) labels: BTreeMap<String, String>,
    /// Made up at random by this process.
    pub(crate) boot: u64,
    pub(crate) seat: Seat,
}

/// A checked order of the king.
#[derive(Debug)]
pub(crate) enum KingOrder {
    Welcome,
    LeaseOpened {
        job: JobId,
        key: u64,
        digest: Digest,
        slot_bytes: u64,
        timeout: Option<Duration>,
        guest: GuestSettings,
    },
    LeaseClosed {
        job: JobId,
    },
    SlotsGranted {
        job: JobId,
        slots: u32,
    },
    SlotsAskedBack {
        job: JobId,
        slots: u32,
    },
    AttemptArrived {
        job: JobId,
        attempt: AttemptId,
        alone: bool,
        input: UnitInput,
    },
    ResultWanted {
        attempt: AttemptId,
    },
    Forget {
        attempts: Vec<AttemptId>,
    },
    BlobArrived {
        digest: Digest,
        blob: Payload,
    },
}

/// Why a link could not be made, or ended.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("failed to connect: {0}")]
    Connect(String),
    #[error("the connection broke: {0}")]
    Broken(#[from] StreamError),
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

/// Something that comes over the way to the king.
pub(crate) enum Arrival {
    /// Connected: the duke is to say hello.
    Connected(King),
    /// The king's orders.
    Ordered(Vec<KingOrder>),
    /// The link is gone.
    Lost(LinkError),
}

/// One attempt to reach the king.
type Dialing = Pin<Box<dyn Future<Output = Result<King, LinkError>> + Send>>;

/// The way to the king: a link, or the search for one.
pub(crate) struct Way {
    address: KingAddress,
    backoff: Backoff,
    /// The delay before the next attempt to connect.
    wait: Duration,
    clock: Clock,
    /// Bounds how often the log says that the king cannot be reached.
    repeats: Repeats,
    /// The number of links so far.
    links: u64,
    dialing: Option<Dialing>,
    link: Option<KingLink>,
}

/// A link that stands, or is about to: orders come only after the welcome.
struct KingLink {
    outbox: Outbox<DukeWord>,
    orders: mpsc::Receiver<Result<Vec<KingOrder>, LinkError>>,
    /// Ends with the link.
    _listening: JoinSet<()>,
}

impl Drop for KingLink {
    fn drop(&mut self) {
        // The king does not notice that its words are not read any more, but it notices that the duke's stream ends.
        self.outbox.close();
    }
}

impl Way {
    /// A way on which no connection was attempted yet.
    pub(crate) fn new(address: KingAddress) -> Way {
        Way {
            address,
            backoff: Backoff::default(),
            wait: Duration::ZERO,
            clock: Clock::start(),
            repeats: Repeats::default(),
            links: 0,
            dialing: None,
            link: None,
        }
    }

    /// Waits for the next arrival. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Arrival {
        loop {
            if let Some(link) = &mut self.link {
                let lost = match link.orders.recv().await {
                    Some(Ok(orders)) => return Arrival::Ordered(orders),
                    Some(Err(error)) => error,
                    None => LinkError::Silent,
                };
                self.link = None;
                self.wait = self.backoff.next(fastrand::f64());
                return Arrival::Lost(lost);
            }
            let dialing = self.dialing.get_or_insert_with(|| {
                let (address, wait) = (self.address.clone(), self.wait);
                Box::pin(async move {
                    sleep(wait).await;
                    let connected = address.connect().await;
                    connected.map_err(|error| LinkError::Connect(why_unreached(&error)))
                })
            });
            let dialed = dialing.await;
            self.dialing = None;
            self.wait = self.backoff.next(fastrand::f64());
            match dialed {
                Ok(king) => return Arrival::Connected(king),
                Err(error) => match self.repeats.count(self.clock.now(), &error.to_string()) {
                    Some(tries) => warn!(king = %self.address, %error, tries, "no link to the king; trying again"),
                    None => debug!(king = %self.address, %error, "no king yet"),
                },
            }
        }
    }

    /// Says hello, and names what the duke holds from before. Words may follow at once.
    pub(crate) fn greet(&mut self, king: King, machine: &Machine, holds: Vec<wire::HeldLease>) {
        self.links += 1;
        let (outbox, words) = Outbox::new();
        outbox.push(Word::Hello(Box::new(wire::DukeHello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            hostname: machine.hostname.clone(),
            cpus: machine.cpus,
            ram_bytes: machine.ram_bytes,
            labels: machine.labels.clone().into_iter().collect(),
            boot: machine.boot,
            seat: machine.seat.number,
            held_leases: u32::try_from(holds.len()).unwrap_or(u32::MAX),
            link: self.links,
        })));
        holds.into_iter().for_each(|held| outbox.push(Word::HeldLease(Box::new(held))));
        let (sender, orders) = mpsc::channel(1);
        let mut listening = JoinSet::new();
        listening.spawn(listen(king, words, sender));
        self.link = Some(KingLink { outbox, orders, _listening: listening });
    }

    /// The king accepted the duke, so retries after the next loss start from the shortest delay again.
    pub(crate) fn on_welcome(&mut self) {
        info!(king = %self.address, "serving the king");
        self.repeats.forget();
        self.backoff = Backoff::up_to(RETURN_BACKOFF_MAX);
    }

    /// No job waits for this duke any more, so it need not try to reach the king as often.
    pub(crate) fn give_up_haste(&mut self) {
        self.backoff = Backoff::default();
    }

    /// Tells the king something. Without a link the word is lost; whatever matters is said again on the next link.
    pub(crate) fn say(&self, word: Word) {
        self.say_with(word, Payload::default());
    }

    /// Tells the king something with a payload. Without a link it is lost, as in `say`.
    pub(crate) fn say_with(&self, word: Word, payload: Payload) {
        if let Some(link) = &self.link {
            link.outbox.push_with(word, payload);
        }
    }

    /// Drops the results of these attempts from the outbox, unless a part of them has been sent.
    pub(crate) fn take_back(&self, attempts: &BTreeSet<AttemptId>) {
        let is_unwanted = |word: &DukeWord| match &word.word {
            Some(Word::AttemptEnded(ended)) => attempts.contains(&AttemptId(ended.attempt)),
            _ => false,
        };
        if let Some(link) = self.link.as_ref().filter(|_| !attempts.is_empty()) {
            link.outbox.take_back(is_unwanted);
        }
    }

    /// Ends a link after an invalid order, and tells the king why.
    pub(crate) fn hang_up(&mut self, why: &LinkError) {
        self.say(Word::End(wire::End { reason: why.to_string(), come_back: false }));
        self.link = None;
    }

    /// Says goodbye, and waits until the king has heard it and all that was said before: it then closes the stream. A
    /// king that does not close it within `patience` notices that the link is gone.
    pub(crate) async fn leave(&mut self, patience: Duration) {
        let Some(link) = &mut self.link else { return };
        link.outbox.push(Word::End(wire::End { reason: "the duke is leaving".to_owned(), come_back: false }));
        link.outbox.close();
        let closed = async { while link.orders.recv().await.is_some_and(|orders| orders.is_ok()) {} };
        let _heard = timeout(patience, closed).await;
    }
}

/// Opens the stream and passes the king's orders on, until the link is gone or the receiver is dropped.
async fn listen(king: King, words: OutboxStream<DukeWord>, heard: mpsc::Sender<Result<Vec<KingOrder>, LinkError>>) {
    let welcomed = async {
        let mut orders = king.volunteer(words).await?;
        let mut words = next_words(&mut orders).await?.into_iter();
        match words.next().and_then(|word| word.order) {
            Some(Order::Welcome(_)) => Ok((orders, words)),
            Some(Order::End(end)) => Err(LinkError::Ended(end.reason)),
            _ => Err(LinkError::Nonsense("its first word is not a welcome")),
        }
    };
    let (mut orders, mut words) = match timeout(HELLO_WITHIN, welcomed).await.unwrap_or(Err(LinkError::NoWelcome)) {
        Ok(welcomed) => welcomed,
        Err(error) => {
            // The duke may have dropped this link already.
            let _sent = heard.send(Err(error)).await;
            return;
        }
    };
    let mut assembler = Assembler::new(UNIT_BYTES_MAX.max(PROGRAM_BYTES_MAX).max(SHARES_BYTES_MAX));
    let (mut batch, mut names) = (vec![KingOrder::Welcome], Shelf::default());
    loop {
        let checked = words.try_for_each(|word| {
            if let Some(arrived) = assembler.accept(word)? {
                batch.push(check_order(arrived, &mut names)?);
            }
            Ok(())
        });
        let is_last = checked.is_err();
        if heard.send(checked.map(|()| std::mem::take(&mut batch))).await.is_err() || is_last {
            return;
        }
        words = match next_words(&mut orders).await {
            Ok(words) => words.into_iter(),
            Err(error) => {
                let _sent = heard.send(Err(error)).await;
                return;
            }
        };
    }
}

async fn next_words(orders: &mut Incoming<wire::ToDuke>) -> Result<Vec<DukeOrder>, LinkError> {
    let message = orders.message().await?.ok_or(LinkError::Silent)?;
    Ok(message.orders)
}

fn check_order((word, payload): Arrived<DukeOrder>, names: &mut Shelf) -> Result<KingOrder, LinkError> {
    let payload = payload.map_err(|_| LinkError::Nonsense("it broke off in a payload"))?;
    let digest = |bytes: &[u8]| Digest::from_wire(bytes).ok_or(LinkError::Nonsense("a digest has 32 bytes"));
    match word.order {
        Some(Order::OpenLease(lease)) => Ok(KingOrder::LeaseOpened {
            job: JobId(lease.job),
            key: lease.key,
            digest: digest(&lease.program_digest)?,
            slot_bytes: lease.slot_bytes,
            timeout: (lease.timeout_ms > 0).then(|| Duration::from_millis(lease.timeout_ms)),
            guest: GuestSettings::from_wire(lease.guest)?,
        }),
        Some(Order::CloseLease(close)) => Ok(KingOrder::LeaseClosed { job: JobId(close.job) }),
        Some(Order::GrantSlots(grant)) => Ok(KingOrder::SlotsGranted { job: JobId(grant.job), slots: grant.slots }),
        Some(Order::ReleaseSlots(release)) => {
            Ok(KingOrder::SlotsAskedBack { job: JobId(release.job), slots: release.slots })
        }
        Some(Order::StartAttempt(start)) => Ok(KingOrder::AttemptArrived {
            job: JobId(start.job),
            attempt: AttemptId(start.attempt),
            alone: start.alone,
            input: UnitInput {
                unit: UnitNo(start.unit),
                number: start.number,
                // Copied out, because the message that it came in may be a hundred times larger.
                name: names.keep_bytes(&start.name),
                content: payload,
            },
        }),
        Some(Order::SendResult(send)) => Ok(KingOrder::ResultWanted { attempt: AttemptId(send.attempt) }),
        Some(Order::Forget(forget)) => {
            Ok(KingOrder::Forget { attempts: forget.attempts.into_iter().map(AttemptId).collect() })
        }
        Some(Order::Blob(blob)) => Ok(KingOrder::BlobArrived { digest: digest(&blob.digest)?, blob: payload }),
        Some(Order::End(end)) => Err(LinkError::Ended(end.reason)),
        Some(Order::Welcome(_)) => Err(LinkError::Nonsense("a second welcome")),
        Some(Order::Piece(_)) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
    }
}
