//! A new file that is written whole or not at all, and never in the place of another one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use distwasm_jobs::outputs::rename::rename_new;
use distwasm_process::files;
use rustix::fs::CWD;
use thiserror::Error;

/// Why a file is not written.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NewFileError {
    #[error("{} exists: name another file, or remove this one", .path.display())]
    Taken { path: PathBuf },
    #[error("failed to write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A file that does not have its name yet. It is removed if this is dropped.
#[derive(Debug)]
pub(super) struct NewFile {
    name: PathBuf,
    unfinished: PathBuf,
    file: Option<File>,
}

impl NewFile {
    /// Creates a file beside its name, for this user alone.
    pub(super) fn create(name: &Path) -> Result<NewFile, NewFileError> {
        if fs::symlink_metadata(name).is_ok() {
            return Err(NewFileError::Taken { path: name.to_owned() });
        }
        let unfinished = files::unfinished_beside(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
        let file = file.map_err(|source| NewFileError::Write { path: name.to_owned(), source })?;
        Ok(NewFile { name: name.to_owned(), unfinished, file: Some(file) })
    }

    /// Writes the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), NewFileError> {
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        written.map_err(|source| self.failed(source))
    }

    /// Gives the file its name, when it is on disk.
    pub(super) fn finish(mut self) -> Result<(), NewFileError> {
        let kept = self.file.take().map_or(Ok(()), |file| file.sync_all().and_then(|()| files::close(file)));
        kept.map_err(|source| self.failed(source))?;
        match rename_new(CWD, self.unfinished.as_os_str(), CWD, self.name.as_os_str()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(NewFileError::Taken { path: self.name.clone() })
            }
            named => named.map_err(|source| self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> NewFileError {
        NewFileError::Write { path: self.name.clone(), source }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After it has got its name, there is nothing to remove.
        let _removed = fs::remove_file(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_name_when_it_is_whole_and_only_if_the_name_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("file");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let mut file = NewFile::create(&name).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(names(), 0);
        let mut first = NewFile::create(&name).unwrap();
        let second = NewFile::create(&name).unwrap();
        first.write(b"whole").unwrap();
        first.finish().unwrap();
        assert!(matches!(second.finish(), Err(NewFileError::Taken { .. })));
        assert_eq!((names(), fs::read(&name).unwrap()), (1, b"whole".to_vec()));
        assert!(matches!(NewFile::create(&name), Err(NewFileError::Taken { .. })));
        let missing = folder.path().join("none/file");
        assert!(matches!(NewFile::create(&missing), Err(NewFileError::Write { .. })));
    }
}
