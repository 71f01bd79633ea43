//! The file in which a king keeps its tokens. `king token` and a running king share it: it is replaced as a whole, and
//! changed under a lock, so that no change is lost and no reader sees half of one.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use distwasm_process::files;
use distwasm_proto::limits::TOKENS_BYTES_MAX;
use thiserror::Error;

use super::{Tokens, TokensError, file};

/// The file of tokens in a king's folder of data.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// Tells one state of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why the tokens cannot be read or changed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("failed to read the tokens in {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to write the tokens to {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to lock {}", .path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error(
        "the tokens in {} are damaged in line {line}: {why}. Mend that line or take it out, which makes its token \
         unknown; or move the file away and make new tokens with `king token create`",
        .path.display()
    )]
    Damaged { path: PathBuf, line: usize, why: String },
    #[error(
        "others may write to the tokens in {}, so nobody can rely on them: check them, then `chmod 600` the file",
        .0.display()
    )]
    NotPrivate(PathBuf),
    #[error("the tokens would take more than {TOKENS_BYTES_MAX} bytes: revoke some, or give them shorter names")]
    TooLarge,
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

const FILE: &str = "tokens.jsonl";
const LOCK: &str = "tokens.lock";

impl Store {
    /// The store in this folder, which only the king's user may enter.
    pub fn in_folder(folder: &Path) -> Store {
        Store { folder: folder.to_owned() }
    }

    /// Reads all tokens. Without a file there are none.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or relied on.
    pub fn read(&self) -> Result<Tokens, StoreError> {
        let path = self.folder.join(FILE);
        let read = |source| StoreError::Read { path: path.clone(), source };
        let file = match files::open_own(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Tokens::default()),
            Err(error) => return Err(read(error)),
        };
        if !files::is_private(&file.metadata().map_err(read)?) {
            return Err(StoreError::NotPrivate(path));
        }
        let mut text = String::new();
        let bytes = file.take(TOKENS_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(read)?;
        if bytes > TOKENS_BYTES_MAX {
            return Err(StoreError::TooLarge);
        }
        file::parse(&text).map_err(|damage| StoreError::Damaged { path, line: damage.line, why: damage.why })
    }

    /// Changes the tokens, unless `change` fails. Waits while another process changes them.
    ///
    /// # Errors
    ///
    /// Those of `change`, and when the file cannot be read, relied on, locked or written.
    pub fn change<T>(&self, change: impl FnOnce(&mut Tokens) -> Result<T, TokensError>) -> Result<T, StoreError> {
        let path = self.folder.join(LOCK);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = files::open_own_with(options, &path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(|source| StoreError::Lock { path, source })?;
        let mut tokens = self.read()?;
        let changed = change(&mut tokens)?;
        let text = file::render(&tokens);
        if text.len() > TOKENS_BYTES_MAX {
            return Err(StoreError::TooLarge);
        }
        let path = self.folder.join(FILE);
        // A revoked token must not come back after a power failure.
        let written = files::replace_private_for_good(&path, text.as_bytes());
        written.map_err(|source| StoreError::Write { path, source })?;
        drop(lock);
        Ok(changed)
    }

    /// The state of the file; `None` if there is no file.
    ///
    /// # Errors
    ///
    /// When it cannot be looked at.
    pub fn stamp(&self) -> Result<Option<Stamp>, StoreError> {
        let path = self.folder.join(FILE);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        Ok(Some(Stamp {
            file: (found.dev(), found.ino()),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{
        super::{
            Role,
            tests::{FINGERPRINT, at, wish},
        },
        *,
    };

    #[test]
    fn changes_of_many_processes_at_once_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        assert!(store.read().unwrap().is_empty());
        assert_eq!(store.stamp().unwrap(), None);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        store.change(|tokens| tokens.create(FINGERPRINT, wish(Role::Duke, &[], None), at(0))).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.read().unwrap().iter().count(), 40);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for name in names {
            assert_eq!(fs::metadata(folder.path().join(name)).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn every_change_is_seen_and_a_change_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        store.change(|tokens| tokens.create(FINGERPRINT, wish(Role::Duke, &[], None), at(0))).unwrap();
        let before = store.stamp().unwrap();
        assert!(store.change(|tokens| tokens.revoke(&["none".to_owned()], at(1))).is_err());
        assert_eq!(store.stamp().unwrap(), before);
        let id = store.read().unwrap().iter().next().unwrap().id.to_string();
        store.change(|tokens| tokens.revoke(&[id], at(1))).unwrap();
        assert_ne!(store.stamp().unwrap(), before);
    }

    #[test]
    fn a_file_that_cannot_be_relied_on_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let path = folder.path().join(FILE);
        files::replace_private_for_good(&path, b"{\"distwasm_tokens\":1}\nnonsense\n").unwrap();
        let told = store.read().unwrap_err().to_string();
        assert!(
            told.contains("tokens.jsonl are damaged in line 2: ") && told.contains("`king token create`"),
            "{told}"
        );
        assert!(store.change(|_| Ok(())).is_err(), "a damaged file is not replaced");
        assert!(fs::read_to_string(&path).unwrap().contains("nonsense"));
        files::replace_private_for_good(&path, b"{\"distwasm_tokens\":1}\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(store.read(), Err(StoreError::NotPrivate(_))));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(store.read(), Err(StoreError::Read { .. })));
    }
}
