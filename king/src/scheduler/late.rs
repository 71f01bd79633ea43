//! Overdue results: they have been in transit far longer than others, because they are behind a slow link or will never
//! come. They take no room from other results, and their units may be tried elsewhere.

use std::time::Duration;

use distwasm_proto::{
    ids::{AttemptId, JobId},
    limits::{LATE_BYTES, MEBIBYTE_WITHIN, RESULT_PATIENCE, STRAGGLER_FACTOR},
};

use super::{Attempt, Scheduler, Stage, feed::has_room};

impl Scheduler {
    /// Records how long a result that just arrived was in transit, together with the other results in transit.
    pub(super) fn measure_fetch(&mut self, attempt: &Attempt) {
        let Stage::Fetched { late, .. } = attempt.stage else { return };
        let lease = self.dukes.get_mut(&attempt.duke).and_then(|duke| duke.leases.get_mut(&attempt.job));
        let (Some(job), Some(lease)) = (self.jobs.get_mut(&attempt.job), lease) else { return };
        let took_us = u128::from(self.now.micros_since(attempt.since)) << 20;
        let mebibyte_us = u64::try_from(took_us / u128::from(lease.fetched_bytes.max(1))).unwrap_or(u64::MAX);
        lease.mebibyte_time.measure(mebibyte_us);
        // One slow link says nothing about the others.
        if !late || job.mebibyte_time.average_us().is_none() {
            job.mebibyte_time.measure(mebibyte_us);
        }
    }

    /// Whether a result of this size that was offered or fetched is overdue.
    pub(super) fn is_late(&self, attempt: &Attempt, bytes: u64) -> bool {
        let Some(job) = self.jobs.get(&attempt.job) else { return false };
        let typical =
            job.mebibyte_time.average_us().map(|us| Duration::from_micros(us).saturating_mul(STRAGGLER_FACTOR));
        let mebibytes = u32::try_from(self.under_way_with(attempt).max(bytes) >> 20).unwrap_or(u32::MAX);
        let within = typical.unwrap_or(MEBIBYTE_WITHIN).saturating_mul(mebibytes.saturating_add(1));
        attempt.since.after(within).after(RESULT_PATIENCE) <= self.now
    }

    /// Bytes of results of the same job that are in transit from the same duke.
    fn under_way_with(&self, attempt: &Attempt) -> u64 {
        let lease = self.dukes.get(&attempt.duke).and_then(|duke| duke.leases.get(&attempt.job));
        lease.map_or(0, |lease| lease.fetched_bytes)
    }

    /// Counts overdue results separately, up to `LATE_BYTES`, so that they take no room from the others.
    pub(super) fn set_late_apart(&mut self, id: JobId) {
        let is_late = |attempt: &Attempt| match attempt.stage {
            Stage::Fetched { bytes, late: false } => attempt.job == id && self.is_late(attempt, bytes),
            Stage::Fetched { late: true, .. } | Stage::Running | Stage::Offered(_) => false,
        };
        let found: Vec<AttemptId> =
            self.attempts.iter().filter(|(_, attempt)| is_late(attempt)).map(|(id, _)| *id).collect();
        for attempt in found {
            let (Some(job), Some(attempt)) = (self.jobs.get_mut(&id), self.attempts.get_mut(&attempt)) else { return };
            if let Stage::Fetched { bytes, late } = &mut attempt.stage
                && has_room(job.late_bytes, *bytes, LATE_BYTES)
            {
                *late = true;
                job.late_bytes += *bytes;
                job.results_bytes = job.results_bytes.saturating_sub(*bytes);
                job.waits_for_room = false;
                self.hungry.insert(id);
            }
        }
    }
}
