//! stderr that never blocks: a thread of its own writes all text.
//!
//! A terminal that was stopped, a pipe that no process reads or a full disk must not delay or end the work that the
//! text is about. So nothing here waits, and nothing fails: texts that cannot be written are counted, and the count is
//! written when writing is possible again.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use distwasm_proto::limits::{STDERR_FLUSHES_MAX, STDERR_PATIENCE, STDERR_PAUSE, STDERR_WAITING_BYTES};
use distwasm_proto::text;

/// The queue of texts for the thread that writes them.
#[derive(Clone)]
struct Outlet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A text was queued, or was written.
    changed: Condvar,
    /// Bytes that were written.
    written: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Text>,
    /// Bytes of the waiting texts.
    bytes: usize,
    /// Texts that could not be written since this count was last written.
    lost: u64,
    /// The thread has taken a text and has not finished with it.
    is_writing: bool,
}

struct Text {
    bytes: Vec<u8>,
    /// Text that is soon drawn again, such as a progress bar: dropped without counting if there is no room.
    is_redrawn: bool,
}

static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// Starts the thread. Before that, and in programs that never start it, texts are written directly.
///
/// # Errors
///
/// When no thread can be started.
pub fn start() -> io::Result<()> {
    if OUTLET.get().is_none() {
        let outlet = Outlet::start(io::stderr())?;
        // Another thread of this process may have been faster. Then a thread with nothing to do stays behind.
        let _set = OUTLET.set(outlet);
    }
    Ok(())
}

/// Says a line, or several, that are safe for a terminal whatever is in them.
pub fn say(line: &str) {
    write((text::lines(line).into_owned() + "\n").into_bytes());
}

/// Writes some text as it is.
pub fn write(text: Vec<u8>) {
    push(Text { bytes: text, is_redrawn: false });
}

/// Writes text that is soon drawn again: it is dropped without counting if there is no room.
pub fn redraw(text: Vec<u8>) {
    push(Text { bytes: text, is_redrawn: true });
}

/// Waits until everything is written, or until nothing was written for [`STDERR_PATIENCE`]; not longer than
/// [`STDERR_FLUSHES_MAX`] times that. For the end of a process.
pub fn flush() {
    if let Some(outlet) = OUTLET.get() {
        outlet.flush();
    }
}

fn push(text: Text) {
    match OUTLET.get() {
        Some(outlet) => outlet.push(text),
        None => {
            // If stderr cannot be written, there is no other place to report that.
            let _written = io::stderr().write_all(&text.bytes);
        }
    }
}

impl Outlet {
    fn start(target: impl Write + Send + 'static) -> io::Result<Outlet> {
        let outlet = Outlet(Arc::default());
        let shared = Arc::clone(&outlet.0);
        thread::Builder::new().name("stderr".to_owned()).spawn(move || shared.write_to(target))?;
        Ok(outlet)
    }

    fn push(&self, text: Text) {
        let mut state = self.0.lock();
        if state.bytes + text.bytes.len() > STDERR_WAITING_BYTES {
            state.lost += u64::from(!text.is_redrawn);
            return;
        }
        state.bytes += text.bytes.len();
        state.waiting.push_back(text);
        self.0.changed.notify_all();
    }

    fn flush(&self) {
        for _ in 0..STDERR_FLUSHES_MAX {
            let before = self.0.written.load(Ordering::Relaxed);
            let has_more = |state: &mut State| !state.waiting.is_empty() || state.is_writing;
            let waited = self.0.changed.wait_timeout_while(self.0.lock(), STDERR_PATIENCE, has_more);
            let (_state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if !waited.timed_out() || self.0.written.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole life of the thread.
    fn write_to(&self, mut target: impl Write) {
        loop {
            let nothing = |state: &mut State| state.waiting.is_empty();
            let mut state = self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
            let Some(text) = state.waiting.pop_front() else { continue };
            state.bytes -= text.bytes.len();
            state.is_writing = true;
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            let told = if lost == 0 { Ok(()) } else { self.write_all(&mut target, missing(lost).as_bytes()) };
            let written = told.is_ok() && self.write_all(&mut target, &text.bytes).is_ok();
            let mut state = self.lock();
            state.is_writing = false;
            state.lost += if told.is_err() { lost } else { 0 } + u64::from(!written && !text.is_redrawn);
            self.changed.notify_all();
        }
    }

    /// Like [`Write::write_all`], and waits for a descriptor that another process has set to non-blocking.
    fn write_all(&self, target: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match target.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written.fetch_add(written as u64, Ordering::Relaxed);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(STDERR_PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The line that stands for lines that are missing.
fn missing(lost: u64) -> String {
    let lines = if lost == 1 { "line is" } else { "lines are" };
    format!("{lost} {lines} missing here: stderr took no more\n")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A stderr that takes a text when the test lets it, or refuses it.
    struct Gate {
        allowed: mpsc::Receiver<bool>,
        written: mpsc::SyncSender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.allowed.recv() == Ok(false) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Outlet, mpsc::SyncSender<bool>, mpsc::Receiver<String>) {
        let (allow, allowed) = mpsc::sync_channel(100);
        let (written, said) = mpsc::sync_channel(100);
        (Outlet::start(Gate { allowed, written }).unwrap(), allow, said)
    }

    fn text(text: &str) -> Text {
        Text { bytes: text.as_bytes().to_vec(), is_redrawn: false }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_when_it_can_be() {
        let (outlet, allow, said) = gate();
        for (line, allowed) in [("a", &[true][..]), ("b", &[false]), ("c", &[false]), ("d", &[true, true])] {
            allowed.iter().for_each(|allowed| allow.send(*allowed).unwrap());
            outlet.push(text(line));
            outlet.flush();
        }
        let said: Vec<String> = said.try_iter().collect();
        // The third was refused with the line about the second, and so both are missing.
        assert_eq!(said, ["a", "2 lines are missing here: stderr took no more\n", "d"]);
    }

    #[test]
    fn a_blocked_stderr_holds_nothing_up() {
        let (outlet, _allow, _said) = gate();
        outlet.push(text("the first"));
        // A count that is being written is not lost, but not here either.
        while !outlet.0.lock().is_writing {
            thread::yield_now();
        }
        let long = "x".repeat(STDERR_WAITING_BYTES / 10);
        for _ in 0..100 {
            outlet.push(text(&long));
            outlet.push(Text { bytes: long.clone().into_bytes(), is_redrawn: true });
        }
        let state = outlet.0.lock();
        assert!(state.bytes <= STDERR_WAITING_BYTES && state.lost >= 90, "{} lost", state.lost);
    }
}
