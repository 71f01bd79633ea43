//! The king's one loop: takes what happened on all links, has the scheduler decide, and does what it decided.
//!
//! The loop never blocks on a peer: words go to outboxes, which the connections empty at their own speed. What may lie
//! in an outbox is bounded by the scheduler, which stops handing out units whose results nobody takes.

mod dukes;
mod perform;
mod queens;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use distwasm_proto::{
    digest::Digest,
    failure::Failure,
    guest::GuestSettings,
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::REACTOR_BATCH,
    memory,
    payload::Payload,
    repeats::Repeats,
    stop::Stop,
    time::Clock,
    transfer::Outbox,
    wire::{self, DukeOrder, QueenNews, duke_order::Order, queen_news::News},
};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Reign,
    metrics::{Metrics, Totals},
    payloads::{Blobs, Inputs},
    scheduler::{Event, HeldLease, Scheduler},
    service::{
        Leaving, LinkId,
        submit::{self, JobRequest},
        volunteer::{self, Machine},
    },
};

/// Everything that reaches the reactor from its links.
#[derive(Debug)]
pub(crate) enum Input {
    DukeJoined {
        duke: DukeId,
        machine: Machine,
        holds: Vec<HeldLease>,
        outbox: Outbox<DukeOrder>,
        ended: CancellationToken,
    },
    DukeSaid {
        duke: DukeId,
        said: Vec<volunteer::Said>,
    },
    DukeGone {
        duke: DukeId,
        outbox: Outbox<DukeOrder>,
        leaving: Leaving,
    },
    QueenJoined {
        link: LinkId,
        request: Box<JobRequest>,
        outbox: Outbox<QueenNews>,
        ended: CancellationToken,
    },
    QueenSaid {
        link: LinkId,
        said: Vec<submit::Said>,
    },
    QueenGone {
        link: LinkId,
        outbox: Outbox<QueenNews>,
        leaving: Leaving,
    },
    /// Somebody wants to see figures.
    Asked(oneshot::Sender<Metrics>),
    /// Somebody wants to see the jobs.
    JobsAsked(oneshot::Sender<wire::JobList>),
}

/// See the module's documentation.
pub(crate) struct Reactor {
    clock: Clock,
    scheduler: Scheduler,
    dukes: FxHashMap<DukeId, Duke>,
    /// Who sits where.
    seats: HashMap<u64, DukeId>,
    queens: FxHashMap<JobId, Queen>,
    /// Links of queens that have not ended: some may still have news to take after the ends of their jobs.
    links: HashMap<LinkId, JobId>,
    /// Verdicts on units of jobs whose queens have yet to come back to this king.
    unclaimed: HashMap<JobId, VecDeque<Said>>,
    /// Blobs that dukes asked for and that nobody has brought yet.
    wants: BTreeSet<(Digest, DukeId)>,
    /// The number of the last job.
    last_job: u64,
    /// The king is going to end: no new jobs.
    draining: bool,
    programs: Blobs,
    shares: Blobs,
    totals: Totals,
    /// What is to be handled with the next batch.
    events: Vec<Event>,
    /// What attempts that ended in this batch left behind.
    evidence: FxHashMap<AttemptId, Evidence>,
    /// Attempts whose dukes may forget them.
    settled: BTreeMap<DukeId, Vec<u64>>,
    /// The last job is over; what it had of memory has not been given back.
    may_shrink: bool,
    /// What was said of dukes that repeats.
    repeats: Repeats,
}

struct Duke {
    machine: Machine,
    outbox: Outbox<DukeOrder>,
    ended: CancellationToken,
}

struct Queen {
    project: String,
    /// Her link, while there is one.
    link: Option<LinkId>,
    /// Which of her links it is, or was.
    ordinal: u64,
    key: u64,
    digest: Digest,
    timeout_ms: u64,
    guest: GuestSettings,
    /// Archives that it needs, each once.
    shares: Vec<Digest>,
    min_ram_bytes: u64,
    /// Labels that dukes must have, as they are said.
    requires: String,
    outbox: Outbox<QueenNews>,
    ended: CancellationToken,
    inputs: Inputs,
    /// How many units she had numbered when she last came back, and those of them that she is to send once more.
    numbered: u64,
    awaited: BTreeSet<UnitNo>,
    /// Units that got a result, and that failed.
    done: u64,
    failed: u64,
    /// What she was told of units and has not heard yet, in this order.
    said: VecDeque<Said>,
    /// Why units could not be sent whole, until their verdicts are told.
    broken: HashMap<UnitNo, Failure>,
    /// Why the program is unfit, or a duke could start no peasants, as it was said last.
    complaint: Option<Failure>,
}

/// A verdict, until the queen has it.
struct Said {
    verdict: wire::Verdict,
    result: Payload,
    /// What it counts for besides its result.
    weight: u64,
    /// Who keeps what the attempt left.
    by: Option<(DukeId, AttemptId)>,
}

/// What an attempt that ended left behind.
struct Evidence {
    duke: DukeId,
    run_us: u64,
    outcome: Result<Payload, Failure>,
}

