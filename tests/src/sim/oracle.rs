//! An oracle: it knows how each input of a queen must end, and hears how it does, as the reporter of the queen's
//! reactor.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use distwasm_jobs::{
    inputs::Input,
    report::{Compiling, Counts, FailedUnit, LongestInput, Reporter},
};
use distwasm_proto::{failure::FailureKind, ids::JobId};

use super::weather::{Nature, QueenPlan};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Oracle {
    job: JobId,
    plan: Arc<QueenPlan>,
    /// Inputs that ended, and whether they are done.
    ends: BTreeMap<usize, bool>,
}

/// An input of a plan. Its path is its place there.
pub(super) fn input_of(plan: &QueenPlan, place: usize) -> Input {
    Input::new(place.to_string(), plan.units[place].input_bytes)
}

/// The place of an input in its plan.
pub(super) fn place_of(path: &Path) -> usize {
    let place = path.to_str().and_then(|path| path.parse().ok());
    let Some(place) = place else { panic!("inputs_keep_their_paths: {}", path.display()) };
    place
}

impl Oracle {
    pub(super) fn new(job: JobId, plan: Arc<QueenPlan>) -> Oracle {
        Oracle { job, plan, ends: BTreeMap::new() }
    }

    /// How many inputs have ended.
    pub(super) fn ended(&self) -> usize {
        self.ends.len()
    }

    /// How many inputs are done, and how many failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        let done = self.ends.values().filter(|done| **done).count();
        (done as u64, (self.ends.len() - done) as u64)
    }

    /// Whether an input has its output, or will have it.
    pub(super) fn is_done(&self, place: usize) -> bool {
        self.ends.get(&place).copied().unwrap_or(false)
    }

    /// A result of this size is about to be written.
    pub(super) fn writes(&mut self, place: usize, bytes: u64) {
        let job = self.job;
        let is_its_own = self.plan.lies || bytes == self.plan.units[place].result_bytes;
        assert!(is_its_own, "verdict_comes_with_its_result: {job}, {place}: {bytes}");
        self.end(place, true);
    }

    fn end(&mut self, place: usize, done: bool) {
        let (job, unit) = (self.job, self.plan.units[place]);
        let deserves = match unit.nature {
            Nature::Ordinary => true,
            Nature::Fails | Nature::Kills | Nature::Hangs | Nature::Broken => false,
            // If a duke or a peasant was lost with the first failure, the unit may have had a second first attempt.
            Nature::FailsOnce | Nature::HangsOnce => done || self.plan.retries > 0,
        };
        assert!(self.plan.lies || done == deserves, "unit_gets_the_verdict_it_deserves: {job}, {place}: {unit:?}");
        assert!(self.ends.insert(place, done).is_none(), "no_verdict_twice: {job}, {place}");
    }
}

impl Reporter for Oracle {
    fn skipped(&mut self, _: &Path, _: &str) {}

    fn failed(&mut self, FailedUnit { path, failure, .. }: FailedUnit) {
        let (job, place) = (self.job, place_of(&path));
        assert!(!failure.message.is_empty(), "a_failure_has_its_reason: {job}, {place}");
        assert!(!failure.message.contains("lost the evidence"), "verdict_has_its_evidence: {job}, {place}");
        if failure.kind == FailureKind::Output {
            let before = self.ends.insert(place, false);
            assert_eq!(before, Some(true), "an_output_fails_once: {job}, {place}");
        } else {
            self.end(place, false);
        }
    }

    fn waits(&mut self, _: &str) {}

    fn longest(&mut self, _: Option<LongestInput>) {}

    fn compiling(&mut self, _: Option<Compiling>) {}

    fn listed(&mut self, _: &Counts) {}

    fn progress(&mut self, _: &Counts) {}
}
