//! The books of slots and attempts: dukes, their leases, and one account for each job.
//!
//! Every slot is written down three times: in the machine of its duke, in a lease of the duke, and in the account of a
//! job. [`Ledger::change`] is the only function that changes a lease, and it keeps the three equal. Others read the
//! books, decide, and call one of the methods here. (The idea is from Neon's `IntentState`.)

mod account;
mod check;
mod duke;
mod lease;
mod link;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    time::Time,
};

use duke::Reservation;
use lease::Entry;

pub(super) use account::Account;
pub(super) use duke::{Duke, Room};
pub(super) use lease::Lease;
pub(super) use link::Link;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    dukes: BTreeMap<DukeId, Duke>,
    /// Those that would have got more units if there had been room on their links.
    crowded: BTreeSet<DukeId>,
    /// Those of jobs that have or had slots.
    accounts: BTreeMap<JobId, Account>,
    /// All attempts. Each lease lists its own.
    attempts: BTreeMap<AttemptId, Attempt>,
}

/// One try of one unit on one duke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) duke: DukeId,
    pub(super) job: JobId,
    pub(super) unit: UnitNo,
    pub(super) input_bytes: u64,
    /// When it was handed to its duke, or its result was recalled.
    pub(super) since: Time,
    /// When a part of its input was last on its way to its duke; `since` before that.
    pub(super) moved: Time,
    /// Queued or running at its duke. Otherwise its result is offered or in transit.
    pub(super) runs: bool,
}

/// A slot that a job was granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) job: JobId,
    /// The memory of each slot, if it is the first one of a new lease.
    pub(super) opened: Option<u64>,
}

/// A duke gave back more slots than it has.
#[derive(Debug)]
pub(super) struct Overdrawn;

impl Ledger {
    // ---- Dukes ----------------------------------------------------------------------------------------------------

    pub(super) fn join(&mut self, id: DukeId, duke: Duke) {
        let known = self.dukes.insert(id, duke);
        debug_assert!(known.is_none(), "a duke's id is never used twice");
    }

    /// Strikes out a duke whose attempts have been ended. Returns the jobs that had a lease.
    pub(super) fn lose(&mut self, id: DukeId) -> Option<Vec<JobId>> {
        let jobs: Vec<JobId> = self.dukes.get(&id)?.leases.keys().copied().collect();
        for job in &jobs {
            self.close(id, *job);
        }
        self.crowded.remove(&id);
        for reservation in self.dukes.remove(&id)?.reserved {
            self.account_mut(reservation.job).reserved -= 1;
        }
        Some(jobs)
    }

    /// Records that the link of a duke broke, and that the duke is giving all its slots back.
    pub(super) fn set_away(&mut self, id: DukeId, now: Time) {
        if let Some(duke) = self.dukes.get_mut(&id) {
            duke.away_since = Some(now);
        }
        self.withdraw(id);
    }

    /// Records that a duke is giving all its slots back, and that it gets no others. Returns how many each job has.
    pub(super) fn withdraw(&mut self, id: DukeId) -> Vec<(JobId, u32)> {
        // A duke that was expelled may still say that it drains, before its link has ended.
        let Some(duke) = self.dukes.get_mut(&id) else { return Vec::new() };
        duke.draining = true;
        let granted = duke.leases.iter().map(|(job, lease)| (*job, lease.slots));
        let withdrawn: Vec<(JobId, u32)> = granted.filter(|(_, slots)| *slots > 0).collect();
        for (job, _) in &withdrawn {
            self.change(id, *job, Lease::release_all);
        }
        withdrawn
    }

    // ---- Slots ----------------------------------------------------------------------------------------------------

    /// Reserves the next slot of this size on a duke for a job.
    pub(super) fn reserve(&mut self, duke_id: DukeId, job: JobId, slot: Room, since: Time) {
        if let Some(duke) = self.dukes.get_mut(&duke_id) {
            duke.reserved.push_back(Reservation { job, slot, since });
            self.account_mut(job).reserved += 1;
        }
    }

