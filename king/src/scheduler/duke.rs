//! The scheduler's view of a duke: its machine, and which of its slots serve which job.

use std::collections::{BTreeMap, VecDeque};

use distwasm_proto::{
    ids::JobId,
    limits::{SLOT_BYTES, SLOT_UNITS_MIN},
    time::Time,
};

use super::events::JobSpec;

/// One duke.
#[derive(Debug)]
pub(super) struct Duke {
    pub(super) cpus: u32,
    pub(super) ram_bytes: u64,
    labels: BTreeMap<String, String>,
    /// The part of the machine that no slot has.
    pub(super) free: Room,
    pub(super) leases: BTreeMap<JobId, Lease>,
    /// Jobs that get a slot as soon as there is room, one entry for each slot, in this order.
    pub(super) reserved: VecDeque<JobId>,
    /// It is going to leave, or its link broke: it gets nothing new.
    pub(super) draining: bool,
    /// When its link broke.
    pub(super) away_since: Option<Time>,
}

/// A part of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) cpus: u32,
    pub(super) bytes: u64,
}

impl Room {
    pub(super) fn times(self, slots: u32) -> Room {
        Room { cpus: self.cpus.saturating_mul(slots), bytes: self.bytes.saturating_mul(u64::from(slots)) }
    }

    pub(super) fn plus(self, other: Room) -> Room {
        Room { cpus: self.cpus + other.cpus, bytes: self.bytes + other.bytes }
    }

    /// The rest when `other` is taken away; `None` if `other` does not fit.
    pub(super) fn minus(self, other: Room) -> Option<Room> {
        Some(Room { cpus: self.cpus.checked_sub(other.cpus)?, bytes: self.bytes.checked_sub(other.bytes)? })
    }
}

/// The slots and attempts of a job on a duke.
#[derive(Debug)]
pub(super) struct Lease {
    /// The part of the machine that each slot takes.
    pub(super) slot: Room,
    /// Slots that serve the job.
    pub(super) slots: u32,
    /// Slots that were asked back and are not free yet.
    pub(super) releasing: u32,
    /// When it was last granted a slot.
    pub(super) since: Time,
    /// Attempts that are queued or running, and the bytes of their inputs.
    pub(super) running: u32,
    pub(super) running_bytes: u64,
    /// Results of the job are made here faster than the link carries them away: it gets no more units.
    pub(super) blocked: bool,
    /// The duke cannot start peasants for this job, and gets no slots for it until then.
    pub(super) broken_until: Option<Time>,
    /// The job is over.
    closed: bool,
}

impl Lease {
    pub(super) fn new(slot: Room) -> Lease {
        Lease {
            slot,
            slots: 0,
            releasing: 0,
            since: Time::default(),
            running: 0,
            running_bytes: 0,
            blocked: false,
            broken_until: None,
            closed: false,
        }
    }

    /// Units queued for each slot; the highest number when no more bytes should be queued, or the duke is blocked.
    pub(super) fn load(&self) -> u32 {
        let Some(units) = self.running.checked_div(self.slots) else { return u32::MAX };
        let is_full = self.running_bytes >= u64::from(self.slots) * SLOT_BYTES && units >= SLOT_UNITS_MIN;
        if is_full || self.blocked { u32::MAX } else { units }
    }

    /// Whether slots are idle because the duke is blocked, when the lease is counted with `less` fewer slots.
    pub(super) fn has_blocked_slots(&self, less: u32) -> bool {
        self.blocked && self.running.saturating_add(less) < self.slots
    }

    /// Whether the lease is over: its slots count for no job any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it may have one more slot. Not while slots are being asked back: a duke that gives slots back as broken
    /// would not know which of them the king has heard of.
    pub(super) fn takes_slots(&self) -> bool {
        !self.closed && self.releasing == 0
    }

    /// Asks all slots back, permanently.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.releasing += self.slots;
        self.slots = 0;
        (self.running, self.running_bytes, self.blocked) = (0, 0, false);
    }
}

impl Duke {
    pub(super) fn new(cpus: u32, ram_bytes: u64, labels: BTreeMap<String, String>) -> Duke {
        let free = Room { cpus, bytes: ram_bytes };
        let (leases, reserved) = (BTreeMap::new(), VecDeque::new());
        Duke { cpus, ram_bytes, labels, free, leases, reserved, draining: false, away_since: None }
    }

    /// Whether the machine has all these labels.
    pub(super) fn has_labels(&self, required: &BTreeMap<String, String>) -> bool {
        required.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// How many slots a job could have here, and the part of the machine that each takes; `None` if the job does not
    /// fit at all, or requires labels that the duke does not have.
    pub(super) fn capacity(&self, spec: &JobSpec) -> Option<(u32, Room)> {
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
    pub(super) fn slots_of(&self, job: JobId) -> u32 {
        let reserved = self.reserved.iter().filter(|reserved| **reserved == job).count();
        let held = self.leases.get(&job).map_or(0, |lease| lease.slots);
        held + u32::try_from(reserved).unwrap_or(u32::MAX)
    }

    /// Records that `slots` slots of a job, already taken off its lease, are free.
    pub(super) fn free_slots(&mut self, job: JobId, slots: u32) {
        if let Some(lease) = self.leases.get(&job) {
            self.free = self.free.plus(lease.slot.times(slots));
        }
        self.forget_lease_if_over(job);
    }

    pub(super) fn forget_lease_if_over(&mut self, job: JobId) {
        if self.leases.get(&job).is_some_and(|lease| lease.closed && lease.releasing == 0) {
            self.leases.remove(&job);
        }
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
