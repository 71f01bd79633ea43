//! What a store in a folder promises, without crashes; `tests/tests/store.rs` has those.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use bytes::Bytes;
use distwasm_proto::limits::{CHANGES_HELD_MAX, DATABASE_CHECKED_BYTES_MAX, PIECE_BYTES};
use tempfile::TempDir;

use super::*;
use crate::{
    Blob, Changed, Expected, News,
    check::{Problem, check},
};

/// A folder for a store.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(name: &str, value: &str) -> Batch {
    Batch::default().put(key(name), Expected::Anything, value.as_bytes().to_vec(), &[])
}

async fn write(store: &SqliteStore, content: &[u8]) -> Blob {
    let mut writer = store.write_blob(content.len() as u64).await.unwrap();
    for piece in content.chunks(PIECE_BYTES) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn read(store: &SqliteStore, digest: Digest) -> Result<Vec<u8>, BlobReadError> {
    let mut reader = store.read_blob(digest).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(reader.bytes(), bytes.len() as u64);
    Ok(bytes)
}

/// The names of the files of the blobs.
fn files(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join("blobs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn what_was_committed_is_there_when_the_store_is_opened_again() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let first = store.commit(put("a", "1")).await.unwrap();
    let second = store.commit(put("b/c", "2").put(key("a"), Expected::At(first), "3", &[])).await.unwrap();
    assert!(second > first);
    drop(store);
    let store = SqliteStore::open_existing(folder.path()).unwrap();
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b"3"[..], second));
    assert_eq!(store.get(&key("c")).await.unwrap(), None);
    let third = store.commit(Batch::default().delete(key("a"), Expected::At(second))).await.unwrap();
    assert!(third > second, "revisions go on after a start");
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_changes_nothing() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let first = store.commit(put("a", "1")).await.unwrap();
    for batch in [
        put("b", "2").put(key("a"), Expected::Absent, "2", &[]),
        put("b", "2").delete(key("a"), Expected::At(Revision(first.0 + 1))),
        put("b", "2").expect(key("c"), Expected::At(first)),
    ] {
        let refused = store.commit(batch).await.unwrap_err();
        assert!(matches!(refused, CommitError::Conflict { .. }), "{refused}");
        assert_eq!(store.get(&key("b")).await.unwrap(), None);
    }
    let digest = Digest::of([b"nowhere".as_slice()]);
    let refused = store.commit(put("b", "2").put(key("c"), Expected::Anything, "", &[digest])).await.unwrap_err();
    assert!(matches!(refused, CommitError::NoBlob { digest: named, .. } if named == digest));
    assert_eq!(store.get(&key("b")).await.unwrap(), None);
    store.commit(put("b", "2").expect(key("c"), Expected::Absent)).await.unwrap();
    let long = Batch::default().put(key("a"), Expected::Anything, vec![0; VALUE_BYTES_MAX + 1], &[]);
    assert!(matches!(store.commit(long).await, Err(CommitError::TooLong { .. })));
    let many = (0..=BATCH_CHANGES_MAX).fold(Batch::default(), |batch, _| batch.delete(key("x"), Expected::Anything));
    assert!(matches!(store.commit(many).await, Err(CommitError::TooMany { .. })));
}

#[tokio::test]
async fn of_commits_that_expect_the_same_one_succeeds() {
    let folder = folder();
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mine = put(&format!("own/{number}"), "x").put(key("one"), Expected::Absent, "y", &[]);
            let alone = store.commit(put(&format!("each/{number}"), "z")).await;
            (alone.is_ok(), store.commit(mine).await.is_ok())
        });
    }
    let done = tasks.join_all().await;
    assert!(done.iter().all(|(alone, _)| *alone));
    assert_eq!(done.iter().filter(|(_, won)| *won).count(), 1);
    assert_eq!(store.list("own/", None, 100).await.unwrap().entries.len(), 1);
    assert_eq!(store.list("each/", None, 100).await.unwrap().entries.len(), 50);
}

#[tokio::test]
async fn a_list_has_what_begins_with_the_prefix_in_order_and_in_parts() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let names = ["p/a", "p/a/1", "p/a-b", "p/b", "p", "q/a", "P/a", "p0"];
    let batch = names.iter().fold(Batch::default(), |batch, name| batch.put(key(name), Expected::Absent, "", &[]));
    store.commit(batch).await.unwrap();
    let names_of = |page: &Page| page.entries.iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>();
    let all = store.list("p/", None, 10).await.unwrap();
    assert_eq!(
        (names_of(&all), all.has_more),
        (vec!["p/a".into(), "p/a-b".into(), "p/a/1".into(), "p/b".into()], false)
    );
    let part = store.list("p/", None, 3).await.unwrap();
    assert!(part.has_more && names_of(&part) == names_of(&all)[..3]);
    let rest = store.list("p/", Some(&part.entries[2].key), 3).await.unwrap();
    assert_eq!((names_of(&rest), rest.has_more), (vec!["p/b".into()], false));
    assert_eq!(store.list("", None, 100).await.unwrap().entries.len(), names.len());
    assert_eq!(store.list("x", None, 100).await.unwrap(), Page::default());
}

