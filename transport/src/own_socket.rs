//! The Unix socket of a king: on one machine, the file system proves that king and peer belong to the same user.
//!
//! The socket is named by the king's TCP port, in a folder that only its user can enter. Both sides check the other's
//! user, too. A folder that somebody else has made is never used, and people are told of it.

use std::{
    collections::BTreeSet,
    env,
    ffi::CStr,
    fmt::Write as _,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    task::{Context, Poll},
};

use distwasm_proto::limits::{LOCK_TRIES, SOCKET_PATH_BYTES_MAX};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, statat, unlinkat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_now, socket_with},
    process::geteuid,
};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

/// Why a king has no socket.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SocketError {
    #[error("another king of this user has the socket of port {port}, {}", .path.display())]
    Taken { port: u16, path: PathBuf },
    #[error("none of these folders will do:{reasons}")]
    NoFolder { reasons: String },
}

/// The socket of a king, which is removed when this is dropped.
#[derive(Debug)]
pub struct OwnSocket {
    listener: UnixListener,
    path: PathBuf,
    socket: String,
    lock: String,
    folder: OwnedFd,
    /// Locked as long as the king lives, so that a socket without a lock is known to be dead.
    _locked: File,
}

/// The folders for sockets, the first choice first.
fn folders() -> Vec<PathBuf> {
    let user = geteuid().as_raw();
    let chosen = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = Some(PathBuf::from(format!("/run/user/{user}"))).filter(|path| path.is_dir());
    let runtime = chosen.into_iter().chain(usual).map(|folder| folder.join("distwasm"));
    runtime.chain([PathBuf::from(format!("/tmp/distwasm-{user}"))]).collect()
}

/// Opens a folder if nobody but this user can enter it.
fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => io::Error::other("it is a link, or not a folder"),
        error => error.into(),
    })?;
    let found = fstat(&folder)?;
    if found.st_uid != geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to another user (uid {})", found.st_uid)));
    }
    if found.st_mode & 0o077 != 0 {
        return Err(io::Error::other(format!("others may enter it (chmod 700 {})", path.display())));
    }
    Ok(folder)
}

fn create_folder(path: &Path) -> io::Result<OwnedFd> {
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_folder(path),
        Err(error) => Err(error.into()),
    }
}

/// The folders for sockets that are there and are not used, because they are not this user's alone, with the reasons.
/// Empty if there are none.
pub(crate) fn unsafe_folders() -> String {
    unsafe_among(&folders())
}

fn unsafe_among(folders: &[PathBuf]) -> String {
    let why = |folder: &PathBuf| match open_folder(folder) {
        // Other errors, such as that there is no folder, are nobody's doing.
        Err(error) if error.kind() == io::ErrorKind::Other => Some(format!("{}: {error}", folder.display())),
        _ => None,
    };
    folders.iter().filter_map(why).collect::<Vec<_>>().join("; ")
}

fn names(port: u16) -> (String, String) {
    (format!("{port}.sock"), format!("{port}.lock"))
}

/// A path to the socket that fits into an address, in an open folder.
fn short_path(path: &Path, folder: &OwnedFd, name: &str) -> PathBuf {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return path.to_owned();
    }
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Whether the other side is a process of this user, or of root.
///
/// # Errors
///
/// When the system does not say it.
pub fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let user = stream.peer_cred()?.uid();
    Ok(user == 0 || user == geteuid().as_raw())
}

impl OwnSocket {
    /// Listens on the socket of this port. A socket that a dead king left behind is replaced, and those of other ports
    /// are removed.
    ///
    /// # Errors
    ///
    /// When another king of this user has it, or no folder can be used.
    pub fn listen(port: u16) -> Result<OwnSocket, SocketError> {
        let folders = folders();
        let socket = OwnSocket::listen_among(&folders, port)?;
        folders.iter().for_each(|folder| sweep(folder));
        Ok(socket)
    }

    fn listen_among(folders: &[PathBuf], port: u16) -> Result<OwnSocket, SocketError> {
        let mut reasons = String::new();
        for folder in folders {
            match OwnSocket::listen_in(folder, port) {
                Ok(Some(socket)) => return Ok(socket),
                Ok(None) => return Err(SocketError::Taken { port, path: folder.join(names(port).0) }),
                // Writing to a text cannot fail.
                Err(error) => _ = write!(reasons, " {}: {error};", folder.display()),
            }
        }
        reasons.pop();
        Err(SocketError::NoFolder { reasons })
    }

