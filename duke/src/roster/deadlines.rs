//! What takes too long: a unit, a start, an answer that nobody takes.

use distwasm_proto::{
    ids::BaronId,
    limits::{ROOM_PATIENCE, START_WITHIN},
    time::Time,
};

use super::{Action, Baron, Roster, State};

impl Roster {
    /// When [`Event::Tick`](super::Event::Tick) is due next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.barons.values().filter_map(|baron| self.deadline(baron)).min()
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
            let was_starting = baron.state == State::Starting;
            baron.state = match (was_starting, baron.answering_since.is_some()) {
                (true, _) => State::Unwanted,
                (false, false) => State::TimedOut,
                // Nobody takes its answer; what it runs goes elsewhere, later.
                (false, true) => State::Disturbed,
            };
            let job = baron.job;
            actions.push(Action::Kill { baron: id });
            if was_starting {
                self.on_program_unfit(job, actions);
            }
        }
    }

    /// When a baron must give its peasant up, if nothing happens before.
    fn deadline(&self, baron: &Baron) -> Option<Time> {
        let timeout = self.leases.get(&baron.job)?.timeout;
        match baron.state {
            State::Starting => Some(baron.turn_since.after(START_WITHIN.max(timeout.unwrap_or_default()))),
            State::Serving if baron.answering_since.is_some() => {
                let nobody_takes_it = baron.leaving && baron.waits;
                baron.answering_since.filter(|_| nobody_takes_it).map(|since| since.after(ROOM_PATIENCE))
            }
            State::Serving if !baron.pipe.is_empty() => Some(baron.turn_since.after(timeout?)),
            State::Vacant
            | State::Serving
            | State::Ending
            | State::TimedOut
            | State::Spared
            | State::Disturbed
            | State::Unwanted => None,
        }
    }
}
