//! The king's reactor: takes what happens on all links, has the scheduler decide, and performs its actions.
//!
//! It reads no clock and waits for nothing: words to peers go to outboxes, which the connections empty at their own
//! speed. The scheduler bounds the contents of an outbox: it stops handing out units when their results are not taken.
//! The loop that drives it is `run`.

mod cancel;
mod check;
mod compilations;
mod dukes;
mod outputs;
mod perform;
mod queens;
mod run;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use distwasm_process::repeats::Repeats;
use distwasm_proto::{
    digest::Digest,
    failure::Failure,
    guest::GuestSettings,
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::HELD_ATTEMPTS_NAMED,
    secret::Mark,
    time::Time,
    wire::{self, DukeOrder, QueenNews, duke_order::Order, queen_news::News},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Sending, Word},
};
use rustc_hash::FxHashMap;
use tracing::info;

use crate::{
    Reign,
    border::fetches::Fetches,
    budget::{Claim, Shares},
    inbox::{Happening, LinkId, Machine, Peer},
    payloads::{Blobs, Inputs},
    scheduler::{Event, JobStatus, ResultBounds, Scheduler},
    transfers::Transfers,
    view::{Totals, View},
};

use compilations::Compilations;

pub use cancel::CancelError;
pub(crate) use run::run;

/// See the module's documentation.
pub struct Reactor {
    now: Time,
    scheduler: Scheduler,
    dukes: FxHashMap<DukeId, Duke>,
    /// The duke in each seat.
    seats: HashMap<Mark, DukeId>,
    queens: FxHashMap<JobId, Queen>,
    /// Links of queens that have not ended. Some may still have news to take after the ends of their jobs.
    links: HashMap<LinkId, JobId>,
    /// Verdicts on units of jobs whose queens have not come back to this king yet.
    unclaimed: HashMap<JobId, VecDeque<Unheard>>,
    /// Blobs that dukes asked for and that no queen has brought yet.
    wants: BTreeSet<(Digest, DukeId)>,
    /// Jobs that were cancelled, the last first: their queens may be away.
    cancelled: VecDeque<Mark>,
    /// The longest timeout of a unit, which is also that of jobs without one.
    timeout_max: Option<Duration>,
    /// How many units of a job may be without a verdict.
    window_units: u32,
    /// The number of the last job.
    last_job: u64,
    /// The king is shutting down gracefully, and takes no new jobs.
    draining: bool,
    programs: Blobs,
    shares: Blobs,
    compilations: Compilations,
    /// Streamed inputs on their way.
    transfers: Transfers,
    totals: Totals,
    /// Events for the scheduler's next batch.
    events: Vec<Event>,
    /// The outcomes of attempts that ended in this batch.
    evidence: FxHashMap<AttemptId, Evidence>,
    /// Attempts whose dukes may forget them.
    forgettable: BTreeMap<DukeId, wire::Forget>,
    /// A job is over, and its memory has not been given back to the system yet.
    may_shrink: bool,
    /// Log lines about dukes that repeat.
    repeats: Repeats,
}

struct Duke {
    machine: Machine,
    peer: Peer<DukeOrder>,
    /// Results that it was asked for over its link.
    fetches: Fetches,
    /// Blobs that are on their way over its link.
    sendings: BTreeMap<Digest, Sending>,
    /// The room for the attempts that it brought, some of which may be those of an earlier king.
    _brought: Claim,
}

struct Queen {
    project: String,
    /// The queen's link, while there is one.
    link: Option<LinkId>,
    /// Which of the queen's links it is, or was.
    ordinal: u64,
    /// The mark of the key that its queen made up.
    mark: Mark,
    digest: Digest,
    /// How long one unit may take, as the queen wishes.
    timeout: Option<Duration>,
    guest: GuestSettings,
    /// Archives that the job needs, each once.
    shares: Vec<Digest>,
    min_ram_bytes: u64,
    /// Labels that dukes must have, as text.
    requires: String,
    peer: Peer<QueenNews>,
    inputs: Inputs,
    /// The status of its job, as it was told last.
    status: JobStatus,
    /// The bytes of inputs that it may have open, as it was told last.
    window_bytes: u64,
    /// How many units the queen had numbered when it last came back, and those of them that it has to send again.
    numbered: u64,
    awaited: BTreeSet<UnitNo>,
    /// Units that got a result, and units that failed.
    done: u64,
    failed: u64,
    /// Verdicts that were sent to the queen and that it has not heard yet, in this order.
    unheard: VecDeque<Unheard>,
    /// Why units could not be sent whole, until their verdicts are sent.
    broken: HashMap<UnitNo, Failure>,
    /// The last reason why a duke does not work for the job.
    complaint: Option<Failure>,
    /// The last reason why a duke called the program unfit.
    unfit: Option<Failure>,
}

/// A verdict that its queen has not heard.
struct Unheard {
    verdict: wire::Verdict,
    result: Payload,
    /// Bytes that it counts for besides its result.
    weight: u64,
    /// The attempt that led to it, and the duke that keeps the attempt's outcome.
    by: Option<(DukeId, AttemptId)>,
}

/// The outcome of an attempt that ended.
struct Evidence {
    duke: DukeId,
    run_us: u64,
    outcome: Result<Payload, Failure>,
    /// The queen has the result, which was streamed.
    stored: bool,
}

