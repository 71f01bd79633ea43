//! The duke's cache on disk, kept from job to job: compiled programs, and shared directories beside them.
//!
//! When the cache is too large, entries that were not used for long are removed, and never a user's files.

mod compiler;
mod folders;
mod programs;
mod shares;
mod supplies;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use distwasm_process::files;
use distwasm_proto::{
    digest::Digest,
    error_text::chain,
    failure::{Failure, FailureKind},
    limits::{CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, COMPILE_WITHIN},
};
use distwasm_transport::payload::Payload;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::peasant::Spawner;
use folders::Folders;
use shares::{Size, UnpackError};

pub use compiler::CompileLimits;
pub use folders::CacheError;
pub use programs::is_compiled;
pub use shares::SharedFolder;
pub use supplies::{Made, MakeError, Recipe, Supply};
pub(crate) use supplies::{Order, Stock, Supplies};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folders: Folders,
}

/// A compiled program or a shared directory.
struct Entry {
    path: PathBuf,
    is_share: bool,
    size: Size,
    used: SystemTime,
}

impl Cache {
    /// Uses a folder, created if missing. `engine` is the fingerprint of the engine in this machine's peasant.
    pub(crate) fn open(folder: &Path, engine: String) -> Result<Cache, CacheError> {
        Ok(Cache { folders: Folders::open(folder, engine)? })
    }

    /// A supply, if the cache has it.
    pub(crate) fn find(&self, supply: &Supply) -> Option<Made> {
        match supply {
            Supply::Program(recipe) => programs::find(&self.folders, recipe).map(Made::Program),
            Supply::Share(digest) => shares::find(&self.folders, *digest).map(Made::Share),
        }
    }

    /// Makes a supply from its blob: compiles a program in a child process, or unpacks an archive on another thread.
    /// When this returns, both have ended, also if they were stopped.
    pub(crate) async fn make(
        &self,
        supply: Supply,
        blob: Payload,
        spawner: &Spawner,
        limits: CompileLimits,
        stop: CancellationToken,
    ) -> Result<Made, MakeError> {
        let cache = self.clone();
        let made = match supply {
            Supply::Program(recipe) => {
                let compiled = programs::compile(&self.folders, &recipe, blob, spawner, limits, &stop).await?;
                // On a thread of its own. If it fails, the cache is too large for a while.
                let _evicted = tokio::task::spawn_blocking(move || cache.evict()).await;
                return Ok(Made::Program(compiled));
            }
            Supply::Share(digest) => tokio::task::spawn_blocking(move || cache.unpack(digest, &blob, &stop)).await,
        };
        made.map_err(|error| MakeError::Trouble(error.to_string()))?
    }

    fn unpack(&self, digest: Digest, archive: &Payload, stop: &CancellationToken) -> Result<Made, MakeError> {
        let unpacked = shares::unpack(&self.folders, digest, archive, stop);
        self.evict();
        unpacked.map(Made::Share).map_err(|error| match error {
            UnpackError::Stopped => MakeError::Stopped,
            error if error.is_unfit() => MakeError::Unfit(Failure::new(FailureKind::Program, chain(&error))),
            error => MakeError::Trouble(chain(&error)),
        })
    }

    /// A new file without a name, to be written and to be read.
    pub(crate) fn make_nameless(&self) -> io::Result<(fs::File, fs::File)> {
        // If the duke is killed just here, the file goes like one of a compiler that was killed.
        let path = self.folders.unfinished_program(Digest::of([b"input".as_slice()]));
        let written = files::create_private(&path)?;
        let read = fs::File::open(&path);
        fs::remove_file(&path)?;
        Ok((written, read?))
    }

