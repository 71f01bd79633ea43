//! The files of units whose inputs or outputs are not carried: opened before their unit goes to the peasant, and looked
//! after when it is answered. All of it may block.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use distwasm_process::handover::is_for_want_of_room;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    pipe::Reference,
};

use super::{
    Answer, Content, UnitInput,
    kept::{OpenResult, cannot_keep},
};
use crate::places::{OpenOutput, Places};

/// The open files of a unit.
#[derive(Debug)]
pub(super) struct OpenFiles {
    input: Option<OpenInput>,
    output: Option<Output>,
    /// The name of the unit.
    name: Bytes,
}

/// Where the answer goes, if not through the pipe.
#[derive(Debug)]
enum Output {
    /// Into the folder of the output.
    Left(OpenOutput),
    /// To a file of the duke's own.
    Kept(OpenResult),
}

#[derive(Debug)]
struct OpenInput {
    /// A file that the duke has written is open once for all peasants: they read at positions of their own.
    file: Arc<File>,
    bytes: u64,
    /// Its state when it was opened, if others may write to it.
    state: Option<State>,
}

/// What changes when somebody writes to a file: its size, and when it was written.
type State = (u64, i64, i64);

/// Why the files of a unit are not open.
#[derive(Debug)]
pub(super) enum OpenError {
    /// There is no descriptor at present.
    NoRoom,
    /// The unit cannot be run.
    Failed(Failure),
}

impl OpenFiles {
    /// Opens the files of a unit, as far as they are not carried.
    pub(super) fn open(places: &Places, unit: &UnitInput) -> Result<OpenFiles, OpenError> {
        let input = match unit.content {
            Content::Carried(_) => None,
            Content::Referenced { listed_bytes } => Some(OpenInput::open(places, &unit.name, listed_bytes)?),
            Content::Streamed { bytes, ref file } => Some(OpenInput::of(file.clone(), bytes, &unit.name)?),
        };
        let left = || places.make_output().map_err(|error| OpenError::of(&error, || no_output(&unit.name, &error)));
        let kept = || places.make_result().map_err(|error| OpenError::of(&error, || cannot_keep(&error)));
        let output = match (unit.is_left, unit.is_kept) {
            (true, _) => Some(Output::Left(left()?)),
            (false, true) => Some(Output::Kept(kept()?)),
            (false, false) => None,
        };
        Ok(OpenFiles { input, output, name: unit.name.clone() })
    }
}

impl OpenError {
    fn of(error: &io::Error, failure: impl FnOnce() -> Failure) -> OpenError {
        if is_for_want_of_room(error) { OpenError::NoRoom } else { OpenError::Failed(failure()) }
    }
}

impl OpenInput {
    fn open(places: &Places, path: &[u8], listed_bytes: u64) -> Result<OpenInput, OpenError> {
        let opened = places.open_input(Path::new(OsStr::from_bytes(path)));
        let opened = opened.and_then(|file| file.metadata().map(|found| (file, found)));
        let (file, found) = opened.map_err(|error| OpenError::of(&error, || no_input(path, &error)))?;
        if found.len() != listed_bytes {
            let why = format!(
                "it had {listed_bytes} bytes when it was listed, and has {} now; run again when it is at rest",
                found.len()
            );
            return Err(OpenError::Failed(no_input(path, &why)));
        }
        Ok(OpenInput { file: Arc::new(file), bytes: found.len(), state: Some(state(&found)) })
    }

    /// The input of this size that the duke has written to a file of its own.
    fn of(file: Option<Arc<File>>, bytes: u64, path: &[u8]) -> Result<OpenInput, OpenError> {
        let file = file.ok_or_else(|| OpenError::Failed(no_input(path, &"its duke has not kept it")))?;
        Ok(OpenInput { file, bytes, state: None })
    }

    /// Whether it is as it was before the guest read it.
    fn check(&self, path: &[u8]) -> Result<(), Failure> {
        let Some(before) = self.state else { return Ok(()) };
        let found = self.file.metadata().map_err(|error| no_input(path, &error))?;
        if state(&found) == before {
            return Ok(());
        }
        Err(no_input(path, &"it changed while it was read; run again when it is at rest"))
    }
}

fn state(found: &Metadata) -> State {
    (found.len(), found.mtime(), found.mtime_nsec())
}

fn no_input(path: &[u8], why: &dyn std::fmt::Display) -> Failure {
    let path = String::from_utf8_lossy(path);
    Failure::new(FailureKind::Input, format!("cannot read {path}: {why}"))
}

fn no_output(path: &[u8], why: &io::Error) -> Failure {
    let path = String::from_utf8_lossy(path);
    Failure::new(FailureKind::of_output(why.kind()), format!("cannot write the output of {path}: {why}"))
}

impl OpenFiles {
    /// What the peasant is told of them.
    pub(super) fn reference(&self) -> Reference {
        Reference { input_bytes: self.input.as_ref().map(|input| input.bytes), output: self.output.is_some() }
    }

