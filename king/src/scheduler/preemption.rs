//! Takes slots by force that were asked back and did not come back in time, if the king's operator wants that
//! (`--preempt-after`).
//!
//! Only slots that another job waits for are taken, and only from dukes that are here. The duke ends the newest attempts,
//! so that the least work is lost. Their units run again, and nobody is to blame. A unit that was preempted is spared
//! until it has run for `PREEMPTED_FACTOR` times as long as before, so a unit of any length ends at some time.

use std::time::Duration;

use distwasm_proto::{
    ids::{DukeId, JobId},
    limits::PREEMPTED_FACTOR,
    time::Time,
};

use super::{Action, Alarm, Scheduler, units::Unit};

impl Scheduler {
    /// Takes slots that are overdue, and has itself called when the next ones are.
    pub(super) fn take_overdue_slots(&mut self, actions: &mut Vec<Action>) {
        let Some(patience) = self.rules.preempt_after else { return };
        let mut next: Option<Time> = None;
        let mut overdue: Vec<(DukeId, JobId, u32)> = Vec::new();
        for (duke, job, due) in self.ledger.slots_owed(patience) {
            match overdue.last_mut() {
                Some((of, for_job, slots)) if due <= self.now && (*of, *for_job) == (duke, job) => *slots += 1,
                _ if due <= self.now => overdue.push((duke, job, 1)),
                _ => next = Some(next.map_or(due, |next| next.min(due))),
            }
        }
        for (duke, job, slots) in overdue {
            self.ledger.take(duke, job, slots);
            actions.push(Action::TakeSlots { duke, job, slots });
        }
        match next {
            Some(at) => self.timers.set(Alarm::Preempt, at),
            None => self.timers.stop(Alarm::Preempt),
        }
    }

    /// Asserts that no slots are overdue that were not taken.
    pub(super) fn check_preemption(&self) {
        let Some(patience) = self.rules.preempt_after else { return };
        let overdue = self.ledger.slots_owed(patience).into_iter().find(|(.., due)| *due <= self.now);
        assert!(overdue.is_none(), "overdue_slots_are_taken: {overdue:?}");
    }
}

impl Unit {
    /// An attempt at it was ended for its slot, after it had run for so long.
    pub(super) fn set_preempted(&mut self, run_us: u64, patience: Duration) {
        let run = Duration::from_micros(run_us).max(patience);
        self.preempted_ms = self.preempted_ms.max(u32::try_from(run.as_millis()).unwrap_or(u32::MAX));
    }

    /// How long its next attempt runs in any case.
    pub(super) fn spared_us(&self) -> u64 {
        u64::from(self.preempted_ms) * 1000 * u64::from(PREEMPTED_FACTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{Event, JobSpec, Outcome, Rules, testing::Kingdom};

    const DUKE: DukeId = DukeId(1);
    const LOOPS: JobId = JobId(1);
    const OWED: JobId = JobId(2);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn taken(actions: &[Action]) -> Vec<(JobId, u32)> {
        let take = |action: &Action| match action {
            Action::TakeSlots { job, slots, .. } => Some((*job, *slots)),
            _ => None,
        };
        actions.iter().filter_map(take).collect()
    }

    fn spec(project: &str, weight: u32) -> JobSpec {
        JobSpec { project: project.to_owned(), weight, ..JobSpec::default() }
    }

    fn kingdom(preempt_after: Option<Duration>) -> Kingdom {
        let rules = Rules { preempt_after, ..Rules::default() };
        Kingdom::under(rules).duke(DUKE, 4).job(LOOPS, spec("loops", 1), 8).job(OWED, spec("owed", 1000), 4)
    }

    #[test]
    fn slots_that_do_not_come_back_in_time_are_taken() {
        let mut kingdom = kingdom(Some(PATIENCE));
        assert_eq!(taken(&kingdom.wait(PATIENCE - Duration::from_millis(1))), []);
        let actions = kingdom.wait(Duration::from_millis(1));
        let all: u32 = taken(&actions).into_iter().map(|(_, slots)| slots).sum();
        assert!(all >= 3 && taken(&actions).iter().all(|(job, _)| *job == LOOPS), "{actions:?}");
        // They are taken once.
        assert_eq!(taken(&kingdom.wait(Duration::from_millis(1))), []);
        // A unit that was ended runs again with twice the time, and is not to blame.
        let (unit, attempt) = kingdom.started_on(DUKE)[0];
        let outcome = Outcome::Preempted;
        let event = Event::AttemptEnded { duke: DUKE, attempt, outcome, run_us: 12_000_000 };
        let actions = kingdom.tell([event, Event::SlotsReleased { duke: DUKE, job: LOOPS, slots: 1 }]);
        assert!(actions.contains(&Action::GrantSlots { duke: DUKE, job: OWED, slots: 1 }), "{actions:?}");
        let spared = kingdom.scheduler.jobs.get(&LOOPS).and_then(|job| job.units.get(unit)).map(Unit::spared_us);
        // It has run for ten seconds and a millisecond, whatever its duke says.
        assert_eq!(spared, Some(20_002_000));
    }

    #[test]
    fn nothing_is_taken_if_the_operator_does_not_want_it_or_nobody_waits() {
        let mut patient = kingdom(None);
        assert_eq!(taken(&patient.wait(Duration::from_secs(1_000_000))), []);
        let mut alone = kingdom(Some(PATIENCE));
        alone.tell([Event::QueenLost { job: OWED }]);
        assert_eq!(taken(&alone.wait(PATIENCE)), []);
        // A job that comes now is owed the slots from now on.
        alone.open(JobId(3), spec("new", 1000), 4);
        assert_eq!(taken(&alone.wait(PATIENCE - Duration::from_millis(1))), []);
        assert!(!taken(&alone.wait(Duration::from_millis(1))).is_empty());
    }

    #[test]
    fn a_claim_to_have_run_for_ever_is_cut_to_the_time_that_there_was() {
        let mut kingdom = kingdom(Some(PATIENCE));
        kingdom.wait(PATIENCE);
        let (_, attempt) = kingdom.started_on(DUKE)[0];
        let outcome = Outcome::Preempted;
        kingdom.tell([Event::AttemptEnded { duke: DUKE, attempt, outcome, run_us: u64::MAX }]);
        let job = kingdom.scheduler.jobs.get(&LOOPS).unwrap();
        let most = job.units.iter().map(|(_, unit)| unit.preempted_ms).max();
        assert_eq!(most, Some(10_000));
    }
}
