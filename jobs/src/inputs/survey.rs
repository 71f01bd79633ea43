//! Goes through the names of all inputs before anything runs, where a decision depends on all of them: which inputs are
//! in a sample, whether two inputs would have one output, which outputs have lost their inputs.
//!
//! It takes 8 bytes of memory for each input, or for each input in the sample.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::{
    Listing,
    decision::Kind,
    walk::{Visitor, walk},
};
use crate::{
    output_name::OutputName,
    selection::{LeftOutBy, Sample, SampleSize, Selection},
};

/// Several inputs that would have one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The output, below the output folder.
    pub output: PathBuf,
    /// The inputs, below the input folder; the first two.
    pub inputs: [PathBuf; 2],
}

/// Why a survey did not come to its end.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SurveyError {
    #[error("interrupted")]
    Interrupted,
    #[error("failed to read the folder {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// A survey that can be stopped from another thread.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// The folder of inputs.
    pub input: &'a Path,
    /// What is listed.
    pub listing: &'a Listing,
    /// Cancelled when the survey is to stop.
    pub interrupted: &'a CancellationToken,
}

impl Survey<'_> {
    /// The sample of this size of the inputs that pass all other filters.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn sample(&self, size: u64, seed: u64) -> Result<Sample, SurveyError> {
        let mut sample = SampleSize::new(size, seed);
        self.each_name(&self.listing.selection.without_sample(), |path, _| sample.add(path))?;
        Ok(Sample::new(seed, sample.threshold()))
    }

    /// Inputs that would have the same outputs, at most `most`.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn clashes(&self, name: &OutputName, most: usize) -> Result<Vec<Clash>, SurveyError> {
        let hasher = RandomState::new();
        let selection = &self.listing.selection;
        let mut hashes = Vec::new();
        self.each_name(selection, |path, number| {
            // A name that cannot be used is told when its turn comes.
            hashes.extend(name.fill_in(path, number).ok().map(|output| hasher.hash_one(output.as_os_str())));
        })?;
        hashes.sort_unstable();
        let twice: Vec<u64> = hashes.windows(2).filter(|pair| pair.first() == pair.last()).flatten().copied().collect();
        if twice.is_empty() {
            return Ok(Vec::new());
        }
        drop(hashes);
        // Two names may have one hash by chance: a second look at the few that do tells.
        let (mut first, mut clashes) = (BTreeMap::<PathBuf, PathBuf>::new(), Vec::<Clash>::new());
        self.each_name(selection, |path, number| {
            let Ok(output) = name.fill_in(path, number) else { return };
            if clashes.len() >= most || twice.binary_search(&hasher.hash_one(output.as_os_str())).is_err() {
                return;
            }
            if clashes.iter().any(|clash| clash.output == output) {
                return;
            }
            match first.remove(&output) {
                Some(one) => clashes.push(Clash { output, inputs: [one, path.to_owned()] }),
                None => drop(first.insert(output, path.to_owned())),
            }
        })?;
        Ok(clashes)
    }

    /// The first input that passes the filters.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn first(&self) -> Result<Option<PathBuf>, SurveyError> {
        let mut first = None;
        let limit = Some(self.listing.selection.limit.unwrap_or(1).min(1));
        let selection = Selection { limit, ..self.listing.selection.clone() };
        self.each_name(&selection, |path, _| first = Some(path.to_owned()))?;
        Ok(first)
    }

    /// Whether there is any input, filtered or not.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub(crate) fn has_inputs(&self) -> Result<bool, SurveyError> {
        let mut has_inputs = false;
        self.each_name_there(Some(1), |_, _| has_inputs = true)?;
        Ok(has_inputs)
    }

    /// The outputs of all inputs, filtered or not.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted, or a folder cannot be read: an output whose input is there could be missing.
    pub(crate) fn all_outputs(&self, name: &OutputName) -> Result<OutputSet, SurveyError> {
        let hasher = RandomState::new();
        let mut hashes = Vec::new();
        let unreadable = self.each_name_there(None, |path, number| {
            hashes.extend(name.fill_in(path, number).ok().map(|output| hasher.hash_one(output.as_os_str())));
        })?;
        if let Some((path, source)) = unreadable {
            return Err(SurveyError::Unreadable { path, source });
        }
        hashes.sort_unstable();
        Ok(OutputSet { hasher, hashes })
    }

    /// Calls `each` with each input and its number; returns a folder that cannot be read, if there is one.
    fn each_name(
        &self,
        selection: &Selection,
        each: impl FnMut(&Path, u64),
    ) -> Result<Option<(PathBuf, io::Error)>, SurveyError> {
        self.each_name_of(&Listing { selection: selection.clone(), ..self.what_is_named() }, each)
    }

    /// As [`Survey::each_name`], for all inputs, and also for links that are not followed: they are there.
    fn each_name_there(
        &self,
        limit: Option<u64>,
        each: impl FnMut(&Path, u64),
    ) -> Result<Option<(PathBuf, io::Error)>, SurveyError> {
        let selection = Selection { limit, ..Selection::default() };
        self.each_name_of(&Listing { selection, follows_links: true, ..self.what_is_named() }, each)
    }

    fn what_is_named(&self) -> Listing {
        let Listing { names, follows_links, .. } = self.listing;
        Listing { names: names.clone(), follows_links: *follows_links, ..Listing::default() }
    }

    fn each_name_of(
        &self,
        listing: &Listing,
        each: impl FnMut(&Path, u64),
    ) -> Result<Option<(PathBuf, io::Error)>, SurveyError> {
        let mut visitor = EachName { each, unreadable: None, interrupted: self.interrupted };
        // It ends early at the limit, or when it is interrupted.
        let _end = walk(self.input, listing, &mut visitor);
        if self.interrupted.is_cancelled() { Err(SurveyError::Interrupted) } else { Ok(visitor.unreadable) }
    }
}

/// A set of outputs, of which it keeps the hashes. It may have an output by chance that was not put into it.
#[derive(Debug)]
pub(crate) struct OutputSet {
    hasher: RandomState,
    hashes: Vec<u64>,
}

impl OutputSet {
    pub(crate) fn has(&self, output: &Path) -> bool {
        self.hashes.binary_search(&self.hasher.hash_one(output.as_os_str())).is_ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

struct EachName<'a, F> {
    each: F,
    unreadable: Option<(PathBuf, io::Error)>,
    interrupted: &'a CancellationToken,
}

impl<F: FnMut(&Path, u64)> Visitor for EachName<'_, F> {
    const LOOKS: bool = false;

    fn enter(&mut self, _: &Path) -> Option<bool> {
        (!self.interrupted.is_cancelled()).then_some(true)
    }

    fn leave(&mut self) -> Option<()> {
        Some(())
    }

    fn unreadable(&mut self, folder: &Path, error: &io::Error) -> Option<()> {
        // The lister tells of it again.
        self.unreadable.get_or_insert_with(|| (folder.to_owned(), io::Error::new(error.kind(), error.to_string())));
        Some(())
    }

    fn skipped(&mut self, _: &Path, _: &'static str) -> Option<()> {
        Some(())
    }

    fn missing(&mut self, _: &Path, _: &'static str) -> Option<()> {
        Some(())
    }

    fn left_out(&mut self, _: Option<LeftOutBy>) {}

    fn input(&mut self, path: &Path, _: Kind, number: u64) -> Option<()> {
        (self.each)(path, number);
        Some(())
    }
}
