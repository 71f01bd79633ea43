//! The duke's way to the king: dials until a link stands, listens to it, and tells the reactor what happens.

use std::{pin::Pin, time::Duration};

use distwasm_process::{clock::Clock, repeats::Repeats};
use distwasm_proto::{
    limits::{HELLO_WITHIN, RETURN_BACKOFF_MAX},
    wire::{DukeWord, ToDuke},
};
use distwasm_transport::{
    backoff::Backoff,
    link::{King, KingAddress, why_unreached},
    stream::Incoming,
    transfer::{Outbox, OutboxStream},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    border::{Border, KingOrder, LinkError},
    reactor::Happening,
};

/// One attempt to reach the king.
type Dialing = Pin<Box<dyn Future<Output = Result<King, LinkError>> + Send>>;

/// A link to the king, or the search for one.
pub(crate) struct KingLink {
    address: KingAddress,
    backoff: Backoff,
    /// Jobs may wait for this duke, so it tries to reach the king often.
    is_in_haste: bool,
    /// The delay before the next attempt to connect.
    wait: Duration,
    clock: Clock,
    /// Bounds how often the log says that the king cannot be reached.
    repeats: Repeats,
    dialing: Option<Dialing>,
    stream: Option<KingStream>,
}

/// A link that stands, or is about to: orders come only after the welcome.
struct KingStream {
    outbox: Outbox<DukeWord>,
    heard: mpsc::Receiver<Result<Vec<KingOrder>, LinkError>>,
    is_welcome: bool,
    /// Ends with the link.
    _listening: JoinSet<()>,
}

impl Drop for KingStream {
    fn drop(&mut self) {
        // The king does not notice that its words are not read any more, but it notices that the duke's stream ends.
        self.outbox.close();
    }
}

impl KingLink {
    /// A link for which no connection was attempted yet.
    pub(crate) fn new(address: KingAddress, clock: Clock) -> KingLink {
        KingLink {
            address,
            backoff: Backoff::default(),
            is_in_haste: false,
            wait: Duration::ZERO,
            clock,
            repeats: Repeats::default(),
            dialing: None,
            stream: None,
        }
    }

    /// Waits until something happens. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Happening {
        loop {
            if let Some(stream) = &mut self.stream {
                let lost = match stream.heard.recv().await {
                    Some(Ok(orders)) => {
                        if !std::mem::replace(&mut stream.is_welcome, true) {
                            self.on_welcome();
                        }
                        return Happening::Ordered(orders);
                    }
                    Some(Err(error)) => error,
                    None => LinkError::Silent,
                };
                self.stream = None;
                self.wait = self.backoff.next(fastrand::f64());
                return Happening::Disconnected(lost);
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
                Ok(king) => return Happening::Connected(self.open(king)),
                Err(error) => match self.repeats.count(self.clock.now(), &error.to_string()) {
                    Some(tries) => warn!(king = %self.address, %error, tries, "no link to the king; trying again"),
                    None => debug!(king = %self.address, %error, "no king yet"),
                },
            }
        }
    }

    /// Begins to listen to a king, and returns the outbox for the words to it.
    fn open(&mut self, king: King) -> Outbox<DukeWord> {
        let (outbox, words) = Outbox::new();
        let (sender, heard) = mpsc::channel(1);
        let mut listening = JoinSet::new();
        listening.spawn(listen(king, words, sender));
        self.stream = Some(KingStream { outbox: outbox.clone(), heard, is_welcome: false, _listening: listening });
        outbox
    }

    /// The king accepted the duke, so retries after the next loss start from the shortest delay again.
    fn on_welcome(&mut self) {
        info!(king = %self.address, "serving the king");
        self.repeats.forget();
        self.backoff = Backoff::up_to(RETURN_BACKOFF_MAX);
        self.is_in_haste = true;
    }

    /// No job waits for this duke any more, so it need not try to reach the king as often.
    pub(crate) fn give_up_haste(&mut self) {
        if std::mem::take(&mut self.is_in_haste) {
            self.backoff = Backoff::default();
        }
    }

    /// Drops the link: the words that are in its outbox go out, and nothing is heard any more.
    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
    }

    /// Waits until the king has heard everything, the goodbye too: it then closes the stream. A king that does not
    /// close it within `patience` notices that the link is gone.
    pub(crate) async fn closed(&mut self, patience: Duration) {
        let Some(stream) = &mut self.stream else { return };
        let closed = async { while stream.heard.recv().await.is_some_and(|heard| heard.is_ok()) {} };
        let _heard = timeout(patience, closed).await;
    }
}

/// Opens the stream and passes the king's orders on, until the link is gone or the receiver is dropped.
async fn listen(king: King, words: OutboxStream<DukeWord>, heard: mpsc::Sender<Result<Vec<KingOrder>, LinkError>>) {
    let opened = async {
        let mut messages = king.volunteer(words).await?;
        let first = next_message(&mut messages).await?;
        Ok((messages, first))
    };
    let (mut messages, first) = match timeout(HELLO_WITHIN, opened).await.unwrap_or(Err(LinkError::NoWelcome)) {
        Ok(opened) => opened,
        Err(error) => {
            // The duke may have dropped this link already.
            let _sent = heard.send(Err(error)).await;
            return;
        }
    };
    let (mut border, mut message) = (Border::default(), Ok(first));
    loop {
        let orders = message.and_then(|message| border.take(message));
        let is_last = orders.is_err();
        if heard.send(orders).await.is_err() || is_last {
            return;
        }
        message = next_message(&mut messages).await;
    }
}

async fn next_message(messages: &mut Incoming<ToDuke>) -> Result<ToDuke, LinkError> {
    messages.message().await?.ok_or(LinkError::Silent)
}
