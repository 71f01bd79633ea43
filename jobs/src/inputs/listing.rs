//! Lists the inputs of a run, on a thread of its own, and reports them folder by folder, compared with the outputs.
//!
//! Only one folder at a time is in memory, however many inputs there are: the lister waits while the reactor does not
//! take its findings (back-pressure).

use std::{
    io,
    path::{Path, PathBuf},
};

use distwasm_proto::failure::{Failure, FailureKind};
use tokio::sync::mpsc;

use super::{
    BATCH, Finding, Input, Listing, Names, Tally,
    decision::{Decision, Kind, Reason, decide},
    old_outputs::OldOutputs,
    walk::{Visitor, walk},
};
use crate::{output_name::check_output, outputs::OutputPlace, run::Folders, selection::LeftOutBy};

/// Why an input cannot have an output.
const BLOCKED: &str = "its output cannot be written: something that is not a file has that name";

/// Goes through all inputs of a run, and says what is to be done with each. Ends early when the receiver is gone.
pub fn list(folders: &Folders, found: &mpsc::Sender<Finding>) {
    let Folders { input, output, listing, .. } = folders;
    let old = match output {
        OutputPlace::Folder(output) => Some(OldOutputs::new(input, output, listing)),
        OutputPlace::Stdout => None,
    };
    let mut lister = Lister { listing, old, found, batch: Vec::new(), tally: Tally::default() };
    // `None` says that the receiver is gone, or that the limit was reached: nothing is left to do then.
    let _end = walk(input, listing, &mut lister);
    let _end = lister.leave();
}

struct Lister<'a> {
    listing: &'a Listing,
    /// The outputs of earlier runs; `None` if the output goes to stdout.
    old: Option<OldOutputs<'a>>,
    found: &'a mpsc::Sender<Finding>,
    /// Inputs that were found and not reported.
    batch: Vec<Input>,
    /// Inputs that were found done or left out, and not reported.
    tally: Tally,
}

impl Lister<'_> {
    fn say(&self, finding: Finding) -> Option<()> {
        self.found.blocking_send(finding).ok()
    }

    fn say_batch(&mut self) -> Option<()> {
        let batch = std::mem::take(&mut self.batch);
        self.say(Finding::Inputs(batch))
    }

    fn say_tally(&mut self) -> Option<()> {
        match std::mem::take(&mut self.tally) {
            nothing if nothing == Tally::default() => Some(()),
            tally => self.say(Finding::Tally(tally)),
        }
    }

    fn bad_input(&self, path: &Path, why: impl Into<String>) -> Option<()> {
        self.unusable(path, FailureKind::Input, why.into())
    }

    fn bad_output(&self, path: &Path, why: impl Into<String>) -> Option<()> {
        self.unusable(path, FailureKind::Output, why.into())
    }

    fn unusable(&self, path: &Path, kind: FailureKind, why: String) -> Option<()> {
        self.say(Finding::Unusable { path: path.to_owned(), failure: Failure::new(kind, why) })
    }

    /// The path of an input's output below the output folder, if it is another than that of the input.
    fn output_of(&self, path: &Path, number: u64) -> Result<Option<PathBuf>, String> {
        match &self.listing.output_name {
            Some(name) => {
                let is_other = |output: &PathBuf| output.as_os_str() != path.as_os_str();
                name.fill_in(path, number).map(|output| Some(output).filter(is_other))
            }
            // A name that was given by the user may be that of the record.
            None if matches!(self.listing.names, Names::All) => Ok(None),
            None => check_output(path).map(|()| None),
        }
    }

    fn done(&mut self, path: &Path, reason: Reason) -> Option<()> {
        // Names come in their order.
        if self.listing.names_done && !self.batch.is_empty() {
            self.say_batch()?;
        }
        self.tally.done += 1;
        match reason {
            Reason::Changed => self.tally.newer += 1,
            Reason::Program | Reason::Arguments | Reason::Settings => self.tally.outdated += 1,
            Reason::Done | Reason::New | Reason::Forced => {}
        }
        if self.listing.names_done {
            self.tally.names.push((path.to_owned(), reason));
        }
        if self.tally.names.len() < BATCH { Some(()) } else { self.say_tally() }
    }
}

