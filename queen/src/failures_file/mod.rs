//! The file of failures: one JSON object per line, for other programs and for `--retry-failed`.
//!
//! While a run lasts, its failures are appended to those of earlier runs, so that nothing is lost however it ends. At
//! its end, settled failures are removed from the file.

mod lines;
mod path;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, ErrorKind, IntoInnerError, Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use distwasm_jobs::{
    Folders,
    file_time::FileTime,
    inputs::{InputFolder, Names},
    outputs::OutputPlace,
    report::FailedUnit,
    when_there_are,
};
use distwasm_process::{beneath, files};
use distwasm_proto::limits::FAILURES_READ_MAX;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use lines::{FailuresUnread, names};
use lines::{Lines, name_in};
pub use path::{FailuresPathError, failures_path};

/// The default file of failures: beside the output folder, so that it is not an output itself.
fn default_failures_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".failures.jsonl");
    PathBuf::from(name)
}

/// The failures of one run, after those of earlier runs.
#[derive(Debug)]
pub struct FailureFile {
    path: PathBuf,
    /// The output folder, if the file's name does not tell it.
    output: Option<String>,
    opened: Option<Opened>,
    /// How many failures are not in the file, and the last error.
    lost: u64,
    error: Option<io::Error>,
}

/// The file, and where the lines of this run begin, and end.
#[derive(Debug)]
struct Opened {
    file: File,
    begin: u64,
    end: u64,
}

/// Why some failures are not in the file.
#[derive(Debug, Error)]
pub enum FailuresLost {
    #[error("{lost} of the failures could not be kept in {} (--failures names another file)", .path.display())]
    Some { path: PathBuf, lost: u64, source: io::Error },
    #[error("some of the failures may not be kept in {} (--failures names another file)", .path.display())]
    Uncertain { path: PathBuf, source: io::Error },
    #[error("failed to remove settled failures from {}", .path.display())]
    Untidied { path: PathBuf, source: io::Error },
}

/// The folders of a run and how far it listed them: this decides which failures of earlier runs are settled.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The folders.
    pub folders: &'a Folders,
    /// Whether the listing was completed.
    pub listed_all: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    /// With replacement characters if the name is not UTF-8.
    input: String,
    /// The bytes of the name in hexadecimal, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    input_hex: Option<String>,
    /// Only in a file that the user named: each file is about one output folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    kind: &'static str,
    reason: &'a str,
    stderr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    attempts: u32,
    duke: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_us: Option<u64>,
    failed_at: String,
}

impl FailureFile {
    /// Checks whether failures can be kept in this file, which is created with the first failure. If they cannot, each
    /// failure tries again. The lines of a file that is not beside the output folder name that folder.
    pub fn open(path: PathBuf, output: Option<&Path>) -> FailureFile {
        let output = output.map(|output| output.to_string_lossy().into_owned());
        let mut failures = FailureFile { path, output, opened: None, lost: 0, error: None };
        match failures.try_open() {
            Ok(opened) => failures.opened = opened,
            Err(error) => failures.error = Some(error),
        }
        failures
    }

