//! The outputs that are there already, folder by folder. Removes what interrupted runs have left unfinished.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files,
    unfinished::is_unfinished,
};

use super::{
    EntryKind, InputRules, Names,
    places::Places,
    walk::{kind_at, read_folder},
};
use crate::{output_name::split_last, outputs::marks};

/// See the module's documentation.
pub(super) struct OldOutputs<'a> {
    places: Places<'a>,
    /// Whether a folder of outputs is read as a whole. For a few named inputs it is not.
    reads_folders: bool,
    /// Whether unfinished outputs are removed: another queen may be writing them.
    sweeps: bool,
    /// Whether an output is a folder.
    are_folders: bool,
    /// The folder that was read last, and what is in it, in the order of names.
    current: Option<(PathBuf, Vec<(OsString, EntryKind)>)>,
    /// Folders that were read before; only where outputs are called otherwise than their inputs.
    before: HashSet<PathBuf>,
}

impl<'a> OldOutputs<'a> {
    pub(super) fn new(input: &'a Path, output: &'a Path, rules: &InputRules) -> OldOutputs<'a> {
        let is_renamed = rules.output_name.is_some();
        OldOutputs {
            places: Places::new(input, output, is_renamed),
            reads_folders: matches!(rules.names, Names::All),
            sweeps: rules.sweeps,
            are_folders: rules.outputs_are_folders,
            current: None,
            before: HashSet::new(),
        }
    }

    /// Looks at a folder of outputs: those of the inputs that come next are likely to be there.
    pub(super) fn enter(&mut self, folder: &Path) -> Result<(), String> {
        if let Some(why) = self.places.collision(folder) {
            return Err(why);
        }
        if !self.reads_folders {
            return Ok(());
        }
        let whole = self.places.output.join(folder);
        let found = match read_folder(&whole, true) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("the folder for its outputs cannot be read: {error}")),
        };
        let (leftovers, found): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(name, _)| self.is_leftover(folder, name));
        if self.sweeps {
            leftovers.iter().for_each(|(name, _)| sweep(self.places.output, folder, Path::new(name)));
        }
        self.current = Some((folder.to_owned(), found));
        Ok(())
    }

    /// Whether this is an unfinished output, and not the whole output of an input of this name.
    fn is_leftover(&self, folder: &Path, name: &OsStr) -> bool {
        let is_named_so = || self.places.input.join(folder).join(name).symlink_metadata().is_ok();
        is_unfinished(name) && (self.places.is_renamed || !is_named_so())
    }

    /// What has the name of this output, if anything has. An output that is a folder counts as a file.
    pub(super) fn kind_of(&mut self, output: &Path) -> Result<Option<EntryKind>, String> {
        let kind = self.entry_of(output)?;
        match kind {
            Some(kind) if self.are_folders => self.folder_as_output(output, kind),
            kind => Ok(kind),
        }
    }

    fn folder_as_output(&self, output: &Path, kind: EntryKind) -> Result<Option<EntryKind>, String> {
        Ok(Some(match kind {
            EntryKind::Folder => match marks::time_of(self.places.output, output) {
                Ok(Some(changed)) => EntryKind::File { bytes: 0, changed },
                Ok(None) => EntryKind::Folder,
                Err(error) => return Err(format!("it cannot be found out whether its output is there: {error}")),
            },
            EntryKind::File { .. } => EntryKind::Other("a file"),
            other => other,
        }))
    }

    fn entry_of(&mut self, output: &Path) -> Result<Option<EntryKind>, String> {
        // Comparing bytes is much faster than comparing the parts of paths.
        let bytes = output.as_os_str().as_bytes();
        let (folder, name) = split_last(bytes, b'/').unwrap_or((&[], bytes));
        let (folder, name) = (Path::new(OsStr::from_bytes(folder)), OsStr::from_bytes(name));
        let is_in = |current: &Path| current.as_os_str() == folder.as_os_str();
        let is_current = self.current.as_ref().is_some_and(|(current, _)| is_in(current));
        // Each folder is read at most once. Outputs in a folder that was read before are looked up one by one.
        if !is_current && !self.before.contains(folder) {
            self.enter(folder)?;
            if self.reads_folders {
                self.before.insert(folder.to_owned());
            }
        }
        match &self.current {
            Some((current, found)) if is_in(current) => {
                let place = found.binary_search_by(|(there, _)| there.as_os_str().cmp(name));
                Ok(place.ok().and_then(|place| found.get(place)).map(|(_, kind)| *kind))
            }
            _ => Ok(kind_at(&self.places.output.join(output))),
        }
    }
}

/// Removes an unfinished output.
fn sweep(output: &Path, folder: &Path, name: &Path) {
    let opened = File::open(output).and_then(|output| beneath::open_folder(output, folder, Links::Own, Missing::Stays));
    // It does no harm; a later run may succeed.
    if let Err(error) = opened.and_then(|folder| files::remove_tree(folder, name)) {
        let path = output.join(folder).join(name);
        tracing::warn!(path = %path.display(), %error, "an unfinished output of an earlier run cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn no_input_has_an_output_in_a_folder_that_belongs_to_another() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        let (input, output) = (root.join("in"), root.join("out"));
        for folder in ["in/a", "in/b", "out/b"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink("b", output.join("a")).unwrap();
        fs::write(output.join("b/2"), "").unwrap();
        let rules = InputRules { output_name: Some("{dir}/{stem}".parse().unwrap()), ..InputRules::default() };
        let mut old = OldOutputs::new(&input, &output, &rules);
        for name in ["a/1", "a/2", "a/3"] {
            assert!(old.kind_of(Path::new(name)).unwrap_err().contains("a folder is a link"), "{name}");
        }
        assert!(matches!(old.kind_of(Path::new("b/2")), Ok(Some(EntryKind::File { .. }))));
    }

    #[test]
    fn leftovers_are_removed_unless_another_queen_may_be_writing_them() {
        for sweeps in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let (input, output) = (place.path().join("in"), place.path().join("out"));
            fs::create_dir_all(&input).unwrap();
            fs::create_dir_all(&output).unwrap();
            let [ours, whole] = [".distwasm-1-1.unfinished", ".distwasm-2-2.unfinished"];
            fs::write(input.join(whole), "").unwrap();
            [ours, whole].iter().for_each(|name| fs::write(output.join(name), "").unwrap());
            let rules = InputRules { sweeps, ..InputRules::default() };
            let mut old = OldOutputs::new(&input, &output, &rules);
            old.enter(Path::new("")).unwrap();
            assert_eq!(output.join(ours).exists(), !sweeps);
            assert!(matches!(old.kind_of(Path::new(ours)), Ok(None)));
            assert!(matches!(old.kind_of(Path::new(whole)), Ok(Some(EntryKind::File { .. }))));
        }
    }
}
