//! Provides jobs with their supplies, and starts their peasants.

use std::sync::Arc;

use distwasm_proto::{
    digest::Digest,
    failure::Failure,
    ids::{BaronId, JobId},
    limits::SPOILED_MAX,
    wire::{self, duke_word::Word},
};
use distwasm_transport::payload::Payload;
use tracing::debug;

use super::{Hands, Reactor};
use crate::{
    border::LinkError,
    cache::{Made, MakeError, Order, Stock, Supply},
    peasant::PeasantSettings,
    roster::Event,
};

impl<H: Hands> Reactor<H> {
    /// Finds the supplies of a job. Those that the cache does not have are queued to be made.
    pub(super) fn provide(&mut self, id: JobId) {
        // The king may have closed the job since the roster asked for this.
        let Some(job) = self.jobs.get(&id).filter(|job| job.open) else { return };
        for supply in &job.needs {
            self.supplies.need(id, supply, || self.hands.find(supply));
        }
        self.take_stock(id);
    }

    /// Asks for blobs, makes supplies from those that are here, and stops what no job waits for.
    pub(super) fn go_on_making(&mut self) {
        for order in self.supplies.go_on() {
            match order {
                Order::Ask(digest) => self.link.say(Word::BlobWanted(wire::BlobWanted { digest: digest.to_wire() })),
                Order::Make(supply) => {
                    if let Some(blob) = self.blobs.get(&supply.digest()) {
                        self.hands.make(supply, blob.clone());
                    }
                }
                Order::Stop(supply) => self.hands.stop(&supply),
                Order::Drop(digest) => drop(self.blobs.remove(&digest)),
            }
        }
    }

    /// Tells the king for which jobs it compiles, if that has changed.
    pub(super) fn tell_compiling(&mut self) {
        if let Some(jobs) = self.supplies.compiling_anew() {
            let jobs = jobs.iter().map(|job| job.0).collect();
            self.link.say(Word::CompilesFor(wire::CompilesFor { jobs }));
        }
    }

    pub(super) fn on_blob_arrived(&mut self, digest: Digest, blob: Payload) -> Result<(), LinkError> {
        if Digest::of(blob.chunks().map(AsRef::as_ref)) != digest {
            return Err(LinkError::Nonsense("a blob is not the one whose digest came with it"));
        }
        // It is not needed if the job that wanted it ended while it was in transit.
        if self.supplies.on_blob_arrived(digest) {
            self.blobs.insert(digest, blob);
        }
        Ok(())
    }

    pub(super) fn on_supply_tried(&mut self, supply: &Supply, result: &Result<Made, MakeError>) {
        for job in self.supplies.on_tried(supply, result) {
            match result {
                Err(MakeError::Trouble(why)) => self.on_program_broken(job, why),
                Ok(_) | Err(MakeError::Unfit(_) | MakeError::Stopped) => self.take_stock(job),
            }
        }
        if self.jobs.is_empty() {
            self.hands.give_memory_back();
        }
    }

    /// Tells the roster if a job has all its supplies, or never will.
    fn take_stock(&mut self, id: JobId) {
        // The job may be over.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match self.supplies.stock(&job.needs) {
            Stock::Complete(made) => {
                job.made = Some(made);
                self.events.push(Event::ProgramReady { job: id });
            }
            Stock::Unfit(failure) => self.on_unfit(id, failure),
            Stock::Incomplete => {}
        }
    }

    /// A job cannot run anywhere, so it needs no more supplies.
    pub(super) fn on_unfit(&mut self, id: JobId, failure: Failure) {
        // The job may be over.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.unfit = Some(failure);
        self.supplies.cancel(id);
        self.events.push(Event::ProgramUnfit { job: id });
    }

    /// The king wants these to be made anew, because this duke called the program unfit.
    pub(super) fn renew(&mut self, supplies: &[Supply]) {
        for supply in supplies {
            self.supplies.renew(supply);
            if let Supply::Program(recipe) = supply {
                self.hands.remove(recipe);
            }
        }
    }

    fn on_program_broken(&mut self, id: JobId, why: &str) {
        // The job may be over.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        why.clone_into(&mut job.last_ending);
        self.events.push(Event::ProgramBroken { job: id });
    }

    pub(super) fn on_unloadable(&mut self, id: JobId, why: &str) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        // Another of its peasants may have reported the same program.
        if job.made.take().is_none() {
            return;
        }
        for supply in &job.needs {
            if let Supply::Program(recipe) = supply {
                self.hands.remove(recipe);
                self.supplies.spoil(supply);
            }
        }
        job.spoiled += 1;
        if job.spoiled > SPOILED_MAX {
            return self.on_program_broken(id, why);
        }
        self.events.push(Event::ProgramSpoiled { job: id });
    }

    pub(super) fn hire(&mut self, baron: BaronId, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(supplies) = job.made.clone() else {
            // Its program was found to be spoiled by another peasant when the roster had just decided. The slot gets a
            // peasant when the program has been made once more.
            return self.events.push(Event::PeasantGone { baron });
        };
        let (guest, takes_files) = (Arc::clone(&job.guest), job.takes_files);
        let settings = PeasantSettings { supplies, memory_bytes: job.slot_bytes, guest, takes_files };
        self.hands.hire(baron, id, settings, job.room.clone());
    }

    pub(super) fn forget(&mut self, id: JobId) {
        if self.jobs.remove(&id).is_none() {
            return;
        }
        debug!(job = id.0, "done with a job");
        let jobs = &self.jobs;
        self.supplies.keep(|supply| jobs.values().any(|job| job.needs.contains(supply)));
        if self.jobs.is_empty() {
            self.hands.give_memory_back();
        }
    }
}
