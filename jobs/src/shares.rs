//! Packs the directories that a job shares with its guests, so that the same files give the same archive everywhere.
//!
//! First all directories are scanned, so that entries that cannot be shared, or are too large, are reported before any
//! file is read. An archive has regular files and folders only. A link is packed as its target; it may not lead out of
//! its directory, nor back to a folder that it is in.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use distwasm_proto::{
    digest::Digest,
    guest::{GuestError, Share, check_places, tidy_guest_path},
    limits::{SHARE_ENTRIES_MAX, SHARE_PATH_BYTES_MAX, SHARES_BYTES_MAX, SHARES_MAX},
};
use distwasm_transport::payload::Payload;
use tar::{Builder, EntryType, Header};
use thiserror::Error;

/// Directories that are packed.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// The shares, with their places for the guests.
    pub shares: Vec<Share>,
    /// Each archive once.
    pub archives: Vec<(Digest, Payload)>,
}

/// Why directories cannot be shared.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ShareError {
    #[error(transparent)]
    Place(#[from] GuestError),
    #[error("failed to read {} to share it", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to share {}: it is not a folder", .path.display())]
    NoFolder { path: PathBuf },
    #[error("failed to share {}: it is {what}", .path.display())]
    Special { path: PathBuf, what: &'static str },
    #[error("failed to share {}: its name is not UTF-8", .path.display())]
    Name { path: PathBuf },
    #[error("failed to share {}: its path in the shared directory has more than {SHARE_PATH_BYTES_MAX} bytes", .path.display())]
    LongPath { path: PathBuf },
    #[error("failed to share {}: it is a link that cannot be followed", .path.display())]
    Link { path: PathBuf, source: io::Error },
    #[error("failed to share {}: it is a link that leads out of the shared directory, to {}", .path.display(), .target.display())]
    LeadsOut { path: PathBuf, target: PathBuf },
    #[error("failed to share {}: it is a link to a folder that it is in", .path.display())]
    Loop { path: PathBuf },
    #[error(
        "failed to share {}: it has {count}{} files and folders, and {SHARE_ENTRIES_MAX} may be in one directory",
        .path.display(), if *.or_more { " or more" } else { "" }
    )]
    TooMany { path: PathBuf, count: usize, or_more: bool },
    #[error(
        "the directories to share have {bytes} bytes when they are packed, and may have {SHARES_BYTES_MAX} together"
    )]
    TooLarge { bytes: u64 },
    #[error("failed to share {}: it has changed while it was packed; run again when it is at rest", .path.display())]
    Changed { path: PathBuf },
}

/// Packs directories of this machine, each given with its place for the guests.
///
/// # Errors
///
/// When one of them cannot be shared, or together they are too large. No file is read before all have been scanned.
pub fn pack(directories: &[(PathBuf, String)]) -> Result<Packed, ShareError> {
    if directories.len() > SHARES_MAX {
        return Err(GuestError::TooManyShares { count: directories.len() }.into());
    }
    let places: Vec<String> =
        directories.iter().map(|(_, place)| tidy_guest_path(place)).collect::<Result<_, GuestError>>()?;
    check_places(places.iter().map(String::as_str))?;
    // A directory with two places is one archive.
    let mut plans: Vec<Plan> = Vec::new();
    let mut chosen = Vec::new();
    for (folder, _) in directories {
        let plan = Plan::of(folder)?;
        let known = plans.iter().position(|known| known.root == plan.root);
        chosen.push(known.unwrap_or(plans.len()));
        if known.is_none() {
            plans.push(plan);
        }
    }
    let bytes = plans.iter().map(|plan| plan.bytes).sum();
    if bytes > SHARES_BYTES_MAX {
        return Err(ShareError::TooLarge { bytes });
    }
    let mut digests = Vec::new();
    let mut archives: Vec<(Digest, Payload)> = Vec::new();
    for plan in plans {
        let archive = plan.pack()?;
        let digest = Digest::of([archive.as_slice()]);
        digests.push(digest);
        if !archives.iter().any(|(known, _)| *known == digest) {
            archives.push((digest, archive.into()));
        }
    }
    let digests = chosen.into_iter().filter_map(|plan| digests.get(plan).copied());
    let shares = digests.zip(places).map(|(digest, guest_path)| Share { digest, guest_path });
    Ok(Packed { shares: shares.collect(), archives })
}

/// The entries of one directory's archive, in their order.
#[derive(Debug)]
struct Plan {
    /// The directory, with its links followed.
    root: PathBuf,
    entries: Vec<Entry>,
    /// How many entries there are; not all are kept if there are too many.
    count: usize,
    /// The archive's size.
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    /// The path in the archive.
    name: String,
    /// Where it is, with its links followed.
    source: PathBuf,
    found: Metadata,
}