    /// Removes a compiled program that cannot be loaded.
    pub(crate) fn remove(&self, recipe: &Recipe) {
        let path = self.folders.program(recipe);
        warn!(path = %path.display(), "a compiled program cannot be loaded; it will be compiled again");
        // It may already have been removed, which would explain why it cannot be loaded.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            let _removed = fs::remove_file(path);
        }
    }

    /// Removes the least recently used entries while the cache is too large. A peasant that has mapped a program keeps
    /// it.
    fn evict(&self) {
        self.evict_to(Size { bytes: CACHE_BYTES_MAX, entries: CACHE_ENTRIES_MAX });
    }

    /// Removes the least recently used entries until neither bound of `most` is exceeded. Directories that leases use
    /// stay and do not count: otherwise they could leave no room for the very programs that use them.
    fn evict_to(&self, most: Size) {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => {
                return warn!(folder = %self.folders.programs().display(), %error, "the cache cannot be looked through");
            }
        };
        let mut there: Size = entries.iter().map(|entry| entry.size).sum();
        for Entry { path, is_share, size, .. } in entries {
            if there.bytes <= most.bytes && there.entries <= most.entries {
                return;
            }
            let removed = if is_share { shares::remove_unused(&path) } else { fs::remove_file(&path).map(|()| true) };
            // Another duke may have removed it or may be using it.
            if removed.unwrap_or(false) {
                debug!(path = %path.display(), "removed an entry that was not used for long");
                there.bytes -= size.bytes;
                there.entries -= size.entries;
            }
        }
    }

    /// All entries that may be removed, least recently used first. Entries that another duke removes meanwhile are left
    /// out.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.folders.programs())?.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            // A program that is being compiled carries no lock, so a recent unfinished file is left alone.
            let age = folders::now().duration_since(metadata.modified()?).unwrap_or_default();
            let may_be_growing = path.extension().is_some_and(|end| end == "tmp") && age <= COMPILE_WITHIN;
            let is_own = entry.file_name().to_str().is_some_and(folders::is_own_program);
            if is_own && metadata.is_file() && !may_be_growing {
                entries.push(Entry { path, is_share: false, size: Size::of(&metadata), used: metadata.modified()? });
            }
        }
        for entry in fs::read_dir(self.folders.shares())?.flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            let is_own = entry.file_name().to_str().is_some_and(folders::is_own_share) && metadata.is_dir();
            if !is_own || shares::is_used(&path) {
                continue;
            }
            // A directory that a dead duke left half unpacked goes first. One that is being unpacked is locked.
            let is_unfinished = path.extension().is_some_and(|extension| extension == "tmp");
            let used = if is_unfinished { SystemTime::UNIX_EPOCH } else { metadata.modified()? };
            match shares::folder_size(&path) {
                Some(size) => entries.push(Entry { path, is_share: true, size, used }),
                None => {
                    warn!(path = %path.display(), "a directory in the cache is kept: a user has put something into it");
                }
            }
        }
        entries.sort_by_key(|entry| entry.used);
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_user_are_never_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("cache");
        let open = || Cache::open(&folder, "engine".to_owned()).unwrap();
        let folders = open().folders;
        let digest = Digest::of([b"program".as_slice()]);
        let recipe = Recipe { digest, deterministic: true, call: String::new(), traps_unknown_imports: false };
        let own = [folders.program(&recipe), folders.unfinished_program(recipe.digest)];
        own.iter().for_each(|path| fs::write(path, "own").unwrap());
        // A compiler that is running now, and one that died long ago.
        let growing = folders.unfinished_program(recipe.digest);
        fs::write(&growing, "own").unwrap();
        fs::File::options().append(true).open(&own[1]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::create_dir(folders.share(recipe.digest)).unwrap();
        // A shared directory into which a user has put something.
        let other = Digest::of([b"other".as_slice()]);
        fs::create_dir(folders.share(other)).unwrap();
        let inside = format!("shares/{other}/thesis.txt");
        let (backup, old) = (format!("shares/{other}.backup.tmp"), format!("{other}-old.tmp"));
        let foreign = ["thesis.cwasm", "notes.tmp", "shares/photos", "shares/ab.tmp", &inside, &backup, &old]
            .map(|name| folder.join(name));
        foreign.iter().for_each(|path| fs::write(path, "foreign").unwrap());
        fs::create_dir(folder.join("shares/album")).unwrap();
        // A name that a duke gives, on something that is not a duke's.
        std::os::unix::fs::symlink(place.path(), folders.share(Digest::of([b"x".as_slice()]))).unwrap();
        open().evict_to(Size::default());
        assert!(own.iter().all(|path| !path.exists()) && !folders.share(recipe.digest).exists());
        assert!(growing.exists());
        assert!(foreign.iter().all(|path| path.exists()) && folder.join("shares/album").exists());
        assert!(place.path().exists());
    }

    #[test]
    fn many_small_files_are_evicted_although_they_have_few_bytes() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(&place.path().join("cache"), "engine".to_owned()).unwrap();
        let shares = ["older", "newer"].map(|name| {
            let path = cache.folders.share(Digest::of([name.as_bytes()]));
            fs::create_dir(&path).unwrap();
            (0..50).for_each(|number| {
                let file = fs::File::create(path.join(number.to_string())).unwrap();
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
            });
            path
        });
        fs::File::open(&shares[0]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let most = |entries| Size { bytes: u64::MAX, entries };
        cache.evict_to(most(102));
        assert!(shares.iter().all(|path| path.exists()));
        cache.evict_to(most(101));
        assert!(!shares[0].exists() && shares[1].exists());
    }
}
