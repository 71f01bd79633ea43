//! What a job has on one duke.

use std::collections::VecDeque;

use distwasm_proto::{
    ids::AttemptId,
    limits::{SLOT_BYTES, SLOT_UNITS_MIN},
    time::Time,
};

use super::Room;

/// The slots and attempts of a job on a duke.
#[derive(Debug)]
pub(in crate::scheduler) struct Lease {
    /// The part of the machine that each slot takes.
    pub(in crate::scheduler) slot: Room,
    /// Slots that serve the job.
    pub(in crate::scheduler) slots: u32,
    /// Slots that were asked back and are not free yet.
    pub(in crate::scheduler) releasing: u32,
    /// When those of them were asked back that the duke gives back in its own time. Slots that it gives back because it
    /// leaves, or because the job is over, are not among them.
    pub(in crate::scheduler) asked: VecDeque<Time>,
    /// How many of them are taken by force.
    pub(in crate::scheduler) taken: u32,
    /// When it was last granted a slot.
    pub(in crate::scheduler) since: Time,
    /// Its attempts, in the order of their numbers.
    pub(in crate::scheduler) attempts: VecDeque<AttemptId>,
    /// Those of them that are queued or running, and the bytes of their inputs.
    pub(in crate::scheduler) running: u32,
    pub(in crate::scheduler) running_bytes: u64,
    /// Results of the job are made here faster than the link carries them away: it gets no more units.
    pub(in crate::scheduler) blocked: bool,
    /// The duke cannot start peasants for this job, and gets no slots for it until then.
    pub(in crate::scheduler) broken_until: Option<Time>,
    /// The job is over.
    closed: bool,
}

/// A lease as the account of its job knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slots: u32,
    pub(super) releasing: u32,
    pub(super) load: Option<u32>,
}

impl Lease {
    pub(in crate::scheduler) fn new(slot: Room) -> Lease {
        Lease::returning(slot, 0, 0, Time::default())
    }

    /// One that a duke brings back.
    pub(in crate::scheduler) fn returning(slot: Room, slots: u32, releasing: u32, since: Time) -> Lease {
        Lease {
            slot,
            slots,
            releasing,
            asked: (0..releasing).map(|_| since).collect(),
            taken: 0,
            since,
            attempts: VecDeque::new(),
            running: 0,
            running_bytes: 0,
            blocked: false,
            broken_until: None,
            closed: false,
        }
    }

    /// Units queued for each slot; the highest number when no more bytes should be queued, or the duke is blocked.
    /// `None` without slots.
    pub(in crate::scheduler) fn load(&self) -> Option<u32> {
        let units = self.running.checked_div(self.slots)?;
        let is_full = self.running_bytes >= u64::from(self.slots) * SLOT_BYTES && units >= SLOT_UNITS_MIN;
        Some(if is_full || self.blocked { u32::MAX } else { units })
    }

    /// Whether slots are idle because the duke is blocked, when the lease is counted with `less` fewer slots.
    pub(in crate::scheduler) fn has_blocked_slots(&self, less: u32) -> bool {
        self.blocked && self.running.saturating_add(less) < self.slots
    }

    /// Whether the lease is over: its slots count for no job any more.
    pub(in crate::scheduler) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it may have one more slot. Not while slots are being asked back: a duke that gives slots back as broken
    /// would not know which of them the king has heard of.
    pub(in crate::scheduler) fn takes_slots(&self) -> bool {
        !self.closed && self.releasing == 0
    }

    /// Whether it is closed, and all its slots are free.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.releasing == 0
    }

    pub(super) fn entry(&self) -> Entry {
        if self.closed {
            return Entry::default();
        }
        Entry { slots: self.slots, releasing: self.releasing, load: self.load() }
    }

    /// Asks all slots back.
    pub(super) fn release_all(&mut self) {
        self.releasing += self.slots;
        self.slots = 0;
    }

    /// Slots that were asked back are free: first those that were taken, and then those that were asked back first.
    pub(super) fn settle(&mut self, slots: u32) {
        self.releasing -= slots;
        let taken = slots.min(self.taken);
        self.taken -= taken;
        self.forget_asked(slots - taken);
    }

    /// Slots that were asked back first are not waited for any more.
    pub(super) fn forget_asked(&mut self, slots: u32) {
        self.asked.drain(..(slots as usize).min(self.asked.len()));
    }

    /// Asks all slots back, permanently.
    pub(super) fn close(&mut self) {
        self.release_all();
        self.closed = true;
        (self.taken, self.asked) = (0, VecDeque::new());
        self.attempts.clear();
        (self.running, self.running_bytes, self.blocked) = (0, 0, false);
    }

    pub(super) fn start(&mut self, id: AttemptId, input_bytes: u64) {
        match self.attempts.back() {
            // Attempts that a duke brings back may come in any order.
            Some(last) if *last > id => {
                let place = self.attempts.partition_point(|earlier| *earlier < id);
                self.attempts.insert(place, id);
            }
            _ => self.attempts.push_back(id),
        }
        self.load_with(input_bytes);
    }

    /// `running_bytes` are those of its input if it is running.
    pub(super) fn end(&mut self, id: AttemptId, running_bytes: Option<u64>) {
        // Attempts end about in the order in which they began.
        if self.attempts.front() == Some(&id) {
            self.attempts.pop_front();
        } else if let Ok(place) = self.attempts.binary_search(&id) {
            self.attempts.remove(place);
        }
        if let Some(bytes) = running_bytes {
            self.unload(bytes);
        }
    }

    pub(super) fn load_with(&mut self, input_bytes: u64) {
        self.running += 1;
        self.running_bytes += input_bytes;
    }

    pub(super) fn unload(&mut self, input_bytes: u64) {
        self.running -= 1;
        self.running_bytes -= input_bytes;
    }
}
