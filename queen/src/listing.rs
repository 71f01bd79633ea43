//! Looks through the input folder, on a thread of its own, and says what is to be done, folder by folder.
//!
//! Nothing but the folder at hand is held in memory: however many inputs there are, the lister waits when nobody takes
//! what it found.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, FileType},
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;

use crate::plan::{self, Kind};

/// An input that has no output yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its path below the input folder, and its output's below the output folder.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub bytes: u64,
}

/// What the lister found.
#[derive(Debug)]
pub enum Found {
    /// Inputs to send, at most [`BATCH`] at a time.
    Inputs(Vec<Input>),
    /// So many inputs are done already.
    Done(u64),
    /// Something that is no input; why, in words.
    Skipped { path: PathBuf, why: String },
    /// An input, or a folder of inputs, that cannot be worked on; why, in words.
    Unusable { path: PathBuf, why: String },
}

/// Inputs in one [`Found::Inputs`].
pub const BATCH: usize = 64;

/// Goes through all folders below `input`, in the order of their names. Ends early when nobody listens any more.
pub fn list(input: &Path, output: &Path, found: &mpsc::Sender<Found>) {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let Some(deeper) = list_folder(input, output, &folder, found) else { return };
        // The last pushed comes next: keep the order of names.
        folders.extend(deeper.into_iter().rev().map(|name| folder.join(name)));
    }
}

/// Says what is to be done in one folder, and gives the folders in it; `None` when nobody listens any more.
fn list_folder(input: &Path, output: &Path, folder: &Path, found: &mpsc::Sender<Found>) -> Option<Vec<OsString>> {
    let say = |what| found.blocking_send(what).ok();
    let inputs = match read_folder(&input.join(folder)) {
        Ok(inputs) => inputs,
        Err(error) => {
            let why = format!("the folder cannot be read: {error}");
            say(Found::Unusable { path: folder.to_owned(), why })?;
            return Some(Vec::new());
        }
    };
    let outputs = match read_folder(&output.join(folder)) {
        Ok(outputs) => outputs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            let why = format!("the folder for its outputs cannot be read: {error}");
            say(Found::Unusable { path: folder.to_owned(), why })?;
            return Some(Vec::new());
        }
    };
    let plan = plan::plan(inputs, &outputs);
    for leftover in plan.leftovers {
        let path = output.join(folder).join(leftover);
        // It is in nobody's way; a later run may succeed.
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an unfinished output of an earlier run cannot be removed");
        }
    }
    for (name, why) in plan.skipped {
        say(Found::Skipped { path: folder.join(name), why: why.to_owned() })?;
    }
    for name in plan.blocked {
        let why = "its output cannot be written: something that is no file has that name".to_owned();
        say(Found::Unusable { path: folder.join(name), why })?;
    }
    if plan.done > 0 {
        say(Found::Done(plan.done))?;
    }
    for batch in plan.inputs.chunks(BATCH) {
        let batch = batch.iter().map(|(name, bytes)| Input { path: folder.join(name), bytes: *bytes });
        say(Found::Inputs(batch.collect()))?;
    }
    Some(plan.folders)
}

fn read_folder(path: &Path) -> io::Result<BTreeMap<OsString, Kind>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = kind(&entry).unwrap_or(Kind::Other("it vanished, or cannot be looked at"));
        entries.insert(entry.file_name(), kind);
    }
    Ok(entries)
}

fn kind(entry: &fs::DirEntry) -> io::Result<Kind> {
    let file_type = entry.file_type()?;
    if file_type.is_file() {
        return Ok(Kind::File(entry.metadata()?.len()));
    }
    if file_type.is_dir() {
        return Ok(Kind::Folder);
    }
    if !file_type.is_symlink() {
        return Ok(Kind::Other(name_of(file_type)));
    }
    match fs::metadata(entry.path()) {
        Ok(target) if target.is_file() => Ok(Kind::File(target.len())),
        Ok(target) if target.is_dir() => Ok(Kind::Other("a link to a folder")),
        Ok(_) => Ok(Kind::Other("a link to something that is no file")),
        Err(_) => Ok(Kind::Other("a link to nothing that can be reached")),
    }
}

fn name_of(file_type: FileType) -> &'static str {
    if file_type.is_fifo() {
        "a named pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_block_device() || file_type.is_char_device() {
        "a device"
    } else {
        "no file"
    }
}
