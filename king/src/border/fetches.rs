//! Which large results a duke may send: those that the king has asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use distwasm_proto::{ids::AttemptId, limits::OFFERS_MAX};

/// Results that the king has asked for over one link and that have not come, with their sizes. The reactor adds them,
/// and the border of the link lets in no other large result.
#[derive(Clone, Debug, Default)]
pub struct Fetches(Arc<Mutex<BTreeMap<AttemptId, u64>>>);

impl Fetches {
    /// The king asks for a result.
    pub(crate) fn add(&self, attempt: AttemptId, bytes: u64) {
        let mut fetches = self.lock();
        fetches.insert(attempt, bytes);
        if fetches.len() > OFFERS_MAX {
            // Results that the duke was told to forget may never come.
            fetches.pop_first();
        }
    }

    /// The result of an attempt comes: returns the size that the king asked for, if it did.
    pub(super) fn take(&self, attempt: AttemptId) -> Option<u64> {
        self.lock().remove(&attempt)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, u64>> {
        // Nothing in here can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
