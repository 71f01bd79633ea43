//! The duke's end of a peasant process: starts it, feeds it, reads its answers, ends it, and waits for its end.

use std::sync::Arc;

use distwasm_proto::{
    error_text::chain,
    guest,
    ids::{BaronId, JobId},
    limits::{PEASANT_STDERR_BYTES_MAX, PIPE_UNITS_MAX},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::mpsc,
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Answer, HeldRoom, PeasantEvent, PeasantNews, PeasantSettings, Spawner, UnitInput,
    answers::Answers,
    ending::describe,
    frames::Frames,
    handing::{self, Ledger},
};
use crate::{allowed::AllowedDirs, cache::Cache, places::Places};

/// Feeds and ends one peasant.
#[derive(Debug)]
pub struct Handle {
    inputs: Option<mpsc::Sender<UnitInput>>,
    kill: CancellationToken,
}

impl Handle {
    /// Writes a unit into the peasant's pipe. The roster keeps fewer units there than the queue has room for.
    pub fn feed(&self, input: UnitInput) {
        let Some(inputs) = &self.inputs else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = inputs.try_send(input) {
            debug_assert!(false, "the roster puts more into a pipe than it may");
            self.kill.cancel();
        }
    }

    /// Lets the peasant end when it has answered everything.
    pub fn retire(&mut self) {
        self.inputs = None;
    }

    /// Ends the peasant at once.
    pub fn kill(&self) {
        self.kill.cancel();
    }
}

/// Starts a peasant, which may be given files in folders that are allowed. The returned future is its whole life; it
/// sends [`PeasantEvent::Gone`] last.
pub fn hire(
    baron: BaronId,
    job: JobId,
    settings: PeasantSettings,
    spawner: Spawner,
    allowed: AllowedDirs,
    room: HeldRoom,
    news: mpsc::Sender<PeasantNews>,
) -> (Handle, impl Future<Output = ()>) {
    let (inputs, waiting) = mpsc::channel(PIPE_UNITS_MAX + 1);
    let kill = CancellationToken::new();
    let handle = Handle { inputs: Some(inputs), kill: kill.clone() };
    let life = async move {
        let peasant = Peasant { baron, job, room, store: spawner.store(), news, kill };
        let ending = match open_places(&settings, allowed).await {
            Ok(places) => peasant.live(settings, places, &spawner, waiting).await,
            Err(why) => why,
        };
        peasant.tell(PeasantEvent::Gone(ending)).await;
    };
    (handle, life)
}

/// Opens the folders of the job that its duke sees; an error is how the peasant ends. `None` for a peasant that gets no
/// open files.
async fn open_places(settings: &PeasantSettings, allowed: AllowedDirs) -> Result<Option<Places>, String> {
    let wanted = settings.guest.places.clone();
    if wanted == guest::Places::default() && !settings.takes_files {
        return Ok(None);
    }
    // A file system in trouble may take its time.
    match spawn_blocking(move || Places::open(&wanted, &allowed)).await {
        Ok(opened) => opened.map(Some).map_err(|error| chain(&error)),
        Err(_) => Err("the duke is ending".to_owned()),
    }
}

/// A peasant, as its task sees it.
pub(super) struct Peasant {
    baron: BaronId,
    job: JobId,
    pub(super) room: HeldRoom,
    /// Where its large results are kept.
    pub(super) store: Option<Cache>,
    news: mpsc::Sender<PeasantNews>,
    kill: CancellationToken,
}

