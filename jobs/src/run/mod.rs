//! Runs a job to its end: the loop around the [`Reactor`]. It waits for what happens, hands it to the reactor, and has
//! the [`World`] perform what the reactor orders.

mod threads;
mod world;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use distwasm_process::clock::Clock;
use distwasm_proto::time::Time;
use distwasm_transport::link::KingAddress;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Interval, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    inputs::InputRules,
    job_note::JobNote,
    outputs::{OutputPlace, Written},
    reactor::{CutShort, Ending, Happening, Reactor},
    report::{PROGRESS_DRAWN_EVERY, Reporter},
    request::{InPlaces, JobRequest},
    run_limits::RunLimits,
};

use threads::Channels;
use world::{LinkState, World};

/// Where a run reads and writes.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The inputs.
    pub input: PathBuf,
    /// The outputs.
    pub output: OutputPlace,
    /// Whether fsync is called for each output before it counts as done.
    pub sync: bool,
    /// Which inputs there are, and what their outputs are called.
    pub rules: Arc<InputRules>,
}

/// The terms of a run, which may end it early.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Was at zero when the run began.
    pub clock: Clock,
    /// The limits of the run.
    pub limits: RunLimits,
    /// How long the queen tries to reach a king that went away.
    pub grace: Duration,
    /// The note about the job, if one is kept.
    pub note: Option<&'a JobNote>,
    /// Cancelled when the user wants the run to end.
    pub interrupted: &'a CancellationToken,
}

/// Runs a job to its end. `local_kingdom` ends with a reason when the king or duke of this process fails.
pub async fn run(
    folders: &Folders,
    address: &KingAddress,
    request: &JobRequest,
    reporter: &mut dyn Reporter,
    terms: &Terms<'_>,
    local_kingdom: impl Future<Output = String>,
) -> Ending {
    let Terms { clock, limits, grace, note, interrupted } = *terms;
    let mut threads = JoinSet::new();
    let in_places = InPlaces::of(request);
    let (orders, channels) = threads::start(&mut threads, folders, in_places);
    let mut reactor = Reactor::new(limits, in_places, reporter);
    let listening = JoinSet::new();
    let asked = AtomicBool::new(false);
    let mut world = World { address, request, grace, note, orders, link: LinkState::None, asked: &asked, listening };
    let mut events = Events { clock, channels, is_listing: true, ticks: interval(PROGRESS_DRAWN_EVERY), interrupted };
    tokio::pin!(local_kingdom);
    while reactor.end().is_none() {
        let (wants_inputs, deadline) = (reactor.wants_inputs(), reactor.next_deadline());
        let happening = tokio::select! {
            happening = events.next(wants_inputs, deadline) => happening,
            happening = world.next() => happening,
            why = &mut local_kingdom => Happening::LocalKingdomFailed(why),
        };
        let happenings = events.with_units_sent(happening);
        for command in reactor.handle(clock.now(), happenings) {
            world.perform(command);
        }
    }
    // The writers end when the last output is in its place. Results that have arrived are kept at any end of a run.
    world.orders.writers.close();
    let mut written = events.close();
    while let Some(outcomes) = written.recv().await {
        reactor.handle(clock.now(), [Happening::Written(outcomes)]);
    }
    reactor.handle(clock.now(), [Happening::ProgressDue]);
    world.end(threads).await;
    let (ending, _) = reactor.finish();
    // A king that was lost may still have the job.
    if let Some(note) = note.filter(|_| !matches!(ending.cut_short, Some(CutShort::King(_)))) {
        tokio::task::block_in_place(|| note.remove());
    }
    ending
}

/// What happens besides the link: messages of the threads, news, time, and the user.
struct Events<'a> {
    clock: Clock,
    channels: Channels,
    is_listing: bool,
    ticks: Interval,
    interrupted: &'a CancellationToken,
}

impl Events<'_> {
    /// Waits for the next happening. Cancel safe.
    async fn next(&mut self, wants_inputs: bool, deadline: Option<Time>) -> Happening {
        let Channels { found, sent, written, stored, heard } = &mut self.channels;
        tokio::select! {
            found = found.recv(), if self.is_listing && wants_inputs => {
                self.is_listing = found.is_some();
                found.map_or(Happening::ListingEnded, Happening::Found)
            }
            Some(sent) = sent.recv() => Happening::Sent(sent),
            Some(written) = written.recv() => Happening::Written(written),
            Some(stored) = stored.recv() => Happening::Stored(stored),
            Some(heard) = heard.recv() => heard.map_or_else(Happening::LinkLost, Happening::News),
            () = self.interrupted.cancelled() => Happening::Interrupted,
            () = self.clock.sleep_until(deadline) => Happening::DeadlineReached,
            _ = self.ticks.tick() => Happening::ProgressDue,
        }
    }

    /// The happening, and before it the units that were sent: they must be known before the answers to them, and before
    /// the king is told what this queen lacks.
    fn with_units_sent(&mut self, happening: Happening) -> Vec<Happening> {
        let mut happenings = Vec::new();
        if matches!(happening, Happening::News(_) | Happening::LinkLost(_) | Happening::ReadersStopped) {
            while let Ok(sent) = self.channels.sent.try_recv() {
                happenings.push(Happening::Sent(sent));
            }
        }
        happenings.push(happening);
        happenings
    }

    /// Ends the lister and the readers; only the writers go on.
    fn close(self) -> mpsc::Receiver<Vec<Written>> {
        self.channels.written
    }
}
