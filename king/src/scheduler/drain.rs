//! A duke shuts down gracefully: it finishes the units that it runs, and those that it has not begun go elsewhere.

use distwasm_proto::ids::{DukeId, JobId};

use super::{Action, Scheduler};

impl Scheduler {
    /// Asks back all slots of a duke. Units that they have not begun come back, and go elsewhere.
    pub(super) fn on_duke_draining(&mut self, id: DukeId, actions: &mut Vec<Action>) {
        for (job, slots) in self.withdraw(id) {
            actions.push(Action::ReleaseSlots { duke: id, job, slots });
        }
    }

    /// Records that all slots of a duke are being given back, and that it gets no others.
    pub(super) fn withdraw(&mut self, id: DukeId) -> Vec<(JobId, u32)> {
        // A duke that was expelled may still say that it drains, before its link has ended.
        let Some(duke) = self.dukes.get_mut(&id) else { return Vec::new() };
        duke.draining = true;
        let mut withdrawn = Vec::new();
        for (job_id, lease) in &mut duke.leases {
            let load = lease.load();
            let slots = std::mem::take(&mut lease.slots);
            if slots == 0 {
                continue;
            }
            lease.releasing += slots;
            if let Some(job) = self.jobs.get_mut(job_id) {
                job.slots -= slots;
                job.releasing += slots;
                job.by_load.remove(&(load, id));
            }
            withdrawn.push((*job_id, slots));
        }
        self.deal = true;
        withdrawn
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use distwasm_proto::{
        ids::{AttemptId, UnitNo},
        time::Time,
    };

    use super::*;
    use crate::scheduler::{Event, JobSpec, Outcome, Resumption, Verdict};

    const JOB: JobId = JobId(1);
    const DUKE: DukeId = DukeId(2);
    const OTHER: DukeId = DukeId(3);

    fn handle(scheduler: &mut Scheduler, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        scheduler.handle(Time::default(), events, &mut actions);
        scheduler.check();
        actions
    }

    fn joined(duke: DukeId) -> Event {
        Event::DukeJoined { duke, cpus: 2, ram_bytes: 1 << 30, labels: BTreeMap::new(), was: None, holds: Vec::new() }
    }

    /// A duke with both its slots at work for a job of two units.
    fn at_work() -> Scheduler {
        let spec = JobSpec { project: "p".to_owned(), ..JobSpec::default() };
        let mut scheduler = Scheduler::default();
        let unit = |unit| Event::UnitAdded { job: JOB, unit: UnitNo(unit), bytes: 1 };
        let joined = joined(DUKE);
        let actions = handle(
            &mut scheduler,
            [joined, Event::JobOpened { job: JOB, key: 7, spec, resumes: Resumption::default() }, unit(0), unit(1)],
        );
        assert_eq!(started(&actions), [(DUKE, UnitNo(0), AttemptId(1)), (DUKE, UnitNo(1), AttemptId(2))]);
        scheduler
    }

    fn started(actions: &[Action]) -> Vec<(DukeId, UnitNo, AttemptId)> {
        let start = |action: &Action| match action {
            Action::StartAttempt { duke, unit, attempt, .. } => Some((*duke, *unit, *attempt)),
            _ => None,
        };
        actions.iter().filter_map(start).collect()
    }

    #[test]
    fn a_draining_duke_is_asked_for_its_slots_and_gets_no_new_ones() {
        let mut scheduler = at_work();
        let actions = handle(&mut scheduler, [Event::DukeDraining { duke: DUKE }]);
        assert!(actions.contains(&Action::ReleaseSlots { duke: DUKE, job: JOB, slots: 2 }));
        // It finishes one unit, gives the other back, and its slots are free: it gets no new unit.
        let done = |attempt, outcome| Event::AttemptEnded { duke: DUKE, attempt, outcome, run_us: 1 };
        let ended = [
            done(AttemptId(1), Outcome::Done { bytes: 1 }),
            done(AttemptId(2), Outcome::Returned { suspect: false }),
            Event::SlotsReleased { duke: DUKE, job: JOB, slots: 2 },
        ];
        let actions = handle(&mut scheduler, ended);
        let verdict = Verdict::Done(AttemptId(1));
        assert!(actions.contains(&Action::Report { job: JOB, unit: UnitNo(0), verdict, attempts: 1 }));
        assert_eq!(started(&actions), []);
        assert_eq!(scheduler.census().slots_granted, 0);
        let joined = joined(OTHER);
        let actions = handle(&mut scheduler, [joined, Event::DukeLost { duke: DUKE }]);
        assert_eq!(started(&actions), [(OTHER, UnitNo(1), AttemptId(3))]);
    }

    #[test]
    fn a_duke_who_drains_twice_or_is_not_known_changes_nothing() {
        let mut scheduler = at_work();
        handle(&mut scheduler, [Event::DukeDraining { duke: DUKE }]);
        let again = handle(&mut scheduler, [Event::DukeDraining { duke: DUKE }, Event::DukeDraining { duke: OTHER }]);
        assert_eq!(again, []);
    }
}
