//! How a run ended, and why.

use distwasm_proto::failure::Failure;
use thiserror::Error;

use crate::{king_link::LinkError, report::Counts, run_limits::FailureLimit};

/// How a run ended.
#[derive(Debug)]
pub struct Ending {
    /// The counts of inputs and bytes.
    pub counts: Counts,
    /// Why it ended before everything was done, if it did.
    pub cut_short: Option<CutShort>,
}

/// Why a run ended before everything was done.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CutShort {
    #[error("interrupted")]
    Interrupted,
    #[error("stopped: {failed} of {finished} finished units failed, which is more than --max-failures {limit} allows")]
    TooManyFailed { failed: u64, finished: u64, limit: FailureLimit },
    #[error("the time for the whole run is over (--time-limit)")]
    OutOfTime,
    #[error("the job was cancelled (queen cancel)")]
    Cancelled,
    #[error("the program cannot run: {0}")]
    Unfit(String),
    #[error(transparent)]
    King(#[from] LinkError),
    #[error("no more outputs can be written: {0}")]
    NoOutputs(String),
    #[error("the input is left out (--include and the like), so there is no result")]
    LeftOut,
    #[error("{0}")]
    LocalKingdom(String),
}

impl CutShort {
    /// The program cannot run because of this failure; its stderr is shown.
    pub fn unfit(failure: &Failure) -> CutShort {
        let stderr = String::from_utf8_lossy(&failure.stderr);
        CutShort::Unfit(match stderr.trim() {
            "" => failure.message.clone(),
            stderr => format!("{}\nthe program wrote to stderr:\n{stderr}", failure.message),
        })
    }
}