impl Visitor for Lister<'_> {
    const LOOKS: bool = true;

    fn enter(&mut self, folder: &Path) -> Option<bool> {
        let Some(old) = self.old.as_mut().filter(|_| self.listing.output_name.is_none()) else { return Some(true) };
        match old.enter(folder) {
            Ok(()) => Some(true),
            Err(why) => self.bad_output(folder, why).map(|()| false),
        }
    }

    fn leave(&mut self) -> Option<()> {
        self.say_tally()?;
        if self.batch.is_empty() { Some(()) } else { self.say_batch() }
    }

    fn unreadable(&mut self, folder: &Path, error: &io::Error) -> Option<()> {
        self.bad_input(folder, format!("the folder cannot be read: {error}"))
    }

    fn skipped(&mut self, path: &Path, why: &'static str) -> Option<()> {
        self.say(Finding::Skipped { path: path.to_owned(), why: why.to_owned() })
    }

    fn missing(&mut self, path: &Path, why: &'static str) -> Option<()> {
        match self.listing.names {
            Names::Failed(_) => self.say(Finding::Gone),
            _ => self.bad_input(path, format!("it is {why}")),
        }
    }

    fn left_out(&mut self, by: Option<LeftOutBy>) {
        match by {
            Some(by) => self.tally.left_out.count(by),
            None => self.tally.left_out.folders += 1,
        }
    }

    fn input(&mut self, path: &Path, kind: Kind, number: u64) -> Option<()> {
        let output = match self.output_of(path, number) {
            Ok(output) => output,
            Err(why) => return self.bad_output(path, why),
        };
        let old = match &mut self.old {
            None => Ok(None),
            Some(old) => old.kind_of(output.as_deref().unwrap_or(path)),
        };
        let old = match old {
            Ok(old) => old,
            Err(why) => return self.bad_output(path, why),
        };
        match decide(kind, old, self.listing.again, &self.listing.history) {
            Decision::Run { bytes, reason, replaces } => {
                if !self.tally.names.is_empty() {
                    self.say_tally()?;
                }
                let source = match &self.listing.names {
                    Names::Stdin(file) => Some(file.clone().into()),
                    _ => None,
                };
                let output = output.map(Into::into);
                self.batch.push(Input { path: path.to_owned(), bytes, output, source, replaces, reason });
                if self.batch.len() < BATCH {
                    return Some(());
                }
                self.say_batch()
            }
            Decision::Done(reason) => self.done(path, reason),
            Decision::Blocked => self.bad_output(path, BLOCKED),
            Decision::Unseen(why) => self.bad_input(path, format!("it cannot be looked at: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::Arc};

    use super::*;

    #[test]
    fn an_entry_that_cannot_be_examined_is_a_failed_input() {
        let folder = tempfile::tempdir().unwrap();
        // Such a link cannot be followed, not even by root.
        symlink("x".repeat(300), folder.path().join("hidden")).unwrap();
        symlink("nowhere", folder.path().join("lost")).unwrap();
        symlink("round", folder.path().join("round")).unwrap();
        for names in [Names::All, Names::Failed(["hidden", "lost", "round"].map(PathBuf::from).into())] {
            let (sender, mut found) = mpsc::channel(10);
            let listing = Arc::new(Listing { names: names.clone(), ..Listing::default() });
            let output = OutputPlace::Folder(folder.path().join("nowhere"));
            list(&Folders { input: folder.path().to_owned(), output, sync: false, listing }, &sender);
            drop(sender);
            let (mut unusable, mut others) = (Vec::new(), 0);
            while let Ok(found) = found.try_recv() {
                match found {
                    Finding::Unusable { path, .. } => unusable.push(path),
                    Finding::Skipped { .. } | Finding::Gone => others += 1,
                    Finding::Inputs(_) | Finding::Tally(_) => panic!("{found:?}"),
                }
            }
            assert_eq!((unusable, others), (vec![PathBuf::from("hidden")], 2), "{names:?}");
        }
    }
}
