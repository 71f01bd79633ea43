//! Results that dukes have written into the output folder: each lies in distwasm's own folder there, and gets its name.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind},
};

use distwasm_process::{
    beneath::Missing,
    unfinished::{is_unfinished, open_own_folder},
};
use distwasm_transport::payload::Payload;
use rustix::{
    fs::{AtFlags, FileType, Mode, openat, statat, unlinkat},
    io::Errno,
};

use super::{READ, Writer, rename};
use crate::{descriptors::when_there_are, inputs::Input};

impl Writer<'_> {
    /// Gives a result that a duke has written its name. Returns its size.
    pub(super) fn take(&mut self, folder: &File, name: &OsStr, input: &Input, result: &Payload) -> io::Result<u64> {
        let said = result.contiguous();
        let unfinished = std::str::from_utf8(&said).ok().filter(|name| is_unfinished(name.as_ref()));
        let unfinished = unfinished.ok_or_else(|| io::Error::other("what its duke calls the result cannot be"))?;
        let own = match self.own.take() {
            Some(own) => own,
            None => open_own_folder(File::open(self.folder)?, Missing::Made)?,
        };
        let found = statat(&own, unfinished, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| match error {
            Errno::NOENT => io::Error::other("what its duke has written is gone from the output folder"),
            error => error.into(),
        })?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("what its duke has written is not a regular file"));
        }
        let taken = self.give_its_name((&own, unfinished), (folder, name), input);
        if !matches!(taken, Ok(Taken::Renamed)) {
            // What cannot be removed now is removed by the next run.
            let _removed = unlinkat(&own, unfinished, AtFlags::empty());
        }
        self.own = Some(own);
        match taken? {
            Taken::Unpacked(bytes) => Ok(bytes),
            Taken::Renamed | Taken::Copied => Ok(u64::try_from(found.st_size).unwrap_or(0)),
        }
    }

    fn give_its_name(&self, from: (&File, &str), to: (&File, &OsStr), input: &Input) -> io::Result<Taken> {
        let (folder, name) = to;
        let open = || when_there_are(|| Ok(File::from(openat(from.0, from.1, READ, Mode::empty())?)));
        if self.writing.in_folders {
            return self.unpack(folder, name, input, open()?).map(Taken::Unpacked);
        }
        if self.writing.sync {
            open()?.sync_all()?;
        }
        match rename(from, to, input.replaces()) {
            // A folder of the output folder may be on another file system.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                let mut source = open()?;
                self.make(folder, name, input.replaces(), |file| io::copy(&mut source, file))?;
                Ok(Taken::Copied)
            }
            renamed => renamed.map(|()| Taken::Renamed),
        }
    }
}

/// How a result got its name.
enum Taken {
    Renamed,
    /// The file of the duke is still there.
    Copied,
    /// The same; the files in the folder have this many bytes.
    Unpacked(u64),
}
