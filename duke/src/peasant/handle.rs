//! A baron: the duke's handle on one peasant. Starts it, feeds it, reads its answers, ends it, and waits for its end.

use std::{process::ExitStatus, sync::Arc};

use bytes::{Buf, BytesMut};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{BaronId, JobId},
    limits::{CHUNK_BYTES, FAILURE_FRAME_BYTES_MAX, HELD_BYTES, PEASANT_STDERR_BYTES_MAX, PIPE_UNITS_MAX, READ_BYTES},
    pipe::{HEADER_BYTES, Header},
    wire::is_offered,
};
use distwasm_transport::payload::{Payload, Shelf};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    spawn::Spawner,
    work::{Frames, Input, Work},
};

/// What a baron tells the reactor.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) baron: BaronId,
    pub(crate) job: JobId,
    pub(crate) what: What,
}

/// What happened to a peasant.
#[derive(Debug)]
pub(crate) enum What {
    Ready,
    /// It cannot initialise the program.
    Unfit(Failure),
    /// It cannot load the compiled program. Holds the reason as text.
    Unloadable(String),
    /// A long answer begins to arrive. `waits` says whether it must wait for room.
    AnswerBegun {
        waits: bool,
    },
    /// Answers to the first units in its pipe, in order.
    Answered(Vec<Answer>),
    /// It ended. Holds a description of how.
    Gone(String),
}

/// One answer of a peasant.
#[derive(Debug)]
pub(crate) enum Answer {
    Result(HeldResult),
    Failure(Failure),
}

/// A result, and the room that it takes of what the duke may hold.
#[derive(Debug)]
pub(crate) struct HeldResult {
    pub(crate) result: Payload,
    _room: Option<OwnedSemaphorePermit>,
}

/// Room for the large results that a duke holds for one job.
#[derive(Clone, Debug)]
pub(crate) struct HeldRoom(Arc<Semaphore>);

impl Default for HeldRoom {
    fn default() -> HeldRoom {
        HeldRoom(Arc::new(Semaphore::new(HELD_BYTES as usize)))
    }
}

impl HeldRoom {
    /// Waits until there is room. A result larger than the whole room takes all of it.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.0).acquire_many_owned(permits(bytes)).await.ok()
    }

    /// Whether there is room.
    fn has(&self, bytes: usize) -> bool {
        self.0.available_permits() >= permits(bytes) as usize
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(HELD_BYTES).min(HELD_BYTES)
}

/// The reactor's end of a baron.
#[derive(Debug)]
pub(crate) struct Handle {
    inputs: Option<mpsc::Sender<Input>>,
    kill: CancellationToken,
}

impl Handle {
    /// Writes a unit into the peasant's pipe. The roster keeps fewer units there than the queue has room for.
    pub(crate) fn feed(&self, input: Input) {
        let Some(inputs) = &self.inputs else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = inputs.try_send(input) {
            debug_assert!(false, "the roster puts more into a pipe than it may");
            self.kill.cancel();
        }
    }

    /// Lets the peasant end when it has answered everything.
    pub(crate) fn retire(&mut self) {
        self.inputs = None;
    }

    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }
}

/// Starts a peasant. The returned future is its whole life; it sends [`What::Gone`] last.
pub(crate) fn hire(
    baron: BaronId,
    job: JobId,
    work: Work,
    spawner: Spawner,
    room: HeldRoom,
    news: mpsc::Sender<News>,
) -> (Handle, impl Future<Output = ()>) {
    let (inputs, waiting) = mpsc::channel(PIPE_UNITS_MAX + 1);
    let kill = CancellationToken::new();
    let handle = Handle { inputs: Some(inputs), kill: kill.clone() };
    let life = async move {
        let baron = Baron { id: baron, job, room, news, kill };
        let ending = baron.live(work, &spawner, waiting).await;
        baron.tell(What::Gone(ending)).await;
    };
    (handle, life)
}

struct Baron {
    id: BaronId,
    job: JobId,
    room: HeldRoom,
    news: mpsc::Sender<News>,
    kill: CancellationToken,
}

impl Baron {
    async fn live(&self, work: Work, spawner: &Spawner, inputs: mpsc::Receiver<Input>) -> String {
        let mut child = match spawner.spawn(work.command_line(self.job)).await {
            Ok(child) => child,
            Err(error) => return distwasm_proto::error_text::chain(&error),
        };
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return "the peasant has no pipes".to_owned();
        };
        // Feeding may block until the peasant's output is read, and the other way round, so all three pipes run at
        // once.
        let (_, (), words) =
            tokio::join!(feed(stdin, inputs, &self.kill), self.listen(stdout, &mut child), last_words(stderr));
        let ending = match child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("it could not be waited for: {error}"),
        };
        if words.is_empty() { ending } else { format!("{ending}; it said: {words}") }
    }

    async fn tell(&self, what: What) {
        // The reactor ends only after its barons. If it has ended nevertheless, the news is not needed.
        let _sent = self.news.send(News { baron: self.id, job: self.job, what }).await;
    }

    /// Reads answers to the end of the pipe. If anything fails, the peasant is dead afterwards or about to end.
    async fn listen(&self, mut stdout: ChildStdout, child: &mut Child) {
        let read_all = async {
            let mut answers = Answers { stdout: &mut stdout, buffer: BytesMut::new(), shelf: Shelf::default() };
            if answers.initialised(self).await? {
                while answers.next_batch(self).await? {}
            }
            Some(())
        };
        let killed = tokio::select! {
            read = read_all => read.is_none(),
            () = self.kill.cancelled() => true,
        };
        // Stops the feeding too, in case the peasant closed its stdout and keeps reading.
        self.kill.cancel();
        if killed && let Err(error) = child.start_kill() {
            debug!(baron = self.id.0, %error, "a peasant could not be killed");
        }
    }
}

