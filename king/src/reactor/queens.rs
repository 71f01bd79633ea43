//! Handles the words of queens, and queens that join, leave or come back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use distwasm_proto::{
    VERSION,
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{JobId, UnitNo},
    limits::{JOBS_MAX, PEER_JOBS_MAX, WINDOW_BYTES},
    secret::Mark,
    wire::{self, QueenNews, queen_news::News},
};
use distwasm_transport::{payload::Payload, transfer::Outbox};
use tracing::{info, warn};

use super::{Queen, Reactor, Unheard, cancel::tell_cancelled};
use crate::{
    authority::{Identity, Origin},
    inbox::{JobRequest, Leaving, LinkId, Peer, QueenWord},
    payloads::{HeldBytes, Inputs, QueenRoom, UnitInput},
    scheduler::{Event, JobStatus, Overview, Resumption},
};

/// Why a queen is sent away whose job another queen has replaced.
const STARTED_AGAIN: &str = "the queen was started again";

impl Reactor {
    pub(super) fn on_queen_joined(
        &mut self,
        link: LinkId,
        mut request: Box<JobRequest>,
        peer: Peer<QueenNews>,
        room: QueenRoom,
    ) {
        // Earlier events may end the job that the queen comes back to.
        self.run_core();
        for mark in &request.replaces {
            self.end_earlier(*mark, &peer.identity);
        }
        if self.is_cancelled(request.mark) {
            let job = request.resumes.as_ref().map_or_else(|| self.next_job(), |(job, _)| *job);
            return tell_cancelled(&peer, job, self.window_units);
        }
        let is_back = request.resumes.is_some();
        let (job, mut resumes) = match request.resumes.take() {
            Some((job, resumes)) if self.may_have(job, request.mark, &peer.identity) => (job, resumes),
            // The job was dropped, or belongs to another queen: this queen gets a new one.
            Some((_, resumes)) => (self.next_job(), resumes),
            None => (self.next_job(), Resumption::default()),
        };
        let refused = match self.queens.get(&job) {
            Some(queen) if queen.mark == request.mark && queen.ordinal < request.ordinal => None,
            // The first word of a broken connection may arrive after that of the next one.
            Some(_) => Some(("the queen has a newer link".to_owned(), false)),
            // The first word of a killed queen may arrive after that of the queen that replaces it.
            None if self.scheduler.is_replaced(request.mark) => Some((STARTED_AGAIN.to_owned(), false)),
            None => self.why_no_job(peer.origin, is_back).or_else(|| self.why_too_long(request.timeout)),
        };
        self.links.insert(link, job);
        if let Some((reason, come_back)) = refused {
            return peer.send_away(News::End(wire::End { reason, come_back, refused: false }));
        }
        let ordinal = request.ordinal;
        let (mark, spec, project) = (request.mark, request.spec.clone(), request.spec.project.clone());
        let (numbered, lacking) = (resumes.sent, resumes.lacking.iter().copied().collect::<BTreeSet<UnitNo>>());
        if let Some(queen) = self.queens.get_mut(&job) {
            info!(job = job.0, project, lacking = lacking.len(), "a queen came back");
            // The queen saw its old link break; that link may not have ended here yet.
            queen.peer.drop_link();
            (queen.link, queen.peer) = (Some(link), peer);
            queen.ordinal = ordinal;
            queen.inputs.count_in(room.held);
        } else {
            let JobRequest { digest, program, archives, .. } = &mut *request;
            info!(job = job.0, project, program = %digest, lacking = lacking.len(), "a job was opened");
            let (mut claim, user) = (room.claim, (job, peer.origin));
            let mut part = |blob: &Payload| claim.split(blob.bytes());
            self.programs.insert(*digest, user, part(program), std::mem::take(program));
            for (digest, archive) in std::mem::take(archives) {
                self.shares.insert(digest, user, part(&archive), archive);
            }
            let unheard = self.unclaimed.remove(&job).unwrap_or_default();
            let queen = Queen::new(link, *request, peer, room.held, unheard);
            self.queens.insert(job, queen);
            self.totals.jobs += 1;
            self.send_wanted();
        }
        // Units have their verdicts even if the queen has not heard them yet.
        let unheard = self.queens.get(&job).into_iter().flat_map(|queen| &queen.unheard);
        let unheard: BTreeSet<UnitNo> = unheard.map(Unheard::unit).collect();
        resumes.lacking.retain(|unit| !unheard.contains(unit));
        self.events.push(Event::JobOpened { job, mark, spec, resumes });
        self.welcome(job, numbered, &lacking);
        // The next words are about units that the scheduler must know.
        self.run_core();
        self.go_on_with_job(job);
    }

