//! Reads inputs and sends them, on threads of their own: opening thousands of small files is work that blocks.
//!
//! Small inputs gather in one message; a large one is sent in pieces as it is read, so that it is never in memory as a
//! whole. Units get their numbers when their message is sent, under one lock, so that numbers are dense and in order.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use distwasm_proto::{
    ids::UnitNo,
    limits::{GATHERED_INPUT_BYTES_MAX, MESSAGE_FILL_BYTES, PIECE_BYTES, UNIT_BYTES_MAX, UNIT_NAME_BYTES_MAX},
    wire::{self, FromQueen, queen_word::Word},
};
use tokio::sync::mpsc;

use crate::{
    descriptors::when_there_are,
    inputs::{BATCH, Input},
    work_queue::Taker,
};

/// An order for a reader.
#[derive(Debug)]
pub enum ReadOrder {
    /// Read and send this input.
    Input(Input),
    /// Read and send these inputs again over this link, with the numbers that they have.
    Again(LinkNo, Vec<(UnitNo, Input)>),
    /// Tell the king over this link that there are no more than this many units.
    Close(LinkNo, u64),
}

/// A reader's report to the reactor.
#[derive(Debug)]
pub enum Sent {
    /// These inputs are on their way as these units.
    Units(Vec<(UnitNo, Input)>),
    /// This input could not be read, for this reason.
    Unreadable(Input, String),
}

/// The number of one of the queen's links; the first is 1.
pub type LinkNo = u64;

/// The readers' shared connection to the king. While there is no link it is closed, and no input gets a number.
#[derive(Debug, Default)]
pub struct Post {
    state: Mutex<OpenLink>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct OpenLink {
    messages: Option<mpsc::Sender<FromQueen>>,
    link: LinkNo,
    units: u64,
    over: bool,
}

/// The run is over: nothing more is read.
struct Over;

/// The link broke while units were being sent. They will be sent again.
struct Cut;

impl Post {
    /// Closes the connection once the reader that is sending has finished. Blocks until then.
    pub fn close(&self) {
        self.lock().messages = None;
    }

    /// Opens the connection over the next link, and returns that link's number.
    pub fn open(&self, messages: mpsc::Sender<FromQueen>) -> LinkNo {
        let mut state = self.lock();
        state.messages = Some(messages);
        state.link += 1;
        self.opened.notify_all();
        state.link
    }

    /// Ends the connection: nothing is sent any more.
    pub fn end(&self) {
        let mut state = self.lock();
        (state.messages, state.over) = (None, true);
        self.opened.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, OpenLink> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the connection is open. While the guard is held, no other reader sends.
    fn wait(&self) -> Result<MutexGuard<'_, OpenLink>, Over> {
        let is_closed = |state: &mut OpenLink| state.messages.is_none() && !state.over;
        let state = self.opened.wait_while(self.lock(), is_closed).unwrap_or_else(PoisonError::into_inner);
        if state.over { Err(Over) } else { Ok(state) }
    }

    /// Gives inputs their numbers, tells the reactor, then sends the messages. No other reader's unit comes between.
    fn send(
        &self,
        inputs: Vec<Input>,
        sent: &mpsc::Sender<Sent>,
        messages: impl FnOnce(UnitNo, &OpenLink) -> Result<(), Cut>,
    ) -> Result<(), Over> {
        let mut state = self.wait()?;
        let first = UnitNo(state.units);
        state.units += inputs.len() as u64;
        let units = (first.0..).map(UnitNo).zip(inputs).collect();
        sent.blocking_send(Sent::Units(units)).map_err(|_| Over)?;
        // Units that do not get through keep their numbers, and are sent again under them.
        let _cut = messages(first, &state);
        Ok(())
    }

