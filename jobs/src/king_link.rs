//! The queen's link to the king: the job that it submits, and the king's news, checked.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use distwasm_proto::{
    PROTOCOL, VERSION,
    digest::Digest,
    failure::Failure,
    ids::UnitNo,
    limits::{HELLO_WITHIN, MESSAGES_WAITING, RETURN_BACKOFF_MAX, UNIT_BYTES_MAX, UNWRITTEN_BYTES},
    wire::{self, FromQueen, QueenNews, queen_news::News, queen_word::Word},
};
use distwasm_transport::{
    backoff::Backoff,
    link::{King, KingAddress, why_unreached},
    payload::Payload,
    stream::{self, StreamError},
    transfer::{Arrived, Assembler, Outbox, TransferError},
};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::request::JobRequest;

/// How much may be without a verdict at a time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Units.
    pub units: u32,
    /// Bytes of inputs.
    pub bytes: u64,
}

/// The king's first word.
#[derive(Debug)]
pub struct Welcome {
    /// The king's number for the job.
    pub job: u64,
    /// How much may be without a verdict.
    pub window: Window,
    /// After a reconnect: units without a verdict that the king has.
    pub known: Vec<UnitNo>,
}

/// News from the king.
#[derive(Debug)]
pub enum KingNews {
    /// How a unit ended.
    Verdict(Verdict),
    /// The slots and dukes of the job, and the reason why it waits.
    JobState { slots: u32, dukes: u32, waits_for: String, longest: Option<LongestUnit> },
    /// The job is over.
    Ended(Option<Failure>),
}

/// The unit that has been running longest.
#[derive(Debug)]
pub struct LongestUnit {
    /// Which.
    pub unit: UnitNo,
    /// The host that it runs on.
    pub duke: String,
    /// How long it had been running when the king named it.
    pub running: Duration,
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
    /// The host on which it was tried last.
    pub duke: String,
    /// How long that took, in microseconds, if it is known.
    pub run_us: Option<u64>,
}

