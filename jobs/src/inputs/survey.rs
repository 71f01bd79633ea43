//! Goes through the names of all inputs before anything runs, where a decision depends on all of them: which inputs are
//! in a sample, whether two inputs would have one output, which outputs have lost their inputs.
//!
//! It takes 8 bytes of memory for each input, or for each input in the sample.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use distwasm_proto::digest::Digest;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::{
    EntryKind, InputFolder, InputRules, Names,
    walk::{WalkHandler, walk},
};
use crate::{
    output_name::OutputName,
    selection::{Sample, SampleDraw, Selection},
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
    /// Which inputs there are.
    pub rules: &'a InputRules,
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
        let mut draw = SampleDraw::new(size, seed);
        self.each_name(&self.rules.selection.before_sample(), |path, _| draw.add(path))?;
        Ok(draw.finish())
    }

    /// Inputs that would have the same outputs, at most `most`.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn clashes(&self, name: &OutputName, most: usize) -> Result<Vec<Clash>, SurveyError> {
        let (names, selection) = &self.sharing();
        let (OutputSet { hasher, hashes }, _) = self.outputs(names, selection, name, false)?;
        let twice: Vec<u64> = hashes.windows(2).filter(|pair| pair.first() == pair.last()).flatten().copied().collect();
        if twice.is_empty() {
            return Ok(Vec::new());
        }
        drop(hashes);
        // Two names may have one hash by chance: a second look at the few that do tells.
        let (mut first, mut clashes) = (BTreeMap::<PathBuf, PathBuf>::new(), Vec::<Clash>::new());
        self.each_name_of(names, selection, false, |path, number| {
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

    /// An output that would lie in the folder that is the output of another input, if there is one.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn nested(&self, name: &OutputName) -> Result<Option<PathBuf>, SurveyError> {
        let (names, selection) = &self.sharing();
        let (outputs, _) = self.outputs(names, selection, name, false)?;
        let mut nested = None;
        self.each_name_of(names, selection, false, |path, number| {
            let Ok(output) = name.fill_in(path, number) else { return };
            if nested.is_none() && output.ancestors().skip(1).any(|folder| outputs.has(folder)) {
                nested = Some(output);
            }
        })?;
        Ok(nested)
    }

    /// The inputs whose outputs share a folder with those of this run.
    fn sharing(&self) -> (Names, Selection) {
        // Failures of earlier runs have the outputs that they have among all inputs.
        let names = if matches!(self.rules.names, Names::Failed(_)) { Names::All } else { self.rules.names.clone() };
        // Other shards write there, and runs of another sample or limit.
        (names, Selection { globs: self.rules.selection.globs.clone(), ..Selection::default() })
    }

    /// The first input that passes the filters.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn first(&self) -> Result<Option<PathBuf>, SurveyError> {
        let mut first = None;
        let selection = Selection { limit: Some(1), ..self.rules.selection.clone() };
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
        let selection = Selection { limit: Some(1), ..Selection::default() };
        self.each_name_of(&self.rules.names, &selection, true, |_, _| has_inputs = true)?;
        Ok(has_inputs)
    }

    /// The outputs of all inputs, filtered or not.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted, or a folder cannot be read: an output whose input is there could be missing.
    pub(crate) fn all_outputs(&self, name: &OutputName) -> Result<OutputSet, SurveyError> {
        // A link that leads nowhere now may be an input again.
        match self.outputs(&Names::All, &Selection::default(), name, true)? {
            (_, Some((path, source))) => Err(SurveyError::Unreadable { path, source }),
            (outputs, None) => Ok(outputs),
        }
    }

    /// The first output that would take the place of an input, as a path below the input folder.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn output_over_input(&self, output: &Path) -> Result<Option<PathBuf>, SurveyError> {
        let Names::Listed(names) = &self.rules.names else { return Ok(None) };
        let known: HashSet<&Path> = names.iter().map(PathBuf::as_path).collect();
        // A folder takes the place of all that is in it.
        let mut folders = HashSet::new();
        if self.rules.outputs_are_folders {
            folders
                .extend(names.iter().flat_map(|name| name.ancestors().skip(1)).map(|folder| self.input.join(folder)));
            folders.extend(self.input.ancestors().map(Path::to_path_buf));
        }
        let mut found = None;
        self.each_name(&self.rules.selection, |path, number| {
            let renamed = self.rules.output_name.as_ref().map(|name| name.fill_in(path, number));
            // An output whose name cannot be used is not written.
            let Ok(renamed) = renamed.transpose() else { return };
            let whole = output.join(renamed.as_deref().unwrap_or(path));
            let below = whole.strip_prefix(self.input).ok().filter(|below| known.contains(below));
            let below = below.map(Path::to_path_buf).or_else(|| folders.contains(&whole).then(|| path.to_path_buf()));
            found = found.take().or(below);
        })?;
        Ok(found)
    }

    /// The digest of the names of all inputs, in their order.
    ///
    /// # Errors
    ///
    /// When the survey was interrupted.
    pub fn digest(&self) -> Result<Digest, SurveyError> {
        // Digests of digests: no name is kept.
        let mut digest = Digest::of([]);
        self.each_name(&self.rules.selection, |path, _| {
            digest = Digest::of([&digest.to_wire()[..], path.as_os_str().as_bytes()]);
        })?;
        Ok(digest)
    }

    /// The outputs of the inputs that pass these filters, and a folder that cannot be read, if there is one.
    fn outputs(
        &self,
        names: &Names,
        selection: &Selection,
        name: &OutputName,
        with_skipped: bool,
    ) -> Result<(OutputSet, Option<(PathBuf, io::Error)>), SurveyError> {
        let hasher = RandomState::new();
        let mut hashes = Vec::new();
        let unreadable = self.each_name_of(names, selection, with_skipped, |path, number| {
            // A name that cannot be used is told when its turn comes.
            hashes.extend(name.fill_in(path, number).ok().map(|output| hasher.hash_one(output.as_os_str())));
        })?;
        hashes.sort_unstable();
        Ok((OutputSet { hasher, hashes }, unreadable))
    }

    /// Calls `each` with each input and its number; returns a folder that cannot be read, if there is one.
    fn each_name(
        &self,
        selection: &Selection,
        each: impl FnMut(&Path, u64),
    ) -> Result<Option<(PathBuf, io::Error)>, SurveyError> {
        self.each_name_of(&self.rules.names, selection, false, each)
    }

    /// As [`Survey::each_name`], for these names, and also for what is skipped, if that is wanted.
    fn each_name_of(
        &self,
        names: &Names,
        selection: &Selection,
        with_skipped: bool,
        each: impl FnMut(&Path, u64),
    ) -> Result<Option<(PathBuf, io::Error)>, SurveyError> {
        let mut handler = EachName { each, with_skipped, unreadable: None, interrupted: self.interrupted };
        let input = InputFolder::new(self.input, self.rules.follows_links);
        // It ends early at the limit, or when it is interrupted.
        let _end = walk(&input, names, selection, &mut handler);
        if self.interrupted.is_cancelled() { Err(SurveyError::Interrupted) } else { Ok(handler.unreadable) }
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
    with_skipped: bool,
    unreadable: Option<(PathBuf, io::Error)>,
    interrupted: &'a CancellationToken,
}

