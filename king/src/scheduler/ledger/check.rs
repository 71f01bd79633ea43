//! The invariants of the books.

use std::collections::BTreeMap;

use distwasm_proto::ids::{DukeId, JobId};

use super::{Account, Attempt, Duke, Lease, Ledger, Room};

impl Ledger {
    pub(in crate::scheduler) fn check(&self) {
        let mut accounts: BTreeMap<JobId, Account> = BTreeMap::new();
        let mut listed = 0;
        for (id, duke) in &self.dukes {
            duke.check(*id);
            for (job, lease) in &duke.leases {
                self.check_lease(*id, *job, lease);
                listed += lease.attempts.len();
                if !lease.is_closed() {
                    let account = accounts.entry(*job).or_default();
                    account.slots += lease.slots;
                    account.releasing += lease.releasing;
                    account.by_load.extend(lease.load().map(|load| (load, *id)));
                }
            }
            for reservation in &duke.reserved {
                accounts.entry(reservation.job).or_default().reserved += 1;
            }
        }
        let is_crowded = |duke: &DukeId| self.dukes.get(duke).is_some_and(|duke| !duke.link.has_room());
        assert!(self.crowded.iter().all(is_crowded), "jobs_are_told_of_room_on_a_link: {:?}", self.crowded);
        assert_eq!(self.attempts.len(), listed, "attempt_is_listed_by_a_lease");
        let nothing = Account::new();
        for id in self.accounts.keys().chain(accounts.keys()) {
            let (account, counted) = (self.account(*id), accounts.get(id).unwrap_or(&nothing));
            assert_eq!(account.slots, counted.slots, "job_counts_its_slots: {id}");
            assert_eq!(account.reserved, counted.reserved, "job_counts_its_reservations: {id}");
            assert_eq!(account.releasing, counted.releasing, "job_counts_what_it_gives_back: {id}");
            assert_eq!(account.by_load, counted.by_load, "lease_is_found_by_its_load: {id}");
        }
    }

    fn check_lease(&self, duke_id: DukeId, job_id: JobId, lease: &Lease) {
        let of_lease = |attempt: &&Attempt| attempt.duke == duke_id && attempt.job == job_id;
        let attempts: Vec<&Attempt> =
            lease.attempts.iter().filter_map(|id| self.attempts.get(id)).filter(of_lease).collect();
        let asked = lease.asked.len() + lease.taken as usize;
        assert!(asked <= lease.releasing as usize, "slots_are_asked_back_once: {duke_id}, {job_id}");
        assert_eq!(lease.attempts.len(), attempts.len(), "lease_lists_its_attempts: {duke_id}, {job_id}");
        let running = || attempts.iter().filter(|attempt| attempt.runs);
        assert_eq!(lease.running as usize, running().count(), "lease_counts_its_attempts: {duke_id}, {job_id}");
        let bytes: u64 = running().map(|attempt| attempt.input_bytes).sum();
        assert_eq!(lease.running_bytes, bytes, "lease_counts_its_bytes: {duke_id}, {job_id}");
        if lease.is_closed() {
            assert_eq!(lease.slots, 0, "ended_job_has_no_slots: {duke_id}, {job_id}");
            assert!(lease.releasing > 0, "ended_lease_is_forgotten: {duke_id}, {job_id}");
        }
    }
}

impl Duke {
    fn check(&self, id: DukeId) {
        let held = self.leases.values().map(|lease| lease.slot.times(lease.slots + lease.releasing));
        let all = held.fold(self.free, Room::plus);
        let machine = Room { cpus: self.cpus, bytes: self.ram_bytes };
        assert_eq!(all, machine, "machine_is_dealt_out_once: {id}");
        assert!(self.uncommitted().is_some(), "reservations_can_be_kept: {id}");
        self.link.check(id);
        let slots: u32 = self.leases.values().map(|lease| lease.slots).sum();
        assert!(self.away_since.is_none() || self.draining, "absent_duke_gets_nothing: {id}");
        assert!(!self.draining || slots == 0, "draining_duke_serves_nobody: {id}");
    }
}
