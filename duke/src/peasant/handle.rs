//! The duke's end of a peasant process: starts it, feeds it, reads its answers, ends it, and waits for its end.

use distwasm_proto::{
    error_text::chain,
    ids::{BaronId, JobId},
    limits::{PEASANT_STDERR_BYTES_MAX, PIPE_UNITS_MAX},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    HeldRoom, PeasantEvent, PeasantNews, PeasantSettings, Spawner, UnitInput, answers::Answers, ending::describe,
    frames::Frames,
};

/// Feeds and ends one peasant.
#[derive(Debug)]
pub(crate) struct Handle {
    inputs: Option<mpsc::Sender<UnitInput>>,
    kill: CancellationToken,
}

impl Handle {
    /// Writes a unit into the peasant's pipe. The roster keeps fewer units there than the queue has room for.
    pub(crate) fn feed(&self, input: UnitInput) {
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

/// Starts a peasant. The returned future is its whole life; it sends [`PeasantEvent::Gone`] last.
pub(crate) fn hire(
    baron: BaronId,
    job: JobId,
    settings: PeasantSettings,
    spawner: Spawner,
    room: HeldRoom,
    news: mpsc::Sender<PeasantNews>,
) -> (Handle, impl Future<Output = ()>) {
    let (inputs, waiting) = mpsc::channel(PIPE_UNITS_MAX + 1);
    let kill = CancellationToken::new();
    let handle = Handle { inputs: Some(inputs), kill: kill.clone() };
    let life = async move {
        let peasant = Peasant { baron, job, room, news, kill };
        let ending = peasant.live(settings, &spawner, waiting).await;
        peasant.tell(PeasantEvent::Gone(ending)).await;
    };
    (handle, life)
}

/// A peasant, as its task sees it.
pub(super) struct Peasant {
    baron: BaronId,
    job: JobId,
    pub(super) room: HeldRoom,
    news: mpsc::Sender<PeasantNews>,
    kill: CancellationToken,
}

impl Peasant {
    async fn live(&self, settings: PeasantSettings, spawner: &Spawner, inputs: mpsc::Receiver<UnitInput>) -> String {
        let mut child = match spawner.spawn(settings.command_line(self.job)).await {
            Ok(child) => child,
            Err(error) => return chain(&error),
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

    pub(super) async fn tell(&self, event: PeasantEvent) {
        // The duke ends only after its peasants. If it has ended nevertheless, the news is not needed.
        let _sent = self.news.send(PeasantNews { baron: self.baron, job: self.job, event }).await;
    }

    /// Reads answers to the end of the pipe. If anything fails, the peasant is dead afterwards or about to end.
    async fn listen(&self, mut stdout: ChildStdout, child: &mut Child) {
        let read_all = async {
            let mut answers = Answers::new(&mut stdout);
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
            debug!(baron = self.baron.0, %error, "a peasant could not be killed");
        }
    }
}

/// Writes inputs as frames, all gathered ones at once, until no more can come.
async fn feed(mut stdin: ChildStdin, mut inputs: mpsc::Receiver<UnitInput>, kill: &CancellationToken) -> Option<()> {
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