    /// `None` if another king has it.
    fn listen_in(path: &Path, port: u16) -> io::Result<Option<OwnSocket>> {
        let folder = create_folder(path)?;
        let (socket, lock) = names(port);
        let Some(locked) = take_lock(&folder, &lock, LOCK_TRIES)? else { return Ok(None) };
        match unlinkat(&folder, &socket, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let path = path.join(&socket);
        let listener = UnixListener::bind(short_path(&path, &folder, &socket))?;
        Ok(Some(OwnSocket { listener, path, socket, lock, folder, _locked: locked }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts a connection; the user of the other side is not checked yet.
    ///
    /// # Errors
    ///
    /// As accepting fails for any listener.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.listener.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        // The lock is held, so both files are those of this king. They may have been removed.
        for name in [&self.socket, &self.lock] {
            let _removed = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

/// Takes the lock of a socket; `None` if another process has it.
fn take_lock(folder: &OwnedFd, name: &str, tries: u32) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..tries {
        let lock = openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // A king that starts on another port may have it for a moment, to see whether its king is dead.
                std::thread::yield_now();
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        // A king that ended meanwhile may have removed the file, and then the lock is of no use.
        let is_there = statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|there| Ok((there.st_dev, there.st_ino) == fstat(&lock).map(|ours| (ours.st_dev, ours.st_ino))?));
        if is_there == Ok(true) {
            return Ok(Some(File::from(lock)));
        }
    }
    Ok(None)
}

/// Removes what dead kings have left in a folder, if it is this user's alone: sockets on which nobody listens, and their
/// locks. Nothing but files with our names is looked at.
fn sweep(path: &Path) {
    let Ok(folder) = open_folder(path) else { return };
    let Ok(entries) = Dir::read_from(&folder) else { return };
    let ports: BTreeSet<u16> = entries.flatten().filter_map(|entry| port_of(entry.file_name())).collect();
    for port in ports {
        // What cannot be removed stays, as without this; it costs a name in a folder.
        let _removed = remove_dead(path, &folder, port);
    }
}

/// The port of the king to which a file of this name belongs; `None` if we make no such names.
fn port_of(name: &CStr) -> Option<u16> {
    let name = name.to_str().ok()?;
    let digits = name.strip_suffix(".sock").or_else(|| name.strip_suffix(".lock"))?;
    digits.parse::<u16>().ok().filter(|port| port.to_string() == digits)
}

fn remove_dead(path: &Path, folder: &OwnedFd, port: u16) -> io::Result<()> {
    let (socket, lock) = names(port);
    let type_of = |name: &str| match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(io::Error::from(error)),
    };
    let is_ours = |name: &str, own: FileType| type_of(name).map(|found| found.is_none_or(|found| found == own));
    if !is_ours(&socket, FileType::Socket)? || !is_ours(&lock, FileType::RegularFile)? {
        return Ok(());
    }
    // A living king has the lock, unless somebody has cleaned up in the folder. With it, none can begin here.
    let Some(_locked) = take_lock(folder, &lock, 1)? else { return Ok(()) };
    if type_of(&socket)?.is_some() {
        if listens(&short_path(&path.join(&socket), folder, &socket))? {
            return Ok(());
        }
        unlinkat(folder, &socket, AtFlags::empty())?;
    }
    Ok(unlinkat(folder, &lock, AtFlags::empty())?)
}

/// Whether some process listens on this socket. Does not wait for it.
fn listens(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect_now(&socket, &SocketAddrUnix::new(path)?) {
        // Its queue may be full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the king of this user, or of root, that listens on this port of this machine. `None` if there is none.
///
/// # Errors
///
/// When there is one that cannot be reached at the moment.
pub async fn connect(port: u16) -> io::Result<Option<UnixStream>> {
    connect_among(&folders(), port).await
}

async fn connect_among(folders: &[PathBuf], port: u16) -> io::Result<Option<UnixStream>> {
    for path in folders {
        let Ok(folder) = open_folder(path) else { continue };
        let name = names(port).0;
        match UnixStream::connect(short_path(&path.join(&name), &folder, &name)).await {
            Ok(stream) if is_trusted(&stream)? => return Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, chown, symlink},
    };

    use super::*;

    /// A folder for sockets that does not exist yet.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("distwasm");
        (place, folder)
    }

    async fn accept(socket: &OwnSocket) -> UnixStream {
        std::future::poll_fn(|context| socket.poll_accept(context)).await.unwrap()
    }

    #[tokio::test]
    async fn a_peer_of_the_same_user_finds_the_king_in_any_of_the_folders() {
        let (place, folder) = place();
        let folders = [place.path().join("missing/distwasm"), folder.clone()];
        assert!(connect_among(&folders, 1900).await.unwrap().is_none());
        let socket = OwnSocket::listen_among(&folders, 1900).unwrap();
        assert_eq!(socket.path(), folder.join("1900.sock"));
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(connect_among(&folders, 1901).await.unwrap().is_none());
        let stream = connect_among(&folders, 1900).await.unwrap().unwrap();
        assert!(is_trusted(&stream).unwrap() && is_trusted(&accept(&socket).await).unwrap());
        let why = OwnSocket::listen_among(&folders, 1900).unwrap_err().to_string();
        assert!(why.contains("another king of this user"), "{why}");
        drop(socket);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_king_is_replaced() {
        let (_place, folder) = place();
        let folders = [folder.clone()];
        let socket = OwnSocket::listen_among(&folders, 7).unwrap();
        // A dead king does not remove its files.
        let (dead, locked) = (folder.join("7.sock"), folder.join("7.lock"));
        fs::rename(&dead, folder.join("kept")).unwrap();
        drop(socket);
        fs::rename(folder.join("kept"), &dead).unwrap();
        fs::write(&locked, "").unwrap();
        assert!(connect_among(&folders, 7).await.unwrap().is_none());
        let socket = OwnSocket::listen_among(&folders, 7).unwrap();
        assert!(connect_among(&folders, 7).await.unwrap().is_some());
        accept(&socket).await;
    }

    #[tokio::test]
    async fn a_king_removes_what_dead_kings_left_and_nothing_else() {
        let (_place, folder) = place();
        let folders = [folder.clone()];
        let living = OwnSocket::listen_among(&folders, 1).unwrap();
        let path = |name: &str| folder.join(name);
        // A king that was killed: nobody listens, and nobody has the lock.
        drop(std::os::unix::net::UnixListener::bind(path("2.sock")).unwrap());
        fs::write(path("2.lock"), "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("65535.sock")).unwrap());
        fs::write(path("4.lock"), "").unwrap();
        // Somebody listens though the lock is gone.
        let _listener = UnixListener::bind(path("5.sock")).unwrap();
        let others = ["02.sock", "65536.sock", "-1.sock", "6.sock.bak", "x.lock", "sock"];
        others.iter().for_each(|name| drop(std::os::unix::net::UnixListener::bind(path(name)).unwrap()));
        fs::write(path("7.sock"), "no socket").unwrap();
        symlink("2.sock", path("8.sock")).unwrap();
        symlink("7.sock", path("9.lock")).unwrap();
        fs::create_dir(path("10.lock")).unwrap();
        sweep(&folder);
        let mut expected: Vec<String> = others.iter().map(ToString::to_string).collect();
        expected.extend(
            ["1.sock", "1.lock", "5.sock", "5.lock", "7.sock", "8.sock", "9.lock", "10.lock"].map(String::from),
        );
        expected.sort();
        let mut left: Vec<String> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, expected);
        assert!(connect_among(&folders, 1).await.unwrap().is_some());
        accept(&living).await;
        // A folder of somebody else is not looked at.
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path("2.sock")).unwrap());
        sweep(&folder);
        assert!(path("2.sock").exists());
    }

    #[tokio::test]
    async fn a_long_path_is_no_obstacle() {
        let (place, _) = place();
        let folders = [place.path().join("long".repeat(50)).join("distwasm")];
        fs::create_dir(folders[0].parent().unwrap()).unwrap();
        let socket = OwnSocket::listen_among(&folders, 1900).unwrap();
        assert!(socket.path().as_os_str().len() > SOCKET_PATH_BYTES_MAX && socket.path().exists());
        assert!(connect_among(&folders, 1900).await.unwrap().is_some());
        accept(&socket).await;
    }

    #[tokio::test]
    async fn a_folder_that_others_may_enter_is_not_used() {
        let (place, folder) = place();
        fs::create_dir(&folder).unwrap();
        let folders = [folder.clone()];
        // Whatever listens there is not asked who it is.
        let _planted = UnixListener::bind(folder.join("1900.sock")).unwrap();
        let why = |folders: &[PathBuf]| OwnSocket::listen_among(folders, 1900).unwrap_err().to_string();
        for mode in [0o755, 0o770, 0o711] {
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            assert!(why(&folders).contains("others may enter it (chmod 700"), "{}", why(&folders));
            assert!(connect_among(&folders, 1900).await.unwrap().is_none());
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        let link = [place.path().join("link")];
        symlink(&folder, &link[0]).unwrap();
        assert!(why(&link).contains("it is a link"), "{}", why(&link));
        assert!(connect_among(&link, 1900).await.unwrap().is_none());
        if !geteuid().is_root() {
            println!("SKIPPED: only root can give a folder to another user");
            return;
        }
        chown(&folder, Some(4711), None).unwrap();
        assert!(why(&folders).contains("another user (uid 4711)"), "{}", why(&folders));
        let told = unsafe_among(&[place.path().join("missing"), folder.clone(), link[0].clone()]);
        assert!(
            told.contains("distwasm: it belongs to another user (uid 4711); ") && told.contains("a link"),
            "{told}"
        );
        assert!(connect_among(&folders, 1900).await.unwrap().is_none());
        // The next folder will do.
        let next = [folder, place.path().join("next")];
        let socket = OwnSocket::listen_among(&next, 1900).unwrap();
        assert_eq!(socket.path(), place.path().join("next/1900.sock"));
    }
}