    fn try_open(&self) -> io::Result<Option<Opened>> {
        match OpenOptions::new().write(true).create_new(true).open(&self.path) {
            // The file can be created. It is removed again, because an empty file would say that nothing failed.
            Ok(_) => fs::remove_file(&self.path).map(|()| None),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Opened::at_end(&self.path, self.output.as_deref()).map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why failures cannot be kept, if they cannot.
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Appends one failure, of which the queen learned at this time; returns whether it is kept.
    pub fn record(&mut self, unit: &FailedUnit, failed_at: SystemTime) -> bool {
        match self.append(unit, failed_at) {
            Ok(()) => true,
            Err(error) => {
                self.lost += 1;
                self.error = Some(error);
                false
            }
        }
    }

    fn append(&mut self, unit: &FailedUnit, failed_at: SystemTime) -> io::Result<()> {
        let line = line(unit, failed_at, self.output.as_deref())?;
        let opened = match &mut self.opened {
            Some(opened) => opened,
            none => none.insert(Opened::at_end(&self.path, self.output.as_deref())?),
        };
        // One write for the line: a queen that is killed leaves whole lines.
        let written = opened.file.write_all(&line);
        match written {
            Ok(()) => opened.end += line.len() as u64,
            // On a full disk, a part of the line may have been written.
            Err(_) => opened.file.set_len(opened.end)?,
        }
        written
    }

    /// Keeps only failures that are not settled: those of this run, and those of earlier runs whose inputs still exist,
    /// have no output, and did not fail again. If none is left, the file is removed.
    ///
    /// # Errors
    ///
    /// When a failure could not be written; the file then has all the others.
    pub fn finish(self, scope: &Scope<'_>) -> Result<Option<PathBuf>, FailuresLost> {
        let FailureFile { path, opened, lost, error, .. } = self;
        // A file that cannot be opened matters only if there was something to write.
        let error = error.filter(|_| lost > 0);
        let Some(Opened { file, begin, end }) = opened else {
            return error.map_or(Ok(None), |source| Err(FailuresLost::Some { path, lost, source }));
        };
        if let Some(source) = error {
            if end == 0 {
                // An empty file would say that nothing failed.
                let _removed = fs::remove_file(&path);
            }
            return Err(FailuresLost::Some { path, lost, source });
        }
        // The file stays locked until it is tidied.
        let tidied = match tidy(&path, begin, scope) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Tidied::Empty),
            tidied => tidied,
        };
        match (files::close(file), tidied) {
            (Err(source), _) => Err(FailuresLost::Uncertain { path, source }),
            (_, Err(source)) => Err(FailuresLost::Untidied { path, source }),
            (_, Ok(Tidied::Empty)) => Ok(None),
            (_, Ok(Tidied::Kept)) => Ok(Some(path)),
        }
    }
}

/// The bytes of a name in hexadecimal, if it is not UTF-8.
pub fn hex_of(name: &Path) -> Option<String> {
    let hex = || name.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    name.to_str().is_none().then(hex)
}

fn line(unit: &FailedUnit, failed_at: SystemTime, output: Option<&str>) -> io::Result<Vec<u8>> {
    let record = Record {
        input: unit.path.to_string_lossy().into_owned(),
        input_hex: hex_of(&unit.path),
        output,
        kind: unit.failure.kind.name(),
        reason: &unit.failure.message,
        stderr: String::from_utf8_lossy(&unit.failure.stderr).into_owned(),
        stdout: (!unit.failure.stdout.is_empty()).then(|| String::from_utf8_lossy(&unit.failure.stdout).into_owned()),
        attempts: unit.tried.attempts,
        duke: &unit.tried.duke,
        run_us: unit.tried.run_us,
        failed_at: humantime::format_rfc3339_millis(failed_at).to_string(),
    };
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    Ok(line)
}

enum Tidied {
    Empty,
    Kept,
}

impl Opened {
    /// Opens the file to append to it, for this process alone. If its last line was cut short, that stays a line of
    /// its own.
    fn at_end(path: &Path, output: Option<&str>) -> io::Result<Opened> {
        let mut file = open_alone(path)?;
        check_is_ours(path, output)?;
        let mut end = file.seek(SeekFrom::End(0))?;
        if end > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                end += 1;
            }
        }
        Ok(Opened { file, begin: end, end })
    }
}

/// Opens the file and locks it. Opens it again if a queen that ended has replaced it: new lines would be lost with it.
fn open_alone(path: &Path) -> io::Result<File> {
    loop {
        let file =
            when_there_are(|| files::open_own_with(OpenOptions::new().read(true).append(true).create(true), path))?;
        // Some network file systems do not support locks.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(io::Error::other("another queen is writing to it"));
        }
        let (locked, there) = (file.metadata()?, fs::symlink_metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino())) {
            return Ok(file);
        }
    }
}

/// Refuses a file with other content, which would be lost when the file is tidied.
fn check_is_ours(path: &Path, output: Option<&str>) -> io::Result<()> {
    #[derive(Deserialize)]
    struct Line {
        output: Option<String>,
    }
    let Some(first) = Lines::open(path)?.next()? else { return Ok(()) };
    let is_cut_short = first.starts_with(b"{\"input\"") && !first.ends_with(b"\n");
    if !is_cut_short && name_in(&first).is_err() {
        return Err(io::Error::other("there is something else in it than failures"));
    }
    match serde_json::from_slice::<Line>(&first).ok().and_then(|line| line.output) {
        Some(other) if output.is_some_and(|output| output != other) => {
            Err(io::Error::other(format!("the failures in it are those of another output folder, {other}")))
        }
        _ => Ok(()),
    }
}