    /// Whether a queen whose key has this mark may have the job. If the king knows the job from dukes alone, it does not
    /// know whose job it was.
    fn may_have(&self, job: JobId, mark: Mark, identity: &Identity) -> bool {
        let is_its_own = |queen: &Queen| queen.mark == mark && identity.may_replace(&queen.peer.identity);
        self.queens.get(&job).map_or_else(|| self.scheduler.may_resume(job, mark), is_its_own)
    }

    /// Ends the job of a queen that died without saying `end`, for a queen that replaces it and knows its key.
    fn end_earlier(&mut self, mark: Mark, identity: &Identity) {
        let jobs = self.scheduler.jobs_of(mark);
        if !jobs.iter().all(|job| self.may_have(*job, mark, identity)) {
            return;
        }
        for job in jobs {
            // The job may be known from dukes alone.
            let Some(queen) = self.forget_queen(job) else { continue };
            info!(job = job.0, project = queen.project, "its queen was started again as another job; this one is over");
            let reason = STARTED_AGAIN.to_owned();
            queen.peer.send_away(News::End(wire::End { reason, come_back: false, refused: false }));
        }
        // Dukes may bring the job yet.
        self.events.push(Event::JobReplaced { mark });
        self.run_core();
    }

    fn next_job(&mut self) -> JobId {
        loop {
            self.last_job += 1;
            let job = JobId(self.last_job);
            if !self.queens.contains_key(&job) && !self.scheduler.has_job(job) {
                return job;
            }
        }
    }

