//! Handles the words of queens, and queens that join, leave or come back.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use distwasm_proto::{
    VERSION,
    digest::Digest,
    failure::{Failure, FailureKind},
    ids::{JobId, UnitNo},
    limits::{JOBS_MAX, WINDOW_BYTES, WINDOW_UNITS},
    wire::{self, QueenNews, queen_news::News},
};
use distwasm_transport::transfer::Outbox;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Queen, Reactor, Said};
use crate::{
    payloads::{self, Inputs},
    scheduler::{Event, Overview, Resumption},
    service::{
        Leaving, LinkId,
        submit::{self, JobRequest},
    },
};

impl Reactor {
    pub(super) fn on_queen_joined(
        &mut self,
        link: LinkId,
        mut request: Box<JobRequest>,
        outbox: Outbox<QueenNews>,
        ended: CancellationToken,
    ) {
        // Earlier events may end the job that the queen comes back to.
        self.settle();
        if let Some((earlier, key)) = request.replaces {
            self.end_earlier(earlier, key);
        }
        let (job, mut resumes) = match request.resumes.take() {
            Some((job, resumes)) if self.may_have(job, request.key) => (job, resumes),
            // The job was dropped, or belongs to another queen: this queen gets a new one.
            Some((_, resumes)) => (self.next_job(), resumes),
            None => (self.next_job(), Resumption::default()),
        };
        let refused = match self.queens.get(&job) {
            Some(queen) if queen.key == request.key && queen.ordinal < request.ordinal => None,
            // The first word of a broken connection may arrive after that of the next one.
            Some(_) => Some(("the queen has a newer link".to_owned(), false)),
            None => self.why_no_job(),
        };
        self.links.insert(link, job);
        if let Some((reason, come_back)) = refused {
            outbox.push(News::End(wire::End { reason, come_back }));
            outbox.close();
            ended.cancel();
            return;
        }
        let ordinal = request.ordinal;
        let (key, spec, project) = (request.key, request.spec.clone(), request.spec.project.clone());
        let (numbered, lacking) = (resumes.sent, resumes.lacking.iter().copied().collect::<BTreeSet<UnitNo>>());
        if let Some(queen) = self.queens.get_mut(&job) {
            info!(job = job.0, project, lacking = lacking.len(), "a queen came back");
            // The queen saw its old link break; that link may not have ended here yet.
            queen.outbox.close();
            queen.ended.cancel();
            (queen.link, queen.outbox, queen.ended) = (Some(link), outbox, ended);
            queen.ordinal = ordinal;
        } else {
            let JobRequest { digest, program, archives, .. } = &mut *request;
            info!(job = job.0, project, program = %digest, lacking = lacking.len(), "a job was opened");
            self.programs.insert(*digest, std::mem::take(program));
            std::mem::take(archives).into_iter().for_each(|(digest, archive)| self.shares.insert(digest, archive));
            let said = self.unclaimed.remove(&job).unwrap_or_default();
            let queen = Queen::new(link, *request, outbox, ended, said);
            self.queens.insert(job, queen);
            self.totals.jobs += 1;
            self.send_wanted();
        }
        // Units have their verdicts even if the queen has not heard them yet.
        let said = self.queens.get(&job).into_iter().flat_map(|queen| &queen.said);
        let said: BTreeSet<UnitNo> = said.map(|said| UnitNo(said.verdict.unit)).collect();
        resumes.lacking.retain(|unit| !said.contains(unit));
        self.events.push(Event::JobOpened { job, key, spec, resumes });
        self.welcome(job, numbered, &lacking);
        // The next words are about units that the scheduler must know.
        self.settle();
    }

    /// Whether a queen with this key may have the job.
    fn may_have(&self, job: JobId, key: u64) -> bool {
        let is_hers = |queen: &Queen| queen.key == key;
        self.queens.get(&job).map_or_else(|| self.scheduler.may_resume(job, key), is_hers)
    }

    /// Ends the job of a queen that died without saying `end`, for a queen that replaces it.
    fn end_earlier(&mut self, job: JobId, key: u64) {
        if !self.may_have(job, key) {
            return;
        }
        if let Some(queen) = self.forget_queen(job) {
            info!(job = job.0, project = queen.project, "its queen was started again as another job; this one is over");
            queen
                .outbox
                .push(News::End(wire::End { reason: "the queen was started again".to_owned(), come_back: false }));
            queen.outbox.close();
            queen.ended.cancel();
        }
        // The job may be known from dukes alone, or not at all.
        self.events.push(Event::QueenLost { job });
        self.settle();
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
        let lacks = |said: &Said| lacking.contains(&UnitNo(said.verdict.unit));
        let (said, heard): (Vec<Said>, Vec<Said>) = queen.said.drain(..).partition(lacks);
        queen.said = said.into();
        let of_said = queen.said.iter().map(|said| UnitNo(said.verdict.unit));
        let known: BTreeSet<UnitNo> = queen.inputs.units().chain(queen.broken.keys().copied()).chain(of_said).collect();
        (queen.numbered, queen.awaited) = (numbered, lacking.difference(&known).copied().collect());
        queen.outbox.push(News::Welcome(wire::QueenWelcome {
            version: VERSION.to_owned(),
            job: job.0,
            window_units: WINDOW_UNITS,
            window_bytes: WINDOW_BYTES,
            known: known.into_iter().map(|unit| unit.0).collect(),
        }));
        for Said { verdict, result, .. } in &queen.said {
            queen.outbox.push_with(News::Verdict(verdict.clone()), result.clone());
        }
        self.forget_said(job, heard);
    }

