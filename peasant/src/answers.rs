//! The answers that leave: gathered while more inputs wait, but never for long.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::{ANSWERS_BYTES, ANSWERS_HELD};
use distwasm_proto::pipe::{self, Header, READY};

/// A stream of frames.
#[derive(Debug)]
pub struct Answers<W> {
    sink: W,
    held: Vec<u8>,
    /// When the first of the held answers came.
    since: Option<Duration>,
    start: Instant,
}

impl<W: Write> Answers<W> {
    /// Frames to `sink`, which should not have a buffer of its own.
    pub fn new(sink: W) -> Answers<W> {
        Answers { sink, held: Vec::new(), since: None, start: now() }
    }

    /// Says that the guest is ready for inputs.
    pub fn write_ready(&mut self) -> io::Result<()> {
        self.sink.write_all(&READY)?;
        self.sink.flush()
    }

    /// Adds an answer to the held ones, and writes them when they are many or old enough.
    ///
    /// An answer that took long to make is not held: its successor may take as long.
    pub fn push(&mut self, answer: Result<&[u8], &Failure>, began: Duration) -> io::Result<()> {
        match answer.map(|body| (Header::of_body(body), body)) {
            Ok((Some(header), body)) => {
                self.held.extend_from_slice(&header.encode());
                if body.len() >= ANSWERS_BYTES {
                    self.write_held()?;
                    self.sink.write_all(body)?;
                } else {
                    self.held.extend_from_slice(body);
                }
            }
            Ok((None, body)) => {
                let message = format!("an answer of {} bytes is longer than 2 GiB - 1", body.len());
                pipe::append_failure(&Failure::new(FailureKind::Answer, message), &mut self.held);
            }
            Err(failure) => pipe::append_failure(failure, &mut self.held),
        }
        let now = self.now();
        let since = *self.since.get_or_insert(now);
        let is_old = now.saturating_sub(since.min(began)) >= ANSWERS_HELD;
        if is_old || self.held.len() >= ANSWERS_BYTES { self.write_held() } else { Ok(()) }
    }

    /// Writes what is held.
    pub fn write_held(&mut self) -> io::Result<()> {
        self.since = None;
        if self.held.is_empty() {
            return Ok(());
        }
        self.sink.write_all(&self.held)?;
        self.held.clear();
        self.sink.flush()
    }

    /// The time that [`Answers::push`] wants to know of a unit's beginning.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

#[allow(clippy::disallowed_methods, reason = "the peasant's only clock; it decides when answers are written, no more")]
fn now() -> Instant {
    Instant::now()
}

/// The process's stdout without the buffer by lines that the standard library puts before it.
#[cfg(unix)]
pub fn stdout() -> io::Result<impl Write> {
    use std::os::fd::AsFd;
    Ok(std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?))
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
        let mut answers = Answers::new(Writes::default());
        let far = Duration::MAX;
        // A clock that stands still: nothing is old.
        answers.since = Some(far);
        answers.push(Ok(b"abc"), far).unwrap();
        answers.push(Ok(b""), far).unwrap();
        assert!(answers.sink.0.is_empty());
        answers.push(Ok(&[0; ANSWERS_BYTES]), far).unwrap();
        assert_eq!(answers.sink.0, [7 + 4 + 4, ANSWERS_BYTES]);
        answers.since = None;
        answers.push(Ok(b"slow"), Duration::ZERO).unwrap();
        answers.write_held().unwrap();
        assert_eq!(answers.sink.0.len(), 3);
    }
}
