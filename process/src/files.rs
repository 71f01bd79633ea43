//! Files that must last: written whole under another name, closed with a check for errors, then renamed.
//!
//! Some file systems (NFS, AFS, FUSE, any with quotas) say only when a file is closed that its bytes were not kept. A
//! [`File`] that is dropped throws that answer away, so files that must last are closed here.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, IntoRawFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use distwasm_proto::limits::REMOVED_DEPTH_MAX;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat},
    io::Errno,
    process::geteuid,
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

/// Opens a file that distwasm has written, to read it.
///
/// # Errors
///
/// When it cannot be opened, or when it may be something that another user has planted: a link, a named pipe or the
/// like, or a file of another user in a folder such as `/tmp`.
pub fn open_own(path: &Path) -> io::Result<File> {
    open_own_with(OpenOptions::new().read(true), path)
}

/// Opens a file that distwasm has written, or creates it if the options say so.
///
/// # Errors
///
/// As for [`open_own`].
pub fn open_own_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => io::Error::other("it is a link, and links are not followed here"),
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if may_be_planted(path, &found)? {
        let why =
            format!("it belongs to another user (uid {}), and anybody may put files into its folder", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(file)
}

/// Whether something with this path may have been put there by anybody: it belongs to neither this user nor root, and is
/// in a sticky folder of somebody else, such as `/tmp`, to which others may write.
pub(crate) fn may_be_planted(path: &Path, found: &Metadata) -> io::Result<bool> {
    if found.uid() == geteuid().as_raw() || found.uid() == 0 {
        return Ok(false);
    }
    let folder = fs::metadata(folder_of(path))?;
    Ok(folder.mode() & 0o1000 != 0 && folder.mode() & 0o022 != 0 && folder.uid() != found.uid())
}

/// Whether a file can hold nothing but what this user wrote: it is a regular file of this user, and nobody else may
/// write to it.
pub fn is_private(found: &Metadata) -> bool {
    found.is_file() && is_ours_alone(found)
}

/// Whether a file or a folder belongs to this user, and nobody else may write to it.
pub fn is_ours_alone(found: &Metadata) -> bool {
    found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0
}

/// Creates a file that only this user may read and write, in the place of an earlier file of the same name.
///
/// # Errors
///
/// When it cannot be created, or when the name belongs to something that is not a regular file.
pub fn create_private(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        fs::remove_file(path)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(USER_ALONE).open(path)
}

/// Writes a new file, and closes it.
///
/// # Errors
///
/// When the name is taken, or the bytes could not be kept; in the second case no file of this name is left.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_new_as(CWD, path, bytes, EVERYBODY)
}

/// Writes a new file in an open folder, and closes it.
///
/// # Errors
///
/// As for [`write_new`].
pub fn write_new_in(folder: impl AsFd, name: &Path, bytes: &[u8]) -> io::Result<()> {
    write_new_as(folder, name, bytes, EVERYBODY)
}

/// Removes a regular file from an open folder.
///
/// # Errors
///
/// When it cannot be removed, or is something else, which stays.
pub fn remove_in(folder: impl AsFd, name: &Path) -> io::Result<()> {
    let found = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(unlinkat(&folder, name, AtFlags::empty())?),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

/// Removes a regular file, or a folder with all that is in it, from an open folder. Links are not followed.
///
/// # Errors
///
/// When it cannot be removed, or is something else, which stays.
pub fn remove_tree(folder: impl AsFd, name: &Path) -> io::Result<()> {
    let found = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => remove_folder(folder.as_fd(), name.as_os_str(), 0),
        _ => remove_in(folder, name),
    }
}