    /// Tells a queen which units it need not send again, and the verdicts that it has not heard.
    fn welcome(&mut self, job: JobId, numbered: u64, lacking: &BTreeSet<UnitNo>) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let lacks = |verdict: &Unheard| lacking.contains(&verdict.unit());
        let (unheard, heard): (Vec<Unheard>, Vec<Unheard>) = queen.unheard.drain(..).partition(lacks);
        queen.unheard = unheard.into();
        let judged = queen.unheard.iter().map(Unheard::unit);
        let known: BTreeSet<UnitNo> = queen.inputs.units().chain(queen.broken.keys().copied()).chain(judged).collect();
        (queen.numbered, queen.awaited) = (numbered, lacking.difference(&known).copied().collect());
        queen.window_bytes = queen.inputs.held().window();
        queen.peer.outbox.push(News::Welcome(wire::QueenWelcome {
            version: VERSION.to_owned(),
            job: job.0,
            window_units: self.window_units,
            window_bytes: queen.window_bytes,
            input_bytes_max: queen.inputs.held().longest(),
            known: known.into_iter().map(|unit| unit.0).collect(),
        }));
        for Unheard { verdict, result, .. } in &queen.unheard {
            queen.peer.outbox.push_with(News::Verdict(verdict.clone()), result.clone());
        }
        self.forget_heard(job, heard);
    }

    fn why_no_job(&self, origin: Origin, is_back: bool) -> Option<(String, bool)> {
        if self.draining {
            // A queen with a job looks for the next king; another one tells its user.
            let reason = "the king is going to end, and takes no new jobs: try again when it is back";
            return Some((reason.to_owned(), is_back));
        }
        let full = |jobs, whose| {
            Some((
                format!("the king has {jobs} jobs{whose} already, which is as many as it takes: try again later"),
                false,
            ))
        };
        if self.queens.len() >= JOBS_MAX {
            return full(JOBS_MAX, "");
        }
        let from_there = || self.queens.values().filter(|queen| queen.peer.origin == origin).count();
        if origin.is_bounded() && from_there() >= PEER_JOBS_MAX {
            return full(PEER_JOBS_MAX, origin.whose());
        }
        None
    }

    /// A longer timeout than the king allows is refused, and not shortened in silence: the job would fail late, and
    /// without need.
    fn why_too_long(&self, timeout: Option<Duration>) -> Option<(String, bool)> {
        let (timeout, max) = (timeout?, self.timeout_max?);
        let why = || format!("a unit may take {max:?} at most here (king --timeout-max), and --timeout is {timeout:?}");
        (timeout > max).then(|| (why(), false))
    }

    pub(super) fn on_queen_said(&mut self, link: LinkId, word: QueenWord) {
        // A queen may go on sending while it is being told that its job failed. An earlier link of the queen may, too.
        let Some(job) = self.links.get(&link).copied() else { return };
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| queen.link == Some(link)) else { return };
        let (unit, input) = match word {
            QueenWord::Unit { unit, input } => (unit, input),
            QueenWord::Closed => return self.events.push(Event::JobClosed { job }),
            QueenWord::VerdictsHeard(verdicts) => return self.on_verdicts_heard(job, verdicts),
            QueenWord::UnitPart(part) => return self.on_unit_part(link, job, part),
            QueenWord::OutputWanted { transfer, from, until, gives_up } => {
                return self.on_output_wanted(job, transfer, from..until, gives_up);
            }
        };
        if unit.0 < queen.numbered && !queen.awaited.remove(&unit) {
            // A duke that came back had the unit, and the unit has its verdict.
            return;
        }
        let bytes = input.as_ref().map_or(0, UnitInput::bytes);
        let held = queen.inputs.bytes();
        // Units may overtake the `verdicts_heard` that made room for them.
        let (open, window) = (queen.inputs.count() + queen.broken.len(), self.window_units as usize);
        let is_full = open >= window || open + queen.unheard.len() >= 2 * window;
        if is_full || (held > 0 && held + bytes > WINDOW_BYTES) {
            return self.expel_queen(job, "it sent more units than its window allows");
        }
        if queen.inputs.get(unit).is_some() || queen.broken.contains_key(&unit) {
            return self.expel_queen(job, "it sent a unit twice");
        }
        self.totals.units += 1;
        self.totals.input_bytes += input.as_ref().map_or(0, |input| input.content.bytes());
        match input {
            Ok(input) => {
                let streamed = input.streamed;
                queen.inputs.insert(unit, input);
                self.events.push(Event::UnitAdded { job, unit, bytes });
                if streamed {
                    self.go_on_with_unit(job, unit);
                }
            }
            Err(reason) => {
                // The reason of a file system is short; that of a liar is cut.
                let failure = Failure::new(FailureKind::Input, reason);
                self.events.push(Event::UnitBroken { job, unit, bytes: failure.bytes() });
                queen.broken.insert(unit, failure);
            }
        }
    }

    fn on_verdicts_heard(&mut self, job: JobId, verdicts: u64) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let count = usize::try_from(verdicts).unwrap_or(usize::MAX);
        if count > queen.unheard.len() {
            return self.expel_queen(job, "it heard more verdicts than it was told");
        }
        let heard = queen.unheard.drain(..count).collect();
        self.forget_heard(job, heard);
    }

    /// Forgets verdicts that the queen has, here and at the dukes.
    fn forget_heard(&mut self, job: JobId, heard: Vec<Unheard>) {
        if heard.is_empty() {
            return;
        }
        let (verdicts, bytes) = (heard.len() as u64, heard.iter().map(Unheard::bytes).sum());
        for (duke, attempt) in heard.into_iter().filter_map(|verdict| verdict.by) {
            self.let_go(duke, attempt);
        }
        self.events.push(Event::VerdictsHeard { job, verdicts, bytes });
        self.widen(job);
    }

    /// Tells a queen its window anew if there is far more or far less room than it was told.
    fn widen(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let window_bytes = queen.inputs.held().window();
        if window_bytes != queen.window_bytes {
            queen.window_bytes = window_bytes;
            self.tell_state(job);
        }
    }

    pub(super) fn on_queen_gone(&mut self, link: LinkId, outbox: &Outbox<QueenNews>, leaving: Leaving) {
        let job = self.links.remove(&link);
        if let Err(error) = &leaving {
            outbox.push(News::End(error.to_end()));
        }
        outbox.close();
        // If its job has ended or was never opened, a queen just goes. It may also be back already.
        let Some(job) = job else { return };
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| queen.link == Some(link)) else { return };
        if let Err(error) = &leaving
            && error.may_come_back()
        {
            queen.link = None;
            warn!(job = job.0, project = queen.project, %error, "the queen is away; its job goes on for a while");
            return self.events.push(Event::QueenAway { job });
        }
        match leaving {
            Ok(()) => info!(job = job.0, project = queen.project, "the queen left; its job is over"),
            Err(error) => warn!(job = job.0, project = queen.project, %error, "the queen is lost; its job is dropped"),
        }
        self.forget_queen(job);
        self.events.push(Event::QueenLost { job });
    }

    pub(super) fn forget_queen(&mut self, job: JobId) -> Option<Queen> {
        self.unclaimed.remove(&job);
        self.compilations.forget_job(job);
        self.transfers.end_all(|_, transfer| transfer.job == job);
        let queen = self.queens.remove(&job)?;
        self.may_shrink = true;
        if self.programs.release(queen.digest, job) {
            self.recall_blob(queen.digest);
        }
        for digest in &queen.shares {
            if self.shares.release(*digest, job) {
                self.recall_blob(*digest);
            }
        }
        Some(queen)
    }

    /// All jobs, for people.
    pub(super) fn list_jobs(&self) -> Vec<wire::JobInfo> {
        let describe = |(id, overview): (JobId, Overview)| {
            let queen = self.queens.get(&id)?;
            let Overview { status, priority, units_waiting, units_running, jobs_ahead } = overview;
            let mut waits_for = queen.waits_for(status.waits_for);
            if !waits_for.is_empty() && jobs_ahead > 0 {
                let jobs = if jobs_ahead == 1 { "job is" } else { "jobs are" };
                waits_for = format!("{waits_for}; {jobs_ahead} {jobs} ahead in its project");
            }
            Some(wire::JobInfo {
                job: id.0,
                project: queen.project.clone(),
                priority,
                slots: status.slots,
                units_waiting: units_waiting as u64,
                units_running: units_running as u64,
                units_done: queen.done,
                units_failed: queen.failed,
                waits_for,
                queen_is_away: queen.link.is_none(),
                compiling: self.describe_compilation(id),
                longest: status.longest.map(|longest| {
                    let name = queen.inputs.get(longest.unit).map(|input| input.name.clone()).unwrap_or_default();
                    self.describe_longest(longest, name)
                }),
            })
        };
        self.scheduler.overview().into_iter().filter_map(describe).collect()
    }

    pub(super) fn expel_queen(&mut self, job: JobId, why: &'static str) {
        let Some(queen) = self.forget_queen(job) else { return };
        warn!(job = job.0, project = queen.project, why, "a queen was sent away");
        queen.peer.send_away(News::End(wire::End { reason: why.to_owned(), come_back: false, refused: false }));
        self.events.push(Event::QueenLost { job });
    }
}

