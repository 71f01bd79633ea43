//! Decides what is to be done with an input: a pure decision over the input, its output, and what is known of earlier
//! runs.
//!
//! An input whose output exists as a file is done, unless the user wants it again.

use std::io;

use crate::{file_time::FileTime, history::History};

/// The kind of an entry in a folder, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, or a link to one.
    File {
        /// Its size.
        bytes: u64,
        /// When it was changed last.
        changed: FileTime,
    },
    /// A folder.
    Folder,
    /// Neither of these; its kind in words.
    Other(&'static str),
    /// It may be an input, but it could not be examined.
    Unseen(io::ErrorKind),
}

/// Which inputs that are done run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rerun {
    /// None.
    #[default]
    Never,
    /// Those whose outputs are outdated (`--update`).
    Outdated,
    /// All (`--force`).
    All,
}

/// How an output differs from the one that this run would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outdated {
    /// Its input was changed after it was written.
    Input,
    /// It comes from another folder of inputs.
    Folder,
    /// Another program wrote it.
    Program,
    /// It was written with other arguments.
    Arguments,
    /// It was written with other settings.
    Settings,
}

/// Why an input runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has no output.
    New,
    /// Its output is outdated.
    Outdated(Outdated),
    /// The user wants it again.
    Forced,
}

/// What is to be done with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Run it; it has this many bytes.
    Run { bytes: u64, reason: Reason },
    /// Nothing: its output exists, and may be outdated.
    Done(Option<Outdated>),
    /// It would run again, but what has the name of its output is not known as an output.
    Strange,
    /// It cannot have an output, because something that is not a file stands in its place.
    Blocked,
    /// It cannot be examined.
    Unseen(io::ErrorKind),
}

/// Decides on an input. `output` is what has the name of its output.
pub(super) fn decide(input: EntryKind, output: Option<EntryKind>, rerun: Rerun, history: &History) -> Decision {
    match (input, output) {
        (EntryKind::File { bytes, changed }, Some(EntryKind::File { changed: written, .. })) => {
            let outdated = if changed > written { Some(Outdated::Input) } else { history.outdated(written) };
            let runs = rerun == Rerun::All || (rerun == Rerun::Outdated && outdated.is_some());
            match (rerun, outdated) {
                _ if runs && !history.is_known(written) => Decision::Strange,
                (Rerun::All, None) => Decision::Run { bytes, reason: Reason::Forced },
                (Rerun::All | Rerun::Outdated, Some(how)) => Decision::Run { bytes, reason: Reason::Outdated(how) },
                (Rerun::Never, _) | (Rerun::Outdated, None) => Decision::Done(outdated),
            }
        }
        (EntryKind::Unseen(_), Some(EntryKind::File { .. })) if rerun != Rerun::All => Decision::Done(None),
        (EntryKind::Unseen(why), _) => Decision::Unseen(why),
        (EntryKind::File { bytes, .. }, None) => Decision::Run { bytes, reason: Reason::New },
        // Folders and other things are never decided on.
        (EntryKind::File { .. } | EntryKind::Folder | EntryKind::Other(_), _) => Decision::Blocked,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn file(changed: u64) -> EntryKind {
        EntryKind::File { bytes: 1, changed: (UNIX_EPOCH + Duration::from_secs(changed)).into() }
    }

    #[test]
    fn an_input_whose_output_exists_runs_only_if_the_user_wants_it() {
        let run = |reason| Decision::Run { bytes: 1, reason };
        let hidden = io::ErrorKind::PermissionDenied;
        let (done, newer) = (Decision::Done(None), Outdated::Input);
        for (input, output, expected) in [
            (file(5), None, [run(Reason::New); 3]),
            (file(5), Some(file(5)), [done, done, run(Reason::Forced)]),
            (
                file(6),
                Some(file(5)),
                [Decision::Done(Some(newer)), run(Reason::Outdated(newer)), run(Reason::Outdated(newer))],
            ),
            (file(5), Some(EntryKind::Folder), [Decision::Blocked; 3]),
            (file(5), Some(EntryKind::Other("a link to nothing")), [Decision::Blocked; 3]),
            (EntryKind::Unseen(hidden), None, [Decision::Unseen(hidden); 3]),
            (EntryKind::Unseen(hidden), Some(file(5)), [done, done, Decision::Unseen(hidden)]),
        ] {
            let decided = |history: &History| {
                [Rerun::Never, Rerun::Outdated, Rerun::All].map(|rerun| decide(input, output, rerun, history))
            };
            assert_eq!(decided(&History::since(FileTime::default())), expected, "{input:?} {output:?}");
            // A file that no run is known to have written is never replaced.
            let strange = expected.map(|decision| match (decision, output) {
                (Decision::Run { .. }, Some(_)) => Decision::Strange,
                (decision, _) => decision,
            });
            assert_eq!(decided(&History::default()), strange, "{input:?} {output:?}");
        }
    }
}
