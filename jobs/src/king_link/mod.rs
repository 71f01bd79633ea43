//! The queen's link to the king: how it is opened, and how messages go over it. `border.rs` checks what arrives, and
//! [`words`] makes what is said.

mod border;
mod error;
mod room;
pub mod words;

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use distwasm_proto::{
    error_text::chain,
    limits::{HELLO_WITHIN, MESSAGES_WAITING, RETURN_BACKOFF_MAX},
    wire::{self, FromQueen, queen_word::Word},
};
use distwasm_transport::{
    backoff::Backoff,
    link::{King, KingAddress, why_unreached},
    payload::Payload,
    stream,
    transfer::Outbox,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::request::JobRequest;

pub use border::{
    Border, Compilation, JobEnd, JobState, KingNews, LongestUnit, OutputOffered, PartWanted, Verdict, Welcome,
};
pub use error::LinkError;
pub use room::Room;
use room::Unwritten;

/// News of one message, or why no more comes.
pub(crate) type Heard = Result<Vec<KingNews>, LinkError>;

/// An open link.
pub(crate) struct Link {
    /// The king's words.
    pub(crate) incoming: Incoming,
    /// The queen's words, without its units.
    pub(crate) outgoing: Outgoing,
    /// Takes units to the king.
    pub(crate) messages: mpsc::Sender<FromQueen>,
    /// The king's first word.
    pub(crate) welcome: Welcome,
}

/// The queen's half of a link, without its units.
#[derive(Debug)]
pub(crate) struct Outgoing {
    words: Outbox<wire::QueenWord>,
    /// The link broke, and the queen may come back to its job.
    is_lost: bool,
    /// When dropped, ends the stream of units, too.
    _cut: DropGuard,
}

impl Outgoing {
    pub(crate) fn say(&self, word: Word) {
        self.words.push(word);
    }

    /// Drops a link that broke, without a last word.
    pub(crate) fn lose(mut self) {
        self.is_lost = true;
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_lost {
            self.words.push(words::leaving());
        }
        self.words.close();
    }
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

/// Numbers the tries to open a link.
static LINKS: AtomicU64 = AtomicU64::new(1);

/// Opens a job, or comes back to one; retries until `patience` is over.
///
/// # Errors
///
/// When no king answers in time, or the king does not take the job.
///
/// While a king has been asked, and may have opened the job without having said so, `asked` is true.
pub(crate) async fn submit(
    address: &KingAddress,
    request: &JobRequest,
    resumes: Option<wire::Resumption>,
    patience: Duration,
    asked: &AtomicBool,
) -> Result<Link, LinkError> {
    // The last reason, and the last king's refusal.
    let (mut last, mut refused) = (None, None);
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
                Err(error) if !error.may_pass() => return Err(LinkError::NoWay(chain(&error))),
                Err(error) => {
                    (last, refused) = (Some(why_unreached(&error)), None);
                    continue;
                }
            };
            let link = LINKS.fetch_add(1, Ordering::Relaxed);
            let resumes = resumes.clone().map(|resumes| wire::Resumption { link, ..resumes });
            asked.store(true, Ordering::Relaxed);
            let opened = open_link(address, king, request, resumes).await;
            asked.store(opened.is_ok(), Ordering::Relaxed);
            match opened {
                Err(error) if error.may_pass(resuming) => {
                    last = Some(error.to_string());
                    refused = matches!(error, LinkError::Ended { .. }).then_some(error);
                }
                opened => return opened,
            }
        }
    };
    if let Ok(ended) = timeout(patience, tries).await {
        return ended;
    }
    let (address, tried, why) = (address.to_string(), patience, last.unwrap_or_else(|| "no answer".to_owned()));
    if let Some(refused) = refused.filter(|_| !resuming) {
        return Err(refused);
    }
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
) -> Result<Link, LinkError> {
    // The job goes first, in as many messages as its program and its shares need. Units come only after the welcome, so
    // they never come between these messages.
    let (outbox, words) = Outbox::<wire::QueenWord>::new();
    let comes_back = resumes.is_some();
    for (word, payload) in words::hello(request, resumes) {
        outbox.push_with(word, payload);
    }
    let (sender, messages) = mpsc::channel(MESSAGES_WAITING);
    let cut = CancellationToken::new();
    let words = words.merge(Messages { messages, cut: Box::pin(cut.clone().cancelled_owned()) });
    // Until the king has welcomed it, a queen that comes back does not say that it leaves, even if this link fails.
    let mut outgoing = Outgoing { words: outbox, is_lost: comes_back, _cut: cut.drop_guard() };
    let welcomed = async {
        let messages = king.submit_job(words).await?;
        let mut incoming = Incoming { messages, border: Border::default(), early: Vec::new() };
        let mut news = incoming.next().await?.into_iter();
        let Some(KingNews::Welcome(welcome)) = news.next() else {
            return Err(LinkError::Nonsense("its first word is not a welcome"));
        };
        incoming.early = news.collect();
        outgoing.is_lost = false;
        Ok(Link { incoming, outgoing, messages: sender, welcome })
    };
    // A large program or large shares take time to send.
    let shares_bytes: u64 = request.archives.iter().map(|(_, archive)| archive.bytes()).sum();
    let patience = HELLO_WITHIN + Duration::from_micros(request.program.bytes() + shares_bytes);
    timeout(patience, welcomed).await.map_err(|_| LinkError::NoWelcome(address.to_string()))?
}

/// The king's half of a link.
pub(crate) struct Incoming {
    messages: stream::Incoming<wire::ToQueen>,
    border: Border,
    /// News that came in one message with the welcome.
    early: Vec<KingNews>,
}

impl Incoming {
    /// Passes on the news until the link or the job ends, or the receiver is gone. Waits for room for results, so that
    /// the receiver never does.
    pub(crate) async fn pass_on(mut self, receiver: mpsc::Sender<Heard>) {
        let unwritten = Unwritten::new();
        let mut news = std::mem::take(&mut self.early);
        // The run ends before the link when the user interrupts it.
        while pass(news, &unwritten, &receiver).await.is_some() && !self.border.is_over() {
            match self.next().await {
                Ok(next) => news = next,
                Err(error) => {
                    let _received = receiver.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Waits until the king has closed the link.
    pub(crate) async fn close(mut self) {
        while self.messages.message().await.is_ok_and(|message| message.is_some()) {}
    }

    /// The news of the next message.
    async fn next(&mut self) -> Result<Vec<KingNews>, LinkError> {
        let message = self.messages.message().await?.ok_or(LinkError::Silent)?;
        self.border.take(message)
    }
}

/// Passes on the news of one message. If there is no room for a result, the news before it goes first: writing those
/// results makes room. `None` when the receiver is gone.
async fn pass(news: Vec<KingNews>, unwritten: &Unwritten, receiver: &mpsc::Sender<Heard>) -> Option<()> {
    let mut ready = Vec::with_capacity(news.len());
    for mut item in news {
        if let KingNews::Verdict(Verdict { outcome: Ok(result), room, .. }) = &mut item {
            let bytes = Payload::bytes(result);
            if !ready.is_empty() && !unwritten.has_room(bytes) {
                receiver.send(Ok(std::mem::take(&mut ready))).await.ok()?;
            }
            *room = unwritten.take(bytes).await;
        }
        ready.push(item);
    }
    if ready.is_empty() { Some(()) } else { receiver.send(Ok(ready)).await.ok() }
}