/// Writes the lines that stay to another file, which then replaces this one.
fn tidy(path: &Path, begin: u64, scope: &Scope<'_>) -> io::Result<Tidied> {
    let mut last_lines = HashMap::new();
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next()? {
        if lines.number > FAILURES_READ_MAX {
            // Too long to be tidied: it names some inputs twice, and some that have an output by now.
            return Ok(Tidied::Kept);
        }
        if let Ok(name) = name_in(&line) {
            last_lines.insert(name, lines.number);
        }
    }
    let unfinished = files::unfinished_beside(path);
    let tidied = keep_open(path, &unfinished, begin, scope, &last_lines);
    if tidied.is_err() {
        let _removed = fs::remove_file(&unfinished);
    }
    tidied
}

/// Writes the lines that stay, at most the last one of each input.
fn keep_open(
    path: &Path,
    unfinished: &Path,
    begin: u64,
    scope: &Scope<'_>,
    last_lines: &HashMap<PathBuf, u64>,
) -> io::Result<Tidied> {
    let mut kept = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(unfinished)?);
    let (mut count, mut lines) = (0_u64, Lines::open(path)?);
    let Folders { input, rules, .. } = scope.folders;
    let inputs = InputFolder::new(input, rules.follows_links);
    loop {
        let of_this_run = lines.offset >= begin;
        let Some(line) = lines.next()? else { break };
        // A line without a name was cut short when an earlier queen was killed; the next run tries its input.
        let Ok(name) = name_in(&line) else { continue };
        let is_last = last_lines.get(&name) == Some(&lines.number);
        if is_last && (of_this_run || scope.is_open(&inputs, &name)) {
            kept.write_all(&line)?;
            count += 1;
        }
    }
    files::close(kept.into_inner().map_err(IntoInnerError::into_error)?)?;
    if count == 0 {
        fs::remove_file(unfinished)?;
        fs::remove_file(path)?;
        return Ok(Tidied::Empty);
    }
    fs::rename(unfinished, path)?;
    Ok(Tidied::Kept)
}

