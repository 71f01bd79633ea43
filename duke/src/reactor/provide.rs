//! Provides jobs with their supplies, and starts their peasants.

use std::sync::Arc;

use distwasm_proto::{
    digest::Digest,
    ids::{BaronId, JobId},
    limits::SPOILED_MAX,
    wire::{self, duke_word::Word},
};
use distwasm_transport::payload::Payload;
use tracing::debug;

use super::{Hands, Reactor};
use crate::{
    border::LinkError,
    cache::{Made, MakeError, Stock, Supply},
    peasant::PeasantSettings,
    roster::Event,
};

impl<H: Hands> Reactor<H> {
    /// Finds the supplies of a job, or asks the king for their blobs.
    pub(super) fn provide(&mut self, id: JobId) {
        // The king may have closed the job since the roster asked for this.
        let Some(job) = self.jobs.get(&id).filter(|job| job.open) else { return };
        for supply in &job.needs {
            if let Some(digest) = self.supplies.need(id, supply, || self.hands.find(supply)) {
                self.link.say(Word::BlobWanted(wire::BlobWanted { digest: digest.to_wire() }));
            }
        }
        self.take_stock(id);
    }

    pub(super) fn on_blob_arrived(&mut self, digest: Digest, blob: &Payload) -> Result<(), LinkError> {
        if Digest::of(blob.chunks().map(AsRef::as_ref)) != digest {
            return Err(LinkError::Nonsense("a blob is not the one whose digest came with it"));
        }
        // There is nothing to do if the job that wanted it ended while it was in transit.
        for supply in self.supplies.on_blob_arrived(digest) {
            self.hands.make(supply, blob.clone());
        }
        Ok(())
    }

    pub(super) fn on_supply_tried(&mut self, supply: Supply, result: Result<Made, MakeError>) {
        let made = match result {
            Ok(made) => Ok(made),
            Err(MakeError::Unfit(failure)) => Err(failure),
            Err(MakeError::Trouble(why)) => {
                let jobs = self.supplies.on_trouble(&supply);
                return jobs.into_iter().for_each(|job| self.on_program_broken(job, &why));
            }
        };
        let jobs = self.supplies.on_made(supply, made);
        jobs.into_iter().for_each(|job| self.take_stock(job));
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
            Stock::Unfit(failure) => {
                job.unfit = Some(failure);
                self.events.push(Event::ProgramUnfit { job: id });
            }
            Stock::Incomplete => {}
        }
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
        let settings = PeasantSettings { supplies, memory_bytes: job.slot_bytes, guest: Arc::clone(&job.guest) };
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
