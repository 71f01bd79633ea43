//! Work for a store that is killed in the middle: the same each time, with the state that must be there after each step.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use distwasm_proto::{digest::Digest, limits::PIECE_BYTES};
use distwasm_store::{Batch, Expected, Key, Store, sqlite::SqliteStore};

/// One step, which is acknowledged as a whole.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Writes a blob with this content, and has a key name it.
    Keep(&'static str, u8),
    /// Has a key name the blob of another key, and no other.
    Follow(&'static str, &'static str),
    /// Takes a key away.
    Forget(&'static str),
    /// Writes a blob, and has nothing name it.
    Waste(u8),
}

/// The steps.
pub const STEPS: [Step; 9] = [
    Step::Keep("a", 1),
    Step::Keep("b", 2),
    Step::Keep("a", 3),
    Step::Waste(4),
    Step::Keep("c", 3),
    Step::Follow("a", "b"),
    Step::Forget("c"),
    Step::Keep("c", 1),
    Step::Forget("b"),
];

/// What each key names.
pub type State = BTreeMap<&'static str, u8>;

/// What is there after this many steps.
pub fn state_after(steps: usize) -> State {
    let mut state = State::new();
    for step in &STEPS[..steps] {
        match *step {
            Step::Keep(key, content) => _ = state.insert(key, content),
            Step::Follow(key, other) => _ = state.insert(key, state[other]),
            Step::Forget(key) => _ = state.remove(key),
            Step::Waste(_) => {}
        }
    }
    state
}

/// The bytes of a blob: more than one piece.
pub fn content_of(number: u8) -> Vec<u8> {
    let mut content = vec![number; PIECE_BYTES + 1000];
    content.extend_from_slice(b"the end");
    content
}

/// The digest of these bytes.
pub fn digest_of(number: u8) -> Digest {
    Digest::of([content_of(number).as_slice()])
}

/// The key of a value; beside it, `count` has the number of steps, in the same batch.
pub fn key(name: &str) -> Key {
    Key::new(format!("key/{name}")).unwrap_or_else(|error| panic!("{error}"))
}

/// The key that counts the steps.
pub fn count_key() -> Key {
    Key::new("count").unwrap_or_else(|error| panic!("{error}"))
}

/// Takes all steps, and calls `acknowledged` after each one.
///
/// # Panics
///
/// When the store does not do what is asked of it.
pub async fn take_all(folder: &Path, mut acknowledged: impl FnMut(usize)) {
    let store = SqliteStore::open(folder).unwrap_or_else(|error| panic!("{error}"));
    for (number, step) in STEPS.iter().enumerate() {
        take(&store, number, *step).await;
        acknowledged(number + 1);
    }
}

async fn take(store: &SqliteStore, number: usize, step: Step) {
    let count = Batch::default().put(count_key(), Expected::Anything, (number + 1).to_string().into_bytes(), &[]);
    let batch = match step {
        Step::Keep(name, content) => {
            let blob = write(store, content).await;
            count.put(key(name), Expected::Anything, vec![content], &[blob.digest()]).hold(blob)
        }
        Step::Follow(name, other) => {
            let value = store.get(&key(other)).await.ok().flatten().map(|entry| entry.value).unwrap_or_default();
            let digest = digest_of(value.first().copied().unwrap_or_default());
            count.put(key(name), Expected::Anything, value, &[digest])
        }
        Step::Forget(name) => count.delete(key(name), Expected::Anything),
        Step::Waste(content) => {
            drop(write(store, content).await);
            count
        }
    };
    store.commit(batch).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn write(store: &SqliteStore, number: u8) -> distwasm_store::Blob {
    let content = content_of(number);
    let written = async {
        let mut writer = store.write_blob(content.len() as u64).await?;
        for piece in content.chunks(PIECE_BYTES) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        writer.finish().await
    };
    written.await.unwrap_or_else(|error| panic!("{error}"))
}
