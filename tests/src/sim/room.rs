//! A duke's room for the large results of a job. An answer that does not fit waits in its peasant's pipe.

use std::collections::{BTreeMap, VecDeque};

use distwasm_proto::{
    ids::{AttemptId, BaronId, DukeId},
    limits::HELD_BYTES,
};

use super::{
    duke::{AttemptEnd, Duke, Held, Peasant},
    world::{Due, PeasantDue, World},
};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Room {
    taken: BTreeMap<AttemptId, Taken>,
    waiting: VecDeque<(AttemptId, Taken)>,
}

/// The part of the room that one result takes or waits for.
#[derive(Clone, Copy, Debug)]
struct Taken {
    bytes: u64,
    /// The peasant whose answer it is, until it is read.
    reading: Option<(BaronId, u64)>,
}

impl Room {
    fn has(&self, bytes: u64) -> bool {
        let taken: u64 = self.taken.values().map(|taken| taken.bytes).sum();
        taken + bytes <= u64::from(HELD_BYTES)
    }
}

impl Duke {
    /// A result has been read completely.
    pub(super) fn read(&mut self, attempt: AttemptId) {
        for taken in self.rooms.values_mut().filter_map(|room| room.taken.get_mut(&attempt)) {
            taken.reading = None;
        }
    }
}

impl World {
    /// Takes room for a large answer. Returns whether it must wait.
    pub(super) fn take_room(&mut self, id: DukeId, baron: BaronId, attempt: AttemptId) -> bool {
        let Some(Held { job, queen, unit, .. }) =
            self.dukes.get(&id).and_then(|duke| duke.attempts.get(&attempt)).copied()
        else {
            return false;
        };
        let bytes = self.queens[&queen].result_bytes(unit).min(u64::from(HELD_BYTES));
        let Some(duke) = self.dukes.get_mut(&id) else { return false };
        let Some(peasant) = duke.peasants.get_mut(&baron) else { return false };
        let room = duke.rooms.entry(job).or_default();
        let taken = Taken { bytes, reading: Some((baron, peasant.number)) };
        peasant.waits = !room.waiting.is_empty() || !room.has(bytes);
        if peasant.waits {
            room.waiting.push_back((attempt, taken));
            self.tally.waits_for_room += 1;
            return true;
        }
        room.taken.insert(attempt, taken);
        false
    }

    /// Gives freed room to answers that wait.
    pub(super) fn make_room(&mut self, id: DukeId) {
        let Some(Duke { rooms, peasants, left, .. }) = self.dukes.get_mut(&id) else { return };
        let lives = |(baron, number): (BaronId, u64)| {
            peasants.get(&baron).is_some_and(|peasant| peasant.number == number && !peasant.dead)
        };
        let is_result =
            |attempt: &AttemptId| left.get(attempt).is_some_and(|left| matches!(left.end, AttemptEnd::Done(_)));
        let mut ready = Vec::new();
        for room in rooms.values_mut() {
            room.taken.retain(|attempt, taken| taken.reading.is_some_and(lives) || is_result(attempt));
            room.waiting.retain(|(_, taken)| taken.reading.is_some_and(lives));
            while let Some((attempt, taken)) = room.waiting.front().copied().filter(|(_, taken)| room.has(taken.bytes))
            {
                room.waiting.pop_front();
                room.taken.insert(attempt, taken);
                ready.extend(taken.reading);
            }
        }
        rooms.retain(|_, room| !room.taken.is_empty() || !room.waiting.is_empty());
        for (baron, number) in ready {
            self.later(0, Due::Peasant(id, baron, number, PeasantDue::Room));
        }
    }

    /// An answer that waited is read, and those that waited behind it.
    pub(super) fn peasant_has_room(&mut self, id: DukeId, baron: BaronId) {
        if let Some(peasant) = self.peasant(id, baron) {
            peasant.waits = false;
        }
        while let Some(peasant) = self.peasant(id, baron).filter(|peasant| !peasant.waits && !peasant.dead) {
            let Some((attempt, begun)) = peasant.behind.pop_front() else { break };
            self.peasant_answers(id, baron, attempt, begun);
        }
    }

    fn peasant(&mut self, id: DukeId, baron: BaronId) -> Option<&mut Peasant> {
        self.dukes.get_mut(&id)?.peasants.get_mut(&baron)
    }
}
