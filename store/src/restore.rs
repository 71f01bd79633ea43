//! Restores a backup into a folder that keeps nothing yet: all of it, or nothing.
//!
//! The blobs come first, each checked by its digest, and the database gets its name last, after it was looked through. A
//! folder without a database keeps nothing, whatever else a restore has left there that was killed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use distwasm_process::files;
use distwasm_proto::{
    digest::{Digest, Hasher},
    limits::PIECE_BYTES,
};
use thiserror::Error;

use crate::{
    OpenError, StorageError,
    backup::{FORMAT, MARKER},
    blobs::{self, Found},
    check::{Problem, Report, check_all},
    folder::{self, BLOBS, DATABASE, Folder, RESTORED, has_store},
};

/// Why a backup was not restored. Nothing of it is kept.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RestoreError {
    #[error("{} keeps something already: --data names a new folder, or an empty one", .folder.display())]
    NotEmpty { folder: PathBuf },
    #[error("failed to read the backup")]
    Unread(#[source] io::Error),
    #[error("it is not a backup of a king (`queen admin backup` makes one)")]
    NotBackup,
    #[error("the backup was made by a newer version of distwasm: use that version")]
    Newer,
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    #[error("the backup is not whole: {0}")]
    Incomplete(Problem),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Restores a backup into a folder that only this user may enter. Returns what is there then.
///
/// # Errors
///
/// When the folder keeps something, or a king uses it; when the archive is not a whole backup; and when the disk does not
/// do what is asked of it.
pub fn restore(folder: &Path, archive: impl Read) -> Result<Report, RestoreError> {
    let folder = Folder::take(folder)?;
    if has_store(folder.path()) {
        return Err(RestoreError::NotEmpty { folder: folder.path().to_owned() });
    }
    clear(&folder)?;
    let restored = unpack(&folder, archive).and_then(|()| finish(&folder));
    if restored.is_err() {
        // The error of the restore is the one to report.
        let _cleared = clear(&folder);
    }
    restored
}

/// Removes what a restore has left that did not come to its end.
fn clear(folder: &Folder) -> Result<(), StorageError> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::of_io("remove", path, error)),
        _ => Ok(()),
    };
    // SQLite makes files beside a database that it looks through.
    for ending in ["", "-wal", "-shm", "-journal"] {
        remove(&folder.path().join(format!("{RESTORED}{ending}")))?;
    }
    for found in blobs::list(&folder.blobs())? {
        if let (path, Found::Blob(_) | Found::Unfinished) = found? {
            remove(&path)?;
        }
    }
    Ok(())
}

fn unpack(folder: &Folder, archive: impl Read) -> Result<(), RestoreError> {
    let mut archive = tar::Archive::new(archive);
    let (mut is_backup, mut has_database) = (false, false);
    for entry in archive.entries().map_err(RestoreError::Unread)? {
        let mut entry = match entry {
            Ok(entry) => entry,
            // What is no archive fails at its first header.
            Err(_) if !is_backup => return Err(RestoreError::NotBackup),
            Err(error) => return Err(RestoreError::Unread(error)),
        };
        let name = entry.path().map_err(RestoreError::Unread)?.to_string_lossy().into_owned();
        if !is_backup {
            check_marker(&name, &mut entry)?;
            is_backup = true;
        } else if !entry.header().entry_type().is_file() {
            return Err(RestoreError::Damaged(format!("{name:?} is not a file")));
        } else if name == DATABASE && !has_database {
            write(&folder.path().join(RESTORED), &mut entry)?;
            has_database = true;
        } else {
            let digest = name.strip_prefix(BLOBS).and_then(|rest| rest.strip_prefix('/')).and_then(Digest::from_hex);
            let digest = digest.ok_or_else(|| RestoreError::Damaged(format!("{name:?} does not belong there")))?;
            if write(&folder.blobs().join(digest.to_string()), &mut entry)? != digest {
                return Err(RestoreError::Damaged(format!("{name} has other bytes than its name says")));
            }
        }
    }
    if is_backup { Ok(()) } else { Err(RestoreError::NotBackup) }
}

fn check_marker(name: &str, entry: &mut impl Read) -> Result<(), RestoreError> {
    let mut text = String::new();
    let read = entry.take(FORMAT.len() as u64 + 1).read_to_string(&mut text);
    match (name == MARKER, read.is_ok() && text == FORMAT) {
        (true, true) => Ok(()),
        (true, false) => Err(RestoreError::Newer),
        (false, _) => Err(RestoreError::NotBackup),
    }
}

/// Writes a new file, and has it on disk; returns the digest of its bytes.
fn write(path: &Path, content: &mut impl Read) -> Result<Digest, RestoreError> {
    let failed = |error| StorageError::of_io("write", path, error);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; PIECE_BYTES]);
    loop {
        let read = content.read(&mut piece).map_err(RestoreError::Unread)?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        file.write_all(bytes).map_err(failed)?;
    }
    file.sync_all().and_then(|()| files::close(file)).map_err(failed)?;
    Ok(hasher.finish())
}

