//! Lists the inputs of a run, on a thread of its own, and reports them folder by folder, compared with the outputs.
//!
//! Only one folder at a time is in memory, however many inputs there are: the lister waits while the reactor does not
//! take its findings (back-pressure).

use std::{
    io,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use distwasm_process::unfinished::OWN_FOLDER;
use distwasm_proto::failure::{Failure, FailureKind};
use tokio::sync::mpsc;

use super::{
    BATCH, EntryKind, Finding, Input, InputFolder, InputRules, Names, Outdated, Tally,
    decision::{Decision, decide},
    old_outputs::OldOutputs,
    walk::{WalkHandler, walk},
};
use crate::{output_name::check_output, outputs::OutputPlace, run::Folders, selection::LeftOutBy};

/// Why an input cannot have an output.
fn blocked(kind: &str) -> String {
    format!(
        "its output cannot be written: something that is not {kind} has that name (remove it, or name another --output)"
    )
}

/// Why an input does not run again.
fn strange(kind: &str) -> String {
    format!("its output would replace {kind} that no run in the record wrote; if it is not needed, remove it")
}

/// Goes through all inputs of a run, and says what is to be done with each. Ends early when the receiver is gone.
pub fn list(folders: &Folders, found: &mpsc::Sender<Finding>) {
    let Folders { input, output, rules, .. } = folders;
    let old = match output {
        OutputPlace::Folder(output) => Some(OldOutputs::new(input, output, rules)),
        OutputPlace::Stdout => None,
    };
    let mut lister = Lister { rules, old, found, batch: Vec::new(), tally: Tally::default() };
    // `Break` says that the receiver is gone, or that the limit was reached: nothing is left to do then.
    let _end = walk(&InputFolder::new(input, rules.follows_links), &rules.names, &rules.selection, &mut lister);
    let _end = lister.leave();
}

struct Lister<'a> {
    rules: &'a InputRules,
    /// The outputs of earlier runs; `None` if the output goes to stdout.
    old: Option<OldOutputs<'a>>,
    found: &'a mpsc::Sender<Finding>,
    /// Inputs that were found and not reported.
    batch: Vec<Input>,
    /// Inputs that were found done or left out, and not reported.
    tally: Tally,
}

impl Lister<'_> {
    fn say(&self, finding: Finding) -> ControlFlow<()> {
        match self.found.blocking_send(finding) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_gone) => ControlFlow::Break(()),
        }
    }

    fn kind_of_outputs(&self) -> &'static str {
        if self.rules.outputs_are_folders { "a folder of results" } else { "a file" }
    }

    fn say_batch(&mut self) -> ControlFlow<()> {
        let batch = std::mem::take(&mut self.batch);
        self.say(Finding::Inputs(batch))
    }

    fn say_tally(&mut self) -> ControlFlow<()> {
        match std::mem::take(&mut self.tally) {
            nothing if nothing == Tally::default() => ControlFlow::Continue(()),
            tally => self.say(Finding::Tally(tally)),
        }
    }

    fn bad_input(&self, path: &Path, why: impl Into<String>) -> ControlFlow<()> {
        self.unusable(path, FailureKind::Input, why.into())
    }

    fn bad_output(&self, path: &Path, why: impl Into<String>) -> ControlFlow<()> {
        self.unusable(path, FailureKind::Output, why.into())
    }

    fn unusable(&self, path: &Path, kind: FailureKind, why: String) -> ControlFlow<()> {
        self.say(Finding::Unusable { path: path.to_owned(), failure: Failure::new(kind, why) })
    }

    /// The path of an input's output below the output folder, if it is another than that of the input.
    fn output_of(&self, path: &Path, number: u64) -> Result<Option<PathBuf>, String> {
        match &self.rules.output_name {
            Some(name) => {
                let is_other = |output: &PathBuf| output.as_os_str() != path.as_os_str();
                name.fill_in(path, number).map(|output| Some(output).filter(is_other))
            }
            // The user may have named the record, and a file may have its name.
            None if matches!(self.rules.names, Names::All) && path.as_os_str() != OWN_FOLDER => Ok(None),
            None => check_output(path).map(|()| None),
        }
    }

    fn done(&mut self, path: &Path, outdated: Option<Outdated>) -> ControlFlow<()> {
        self.tally.done += 1;
        match outdated {
            None => {}
            Some(Outdated::Input) => self.tally.newer += 1,
            Some(_) => self.tally.outdated += 1,
        }
        if !self.rules.reports_done {
            return ControlFlow::Continue(());
        }
        // Names come in their order.
        if !self.batch.is_empty() {
            self.say_batch()?;
        }
        self.tally.names.push((path.to_owned(), outdated));
        if self.tally.names.len() < BATCH { ControlFlow::Continue(()) } else { self.say_tally() }
    }
}

impl WalkHandler for Lister<'_> {
    const WANTS_METADATA: bool = true;

    fn enter(&mut self, folder: &Path) -> ControlFlow<(), bool> {
        let renames = self.rules.output_name.is_some();
        let entered = self.old.as_mut().filter(|_| !renames).map_or(Ok(()), |old| old.enter(folder));
        if let Err(why) = entered {
            self.bad_output(folder, why)?;
            return ControlFlow::Continue(false);
        }
        ControlFlow::Continue(true)
    }

    fn leave(&mut self) -> ControlFlow<()> {
        self.say_tally()?;
        if self.batch.is_empty() { ControlFlow::Continue(()) } else { self.say_batch() }
    }

    fn unreadable(&mut self, folder: &Path, error: &io::Error) -> ControlFlow<()> {
        self.bad_input(folder, format!("the folder cannot be read: {error}"))
    }

    fn skipped(&mut self, path: &Path, why: &'static str) -> ControlFlow<()> {
        self.say(Finding::Skipped { path: path.to_owned(), why: why.to_owned() })
    }

    fn missing(&mut self, path: &Path, why: &'static str) -> ControlFlow<()> {
        match self.rules.names {
            Names::Failed(_) => self.say(Finding::Gone),
            _ if path.as_os_str().as_bytes().ends_with(b"\r") => self
                .bad_input(path, format!("it is {why}; its name ends with a carriage return, as lines of Windows do")),
            _ => self.bad_input(path, format!("it is {why}")),
        }
    }

    fn left_out(&mut self, by: LeftOutBy) {
        self.tally.left_out.count(by);
    }

    fn input(&mut self, path: &Path, kind: EntryKind, number: u64) -> ControlFlow<()> {
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
        match decide(kind, old, self.rules.rerun, &self.rules.history) {
            Decision::Run { bytes, reason } => {
                if !self.tally.names.is_empty() {
                    self.say_tally()?;
                }
                let source = match &self.rules.names {
                    Names::Stdin(file) => Some(file.clone().into()),
                    _ => None,
                };
                let output = output.map(Into::into);
                self.batch.push(Input { path: path.to_owned(), bytes, output, source, reason });
                if self.batch.len() < BATCH {
                    return ControlFlow::Continue(());
                }
                self.say_batch()
            }
            Decision::Done(outdated) => self.done(path, outdated),
            Decision::Strange => self.bad_output(path, strange(self.kind_of_outputs())),
            Decision::Blocked => self.bad_output(path, blocked(self.kind_of_outputs())),
            Decision::Unseen(why) => self.bad_input(path, format!("it cannot be examined: {why}")),
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
            let rules = Arc::new(InputRules { names: names.clone(), ..InputRules::default() });
            let output = OutputPlace::Folder(folder.path().join("nowhere"));
            list(&Folders { input: folder.path().to_owned(), output, sync: false, rules }, &sender);
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
