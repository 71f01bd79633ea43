//! The king's one loop: takes what happened on all links, has the scheduler decide, and does what it decided.
//!
//! The loop never blocks on a peer: words go to outboxes, which the connections empty at their own speed. What may lie
//! in an outbox is bounded by the scheduler, which stops handing out units whose results nobody takes.

mod perform;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use distwasm_proto::{
    VERSION,
    digest::Digest,
    failure::{Failure, FailureKind},
    guest::GuestSettings,
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{DUKES_MAX, JOBS_MAX, REACTOR_BATCH, WINDOW_BYTES, WINDOW_UNITS},
    payload::Payload,
    stop::Stop,
    time::Clock,
    transfer::{Outbox, Taken},
    wire::{self, DukeOrder, QueenNews, duke_order::Order, queen_news::News},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    metrics::{Metrics, Totals},
    payloads::{self, Blobs, Inputs},
    scheduler::{Event, Outcome, Scheduler},
    service::{
        Leaving,
        submit::{self, JobRequest},
        volunteer::{self, Machine},
    },
    takings::Takings,
};

/// Everything that reaches the reactor from its links.
#[derive(Debug)]
pub(crate) enum Input {
    DukeJoined {
        duke: DukeId,
        machine: Machine,
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
        job: JobId,
        request: Box<JobRequest>,
        outbox: Outbox<QueenNews>,
        ended: CancellationToken,
    },
    QueenSaid {
        job: JobId,
        said: Vec<submit::Said>,
    },
    QueenGone {
        job: JobId,
        outbox: Outbox<QueenNews>,
        leaving: Leaving,
    },
    /// Somebody wants to see figures.
    Asked(oneshot::Sender<Metrics>),
}

/// See the module's documentation.
pub(crate) struct Reactor {
    clock: Clock,
    scheduler: Scheduler,
    takings: Arc<Takings>,
    dukes: HashMap<DukeId, Duke>,
    queens: HashMap<JobId, Queen>,
    /// Queens whose links have not ended: some may still have results to take after the ends of their jobs.
    linked_queens: HashSet<JobId>,
    /// The king is going to end: no new jobs.
    draining: bool,
    programs: Blobs,
    shares: Blobs,
    totals: Totals,
    /// What is to be handled with the next batch.
    events: Vec<Event>,
    /// What attempts that ended in this batch left behind.
    evidence: HashMap<AttemptId, Evidence>,
}

struct Duke {
    machine: Machine,
    outbox: Outbox<DukeOrder>,
    ended: CancellationToken,
}

struct Queen {
    project: String,
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
    /// Units that arrived, and whose verdicts her connection has not taken.
    units_in_hand: u64,
    /// Why units could not be sent whole, until their verdicts are told.
    broken: HashMap<UnitNo, Failure>,
    /// Why the program is unfit, or a duke could start no peasants, as it was said last.
    complaint: Option<Failure>,
}

enum Evidence {
    Result { duke: DukeId, result: Payload, run_us: u64 },
    Failure { duke: DukeId, failure: Failure, run_us: u64 },
}

impl Reactor {
    pub(crate) fn new(clock: Clock, takings: Arc<Takings>) -> Reactor {
        Reactor {
            clock,
            scheduler: Scheduler::default(),
            takings,
            dukes: HashMap::new(),
            queens: HashMap::new(),
            linked_queens: HashSet::new(),
            draining: false,
            programs: Blobs::default(),
            shares: Blobs::default(),
            totals: Totals::default(),
            events: Vec::new(),
            evidence: HashMap::new(),
        }
    }

