//! Writes outputs, on threads of their own: each to a file with another name in the same folder, which gets the
//! output's name when it is whole. So an output exists whole or not at all.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use distwasm_proto::{ids::UnitNo, payload::Payload};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{plan::unfinished_name, queue::Taker};

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

/// Outputs that a thread takes at once.
const BATCH: usize = 64;

/// Works until there are no more outputs, or nobody to work for.
pub fn write(folder: &Path, sync: bool, outputs: &Taker<Output>, written: &mpsc::Sender<Vec<Written>>) {
    let mut writer = Writer { folder, sync, pid: std::process::id(), last: None };
    while let Some(outputs) = outputs.take(BATCH) {
        let mut done = Vec::with_capacity(outputs.len());
        for Output { unit, path, result, room } in outputs {
            let outcome = writer.put(&path, &result).map(|()| result.bytes());
            drop(room);
            done.push(Written { unit, path, outcome: outcome.map_err(|error| explain(&error)) });
        }
        if written.blocking_send(done).is_err() {
            return;
        }
    }
}

/// One thread's way to put outputs in their places.
struct Writer<'a> {
    folder: &'a Path,
    sync: bool,
    pid: u32,
    /// The folder into which it wrote last, and its path below the output folder.
    last: Option<(PathBuf, File)>,
}

impl Writer<'_> {
    fn put(&mut self, path: &Path, result: &Payload) -> io::Result<()> {
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let sync = self.sync;
        let unfinished = unfinished_name(self.pid, UNFINISHED.fetch_add(1, Ordering::Relaxed));
        let folder = self.open_folder(path.parent().unwrap_or(Path::new("")))?;
        let finished =
            fill(folder, &unfinished, result, sync).and_then(|()| Ok(renameat(folder, &unfinished, folder, name)?));
        if let Err(error) = finished {
            // What cannot be removed now is removed by the next run.
            let _removed = unlinkat(folder, &unfinished, AtFlags::empty());
            // It may have been replaced by another of this name.
            self.last = None;
            return Err(error);
        }
        if sync { folder.sync_all() } else { Ok(()) }
    }

    fn open_folder(&mut self, path: &Path) -> io::Result<&File> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let whole = self.folder.join(path);
            fs::create_dir_all(&whole)?;
            self.last = Some((path.to_owned(), File::open(&whole)?));
        }
        self.last.as_ref().map(|(_, folder)| folder).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

fn fill(folder: &File, name: &str, result: &Payload, sync: bool) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::from_raw_mode(0o666))?);
    result.chunks().try_for_each(|chunk| file.write_all(chunk))?;
    if sync { file.sync_all() } else { Ok(()) }
}

fn explain(error: &io::Error) -> WriteError {
    let hopeless =
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem);
    WriteError { why: error.to_string(), hopeless }
}
