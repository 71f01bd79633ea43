//! Decides what is to be done with an input: a pure decision over the input, its output, and what is known of earlier
//! runs.
//!
//! An input whose output exists as a file is done, unless the user wants it again.

use std::io;

use crate::{
    history::{History, Made},
    selection::ChangedAt,
};

/// The kind of an entry in a folder, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, or a link to one, of this size in bytes, and when it was changed last.
    File(u64, ChangedAt),
    /// A folder.
    Folder,
    /// Neither of these; its kind in words.
    Other(&'static str),
    /// It may be an input, but it could not be examined.
    Unseen(io::ErrorKind),
}

/// Which inputs that are done run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Again {
    /// None.
    #[default]
    Never,
    /// Those that are newer than their outputs, and those whose outputs were made in another way (`--update`).
    Outdated,
    /// All (`--force`).
    All,
}

/// Why an input runs, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has no output.
    New,
    /// It was changed after its output was written.
    Changed,
    /// Its output was made by another program.
    Program,
    /// Its output was made with other arguments.
    Arguments,
    /// Its output was made with other settings.
    Settings,
    /// It is done, and the user wants it again.
    Forced,
    /// It is done.
    Done,
}

/// What is to be done with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Run it. It has this many bytes, and if it has an output, the new one takes its place.
    Run { bytes: u64, reason: Reason, replaces: bool },
    /// Nothing. Its output exists, for all that the reason says.
    Done(Reason),
    /// It cannot have an output, because something that is not a file stands in its place.
    Blocked,
    /// It cannot be examined.
    Unseen(io::ErrorKind),
}

/// Decides on an input. `output` is what has the name of its output.
pub(super) fn decide(input: Kind, output: Option<Kind>, again: Again, history: &History) -> Decision {
    match (input, output) {
        (Kind::File(bytes, changed), Some(Kind::File(_, written))) => {
            let reason = if changed > written { Reason::Changed } else { reason_of(history.made(written)) };
            let run = |reason| Decision::Run { bytes, reason, replaces: true };
            match (again, reason) {
                (Again::All, Reason::Done) => run(Reason::Forced),
                (Again::Never, reason) | (Again::Outdated, reason @ Reason::Done) => Decision::Done(reason),
                (Again::All | Again::Outdated, reason) => run(reason),
            }
        }
        (Kind::Unseen(_), Some(Kind::File(..))) if again != Again::All => Decision::Done(Reason::Done),
        (Kind::Unseen(why), _) => Decision::Unseen(why),
        (Kind::File(bytes, _), None) => Decision::Run { bytes, reason: Reason::New, replaces: false },
        // Folders and other things are never decided on.
        (Kind::File(..) | Kind::Folder | Kind::Other(_), _) => Decision::Blocked,
    }
}

fn reason_of(made: Made) -> Reason {
    match made {
        Made::Alike => Reason::Done,
        Made::ByProgram => Reason::Program,
        Made::WithArguments => Reason::Arguments,
        Made::WithSettings => Reason::Settings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(changed: i64) -> Kind {
        Kind::File(1, (changed, 0))
    }

    #[test]
    fn an_input_whose_output_exists_runs_only_if_the_user_wants_it() {
        let run = |reason, replaces| Decision::Run { bytes: 1, reason, replaces };
        let hidden = io::ErrorKind::PermissionDenied;
        let done = Decision::Done(Reason::Done);
        for (input, output, expected) in [
            (file(5), None, [run(Reason::New, false); 3]),
            (file(5), Some(file(5)), [done, done, run(Reason::Forced, true)]),
            (
                file(6),
                Some(file(5)),
                [Decision::Done(Reason::Changed), run(Reason::Changed, true), run(Reason::Changed, true)],
            ),
            (file(5), Some(Kind::Folder), [Decision::Blocked; 3]),
            (file(5), Some(Kind::Other("a link to nothing")), [Decision::Blocked; 3]),
            (Kind::Unseen(hidden), None, [Decision::Unseen(hidden); 3]),
            (Kind::Unseen(hidden), Some(file(5)), [done, done, Decision::Unseen(hidden)]),
        ] {
            let history = History::default();
            let decided =
                [Again::Never, Again::Outdated, Again::All].map(|again| decide(input, output, again, &history));
            assert_eq!(decided, expected, "{input:?} {output:?}");
        }
    }
}
