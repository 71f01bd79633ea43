//! The answers of a peasant, and the room that large ones take at the duke until the king asks for them.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use distwasm_process::aligned::Aligned;
use distwasm_proto::{
    failure::{Failure, FailureKind},
    limits::{CHUNK_BYTES, FAILURE_FRAME_BYTES_MAX, HELD_BYTES, READ_BYTES, STREAMED_BYTES_MIN},
    pipe::{HEADER_BYTES, Header},
    wire::is_offered,
};
use distwasm_transport::payload::{Payload, Shelf};
use tokio::{
    io::AsyncReadExt,
    process::ChildStdout,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use super::{
    PeasantEvent, Unfinished,
    handing::{Handed, Ledger, Noted},
    handle::Peasant,
    kept::{KeptResult, OpenResult, cannot_keep},
};
use crate::cache::Cache;

/// One answer of a peasant.
#[derive(Debug)]
pub enum Answer {
    /// What the guest made of the unit.
    Result(HeldResult),
    /// Why there is no result.
    Failure(Failure),
    /// The result is in the folder of the output, under this name.
    Written(Unfinished),
    /// The result is in a file of the duke's own.
    Kept(KeptResult),
    /// The result does not fit into the peasant's memory, as this failure says: the unit is to run again with a file.
    NeedsFile(Failure),
}

/// A result, and the room that it takes of what the duke may hold.
#[derive(Debug)]
pub struct HeldResult {
    /// The bytes.
    pub result: Payload,
    _room: Option<OwnedSemaphorePermit>,
}

/// A result that takes no room.
impl From<Payload> for HeldResult {
    fn from(result: Payload) -> HeldResult {
        HeldResult { result, _room: None }
    }
}

/// Room for the large results that a duke holds for one job.
#[derive(Clone, Debug)]
pub struct HeldRoom(Arc<Semaphore>);

impl Default for HeldRoom {
    fn default() -> HeldRoom {
        HeldRoom(Arc::new(Semaphore::new(HELD_BYTES as usize)))
    }
}

impl HeldRoom {
    /// Keeps a result, if there is room. A result larger than the whole room takes all of it.
    ///
    /// # Errors
    ///
    /// The result, when there is no room.
    pub fn try_keep(&self, result: Payload) -> Result<HeldResult, Payload> {
        let bytes = usize::try_from(result.bytes()).unwrap_or(usize::MAX);
        match Arc::clone(&self.0).try_acquire_many_owned(permits(bytes)) {
            Ok(room) => Ok(HeldResult { result, _room: Some(room) }),
            Err(_) => Err(result),
        }
    }

    /// Waits until there is room. A result larger than the whole room takes all of it.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.0).acquire_many_owned(permits(bytes)).await.ok()
    }

    /// Whether there is room.
    pub(super) fn has(&self, bytes: usize) -> bool {
        self.0.available_permits() >= permits(bytes) as usize
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(HELD_BYTES).min(HELD_BYTES)
}

/// Answers to units in the order of the pipe, with the files of those units.
pub(super) type NotedBatch = Vec<(Answer, Option<Handed>)>;

/// Assembles a peasant's output into answers. `None` means that it cannot go on: the pipe broke or ended within an
/// answer, or the peasant spoke out of turn.
pub(super) struct Answers<'a> {
    stdout: Aligned<&'a mut ChildStdout>,
    buffer: BytesMut,
    shelf: Shelf,
}

