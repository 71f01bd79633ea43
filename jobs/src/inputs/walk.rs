//! Goes through the files of a run: those below the input folder that pass the filters, in the order of their names, or
//! those that were named, in their order. Only one folder at a time is in memory.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, FileType},
    io,
    ops::ControlFlow,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use distwasm_process::{beneath, unfinished::OWN_FOLDER};
use rustix::io::Errno;

use super::{EntryKind, InputFolder, Names};
use crate::{
    descriptors::when_there_are,
    file_time::FileTime,
    selection::{FolderMatch, LeftOutBy, Selection},
};

/// Takes what the walk comes by. An answer of `Break` ends the walk.
pub(super) trait WalkHandler {
    /// Whether sizes and times of files are wanted. Without them a walk is faster.
    const WANTS_METADATA: bool;

    /// A folder, before the files in it; returns whether to go through it.
    fn enter(&mut self, _folder: &Path) -> ControlFlow<(), bool> {
        ControlFlow::Continue(true)
    }

    /// The end of a folder.
    fn leave(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A folder cannot be read.
    fn unreadable(&mut self, folder: &Path, error: &io::Error) -> ControlFlow<()>;

    /// Something that is not an input.
    fn skipped(&mut self, _path: &Path, _why: &'static str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Something that was named is not there, or not a file.
    fn missing(&mut self, _path: &Path, _why: &'static str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A file, or a folder as a whole, that the filters leave out.
    fn left_out(&mut self, _by: LeftOutBy) {}

    /// An input: a file, or something that cannot be examined. `number` counts them from 1.
    fn input(&mut self, path: &Path, kind: EntryKind, number: u64) -> ControlFlow<()>;
}

/// Walks. `Break` says that the handler, or the limit, has ended the walk.
pub(super) fn walk(
    input: &InputFolder,
    names: &Names,
    selection: &Selection,
    handler: &mut impl WalkHandler,
) -> ControlFlow<()> {
    let mut walker = Walker { input, selection, handler, number: 0 };
    match names {
        Names::All => walker.below(PathBuf::new()),
        Names::Failed(names) => walker.failed(names),
        Names::Listed(names) => walker.listed(names),
        Names::Stdin(file) => walker.stdin(file),
    }
}

/// The name of the unit whose input comes from stdin.
pub const STDIN: &str = "stdin";

const FOLDER: &str = "a folder, and a list names files";
const LEADS_OUT: &str = "a link that leads out of the input folder (--follow-links follows it)";
const NOT_THERE: &str = "not there";

struct Walker<'a, H> {
    input: &'a InputFolder,
    selection: &'a Selection,
    handler: &'a mut H,
    /// How many inputs there were.
    number: u64,
}

impl<H: WalkHandler> Walker<'_, H> {
    /// The failures of earlier runs. A folder among them could not be read then; all inputs below it are wanted.
    fn failed(&mut self, names: &[PathBuf]) -> ControlFlow<()> {
        let mut folders: HashSet<&Path> = HashSet::new();
        for name in names {
            if name.ancestors().skip(1).any(|folder| folders.contains(folder)) {
                continue;
            }
            match self.examine(name) {
                Ok(EntryKind::Folder) => {
                    folders.insert(name);
                    self.below(name.clone())?;
                }
                Ok(kind @ (EntryKind::File { .. } | EntryKind::Unseen(_))) => self.file_of(name, kind)?,
                Ok(EntryKind::Other(why)) | Err(why) => self.handler.missing(name, why)?,
            }
        }
        ControlFlow::Continue(())
    }

    /// The inputs in a list of the user.
    fn listed(&mut self, names: &[PathBuf]) -> ControlFlow<()> {
        names.iter().try_for_each(|name| match self.examine(name) {
            Ok(kind @ (EntryKind::File { .. } | EntryKind::Unseen(_))) => self.file_of(name, kind),
            Ok(EntryKind::Folder) => self.handler.skipped(name, FOLDER),
            Ok(EntryKind::Other(why)) | Err(why) => {
                self.number += 1;
                self.handler.missing(name, why)?;
                self.go_on()
            }
        })
    }

    fn stdin(&mut self, file: &Path) -> ControlFlow<()> {
        let kind =
            fs::metadata(file).map_or_else(|error| EntryKind::Unseen(error.kind()), |found| kind_of_file(&found));
        self.file(FolderMatch::default(), Path::new(STDIN), kind)
    }

    /// The kind of what has this name, or that there is nothing.
    fn examine(&self, name: &Path) -> Result<EntryKind, &'static str> {
        match self.input.look(name) {
            Ok(found) if found.is_file() => Ok(kind_of_file(&found)),
            Ok(found) if found.is_dir() => Ok(EntryKind::Folder),
            Ok(found) => Ok(EntryKind::Other(name_of(found.file_type()))),
            Err(error) if leads_nowhere(&error) => Err(NOT_THERE),
            Err(error) if beneath::leads_out(&error) => Ok(EntryKind::Other(LEADS_OUT)),
            Err(error) => Ok(EntryKind::Unseen(error.kind())),
        }
    }

    fn file_of(&mut self, name: &Path, kind: EntryKind) -> ControlFlow<()> {
        let folder = self.selection.globs.folder_by_path(name.parent().unwrap_or(Path::new("")));
        self.file(folder, name, kind)
    }

    /// All inputs below a folder.
    fn below(&mut self, folder: PathBuf) -> ControlFlow<()> {
        let matched = self.selection.globs.folder_by_path(&folder);
        let mut folders = vec![(folder, matched)];
        while let Some((folder, matched)) = folders.pop() {
            let deeper = self.folder(folder, matched)?;
            // The last pushed comes next: keep the order of names.
            folders.extend(deeper.into_iter().rev());
        }
        ControlFlow::Continue(())
    }

