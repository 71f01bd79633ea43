//! Plans the work in one folder: pure decisions over the listings of its inputs and its outputs.
//!
//! An input whose output exists as a file is done. Nothing else is remembered from run to run. An input that was
//! changed after its output was written is done, too, and counted.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
};

/// When a file was changed last, as its file system says: seconds and nanoseconds since 1970.
pub type ChangedAt = (i64, i64);

/// The kind of an entry in a folder, as far as planning needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, or a link to one, of this size in bytes, and when it was changed last.
    File(u64, ChangedAt),
    /// A folder.
    Folder,
    /// Neither of these; its kind in words.
    Other(&'static str),
    /// It may be an input, but it could not be examined.
    Unseen(io::ErrorKind),
}

/// One folder's plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Inputs to send, with their sizes.
    pub inputs: Vec<(OsString, u64)>,
    /// How many inputs have their output already.
    pub done: u64,
    /// How many of those were changed after their outputs.
    pub newer: u64,
    /// Folders to look into.
    pub folders: Vec<OsString>,
    /// Inputs that cannot have an output, because something that is not a file stands in its place.
    pub blocked: Vec<OsString>,
    /// Entries that may be inputs, but could not be examined.
    pub unseen: Vec<(OsString, io::ErrorKind)>,
    /// Entries that are not inputs, and why.
    pub skipped: Vec<(OsString, &'static str)>,
    /// Unfinished outputs that an earlier run left behind.
    pub leftovers: Vec<OsString>,
}

/// How the names of unfinished outputs begin and end; see [`unfinished_name`].
const UNFINISHED: (&str, &str) = (".distwasm-", ".unfinished");

/// The name of an output while it is being written: short, so that it is allowed wherever the output's name is.
pub fn unfinished_name(process: u32, number: u64) -> String {
    let (prefix, suffix) = UNFINISHED;
    format!("{prefix}{process}-{number}{suffix}")
}

fn is_unfinished(name: &OsStr) -> bool {
    let (prefix, suffix) = UNFINISHED;
    let middle = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
    let parts = middle.and_then(|middle| middle.split_once('-'));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Compares the entries of an input folder with those of the output folder of the same name.
pub fn plan(inputs: BTreeMap<OsString, Kind>, outputs: &BTreeMap<OsString, Kind>) -> Plan {
    let mut plan = Plan::default();
    // An input may be named like an unfinished output; then its own output is not a leftover.
    plan.leftovers.extend(outputs.keys().filter(|name| is_unfinished(name) && !inputs.contains_key(*name)).cloned());
    for (name, kind) in inputs {
        match (kind, outputs.get(&name)) {
            (Kind::Folder, _) => plan.folders.push(name),
            (Kind::Other(why), _) => plan.skipped.push((name, why)),
            (Kind::File(_, changed), Some(Kind::File(_, written))) => {
                plan.done += 1;
                plan.newer += u64::from(changed > *written);
            }
            (Kind::Unseen(_), Some(Kind::File(..))) => plan.done += 1,
            (Kind::Unseen(why), _) => plan.unseen.push((name, why)),
            (Kind::File(..), Some(Kind::Folder | Kind::Other(_) | Kind::Unseen(_))) => plan.blocked.push(name),
            (Kind::File(bytes, _), None) => plan.inputs.push((name, bytes)),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64, changed: i64) -> Kind {
        Kind::File(bytes, (changed, 0))
    }

    fn listing(entries: &[(&str, Kind)]) -> BTreeMap<OsString, Kind> {
        entries.iter().map(|(name, kind)| (OsString::from(name), *kind)).collect()
    }

    #[test]
    fn inputs_with_outputs_are_done_and_others_are_sorted() {
        let inputs = listing(&[
            ("a", file(1, 5)),
            ("changed", file(1, 8)),
            ("b", file(2, 5)),
            ("c", file(3, 5)),
            ("hidden", Kind::Unseen(io::ErrorKind::PermissionDenied)),
            ("pipe", Kind::Other("a named pipe")),
            ("sub", Kind::Folder),
        ]);
        let outputs =
            listing(&[("b", file(0, 5)), ("changed", file(9, 7)), ("c", Kind::Folder), ("stranger", file(9, 5))]);
        let expected = Plan {
            inputs: vec![("a".into(), 1)],
            done: 2,
            newer: 1,
            folders: vec!["sub".into()],
            blocked: vec!["c".into()],
            unseen: vec![("hidden".into(), io::ErrorKind::PermissionDenied)],
            skipped: vec![("pipe".into(), "a named pipe")],
            leftovers: vec![],
        };
        assert_eq!(plan(inputs, &outputs), expected);
    }

    #[test]
    fn only_our_own_leftovers_are_leftovers() {
        let ours = unfinished_name(4711, 12);
        let like_ours = unfinished_name(1, 1);
        let outputs = listing(&[
            (&ours, file(0, 5)),
            (&like_ours, file(0, 5)),
            (".distwasm-x-1.unfinished", file(0, 5)),
            (".distwasm-1.unfinished", file(0, 5)),
            ("1-1.unfinished", file(0, 5)),
        ]);
        let found = plan(listing(&[(&like_ours, file(0, 5))]), &outputs);
        assert_eq!(found.leftovers, [OsString::from(ours)]);
        assert_eq!(found.done, 1);
    }
}