impl Scope<'_> {
    /// Whether an input that failed in an earlier run, and not in this one, may still be without an output.
    fn is_open(&self, inputs: &InputFolder, name: &Path) -> bool {
        let Folders { output, rules, .. } = self.folders;
        let was_asked = match &rules.names {
            Names::All | Names::Failed(_) => true,
            Names::Listed(names) => names.iter().any(|listed| listed == name),
            Names::Stdin(_) => false,
        };
        let OutputPlace::Folder(output) = output else { return true };
        if !was_asked {
            return true;
        }
        let output = match &rules.output_name {
            None => Some(output.join(name)),
            // Nobody knows which number the input had.
            Some(template) if template.has_number() => None,
            Some(template) => template.fill_in(name, 0).ok().map(|name| output.join(name)),
        };
        match inputs.look(name) {
            // The folder could not be read then. If this run listed everything, its inputs are done or have failed.
            Ok(found) if found.is_dir() => !self.listed_all,
            Ok(found) => match output.map(fs::metadata) {
                None => !self.listed_all,
                // An output that is older than its input is from before the failure.
                Some(Ok(output)) if output.is_file() => found.is_file() && FileTime::of(&found) > FileTime::of(&output),
                Some(_) => found.is_file(),
            },
            // It is not an input.
            Err(error) if beneath::leads_out(&error) => false,
            Err(error) => {
                !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, sync::Arc};

    use distwasm_jobs::report::Tried;
    use distwasm_proto::failure::{Failure, FailureKind};

    use super::*;

    fn failed(name: impl AsRef<OsStr>, run_us: Option<u64>) -> FailedUnit {
        let failure = Failure::new(FailureKind::Trap, "unreachable").with_stderr(b"x\xfey");
        let tried = Tried { attempts: 2, duke: "d".to_owned(), run_us };
        FailedUnit { path: PathBuf::from(name.as_ref()), failure, tried }
    }

    /// A folder with these inputs and these outputs.
    fn folder(inputs: &[&str], outputs: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (sub, names) in [("in", inputs), ("out", outputs)] {
            fs::create_dir(folder.path().join(sub)).unwrap();
            names.iter().for_each(|name| fs::write(folder.path().join(sub).join(name), "").unwrap());
        }
        folder
    }

    fn folders(folder: &Path) -> Folders {
        let output = OutputPlace::Folder(folder.join("out"));
        Folders { input: folder.join("in"), output, sync: false, rules: Arc::default() }
    }

    fn run(folder: &Path, listed_all: bool, names: &[&str]) -> Option<PathBuf> {
        let output = folder.join("out");
        let mut failures = FailureFile::open(default_failures_path(&output), None);
        names.iter().for_each(|name| assert!(failures.record(&failed(name, None), SystemTime::UNIX_EPOCH)));
        failures.finish(&Scope { folders: &folders(folder), listed_all }).unwrap()
    }

    fn named(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| name_in(line.as_bytes()).unwrap().display().to_string()).collect()
    }

    #[test]
    fn each_failure_is_a_line_of_json_whatever_the_name() {
        let folder = folder(&[], &[]);
        let output = folder.path().join("out");
        let mut failures = FailureFile::open(default_failures_path(&output), None);
        assert!(failures.record(&failed(OsStr::from_bytes(b"a \n\"b"), Some(1500)), SystemTime::UNIX_EPOCH));
        assert!(failures.record(&failed(OsStr::from_bytes(b"\xff"), None), SystemTime::UNIX_EPOCH));
        let scope = Scope { folders: &folders(folder.path()), listed_all: true };
        let path = failures.finish(&scope).unwrap().unwrap();
        let expected = concat!(
            r#"{"input":"a \n\"b","kind":"trap","reason":"unreachable","stderr":"x�y","attempts":2,"duke":"d","#,
            r#""run_us":1500,"failed_at":"1970-01-01T00:00:00.000Z"}"#,
            "\n",
            r#"{"input":"�","input_hex":"ff","kind":"trap","reason":"unreachable","stderr":"x�y","attempts":2,"#,
            r#""duke":"d","failed_at":"1970-01-01T00:00:00.000Z"}"#,
            "\n",
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn untried_failures_stay_and_settled_ones_go() {
        let folder = folder(&["a", "b", "c", "d"], &[]);
        let path = run(folder.path(), true, &["a", "b", "c", "gone"]).unwrap();
        // A queen was killed while it was writing.
        fs::write(&path, fs::read_to_string(&path).unwrap() + r#"{"input":"cut"#).unwrap();
        fs::write(folder.path().join("out/b"), "").unwrap();
        assert_eq!(run(folder.path(), false, &["d", "c"]), Some(path.clone()));
        assert_eq!(named(&path), ["a", "d", "c"]);
        for name in ["a", "c", "d"] {
            fs::write(folder.path().join("out").join(name), "").unwrap();
        }
        assert_eq!(run(folder.path(), true, &[]), None);
        assert!(!path.exists());
        assert_eq!(run(folder.path(), true, &[]), None);
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_followed() {
        use std::os::unix::fs::symlink;
        let folder = folder(&["a"], &[]);
        let (victim, path) = (folder.path().join("victim"), default_failures_path(&folder.path().join("out")));
        for content in [Some(""), Some("{\"input\":\"a\"}\n"), None] {
            match content {
                Some(content) => fs::write(&victim, content).unwrap(),
                None => fs::remove_file(&victim).unwrap(),
            }
            let _removed = fs::remove_file(&path);
            symlink("victim", &path).unwrap();
            let mut failures = FailureFile::open(path.clone(), None);
            assert!(failures.error().unwrap().to_string().contains("it is a link"), "{:?}", failures.error());
            assert!(!failures.record(&failed("a", None), SystemTime::UNIX_EPOCH));
            assert!(path.is_symlink() && fs::read_to_string(&victim).ok().as_deref() == content);
            assert!(names(&path).is_err());
        }
    }

    #[test]
    fn a_failure_behind_a_link_that_is_not_followed_is_settled() {
        let folder = folder(&["a"], &[]);
        fs::write(folder.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink("../secret", folder.path().join("in/b")).unwrap();
        let path = run(folder.path(), true, &["a", "b"]).unwrap();
        assert!(run(folder.path(), false, &[]).is_some());
        assert_eq!(named(&path), ["a"]);
    }

    #[test]
    fn a_folder_that_could_not_be_read_stays_until_it_was_listed() {
        let folder = folder(&[], &[]);
        fs::create_dir(folder.path().join("in/sub")).unwrap();
        assert!(run(folder.path(), true, &["sub"]).is_some());
        assert!(run(folder.path(), false, &[]).is_some());
        assert!(run(folder.path(), true, &[]).is_none());
    }
}
