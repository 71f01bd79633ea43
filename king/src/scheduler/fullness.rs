//! A job whose queen takes results more slowly than the job's slots make them cannot use all of its slots: those that
//! are idle because the room for results is full serve other jobs, until the queen takes more.

use distwasm_proto::{
    ids::JobId,
    limits::{FULL_LOOK, RESULTS_BYTES},
};

use super::{Alarm, Attempt, Scheduler, Stage, job::Job};

/// Observations of a job whose room for results was full lately, from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fullness {
    /// How many slots it can keep busy: as many as were busy at the last look. `None` before the first look.
    pub(super) usable: Option<u32>,
    /// The run time of its attempts that ended since then, in microseconds.
    pub(super) worked_us: u64,
}

impl Scheduler {
    /// Schedules a look at a job that can hold no more results.
    pub(super) fn watch_fullness(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.is_full() && job.fullness.is_none() {
            job.fullness = Some(Fullness::default());
            self.timers.set(Alarm::Full(id), self.now.after(FULL_LOOK));
        }
    }

    /// Counts the slots that a job can use: those that were busy if its room for results is full, and more with every
    /// look at which there is room.
    pub(super) fn look_at_fullness(&mut self, id: JobId) {
        self.set_late_apart(id);
        let long_at_work = self.long_at_work(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(Fullness { usable, worked_us }) = job.fullness.take() else { return };
        let look_us = u64::try_from(FULL_LOOK.as_micros()).unwrap_or(u64::MAX);
        let at_work = u32::try_from((worked_us.saturating_add(look_us / 2)) / look_us).unwrap_or(u32::MAX);
        let usable = match usable {
            _ if job.is_full() => Some(at_work.max(long_at_work)),
            // It may be full again very soon.
            Some(slots) if job.results_bytes >= RESULTS_BYTES / 2 => Some(slots),
            Some(slots) => Some(slots.saturating_mul(2).saturating_add(1)).filter(|slots| *slots < job.need()),
            None => None,
        };
        if usable.is_some() {
            job.fullness = Some(Fullness { usable, worked_us: 0 });
            self.timers.set(Alarm::Full(id), self.now.after(FULL_LOOK));
        }
        self.deal = true;
    }

    /// Slots whose units have been running for at least the time from one look to the next, and not longer than
    /// finished units explain: a unit that runs longer waits for room for its result.
    fn long_at_work(&self, id: JobId) -> u32 {
        let Some(job) = self.jobs.get(&id) else { return 0 };
        let is_long = |attempt: &&Attempt| {
            attempt.job == id
                && attempt.stage == Stage::Running
                && attempt.since.after(FULL_LOOK) <= self.now
                && job.is_explained_until(attempt.since).is_none_or(|until| until > self.now)
        };
        u32::try_from(self.attempts.values().filter(is_long).count()).unwrap_or(u32::MAX).min(job.slots)
    }
}

impl Job {
    /// Whether it can take no more results before its queen has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.results_bytes >= RESULTS_BYTES || self.waits_for_room
    }

    /// Records the run time of an attempt.
    pub(super) fn measure(&mut self, run_us: u64) {
        self.unit_time.measure(run_us);
        if let Some(fullness) = &mut self.fullness {
            fullness.worked_us = fullness.worked_us.saturating_add(run_us);
        }
    }
}
