//! The folders of the cache: who may use them, and what is called how in them.
//!
//! A compiled program is trusted: peasants map it. So the folder belongs to the duke's user alone, and each entry gets its
//! final name only when it is complete. Several dukes may use one folder.
//!
//! Only an empty folder gets the marker, and below a folder with it only names that dukes give count as theirs: whatever
//! else is there is never removed.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
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
    #[error(
        "the folder {} for compiled programs belongs to another user (uid {owner}), and a user who can write there can run code here: name a folder of your own with --cache",
        .path.display()
    )]
    Stranger { path: PathBuf, owner: u32 },
    #[error(
        "others may write to the folder {} for compiled programs, and so run code here: make it yours alone with `chmod go-w {}`, or name another with --cache",
        .path.display(), .path.display()
    )]
    Shared { path: PathBuf },
    #[error(
        "the folder {} is not marked as a cache, and holds {found:?}; compiled programs want a folder of their own: name an empty or new one with --cache",
        .path.display()
    )]
    Foreign { path: PathBuf, found: OsString },
    #[error("{} is not a folder: remove it, or name another folder for compiled programs with --cache", .path.display())]
    Shares { path: PathBuf },
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
    /// A folder that is only looked into.
    pub(crate) fn at(folder: &Path, engine: String) -> Folders {
        Folders { folder: folder.to_owned(), engine }
    }

    /// Uses a folder, created if missing.
    pub(crate) fn open(folder: &Path, engine: String) -> Result<Folders, CacheError> {
        use std::os::unix::fs::DirBuilderExt;
        let cannot_make = |source| CacheError::Make { path: folder.to_owned(), source };
        let make = |folder: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        make(folder).map_err(cannot_make)?;
        check_rights(folder, &fs::metadata(folder).map_err(cannot_make)?)?;
        let folders = Folders { folder: folder.to_owned(), engine };
        folders.claim()?;
        let shares = folders.shares();
        match fs::DirBuilder::new().mode(0o700).create(&shares) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot_make(error)),
            _ => {}
        }
        // Not a link: what lies elsewhere is not a duke's.
        let found = fs::symlink_metadata(&shares).map_err(cannot_make)?;
        if !found.is_dir() {
            return Err(CacheError::Shares { path: shares });
        }
        check_rights(&shares, &found)?;
        Ok(folders)
    }

    /// Makes sure that the folder is marked as a cache. An empty folder gets the marker.
    fn claim(&self) -> Result<(), CacheError> {
        let cannot_make = |source| CacheError::Make { path: self.folder.clone(), source };
        if self.is_marked() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.folder).map_err(cannot_make)? {
            let found = entry.map_err(cannot_make)?.file_name();
            if is_unfinished_marker(&found) {
                continue;
            }
            // Another duke may have made it a cache meanwhile.
            let path = self.folder.clone();
            return if self.is_marked() { Ok(()) } else { Err(CacheError::Foreign { path, found }) };
        }
        files::replace(&self.folder.join(MARKER), MARKER_TEXT.as_bytes()).map_err(cannot_make)
    }

    fn is_marked(&self) -> bool {
        let mut text = Vec::new();
        // One byte more shows whether the file is longer.
        let read = files::open_own(&self.folder.join(MARKER))
            .and_then(|file| file.take(MARKER_TEXT.len() as u64 + 1).read_to_end(&mut text));
        read.is_ok() && text == MARKER_TEXT.as_bytes()
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

/// Refuses a folder to which other users may write.
fn check_rights(folder: &Path, found: &fs::Metadata) -> Result<(), CacheError> {
    use std::os::unix::fs::MetadataExt;
    let path = folder.to_owned();
    if files::is_ours_alone(found) {
        Ok(())
    } else if found.uid() == rustix::process::geteuid().as_raw() {
        Err(CacheError::Shared { path })
    } else {
        Err(CacheError::Stranger { path, owner: found.uid() })
    }
}

/// Another duke may be about to put its marker into the folder.
fn is_unfinished_marker(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(".distwasm-") && name.ends_with(MARKER))
}

/// Whether dukes give such a name to a compiled program, finished or not.
pub(crate) fn is_own_program(name: &str) -> bool {
    let Some((_, rest)) = name.split_once('-').filter(|(digest, _)| is_digest(digest)) else { return false };
    let is_engine = |engine: &str| !engine.is_empty() && engine.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match (rest.strip_suffix(".cwasm"), rest.strip_suffix(".tmp").and_then(|rest| rest.split_once('.'))) {
        (Some(engine), _) => is_engine(engine.strip_suffix(DETERMINISTIC).unwrap_or(engine)),
        (None, Some((engine, word))) => is_engine(engine) && is_unique(word),
        (None, None) => false,
    }
}

