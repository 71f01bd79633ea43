//! Simulated peasants: they behave as the nature of their units says.

use std::collections::VecDeque;

use distwasm_duke::roster::{AnswerId, Event};
use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId, JobId, UnitNo},
    time::Time,
    wire::is_offered,
};

use super::{
    duke::{Held, Peasant},
    weather::Nature,
    world::{Due, PeasantDue, World},
};

impl World {
    pub(super) fn spawn(&mut self, id: DukeId, baron: BaronId, job: JobId) {
        let fails = self.faults_go_on() && self.dice.permille(self.weather.start_fails);
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some(queen) = duke.leases.get(&job).map(|lease| lease.queen) else {
            panic!("peasants_are_of_open_leases: {job}")
        };
        let unfit = self.queens[&queen].plan().unfit;
        duke.peasants_made += 1;
        let number = duke.peasants_made;
        let (pipe, behind) = (VecDeque::new(), VecDeque::new());
        let peasant = Peasant { number, job, pipe, busy: false, answers_after: now, dead: false, waits: false, behind };
        assert!(duke.peasants.insert(baron, peasant).is_none(), "baron_has_one_peasant: {baron}");
        let spoiled = fails && self.dice.permille(300);
        let due = match (fails, unfit) {
            (true, _) if spoiled => PeasantDue::Spoiled,
            (true, _) => PeasantDue::Dies,
            (false, true) => PeasantDue::Unfit,
            (false, false) => PeasantDue::Ready,
        };
        let in_us = 1_000 + self.dice.below(5_000);
        self.later(in_us, Due::Peasant(id, baron, number, due));
    }

    pub(super) fn peasant_due(&mut self, id: DukeId, baron: BaronId, number: u64, due: PeasantDue) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some(peasant) = duke.peasants.get_mut(&baron).filter(|peasant| peasant.number == number) else { return };
        if peasant.dead && due != PeasantDue::Gone {
            return;
        }
        match due {
            PeasantDue::Ready => self.duke_handles(id, vec![Event::PeasantReady { baron }]),
            PeasantDue::Unfit => {
                let job = peasant.job;
                self.duke_handles(id, vec![Event::ProgramUnfit { job }]);
                self.later(100, Due::Peasant(id, baron, number, PeasantDue::Dies));
            }
            PeasantDue::Spoiled => {
                let job = peasant.job;
                self.duke_handles(id, vec![Event::ProgramSpoiled { job }]);
                self.later(100, Due::Peasant(id, baron, number, PeasantDue::Dies));
            }
            PeasantDue::Next => {
                peasant.busy = false;
                self.peasant_goes_on(id, baron);
            }
            PeasantDue::Answers { attempt, begun } if peasant.waits => peasant.behind.push_back((attempt, begun)),
            PeasantDue::Answers { attempt, begun } => self.peasant_answers(id, baron, attempt, begun),
            PeasantDue::Room => self.peasant_has_room(id, baron),
            PeasantDue::Dies => {
                peasant.dead = true;
                self.tally.peasants_died += 1;
                self.later(200, Due::Peasant(id, baron, number, PeasantDue::Gone));
            }
            PeasantDue::Gone => {
                duke.peasants.remove(&baron);
                self.duke_handles(id, vec![Event::PeasantGone { baron }]);
            }
        }
    }

    /// Begins the next unit, if there is one and nothing else is running.
    pub(super) fn peasant_goes_on(&mut self, id: DukeId, baron: BaronId) {
        let dies_by_chance = self.faults_go_on() && self.dice.permille(self.weather.peasant_dies);
        let holds_back = self.dice.pick(&[0, 0, 1_000, 20_000]);
        let now = self.now;
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        let Some(peasant) = duke.peasants.get_mut(&baron).filter(|peasant| !peasant.busy && !peasant.dead) else {
            return;
        };
        let Some(attempt) = peasant.pipe.pop_front() else { return };
        peasant.busy = true;
        let number = peasant.number;
        // The job may be over, and its attempts forgotten, while its peasants still run.
        let Some(Held { queen, unit, .. }) = duke.attempts.get(&attempt).copied() else {
            // The attempt is not wanted any more; the units behind it continue.
            peasant.answers_after = peasant.answers_after.max(Time(now.0 + 1));
            let leaves = peasant.answers_after;
            self.at(leaves, Due::Peasant(id, baron, number, PeasantDue::Answers { attempt, begun: false }));
            return self.later(1, Due::Peasant(id, baron, number, PeasantDue::Next));
        };
        let plan = self.queens[&queen].unit(unit);
        let ends = Time(now.0 + plan.run_us);
        let due = |due| Due::Peasant(id, baron, number, due);
        match plan.nature {
            Nature::Hangs => {}
            Nature::HangsOnce if self.hangs_now(queen, unit) => {}
            Nature::Kills => self.at(ends, due(PeasantDue::Dies)),
            // A unit that three peasants died with is blamed in any case, so bad luck strikes a unit twice at most.
            _ if dies_by_chance && self.strikes(queen, unit) => self.at(ends, due(PeasantDue::Dies)),
            _ => {
                let Some(peasant) = self.dukes.get_mut(&id).and_then(|duke| duke.peasants.get_mut(&baron)) else {
                    return;
                };
                let leaves = peasant.answers_after.max(Time(ends.0 + holds_back));
                let large = is_offered(plan.result_bytes);
                let arrives = Time(leaves.0 + if large { 300 } else { 0 });
                peasant.answers_after = arrives;
                if large {
                    self.at(leaves, due(PeasantDue::Answers { attempt, begun: true }));
                }
                self.at(arrives, due(PeasantDue::Answers { attempt, begun: false }));
                self.at(ends, due(PeasantDue::Next));
            }
        }
    }

    /// Whether bad luck may strike this unit once more. Counts the strike.
    fn strikes(&mut self, queen: JobId, unit: UnitNo) -> bool {
        let Some(queen) = self.queens.get_mut(&queen) else { return false };
        let struck = queen.struck.entry(unit).or_insert(0);
        *struck += 1;
        *struck <= 2
    }

    /// Whether this is the first attempt of the unit.
    fn hangs_now(&mut self, queen: JobId, unit: UnitNo) -> bool {
        self.queens.get_mut(&queen).is_some_and(|queen| queen.hung_once.insert(unit))
    }

    pub(super) fn peasant_answers(&mut self, id: DukeId, baron: BaronId, attempt: AttemptId, begun: bool) {
        let Some(duke) = self.dukes.get_mut(&id) else { return };
        if !begun {
            duke.read(attempt);
        }
        let Some(Held { queen, unit, .. }) = duke.attempts.get(&attempt).copied() else {
            // The attempt is not wanted any more, or its job is over.
            if begun {
                return;
            }
            duke.answers_made += 1;
            let answer = AnswerId(duke.answers_made);
            return self.duke_handles(id, vec![Event::Answered { baron, answer }]);
        };
        if begun {
            let waits = self.take_room(id, baron, attempt);
            return self.duke_handles(id, vec![Event::AnswerBegun { baron, waits }]);
        }
        let Some(queen) = self.queens.get_mut(&queen) else { return };
        let plan = queen.unit(unit);
        let done = match plan.nature {
            Nature::Fails => false,
            Nature::FailsOnce => !queen.failed_once.insert(unit),
            Nature::Ordinary | Nature::Kills | Nature::Hangs | Nature::HangsOnce | Nature::Broken => true,
        };
        duke.answers_made += 1;
        let answer = AnswerId(duke.answers_made);
        duke.answers.insert(answer, done);
        self.duke_handles(id, vec![Event::Answered { baron, answer }]);
    }
}
