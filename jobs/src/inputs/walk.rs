//! Goes through the files of a run: those below the input folder that pass the filters, in the order of their names, or
//! those that were named, in their order. Only one folder at a time is in memory.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, FileType},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use distwasm_process::beneath;
use rustix::io::Errno;

use super::{InputFolder, Listing, Names, decision::Kind};
use crate::{
    descriptors::when_there_are,
    history::RECORD_FOLDER,
    selection::{ChangedAt, Inherited, LeftOutBy, Selection},
};

/// What the walk comes by. Each answer is `None` when the walk is to end.
pub(super) trait Visitor {
    /// Whether sizes and times of files are wanted. Without them a walk is faster.
    const LOOKS: bool;

    /// A folder, before the files in it; returns whether to look into it.
    fn enter(&mut self, folder: &Path) -> Option<bool>;
    /// A folder has been looked through.
    fn leave(&mut self) -> Option<()>;
    /// A folder cannot be read.
    fn unreadable(&mut self, folder: &Path, error: &io::Error) -> Option<()>;
    /// Something that is not an input.
    fn skipped(&mut self, path: &Path, why: &'static str) -> Option<()>;
    /// Something that was named is not there, or not a file.
    fn missing(&mut self, path: &Path, why: &'static str) -> Option<()>;
    /// A file, or a folder as a whole, that the filters leave out.
    fn left_out(&mut self, by: Option<LeftOutBy>);
    /// An input: a file, or something that cannot be examined. `number` counts them from 1.
    fn input(&mut self, path: &Path, kind: Kind, number: u64) -> Option<()>;
}

/// Walks. `None` says that the visitor, or the limit, has ended the walk.
pub(super) fn walk(input: &Path, listing: &Listing, visitor: &mut impl Visitor) -> Option<()> {
    let input = InputFolder::new(input, listing.follows_links);
    let mut walker = Walker { input, selection: &listing.selection, visitor, number: 0 };
    match &listing.names {
        Names::All => walker.below(PathBuf::new()),
        Names::Failed(names) => walker.failed(names),
        Names::Listed(names) => walker.listed(names),
        Names::Stdin(file) => walker.stdin(file),
    }
}

/// The name of the unit whose input comes from stdin.
const STDIN: &str = "stdin";

const FOLDER: &str = "a folder, and a list names files";
const LEADS_OUT: &str = "a link that leads out of the input folder (--follow-links follows it)";
const NOT_THERE: &str = "not there";

struct Walker<'a, V> {
    input: InputFolder,
    selection: &'a Selection,
    visitor: &'a mut V,
    /// How many inputs there were.
    number: u64,
}

impl<V: Visitor> Walker<'_, V> {
    /// The failures of earlier runs. A folder among them could not be read then; all inputs below it are wanted.
    fn failed(&mut self, names: &[PathBuf]) -> Option<()> {
        let mut folders: HashSet<&Path> = HashSet::new();
        for name in names {
            if name.ancestors().skip(1).any(|folder| folders.contains(folder)) {
                continue;
            }
            match self.look(name) {
                Ok(Kind::Folder) => {
                    folders.insert(name);
                    self.below(name.clone())?;
                }
                Ok(kind @ (Kind::File(..) | Kind::Unseen(_))) => self.file_of(name, kind)?,
                Ok(Kind::Other(why)) | Err(why) => self.visitor.missing(name, why)?,
            }
        }
        Some(())
    }

    /// The inputs in a list of the user.
    fn listed(&mut self, names: &[PathBuf]) -> Option<()> {
        names.iter().try_for_each(|name| match self.look(name) {
            Ok(kind @ (Kind::File(..) | Kind::Unseen(_))) => self.file_of(name, kind),
            Ok(Kind::Folder) => self.visitor.skipped(name, FOLDER),
            Ok(Kind::Other(why)) | Err(why) => self.visitor.missing(name, why),
        })
    }

    fn stdin(&mut self, file: &Path) -> Option<()> {
        let kind = fs::metadata(file).map_or_else(|error| Kind::Unseen(error.kind()), |found| kind_of_file(&found));
        self.file(Inherited::default(), Path::new(STDIN), kind)
    }

