//! The scheduler's input and output: events, actions, and their parts.

use std::{collections::BTreeMap, time::Duration};

use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::GRACE,
    secret::Mark,
    time::Time,
};

use crate::authority::Origin;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Event {
    /// A duke offers its machine. `was` is its last link, if this king knew it; `holds` are its leases from before.
    DukeJoined {
        duke: DukeId,
        cpus: u32,
        ram_bytes: u64,
        labels: BTreeMap<String, String>,
        was: Option<DukeId>,
        holds: Vec<HeldLease>,
    },
    /// A duke's link broke. It goes on working, and may come back.
    DukeAway { duke: DukeId },
    /// A duke is going to leave: it finishes what it runs, and wants nothing new.
    DukeDraining { duke: DukeId },
    /// A duke is gone for good.
    DukeLost { duke: DukeId },
    /// A queen opened a job, or came back to it. A peer that names the job later must know its mark.
    JobOpened { job: JobId, mark: Mark, spec: JobSpec, resumes: Resumption },
    /// A queen added the next unit of a job, with an input of this size.
    UnitAdded { job: JobId, unit: UnitNo, bytes: u64 },
    /// A queen announced the next unit of a job, and could not send its input; the reason has this many bytes.
    UnitBroken { job: JobId, unit: UnitNo, bytes: u64 },
    /// A part of a streamed input is on its way to the duke of this attempt.
    InputMoved { attempt: AttemptId },
    /// A queen cannot read a streamed input; the reason has this many bytes.
    InputBroken { job: JobId, unit: UnitNo, bytes: u64 },
    /// A queen will add no more units.
    JobClosed { job: JobId },
    /// A queen's link broke. The queen may come back.
    QueenAway { job: JobId },
    /// A queen left; the results of its job are not wanted any more.
    QueenLost { job: JobId },
    /// A queen that was killed was started again as another job: that with this mark is over.
    JobReplaced { mark: Mark },
    /// Somebody has cancelled a job.
    JobCancelled { job: JobId },
    /// A duke says how an attempt ended.
    AttemptEnded { duke: DukeId, attempt: AttemptId, outcome: Outcome, run_us: u64 },
    /// The inputs of all attempts up to this one have arrived at a duke.
    InputsArrived { duke: DukeId, attempt: AttemptId },
    /// A duke has a result that is too large to be sent unasked. If it is streamed, the king never holds it.
    ResultOffered { duke: DukeId, attempt: AttemptId, bytes: u64, run_us: u64, streamed: bool },
    /// A streamed result is on its way to its queen.
    ResultMoved { attempt: AttemptId },
    /// A queen has this many more verdicts, and their results have this many bytes.
    VerdictsHeard { job: JobId, verdicts: u64, bytes: u64 },
    /// A duke could not compile or initialise a job's program.
    ProgramUnfit { duke: DukeId, job: JobId },
    /// Slots that were asked back are free.
    SlotsReleased { duke: DukeId, job: JobId, slots: u32 },
    /// A duke gives slots back because it cannot start peasants for the job at present.
    SlotsBroken { duke: DukeId, job: JobId, slots: u32 },
    /// Time passed; sent when [`Scheduler::next_deadline`](super::Scheduler::next_deadline) is reached.
    Tick,
}

/// The slots and attempts of a duke for a job, from before its present link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The job.
    pub job: JobId,
    /// The job's mark, as the duke was told it.
    pub mark: Mark,
    /// The machine's memory that each slot has.
    pub slot_bytes: u64,
    /// Slots that serve the job.
    pub slots: u32,
    /// Slots that are being given back.
    pub leaving: u32,
    /// The duke has given the job up.
    pub closed: bool,
    /// Attempts that are queued, run, or have ended without the king's having said that the duke may forget them.
    pub attempts: Vec<HeldAttempt>,
}

/// One attempt at a duke that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct HeldAttempt {
    pub attempt: AttemptId,
    pub unit: UnitNo,
    /// The size of its input.
    pub bytes: u64,
    /// Which try of its unit it is.
    pub number: u32,
}

/// The state of a job at a queen that comes back to it. Empty when the queen opens the job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// How many units the queen has numbered.
    pub sent: u64,
    /// Units among them that have no verdict.
    pub lacking: Vec<UnitNo>,
    /// How many dukes there were when the queen last heard of it.
    pub dukes: u32,
}

/// A queen's wishes for the scheduling of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// The key of fair sharing.
    pub project: String,
    /// Memory that each slot must have, in bytes; 0 for any amount.
    pub min_ram_bytes: u64,
    /// At most one slot on each duke, with all its memory.
    pub one_per_machine: bool,
    /// How often a unit that failed is tried again.
    pub retries: u32,
    /// The weight of its project beside others; the heaviest job of a project counts. At least 1.
    pub weight: u32,
    /// A job of a higher priority comes before others of its project.
    pub priority: i32,
    /// The most slots that it may have at a time; `None` for no limit.
    pub max_parallel: Option<u32>,
    /// Labels that a duke must have.
    pub requires: BTreeMap<String, String>,
    /// Whether a unit that takes far longer than others may be tried on a second duke meanwhile.
    pub speculate: bool,
    /// All jobs of one origin share their part of the room for results.
    pub payer: Origin,
}

