//! Large answers that wait in their peasants' pipes, because the duke has no room for them.

use std::collections::BTreeSet;

use distwasm_proto::ids::{BaronId, DukeId};

use super::{
    duke::Duke,
    wires::payload,
    world::{Due, PeasantDue, World},
};

impl World {
    /// Begins to read a large answer of this size. Returns whether it must wait for room.
    pub(super) fn begin_to_read(&mut self, id: DukeId, baron: BaronId, bytes: u64) -> bool {
        let Some(Duke { peasants, waiting, .. }) = self.dukes.get_mut(&id) else { return false };
        // Earlier answers come first.
        let job = peasants.get(&baron).map(|peasant| peasant.job);
        let jobs = waiting.iter().filter_map(|(baron, number)| {
            peasants.get(baron).filter(|peasant| peasant.lives_as(*number)).map(|peasant| peasant.job)
        });
        let others_wait = jobs.into_iter().any(|other| Some(other) == job);
        let Some(peasant) = peasants.get_mut(&baron) else { return false };
        assert!(peasant.reading.is_none() && peasant.waits_for.is_none(), "answers_are_read_in_order: {baron}");
        if let Ok(held) = peasant.room.try_keep(payload(bytes))
            && !others_wait
        {
            peasant.reading = Some(held);
            return false;
        }
        peasant.waits_for = Some(bytes);
        waiting.push_back((baron, peasant.number));
        self.tally.waits_for_room += 1;
        true
    }

    /// Gives freed room to answers that wait, in their order.
    pub(super) fn make_room(&mut self, id: DukeId) {
        let Some(Duke { peasants, waiting, .. }) = self.dukes.get_mut(&id) else { return };
        let (mut full, mut ready) = (BTreeSet::new(), Vec::new());
        waiting.retain(|(baron, number)| {
            let Some(peasant) = peasants.get_mut(baron).filter(|peasant| peasant.lives_as(*number)) else {
                return false;
            };
            let Some(bytes) = peasant.waits_for.filter(|_| !full.contains(&peasant.job)) else { return true };
            let Ok(held) = peasant.room.try_keep(payload(bytes)) else {
                full.insert(peasant.job);
                return true;
            };
            peasant.reading = Some(held);
            ready.push((*baron, *number));
            false
        });
        for (baron, number) in ready {
            self.later(0, Due::Peasant(id, baron, number, PeasantDue::Room));
        }
    }
}
