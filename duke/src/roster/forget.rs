//! Forgets attempts that are not wanted any more, and counts a job's slots to name them to a king.

use distwasm_proto::ids::{AttemptId, JobId};

use super::{Action, Roster, State};

impl Roster {
    /// Forgets a unit that waits, or ends the peasant that runs it. A unit that waits in a pipe still runs: it is
    /// short.
    pub(super) fn on_attempt_forgotten(&mut self, job: JobId, attempt: AttemptId, actions: &mut Vec<Action>) {
        // The attempt may have been reported, and its job may be over.
        let Some(lease) = self.leases.get_mut(&job) else { return };
        actions.push(Action::Drop { attempt });
        if lease.drop_waiting(attempt) {
            return;
        }
        for id in &lease.barons {
            let Some(baron) = self.barons.get_mut(id) else { continue };
            let Some(place) = baron.pipe.iter().position(|unit| unit.attempt == attempt) else { continue };
            if let Some(unit) = baron.pipe.get_mut(place) {
                unit.unwanted = true;
            }
            if place == 0 && baron.state == State::Serving {
                baron.state = State::Disturbed;
                actions.push(Action::Kill { baron: *id });
            }
        }
    }

    /// How many slots serve a job, and how many are being given back.
    pub fn slots_of(&self, job: JobId) -> (u32, u32) {
        let Some(lease) = self.leases.get(&job) else { return (0, 0) };
        let barons = || lease.barons.iter().filter_map(|id| self.barons.get(id));
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let staying = barons().filter(|baron| !baron.leaving && !lease.is_closed()).count();
        (count(staying), count(barons().count() - staying) + lease.slots_to_release)
    }
}
