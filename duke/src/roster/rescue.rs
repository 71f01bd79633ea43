//! Gives units that wait behind a slow one to an idle peasant of the job. They also stay in the pipe that they were in,
//! since nothing comes back out of a pipe; later answers of the first peasant to them are ignored.
//!
//! A unit is slow when it has run for `RESCUE_AFTER`. A thread of the peasant writes held answers within
//! `ANSWERS_WATCHED`, so that the duke knows which unit the peasant is at.

use std::collections::BTreeSet;

use distwasm_proto::{ids::JobId, limits::RESCUE_AFTER, time::Time};

use super::{
    Roster,
    baron::{Baron, Stage},
    lease::Queued,
};

impl Roster {
    /// When the next units that wait behind another go to an idle peasant, if nothing happens before.
    pub(super) fn next_rescue(&self) -> Option<Time> {
        let idle = self.jobs_with_idle_peasants();
        let waits = |baron: &&Baron| idle.contains(&baron.job) && baron.has_waiting();
        self.barons.values().filter(waits).map(|baron| baron.turn_since.after(RESCUE_AFTER)).min()
    }

    /// Puts units that wait behind a slow one back into the queues of their jobs, where idle peasants get them.
    pub(super) fn rescue(&mut self, now: Time) {
        let idle = self.jobs_with_idle_peasants();
        for baron in self.barons.values_mut().filter(|baron| idle.contains(&baron.job)) {
            if !baron.has_waiting() || !baron.is_slow(now) {
                continue;
            }
            let Some(lease) = self.leases.get_mut(&baron.job) else { continue };
            let rescued: Vec<Queued> = baron.pipe.iter().skip(1).filter(|unit| !unit.unwanted).copied().collect();
            baron.pipe.iter_mut().skip(1).for_each(|unit| unit.unwanted = true);
            lease.put_back(&rescued);
        }
    }

    /// Jobs with an idle peasant whose units are all in pipes already.
    fn jobs_with_idle_peasants(&self) -> BTreeSet<JobId> {
        let is_idle = |baron: &&Baron| baron.stage == Stage::Serving && !baron.leaving && baron.pipe.is_empty();
        let idle = self.barons.values().filter(is_idle).map(|baron| baron.job);
        idle.filter(|job| self.leases.get(job).is_some_and(|lease| lease.waiting().next().is_none())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use distwasm_proto::ids::{AttemptId, BaronId};

    use super::*;
    use crate::roster::{Action, AnswerId, Event};

    const JOB: JobId = JobId(1);

    /// Handles events, and returns which attempts went to which baron.
    fn fed(roster: &mut Roster, now_us: u64, events: Vec<Event>) -> Vec<(BaronId, u64)> {
        let mut actions = Vec::new();
        roster.handle(Time(now_us), events, &mut actions);
        roster.check();
        let fed = |action: &Action| match action {
            Action::Feed { baron, attempt } => Some((*baron, attempt.0)),
            Action::Report { attempt, .. } => Some((BaronId(0), attempt.0)),
            _ => None,
        };
        actions.iter().filter_map(fed).collect()
    }

    #[test]
    fn a_unit_behind_a_slow_one_goes_to_an_idle_peasant_and_is_reported_once() {
        let (slow, idle) = (BaronId(1), BaronId(2));
        let mut roster = Roster::default();
        let arrived = |attempt| Event::AttemptArrived {
            job: JOB,
            attempt: AttemptId(attempt),
            bytes: 1,
            alone: false,
            spared: Duration::ZERO,
        };
        let answered = |baron, answer| Event::Answered { baron, answer: AnswerId(answer) };
        let opened = [
            Event::LeaseOpened { job: JOB, timeout: None, start_within: Duration::from_secs(60) },
            Event::SlotsGranted { job: JOB, slots: 2 },
        ];
        fed(&mut roster, 0, opened.to_vec());
        fed(&mut roster, 1, vec![Event::ProgramReady { job: JOB }]);
        fed(&mut roster, 2, vec![Event::PeasantReady { baron: slow }, Event::PeasantReady { baron: idle }]);
        // Short units: a pipe may hold several.
        fed(&mut roster, 3, vec![arrived(1)]);
        fed(&mut roster, 4, vec![answered(slow, 1)]);
        assert_eq!(fed(&mut roster, 5, (2..5).map(arrived).collect()), [(slow, 2), (slow, 3), (slow, 4)]);
        let at = roster.next_deadline().unwrap();
        assert!(fed(&mut roster, at.0 - 1, vec![Event::Tick]).is_empty());
        assert_eq!(fed(&mut roster, at.0, vec![Event::Tick]), [(idle, 3), (idle, 4)]);
        assert_eq!(roster.next_deadline(), None);
        let told = fed(&mut roster, at.0 + 1, vec![answered(idle, 2), answered(idle, 3)]);
        assert_eq!(told, [(BaronId(0), 3), (BaronId(0), 4)]);
        let told = fed(&mut roster, at.0 + 2, vec![answered(slow, 4), answered(slow, 5), answered(slow, 6)]);
        assert_eq!(told, [(BaronId(0), 2)]);
    }
}
