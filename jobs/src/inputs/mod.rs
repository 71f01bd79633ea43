//! Inputs: found in their folder by the lister, read and sent by the readers.

mod decision;
mod folder;
mod listing;
pub mod numbers;
mod old_outputs;
mod parts;
mod places;
pub(crate) mod post;
pub(crate) mod readers;
pub mod survey;
mod walk;

pub(crate) use decision::EntryKind;
pub use decision::{Outdated, Reason, Rerun};
pub use folder::InputFolder;
pub use listing::list;
pub use walk::STDIN;
pub(crate) use walk::read_folder;

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use distwasm_proto::{failure::Failure, ids::UnitNo};

use crate::{
    history::History,
    king_link::PartWanted,
    output_name::OutputName,
    selection::{LeftOut, Selection},
};
use numbers::LinkNo;

/// Which inputs a run has, what their outputs are called, and which of them run again.
#[derive(Clone, Debug)]
pub struct InputRules {
    /// Where names come from.
    pub names: Names,
    /// Whether links among the inputs are followed out of their folder.
    pub follows_links: bool,
    /// What is left out.
    pub selection: Selection,
    /// What outputs are called, if not as their inputs.
    pub output_name: Option<OutputName>,
    /// Whether each output is a folder of files.
    pub outputs_are_folders: bool,
    /// Which inputs run although they are done.
    pub rerun: Rerun,
    /// The earlier runs into the output folder.
    pub history: History,
    /// Whether unfinished outputs of earlier runs are removed. They are not when another queen may be writing them.
    pub sweeps: bool,
    /// Whether inputs that are done are named, and not only counted.
    pub reports_done: bool,
}

/// As a queen without flags lists its inputs.
impl Default for InputRules {
    fn default() -> InputRules {
        InputRules {
            names: Names::All,
            follows_links: false,
            selection: Selection::default(),
            output_name: None,
            outputs_are_folders: false,
            rerun: Rerun::Never,
            history: History::default(),
            sweeps: true,
            reports_done: false,
        }
    }
}

/// Where the names of inputs come from. All are paths below the input folder.
#[derive(Clone, Debug)]
pub enum Names {
    /// Every file below the input folder is an input.
    All,
    /// Failures of earlier runs: inputs, and folders that could not be read.
    Failed(Arc<[PathBuf]>),
    /// Inputs that the user named, each once, in this order.
    Listed(Arc<[PathBuf]>),
    /// One input, which was read from stdin into this file.
    Stdin(PathBuf),
}

/// An input that is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its path below the input folder.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub bytes: u64,
    /// The path of its output below the output folder, if it is another one.
    pub output: Option<Box<Path>>,
    /// The file that it is read from, if that is another one.
    pub source: Option<Box<Path>>,
    /// Why it runs.
    pub reason: Reason,
}

impl Input {
    /// An input of this size that has no output yet, and whose output is called as it is.
    pub fn new(path: impl Into<PathBuf>, bytes: u64) -> Input {
        let reason = Reason::New;
        Input { path: path.into(), bytes, output: None, source: None, reason }
    }

    /// The path of its output below the output folder.
    pub fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(&self.path)
    }

    /// Whether its output takes the place of an earlier one.
    pub fn replaces(&self) -> bool {
        self.reason != Reason::New
    }

    /// The path of its file: absolute, or below the input folder.
    pub fn source(&self) -> &Path {
        self.source.as_deref().unwrap_or(&self.path)
    }

    /// Its name as a unit.
    pub fn name(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

/// A finding of the lister.
#[derive(Debug)]
pub enum Finding {
    /// Inputs to send, at most 64 at a time.
    Inputs(Vec<Input>),
    /// Inputs that are done already, or left out.
    Tally(Tally),
    /// An input that was asked for by name is not an input any more.
    Gone,
    /// Something that is not an input.
    Skipped {
        /// Its path below the input folder.
        path: PathBuf,
        /// What it is, in words.
        why: String,
    },
    /// An input, or a folder of inputs, that cannot be processed, because of a fault in it or in its output.
    Unusable {
        /// Its path below the input folder.
        path: PathBuf,
        /// The fault.
        failure: Failure,
    },
}

/// Inputs that do not run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many are done.
    pub done: u64,
    /// How many of those were changed after their outputs were written.
    pub newer: u64,
    /// How many others of those have outdated outputs.
    pub outdated: u64,
    /// The names of those that are done, if [`InputRules::reports_done`] asks for them, and how their outputs are outdated.
    pub names: Vec<(PathBuf, Option<Outdated>)>,
    /// What is left out.
    pub left_out: LeftOut,
}

/// What changes when somebody writes to a file: its size, and when it was written, in seconds and nanoseconds.
pub(crate) type FileState = (u64, i64, i64);

/// The state of a streamed input when a part of it was first read: each part must be of the same file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstSeen(pub(crate) Arc<OnceLock<FileState>>);

/// An order for a reader.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOrder {
    /// Read and send this input.
    Input(Input),
    /// Read and send these inputs again over this link, with the numbers that they have.
    Again(LinkNo, Vec<(UnitNo, Input)>),
    /// Read a part of a streamed input, and send it over this link.
    Part(LinkNo, PartWanted, Input, FirstSeen),
    /// Tell the king over this link that there are no more than this many units.
    Close(LinkNo, u64),
}

/// A reader's report to the reactor.
#[derive(Debug)]
pub enum Sent {
    /// These inputs are on their way as these units.
    Units(Vec<(UnitNo, Input)>),
    /// This input could not be read, for this reason.
    Unreadable(Input, String),
}

/// Inputs in one [`Finding::Inputs`], and orders that a reader takes at once.
pub(crate) const BATCH: usize = 64;