impl Queen {
    fn new(
        link: LinkId,
        request: JobRequest,
        peer: Peer<QueenNews>,
        held: HeldBytes,
        unheard: VecDeque<Unheard>,
    ) -> Queen {
        let JobRequest { spec, digest, timeout, guest, mark, ordinal, .. } = request;
        let shares: BTreeSet<Digest> = guest.shares.iter().map(|share| share.digest).collect();
        Queen {
            project: spec.project,
            link: Some(link),
            ordinal,
            mark,
            digest,
            timeout,
            guest,
            shares: shares.into_iter().collect(),
            min_ram_bytes: spec.min_ram_bytes,
            requires: name_labels(&spec.requires),
            peer,
            inputs: Inputs::new(held),
            status: JobStatus::default(),
            window_bytes: 0,
            numbered: 0,
            awaited: BTreeSet::new(),
            done: 0,
            failed: 0,
            unheard,
            broken: HashMap::new(),
            complaint: None,
            unfit: None,
        }
    }
}

impl Unheard {
    pub(super) fn unit(&self) -> UnitNo {
        UnitNo(self.verdict.unit)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.result.bytes() + self.weight
    }
}

/// Labels as a user writes them.
fn name_labels(labels: &BTreeMap<String, String>) -> String {
    let named: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{} {}", if named.len() == 1 { "label" } else { "labels" }, named.join(", "))
}
