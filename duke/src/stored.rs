//! Streamed inputs in files without names, which are written while the inputs come. Nothing of them is left when a duke
//! ends, however it ends.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::{cache::Cache, peasant::InputNo};

/// How many bytes of an input are stored in all, or why no more can be.
pub(crate) type Stored = (InputNo, Result<u64, String>);

/// All that are stored.
pub(crate) struct StoredInputs {
    cache: Cache,
    inputs: FxHashMap<InputNo, Arc<Mutex<Input>>>,
    reports: mpsc::Sender<Stored>,
}

/// One input.
#[derive(Debug, Default)]
struct Input {
    /// Parts that are not written yet. The reactor asks for no more than a window.
    parts: VecDeque<Bytes>,
    /// A thread writes them, or has failed to.
    writes: bool,
    file: Option<(File, Arc<File>)>,
    bytes: u64,
}

impl StoredInputs {
    /// None yet; what becomes of them is reported.
    pub(crate) fn new(cache: Cache, reports: mpsc::Sender<Stored>) -> StoredInputs {
        StoredInputs { cache, inputs: FxHashMap::default(), reports }
    }

    /// Appends a part to an input, on a thread that blocks.
    pub(crate) fn store(&mut self, number: InputNo, part: Bytes, tasks: &TaskTracker) {
        let input = self.inputs.entry(number).or_default();
        let mut state = lock(input);
        state.parts.push_back(part);
        if std::mem::replace(&mut state.writes, true) {
            return;
        }
        drop(state);
        let (input, cache, reports) = (Arc::clone(input), self.cache.clone(), self.reports.clone());
        tasks.spawn_blocking(move || {
            while let Some(written) = write_parts(&input, &cache) {
                let is_over = written.is_err();
                let stored = written.map_err(|error| error.to_string());
                // The reactor may have ended.
                if reports.blocking_send((number, stored)).is_err() || is_over {
                    return;
                }
            }
        });
    }

    /// The file of an input that is stored as a whole.
    pub(crate) fn file(&self, number: InputNo) -> Option<Arc<File>> {
        let input = lock(self.inputs.get(&number)?);
        input.file.as_ref().map(|(_, read)| Arc::clone(read))
    }

    /// Forgets an input. Its file goes with the last peasant that has it.
    pub(crate) fn discard(&mut self, number: InputNo) {
        self.inputs.remove(&number);
    }
}

/// Writes the parts that have gathered; returns how much is written in all. `None` if there were no parts.
fn write_parts(input: &Mutex<Input>, cache: &Cache) -> Option<io::Result<u64>> {
    let mut state = lock(input);
    let parts = std::mem::take(&mut state.parts);
    if parts.is_empty() {
        state.writes = false;
        return None;
    }
    let file = state.file.take();
    drop(state);
    let written = (|| {
        let (mut written, read) = match file {
            Some(file) => file,
            None => cache.make_nameless().map(|(written, read)| (written, Arc::new(read)))?,
        };
        parts.iter().try_for_each(|part| written.write_all(part))?;
        let mut state = lock(input);
        state.file = Some((written, read));
        state.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(state.bytes)
    })();
    Some(written)
}

fn lock(input: &Mutex<Input>) -> MutexGuard<'_, Input> {
    // Nothing in here can panic half-way through a change.
    input.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt, path::Path};

    use super::*;

    /// Stores parts, and returns what is reported last.
    async fn stored(folder: &Path, parts: &[&'static [u8]]) -> (StoredInputs, Result<u64, String>) {
        let cache = Cache::open(folder, "engine".to_owned()).unwrap();
        let (reports, mut receiver) = mpsc::channel(8);
        let (mut inputs, tasks) = (StoredInputs::new(cache, reports), TaskTracker::new());
        parts.iter().for_each(|part| inputs.store(InputNo(1), Bytes::from_static(part), &tasks));
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        loop {
            let (_, stored) = receiver.recv().await.unwrap();
            if stored != Ok(bytes) && stored.is_ok() {
                continue;
            }
            return (inputs, stored);
        }
    }

    #[tokio::test]
    async fn parts_are_stored_in_their_order_in_a_file_without_a_name() {
        let place = tempfile::tempdir().unwrap();
        let (mut inputs, outcome) = stored(place.path(), &[b"one", b"two", b"three"]).await;
        assert_eq!(outcome, Ok(11));
        let file = inputs.file(InputNo(1)).unwrap();
        inputs.discard(InputNo(1));
        let mut read = [0; 12];
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 11);
        assert_eq!(&read[..11], b"onetwothree");
        assert!((&*file).write_all(b"x").is_err(), "peasants cannot write to it");
        let files = fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.file_name());
        assert!(files.into_iter().all(|name| !name.to_string_lossy().ends_with("tmp")));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_made_is_told() {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("cache");
        let (_, outcome) = stored(&cache, &[b"a"]).await;
        assert_eq!(outcome, Ok(1));
        let opened = Cache::open(&cache, "engine".to_owned()).unwrap();
        fs::remove_dir_all(&cache).unwrap();
        let (reports, mut receiver) = mpsc::channel(8);
        let mut inputs = StoredInputs::new(opened, reports);
        inputs.store(InputNo(1), Bytes::from_static(b"a"), &TaskTracker::new());
        let (_, outcome) = receiver.recv().await.unwrap();
        assert!(outcome.unwrap_err().contains("No such file"));
    }
}
