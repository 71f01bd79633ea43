//! The slots of a job on all dukes.

use std::collections::BTreeSet;

use distwasm_proto::ids::DukeId;

use super::Entry;

/// The account of one job: the sums of its leases.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Account {
    /// Slots that serve the job and were not asked back.
    pub(in crate::scheduler) slots: u32,
    /// Slots that will be granted as soon as they are free.
    pub(in crate::scheduler) reserved: u32,
    /// Slots that were asked back and are not free yet.
    pub(in crate::scheduler) releasing: u32,
    /// Its leases with slots, the least loaded first.
    pub(in crate::scheduler) by_load: BTreeSet<(u32, DukeId)>,
}

impl Account {
    pub(super) const fn new() -> Account {
        Account { slots: 0, reserved: 0, releasing: 0, by_load: BTreeSet::new() }
    }

    /// Slots that it has or will have.
    pub(in crate::scheduler) fn promised(&self) -> u32 {
        self.slots + self.reserved
    }

    /// Slots that nobody else can have yet.
    pub(in crate::scheduler) fn taken(&self) -> u32 {
        self.slots + self.releasing
    }

    /// Its leases with slots, the least loaded first.
    pub(in crate::scheduler) fn least_loaded(&self) -> impl Iterator<Item = DukeId> {
        self.by_load.iter().map(|(_, duke)| *duke)
    }

    /// Puts the entry of a lease in place of what it was before.
    pub(super) fn replace(&mut self, duke: DukeId, before: Entry, after: Entry) {
        self.slots = self.slots - before.slots + after.slots;
        self.releasing = self.releasing - before.releasing + after.releasing;
        if let Some(load) = before.load {
            self.by_load.remove(&(load, duke));
        }
        if let Some(load) = after.load {
            self.by_load.insert((load, duke));
        }
    }
}
