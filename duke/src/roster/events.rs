//! The roster's events and actions, and the types that they are made of.

use std::time::Duration;

use distwasm_proto::ids::{AttemptId, BaronId, JobId};

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Event {
    /// The king gives this duke a part in a job. `timeout` is for one unit, `start_within` for starting a peasant.
    LeaseOpened { job: JobId, timeout: Option<Duration>, start_within: Duration },
    /// The job is over.
    LeaseClosed { job: JobId },
    /// The king grants slots to a job.
    SlotsGranted { job: JobId, slots: u32 },
    /// The king wants slots back.
    SlotsAskedBack { job: JobId, slots: u32 },
    /// The king takes slots by force that it has asked back.
    SlotsTaken { job: JobId, slots: u32 },
    /// A unit came, with an input of this size. It is not preempted before it has run for as long as it is spared.
    AttemptArrived { job: JobId, attempt: AttemptId, bytes: u64, alone: bool, spared: Duration },
    /// An attempt is not wanted any more, wherever it is.
    AttemptForgotten { job: JobId, attempt: AttemptId },
    /// Peasants of a job that are started from now on can do more: earlier ones are to be replaced.
    PeasantsOutdated { job: JobId },
    /// All supplies of a job are there: its program is compiled, its shared directories are unpacked.
    ProgramReady { job: JobId },
    /// A supply of a job cannot be made, because this machine lacks something. The program is not to blame.
    ProgramBroken { job: JobId },
    /// The compiled program of a job was there but cannot be loaded: it is to be made once more.
    ProgramSpoiled { job: JobId },
    /// A peasant is initialised.
    PeasantReady { baron: BaronId },
    /// A peasant cannot initialise its program, or the program cannot be compiled.
    ProgramUnfit { job: JobId },
    /// A long answer of a peasant has begun to arrive.
    AnswerBegun { baron: BaronId, waits: bool },
    /// A peasant answered the first unit in its pipe. `answer` is the reactor's name for the answer.
    Answered { baron: BaronId, answer: AnswerId },
    /// A peasant ended for any reason, or could not be started.
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
    /// Get the supplies of a job: its compiled program and its shared directories.
    PrepareProgram { job: JobId },
    /// Start a peasant.
    Spawn { baron: BaronId, job: JobId },
    /// Write a unit into a peasant's pipe.
    Feed { baron: BaronId, attempt: AttemptId },
    /// Close a peasant's stdin: it has answered everything and is to end.
    Retire { baron: BaronId },
    /// Kill a peasant.
    Kill { baron: BaronId },
    /// Forget the input of an attempt that is not wanted any more.
    Drop { attempt: AttemptId },
    /// Tell the king how an attempt ended. Its input is not needed any more.
    Report { attempt: AttemptId, outcome: Outcome, run_us: u64 },
    /// Tell the king that the job's program cannot run here; the reactor knows why.
    TellUnfit { job: JobId },
    /// Tell the king that slots are free, as it asked.
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
    /// The unit took longer than its timeout.
    TimedOut(Duration),
    /// The peasant of this baron died while it ran this very unit.
    Killed(BaronId),
    /// The unit is given back without blame. If it is a suspect, it is to be tried alone.
    Returned { suspect: bool },
    /// Its slot was taken by force.
    Preempted,
}
