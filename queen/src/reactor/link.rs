//! The queen's link to the king, and how she comes back when it breaks.
//!
//! First the readers are stopped, so that every unit that has a number is known. Then she seeks the king, tells him how
//! many units have numbers and which of them have no verdict, and hears which of those he knows; the others are read and
//! sent once more, and the readers go on.

use std::{pin::Pin, sync::Arc};

use distwasm_proto::{
    ids::UnitNo,
    limits::{KING_PATIENCE, READERS},
    link::KingAddress,
    wire,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Reactor, threads::Channels};
use crate::{
    king_link::{self, JobRequest, Link, LinkError, Outgoing, Told, Welcome, Window},
    readers::{LinkNo, Order},
    submission::Event,
};

/// A link, and where its units go in.
type Found = (Link, mpsc::Sender<wire::FromQueen>);

type Seeking<'a> = Pin<Box<dyn Future<Output = Result<Found, LinkError>> + Send + 'a>>;

/// How it stands with the link.
pub(super) enum State<'a> {
    /// There was nothing to do yet.
    Unsought,
    /// The king is sought.
    Seeking(Seeking<'a>),
    /// The link broke, and the readers are being stopped.
    Stopping(JoinHandle<()>),
    /// It stands, or it ended with the run.
    Standing,
}

/// What happened to the link.
pub(super) enum Step {
    Opened(Box<Found>),
    Failed(LinkError),
    ReadersStopped,
}

impl State<'_> {
    /// What happens next, if anything does. Safe to drop while it waits.
    pub(super) async fn next(&mut self) -> Step {
        match self {
            State::Seeking(seeking) => match seeking.await {
                Ok(found) => Step::Opened(Box::new(found)),
                Err(error) => Step::Failed(error),
            },
            State::Stopping(stopping) => {
                // The thread does not fail.
                let _stopped = stopping.await;
                Step::ReadersStopped
            }
            State::Unsought | State::Standing => std::future::pending().await,
        }
    }
}

/// What is known of the job at the king's.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// The king's name for it; 0 before he has one.
    pub(super) number: u64,
    /// How many dukes he had.
    pub(super) dukes: u32,
    pub(super) link: LinkNo,
    pub(super) outgoing: Option<Outgoing>,
    /// Verdicts that she has, and he does not know of, over this link; and the bytes of their results.
    pub(super) heard: u64,
    pub(super) heard_bytes: u64,
}

impl Reactor<'_> {
    /// Seeks the king for the first time.
    pub(super) fn seek<'a>(address: &'a KingAddress, request: &'a JobRequest) -> State<'a> {
        State::Seeking(Box::pin(king_link::submit(address, request, None, KING_PATIENCE)))
    }

    /// The link broke: if it may come back, so does she.
    pub(super) fn on_link_lost(&mut self, error: LinkError, state: &mut State<'_>) {
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
        *state = State::Stopping(tokio::task::spawn_blocking(move || post.close()));
    }

    /// With the readers stopped, everything that they numbered is known: she seeks the king once more.
    pub(super) fn on_readers_stopped<'a>(
        &mut self,
        channels: &mut Channels,
        address: &'a KingAddress,
        request: &'a JobRequest,
    ) -> State<'a> {
        while let Ok(sent) = channels.sent.try_recv() {
            self.on_sent(sent);
        }
        self.settle();
        let (sent, lacking) = self.submission.lacking();
        let lacking = lacking.into_iter().map(|unit| unit.0).collect();
        let resumes = wire::Resumption { job: self.job.number, sent, lacking, dukes: self.job.dukes, link: 0 };
        State::Seeking(Box::pin(king_link::submit(address, request, Some(resumes), self.grace)))
    }

    /// The king took the job, or took it once more.
    pub(super) fn on_link_opened(
        &mut self,
        (link, messages): Found,
        news: &mpsc::Sender<Result<Vec<Told>, LinkError>>,
    ) {
        let Link { incoming, outgoing, welcome } = link;
        let Welcome { job, window: Window { units: window_units, bytes: window_bytes }, known } = welcome;
        if let Some(note) = self.note.filter(|_| self.job.number != job) {
            tokio::task::block_in_place(|| note.write(job));
        }
        self.job.number = job;
        self.job.outgoing = Some(outgoing);
        // Over a new link she has said which verdicts she lacks.
        (self.job.heard, self.job.heard_bytes) = (0, 0);
        self.reporter.waits("");
        self.events.push(Event::Welcomed { window_units, window_bytes });
        // The readers wait; nobody has the lock for long.
        self.job.link = self.readers.post.open(messages);
        if self.job.link > 1 {
            self.events.push(Event::CameBack { known });
        }
        self.listening.spawn(super::listen(incoming, news.clone()));
    }

    /// Has units sent once more.
    pub(super) fn send_again(&mut self, units: &[UnitNo]) {
        let share = units.len().div_ceil(READERS).max(1);
        for units in units.chunks(share) {
            let inputs = units.iter().filter_map(|unit| Some((*unit, self.open.get(unit)?.clone()))).collect();
            self.readers.orders.give([Order::Again(self.job.link, inputs)]);
        }
    }
}
