//! The folder of inputs: looks at inputs and opens them, and follows links as far as the user wants.
//!
//! Others may be able to write to the folder. So links are followed only while they stay in it, unless the user says
//! otherwise, and only regular files are opened, whatever was there when the inputs were listed.

use std::{
    fs::{self, File, Metadata},
    io,
    os::fd::AsRawFd,
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

    /// Opens a folder below it, to list what is there: by the path that is returned, while the file is open.
    pub(super) fn open_folder(&self, folder: &Path) -> io::Result<(PathBuf, Option<File>)> {
        if !self.follows_links {
            // A folder may have become a link since the folder that it is in was listed.
            let opened = self.root()?.folder(folder)?;
            let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            if path.exists() {
                return Ok((path, Some(opened)));
            }
        }
        Ok((self.path.join(folder), None))
    }

    fn root(&self) -> io::Result<&Root> {
        match self.root.get() {
            Some(root) => Ok(root),
            None => Root::open(&self.path).map(|opened| self.root.get_or_init(|| opened)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_that_became_a_link_is_not_listed() {
        let place = tempfile::tempdir().unwrap();
        let input = place.path().join("in");
        fs::create_dir_all(input.join("a/b")).unwrap();
        symlink("a", input.join("near")).unwrap();
        symlink("..", input.join("out")).unwrap();
        let names = |folder: &str, follows_links| {
            let (path, _opened) = InputFolder::new(&input, follows_links).open_folder(Path::new(folder))?;
            let names = fs::read_dir(path)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            Ok::<_, io::Error>(names.collect::<Vec<String>>())
        };
        assert_eq!(names("a", false).unwrap(), ["b"]);
        assert_eq!(names("", false).unwrap().len(), 3);
        assert!(["near", "out", "near/b", "out/in"].iter().all(|link| names(link, false).is_err()));
        assert_eq!(names("near", true).unwrap(), ["b"]);
    }
}