    fn why_no_job(&self) -> Option<(String, bool)> {
        if self.draining {
            let reason = "the king is going to end, and takes no new jobs: try again when it is back";
            return Some((reason.to_owned(), true));
        }
        let reason = || format!("the king has {JOBS_MAX} jobs already, which is as many as it takes: try again later");
        (self.queens.len() >= JOBS_MAX).then(|| (reason(), false))
    }

    pub(super) fn on_queen_said(&mut self, link: LinkId, said: submit::Said) {
        // A queen may go on sending while it is being told that its job failed. An earlier link of the queen may, too.
        let Some(job) = self.links.get(&link).copied() else { return };
        let Some(queen) = self.queens.get_mut(&job).filter(|queen| queen.link == Some(link)) else { return };
        let (unit, input) = match said {
            submit::Said::Unit { unit, input } => (unit, input),
            submit::Said::Closed => return self.events.push(Event::JobClosed { job }),
            submit::Said::VerdictsHeard(verdicts) => return self.on_verdicts_heard(job, verdicts),
        };
        if unit.0 < queen.numbered && !queen.awaited.remove(&unit) {
            // A duke that came back had the unit, and the unit has its verdict.
            return;
        }
        let bytes = input.as_ref().map_or(0, payloads::Input::bytes);
        let held = queen.inputs.bytes();
        // Units may overtake the `verdicts_heard` that made room for them.
        let (open, window) = (queen.inputs.count() + queen.broken.len(), WINDOW_UNITS as usize);
        let is_full = open >= window || open + queen.said.len() >= 2 * window;
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
                queen.inputs.insert(unit, input);
                self.events.push(Event::UnitAdded { job, unit, bytes });
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
        if count > queen.said.len() {
            return self.expel_queen(job, "it heard more verdicts than it was told");
        }
        let heard = queen.said.drain(..count).collect();
        self.forget_said(job, heard);
    }

    /// Forgets verdicts that the queen has, here and at the dukes.
    fn forget_said(&mut self, job: JobId, heard: Vec<Said>) {
        if heard.is_empty() {
            return;
        }
        let (verdicts, bytes) = (heard.len() as u64, heard.iter().map(Said::bytes).sum());
        for (duke, attempt) in heard.into_iter().filter_map(|said| said.by) {
            self.settled.entry(duke).or_default().push(attempt.0);
        }
        self.events.push(Event::VerdictsHeard { job, verdicts, bytes });
    }

    pub(super) fn on_queen_gone(&mut self, link: LinkId, outbox: &Outbox<QueenNews>, leaving: Leaving) {
        let job = self.links.remove(&link);
        if let Err(error) = &leaving {
            outbox.push(News::End(wire::End { reason: error.to_string(), come_back: error.may_come_back() }));
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
        let queen = self.queens.remove(&job)?;
        self.may_shrink = true;
        self.programs.release(queen.digest);
        queen.shares.iter().for_each(|digest| self.shares.release(*digest));
        Some(queen)
    }

    /// All jobs, for a request.
    pub(super) fn list_jobs(&self) -> wire::JobList {
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
                longest: status.longest.map(|longest| {
                    let name = queen.inputs.get(longest.unit).map(|input| input.name.clone()).unwrap_or_default();
                    self.describe_longest(longest, name)
                }),
            })
        };
        let jobs = self.scheduler.overview().into_iter().filter_map(describe).collect();
        wire::JobList { jobs, dukes: u32::try_from(self.scheduler.census().dukes).unwrap_or(u32::MAX) }
    }

    fn expel_queen(&mut self, job: JobId, why: &'static str) {
        let Some(queen) = self.forget_queen(job) else { return };
        warn!(job = job.0, project = queen.project, why, "a queen was sent away");
        queen.outbox.push(News::End(wire::End { reason: why.to_owned(), come_back: false }));
        queen.outbox.close();
        queen.ended.cancel();
        self.events.push(Event::QueenLost { job });
    }
}

impl Queen {
    fn new(
        link: LinkId,
        request: JobRequest,
        outbox: Outbox<QueenNews>,
        ended: CancellationToken,
        said: VecDeque<Said>,
    ) -> Queen {
        let JobRequest { spec, digest, timeout, guest, key, ordinal, .. } = request;
        let shares: BTreeSet<Digest> = guest.shares.iter().map(|share| share.digest).collect();
        Queen {
            project: spec.project,
            link: Some(link),
            ordinal,
            key,
            digest,
            timeout_ms: timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            guest,
            shares: shares.into_iter().collect(),
            min_ram_bytes: spec.min_ram_bytes,
            requires: name_labels(&spec.requires),
            outbox,
            ended,
            inputs: Inputs::default(),
            numbered: 0,
            awaited: BTreeSet::new(),
            done: 0,
            failed: 0,
            said,
            broken: HashMap::new(),
            complaint: None,
        }
    }
}

impl Said {
    fn bytes(&self) -> u64 {
        self.result.bytes() + self.weight
    }
}

/// Labels as a user writes them.
fn name_labels(labels: &BTreeMap<String, String>) -> String {
    let named: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{} {}", if named.len() == 1 { "label" } else { "labels" }, named.join(", "))
}