#[tokio::test]
async fn a_watch_tells_changes_in_order_and_how_many_it_missed() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let mut watch = store.watch("p/");
    let first = store.commit(put("p/a", "1").put(key("q"), Expected::Anything, "", &[])).await.unwrap();
    let second = store.commit(Batch::default().delete(key("p/a"), Expected::Anything)).await.unwrap();
    let changed = |revision, exists| News::Changed(Changed { key: key("p/a"), revision, exists });
    assert_eq!(watch.next().await, changed(first, true));
    assert_eq!(watch.next().await, changed(second, false));
    for _ in 0..=CHANGES_HELD_MAX {
        store.commit(put("q", "")).await.unwrap();
    }
    assert_eq!(watch.next().await, News::Missed(1));
    drop(store);
    assert_eq!(watch.next().await, News::Closed);
}

#[tokio::test]
async fn a_blob_stays_as_long_as_something_names_it() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let content = vec![7; 3 * PIECE_BYTES + 5];
    let blob = write(&store, &content).await;
    let digest = Digest::of([content.as_slice()]);
    assert_eq!((blob.digest(), blob.bytes()), (digest, content.len() as u64));
    let names = |name: &str| Batch::default().put(key(name), Expected::Anything, "", &[digest]);
    store.commit(names("a").hold(blob)).await.unwrap();
    store.commit(names("b")).await.unwrap();
    assert_eq!(read(&store, digest).await.unwrap(), content);
    store.commit(Batch::default().delete(key("a"), Expected::Anything)).await.unwrap();
    // A value that names it no more, and one that begins to, in one batch.
    store.commit(put("b", "").put(key("c"), Expected::Anything, "", &[digest])).await.unwrap();
    assert_eq!(files(&folder), [digest.to_string()]);
    assert!(check(folder.path()).unwrap_err().to_string().contains("another king (process "));
    store.commit(Batch::default().delete(key("c"), Expected::Anything)).await.unwrap();
    // The next commit is made after the writer has removed the blob.
    store.commit(put("d", "")).await.unwrap();
    assert!(files(&folder).is_empty());
    assert!(matches!(read(&store, digest).await, Err(BlobReadError::Missing { .. })));
    drop(store);
    let report = check(folder.path()).unwrap();
    assert_eq!((report.problems, report.entries, report.blobs, report.unnamed), (vec![], 2, 0, 0));
}

#[tokio::test]
async fn a_blob_that_nobody_names_is_gone_when_it_is_dropped() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let blob = write(&store, b"one").await;
    let again = write(&store, b"one").await;
    drop(blob);
    store.commit(put("a", "")).await.unwrap();
    assert_eq!(files(&folder).len(), 1, "somebody else has it in hand");
    drop(again);
    store.commit(put("a", "")).await.unwrap();
    store.commit(put("a", "")).await.unwrap();
    assert!(files(&folder).is_empty());
    // One that is given up in the middle.
    let mut writer = store.write_blob(10).await.unwrap();
    writer.write(Bytes::from_static(b"half")).await.unwrap();
    assert_eq!(files(&folder).len(), 1);
    drop(writer);
    assert!(files(&folder).is_empty());
    let mut writer = store.write_blob(3).await.unwrap();
    let refused = writer.write(Bytes::from_static(b"four")).await;
    assert!(matches!(refused, Err(BlobWriteError::TooLong { bytes_max: 3 })));
    drop(writer);
    assert!(files(&folder).is_empty());
    assert!(matches!(store.write_blob(u64::MAX / 2).await, Err(BlobWriteError::Storage(StorageError::Full { .. }))));
    let empty = write(&store, b"").await;
    assert_eq!(read(&store, empty.digest()).await.unwrap(), b"");
}

#[tokio::test]
async fn a_blob_with_other_bytes_is_not_read_to_its_end() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let blob = write(&store, &vec![1; 2 * PIECE_BYTES]).await;
    let digest = blob.digest();
    let batch = Batch::default().put(key("a"), Expected::Anything, "", &[digest]).hold(blob);
    store.commit(batch).await.unwrap();
    let path = folder.path().join("blobs").join(digest.to_string());
    let mut content = fs::read(&path).unwrap();
    content[5] ^= 1;
    fs::write(&path, content).unwrap();
    let why = read(&store, digest).await.unwrap_err();
    assert!(matches!(why, BlobReadError::Damaged { .. }), "{why}");
    drop(store);
    let problems = check(folder.path()).unwrap().problems;
    assert_eq!(problems, [Problem::Damaged { path: path.canonicalize().unwrap(), key: "a".to_owned() }]);
    // The same bytes, written again, mend it.
    let store = SqliteStore::open(folder.path()).unwrap();
    drop(write(&store, &vec![1; 2 * PIECE_BYTES]).await);
    assert!(read(&store, digest).await.is_ok());
    drop(store);
    fs::remove_file(&path).unwrap();
    let problems = check(folder.path()).unwrap().problems;
    assert_eq!(problems, [Problem::Missing { digest, key: "a".to_owned() }]);
}

