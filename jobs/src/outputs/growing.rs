//! Results that come in parts: each is written to a file beside its output while it comes, and gets the output's name when
//! its unit has its verdict. If it is dropped before, nothing of it is left.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use distwasm_process::{files, nameless, unfinished::unfinished_name};
use distwasm_proto::ids::AttemptId;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::{EVERYBODY, rename};
use crate::descriptors::when_there_are;

/// Parts of a result that go to its file, after those before them.
#[derive(Debug)]
pub struct Parts {
    /// Whose result it is.
    pub attempt: AttemptId,
    /// The parts, in order.
    pub data: Vec<Bytes>,
    /// Nothing comes after them.
    pub is_last: bool,
    /// Where they go.
    pub file: ResultFile,
}

/// The file of a result, for one thread at a time. It is made when its first parts are written.
#[derive(Clone, Debug, Default)]
pub struct ResultFile(Arc<Mutex<Option<Growing>>>);

impl ResultFile {
    /// Whether both are the same file.
    pub fn is_same(&self, other: &ResultFile) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Growing>> {
        // Nothing in here can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A result as far as it is written.
#[derive(Debug)]
pub(super) struct Growing {
    /// Open while more is to come.
    file: Option<File>,
    place: Place,
    bytes: u64,
}

#[derive(Debug)]
enum Place {
    /// A file without a name, in the folder of its output.
    Nameless(OwnedFd),
    /// A file of another name there.
    Named(Named),
    /// A file of no name elsewhere, which is copied to stdout.
    Aside(File),
}

/// A file that is removed when this is dropped, unless it has got its own name.
#[derive(Debug)]
struct Named {
    folder: File,
    name: String,
}

impl Drop for Named {
    fn drop(&mut self) {
        // If it cannot be removed now, the next run removes it.
        let _removed = unlinkat(&self.folder, &self.name, AtFlags::empty());
    }
}

impl Growing {
    /// An empty file in this folder.
    pub(super) fn beside(folder: &File) -> io::Result<Growing> {
        let made = when_there_are(|| Ok(nameless::create(folder, EVERYBODY)?));
        if let Ok(file) = made
            && nameless::try_in(folder).is_ok()
            && let Ok(handle) = nameless::handle(&file)
        {
            return Ok(Growing { file: Some(file), place: Place::Nameless(handle), bytes: 0 });
        }
        let name = unfinished_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(when_there_are(|| Ok(openat(folder, &name, flags, EVERYBODY)?))?);
        let place = Place::Named(Named { folder: folder.try_clone()?, name });
        Ok(Growing { file: Some(file), place, bytes: 0 })
    }

    /// An empty file in the folder for temporary files.
    pub(super) fn aside() -> io::Result<Growing> {
        let path = env::temp_dir().join(unfinished_name());
        let file = when_there_are(|| files::create_private(&path))?;
        let read = File::open(&path);
        fs::remove_file(&path)?;
        Ok(Growing { file: Some(file), place: Place::Aside(read?), bytes: 0 })
    }

    /// Appends parts. Returns its size. After the last ones it is closed: with quotas and network file systems, only this
    /// tells whether its bytes are kept.
    pub(super) fn append(&mut self, data: &[Bytes], is_last: bool, sync: bool) -> io::Result<u64> {
        let Some(mut file) = self.file.take() else { return Err(io::Error::other("it was closed before")) };
        data.iter().try_for_each(|part| file.write_all(part))?;
        self.bytes += data.iter().map(|part| part.len() as u64).sum::<u64>();
        if is_last {
            if sync {
                file.sync_all()?;
            }
            files::close(file)?;
        } else {
            self.file = Some(file);
        }
        Ok(self.bytes)
    }

    /// Gives a whole result the name of its output. Returns its size.
    pub(super) fn give_name(self, folder: &File, name: &OsStr, replaces: bool) -> io::Result<u64> {
        let named = match self.place {
            Place::Nameless(handle) if !replaces => {
                nameless::give_name(&handle, folder, name)?;
                return Ok(self.bytes);
            }
            // Only a rename replaces an earlier output.
            Place::Nameless(handle) => {
                let unfinished = unfinished_name();
                nameless::give_name(&handle, folder, unfinished.as_ref())?;
                Named { folder: folder.try_clone()?, name: unfinished }
            }
            Place::Named(named) => named,
            Place::Aside(_) => return Err(io::Error::other("it belongs to stdout")),
        };
        rename((&named.folder, &named.name), (folder, name), replaces)?;
        Ok(self.bytes)
    }

    /// Opens a whole result to read it. Nothing is left of it afterwards.
    pub(super) fn read(self) -> io::Result<GrownFile> {
        match self.place {
            Place::Nameless(handle) => {
                Ok(GrownFile { file: when_there_are(|| Ok(nameless::read(&handle)?))?, _named: None })
            }
            Place::Named(named) => {
                let open = || Ok(openat(&named.folder, &named.name, super::READ, Mode::empty())?);
                let file = when_there_are(open)?;
                Ok(GrownFile { file: file.into(), _named: Some(named) })
            }
            Place::Aside(_) => Err(io::Error::other("it belongs to stdout")),
        }
    }

    /// Copies a whole result to stdout. Returns its size.
    pub(super) fn show(self) -> io::Result<u64> {
        let Place::Aside(mut file) = self.place else { return Err(io::Error::other("it belongs to a folder")) };
        let mut buffer = vec![0; COPIED_TOGETHER];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(self.bytes);
            }
            files::write_stdout_chunks(buffer.get(..count))?;
        }
    }
}

/// A whole result that is read, and removed afterwards.
pub(super) struct GrownFile {
    file: File,
    _named: Option<Named>,
}

impl Read for GrownFile {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.file.read(target)
    }
}

/// How much is copied to stdout at once.
const COPIED_TOGETHER: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(folder: &File, is_nameless: bool) -> Growing {
        let mut growing = Growing::beside(folder).unwrap();
        if !is_nameless {
            let name = unfinished_name();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            growing.file = Some(openat(folder, &name, flags, EVERYBODY).unwrap().into());
            growing.place = Place::Named(Named { folder: folder.try_clone().unwrap(), name });
        }
        assert_eq!(growing.append(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")], false, false).unwrap(), 6);
        assert_eq!(growing.append(&[Bytes::from_static(b"three")], true, true).unwrap(), 11);
        assert!(growing.append(&[], true, false).is_err());
        growing
    }

    #[test]
    fn a_result_has_its_name_when_it_is_given_and_leaves_nothing_if_it_is_not() {
        for is_nameless in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let folder = File::open(place.path()).unwrap();
            let names = || fs::read_dir(place.path()).unwrap().count();
            assert_eq!(grown(&folder, is_nameless).give_name(&folder, "a".as_ref(), false).unwrap(), 11);
            assert_eq!(fs::read(place.path().join("a")).unwrap(), b"onetwothree");
            let error = grown(&folder, is_nameless).give_name(&folder, "a".as_ref(), false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            fs::write(place.path().join("a"), "old").unwrap();
            grown(&folder, is_nameless).give_name(&folder, "a".as_ref(), true).unwrap();
            assert_eq!(fs::read(place.path().join("a")).unwrap(), b"onetwothree");
            drop(grown(&folder, is_nameless));
            assert_eq!(names(), 1);
        }
    }
}
