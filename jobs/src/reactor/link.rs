//! The queen's link to the king, and how the queen reconnects when it breaks.
//!
//! First the readers are stopped, so that every unit that has a number is known. Then the queen reconnects, tells the
//! king how many units have numbers and which of them have no verdict, and learns which of those the king knows. The
//! other units are read and sent again, and the readers go on.

use std::{pin::Pin, sync::Arc};

use distwasm_proto::{
    ids::UnitNo,
    limits::{KING_PATIENCE, READERS},
    wire,
};
use distwasm_transport::link::KingAddress;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Reactor, threads::Channels};
use crate::{
    inputs::readers::{LinkNo, ReadOrder},
    king_link::{self, KingNews, Link, LinkError, Outgoing, Welcome, Window},
    request::JobRequest,
    submission::Event,
};

/// A link, and the sender for its units.
type OpenedLink = (Link, mpsc::Sender<wire::FromQueen>);

type Seeking<'a> = Pin<Box<dyn Future<Output = Result<OpenedLink, LinkError>> + Send + 'a>>;

/// The state of the link.
pub(super) enum LinkState<'a> {
    /// There was nothing to do yet.
    Unsought,
    /// The queen is trying to reach the king.
    Seeking(Seeking<'a>),
    /// The link broke, and the readers are being stopped.
    Stopping(JoinHandle<()>),
    /// The link is open, or it ended with the run.
    Standing,
}

/// A change of the link.
pub(super) enum Step {
    Opened(Box<OpenedLink>),
    Failed(LinkError),
    ReadersStopped,
}

impl LinkState<'_> {
    /// Waits for the next change, if there is one. Cancel safe.
    pub(super) async fn next(&mut self) -> Step {
        match self {
            LinkState::Seeking(seeking) => match seeking.await {
                Ok(found) => Step::Opened(Box::new(found)),
                Err(error) => Step::Failed(error),
            },
            LinkState::Stopping(stopping) => {
                // The thread does not fail.
                let _stopped = stopping.await;
                Step::ReadersStopped
            }
            LinkState::Unsought | LinkState::Standing => std::future::pending().await,
        }
    }
}

/// The job as the king knows it.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// Its number at the king; 0 before it has one.
    pub(super) number: u64,
    /// How many dukes the king had.
    pub(super) dukes: u32,
    pub(super) link: LinkNo,
    pub(super) outgoing: Option<Outgoing>,
    /// Verdicts that arrived over this link and that the king has not been told of, and the bytes of their results.
    pub(super) heard: u64,
    pub(super) heard_bytes: u64,
}

impl Reactor<'_> {
    /// Connects to the king for the first time.
    pub(super) fn seek<'a>(address: &'a KingAddress, request: &'a JobRequest) -> LinkState<'a> {
        LinkState::Seeking(Box::pin(king_link::submit(address, request, None, KING_PATIENCE)))
    }

    /// The link broke: the queen reconnects, if that may help.
    pub(super) fn on_link_lost(&mut self, error: LinkError, state: &mut LinkState<'_>) {
        if let Some(outgoing) = self.job.outgoing.take() {
            outgoing.lose();
        }
        if !error.may_pass(true) || self.end.is_some() {
            return self.lose_king(error.into());
        }
        self.events.push(Event::LinkLost);
        self.reporter.waits(&format!("{error}; coming back"));
        self.on_longest(None);
        let post = Arc::clone(&self.readers.post);
        *state = LinkState::Stopping(tokio::task::spawn_blocking(move || post.close()));
    }

    /// With the readers stopped, every unit that they numbered is known: the queen connects to the king again.
    pub(super) fn on_readers_stopped<'a>(
        &mut self,
        channels: &mut Channels,
        address: &'a KingAddress,
        request: &'a JobRequest,
    ) -> LinkState<'a> {
        while let Ok(sent) = channels.sent.try_recv() {
            self.on_sent(sent);
        }
        self.run_core();
        let (sent, lacking) = self.submission.lacking();
        let lacking = lacking.into_iter().map(|unit| unit.0).collect();
        let resumes = wire::Resumption { job: self.job.number, sent, lacking, dukes: self.job.dukes, link: 0 };
        LinkState::Seeking(Box::pin(king_link::submit(address, request, Some(resumes), self.grace)))
    }

    /// The king accepted the job, or resumed it.
    pub(super) fn on_link_opened(
        &mut self,
        (link, messages): OpenedLink,
        news: &mpsc::Sender<Result<Vec<KingNews>, LinkError>>,
    ) {
        let Link { incoming, outgoing, welcome } = link;
        let Welcome { job, window: Window { units: window_units, bytes: window_bytes }, known } = welcome;
        if let Some(note) = self.note.filter(|_| self.job.number != job) {
            tokio::task::block_in_place(|| note.write(job));
        }
        self.job.number = job;
        self.job.outgoing = Some(outgoing);
        // The queen's first word on this link named the missing verdicts, so the king knows of the others.
        (self.job.heard, self.job.heard_bytes) = (0, 0);
        self.reporter.waits("");
        self.events.push(Event::Welcomed { window_units, window_bytes });
        // The readers wait; no thread holds the lock for long.
        self.job.link = self.readers.post.open(messages);
        if self.job.link > 1 {
            self.events.push(Event::CameBack { known });
        }
        self.listening.spawn(super::listen(incoming, news.clone()));
    }

    /// Has the readers send units again.
    pub(super) fn send_again(&mut self, units: &[UnitNo]) {
        let share = units.len().div_ceil(READERS).max(1);
        for units in units.chunks(share) {
            let inputs = units.iter().filter_map(|unit| Some((*unit, self.open.get(unit)?.clone()))).collect();
            self.readers.orders.give([ReadOrder::Again(self.job.link, inputs)]);
        }
    }
}
