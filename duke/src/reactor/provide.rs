//! Provides jobs with their supplies, and starts their peasants.

use std::sync::Arc;

use distwasm_process::memory;
use distwasm_proto::{
    digest::Digest,
    error_text::chain,
    guest::GuestSettings,
    ids::{BaronId, JobId},
    limits::SPOILED_MAX,
    wire::{self, duke_word::Word},
};
use distwasm_transport::payload::Payload;
use tracing::debug;

use super::{Household, Reactor};
use crate::{
    baron,
    cache::Recipe,
    king_link::LinkError,
    programs::CompileError,
    roster::Event,
    supplies::{Made, Stock, Supply},
    work::Work,
};

/// The outcome of making a supply.
pub(super) struct Tried {
    supply: Supply,
    result: Result<Made, CompileError>,
}

/// The supplies of a job: its program, and then its shared directories.
pub(super) fn needs(program: Digest, guest: &GuestSettings) -> Vec<Supply> {
    let recipe = Recipe { digest: program, deterministic: guest.deterministic, call: guest.call.clone() };
    let shares = guest.shares.iter().map(|share| Supply::Share(share.digest));
    std::iter::once(Supply::Program(recipe)).chain(shares).collect()
}

impl Reactor {
    /// Finds the supplies of a job, or asks the king for their blobs.
    pub(super) fn provide(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let cache = &self.household.cache;
        for supply in &job.needs {
            let find = || match supply {
                Supply::Program(recipe) => cache.find(recipe).map(Made::Program),
                Supply::Share(digest) => cache.find_share(*digest).map(Made::Share),
            };
            if let Some(digest) = self.supplies.need(id, supply, find) {
                self.way.say(Word::BlobWanted(wire::BlobWanted { digest: digest.to_wire() }));
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
            let Household { cache, spawner, .. } = &self.household;
            let (cache, spawner) = (cache.clone(), spawner.clone());
            let (blob, tried, stop) = (blob.clone(), self.tried.clone(), self.stop.clone());
            // The reactor may have ended when the work is done, so both sends may fail.
            match supply {
                Supply::Program(recipe) => self.tasks.spawn(async move {
                    let compile = cache.compile(&recipe, blob, spawner);
                    let Some(result) = stop.run_until_cancelled(compile).await else { return };
                    let result = result.map(Made::Program);
                    let _sent = tried.send(Tried { supply: Supply::Program(recipe), result }).await;
                }),
                Supply::Share(digest) => self.tasks.spawn_blocking(move || {
                    let kept = cache.keep_share(digest, &blob);
                    let result = kept.map(Made::Share).map_err(|error| CompileError::Trouble(chain(&error)));
                    let _sent = tried.blocking_send(Tried { supply: Supply::Share(digest), result });
                }),
            };
        }
        Ok(())
    }

    pub(super) fn on_tried(&mut self, Tried { supply, result }: Tried) {
        let made = match result {
            Ok(made) => Ok(made),
            Err(CompileError::Unfit(failure)) => Err(failure),
            Err(CompileError::Trouble(why)) => {
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
                self.household.cache.remove(recipe);
                self.supplies.spoil(supply);
            }
        }
        job.spoiled += 1;
        if job.spoiled > SPOILED_MAX {
            return self.on_program_broken(id, why);
        }
        self.events.push(Event::ProgramSpoiled { job: id });
    }

    pub(super) fn spawn(&mut self, baron: BaronId, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some((Made::Program(compiled), shares)) = job.made.as_deref().and_then(<[Made]>::split_first) else {
            return;
        };
        let folders = shares.iter().filter_map(|made| match made {
            Made::Share(folder) => Some(Arc::clone(folder)),
            Made::Program(_) => None,
        });
        let work = Work {
            compiled: compiled.clone(),
            memory_bytes: job.slot_bytes,
            guest: Arc::clone(&job.guest),
            folders: folders.collect(),
        };
        let spawner = self.household.spawner.clone();
        let (handle, life) = baron::hire(baron, id, work, spawner, job.room.clone(), self.news.clone());
        self.barons.insert(baron, handle);
        self.tasks.spawn(life);
    }

    pub(super) fn forget(&mut self, id: JobId) {
        if self.jobs.remove(&id).is_none() {
            return;
        }
        debug!(job = id.0, "done with a job");
        let jobs = &self.jobs;
        self.supplies.keep(|supply| jobs.values().any(|job| job.needs.contains(supply)));
        if self.jobs.is_empty() {
            memory::give_back();
        }
    }
}
