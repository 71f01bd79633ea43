//! The file of failures: one JSON object a line, for programs and for later.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::FailedUnit;

/// Where the failures of runs into this output folder are told: beside it, so that it is no output itself.
pub fn failure_file(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".failures.jsonl");
    PathBuf::from(name)
}

/// The failures of one run. The file is made with the first of them; that of an earlier run goes then.
#[derive(Debug)]
pub struct FailureFile {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    error: Option<io::Error>,
}

#[derive(Serialize)]
struct Record<'a> {
    /// With replacement characters where the name is not UTF-8.
    input: String,
    /// The bytes of the name in hexadecimal, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    input_hex: Option<String>,
    kind: &'static str,
    reason: &'a str,
    stderr: String,
    attempts: u32,
    duke: &'a str,
}

impl FailureFile {
    /// A file that is not made yet.
    pub fn new(path: PathBuf) -> FailureFile {
        FailureFile { path, file: None, error: None }
    }

    /// Appends one failure. An error is kept for [`FailureFile::finish`].
    pub fn record(&mut self, unit: &FailedUnit) {
        if let Err(error) = self.append(unit) {
            self.error.get_or_insert(error);
        }
    }

    fn append(&mut self, unit: &FailedUnit) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create(&self.path)?)),
        };
        let hex = || unit.path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let record = Record {
            input: unit.path.to_string_lossy().into_owned(),
            input_hex: unit.path.to_str().is_none().then(hex),
            kind: unit.failure.kind.name(),
            reason: &unit.failure.message,
            stderr: String::from_utf8_lossy(&unit.failure.stderr).into_owned(),
            attempts: unit.attempts,
            duke: &unit.duke,
        };
        serde_json::to_writer(&mut *file, &record)?;
        file.write_all(b"\n")
    }

    /// Makes the file whole. After a run without failures that went through all inputs, the file of an earlier run
    /// says nothing true any more, and goes.
    ///
    /// # Errors
    ///
    /// When some failure could not be written.
    pub fn finish(self, all_done: bool) -> io::Result<Option<PathBuf>> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let Some(mut file) = self.file else {
            if all_done {
                // There may be none.
                let _removed = std::fs::remove_file(&self.path);
            }
            return Ok(None);
        };
        file.flush()?;
        Ok(Some(self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs};

    use distwasm_proto::failure::{Failure, FailureKind};

    use super::*;

    #[test]
    fn each_failure_is_a_line_of_json_whatever_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = failure_file(&folder.path().join("out"));
        let mut failures = FailureFile::new(path.clone());
        for name in [&b"a \n\"b"[..], b"\xff"] {
            let failure = Failure::new(FailureKind::Trap, "unreachable").with_stderr(b"x\xfey");
            let (path, duke) = (PathBuf::from(OsStr::from_bytes(name)), "d".to_owned());
            failures.record(&FailedUnit { path, failure, attempts: 2, duke });
        }
        assert_eq!(failures.finish(true).unwrap(), Some(path.clone()));
        let expected = concat!(
            r#"{"input":"a \n\"b","kind":"trap","reason":"unreachable","stderr":"x�y","attempts":2,"duke":"d"}"#,
            "\n",
            r#"{"input":"�","input_hex":"ff","kind":"trap","reason":"unreachable","stderr":"x�y","attempts":2,"duke":"d"}"#,
            "\n",
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(FailureFile::new(path.clone()).finish(true).unwrap(), None);
        assert!(!path.exists());
    }
}
