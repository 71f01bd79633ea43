//! The ways of a job's files: carried by the king, seen by its dukes, or all on this machine.

use std::{ffi::OsString, fs, ops::Range, path::Path, process::Command};

use distwasm_process::unfinished::is_unfinished;

use crate::real::{Place, guest};

/// The way of a job's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The king passes inputs and results on.
    Carried,
    /// Dukes see the folders that this flag of the queen names.
    Shared(&'static str),
    /// There is no king: the queen has a duke of its own, which sees both folders.
    Here,
}

/// All ways, those that use most of the code first.
pub const ALL: [Way; 5] =
    [Way::Carried, Way::Shared("--shared"), Way::Here, Way::Shared("--shared=output"), Way::Shared("--shared=input")];

impl Way {
    /// The command of a queen whose job goes this way, at the king with this address.
    pub(super) fn queen(self, place: &Place, king: &str) -> Command {
        let mut queen = place.queen_command(guest("slow.wat"));
        match self {
            Way::Carried => queen.args(["--insecure", "--king-address", king]),
            Way::Shared(flag) => queen.args(["--insecure", "--king-address", king, flag]),
            // Small files are shared only if that is wanted.
            Way::Here => queen.args(["--num-cpus", "2", "--shared"]),
        };
        queen
    }

    /// Whether the queen itself writes the outputs.
    pub(super) fn writes_outputs(self) -> bool {
        matches!(self, Way::Carried | Way::Shared("--shared=input"))
    }

    /// How many descriptors a queen may have: a few more than it needs at least.
    pub(super) fn descriptors(self) -> Range<u32> {
        match self {
            Way::Carried | Way::Shared(_) => 40..120,
            Way::Here => 100..200,
        }
    }

    /// For the toll.
    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Carried => "queens",
            Way::Shared(_) => "queens that share",
            Way::Here => "queens alone",
        }
    }
}

/// The files below an output folder that have names of unfinished outputs.
pub(super) fn unfinished(output: &Path) -> Vec<OsString> {
    let mut found = Vec::new();
    for entry in fs::read_dir(output).unwrap().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(unfinished(&entry.path()));
        } else if is_unfinished(&entry.file_name()) {
            found.push(entry.path().into_os_string());
        }
    }
    found
}
