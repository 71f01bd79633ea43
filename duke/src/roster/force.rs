//! Slots that the king takes by force: they were asked back, and their units run for too long.
//!
//! The duke ends the newest units first, so that the least work is lost: also in a slot that was to stay, in whose place
//! another one stays. A unit that was preempted before is spared until it has run for longer than before.

use std::cmp::Reverse;

use distwasm_proto::{
    ids::{BaronId, JobId},
    time::Time,
};

use super::{
    Action, Roster,
    baron::{Baron, Stage},
    lease::Lease,
};

impl Roster {
    /// Slots that were asked back are wanted at once. Some of them may be free already.
    pub(super) fn on_slots_taken(&mut self, job: JobId, slots: u32) {
        // The border lets only open jobs through.
        let Some(leaving) = self.leases.get(&job).map(|lease| self.leaving(lease).count()) else { return };
        let leaving = u32::try_from(leaving).unwrap_or(u32::MAX);
        if let Some(lease) = self.leases.get_mut(&job) {
            lease.forced = lease.forced.saturating_add(slots).min(leaving);
        }
    }

    /// Ends units in slots that are wanted at once, as far as they are not spared.
    pub(super) fn take_slots(&mut self, now: Time, actions: &mut Vec<Action>) {
        let forced: Vec<JobId> =
            self.leases.iter().filter(|(_, lease)| lease.forced > 0).map(|(job, _)| *job).collect();
        for job in forced {
            while let Some(id) = self.taking(job, now) {
                self.take_slot(job, id, actions);
            }
            self.return_orphans(job, actions);
        }
    }

    /// When the next unit may be ended whose slot is wanted.
    pub(super) fn next_taking(&self) -> Option<Time> {
        let lacking = self.leases.values().filter(|lease| self.lacks(lease));
        let running = lacking.flat_map(|lease| self.of(lease)).filter(|(_, baron)| baron.is_at_work());
        running.filter_map(|(_, baron)| baron.spared_until()).min()
    }

    /// The baron of a job whose slot is to be given back next, if slots are wanted: one without a unit, or that with the
    /// newest unit which is not spared.
    pub(super) fn taking(&self, job: JobId, now: Time) -> Option<BaronId> {
        let lease = self.leases.get(&job).filter(|lease| self.lacks(lease))?;
        let idle = self.of(lease).find(|(_, baron)| !baron.leaving && baron.is_idle()).map(|(id, _)| id);
        let may_be_taken = |(_, baron): &(BaronId, &Baron)| {
            baron.is_at_work() && baron.spared_until().is_some_and(|until| until <= now)
        };
        let running = self.of(lease).filter(may_be_taken);
        idle.or_else(|| running.max_by_key(|(id, baron)| (baron.turn_since, Reverse(*id))).map(|(id, _)| id))
    }

    /// Whether more slots are wanted at once than are about to be free.
    fn lacks(&self, lease: &Lease) -> bool {
        let coming = self.leaving(lease).filter(|(_, baron)| !baron.is_at_work()).count();
        lease.forced as usize > coming
    }

    fn take_slot(&mut self, job: JobId, id: BaronId, actions: &mut Vec<Action>) {
        let Some(lease) = self.leases.get(&job) else { return };
        let is_leaving = self.barons.get(&id).is_some_and(|baron| baron.leaving);
        // Of those that were to leave, the one with the oldest unit stays in the place of this one.
        let at_work = self.leaving(lease).filter(|(_, baron)| baron.is_at_work());
        let stays = at_work.min_by_key(|(id, baron)| (baron.turn_since, *id)).map(|(id, _)| id);
        if let Some(stays) = stays.filter(|_| !is_leaving).and_then(|id| self.barons.get_mut(&id)) {
            stays.leaving = false;
        }
        let Some(baron) = self.barons.get_mut(&id) else { return };
        if baron.is_at_work() {
            (baron.leaving, baron.stage) = (true, Stage::Preempted);
            actions.push(Action::Kill { baron: id });
        } else {
            self.leave(id, actions);
        }
    }

    fn of<'a>(&'a self, lease: &'a Lease) -> impl Iterator<Item = (BaronId, &'a Baron)> {
        lease.barons.iter().filter_map(|id| Some((*id, self.barons.get(id)?)))
    }

    fn leaving<'a>(&'a self, lease: &'a Lease) -> impl Iterator<Item = (BaronId, &'a Baron)> {
        self.of(lease).filter(|(_, baron)| baron.leaving)
    }
}

impl Baron {
    /// Whether its peasant has a unit.
    fn is_at_work(&self) -> bool {
        self.stage == Stage::Serving && !self.pipe.is_empty()
    }

