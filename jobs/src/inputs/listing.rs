//! Lists the input folder, on a thread of its own, and reports inputs folder by folder.
//!
//! Only one folder at a time is in memory, however many inputs there are: the lister waits while the reactor does not
//! take its findings (back-pressure).

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fs::{self, FileType},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use distwasm_proto::failure::{Failure, FailureKind};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::{
    BATCH, Finding, Input,
    places::Places,
    plan::{self, ChangedAt, Kind},
};
use crate::descriptors::when_there_are;

impl Finding {
    fn bad_input(path: PathBuf, why: impl Into<String>) -> Finding {
        Finding::Unusable { path, failure: Failure::new(FailureKind::Input, why) }
    }

    fn bad_output(path: PathBuf, why: impl Into<String>) -> Finding {
        Finding::Unusable { path, failure: Failure::new(FailureKind::Output, why) }
    }
}

/// Why an input cannot have an output.
const BLOCKED: &str = "its output cannot be written: something that is not a file has that name";

/// Goes through all folders below `input`, in the order of their names, or through these inputs only, in their order.
/// Ends early when the receiver is gone.
pub fn list(input: &Path, output: &Path, only: Option<&[PathBuf]>, found: &mpsc::Sender<Finding>) {
    // `None` says that the receiver is gone: nothing is left to do then.
    let _end = match only {
        None => list_below(&mut Places::new(input, output), PathBuf::new(), found),
        Some(names) => list_named(input, output, names, found),
    };
}

/// Goes through named inputs. A folder among them could not be read in an earlier run; all inputs below it are listed.
fn list_named(input: &Path, output: &Path, names: &[PathBuf], found: &mpsc::Sender<Finding>) -> Option<()> {
    let mut folders: HashSet<&Path> = HashSet::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut places = Places::new(input, output);
    for name in names {
        if name.ancestors().skip(1).any(|folder| folders.contains(folder)) {
            continue;
        }
        let outcome = match fs::metadata(input.join(name)) {
            Ok(metadata) if metadata.is_dir() => {
                folders.insert(name);
                list_below(&mut places, name.clone(), found)?;
                continue;
            }
            Ok(metadata) if metadata.is_file() => {
                let target = output.join(name);
                let collision = places.collision(name.parent().unwrap_or(Path::new("")));
                let written = fs::metadata(&target).ok().filter(fs::Metadata::is_file);
                if let Some(why) = collision {
                    Finding::bad_output(name.clone(), why)
                } else if let Some(written) = written {
                    let newer = u64::from(changed_at(&metadata) > changed_at(&written));
                    Finding::Done { count: 1, newer }
                } else if target.symlink_metadata().is_ok() {
                    Finding::bad_output(name.clone(), BLOCKED)
                } else {
                    batch.push(Input { path: name.clone(), bytes: metadata.len() });
                    if batch.len() == BATCH {
                        found.blocking_send(Finding::Inputs(std::mem::take(&mut batch))).ok()?;
                    }
                    continue;
                }
            }
            Err(error) if !leads_nowhere(&error) => Finding::bad_input(name.clone(), unseen(error.kind())),
            Ok(_) | Err(_) => Finding::Gone,
        };
        found.blocking_send(outcome).ok()?;
    }
    if batch.is_empty() { Some(()) } else { found.blocking_send(Finding::Inputs(batch)).ok() }
}

fn list_below(places: &mut Places<'_>, folder: PathBuf, found: &mpsc::Sender<Finding>) -> Option<()> {
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        let deeper = list_folder(places, &folder, found)?;
        // The last pushed comes next: keep the order of names.
        folders.extend(deeper.into_iter().rev().map(|name| folder.join(name)));
    }
    Some(())
}

