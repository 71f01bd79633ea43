//! The readers' shared connection to the king: a lock around [`Numbers`], so that one reader sends at a time. While
//! there is no link, readers wait.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use distwasm_proto::{
    ids::UnitNo,
    wire::{FromQueen, queen_word::Word},
};
use tokio::sync::mpsc;

use super::{
    Input, Sent,
    numbers::{Gate, LinkNo, Numbers},
};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Post {
    sending: Mutex<Sending>,
    opened: Condvar,
    /// How long an input may be for the king of the last link. Not behind the lock, which is held while a reader sends.
    input_bytes_max: AtomicU64,
}

#[derive(Debug, Default)]
struct Sending {
    numbers: Numbers,
    link: OpenLink,
}

/// Takes messages to the king, while there is a link.
#[derive(Debug, Default)]
pub(super) struct OpenLink(Option<mpsc::Sender<FromQueen>>);

/// The run is over: nothing more is read.
pub(super) struct Over;

/// The link broke while units were being sent. They will be sent again.
pub(super) struct Cut;

impl Post {
    /// Opens the connection over this link, to a king that takes inputs of at most `input_bytes_max` bytes.
    pub(crate) fn open(&self, link: LinkNo, messages: mpsc::Sender<FromQueen>, input_bytes_max: u64) {
        let mut sending = self.lock();
        self.input_bytes_max.store(input_bytes_max, Ordering::Relaxed);
        sending.numbers.open(link);
        sending.link = OpenLink(Some(messages));
        self.opened.notify_all();
    }

    /// How long an input may be.
    pub(super) fn input_bytes_max(&self) -> u64 {
        self.input_bytes_max.load(Ordering::Relaxed)
    }

    /// Closes the connection once the reader that is sending has finished. Blocks until then.
    pub(crate) fn close(&self) {
        let mut sending = self.lock();
        sending.numbers.close();
        sending.link = OpenLink(None);
    }

    /// Ends the connection: nothing is sent any more. Blocks as [`Post::close`] does.
    pub(crate) fn end(&self) {
        let mut sending = self.lock();
        sending.numbers.end();
        sending.link = OpenLink(None);
        self.opened.notify_all();
    }

    /// Gives inputs their numbers, tells the reactor, then sends the messages. No other reader's unit comes between.
    pub(super) fn send(
        &self,
        inputs: Vec<Input>,
        sent: &mpsc::Sender<Sent>,
        messages: impl FnOnce(&[UnitNo], &OpenLink) -> Result<(), Cut>,
    ) -> Result<(), Over> {
        let mut sending = self.wait()?;
        let units = sending.numbers.number(inputs);
        let numbers: Vec<UnitNo> = units.iter().map(|(unit, _)| *unit).collect();
        sent.blocking_send(Sent::Units(units)).map_err(|_| Over)?;
        // Units that do not get through keep their numbers, and are sent again under them.
        let _cut = messages(&numbers, &sending.link);
        Ok(())
    }

    /// Sends messages that are meant for this link; returns whether the link is still open.
    pub(super) fn send_over(
        &self,
        link: LinkNo,
        messages: impl FnOnce(&OpenLink) -> Result<(), Cut>,
    ) -> Result<bool, Over> {
        let sending = self.wait()?;
        Ok(sending.numbers.carries(link) && messages(&sending.link).is_ok())
    }

    /// Waits until the connection is open. While the guard is held, no other reader sends.
    fn wait(&self) -> Result<MutexGuard<'_, Sending>, Over> {
        let is_closed = |sending: &mut Sending| sending.numbers.gate() == Gate::Closed;
        let sending = self.opened.wait_while(self.lock(), is_closed).unwrap_or_else(PoisonError::into_inner);
        if sending.numbers.gate() == Gate::Over { Err(Over) } else { Ok(sending) }
    }

    fn lock(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenLink {
    /// Sends one message. Blocks while the connection has no room.
    pub(super) fn say(&self, words: Vec<Word>) -> Result<(), Cut> {
        let words = words.into_iter().map(Into::into).collect();
        let messages = self.0.as_ref().ok_or(Cut)?;
        messages.blocking_send(FromQueen { words }).map_err(|_| Cut)
    }
}
