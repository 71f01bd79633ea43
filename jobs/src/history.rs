//! The record of the runs into an output folder: which program made which outputs, with which arguments and settings.
//!
//! It is the file `.distwasm/run.json` in the output folder. A run is added when its program, arguments or settings are
//! others than those of the run before, with the time from which on outputs are of that run. So the time of an output
//! tells what made it, also after a run with `--update` that was interrupted. All times are those of the output
//! folder's file system. The record helps people to decide; without one, everything goes on as it does with one.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use distwasm_process::{
    beneath::{self, Links, Missing},
    files,
};
use distwasm_proto::{
    VERSION,
    digest::Digest,
    guest::GuestSettings,
    limits::{RECORD_BYTES_MAX, RUNS_RECORDED_MAX},
};
use distwasm_transport::payload::Payload;
use rustix::fs::{AtFlags, OFlags, statat};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::selection::ChangedAt;

/// The folder of the record, in the output folder. No input and no output is in it.
pub const RECORD_FOLDER: &str = ".distwasm";

/// The record's name in that folder.
const RECORD_FILE: &str = "run.json";

/// The format of the record that this version writes and reads.
const FORMAT: u32 = 1;

/// What makes the outputs of a run what they are, besides the inputs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Making {
    /// The SHA-256 of the program, in hexadecimal.
    pub program: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// The SHA-256 of all other settings of the guest: environment, directories, export, mode. The environment may hold
    /// secrets, so it is not written down.
    pub settings: String,
}

/// A run as the record has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Run {
    /// When it began, in UTC.
    begun: String,
    /// The file of the program, for people.
    name: String,
    #[serde(flatten)]
    making: Making,
    /// The version of distwasm.
    version: String,
}

#[derive(Deserialize, Serialize)]
struct Record {
    format: u32,
    runs: Vec<Run>,
}

/// How an output was made, as far as the record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// In the same way as this run makes it, or nothing is known.
    Alike,
    /// By another program.
    ByProgram,
    /// With other arguments.
    WithArguments,
    /// With other settings.
    WithSettings,
}

/// The runs into an output folder so far, and this one.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: Making,
    /// When each run began, the first one first.
    runs: Vec<(ChangedAt, Making)>,
}

/// Why there is no record, or why it does not tell everything.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RecordError {
    #[error("the record of earlier runs {} is damaged; it begins anew", .path.display())]
    Damaged { path: PathBuf },
    #[error("the record of earlier runs {} was written by a newer version of distwasm; it is left as it is", .path.display())]
    Newer { path: PathBuf },
    #[error("failed to read the record of earlier runs {}", .path.display())]
    Unread { path: PathBuf, source: io::Error },
    #[error("failed to write the record of this run {}; a later run will not know what made these outputs", .path.display())]
    Unwritten { path: PathBuf, source: io::Error },
}

impl Making {
    /// How a program with these settings makes outputs.
    pub fn new(program: &Payload, guest: &GuestSettings) -> Making {
        let GuestSettings { args, env, call, fresh, deterministic, seed, shares } = guest;
        let shares: Vec<(String, &str)> =
            shares.iter().map(|share| (share.digest.to_string(), share.guest_path.as_str())).collect();
        // The debug format tells where each part ends.
        let settings = format!("{:?}", (env, call, fresh, deterministic, seed, shares));
        Making {
            program: Digest::of(program.chunks().map(AsRef::as_ref)).to_string(),
            args: args.clone(),
            settings: Digest::of([settings.as_bytes()]).to_string(),
        }
    }
}