    /// Drops reservations that cannot be kept, and those that are not wanted any more.
    pub(super) fn drop_reservations(&mut self, is_wanted: impl Fn(JobId, &Account) -> bool) {
        for duke in self.dukes.values_mut() {
            let Duke { reserved, leases, draining, .. } = duke;
            reserved.retain(|Reservation { job, .. }| {
                let is_unfit = |lease: &Lease| lease.broken_until.is_some() || lease.is_closed();
                let cannot_be = *draining || leases.get(job).is_some_and(is_unfit);
                let account = self.accounts.entry(*job).or_default();
                let keep = !cannot_be && is_wanted(*job, account);
                account.reserved -= u32::from(!keep);
                keep
            });
        }
    }

    /// Grants a duke's reserved slots while there is room, in their order.
    pub(super) fn serve_reservations(&mut self, id: DukeId, now: Time) -> Vec<Granted> {
        let mut granted = Vec::new();
        while let Some(Reservation { job, slot, .. }) = self.dukes.get(&id).and_then(Duke::servable) {
            let Some(duke) = self.dukes.get_mut(&id) else { break };
            duke.reserved.pop_front();
            let opened = (!duke.leases.contains_key(&job)).then_some(slot.bytes);
            duke.leases.entry(job).or_insert_with(|| Lease::new(slot));
            self.account_mut(job).reserved -= 1;
            self.change(id, job, |lease| {
                lease.slots += 1;
                lease.since = now;
            });
            granted.push(Granted { job, opened });
        }
        granted
    }

    /// Asks one slot back; the duke will say when it is free.
    pub(super) fn ask_back(&mut self, duke: DukeId, job: JobId, now: Time) {
        self.change(duke, job, |lease| {
            lease.slots -= 1;
            lease.releasing += 1;
            lease.asked.push_back(now);
        });
    }

    /// When each slot that another job waits for is overdue: a slot that was asked back, and not taken, on a duke where
    /// a slot is reserved. Those of one lease come one after the other.
    pub(super) fn slots_owed(&self, patience: Duration) -> Vec<(DukeId, JobId, Time)> {
        let mut owed = Vec::new();
        for (id, duke) in &self.dukes {
            let Some(reserved) = duke.reserved.front() else { continue };
            for (job, lease) in duke.leases.iter().filter(|(_, lease)| !lease.is_closed()) {
                owed.extend(lease.asked.iter().map(|asked| (*id, *job, (*asked).max(reserved.since).after(patience))));
            }
        }
        owed
    }

    /// Slots that were asked back are taken by force.
    pub(super) fn take(&mut self, duke: DukeId, job: JobId, slots: u32) {
        self.change(duke, job, |lease| {
            lease.forget_asked(slots);
            lease.taken += slots;
        });
    }

    /// Slots that were asked back are free. Returns whether there is such a lease: the duke may have given its slots
    /// back as broken before it heard that they are wanted back.
    pub(super) fn release(&mut self, duke: DukeId, job: JobId, slots: u32) -> Result<bool, Overdrawn> {
        let Some(lease) = self.lease(duke, job) else { return Ok(false) };
        if slots > lease.releasing {
            return Err(Overdrawn);
        }
        self.change(duke, job, |lease| lease.settle(slots));
        Ok(true)
    }

    /// A duke gives slots back because it cannot start peasants in them, and gets none for this job until `until`.
    /// Returns whether there is such a lease: the job may have ended.
    pub(super) fn break_slots(&mut self, duke: DukeId, job: JobId, slots: u32, until: Time) -> Result<bool, Overdrawn> {
        let Some(lease) = self.lease(duke, job) else { return Ok(false) };
        if slots > lease.slots + lease.releasing {
            return Err(Overdrawn);
        }
        // The duke takes the slots that were asked back meanwhile from the remaining ones, and releases them as usual.
        let staying = slots.min(lease.slots);
        self.change(duke, job, |lease| {
            lease.slots -= staying;
            lease.settle(slots - staying);
            lease.broken_until = Some(until);
        });
        Ok(true)
    }

    /// Ends the rest of leases whose slots broke long enough ago. Returns when the next rest ends.
    pub(super) fn end_rests(&mut self, now: Time) -> Option<Time> {
        let leases = self.dukes.values_mut().flat_map(|duke| duke.leases.values_mut());
        for lease in leases.filter(|lease| lease.broken_until.is_some_and(|until| until <= now)) {
            lease.broken_until = None;
        }
        let leases = self.dukes.values().flat_map(|duke| duke.leases.values());
        leases.filter_map(|lease| lease.broken_until).min()
    }

    // ---- Leases ---------------------------------------------------------------------------------------------------

