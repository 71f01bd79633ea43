//! The world around the reactor: performs its commands, and says what becomes of the link.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use distwasm_proto::{
    limits::{GOODBYE_WITHIN, KING_PATIENCE},
    wire::FromQueen,
};
use distwasm_transport::link::KingAddress;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::threads::Orders;
use crate::{
    job_note::JobNote,
    king_link::{self, Incoming, KingNews, Link, LinkError, Outgoing},
    reactor::{Command, Happening},
    request::JobRequest,
};

/// See the module's documentation.
pub(super) struct World<'a> {
    pub(super) address: &'a KingAddress,
    pub(super) request: &'a JobRequest,
    /// How long the queen tries to reach a king that went away.
    pub(super) grace: Duration,
    pub(super) note: Option<&'a JobNote>,
    pub(super) orders: Orders,
    pub(super) link: LinkState<'a>,
    /// Whether a king has been asked that has not answered yet.
    pub(super) asked: &'a AtomicBool,
    /// Tasks that pass on the king's words.
    pub(super) listening: JoinSet<()>,
}

/// What becomes of trying to reach the king.
type Seeking<'a> = Pin<Box<dyn Future<Output = Result<Link, LinkError>> + Send + 'a>>;

/// The state of the link.
pub(super) enum LinkState<'a> {
    /// There is none, and none is sought.
    None,
    /// The queen is trying to reach the king.
    Seeking(Seeking<'a>),
    /// The king has welcomed the queen, and the readers do not know it yet.
    Welcomed(Outgoing, Box<Incoming>, mpsc::Sender<FromQueen>),
    /// The link is open.
    Open(Outgoing),
    /// The link broke, and the readers are being stopped.
    Stopping(JoinHandle<()>),
}

impl World<'_> {
    /// Waits for the next change of the link, if there is one. Cancel safe.
    pub(super) async fn next(&mut self) -> Happening {
        match &mut self.link {
            LinkState::Seeking(seeking) => match seeking.await {
                Ok(Link { incoming, outgoing, messages, welcome }) => {
                    self.link = LinkState::Welcomed(outgoing, Box::new(incoming), messages);
                    Happening::News(vec![KingNews::Welcome(welcome)])
                }
                Err(error) => {
                    self.link = LinkState::None;
                    Happening::NoLink(error)
                }
            },
            LinkState::Stopping(stopping) => {
                // The thread does not fail.
                let _stopped = stopping.await;
                self.link = LinkState::None;
                Happening::ReadersStopped
            }
            LinkState::None | LinkState::Welcomed(..) | LinkState::Open(_) => std::future::pending().await,
        }
    }

    /// Performs a command. Does not wait for anything that takes long.
    pub(super) fn perform(&mut self, command: Command) {
        match command {
            Command::Seek(resumes) => {
                let patience = if resumes.is_some() { self.grace } else { KING_PATIENCE };
                if let Some(note) = self.note.filter(|_| resumes.is_none()) {
                    tokio::task::block_in_place(|| note.write(&self.request.replaces));
                }
                let seeking = king_link::submit(self.address, self.request, resumes, patience, self.asked);
                self.link = LinkState::Seeking(Box::pin(seeking));
            }
            Command::DropLink => {
                if let LinkState::Open(outgoing) = std::mem::replace(&mut self.link, LinkState::None) {
                    outgoing.lose();
                }
            }
            Command::StopReaders => {
                let post = Arc::clone(&self.orders.post);
                self.link = LinkState::Stopping(tokio::task::spawn_blocking(move || post.close()));
            }
            Command::OpenReaders(link, input_bytes_max) => match std::mem::replace(&mut self.link, LinkState::None) {
                LinkState::Welcomed(outgoing, incoming, messages) => {
                    self.link = LinkState::Open(outgoing);
                    // The readers wait; no thread holds the lock for long.
                    self.orders.post.open(link, messages, input_bytes_max);
                    self.listening.spawn(incoming.pass_on(self.orders.news.clone()));
                }
                // Only a welcome is answered with this.
                other => self.link = other,
            },
            Command::Read(orders) => self.orders.readers.give(orders),
            Command::Write(orders) => self.orders.writers.give(orders),
            Command::Say(word) => {
                if let LinkState::Open(outgoing) = &self.link {
                    outgoing.say(word);
                }
            }
            Command::NoteJob(_) => {
                // The king has ended the jobs that this one replaces.
                if let Some(note) = self.note.filter(|_| !self.request.replaces.is_empty()) {
                    tokio::task::block_in_place(|| note.write(&[]));
                }
            }
            // Queued words are still sent; inputs that were not yet read are not. If none could be read, the job is
            // still open.
            Command::Leave => match std::mem::replace(&mut self.link, LinkState::None) {
                LinkState::Seeking(seeking) if self.asked.load(Ordering::Relaxed) => {
                    self.link = LinkState::Seeking(seeking);
                }
                LinkState::Welcomed(outgoing, incoming, _) => {
                    drop(outgoing);
                    self.listening.spawn(incoming.close());
                }
                _ => {}
            },
        }
    }

    /// Ends the link and the threads, once the last output is in its place. Waits only for a short time.
    pub(super) async fn end(mut self, mut threads: JoinSet<()>) {
        // Readers that are sending stop once the link is closed. On a frozen link that can take a while.
        let post = Arc::clone(&self.orders.post);
        threads.spawn_blocking(move || post.end());
        // A king that has been asked may have opened the job already.
        if let LinkState::Seeking(seeking) = self.link
            && let Ok(Ok(Link { incoming, outgoing, .. })) = timeout(GOODBYE_WITHIN, seeking).await
        {
            drop(outgoing);
            self.listening.spawn(incoming.close());
        }
        // The king closes the link when it has heard of the end.
        let closed = async { while self.listening.join_next().await.is_some() {} };
        let _closed = timeout(GOODBYE_WITHIN, closed).await;
        self.listening.shutdown().await;
        // Readers and writers end when they have no more orders.
        drop(self.orders);
        let ended = async { while threads.join_next().await.is_some() {} };
        if timeout(GOODBYE_WITHIN, ended).await.is_err() {
            tracing::debug!("a thread still waits for a link that does not move; leaving without it");
            threads.detach_all();
        }
    }
}
