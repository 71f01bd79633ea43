//! The folders of a job that its duke sees: inputs are opened there, and outputs are made there, under unfinished names.
//! Their queen gives them their own.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use distwasm_process::{
    beneath::{Missing, Root},
    files, nameless,
    unfinished::{open_own_folder, unfinished_name},
};
use distwasm_proto::guest;
use rustix::{
    fs::{AtFlags, Mode, OFlags, open, openat, statat, unlinkat},
    io::Errno,
};
use thiserror::Error;
use tracing::debug;

use crate::{
    allowed::{AllowedDirs, NotAllowed},
    cache::Cache,
    peasant::OpenResult,
};

/// The folders of a job, open.
#[derive(Debug)]
pub struct Places {
    input: Option<Root>,
    output: Option<OutputFolder>,
    /// Where the duke keeps results that are carried.
    store: Option<Cache>,
}

/// Why a duke does not use the folders of a job.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PlacesError {
    #[error("the folder {path:?} cannot be used here")]
    Folder { path: PathBuf, source: io::Error },
    #[error("{path:?} is another folder here than at the queen: what the queen has written there is missing")]
    Another { path: PathBuf },
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

#[derive(Clone, Debug)]
struct OutputFolder {
    /// The own folder of distwasm in it.
    folder: Arc<File>,
    /// Whether files without a name can be made there, and get one later.
    makes_nameless: bool,
}

impl Places {
    /// Opens the folders of a job that it names, and that may be used.
    ///
    /// # Errors
    ///
    /// When one may not be used, or cannot be opened; the error names it.
    pub fn open(wanted: &guest::Places, allowed: &AllowedDirs) -> Result<Places, PlacesError> {
        let allowed_folder = |path: &Path| {
            let opened = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            let folder = opened.map(File::from).map_err(|error| unusable(path, error.into()))?;
            allowed.check(path, &folder)?;
            Ok::<_, PlacesError>(folder)
        };
        let input = |path: &PathBuf| Ok::<_, PlacesError>(Root::of(path, allowed_folder(path)?));
        let output = |path: &PathBuf| {
            let own = open_own_folder(allowed_folder(path)?, Missing::Made).map_err(|error| unusable(path, error))?;
            if let Some(probe) = &wanted.probe {
                let found = statat(&own, probe, AtFlags::SYMLINK_NOFOLLOW);
                found.map_err(|_| PlacesError::Another { path: path.clone() })?;
            }
            Ok::<_, PlacesError>(OutputFolder::new(path, own))
        };
        let (input, output) = (wanted.input.as_ref().map(input), wanted.output.as_ref().map(output));
        Ok(Places { input: input.transpose()?, output: output.transpose()?, store: None })
    }

    /// These folders, and a place for results that are carried.
    pub(crate) fn with_store(self, store: Option<Cache>) -> Places {
        Places { store, ..self }
    }

    /// Makes a file of the duke's own for a result.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn make_result(&self) -> io::Result<OpenResult> {
        let store = self.store.as_ref().ok_or_else(|| io::Error::other("this duke has no place for it"))?;
        OpenResult::make(store)
    }

    /// Opens an input: a regular file beneath the input folder.
    ///
    /// # Errors
    ///
    /// As for [`Root::file`].
    pub(crate) fn open_input(&self, path: &Path) -> io::Result<File> {
        let folder = self.input.as_ref().ok_or_else(|| io::Error::other("this duke does not see the input folder"))?;
        folder.file(path)
    }

    /// Makes the file of an output in the output folder.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn make_output(&self) -> io::Result<OpenOutput> {
        let place = self.output.as_ref().ok_or_else(|| io::Error::other("this duke does not see the output folder"))?;
        let folder = Arc::clone(&place.folder);
        if place.makes_nameless
            && let Ok(file) = nameless::create(&folder, EVERYBODY)
        {
            return Ok(OpenOutput { file, folder, unfinished: None });
        }
        let name = unfinished_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&folder, &name, flags, EVERYBODY)?.into();
        let unfinished = Some(Unfinished::in_folder(Arc::clone(&folder), name));
        Ok(OpenOutput { file, folder, unfinished })
    }
}

fn unusable(path: &Path, source: io::Error) -> PlacesError {
    PlacesError::Folder { path: path.to_owned(), source }
}

impl OutputFolder {
    fn new(path: &Path, folder: File) -> OutputFolder {
        let makes_nameless = match nameless::try_in(&folder) {
            Ok(()) => true,
            Err(error) => {
                debug!(folder = %path.display(), %error, "no files without a name can be made here");
                false
            }
        };
        OutputFolder { folder: Arc::new(folder), makes_nameless }
    }
}