impl Reactor {
    /// A reactor that knows of nobody.
    pub fn new(now: Time, reign: Reign) -> Reactor {
        let Shares { results, reserve, .. } = Shares::of(reign.memory_bytes);
        Reactor {
            now,
            scheduler: Scheduler::new(now, reign.rules, reign.began, ResultBounds { most: results, reserve }),
            dukes: FxHashMap::default(),
            seats: HashMap::new(),
            queens: FxHashMap::default(),
            links: HashMap::new(),
            unclaimed: HashMap::new(),
            wants: BTreeSet::new(),
            cancelled: VecDeque::new(),
            timeout_max: reign.timeout_max,
            window_units: reign.window_units,
            last_job: reign.began,
            draining: false,
            programs: Blobs::default(),
            shares: Blobs::default(),
            compilations: Compilations::default(),
            transfers: Transfers::default(),
            totals: Totals::default(),
            events: Vec::new(),
            evidence: FxHashMap::default(),
            forgettable: BTreeMap::new(),
            may_shrink: false,
            repeats: Repeats::default(),
        }
    }

    /// Handles what has happened, in this order; nothing of it is left in `happenings`.
    pub fn handle(&mut self, now: Time, happenings: &mut Vec<Happening>) {
        self.now = now;
        happenings.drain(..).for_each(|happening| self.on_happening(happening));
        self.run_core();
        self.go_on_with_waiting();
        self.run_core();
        self.take_back_parts();
    }

    /// When [`Happening::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.scheduler.next_deadline()
    }

    /// Whether it takes no new jobs any more, and has none left.
    pub fn is_over(&self) -> bool {
        self.draining && self.links.is_empty() && self.queens.is_empty()
    }

    /// Whether a job ended since the last call, and none is left: its memory may be given back to the system.
    fn may_shrink(&mut self) -> bool {
        std::mem::take(&mut self.may_shrink) && self.queens.is_empty()
    }

    /// Says goodbye to every peer.
    pub fn say_goodbye(&self) {
        let end = || wire::End { reason: "the king is shutting down".to_owned(), come_back: true, refused: false };
        self.dukes.values().for_each(|duke| duke.peer.close(Order::End(end())));
        self.queens.values().for_each(|queen| queen.peer.close(News::End(end())));
    }

    fn on_happening(&mut self, happening: Happening) {
        match happening {
            Happening::DukeJoined { duke, machine, holds, peer, fetches, brought } => {
                self.on_duke_joined(duke, machine, holds, peer, fetches, brought);
            }
            Happening::DukeSaid { duke, words } => {
                // Words that a duke sent before it was sent away may still arrive.
                if self.dukes.contains_key(&duke) {
                    words.into_iter().for_each(|word| self.on_duke_said(duke, word));
                }
            }
            Happening::DukeGone { duke, outbox, leaving } => self.on_duke_gone(duke, &outbox, leaving),
            Happening::QueenJoined { link, request, peer, room } => self.on_queen_joined(link, request, peer, room),
            Happening::QueenSaid { link, words, arrived: _arrived } => {
                words.into_iter().for_each(|word| self.on_queen_said(link, word));
            }
            Happening::QueenGone { link, outbox, leaving } => self.on_queen_gone(link, &outbox, leaving),
            Happening::JobCancelled { job, caller, answer } => {
                // The caller may have gone.
                let _there = answer.send(self.cancel_job(job, &caller));
            }
            Happening::Tick => self.events.push(Event::Tick),
            Happening::Draining => {
                info!(jobs = self.queens.len(), "the king takes no new jobs, and ends when its jobs have ended");
                self.draining = true;
            }
        }
    }

    /// Has the scheduler handle the events, and performs its actions, until there are no more events.
    fn run_core(&mut self) {
        let mut actions = Vec::new();
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.scheduler.handle(self.now, events, &mut actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
        }
        // An outcome that led to no verdict is not needed any more: its unit runs again, or was given up.
        for (attempt, evidence) in self.evidence.drain() {
            self.forgettable.entry(evidence.duke).or_default().unused.push(attempt.0);
        }
        for (duke, wire::Forget { mut attempts, mut unused }) in std::mem::take(&mut self.forgettable) {
            attempts.sort_unstable();
            unused.sort_unstable();
            for attempts in attempts.chunks(HELD_ATTEMPTS_NAMED) {
                let attempts = attempts.to_vec();
                self.tell_duke(duke, Order::Forget(wire::Forget { attempts, ..wire::Forget::default() }));
            }
            for unused in unused.chunks(HELD_ATTEMPTS_NAMED) {
                let unused = unused.to_vec();
                self.tell_duke(duke, Order::Forget(wire::Forget { unused, ..wire::Forget::default() }));
            }
        }
    }

    /// The duke may forget the attempt.
    fn let_go(&mut self, duke: DukeId, attempt: AttemptId) {
        self.forgettable.entry(duke).or_default().attempts.push(attempt.0);
    }

    /// The king as it is now, for people.
    pub fn view(&self) -> View {
        View {
            jobs: self.list_jobs(),
            dukes: self.list_dukes(),
            census: self.scheduler.census(),
            totals: self.totals,
            input_bytes: self.queens.values().map(|queen| queen.inputs.bytes()).sum(),
            program_bytes: self.programs.bytes(),
            share_bytes: self.shares.bytes(),
        }
    }
}

impl<W: Word> Peer<W> {
    /// Says a last word, and closes the king's side of the link.
    fn close(&self, word: impl Into<W>) {
        self.outbox.push(word);
        self.outbox.close();
    }

    /// Says a last word, and ends the link.
    fn send_away(&self, word: impl Into<W>) {
        self.close(word);
        self.ended.cancel();
    }

    /// Ends a link whose peer has another one: no word that still waits is needed.
    fn drop_link(&self) {
        self.outbox.clear();
        self.outbox.close();
        self.ended.cancel();
    }
}
