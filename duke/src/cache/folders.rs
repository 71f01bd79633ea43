//! The duke's cache on disk, kept from job to job: compiled programs, and shared directories beside them.
//!
//! A compiled program is trusted: peasants map it without a check. So the folder belongs to the duke's user alone, and
//! each entry gets its final name only when it is complete. Several dukes may use one folder.
//!
//! A duke removes entries that were not used for long, and never a user's files: only an empty folder or an unmarked
//! cache gets the marker, and only entries with names that dukes give are removed.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use distwasm_process::files;
use distwasm_proto::{
    digest::Digest,
    limits::{CACHE_BYTES_MAX, COMPILE_WITHIN},
};
use thiserror::Error;
use tracing::{debug, warn};

use crate::shares;

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

/// A program, and how it is compiled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Recipe {
    /// The program.
    pub(crate) digest: Digest,
    /// Whether the same unit is to give the same bytes everywhere. That needs different code.
    pub(crate) deterministic: bool,
    /// The export that must exist, or empty to find it from the program. It does not change the code.
    pub(crate) call: String,
}

/// The folder of compiled programs and shared directories.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// The fingerprint of the engine in this machine's peasant.
    engine: String,
}

/// A compiled program or a shared directory.
struct Entry {
    path: PathBuf,
    is_share: bool,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// Uses a folder, created if missing.
    pub(crate) fn open(folder: &Path, engine: String) -> Result<Cache, CacheError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let cannot_make = |source| CacheError::Make { path: folder.to_owned(), source };
        let make = |folder: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        make(folder).map_err(cannot_make)?;
        let metadata = fs::metadata(folder).map_err(cannot_make)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(CacheError::Shared { path: folder.to_owned() });
        }
        let cache = Cache { folder: folder.to_owned(), engine };
        cache.claim()?;
        make(&cache.shares()).map_err(cannot_make)?;
        Ok(cache)
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

    /// The compiled program, if the cache has it.
    pub(crate) fn find(&self, recipe: &Recipe) -> Option<PathBuf> {
        let path = self.path(recipe);
        let is_program = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() > 0);
        let file = is_program.then(|| fs::File::open(&path).ok())??;
        touch(&file);
        Some(path)
    }

    /// Where a compiled program is kept. The name holds the program's digest, the engine, and whether it is
    /// deterministic.
    pub(crate) fn path(&self, recipe: &Recipe) -> PathBuf {
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

    fn shares(&self) -> PathBuf {
        self.folder.join(SHARES)
    }

    /// Removes a compiled program that cannot be loaded.
    pub(crate) fn remove(&self, recipe: &Recipe) {
        let path = self.path(recipe);
        warn!(path = %path.display(), "a compiled program cannot be loaded; it will be compiled again");
        // It may already have been removed, which would explain why it cannot be loaded.
        let _removed = fs::remove_file(path);
    }

    /// Removes the least recently used entries while the cache is too large. A peasant that has mapped a program keeps
    /// it.
    pub(crate) fn evict(&self) {
        self.evict_to(CACHE_BYTES_MAX);
    }

    /// Removes the least recently used entries down to `bytes_max`. Directories that leases use stay and do not count:
    /// otherwise they could leave no room for the very programs that use them.
    pub(crate) fn evict_to(&self, bytes_max: u64) {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => return warn!(folder = %self.folder.display(), %error, "the cache cannot be looked through"),
        };
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for Entry { path, is_share, bytes: freed, .. } in entries {
            if bytes <= bytes_max {
                return;
            }
            let removed = if is_share { shares::remove_unused(&path) } else { fs::remove_file(&path).map(|()| true) };
            // Another duke may have removed it or may be using it.
            if removed.unwrap_or(false) {
                debug!(path = %path.display(), "removed an entry that was not used for long");
                bytes -= freed;
            }
        }
    }

    /// All entries that may be removed, least recently used first. Entries that another duke removes meanwhile are left
    /// out.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            // A program that is being compiled carries no lock, so a recent unfinished file is left alone.
            let age = now().duration_since(metadata.modified()?).unwrap_or_default();
            let may_be_growing = path.extension().is_some_and(|end| end == "tmp") && age <= COMPILE_WITHIN;
            let is_own = entry.file_name().to_str().is_some_and(is_own_program);
            if is_own && metadata.is_file() && !may_be_growing {
                entries.push(Entry { path, is_share: false, bytes: metadata.len(), used: metadata.modified()? });
            }
        }
        for entry in fs::read_dir(self.shares())?.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            let is_own = entry.file_name().to_str().is_some_and(is_own_share) && metadata.is_dir();
            if !is_own || shares::is_used(&path) {
                continue;
            }
            // A directory that a dead duke left half unpacked goes first. One that is being unpacked is locked.
            let is_unfinished = path.extension().is_some_and(|extension| extension == "tmp");
            let used = if is_unfinished { SystemTime::UNIX_EPOCH } else { metadata.modified()? };
            entries.push(Entry { bytes: shares::folder_bytes(&path), path, is_share: true, used });
        }
        entries.sort_by_key(|entry| entry.used);
        Ok(entries)
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
fn is_own_program(name: &str) -> bool {
    let Some((digest, rest)) = name.split_once('-') else { return false };
    let is_whole = rest.strip_suffix(".cwasm").is_some_and(|rest| {
        let engine = rest.strip_suffix(DETERMINISTIC).unwrap_or(rest);
        engine.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    is_digest(digest) && (is_whole || rest.ends_with(".tmp"))
}

/// Whether dukes give such a name to a shared directory, finished or not.
fn is_own_share(name: &str) -> bool {
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
fn now() -> SystemTime {
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

    fn open(folder: &Path) -> Result<Cache, CacheError> {
        Cache::open(folder, "engine".to_owned())
    }

    fn recipe() -> Recipe {
        Recipe { digest: Digest::of([b"program".as_slice()]), deterministic: true, call: String::new() }
    }

    #[test]
    fn files_of_a_user_are_never_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("cache");
        let cache = open(&folder).unwrap();
        let own = [cache.path(&recipe()), cache.unfinished_program(recipe().digest)];
        own.iter().for_each(|path| fs::write(path, "own").unwrap());
        // A compiler that is running now, and one that died long ago.
        let growing = cache.unfinished_program(recipe().digest);
        fs::write(&growing, "own").unwrap();
        fs::File::options().append(true).open(&own[1]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::create_dir(cache.share(recipe().digest)).unwrap();
        let foreign = ["thesis.cwasm", "notes.tmp", "shares/photos", "shares/ab.tmp"].map(|name| folder.join(name));
        foreign.iter().for_each(|path| fs::write(path, "foreign").unwrap());
        fs::create_dir(folder.join("shares/album")).unwrap();
        // A name that a duke gives, on something that is not a duke's.
        std::os::unix::fs::symlink(place.path(), cache.share(Digest::of([b"x".as_slice()]))).unwrap();
        open(&folder).unwrap().evict_to(0);
        assert!(own.iter().all(|path| !path.exists()) && !cache.share(recipe().digest).exists());
        assert!(growing.exists());
        assert!(foreign.iter().all(|path| path.exists()) && folder.join("shares/album").exists());
        assert!(place.path().exists());
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
        let cache = open(place.path()).unwrap();
        fs::write(cache.path(&recipe()), "x").unwrap();
        fs::write(place.path().join("seat-0"), "x").unwrap();
        fs::create_dir(cache.unfinished_share(recipe().digest)).unwrap();
        fs::remove_file(place.path().join(MARKER)).unwrap();
        open(place.path()).unwrap();
        assert!(place.path().join(MARKER).exists());
    }
}
