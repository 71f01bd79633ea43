//! What the roster is told and what it tells: events, actions, and what they are made of.

use std::time::Duration;

use distwasm_proto::ids::{AttemptId, BaronId, JobId};

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Event {
    /// The king gives this duke a part in a job. `timeout` is for one unit.
    LeaseOpened { job: JobId, timeout: Option<Duration> },
    /// The job is over.
    LeaseClosed { job: JobId },
    /// The king grants slots to a job.
    SlotsGranted { job: JobId, slots: u32 },
    /// The king wants slots back.
    SlotsAskedBack { job: JobId, slots: u32 },
    /// A unit came, with an input of this size.
    AttemptArrived { job: JobId, attempt: AttemptId, bytes: u64, alone: bool },
    /// Nobody wants a unit any more, wherever it is.
    AttemptForgotten { job: JobId, attempt: AttemptId },
    /// All that a job's peasants need is there: its program is compiled, its shared directories are unpacked.
    ProgramReady { job: JobId },
    /// What a job's peasants need cannot be had, for want of something on this machine; the program is not to blame.
    ProgramBroken { job: JobId },
    /// What its peasants need was there, and is of no use: it is to be got once more.
    ProgramSpoiled { job: JobId },
    /// A peasant is initialised.
    PeasantReady { baron: BaronId },
    /// A peasant cannot initialise its program, or the program cannot be compiled.
    ProgramUnfit { job: JobId },
    /// A long answer of a peasant has begun to arrive.
    AnswerBegun { baron: BaronId, waits: bool },
    /// A peasant answered the unit that was first in its pipe. `answer` is the reactor's name for what it said.
    Answered { baron: BaronId, answer: AnswerId, done: bool, bytes: u64 },
    /// A peasant ended, for whatever reason, or could not be started.
    PeasantGone { baron: BaronId },
    /// Time passed; sent when [`Roster::next_deadline`](super::Roster::next_deadline) is reached.
    Tick,
}

/// The reactor's name for one answer of a peasant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerId(pub u64);

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Action {
    /// Get what the job's peasants need: its program, compiled, and its shared directories.
    PrepareProgram { job: JobId },
    /// Start a peasant.
    Spawn { baron: BaronId, job: JobId },
    /// Write a unit into a peasant's pipe.
    Feed { baron: BaronId, attempt: AttemptId },
    /// Close a peasant's stdin: it has answered everything, and is to end.
    Retire { baron: BaronId },
    /// Kill a peasant.
    Kill { baron: BaronId },
    /// Forget the input of an attempt that nobody wants.
    Drop { attempt: AttemptId },
    /// Tell the king how an attempt ended. Its input is not needed any more.
    Report { attempt: AttemptId, outcome: Outcome, run_us: u64 },
    /// Tell the king that a large result waits.
    Offer { attempt: AttemptId, answer: AnswerId, bytes: u64, run_us: u64 },
    /// Tell the king that the job's program cannot run here; the reactor knows why.
    TellUnfit { job: JobId },
    /// Tell the king that slots are free, as he wished.
    TellReleased { job: JobId, slots: u32 },
    /// Tell the king that slots are given back because peasants cannot be started.
    TellBroken { job: JobId, slots: u32 },
    /// Forget what is kept for a job.
    Forget { job: JobId },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Outcome {
    /// The peasant answered: a result or a failure.
    Answered(AnswerId),
    /// The unit took longer than its time-out.
    TimedOut(Duration),
    /// The peasant of this baron died under this very unit.
    Killed(BaronId),
    /// The unit is given back; it is not to blame, or it is not known to be: a suspect is to be tried alone.
    Returned { suspect: bool },
}
