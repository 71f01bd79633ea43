//! Marks of outputs that are folders. A folder counts as an output only if it has a mark, an empty file in distwasm's own
//! folder whose name is the digest of the output's path. So no folder is taken for an output that only lies where one
//! would be, such as one of the user's or one with other outputs in it, and none is replaced. The time of the mark tells
//! when the output was written, whatever is put into the folder later.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    unfinished::{OWN_FOLDER, open_own_folder},
};
use distwasm_proto::digest::Digest;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW, futimens, openat};

use crate::{descriptors::when_there_are, file_time::FileTime};

/// The folder of all marks in distwasm's own folder.
const MARKS: &str = "folders";

/// The mark of an output.
pub(super) struct Mark(File);

/// When the folder that is this output was written; `None` if it has no mark.
///
/// # Errors
///
/// When that cannot be found out.
pub(crate) fn time_of(folder: &Path, output: &Path) -> io::Result<Option<FileTime>> {
    let (place, name) = place_of(output);
    match fs::symlink_metadata(folder.join(OWN_FOLDER).join(place).join(name)) {
        Ok(found) => Ok(found.is_file().then(|| FileTime::of(&found))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folder of a mark in distwasm's own folder, and its name: there may be millions.
fn place_of(output: &Path) -> (PathBuf, String) {
    let digest = Digest::of([output.as_os_str().as_bytes()]).to_string();
    let (place, name) = digest.split_at(2);
    (Path::new(MARKS).join(place), name.to_owned())
}

impl Mark {
    /// Marks an output that is about to get its name, if it has no mark from an earlier run. With `sync`, the mark is on
    /// the disk afterwards.
    pub(super) fn make(folder: &Path, output: &Path, sync: bool) -> io::Result<Mark> {
        let (place, name) = place_of(output);
        let open = || {
            let own = open_own_folder(File::open(folder)?, Missing::Made)?;
            beneath::open_folder(own, &place, Links::Refused, Missing::Made)
        };
        let place = when_there_are(open)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(when_there_are(|| Ok(openat(&place, &name, flags, Mode::from_raw_mode(0o644))?))?);
        if sync {
            file.sync_all()?;
            place.sync_all()?;
        }
        Ok(Mark(file))
    }

    /// Notes that the output has its name now.
    pub(super) fn renew(self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // With an old time, `--update` writes the output once more.
        let _renewed = futimens(&self.0, &Timestamps { last_access: now, last_modification: now });
    }
}
