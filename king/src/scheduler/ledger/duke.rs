//! The books of one duke: its machine, and which of its slots serve which job.

use std::collections::{BTreeMap, VecDeque};

use distwasm_proto::{ids::JobId, time::Time};

use super::{Lease, Link};
use crate::scheduler::events::JobSpec;

/// One duke.
#[derive(Debug)]
pub(in crate::scheduler) struct Duke {
    pub(in crate::scheduler) cpus: u32,
    pub(in crate::scheduler) ram_bytes: u64,
    labels: BTreeMap<String, String>,
    /// The part of the machine that no slot has.
    pub(super) free: Room,
    pub(in crate::scheduler) leases: BTreeMap<JobId, Lease>,
    /// What is on its way to it.
    pub(in crate::scheduler) link: Link,
    /// Slots that will be granted as soon as there is room, in this order.
    pub(super) reserved: VecDeque<Reservation>,
    /// It is going to leave, or its link broke: it gets nothing new.
    pub(in crate::scheduler) draining: bool,
    /// When its link broke.
    pub(in crate::scheduler) away_since: Option<Time>,
}

/// A slot that a job will have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub(super) job: JobId,
    pub(super) slot: Room,
    pub(super) since: Time,
}

/// A part of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::scheduler) struct Room {
    pub(in crate::scheduler) cpus: u32,
    pub(in crate::scheduler) bytes: u64,
}

impl Room {
    pub(in crate::scheduler) fn times(self, slots: u32) -> Room {
        Room { cpus: self.cpus.saturating_mul(slots), bytes: self.bytes.saturating_mul(u64::from(slots)) }
    }

    pub(in crate::scheduler) fn plus(self, other: Room) -> Room {
        Room { cpus: self.cpus + other.cpus, bytes: self.bytes + other.bytes }
    }

    /// The rest when `other` is taken away; `None` if `other` does not fit.
    pub(in crate::scheduler) fn minus(self, other: Room) -> Option<Room> {
        Some(Room { cpus: self.cpus.checked_sub(other.cpus)?, bytes: self.bytes.checked_sub(other.bytes)? })
    }
}

impl Duke {
    pub(in crate::scheduler) fn new(cpus: u32, ram_bytes: u64, labels: BTreeMap<String, String>) -> Duke {
        let free = Room { cpus, bytes: ram_bytes };
        let (leases, reserved) = (BTreeMap::new(), VecDeque::new());
        let link = Link::default();
        Duke { cpus, ram_bytes, labels, free, leases, link, reserved, draining: false, away_since: None }
    }

    /// Whether the machine has all these labels.
    pub(in crate::scheduler) fn has_labels(&self, required: &BTreeMap<String, String>) -> bool {
        required.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// How many slots a job could have here, and the part of the machine that each takes; `None` if the job does not
    /// fit at all, or requires labels that the duke does not have.
    pub(in crate::scheduler) fn capacity(&self, spec: &JobSpec) -> Option<(u32, Room)> {
        if !self.has_labels(&spec.requires) {
            return None;
        }
        let by_ram = self.ram_bytes.checked_div(spec.min_ram_bytes).unwrap_or(u64::MAX);
        let mut slots = u32::try_from(by_ram).unwrap_or(u32::MAX).min(self.cpus);
        if spec.one_per_machine {
            slots = slots.min(1);
        }
        let bytes = self.ram_bytes.checked_div(u64::from(slots))?;
        Some((slots, Room { cpus: 1, bytes }))
    }

    /// Slots that a job has or will have here.
    pub(in crate::scheduler) fn slots_of(&self, job: JobId) -> u32 {
        let reserved = self.reserved.iter().filter(|reserved| reserved.job == job).count();
        let held = self.leases.get(&job).map_or(0, |lease| lease.slots);
        held + u32::try_from(reserved).unwrap_or(u32::MAX)
    }

    /// The part of the machine that is free or will be, less the reservations.
    pub(in crate::scheduler) fn uncommitted(&self) -> Option<Room> {
        let coming = self.leases.values().map(|lease| lease.slot.times(lease.releasing));
        let free = coming.fold(self.free, Room::plus);
        self.reserved.iter().try_fold(free, |room, reservation| room.minus(reservation.slot))
    }

    /// Whether that many slots of this size are free.
    pub(in crate::scheduler) fn has_free(&self, slot: Room, slots: u32) -> bool {
        self.free.minus(slot.times(slots)).is_some()
    }

    /// The room that one more slot for this job would take; `None` if the job may not have one more here.
    pub(in crate::scheduler) fn slot_for(&self, id: JobId, spec: &JobSpec) -> Option<Room> {
        let (slots_max, slot) = self.capacity(spec)?;
        // A duke that gave the job up gives its slots back first; one that is blocked needs no more.
        let is_unfit = |lease: &Lease| lease.broken_until.is_some() || !lease.takes_slots() || lease.blocked;
        let takes_none = self.leases.get(&id).is_some_and(is_unfit);
        (!takes_none && !self.draining && self.slots_of(id) < slots_max).then_some(slot)
    }

    /// The first reserved slot, if it can be granted now.
    pub(super) fn servable(&self) -> Option<Reservation> {
        let first = *self.reserved.front()?;
        let takes_slots = self.leases.get(&first.job).is_none_or(Lease::takes_slots);
        (takes_slots && self.has_free(first.slot, 1)).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_job_has_no_place_where_a_label_is_missing() {
        let duke = Duke::new(2, 1000, labels(&[("zone", "eu"), ("gpu", "")]));
        let slots = |required: &[(&str, &str)]| {
            let spec = JobSpec { requires: labels(required), ..JobSpec::default() };
            duke.capacity(&spec).map(|(slots, _)| slots)
        };
        assert_eq!(slots(&[]), Some(2));
        assert_eq!(slots(&[("zone", "eu"), ("gpu", "")]), Some(2));
        assert_eq!(slots(&[("zone", "us")]), None);
        assert_eq!(slots(&[("zone", "eu"), ("disk", "")]), None);
    }
}
