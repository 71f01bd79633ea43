//! Packs the results of a unit whose arguments name a folder for them (`{outdir}`): an archive of all that is in it.

use std::ffi::CString;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;

use distwasm_proto::arguments::OUTPUT_FOLDER;
use distwasm_proto::failure::Failure;
use distwasm_proto::limits::{OUTPUT_FOLDER_DEPTH_MAX, OUTPUT_FOLDER_ENTRIES_MAX};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use tar::{Builder, EntryType, Header};
use thiserror::Error;

use super::cleaning::names;
use super::{UnitFiles, wrong_result};

/// Why there is no archive.
#[derive(Debug)]
pub enum PackError {
    /// Something that the guest has left there cannot be a result.
    NoResult(Failure),
    /// It would be longer than it may be.
    TooLong,
    /// It cannot be written.
    Write(io::Error),
}

/// The archive has reached its bound.
#[derive(Debug, Error)]
#[error("the archive is longer than it may be")]
struct BoundReached;

impl From<Failure> for PackError {
    fn from(failure: Failure) -> PackError {
        PackError::NoResult(failure)
    }
}

impl From<io::Error> for PackError {
    fn from(error: io::Error) -> PackError {
        match matches!(error.get_ref(), Some(inner) if inner.is::<BoundReached>()) {
            true => PackError::TooLong,
            false => PackError::Write(error),
        }
    }
}

impl UnitFiles {
    /// Writes an archive (tar) of the files and folders in the folder of results, at most `bytes_max` bytes. Each folder
    /// comes before its content, and nothing has a time or an owner, so that equal results are equal archives.
    ///
    /// # Errors
    ///
    /// When there is anything else, such as a link, or more than [`OUTPUT_FOLDER_ENTRIES_MAX`]; or when it cannot be written.
    pub fn pack(&self, sink: &mut impl Write, bytes_max: u64) -> Result<(), PackError> {
        let mut archive = Builder::new(BufWriter::new(Bounded { sink, left: bytes_max }));
        let mut entries = 0;
        // Folders whose content is still to be packed.
        let mut folders = vec![OUTPUT_FOLDER.to_owned()];
        while let Some(folder) = folders.pop() {
            for name in self.names_in(&folder)? {
                entries += 1;
                if entries > OUTPUT_FOLDER_ENTRIES_MAX {
                    let what = format!("has more than {OUTPUT_FOLDER_ENTRIES_MAX} files and folders");
                    return Err(wrong_result(OUTPUT_FOLDER, &what).into());
                }
                let path = format!("{folder}/{name}");
                // The folder of results itself is not counted.
                if path.split('/').count() - 1 > OUTPUT_FOLDER_DEPTH_MAX {
                    let what = format!("lies deeper than {OUTPUT_FOLDER_DEPTH_MAX} levels");
                    return Err(wrong_result(&path, &what).into());
                }
                if self.pack_entry(&mut archive, &path)? {
                    folders.push(path);
                }
            }
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }

    /// Packs a file or a folder. Returns whether it is a folder.
    fn pack_entry(&self, archive: &mut Builder<impl Write>, path: &str) -> Result<bool, PackError> {
        let name = path.strip_prefix(OUTPUT_FOLDER).unwrap_or(path).trim_start_matches('/');
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        let found = statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW);
        let found =
            found.map_err(|error| wrong_result(path, &format!("cannot be read: {}", io::Error::from(error))))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            archive.append_data(&mut header, name, io::empty())?;
            return Ok(true);
        }
        let file = self.result(path)?;
        let bytes = file.metadata()?.len();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes);
        archive.append_data(&mut header, name, file.take(bytes))?;
        Ok(false)
    }

    /// The names in a folder of results, in their order.
    fn names_in(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let wrong = |error: io::Error| wrong_result(folder, &format!("cannot be read: {error}"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = openat2(&self.root, folder, flags, Mode::empty(), how).map_err(|error| wrong(error.into()))?;
        let mut names: Vec<CString> = names(opened.as_fd()).map_err(wrong)?;
        names.sort_unstable();
        let text = |name: CString| name.into_string().map_err(|_| wrong_result(folder, "has a name that is not UTF-8"));
        names.into_iter().map(text).collect()
    }
}

/// Writes no more than it may.
struct Bounded<W> {
    sink: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other(BoundReached))?;
        let count = self.sink.write(bytes)?;
        self.left = left + (bytes.len() - count) as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
