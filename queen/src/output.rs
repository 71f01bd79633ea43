//! Writes outputs, on threads of their own: each to a file with another name in the same folder, which gets the
//! output's name when it is whole. So an output exists whole or not at all.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
};

use distwasm_proto::{ids::UnitNo, payload::Payload};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::plan::unfinished_name;

/// An output that is to be written.
#[derive(Debug)]
pub struct Output {
    /// Whose result it is.
    pub unit: UnitNo,
    /// Where it belongs, below the output folder.
    pub path: PathBuf,
    /// What it is to hold.
    pub result: Payload,
    /// The room that the result takes among those that are not written yet.
    pub room: Option<OwnedSemaphorePermit>,
}

/// How writing an output went.
#[derive(Debug)]
pub struct Written {
    /// Whose result it is.
    pub unit: UnitNo,
    /// Where it belongs.
    pub path: PathBuf,
    /// Its size, or why it is not there.
    pub outcome: Result<u64, WriteError>,
}

/// Why an output is not there.
#[derive(Debug)]
pub struct WriteError {
    /// In words.
    pub why: String,
    /// No other output could be written either: the disk is full, or the like.
    pub hopeless: bool,
}

/// Makes the names of unfinished outputs differ between the threads of one process.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

/// Works until there are no more orders, or nobody to work for.
pub fn write(
    folder: &Path,
    sync: bool,
    orders: &Arc<Mutex<Receiver<Vec<Output>>>>,
    written: &mpsc::Sender<Vec<Written>>,
) {
    let mut known_folders = HashSet::new();
    loop {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(outputs) = order else { return };
        let mut done = Vec::with_capacity(outputs.len());
        for Output { unit, path, result, room } in outputs {
            let outcome = put(folder, &path, &result, sync, &mut known_folders).map(|()| result.bytes());
            drop(room);
            done.push(Written { unit, path, outcome: outcome.map_err(|error| explain(&error)) });
        }
        if written.blocking_send(done).is_err() {
            return;
        }
    }
}

fn put(
    folder: &Path,
    path: &Path,
    result: &Payload,
    sync: bool,
    known_folders: &mut HashSet<PathBuf>,
) -> io::Result<()> {
    let target = folder.join(path);
    let parent = target.parent().unwrap_or(folder).to_owned();
    if !known_folders.contains(&parent) {
        fs::create_dir_all(&parent)?;
        known_folders.insert(parent.clone());
    }
    let unfinished = parent.join(unfinished_name(std::process::id(), UNFINISHED.fetch_add(1, Ordering::Relaxed)));
    let finished = fill(&unfinished, result, sync).and_then(|()| fs::rename(&unfinished, &target));
    if let Err(error) = finished {
        // What cannot be removed now is removed by the next run.
        let _removed = fs::remove_file(&unfinished);
        return Err(error);
    }
    if sync { File::open(&parent)?.sync_all() } else { Ok(()) }
}

fn fill(path: &Path, result: &Payload, sync: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    result.chunks().try_for_each(|chunk| file.write_all(chunk))?;
    if sync { file.sync_all() } else { Ok(()) }
}

fn explain(error: &io::Error) -> WriteError {
    let hopeless =
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem);
    WriteError { why: error.to_string(), hopeless }
}
