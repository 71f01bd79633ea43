//! Compiled programs: each compiled once for the machine, in a child process, and kept on disk.
//!
//! A file of the cache is trusted: peasants map it without a check. So the folder belongs to the duke's user alone, and
//! a file gets its name only when it is complete and on disk. Its name says the program and the engine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use distwasm_proto::{
    digest::Digest,
    failure::{Failure, FailureKind},
    limits::{CACHE_BYTES_MAX, COMPILE_WITHIN, PEASANT_STDERR_BYTES_MAX},
    payload::Payload,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tracing::{debug, info, warn};

use crate::{
    baron::describe,
    spawn::{SpawnError, Spawner},
};

/// Why the cache cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CacheError {
    #[error("failed to make the folder {} for compiled programs (--cache names another)", .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("the folder {} for compiled programs belongs to somebody else, or others may write to it (--cache names another)", .path.display())]
    Shared { path: PathBuf },
}

/// The folder of compiled programs.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// What tells the engine of this machine's peasant from others.
    engine: String,
}

/// Why there is no compiled program.
#[derive(Debug)]
pub(crate) enum CompileError {
    /// The program cannot run anywhere.
    Unfit(Failure),
    /// This machine lacks something; in words.
    Trouble(String),
}

/// A file of the cache.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// Uses a folder, which is made if need be.
    pub(crate) fn open(folder: &Path, engine: String) -> Result<Cache, CacheError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let cannot_make = |source| CacheError::Make { path: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot_make)?;
        let metadata = fs::metadata(folder).map_err(cannot_make)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(CacheError::Shared { path: folder.to_owned() });
        }
        Ok(Cache { folder: folder.to_owned(), engine })
    }

    /// The compiled program, if it is there.
    pub(crate) fn find(&self, digest: Digest) -> Option<PathBuf> {
        let path = self.path(digest);
        let is_program = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() > 0);
        let file = is_program.then(|| fs::File::open(&path).ok())??;
        // Its age decides what goes when the cache is full. If it cannot be told, it goes earlier.
        let _touched = file.set_modified(now());
        Some(path)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{}.cwasm", self.engine))
    }

    /// Compiles a program, and gives the file that it was compiled to.
    pub(crate) async fn compile(
        &self,
        digest: Digest,
        program: Payload,
        spawner: Spawner,
    ) -> Result<PathBuf, CompileError> {
        let path = self.path(digest);
        // Two dukes may share a cache; each writes a file of its own.
        let unfinished = self.folder.join(format!("{digest}-{}.{}.tmp", self.engine, std::process::id()));
        let compiled = run_compiler(&unfinished, program, spawner).await;
        let kept = compiled.and_then(|()| {
            let keep = fs::rename(&unfinished, &path);
            keep.map_err(|error| CompileError::Trouble(format!("{} cannot be written: {error}", path.display())))
        });
        if let Err(error) = kept {
            // There may be no such file.
            let _removed = fs::remove_file(&unfinished);
            return Err(error);
        }
        info!(program = %digest, "compiled a program");
        self.evict();
        Ok(path)
    }

    /// Forgets a compiled program that cannot be loaded.
    pub(crate) fn remove(&self, digest: Digest) {
        let path = self.path(digest);
        warn!(path = %path.display(), "a compiled program cannot be loaded; it will be compiled again");
        // Somebody may have removed it, which would be the reason.
        let _removed = fs::remove_file(path);
    }

    /// Removes the oldest files while there are too many bytes. A peasant that has one mapped keeps it.
    fn evict(&self) {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => return warn!(folder = %self.folder.display(), %error, "the cache cannot be looked through"),
        };
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if bytes <= CACHE_BYTES_MAX {
                return;
            }
            bytes -= entry.bytes;
            debug!(path = %entry.path.display(), "removing an old compiled program");
            // Another duke may have removed it.
            let _removed = fs::remove_file(&entry.path);
        }
    }

    /// All compiled programs, the one that was used longest ago first.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
                entries.push(Entry { path: entry.path(), bytes: metadata.len(), used: metadata.modified()? });
            }
        }
        entries.sort_by_key(|entry| entry.used);
        Ok(entries)
    }
}

#[expect(clippy::disallowed_methods, reason = "the age of a file is wall time")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// What tells the engine of this peasant from others; fails if the peasant does not work at all.
pub(crate) async fn fingerprint(spawner: &Spawner) -> Result<String, FingerprintError> {
    let child = spawner.spawn(vec!["fingerprint".into()]).await?;
    let output = timeout(COMPILE_WITHIN, child.wait_with_output()).await.map_err(|_| FingerprintError::Slow)??;
    let word = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_word = !word.is_empty() && word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if output.status.success() && is_word {
        return Ok(word);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FingerprintError::Odd(format!("{}; it said: {said}", describe(output.status))))
}

/// Why the peasant does not work.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FingerprintError {
    #[error("the peasant cannot be started")]
    Spawn(#[from] SpawnErrorText),
    #[error("the peasant cannot be listened to")]
    Io(#[from] io::Error),
    #[error("the peasant did not tell its engine in time")]
    Slow,
    #[error("the peasant did not tell its engine: {0}")]
    Odd(String),
}

/// A [`SpawnError`] as text, with its cause.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SpawnErrorText(String);

impl From<SpawnError> for FingerprintError {
    fn from(error: SpawnError) -> FingerprintError {
        FingerprintError::Spawn(SpawnErrorText(distwasm_proto::link::chain(&error)))
    }
}

async fn run_compiler(output: &Path, program: Payload, spawner: Spawner) -> Result<(), CompileError> {
    let trouble = CompileError::Trouble;
    let unfit = |message: String| CompileError::Unfit(Failure::new(FailureKind::Program, message));
    let args = vec!["compile".into(), "--output".into(), output.into()];
    let mut child = spawner.spawn(args).await.map_err(|error| trouble(distwasm_proto::link::chain(&error)))?;
    let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(trouble("the compiler has no pipes".to_owned()));
    };
    let work = async {
        let feed = async {
            for chunk in program.chunks() {
                // A compiler that ends early says why.
                if stdin.write_all(chunk).await.is_err() {
                    break;
                }
            }
            drop(stdin);
        };
        let mut said = Vec::new();
        let listen = async {
            let mut limited = stderr.take(PEASANT_STDERR_BYTES_MAX as u64 * 4);
            limited.read_to_end(&mut said).await
        };
        let ((), _, status) = tokio::join!(feed, listen, child.wait());
        (status, String::from_utf8_lossy(&said).trim().to_owned())
    };
    // On expiry the child is dropped, which kills it.
    let ended = timeout(COMPILE_WITHIN, work).await;
    let (status, said) = ended.map_err(|_| unfit(format!("it took longer than {COMPILE_WITHIN:?} to compile")))?;
    let status = status.map_err(|error| trouble(format!("the compiler cannot be waited for: {error}")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(UNFIT) if !said.is_empty() => Err(unfit(said)),
        Some(_) => Err(trouble(format!("the compiler failed: {}; it said: {said}", describe(status)))),
        // A limit of the child, most likely: what breaks one compiler breaks the next.
        None => Err(unfit(format!("the compiler did not finish: {}", describe(status)))),
    }
}

/// The exit status by which the compiler says that the program is to blame.
const UNFIT: i32 = 2;
