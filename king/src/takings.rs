//! What the queens' connections took of their results, until the reactor hears of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use distwasm_proto::ids::JobId;
use tokio::sync::Notify;

/// Bytes taken for each job since they were last collected. At most one entry a job, so it cannot grow.
#[derive(Debug, Default)]
pub(crate) struct Takings {
    bytes: Mutex<BTreeMap<JobId, u64>>,
    changed: Notify,
}

impl Takings {
    pub(crate) fn add(&self, job: JobId, bytes: u64) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner).entry(job).or_default() += bytes;
        self.changed.notify_one();
    }

    /// Waits until there is something to collect.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn collect(&self) -> BTreeMap<JobId, u64> {
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