/// Each level takes a descriptor.
fn remove_folder(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth > REMOVED_DEPTH_MAX {
        return Err(io::Error::other(format!("there are more than {REMOVED_DEPTH_MAX} folders in each other")));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    // The names are read before any is removed, which would change what comes next.
    let entries: Vec<_> = Dir::read_from(&folder)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if [".", ".."].contains(&&*name.to_string_lossy()) {
            continue;
        }
        match unlinkat(&folder, name, AtFlags::empty()) {
            // Systems differ in what they say of a folder.
            Err(error @ (Errno::ISDIR | Errno::PERM)) => match remove_folder(folder.as_fd(), name, depth + 1) {
                Err(second) if second.kind() == io::ErrorKind::NotADirectory => return Err(error.into()),
                removed => removed?,
            },
            removed => removed?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// The permissions of a file, as far as the user's mask allows.
const EVERYBODY: u32 = 0o666;
const EVERYBODY_READS: u32 = 0o644;
const USER_ALONE: u32 = 0o600;

fn write_new_as(folder: impl AsFd, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(&folder, path, flags, Mode::from_raw_mode(mode))?);
    let written = file.write_all(bytes);
    let closed = close(file);
    let kept = written.and(closed);
    if kept.is_err() {
        // The error of the write or the close is the one to report.
        let _removed = unlinkat(&folder, path, AtFlags::empty());
    }
    kept
}

/// Writes or replaces a file to which only this user may write. Readers see the old bytes or the new ones, never a part.
/// A link of this name is replaced, too, and not followed.
///
/// # Errors
///
/// When it cannot be written or renamed. The old file is still there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(CWD, path, bytes, EVERYBODY_READS)
}

/// Writes or replaces a file that no other user may read. It is there even after a power failure.
///
/// # Errors
///
/// As for [`replace`].
pub fn replace_private_for_good(path: &Path, bytes: &[u8]) -> io::Result<()> {
    keep_private(path, bytes, |unfinished| fs::rename(unfinished, path))
}

/// Writes a file that no other user may read, whole or not at all, and never in the place of another one. It is there even
/// after a power failure.
///
/// # Errors
///
/// When the name is taken, or the bytes could not be kept.
pub fn write_new_private_for_good(path: &Path, bytes: &[u8]) -> io::Result<()> {
    keep_private(path, bytes, |unfinished| fs::hard_link(unfinished, path).and_then(|()| fs::remove_file(unfinished)))
}

/// Writes an unfinished file beside this path, which `keep` gives its name.
fn keep_private(path: &Path, bytes: &[u8], keep: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = unfinished_beside(path);
    let mut file = create_private(&unfinished)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let kept = written.and(close(file)).and_then(|()| keep(&unfinished));
    if kept.is_err() {
        // The error of the write is the one to report.
        let _removed = fs::remove_file(&unfinished);
    }
    kept.and_then(|()| File::open(folder_of(path))?.sync_all())
}

/// The folder that a path is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes or replaces a file in an open folder, as [`replace`] does.
///
/// # Errors
///
/// As for [`replace`].
pub fn replace_in(folder: impl AsFd, name: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(folder, name, bytes, EVERYBODY_READS)
}

/// Writes or replaces a file in an open folder that no other user may read.
///
/// # Errors
///
/// When it cannot be written or renamed; an earlier file is as it was.
pub fn replace_private_in(folder: impl AsFd, name: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(folder, name, bytes, USER_ALONE)
}

fn replace_as(folder: impl AsFd, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = unfinished_beside(path);
    write_new_as(&folder, &unfinished, bytes, mode)?;
    let renamed = renameat(&folder, &unfinished, &folder, path);
    if renamed.is_err() {
        // The error of the rename is the one to report.
        let _removed = unlinkat(&folder, &unfinished, AtFlags::empty());
    }
    Ok(renamed?)
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
    fn a_file_that_another_user_may_have_planted_is_not_opened() {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("own"), "own").unwrap();
        symlink("own", path("link")).unwrap();
        rustix::fs::mknodat(CWD, path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(open_own(&path("own")).is_ok());
        let why = |name: &str| open_own(&path(name)).unwrap_err().to_string();
        assert!(why("link").contains("it is a link"), "{}", why("link"));
        assert_eq!(why("pipe"), "it is not a regular file");
        assert!(open_own_with(OpenOptions::new().append(true).create(true), &path("link")).is_err());
        assert!(is_private(&fs::metadata(path("own")).unwrap()));
        fs::set_permissions(path("own"), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!is_private(&fs::metadata(path("own")).unwrap()));
        if !geteuid().is_root() {
            println!("SKIPPED: only root can give a file to another user");
            return;
        }
        chown(path("own"), Some(4711), None).unwrap();
        assert!(open_own(&path("own")).is_ok(), "a colleague's file in a folder of ours");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(why("own").contains("belongs to another user (uid 4711)"));
    }

    #[test]
    fn a_private_file_is_another_one_than_before() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "old").unwrap();
        let old = File::open(&path).unwrap();
        let new = create_private(&path).unwrap().metadata().unwrap();
        assert_eq!((new.mode() & 0o777, new.len(), old.metadata().unwrap().nlink()), (0o600, 0, 0));
        symlink("f", folder.path().join("link")).unwrap();
        assert!(create_private(&folder.path().join("link")).is_err());
        replace(&folder.path().join("link"), b"x").unwrap();
        assert!(!folder.path().join("link").is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"");
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
