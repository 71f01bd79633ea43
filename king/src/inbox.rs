//! What reaches the reactor: the checked words of peers, and how their links begin and end.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use bytes::Bytes;
use distwasm_proto::{
    PROTOCOL,
    digest::Digest,
    failure::Failure,
    guest::{GuestError, GuestSettings},
    ids::{AttemptId, DukeId, JobId, UnitNo},
    secret::Mark,
    wire::{self, DukeOrder, QueenNews},
};
use distwasm_transport::{
    payload::Payload,
    stream::StreamError,
    transfer::{Outbox, OutboxStream, TransferError, Word},
    weight::Admission,
};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{Identity, Origin, Refusal},
    border::fetches::Fetches,
    budget::{Claim, Full},
    payloads::{QueenRoom, UnitInput},
    reactor::CancelError,
    scheduler::{HeldLease, JobSpec, Resumption},
};

/// One link of a queen. A queen that comes back gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Everything that happens to the reactor.
#[derive(Debug)]
pub enum Happening {
    /// A duke has said hello.
    DukeJoined {
        /// The duke, by its link.
        duke: DukeId,
        /// Its machine.
        machine: Machine,
        /// The leases that it still holds from earlier links.
        holds: Vec<HeldLease>,
        /// The king's side of its link.
        peer: Peer<DukeOrder>,
        /// Results that the king asks for over this link.
        fetches: Fetches,
        /// The room for the attempts in its leases.
        brought: Claim,
    },
    /// A duke says something.
    DukeSaid {
        /// The duke, by its link.
        duke: DukeId,
        /// Its words in their order.
        words: Vec<DukeWord>,
    },
    /// A duke's link is gone.
    DukeGone {
        /// The duke, by its link.
        duke: DukeId,
        /// The outbox of the link, for a last word.
        outbox: Outbox<DukeOrder>,
        /// Why the link ended.
        leaving: Leaving,
    },
    /// A queen opens a job, or comes back to it.
    QueenJoined {
        /// Its link.
        link: LinkId,
        /// The job that it wants.
        request: Box<JobRequest>,
        /// The king's side of its link.
        peer: Peer<QueenNews>,
        /// The room that it takes up.
        room: QueenRoom,
    },
    /// A queen says something.
    QueenSaid {
        /// Its link.
        link: LinkId,
        /// Its words in their order.
        words: Vec<QueenWord>,
        /// The room that was taken for their inputs until the reactor counts them.
        arrived: Claim,
    },
    /// A queen's link is gone.
    QueenGone {
        /// The link.
        link: LinkId,
        /// The outbox of the link, for a last word.
        outbox: Outbox<QueenNews>,
        /// Why the link ended.
        leaving: Leaving,
    },
    /// Somebody wants a job to end.
    JobCancelled {
        /// The job.
        job: JobId,
        /// Who asks for it.
        caller: Identity,
        /// For the project of the job, or why the job goes on.
        answer: oneshot::Sender<Result<String, CancelError>>,
    },
    /// The reactor's deadline has passed.
    Tick,
    /// The king is to end when its jobs have ended: it takes no new ones.
    Draining,
}

/// Something that happened, on its way to the reactor.
#[derive(Debug)]
pub struct Arrival {
    /// What happened.
    pub happening: Happening,
    /// The room of the message that it came in, until it is handled.
    pub admission: Option<Admission>,
}

impl From<Happening> for Arrival {
    fn from(happening: Happening) -> Arrival {
        Arrival { happening, admission: None }
    }
}

/// The king's side of a link.
#[derive(Clone, Debug)]
pub struct Peer<W> {
    /// Words to the peer.
    pub outbox: Outbox<W>,
    /// Cancelled to end the link.
    pub ended: CancellationToken,
    /// What the peer may do.
    pub identity: Identity,
    /// Under which name the peer is counted.
    pub origin: Origin,
}

impl<W: Word> Peer<W> {
    /// The king's side of a new link, and the stream that empties its outbox. `address` is that of the peer, unless the
    /// peer is in this process or came over the king's socket.
    pub fn new(identity: Identity, address: Option<IpAddr>) -> (Peer<W>, OutboxStream<W>) {
        let (outbox, stream) = Outbox::new();
        let origin = Origin::of(&identity, address);
        (Peer { outbox, ended: CancellationToken::new(), identity, origin }, stream)
    }
}