/// The unit of an archive's size.
const BLOCK_BYTES: u64 = 512;

/// Links may make a directory look far larger than it is; counting ends here.
const COUNTED_MAX: usize = 2 * SHARE_ENTRIES_MAX;

impl Plan {
    fn of(folder: &Path) -> Result<Plan, ShareError> {
        let cannot_read = |source| ShareError::Read { path: folder.to_owned(), source };
        let root = fs::canonicalize(folder).map_err(cannot_read)?;
        if !fs::metadata(&root).map_err(cannot_read)?.is_dir() {
            return Err(ShareError::NoFolder { path: folder.to_owned() });
        }
        // The end of an archive is two empty blocks.
        let mut plan = Plan { root: root.clone(), entries: Vec::new(), count: 0, bytes: 2 * BLOCK_BYTES };
        plan.look_through(&Inside { shown: folder, name: "", source: &root, outer: None })?;
        if plan.count > SHARE_ENTRIES_MAX {
            return Err(ShareError::TooMany { path: folder.to_owned(), count: plan.count, or_more: false });
        }
        Ok(plan)
    }

    /// Goes through a folder in the order of names, each folder before its content.
    fn look_through(&mut self, inside: &Inside) -> Result<(), ShareError> {
        let cannot_read = |source| ShareError::Read { path: inside.shown.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(inside.source).map_err(cannot_read)? {
            let name = entry.map_err(cannot_read)?.file_name();
            let shown = || inside.shown.join(&name);
            names.push(name.to_str().ok_or_else(|| ShareError::Name { path: shown() })?.to_owned());
            if self.count + names.len() > COUNTED_MAX {
                let (path, count) = (self.root.clone(), COUNTED_MAX);
                return Err(ShareError::TooMany { path, count, or_more: true });
            }
        }
        names.sort();
        for name in names {
            let shown = inside.shown.join(&name);
            let (source, found) = self.follow(&shown, inside.source.join(&name))?;
            let name = if inside.name.is_empty() { name } else { format!("{}/{name}", inside.name) };
            if name.len() > SHARE_PATH_BYTES_MAX {
                return Err(ShareError::LongPath { path: shown });
            }
            self.count += 1;
            self.bytes += entry_bytes(&name, &found);
            let folder = found.is_dir().then(|| (name.clone(), source.clone()));
            if self.count <= SHARE_ENTRIES_MAX {
                self.entries.push(Entry { name, source, found });
            }
            if let Some((name, source)) = folder {
                if inside.is_within(&source) {
                    return Err(ShareError::Loop { path: shown });
                }
                self.look_through(&Inside { shown: &shown, name: &name, source: &source, outer: Some(inside) })?;
            }
        }
        Ok(())
    }

    /// The regular file or folder that is there, with links followed.
    fn follow(&self, shown: &Path, source: PathBuf) -> Result<(PathBuf, Metadata), ShareError> {
        let cannot_read = |source| ShareError::Read { path: shown.to_owned(), source };
        let mut found = fs::symlink_metadata(&source).map_err(cannot_read)?;
        let mut source = source;
        if found.is_symlink() {
            let target = fs::canonicalize(&source);
            source = target.map_err(|source| ShareError::Link { path: shown.to_owned(), source })?;
            if !source.starts_with(&self.root) {
                return Err(ShareError::LeadsOut { path: shown.to_owned(), target: source });
            }
            found = fs::symlink_metadata(&source).map_err(cannot_read)?;
        }
        let kind = found.file_type();
        let what = match kind {
            _ if kind.is_file() || kind.is_dir() => return Ok((source, found)),
            _ if kind.is_fifo() => "a named pipe",
            _ if kind.is_socket() => "a socket",
            _ if kind.is_block_device() || kind.is_char_device() => "a device",
            _ => "neither a file nor a folder",
        };
        Err(ShareError::Special { path: shown.to_owned(), what })
    }

    fn pack(self) -> Result<Vec<u8>, ShareError> {
        let mut archive = Builder::new(Vec::with_capacity(usize::try_from(self.bytes).unwrap_or(0)));
        for Entry { name, source, found } in self.entries {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let cannot_pack = |error| ShareError::Read { path: source.clone(), source: error };
            if found.is_dir() {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o555);
                header.set_size(0);
                archive.append_data(&mut header, &name, io::empty()).map_err(cannot_pack)?;
                continue;
            }
            let content = read_unchanged(&source, &found)?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o444);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, &name, content.as_slice()).map_err(cannot_pack)?;
        }
        let archive = archive.into_inner().map_err(|source| ShareError::Read { path: self.root, source })?;
        debug_assert_eq!(archive.len() as u64, self.bytes, "the size of an archive is known before");
        Ok(archive)
    }
}