    /// Whether it loses nothing when it leaves.
    fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Vacant | Stage::Starting | Stage::Ending)
            || (self.stage == Stage::Serving && self.pipe.is_empty())
    }

    /// Until when the unit that runs is spared. `None` if its answer has begun to arrive: it is done.
    fn spared_until(&self) -> Option<Time> {
        self.pipe.front().filter(|_| self.answering_since.is_none()).map(|unit| self.turn_since.after(unit.spared))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use distwasm_proto::ids::AttemptId;

    use super::*;
    use crate::roster::{AnswerId, Event, Outcome};

    const JOB: JobId = JobId(1);
    const OLD: BaronId = BaronId(1);
    const NEW: BaronId = BaronId(2);
    const NEWEST: BaronId = BaronId(3);

    fn arrived(attempt: u64, spared_s: u64) -> Event {
        let spared = Duration::from_secs(spared_s);
        Event::AttemptArrived { job: JOB, attempt: AttemptId(attempt), bytes: 1, alone: false, spared }
    }

    fn tell(roster: &mut Roster, second: u64, events: Vec<Event>) -> Vec<Action> {
        let (at, mut actions) = (Time(second * 1_000_000), Vec::new());
        // A longer gap between two looks at the clock is a standstill.
        while roster.handled.after(Duration::from_millis(250)) < at {
            roster.handle(roster.handled.after(Duration::from_millis(250)), [Event::Tick], &mut actions);
            roster.check();
        }
        roster.handle(at, events, &mut actions);
        roster.check();
        actions
    }

    /// Three peasants whose units began in seconds 1, 2 and 3, and are spared for as long as is said.
    fn at_work(spared_s: [u64; 3]) -> Roster {
        let mut roster = Roster::default();
        let start_within = Duration::from_secs(60);
        let opened = Event::LeaseOpened { job: JOB, timeout: None, start_within };
        tell(
            &mut roster,
            0,
            vec![opened, Event::SlotsGranted { job: JOB, slots: 3 }, Event::ProgramReady { job: JOB }],
        );
        for (place, baron) in [OLD, NEW, NEWEST].into_iter().enumerate() {
            let second = place as u64 + 1;
            tell(&mut roster, second, vec![Event::PeasantReady { baron }, arrived(second, spared_s[place])]);
        }
        roster
    }

    fn asked_back_and_taken(roster: &mut Roster, second: u64, slots: u32) -> Vec<Action> {
        tell(roster, second, vec![Event::SlotsAskedBack { job: JOB, slots }]);
        tell(roster, second, vec![Event::SlotsTaken { job: JOB, slots }])
    }

    #[test]
    fn the_newest_unit_is_ended_and_another_slot_stays() {
        let mut roster = at_work([0; 3]);
        assert_eq!(asked_back_and_taken(&mut roster, 4, 1), [Action::Kill { baron: NEWEST }]);
        let told = tell(&mut roster, 5, vec![Event::PeasantGone { baron: NEWEST }]);
        let preempted = Action::Report { attempt: AttemptId(3), outcome: Outcome::Preempted, run_us: 2_000_000 };
        assert_eq!(told, [preempted, Action::TellReleased { job: JOB, slots: 1 }]);
        // The one that was to leave goes on, and gets new units.
        assert_eq!(roster.slots_of(JOB), (2, 0));
        let told = tell(&mut roster, 6, vec![Event::Answered { baron: OLD, answer: AnswerId(1) }, arrived(4, 0)]);
        assert!(told.contains(&Action::Feed { baron: OLD, attempt: AttemptId(4) }), "{told:?}");
    }

    #[test]
    fn a_spared_unit_is_ended_when_its_time_is_over_and_not_before() {
        let mut roster = at_work([100, 10, 100]);
        assert_eq!(asked_back_and_taken(&mut roster, 4, 1), []);
        let at = |second: u64| Time(second * 1_000_000);
        assert!(roster.next_deadline().is_some_and(|deadline| deadline <= at(12)));
        // The duke looks at its clock in between.
        (5..12).for_each(|second| assert_eq!(tell(&mut roster, second, vec![Event::Tick]), []));
        assert_eq!(tell(&mut roster, 12, vec![Event::Tick]), [Action::Kill { baron: NEW }]);
    }

    #[test]
    fn an_answer_that_comes_first_counts_and_its_slot_is_free_too() {
        let mut roster = at_work([0; 3]);
        asked_back_and_taken(&mut roster, 4, 1);
        let answer = AnswerId(1);
        let told = tell(&mut roster, 4, vec![Event::Answered { baron: NEWEST, answer }]);
        assert!(told.iter().any(|action| matches!(action, Action::Report { outcome: Outcome::Answered(_), .. })));
        let told = tell(&mut roster, 5, vec![Event::PeasantGone { baron: NEWEST }]);
        assert_eq!(told, [Action::TellReleased { job: JOB, slots: 1 }]);
    }

    #[test]
    fn slots_that_came_back_meanwhile_are_not_taken_again() {
        let mut roster = at_work([0; 3]);
        tell(&mut roster, 4, vec![Event::SlotsAskedBack { job: JOB, slots: 1 }]);
        let answered = Event::Answered { baron: OLD, answer: AnswerId(1) };
        assert_eq!(tell(&mut roster, 5, vec![answered, Event::PeasantGone { baron: OLD }]).len(), 3);
        assert_eq!(tell(&mut roster, 6, vec![Event::SlotsTaken { job: JOB, slots: 1 }]), []);
        assert_eq!(asked_back_and_taken(&mut roster, 7, 2).len(), 2);
    }
}
