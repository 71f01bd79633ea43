//! Handles the words of dukes, and dukes that join, leave or come back.

use std::collections::BTreeMap;

use distwasm_proto::{
    VERSION,
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{AttemptId, DukeId, JobId},
    limits::{DUKES_MAX, PEER_DUKES_MAX, WANTS_MAX},
    wire::{self, DukeOrder, duke_order::Order},
};
use distwasm_transport::transfer::Outbox;
use tracing::{debug, info, warn};

use super::{Duke, Evidence, Queen, Reactor};
use crate::{
    authority::Origin,
    border::fetches::Fetches,
    budget::Claim,
    inbox::{DukeWord, Leaving, LinkError, Machine, Peer},
    scheduler::{Event, HeldLease, Outcome},
};

impl Reactor {
    pub(super) fn on_duke_joined(
        &mut self,
        id: DukeId,
        machine: Machine,
        holds: Vec<HeldLease>,
        peer: Peer<DukeOrder>,
        fetches: Fetches,
        brought: Claim,
    ) {
        self.run_core();
        // The previous holder of the seat is this duke on an earlier link, or a process that has ended.
        let before = self.seats.get(&machine.seat).copied();
        if before.is_none()
            && let Some(reason) = self.why_no_duke(peer.origin)
        {
            return peer.send_away(refusal(reason));
        }
        let is_of_another = |duke: &Duke| !peer.identity.may_replace(&duke.peer.identity);
        if before.and_then(|before| self.dukes.get(&before)).is_some_and(is_of_another) {
            // It may come back when the other one has been given up.
            let reason = "a duke with another token has this place on its machine";
            return peer.send_away(refusal(reason.to_owned()));
        }
        let is_late = |duke: &Duke| duke.machine.boot == machine.boot && duke.machine.link >= machine.link;
        if before.and_then(|before| self.dukes.get(&before)).is_some_and(is_late) {
            // The hello of a broken connection may arrive after that of the next one.
            return peer.send_away(refusal("the duke has a newer link".to_owned()));
        }
        let mut was = None;
        if let Some((before, duke)) = before.and_then(|before| Some((before, self.dukes.remove(&before)?))) {
            // The duke saw its old link break; that link may not have ended here yet.
            duke.peer.drop_link();
            self.transfers.end_all(|(of, _), _| of == before);
            self.forget_compilations(before);
            if duke.machine.boot == machine.boot {
                was = Some(before);
            } else {
                self.events.push(Event::DukeLost { duke: before });
            }
        }
        let attempts: usize = holds.iter().map(|lease| lease.attempts.len()).sum();
        let (host, ram_mb) = (machine.hostname.as_str(), machine.ram_bytes >> 20);
        if was.is_none() && holds.is_empty() {
            info!(duke = id.0, host, cpus = machine.cpus, ram_mb, labels = ?machine.labels, "a duke joined");
        } else {
            info!(duke = id.0, host, cpus = machine.cpus, ram_mb, labels = ?machine.labels, attempts, "a duke came back");
        }
        if self.dukes.values().any(|other| other.machine.hostname == machine.hostname)
            && self.repeats.count(self.now, &format!("several dukes are named {host}")).is_some()
        {
            info!(host, "several dukes have this name; --hostname tells them apart");
        }
        peer.outbox.push(Order::Welcome(wire::DukeWelcome { version: VERSION.to_owned() }));
        let (cpus, ram_bytes, labels) = (machine.cpus, machine.ram_bytes, machine.labels.clone());
        self.seats.insert(machine.seat, id);
        self.dukes.insert(id, Duke { machine, peer, fetches, sendings: BTreeMap::new(), _brought: brought });
        self.events.push(Event::DukeJoined { duke: id, cpus, ram_bytes, labels, was, holds });
        // The duke's next words are about the leases that it brought.
        self.run_core();
    }

    pub(super) fn list_dukes(&self) -> Vec<wire::DukeInfo> {
        let describe = |(id, duke): (&DukeId, &Duke)| {
            let Machine { hostname, cpus, ram_bytes, labels, walls, .. } = duke.machine.clone();
            wire::DukeInfo { duke: id.0, hostname, cpus, ram_bytes, labels: labels.into_iter().collect(), walls }
        };
        let mut dukes: Vec<_> = self.dukes.iter().map(describe).collect();
        dukes.sort_unstable_by_key(|duke| duke.duke);
        dukes
    }

    fn why_no_duke(&self, origin: Origin) -> Option<String> {
        if self.dukes.len() >= DUKES_MAX {
            return Some(format!("the king has {DUKES_MAX} dukes already, which is as many as it takes"));
        }
        let from_there = || self.dukes.values().filter(|duke| duke.peer.origin == origin).count();
        (origin.is_bounded() && from_there() >= PEER_DUKES_MAX).then(|| {
            let whose = origin.whose();
            format!("the king has {PEER_DUKES_MAX} dukes{whose} already, which is as many as it takes")
        })
    }

