//! The names of outputs while they are being written.

use std::ffi::OsStr;

/// How they begin and end; see [`unfinished_name`].
const UNFINISHED: (&str, &str) = (".distwasm-", ".unfinished");

/// The name of an output while it is being written: short, so that it is allowed wherever the output's name is.
pub(super) fn unfinished_name(process: u32, number: u64) -> String {
    let (prefix, suffix) = UNFINISHED;
    format!("{prefix}{process}-{number}{suffix}")
}

/// Whether this is such a name.
pub(crate) fn is_unfinished(name: &OsStr) -> bool {
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
        assert!(is_unfinished(unfinished_name(4711, 12).as_ref()));
        for other in [".distwasm-x-1.unfinished", ".distwasm-1.unfinished", "1-1.unfinished", ".distwasm-1-1"] {
            assert!(!is_unfinished(other.as_ref()), "{other}");
        }
    }
}
