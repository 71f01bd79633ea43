//! The folder of inputs: looks at inputs and opens them, and follows links as far as the user wants.
//!
//! Others may be able to write to the folder. So links are followed only while they stay in it, unless the user says
//! otherwise, and only regular files are opened, whatever was there when the inputs were listed.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use distwasm_process::beneath::{self, Root};

/// See the module's documentation.
#[derive(Debug)]
pub struct InputFolder {
    path: PathBuf,
    follows_links: bool,
    /// The folder, once it was needed.
    root: OnceLock<Root>,
}

impl InputFolder {
    /// The folder of this path. With `follows_links`, links may lead out of it.
    pub fn new(path: impl Into<PathBuf>, follows_links: bool) -> InputFolder {
        InputFolder { path: path.into(), follows_links, root: OnceLock::new() }
    }

    /// Looks at what has this name below the folder, with links followed.
    ///
    /// # Errors
    ///
    /// When there is nothing, or it may not be looked at; [`beneath::leads_out`] tells whether a link leads out.
    pub fn look(&self, name: &Path) -> io::Result<Metadata> {
        match self.follows_links {
            true => fs::metadata(self.path.join(name)),
            false => self.root()?.look(name),
        }
    }

    /// Whether a link in the folder leads out of it, and is not followed.
    pub(super) fn is_left_by(&self, link: &Path) -> bool {
        !self.follows_links && self.look(link).is_err_and(|error| beneath::leads_out(&error))
    }

    /// Opens an input: a regular file below the folder, or one that an absolute path names.
    pub(super) fn open(&self, source: &Path) -> io::Result<File> {
        // An absolute path comes from this process, and not from the folder.
        match self.follows_links || source.is_absolute() {
            true => beneath::open_file(&self.path.join(source)),
            false => self.root()?.file(source),
        }
    }

    /// The path of something below the folder.
    pub(super) fn join(&self, name: &Path) -> PathBuf {
        self.path.join(name)
    }

    fn root(&self) -> io::Result<&Root> {
        match self.root.get() {
            Some(root) => Ok(root),
            None => Root::open(&self.path).map(|opened| self.root.get_or_init(|| opened)),
        }
    }
}