    /// The inputs in one folder; returns the folders in it.
    fn folder(&mut self, folder: PathBuf, matched: FolderMatch) -> ControlFlow<(), Vec<(PathBuf, FolderMatch)>> {
        let wants_metadata = H::WANTS_METADATA || self.selection.newer_than.is_some();
        let leads_out = |name: &OsStr| self.input.is_left_by(&folder.join(name));
        let opened = when_there_are(|| self.input.open_folder(&folder));
        let entries = match opened.and_then(|(path, _opened)| read_folder_with(&path, wants_metadata, leads_out)) {
            Ok(entries) => entries,
            Err(error) => {
                self.handler.unreadable(&folder, &error)?;
                return ControlFlow::Continue(Vec::new());
            }
        };
        if !self.handler.enter(&folder)? {
            return ControlFlow::Continue(Vec::new());
        }
        let is_top = folder.as_os_str().is_empty();
        let mut deeper = Vec::new();
        let mut path = folder;
        for (name, kind) in entries {
            if is_top && name == OWN_FOLDER && kind == EntryKind::Folder {
                // Outputs of a run may be inputs of the next.
                continue;
            }
            path.push(&name);
            match kind {
                EntryKind::Folder => {
                    let own = self.selection.globs.folder(matched, &path);
                    if self.selection.globs.prunes(own) {
                        self.handler.left_out(LeftOutBy::Folder);
                    } else {
                        deeper.push((path.clone(), own));
                    }
                }
                EntryKind::Other(why) => {
                    if self.selection.leaves_out(matched, &path, || None).is_none() {
                        self.handler.skipped(&path, why)?;
                    }
                }
                EntryKind::File { .. } | EntryKind::Unseen(_) => self.file(matched, &path, kind)?,
            }
            path.pop();
        }
        self.handler.leave()?;
        ControlFlow::Continue(deeper)
    }

    /// One file, unless the filters leave it out. Ends the walk at the limit.
    fn file(&mut self, folder: FolderMatch, path: &Path, kind: EntryKind) -> ControlFlow<()> {
        let changed = || if let EntryKind::File { changed, .. } = kind { Some(changed) } else { None };
        if let Some(by) = self.selection.leaves_out(folder, path, changed) {
            self.handler.left_out(by);
            return ControlFlow::Continue(());
        }
        self.number += 1;
        self.handler.input(path, kind, self.number)?;
        self.go_on()
    }

    /// Ends the walk at the limit.
    fn go_on(&self) -> ControlFlow<()> {
        if self.selection.limit == Some(self.number) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The entries of a folder, in the order of their names. Without metadata, files have neither sizes nor times.
pub(crate) fn read_folder(path: &Path, wants_metadata: bool) -> io::Result<Vec<(OsString, EntryKind)>> {
    read_folder_with(path, wants_metadata, |_| false)
}

/// As [`read_folder`]; a link to a file that leads out is not a file.
fn read_folder_with(
    path: &Path,
    wants_metadata: bool,
    leads_out: impl Fn(&OsStr) -> bool,
) -> io::Result<Vec<(OsString, EntryKind)>> {
    let mut entries = Vec::new();
    for entry in when_there_are(|| fs::read_dir(path))? {
        let entry = entry?;
        let kind = kind(&entry, wants_metadata, &leads_out).unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => EntryKind::Other("no longer there"),
            kind => EntryKind::Unseen(kind),
        });
        entries.push((entry.file_name(), kind));
    }
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

fn kind(entry: &fs::DirEntry, wants_metadata: bool, leads_out: impl Fn(&OsStr) -> bool) -> io::Result<EntryKind> {
    let file_type = entry.file_type()?;
    if file_type.is_file() {
        return if wants_metadata {
            Ok(kind_of_file(&entry.metadata()?))
        } else {
            Ok(EntryKind::File { bytes: 0, changed: FileTime::default() })
        };
    }
    if file_type.is_dir() {
        return Ok(EntryKind::Folder);
    }
    if !file_type.is_symlink() {
        return Ok(EntryKind::Other(name_of(file_type)));
    }
    match fs::metadata(entry.path()) {
        Ok(target) if target.is_file() && leads_out(&entry.file_name()) => Ok(EntryKind::Other(LEADS_OUT)),
        Ok(target) if target.is_file() => Ok(kind_of_file(&target)),
        Ok(target) if target.is_dir() => Ok(EntryKind::Other("a link to a folder")),
        Ok(_) => Ok(EntryKind::Other("a link to something that is not a file")),
        Err(error) if leads_nowhere(&error) => Ok(EntryKind::Other("a link to nothing")),
        Err(error) => Err(error),
    }
}

/// What has this path, if anything has; a link to a file counts as that file.
pub(super) fn kind_at(path: &Path) -> Option<EntryKind> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Some(kind_of_file(&found)),
        Ok(found) if found.is_dir() => Some(EntryKind::Folder),
        _ => path.symlink_metadata().ok().map(|found| EntryKind::Other(name_of(found.file_type()))),
    }
}

fn kind_of_file(metadata: &fs::Metadata) -> EntryKind {
    EntryKind::File { bytes: metadata.len(), changed: FileTime::of(metadata) }
}

/// Whether there is nothing at a path, or at the end of its links.
fn leads_nowhere(error: &io::Error) -> bool {
    let is_loop = Errno::from_io_error(error) == Some(Errno::LOOP);
    is_loop || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
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