    /// Runs until `stop` says so, then says goodbye to everybody. An end in peace becomes an end at once when the jobs
    /// have ended, or have had the time that they may have.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, stop: Stop) {
        let mut drained_at = None;
        let mut batch = Vec::with_capacity(REACTOR_BATCH);
        let takings = Arc::clone(&self.takings);
        loop {
            let deadline = self.scheduler.next_deadline().map(|time| self.clock.instant(time).into());
            tokio::select! {
                _ = inputs.recv_many(&mut batch, REACTOR_BATCH) => {}
                () = takings.changed() => {}
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
            for (job, taken) in self.takings.collect() {
                self.on_taken(job, taken);
            }
            for input in batch.drain(..) {
                self.on_input(input);
            }
            self.settle();
            if self.draining && self.linked_queens.is_empty() {
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
        self.evidence.clear();
    }

    fn say_goodbye(&self) {
        let end = || wire::End { reason: "the king is shutting down".to_owned() };
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
            Input::DukeJoined { duke, machine, outbox, ended } => self.on_duke_joined(duke, machine, outbox, ended),
            Input::DukeSaid { duke, said } => {
                // What a duke said before it was told to go may still arrive.
                if self.dukes.contains_key(&duke) {
                    said.into_iter().for_each(|said| self.on_duke_said(duke, said));
                }
            }
            Input::DukeGone { duke, outbox, leaving } => self.on_duke_gone(duke, &outbox, leaving),
            Input::QueenJoined { job, request, outbox, ended } => self.on_queen_joined(job, request, outbox, ended),
            Input::QueenSaid { job, said } => said.into_iter().for_each(|said| self.on_queen_said(job, said)),
            Input::QueenGone { job, outbox, leaving } => self.on_queen_gone(job, &outbox, leaving),
            Input::Asked(answer) => {
                let input_bytes = self.queens.values().map(|queen| queen.inputs.bytes()).sum();
                let (program_bytes, share_bytes) = (self.programs.bytes(), self.shares.bytes());
                let (census, totals) = (self.scheduler.census(), self.totals);
                let metrics = Metrics { census, totals, input_bytes, program_bytes, share_bytes };
                // Who asked may have gone away.
                let _sent = answer.send(metrics);
            }
        }
    }

    fn on_duke_joined(&mut self, id: DukeId, machine: Machine, outbox: Outbox<DukeOrder>, ended: CancellationToken) {
        if self.dukes.len() >= DUKES_MAX {
            let reason = format!("the king has {DUKES_MAX} dukes already, which is as many as he takes");
            outbox.push(Order::End(wire::End { reason }));
            outbox.close();
            ended.cancel();
            return;
        }
        info!(duke = id.0, host = machine.hostname, cpus = machine.cpus, ram_mb = machine.ram_bytes >> 20, labels = ?machine.labels, "a duke joined");
        outbox.push(Order::Welcome(wire::DukeWelcome { version: VERSION.to_owned() }));
        let (cpus, ram_bytes, labels) = (machine.cpus, machine.ram_bytes, machine.labels.clone());
        self.dukes.insert(id, Duke { machine, outbox, ended });
        self.events.push(Event::DukeJoined { duke: id, cpus, ram_bytes, labels });
    }

    fn on_duke_said(&mut self, duke: DukeId, said: volunteer::Said) {
        let event = match said {
            volunteer::Said::BlobWanted(digest) => return self.send_blob(duke, digest),
            volunteer::Said::ProgramUnfit { job, failure } => {
                self.complain(job, failure);
                Event::ProgramUnfit { duke, job }
            }
            volunteer::Said::AttemptDone { attempt, run_us, result } => {
                let outcome = Outcome::Done { bytes: result.bytes() };
                self.evidence.insert(attempt, Evidence::Result { duke, result, run_us });
                Event::AttemptEnded { duke, attempt, outcome, run_us }
            }
            volunteer::Said::AttemptFailed { attempt, run_us, killed, failure } => {
                let bytes = failure.bytes();
                let outcome = if killed { Outcome::Killed { bytes } } else { Outcome::Failed { bytes } };
                self.evidence.insert(attempt, Evidence::Failure { duke, failure, run_us });
                Event::AttemptEnded { duke, attempt, outcome, run_us }
            }
            volunteer::Said::AttemptReturned { attempt, suspect } => {
                Event::AttemptEnded { duke, attempt, outcome: Outcome::Returned { suspect }, run_us: 0 }
            }
            volunteer::Said::ResultOffered { attempt, bytes, run_us } => {
                Event::ResultOffered { duke, attempt, bytes, run_us }
            }
            volunteer::Said::Draining => {
                let host = self.dukes.get(&duke).map_or("", |duke| duke.machine.hostname.as_str());
                info!(duke = duke.0, host, "a duke is going to leave");
                Event::DukeDraining { duke }
            }
            volunteer::Said::SlotsReleased { job, slots } => Event::SlotsReleased { duke, job, slots },
            volunteer::Said::SlotsBroken { job, slots, reason } => {
                let host = self.dukes.get(&duke).map_or("", |duke| duke.machine.hostname.as_str());
                warn!(duke = duke.0, host, job = job.0, reason, "a duke cannot start peasants");
                self.complain(
                    job,
                    Failure::new(FailureKind::Other, format!("duke {host} cannot start peasants: {reason}")),
                );
                Event::SlotsBroken { duke, job, slots }
            }
        };
        self.events.push(event);
    }

    fn complain(&mut self, job: JobId, failure: Failure) {
        if let Some(queen) = self.queens.get_mut(&job) {
            queen.complaint = Some(failure);
        }
    }

    fn send_blob(&self, duke: DukeId, digest: Digest) {
        let blob = self.programs.get(digest).or_else(|| self.shares.get(digest));
        // The job may have ended meanwhile, and what it needed been forgotten.
        let (Some(duke), Some(blob)) = (self.dukes.get(&duke), blob) else { return };
        let order = Order::Blob(wire::Blob { digest: digest.to_wire(), payload: None });
        duke.outbox.push_with(order, blob.clone());
    }

    fn on_duke_gone(&mut self, id: DukeId, outbox: &Outbox<DukeOrder>, leaving: Leaving) {
        let Some(duke) = self.dukes.remove(&id) else {
            // It never joined, or was told to go. If its words were the reason, it should know.
            if let Err(error) = leaving {
                debug!(duke = id.0, %error, "a link ended");
                outbox.push(Order::End(wire::End { reason: error.to_string() }));
            }
            return outbox.close();
        };
        let host = duke.machine.hostname;
        match leaving {
            Ok(()) => info!(duke = id.0, host, "a duke left"),
            Err(error) => {
                warn!(duke = id.0, host, %error, "a duke is lost; its units run again elsewhere");
                outbox.push(Order::End(wire::End { reason: error.to_string() }));
            }
        }
        outbox.close();
        self.events.push(Event::DukeLost { duke: id });
    }

    fn on_taken(&mut self, job: JobId, taken: Taken) {
        if let Some(queen) = self.queens.get_mut(&job) {
            queen.units_in_hand -= taken.weighed;
        }
        self.events.push(Event::ResultsTaken { job, bytes: taken.bytes });
    }

    fn on_queen_joined(
        &mut self,
        job: JobId,
        request: Box<JobRequest>,
        outbox: Outbox<QueenNews>,
        ended: CancellationToken,
    ) {
        self.linked_queens.insert(job);
        if let Some(reason) = self.why_no_job() {
            outbox.push(News::End(wire::End { reason }));
            outbox.close();
            ended.cancel();
            return;
        }
        let JobRequest { spec, digest, program, timeout, guest, archives } = *request;
        info!(job = job.0, project = spec.project, program = %digest, "a job was opened");
        outbox.push(News::Welcome(wire::QueenWelcome {
            version: VERSION.to_owned(),
            job: job.0,
            window_units: WINDOW_UNITS,
            window_bytes: WINDOW_BYTES,
        }));
        self.programs.insert(digest, program);
        let shares: Vec<Digest> = archives.keys().copied().collect();
        archives.into_iter().for_each(|(digest, archive)| self.shares.insert(digest, archive));
        let queen = Queen {
            project: spec.project.clone(),
            digest,
            timeout_ms: timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            guest,
            shares,
            min_ram_bytes: spec.min_ram_bytes,
            requires: name_labels(&spec.requires),
            outbox,
            ended,
            inputs: Inputs::default(),
            units_in_hand: 0,
            broken: HashMap::new(),
            complaint: None,
        };
        self.queens.insert(job, queen);
        self.totals.jobs += 1;
        self.events.push(Event::JobOpened { job, spec });
    }

    fn why_no_job(&self) -> Option<String> {
        if self.draining {
            return Some("the king is going to end, and takes no new jobs: try again when he is back".to_owned());
        }
        (self.queens.len() >= JOBS_MAX)
            .then(|| format!("the king has {JOBS_MAX} jobs already, which is as many as he takes: try again later"))
    }

    fn on_queen_said(&mut self, job: JobId, said: submit::Said) {
        // A queen may go on sending while she is being told that her job failed.
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let submit::Said::Unit { unit, input } = said else {
            return self.events.push(Event::JobClosed { job });
        };
        let bytes = input.as_ref().map_or(0, payloads::Input::bytes);
        let held = queen.inputs.bytes();
        if queen.units_in_hand >= u64::from(WINDOW_UNITS) || (held > 0 && held + bytes > WINDOW_BYTES) {
            return self.expel_queen(job, "it sent more units than its window allows");
        }
        queen.units_in_hand += 1;
        self.totals.units += 1;
        self.totals.input_bytes += input.as_ref().map_or(0, |input| input.content.bytes());
        match input {
            Ok(input) => {
                queen.inputs.insert(unit, input);
                self.events.push(Event::UnitAdded { job, unit, bytes });
            }
            Err(reason) => {
                // What a file system says is short; what a liar says is cut.
                let failure = Failure::new(FailureKind::Input, reason);
                self.events.push(Event::UnitBroken { job, unit, bytes: failure.bytes() });
                queen.broken.insert(unit, failure);
            }
        }
    }

    fn on_queen_gone(&mut self, job: JobId, outbox: &Outbox<QueenNews>, leaving: Leaving) {
        self.linked_queens.remove(&job);
        if let Err(error) = &leaving {
            outbox.push(News::End(wire::End { reason: error.to_string() }));
        }
        outbox.close();
        // After the end of her job, or when it was never opened, a queen just goes.
        let Some(queen) = self.forget_queen(job) else { return };
        match leaving {
            Ok(()) => info!(job = job.0, project = queen.project, "the queen left; her job is over"),
            Err(error) => warn!(job = job.0, project = queen.project, %error, "the queen is lost; her job is dropped"),
        }
        self.events.push(Event::QueenLost { job });
    }

    fn forget_queen(&mut self, job: JobId) -> Option<Queen> {
        let queen = self.queens.remove(&job)?;
        self.programs.release(queen.digest);
        queen.shares.iter().for_each(|digest| self.shares.release(*digest));
        Some(queen)
    }

    fn expel_queen(&mut self, job: JobId, why: &'static str) {
        let Some(queen) = self.forget_queen(job) else { return };
        warn!(job = job.0, project = queen.project, why, "a queen was sent away");
        queen.outbox.push(News::End(wire::End { reason: why.to_owned() }));
        queen.outbox.close();
        queen.ended.cancel();
        self.events.push(Event::QueenLost { job });
    }
}

/// Labels as a user writes them.
fn name_labels(labels: &BTreeMap<String, String>) -> String {
    let named: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{} {}", if named.len() == 1 { "label" } else { "labels" }, named.join(", "))
}