#[tokio::test]
async fn what_a_killed_process_has_left_is_removed_at_the_next_start() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let blob = write(&store, b"kept").await;
    store.commit(Batch::default().put(key("a"), Expected::Anything, "", &[blob.digest()]).hold(blob)).await.unwrap();
    drop(store);
    let place = folder.path().join("blobs");
    fs::write(place.join("unfinished-7"), "half").unwrap();
    fs::write(place.join(Digest::of([b"orphan".as_slice()]).to_string()), "orphan").unwrap();
    fs::write(place.join("notes.txt"), "of a person").unwrap();
    let report = check(folder.path()).unwrap();
    assert_eq!((report.unnamed, report.problems.len(), report.blobs), (2, 1, 1), "{report:?}");
    drop(SqliteStore::open(folder.path()).unwrap());
    assert_eq!(files(&folder).len(), 2, "the blob that is named, and what a store has not made");
}

#[tokio::test]
async fn no_store_begins_anew_where_the_blobs_of_another_are() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let blob = write(&store, b"kept").await;
    store.commit(Batch::default().put(key("a"), Expected::Anything, "", &[blob.digest()]).hold(blob)).await.unwrap();
    drop(store);
    let database = folder.path().join("store.db");
    for make in [|path: &Path| fs::remove_file(path), |path: &Path| fs::write(path, "")] {
        make(&database).unwrap();
        assert!(matches!(SqliteStore::open(folder.path()), Err(OpenError::Lost { .. })));
        assert!(matches!(check(folder.path()), Err(OpenError::Lost { .. })));
    }
    fs::write(folder.path().join("unfinished-store.db"), "half").unwrap();
    assert!(matches!(SqliteStore::open(folder.path()), Err(OpenError::HalfRestored { .. })));
    assert!(matches!(check(folder.path()), Err(OpenError::HalfRestored { .. })));
    assert_eq!(fs::read_dir(folder.path().join("blobs")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_folder_has_one_store_at_a_time() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let refused = SqliteStore::open(folder.path()).unwrap_err().to_string();
    assert!(refused.contains(&format!("another king (process {})", std::process::id())), "{refused}");
    drop(store);
    let store = SqliteStore::open(folder.path()).unwrap();
    let database = fs::metadata(folder.path().join("store.db")).unwrap();
    assert_eq!(database.mode() & 0o777, 0o600);
    drop(store);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(SqliteStore::open_existing(empty.path()), Err(OpenError::None { .. })));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made where there is nothing");
}

#[tokio::test]
async fn a_database_that_cannot_be_relied_on_is_refused_with_what_to_do() {
    let folder = folder();
    let store = SqliteStore::open(folder.path()).unwrap();
    let batch = (0..200).fold(Batch::default(), |batch, number| {
        batch.put(key(&format!("k/{number}")), Expected::Anything, vec![b'x'; 1000], &[])
    });
    store.commit(batch).await.unwrap();
    drop(store);
    let path = folder.path().join("store.db");
    let whole = fs::read(&path).unwrap();
    assert!((whole.len() as u64) < DATABASE_CHECKED_BYTES_MAX);
    let told = || SqliteStore::open(folder.path()).unwrap_err().to_string();
    // A page in the middle, the first page, and nothing of a database at all.
    let mut damaged = whole.clone();
    let middle = whole.len() / 2;
    damaged[middle..middle + 4096].fill(0xaa);
    fs::write(&path, &damaged).unwrap();
    assert!(told().contains("is damaged: `king check --data "), "{}", told());
    assert!(!check(folder.path()).is_ok_and(|report| report.problems.is_empty()));
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert!(told().contains("is damaged: "), "{}", told());
    // A newer version.
    fs::write(&path, &whole).unwrap();
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(told().contains("written by a newer version of distwasm, with schema 99"), "{}", told());
    assert!(check(folder.path()).unwrap_err().to_string().contains("newer version"));
    // A database of something else.
    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(told().contains("is a database, but not that of a king"), "{}", told());
    // And a link.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(SqliteStore::open(folder.path()).is_err());
    fs::remove_file(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    assert!(SqliteStore::open(folder.path()).is_ok());
}