    /// Takes over a lease that a duke brings back, with room on its machine. It is closed at once if it is not wanted.
    pub(super) fn adopt(&mut self, id: DukeId, job: JobId, lease: Lease, is_wanted: bool) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let known = duke.leases.insert(job, Lease::new(lease.slot));
        debug_assert!(known.is_none(), "the service names each job once");
        self.change(id, job, |entered| {
            *entered = lease;
            if !is_wanted {
                entered.close();
            }
        });
    }

    /// Closes a lease whose attempts have been ended: its slots count for no job any more.
    pub(super) fn close(&mut self, id: DukeId, job: JobId) {
        self.change(id, job, Lease::close);
        if let Some(duke) = self.dukes.get_mut(&id) {
            duke.link.forget_job(job);
        }
    }

    /// Closes all leases of a job, and ends its attempts. Returns the dukes that had one.
    pub(super) fn close_job(&mut self, id: JobId) -> Vec<DukeId> {
        for attempt in self.attempts_of_job(id) {
            self.attempts.remove(&attempt);
        }
        self.dukes.values_mut().for_each(|duke| duke.reserved.retain(|reservation| reservation.job != id));
        let dukes: Vec<DukeId> = self.leases_of(id).map(|(duke, _)| duke).collect();
        dukes.iter().for_each(|duke| self.close(*duke, id));
        self.accounts.remove(&id);
        dukes
    }

    /// Records whether results are made on a duke faster than its link carries them away.
    pub(super) fn set_blocked(&mut self, duke: DukeId, job: JobId, is_blocked: bool) {
        self.change(duke, job, |lease| lease.blocked = is_blocked);
    }

    // ---- Links ----------------------------------------------------------------------------------------------------

    /// All attempts up to this one have arrived at a duke.
    pub(super) fn arrive(&mut self, duke: DukeId, attempt: AttemptId, now: Time) {
        // The duke may have been expelled before its link has ended.
        if let Some(duke) = self.dukes.get_mut(&duke) {
            duke.link.arrive(attempt, now);
        }
    }

    /// A duke would get more units if its link had room.
    pub(super) fn await_room(&mut self, duke: DukeId) {
        self.crowded.insert(duke);
    }

    /// The jobs of a duke, if its link has room again that some of them may have waited for.
    pub(super) fn take_relieved(&mut self, id: DukeId) -> impl Iterator<Item = JobId> {
        let duke = self.dukes.get(&id).filter(|duke| duke.link.has_room());
        duke.filter(|_| self.crowded.remove(&id)).into_iter().flat_map(|duke| duke.leases.keys().copied())
    }

    /// The slots of a job on dukes whose links have no room.
    pub(super) fn crowded_slots(&self, job: JobId) -> u32 {
        self.crowded.iter().filter_map(|duke| self.lease(*duke, job)).map(|lease| lease.slots).sum()
    }

    // ---- Attempts -------------------------------------------------------------------------------------------------

    pub(super) fn start(&mut self, id: AttemptId, attempt: Attempt) {
        self.change(attempt.duke, attempt.job, |lease| lease.start(id, attempt.input_bytes));
        self.attempts.insert(id, attempt);
    }

    /// The same with an attempt whose input goes over the duke's link, where it takes this many bytes.
    pub(super) fn send(&mut self, id: AttemptId, attempt: Attempt, bytes: u64) {
        let Attempt { duke, job, input_bytes, since, .. } = attempt;
        self.change_with_link(duke, job, |lease, link| {
            link.send(id, job, bytes, since);
            lease.start(id, input_bytes);
        });
        self.attempts.insert(id, attempt);
    }

    pub(super) fn end(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        let running_bytes = attempt.runs.then_some(attempt.input_bytes);
        self.change(attempt.duke, attempt.job, |lease| lease.end(id, running_bytes));
        Some(attempt)
    }

    /// A part of a streamed input is on its way.
    pub(super) fn set_input_moved(&mut self, id: AttemptId, now: Time) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.moved = now;
        }
    }

    /// An attempt needs its slot no more: its result is offered.
    pub(super) fn set_done(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.runs = false;
        let Attempt { duke, job, input_bytes, .. } = *attempt;
        self.change(duke, job, |lease| lease.unload(input_bytes));
    }

    /// The result of an attempt was recalled: it counts as running until its duke is back.
    pub(super) fn set_undone(&mut self, id: AttemptId, now: Time) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        (attempt.runs, attempt.since, attempt.moved) = (true, now, now);
        let Attempt { duke, job, input_bytes, .. } = *attempt;
        self.change(duke, job, |lease| lease.load_with(input_bytes));
    }

    // ---- Queries --------------------------------------------------------------------------------------------------

    pub(super) fn duke(&self, id: DukeId) -> Option<&Duke> {
        self.dukes.get(&id)
    }

    pub(super) fn dukes(&self) -> impl Iterator<Item = (DukeId, &Duke)> {
        self.dukes.iter().map(|(id, duke)| (*id, duke))
    }

    pub(super) fn lease(&self, duke: DukeId, job: JobId) -> Option<&Lease> {
        self.dukes.get(&duke)?.leases.get(&job)
    }

    /// The leases of a job.
    pub(super) fn leases_of(&self, job: JobId) -> impl Iterator<Item = (DukeId, &Lease)> {
        self.dukes.iter().filter_map(move |(id, duke)| Some((*id, duke.leases.get(&job)?)))
    }

    /// That of a job without slots is empty.
    pub(super) fn account(&self, job: JobId) -> &Account {
        static EMPTY: Account = Account::new();
        self.accounts.get(&job).unwrap_or(&EMPTY)
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = (JobId, &Account)> {
        self.accounts.iter().map(|(id, account)| (*id, account))
    }

    pub(super) fn attempt(&self, id: AttemptId) -> Option<&Attempt> {
        self.attempts.get(&id)
    }

    /// All attempts in the order of their numbers.
    pub(super) fn attempts(&self) -> impl ExactSizeIterator<Item = (AttemptId, &Attempt)> {
        self.attempts.iter().map(|(id, attempt)| (*id, attempt))
    }

    pub(super) fn attempts_of_duke(&self, id: DukeId) -> BTreeSet<AttemptId> {
        let leases = self.dukes.get(&id).into_iter().flat_map(|duke| duke.leases.values());
        leases.flat_map(|lease| &lease.attempts).copied().collect()
    }

    pub(super) fn attempts_of_lease(&self, duke: DukeId, job: JobId) -> BTreeSet<AttemptId> {
        self.lease(duke, job).into_iter().flat_map(|lease| &lease.attempts).copied().collect()
    }

    pub(super) fn attempts_of_job(&self, id: JobId) -> BTreeSet<AttemptId> {
        self.leases_of(id).flat_map(|(_, lease)| &lease.attempts).copied().collect()
    }

    pub(super) fn attempts_of_units(&self, job: JobId, is_unit: impl Fn(UnitNo) -> bool) -> BTreeSet<AttemptId> {
        let mut attempts = self.attempts_of_job(job);
        attempts.retain(|id| self.attempts.get(id).is_some_and(|attempt| is_unit(attempt.unit)));
        attempts
    }

    // ---- What keeps the books equal -------------------------------------------------------------------------------

    /// Changes a lease, and with it the room that is free on its machine and the account of its job. A lease that is
    /// over is struck out.
    fn change(&mut self, duke_id: DukeId, job_id: JobId, change: impl FnOnce(&mut Lease)) {
        self.change_with_link(duke_id, job_id, |lease, _| change(lease));
    }

    /// The same, and perhaps what is noted of the duke's link.
    fn change_with_link(&mut self, duke_id: DukeId, job_id: JobId, change: impl FnOnce(&mut Lease, &mut Link)) {
        let Some(duke) = self.dukes.get_mut(&duke_id) else { return };
        let Some(lease) = duke.leases.get_mut(&job_id) else { return };
        let (before, room_before) = (lease.entry(), lease.slots + lease.releasing);
        change(lease, &mut duke.link);
        let (after, room_after) = (lease.entry(), lease.slots + lease.releasing);
        if room_before != room_after {
            let freed = duke.free.plus(lease.slot.times(room_before));
            duke.free = freed.minus(lease.slot.times(room_after)).unwrap_or_default();
        }
        if lease.is_over() {
            duke.leases.remove(&job_id);
        }
        if before != after {
            self.account_mut(job_id).replace(duke_id, before, after);
        }
    }

    fn account_mut(&mut self, job: JobId) -> &mut Account {
        self.accounts.entry(job).or_default()
    }
}
