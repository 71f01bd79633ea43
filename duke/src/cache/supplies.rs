//! The supplies of jobs, needed before a peasant can be started: compiled programs and shared directories. Each is
//! fetched and made once at a time, even if several jobs need it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use distwasm_proto::{digest::Digest, failure::Failure, guest::GuestSettings, ids::JobId};

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
        let recipe = Recipe { digest: program, deterministic: guest.deterministic, call: guest.call.clone() };
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
    /// The program cannot run anywhere.
    Unfit(Failure),
    /// This machine lacks something. Holds the reason as text.
    Trouble(String),
}

/// Whether all supplies of a job are there.
#[derive(Debug)]
pub(crate) enum Stock {
    /// Everything is there, in the order of the request.
    Complete(Vec<Made>),
    /// The program cannot run anywhere.
    Unfit(Failure),
    /// Something is missing.
    Incomplete,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Supplies {
    states: BTreeMap<Supply, Progress>,
    /// Blobs that the king was asked for and that have not come, with the supplies to make from them.
    wanted: BTreeMap<Digest, BTreeSet<Supply>>,
}

/// How far a supply is.
#[derive(Debug)]
enum Progress {
    /// Its blob is wanted, or it is being made, for these jobs.
    Coming(BTreeSet<JobId>),
    Ready(Made),
    Unfit(Failure),
}

impl Supplies {
    /// A job needs this supply. Takes what `find` finds; otherwise returns the blob to ask the king for, unless it was
    /// already asked for.
    #[must_use]
    pub(crate) fn need(&mut self, job: JobId, supply: &Supply, find: impl FnOnce() -> Option<Made>) -> Option<Digest> {
        match self.states.get_mut(supply) {
            Some(Progress::Coming(jobs)) => {
                jobs.insert(job);
                return None;
            }
            Some(Progress::Ready(_) | Progress::Unfit(_)) => return None,
            None => {}
        }
        if let Some(made) = find() {
            self.states.insert(supply.clone(), Progress::Ready(made));
            return None;
        }
        self.states.insert(supply.clone(), Progress::Coming(BTreeSet::from([job])));
        let known = self.wanted.contains_key(&supply.digest());
        self.wanted.entry(supply.digest()).or_default().insert(supply.clone());
        (!known).then(|| supply.digest())
    }

    /// Blobs that were asked for and have not come.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = Digest> {
        self.wanted.keys().copied()
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

    /// A blob came: returns the supplies to make from it. There are none if all jobs that wanted it are over.
    pub(crate) fn on_blob_arrived(&mut self, digest: Digest) -> BTreeSet<Supply> {
        self.wanted.remove(&digest).unwrap_or_default()
    }

    /// A supply was made, or found to be unfit. Returns the jobs that waited for it.
    pub(crate) fn on_made(&mut self, supply: Supply, made: Result<Made, Failure>) -> BTreeSet<JobId> {
        let jobs = self.take_waiting(&supply);
        // If their jobs are over, it is not needed in memory; it stays on disk.
        if !jobs.is_empty() {
            self.states.insert(supply, made.map_or_else(Progress::Unfit, Progress::Ready));
        }
        jobs
    }

    /// A supply cannot be made on this machine for now. Returns the jobs that waited for it.
    pub(crate) fn on_trouble(&mut self, supply: &Supply) -> BTreeSet<JobId> {
        self.take_waiting(supply)
    }

    fn take_waiting(&mut self, supply: &Supply) -> BTreeSet<JobId> {
        match self.states.remove(supply) {
            Some(Progress::Coming(jobs)) => jobs,
            // Only a coming supply is made.
            Some(Progress::Ready(_) | Progress::Unfit(_)) | None => BTreeSet::new(),
        }
    }

    /// A job is over: no supply comes for it any more. The king may forget its blobs before it handles the request for
    /// them, so the next job that needs them must ask again.
    pub(crate) fn cancel(&mut self, job: JobId) {
        for state in self.states.values_mut() {
            if let Progress::Coming(jobs) = state {
                jobs.remove(&job);
            }
        }
        let states = &mut self.states;
        self.wanted.retain(|_, supplies| {
            supplies.retain(|supply| {
                let given_up = matches!(states.get(supply), Some(Progress::Coming(jobs)) if jobs.is_empty());
                if given_up {
                    states.remove(supply);
                }
                !given_up
            });
            !supplies.is_empty()
        });
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

    /// Whether it has no supply and waits for none.
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.wanted.is_empty()
    }