/// A duke's machine, as its first word describes it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The name of the host, for people.
    pub hostname: String,
    /// Processors that it offers.
    pub cpus: u32,
    /// Memory that it offers.
    pub ram_bytes: u64,
    /// Labels that jobs may require.
    pub labels: BTreeMap<String, String>,
    /// The walls around its peasants and compilers, by name.
    pub walls: Vec<String>,
    /// The number of its process.
    pub boot: u64,
    /// The mark of its place on the machine. The duke has proved that it knows the secret.
    pub seat: Mark,
    /// Which of its links this is.
    pub link: u64,
}

/// A duke's word after its hello.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of the words in king.proto, where they are documented")]
pub enum DukeWord {
    /// It lacks a program, or the archive of a shared directory.
    BlobWanted(Digest),
    /// The program of a job cannot run.
    ProgramUnfit { job: JobId, failure: Failure },
    /// An attempt has a result.
    AttemptDone { attempt: AttemptId, run_us: u64, result: Payload },
    /// An attempt failed, or killed its peasant.
    AttemptFailed { attempt: AttemptId, run_us: u64, killed: bool, failure: Failure },
    /// An attempt was given back.
    AttemptReturned { attempt: AttemptId, suspect: bool },
    /// An attempt was ended because its slot was taken.
    AttemptPreempted { attempt: AttemptId, run_us: u64 },
    /// An attempt has a large result, which the king has to ask for.
    ResultOffered { attempt: AttemptId, bytes: u64, run_us: u64 },
    /// An attempt has a result in a file, which goes to the queen in parts.
    ResultStreamed { attempt: AttemptId, bytes: u64, run_us: u64 },
    /// A part of a streamed result.
    ResultPart { transfer: u64, offset: u64, data: Bytes },
    /// Slots that were asked back are free.
    SlotsReleased { job: JobId, slots: u32 },
    /// Slots are given back because no peasant can be started in them.
    SlotsBroken { job: JobId, slots: u32, reason: String },
    /// All attempts up to this one that were handed out over its link have arrived.
    InputsArrived { attempt: AttemptId },
    /// It wants a part of a streamed input.
    InputWanted(InputWanted),
    /// It compiles the programs of these jobs now, and of no others.
    Compiling(Vec<JobId>),
    /// It is going to leave.
    Draining,
}

impl DukeWord {
    /// The attempt that ends with this word, as far as its input goes.
    pub(crate) fn ended(&self) -> Option<AttemptId> {
        match self {
            DukeWord::AttemptDone { attempt, .. }
            | DukeWord::AttemptFailed { attempt, .. }
            | DukeWord::AttemptReturned { attempt, .. }
            | DukeWord::AttemptPreempted { attempt, .. }
            | DukeWord::ResultOffered { attempt, .. }
            | DukeWord::ResultStreamed { attempt, .. } => Some(*attempt),
            DukeWord::BlobWanted(_)
            | DukeWord::ProgramUnfit { .. }
            | DukeWord::InputsArrived { .. }
            | DukeWord::InputWanted(_)
            | DukeWord::ResultPart { .. }
            | DukeWord::SlotsReleased { .. }
            | DukeWord::SlotsBroken { .. }
            | DukeWord::Compiling(_)
            | DukeWord::Draining => None,
        }
    }
}

/// A duke has all of a streamed input before `from`, and takes what is before `until`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "described above")]
pub struct InputWanted {
    pub attempt: AttemptId,
    pub from: u64,
    pub until: u64,
}

/// A queen's request for a job.
#[derive(Debug)]
pub struct JobRequest {
    /// What the scheduler has to know.
    pub spec: JobSpec,
    /// The digest of the program.
    pub digest: Digest,
    /// The program.
    pub program: Payload,
    /// How long one unit may take.
    pub timeout: Option<Duration>,
    /// How guests are run.
    pub guest: GuestSettings,
    /// The archives of its shared directories.
    pub archives: BTreeMap<Digest, Payload>,
    /// The mark of its key. A queen that comes back to the job must know the key.
    pub mark: Mark,
    /// The job that the queen comes back to, and the state of the job there.
    pub resumes: Option<(JobId, Resumption)>,
    /// Which of the queen's links this is.
    pub ordinal: u64,
    /// The marks of jobs of killed queens whose place this queen takes. It has proved that it knows their keys.
    pub replaces: Vec<Mark>,
}

