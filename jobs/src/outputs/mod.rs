//! Writes outputs, on threads of their own: each to a file with another name in the same folder, which gets the
//! output's name when it is whole. So an output exists whole or not at all, and never replaces another.

pub mod prune;
pub(crate) mod rename;
mod unfinished;

pub(crate) use unfinished::is_unfinished;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files,
};
use distwasm_proto::{ids::UnitNo, limits::ENTRIES_SEARCHED_MAX};
use distwasm_transport::payload::Payload;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use tokio::sync::mpsc;

use crate::{descriptors::when_there_are, inputs::Input, king_link::Room, work_queue::Taker};

use rename::rename_new;
use unfinished::unfinished_name;

/// Where outputs are written.
#[derive(Clone, Debug)]
pub enum OutputPlace {
    /// Below this folder, in whose path there are no links.
    Folder(PathBuf),
    /// To stdout: there is one input.
    Stdout,
}

/// An output that is to be written.
#[derive(Debug)]
pub struct Output {
    /// Whose result it is.
    pub unit: UnitNo,
    /// The input that it comes from.
    pub input: Input,
    /// Its content.
    pub result: Payload,
    /// The room that the result takes while it is unwritten.
    pub room: Room,
}

/// How writing an output went.
#[derive(Debug)]
pub struct Written {
    /// Whose result it is.
    pub unit: UnitNo,
    /// The path of the input that it comes from, below the input folder.
    pub path: PathBuf,
    /// Its size, or why it was not written.
    pub outcome: Result<u64, WriteError>,
}

/// Why an output was not written.
#[derive(Debug)]
pub struct WriteError {
    /// The reason, in words.
    pub why: String,
    /// No other output can be written either: the disk is full, for example.
    pub hopeless: bool,
}

/// Makes the names of unfinished outputs differ between the threads of one process.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

/// Outputs that a thread takes at once.
const BATCH: usize = 64;

/// Works until there are no more outputs, or the receiver of `written` is gone.
pub(crate) fn write(place: &OutputPlace, sync: bool, outputs: &Taker<Output>, written: &mpsc::Sender<Vec<Written>>) {
    let mut writer = match place {
        OutputPlace::Folder(folder) => Some(Writer { folder, sync, pid: std::process::id(), last: None }),
        OutputPlace::Stdout => None,
    };
    while let Some(outputs) = outputs.take(BATCH) {
        let mut done = Vec::with_capacity(outputs.len());
        for Output { unit, input, result, room } in outputs {
            let outcome = match &mut writer {
                Some(writer) => writer.put(&input, &result).map_err(|error| writer.explain(input.output(), &error)),
                None => files::write_stdout_chunks(result.chunks()).map_err(|error| WriteError {
                    why: format!("it cannot be written to stdout: {error}"),
                    hopeless: true,
                }),
            };
            drop(room);
            done.push(Written { unit, path: input.path, outcome: outcome.map(|()| result.bytes()) });
        }
        if written.blocking_send(done).is_err() {
            return;
        }
    }
}

/// Puts outputs in their places, for one thread.
struct Writer<'a> {
    /// The output folder, without links in its path.
    folder: &'a Path,
    sync: bool,
    pid: u32,
    /// The folder into which it wrote last, and its path below the output folder.
    last: Option<(PathBuf, File)>,
}

impl Writer<'_> {
    fn put(&mut self, input: &Input, result: &Payload) -> io::Result<()> {
        let path = input.output();
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let sync = self.sync;
        let unfinished = unfinished_name(self.pid, UNFINISHED.fetch_add(1, Ordering::Relaxed));
        let opened = when_there_are(|| self.open_folder(path.parent().unwrap_or(Path::new(""))))?;
        let (_, folder) = &opened;
        let placed = fill(folder, &unfinished, result, sync).and_then(|()| match input.replaces() {
            true => Ok(renameat(folder, &unfinished, folder, name)?),
            false => rename_new(folder, unfinished.as_ref(), folder, name),
        });
        if let Err(error) = placed {
            // If it cannot be removed now, the next run removes it.
            let _removed = unlinkat(folder, &unfinished, AtFlags::empty());
            return Err(error);
        }
        if sync && let Err(error) = folder.sync_all() {
            // The next run must not take a name that may be lost for done. The error of the sync is the one to report.
            // Where an earlier output was, one of the two is there whatever happens.
            let _removed = (!input.replaces()).then(|| unlinkat(folder, name, AtFlags::empty()));
            return Err(error);
        }
        // After a failure the folder is opened again: it may have been replaced by another of this name.
        self.last = Some(opened);
        Ok(())
    }

    /// Opens the folder of an output; reuses the last one, because outputs often share a folder.
    fn open_folder(&mut self, path: &Path) -> io::Result<(PathBuf, File)> {
        match self.last.take() {
            Some(last) if last.0 == path => Ok(last),
            _ => {
                let whole = File::open(self.folder).or_else(|error| match error.kind() {
                    ErrorKind::NotFound => fs::create_dir_all(self.folder).and_then(|()| File::open(self.folder)),
                    _ => Err(error),
                })?;
                let folder = beneath::open_folder(whole, path, Links::Own, Missing::Made)?;
                Ok((path.to_owned(), folder))
            }
        }
    }

    fn explain(&self, path: &Path, error: &io::Error) -> WriteError {
        let hopeless =
            matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem);
        let is_taken = error.kind() == ErrorKind::AlreadyExists;
        let why = if is_taken { taken(self.folder, path) } else { error.to_string() };
        WriteError { why, hopeless }
    }
}

