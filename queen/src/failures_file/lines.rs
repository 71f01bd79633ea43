//! Reads the failures of earlier runs from their file, line by line.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Read},
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};

use distwasm_process::files;
use distwasm_proto::limits::{FAILURE_LINE_BYTES_MAX, FAILURES_READ_MAX};
use serde::Deserialize;
use thiserror::Error;

/// Why the earlier failures cannot be read.
#[derive(Debug, Error)]
pub enum FailuresUnread {
    #[error("failed to read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of {} {why}; without --retry-failed, all that has no output is tried", .path.display())]
    Broken { path: PathBuf, line: u64, why: &'static str },
    #[error(
        "{} has more than {FAILURES_READ_MAX} lines; without --retry-failed, all that has no output is tried",
        .path.display()
    )]
    TooMany { path: PathBuf },
}

/// The inputs that are named in a failures file, each once, in order: a folder comes before its content. Without a
/// file, nothing has failed.
///
/// # Errors
///
/// When the file cannot be read, or one of its lines is not a failure.
pub fn names(path: &Path) -> Result<Vec<PathBuf>, FailuresUnread> {
    let cannot_read = |source| FailuresUnread::Read { path: path.to_owned(), source };
    let mut lines = match Lines::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        lines => lines.map_err(cannot_read)?,
    };
    let mut names = BTreeSet::new();
    while let Some(line) = lines.next().map_err(cannot_read)? {
        if lines.number > FAILURES_READ_MAX {
            return Err(FailuresUnread::TooMany { path: path.to_owned() });
        }
        let broken = |why| FailuresUnread::Broken { path: path.to_owned(), line: lines.number, why };
        names.insert(name_in(&line).map_err(broken)?);
    }
    Ok(names.into_iter().collect())
}

/// The lines of a failures file.
pub(super) struct Lines {
    file: BufReader<File>,
    /// Which line was read last; the first is 1.
    pub(super) number: u64,
    /// Where the next line begins.
    pub(super) offset: u64,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Lines> {
        Ok(Lines { file: BufReader::new(files::open_own(path)?), number: 0, offset: 0 })
    }

    /// The next line with its newline; a line that is too long comes in parts, and no part names an input.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let bytes = self.file.by_ref().take(FAILURE_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        self.offset += bytes as u64;
        self.number += 1;
        Ok((bytes > 0).then_some(line))
    }
}

#[derive(Deserialize)]
struct Name {
    input: String,
    #[serde(default)]
    input_hex: Option<String>,
}

/// The input that a line names, or the fault of the line, in words that follow its number.
pub(super) fn name_in(line: &[u8]) -> Result<PathBuf, &'static str> {
    let name: Name = serde_json::from_slice(line).map_err(|_| "is not a failure: a JSON object with an `input`")?;
    let bytes = match name.input_hex {
        Some(hex) => unhex(hex.as_bytes()).ok_or("has an `input_hex` that is not hexadecimal")?,
        None => name.input.into_bytes(),
    };
    let path = PathBuf::from(OsString::from_vec(bytes));
    // It is joined to the folders of inputs and outputs, and must not lead out of them.
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(path.components().collect())
    } else {
        Err("names something that is not below the input folder")
    }
}

fn unhex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    hex.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn names_are_read_whatever_their_bytes_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let lines = concat!(
            r#"{"input":"d/b","kind":"trap"}"#,
            "\n",
            r#"{"input":"?","input_hex":"ff0A","new":[]}"#,
            "\n",
            r#"{"input":"d"}"#,
            "\n",
            r#"{"input":"d//./b"}"#,
            "\n",
            r#"{"input":""}"#,
        );
        fs::write(&path, lines).unwrap();
        let expected = ["".into(), "d".into(), "d/b".into(), PathBuf::from(OsStr::from_bytes(b"\xff\n"))];
        assert_eq!(names(&path).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_not_a_failure_is_named_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert!(names(&path).unwrap().is_empty());
        let long = format!(r#"{{"input":"{}"}}"#, "x".repeat(2 << 20));
        let broken = [
            "",
            "{",
            "[]",
            "{}",
            r#"{"input":1}"#,
            r#"{"input":"","input_hex":"fg"}"#,
            r#"{"input":"","input_hex":"f"}"#,
            r#"{"input":"/etc"}"#,
            r#"{"input":"../x"}"#,
            r#"{"input":"a/../../x"}"#,
            &long,
        ];
        for line in broken {
            fs::write(&path, format!("{{\"input\":\"a\"}}\n{line}\n")).unwrap();
            assert!(matches!(names(&path), Err(FailuresUnread::Broken { line: 2, .. })), "{line}");
        }
        assert!(matches!(names(folder.path()), Err(FailuresUnread::Read { .. })));
    }
}