/// A queen's word after its job was opened.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of the words in king.proto, where they are documented")]
pub enum QueenWord {
    /// A unit, or why its input did not come whole.
    Unit { unit: UnitNo, input: Result<UnitInput, String> },
    /// There are no more units.
    Closed,
    /// This many more verdicts have arrived.
    VerdictsHeard(u64),
    /// A part of a streamed input.
    UnitPart(UnitPart),
    /// It has all of a streamed result before `from`, and takes what is before `until`; or it cannot keep the result.
    OutputWanted { transfer: u64, from: u64, until: u64, gives_up: bool },
}

/// A part of a streamed input, or why it cannot be read.
#[derive(Debug)]
pub struct UnitPart {
    /// The king's number for the transfer.
    pub transfer: u64,
    /// The number of the first byte.
    pub offset: u64,
    /// Not empty.
    pub data: Result<Bytes, String>,
}

/// How a peer left.
pub type Leaving = Result<(), LinkError>;

/// Why a link ended without the word `end`.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LinkError {
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the connection ended without a word")]
    Silent,
    #[error("it said nothing within {0:?} of connecting")]
    NoHello(Duration),
    #[error("it took longer than {0:?} to introduce itself")]
    SlowHello(Duration),
    #[error("the king has no room for this at the moment{0}: try again later")]
    Busy(&'static str),
    #[error(
        "its program and shared directories have more than the {0} bytes that the king holds for one peer (its --memory-limit)"
    )]
    TooMuch(u64),
    #[error("it speaks protocol {0}, and this king speaks {PROTOCOL}: use the same version of distwasm everywhere")]
    Protocol(u32),
    #[error("its program cannot be run: {0}")]
    NoProgram(String),
    #[error(transparent)]
    Garbled(StreamError),
    #[error("its words do not fit together: {0}")]
    Transfer(#[from] TransferError),
    #[error("its guest settings are not valid: {0}")]
    Guest(#[from] GuestError),
    #[error("it broke the protocol: {0}")]
    Nonsense(&'static str),
    #[error(transparent)]
    Refused(Refusal),
    #[error("the king failed at this message, which its log tells: a fault in distwasm, worth a report")]
    Stumbled,
    #[error("the king ended the link")]
    Ended,
}

impl LinkError {
    /// Whether the peer did nothing wrong, and may come back with what it has.
    pub fn may_come_back(&self) -> bool {
        matches!(self, LinkError::Broken(_) | LinkError::Silent | LinkError::Ended | LinkError::Busy(_))
    }

    /// The last word to the peer.
    pub(crate) fn to_end(&self) -> wire::End {
        let refused = matches!(self, LinkError::Refused(_));
        wire::End { reason: self.to_string(), come_back: self.may_come_back(), refused }
    }
}

impl From<Full> for LinkError {
    fn from(full: Full) -> LinkError {
        LinkError::Busy(match full {
            Full::All => "",
            Full::Peer => ", since others with this token or address have taken their part",
        })
    }
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> LinkError {
        match error {
            // A connection may break in the middle of a message, too.
            StreamError::Broken(_) | StreamError::CutOff => LinkError::Broken(error.to_string()),
            StreamError::NoRoom => LinkError::Busy(""),
            StreamError::NotGrpc(_)
            | StreamError::Refused(_)
            | StreamError::Denied(_)
            | StreamError::TooLarge { .. }
            | StreamError::TooHeavy { .. }
            | StreamError::Compressed
            | StreamError::Undecodable(_) => LinkError::Garbled(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cut_off_mid_message_may_return_and_a_peer_that_sends_garbage_may_not() {
        let may_come_back = |error: StreamError| LinkError::from(error).may_come_back();
        assert!(may_come_back(StreamError::CutOff));
        assert!(may_come_back(StreamError::Broken("reset".to_owned())));
        assert!(!may_come_back(StreamError::TooLarge { bytes: usize::MAX }));
        assert!(!may_come_back(StreamError::Compressed));
    }
}
