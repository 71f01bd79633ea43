//! The folder of outputs: found, created, and claimed for one queen, or for one queen of each shard.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use distwasm_jobs::selection::Shard;
use distwasm_process::{
    beneath::{self, Missing},
    unfinished::open_own_folder,
};
use rustix::fs::OFlags;
use thiserror::Error;

/// Why there is no folder of outputs.
#[derive(Debug, Error)]
pub enum OutputFolderError {
    #[error("failed to use {} as the output folder (--output names another)", .path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("the output {} is not a folder (--output names another; `--output -` writes the result of one input to stdout)", .path.display())]
    NoFolder { path: PathBuf },
    #[error(
        "the folders overlap: input {} and output {}; outputs would be taken for inputs, unless --exclude leaves out the folder of outputs",
        .input.display(),
        .output.display()
    )]
    Overlap { input: PathBuf, output: PathBuf },
    #[error("another queen is writing to the output folder {}", .path.display())]
    Busy { path: PathBuf },
    #[error("another queen is writing the outputs of this shard to {}", .path.display())]
    ShardBusy { path: PathBuf },
}

/// A folder that is claimed as long as this lives.
#[derive(Debug)]
pub struct FolderLock {
    /// Without links in its path.
    pub folder: PathBuf,
    _locks: Vec<File>,
}

/// Where a folder of outputs is, or would be, without links in the existing part of its path. `forbidden` tells
/// which folder of inputs it must not overlap, if it does.
///
/// # Errors
///
/// When there can be no such folder.
pub fn locate<'a>(path: &Path, forbidden: impl Fn(&Path) -> Option<&'a Path>) -> Result<PathBuf, OutputFolderError> {
    let cannot_use = |source| OutputFolderError::Unusable { path: path.to_owned(), source };
    beneath::check_link(path).map_err(cannot_use)?;
    let output = resolve(path).map_err(cannot_use)?;
    if let Some(input) = forbidden(&output) {
        return Err(OutputFolderError::Overlap { input: input.to_owned(), output: path.to_owned() });
    }
    let is_file = output.exists() && !output.is_dir();
    if is_file { Err(OutputFolderError::NoFolder { path: path.to_owned() }) } else { Ok(output) }
}

/// Creates the folder if it is missing, and claims it for this shard, or for all inputs.
///
/// # Errors
///
/// When it cannot be used, or another queen has claimed it.
pub fn claim<'a>(
    path: &Path,
    forbidden: impl Fn(&Path) -> Option<&'a Path>,
    shard: Option<Shard>,
) -> Result<FolderLock, OutputFolderError> {
    let cannot_use = |source| OutputFolderError::Unusable { path: path.to_owned(), source };
    // Checked before the folder is created, so that an overlap leaves no new folder behind.
    locate(path, &forbidden)?;
    fs::create_dir_all(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => OutputFolderError::NoFolder { path: path.to_owned() },
        _ => cannot_use(error),
    })?;
    let folder = locate(path, &forbidden)?;
    rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).map_err(|errno| cannot_use(errno.into()))?;
    let whole = File::open(&folder).map_err(cannot_use)?;
    let Some(shard) = shard else {
        if is_taken(whole.try_lock()) {
            return Err(OutputFolderError::Busy { path: path.to_owned() });
        }
        return Ok(FolderLock { folder, _locks: vec![whole] });
    };
    if is_taken(whole.try_lock_shared()) {
        return Err(OutputFolderError::Busy { path: path.to_owned() });
    }
    let place = open_own_folder(&whole, Missing::Made);
    let name = format!("{}.lock", shard.word());
    let own = place.and_then(|place| beneath::file_in(place, Path::new(&name), OFlags::RDWR | OFlags::CREATE));
    let own = own.map_err(cannot_use)?;
    if is_taken(own.try_lock()) {
        return Err(OutputFolderError::ShardBusy { path: path.to_owned() });
    }
    Ok(FolderLock { folder, _locks: vec![whole, own] })
}

/// Whether another process holds a lock.
fn is_taken(tried: Result<(), TryLockError>) -> bool {
    match tried {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        // Some network file systems do not support locks.
        Err(TryLockError::Error(error)) => {
            tracing::debug!(%error, "the output folder cannot be locked");
            false
        }
    }
}

/// The path whose name begins the names of files beside the output folder: each of several queens has its own.
pub fn beside(output: &Path, shard: Option<Shard>) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    if let Some(shard) = shard {
        path.push(".");
        path.push(shard.word());
    }
    path.into()
}

/// The path, with the links in its existing part resolved.
///
/// # Errors
///
/// When a part of it cannot be examined.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for ancestor in absolute.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(existing) => {
                let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
                return Ok(existing.components().chain(rest.components()).collect());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_claimed_by_one_queen_or_by_one_for_each_shard() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/output");
        let shard = |index| Shard::new(index, 2);
        let claim = |path: &Path, _: Option<&Path>, shard| claim(path, |_| None, shard);
        let whole = claim(&path, None, None).unwrap();
        assert!(matches!(claim(&path, None, None), Err(OutputFolderError::Busy { .. })));
        assert!(matches!(claim(&path, None, shard(1)), Err(OutputFolderError::Busy { .. })));
        drop(whole);
        let first = claim(&path, None, shard(1)).unwrap();
        assert!(matches!(claim(&path, None, shard(1)), Err(OutputFolderError::ShardBusy { .. })));
        assert!(matches!(claim(&path, None, None), Err(OutputFolderError::Busy { .. })));
        assert_eq!(first.folder, claim(&path, None, shard(2)).unwrap().folder);
    }

    #[test]
    fn a_lock_behind_a_link_is_not_taken() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let shard = Shard::new(1, 2);
        fs::create_dir_all(path("victim")).unwrap();
        fs::create_dir_all(path("output")).unwrap();
        fs::write(path("victim/shard-1-of-2.lock"), "precious").unwrap();
        symlink("../victim", path("output/.distwasm")).unwrap();
        assert!(matches!(claim(&path("output"), |_| None, shard), Err(OutputFolderError::Unusable { .. })));
        fs::remove_file(path("output/.distwasm")).unwrap();
        fs::create_dir(path("output/.distwasm")).unwrap();
        symlink(path("victim/shard-1-of-2.lock"), path("output/.distwasm/shard-1-of-2.lock")).unwrap();
        assert!(matches!(claim(&path("output"), |_| None, shard), Err(OutputFolderError::Unusable { .. })));
        assert_eq!(fs::read_to_string(path("victim/shard-1-of-2.lock")).unwrap(), "precious");
    }

    #[test]
    fn an_overlap_leaves_no_new_folder_behind() {
        let place = tempfile::tempdir().unwrap();
        let (input, inside) = (fs::canonicalize(place.path()).unwrap(), place.path().join("a/b"));
        for output in [inside.as_path(), place.path(), Path::new("/")] {
            let claimed = claim(output, |_| Some(&input), None);
            assert!(matches!(claimed, Err(OutputFolderError::Overlap { .. })), "{claimed:?}");
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        assert!(claim(&inside, |_| None, None).is_ok());
    }
}
