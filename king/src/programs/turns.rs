//! How many programs travel at a time, so that slow peers do not take all places.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use distwasm_proto::limits::PROGRAM_STREAMS_MAX;

use super::ProgramsError;
use crate::authority::Origin;

/// The places for programs that travel. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<Origin, usize>>>);

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    origin: Origin,
}

impl Turns {
    /// Takes a place. A bounded origin has half of them.
    pub(super) fn take(&self, origin: Origin) -> Result<Turn, ProgramsError> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= PROGRAM_STREAMS_MAX {
            return Err(ProgramsError::Busy(""));
        }
        let own = taken.entry(origin).or_default();
        if origin.is_bounded() && *own >= PROGRAM_STREAMS_MAX / 2 {
            return Err(ProgramsError::Busy(origin.whose()));
        }
        *own += 1;
        Ok(Turn { turns: self.clone(), origin })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Origin, usize>> {
        // Nothing in here can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.taken();
        if let Some(own) = taken.get_mut(&self.origin) {
            *own = own.saturating_sub(1);
        }
        taken.retain(|_, own| *own > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_origin_elsewhere_takes_all_places() {
        let turns = Turns::default();
        let from = |last: u8| turns.take(Origin::Address([10, 0, 0, last].into()));
        let half: Vec<Turn> = (0..PROGRAM_STREAMS_MAX / 2).map(|_| from(1).unwrap()).collect();
        assert!(matches!(from(1), Err(ProgramsError::Busy(" from this address"))));
        let rest: Vec<Turn> = (0..PROGRAM_STREAMS_MAX / 2).map(|_| turns.take(Origin::Here).unwrap()).collect();
        assert!(matches!(from(2), Err(ProgramsError::Busy(""))));
        drop(half);
        assert!(from(2).is_ok() && from(1).is_ok());
        drop(rest);
        assert!(turns.taken().is_empty());
    }
}