    pub(super) fn on_duke_said(&mut self, duke: DukeId, word: DukeWord) {
        if let Some(attempt) = word.ended() {
            self.transfers.end((duke, attempt));
        }
        let event = match word {
            DukeWord::BlobWanted(digest) => return self.send_blob(duke, digest),
            DukeWord::InputWanted(wanted) => return self.on_input_wanted(duke, wanted),
            DukeWord::ResultStreamed { attempt, bytes, run_us } => {
                return self.on_result_streamed(duke, attempt, bytes, run_us);
            }
            DukeWord::ResultPart { transfer, offset, data } => {
                return self.on_result_part(duke, transfer, offset, data);
            }
            DukeWord::ProgramUnfit { job, failure } => {
                self.on_program_unfit(duke, job, failure);
                Event::ProgramUnfit { duke, job }
            }
            DukeWord::AttemptDone { attempt, .. } | DukeWord::AttemptFailed { attempt, .. }
                if !self.scheduler.expects(duke, attempt) || self.evidence.contains_key(&attempt) =>
            {
                // The attempt was given up, or the duke lies. The result of an attempt that was given up is never
                // believed.
                return self.let_go(duke, attempt);
            }
            DukeWord::AttemptDone { attempt, run_us, result } => {
                let outcome = Outcome::Done { bytes: result.bytes() };
                self.evidence.insert(attempt, Evidence { duke, run_us, outcome: Ok(result), stored: false });
                Event::AttemptEnded { duke, attempt, outcome, run_us }
            }
            DukeWord::AttemptFailed { attempt, run_us, killed, failure } => {
                let bytes = failure.bytes();
                let outcome = if killed { Outcome::Killed { bytes } } else { Outcome::Failed { bytes } };
                self.evidence.insert(attempt, Evidence { duke, run_us, outcome: Err(failure), stored: false });
                Event::AttemptEnded { duke, attempt, outcome, run_us }
            }
            DukeWord::AttemptReturned { attempt, suspect } => {
                Event::AttemptEnded { duke, attempt, outcome: Outcome::Returned { suspect }, run_us: 0 }
            }
            DukeWord::AttemptPreempted { attempt, run_us } => {
                Event::AttemptEnded { duke, attempt, outcome: Outcome::Preempted, run_us }
            }
            DukeWord::ResultOffered { attempt, bytes, run_us } => self.result_offered(duke, attempt, bytes, run_us),
            DukeWord::Compiling(jobs) => return self.on_compiling(duke, &jobs),
            DukeWord::Draining => {
                let host = self.dukes.get(&duke).map_or("", |duke| duke.machine.hostname.as_str());
                info!(duke = duke.0, host, "a duke is going to leave");
                Event::DukeDraining { duke }
            }
            DukeWord::InputsArrived { attempt } => Event::InputsArrived { duke, attempt },
            DukeWord::SlotsReleased { job, slots } => Event::SlotsReleased { duke, job, slots },
            DukeWord::SlotsBroken { job, slots, reason } => {
                let host = self.dukes.get(&duke).map_or("", |duke| duke.machine.hostname.as_str());
                if let Some(before) = self.repeats.count(self.now, &format!("{host}: {reason}")) {
                    warn!(duke = duke.0, host, job = job.0, reason, before, "a duke cannot start more peasants");
                }
                let failure = Failure::new(FailureKind::Other, format!("duke {host} cannot start peasants: {reason}"));
                if let Some(queen) = self.queen_served_by(duke, job) {
                    queen.complaint = Some(failure);
                }
                Event::SlotsBroken { duke, job, slots }
            }
        };
        self.events.push(event);
    }

    /// A duke offers a large result, which fails its unit if there can never be room for it.
    fn result_offered(&mut self, duke: DukeId, attempt: AttemptId, bytes: u64, run_us: u64) -> Event {
        let longest = self.scheduler.longest_result(attempt).unwrap_or(u64::MAX);
        if bytes <= longest {
            return Event::ResultOffered { duke, attempt, bytes, run_us, streamed: false };
        }
        let why = format!("its result has {bytes} bytes, and the king takes at most {longest} (its --memory-limit)");
        let failure = Failure::new(FailureKind::Answer, why);
        let outcome = Outcome::Failed { bytes: failure.bytes() };
        self.evidence.insert(attempt, Evidence { duke, run_us, outcome: Err(failure), stored: false });
        Event::AttemptEnded { duke, attempt, outcome, run_us }
    }

