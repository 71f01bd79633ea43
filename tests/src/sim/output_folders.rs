//! The output folders that dukes see: what dukes have written there stays until its queen gives it a name, or its duke
//! removes it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use distwasm_duke::peasant::Unfinished;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct OutputFolders(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    made: u64,
    /// The sizes of the files that do not have their names yet.
    unfinished: BTreeMap<String, u64>,
}

impl OutputFolders {
    /// A duke writes a result of this size. A killed duke removes nothing.
    pub(super) fn write(&self, bytes: u64, is_killed: Arc<AtomicBool>) -> Unfinished {
        let mut files = self.lock();
        files.made += 1;
        let name = format!("file {}", files.made);
        files.unfinished.insert(name.clone(), bytes);
        let folders = self.clone();
        Unfinished::new(name, move |name| {
            if !is_killed.load(Ordering::Relaxed) {
                folders.take(name);
            }
        })
    }

    /// A queen gives a file its name. Returns its size, if it is there.
    pub(super) fn take(&self, name: &str) -> Option<u64> {
        self.lock().unfinished.remove(name)
    }

    /// The size of such a file, if it is there.
    pub(super) fn bytes_of(&self, name: &str) -> Option<u64> {
        self.lock().unfinished.get(name).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