    /// Drops supplies that are not needed any more.
    pub(crate) fn keep(&mut self, is_needed: impl Fn(&Supply) -> bool) {
        self.states.retain(|supply, state| matches!(state, Progress::Coming(_)) || is_needed(supply));
    }
}

#[cfg(test)]
mod tests {
    use distwasm_proto::failure::FailureKind;

    use super::*;

    const ONE: JobId = JobId(1);
    const TWO: JobId = JobId(2);

    fn digest(name: &str) -> Digest {
        Digest::of([name.as_bytes()])
    }

    fn program(name: &str, call: &str) -> Supply {
        Supply::Program(Recipe { digest: digest(name), deterministic: false, call: call.to_owned() })
    }

    fn made() -> Made {
        Made::Program("there".into())
    }

    fn is_complete(stock: &Stock) -> bool {
        matches!(stock, Stock::Complete(_))
    }

    #[test]
    fn a_supply_of_two_jobs_is_fetched_once() {
        let mut supplies = Supplies::default();
        let (p, s) = (program("p", ""), Supply::Share(digest("s")));
        assert_eq!(supplies.need(ONE, &p, || None), Some(digest("p")));
        assert_eq!(supplies.need(TWO, &p, || None), None);
        assert_eq!(supplies.need(TWO, &s, || Some(made())), None);
        assert!(!is_complete(&supplies.stock(&[p.clone(), s.clone()])));
        assert_eq!(supplies.on_blob_arrived(digest("p")), BTreeSet::from([p.clone()]));
        assert_eq!(supplies.need(ONE, &p, || None), None, "it is being made");
        assert_eq!(supplies.on_made(p.clone(), Ok(made())), BTreeSet::from([ONE, TWO]));
        assert!(is_complete(&supplies.stock(&[p, s])));
    }

    #[test]
    fn one_blob_may_be_made_into_several_things() {
        let mut supplies = Supplies::default();
        let (f, g) = (program("p", "f"), program("p", "g"));
        assert_eq!(supplies.need(ONE, &f, || None), Some(digest("p")));
        assert_eq!(supplies.need(TWO, &g, || None), None);
        assert_eq!(supplies.on_blob_arrived(digest("p")).len(), 2);
        supplies.on_made(f.clone(), Err(Failure::new(FailureKind::Program, "no f")));
        assert!(matches!(supplies.stock(&[f]), Stock::Unfit(_)));
        assert!(matches!(supplies.stock(&[g]), Stock::Incomplete));
    }

    #[test]
    fn a_supply_is_tried_again_after_trouble() {
        let mut supplies = Supplies::default();
        let p = program("p", "");
        assert!(supplies.need(ONE, &p, || None).is_some());
        supplies.on_blob_arrived(digest("p"));
        assert_eq!(supplies.on_trouble(&p), BTreeSet::from([ONE]));
        assert_eq!(supplies.need(ONE, &p, || None), Some(digest("p")));
    }

    #[test]
    fn a_blob_that_the_king_forgot_is_asked_for_again() {
        let mut supplies = Supplies::default();
        let p = program("p", "");
        assert!(supplies.need(ONE, &p, || None).is_some());
        supplies.cancel(ONE);
        assert_eq!(supplies.need(TWO, &p, || None), Some(digest("p")));
        supplies.cancel(ONE);
        assert_eq!(supplies.on_blob_arrived(digest("p")).len(), 1);
        assert_eq!(supplies.on_blob_arrived(digest("p")).len(), 0, "it may come twice then");
        supplies.cancel(TWO);
        assert_eq!(supplies.on_made(p.clone(), Ok(made())).len(), 0);
        assert!(!is_complete(&supplies.stock(&[p])), "a supply that no job needs is not kept");
    }

    #[test]
    fn supplies_that_no_job_needs_are_dropped() {
        let mut supplies = Supplies::default();
        let (p, s) = (program("p", ""), Supply::Share(digest("s")));
        for supply in [&p, &s] {
            assert_eq!(supplies.need(ONE, supply, || Some(made())), None);
        }
        supplies.keep(|supply| *supply == p);
        assert!(is_complete(&supplies.stock(std::slice::from_ref(&p))));
        assert!(!is_complete(&supplies.stock(&[s])));
        supplies.spoil(&p);
        assert!(!is_complete(&supplies.stock(&[p])));
    }
}
