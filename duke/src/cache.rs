//! What a duke keeps on disk from job to job: compiled programs, and shared directories beside them.
//!
//! A compiled program is trusted: peasants map it without a check. So the folder belongs to the duke's user alone, and
//! whatever is in it gets its name only when it is whole. Several dukes may use one folder.
//!
//! A duke removes what was not used for long, and never files of a user: the folder carries a marker that only an empty
//! folder or an unmarked cache gets, and only names that a duke gives are removed.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use distwasm_proto::{
    digest::Digest,
    files,
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

/// Says whose the folder is: to us, and to programs that make backups (<https://bford.info/cachedir/>).
const MARKER: &str = "CACHEDIR.TAG";

const MARKER_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55
# A cache of distwasm. Whatever is in this folder is made anew when it is missing; the oldest is removed.
";

/// Directories that jobs share, in the folder.
const SHARES: &str = "shares";

/// What the names of programs with special code end in.
const DETERMINISTIC: &str = "-deterministic";

/// What a program is compiled from, and what for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Recipe {
    /// The program.
    pub(crate) digest: Digest,
    /// Whether the same unit is to give the same bytes everywhere, which takes other code.
    pub(crate) deterministic: bool,
    /// The export that must be there; empty when it is found from the program. The code is the same.
    pub(crate) call: String,
}

/// The folder of compiled programs and shared directories.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// What tells the engine of this machine's peasant from others.
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
    /// Uses a folder, which is made if need be.
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

    /// Makes sure that nothing but a cache is in the folder.
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

    /// The compiled program, if it is there.
    pub(crate) fn find(&self, recipe: &Recipe) -> Option<PathBuf> {
        let path = self.path(recipe);
        let is_program = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() > 0);
        let file = is_program.then(|| fs::File::open(&path).ok())??;
        touch(&file);
        Some(path)
    }

    /// Where a compiled program is kept. Its name says the program, the engine, and whether its code is special.
    pub(crate) fn path(&self, recipe: &Recipe) -> PathBuf {
        let special = if recipe.deterministic { DETERMINISTIC } else { "" };
        self.folder.join(format!("{}-{}{special}.cwasm", recipe.digest, self.engine))
    }

    /// Where a program is compiled to before it is whole. Nobody else compiles to the same file.
    pub(crate) fn unfinished_program(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{}.{}.tmp", self.engine, unique()))
    }

    /// Where a shared directory is kept.
    pub(crate) fn share(&self, digest: Digest) -> PathBuf {
        self.shares().join(digest.to_string())
    }

    /// Where a shared directory is unpacked to before it is whole. Nobody else unpacks to the same folder.
    pub(crate) fn unfinished_share(&self, digest: Digest) -> PathBuf {
        self.shares().join(format!("{digest}.{}.tmp", unique()))
    }

    fn shares(&self) -> PathBuf {
        self.folder.join(SHARES)
    }

    /// Forgets a compiled program that cannot be loaded.
    pub(crate) fn remove(&self, recipe: &Recipe) {
        let path = self.path(recipe);
        warn!(path = %path.display(), "a compiled program cannot be loaded; it will be compiled again");
        // Somebody may have removed it, which would be the reason.
        let _removed = fs::remove_file(path);
    }

    /// Removes what was used longest ago while there are too many bytes. A peasant that has a program mapped keeps it.
    pub(crate) fn evict(&self) {
        self.evict_to(CACHE_BYTES_MAX);
    }

    /// The same for another bound. Directories that leases use stay, and do not count: otherwise they could leave no
    /// room for the very programs that use them.
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
            // Another duke may have removed it, or may use it.
            if removed.unwrap_or(false) {
                debug!(path = %path.display(), "removed what was not used for long");
                bytes -= freed;
            }
        }
    }

    /// All that may be removed, what was used longest ago first. What another duke removes meanwhile is left out.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            // What is being compiled is not in use as far as anybody can see; it is left alone while it may be.
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
            // What a duke that died left half unpacked goes first. One that is being unpacked is in use.
            let is_unfinished = path.extension().is_some_and(|extension| extension == "tmp");
            let used = if is_unfinished { SystemTime::UNIX_EPOCH } else { metadata.modified()? };
            entries.push(Entry { bytes: shares::folder_bytes(&path), path, is_share: true, used });
        }
        entries.sort_by_key(|entry| entry.used);
        Ok(entries)
    }
}

/// Whether a duke gives such a name in the folder of a cache.
fn is_cache_name(name: &str) -> bool {
    let is_seat = name.strip_prefix("seat-").is_some_and(|number| number.parse::<usize>().is_ok());
    // Another duke may be about to put its marker there.
    let is_marker = name.starts_with(".distwasm-") && name.ends_with(MARKER);
    is_seat || is_marker || name == SHARES || is_own_program(name)
}

/// Whether a duke gives this name to a compiled program, finished or not.
fn is_own_program(name: &str) -> bool {
    let Some((digest, rest)) = name.split_once('-') else { return false };
    let is_whole = rest.strip_suffix(".cwasm").is_some_and(|rest| {
        let engine = rest.strip_suffix(DETERMINISTIC).unwrap_or(rest);
        engine.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    is_digest(digest) && (is_whole || rest.ends_with(".tmp"))
}

/// Whether a duke gives this name to a shared directory, finished or not.
fn is_own_share(name: &str) -> bool {
    let unfinished = name.split_once('.').filter(|(_, rest)| rest.ends_with("tmp"));
    is_digest(unfinished.map_or(name, |(digest, _)| digest))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Notes that something is used: its age decides what goes when the cache is full.
pub(crate) fn touch(file: &fs::File) {
    // If its age cannot be told, it goes earlier.
    let _touched = file.set_modified(now());
}

#[expect(clippy::disallowed_methods, reason = "the age of a file is wall time")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// A word that no other duke has, and this one has once.
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
    fn what_a_user_keeps_is_never_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("cache");
        let cache = open(&folder).unwrap();
        let own = [cache.path(&recipe()), cache.unfinished_program(recipe().digest)];
        own.iter().for_each(|path| fs::write(path, "own").unwrap());
        // A compiler that is at work now, and one that died long ago.
        let growing = cache.unfinished_program(recipe().digest);
        fs::write(&growing, "own").unwrap();
        fs::File::options().append(true).open(&own[1]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::create_dir(cache.share(recipe().digest)).unwrap();
        let foreign = ["thesis.cwasm", "notes.tmp", "shares/photos", "shares/ab.tmp"].map(|name| folder.join(name));
        foreign.iter().for_each(|path| fs::write(path, "foreign").unwrap());
        fs::create_dir(folder.join("shares/album")).unwrap();
        // Our name, and nothing of ours.
        std::os::unix::fs::symlink(place.path(), cache.share(Digest::of([b"x".as_slice()]))).unwrap();
        open(&folder).unwrap().evict_to(0);
        assert!(own.iter().all(|path| !path.exists()) && !cache.share(recipe().digest).exists());
        assert!(growing.exists());
        assert!(foreign.iter().all(|path| path.exists()) && folder.join("shares/album").exists());
        assert!(place.path().exists());
    }

    #[test]
    fn a_folder_that_is_in_use_for_something_else_is_not_taken() {
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
