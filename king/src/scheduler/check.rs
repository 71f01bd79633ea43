//! The scheduler's invariants, by name; the simulator checks them after each batch of events.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::ids::{JobId, UnitNo};

use super::{Scheduler, duke::Room, job::Job, units::UnitState};

impl Scheduler {
    /// Asserts every invariant.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        self.check_dukes();
        self.check_leases();
        self.check_jobs();
        self.check_projects();
        self.check_units();
        self.check_results();
    }

    fn check_dukes(&self) {
        for (id, duke) in &self.dukes {
            let held = duke.leases.values().map(|lease| lease.slot.times(lease.slots + lease.releasing));
            let all = held.fold(duke.free, Room::plus);
            let machine = Room { cpus: duke.cpus, bytes: duke.ram_bytes };
            assert_eq!(all, machine, "machine_is_dealt_out_once: {id}");
            let coming = duke.leases.values().map(|lease| lease.slot.times(lease.releasing));
            let promised = duke.reserved.iter().filter_map(|job| Some(duke.capacity(&self.jobs.get(job)?.spec)?.1));
            let promised = promised.fold(Room::default(), Room::plus);
            let available = coming.fold(duke.free, Room::plus);
            assert!(available.minus(promised).is_some(), "reservations_can_be_kept: {id}");
            let slots: u32 = duke.leases.values().map(|lease| lease.slots).sum();
            assert!(duke.away_since.is_none() || duke.draining, "absent_duke_gets_nothing: {id}");
            assert!(!duke.draining || slots == 0, "draining_duke_serves_nobody: {id}");
            for job in &duke.reserved {
                assert!(self.jobs.contains_key(job), "reservation_is_for_a_job: {id}, {job}");
            }
        }
    }

    fn check_leases(&self) {
        for (duke_id, duke) in &self.dukes {
            for (job_id, lease) in &duke.leases {
                let attempts = || self.attempts.values().filter(|a| a.duke == *duke_id && a.job == *job_id && a.runs);
                assert_eq!(
                    lease.running as usize,
                    attempts().count(),
                    "lease_counts_its_attempts: {duke_id}, {job_id}"
                );
                let bytes: u64 = attempts().map(|attempt| attempt.input_bytes).sum();
                assert_eq!(lease.running_bytes, bytes, "lease_counts_its_bytes: {duke_id}, {job_id}");
                let Some(job) = self.jobs.get(job_id).filter(|_| !lease.is_closed()) else {
                    assert_eq!(lease.slots, 0, "ended_job_has_no_slots: {duke_id}, {job_id}");
                    assert!(lease.releasing > 0, "ended_lease_is_forgotten: {duke_id}, {job_id}");
                    continue;
                };
                let listed = job.by_load.contains(&(lease.load(), *duke_id));
                assert_eq!(listed, lease.slots > 0, "lease_is_found_by_its_load: {duke_id}, {job_id}");
                assert!(duke.has_labels(&job.spec.requires), "duke_has_the_labels_it_needs: {duke_id}, {job_id}");
                if job.spec.one_per_machine {
                    assert!(lease.slots <= 1, "one_per_machine: {duke_id}, {job_id}");
                }
                let slot_bytes = lease.slot.bytes;
                assert!(slot_bytes >= job.spec.min_ram_bytes, "slot_has_the_memory_it_needs: {duke_id}, {job_id}");
            }
        }
    }

    fn check_jobs(&self) {
        let mut slots: BTreeMap<JobId, u32> = BTreeMap::new();
        let mut releasing: BTreeMap<JobId, u32> = BTreeMap::new();
        let mut reserved: BTreeMap<JobId, u32> = BTreeMap::new();
        for duke in self.dukes.values() {
            for (job, lease) in duke.leases.iter().filter(|(_, lease)| !lease.is_closed()) {
                *slots.entry(*job).or_default() += lease.slots;
                *releasing.entry(*job).or_default() += lease.releasing;
            }
            for job in &duke.reserved {
                *reserved.entry(*job).or_default() += 1;
            }
        }
        for (id, job) in &self.jobs {
            assert_eq!(job.slots, slots.get(id).copied().unwrap_or(0), "job_counts_its_slots: {id}");
            assert_eq!(job.reserved, reserved.get(id).copied().unwrap_or(0), "job_counts_its_reservations: {id}");
            let counted = releasing.get(id).copied().unwrap_or(0);
            assert_eq!(job.releasing, counted, "job_counts_what_it_gives_back: {id}");
            let has_more = job.units.open() > 0 || job.unheard > 0;
            assert!(!job.closed || has_more, "complete_job_is_ended: {id}");
            // Slots that came back with dukes may be too many; then some of them are being given back.
            let taken = job.slots + job.reserved;
            assert!(job.spec.max_parallel.is_none_or(|max| taken <= max), "max_parallel_is_kept: {id}");
        }
    }

    fn check_projects(&self) {
        let mut weights: BTreeMap<&str, u32> = BTreeMap::new();
        for Job { spec, .. } in self.jobs.values() {
            let weight = weights.entry(&spec.project).or_default();
            *weight = spec.weight.max(*weight);
        }
        let known = self.projects.iter().map(|(name, project)| (name, project.weight));
        assert!(known.eq(weights), "project_weighs_what_its_heaviest_job_does");
    }

    fn check_units(&self) {
        let mut tried: BTreeMap<(JobId, UnitNo), u8> = BTreeMap::new();
        for (id, attempt) in &self.attempts {
            assert!(self.dukes.contains_key(&attempt.duke), "attempt_is_at_a_known_duke: {id}");
            assert!(self.jobs.contains_key(&attempt.job), "attempt_is_for_a_known_job: {id}");
            let attempts = tried.entry((attempt.job, attempt.unit)).or_default();
            *attempts += 1;
            assert!(*attempts <= 2, "unit_has_two_attempts_at_most: {id}");
        }
        for (id, job) in &self.jobs {
            let queued: Vec<UnitNo> = job.waiting.iter().chain(&job.suspects).copied().collect();
            let queued_once: BTreeSet<UnitNo> = queued.iter().copied().collect();
            assert_eq!(queued.len(), queued_once.len(), "unit_is_queued_once: {id}");
            let mut open = 0;
            for (unit, state) in job.units.iter() {
                assert_eq!(
                    queued_once.contains(&unit),
                    state.state == UnitState::Waiting,
                    "waiting_unit_is_queued: {id}, {unit}"
                );
                let attempts = tried.get(&(*id, unit)).copied().unwrap_or(0);
                assert_eq!(attempts, state.trying, "unit_counts_its_attempts: {id}, {unit}");
                assert_eq!(attempts > 0, state.state == UnitState::Trying, "unit_is_tried: {id}, {unit}");
                let is_runnable = matches!(state.state, UnitState::Waiting | UnitState::Parked);
                assert!(!is_runnable || state.has_input, "what_waits_is_here: {id}, {unit}");
                let is_parked = state.state == UnitState::Parked;
                assert!(!is_parked || job.awaits_dukes.is_some(), "parked_unit_is_let_go: {id}, {unit}");
                open += u64::from(state.state != UnitState::Reported);
            }
            assert_eq!(job.units.open(), open, "job_counts_its_open_units: {id}");
        }
    }

    fn check_results(&self) {
        for (id, job) in &self.jobs {
            job.results.check(*id);
        }
        for (id, attempt) in &self.attempts {
            let has_result = self.jobs.get(&attempt.job).is_some_and(|job| job.results.get(*id).is_some());
            assert_ne!(attempt.runs, has_result, "attempt_runs_or_has_a_result: {id}");
        }
        for (duke_id, duke) in &self.dukes {
            for (job_id, lease) in &duke.leases {
                let is_blocked = self.jobs.get(job_id).is_some_and(|job| job.results.is_blocked(*duke_id));
                assert_eq!(lease.blocked, is_blocked, "lease_knows_whether_its_duke_is_blocked: {duke_id}, {job_id}");
            }
        }
    }
}
