//! A store whose process is killed at each of its writes in turn: what was acknowledged is there, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use distwasm_store::{Store, check::check, sqlite::SqliteStore};
use distwasm_tests::{
    real::{Death, Place, die_at, programs},
    remembering::{STEPS, State, content_of, count_key, digest_of, key, state_after},
};

/// How a killed process has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// After all steps.
    Whole,
    /// After this many acknowledged steps.
    Killed(usize),
}

/// Takes all steps in a new store, which is killed at one of its writes.
fn take_steps(place: &Place, folder: &Path, death: Death) -> End {
    fs::create_dir(folder).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = place.command(programs().join("remember").to_str().unwrap());
    command.arg(folder).stderr(Stdio::inherit());
    die_at(&mut command, &folder.join(""), death);
    let output = command.output().unwrap();
    let acknowledged = String::from_utf8(output.stdout).unwrap().lines().count();
    if output.status.success() {
        assert_eq!(acknowledged, STEPS.len());
        return End::Whole;
    }
    assert_eq!(output.status.code(), None, "it was not killed, but failed");
    End::Killed(acknowledged)
}

/// What is there now; checks that each value names a blob with the right bytes, and that there are no other blobs.
async fn look(folder: &Path) -> (usize, State) {
    let store = SqliteStore::open(folder).unwrap();
    let count = store.get(&count_key()).await.unwrap();
    let count = count.map_or(0, |entry| String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap());
    let mut state = State::new();
    for name in ["a", "b", "c"] {
        let Some(entry) = store.get(&key(name)).await.unwrap() else { continue };
        let content = *entry.value.first().unwrap();
        let mut reader = store.read_blob(digest_of(content)).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        assert!(bytes == content_of(content), "the blob of {name} has other bytes");
        state.insert(name, content);
    }
    drop(store);
    let named: BTreeSet<String> = state.values().map(|content| digest_of(*content).to_string()).collect();
    let files = fs::read_dir(folder.join("blobs")).unwrap();
    let files: BTreeSet<String> = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, named);
    let report = check(folder).unwrap();
    assert_eq!((report.problems, report.unnamed), (vec![], 0));
    (count, state)
}

/// Kills at each write, counted from the first one, until all steps are taken without coming to the write.
fn kill_at_each(death: fn(u32) -> Death) {
    let place = Place::default();
    // A kill is not a power failure: it makes no difference whether the files are on a disk.
    let memory = Path::new("/dev/shm");
    let base = tempfile::tempdir_in(if memory.is_dir() { memory } else { place.path() }).unwrap();
    let base = base.path().canonicalize().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut unacknowledged, mut writes) = (0, 0);
    for at in 1.. {
        let folder = base.join("store");
        let end = take_steps(&place, &folder, death(at));
        let (count, state) = runtime.block_on(look(&folder));
        assert_eq!(state, state_after(count), "{:?}: a part of a step", death(at));
        match end {
            End::Whole => assert_eq!(count, STEPS.len()),
            // The step that was being taken may be there, and no other.
            End::Killed(acknowledged) => {
                assert!([acknowledged, acknowledged + 1].contains(&count), "{:?}: {acknowledged} {count}", death(at));
                unacknowledged += usize::from(count > acknowledged);
            }
        }
        fs::remove_dir_all(&folder).unwrap();
        if end == End::Whole {
            writes = at;
            break;
        }
    }
    assert!(writes > 50, "only {writes} writes were counted");
    assert!(unacknowledged > 0, "no step was killed between its commit and its acknowledgement");
}

#[test]
fn what_was_acknowledged_survives_a_kill_before_any_write() {
    kill_at_each(Death::Before);
}

#[test]
fn what_was_acknowledged_survives_a_kill_within_any_write() {
    kill_at_each(Death::Within);
}