impl Peasant {
    async fn live(
        &self,
        settings: PeasantSettings,
        places: Option<Places>,
        spawner: &Spawner,
        inputs: mpsc::Receiver<UnitInput>,
    ) -> String {
        let args = settings.command_line(self.job);
        let prepare = |places: Places| {
            let places = Arc::new(places.with_store(spawner.store()));
            handing::prepare(places, spawner.units_with_files(), self.kill.clone())
        };
        let (feeder, mut ledger, socket) = match places.map(prepare).transpose() {
            Ok(None) => (None, None, None),
            Ok(Some((feeder, ledger, socket))) => (Some(feeder), Some(ledger), Some(socket)),
            Err(error) => return format!("no socket can be made for a peasant: {error}"),
        };
        let mut child = match spawner.spawn_with(args, socket).await {
            Ok(child) => child,
            Err(error) => return chain(&error),
        };
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return "the peasant has no pipes".to_owned();
        };
        let feeding = async {
            match feeder {
                Some(feeder) => feeder.feed(stdin, inputs).await,
                None => feed(stdin, inputs, &self.kill).await,
            }
        };
        // Feeding may block until the peasant's output is read, and the other way round, so all three pipes run at
        // once.
        let (_, (), words) =
            tokio::join!(feeding, self.listen(stdout, ledger.as_mut(), &mut child), last_words(stderr));
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
    async fn listen(&self, mut stdout: ChildStdout, ledger: Option<&mut Ledger>, child: &mut Child) {
        let mut answers = Answers::new(&mut stdout);
        let read = match ledger {
            Some(ledger) => self.hear_with_files(&mut answers, ledger).await,
            None => self.kill.run_until_cancelled(self.hear(&mut answers)).await.flatten(),
        };
        // Stops the feeding too, in case the peasant closed its stdout and keeps reading.
        let killed = read.is_none() || self.kill.is_cancelled();
        self.kill.cancel();
        if killed && let Err(error) = child.start_kill() {
            debug!(baron = self.baron.0, %error, "a peasant could not be killed");
        }
    }

    /// Hears all answers. `None` means that the peasant cannot go on.
    async fn hear(&self, answers: &mut Answers<'_>) -> Option<()> {
        if answers.initialised(self).await? {
            while answers.next_batch(self).await? {}
        }
        Some(())
    }

    /// Hears all answers of a peasant that gets open files, and looks after the files.
    async fn hear_with_files(&self, answers: &mut Answers<'_>, ledger: &mut Ledger) -> Option<()> {
        if !self.kill.run_until_cancelled(answers.initialised(self)).await?? {
            return Some(());
        }
        while let Some(batch) = self.kill.run_until_cancelled(answers.next_noted(ledger, self)).await?? {
            // Not given up when the peasant is killed: nothing of its outputs is left by then.
            let answers = ledger.finish(batch).await?;
            self.kill.run_until_cancelled(self.tell_answers(answers)).await??;
        }
        Some(())
    }

    /// Tells of answers, of those that are kept in files when there is room for them.
    async fn tell_answers(&self, answers: Vec<Answer>) -> Option<()> {
        let mut ready = Vec::with_capacity(answers.len());
        for answer in answers {
            let kept = match answer {
                Answer::Kept(kept) if !kept.has_room() => kept,
                answer => {
                    ready.push(answer);
                    continue;
                }
            };
            if !ready.is_empty() {
                self.tell(PeasantEvent::Answered(std::mem::take(&mut ready))).await;
            }
            let bytes = usize::try_from(kept.bytes).unwrap_or(usize::MAX);
            self.tell(PeasantEvent::AnswerBegun { waits: !self.room.has(bytes) }).await;
            ready.push(Answer::Kept(kept.with_room(self.room.take(bytes).await?)));
        }
        if !ready.is_empty() {
            self.tell(PeasantEvent::Answered(ready)).await;
        }
        Some(())
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
            frames.push(&input, None);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peasant_of_a_job_that_is_carried_opens_no_folders() {
        let settings = |takes_files| {
            let (supplies, guest) = (Vec::new(), Arc::default());
            PeasantSettings { supplies, memory_bytes: 0, guest, takes_files }
        };
        assert!(open_places(&settings(false), AllowedDirs::All).await.unwrap().is_none());
        // Streamed inputs are in files of the duke, and need no folder of the job.
        assert!(open_places(&settings(true), AllowedDirs::Beneath([].into())).await.unwrap().is_some());
    }
}
