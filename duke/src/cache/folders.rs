//! The folders of the cache: who may use them, and what is called how in them.
//!
//! A compiled program is trusted: peasants map it without a check. So the folder belongs to the duke's user alone, and
//! each entry gets its final name only when it is complete. Several dukes may use one folder.
//!
//! Only an empty folder or an unmarked cache gets the marker, and only names that dukes give count as theirs.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use distwasm_process::files;
use distwasm_proto::digest::Digest;
use thiserror::Error;

use super::supplies::Recipe;

/// Why the cache cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CacheError {
    #[error("failed to make the folder {} for compiled programs (--cache names another)", .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("the folder {} for compiled programs belongs to somebody else, or others may write to it (--cache names another)", .path.display())]
    Shared { path: PathBuf },
    #[error(
        "the folder {} holds {found:?}, which is not part of a cache; compiled programs want a folder of their own (--cache names another)",
        .path.display()
    )]
    Foreign { path: PathBuf, found: OsString },
}

/// Marks the folder as a cache, for dukes and for backup programs (<https://bford.info/cachedir/>).
const MARKER: &str = "CACHEDIR.TAG";

const MARKER_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55
# A cache of distwasm. Whatever is in this folder is made anew when it is missing; the oldest is removed.
";

/// The subfolder of directories that jobs share.
const SHARES: &str = "shares";

/// The suffix of programs compiled with deterministic code.
const DETERMINISTIC: &str = "-deterministic";

/// The folder of compiled programs, and the folder of shared directories in it.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    folder: PathBuf,
    /// The fingerprint of the engine in this machine's peasant.
    engine: String,
}

impl Folders {
    /// Uses a folder, created if missing.
    pub(crate) fn open(folder: &Path, engine: String) -> Result<Folders, CacheError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let cannot_make = |source| CacheError::Make { path: folder.to_owned(), source };
        let make = |folder: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        make(folder).map_err(cannot_make)?;
        let metadata = fs::metadata(folder).map_err(cannot_make)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(CacheError::Shared { path: folder.to_owned() });
        }
        let folders = Folders { folder: folder.to_owned(), engine };
        folders.claim()?;
        make(&folders.shares()).map_err(cannot_make)?;
        Ok(folders)
    }

    /// Makes sure that the folder holds nothing but a cache.
    fn claim(&self) -> Result<(), CacheError> {
        let marker = self.folder.join(MARKER);
        let is_marker_size = |found: fs::Metadata| found.is_file() && found.len() == MARKER_TEXT.len() as u64;
        if fs::symlink_metadata(&marker).is_ok_and(is_marker_size)
            && fs::read(&marker).is_ok_and(|text| text == MARKER_TEXT.as_bytes())
        {
            return Ok(());
        }
        let cannot_make = |source| CacheError::Make { path: self.folder.clone(), source };
        for (folder, is_own) in
            [(self.folder.clone(), is_cache_name as fn(&str) -> bool), (self.shares(), is_own_share)]
        {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(cannot_make)?,
            };
            for entry in entries {
                let found = entry.map_err(cannot_make)?.file_name();
                if !found.to_str().is_some_and(is_own) {
                    return Err(CacheError::Foreign { path: folder, found });
                }
            }
        }
        files::replace(&marker, MARKER_TEXT.as_bytes()).map_err(cannot_make)
    }

    /// Where a compiled program is kept. The name holds the program's digest, the engine, and whether it is
    /// deterministic.
    pub(crate) fn program(&self, recipe: &Recipe) -> PathBuf {
        let special = if recipe.deterministic { DETERMINISTIC } else { "" };
        self.folder.join(format!("{}-{}{special}.cwasm", recipe.digest, self.engine))
    }

    /// Where a program is compiled to before it is complete. Nothing else compiles to the same file.
    pub(crate) fn unfinished_program(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{}.{}.tmp", self.engine, unique()))
    }

    /// Where a shared directory is kept.
    pub(crate) fn share(&self, digest: Digest) -> PathBuf {
        self.shares().join(digest.to_string())
    }

    /// Where a shared directory is unpacked to before it is complete. Nothing else unpacks to the same folder.
    pub(crate) fn unfinished_share(&self, digest: Digest) -> PathBuf {
        self.shares().join(format!("{digest}.{}.tmp", unique()))
    }

    /// The folder of compiled programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.folder
    }

    /// The folder of shared directories.
    pub(crate) fn shares(&self) -> PathBuf {
        self.folder.join(SHARES)
    }
}

/// Whether dukes give such a name to anything in a cache folder.
fn is_cache_name(name: &str) -> bool {
    let is_seat = name.strip_prefix("seat-").is_some_and(|number| number.parse::<usize>().is_ok());
    // Another duke may be about to put its marker there.
    let is_marker = name.starts_with(".distwasm-") && name.ends_with(MARKER);
    is_seat || is_marker || name == SHARES || is_own_program(name)
}

/// Whether dukes give such a name to a compiled program, finished or not.
pub(crate) fn is_own_program(name: &str) -> bool {
    let Some((digest, rest)) = name.split_once('-') else { return false };
    let is_whole = rest.strip_suffix(".cwasm").is_some_and(|rest| {
        let engine = rest.strip_suffix(DETERMINISTIC).unwrap_or(rest);
        engine.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    is_digest(digest) && (is_whole || rest.ends_with(".tmp"))
}

/// Whether dukes give such a name to a shared directory, finished or not.
pub(crate) fn is_own_share(name: &str) -> bool {
    let unfinished = name.split_once('.').filter(|(_, rest)| rest.ends_with("tmp"));
    is_digest(unfinished.map_or(name, |(digest, _)| digest))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Marks a file as used now: when the cache is full, the least recently used entries are removed.
pub(crate) fn touch(file: &fs::File) {
    // If the time cannot be set, the entry is removed earlier.
    let _touched = file.set_modified(now());
}

#[expect(clippy::disallowed_methods, reason = "the age of a file is wall time")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A word that is unique among dukes and within this one.
fn unique() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Result<Folders, CacheError> {
        Folders::open(folder, "engine".to_owned())
    }

    fn recipe() -> Recipe {
        Recipe { digest: Digest::of([b"program".as_slice()]), deterministic: true, call: String::new() }
    }

    #[test]
    fn a_folder_that_is_used_for_something_else_is_not_taken() {
        for foreign in ["thesis.txt", "shares/photo", CACHE_OF_OTHERS] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join(foreign);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "mine").unwrap();
            assert!(matches!(open(place.path()), Err(CacheError::Foreign { .. })), "{foreign}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        }
    }

    /// Other programs mark their caches with the same file.
    const CACHE_OF_OTHERS: &str = MARKER;

    #[test]
    fn a_cache_without_a_marker_gets_one() {
        let place = tempfile::tempdir().unwrap();
        let folders = open(place.path()).unwrap();
        fs::write(folders.program(&recipe()), "x").unwrap();
        fs::write(place.path().join("seat-0"), "x").unwrap();
        fs::create_dir(folders.unfinished_share(recipe().digest)).unwrap();
        fs::remove_file(place.path().join(MARKER)).unwrap();
        open(place.path()).unwrap();
        assert!(place.path().join(MARKER).exists());
    }
}