fn fill(folder: &File, name: &str, result: &Payload, sync: bool) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let open = || Ok(openat(folder, name, flags, Mode::from_raw_mode(0o666))?);
    let mut file = File::from(when_there_are(open)?);
    result.chunks().try_for_each(|chunk| file.write_all(chunk))?;
    if sync {
        file.sync_all()?;
    }
    // With quotas and network file systems, only closing the file tells whether its bytes are kept.
    files::close(file)
}

/// Why an output was not written: its name is taken.
fn taken(folder: &Path, path: &Path) -> String {
    let there = real_name(folder, path);
    let other = match &there {
        Some(there) if there != path => format!(" as {}", there.display()),
        _ => String::new(),
    };
    format!(
        "its output {} is there already{other}, and was not written for this input; it is left as it is",
        path.display()
    )
}

/// The name under which an output exists: another one if a folder is a link, or if the file system does not
/// distinguish `A` from `a`.
fn real_name(folder: &Path, path: &Path) -> Option<PathBuf> {
    let whole = folder.join(path);
    let parent = fs::canonicalize(whole.parent()?).ok()?;
    let found = fs::symlink_metadata(&whole).ok()?;
    let entries = fs::read_dir(&parent).ok()?.take(ENTRIES_SEARCHED_MAX).flatten();
    let names: Vec<_> = entries.filter(|entry| entry.ino() == found.ino()).map(|entry| entry.file_name()).collect();
    let wanted = path.file_name()?;
    // If the file has several names, the wanted one is preferred.
    let name = names.iter().find(|name| *name == wanted).or(names.first()).map_or(wanted, OsStr::new);
    let real = parent.join(name);
    Some(real.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(real))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::inputs::Reason;

    fn put(folder: &Path, path: &str, text: &str) -> Result<(), WriteError> {
        let mut writer = Writer { folder, sync: true, pid: 1, last: None };
        let input = Input::new(path, 0);
        let result = Payload::from(text.as_bytes().to_vec());
        writer.put(&input, &result).map_err(|error| writer.explain(input.output(), &error))
    }

    #[test]
    fn an_output_takes_the_place_of_an_earlier_one_if_that_is_wanted() {
        let place = tempfile::tempdir().unwrap();
        put(place.path(), "x", "old").unwrap();
        let mut writer = Writer { folder: place.path(), sync: true, pid: 1, last: None };
        let input = Input { output: Some(Path::new("x").into()), reason: Reason::Forced, ..Input::new("y", 0) };
        writer.put(&input, &Payload::from(b"new".to_vec())).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("x")).unwrap(), "new");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_output_never_takes_the_place_of_another() {
        let place = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(place.path()).unwrap();
        put(&folder, "x/a", "one").unwrap();
        symlink("x", folder.join("y")).unwrap();
        let error = put(&folder, "y/a", "two").unwrap_err();
        assert!(error.why.contains("y/a is there already as x/a") && !error.hopeless, "{}", error.why);
        let error = put(&folder, "x/a", "three").unwrap_err();
        assert!(error.why.contains("x/a is there already, and"), "{}", error.why);
        assert_eq!(fs::read_to_string(folder.join("x/a")).unwrap(), "one");
        assert_eq!(fs::read_dir(folder.join("x")).unwrap().count(), 1, "nothing unfinished is left");
        put(&folder, "y/b", "four").unwrap();
        assert_eq!(fs::read_to_string(folder.join("x/b")).unwrap(), "four");
    }

    #[test]
    fn an_output_does_not_go_where_the_link_of_another_user_leads() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a link to another user");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("victim")).unwrap();
        fs::create_dir_all(place.path().join("out")).unwrap();
        symlink("../victim", place.path().join("out/x")).unwrap();
        std::os::unix::fs::lchown(place.path().join("out/x"), Some(4711), None).unwrap();
        for path in ["x/a", "x/deep/a"] {
            let error = put(&place.path().join("out"), path, "one").unwrap_err();
            assert!(error.why.contains("x is a link that belongs to another user (uid 4711)"), "{}", error.why);
        }
        assert_eq!(fs::read_dir(place.path().join("victim")).unwrap().count(), 0);
    }
}