/// Writes inputs as frames, all gathered ones at once, until no more can come.
async fn feed(mut stdin: ChildStdin, mut inputs: mpsc::Receiver<Input>, kill: &CancellationToken) -> Option<()> {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = inputs.recv_many(&mut batch, PIPE_UNITS_MAX) => received,
            () = kill.cancelled() => 0,
        };
        if received == 0 {
            return None;
        }
        let mut frames = Frames::default();
        for input in batch.drain(..) {
            frames.push(&input);
        }
        let mut frames = frames.finish();
        // A peasant that has ended has closed its pipe. `live` finds out how it ended.
        tokio::select! {
            written = stdin.write_all_buf(&mut frames) => written.ok()?,
            () = kill.cancelled() => return None,
        }
    }
}

/// Assembles a peasant's output into answers. `None` means that it cannot go on: the pipe broke or ended within an
/// answer, or the peasant spoke out of turn.
struct Answers<'a> {
    stdout: &'a mut ChildStdout,
    buffer: BytesMut,
    shelf: Shelf,
}

impl Answers<'_> {
    /// Reads the first frame, which says whether the peasant is ready to work.
    async fn initialised(&mut self, baron: &Baron) -> Option<bool> {
        let Some(answer) = self.next(baron).await? else { return Some(false) };
        match answer {
            Answer::Result(held) if held.result.bytes() == 0 => {
                baron.tell(What::Ready).await;
                Some(true)
            }
            Answer::Result(_) => None,
            Answer::Failure(failure) => {
                let is_unfit = failure.kind == FailureKind::Program;
                baron.tell(if is_unfit { What::Unfit(failure) } else { What::Unloadable(failure.message) }).await;
                Some(false)
            }
        }
    }

    /// Reads at least one answer and all that arrived with it. Returns `false` at the end of the pipe.
    async fn next_batch(&mut self, baron: &Baron) -> Option<bool> {
        let Some(first) = self.next(baron).await? else { return Some(false) };
        let mut batch = vec![first];
        while let Some(answer) = self.buffered() {
            batch.push(answer);
        }
        baron.tell(What::Answered(batch)).await;
        Some(true)
    }

    /// The next answer; `Some(None)` at a clean end.
    async fn next(&mut self, baron: &Baron) -> Option<Option<Answer>> {
        loop {
            if let Some(answer) = self.buffered() {
                return Some(Some(answer));
            }
            if let Some(header) = Header::parse(&self.buffer).filter(|header| is_long(*header)) {
                return Some(Some(self.long(header, baron).await?));
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
    async fn long(&mut self, header: Header, baron: &Baron) -> Option<Answer> {
        baron.tell(What::AnswerBegun { waits: !baron.room.has(header.body_bytes) }).await;
        let room = baron.room.take(header.body_bytes).await?;
        self.buffer.advance(HEADER_BYTES);
        let mut missing = header.body_bytes;
        let mut body = Payload::default();
        loop {
            let part = self.buffer.split_to(missing.min(self.buffer.len()));
            missing -= part.len();
            body.push(part.freeze());
            if missing == 0 {
                return Some(answer(header, body, Some(room)));
            }
            let mut chunk = BytesMut::with_capacity(missing.min(CHUNK_BYTES));
            while chunk.len() < missing.min(CHUNK_BYTES) {
                if (&mut *self.stdout).take((missing - chunk.len()) as u64).read_buf(&mut chunk).await.ok()? == 0 {
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

fn answer(header: Header, body: Payload, room: Option<OwnedSemaphorePermit>) -> Answer {
    if header.is_failure {
        return Answer::Failure(Failure::decode(&body.contiguous()));
    }
    Answer::Result(HeldResult { result: body, _room: room })
}

/// Reads what a peasant itself writes to stderr before it ends. Guests do not write there.
async fn last_words(mut stderr: ChildStderr) -> String {
    let mut words = Vec::new();
    let first = (&mut stderr).take(PEASANT_STDERR_BYTES_MAX as u64).read_to_end(&mut words).await;
    // The rest must be read too, or the peasant could block on it.
    if first.is_ok() && discard(&mut stderr).await.is_err() {
        words.extend_from_slice(b" [...]");
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

async fn discard(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<u64> {
    tokio::io::copy(reader, &mut tokio::io::sink()).await
}

/// How a process ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit status {code}"),
        (None, Some(9)) => {
            "it was killed by signal 9 (SIGKILL): by the kernel for want of memory, or by somebody".to_owned()
        }
        (None, Some(signal)) => format!("it was killed by signal {signal} ({})", signal_name(signal)),
        (None, None) => "it ended".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "see signal(7)",
    }
}
