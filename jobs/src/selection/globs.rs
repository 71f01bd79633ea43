//! The globs of `--include` and `--exclude`, in the order in which they were given: the last one that matches a file, or
//! a folder that the file is in, decides.

use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use thiserror::Error;

use super::LeftOutBy;

/// A glob as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobRule {
    /// Whether it includes or excludes.
    pub is_include: bool,
    /// The glob. Without a slash it matches a name in any folder; with one, a path below the input folder. A slash at
    /// its end makes it match folders alone.
    pub glob: String,
    /// Where it was written, for messages: a flag, or a line of a file.
    pub place: String,
}

/// A glob that cannot be used.
#[derive(Debug, Error)]
#[error("{place}: the glob {glob:?} cannot be used: {why}")]
pub struct GlobError {
    place: String,
    glob: String,
    why: String,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    set: GlobSet,
    rules: Vec<Compiled>,
    /// The last rule that includes; without one, what no rule matches is included.
    last_include: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Compiled {
    is_include: bool,
    only_folders: bool,
}

/// The last rule that matches a folder, or one of the folders that it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderMatch(Option<usize>);

impl Globs {
    /// Compiles globs.
    ///
    /// # Errors
    ///
    /// When one of them is not a glob, with where it was written.
    pub fn new(rules: &[GlobRule]) -> Result<Globs, GlobError> {
        let mut set = GlobSetBuilder::new();
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            let error = |why: String| GlobError { place: rule.place.clone(), glob: rule.glob.clone(), why };
            let (glob, only_folders) = match rule.glob.strip_suffix('/') {
                Some(folder) => (folder, true),
                None => (rule.glob.as_str(), false),
            };
            let (glob, is_anchored) = match glob.strip_prefix('/') {
                Some(below) => (below, true),
                None => (glob, glob.contains('/')),
            };
            if glob.is_empty() {
                return Err(error("it is empty".to_owned()));
            }
            if glob.split('/').any(|part| part == "..") {
                return Err(error("it has `..`, and no path of an input has that".to_owned()));
            }
            // `./a` is how shells complete a path.
            let glob = glob.strip_prefix("./").unwrap_or(glob);
            let whole = if is_anchored { glob.to_owned() } else { format!("**/{glob}") };
            let built = GlobBuilder::new(&whole).literal_separator(true).backslash_escape(true).build();
            set.add(built.map_err(|found| error(found.kind().to_string()))?);
            compiled.push(Compiled { is_include: rule.is_include, only_folders });
        }
        let error = |found: globset::Error| GlobError {
            place: "--include and --exclude".to_owned(),
            glob: found.glob().unwrap_or_default().to_owned(),
            why: found.kind().to_string(),
        };
        let last_include = compiled.iter().rposition(|rule| rule.is_include);
        Ok(Globs { set: set.build().map_err(error)?, rules: compiled, last_include })
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What a folder inside another one inherits; `above` is what that other one inherits.
    pub fn folder(&self, above: FolderMatch, folder: &Path) -> FolderMatch {
        self.last_match(above, folder, true)
    }

    /// What a folder inherits, found from its path alone.
    pub fn folder_by_path(&self, folder: &Path) -> FolderMatch {
        if self.is_empty() {
            return FolderMatch::default();
        }
        let mut folders: Vec<&Path> = folder.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        folders.reverse();
        folders.into_iter().fold(FolderMatch::default(), |above, folder| self.folder(above, folder))
    }

    /// Whether nothing below a folder can be an input.
    pub fn prunes(&self, folder: FolderMatch) -> bool {
        let is_excluded = |rule: usize| self.rules.get(rule).is_some_and(|rule| !rule.is_include);
        folder.0.is_some_and(|rule| is_excluded(rule) && self.last_include.is_none_or(|include| include < rule))
    }

    /// Whether a glob leaves this file out; `folder` is what its folder inherits.
    pub(super) fn leave_out(&self, folder: FolderMatch, path: &Path) -> Option<LeftOutBy> {
        if self.is_empty() {
            return None;
        }
        match self.last_match(folder, path, false).0.and_then(|rule| self.rules.get(rule)) {
            Some(rule) if rule.is_include => None,
            Some(_) => Some(LeftOutBy::Exclude),
            None => self.last_include.map(|_| LeftOutBy::Include),
        }
    }