    /// The kind of what has this name, or that there is nothing.
    fn look(&self, name: &Path) -> Result<Kind, &'static str> {
        match self.input.look(name) {
            Ok(found) if found.is_file() => Ok(kind_of_file(&found)),
            Ok(found) if found.is_dir() => Ok(Kind::Folder),
            Ok(found) => Ok(Kind::Other(name_of(found.file_type()))),
            Err(error) if leads_nowhere(&error) => Err(NOT_THERE),
            Err(error) if beneath::leads_out(&error) => Ok(Kind::Other(LEADS_OUT)),
            Err(error) => Ok(Kind::Unseen(error.kind())),
        }
    }

    fn file_of(&mut self, name: &Path, kind: Kind) -> Option<()> {
        let folder = self.selection.globs.folder_by_path(name.parent().unwrap_or(Path::new("")));
        self.file(folder, name, kind)
    }

    /// All inputs below a folder.
    fn below(&mut self, folder: PathBuf) -> Option<()> {
        let inherited = self.selection.globs.folder_by_path(&folder);
        let mut folders = vec![(folder, inherited)];
        while let Some((folder, inherited)) = folders.pop() {
            let deeper = self.folder(folder, inherited)?;
            // The last pushed comes next: keep the order of names.
            folders.extend(deeper.into_iter().rev());
        }
        Some(())
    }

    /// The inputs in one folder; returns the folders in it.
    fn folder(&mut self, folder: PathBuf, inherited: Inherited) -> Option<Vec<(PathBuf, Inherited)>> {
        let looks = V::LOOKS || self.selection.newer_than.is_some();
        let leads_out = |name: &OsStr| self.input.is_left_by(&folder.join(name));
        let opened = when_there_are(|| self.input.open_folder(&folder));
        let entries = match opened.and_then(|(path, _opened)| read_folder_with(&path, looks, leads_out)) {
            Ok(entries) => entries,
            Err(error) => return self.visitor.unreadable(&folder, &error).map(|()| Vec::new()),
        };
        if !self.visitor.enter(&folder)? {
            return Some(Vec::new());
        }
        let is_top = folder.as_os_str().is_empty();
        let mut deeper = Vec::new();
        let mut path = folder;
        for (name, kind) in entries {
            if is_top && name == RECORD_FOLDER {
                // Outputs of a run may be inputs of the next.
                continue;
            }
            path.push(&name);
            match kind {
                Kind::Folder => {
                    let own = self.selection.globs.folder(inherited, &path);
                    if self.selection.globs.prunes(own) {
                        self.visitor.left_out(None);
                    } else {
                        deeper.push((path.clone(), own));
                    }
                }
                Kind::Other(why) => {
                    if self.selection.leaves_out(inherited, &path, || None).is_none() {
                        self.visitor.skipped(&path, why)?;
                    }
                }
                Kind::File(..) | Kind::Unseen(_) => self.file(inherited, &path, kind)?,
            }
            path.pop();
        }
        self.visitor.leave()?;
        Some(deeper)
    }

    /// One file, unless the filters leave it out. Ends the walk at the limit.
    fn file(&mut self, folder: Inherited, path: &Path, kind: Kind) -> Option<()> {
        let changed = || if let Kind::File(_, changed) = kind { Some(changed) } else { None };
        if let Some(by) = self.selection.leaves_out(folder, path, changed) {
            self.visitor.left_out(Some(by));
            return Some(());
        }
        if self.selection.limit.is_some_and(|limit| self.number >= limit) {
            return None;
        }
        self.number += 1;
        self.visitor.input(path, kind, self.number)
    }
}

/// The entries of a folder, in the order of their names. Without `looks`, files have neither sizes nor times.
pub(crate) fn read_folder(path: &Path, looks: bool) -> io::Result<Vec<(OsString, Kind)>> {
    read_folder_with(path, looks, |_| false)
}

/// As [`read_folder`]; a link to a file that leads out is not a file.
fn read_folder_with(path: &Path, looks: bool, leads_out: impl Fn(&OsStr) -> bool) -> io::Result<Vec<(OsString, Kind)>> {
    let mut entries = Vec::new();
    for entry in when_there_are(|| fs::read_dir(path))? {
        let entry = entry?;
        let kind = kind(&entry, looks, &leads_out).unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Kind::Other("no longer there"),
            kind => Kind::Unseen(kind),
        });
        entries.push((entry.file_name(), kind));
    }
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

fn kind(entry: &fs::DirEntry, looks: bool, leads_out: impl Fn(&OsStr) -> bool) -> io::Result<Kind> {
    let file_type = entry.file_type()?;
    if file_type.is_file() {
        return if looks { Ok(kind_of_file(&entry.metadata()?)) } else { Ok(Kind::File(0, (0, 0))) };
    }
    if file_type.is_dir() {
        return Ok(Kind::Folder);
    }
    if !file_type.is_symlink() {
        return Ok(Kind::Other(name_of(file_type)));
    }
    match fs::metadata(entry.path()) {
        Ok(target) if target.is_file() && leads_out(&entry.file_name()) => Ok(Kind::Other(LEADS_OUT)),
        Ok(target) if target.is_file() => Ok(kind_of_file(&target)),
        Ok(target) if target.is_dir() => Ok(Kind::Other("a link to a folder")),
        Ok(_) => Ok(Kind::Other("a link to something that is not a file")),
        Err(error) if leads_nowhere(&error) => Ok(Kind::Other("a link to nothing")),
        Err(error) => Err(error),
    }
}

/// What has this path, if anything has; a link to a file counts as that file.
pub(super) fn kind_at(path: &Path) -> Option<Kind> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Some(kind_of_file(&found)),
        Ok(found) if found.is_dir() => Some(Kind::Folder),
        _ => path.symlink_metadata().ok().map(|found| Kind::Other(name_of(found.file_type()))),
    }
}

fn kind_of_file(metadata: &fs::Metadata) -> Kind {
    Kind::File(metadata.len(), changed_at(metadata))
}

/// When a file was changed last.
pub fn changed_at(metadata: &fs::Metadata) -> ChangedAt {
    (metadata.mtime(), metadata.mtime_nsec())
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
