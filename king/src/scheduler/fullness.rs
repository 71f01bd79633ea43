//! A job whose queen takes results more slowly than its slots make them has no use for all of them: those that stand
//! still because its results are full serve others, until she takes more.

use distwasm_proto::{
    ids::JobId,
    limits::{FULL_LOOK, RESULTS_BYTES},
    time::Time,
};

use super::{Alarm, Scheduler, job::Job};

/// What is seen of a job whose results were full lately, from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fullness {
    /// How many slots it can use: as many as had something to do when it was looked at last. `None` until then.
    pub(super) usable: Option<u32>,
    /// Its queen has taken results since.
    pub(super) heard: bool,
}

impl Scheduler {
    /// Has a job looked at soon, if it can hold no more results.
    pub(super) fn watch_fullness(&mut self, now: Time, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.is_full() && job.fullness.is_none() {
            job.fullness = Some(Fullness::default());
            self.alarms.insert((now.after(FULL_LOOK), Alarm::Full(id)));
        }
    }

    /// Counts the slots that a job can use: none if its queen takes nothing; more with every look at which there is room.
    pub(super) fn look_at_fullness(&mut self, now: Time, id: JobId) {
        let busy = self.busy_slots(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(Fullness { usable, heard }) = job.fullness.take() else { return };
        let wanted = job.need();
        let usable = match (job.is_full(), heard, usable) {
            (true, true, _) => Some(busy),
            (true, false, _) => Some(0),
            (false, _, usable) => usable.map(|slots| 2 * slots + 1).filter(|slots| *slots < wanted),
        };
        if usable.is_some() {
            job.fullness = Some(Fullness { usable, heard: false });
            self.alarms.insert((now.after(FULL_LOOK), Alarm::Full(id)));
        }
        self.deal = true;
    }

    /// Slots of a job that have something to do.
    fn busy_slots(&self, id: JobId) -> u32 {
        let Some(job) = self.jobs.get(&id) else { return 0 };
        let leases = job.by_load.iter().filter_map(|(_, duke)| self.dukes.get(duke)?.leases.get(&id));
        leases.map(|lease| lease.running.min(lease.slots)).sum()
    }
}

impl Job {
    /// Whether it can take no more results before its queen has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.results_bytes >= RESULTS_BYTES || !self.offers.is_empty()
    }
}
