//! Watches: what has changed, told to those who want to know. A slow one misses changes, and is told how many; it never
//! holds up the store.

use distwasm_proto::limits::CHANGES_HELD_MAX;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{Key, Revision};

/// A key that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The key.
    pub key: Key,
    /// The commit that has changed it.
    pub revision: Revision,
    /// Whether it has a value now.
    pub exists: bool,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A key was changed.
    Changed(Changed),
    /// This many changes were missed, of these keys or of others: what is of interest must be read anew.
    Missed(u64),
    /// The store is closed.
    Closed,
}

/// Tells of changes to keys with a prefix, in the order of their commits.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<Changed>,
}

impl Watch {
    /// Waits for the next news. Cancel-safe.
    pub async fn next(&mut self) -> News {
        loop {
            match self.changes.recv().await {
                Ok(changed) if changed.key.as_str().starts_with(&self.prefix) => return News::Changed(changed),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return News::Missed(missed),
                Err(RecvError::Closed) => return News::Closed,
            }
        }
    }
}

/// Where changes are told.
#[derive(Debug)]
pub(crate) struct Hub(broadcast::Sender<Changed>);

impl Default for Hub {
    fn default() -> Hub {
        Hub(broadcast::Sender::new(CHANGES_HELD_MAX))
    }
}

impl Hub {
    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), changes: self.0.subscribe() }
    }

    pub(crate) fn tell(&self, changed: Changed) {
        // Usually nobody watches.
        let _heard = self.0.send(changed);
    }
}
