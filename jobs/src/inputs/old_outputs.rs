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
};

use super::{
    Listing, Names,
    decision::Kind,
    places::Places,
    walk::{kind_at, read_folder},
};
use crate::outputs::is_unfinished;

/// See the module's documentation.
pub(super) struct OldOutputs<'a> {
    places: Places<'a>,
    /// Whether a folder of outputs is read as a whole. For a few named inputs it is not.
    reads_folders: bool,
    /// Whether unfinished outputs are removed: another queen may be writing them.
    sweeps: bool,
    /// The folder that was read last, and what is in it, in the order of names.
    current: Option<(PathBuf, Vec<(OsString, Kind)>)>,
    /// Folders that were read before; only where outputs are called otherwise than their inputs.
    before: HashSet<PathBuf>,
    is_renamed: bool,
}

impl<'a> OldOutputs<'a> {
    pub(super) fn new(input: &'a Path, output: &'a Path, listing: &Listing) -> OldOutputs<'a> {
        let is_renamed = listing.output_name.is_some();
        OldOutputs {
            places: Places::new(input, output, is_renamed),
            reads_folders: matches!(listing.names, Names::All),
            sweeps: listing.sweeps,
            current: None,
            before: HashSet::new(),
            is_renamed,
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
        let mut found = match read_folder(&whole, true) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("the folder for its outputs cannot be read: {error}")),
        };
        found.retain(|(name, _)| !is_unfinished(name) || !self.is_swept(folder, name));
        self.current = Some((folder.to_owned(), found));
        Ok(())
    }

    /// Removes an unfinished output, unless that is the whole output of an input of this name.
    fn is_swept(&self, folder: &Path, name: &OsString) -> bool {
        if !self.is_renamed && self.places.input.join(folder).join(name).symlink_metadata().is_ok() {
            return false;
        }
        if self.sweeps {
            let path = self.places.output.join(folder).join(name);
            let opened = File::open(self.places.output)
                .and_then(|output| beneath::open_folder(output, folder, Links::Own, Missing::Stays));
            // It does no harm; a later run may succeed.
            if let Err(error) = opened.and_then(|folder| files::remove_in(folder, Path::new(name))) {
                tracing::warn!(path = %path.display(), %error, "an unfinished output of an earlier run cannot be removed");
            }
        }
        true
    }

    /// What has the name of this output, if anything has.
    pub(super) fn kind_of(&mut self, output: &Path) -> Result<Option<Kind>, String> {
        // Comparing bytes is much faster than comparing the parts of paths.
        let bytes = output.as_os_str().as_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/');
        let folder = Path::new(OsStr::from_bytes(slash.and_then(|slash| bytes.get(..slash)).unwrap_or_default()));
        let name = OsStr::from_bytes(slash.and_then(|slash| bytes.get(slash + 1..)).unwrap_or(bytes));
        let is_in = |current: &Path| current.as_os_str() == folder.as_os_str();
        let is_current = self.current.as_ref().is_some_and(|(current, _)| is_in(current));
        // A folder is read once. If outputs of one folder of inputs are in several, the others are asked one by one.
        if !is_current && (!self.reads_folders || self.before.insert(folder.to_owned())) {
            self.enter(folder)?;
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
