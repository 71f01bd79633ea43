//! The job that is submitted to a king, without its units.

use std::{collections::BTreeMap, time::Duration};

use distwasm_proto::{digest::Digest, guest::GuestSettings, limits::STREAMED_BYTES_MIN, secret::Secret};
use distwasm_transport::payload::Payload;

use crate::inputs::Input;

/// The program of a job.
#[derive(Clone, Debug)]
pub enum Program {
    /// Its bytes, which go to the king.
    Carried(Payload),
    /// The king keeps it.
    Kept {
        /// Its digest.
        digest: Digest,
        /// How many bytes it has.
        bytes: u64,
    },
}

impl Program {
    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Program::Carried(program) => Digest::of(program.chunks().map(AsRef::as_ref)),
            Program::Kept { digest, .. } => *digest,
        }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match self {
            Program::Carried(program) => program.bytes(),
            Program::Kept { bytes, .. } => *bytes,
        }
    }
}

/// The job that the queen submits, without its units.
#[derive(Clone, Debug)]
pub struct JobRequest {
    /// The key of fair sharing.
    pub project: String,
    /// The program.
    pub program: Program,
    /// Memory that each slot must have, in bytes; 0 for no requirement.
    pub min_ram_bytes: u64,
    /// At most one slot on each duke.
    pub one_per_machine: bool,
    /// How it is scheduled among other jobs.
    pub scheduling: Scheduling,
    /// How long one unit may take.
    pub timeout: Option<Duration>,
    /// How often a failed unit is tried again.
    pub retries: u32,
    /// The settings of its guests.
    pub guest: GuestSettings,
    /// For inputs of this size and more, dukes use the folders that they see. Smaller ones are carried with less effort.
    pub in_places_from_bytes: u64,
    /// Carried inputs of this size and more are streamed.
    pub streamed_from_bytes: u64,
    /// The archives of its shares, each once.
    pub archives: Vec<(Digest, Payload)>,
    /// A queen must know this key to come back to the job.
    pub key: Secret,
    /// The keys of earlier runs whose queens were killed: the king ends their jobs.
    pub replaces: Vec<Secret>,
}

impl JobRequest {
    /// A job without wishes.
    pub fn new(project: &str, program: Payload, key: Secret) -> JobRequest {
        JobRequest {
            project: project.to_owned(),
            program: Program::Carried(program),
            min_ram_bytes: 0,
            one_per_machine: false,
            scheduling: Scheduling::default(),
            timeout: None,
            retries: 0,
            guest: GuestSettings::default(),
            in_places_from_bytes: 0,
            streamed_from_bytes: STREAMED_BYTES_MIN,
            archives: Vec::new(),
            key,
            replaces: Vec::new(),
        }
    }
}

/// For which inputs dukes use the folders of the job, and which of the others are streamed.
#[derive(Clone, Copy, Debug)]
pub struct InPlaces {
    reads: bool,
    writes: bool,
    from_bytes: u64,
    streamed_from_bytes: u64,
}

/// Dukes see no folder.
impl Default for InPlaces {
    fn default() -> InPlaces {
        InPlaces { reads: false, writes: false, from_bytes: 0, streamed_from_bytes: STREAMED_BYTES_MIN }
    }
}

impl InPlaces {
    /// As the request says.
    pub fn of(request: &JobRequest) -> InPlaces {
        let places = &request.guest.places;
        let (reads, writes) = (places.input.is_some(), places.output.is_some());
        let JobRequest { in_places_from_bytes: from_bytes, streamed_from_bytes, .. } = *request;
        InPlaces { reads, writes, from_bytes, streamed_from_bytes }
    }

    /// Whether the duke reads or writes files for this input.
    pub fn applies(self, input: &Input) -> bool {
        (self.reads || self.writes) && input.bytes >= self.from_bytes
    }

    /// Whether the duke reads this input.
    pub fn reads(self, input: &Input) -> bool {
        self.reads && self.applies(input)
    }

    /// Whether this input is streamed: its bytes go to a duke when it needs them.
    pub fn streams(self, input: &Input) -> bool {
        !self.reads(input) && input.bytes >= self.streamed_from_bytes
    }

    /// Whether only the size of this input goes to the king.
    pub fn tells_size(self, input: &Input) -> bool {
        self.reads(input) || self.streams(input)
    }

    /// Whether the duke writes the output of this input.
    pub fn writes(self, input: &Input) -> bool {
        self.writes && self.applies(input)
    }
}

/// How a job is scheduled among others.
#[derive(Clone, Debug)]
pub struct Scheduling {
    /// The project's share of the slots; the largest weight among the jobs of a project counts.
    pub weight: u32,
    /// Jobs of a project get slots in the order of their priorities, the highest first.
    pub priority: i32,
    /// The most slots at a time; `None` for no limit.
    pub max_parallel: Option<u32>,
    /// Labels that a duke must have.
    pub requires: BTreeMap<String, String>,
    /// Whether a unit may be tried on a second duke while the first is still running it.
    pub speculate: bool,
}

/// As a queen without flags schedules its job.
impl Default for Scheduling {
    fn default() -> Scheduling {
        Scheduling { weight: 1, priority: 0, max_parallel: None, requires: BTreeMap::new(), speculate: true }
    }
}
