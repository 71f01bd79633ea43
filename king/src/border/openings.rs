//! The budget for jobs that are being opened: their programs and shared directories arrive before the king can know
//! whether it takes the jobs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use distwasm_proto::limits::{OPENINGS_BYTES, PEER_OPENINGS_BYTES};

use crate::{authority::Origin, inbox::LinkError};

/// Bytes that queens have announced for jobs that are not open yet.
#[derive(Clone, Debug, Default)]
pub struct Openings(Arc<Mutex<Announced>>);

#[derive(Debug, Default)]
struct Announced {
    bytes: u64,
    /// By the origin of the queen; origins without any are left out.
    of: HashMap<Origin, u64>,
}

/// The part of one job in [`Openings`]. Dropping it gives the bytes back.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    openings: Openings,
    origin: Origin,
    bytes: u64,
}

impl Openings {
    /// A job of a queen of this origin, of which nothing was announced.
    pub(super) fn begin(&self, origin: Origin) -> Announcement {
        Announcement { openings: self.clone(), origin, bytes: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Announced> {
        // Nothing in here can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announcement {
    /// The queen announces more bytes.
    ///
    /// # Errors
    ///
    /// When there is no room for them at the moment.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), LinkError> {
        let mut announced = self.openings.lock();
        let of_peer = announced.of.get(&self.origin).copied().unwrap_or(0);
        if of_peer.saturating_add(bytes) > PEER_OPENINGS_BYTES {
            return Err(LinkError::Busy(self.origin.whose()));
        }
        if announced.bytes.saturating_add(bytes) > OPENINGS_BYTES {
            return Err(LinkError::Busy(""));
        }
        announced.bytes += bytes;
        announced.of.insert(self.origin, of_peer + bytes);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let mut announced = self.openings.lock();
        announced.bytes -= self.bytes;
        let of_peer = announced.of.get(&self.origin).copied().unwrap_or(0);
        if of_peer > self.bytes {
            announced.of.insert(self.origin, of_peer - self.bytes);
        } else {
            announced.of.remove(&self.origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Origin {
        Origin::Address([10, 0, 0, last].into())
    }

    #[test]
    fn all_openings_have_a_budget_and_each_address_has_a_share() {
        let openings = Openings::default();
        let mut first = openings.begin(address(1));
        first.add(PEER_OPENINGS_BYTES).unwrap();
        let mut second = openings.begin(address(1));
        assert!(second.add(1).unwrap_err().to_string().contains("from this address: try again"));
        let mut others: Vec<Announcement> = (2..10).map(|last| openings.begin(address(last))).collect();
        let taken: Vec<bool> = others.iter_mut().map(|other| other.add(PEER_OPENINGS_BYTES / 2).is_ok()).collect();
        assert_eq!(taken, [true, true, false, false, false, false, false, false]);
        assert!(others[5].add(1).unwrap_err().may_come_back());
        drop(first);
        second.add(PEER_OPENINGS_BYTES).unwrap();
        drop((second, others));
        let announced = openings.lock();
        assert_eq!((announced.bytes, announced.of.len()), (0, 0));
    }
}