/// All files are there: looks through them, and gives the database its name.
fn finish(folder: &Folder) -> Result<Report, RestoreError> {
    let unfinished = folder.path().join(RESTORED);
    if !unfinished.is_file() {
        return Err(RestoreError::Damaged("there is no database in it".to_owned()));
    }
    let report = check_all(&unfinished, &folder.blobs())?;
    if let Some(problem) = report.problems.first() {
        return Err(RestoreError::Incomplete(problem.clone()));
    }
    folder::sync(&folder.blobs())?;
    let database = folder.database();
    fs::rename(&unfinished, &database).map_err(|error| StorageError::of_io("name", &database, error))?;
    folder::sync(folder.path())?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::{Batch, Expected, Key, Store, check::check, sqlite::SqliteStore};

    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn key(number: u32) -> Key {
        Key::new(format!("k/{number}")).unwrap()
    }

    async fn keep(store: &SqliteStore, number: u32) {
        let mut writer = store.write_blob(1 << 20).await.unwrap();
        writer.write(Bytes::from(vec![number as u8; 300_000])).await.unwrap();
        let blob = writer.finish().await.unwrap();
        let batch =
            Batch::default().put(key(number), Expected::Anything, number.to_string().into_bytes(), &[blob.digest()]);
        store.commit(batch.hold(blob)).await.unwrap();
    }

    async fn back_up(store: &SqliteStore) -> Vec<u8> {
        let mut backup = store.back_up().await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = backup.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        bytes
    }

    #[tokio::test]
    async fn what_was_backed_up_is_there_after_it_is_restored_as_it_was_at_one_moment() {
        let (old, new) = (folder(), folder());
        let store = SqliteStore::open(old.path()).unwrap();
        for number in 0..5 {
            keep(&store, number).await;
        }
        let mut backup = store.back_up().await.unwrap();
        // What is removed while the backup is made is in it all the same, and what is new is not.
        store.commit(Batch::default().delete(key(4), Expected::Anything)).await.unwrap();
        keep(&store, 5).await;
        let mut archive = Vec::new();
        while let Some(piece) = backup.next().await {
            archive.extend_from_slice(&piece.unwrap());
        }
        let report = restore(new.path(), &archive[..]).unwrap();
        assert_eq!((report.entries, report.blobs, report.problems.len()), (5, 5, 0));
        let restored = SqliteStore::open(new.path()).unwrap();
        for number in 0..5 {
            let entry = restored.get(&key(number)).await.unwrap().unwrap();
            assert_eq!(entry.value, number.to_string().into_bytes());
        }
        assert!(restored.get(&key(5)).await.unwrap().is_none());
        keep(&restored, 6).await;
        drop(restored);
        assert!(check(new.path()).unwrap().problems.is_empty());
        assert!(matches!(restore(new.path(), &archive[..]), Err(RestoreError::NotEmpty { .. })));
        // Nothing of the backup is left where it was made.
        drop(backup);
        drop(store);
        let report = check(old.path()).unwrap();
        assert_eq!((report.problems, report.unnamed, report.blobs), (vec![], 0, 5));
    }

    #[tokio::test]
    async fn a_backup_that_is_cut_or_changed_is_not_restored_and_leaves_nothing() {
        let (old, new) = (folder(), folder());
        let store = SqliteStore::open(old.path()).unwrap();
        for number in 0..3 {
            keep(&store, number).await;
        }
        let archive = back_up(&store).await;
        let left = || {
            let names = fs::read_dir(new.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let blobs = fs::read_dir(new.path().join("blobs")).unwrap().count();
            (names.filter(|name| !["blobs", "store.lock"].contains(&name.to_str().unwrap())).count(), blobs)
        };
        for length in [0, 100, 512, 1024, 1536, archive.len() / 2, archive.len() - 300_000] {
            let cut = restore(new.path(), &archive[..length]);
            assert!(cut.is_err(), "{length}");
            assert_eq!(left(), (0, 0), "{length}");
        }
        let mut changed = archive.clone();
        let place = archive.len() - 200_000;
        changed[place] ^= 1;
        let why = restore(new.path(), &changed[..]).unwrap_err().to_string();
        assert!(why.contains("has other bytes than its name says"), "{why}");
        assert!(matches!(restore(new.path(), &b"not an archive"[..]), Err(RestoreError::NotBackup)));
        let mut newer = archive.clone();
        newer[512] = b'2';
        assert!(matches!(restore(new.path(), &newer[..]), Err(RestoreError::Newer)));
        assert_eq!(left(), (0, 0));
        assert!(restore(new.path(), &archive[..]).is_ok());
    }
}