/// Reports the inputs in one folder, and returns the folders in it; `None` when the receiver is gone.
fn list_folder(places: &mut Places<'_>, folder: &Path, found: &mpsc::Sender<Finding>) -> Option<Vec<OsString>> {
    let say = |what| found.blocking_send(what).ok();
    let (input, output) = (places.input, places.output);
    let inputs = match read_folder(&input.join(folder)) {
        Ok(inputs) => inputs,
        Err(error) => {
            say(Finding::bad_input(folder.to_owned(), format!("the folder cannot be read: {error}")))?;
            return Some(Vec::new());
        }
    };
    if let Some(why) = places.collision(folder) {
        say(Finding::bad_output(folder.to_owned(), why))?;
        return Some(Vec::new());
    }
    let outputs = match read_folder(&output.join(folder)) {
        Ok(outputs) => outputs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            say(Finding::bad_output(folder.to_owned(), format!("the folder for its outputs cannot be read: {error}")))?;
            return Some(Vec::new());
        }
    };
    let plan = plan::plan(inputs, &outputs);
    for leftover in plan.leftovers {
        let path = output.join(folder).join(leftover);
        // It does no harm; a later run may succeed.
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an unfinished output of an earlier run cannot be removed");
        }
    }
    for (name, why) in plan.skipped {
        say(Finding::Skipped { path: folder.join(name), why: why.to_owned() })?;
    }
    for (name, kind) in plan.unseen {
        say(Finding::bad_input(folder.join(name), unseen(kind)))?;
    }
    for name in plan.blocked {
        say(Finding::bad_output(folder.join(name), BLOCKED))?;
    }
    if plan.done > 0 {
        say(Finding::Done { count: plan.done, newer: plan.newer })?;
    }
    for batch in plan.inputs.chunks(BATCH) {
        let batch = batch.iter().map(|(name, bytes)| Input { path: folder.join(name), bytes: *bytes });
        say(Finding::Inputs(batch.collect()))?;
    }
    Some(plan.folders)
}

fn read_folder(path: &Path) -> io::Result<BTreeMap<OsString, Kind>> {
    let mut entries = BTreeMap::new();
    for entry in when_there_are(|| fs::read_dir(path))? {
        let entry = entry?;
        let kind = kind(&entry).unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Kind::Other("no longer there"),
            kind => Kind::Unseen(kind),
        });
        entries.insert(entry.file_name(), kind);
    }
    Ok(entries)
}

fn kind(entry: &fs::DirEntry) -> io::Result<Kind> {
    let file_type = entry.file_type()?;
    if file_type.is_file() {
        return Ok(file(&entry.metadata()?));
    }
    if file_type.is_dir() {
        return Ok(Kind::Folder);
    }
    if !file_type.is_symlink() {
        return Ok(Kind::Other(name_of(file_type)));
    }
    match fs::metadata(entry.path()) {
        Ok(target) if target.is_file() => Ok(file(&target)),
        Ok(target) if target.is_dir() => Ok(Kind::Other("a link to a folder")),
        Ok(_) => Ok(Kind::Other("a link to something that is not a file")),
        Err(error) if leads_nowhere(&error) => Ok(Kind::Other("a link to nothing")),
        Err(error) => Err(error),
    }
}

fn file(metadata: &fs::Metadata) -> Kind {
    Kind::File(metadata.len(), changed_at(metadata))
}

fn changed_at(metadata: &fs::Metadata) -> ChangedAt {
    (metadata.mtime(), metadata.mtime_nsec())
}

/// Whether there is nothing at a path, or at the end of its links.
fn leads_nowhere(error: &io::Error) -> bool {
    let is_loop = Errno::from_io_error(error) == Some(Errno::LOOP);
    is_loop || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unseen(why: io::ErrorKind) -> String {
    format!("it cannot be looked at: {why}")
}

fn name_of(file_type: FileType) -> &'static str {
    if file_type.is_fifo() {
        "a named pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_block_device() || file_type.is_char_device() {
        "a device"
    } else {
        "not a file"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_entry_that_cannot_be_examined_is_a_failed_input() {
        let folder = tempfile::tempdir().unwrap();
        // Such a link cannot be followed, not even by root.
        symlink("x".repeat(300), folder.path().join("hidden")).unwrap();
        symlink("nowhere", folder.path().join("lost")).unwrap();
        symlink("round", folder.path().join("round")).unwrap();
        for only in [None, Some(["hidden", "lost", "round"].map(PathBuf::from))] {
            let (sender, mut found) = mpsc::channel(10);
            list(folder.path(), &folder.path().join("nowhere"), only.as_ref().map(<[PathBuf; 3]>::as_slice), &sender);
            drop(sender);
            let (mut unusable, mut others) = (Vec::new(), 0);
            while let Ok(found) = found.try_recv() {
                match found {
                    Finding::Unusable { path, .. } => unusable.push(path),
                    Finding::Skipped { .. } | Finding::Gone => others += 1,
                    Finding::Inputs(_) | Finding::Done { .. } => panic!("{found:?}"),
                }
            }
            assert_eq!((unusable, others), (vec![PathBuf::from("hidden")], 2), "{only:?}");
        }
    }
}
