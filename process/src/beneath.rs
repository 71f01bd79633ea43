//! Opens what lies beneath a folder, by the folder's descriptor: others who may write there can plant links, named pipes
//! and devices, also between two looks at them.
//!
//! Inputs are regular files, to which links may lead as long as they stay beneath the input folder ([`Root`]). Folders of
//! outputs may be links that belong to the user ([`open_folder`]).

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

use distwasm_proto::limits::LINKS_FOLLOWED_MAX;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, mkdirat, open, openat, readlinkat, statat},
    io::Errno,
    process::geteuid,
};
use thiserror::Error;

use crate::files;

/// A folder of files that are read.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    opened: OwnedFd,
}

/// A path leads out of the folder beneath which it should stay.
#[derive(Debug, Error)]
#[error("it is a link that leads out of its folder")]
struct LeadsOut;

/// A link that another user made.
#[derive(Debug, Error)]
#[error("{} is a link that belongs to another user (uid {uid}), and is not followed", .name.display())]
struct Planted {
    name: PathBuf,
    uid: u32,
}

/// Whether an error says that there is a link that another user made.
pub fn is_planted(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<Planted>())
}

/// Refuses a path that the user named, if its last part is a link that anybody may have put there: as Linux does it with
/// `fs.protected_symlinks`, which may be off.
///
/// # Errors
///
/// When it is such a link ([`is_planted`]).
pub fn check_link(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    match found.is_symlink() && files::may_be_planted(path, &found)? {
        true => Err(planted(path, found.uid())),
        false => Ok(()),
    }
}

fn planted(name: &Path, uid: u32) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, Planted { name: name.to_owned(), uid })
}

/// Whether an error says that a path leads out of its folder.
pub fn leads_out(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<LeadsOut>())
}

/// Looks at something without opening it, where the system can do so.
#[cfg(target_os = "linux")]
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const LOOK: OFlags = READ;

/// To read: neither a named pipe nor a device makes the open wait.
const READ: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

impl Root {
    /// Opens the folder.
    ///
    /// # Errors
    ///
    /// When it is not a folder, or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Root> {
        Ok(Root { path: path.to_owned(), opened: open(path, LOOK | FOLDER, Mode::empty())? })
    }

    /// The folder that was opened by this path.
    pub fn of(path: &Path, opened: File) -> Root {
        Root { path: path.to_owned(), opened: opened.into() }
    }

    /// Opens a regular file to read it. Links are followed while they stay beneath the folder.
    ///
    /// # Errors
    ///
    /// When the path leads out of the folder ([`leads_out`]), or to something that is not a regular file.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        regular(self.find(path, READ)?)
    }

    /// Looks at what a path leads to, as [`Root::file`] would find it.
    ///
    /// # Errors
    ///
    /// When there is nothing, or the path leads out of the folder ([`leads_out`]).
    pub fn look(&self, path: &Path) -> io::Result<Metadata> {
        File::from(self.find(path, LOOK)?).metadata()
    }

    /// Opens a folder to list it. No link is followed.
    ///
    /// # Errors
    ///
    /// When there is none, or a part of the path is a link.
    pub fn folder(&self, path: &Path) -> io::Result<File> {
        open_folder(&self.opened, path, Links::Refused, Missing::Stays)
    }

    fn find(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        if let Some(found) = open_beneath(&self.opened, path, flags) {
            return Ok(found);
        }
        // The system cannot do it, or refuses. Links with absolute paths may lead back into the folder, too.
        let real = fs::canonicalize(self.path.join(path))?;
        let folder = fs::canonicalize(&self.path)?;
        let inside = real.strip_prefix(&folder).map_err(|_| io::Error::new(ErrorKind::PermissionDenied, LeadsOut))?;
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return self.opened.try_clone();
        };
        let parent = open_folder(&self.opened, parent, Links::Refused, Missing::Stays)?;
        Ok(openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?)
    }
}

