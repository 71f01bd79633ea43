//! What is to be done in one folder: pure decisions over two listings.
//!
//! An output that exists as a file is done. Nothing else is remembered from run to run.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
};

/// What stands at a name in a folder, as far as planning goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, or a link to one, of this size in bytes.
    File(u64),
    /// A folder.
    Folder,
    /// Neither; what it is, in words.
    Other(&'static str),
    /// It may be an input: nobody could look.
    Unseen(io::ErrorKind),
}

/// One folder's plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Inputs to send, with their sizes.
    pub inputs: Vec<(OsString, u64)>,
    /// How many inputs have their output already.
    pub done: u64,
    /// Folders to look into.
    pub folders: Vec<OsString>,
    /// Inputs that cannot have an output, because a folder or the like stands in its place.
    pub blocked: Vec<OsString>,
    /// What may be an input, and could not be looked at.
    pub unseen: Vec<(OsString, io::ErrorKind)>,
    /// What is no input, and why.
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

/// Compares what is in an input folder with what is in the output folder of the same name.
pub fn plan(inputs: BTreeMap<OsString, Kind>, outputs: &BTreeMap<OsString, Kind>) -> Plan {
    let mut plan = Plan::default();
    // An input may be named like an unfinished output; its own output is none.
    plan.leftovers.extend(outputs.keys().filter(|name| is_unfinished(name) && !inputs.contains_key(*name)).cloned());
    for (name, kind) in inputs {
        match (kind, outputs.get(&name)) {
            (Kind::Folder, _) => plan.folders.push(name),
            (Kind::Other(why), _) => plan.skipped.push((name, why)),
            (Kind::File(_) | Kind::Unseen(_), Some(Kind::File(_))) => plan.done += 1,
            (Kind::Unseen(why), _) => plan.unseen.push((name, why)),
            (Kind::File(_), Some(Kind::Folder | Kind::Other(_) | Kind::Unseen(_))) => plan.blocked.push(name),
            (Kind::File(bytes), None) => plan.inputs.push((name, bytes)),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(entries: &[(&str, Kind)]) -> BTreeMap<OsString, Kind> {
        entries.iter().map(|(name, kind)| (OsString::from(name), *kind)).collect()
    }

    #[test]
    fn what_has_an_output_is_done_and_the_rest_is_sorted_out() {
        let inputs = listing(&[
            ("a", Kind::File(1)),
            ("b", Kind::File(2)),
            ("c", Kind::File(3)),
            ("hidden", Kind::Unseen(io::ErrorKind::PermissionDenied)),
            ("pipe", Kind::Other("a named pipe")),
            ("sub", Kind::Folder),
        ]);
        let outputs = listing(&[("b", Kind::File(0)), ("c", Kind::Folder), ("stranger", Kind::File(9))]);
        let expected = Plan {
            inputs: vec![("a".into(), 1)],
            done: 1,
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
            (&ours, Kind::File(0)),
            (&like_ours, Kind::File(0)),
            (".distwasm-x-1.unfinished", Kind::File(0)),
            (".distwasm-1.unfinished", Kind::File(0)),
            ("1-1.unfinished", Kind::File(0)),
        ]);
        let found = plan(listing(&[(&like_ours, Kind::File(0))]), &outputs);
        assert_eq!(found.leftovers, [OsString::from(ours)]);
        assert_eq!(found.done, 1);
    }
}