/// The permissions of an output, as far as the user's mask allows.
const EVERYBODY: Mode = Mode::from_raw_mode(0o666);

/// The file of an output that is being written. If it is dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct OpenOutput {
    pub(crate) file: File,
    folder: Arc<File>,
    /// `None` while the file has no name.
    unfinished: Option<Unfinished>,
}

impl OpenOutput {
    /// Keeps the output, which is whole, under an unfinished name.
    ///
    /// # Errors
    ///
    /// When it cannot get a name, or its bytes could not be kept. Nothing is left of it then.
    pub(crate) fn keep(self) -> io::Result<Unfinished> {
        let OpenOutput { file, folder, unfinished } = self;
        let unfinished = match unfinished {
            Some(unfinished) => unfinished,
            None => {
                let name = unfinished_name();
                nameless::give_name(&file, &folder, name.as_ref())?;
                Unfinished::in_folder(folder, name)
            }
        };
        // With quotas and network file systems, only closing the file tells whether its bytes are kept.
        files::close(file)?;
        Ok(unfinished)
    }
}

/// A whole output in the own folder of the output folder, under an unfinished name. Removed when it is dropped, if it
/// still has that name.
pub struct Unfinished {
    name: String,
    remove: Option<Remove>,
}

/// Removes an output of this name.
type Remove = Box<dyn FnOnce(&str) + Send + Sync>;

impl Unfinished {
    /// An output of this name, which this removes.
    pub fn new(name: String, remove: impl FnOnce(&str) + Send + Sync + 'static) -> Unfinished {
        Unfinished { name, remove: Some(Box::new(remove)) }
    }

    /// Its name in that folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves it where it is.
    pub(crate) fn leave(&mut self) {
        self.remove = None;
    }

    fn in_folder(folder: Arc<File>, name: String) -> Unfinished {
        Unfinished::new(name, move |name| match unlinkat(&folder, name, AtFlags::empty()) {
            // The queen has given it the name of the output.
            Ok(()) | Err(Errno::NOENT) => {}
            // The next run removes it.
            Err(error) => debug!(name, %error, "an unfinished output cannot be removed"),
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(remove) = self.remove.take() {
            remove(&self.name);
        }
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unfinished").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use distwasm_process::unfinished::OWN_FOLDER;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn an_output_appears_when_it_is_kept_and_goes_when_it_is_dropped() {
        for makes_nameless in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let wanted = guest::Places { output: Some(place.path().into()), ..guest::Places::default() };
            let mut places = Places::open(&wanted, &AllowedDirs::All).unwrap();
            places.output.as_mut().unwrap().makes_nameless &= makes_nameless;
            let make = || places.make_output().unwrap();
            let own = place.path().join(OWN_FOLDER);
            let mut output = make();
            output.file.write_all(b"whole").unwrap();
            let unfinished = output.keep().unwrap();
            assert_eq!(names(&own), [unfinished.name()]);
            assert_eq!(fs::read(own.join(unfinished.name())).unwrap(), b"whole");
            drop(make());
            drop(unfinished);
            assert!(names(&own).is_empty());
            let renamed = make().keep().unwrap();
            fs::rename(own.join(renamed.name()), own.join("e")).unwrap();
            drop(renamed);
            assert_eq!(names(&own), ["e"]);
            let mut left = make().keep().unwrap();
            left.leave();
            drop(left);
            assert_eq!(names(&own).len(), 2);
        }
    }

    #[test]
    fn folders_are_used_only_if_they_are_allowed_and_there() {
        let place = tempfile::tempdir().unwrap();
        let told = |path: &Path, allowed: &AllowedDirs| {
            let probe = Some("queen".into());
            let wanted = guest::Places { output: Some(path.into()), probe, ..guest::Places::default() };
            distwasm_proto::error_text::chain(&Places::open(&wanted, allowed).unwrap_err())
        };
        let why = told(place.path(), &AllowedDirs::Beneath([].into()));
        assert!(why.ends_with("(`duke --allow-dir` allows folders)"), "{why}");
        let why = told(&place.path().join("none"), &AllowedDirs::All);
        assert!(why.ends_with("none\" cannot be used here: No such file or directory (os error 2)"), "{why}");
        let why = told(place.path(), &AllowedDirs::All);
        assert!(
            why.ends_with("is another folder here than at the queen: what the queen has written there is missing"),
            "{why}"
        );
    }
}