    /// Their descriptors, in the order in which the peasant takes them.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let input = self.input.as_ref().map(|input| input.file.as_fd());
        let output = self.output.as_ref().map(|output| match output {
            Output::Left(output) => output.file.as_fd(),
            Output::Kept(output) => output.written.as_fd(),
        });
        input.into_iter().chain(output)
    }

    /// What becomes of the unit after this answer of the peasant.
    pub(super) fn finish(self, answer: Answer) -> Answer {
        let OpenFiles { input, output, name } = self;
        let held = match (answer, &output) {
            (Answer::Result(held), _) => held,
            // It has a file, and could not need one.
            (Answer::NeedsFile(failure), Some(_)) => {
                return Answer::Failure(Failure { kind: FailureKind::Answer, ..failure });
            }
            (Answer::Failure(failure), Some(Output::Kept(_))) => return Answer::Failure(not_kept(failure)),
            (answer, _) => return answer,
        };
        if let Some(Err(changed)) = input.map(|input| input.check(&name)) {
            return Answer::Failure(changed);
        }
        let Some(output) = output else { return Answer::Result(held) };
        let bytes = held.result.bytes();
        if bytes > 0 {
            let why = format!("{bytes} bytes came through the pipe, where a file should hold the answer");
            return Answer::Failure(Failure::new(FailureKind::Answer, why));
        }
        match output {
            Output::Left(output) => match output.keep() {
                Ok(unfinished) => Answer::Written(unfinished),
                Err(error) => Answer::Failure(no_output(&name, &error)),
            },
            Output::Kept(output) => output.finish().unwrap_or_else(|error| Answer::Failure(cannot_keep(&error))),
        }
    }
}

/// A failure to write to the duke's own file says nothing about the folder of the outputs.
fn not_kept(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::Output | FailureKind::NoOutputs => cannot_keep(&failure.message).with_stderr(&failure.stderr),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use distwasm_process::unfinished::OWN_FOLDER;
    use distwasm_proto::{guest, ids::UnitNo};
    use distwasm_transport::payload::Payload;

    use super::*;
    use crate::allowed::AllowedDirs;

    fn unit(name: &'static str, listed_bytes: u64, is_left: bool) -> UnitInput {
        let content = Content::Referenced { listed_bytes };
        UnitInput { unit: UnitNo(1), number: 1, name: name.into(), content, is_left, is_kept: false }
    }

    fn message(answer: Answer) -> String {
        match answer {
            Answer::Failure(Failure { kind, message, .. }) => format!("{}: {message}", kind.name()),
            other => panic!("{other:?}"),
        }
    }

    fn places(input: &Path, output: &Path) -> Places {
        let wanted = guest::Places { input: Some(input.into()), output: Some(output.into()), probe: None };
        Places::open(&wanted, &AllowedDirs::All).unwrap()
    }

    #[test]
    fn files_are_looked_at_again_when_their_unit_is_answered() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("out")).unwrap();
        fs::write(path("in"), "text").unwrap();
        let places = places(place.path(), &path("out"));
        let open = |bytes| OpenFiles::open(&places, &unit("in", bytes, true)).unwrap();
        let good = || Answer::Result(Payload::default().into());
        let files = open(4);
        assert_eq!(files.reference(), Reference { input_bytes: Some(4), output: true });
        assert_eq!(files.descriptors().count(), 2);
        assert!(matches!(files.finish(good()), Answer::Written(_)));
        let files = open(4);
        fs::write(path("in"), "longer").unwrap();
        let why = message(files.finish(good()));
        assert!(why.starts_with("input: cannot read in: it changed while it was read"), "{why}");
        let why = message(open(6).finish(Answer::Result(Payload::from(vec![7]).into())));
        assert!(why.starts_with("answer: 1 bytes came"), "{why}");
        assert_eq!(fs::read_dir(path("out").join(OWN_FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn files_that_cannot_be_opened_are_failures_with_their_paths() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("gone")).unwrap();
        fs::create_dir(path("inputs")).unwrap();
        fs::write(path("inputs/in"), "").unwrap();
        fs::write(path("secret"), "").unwrap();
        let places = places(&path("inputs"), &path("gone"));
        fs::remove_dir_all(path("gone")).unwrap();
        for (name, bytes, is_left, expected) in [
            ("none", 0, false, "input: cannot read none: No such file"),
            ("../secret", 0, false, "input: cannot read ../secret: it is a link that leads out"),
            ("in", 7, false, "input: cannot read in: it had 7 bytes when it was listed, and has 0 now"),
            ("in", 0, true, "output: cannot write the output of in: No such file"),
        ] {
            let Err(OpenError::Failed(failure)) = OpenFiles::open(&places, &unit(name, bytes, is_left)) else {
                panic!("{name}")
            };
            let why = message(Answer::Failure(failure));
            assert!(why.starts_with(expected), "{why}");
        }
    }
}
