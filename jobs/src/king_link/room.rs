//! Room for results that are not written yet: the king's words wait while too many bytes of them are in memory.

use std::sync::Arc;

use distwasm_proto::limits::UNWRITTEN_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room that a result takes until it is dropped. The default takes none.
#[derive(Debug, Default)]
pub struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

/// All the room of one link: [`UNWRITTEN_BYTES`].
pub(super) struct Unwritten(Arc<Semaphore>);

impl Unwritten {
    pub(super) fn new() -> Unwritten {
        Unwritten(Arc::new(Semaphore::new(UNWRITTEN_BYTES as usize)))
    }

    /// Whether there is room for a result at once.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.0.available_permits() >= permits(bytes) as usize
    }

    /// Waits until there is room for a result.
    pub(super) async fn take(&self, bytes: u64) -> Room {
        // The semaphore is never closed.
        Room { _permit: Arc::clone(&self.0).acquire_many_owned(permits(bytes)).await.ok() }
    }
}

/// The room that a result takes: all the room, if the result is larger.
fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(UNWRITTEN_BYTES).min(UNWRITTEN_BYTES)
}
