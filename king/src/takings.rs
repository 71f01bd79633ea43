//! What the queens' connections took of their results, until the reactor hears of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use distwasm_proto::{ids::JobId, transfer::Taken};
use tokio::sync::Notify;

/// What was taken for each job since it was last collected. At most one entry a job, so it cannot grow.
#[derive(Debug, Default)]
pub(crate) struct Takings {
    taken: Mutex<BTreeMap<JobId, Taken>>,
    changed: Notify,
}

impl Takings {
    pub(crate) fn add(&self, job: JobId, taken: Taken) {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_job = all.entry(job).or_default();
        of_job.bytes += taken.bytes;
        of_job.weighed += taken.weighed;
        drop(all);
        self.changed.notify_one();
    }

    /// Waits until there is something to collect.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn collect(&self) -> BTreeMap<JobId, Taken> {
        std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
