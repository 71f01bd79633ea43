//! The hands of a simulated duke: they only note what they are to do, for the world to do it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
};

use bytes::Bytes;
use distwasm_duke::{
    cache::{Made, Recipe, Supply},
    peasant::{HeldRoom, InputNo, KeptResult, PeasantSettings, UnitInput},
    reactor::{Hands, Read},
};
use distwasm_proto::ids::{BaronId, JobId};
use distwasm_transport::payload::Payload;

/// Something that hands are to do.
pub(super) enum Deed {
    /// Start a peasant for this compiled program with this memory, whose large results take this room.
    Hire {
        baron: BaronId,
        job: JobId,
        program: PathBuf,
        slot_bytes: u64,
        takes_files: bool,
        room: HeldRoom,
    },
    Feed(BaronId, Option<InputNo>, UnitInput),
    Store(InputNo, Bytes),
    Read(u64, Read, Range<u64>),
    Discard(InputNo),
    Retire(BaronId),
    Kill(BaronId),
    Bury(BaronId),
    Make(Supply),
    Stop(Supply),
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SimHands {
    deeds: Vec<Deed>,
    /// Programs that were compiled before and kept.
    cache: BTreeMap<Supply, PathBuf>,
    /// How many programs were compiled. Each has a file of its own.
    compiled: u64,
    /// Files that a peasant of this job could not load.
    unloadable: BTreeSet<(JobId, PathBuf)>,
}

impl SimHands {
    /// What is to be done, in order.
    pub(super) fn take(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    /// Compiles a program, and keeps it in the cache or not.
    pub(super) fn compile(&mut self, supply: &Supply, is_kept: bool) -> Made {
        self.compiled += 1;
        let file = PathBuf::from(self.compiled.to_string());
        if is_kept {
            self.cache.insert(supply.clone(), file.clone());
        }
        Made::Program(file)
    }

    /// A peasant of this job cannot load this file.
    pub(super) fn cannot_load(&mut self, job: JobId, file: PathBuf) {
        self.unloadable.insert((job, file));
    }
}

impl Hands for SimHands {
    fn hire(&mut self, baron: BaronId, job: JobId, settings: PeasantSettings, room: HeldRoom) {
        let [Made::Program(program)] = settings.supplies.as_slice() else {
            panic!("peasants_have_what_they_need: {job}");
        };
        let file = (job, program.clone());
        assert!(!self.unloadable.contains(&file), "program_that_cannot_be_loaded_is_compiled_again: {file:?}");
        let (program, slot_bytes, takes_files) = (file.1, settings.memory_bytes, settings.takes_files);
        self.deeds.push(Deed::Hire { baron, job, program, slot_bytes, takes_files, room });
    }

    fn feed(&mut self, baron: BaronId, stored: Option<InputNo>, input: UnitInput) {
        self.deeds.push(Deed::Feed(baron, stored, input));
    }

    fn store(&mut self, input: InputNo, part: Bytes) {
        self.deeds.push(Deed::Store(input, part));
    }

    fn read(&mut self, result: &KeptResult, read: Read, part: Range<u64>) {
        self.deeds.push(Deed::Read(result.bytes, read, part));
    }

    fn discard(&mut self, input: InputNo) {
        self.deeds.push(Deed::Discard(input));
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
        self.cache.get(supply).cloned().map(Made::Program)
    }

    fn make(&mut self, supply: Supply, _blob: Payload) {
        self.deeds.push(Deed::Make(supply));
    }

    fn stop(&mut self, supply: &Supply) {
        self.deeds.push(Deed::Stop(supply.clone()));
    }

    fn remove(&mut self, recipe: &Recipe) {
        self.cache.remove(&Supply::Program(recipe.clone()));
    }

    fn give_memory_back(&mut self) {}
}
