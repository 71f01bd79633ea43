//! Timeouts: a unit or a start that takes too long, and an answer that finds no room.
//!
//! A process may stand still for a while: it was stopped, or its machine was suspended. Its peasants may have stood
//! still with it, so this time counts towards no deadline.

use std::time::Duration;

use distwasm_proto::{
    ids::BaronId,
    limits::{PULSE, ROOM_PATIENCE, STANDSTILL},
    time::Time,
};

use super::{
    Action, Roster,
    baron::{Baron, Stage},
};

impl Roster {
    /// When [`Event::Tick`](super::Event::Tick) is due next.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = self.barons.values().filter_map(|baron| self.deadline(baron));
        let deadline = deadlines.chain(self.next_taking()).min();
        let deadline = deadline.map(|deadline| deadline.min(self.handled.after(PULSE)));
        deadline.into_iter().chain(self.next_rescue()).min()
    }

    /// Moves deadlines by the time in which this process stood still. While anything has a deadline, it is called at
    /// every [`PULSE`], so a longer gap is a standstill.
    pub(super) fn excuse_standstill(&mut self, now: Time) {
        let passed = Duration::from_micros(now.micros_since(self.handled));
        self.handled = now;
        if passed < STANDSTILL {
            return;
        }
        let timed: Vec<BaronId> =
            self.barons.iter().filter(|(_, baron)| self.is_timed(baron)).map(|(id, _)| *id).collect();
        for id in timed {
            let Some(baron) = self.barons.get_mut(&id) else { continue };
            baron.turn_since = baron.turn_since.after(passed);
            baron.answering_since = baron.answering_since.map(|since| since.after(passed));
        }
    }

    pub(super) fn on_tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        let late: Vec<BaronId> = self
            .barons
            .iter()
            .filter(|(_, baron)| self.deadline(baron).is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let Some(baron) = self.barons.get_mut(&id) else { continue };
            let was_starting = baron.stage == Stage::Starting;
            baron.stage = match (was_starting, baron.answering_since.is_some()) {
                (true, _) => Stage::Unwanted,
                (false, false) => Stage::TimedOut,
                // Its answer finds no room. Its unit runs again, later and elsewhere.
                (false, true) => Stage::Disturbed,
            };
            let job = baron.job;
            actions.push(Action::Kill { baron: id });
            if was_starting {
                self.on_program_unfit(job, actions);
            }
        }
        self.rescue(now);
    }

    fn is_timed(&self, baron: &Baron) -> bool {
        self.deadline(baron).is_some() || self.leases.get(&baron.job).is_some_and(|lease| lease.forced > 0)
    }

    /// When a baron must kill its peasant, if nothing happens before.
    fn deadline(&self, baron: &Baron) -> Option<Time> {
        let lease = self.leases.get(&baron.job)?;
        match baron.stage {
            Stage::Starting => Some(baron.turn_since.after(lease.start_within)),
            Stage::Serving if baron.answering_since.is_some() => {
                let nobody_takes_it = baron.leaving && baron.waits;
                baron.answering_since.filter(|_| nobody_takes_it).map(|since| since.after(ROOM_PATIENCE))
            }
            Stage::Serving if !baron.pipe.is_empty() => Some(baron.turn_since.after(lease.timeout?)),
            Stage::Vacant
            | Stage::Serving
            | Stage::Ending
            | Stage::TimedOut
            | Stage::Spared
            | Stage::Disturbed
            | Stage::Preempted
            | Stage::Unwanted => None,
        }
    }
}