impl Reactor {
    pub(crate) fn new(clock: Clock, reign: Reign) -> Reactor {
        Reactor {
            clock,
            scheduler: Scheduler::new(clock.now(), reign.grace, reign.began),
            dukes: FxHashMap::default(),
            seats: HashMap::new(),
            queens: FxHashMap::default(),
            links: HashMap::new(),
            unclaimed: HashMap::new(),
            wants: BTreeSet::new(),
            last_job: reign.began,
            draining: false,
            programs: Blobs::default(),
            shares: Blobs::default(),
            totals: Totals::default(),
            events: Vec::new(),
            evidence: FxHashMap::default(),
            settled: BTreeMap::new(),
            may_shrink: false,
            repeats: Repeats::default(),
        }
    }

    /// Runs until `stop` says so, then says goodbye to everybody. An end in peace becomes an end at once when the jobs
    /// have ended, or have had the time that they may have.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: Stop) {
        let mut drained_at = None;
        let mut batch = Vec::with_capacity(REACTOR_BATCH);
        loop {
            let deadline = self.scheduler.next_deadline().map(|time| self.clock.instant(time).into());
            tokio::select! {
                _ = inputs.recv_many(&mut batch, REACTOR_BATCH) => {}
                () = async { sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)).await }, if deadline.is_some() => {
                    self.events.push(Event::Tick);
                }
                () = stop.drains().cancelled(), if !self.draining => {
                    if stop.ends().is_cancelled() {
                        break;
                    }
                    info!(jobs = self.queens.len(), "the king takes no new jobs, and ends when those that he has have ended");
                    self.draining = true;
                    drained_at = Some(self.clock.instant(self.clock.now().after(stop.patience())).into());
                }
                () = async { sleep_until(drained_at.unwrap_or_else(tokio::time::Instant::now)).await }, if drained_at.is_some() => {
                    warn!(jobs = self.queens.len(), "some jobs have not ended in time");
                    break;
                }
                () = stop.ends().cancelled() => break,
            }
            for input in batch.drain(..) {
                self.on_input(input);
            }
            self.settle();
            if std::mem::take(&mut self.may_shrink) && self.queens.is_empty() {
                memory::give_back();
            }
            if self.draining && self.links.is_empty() && self.queens.is_empty() {
                break;
            }
        }
        stop.end();
        info!("the king is shutting down");
        self.say_goodbye();
    }

    /// Has the scheduler handle what happened, and does what it decides, until there is nothing more.
    fn settle(&mut self) {
        let mut actions = Vec::new();
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.scheduler.handle(self.clock.now(), events, &mut actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
        }
        // What led to no verdict is not needed any more: it is run again, or was given up.
        for (attempt, evidence) in self.evidence.drain() {
            self.settled.entry(evidence.duke).or_default().push(attempt.0);
        }
        for (duke, mut attempts) in std::mem::take(&mut self.settled) {
            attempts.sort_unstable();
            self.tell_duke(duke, Order::Forget(wire::Forget { attempts }));
        }
    }

    fn say_goodbye(&self) {
        let end = || wire::End { reason: "the king is shutting down".to_owned(), come_back: true };
        for duke in self.dukes.values() {
            duke.outbox.push(Order::End(end()));
            duke.outbox.close();
        }
        for queen in self.queens.values() {
            queen.outbox.push(News::End(end()));
            queen.outbox.close();
        }
    }

    // ---- What comes in --------------------------------------------------------------------------------------------

    fn on_input(&mut self, input: Input) {
        match input {
            Input::DukeJoined { duke, machine, holds, outbox, ended } => {
                self.on_duke_joined(duke, machine, holds, outbox, ended);
            }
            Input::DukeSaid { duke, said } => {
                // What a duke said before it was told to go may still arrive.
                if self.dukes.contains_key(&duke) {
                    said.into_iter().for_each(|said| self.on_duke_said(duke, said));
                }
            }
            Input::DukeGone { duke, outbox, leaving } => self.on_duke_gone(duke, &outbox, leaving),
            Input::QueenJoined { link, request, outbox, ended } => self.on_queen_joined(link, request, outbox, ended),
            Input::QueenSaid { link, said } => said.into_iter().for_each(|said| self.on_queen_said(link, said)),
            Input::QueenGone { link, outbox, leaving } => self.on_queen_gone(link, &outbox, leaving),
            Input::Asked(answer) => {
                let input_bytes = self.queens.values().map(|queen| queen.inputs.bytes()).sum();
                let (program_bytes, share_bytes) = (self.programs.bytes(), self.shares.bytes());
                let (census, totals) = (self.scheduler.census(), self.totals);
                let metrics = Metrics { census, totals, input_bytes, program_bytes, share_bytes };
                // Who asked may have gone away.
                let _sent = answer.send(metrics);
            }
            Input::JobsAsked(answer) => {
                // The same here.
                let _sent = answer.send(self.list_jobs());
            }
        }
    }
}