impl Default for JobSpec {
    fn default() -> JobSpec {
        JobSpec {
            project: String::new(),
            min_ram_bytes: 0,
            one_per_machine: false,
            retries: 0,
            weight: 1,
            priority: 0,
            max_parallel: None,
            requires: BTreeMap::new(),
            speculate: true,
            payer: Origin::Here,
        }
    }
}

/// How an attempt ended, as its duke tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Outcome {
    /// The guest answered with a result of this size.
    Done { bytes: u64 },
    /// The guest failed, with evidence of this size.
    Failed { bytes: u64 },
    /// The peasant died under this very unit, with evidence of this size.
    Killed { bytes: u64 },
    /// The duke gives the unit back. The unit is not to blame, or not known to be: a suspect is to be tried alone.
    Returned { suspect: bool },
    /// The duke ended it because its slot was taken by force.
    Preempted,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Action {
    /// Tell a duke about a job that it is going to work for. If `fresh`, it is to get the program anew.
    OpenLease { duke: DukeId, job: JobId, slot_bytes: u64, fresh: bool },
    /// Give a duke's slots to a job.
    GrantSlots { duke: DukeId, job: JobId, slots: u32 },
    /// Ask slots back; the duke finishes what they run.
    ReleaseSlots { duke: DukeId, job: JobId, slots: u32 },
    /// Take slots by force that were asked back: the duke ends what runs there.
    TakeSlots { duke: DukeId, job: JobId, slots: u32 },
    /// Tell a duke that a job is over.
    CloseLease { duke: DukeId, job: JobId },
    /// Hand a unit to a duke. `number` says which try of the unit it is; the first is 1. It is not preempted before it
    /// has run for `spared_us`.
    StartAttempt {
        duke: DukeId,
        job: JobId,
        unit: UnitNo,
        attempt: AttemptId,
        number: u32,
        alone: bool,
        spared_us: u64,
    },
    /// Tell a duke that an attempt is not wanted any more, whatever its state. What came of it is `unused`, or may be the
    /// verdict that its unit has.
    ForgetAttempt { duke: DukeId, attempt: AttemptId, unused: bool },
    /// Ask a duke for a result that it offered.
    FetchResult { duke: DukeId, attempt: AttemptId, bytes: u64 },
    /// Tell the queen how a unit ended. No later action is about this unit.
    Report { job: JobId, unit: UnitNo, verdict: Verdict, attempts: u32 },
    /// Tell the queen the slots of its job, and the reason why the job waits.
    TellStatus { job: JobId, status: JobStatus },
    /// Tell the queen that its job is over.
    EndJob { job: JobId, end: JobEnd },
    /// A duke that was away has not come back in time.
    ForgetDuke { duke: DukeId },
    /// End a duke's link: the duke said something that cannot be true.
    ExpelDuke { duke: DukeId, why: &'static str },
}

/// The verdict on a unit, as the queen is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has a result: that of this attempt.
    Done(AttemptId),
    /// It failed, for the reason that this attempt gave.
    Failed(AttemptId),
    /// Its input never arrived whole.
    Broken,
}

/// The slots of a job, and the reason why it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// Slots that serve it.
    pub slots: u32,
    /// Dukes of the whole kingdom.
    pub dukes: u32,
    /// Why it has no slot, if it has none.
    pub waits_for: Option<WaitsFor>,
    /// The unit that has been running longest, if any runs for long.
    pub longest: Option<LongestAttempt>,
}

/// Why a job has no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum WaitsFor {
    /// There is no duke.
    Duke,
    /// No duke has the labels that the job requires.
    Labels,
    /// No duke with these labels has the memory that a slot must have; the largest has this many bytes.
    Memory { largest_bytes: u64 },
    /// Its queen takes no results.
    Queen,
    /// All slots serve other jobs, or their dukes cannot start peasants for this one at present.
    Slot,
}

/// A unit that has been running for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongestAttempt {
    /// The attempt at it.
    pub attempt: AttemptId,
    /// Which unit of its job.
    pub unit: UnitNo,
    /// The duke that runs it.
    pub duke: DukeId,
    /// When it was handed to that duke.
    pub since: Time,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Every unit has its verdict.
    Complete,
    /// Its program cannot run; the duke said why.
    Unfit,
    /// Its queen has not come back in time.
    Abandoned,
    /// Somebody has cancelled it.
    Cancelled,
}

/// Counts of jobs, dukes, slots and units, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Census {
    pub jobs: usize,
    pub dukes: usize,
    pub slots: u64,
    pub slots_granted: u64,
    pub units_waiting: u64,
    pub units_running: u64,
    pub results_bytes: u64,
}

/// What a king's operator decides.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a peer whose link broke may take to come back.
    pub grace: Duration,
    /// One duke's word is enough, because all dukes belong to the queen's own process.
    pub trusts_dukes: bool,
    /// How long slots that are owed to another job may take to come back, until they are taken by force; `None` for as
    /// long as their units take.
    pub preempt_after: Option<Duration>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { grace: GRACE, trusts_dukes: false, preempt_after: None }
    }
}
