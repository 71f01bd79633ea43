//! The queen's link to the king: the job that she submits, and his news, checked.

use std::{sync::Arc, time::Duration};

use distwasm_proto::{
    PROTOCOL, VERSION,
    backoff::Backoff,
    digest::Digest,
    failure::Failure,
    guest::GuestSettings,
    ids::UnitNo,
    limits::{GOODBYE_WITHIN, HELLO_WITHIN, KING_PATIENCE, UNIT_BYTES_MAX, UNWRITTEN_BYTES},
    link::{KingAddress, chain},
    payload::Payload,
    transfer::{Arrived, Assembler, Outbox, TransferError},
    wire::{self, FromQueen, QueenNews, king_client::KingClient, queen_news::News, queen_word::Word},
};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Streaming, transport::Channel};

use crate::wishes::Wishes;

/// What the queen wants done, but for the units.
#[derive(Clone, Debug)]
pub struct JobRequest {
    /// The key of fair sharing.
    pub project: String,
    /// The program's bytes.
    pub program: Payload,
    /// What each slot must have of its machine's memory, in bytes; 0 for no wish.
    pub min_ram_bytes: u64,
    /// At most one slot on each duke.
    pub one_per_machine: bool,
    /// What it gets beside other jobs.
    pub wishes: Wishes,
    /// How long one unit may take.
    pub timeout: Option<Duration>,
    /// How often a unit that failed is tried again.
    pub retries: u32,
    /// What its guests are given and how they are run.
    pub guest: GuestSettings,
    /// The archives of its shares, each once.
    pub archives: Vec<(Digest, Payload)>,
}

/// How much may be without a verdict at a time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Units.
    pub units: u32,
    /// Bytes of inputs.
    pub bytes: u64,
}

/// What the king tells.
#[derive(Debug)]
pub enum Told {
    /// How a unit ended.
    Verdict(Verdict),
    /// What the job has, and what it waits for.
    State { slots: u32, dukes: u32, waits_for: String },
    /// The job is over.
    Ended(Option<Failure>),
}

/// How a unit ended.
#[derive(Debug)]
pub struct Verdict {
    /// Which.
    pub unit: UnitNo,
    /// Its result, with the room that it takes, or why it has none.
    pub outcome: Result<(Payload, Option<OwnedSemaphorePermit>), Failure>,
    /// How often it was tried.
    pub attempts: u32,
    /// Where it was tried last.
    pub duke: String,
    /// How long that took, in microseconds, if it is known.
    pub run_us: Option<u64>,
}

/// Why there is no link, or no link any more.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error("no king answers at {address} (tried for {tried:?}): {why}")]
    NoKing { address: String, tried: Duration, why: String },
    #[error("the connection to the king broke: {0}")]
    Broken(String),
    #[error("the connection to the king ended without a word")]
    Silent,
    #[error("whoever listens at {0} said nothing within {HELLO_WITHIN:?}; is it a king?")]
    NoWelcome(String),
    #[error("the king ended the link: {0}")]
    Ended(String),
    #[error("the king's words do not fit together: {0}")]
    Transfer(#[from] TransferError),
    #[error("what the king says cannot be: {0}")]
    Nonsense(&'static str),
}

/// The king's half of a link.
pub struct Incoming {
    news: Streaming<wire::ToQueen>,
    assembler: Assembler<QueenNews>,
    room: Arc<Semaphore>,
    /// Words that came with the welcome.
    early: Vec<QueenNews>,
    /// The job's end has been told: what comes after is the end of the link.
    over: bool,
}

/// Submits a job; `messages` are what follows. A king who is not there is tried for [`KING_PATIENCE`].
///
/// # Errors
///
/// When there is no king, or he does not take the job.
pub async fn submit(
    address: &KingAddress,
    request: &JobRequest,
    messages: mpsc::Receiver<FromQueen>,
) -> Result<(Incoming, Window), LinkError> {
    let mut king = find_king(address).await?;
    // The job goes first, in as many messages as its program and its shares need; the readers' messages follow.
    let (outbox, opening) = Outbox::<wire::QueenWord>::new(Box::new(|_| ()));
    outbox.push_with(Word::OpenJob(open_job(request)), request.program.clone());
    for (digest, archive) in &request.archives {
        let share = wire::ShareData { digest: digest.to_wire(), archive: None };
        outbox.push_with(Word::ShareData(share), archive.clone());
    }
    outbox.close();
    let words = opening.chain(ReceiverStream::new(messages));
    let welcomed = async {
        let news = king.submit_job(words).await.map_err(|status| broken(&status))?.into_inner();
        let room = Arc::new(Semaphore::new(UNWRITTEN_BYTES as usize));
        let assembler = Assembler::new(UNIT_BYTES_MAX);
        let mut incoming = Incoming { news, assembler, room, early: Vec::new(), over: false };
        let mut words = incoming.next_words().await?.into_iter();
        match words.next().and_then(|word| word.news) {
            Some(News::Welcome(welcome)) => {
                incoming.early = words.collect();
                Ok((incoming, Window { units: welcome.window_units, bytes: welcome.window_bytes }))
            }
            Some(News::End(end)) => Err(LinkError::Ended(end.reason)),
            _ => Err(LinkError::Nonsense("his first word is no welcome")),
        }
    };
    // A large program, or large shares, take their time to be sent.
    let shares_bytes: u64 = request.archives.iter().map(|(_, archive)| archive.bytes()).sum();
    let patience = HELLO_WITHIN + Duration::from_micros(request.program.bytes() + shares_bytes);
    timeout(patience, welcomed).await.map_err(|_| LinkError::NoWelcome(address.to_string()))?
}

/// Connects to the king, again and again while there is patience.
async fn find_king(address: &KingAddress) -> Result<KingClient<Channel>, LinkError> {
    let mut backoff = Backoff::default();
    let mut why = "no answer".to_owned();
    let search = async {
        loop {
            match address.connect().await {
                Ok(king) => return king,
                Err(error) => why = chain(&error),
            }
            sleep(backoff.next(fastrand::f64())).await;
        }
    };
    let found = timeout(KING_PATIENCE, search).await;
    found.map_err(|_| LinkError::NoKing { address: address.to_string(), tried: KING_PATIENCE, why })
}

/// Tells the king that the queen leaves, if he takes it in time.
pub async fn leave(messages: mpsc::Sender<FromQueen>) {
    let end = Word::End(wire::End { reason: "the queen is leaving".to_owned() });
    // A king who does not listen notices that the link is gone.
    let _sent = timeout(GOODBYE_WITHIN, messages.send(FromQueen { words: vec![end.into()] })).await;
}

fn open_job(request: &JobRequest) -> wire::OpenJob {
    let mut open = wire::OpenJob {
        protocol: PROTOCOL,
        version: VERSION.to_owned(),
        project: request.project.clone(),
        program_digest: Digest::of(request.program.chunks().map(AsRef::as_ref)).to_wire(),
        program: None,
        min_ram_bytes: request.min_ram_bytes,
        one_per_machine: request.one_per_machine,
        timeout_ms: request.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)),
        retries: request.retries,
        guest: Some(request.guest.to_wire()),
        ..wire::OpenJob::default()
    };
    request.wishes.tell(&mut open);
    open
}