/// Whether dukes give such a name to a shared directory, finished or not.
pub(crate) fn is_own_share(name: &str) -> bool {
    let (digest, ending) = name.split_once('.').unwrap_or((name, ""));
    let is_end = match ending.strip_suffix("tmp") {
        None => ending.is_empty() && name == digest,
        Some("removed.") => true,
        Some(words) => words.strip_suffix("removed.").unwrap_or(words).strip_suffix('.').is_some_and(is_unique),
    };
    is_digest(digest) && is_end
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

/// A word that is unique among dukes, also of other machines and containers, and within this one.
fn unique() -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}-{:016x}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed), fastrand::u64(..))
}

/// Whether this is such a word.
fn is_unique(word: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_random = |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match word.split('-').collect::<Vec<_>>()[..] {
        [process, number, random] => is_number(process) && is_number(number) && is_random(random),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Result<Folders, CacheError> {
        Folders::open(folder, "engine".to_owned())
    }

    fn recipe() -> Recipe {
        let digest = Digest::of([b"program".as_slice()]);
        Recipe { digest, deterministic: true, call: String::new(), traps_unknown_imports: false }
    }

    #[test]
    fn a_folder_that_is_used_for_something_else_is_not_taken() {
        let digest = recipe().digest;
        // Other programs mark their caches with the same file, and name things by digests, too.
        let blob = format!("shares/{digest}/photo");
        for foreign in ["thesis.txt", "shares/photo", MARKER, "seat-0", &blob, &format!("{digest}-engine.cwasm")] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join(foreign);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "mine").unwrap();
            assert!(matches!(open(place.path()), Err(CacheError::Foreign { .. })), "{foreign}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        }
    }

    #[test]
    fn an_empty_folder_is_marked_once() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(format!(".distwasm-1-1-{MARKER}")), "half").unwrap();
        let folders = open(place.path()).unwrap();
        assert!(folders.is_marked());
        fs::write(place.path().join("notes"), "mine").unwrap();
        assert!(open(place.path()).is_ok());
        fs::remove_dir(folders.shares()).unwrap();
        std::os::unix::fs::symlink("/", folders.shares()).unwrap();
        assert!(matches!(open(place.path()), Err(CacheError::Shares { .. })));
    }

    #[test]
    fn a_folder_to_which_others_may_write_is_refused_with_a_remedy() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let why = open(place.path()).unwrap_err().to_string();
        assert!(why.contains("`chmod go-w ") && why.contains("--cache"), "{why}");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let shares = open(place.path()).unwrap().shares();
        fs::set_permissions(&shares, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(open(place.path()), Err(CacheError::Shared { .. })));
        fs::set_permissions(&shares, fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(place.path(), Some(4711), None).unwrap();
            let why = open(place.path()).unwrap_err().to_string();
            assert!(why.contains("another user (uid 4711)") && why.contains("--cache"), "{why}");
        }
    }

    #[test]
    fn only_names_of_our_form_are_ours() {
        let folders = Folders { folder: "/".into(), engine: "engine1".to_owned() };
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let digest = recipe().digest;
        let plain = Recipe { deterministic: false, ..recipe() };
        for program in [folders.program(&recipe()), folders.program(&plain), folders.unfinished_program(digest)] {
            assert!(is_own_program(&name(program.clone())), "{program:?}");
        }
        let (share, unfinished) = (name(folders.share(digest)), folders.unfinished_share(digest));
        let removed = [folders.share(digest), unfinished.clone()].map(|path| name(path.with_extension("removed.tmp")));
        for share in removed.iter().chain([&share, &name(unfinished)]) {
            assert!(is_own_share(share), "{share}");
        }
        for other in ["notes.tmp", "my-thesis.tmp", ".cwasm", "x-y.cwasm", "-.cwasm", "engine-copy.cwasm", "1-1.tmp"] {
            assert!(!is_own_program(&format!("{digest}-{other}")), "{other}");
        }
        for other in [".mytmp", ".tmp", ".backup.tmp", ".1-1.tmp", ".", ".tar", "-old", "x", ".removed.removed.tmp"] {
            assert!(!is_own_share(&format!("{digest}{other}")), "{other}");
        }
    }
}
