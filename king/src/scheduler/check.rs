//! The scheduler's invariants, by name; the simulator checks them after each batch of events.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::ids::{JobId, UnitNo};

use super::{ResultBounds, Scheduler, job::Job, units::UnitState};

impl Scheduler {
    /// Asserts every invariant.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        self.ledger.check();
        self.check_preemption();
        self.check_leases();
        self.check_jobs();
        self.check_projects();
        self.check_attempts();
        self.check_units();
    }

    fn check_leases(&self) {
        for (duke_id, duke) in self.ledger.dukes() {
            for (job_id, lease) in duke.leases.iter().filter(|(_, lease)| !lease.is_closed()) {
                let job = self.jobs.get(job_id);
                assert!(job.is_some(), "open_lease_is_for_a_job: {duke_id}, {job_id}");
                let Some(Job { spec, results, .. }) = job else { continue };
                assert!(duke.has_labels(&spec.requires), "duke_has_the_labels_it_needs: {duke_id}, {job_id}");
                assert!(!spec.one_per_machine || lease.slots <= 1, "one_per_machine: {duke_id}, {job_id}");
                let slot_bytes = lease.slot.bytes;
                assert!(slot_bytes >= spec.min_ram_bytes, "slot_has_the_memory_it_needs: {duke_id}, {job_id}");
                let is_blocked = results.is_blocked(duke_id);
                assert_eq!(lease.blocked, is_blocked, "lease_knows_whether_its_duke_is_blocked: {duke_id}, {job_id}");
            }
        }
    }

    fn check_jobs(&self) {
        for (id, _) in self.ledger.accounts() {
            assert!(self.has_job(id), "account_is_that_of_a_job: {id}");
        }
        for (id, job) in &self.jobs {
            job.results.check(*id);
            let has_more = job.units.open() > 0 || job.unheard > 0;
            assert!(!job.closed || has_more, "complete_job_is_ended: {id}");
            // Slots that came back with dukes may be too many; then some of them are being given back.
            let promised = self.ledger.account(*id).promised();
            assert!(job.spec.max_parallel.is_none_or(|max| promised <= max), "max_parallel_is_kept: {id}");
            let is_waiting = !job.results.is_short() || self.short.contains(id);
            assert!(is_waiting, "job_that_is_short_of_room_is_looked_at_again: {id}");
        }
        let in_transit = self.jobs.values().map(|job| job.results.bytes_in_transit()).fold(0, u64::saturating_add);
        let ResultBounds { most, reserve } = self.result_bounds;
        let bound = most.saturating_add(reserve.saturating_mul(self.jobs.len() as u64));
        assert!(in_transit <= bound, "results_of_all_jobs_have_a_bound: {in_transit}");
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

    fn check_attempts(&self) {
        for (id, attempt) in self.ledger.attempts() {
            let job = self.jobs.get(&attempt.job);
            assert!(job.is_some(), "attempt_is_for_a_known_job: {id}");
            let has_result = job.is_some_and(|job| job.results.get(id).is_some());
            assert_ne!(attempt.runs, has_result, "attempt_runs_or_has_a_result: {id}");
        }
    }

    fn check_units(&self) {
        let mut tried: BTreeMap<(JobId, UnitNo), u8> = BTreeMap::new();
        for (id, attempt) in self.ledger.attempts() {
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
}
