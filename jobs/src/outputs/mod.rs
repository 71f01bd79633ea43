//! Writes outputs, on threads of their own: each to a file that has no name, or another one in the same folder, and gets
//! the output's name when it is whole. So an output exists whole or not at all, and never replaces another. An output may
//! be a folder, too, which is whole in the same way.

mod growing;
pub(crate) mod marks;
mod orders;
pub mod prune;
pub mod rename;
mod taking;
mod unpacking;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files, nameless,
    unfinished::{OWN_FOLDER, is_unfinished, open_own_folder, unfinished_name},
};
use distwasm_proto::{failure::FailureKind, ids::UnitNo, limits::ENTRIES_SEARCHED_MAX};
use distwasm_transport::payload::Payload;
use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};
use tokio::sync::mpsc;

use crate::{descriptors::when_there_are, inputs::Input, king_link::Room, request::InPlaces, work_queue::Taker};

use marks::Mark;
use orders::{nothing_stored, show, store, unshown};
use rename::rename_new;
use unpacking::Unpacked;

pub use growing::{Parts, ResultFile};
pub use orders::{Arrived, Stored, WriteOrder};

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
    pub result: Arrived,
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

/// How outputs are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    /// Whether fsync is called for each output before it counts as done.
    pub(crate) sync: bool,
    /// For which inputs the results lie in the output folder already, where dukes have written them: such a result is the
    /// name of a file.
    pub(crate) in_places: InPlaces,
    /// Whether results are archives of folders, and outputs these folders.
    pub(crate) in_folders: bool,
}

/// To look at a file that others could have put there.
const READ: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The permissions of an output, as far as the user's mask allows.
const EVERYBODY: Mode = Mode::from_raw_mode(0o666);

/// Outputs that a thread takes at once.
const BATCH: usize = 64;

/// Works until there are no more outputs, or the receiver of `written` is gone.
pub(crate) fn write(
    place: &OutputPlace,
    writing: Writing,
    orders: &Taker<WriteOrder>,
    written: &mpsc::Sender<Vec<Written>>,
    stored: &mpsc::Sender<Stored>,
) {
    let mut writer = match place {
        OutputPlace::Folder(folder) => Some(Writer::new(folder, writing)),
        OutputPlace::Stdout => None,
    };
    while let Some(orders) = orders.take(BATCH) {
        let mut done = Vec::with_capacity(orders.len());
        for order in orders {
            let Output { unit, input, result, room } = match order {
                WriteOrder::Output(output) => output,
                WriteOrder::Parts(input, parts) => {
                    // The run may be over.
                    let _sent = stored.blocking_send(store(writer.as_mut(), &input, parts));
                    continue;
                }
            };
            let outcome = match (&mut writer, result) {
                (_, Arrived::Lost(why)) => Err(why),
                (Some(writer), result) => {
                    writer.put(&input, &result).map_err(|error| writer.explain(input.output(), &error))
                }
                (None, result) => show(&result).map_err(|error| unshown(&error)),
            };
            drop(room);
            done.push(Written { unit, path: input.path, outcome });
        }
        if !done.is_empty() && written.blocking_send(done).is_err() {
            return;
        }
    }
}

/// Removes what dukes have written for runs that are over, as far as that is possible.
pub fn sweep(output: &Path) {
    let swept = File::open(output).and_then(|output| open_own_folder(output, Missing::Made)).and_then(|own| {
        for entry in fs::read_dir(output.join(OWN_FOLDER))?.flatten().filter(|entry| is_unfinished(&entry.file_name()))
        {
            unlinkat(&own, entry.file_name(), AtFlags::empty())?;
        }
        Ok(())
    });
    if let Err(error) = swept {
        tracing::warn!(output = %output.display(), %error, "unfinished outputs of an earlier run cannot be removed");
    }
}

/// Puts outputs in their places, for one thread.
struct Writer<'a> {
    /// The output folder, without links in its path.
    folder: &'a Path,
    writing: Writing,
    /// The folder from which it takes results that dukes have written, once it was opened.
    own: Option<File>,
    /// The folder into which it wrote last, and its path below the output folder.
    last: Option<(PathBuf, File)>,
    /// As far as it knows, the file system has files without a name.
    makes_nameless: bool,
}