#[cfg(target_os = "linux")]
fn open_beneath(folder: &OwnedFd, path: &Path, flags: OFlags) -> Option<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    openat2(folder, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(_: &OwnedFd, _: &Path, _: OFlags) -> Option<OwnedFd> {
    None
}

/// Opens a regular file in a folder to read it, or, with `flags`, to write it or to create it. No link is followed.
///
/// # Errors
///
/// When it cannot be opened, or is not a regular file.
pub fn file_in(folder: impl AsFd, name: &Path, flags: OFlags) -> io::Result<File> {
    regular(openat(folder, name, READ | OFlags::NOFOLLOW | flags, Mode::from_raw_mode(0o666))?)
}

/// Opens a regular file to read it, wherever links lead.
///
/// # Errors
///
/// When it cannot be opened, or is not a regular file.
pub fn open_file(path: &Path) -> io::Result<File> {
    regular(open(path, READ, Mode::empty())?)
}

/// The file, if it is a regular one.
fn regular(file: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

/// What happens with links on the way to a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// None is followed.
    Refused,
    /// Those of this user, and of root, are followed, wherever they lead.
    Own,
}

/// What happens if a folder is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It is created, also those above it.
    Made,
    /// The error says so.
    Stays,
}

/// Opens a folder beneath another one.
///
/// # Errors
///
/// When the folder is missing and is not to be made, when a part of the path is something else, and when there is a link
/// that is not followed.
pub fn open_folder(root: impl AsFd, path: &Path, links: Links, missing: Missing) -> io::Result<File> {
    let root = root.as_fd();
    if let Some(found) = open_without_links(root, path) {
        return Ok(found);
    }
    // The parts that are left, the next one last, and whether they come from the path itself.
    let mut left: Vec<(OsString, bool)> = Vec::new();
    let push = |left: &mut Vec<_>, path: &Path, is_own| left.extend(parts(path).rev().map(|part| (part, is_own)));
    push(&mut left, path, true);
    let (mut at, mut followed) = (root.try_clone_to_owned()?, 0);
    while let Some((part, is_own)) = left.pop() {
        match openat(&at, &part, LOOK | FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(deeper) => at = deeper,
            Err(Errno::NOENT) if is_own && missing == Missing::Made => {
                match mkdirat(&at, &part, Mode::from_raw_mode(0o777)) {
                    // Another thread may have been faster.
                    Ok(()) | Err(Errno::EXIST) => left.push((part, false)),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::LOOP | Errno::NOTDIR) if links == Links::Own => {
                let target = target_of_own_link(&at, &part)?;
                followed += 1;
                if followed > LINKS_FOLLOWED_MAX {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    at = open("/", LOOK | FOLDER, Mode::empty())?;
                }
                push(&mut left, &target, false);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(openat(at, ".", FOLDER, Mode::empty())?.into())
}

/// One system call, because most paths have no links.
#[cfg(target_os = "linux")]
fn open_without_links(root: impl AsFd, path: &Path) -> Option<File> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, FOLDER, Mode::empty(), resolve).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_without_links(_: impl AsFd, _: &Path) -> Option<File> {
    None
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part)
}

/// The target of a link that this user, or root, has made. Refuses links of others, as Linux does in sticky folders.
fn target_of_own_link(folder: &OwnedFd, name: &OsString) -> io::Result<PathBuf> {
    let look = || statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let found = look()?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
        return Err(Errno::NOTDIR.into());
    }
    if !is_trusted(found.st_uid) {
        return Err(planted(Path::new(name), found.st_uid));
    }
    let target = readlinkat(folder, name, Vec::new())?;
    let again = look()?;
    let state = |found: &rustix::fs::Stat| (found.st_dev, found.st_ino, found.st_ctime, found.st_ctime_nsec);
    // Somebody may have exchanged the link between the calls.
    if state(&again) != state(&found) {
        return Err(Errno::AGAIN.into());
    }
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// Whether what this user made is trusted: it is the user of this process, or root.
fn is_trusted(uid: u32) -> bool {
    uid == geteuid().as_raw() || uid == 0
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::unix::fs::{PermissionsExt, chown, lchown, symlink},
    };

    use rustix::fs::CWD;

    use super::*;

    /// A folder `in` beside a file `secret`.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        fs::create_dir_all(root.join("in/sub")).unwrap();
        fs::write(root.join("secret"), "secret").unwrap();
        fs::write(root.join("in/sub/a"), "a").unwrap();
        (place, root)
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    }

    #[test]
    fn a_file_is_opened_only_beneath_its_folder() {
        let (_place, root) = place();
        let inside = root.join("in");
        for (target, link) in [
            (Path::new("sub/a"), "near"),
            (&inside.join("sub/a"), "absolute"),
            (Path::new("../in/sub/a"), "round"),
            (Path::new("../secret"), "out"),
            (&root.join("secret"), "far"),
            (Path::new("/proc/self/environ"), "magic"),
            (&root, "up"),
            (Path::new("sub"), "folder"),
            (Path::new("nowhere"), "dangling"),
        ] {
            symlink(target, inside.join(link)).unwrap();
        }
        let folder = Root::open(&inside).unwrap();
        for name in ["sub/a", "near", "absolute", "round", "folder/a"] {
            let mut text = String::new();
            folder.file(Path::new(name)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "a", "{name}");
            assert!(folder.look(Path::new(name)).unwrap().is_file());
        }
        for name in ["out", "far", "magic", "up/secret", "../secret"] {
            let errors = [folder.file(Path::new(name)).err(), folder.look(Path::new(name)).err()];
            assert!(errors.iter().flatten().filter(|error| leads_out(error)).count() == 2, "{name}: {errors:?}");
        }
        let lost = folder.file(Path::new("dangling")).unwrap_err();
        assert!(lost.kind() == ErrorKind::NotFound && !leads_out(&lost));
        assert!(folder.look(Path::new("sub")).unwrap().is_dir());
    }

    #[test]
    fn what_is_not_a_file_is_refused_at_once() {
        let (_place, root) = place();
        fifo(&root.join("in/pipe"));
        let folder = Root::open(&root.join("in")).unwrap();
        for name in ["pipe", "sub"] {
            let why = folder.file(Path::new(name)).unwrap_err().to_string();
            assert_eq!(why, "it is not a regular file", "{name}");
            assert!(open_file(&root.join("in").join(name)).is_err());
        }
        assert!(open_file(Path::new("/dev/null")).is_err());
        assert!(open_file(&root.join("secret")).is_ok());
    }

    #[test]
    fn folders_are_made_and_own_links_among_them_followed() {
        let (_place, root) = place();
        symlink("../elsewhere", root.join("in/link")).unwrap();
        symlink("link", root.join("in/twice")).unwrap();
        symlink(&root, root.join("in/absolute")).unwrap();
        symlink("loop", root.join("in/loop")).unwrap();
        let opened = File::open(root.join("in")).unwrap();
        let open = |path: &str, links| open_folder(&opened, Path::new(path), links, Missing::Made);
        open("new/deep", Links::Refused).unwrap();
        assert!(root.join("in/new/deep").is_dir());
        assert!(open("link/x", Links::Own).is_err(), "a link to nothing is not made a folder");
        fs::create_dir(root.join("elsewhere")).unwrap();
        open("twice/x/y", Links::Own).unwrap();
        open("absolute/z", Links::Own).unwrap();
        assert!(root.join("elsewhere/x/y").is_dir() && root.join("z").is_dir());
        open("", Links::Own).unwrap();
        for refused in ["link", "twice/x", "absolute", "sub/a"] {
            assert!(open(refused, Links::Refused).is_err(), "{refused}");
        }
        assert_eq!(Errno::from_io_error(&open("loop", Links::Own).unwrap_err()), Some(Errno::LOOP));
        let missing = open_folder(&opened, Path::new("none"), Links::Own, Missing::Stays).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_link_of_another_user_is_not_followed() {
        if !geteuid().is_root() {
            println!("SKIPPED: only root can give a link to another user");
            return;
        }
        let (_place, root) = place();
        symlink("../elsewhere", root.join("in/planted")).unwrap();
        symlink("planted", root.join("in/own")).unwrap();
        fs::create_dir(root.join("elsewhere")).unwrap();
        lchown(root.join("in/planted"), Some(4711), None).unwrap();
        let opened = File::open(root.join("in")).unwrap();
        for path in ["planted", "planted/x", "own/x"] {
            let error = open_folder(&opened, Path::new(path), Links::Own, Missing::Made).unwrap_err();
            assert!(is_planted(&error) && error.to_string().contains("another user (uid 4711)"), "{error}");
        }
        assert!(check_link(&root.join("in/planted")).is_ok(), "a colleague's link");
        fs::set_permissions(root.join("in"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(is_planted(&check_link(&root.join("in/planted")).unwrap_err()));
        assert!(["in/own", "in/none", "secret"].iter().all(|name| check_link(&root.join(name)).is_ok()));
        assert_eq!(fs::read_dir(root.join("elsewhere")).unwrap().count(), 0);
        // A folder of another user is not a link.
        chown(root.join("in/sub"), Some(4711), None).unwrap();
        open_folder(&opened, Path::new("sub/x"), Links::Own, Missing::Made).unwrap();
    }
}
