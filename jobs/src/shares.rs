//! Packs the directories that a job shares with its guests, so that the same files give the same archive everywhere.
//!
//! First all directories are scanned, so that entries that cannot be shared, or are too large, are reported before any
//! file is read. An archive has regular files and folders only. A link is packed as its target; it may not lead out of
//! its directory, nor back to a folder that it is in.

mod plan;

use std::{io, path::PathBuf};

use distwasm_proto::{
    digest::Digest,
    guest::{GuestError, Share, check_places, tidy_guest_path},
    limits::{
        DISK_BLOCK_BYTES, SHARE_PATH_BYTES_MAX, SHARES_BYTES_MAX, SHARES_DISK_BYTES_MAX, SHARES_ENTRIES_MAX, SHARES_MAX,
    },
};
use distwasm_transport::payload::Payload;
use thiserror::Error;

use plan::Plan;

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
        "failed to share {}: it has {count}{} files and folders, and {SHARES_ENTRIES_MAX} may be in all shared directories",
        .path.display(), if *.or_more { " or more" } else { "" }
    )]
    TooMany { path: PathBuf, count: usize, or_more: bool },
    #[error(
        "the directories to share have {bytes} bytes when they are packed, and may have {SHARES_BYTES_MAX} together"
    )]
    TooLarge { bytes: u64 },
    #[error("the directories to share have {count} files and folders, and may have {SHARES_ENTRIES_MAX} together")]
    TooManyTogether { count: usize },
    #[error(
        "the directories to share take {} MB of each duke's disk, in blocks of {} KB, and may take {} MB together; \
        fewer and larger files take less",
        .bytes.div_ceil(1 << 20), DISK_BLOCK_BYTES >> 10, SHARES_DISK_BYTES_MAX >> 20
    )]
    TooLargeUnpacked { bytes: u64 },
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
    check_sizes(&plans)?;
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

/// Refuses more than a job may share. A duke refuses the same, later.
fn check_sizes(plans: &[Plan]) -> Result<(), ShareError> {
    let bytes = plans.iter().map(|plan| plan.bytes).sum();
    if bytes > SHARES_BYTES_MAX {
        return Err(ShareError::TooLarge { bytes });
    }
    let count = plans.iter().map(|plan| plan.count).sum();
    if count > SHARES_ENTRIES_MAX {
        return Err(ShareError::TooManyTogether { count });
    }
    let bytes = plans.iter().map(|plan| plan.disk_bytes).sum();
    if bytes > SHARES_DISK_BYTES_MAX {
        return Err(ShareError::TooLargeUnpacked { bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        fs::{self, File},
        io::Read,
        os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
        path::Path,
    };

    use distwasm_proto::guest::disk_bytes;

    use super::{plan::BLOCK_BYTES, *};

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

    /// A plan for this number of files of this size, which are there under one name.
    fn plan_of(folder: &Path, files: usize, bytes: u64) -> Plan {
        let mut plan = Plan::of(folder).unwrap();
        plan.count += files;
        plan.bytes += files as u64 * (BLOCK_BYTES + bytes.next_multiple_of(BLOCK_BYTES));
        plan.disk_bytes += files as u64 * disk_bytes(Some(bytes));
        plan
    }

    #[test]
    fn many_small_files_are_refused_before_they_are_read() {
        let folder = directory();
        let refused = |plans: &[Plan]| check_sizes(plans).unwrap_err().to_string();
        let said = refused(&[plan_of(folder.path(), 60_000, 0), plan_of(folder.path(), 60_000, 0)]);
        assert_eq!(said, "the directories to share have 120006 files and folders, and may have 100000 together");
        let said = refused(&[plan_of(folder.path(), 60_000, 1), plan_of(folder.path(), 39_000, 4097)]);
        assert!(said.contains("take 540 MB of each duke's disk, in blocks of 4 KB, and may take 512 MB"), "{said}");
        assert!(check_sizes(&[plan_of(folder.path(), 99_997, 1)]).is_ok());
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