impl History {
    /// The history of an output folder before a run that makes outputs like this. The error, if there is one, is to be
    /// told; the history is as good as it can be.
    pub fn read(output: &Path, now: Making) -> (History, Option<RecordError>) {
        let (runs, error) = match read(output) {
            Ok(record) => (record.runs, None),
            Err(RecordError::Unread { source, .. }) if source.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let began = |run: Run| humantime::parse_rfc3339(&run.begun).ok().map(|time| (since_1970(time), run.making));
        (History { now, runs: runs.into_iter().filter_map(began).collect() }, error)
    }

    /// Adds this run to the record of the folder, unless the last run was like it.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn record(&mut self, output: &Path, program: &str) -> Result<(), RecordError> {
        let path = path_in(output);
        if self.runs.last().is_some_and(|(_, last)| *last == self.now) {
            return Ok(());
        }
        let mut runs = match read(output) {
            Ok(record) => record.runs,
            // A record that this version cannot read whole is not replaced.
            Err(RecordError::Newer { .. }) => return Ok(()),
            Err(_) => Vec::new(),
        };
        let unwritten = |source| RecordError::Unwritten { path: path.clone(), source };
        let begun = begin(output).map_err(unwritten)?;
        self.runs.push((since_1970(begun), self.now.clone()));
        runs.push(Run {
            begun: humantime::format_rfc3339_nanos(begun).to_string(),
            name: program.to_owned(),
            making: self.now.clone(),
            version: VERSION.to_owned(),
        });
        let runs = runs.split_off(runs.len().saturating_sub(RUNS_RECORDED_MAX));
        let text = serde_json::to_vec_pretty(&Record { format: FORMAT, runs }).map_err(io::Error::from);
        let folder = open_record_folder(output, Missing::Stays).map_err(unwritten)?;
        text.and_then(|text| files::replace_in(folder, Path::new(RECORD_FILE), &text)).map_err(unwritten)
    }

    /// How an output that was written at this time was made.
    pub fn made(&self, written: ChangedAt) -> Made {
        match self.runs.iter().rev().find(|(begun, _)| *begun <= written) {
            Some((_, making)) if making.program != self.now.program => Made::ByProgram,
            Some((_, making)) if making.args != self.now.args => Made::WithArguments,
            Some((_, making)) if making.settings != self.now.settings => Made::WithSettings,
            _ => Made::Alike,
        }
    }

    /// Whether any earlier run is known.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// The path of the record.
fn path_in(output: &Path) -> PathBuf {
    output.join(RECORD_FOLDER).join(RECORD_FILE)
}

/// Opens the folder of the record. It is never a link.
fn open_record_folder(output: &Path, missing: Missing) -> io::Result<File> {
    beneath::open_folder(File::open(output)?, Path::new(RECORD_FOLDER), Links::Refused, missing)
}

fn read(output: &Path) -> Result<Record, RecordError> {
    let path = &path_in(output);
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unread = |source| RecordError::Unread { path: path.to_owned(), source };
    let damaged = || RecordError::Damaged { path: path.to_owned() };
    let file = open_record_folder(output, Missing::Stays)
        .and_then(|folder| beneath::file_in(folder, Path::new(RECORD_FILE), OFlags::empty()))
        .map_err(unread)?;
    let mut text = Vec::new();
    // One byte more shows whether it is longer.
    file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut text).map_err(unread)?;
    if text.len() as u64 > RECORD_BYTES_MAX {
        return Err(damaged());
    }
    match serde_json::from_slice::<Format>(&text) {
        Ok(Format { format }) if format > FORMAT => Err(RecordError::Newer { path: path.to_owned() }),
        _ => serde_json::from_slice(&text).map_err(|_| damaged()),
    }
}

/// Creates the folder of the record, and returns the time by the clock of its file system.
fn begin(output: &Path) -> io::Result<SystemTime> {
    let folder = open_record_folder(output, Missing::Made)?;
    let clock = files::unfinished_beside(Path::new("clock"));
    files::write_new_in(&folder, &clock, b"")?;
    let now = statat(&folder, &clock, AtFlags::SYMLINK_NOFOLLOW);
    files::remove_in(&folder, &clock)?;
    let now = now.map(|created| (created.st_mtime, created.st_mtime_nsec));
    let (seconds, nanos) = now?;
    let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
    Ok(UNIX_EPOCH + since)
}

