//! The room for large results of all jobs together: how much of it a job may have.

use std::collections::BTreeMap;

use distwasm_proto::{
    ids::JobId,
    limits::{RESULTS_BYTES, WINDOW_PART},
};

use super::job::Job;
use crate::authority::Origin;

/// The bounds for results, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ResultBounds {
    /// Results of all jobs that may be in transit or held.
    pub most: u64,
    /// For one job there is always this much room.
    pub reserve: u64,
}

impl ResultBounds {
    /// Results of all jobs of one token, or of one address on another machine.
    fn most_of_peer(self) -> u64 {
        self.most / 2
    }

    /// The longest result for which there may be room.
    pub(super) fn longest(self, job: &Job) -> u64 {
        let most = if job.spec.payer.is_bounded() { self.most_of_peer() } else { self.most };
        most.max(self.reserve)
    }
}

/// How much of the room is taken.
#[derive(Debug)]
pub(super) struct Room {
    bounds: ResultBounds,
    taken: u64,
    by_peer: BTreeMap<Origin, u64>,
}

/// The results that one job may have in transit and held, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Of any number of results.
    pub(super) most: u64,
    /// Of one result that has no other beside it.
    pub(super) alone: u64,
}

impl Room {
    pub(super) fn count(bounds: ResultBounds, jobs: &BTreeMap<JobId, Job>) -> Room {
        let mut room = Room { bounds, taken: 0, by_peer: BTreeMap::new() };
        jobs.values().for_each(|job| room.take(job, job.results.bytes_in_all()));
        room
    }

    /// A job takes more.
    pub(super) fn take(&mut self, job: &Job, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes);
        if job.spec.payer.is_bounded() {
            *self.by_peer.entry(job.spec.payer).or_default() += bytes;
        }
    }

    /// A job may have a part of what the others leave, as with its inputs (`budget.rs`).
    pub(super) fn of(&self, job: &Job) -> Allowance {
        let bounds = self.bounds;
        let left = |taken: u64, most: u64| most.saturating_sub(taken.saturating_sub(job.results.bytes()));
        let by_peer = self.by_peer.get(&job.spec.payer).copied();
        let of_peer = by_peer.map(|taken| left(taken, bounds.most_of_peer()));
        let left = of_peer.into_iter().fold(left(self.taken, bounds.most), u64::min);
        Allowance { most: (left / WINDOW_PART).min(RESULTS_BYTES).max(bounds.reserve), alone: left.max(bounds.reserve) }
    }
}