    /// Sends messages that are meant for this link; returns whether the link is still open.
    fn send_over(&self, link: LinkNo, messages: impl FnOnce(&OpenLink) -> Result<(), Cut>) -> Result<bool, Over> {
        let state = self.wait()?;
        Ok(state.link == link && messages(&state).is_ok())
    }
}

impl OpenLink {
    fn say(&self, words: Vec<Word>) -> Result<(), Cut> {
        let words = words.into_iter().map(Into::into).collect();
        let messages = self.messages.as_ref().ok_or(Cut)?;
        messages.blocking_send(FromQueen { words }).map_err(|_| Cut)
    }
}

/// Works until there are no more orders, or the run is over.
pub fn read(folder: &Path, orders: &Taker<ReadOrder>, post: &Post, sent: &mpsc::Sender<Sent>) {
    while let Some(orders) = orders.take(BATCH) {
        if obey(folder, orders, post, sent).is_err() {
            return;
        }
    }
}

fn obey(folder: &Path, orders: Vec<ReadOrder>, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
    let mut batch = Batch::default();
    for order in orders {
        match order {
            ReadOrder::Input(input) => batch.read(folder, input, post, sent)?,
            ReadOrder::Again(link, units) => send_again(folder, link, units, post)?,
            ReadOrder::Close(link, units) => {
                let close = Word::CloseJob(wire::CloseJob { units });
                post.send_over(link, |open| open.say(vec![close]))?;
            }
        }
    }
    batch.flush(post, sent)
}

/// Small inputs that wait to be sent together.
#[derive(Default)]
struct Batch {
    inputs: Vec<Input>,
    names: Vec<Bytes>,
    contents: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn read(&mut self, folder: &Path, input: Input, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
        let path = folder.join(&input.path);
        let unreadable = |input, why| sent.blocking_send(Sent::Unreadable(input, why)).map_err(|_| Over);
        if input.name().len() > UNIT_NAME_BYTES_MAX {
            let why = format!("its path below the input folder has more than {UNIT_NAME_BYTES_MAX} bytes");
            return unreadable(input, why);
        }
        if input.bytes > UNIT_BYTES_MAX {
            let why = format!("it has {} bytes, and an input may have {UNIT_BYTES_MAX} (2 GiB - 1)", input.bytes);
            return unreadable(input, why);
        }
        if input.bytes > GATHERED_INPUT_BYTES_MAX {
            self.flush(post, sent)?;
            return send_large(&path, input, post, sent);
        }
        match read_small(&path, input.bytes) {
            Ok(content) => {
                self.bytes += input.name().len() + content.len();
                self.names.push(name_of(&input));
                self.inputs.push(input);
                self.contents.push(content);
            }
            Err(error) => return unreadable(input, error.to_string()),
        }
        if self.bytes >= MESSAGE_FILL_BYTES { self.flush(post, sent) } else { Ok(()) }
    }