    fn last_match(&self, above: FolderMatch, path: &Path, is_folder: bool) -> FolderMatch {
        if self.is_empty() {
            return above;
        }
        let candidate = Candidate::new(path);
        let is_for = |rule: usize| is_folder || self.rules.get(rule).is_some_and(|rule| !rule.only_folders);
        let own = self.set.matches_candidate(&candidate).into_iter().filter(|rule| is_for(*rule)).max();
        above.max(FolderMatch(own))
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    /// Globs from words such as `+*.txt` and `-tmp/`.
    fn globs(words: &[&str]) -> Globs {
        let rules = words.iter().map(|word| GlobRule {
            is_include: word.starts_with('+'),
            glob: word[1..].to_owned(),
            place: "here".to_owned(),
        });
        Globs::new(&rules.collect::<Vec<GlobRule>>()).unwrap()
    }

    fn left_out(globs: &Globs, path: &str) -> Option<LeftOutBy> {
        let path = Path::new(path);
        globs.leave_out(globs.folder_by_path(path.parent().unwrap()), path)
    }

    #[test]
    fn the_last_glob_that_matches_decides() {
        for (words, kept, excluded, not_included) in [
            (&[][..], &["a", ".hidden", "d/e"][..], &[][..], &[][..]),
            (&["-*.tmp"], &["a", "tmp"], &["a.tmp", "d/a.tmp", ".tmp"], &[]),
            (&["+*.txt"], &["a.txt", "d/e/b.txt"], &[], &["a.md", "txt"]),
            (&["+*.txt", "-draft*"], &["a.txt"], &["draft.txt", "draft/a.txt"], &["a"]),
            (&["-*", "+keep"], &["keep", "d/keep", "keep/a"], &["a"], &[]),
            (&["-.*"], &["a", "a.b"], &[".git/config", ".DS_Store", "d/.x"], &[]),
            (&["-/top"], &["d/top"], &["top", "top/a"], &[]),
            (&["-d/*.c"], &["a.c", "d/e/a.c", "x/d/a.c"], &["d/a.c"], &[]),
            (&["-d/**/x"], &["x"], &["d/x", "d/e/f/x"], &[]),
            (&["-d/**"], &["e"], &["d/a", "d/b/c"], &[]),
            (&["-tmp/"], &["tmp", "a/tmp"], &["tmp/a", "a/tmp/b"], &[]),
            (&["-data", "+data/keep"], &["data/keep"], &["data/a"], &[]),
            (&["+src"], &["src/a/b"], &[], &["a"]),
            (&["-[ab]{1,2}"], &["c1", "a3"], &["a1", "b2"], &[]),
            (&["-./x"], &["y"], &["x"], &[]),
            (&["-a\\*"], &["ab"], &["a*"], &[]),
        ] {
            let globs = globs(words);
            for (names, by) in
                [(kept, None), (excluded, Some(LeftOutBy::Exclude)), (not_included, Some(LeftOutBy::Include))]
            {
                names.iter().for_each(|name| assert_eq!(left_out(&globs, name), by, "{words:?}: {name}"));
            }
        }
    }

    #[test]
    fn a_folder_is_not_looked_into_when_nothing_below_it_can_be_an_input() {
        for (words, folder, is_pruned) in [
            (&["-.git"][..], ".git", true),
            (&["-.git"], "a/.git", true),
            (&["-.git"], ".git/objects", true),
            (&["-.git", "+*.txt"], ".git", false),
            (&["+*.txt", "-.git"], ".git", true),
            (&["+*.txt"], "d", false),
            (&["-*.txt"], "d", false),
            (&["-d/"], "d", true),
        ] {
            let globs = globs(words);
            assert_eq!(globs.prunes(globs.folder_by_path(Path::new(folder))), is_pruned, "{words:?}: {folder}");
        }
    }

    #[test]
    fn names_of_any_bytes_are_matched() {
        let name = |bytes| OsStr::from_bytes(bytes);
        let out = |words: &[&str], bytes| globs(words).leave_out(FolderMatch::default(), Path::new(name(bytes)));
        assert_eq!(out(&["-*.x"], b"\xff\n.x"), Some(LeftOutBy::Exclude));
        assert_eq!(out(&["-*.x"], b"\xff.y"), None);
        assert_eq!(out(&["-a*b"], b"a\xff\xfeb"), Some(LeftOutBy::Exclude));
    }

    #[test]
    fn a_glob_that_cannot_be_used_is_told_with_its_place() {
        for (glob, why) in [("a[", "unclosed"), ("{a", "unclosed"), ("", "empty"), ("/", "empty"), ("../a", "`..`")] {
            let rule = GlobRule { is_include: true, glob: glob.to_owned(), place: "--include".to_owned() };
            let error = Globs::new(&[rule]).unwrap_err().to_string();
            assert!(error.starts_with("--include: ") && error.contains(why), "{error}");
        }
    }
}
