//! stderr, as far as it works: whatever is said there is written by a thread of its own.
//!
//! A terminal that was stopped, a pipe that nobody reads or a full disk must not hold up or end the work that is told
//! of. So nothing here waits, and nothing fails: what cannot be written is counted, and the count is written when
//! something can be written again.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use crate::limits::{STDERR_PATIENCE, STDERR_WAITING_BYTES};

/// Where texts wait for the thread that writes them.
#[derive(Clone)]
struct Outlet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something waits, or was written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Text>,
    /// Bytes of what waits.
    bytes: usize,
    /// Texts that could not be written since this was last said.
    lost: u64,
    /// Texts that the thread has taken, and how many of them it is through with.
    taken: u64,
    ended: u64,
}

struct Text {
    bytes: Vec<u8>,
    /// A picture of a moment, such as a progress bar, is not missed when the next one comes.
    is_picture: bool,
}

static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// Starts the thread. Before that, and where it is never done, texts are written as they come.
///
/// # Errors
///
/// When no thread can be started.
pub fn start() -> io::Result<()> {
    if OUTLET.get().is_none() {
        let outlet = Outlet::start(io::stderr())?;
        // Somebody in the same process may have been faster; a thread with nothing to do stays behind then.
        let _set = OUTLET.set(outlet);
    }
    Ok(())
}

/// Says a line.
pub fn say(line: &str) {
    write(format!("{line}\n").into_bytes());
}

/// Writes some text as it is.
pub fn write(text: Vec<u8>) {
    push(Text { bytes: text, is_picture: false });
}

/// Draws something that is drawn anew soon: it is left out, and not counted, where there is no room.
pub fn draw(picture: Vec<u8>) {
    push(Text { bytes: picture, is_picture: true });
}

/// Waits until everything is written, as long as it moves at all. To be called when nothing is left to be held up.
pub fn flush() {
    if let Some(outlet) = OUTLET.get() {
        outlet.flush();
    }
}

fn push(text: Text) {
    match OUTLET.get() {
        Some(outlet) => outlet.push(text),
        None => {
            // Where nobody can read it there is nobody to tell.
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
            state.lost += u64::from(!text.is_picture);
            return;
        }
        state.bytes += text.bytes.len();
        state.waiting.push_back(text);
        self.0.changed.notify_all();
    }

    fn flush(&self) {
        let mut state = self.0.lock();
        while !state.waiting.is_empty() || state.ended < state.taken {
            let ended = state.ended;
            let stands = |state: &mut State| state.ended == ended;
            let waited = self.0.changed.wait_timeout_while(state, STDERR_PATIENCE, stands);
            let (now, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                return;
            }
            state = now;
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
            state.taken += 1;
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            let told = if lost == 0 { Ok(()) } else { write_all(&mut target, missing(lost).as_bytes()) };
            let written = told.is_ok() && write_all(&mut target, &text.bytes).is_ok();
            let mut state = self.lock();
            state.ended += 1;
            state.lost += if told.is_err() { lost } else { 0 } + u64::from(!written && !text.is_picture);
            self.changed.notify_all();
        }
    }
}

fn missing(lost: u64) -> String {
    let lines = if lost == 1 { "line is" } else { "lines are" };
    format!("{lost} {lines} missing here: stderr took no more\n")
}

/// Like [`Write::write_all`], and waits for a descriptor that somebody else has told not to block.
fn write_all(target: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(STDERR_PATIENCE / 100),
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
        Text { bytes: text.as_bytes().to_vec(), is_picture: false }
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
    fn nobody_waits_for_a_reader_who_does_not_read() {
        let (outlet, _allow, _said) = gate();
        let long = "x".repeat(STDERR_WAITING_BYTES / 10);
        for _ in 0..100 {
            outlet.push(text(&long));
            outlet.push(Text { bytes: long.clone().into_bytes(), is_picture: true });
        }
        let state = outlet.0.lock();
        assert!(state.bytes <= STDERR_WAITING_BYTES && state.lost >= 90, "{} lost", state.lost);
    }
}
