//! The supplies of jobs, needed before a peasant can be started: compiled programs and shared directories. Each is
//! fetched and made once at a time, even if several jobs need it.
//!
//! Pure: it decides which blobs are asked for, which supplies are made, and which are stopped because no job waits for
//! them any more. Supplies are made in the order in which jobs came to need them, a few at a time.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use distwasm_proto::{digest::Digest, failure::Failure, guest::GuestSettings, ids::JobId, limits::BLOBS_AHEAD_MAX};

use super::shares::SharedFolder;

/// A program, and how it is compiled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipe {
    /// The program.
    pub digest: Digest,
    /// Whether the same unit is to give the same bytes everywhere. That needs different code.
    pub deterministic: bool,
    /// The export that must exist, or empty to find it from the program. It does not change the code.
    pub call: String,
    /// Whether functions that it imports and that do not exist trap. It does not change the code.
    pub traps_unknown_imports: bool,
}

/// Something that a job needs, and that is made from a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supply {
    /// A program, compiled.
    Program(Recipe),
    /// A shared directory, unpacked from this archive.
    Share(Digest),
}

impl Supply {
    /// The supplies of a job: its program, and then its shared directories.
    pub(crate) fn of_job(program: Digest, guest: &GuestSettings) -> Vec<Supply> {
        let recipe = Recipe {
            digest: program,
            deterministic: guest.deterministic,
            call: guest.call.clone(),
            traps_unknown_imports: guest.traps_unknown_imports,
        };
        let shares = guest.shares.iter().map(|share| Supply::Share(share.digest));
        std::iter::once(Supply::Program(recipe)).chain(shares).collect()
    }

    /// The blob that it is made from.
    pub fn digest(&self) -> Digest {
        match self {
            Supply::Program(recipe) => recipe.digest,
            Supply::Share(digest) => *digest,
        }
    }

    /// Whether both are programs, or both are shared directories.
    fn is_like(&self, other: &Supply) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A supply that is there.
#[derive(Clone, Debug)]
pub enum Made {
    /// The file of a compiled program.
    Program(PathBuf),
    /// The directory stays on disk as long as this value lives.
    Share(Arc<SharedFolder>),
}

/// Why a supply could not be made.
#[derive(Debug)]
pub enum MakeError {
    /// The job cannot run anywhere.
    Unfit(Failure),
    /// This machine lacks something. Holds the reason as text.
    Trouble(String),
    /// It was stopped, because no job waits for it any more.
    Stopped,
}

/// Whether all supplies of a job are there.
#[derive(Debug)]
pub(crate) enum Stock {
    /// Everything is there, in the order of the request.
    Complete(Vec<Made>),
    /// The job cannot run anywhere.
    Unfit(Failure),
    /// Something is missing.
    Incomplete,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Ask the king for a blob.
    Ask(Digest),
    /// Make a supply from its blob, which is here.
    Make(Supply),
    /// Stop making a supply: no job waits for it. [`Supplies::on_tried`] follows nevertheless.
    Stop(Supply),
    /// Drop a blob: no supply that waits is made from it.
    Drop(Digest),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Supplies {
    states: BTreeMap<Supply, Progress>,
    /// Supplies that are to be made, in this order.
    queue: Vec<Supply>,
    /// Blobs that the king was asked for, and whether they are here.
    blobs: BTreeMap<Digest, bool>,
    /// Supplies that are being made, and whether they were stopped.
    making: BTreeMap<Supply, bool>,
    /// The answer of [`Supplies::compiling_anew`], when there last was one.
    compiling: BTreeSet<JobId>,
    /// How many programs may be compiled at a time, and how many directories unpacked.
    parallel: usize,
}

/// How far a supply is.
#[derive(Debug)]
enum Progress {
    /// It is queued or being made, for these jobs. There is at least one.
    Coming(BTreeSet<JobId>),
    Ready(Made),
    Unfit(Failure),
}

impl Supplies {
    /// No supplies. `parallel` programs may be compiled at a time, and as many directories unpacked.
    pub(crate) fn new(parallel: usize) -> Supplies {
        let (states, queue) = (BTreeMap::new(), Vec::new());
        let compiling = BTreeSet::new();
        Supplies { states, queue, blobs: BTreeMap::new(), making: BTreeMap::new(), compiling, parallel }
    }