/// A folder that is being scanned.
struct Inside<'a> {
    /// Its path as the user would write it.
    shown: &'a Path,
    /// Its path in the archive.
    name: &'a str,
    /// Where it is, with its links followed.
    source: &'a Path,
    /// The folder that it is in.
    outer: Option<&'a Inside<'a>>,
}

impl Inside<'_> {
    /// Whether this is `folder`, or lies in it.
    fn is_within(&self, folder: &Path) -> bool {
        self.source == folder || self.outer.is_some_and(|outer| outer.is_within(folder))
    }
}

/// The bytes of an entry in an archive: its header, its content, and its name a second time if it is long.
fn entry_bytes(name: &str, found: &Metadata) -> u64 {
    const SHORT_NAME_BYTES_MAX: usize = 100;
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
    let long_name = if name.len() > SHORT_NAME_BYTES_MAX { BLOCK_BYTES + blocks(name.len() as u64 + 1) } else { 0 };
    let content = if found.is_dir() { 0 } else { blocks(found.len()) };
    BLOCK_BYTES + long_name + content
}

/// Reads a file, and checks that it is still the one that was found and has not changed meanwhile.
fn read_unchanged(path: &Path, found: &Metadata) -> Result<Vec<u8>, ShareError> {
    let cannot_read = |source| ShareError::Read { path: path.to_owned(), source };
    // Something else may have its name by now; opening a named pipe would block without limit.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let mut file: File = opened.map_err(cannot_read)?;
    let mut content = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0) + 1);
    (&mut file).take(found.len() + 1).read_to_end(&mut content).map_err(cannot_read)?;
    let now = file.metadata().map_err(cannot_read)?;
    let state = |file: &Metadata| {
        (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
    };
    if state(&now) != state(found) || content.len() as u64 != found.len() {
        return Err(ShareError::Changed { path: path.to_owned() });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
    };

    use super::*;

    /// A directory with a file and a folder with a file.
    fn directory() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/b"), "bb").unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        folder
    }

    fn pack_one(folder: &Path) -> Result<Packed, ShareError> {
        pack(&[(folder.to_owned(), "/data".to_owned())])
    }

    /// Names with kinds, modes and contents.
    fn listed(packed: &Packed) -> Vec<String> {
        let [(_, archive)] = packed.archives.as_slice() else { panic!("there is one archive") };
        let bytes = archive.contiguous();
        let mut archive = tar::Archive::new(bytes.as_ref());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            assert_eq!((header.username(), header.groupname()), (Ok(Some("")), Ok(Some(""))));
            format!("{} {:o} {content}", entry.path().unwrap().display(), header.mode().unwrap())
        });
        entries.collect()
    }

    fn refused(folder: &Path) -> String {
        let error = pack_one(folder).unwrap_err();
        distwasm_proto::error_text::chain(&error).replace(&folder.display().to_string(), "DIR")
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        let (one, other) = (directory(), directory());
        File::open(other.path().join("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let packed = pack_one(one.path()).unwrap();
        assert_eq!(packed.shares, pack_one(other.path()).unwrap().shares);
        assert_eq!(listed(&packed), ["a 444 a", "sub 555 ", "sub/b 444 bb"]);
    }

    #[test]
    fn long_names_are_kept_and_sizes_are_known_before() {
        for length in [98, 99, 100, 101, 255] {
            let folder = directory();
            let name = "ä".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
            fs::write(folder.path().join(&name), vec![b'x'; 513]).unwrap();
            fs::write(folder.path().join("sub").join(&name), vec![b'x'; 512]).unwrap();
            let plan = Plan::of(folder.path()).unwrap();
            let (bytes, root) = (plan.bytes, plan.root.clone());
            assert_eq!(plan.pack().unwrap().len() as u64, bytes, "{length}");
            let names = listed(&pack_one(&root).unwrap());
            assert!(names.iter().any(|entry| entry.starts_with(&format!("sub/{name} 444 "))), "{names:?}");
        }
    }

    #[test]
    fn links_that_stay_inside_are_what_they_point_to() {
        let folder = directory();
        symlink("sub", folder.path().join("link")).unwrap();
        symlink("../a", folder.path().join("sub/c")).unwrap();
        let packed = pack_one(folder.path()).unwrap();
        let expected =
            ["a 444 a", "link 555 ", "link/b 444 bb", "link/c 444 a", "sub 555 ", "sub/b 444 bb", "sub/c 444 a"];
        assert_eq!(listed(&packed), expected);
    }

    #[test]
    fn an_entry_that_cannot_be_shared_is_named() {
        let with = |make: &dyn Fn(&Path)| {
            let folder = directory();
            make(&folder.path().join("sub/x"));
            refused(folder.path())
        };
        let said = "failed to share DIR/sub/x: it is a link that leads out of the shared directory, to /";
        assert!(with(&|x| symlink("/proc/self/status", x).unwrap()).starts_with(said));
        assert!(with(&|x| symlink("../..", x).unwrap()).starts_with(said));
        let said = "failed to share DIR/sub/x: it is a link that cannot be followed: ";
        assert!(with(&|x| symlink("nowhere", x).unwrap()).starts_with(said));
        assert!(with(&|x| symlink("x", x).unwrap()).starts_with(said));
        let said = "failed to share DIR/sub/x: it is a link to a folder that it is in";
        assert_eq!(with(&|x| symlink(".", x).unwrap()), said);
        assert_eq!(with(&|x| symlink("..", x).unwrap()), said);
        assert_eq!(with(&|x| drop(UnixListener::bind(x).unwrap())), "failed to share DIR/sub/x: it is a socket");
        let fifo = |x: &Path| assert!(std::process::Command::new("mkfifo").arg(x).status().unwrap().success());
        assert_eq!(with(&fifo), "failed to share DIR/sub/x: it is a named pipe");
        let not_text = |x: &Path| fs::write(x.with_file_name(OsStr::from_bytes(b"\xff")), "").unwrap();
        assert!(with(&not_text).ends_with("its name is not UTF-8"));
        let folder = directory();
        assert!(refused(&folder.path().join("none")).starts_with("failed to read DIR to share it: "));
        assert_eq!(refused(&folder.path().join("a")), "failed to share DIR: it is not a folder");
    }

    #[test]
    fn too_large_a_directory_is_refused_before_it_is_read() {
        let folder = directory();
        // A file without blocks, far too large to be read here.
        File::create(folder.path().join("large")).unwrap().set_len(1 << 40).unwrap();
        let bytes = (1_u64 << 40) + 8 * BLOCK_BYTES;
        let said = format!("have {bytes} bytes when they are packed, and may have 268435456 together");
        assert!(refused(folder.path()).contains(&said), "{}", refused(folder.path()));
    }

    #[test]
    fn links_that_multiply_are_counted_only_so_far() {
        let folder = tempfile::tempdir().unwrap();
        for level in 0..30 {
            let inside = folder.path().join(level.to_string());
            fs::create_dir(&inside).unwrap();
            for link in ["a", "b", "c"] {
                symlink(format!("../{}", level + 1), inside.join(link)).unwrap();
            }
        }
        fs::create_dir(folder.path().join("30")).unwrap();
        assert!(refused(folder.path()).contains("it has 200000 or more files and folders, and 100000 may be"));
    }

    #[test]
    fn links_that_go_ever_deeper_end_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        for level in 0..2000 {
            let inside = folder.path().join(level.to_string());
            fs::create_dir(&inside).unwrap();
            symlink(format!("../{}", level + 1), inside.join("a")).unwrap();
        }
        fs::create_dir(folder.path().join("2000")).unwrap();
        let said = refused(folder.path());
        assert!(said.ends_with("/a: its path in the shared directory has more than 3072 bytes"), "{said}");
    }

    #[test]
    fn a_file_that_changes_is_not_packed() {
        let folder = directory();
        let plan = Plan::of(folder.path()).unwrap();
        fs::write(folder.path().join("a"), "longer").unwrap();
        assert!(matches!(plan.pack(), Err(ShareError::Changed { path }) if path.ends_with("a")));
        let plan = Plan::of(folder.path()).unwrap();
        fs::remove_file(folder.path().join("a")).unwrap();
        symlink("sub/b", folder.path().join("a")).unwrap();
        assert!(plan.pack().is_err());
    }

    #[test]
    fn one_directory_in_two_places_is_one_archive_and_places_do_not_overlap() {
        let folder = directory();
        let at = |places: [&str; 2]| pack(&places.map(|place| (folder.path().to_owned(), place.to_owned())));
        let packed = at(["/one/", "two"]).unwrap();
        assert_eq!((packed.shares.len(), packed.archives.len()), (2, 1));
        assert_eq!(packed.shares[0].guest_path, "/one");
        for places in [["/a/", "a"], ["/a", "/a/b"], ["..", "b"], ["", "b"]] {
            assert!(matches!(at(places), Err(ShareError::Place(_))), "{places:?}");
        }
    }
}
