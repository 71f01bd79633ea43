//! The names of outputs while they are being written, and the folder for those that dukes write.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::AsFd,
    path::Path,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    beneath::{self, Links, Missing},
    randomness,
};

/// The folder in an output folder in which distwasm keeps what is its own.
pub const OWN_FOLDER: &str = ".distwasm";

/// Opens that folder in an open output folder. It is never a link.
///
/// # Errors
///
/// When there is something else of its name, or it is missing and is not, or cannot be, made.
pub fn open_own_folder(output: impl AsFd, missing: Missing) -> io::Result<File> {
    beneath::open_folder(output, Path::new(OWN_FOLDER), Links::Refused, missing)
}

/// How they begin and end; see [`unfinished_name`].
const UNFINISHED: (&str, &str) = (".distwasm-", ".unfinished");

/// A new name for an output while it is being written: short, so that it is allowed wherever the output's name is. No
/// other process, on this machine or another, makes the same one.
pub fn unfinished_name() -> String {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static MADE: AtomicU64 = AtomicU64::new(0);
    // A system without randomness has its numbers of processes.
    let drawn = || randomness::bytes().map_or_else(|_| u64::from(process::id()), u64::from_ne_bytes);
    let (prefix, suffix) = UNFINISHED;
    format!("{prefix}{}-{}{suffix}", PROCESS.get_or_init(drawn), MADE.fetch_add(1, Ordering::Relaxed))
}

/// Whether this is such a name.
pub fn is_unfinished(name: &OsStr) -> bool {
    let (prefix, suffix) = UNFINISHED;
    let middle = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
    let parts = middle.and_then(|middle| middle.split_once('-'));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let (one, two) = (unfinished_name(), unfinished_name());
        assert!(is_unfinished(one.as_ref()) && is_unfinished(two.as_ref()) && one != two);
        assert!(is_unfinished(".distwasm-4711-12.unfinished".as_ref()));
        for other in [".distwasm-x-1.unfinished", ".distwasm-1.unfinished", "1-1.unfinished", ".distwasm-1-1"] {
            assert!(!is_unfinished(other.as_ref()), "{other}");
        }
    }
}