impl<'a> Answers<'a> {
    pub(super) fn new(stdout: &'a mut ChildStdout) -> Answers<'a> {
        Answers { stdout: Aligned(stdout), buffer: BytesMut::new(), shelf: Shelf::default() }
    }

    /// Reads the first frame, which says whether the peasant is ready to work.
    pub(super) async fn initialised(&mut self, peasant: &Peasant) -> Option<bool> {
        let Some(answer) = self.next(peasant).await? else { return Some(false) };
        match answer {
            Answer::Result(held) if held.result.bytes() == 0 => {
                peasant.tell(PeasantEvent::Ready).await;
                Some(true)
            }
            Answer::Result(_) | Answer::Written(_) | Answer::Kept(_) | Answer::NeedsFile(_) => None,
            Answer::Failure(failure) => {
                let is_unfit = failure.kind == FailureKind::Program;
                peasant
                    .tell(if is_unfit {
                        PeasantEvent::Unfit(failure)
                    } else {
                        PeasantEvent::Unloadable(failure.message)
                    })
                    .await;
                Some(false)
            }
        }
    }

    /// Reads at least one answer and all that arrived with it. Returns `false` at the end of the pipe.
    pub(super) async fn next_batch(&mut self, peasant: &Peasant) -> Option<bool> {
        let Some(first) = self.next(peasant).await? else { return Some(false) };
        let mut batch = vec![first];
        while let Some(answer) = self.buffered() {
            batch.push(answer);
        }
        peasant.tell(PeasantEvent::Answered(batch)).await;
        Some(true)
    }

    /// Waits for the answer to the next unit in the ledger, and takes all answers that arrived with it. Units that the
    /// duke answers itself are among them. Returns `Some(None)` at the end of the pipe.
    pub(super) async fn next_noted(&mut self, ledger: &mut Ledger, peasant: &Peasant) -> Option<Option<NotedBatch>> {
        let first = match ledger.try_next() {
            Some(first) => Some(first),
            // It answers what it was not asked.
            None if !self.buffer.is_empty() => return None,
            None => tokio::select! {
                first = ledger.next() => first,
                // Without a unit the peasant can only end.
                read = self.stdout.read_buf(&mut self.buffer) => match read.ok()? {
                    0 => return Some(None),
                    // Units are noted before they are written.
                    _ => Some(ledger.try_next()?),
                },
            },
        };
        let Some(first) = first else {
            return if self.next(peasant).await?.is_none() { Some(None) } else { None };
        };
        let mut batch = Vec::new();
        match first {
            Noted::Failed(failure) => batch.push((Answer::Failure(failure), None)),
            Noted::Fed(handed) => match self.next(peasant).await? {
                Some(answer) => batch.push((answer, handed)),
                None => return Some(None),
            },
        }
        while let Some(noted) = ledger.try_next() {
            match noted {
                Noted::Failed(failure) => batch.push((Answer::Failure(failure), None)),
                Noted::Fed(handed) => match self.buffered() {
                    Some(answer) => batch.push((answer, handed)),
                    None => {
                        ledger.put_back(Noted::Fed(handed));
                        break;
                    }
                },
            }
        }
        Some(Some(batch))
    }

    /// The next answer; `Some(None)` at a clean end.
    async fn next(&mut self, peasant: &Peasant) -> Option<Option<Answer>> {
        loop {
            if let Some(answer) = self.buffered() {
                return Some(Some(answer));
            }
            if let Some(header) = Header::parse(&self.buffer).filter(|header| is_long(*header)) {
                return Some(Some(self.long(header, peasant).await?));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stdout.read_buf(&mut self.buffer).await.ok()? == 0 {
                return if self.buffer.is_empty() { Some(None) } else { None };
            }
        }
    }

    /// A short answer, if all of it is in the buffer.
    fn buffered(&mut self) -> Option<Answer> {
        let header = Header::parse(&self.buffer)?;
        if self.buffer.len() < header.frame_bytes() || is_long(header) {
            return None;
        }
        self.buffer.advance(HEADER_BYTES);
        let body = self.buffer.split_to(header.body_bytes).freeze();
        Some(answer(header, self.shelf.keep(body.into()), None))
    }

    /// A long answer, read in chunks once there is room for it.
    async fn long(&mut self, header: Header, peasant: &Peasant) -> Option<Answer> {
        peasant.tell(PeasantEvent::AnswerBegun { waits: !peasant.room.has(header.body_bytes) }).await;
        let room = peasant.room.take(header.body_bytes).await?;
        self.buffer.advance(HEADER_BYTES);
        let mut missing = header.body_bytes;
        let mut body = match peasant.store.clone().filter(|_| is_kept(header)) {
            Some(store) => Body::Kept(Keeping::begin(store).await?),
            None => Body::Held(Payload::default()),
        };
        loop {
            let part = self.buffer.split_to(missing.min(self.buffer.len()));
            missing -= part.len();
            match &mut body {
                Body::Held(body) => body.push(part.freeze()),
                Body::Kept(keeping) => keeping.write(part.freeze()).await?,
            }
            if missing == 0 {
                return match body {
                    Body::Held(body) => Some(answer(header, body, Some(room))),
                    Body::Kept(keeping) => keeping.finish(room).await,
                };
            }
            let mut chunk = BytesMut::with_capacity(missing.min(CHUNK_BYTES));
            while chunk.len() < missing.min(CHUNK_BYTES) {
                if (&mut self.stdout).take((missing - chunk.len()) as u64).read_buf(&mut chunk).await.ok()? == 0 {
                    return None;
                }
            }
            self.buffer = chunk;
        }
    }
}

/// Whether an answer takes room, because it waits here until the king asks for it. Failures are short and sent at once.
fn is_long(header: Header) -> bool {
    is_offered(header.body_bytes as u64) && !(header.is_failure && header.frame_bytes() <= FAILURE_FRAME_BYTES_MAX)
}

/// Whether an answer goes to a file instead of the duke's memory.
fn is_kept(header: Header) -> bool {
    header.body_bytes as u64 >= STREAMED_BYTES_MIN && !header.is_failure
}

/// A long answer that is being read.
enum Body {
    Held(Payload),
    Kept(Keeping),
}

/// A long answer on its way from the pipe into a file.
struct Keeping(Result<OpenResult, io::Error>);

impl Keeping {
    async fn begin(store: Cache) -> Option<Keeping> {
        spawn_blocking(move || Keeping(OpenResult::make(&store))).await.ok()
    }

    /// Writes a part. After a failure the rest is read, and dropped: the peasant is not to blame.
    async fn write(&mut self, part: Bytes) -> Option<()> {
        let Ok(open) = &self.0 else { return Some(()) };
        let written = open.written.try_clone();
        let write = move || written.and_then(|mut written| written.write_all(&part));
        if let Err(error) = spawn_blocking(write).await.ok()? {
            self.0 = Err(error);
        }
        Some(())
    }

    async fn finish(self, room: OwnedSemaphorePermit) -> Option<Answer> {
        let finished = spawn_blocking(move || self.0.and_then(OpenResult::finish)).await.ok()?;
        Some(match finished {
            Ok(Answer::Kept(kept)) => Answer::Kept(kept.with_room(room)),
            Ok(answer) => answer,
            Err(error) => Answer::Failure(cannot_keep(&error)),
        })
    }
}

fn answer(header: Header, body: Payload, room: Option<OwnedSemaphorePermit>) -> Answer {
    if header.is_failure {
        let failure = Failure::decode(&body.contiguous());
        return if failure.kind == FailureKind::LongAnswer {
            Answer::NeedsFile(failure)
        } else {
            Answer::Failure(failure)
        };
    }
    Answer::Result(HeldResult { result: body, _room: room })
}
