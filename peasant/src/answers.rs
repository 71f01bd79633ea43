//! Writes answers: gathers them while more inputs wait, but never for long.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use distwasm_proto::{
    failure::{Failure, FailureKind},
    limits::{ANSWERS_BYTES, ANSWERS_HELD, ANSWERS_WATCHED},
    pipe::{self, Header, READY},
};

use crate::determinism::Clock;

/// A stream of frames.
#[derive(Debug)]
pub struct Answers<'a, W> {
    held: &'a Held<W>,
    watcher: Thread,
    /// The number of answers that are held at most.
    held_max: usize,
}

/// The held answers, shared by the thread that answers and the watcher, which makes sure that none is held for long.
#[derive(Debug)]
pub struct Held<W> {
    frames: Mutex<Frames<W>>,
    /// The watcher is checking at intervals.
    is_watched: AtomicBool,
    ended: AtomicBool,
    clock: Clock,
}

#[derive(Debug)]
struct Frames<W> {
    sink: W,
    held: Vec<u8>,
    /// The number of held answers.
    count: usize,
    /// When the first held answer was pushed.
    since: Option<Duration>,
    /// The watcher's write error.
    broken: Option<io::Error>,
}

impl<W: Write> Held<W> {
    /// Starts empty. Frames go to `sink`, which should not have a buffer of its own. `clock` says how long answers are
    /// held.
    pub fn new(sink: W, clock: Clock) -> Held<W> {
        let frames = Frames { sink, held: Vec::new(), count: 0, since: None, broken: None };
        let (is_watched, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Held { frames: Mutex::new(frames), is_watched, ended, clock }
    }

    /// Writes held answers while the guest works at a long unit, until [`Answers`] is dropped.
    pub fn watch(&self) {
        while !self.ended.load(Ordering::Acquire) {
            if !self.is_watched.load(Ordering::Acquire) {
                thread::park();
                continue;
            }
            thread::park_timeout(ANSWERS_WATCHED);
            let mut frames = self.lock();
            match frames.since {
                None => self.is_watched.store(false, Ordering::Release),
                Some(since) if self.clock.monotonic_time().saturating_sub(since) >= ANSWERS_WATCHED => {
                    if let Err(error) = frames.write_held() {
                        frames.broken = Some(error);
                        return;
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Frames<W>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Frames<W> {
    fn write_held(&mut self) -> io::Result<()> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        self.since = None;
        self.count = 0;
        if self.held.is_empty() {
            return Ok(());
        }
        self.sink.write_all(&self.held)?;
        self.held.clear();
        self.sink.flush()
    }
}

impl<'a, W: Write> Answers<'a, W> {
    /// Answers that are held in `held`, at most `held_max`, which the thread `watcher` [watches](Held::watch).
    pub fn new(held: &'a Held<W>, watcher: Thread, held_max: usize) -> Answers<'a, W> {
        Answers { held, watcher, held_max }
    }

    /// Says that the guest is ready for inputs.
    pub fn write_ready(&mut self) -> io::Result<()> {
        let mut frames = self.held.lock();
        frames.sink.write_all(&READY)?;
        frames.sink.flush()
    }

    /// Adds an answer to the held ones, and writes them once they are many or old enough.
    ///
    /// An answer that took long to make is not held: the next one may take as long.
    pub fn push(&mut self, answer: Result<&[u8], &Failure>, began: Duration) -> io::Result<()> {
        let now = self.now();
        let mut frames = self.held.lock();
        match answer.map(|body| (Header::of_body(body), body)) {
            Ok((Some(header), body)) => {
                frames.held.extend_from_slice(&header.encode());
                if body.len() >= ANSWERS_BYTES {
                    frames.write_held()?;
                    frames.sink.write_all(body)?;
                } else {
                    frames.held.extend_from_slice(body);
                }
            }
            Ok((None, body)) => {
                let message = format!("an answer of {} bytes is longer than 2 GiB - 1", body.len());
                pipe::append_failure(&Failure::new(FailureKind::Answer, message), &mut frames.held);
            }
            Err(failure) => pipe::append_failure(failure, &mut frames.held),
        }
        frames.count += 1;
        let since = *frames.since.get_or_insert(now);
        let is_old = now.saturating_sub(since.min(began)) >= ANSWERS_HELD;
        if is_old || frames.held.len() >= ANSWERS_BYTES || frames.count >= self.held_max {
            return frames.write_held();
        }
        drop(frames);
        if !self.held.is_watched.swap(true, Ordering::AcqRel) {
            self.watcher.unpark();
        }
        Ok(())
    }

    /// Writes all held answers.
    pub fn write_held(&mut self) -> io::Result<()> {
        self.held.lock().write_held()
    }

    /// The time, for the `began` of [`Answers::push`].
    pub fn now(&self) -> Duration {
        self.held.clock.monotonic_time()
    }
}

impl<W> Drop for Answers<'_, W> {
    fn drop(&mut self) {
        self.held.ended.store(true, Ordering::Release);
        self.watcher.unpark();
    }
}

/// The process's stdout, without the line buffer of the standard library. Dropping it does not close it, so that
/// [`files::close_stdout`](distwasm_process::files::close_stdout) sees late errors first.
#[cfg(unix)]
pub fn stdout() -> io::Result<impl Write> {
    use std::os::fd::AsFd;
    Ok(Box::leak(Box::new(std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?))))
}

/// The process's stdout.
#[cfg(not(unix))]
pub fn stdout() -> io::Result<impl Write> {
    Ok(io::stdout())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers each write by its length.
    #[derive(Default)]
    struct Writes(Vec<usize>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_answers_leave_together_and_long_ones_uncopied() {
        // Its time passes only by the few microseconds in which it is read.
        let held = Held::new(Writes::default(), Clock::fixed());
        // There is no watcher thread.
        let mut answers = Answers::new(&held, thread::current(), usize::MAX);
        let writes = || held.lock().sink.0.clone();
        for answer in [b"abc".as_slice(), b""] {
            let began = answers.now();
            answers.push(Ok(answer), began).unwrap();
        }
        assert!(writes().is_empty());
        answers.push(Ok(&[0; ANSWERS_BYTES]), answers.now()).unwrap();
        assert_eq!(writes(), [7 + 4 + 4, ANSWERS_BYTES]);
    }

    #[test]
    fn an_answer_that_took_long_is_not_held() {
        let clock = Clock::fixed();
        let held = Held::new(Writes::default(), clock.clone());
        let mut answers = Answers::new(&held, thread::current(), usize::MAX);
        let began = answers.now();
        clock.sleep(ANSWERS_HELD);
        answers.push(Ok(b"slow"), began).unwrap();
        answers.write_held().unwrap();
        assert_eq!(held.lock().sink.0, [4 + 4]);
    }

    #[test]
    fn held_answers_leave_while_nothing_else_is_answered() {
        let clock = Clock::fixed();
        let held = Held::new(Writes::default(), clock.clone());
        thread::scope(|scope| {
            let watcher = scope.spawn(|| held.watch());
            let mut answers = Answers::new(&held, watcher.thread().clone(), usize::MAX);
            answers.push(Ok(b"answer"), answers.now()).unwrap();
            clock.sleep(ANSWERS_WATCHED);
            while held.lock().sink.0.is_empty() {
                thread::yield_now();
            }
        });
        assert_eq!(held.lock().sink.0, [4 + 6]);
    }
}