impl Incoming {
    /// The news of the next message; `None` after the end of the job. Waits while too many results are not written.
    ///
    /// # Errors
    ///
    /// When the link ends before the job.
    pub async fn next(&mut self) -> Result<Option<Vec<Told>>, LinkError> {
        if self.over {
            return Ok(None);
        }
        let words = if self.early.is_empty() { self.next_words().await? } else { std::mem::take(&mut self.early) };
        let mut told = Vec::with_capacity(words.len());
        for word in words {
            if let Some(arrived) = self.assembler.accept(word)? {
                told.extend(self.check_news(arrived).await?);
            }
        }
        Ok(Some(told))
    }

    async fn next_words(&mut self) -> Result<Vec<QueenNews>, LinkError> {
        match self.news.message().await {
            Ok(Some(message)) => Ok(message.news),
            Ok(None) => Err(LinkError::Silent),
            Err(status) => Err(broken(&status)),
        }
    }

    /// The word as the reactor knows it; `None` for the last word.
    async fn check_news(&mut self, (word, payload): Arrived<QueenNews>) -> Result<Option<Told>, LinkError> {
        let payload = payload.map_err(|_| LinkError::Nonsense("he broke off in a result"))?;
        match word.news {
            Some(News::Verdict(verdict)) => {
                let outcome = match (verdict.done, verdict.failure) {
                    (true, _) => {
                        let room = self.take_room(payload.bytes()).await;
                        Ok((payload, room))
                    }
                    (false, Some(failure)) => Err(failure.into()),
                    (false, None) => return Err(LinkError::Nonsense("a failure without a reason")),
                };
                let unit = UnitNo(verdict.unit);
                let (attempts, duke, run_us) = (verdict.attempts, verdict.duke, verdict.run_us);
                Ok(Some(Told::Verdict(Verdict { unit, outcome, attempts, duke, run_us })))
            }
            Some(News::JobState(state)) => {
                Ok(Some(Told::State { slots: state.slots, dukes: state.dukes, waits_for: state.waits_for }))
            }
            Some(News::JobEnded(ended)) => {
                self.over = true;
                Ok(Some(Told::Ended(ended.failure.map(Failure::from))))
            }
            Some(News::End(_)) if self.over => Ok(None),
            Some(News::End(end)) => Err(LinkError::Ended(end.reason)),
            Some(News::Welcome(_)) => Err(LinkError::Nonsense("a second welcome")),
            Some(News::Piece(_)) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
        }
    }

    /// Waits until there is room for a result. A result that is larger than all the room gets all of it.
    async fn take_room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes).unwrap_or(UNWRITTEN_BYTES).min(UNWRITTEN_BYTES);
        // The semaphore is never closed.
        Arc::clone(&self.room).acquire_many_owned(permits).await.ok()
    }
}

fn broken(status: &tonic::Status) -> LinkError {
    LinkError::Broken(status.message().to_owned())
}
