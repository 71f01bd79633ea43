//! Jobs that are cancelled: they end at once, and their queens are told, also when they come back later.

use distwasm_proto::{
    VERSION,
    ids::JobId,
    limits::{JOBS_MAX, UNIT_BYTES_MAX, WINDOW_BYTES},
    secret::Mark,
    wire::{self, QueenNews, queen_news::News},
};
use thiserror::Error;
use tracing::info;

use super::Reactor;
use crate::{authority::Identity, inbox::Peer, scheduler::Event};

/// Why a job is not cancelled.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CancelError {
    /// There is none of this number.
    #[error("there is no {0}; it may have ended")]
    NoJob(JobId),
    /// The caller may not do this.
    #[error("this token may not cancel {0}: the token with which it was opened may, and that of an admin")]
    NotAllowed(JobId),
}

impl Reactor {
    /// Ends a job at once; returns its project.
    pub(super) fn cancel_job(&mut self, job: JobId, caller: &Identity) -> Result<String, CancelError> {
        // Earlier events may end the job.
        self.run_core();
        let mark = self.scheduler.mark_of(job).ok_or(CancelError::NoJob(job))?;
        // A job that only dukes have named to this king has no project yet.
        let queen = self.queens.get(&job);
        let project = queen.map(|queen| queen.project.clone()).unwrap_or_default();
        let owner = queen.map_or(&Identity::Trusted, |queen| &queen.peer.identity);
        if !caller.may_replace(owner) {
            return Err(CancelError::NotAllowed(job));
        }
        info!(job = job.0, project, caller = %caller, "a job was cancelled");
        self.cancelled.truncate(JOBS_MAX - 1);
        self.cancelled.push_front(mark);
        self.events.push(Event::JobCancelled { job });
        self.run_core();
        Ok(project)
    }

    /// Whether the job of this mark was cancelled.
    pub(super) fn is_cancelled(&self, mark: Mark) -> bool {
        self.cancelled.contains(&mark)
    }
}

/// Tells a queen that came back that its job was cancelled while it was away.
pub(super) fn tell_cancelled(peer: &Peer<QueenNews>, job: JobId, window_units: u32) {
    peer.outbox.push(News::Welcome(wire::QueenWelcome {
        version: VERSION.to_owned(),
        job: job.0,
        window_units,
        window_bytes: WINDOW_BYTES,
        known: Vec::new(),
        input_bytes_max: UNIT_BYTES_MAX,
    }));
    peer.outbox.push(News::JobEnded(wire::JobEnded { failure: None, cancelled: true }));
    peer.close(News::End(wire::End::default()));
}