impl<'a> Writer<'a> {
    fn new(folder: &'a Path, writing: Writing) -> Writer<'a> {
        Writer { folder, writing, own: None, last: None, makes_nameless: true }
    }

    /// Puts an output in its place. Returns its size.
    fn put(&mut self, input: &Input, result: &Arrived) -> io::Result<u64> {
        let path = input.output();
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let sync = self.writing.sync;
        let opened = when_there_are(|| self.open_folder(path.parent().unwrap_or(Path::new(""))))?;
        let (_, folder) = &opened;
        let bytes = match result {
            Arrived::Whole(result) if self.writing.in_places.writes(input) => self.take(folder, name, input, result)?,
            Arrived::Whole(result) if self.writing.in_folders => self.unpack(folder, name, input, result.reader())?,
            Arrived::Whole(result) => self.write(folder, name, input.replaces(), result)?,
            Arrived::InFile(file) => {
                let whole = file.lock().take().ok_or_else(nothing_stored)?;
                match self.writing.in_folders {
                    true => self.unpack(folder, name, input, whole.read()?)?,
                    false => whole.give_name(folder, name, input.replaces())?,
                }
            }
            Arrived::Lost(_) => return Err(nothing_stored()),
        };
        if sync && let Err(error) = folder.sync_all() {
            // The next run must not take a name that may be lost for done. The error of the sync is the one to report.
            // Where an earlier output was, one of the two is there whatever happens.
            let _removed = (!input.replaces()).then(|| files::remove_tree(folder, name.as_ref()));
            return Err(error);
        }
        // After a failure the folder is opened again: it may have been replaced by another of this name.
        self.last = Some(opened);
        Ok(bytes)
    }

    /// Writes an output. Returns its size.
    fn write(&mut self, folder: &File, name: &OsStr, replaces: bool, result: &Payload) -> io::Result<u64> {
        // Only a rename replaces an earlier output.
        if self.makes_nameless && !replaces {
            if let Some(written) = self.write_nameless(folder, name, result) {
                return written;
            }
            self.makes_nameless = false;
        }
        self.make(folder, name, replaces, |file| write_chunks(file, result))
    }

    /// Writes an output to a file without a name, then gives it its own. With this, the folder changes once instead of
    /// three times. `None` if that cannot be done here.
    fn write_nameless(&self, folder: &File, name: &OsStr, result: &Payload) -> Option<io::Result<u64>> {
        let mut file = when_there_are(|| Ok(nameless::create(folder, EVERYBODY)?)).ok()?;
        let handle = nameless::handle(&file).ok()?;
        let kept = fill(&mut file, self.writing.sync, |file| write_chunks(file, result))
            .and_then(|bytes| files::close(file).map(|()| bytes));
        match kept.map(|bytes| nameless::give_name(&handle, folder, name).map(|()| bytes)) {
            Ok(Err(error)) if error != Errno::EXIST => None,
            named => Some(named.and_then(|named| Ok(named?))),
        }
    }

    /// Writes an output under another name, then gives it its own. Returns its size.
    fn make(
        &self,
        folder: &File,
        name: &OsStr,
        replaces: bool,
        fill: impl FnOnce(&mut File) -> io::Result<u64>,
    ) -> io::Result<u64> {
        let unfinished = unfinished_name();
        let placed = create(folder, unfinished.as_ref(), self.writing.sync, fill)
            .and_then(|bytes| rename((folder, &unfinished), (folder, name), replaces).map(|()| bytes));
        if placed.is_err() {
            // If it cannot be removed now, the next run removes it.
            let _removed = unlinkat(folder, &unfinished, AtFlags::empty());
        }
        placed
    }

    /// Unpacks an archive to the folder that is an output. Returns the size of the files in it.
    fn unpack(&self, folder: &File, name: &OsStr, input: &Input, archive: impl Read) -> io::Result<u64> {
        let unpacked = Unpacked::of(folder, archive, self.writing.sync)?;
        let mark = Mark::make(self.folder, input.output(), self.writing.sync)?;
        let bytes = unpacked.give_name(name, input.replaces())?;
        mark.renew();
        Ok(bytes)
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
        let hopeless = FailureKind::of_output(error.kind()) == FailureKind::NoOutputs;
        let is_taken = error.kind() == ErrorKind::AlreadyExists;
        let why = if is_taken { taken(self.folder, path) } else { error.to_string() };
        WriteError { why, hopeless }
    }
}

/// Makes a file. Returns the number of bytes in it.
fn create(
    folder: &File,
    name: &OsStr,
    sync: bool,
    content: impl FnOnce(&mut File) -> io::Result<u64>,
) -> io::Result<u64> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let open = || Ok(openat(folder, name, flags, EVERYBODY)?);
    let mut file = File::from(when_there_are(open)?);
    let bytes = fill(&mut file, sync, content)?;
    // With quotas and network file systems, only closing the file tells whether its bytes are kept.
    files::close(file)?;
    Ok(bytes)
}

