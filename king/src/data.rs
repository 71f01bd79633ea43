//! The folder that keeps what a king must still have when it starts again, and that nobody else may see.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use distwasm_process::files;
use thiserror::Error;

/// Why a king has no such folder.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DataError {
    #[error("there is no folder for the king's key: HOME is not a folder (--data names one)")]
    NoHome,
    #[error("failed to create {}, the folder for the king's key (--data names another)", .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("{} is not a folder (--data names the folder of a king)", .path.display())]
    NoFolder { path: PathBuf },
    #[error(
        "{} is not safe for the king's key: it belongs to another user, or others may enter it; `chmod 700` it, or \
         --data names another folder",
        .path.display()
    )]
    Rights { path: PathBuf },
}

/// The folder of a king's data: only its user can enter it.
#[derive(Clone, Debug)]
pub struct DataFolder(PathBuf);

impl DataFolder {
    /// Uses this folder, or that of the user's kings, created if missing.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not safe.
    pub fn open(chosen: Option<&Path>) -> Result<DataFolder, DataError> {
        let path = chosen.map(Path::to_owned).or_else(usual_folder).ok_or(DataError::NoHome)?;
        let cannot_make = |source| DataError::Make { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(cannot_make)?;
        let found = fs::metadata(&path).map_err(cannot_make)?;
        if !files::is_ours_alone(&found) || found.mode() & 0o077 != 0 {
            return Err(DataError::Rights { path });
        }
        Ok(DataFolder(path))
    }

    /// Uses this folder, which must be there.
    ///
    /// # Errors
    ///
    /// When it is not, or is not safe.
    pub fn existing(path: &Path) -> Result<DataFolder, DataError> {
        if !path.is_dir() {
            return Err(DataError::NoFolder { path: path.to_owned() });
        }
        DataFolder::open(Some(path))
    }

    /// Where a file of this name is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn usual_folder() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| {
        // System users often have a home that does not exist; it is not created.
        absolute("HOME").filter(|home| home.is_dir()).map(|home| home.join(".local/state"))
    });
    state.map(|state| state.join("distwasm/king"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_enter_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let data = DataFolder::open(Some(&path)).unwrap();
        assert_eq!(fs::metadata(data.path()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(data.file("x"), path.join("x"));
        for mode in [0o755, 0o770, 0o701] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let why = DataFolder::open(Some(&path)).unwrap_err().to_string();
            assert!(why.contains("`chmod 700` it"), "{mode:o}: {why}");
        }
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(matches!(DataFolder::open(Some(&folder.path().join("file"))), Err(DataError::Make { .. })));
    }
}