/// Why a link could not be opened, or ended.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LinkError {
    #[error("no king answers at {address} (tried for {tried:?}): {why}")]
    NoKing { address: String, tried: Duration, why: String },
    #[error("the connection to the king broke: {0}")]
    Broken(#[from] StreamError),
    #[error("the connection to the king ended without a word")]
    Silent,
    #[error("the listener at {0} said nothing within {HELLO_WITHIN:?}; is it a king?")]
    NoWelcome(String),
    #[error("the king ended the link: {reason}")]
    Ended { reason: String, come_back: bool },
    #[error("the king went away, and none was back at {address} within {tried:?} (--grace): {why}")]
    Gone { address: String, tried: Duration, why: String },
    #[error("the king's words do not fit together: {0}")]
    Transfer(#[from] TransferError),
    #[error("the king broke the protocol: {0}")]
    Nonsense(&'static str),
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_lost {
            self.words.push(Word::End(wire::End { reason: "the queen is leaving".to_owned(), come_back: false }));
        }
        self.words.close();
    }
}

impl LinkError {
    /// Whether retrying may help. `comes_back` is true once this queen has been welcomed.
    pub fn may_pass(&self, comes_back: bool) -> bool {
        match self {
            LinkError::Broken(_) | LinkError::Silent => true,
            LinkError::NoWelcome(_) => comes_back,
            LinkError::Ended { come_back, .. } => comes_back && *come_back,
            LinkError::NoKing { .. } | LinkError::Gone { .. } | LinkError::Transfer(_) | LinkError::Nonsense(_) => {
                false
            }
        }
    }
}

/// The queen's half of a link, without its units.
#[derive(Debug)]
pub struct Outgoing {
    words: Outbox<wire::QueenWord>,
    /// The link broke, and the queen may come back to its job.
    is_lost: bool,
    /// When dropped, ends the stream of units, too.
    _cut: DropGuard,
}

/// Units on their way to the king, until the link is given up.
struct Messages {
    messages: mpsc::Receiver<FromQueen>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Messages {
    type Item = FromQueen;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FromQueen>> {
        if self.cut.as_mut().poll(context).is_ready() {
            // Readers that wait for room learn that the link is gone.
            self.messages.close();
            return Poll::Ready(None);
        }
        self.messages.poll_recv(context)
    }
}

impl Outgoing {
    /// Tells the king that it may forget `verdicts` more verdicts.
    pub fn heard(&self, verdicts: u64) {
        self.words.push(Word::VerdictsHeard(wire::VerdictsHeard { verdicts }));
    }

    /// Drops a link that broke, without a last word.
    pub fn lose(mut self) {
        self.is_lost = true;
    }
}

/// The king's half of a link.
pub struct Incoming {
    news: stream::Incoming<wire::ToQueen>,
    assembler: Assembler<QueenNews>,
    room: Arc<Semaphore>,
    /// Words that have arrived and are not handled yet: they came with the welcome, or behind the stalled result.
    early: Vec<QueenNews>,
    /// A result for which there was no room.
    stalled: Option<Arrived<QueenNews>>,
    /// The king has said that the job is over; only the end of the link follows.
    over: bool,
}

/// An open link.
pub struct Link {
    /// The king's words.
    pub incoming: Incoming,
    /// The queen's words, without its units.
    pub outgoing: Outgoing,
    /// The king's first word.
    pub welcome: Welcome,
}

/// Numbers the tries to open a link.
static LINKS: AtomicU64 = AtomicU64::new(1);

/// Opens a job, or comes back to one; retries until `patience` is over. Returns the link and the sender for its units.
///
/// # Errors
///
/// When no king answers in time, or the king does not take the job.
pub async fn submit(
    address: &KingAddress,
    request: &JobRequest,
    resumes: Option<wire::Resumption>,
    patience: Duration,
) -> Result<(Link, mpsc::Sender<FromQueen>), LinkError> {
    let mut last = None;
    let mut backoff = Backoff::up_to(RETURN_BACKOFF_MAX);
    // Many queens may come back at once, so the first try waits, too.
    let resuming = resumes.is_some();
    let mut wait = resuming;
    let tries = async {
        loop {
            if std::mem::replace(&mut wait, true) {
                sleep(backoff.next(fastrand::f64())).await;
            }
            let king = match address.connect().await {
                Ok(king) => king,
                Err(error) => {
                    last = Some(why_unreached(&error));
                    continue;
                }
            };
            let (sender, messages) = mpsc::channel(MESSAGES_WAITING);
            let link = LINKS.fetch_add(1, Ordering::Relaxed);
            let resumes = resumes.clone().map(|resumes| wire::Resumption { link, ..resumes });
            match open_link(address, king, request, resumes, messages).await {
                Err(error) if error.may_pass(resuming) => last = Some(error.to_string()),
                opened => return opened.map(|link| (link, sender)),
            }
        }
    };
    if let Ok(ended) = timeout(patience, tries).await {
        return ended;
    }
    let (address, tried, why) = (address.to_string(), patience, last.unwrap_or_else(|| "no answer".to_owned()));
    Err(match resumes {
        None => LinkError::NoKing { address, tried, why },
        Some(_) => LinkError::Gone { address, tried, why },
    })
}

async fn open_link(
    address: &KingAddress,
    king: King,
    request: &JobRequest,
    resumes: Option<wire::Resumption>,
    messages: mpsc::Receiver<FromQueen>,
) -> Result<Link, LinkError> {
    // The job goes first, in as many messages as its program and its shares need. Units come only after the welcome, so
    // they never come between these messages.
    let (outbox, words) = Outbox::<wire::QueenWord>::new();
    let comes_back = resumes.is_some();
    let open = wire::OpenJob { resumes, ..open_job(request) };
    outbox.push_with(Word::OpenJob(Box::new(open)), request.program.clone());
    for (digest, archive) in &request.archives {
        let share = wire::ShareData { digest: digest.to_wire(), archive: None };
        outbox.push_with(Word::ShareData(share), archive.clone());
    }
    let cut = CancellationToken::new();
    let words = words.merge(Messages { messages, cut: Box::pin(cut.clone().cancelled_owned()) });
    // Until the king has welcomed it, a queen that comes back does not say that it leaves, even if this link fails.
    let mut outgoing = Outgoing { words: outbox, is_lost: comes_back, _cut: cut.drop_guard() };
    let welcomed = async {
        let news = king.submit_job(words).await?;
        let room = Arc::new(Semaphore::new(UNWRITTEN_BYTES as usize));
        let assembler = Assembler::new(UNIT_BYTES_MAX);
        let mut incoming = Incoming { news, assembler, room, early: Vec::new(), stalled: None, over: false };
        let mut words = incoming.next_words().await?.into_iter();
        match words.next().and_then(|word| word.news) {
            Some(News::Welcome(wire::QueenWelcome { job, window_units, window_bytes, known, .. })) => {
                incoming.early = words.collect();
                outgoing.is_lost = false;
                let window = Window { units: window_units, bytes: window_bytes };
                let known = known.into_iter().map(UnitNo).collect();
                Ok(Link { incoming, outgoing, welcome: Welcome { job, window, known } })
            }
            Some(News::End(end)) => Err(LinkError::Ended { reason: end.reason, come_back: end.come_back }),
            _ => Err(LinkError::Nonsense("its first word is not a welcome")),
        }
    };
    // A large program or large shares take time to send.
    let shares_bytes: u64 = request.archives.iter().map(|(_, archive)| archive.bytes()).sum();
    let patience = HELLO_WITHIN + Duration::from_micros(request.program.bytes() + shares_bytes);
    timeout(patience, welcomed).await.map_err(|_| LinkError::NoWelcome(address.to_string()))?
}

fn open_job(request: &JobRequest) -> wire::OpenJob {
    let scheduling = &request.scheduling;
    wire::OpenJob {
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
        key: request.key,
        replaces: request.replaces.map(|(job, key)| wire::EarlierJob { job, key }),
        weight: scheduling.weight,
        priority: scheduling.priority,
        speculate: scheduling.speculate,
        max_parallel: scheduling.max_parallel.unwrap_or(0),
        requires: scheduling.requires.clone().into_iter().collect(),
        ..wire::OpenJob::default()
    }
}

impl Incoming {
    /// The news of the next message; `None` after the end of the job. Waits while too many results are unwritten.
    ///
    /// # Errors
    ///
    /// When the link ends before the job.
    pub async fn next(&mut self) -> Result<Option<Vec<KingNews>>, LinkError> {
        if self.over {
            return Ok(None);
        }
        let has_more = self.stalled.is_some() || !self.early.is_empty();
        let words = if has_more { std::mem::take(&mut self.early) } else { self.next_words().await? };
        let mut told = Vec::with_capacity(words.len());
        if let Some(arrived) = self.stalled.take() {
            told.extend(self.check_news(arrived).await?);
        }
        let mut words = words.into_iter();
        for word in words.by_ref() {
            let Some(arrived) = self.assembler.accept(word)? else { continue };
            let (_, payload) = &arrived;
            let bytes = payload.as_ref().map_or(0, Payload::bytes);
            if !told.is_empty() && self.room.available_permits() < permits(bytes) as usize {
                // Pass on the earlier results first: writing them makes room for this one.
                self.stalled = Some(arrived);
                break;
            }
            told.extend(self.check_news(arrived).await?);
        }
        self.early = words.collect();
        Ok(Some(told))
    }

    async fn next_words(&mut self) -> Result<Vec<QueenNews>, LinkError> {
        let message = self.news.message().await?.ok_or(LinkError::Silent)?;
        Ok(message.news)
    }

    /// The word as the reactor knows it; `None` for the last word.
    async fn check_news(&mut self, (word, payload): Arrived<QueenNews>) -> Result<Option<KingNews>, LinkError> {
        let payload = payload.map_err(|_| LinkError::Nonsense("it broke off in a result"))?;
        match word.news {
            Some(News::Verdict(verdict)) => {
                let outcome = match (verdict.done, verdict.failure) {
                    (true, _) => {
                        let room = take_room(&self.room, payload.bytes()).await;
                        Ok((payload, room))
                    }
                    (false, Some(failure)) => Err((*failure).into()),
                    (false, None) => return Err(LinkError::Nonsense("a failure without a reason")),
                };
                let unit = UnitNo(verdict.unit);
                let (attempts, duke, run_us) = (verdict.attempts, verdict.duke, verdict.run_us);
                Ok(Some(KingNews::Verdict(Verdict { unit, outcome, attempts, duke, run_us })))
            }
            Some(News::JobState(state)) => {
                let wire::JobState { slots, dukes, waits_for, longest } = state;
                let longest = longest.map(|longest| LongestUnit {
                    unit: UnitNo(longest.unit),
                    duke: longest.duke,
                    running: Duration::from_millis(longest.running_ms),
                });
                Ok(Some(KingNews::JobState { slots, dukes, waits_for, longest }))
            }
            Some(News::JobEnded(ended)) => {
                self.over = true;
                Ok(Some(KingNews::Ended(ended.failure.map(Failure::from))))
            }
            Some(News::End(_)) if self.over => Ok(None),
            Some(News::End(end)) => Err(LinkError::Ended { reason: end.reason, come_back: end.come_back }),
            Some(News::Welcome(_)) => Err(LinkError::Nonsense("a second welcome")),
            Some(News::Piece(_)) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
        }
    }
}

/// Waits until there is room for a result. A result that is larger than all the room gets all of it.
async fn take_room(room: &Arc<Semaphore>, bytes: u64) -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed.
    Arc::clone(room).acquire_many_owned(permits(bytes)).await.ok()
}

/// The room that a result takes: all the room, if the result is larger.
fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(UNWRITTEN_BYTES).min(UNWRITTEN_BYTES)
}