    fn flush(&mut self, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
        if self.inputs.is_empty() {
            return Ok(());
        }
        let (names, contents) = (std::mem::take(&mut self.names), std::mem::take(&mut self.contents));
        self.bytes = 0;
        post.send(std::mem::take(&mut self.inputs), sent, |first, link| {
            let word = |((unit, name), data): ((u64, Bytes), Bytes)| {
                let input = Some(wire::Payload { bytes_total: data.len() as u64, data });
                Word::Unit(wire::Unit { unit, input, name })
            };
            link.say((first.0..).zip(names).zip(contents).map(word).collect())
        })
    }
}

fn name_of(input: &Input) -> Bytes {
    Bytes::copy_from_slice(input.name())
}

fn changed(listed: u64) -> io::Error {
    io::Error::other(format!(
        "it had {listed} bytes when it was listed, and has changed since; run again when it is at rest"
    ))
}

fn read_small(path: &Path, listed: u64) -> io::Result<Bytes> {
    // The buffer has room for one byte more than was listed, so that one read shows whether the file has grown: a file
    // gives less than it is asked for only at its end.
    let mut content = vec![0; usize::try_from(listed).unwrap_or(0) + 1];
    let mut file = when_there_are(|| File::open(path))?;
    let mut length = 0;
    loop {
        match file.read(content.get_mut(length..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if length as u64 >= listed {
            break;
        }
    }
    content.truncate(length);
    if length as u64 == listed { Ok(content.into()) } else { Err(changed(listed)) }
}

/// Sends an input in pieces. If it cannot be read to its end, the king is told, and the unit fails.
fn send_large(path: &Path, input: Input, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
    let listed = input.bytes;
    let file = match open_listed(path, listed) {
        Ok(file) => file,
        Err(error) => return sent.blocking_send(Sent::Unreadable(input, error.to_string())).map_err(|_| Over),
    };
    let name = name_of(&input);
    post.send(vec![input], sent, |unit, link| send_pieces(file, listed, unit, name, link))
}

fn open_listed(path: &Path, listed: u64) -> io::Result<File> {
    let file = when_there_are(|| File::open(path))?;
    if file.metadata()?.len() == listed { Ok(file) } else { Err(changed(listed)) }
}

fn send_pieces(mut file: File, listed: u64, unit: UnitNo, name: Bytes, link: &OpenLink) -> Result<(), Cut> {
    let begin = wire::Payload { bytes_total: listed, data: Bytes::new() };
    let mut words = vec![Word::Unit(wire::Unit { unit: unit.0, input: Some(begin), name })];
    let (mut missing, mut is_broken) = (listed, false);
    while missing > 0 && !is_broken {
        let mut bytes = 0;
        while bytes < MESSAGE_FILL_BYTES && missing > 0 && !is_broken {
            let piece = match read_piece(&mut file, missing) {
                Ok(data) if data.is_empty() => wire::Piece { data, broken: changed(listed).to_string() },
                Ok(data) => wire::Piece { data, broken: String::new() },
                Err(error) => wire::Piece { data: Bytes::new(), broken: error.to_string() },
            };
            is_broken = !piece.broken.is_empty();
            missing -= piece.data.len() as u64;
            bytes += piece.data.len();
            words.push(Word::Piece(piece));
        }
        link.say(std::mem::take(&mut words))?;
    }
    Ok(())
}

/// Sends units again, unless the link breaks again. Units whose inputs cannot be read any more fail.
fn send_again(folder: &Path, link: LinkNo, units: Vec<(UnitNo, Input)>, post: &Post) -> Result<(), Over> {
    let mut words = Vec::new();
    let mut bytes = 0;
    for (no, input) in units {
        let (name, path, listed) = (name_of(&input), folder.join(&input.path), input.bytes);
        let unit = |bytes_total, data| {
            Word::Unit(wire::Unit { unit: no.0, input: Some(wire::Payload { bytes_total, data }), name: name.clone() })
        };
        let small = (listed <= GATHERED_INPUT_BYTES_MAX).then(|| read_small(&path, listed));
        let mut large = None;
        match small.unwrap_or_else(|| open_listed(&path, listed).map(|file| large.insert(file)).map(|_| Bytes::new())) {
            Ok(_) if large.is_some() => {}
            Ok(content) => {
                bytes += name.len() + content.len();
                words.push(unit(listed, content));
            }
            Err(error) => {
                words.push(unit(1, Bytes::new()));
                words.push(Word::Piece(wire::Piece { data: Bytes::new(), broken: error.to_string() }));
            }
        }
        let is_full = bytes >= MESSAGE_FILL_BYTES || large.is_some();
        if is_full && !post.send_over(link, |open| open.say(std::mem::take(&mut words)))? {
            return Ok(());
        }
        bytes = if is_full { 0 } else { bytes };
        if let Some(file) = large
            && !post.send_over(link, |open| send_pieces(file, listed, no, name, open))?
        {
            return Ok(());
        }
    }
    post.send_over(link, |open| open.say(words)).map(|_stands| ())
}

fn read_piece(file: &mut File, missing: u64) -> io::Result<Bytes> {
    let bytes = missing.min(PIECE_BYTES as u64);
    let mut data = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    file.take(bytes).read_to_end(&mut data)?;
    Ok(data.into())
}