/// Writes to a file, and for good if that is wanted. Returns the number of bytes in it.
fn fill(file: &mut File, sync: bool, content: impl FnOnce(&mut File) -> io::Result<u64>) -> io::Result<u64> {
    let bytes = content(file)?;
    if sync {
        file.sync_all()?;
    }
    Ok(bytes)
}

fn write_chunks(file: &mut File, result: &Payload) -> io::Result<u64> {
    result.chunks().try_for_each(|chunk| file.write_all(chunk))?;
    Ok(result.bytes())
}

/// Gives a finished file its name, in place of an earlier one only if it `replaces` that.
fn rename(from: (&File, &str), to: (&File, &OsStr), replaces: bool) -> io::Result<()> {
    match replaces {
        true => Ok(renameat(from.0, from.1, to.0, to.1)?),
        false => rename_new(from.0, from.1.as_ref(), to.0, to.1),
    }
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

    use distwasm_proto::secret::Secret;

    use super::*;
    use crate::{inputs::Reason, request::JobRequest};

    fn carried() -> Writing {
        Writing { sync: true, in_places: InPlaces::default(), in_folders: false }
    }

    /// Dukes write all outputs.
    fn in_places(sync: bool) -> Writing {
        let mut request = JobRequest::new("p", Payload::default(), Secret::new([1; 16]));
        request.guest.places.output = Some("/out".into());
        Writing { sync, in_places: InPlaces::of(&request), in_folders: false }
    }

    fn put(folder: &Path, path: &str, text: &str) -> Result<u64, WriteError> {
        let mut writer = Writer::new(folder, carried());
        let input = Input::new(path, 0);
        let result = Payload::from(text.as_bytes().to_vec());
        writer.put(&input, &Arrived::Whole(result)).map_err(|error| writer.explain(input.output(), &error))
    }

    #[test]
    fn an_output_takes_the_place_of_an_earlier_one_if_that_is_wanted() {
        let place = tempfile::tempdir().unwrap();
        put(place.path(), "x", "old").unwrap();
        let mut writer = Writer::new(place.path(), carried());
        let input = Input { output: Some(Path::new("x").into()), reason: Reason::Forced, ..Input::new("y", 0) };
        writer.put(&input, &Arrived::Whole(Payload::from(b"new".to_vec()))).unwrap();
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
    fn what_a_duke_has_written_gets_its_name_unless_it_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(place.path(), in_places(true));
        let (written, own) = (unfinished_name(), place.path().join(OWN_FOLDER));
        fs::create_dir(&own).unwrap();
        let result = Arrived::Whole(Payload::from(written.clone().into_bytes()));
        let mut take = |path: &str, replaces: bool, text: &str| {
            fs::write(own.join(&written), text).unwrap();
            let reason = if replaces { Reason::Forced } else { Reason::New };
            let input = Input { reason, ..Input::new(path, 0) };
            writer.put(&input, &result).map_err(|error| writer.explain(Path::new(path), &error).why)
        };
        assert_eq!(take("x/a", false, "one"), Ok(3));
        assert!(take("x/a", false, "other").unwrap_err().contains("x/a is there already"));
        assert_eq!(fs::read_to_string(place.path().join("x/a")).unwrap(), "one");
        assert_eq!(take("x/a", true, "three"), Ok(5));
        assert_eq!(fs::read_to_string(place.path().join("x/a")).unwrap(), "three");
        assert!(!own.join(&written).exists());
        fs::write(own.join(&written), "").unwrap();
        fs::write(own.join("other"), "").unwrap();
        sweep(place.path());
        assert!(!own.join(&written).exists() && own.join("other").exists());
    }

    #[test]
    fn a_duke_cannot_give_away_what_is_not_its_own() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(place.path(), in_places(false));
        fs::write(place.path().join("mine"), "mine").unwrap();
        let link = unfinished_name();
        fs::create_dir(place.path().join(OWN_FOLDER)).unwrap();
        symlink("../mine", place.path().join(OWN_FOLDER).join(&link)).unwrap();
        let mut told = |name: &[u8]| {
            writer.put(&Input::new("a", 0), &Arrived::Whole(name.to_vec().into())).unwrap_err().to_string()
        };
        for name in [&b"mine"[..], b"", b"\xff", b"../.distwasm-1-1.unfinished", b"/.distwasm-1-1.unfinished"] {
            assert_eq!(told(name), "what its duke calls the result cannot be");
        }
        assert_eq!(told(link.as_bytes()), "what its duke has written is not a regular file");
        assert_eq!(told(unfinished_name().as_bytes()), "what its duke has written is gone from the output folder");
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
