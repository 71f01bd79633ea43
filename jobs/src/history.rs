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
};

use distwasm_process::{
    beneath::{self, Missing},
    files,
    unfinished::{OWN_FOLDER, open_own_folder},
};
use distwasm_proto::{
    VERSION,
    digest::Digest,
    guest::GuestSettings,
    limits::{RECORD_BYTES_MAX, RUNS_RECORDED_MAX},
    statuses::Statuses,
};
use rustix::fs::{AtFlags, OFlags, statat};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{file_time::FileTime, inputs::Outdated};

/// The record's name in that folder.
const RECORD_FILE: &str = "run.json";

/// The format of the record that this version writes and reads.
const FORMAT: u32 = 1;

/// What makes the outputs of a run what they are, besides the inputs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Making {
    /// The folder of inputs; `-` for stdin.
    pub input: String,
    /// The SHA-256 of the program, in hexadecimal.
    pub program: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// The SHA-256 of all other settings of the guest: environment, directories, export, mode. The environment may hold
    /// secrets, so it is not written down.
    pub settings: String,
    /// The SHA-256 of the names of all inputs in their order, if their numbers are in the names of outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbered: Option<String>,
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
struct RunRecord {
    format: u32,
    runs: Vec<Run>,
}

/// The runs into an output folder so far, and this one.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: Making,
    /// When each run began, the first one first.
    runs: Vec<(FileTime, Making)>,
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
    /// How a program with these settings makes outputs from the inputs in a folder.
    pub fn new(input: &Path, program: Digest, guest: &GuestSettings) -> Making {
        // Where bytes go, and how many there may be, changes nothing about outputs.
        let GuestSettings {
            args,
            env,
            call,
            fresh,
            deterministic,
            seed,
            shares,
            places: _,
            result_bytes_max: _,
            scratch_bytes: _,
            ..
        } = guest;
        let GuestSettings { stack_bytes, argv0, traps_unknown_imports, literal_args, ok_statuses, .. } = guest;
        let shares: Vec<(String, &str)> =
            shares.iter().map(|share| (share.digest.to_string(), share.guest_path.as_str())).collect();
        // The debug format tells where each part ends.
        let mut settings = format!("{:?}", (env, call, fresh, deterministic, seed, shares));
        // Settings that came later count when they are chosen, so that older records stay true.
        let later = (stack_bytes, argv0, traps_unknown_imports);
        if later != (&None, &String::new(), &false) {
            settings.push_str(&format!("{later:?}"));
        }
        if *literal_args {
            settings.push_str("literal");
        }
        if *ok_statuses != Statuses::default() {
            settings.push_str(&format!("statuses {ok_statuses}"));
        }
        Making {
            input: input.to_string_lossy().into_owned(),
            program: program.to_string(),
            args: args.clone(),
            settings: Digest::of([settings.as_bytes()]).to_string(),
            numbered: None,
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
        let began = |run: Run| humantime::parse_rfc3339(&run.begun).ok().map(|time| (time.into(), run.making));
        (History { now, runs: runs.into_iter().filter_map(began).collect() }, error)
    }

    /// A history of one run like this one.
    #[cfg(test)]
    pub(crate) fn since(begun: FileTime) -> History {
        History { now: Making::default(), runs: vec![(begun, Making::default())] }
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
            Err(RecordError::Unread { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(RecordError::Damaged { .. }) => Vec::new(),
            // A record that may be whole is not replaced; the error was told before.
            Err(_) => return Ok(()),
        };
        let unwritten = |source| RecordError::Unwritten { path: path.clone(), source };
        let begun = folder_time(output).map_err(unwritten)?;
        self.runs.push((begun, self.now.clone()));
        runs.push(Run {
            begun: humantime::format_rfc3339_nanos(begun.to_system()).to_string(),
            name: program.to_owned(),
            making: self.now.clone(),
            version: VERSION.to_owned(),
        });
        let mut record =
            RunRecord { format: FORMAT, runs: runs.split_off(runs.len().saturating_sub(RUNS_RECORDED_MAX)) };
        let mut text = serde_json::to_vec_pretty(&record).map_err(|error| unwritten(error.into()))?;
        while text.len() as u64 > RECORD_BYTES_MAX && record.runs.len() > 1 {
            // The oldest runs made the fewest of the outputs that are left.
            record.runs.remove(0);
            text = serde_json::to_vec_pretty(&record).map_err(|error| unwritten(error.into()))?;
        }
        let folder =
            File::open(output).and_then(|output| open_own_folder(output, Missing::Stays)).map_err(unwritten)?;
        files::replace_in(folder, Path::new(RECORD_FILE), &text).map_err(unwritten)
    }

    /// How an output that was written at this time differs from the one that this run would write, if that is known.
    pub fn outdated(&self, written: FileTime) -> Option<Outdated> {
        let making = self.making(written)?;
        let differences = [
            (making.input != self.now.input, Outdated::Folder),
            (making.program != self.now.program, Outdated::Program),
            (making.args != self.now.args, Outdated::Arguments),
            (making.settings != self.now.settings, Outdated::Settings),
        ];
        differences.into_iter().find(|(differs, _)| *differs).map(|(_, how)| how)
    }

    /// Whether any earlier run is known.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether an output that was written at this time may be of a run that is known.
    pub fn is_known(&self, written: FileTime) -> bool {
        self.making(written).is_some()
    }

    /// Whether a file that was written at this time may be the output of a run over this folder of inputs.
    pub fn is_from_here(&self, written: FileTime) -> bool {
        self.making(written).is_some_and(|making| making.input == self.now.input)
    }

    /// How the run made outputs that wrote at this time.
    fn making(&self, written: FileTime) -> Option<&Making> {
        self.runs.iter().rev().find(|(begun, _)| *begun <= written).map(|(_, making)| making)
    }

    /// Whether numbers are in the names of outputs, and those of earlier runs had other inputs under them.
    pub fn is_renumbered(&self) -> bool {
        let earlier = self.runs.iter().rev().find_map(|(_, making)| making.numbered.as_ref());
        self.now.numbered.is_some() && earlier.is_some_and(|earlier| self.now.numbered.as_ref() != Some(earlier))
    }

    /// Notes down which inputs have which numbers; the numbers are in the names of this run's outputs.
    pub fn number(&mut self, names: Digest) {
        self.now.numbered = Some(names.to_string());
    }
}

/// The path of the record.
fn path_in(output: &Path) -> PathBuf {
    output.join(OWN_FOLDER).join(RECORD_FILE)
}

fn read(output: &Path) -> Result<RunRecord, RecordError> {
    let path = &path_in(output);
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unread = |source| RecordError::Unread { path: path.to_owned(), source };
    let damaged = || RecordError::Damaged { path: path.to_owned() };
    let file = File::open(output)
        .and_then(|output| open_own_folder(output, Missing::Stays))
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
fn folder_time(output: &Path) -> io::Result<FileTime> {
    let folder = open_own_folder(File::open(output)?, Missing::Made)?;
    let clock = files::unfinished_beside(Path::new("clock"));
    files::write_new_in(&folder, &clock, b"")?;
    let now = statat(&folder, &clock, AtFlags::SYMLINK_NOFOLLOW);
    files::remove_in(&folder, &clock)?;
    Ok(FileTime::of_stat(&now?))
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
            ..Making::default()
        }
    }

    fn at(seconds: u64) -> FileTime {
        (std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).into()
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
        assert_eq!(second.outdated(at(0)), None, "nothing is known of it");
        assert_eq!(second.outdated(at(1 << 40)), None);
        let third = run(folder.path(), b);
        assert_eq!(third.runs.len(), 2, "a run like the last one adds nothing");
        let fourth = run(folder.path(), a);
        assert_eq!(fourth.runs.len(), 3);
        let now = fourth.now;
        let between = History { runs: vec![(at(5), making("b", &[], "")), (at(8), now.clone())], now };
        let made = [at(4), at(5), at(7), at(8)].map(|written| between.outdated(written));
        assert_eq!(made, [None, Some(Outdated::Program), Some(Outdated::Program), None]);
    }

    #[test]
    fn arguments_and_settings_make_a_difference_too() {
        let earlier = |before: Making| {
            let history = History { now: making("a", &["x"], "s"), runs: vec![(at(1), before)] };
            (history.outdated(at(2)), !history.is_from_here(at(2)))
        };
        assert_eq!(earlier(making("a", &["x"], "s")), (None, false));
        assert_eq!(earlier(making("a", &[], "s")), (Some(Outdated::Arguments), false));
        assert_eq!(earlier(making("a", &["x"], "t")), (Some(Outdated::Settings), false));
        let elsewhere = Making { input: "/elsewhere".to_owned(), ..making("a", &["x"], "s") };
        assert_eq!(earlier(elsewhere), (Some(Outdated::Folder), true));
        let guest =
            |env: &[&str]| GuestSettings { env: env.iter().map(|v| (*v).to_owned()).collect(), ..Default::default() };
        let of = |env: &[&str]| Making::new(Path::new("/in"), Digest::of([b"program".as_slice()]), &guest(env));
        assert_eq!(of(&["A=1", "B=2"]), of(&["A=1", "B=2"]));
        assert_ne!(of(&["A=1", "B=2"]), of(&["A=1\", \"B=2"]));
    }

    #[test]
    fn inputs_that_have_other_numbers_than_before_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let numbered = |names: &[u8]| {
            let (mut history, _) = History::read(folder.path(), making("a", &[], ""));
            history.number(Digest::of([names]));
            let is_renumbered = history.is_renumbered();
            history.record(folder.path(), "x.wasm").unwrap();
            is_renumbered
        };
        assert_eq!([&b"ab"[..], b"ab", b"abc", b"abc"].map(numbered), [false, false, true, false]);
    }

    #[test]
    fn a_record_keeps_within_its_size_whatever_the_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let large = "x".repeat(6 << 20);
        for program in ["a", "b", "c", "d"] {
            run(folder.path(), making(program, &[&large], ""));
        }
        let (history, error) = History::read(folder.path(), making("e", &[], ""));
        assert!(error.is_none() && history.runs.len() == 2, "{error:?}");
    }

    #[test]
    fn a_record_behind_a_link_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let (output, victim) = (folder.path().join("output"), folder.path().join("victim"));
        fs::create_dir_all(&victim).unwrap();
        fs::create_dir_all(&output).unwrap();
        fs::write(victim.join("run.json"), "precious").unwrap();
        symlink(&victim, output.join(OWN_FOLDER)).unwrap();
        for _ in 0..2 {
            let (mut history, error) = History::read(&output, making("a", &[], ""));
            assert!(matches!(error, Some(RecordError::Unread { .. })), "{error:?}");
            history.record(&output, "x.wasm").unwrap();
            assert_eq!(fs::read_to_string(victim.join("run.json")).unwrap(), "precious");
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
            // The second time the file alone is a link.
            fs::remove_file(output.join(OWN_FOLDER)).unwrap_or_default();
            fs::create_dir_all(output.join(OWN_FOLDER)).unwrap();
            symlink(victim.join("run.json"), path_in(&output)).unwrap_or_default();
        }
        assert!(path_in(&output).is_symlink(), "a record that cannot be read is left as it is");
    }

    #[test]
    fn a_record_that_cannot_be_used_is_told_and_is_not_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_in(folder.path());
        fs::create_dir(folder.path().join(OWN_FOLDER)).unwrap();
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
        fs::remove_dir_all(folder.path().join(OWN_FOLDER)).unwrap();
        fs::write(folder.path().join(OWN_FOLDER), "a file of the user").unwrap();
        let (mut history, error) = History::read(folder.path(), making("a", &[], ""));
        assert!(matches!(error, Some(RecordError::Unread { .. })), "{error:?}");
        history.record(folder.path(), "x.wasm").unwrap();
        assert!(folder.path().join(OWN_FOLDER).is_file());
    }
}
