//! The king's one loop: takes the inputs of all links, has the scheduler decide, and performs its actions.
//!
//! The loop never blocks on a peer: words go to outboxes, which the connections empty at their own speed. The scheduler
//! bounds the contents of an outbox: it stops handing out units when their results are not taken.

mod dukes;
mod perform;
mod queens;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use distwasm_process::{clock::Clock, memory, repeats::Repeats, shutdown::Stop};
use distwasm_proto::{
    digest::Digest,
    failure::Failure,
    guest::GuestSettings,
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::REACTOR_BATCH,
    wire::{self, DukeOrder, QueenNews, duke_order::Order, queen_news::News},
};
use distwasm_transport::{payload::Payload, transfer::Outbox};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
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
    /// A request for the metrics.
    Asked(oneshot::Sender<Metrics>),
    /// A request for the list of jobs.
    JobsAsked(oneshot::Sender<wire::JobList>),
}

/// See the module's documentation.
pub(crate) struct Reactor {
    clock: Clock,
    scheduler: Scheduler,
    dukes: FxHashMap<DukeId, Duke>,
    /// The duke in each seat.
    seats: HashMap<u64, DukeId>,
    queens: FxHashMap<JobId, Queen>,
    /// Links of queens that have not ended. Some may still have news to take after the ends of their jobs.
    links: HashMap<LinkId, JobId>,
    /// Verdicts on units of jobs whose queens have not come back to this king yet.
    unclaimed: HashMap<JobId, VecDeque<Said>>,
    /// Blobs that dukes asked for and that no queen has brought yet.
    wants: BTreeSet<(Digest, DukeId)>,
    /// The number of the last job.
    last_job: u64,
    /// The king is shutting down gracefully, and takes no new jobs.
    draining: bool,
    programs: Blobs,
    shares: Blobs,
    totals: Totals,
    /// Events for the scheduler's next batch.
    events: Vec<Event>,
    /// The outcomes of attempts that ended in this batch.
    evidence: FxHashMap<AttemptId, Evidence>,
    /// Attempts whose dukes may forget them.
    settled: BTreeMap<DukeId, Vec<u64>>,
    /// A job is over, and its memory has not been given back to the system yet.
    may_shrink: bool,
    /// Log lines about dukes that repeat.
    repeats: Repeats,
}

struct Duke {
    machine: Machine,
    outbox: Outbox<DukeOrder>,
    ended: CancellationToken,
}

struct Queen {
    project: String,
    /// The queen's link, while there is one.
    link: Option<LinkId>,
    /// Which of the queen's links it is, or was.
    ordinal: u64,
    key: u64,
    digest: Digest,
    timeout_ms: u64,
    guest: GuestSettings,
    /// Archives that the job needs, each once.
    shares: Vec<Digest>,
    min_ram_bytes: u64,
    /// Labels that dukes must have, as text.
    requires: String,
    outbox: Outbox<QueenNews>,
    ended: CancellationToken,
    inputs: Inputs,
    /// How many units the queen had numbered when it last came back, and those of them that it has to send again.
    numbered: u64,
    awaited: BTreeSet<UnitNo>,
    /// Units that got a result, and units that failed.
    done: u64,
    failed: u64,
    /// Verdicts that were sent to the queen and that it has not heard yet, in this order.
    said: VecDeque<Said>,
    /// Why units could not be sent whole, until their verdicts are sent.
    broken: HashMap<UnitNo, Failure>,
    /// The last reason why the program was unfit, or why a duke could not start peasants.
    complaint: Option<Failure>,
}

/// A verdict, until the queen has it.
struct Said {
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

    /// Runs until `stop` says so, then says goodbye to every peer. A graceful shutdown is over when the jobs have
    /// ended, or when their time is up.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: Stop) {
        let mut drained_at = None;
        let mut batch = Vec::with_capacity(REACTOR_BATCH);
        loop {
            let deadline = self.scheduler.next_deadline();
            tokio::select! {
                _ = inputs.recv_many(&mut batch, REACTOR_BATCH) => {}
                () = self.clock.sleep_until(deadline) => self.events.push(Event::Tick),
                () = stop.drains().cancelled(), if !self.draining => {
                    if stop.ends().is_cancelled() {
                        break;
                    }
                    info!(jobs = self.queens.len(), "the king takes no new jobs, and ends when its jobs have ended");
                    self.draining = true;
                    drained_at = Some(self.clock.now().after(stop.patience()));
                }
                () = self.clock.sleep_until(drained_at) => {
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

    /// Has the scheduler handle the events, and performs its actions, until there are no more events.
    fn settle(&mut self) {
        let mut actions = Vec::new();
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            self.scheduler.handle(self.clock.now(), events, &mut actions);
            for action in actions.drain(..) {
                self.perform(action);
            }
        }
        // An outcome that led to no verdict is not needed any more: its unit runs again, or was given up.
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

    // ---- Incoming events ------------------------------------------------------------------------------------------

    fn on_input(&mut self, input: Input) {
        match input {
            Input::DukeJoined { duke, machine, holds, outbox, ended } => {
                self.on_duke_joined(duke, machine, holds, outbox, ended);
            }
            Input::DukeSaid { duke, said } => {
                // Words that a duke sent before it was sent away may still arrive.
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
                // The caller may have gone away.
                let _sent = answer.send(metrics);
            }
            Input::JobsAsked(answer) => {
                // The caller may have gone away.
                let _sent = answer.send(self.list_jobs());
            }
        }
    }
}