fn since_1970(time: SystemTime) -> ChangedAt {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i64::from(since.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn making(program: &str, args: &[&str], settings: &str) -> Making {
        Making {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            settings: settings.to_owned(),
        }
    }

    fn run(output: &Path, making: Making) -> History {
        let (mut history, error) = History::read(output, making);
        assert!(error.is_none(), "{error:?}");
        history.record(output, "x.wasm").unwrap();
        history
    }

    #[test]
    fn the_time_of_an_output_tells_what_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (making("a", &[], ""), making("b", &[], ""));
        run(folder.path(), a.clone());
        let second = run(folder.path(), b.clone());
        let [(first_begun, _), (second_begun, _)] = second.runs[..] else { panic!("{second:?}") };
        assert!(second_begun >= first_begun);
        assert_eq!(second.made((0, 0)), Made::Alike, "nothing is known of it");
        assert_eq!(second.made((i64::MAX, 0)), Made::Alike);
        let third = run(folder.path(), b);
        assert_eq!(third.runs.len(), 2, "a run like the last one adds nothing");
        let fourth = run(folder.path(), a);
        assert_eq!(fourth.runs.len(), 3);
        let between =
            History { now: fourth.now.clone(), runs: vec![((5, 0), making("b", &[], "")), ((7, 1), fourth.now)] };
        let made = [(4, 9), (5, 0), (7, 0), (7, 1)].map(|at| between.made(at));
        assert_eq!(made, [Made::Alike, Made::ByProgram, Made::ByProgram, Made::Alike]);
    }

    #[test]
    fn arguments_and_settings_make_a_difference_too() {
        let earlier =
            |before: Making| History { now: making("a", &["x"], "s"), runs: vec![((1, 0), before)] }.made((2, 0));
        assert_eq!(earlier(making("a", &["x"], "s")), Made::Alike);
        assert_eq!(earlier(making("a", &[], "s")), Made::WithArguments);
        assert_eq!(earlier(making("a", &["x"], "t")), Made::WithSettings);
        let guest =
            |env: &[&str]| GuestSettings { env: env.iter().map(|v| (*v).to_owned()).collect(), ..Default::default() };
        let of = |env: &[&str]| Making::new(&Payload::from(b"program".to_vec()), &guest(env));
        assert_eq!(of(&["A=1", "B=2"]), of(&["A=1", "B=2"]));
        assert_ne!(of(&["A=1", "B=2"]), of(&["A=1\", \"B=2"]));
    }

    #[test]
    fn a_record_behind_a_link_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let (output, victim) = (folder.path().join("output"), folder.path().join("victim"));
        fs::create_dir_all(&victim).unwrap();
        fs::create_dir_all(&output).unwrap();
        fs::write(victim.join("run.json"), "precious").unwrap();
        symlink(&victim, output.join(RECORD_FOLDER)).unwrap();
        for _ in 0..2 {
            let (mut history, error) = History::read(&output, making("a", &[], ""));
            assert!(matches!(error, Some(RecordError::Unread { .. })), "{error:?}");
            let recorded = history.record(&output, "x.wasm");
            let is_folder = !output.join(RECORD_FOLDER).is_symlink();
            assert!(is_folder == recorded.is_ok(), "{recorded:?}");
            assert_eq!(fs::read_to_string(victim.join("run.json")).unwrap(), "precious");
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
            // The second time the file alone is a link. It is replaced.
            fs::remove_file(output.join(RECORD_FOLDER)).unwrap_or_default();
            fs::create_dir_all(output.join(RECORD_FOLDER)).unwrap();
            symlink(victim.join("run.json"), path_in(&output)).unwrap_or_default();
        }
        assert!(!path_in(&output).is_symlink());
    }

    #[test]
    fn a_record_that_cannot_be_used_is_told_and_is_not_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        fs::create_dir(folder.path().join(RECORD_FOLDER)).unwrap();
        for text in ["", "{", "[]", r#"{"format":1}"#, r#"{"format":1,"runs":[{}]}"#] {
            fs::write(&path, text).unwrap();
            let (mut history, error) = History::read(folder.path(), making("a", &[], ""));
            assert!(matches!(error, Some(RecordError::Damaged { .. })), "{text}: {error:?}");
            history.record(folder.path(), "x.wasm").unwrap();
            assert!(History::read(folder.path(), making("a", &[], "")).1.is_none());
        }
        let newer = r#"{"format":2,"runs":{}}"#;
        fs::write(&path, newer).unwrap();
        let (mut history, error) = History::read(folder.path(), making("a", &[], ""));
        assert!(matches!(error, Some(RecordError::Newer { .. })), "{error:?}");
        history.record(folder.path(), "x.wasm").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
        fs::remove_dir_all(folder.path().join(RECORD_FOLDER)).unwrap();
        fs::write(folder.path().join(RECORD_FOLDER), "a file of the user").unwrap();
        let (mut history, _) = History::read(folder.path(), making("a", &[], ""));
        assert!(matches!(history.record(folder.path(), "x.wasm"), Err(RecordError::Unwritten { .. })));
    }
}