    /// A job needs this supply. Takes what `find` finds; otherwise the supply is to be made.
    pub(crate) fn need(&mut self, job: JobId, supply: &Supply, find: impl FnOnce() -> Option<Made>) {
        match self.states.get_mut(supply) {
            Some(Progress::Coming(jobs)) => {
                jobs.insert(job);
                return;
            }
            Some(Progress::Ready(_) | Progress::Unfit(_)) => return,
            None => {}
        }
        if let Some(made) = find() {
            self.states.insert(supply.clone(), Progress::Ready(made));
            return;
        }
        self.states.insert(supply.clone(), Progress::Coming(BTreeSet::from([job])));
        // If it is being stopped, it may be ready before; otherwise it is made once more when it has stopped.
        if !self.making.contains_key(supply) {
            self.queue.push(supply.clone());
        }
    }

    /// What is to be done next: all blobs to ask for, all supplies to make, and all to stop.
    ///
    /// A supply whose blob is here may be made before an earlier one whose blob is not. Blobs are asked for in the order
    /// of the queue, so that no more than a few wait in memory.
    pub(crate) fn go_on(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        for (supply, stopped) in &mut self.making {
            if !*stopped && !matches!(self.states.get(supply), Some(Progress::Coming(_))) {
                *stopped = true;
                orders.push(Order::Stop(supply.clone()));
            }
        }
        let queue = std::mem::take(&mut self.queue);
        for supply in queue {
            let is_here = self.blobs.get(&supply.digest()).copied().unwrap_or(false);
            if is_here && self.making.keys().filter(|made| made.is_like(&supply)).count() < self.parallel {
                self.making.insert(supply.clone(), false);
                orders.push(Order::Make(supply));
            } else {
                self.queue.push(supply);
            }
        }
        let queue = &self.queue;
        self.blobs.retain(|digest, is_here| {
            let is_needed = queue.iter().any(|supply| supply.digest() == *digest);
            if *is_here && !is_needed {
                orders.push(Order::Drop(*digest));
            }
            is_needed
        });
        for supply in &self.queue {
            if self.blobs.len() < BLOBS_AHEAD_MAX && !self.blobs.contains_key(&supply.digest()) {
                self.blobs.insert(supply.digest(), false);
                orders.push(Order::Ask(supply.digest()));
            }
        }
        orders
    }

    /// Blobs that were asked for and have not come.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = Digest> {
        self.blobs.iter().filter(|(_, is_here)| !**is_here).map(|(digest, _)| *digest)
    }

    /// Blobs that are here.
    pub(crate) fn held(&self) -> Vec<Digest> {
        self.blobs.iter().filter(|(_, is_here)| **is_here).map(|(digest, _)| *digest).collect()
    }

    /// Whether these supplies are there.
    pub(crate) fn stock(&self, supplies: &[Supply]) -> Stock {
        let mut made = Vec::with_capacity(supplies.len());
        for supply in supplies {
            match self.states.get(supply) {
                Some(Progress::Ready(ready)) => made.push(ready.clone()),
                Some(Progress::Unfit(failure)) => return Stock::Unfit(failure.clone()),
                Some(Progress::Coming(_)) | None => {}
            }
        }
        if made.len() == supplies.len() { Stock::Complete(made) } else { Stock::Incomplete }
    }

    /// A blob came. Returns whether it is to be kept until a supply is made from it: not if all jobs that wanted it are
    /// over, or if it came twice.
    #[must_use]
    pub(crate) fn on_blob_arrived(&mut self, digest: Digest) -> bool {
        self.blobs.get_mut(&digest).is_some_and(|is_here| !std::mem::replace(is_here, true))
    }

    /// A supply was made, or could not be. Returns the jobs that waited for it, unless it is made once more for them.
    pub(crate) fn on_tried(&mut self, supply: &Supply, result: &Result<Made, MakeError>) -> BTreeSet<JobId> {
        self.making.remove(supply);
        // Only a coming supply is made. If its jobs are over, it is not needed in memory; it may stay on disk.
        let Some(Progress::Coming(jobs)) = self.states.get_mut(supply) else { return BTreeSet::new() };
        let jobs = std::mem::take(jobs);
        let state = match result {
            Ok(made) => Progress::Ready(made.clone()),
            Err(MakeError::Unfit(failure)) => Progress::Unfit(failure.clone()),
            Err(MakeError::Trouble(_)) => {
                self.states.remove(supply);
                return jobs;
            }
            // These jobs came to need it after it was stopped.
            Err(MakeError::Stopped) => {
                self.states.insert(supply.clone(), Progress::Coming(jobs));
                self.queue.push(supply.clone());
                return BTreeSet::new();
            }
        };
        self.states.insert(supply.clone(), state);
        jobs
    }

