//! The roster's invariants, by name; the simulator checks them after each batch of events.

use std::collections::BTreeSet;

use distwasm_proto::{ids::AttemptId, limits::STARTS_FAILED_MAX};

use super::{
    Roster,
    baron::{Baron, Stage},
    lease::{Lease, Program},
};

impl Roster {
    /// All attempts that wait or run, in no order.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = AttemptId> {
        let waiting = self.leases.values().flat_map(Lease::waiting);
        let in_pipes = self.barons.values().flat_map(|baron| baron.pipe.iter().filter(|unit| !unit.unwanted));
        waiting.chain(in_pipes).map(|unit| unit.attempt)
    }

    /// Asserts every invariant.
    ///
    /// # Panics
    ///
    /// When one does not hold; the message names it.
    pub fn check(&self) {
        let mut attempts = BTreeSet::new();
        for (id, baron) in &self.barons {
            let lease = self.leases.get(&baron.job);
            assert!(lease.is_some_and(|lease| lease.barons.contains(id)), "lease_knows_its_baron: {id}");
            let bytes: u64 = baron.pipe.iter().map(|unit| unit.bytes).sum();
            assert_eq!(baron.pipe_bytes, bytes, "pipe_counts_its_bytes: {id}");
            let alone = baron.pipe.iter().any(|unit| unit.alone);
            assert!(!alone || baron.pipe.len() == 1, "suspect_is_alone_in_its_pipe: {id}");
            let may_hold = matches!(
                baron.stage,
                Stage::Serving | Stage::TimedOut | Stage::Spared | Stage::Disturbed | Stage::Preempted
            );
            assert!(may_hold || baron.pipe.is_empty(), "only_a_ready_peasant_has_units: {id}");
            for unit in baron.pipe.iter().filter(|unit| !unit.unwanted) {
                assert!(attempts.insert(unit.attempt), "attempt_is_in_one_place: {}", unit.attempt);
            }
        }
        for (job, lease) in &self.leases {
            for unit in lease.waiting() {
                assert!(attempts.insert(unit.attempt), "attempt_is_in_one_place: {}", unit.attempt);
            }
            for baron in &lease.barons {
                assert!(self.barons.contains_key(baron), "lease_lists_living_barons: {job}, {baron}");
            }
            let barons = || lease.barons.iter().filter_map(|id| self.barons.get(id));
            let waiting = lease.waiting().count();
            let leaving = barons().filter(|baron| baron.leaving).count();
            assert!(lease.forced as usize <= leaving, "only_slots_that_leave_are_taken: {job}");
            assert!(self.taking(*job, self.handled).is_none(), "slots_are_taken_as_soon_as_they_may_be: {job}");
            assert!(waiting == 0 || barons().any(|baron| !baron.leaving), "orphans_are_returned: {job}");
            assert!(!lease.is_closed() || !lease.barons.is_empty(), "closed_lease_is_forgotten: {job}");
            assert!(lease.starts_failed < STARTS_FAILED_MAX, "hopeless_lease_is_given_up: {job}");
            if matches!(lease.program, Program::Ready | Program::Missing) && !lease.is_closed() {
                assert!(barons().all(|baron| baron.stage != Stage::Vacant), "slot_has_a_peasant: {job}");
            }
            let is_idle = |b: &Baron| b.stage == Stage::Serving && b.pipe.is_empty();
            assert!(!barons().any(|b| b.outdated && is_idle(b)), "outdated_peasant_ends_when_it_is_idle: {job}");
            let idle = barons().any(|b| is_idle(b) && !b.leaving);
            assert!(waiting == 0 || !idle, "peasant_idles_while_a_unit_waits: {job}");
        }
    }
}