    fn on_program_unfit(&mut self, duke: DukeId, job: JobId, failure: Failure) {
        let host = self.dukes.get(&duke).map(|duke| duke.machine.hostname.clone()).unwrap_or_default();
        let Some(queen) = self.queen_served_by(duke, job) else { return };
        let words =
            format!("duke {host} says that the program cannot run ({}); it is tried once more", failure.message);
        queen.complaint = Some(Failure::new(FailureKind::Program, words));
        queen.unfit = Some(failure);
        info!(duke = duke.0, host, job = job.0, "a duke says that the program of a job cannot run");
    }

    /// The queen of a job, if this duke works for the job: others say nothing about it.
    fn queen_served_by(&mut self, duke: DukeId, job: JobId) -> Option<&mut Queen> {
        let serves = self.scheduler.serves(duke, job);
        self.queens.get_mut(&job).filter(|_| serves)
    }

    fn send_blob(&mut self, id: DukeId, digest: Digest) {
        let blob = self.programs.get(digest).or_else(|| self.shares.get(digest));
        let (Some(duke), Some(blob)) = (self.dukes.get_mut(&id), blob) else {
            // The job may have ended meanwhile and its blobs been forgotten, or its queen has not come back yet.
            if self.wants.len() >= WANTS_MAX {
                let dukes = &self.dukes;
                self.wants.retain(|(_, duke)| dukes.contains_key(duke));
            }
            if self.wants.len() < WANTS_MAX {
                self.wants.insert((digest, id));
            }
            return;
        };
        duke.sendings.retain(|_, sending| !sending.is_over());
        // A blob that is on its way answers every word that asked for it.
        duke.sendings.entry(digest).or_insert_with(|| {
            let order = Order::Blob(wire::Blob { digest: digest.to_wire(), payload: None });
            duke.peer.outbox.push_watched(order, blob.clone())
        });
    }

    /// Takes back a blob that no job needs any more, where it has not begun to be sent.
    pub(super) fn recall_blob(&self, digest: Digest) {
        let wire = digest.to_wire();
        for duke in self.dukes.values().filter(|duke| duke.sendings.contains_key(&digest)) {
            duke.peer
                .outbox
                .take_back(|word: &DukeOrder| matches!(&word.order, Some(Order::Blob(blob)) if blob.digest == wire));
        }
    }

    /// Sends the blobs that dukes asked for before the queen was back.
    pub(super) fn send_wanted(&mut self) {
        for (digest, duke) in std::mem::take(&mut self.wants) {
            self.send_blob(duke, digest);
        }
        let dukes = &self.dukes;
        self.wants.retain(|(_, duke)| dukes.contains_key(duke));
    }

    pub(super) fn on_duke_gone(&mut self, id: DukeId, outbox: &Outbox<DukeOrder>, leaving: Leaving) {
        let Some(duke) = self.dukes.get(&id) else {
            // The duke never joined, was sent away, or is back already. If its words ended the link, it should know.
            if let Err(error) = leaving {
                debug!(duke = id.0, %error, "a link ended");
                outbox.push(Order::End(wire::End { come_back: false, ..error.to_end() }));
            }
            return outbox.close();
        };
        let host = duke.machine.hostname.as_str();
        let may_come_back = leaving.as_ref().is_err_and(LinkError::may_come_back);
        match leaving {
            Ok(()) => info!(duke = id.0, host, "a duke left"),
            Err(error) if may_come_back => {
                warn!(duke = id.0, host, %error, "a duke is away; it keeps its units for a while");
            }
            Err(error) => {
                warn!(duke = id.0, host, %error, "a duke is lost; its units run again elsewhere");
                outbox.push(Order::End(error.to_end()));
            }
        }
        outbox.close();
        self.transfers.end_all(|(duke, _), _| duke == id);
        // It says again what it compiles when it is back.
        self.forget_compilations(id);
        if may_come_back {
            return self.events.push(Event::DukeAway { duke: id });
        }
        self.forget_duke(id);
        self.events.push(Event::DukeLost { duke: id });
    }

    /// Forgets a duke and its seat.
    pub(super) fn forget_duke(&mut self, id: DukeId) -> Option<Duke> {
        let duke = self.dukes.remove(&id)?;
        self.transfers.end_all(|(duke, _), _| duke == id);
        self.seats.remove(&duke.machine.seat);
        self.forget_compilations(id);
        Some(duke)
    }

    pub(super) fn expel_duke(&mut self, id: DukeId, why: &'static str) {
        let Some(duke) = self.forget_duke(id) else { return };
        warn!(duke = id.0, host = duke.machine.hostname, why, "a duke was sent away");
        duke.peer.send_away(refusal(why.to_owned()));
        self.events.push(Event::DukeLost { duke: id });
    }
}

fn refusal(reason: String) -> Order {
    Order::End(wire::End { reason, come_back: false, refused: false })
}
