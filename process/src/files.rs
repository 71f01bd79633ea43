//! Files that must last: written whole under another name, closed with a check for errors, then renamed.
//!
//! Some file systems (NFS, AFS, FUSE, any with quotas) say only when a file is closed that its bytes were not kept. A
//! [`File`] that is dropped throws that answer away, so files that must last are closed here.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, IntoRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Closes a file.
///
/// # Errors
///
/// When the system could not keep the written bytes. The file is closed in any case.
pub fn close(file: File) -> io::Result<()> {
    let descriptor = file.into_raw_fd();
    // SAFETY: the file owned this descriptor and has given it up, so nothing else uses or closes it.
    if unsafe { libc::close(descriptor) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks whether everything that was written to stdout is kept: stdout may be a file. To be called after the last write.
///
/// # Errors
///
/// As for [`close`].
pub fn close_stdout() -> io::Result<()> {
    // Closing any duplicate of a descriptor reports the write errors since the last close.
    close(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes everything to stdout and asks whether it is kept. A closed pipe is not an error: its reader has read as much
/// as it wanted.
///
/// # Errors
///
/// As for [`close`].
pub fn write_stdout(text: &[u8]) -> io::Result<()> {
    write_stdout_chunks([text])
}

/// Writes all chunks to stdout, as [`write_stdout`] does.
///
/// # Errors
///
/// As for [`close`].
pub fn write_stdout_chunks(chunks: impl IntoIterator<Item = impl AsRef<[u8]>>) -> io::Result<()> {
    let mut stdout = io::stdout();
    let mut chunks = chunks.into_iter();
    let written = chunks.try_for_each(|chunk| stdout.write_all(chunk.as_ref()));
    let written = written.and_then(|()| stdout.flush()).and_then(|()| close_stdout());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a new file, and closes it.
///
/// # Errors
///
/// When the name is taken, or the bytes could not be kept; in the second case no file of this name is left.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_new_for(path, bytes, EVERYBODY)
}

/// The permissions of a file, as far as the user's mask allows.
const EVERYBODY: u32 = 0o666;
const USER_ALONE: u32 = 0o600;

fn write_new_for(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(bytes);
    let closed = close(file);
    let kept = written.and(closed);
    if kept.is_err() {
        // The error of the write or the close is the one to report.
        let _removed = fs::remove_file(path);
    }
    kept
}

/// Writes or replaces a file. Readers see the old bytes or the new ones, never a part.
///
/// # Errors
///
/// When it cannot be written or renamed. The old file is still there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_for(path, bytes, EVERYBODY)
}

/// Writes or replaces a file that no other user may read.
///
/// # Errors
///
/// As for [`replace`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_for(path, bytes, USER_ALONE)
}

fn replace_for(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = unfinished_beside(path);
    write_new_for(&unfinished, bytes, mode)?;
    let renamed = fs::rename(&unfinished, path);
    if renamed.is_err() {
        // The error of the rename is the one to report.
        let _removed = fs::remove_file(&unfinished);
    }
    renamed
}

/// A name for a file that is to be renamed to this one when it is whole; no other process and no other call has it.
pub fn unfinished_beside(path: &Path) -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(format!(".distwasm-{}-{number}-", std::process::id()));
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for text in ["one", "two"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"x").is_err());
        assert!(write_new(&path, b"x").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_the_system_says_at_the_end_is_heard() {
        use std::os::fd::{AsRawFd, FromRawFd};
        let file = File::open("/dev/null").unwrap();
        close(file).unwrap();
        // A descriptor that is not open: the one late error that every machine can be made to give.
        let file = File::open("/dev/null").unwrap();
        // SAFETY: a number above all limits is never a descriptor, so no open file is closed.
        let nobody = unsafe { File::from_raw_fd(file.as_raw_fd() + (1 << 29)) };
        assert_eq!(close(nobody).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
