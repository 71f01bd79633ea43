//! What the reactor hears, and what it orders.

use distwasm_proto::wire::{self, queen_word::Word};

use crate::{
    inputs::{Finding, ReadOrder, Sent, numbers::LinkNo},
    king_link::{KingNews, LinkError},
    outputs::{Stored, WriteOrder, Written},
};

/// Something that happened around the reactor.
#[derive(Debug)]
pub enum Happening {
    /// The lister found something.
    Found(Finding),
    /// The lister has found everything.
    ListingEnded,
    /// A reader has sent units, or could not read an input. It comes before any news about those units.
    Sent(Sent),
    /// News arrived over the link. The first news of a link is a welcome.
    News(Vec<KingNews>),
    /// The link ended before the job did.
    LinkLost(LinkError),
    /// All readers have stopped, as [`Command::StopReaders`] orders: everything that they sent has been told.
    ReadersStopped,
    /// No link could be opened: [`Command::Seek`] failed.
    NoLink(LinkError),
    /// Outputs are in their places, or could not be written.
    Written(Vec<Written>),
    /// Parts of a streamed result are in its file, or cannot be kept.
    Stored(Stored),
    /// The king or the duke of this process failed, for this reason.
    LocalKingdomFailed(String),
    /// The user wants to stop.
    Interrupted,
    /// [`super::Reactor::next_deadline`] has come.
    DeadlineReached,
    /// It is time to show how far the run is.
    ProgressDue,
}

/// Something to be done in the world around the reactor, in this order. None of it makes the reactor wait: what comes
/// of it is a [`Happening`] later.
#[derive(Debug)]
pub enum Command {
    /// Open a link to the king; to come back to the job, with its state. The welcome comes as news.
    Seek(Option<wire::Resumption>),
    /// The link broke: give it up without a last word.
    DropLink,
    /// Stop the readers, so that no input gets a number until [`Command::OpenReaders`].
    StopReaders,
    /// The readers send over this link from now on, inputs of at most this many bytes; news that follows the welcome is
    /// wanted.
    OpenReaders(LinkNo, u64),
    /// Orders for the readers.
    Read(Vec<ReadOrder>),
    /// Orders for the writers.
    Write(Vec<WriteOrder>),
    /// Say something over the link.
    Say(Word),
    /// Note down the king's number for the job.
    NoteJob(u64),
    /// The run is over: say goodbye, if there is a link.
    Leave,
}
