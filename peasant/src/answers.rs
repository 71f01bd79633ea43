//! The answers that leave: gathered while more inputs wait, but never for long.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::{ANSWERS_BYTES, ANSWERS_HELD, ANSWERS_WATCHED};
use distwasm_proto::pipe::{self, Header, READY};

/// A stream of frames.
#[derive(Debug)]
pub struct Answers<'a, W> {
    held: &'a Held<W>,
    watcher: Thread,
}

/// What is held, by the one who answers and the one who watches that nothing is held for long.
#[derive(Debug)]
pub struct Held<W> {
    frames: Mutex<Frames<W>>,
    /// The watcher looks from time to time.
    is_watched: AtomicBool,
    ended: AtomicBool,
    start: Instant,
}

#[derive(Debug)]
struct Frames<W> {
    sink: W,
    held: Vec<u8>,
    /// When the first of the held answers came.
    since: Option<Duration>,
    /// The watcher could not write.
    broken: Option<io::Error>,
}

impl<W: Write> Held<W> {
    /// Nothing yet; frames go to `sink`, which should not have a buffer of its own.
    pub fn new(sink: W) -> Held<W> {
        let frames = Frames { sink, held: Vec::new(), since: None, broken: None };
        let (is_watched, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Held { frames: Mutex::new(frames), is_watched, ended, start: now() }
    }

    /// Writes what is held while the guest is at a unit that takes long, until [`Answers`] is dropped.
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
                Some(since) if self.start.elapsed().saturating_sub(since) >= ANSWERS_WATCHED => {
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
        if self.held.is_empty() {
            return Ok(());
        }
        self.sink.write_all(&self.held)?;
        self.held.clear();
        self.sink.flush()
    }
}

impl<'a, W: Write> Answers<'a, W> {
    /// Answers that are held there, and the thread that [watches](Held::watch) them.
    pub fn new(held: &'a Held<W>, watcher: Thread) -> Answers<'a, W> {
        Answers { held, watcher }
    }

    /// Says that the guest is ready for inputs.
    pub fn write_ready(&mut self) -> io::Result<()> {
        let mut frames = self.held.lock();
        frames.sink.write_all(&READY)?;
        frames.sink.flush()
    }

    /// Adds an answer to the held ones, and writes them when they are many or old enough.
    ///
    /// An answer that took long to make is not held: its successor may take as long.
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
        let since = *frames.since.get_or_insert(now);
        let is_old = now.saturating_sub(since.min(began)) >= ANSWERS_HELD;
        if is_old || frames.held.len() >= ANSWERS_BYTES {
            return frames.write_held();
        }
        drop(frames);
        if !self.held.is_watched.swap(true, Ordering::AcqRel) {
            self.watcher.unpark();
        }
        Ok(())
    }

    /// Writes what is held.
    pub fn write_held(&mut self) -> io::Result<()> {
        self.held.lock().write_held()
    }

    /// The time that [`Answers::push`] wants to know of a unit's beginning.
    pub fn now(&self) -> Duration {
        self.held.start.elapsed()
    }
}

impl<W> Drop for Answers<'_, W> {
    fn drop(&mut self) {
        self.held.ended.store(true, Ordering::Release);
        self.watcher.unpark();
    }
}

#[allow(clippy::disallowed_methods, reason = "the peasant's only clock; it decides when answers are written, no more")]
fn now() -> Instant {
    Instant::now()
}

/// The process's stdout without the buffer by lines that the standard library puts before it. It is not closed when it is
/// dropped, so that [`files::close_stdout`](distwasm_proto::files::close_stdout) is the first to hear of late errors.
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
        let held = Held::new(Writes::default());
        // Nobody watches.
        let mut answers = Answers::new(&held, thread::current());
        let writes = || held.lock().sink.0.clone();
        let far = Duration::MAX;
        // A clock that stands still: nothing is old.
        held.lock().since = Some(far);
        answers.push(Ok(b"abc"), far).unwrap();
        answers.push(Ok(b""), far).unwrap();
        assert!(writes().is_empty());
        answers.push(Ok(&[0; ANSWERS_BYTES]), far).unwrap();
        assert_eq!(writes(), [7 + 4 + 4, ANSWERS_BYTES]);
        held.lock().since = None;
        answers.push(Ok(b"slow"), Duration::ZERO).unwrap();
        answers.write_held().unwrap();
        assert_eq!(writes().len(), 3);
    }

    #[test]
    fn what_is_held_leaves_while_nothing_else_is_answered() {
        let held = Held::new(Writes::default());
        thread::scope(|scope| {
            let watcher = scope.spawn(|| held.watch());
            let mut answers = Answers::new(&held, watcher.thread().clone());
            held.lock().since = Some(Duration::ZERO);
            // Young for the one who answers, and old a little later.
            held.lock().held.extend_from_slice(b"answer");
            held.is_watched.store(true, Ordering::Release);
            watcher.thread().unpark();
            while held.lock().sink.0.is_empty() {
                thread::yield_now();
            }
            answers.push(Ok(b"next"), answers.now()).unwrap();
        });
        assert_eq!(held.lock().sink.0.first(), Some(&6));
    }
}
