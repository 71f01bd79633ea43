//! Peasants as their duke sees them: how they are started, fed, listened to and ended.

mod answers;
mod command_line;
mod ending;
mod files;
mod frames;
mod handing;
mod handle;
mod kept;
mod spawn;

use distwasm_proto::{
    failure::Failure,
    ids::{BaronId, JobId},
};

pub use answers::{Answer, HeldResult, HeldRoom};
pub use command_line::{PeasantSettings, guest_flags, guest_words};
pub(crate) use ending::describe;
pub use frames::{Content, InputNo, UnitInput};
pub use handle::{Handle, hire};
pub use kept::KeptResult;
pub(crate) use kept::{OpenResult, read_part};
pub use spawn::{SpawnError, Spawner};

pub use crate::places::Unfinished;

/// Something that happened to the peasant of a baron.
#[derive(Debug)]
pub struct PeasantNews {
    /// The baron.
    pub baron: BaronId,
    /// The job that the peasant works for.
    pub job: JobId,
    /// What happened.
    pub event: PeasantEvent,
}

/// What happened to a peasant.
#[derive(Debug)]
pub enum PeasantEvent {
    /// It is initialised.
    Ready,
    /// It cannot initialise the program.
    Unfit(Failure),
    /// It cannot load the compiled program. Holds the reason as text.
    Unloadable(String),
    /// A long answer begins to arrive.
    AnswerBegun {
        /// It must wait for room.
        waits: bool,
    },
    /// Answers to the first units in its pipe, in order.
    Answered(Vec<Answer>),
    /// It ended. Holds a description of how. Nothing else comes after this.
    Gone(String),
}
