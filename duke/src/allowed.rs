//! Which folders jobs may name, for a duke to read inputs there and to write results there.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub enum AllowedDirs {
    /// All: the job and the duke are of one process.
    All,
    /// Those at or beneath these.
    Beneath(Arc<[PathBuf]>),
}

/// A folder that no job may name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("jobs may not use the folder {path:?} of this machine (`duke --allow-dir` allows folders)")]
pub struct NotAllowed {
    path: PathBuf,
}

impl AllowedDirs {
    /// Whether jobs may use this folder, which was opened by this path. Links in the path of either change nothing: what
    /// counts is where the folder lies.
    ///
    /// # Errors
    ///
    /// When they may not.
    pub fn check(&self, path: &Path, folder: &File) -> Result<(), NotAllowed> {
        let AllowedDirs::Beneath(dirs) = self else { return Ok(()) };
        let lies = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).or_else(|_| fs::canonicalize(path));
        let is_allowed =
            |lies: &Path| dirs.iter().filter_map(|dir| fs::canonicalize(dir).ok()).any(|dir| lies.starts_with(dir));
        match lies {
            Ok(lies) if is_allowed(&lies) => Ok(()),
            _ => Err(NotAllowed { path: path.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_allowed_where_it_lies_and_not_by_its_name() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for folder in ["data/in", "data-2", "secret"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        symlink("../secret", path("data/out")).unwrap();
        symlink("data", path("link")).unwrap();
        let may =
            |allowed: &AllowedDirs, name: &str| allowed.check(&path(name), &File::open(path(name)).unwrap()).is_ok();
        for dir in ["data", "link"] {
            let allowed = AllowedDirs::Beneath([path(dir)].into());
            assert_eq!(["data", "data/in", "link/in"].map(|name| may(&allowed, name)), [true; 3]);
            assert_eq!(["data-2", "secret", "data/out", "data/../secret"].map(|name| may(&allowed, name)), [false; 4]);
        }
        assert!(!may(&AllowedDirs::Beneath([].into()), "data"));
        assert!(!may(&AllowedDirs::Beneath([path("missing")].into()), "data"));
        assert!(may(&AllowedDirs::All, "secret"));
    }
}
