//! Units on their way to a peasant that gets open files: their descriptors go over a socket, a few units in a message,
//! before their frames go into the pipe.
//!
//! Answers come in the order of the pipe, also for units that the peasant never sees because their files cannot be
//! opened. So each unit is noted in a [`Ledger`], in this order, before the peasant can answer it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use distwasm_process::handover::{self, is_for_want_of_room};
use distwasm_proto::{
    failure::Failure,
    limits::{DESCRIPTOR_PAUSE, HANDED_UNITS_MAX, PIPE_UNITS_MAX},
};
use tokio::{
    io::AsyncWriteExt,
    process::ChildStdin,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, UnitInput,
    files::{OpenError, OpenFiles},
    frames::Frames,
};
use crate::places::Places;

/// A unit that has its place in the order of the pipe.
#[derive(Debug)]
pub(super) enum Noted {
    /// The peasant will answer it.
    Fed(Option<Handed>),
    /// The duke answers it.
    Failed(Failure),
}

/// The files of a unit that is in the pipe, and its place in the window of such units.
#[derive(Debug)]
pub(super) struct Handed {
    files: OpenFiles,
    /// Free again when this is dropped.
    place: OwnedSemaphorePermit,
}

/// Units that have no answer yet, in the order of the pipe.
pub(super) struct Ledger {
    noted: mpsc::Receiver<Noted>,
    /// The first of them, if it was looked at.
    first: Option<Noted>,
    answered: Arc<Notify>,
}

/// Hands units to a peasant.
pub(super) struct Feeder {
    places: Arc<Places>,
    socket: OwnedFd,
    window: Arc<Semaphore>,
    /// The size of the window.
    units_max: usize,
    noted: mpsc::Sender<Noted>,
    /// Says that files were closed.
    answered: Arc<Notify>,
    kill: CancellationToken,
}

/// A unit that is next, and its place in the window if it has files.
type Next = (UnitInput, Option<OwnedSemaphorePermit>);

/// A feeder that has at most `units_max` units with files in the pipe, its ledger, and the peasant's end of the socket.
pub(super) fn prepare(
    places: Arc<Places>,
    units_max: usize,
    kill: CancellationToken,
) -> io::Result<(Feeder, Ledger, OwnedFd)> {
    let (socket, for_peasant) = handover::pair()?;
    let (noted, receiver) = mpsc::channel(PIPE_UNITS_MAX + 1);
    let answered = Arc::new(Notify::new());
    let ledger = Ledger { noted: receiver, first: None, answered: Arc::clone(&answered) };
    let window = Arc::new(Semaphore::new(units_max));
    Ok((Feeder { places, socket, window, units_max, noted, answered, kill }, ledger, for_peasant))
}

impl Ledger {
    /// The next unit; `None` when no more will come.
    pub(super) async fn next(&mut self) -> Option<Noted> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.noted.recv().await,
        }
    }

    /// The next unit, if there is one.
    pub(super) fn try_next(&mut self) -> Option<Noted> {
        self.first.take().or_else(|| self.noted.try_recv().ok())
    }

    /// Puts the unit back that was the next.
    pub(super) fn put_back(&mut self, first: Noted) {
        self.first = Some(first);
    }

    /// Looks after the files of units that the peasant has answered. Their places become free together, so that others
    /// take them together.
    pub(super) async fn finish(&mut self, batch: Vec<(Answer, Option<Handed>)>) -> Option<Vec<Answer>> {
        if batch.iter().all(|(_, handed)| handed.is_none()) {
            return Some(batch.into_iter().map(|(answer, _)| answer).collect());
        }
        let work = move || {
            let mut places = Vec::with_capacity(batch.len());
            let finish = |(answer, handed): (Answer, Option<Handed>)| match handed {
                Some(Handed { files, place }) => {
                    places.push(place);
                    files.finish(answer)
                }
                None => answer,
            };
            (batch.into_iter().map(finish).collect(), places)
        };
        let (answers, places) = spawn_blocking(work).await.ok()?;
        drop(places);
        self.answered.notify_one();
        Some(answers)
    }
}

impl Feeder {
    /// Writes units until no more can come.
    pub(super) async fn feed(mut self, mut stdin: ChildStdin, mut inputs: mpsc::Receiver<UnitInput>) -> Option<()> {
        let kill = self.kill.clone();
        let (mut waiting, mut batch) = (VecDeque::new(), Vec::new());
        loop {
            if waiting.is_empty() {
                let received = kill.run_until_cancelled(inputs.recv_many(&mut batch, PIPE_UNITS_MAX)).await?;
                if received == 0 {
                    return None;
                }
                waiting.extend(batch.drain(..));
            }
            // What has come meanwhile goes along.
            while let Ok(unit) = inputs.try_recv() {
                waiting.push_back(unit);
            }
            let next = kill.run_until_cancelled(self.take(&mut waiting)).await??;
            // Not given up when the peasant is killed: the files are closed by then.
            let (opened, left) = self.open(next).await?;
            for unit in left.into_iter().rev() {
                waiting.push_front(unit);
            }
            kill.run_until_cancelled(self.pass_on(opened, &mut stdin)).await??;
        }
    }

