//! The hands of a simulated duke: they only note what they are to do, for the world to do it.

use std::{collections::BTreeSet, path::PathBuf};

use distwasm_duke::{
    cache::{Made, Recipe, Supply},
    peasant::{HeldRoom, PeasantSettings, UnitInput},
    reactor::Hands,
};
use distwasm_proto::ids::{BaronId, JobId};
use distwasm_transport::payload::Payload;

/// Something that hands are to do.
pub(super) enum Deed {
    /// Start a peasant with this memory, whose large results take this room.
    Hire {
        baron: BaronId,
        job: JobId,
        slot_bytes: u64,
        room: HeldRoom,
    },
    Feed(BaronId, UnitInput),
    Retire(BaronId),
    Kill(BaronId),
    Bury(BaronId),
    Make(Supply),
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SimHands {
    deeds: Vec<Deed>,
    /// What was made before and kept.
    pub(super) cache: BTreeSet<Supply>,
}

impl SimHands {
    /// What is to be done, in order.
    pub(super) fn take(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }
}

impl Hands for SimHands {
    fn hire(&mut self, baron: BaronId, job: JobId, settings: PeasantSettings, room: HeldRoom) {
        assert_eq!(settings.supplies.len(), 1, "peasants_have_what_they_need: {job}");
        self.deeds.push(Deed::Hire { baron, job, slot_bytes: settings.memory_bytes, room });
    }

    fn feed(&mut self, baron: BaronId, input: UnitInput) {
        self.deeds.push(Deed::Feed(baron, input));
    }

    fn retire(&mut self, baron: BaronId) {
        self.deeds.push(Deed::Retire(baron));
    }

    fn kill(&mut self, baron: BaronId) {
        self.deeds.push(Deed::Kill(baron));
    }

    fn bury(&mut self, baron: BaronId) {
        self.deeds.push(Deed::Bury(baron));
    }

    fn find(&mut self, supply: &Supply) -> Option<Made> {
        self.cache.contains(supply).then(made)
    }

    fn make(&mut self, supply: Supply, _blob: Payload) {
        self.deeds.push(Deed::Make(supply));
    }

    fn remove(&mut self, recipe: &Recipe) {
        self.cache.remove(&Supply::Program(recipe.clone()));
    }

    fn give_memory_back(&mut self) {}
}

/// A compiled program.
pub(super) fn made() -> Made {
    Made::Program(PathBuf::new())
}