    /// The jobs that wait for programs which are being compiled, if they are others than when this was asked last.
    pub(crate) fn compiling_anew(&mut self) -> Option<&BTreeSet<JobId>> {
        let programs = self.making.keys().filter(|supply| matches!(supply, Supply::Program(_)));
        let waiting = programs.filter_map(|supply| match self.states.get(supply) {
            Some(Progress::Coming(jobs)) => Some(jobs),
            _ => None,
        });
        let compiling = waiting.flatten().copied().collect();
        (compiling != self.compiling).then(|| {
            self.compiling = compiling;
            &self.compiling
        })
    }

    /// Makes the next call of [`Supplies::compiling_anew`] tell all jobs again.
    pub(crate) fn forget_compiling(&mut self) {
        self.compiling.clear();
    }

    /// A job is over: no supply comes for it any more. The king may forget its blobs before it handles the request for
    /// them, so the next job that needs them must ask again.
    pub(crate) fn cancel(&mut self, job: JobId) {
        self.states.retain(|_, state| match state {
            Progress::Coming(jobs) => {
                jobs.remove(&job);
                !jobs.is_empty()
            }
            Progress::Ready(_) | Progress::Unfit(_) => true,
        });
        let states = &self.states;
        self.queue.retain(|supply| states.contains_key(supply));
        let queue = &self.queue;
        self.blobs.retain(|digest, is_here| *is_here || queue.iter().any(|supply| supply.digest() == *digest));
    }

    /// A supply that was ready does not exist any more, or cannot be used.
    pub(crate) fn spoil(&mut self, supply: &Supply) {
        if matches!(self.states.get(supply), Some(Progress::Ready(_))) {
            self.states.remove(supply);
        }
    }

    /// A supply is to be made once more, unless it is being made: what is known of it does not count.
    pub(crate) fn renew(&mut self, supply: &Supply) {
        let is_doubtful = match self.states.get(supply) {
            Some(Progress::Unfit(_)) => true,
            Some(Progress::Ready(_)) => matches!(supply, Supply::Program(_)),
            Some(Progress::Coming(_)) | None => false,
        };
        if is_doubtful {
            self.states.remove(supply);
        }
    }

    /// Whether it has no supply, makes none and waits for none.
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.queue.is_empty() && self.blobs.is_empty() && self.making.is_empty()
    }

    /// Drops supplies that are not needed any more.
    pub(crate) fn keep(&mut self, is_needed: impl Fn(&Supply) -> bool) {
        self.states.retain(|supply, state| matches!(state, Progress::Coming(_)) || is_needed(supply));
    }

    /// Asserts what always holds after [`Supplies::go_on`].
    pub(crate) fn check(&self) {
        for (supply, state) in &self.states {
            let Progress::Coming(jobs) = state else { continue };
            let is_queued = self.queue.contains(supply);
            assert!(!jobs.is_empty(), "what_comes_is_waited_for: {supply:?}");
            assert!(is_queued != self.making.contains_key(supply), "what_is_waited_for_is_made_once: {supply:?}");
            let like = self.making.keys().filter(|made| made.is_like(supply)).count();
            let is_here = self.blobs.get(&supply.digest()).copied().unwrap_or(false);
            assert!(!is_queued || !is_here || like >= self.parallel, "supply_is_made_when_it_can_be: {supply:?}");
        }
        for (supply, stopped) in &self.making {
            let is_awaited = matches!(self.states.get(supply), Some(Progress::Coming(_)));
            assert!(*stopped || is_awaited, "what_no_job_waits_for_is_stopped: {supply:?}");
            let like = self.making.keys().filter(|made| made.is_like(supply)).count();
            assert!(like <= self.parallel, "few_supplies_are_made_at_a_time: {like}");
        }
        assert!(self.queue.is_empty() || !self.blobs.is_empty(), "queue_moves_on");
        assert!(self.blobs.len() <= BLOBS_AHEAD_MAX, "few_blobs_wait: {}", self.blobs.len());
    }
}