    /// Takes the units that go together: those before the first one with files, or some with files and those between
    /// them. Waits until there are places for several units in the window, because a message for each of them costs more;
    /// meanwhile most of the window is in the pipe.
    async fn take(&self, waiting: &mut VecDeque<UnitInput>) -> Option<Vec<Next>> {
        let mut places = None;
        if waiting.front().is_some_and(UnitInput::is_referenced) {
            let most = HANDED_UNITS_MAX.min(self.units_max / 4).max(1);
            let wanted = waiting.iter().filter(|unit| unit.is_referenced()).take(most).count();
            // The window is never closed.
            places = Some(Arc::clone(&self.window).acquire_many_owned(u32::try_from(wanted).ok()?).await.ok()?);
        }
        let mut next = Vec::new();
        while let Some(unit) = waiting.front() {
            let place = match unit.is_referenced() {
                true => Some(match places.as_mut().and_then(|places| places.split(1)) {
                    Some(place) => place,
                    None => break,
                }),
                false => None,
            };
            next.extend(waiting.pop_front().map(|unit| (unit, place)));
        }
        Some(next)
    }

    /// Opens the files of the units. Returns the units for which there were no descriptors; then fewer units have open
    /// files from now on.
    async fn open(&mut self, next: Vec<Next>) -> Option<(Vec<(UnitInput, Noted)>, Vec<UnitInput>)> {
        if next.iter().all(|(_, place)| place.is_none()) {
            return Some((next.into_iter().map(|(unit, _)| (unit, Noted::Fed(None))).collect(), Vec::new()));
        }
        let places = Arc::clone(&self.places);
        let (opened, left) = spawn_blocking(move || open_all(&places, next)).await.ok()?;
        if opened.is_empty() {
            self.wait_for_room().await;
        }
        let left: Vec<_> = left.into_iter().map(|(unit, _)| unit).collect();
        if !left.is_empty() {
            // No more than those that have files now, and one in any case.
            let free = self.window.available_permits().min(self.units_max - 1);
            self.units_max -= self.window.forget_permits(free);
        }
        Some((opened, left))
    }

    /// Hands the files over, notes the units, and writes their frames.
    async fn pass_on(&self, opened: Vec<(UnitInput, Noted)>, stdin: &mut ChildStdin) -> Option<()> {
        let mut frames = Frames::default();
        let mut descriptors = Vec::new();
        for (unit, noted) in &opened {
            let reference = match noted {
                Noted::Failed(_) => continue,
                Noted::Fed(None) => Default::default(),
                Noted::Fed(Some(handed)) => {
                    descriptors.extend(handed.files.descriptors());
                    handed.files.reference()
                }
            };
            frames.push(unit, Some(reference));
        }
        while !descriptors.is_empty() {
            match handover::send(self.socket.as_fd(), &descriptors) {
                Ok(()) => break,
                Err(error) if is_for_want_of_room(&error) => self.wait_for_room().await,
                // The peasant has ended. `live` finds out how.
                Err(_) => return None,
            }
        }
        drop(descriptors);
        for (_, noted) in opened {
            self.noted.send(noted).await.ok()?;
        }
        let mut frames = frames.finish();
        stdin.write_all_buf(&mut frames).await.ok()
    }

    /// Waits until files of this peasant were closed, or other processes may have closed some.
    async fn wait_for_room(&self) {
        let _is_over = timeout(DESCRIPTOR_PAUSE, self.answered.notified()).await;
    }
}

/// Opens the files of the units. If there are not enough descriptors, half of those that were got are given back, because
/// the duke needs some for other work.
fn open_all(places: &Places, next: Vec<Next>) -> (Vec<(UnitInput, Noted)>, Vec<Next>) {
    let mut opened: Vec<(UnitInput, Noted)> = Vec::with_capacity(next.len());
    let mut next = next.into_iter();
    while let Some((unit, place)) = next.next() {
        let noted = match place {
            None => Noted::Fed(None),
            Some(place) => match OpenFiles::open(places, &unit) {
                Ok(files) => Noted::Fed(Some(Handed { files, place })),
                Err(OpenError::Failed(failure)) => Noted::Failed(failure),
                Err(OpenError::NoRoom) => {
                    let given_back: Vec<_> = opened.drain(opened.len().div_ceil(2)..).collect();
                    let given_back = given_back.into_iter().map(|(unit, noted)| (unit, noted.into_place()));
                    let left = given_back.chain([(unit, Some(place))]).chain(next).collect();
                    return (opened, left);
                }
            },
        };
        opened.push((unit, noted));
    }
    (opened, Vec::new())
}

impl Noted {
    /// Closes the files.
    fn into_place(self) -> Option<OwnedSemaphorePermit> {
        match self {
            Noted::Fed(handed) => handed.map(|handed| handed.place),
            Noted::Failed(_) => None,
        }
    }
}
