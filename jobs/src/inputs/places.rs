//! Finds folders of inputs whose outputs would collide because folders among the outputs are links: two folders of
//! inputs must not share one folder of outputs, or an output of one would be taken for that of the other.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use distwasm_process::beneath::{self, Links, Missing};

use crate::descriptors::when_there_are;

/// The folders of a run, and the links among the outputs that were followed.
pub struct Places<'a> {
    /// The folder of inputs.
    pub input: &'a Path,
    /// The folder of outputs, without links in its path.
    pub output: &'a Path,
    /// The folder of outputs, open, if it is there.
    opened: Option<File>,
    /// Real folders, and the folder of inputs whose outputs belong there: the output folder, and the targets of the
    /// links that were followed.
    claims: BTreeMap<PathBuf, PathBuf>,
    /// Whether outputs are called otherwise than their inputs, so that any folder may have outputs.
    pub(super) is_renamed: bool,
}

impl<'a> Places<'a> {
    /// Starts without any link that was followed.
    pub fn new(input: &'a Path, output: &'a Path, is_renamed: bool) -> Places<'a> {
        let claims = BTreeMap::from([(output.to_owned(), PathBuf::new())]);
        Places { input, output, opened: when_there_are(|| File::open(output)).ok(), claims, is_renamed }
    }

    /// Why the outputs of a folder would lie among those of another one, if they would.
    pub fn collision(&mut self, folder: &Path) -> Option<String> {
        if !self.may_be_linked(folder) {
            return None;
        }
        if let Some(opened) = &self.opened
            && let Err(error) = beneath::open_folder(opened, folder, Links::Own, Missing::Stays)
            && beneath::is_planted(&error)
        {
            return Some(format!("its outputs cannot be written: {error}"));
        }
        // A folder that does not exist yet will be created, and not as a link.
        let real = fs::canonicalize(self.output.join(folder)).ok()?;
        if real.starts_with(self.input) {
            return Some(format!("its outputs would lie among the inputs, in {}: a folder is a link", real.display()));
        }
        for above in real.ancestors() {
            let Some(claimed) = self.claims.get(above) else { continue };
            let below = real.strip_prefix(above).unwrap_or(Path::new(""));
            let owner: PathBuf = claimed.components().chain(below.components()).collect();
            if owner == folder {
                return None;
            }
            if self.is_renamed || self.input.join(&owner).is_dir() {
                let (real, owner) = (real.display(), name(&owner));
                return Some(format!(
                    "its outputs would lie in {real}, where those of {owner} belong: a folder is a link"
                ));
            }
        }
        self.claims.insert(real, folder.to_owned());
        None
    }

    /// Whether there is a link on the way to a folder of outputs. One system call, because most runs have no links.
    #[cfg(target_os = "linux")]
    fn may_be_linked(&self, folder: &Path) -> bool {
        use rustix::{
            fs::{Mode, OFlags, ResolveFlags, openat2},
            io::Errno,
        };
        let Some(opened) = &self.opened else { return false };
        if folder.as_os_str().is_empty() {
            return false;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = openat2(opened, folder, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        // On any other result (or without this system call) the caller resolves the path.
        !matches!(found, Ok(_) | Err(Errno::NOENT))
    }

    #[cfg(not(target_os = "linux"))]
    fn may_be_linked(&self, folder: &Path) -> bool {
        self.opened.is_some() && !folder.as_os_str().is_empty()
    }
}

fn name(folder: &Path) -> String {
    if folder.as_os_str().is_empty() { "the input folder itself".to_owned() } else { folder.display().to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_folders_of_inputs_never_share_a_folder_of_outputs() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        let (input, output) = (root.join("in"), root.join("out"));
        for folder in ["a", "b", "c/d", "e", "f/g", "h", "plain/deep", "up", "moved", "back"] {
            fs::create_dir_all(input.join(folder)).unwrap();
        }
        for folder in ["out/a", "out/archive/moved", "out/c", "out/plain/deep", "elsewhere/g"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (target, link) in [
            ("a", "b"),
            ("../../elsewhere", "c/d"),
            ("../elsewhere", "e"),
            ("../elsewhere", "f"),
            ("../nowhere", "h"),
            (".", "up"),
            ("../in/a", "back"),
            ("archive/moved", "moved"),
        ] {
            symlink(target, output.join(link)).unwrap();
        }
        let mut places = Places::new(&input, &output, false);
        let mut collides = |folder: &str| places.collision(Path::new(folder));
        // A link that leads away from all other outputs is as good as a folder, and so are the folders below it.
        for fine in ["", "a", "c", "c/d", "c/d/g", "plain", "plain/deep", "h", "moved", "new"] {
            assert_eq!(collides(fine), None, "{fine}");
        }
        for (folder, owner) in [("b", "those of a "), ("e", "those of c/d "), ("f", "c/d"), ("up", "the input folder")]
        {
            let why = collides(folder).unwrap();
            assert!(why.contains(owner), "{folder}: {why}");
        }
        assert!(collides("back").unwrap().contains("among the inputs"));
        let mut the_other_way_round = Places::new(&input, &output, false);
        assert_eq!(the_other_way_round.collision(Path::new("f/g")), None);
        assert_eq!(the_other_way_round.collision(Path::new("f")), None);
        let mut renamed = Places::new(&input, &output, true);
        assert!(renamed.collision(Path::new("moved")).unwrap().contains("archive/moved"));
        fs::create_dir(input.join("e/g")).unwrap();
        assert!(the_other_way_round.collision(Path::new("e/g")).unwrap().contains("f/g"));
    }

    #[test]
    fn a_link_of_another_user_is_told() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a link to another user");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        fs::create_dir_all(root.join("out")).unwrap();
        symlink(&root, root.join("out/x")).unwrap();
        let (input, output) = (root.join("in"), root.join("out"));
        let mut places = Places::new(&input, &output, false);
        assert_eq!(places.collision(Path::new("x")), None);
        std::os::unix::fs::lchown(root.join("out/x"), Some(4711), None).unwrap();
        let why = places.collision(Path::new("x")).unwrap();
        assert!(why.contains("x is a link that belongs to another user (uid 4711)"), "{why}");
    }
}