impl<F: FnMut(&Path, u64)> WalkHandler for EachName<'_, F> {
    const WANTS_METADATA: bool = false;

    fn unreadable(&mut self, folder: &Path, error: &io::Error) -> ControlFlow<()> {
        // The lister tells of it again.
        self.unreadable.get_or_insert_with(|| (folder.to_owned(), io::Error::new(error.kind(), error.to_string())));
        ControlFlow::Continue(())
    }

    fn skipped(&mut self, path: &Path, _: &'static str) -> ControlFlow<()> {
        if self.with_skipped {
            (self.each)(path, 0);
        }
        ControlFlow::Continue(())
    }

    fn input(&mut self, path: &Path, _: EntryKind, number: u64) -> ControlFlow<()> {
        (self.each)(path, number);
        if self.interrupted.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn survey<'a>(folder: &'a Path, rules: &'a InputRules, interrupted: &'a CancellationToken) -> Survey<'a> {
        Survey { input: folder, rules, interrupted }
    }

    #[test]
    fn each_clash_is_told_once_with_two_of_its_inputs() {
        let folder = folder(&["a.x", "a.y", "a.z", "b.x", "d/b.x"]);
        let name: OutputName = "{stem}".parse().unwrap();
        let (rules, going_on) = (InputRules::default(), CancellationToken::new());
        let clashes = survey(folder.path(), &rules, &going_on).clashes(&name, 5).unwrap();
        let told: Vec<String> = clashes.iter().map(|clash| format!("{:?}", (&clash.output, &clash.inputs))).collect();
        assert_eq!(told, [r#"("a", ["a.x", "a.y"])"#, r#"("b", ["b.x", "d/b.x"])"#]);
        let few = survey(folder.path(), &rules, &going_on).clashes(&name, 1).unwrap();
        assert_eq!(few.len(), 1);
    }

    #[test]
    fn an_output_in_the_folder_of_another_is_found() {
        let folder = folder(&["a.x", "a/b.x", "c/d.x"]);
        let name: OutputName = "{dir}/{stem}".parse().unwrap();
        let going_on = CancellationToken::new();
        let mut rules = InputRules::default();
        let nested = |rules: &InputRules| survey(folder.path(), rules, &going_on).nested(&name).unwrap();
        assert_eq!(nested(&rules), Some("a/b".into()));
        rules.selection.limit = Some(1);
        assert_eq!(nested(&rules), Some("a/b".into()), "others may write there, too");
        rules.names = Names::Failed(["a/b.x"].map(PathBuf::from).into());
        assert_eq!(nested(&rules), Some("a/b".into()));
        rules.names = Names::Listed(["a/b.x", "c/d.x"].map(PathBuf::from).into());
        assert_eq!(nested(&rules), None);
    }

    #[test]
    fn an_output_over_an_input_is_found_under_the_number_that_it_will_have() {
        let folder = folder(&["z", "f", "f1"]);
        let names = Names::Listed(["z", "f", "f1"].map(PathBuf::from).into());
        let output_name = Some("{name}{number}".parse().unwrap());
        let going_on = CancellationToken::new();
        let mut rules = InputRules { names, output_name, ..InputRules::default() };
        let over =
            |rules: &InputRules| survey(folder.path(), rules, &going_on).output_over_input(folder.path()).unwrap();
        assert_eq!(over(&rules), None);
        rules.selection.globs = crate::selection::Globs::new(&[crate::selection::GlobRule {
            is_include: false,
            glob: "z".to_owned(),
            place: String::new(),
        }])
        .unwrap();
        assert_eq!(over(&rules), Some("f1".into()));
    }

    #[test]
    fn a_folder_over_an_input_is_found() {
        let folder = folder(&["site/a"]);
        let site = folder.path().join("site");
        let names = Names::Listed(["a"].map(PathBuf::from).into());
        let going_on = CancellationToken::new();
        for (are_folders, found) in [(true, Some(PathBuf::from("a"))), (false, None)] {
            let (names, output_name) = (names.clone(), Some("site".parse().unwrap()));
            let rules = InputRules { names, output_name, outputs_are_folders: are_folders, ..InputRules::default() };
            assert_eq!(survey(&site, &rules, &going_on).output_over_input(folder.path()).unwrap(), found);
        }
    }

    #[test]
    fn a_survey_ends_at_the_limit_and_when_it_is_interrupted() {
        let folder = folder(&["a", "b", "c"]);
        let (all_rules, going_on) = (InputRules::default(), CancellationToken::new());
        let rules =
            InputRules { selection: Selection { limit: Some(2), ..Selection::default() }, ..InputRules::default() };
        assert_eq!(survey(folder.path(), &rules, &going_on).first().unwrap(), Some("a".into()));
        let all = survey(folder.path(), &all_rules, &going_on).digest().unwrap();
        assert_ne!(survey(folder.path(), &rules, &going_on).digest().unwrap(), all);
        let interrupted = CancellationToken::new();
        interrupted.cancel();
        for names in [Names::All, Names::Listed(["a"].map(PathBuf::from).into())] {
            let rules = InputRules { names, ..InputRules::default() };
            let ended = survey(folder.path(), &rules, &interrupted).digest();
            assert!(matches!(ended, Err(SurveyError::Interrupted)));
        }
    }
}
