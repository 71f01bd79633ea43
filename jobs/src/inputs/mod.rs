//! Inputs: found in their folder by the lister, read and sent by the readers.

pub(crate) mod listing;
pub mod numbers;
mod places;
mod plan;
pub(crate) mod post;
pub(crate) mod readers;

pub(crate) use plan::unfinished_name;

use std::{os::unix::ffi::OsStrExt, path::PathBuf};

use distwasm_proto::{failure::Failure, ids::UnitNo};

use numbers::LinkNo;

/// An input that has no output yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its path below the input folder, and its output's below the output folder.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub bytes: u64,
}

impl Input {
    /// Its name as a unit.
    pub fn name(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    /// The bytes that it takes in the window.
    pub fn window_bytes(&self) -> u64 {
        self.bytes + self.name().len() as u64
    }
}

/// A finding of the lister.
#[derive(Debug)]
pub enum Finding {
    /// Inputs to send, at most 64 at a time.
    Inputs(Vec<Input>),
    /// Inputs that are done already.
    Done {
        /// How many.
        count: u64,
        /// How many of them were changed after their outputs were written.
        newer: u64,
    },
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

/// An order for a reader.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOrder {
    /// Read and send this input.
    Input(Input),
    /// Read and send these inputs again over this link, with the numbers that they have.
    Again(LinkNo, Vec<(UnitNo, Input)>),
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
