//! Reads inputs and sends them, on threads of their own: opening thousands of small files is work that blocks.
//!
//! Small inputs gather in one message; a large one is sent in pieces as it is read, so that it is never in memory as a
//! whole. Units get their numbers when their message is sent, under one lock, so that numbers are dense and in order.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
};

use bytes::Bytes;
use distwasm_proto::{
    ids::UnitNo,
    limits::{GATHERED_INPUT_BYTES_MAX, MESSAGE_FILL_BYTES, UNIT_BYTES_MAX, UNIT_NAME_BYTES_MAX},
    wire::{self, FromQueen, queen_word::Word},
};
use tokio::sync::mpsc;

use crate::listing::Input;

/// What a reader is to do.
#[derive(Debug)]
pub enum Order {
    /// Read and send these.
    Inputs(Vec<Input>),
    /// Tell the king that there are no more.
    Close { units: u64 },
}

/// What a reader did.
#[derive(Debug)]
pub enum Sent {
    /// These are on their way as these units.
    Units(Vec<(UnitNo, Input)>),
    /// This one could not be read; why, in words.
    Unreadable(Input, String),
}

/// The readers' common way to the king.
#[derive(Debug)]
pub struct Post {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    messages: mpsc::Sender<FromQueen>,
    units: u64,
}

/// The reactor or the link has ended: there is nobody to read for.
struct Over;

impl Post {
    /// The way to the king through this channel.
    pub fn new(messages: mpsc::Sender<FromQueen>) -> Post {
        Post { state: Mutex::new(State { messages, units: 0 }) }
    }

    /// Gives inputs their numbers, tells the reactor, and then sends the messages. Nobody else's unit comes between.
    fn send(
        &self,
        inputs: Vec<Input>,
        sent: &mpsc::Sender<Sent>,
        messages: impl FnOnce(UnitNo, &dyn Fn(Vec<Word>) -> Result<(), Over>) -> Result<(), Over>,
    ) -> Result<(), Over> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = UnitNo(state.units);
        state.units += inputs.len() as u64;
        let units = (first.0..).map(UnitNo).zip(inputs).collect();
        sent.blocking_send(Sent::Units(units)).map_err(|_| Over)?;
        let send = |words: Vec<Word>| {
            let words = words.into_iter().map(Into::into).collect();
            state.messages.blocking_send(FromQueen { words }).map_err(|_| Over)
        };
        messages(first, &send)
    }
}

/// Works until there are no more orders, or nobody to work for.
pub fn read(folder: &Path, orders: &Arc<Mutex<Receiver<Order>>>, post: &Post, sent: &mpsc::Sender<Sent>) {
    loop {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let done = match order {
            Ok(Order::Inputs(inputs)) => Batch::default().read_all(folder, inputs, post, sent),
            Ok(Order::Close { units }) => {
                post.send(Vec::new(), sent, |_, send| send(vec![Word::CloseJob(wire::CloseJob { units })]))
            }
            Err(_) => return,
        };
        if done.is_err() {
            return;
        }
    }
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
    fn read_all(
        mut self,
        folder: &Path,
        inputs: Vec<Input>,
        post: &Post,
        sent: &mpsc::Sender<Sent>,
    ) -> Result<(), Over> {
        for input in inputs {
            let path = folder.join(&input.path);
            if input.name().len() > UNIT_NAME_BYTES_MAX {
                let why = format!("its path below the input folder has more than {UNIT_NAME_BYTES_MAX} bytes");
                sent.blocking_send(Sent::Unreadable(input, why)).map_err(|_| Over)?;
                continue;
            }
            if input.bytes > UNIT_BYTES_MAX {
                let why = format!("it has {} bytes, and an input may have {UNIT_BYTES_MAX} (2 GiB - 1)", input.bytes);
                sent.blocking_send(Sent::Unreadable(input, why)).map_err(|_| Over)?;
                continue;
            }
            if input.bytes > GATHERED_INPUT_BYTES_MAX {
                self.flush(post, sent)?;
                send_large(&path, input, post, sent)?;
                continue;
            }
            match read_small(&path, input.bytes) {
                Ok(content) => {
                    self.bytes += input.name().len() + content.len();
                    self.names.push(name_of(&input));
                    self.inputs.push(input);
                    self.contents.push(content);
                }
                Err(error) => {
                    sent.blocking_send(Sent::Unreadable(input, error.to_string())).map_err(|_| Over)?;
                }
            }
            if self.bytes >= MESSAGE_FILL_BYTES {
                self.flush(post, sent)?;
            }
        }
        self.flush(post, sent)
    }

    fn flush(&mut self, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
        if self.inputs.is_empty() {
            return Ok(());
        }
        let (names, contents) = (std::mem::take(&mut self.names), std::mem::take(&mut self.contents));
        self.bytes = 0;
        post.send(std::mem::take(&mut self.inputs), sent, |first, send| {
            let word = |((unit, name), data): ((u64, Bytes), Bytes)| {
                let input = Some(wire::Payload { bytes_total: data.len() as u64, data });
                Word::Unit(wire::Unit { unit, input, name })
            };
            send((first.0..).zip(names).zip(contents).map(word).collect())
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
    let mut content = Vec::with_capacity(usize::try_from(listed).unwrap_or(0) + 1);
    File::open(path)?.take(listed + 1).read_to_end(&mut content)?;
    if content.len() as u64 == listed { Ok(content.into()) } else { Err(changed(listed)) }
}

/// Sends an input in pieces. If it cannot be read to its end, the king is told, and the unit fails.
fn send_large(path: &PathBuf, input: Input, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
    let listed = input.bytes;
    let opened = File::open(path)
        .and_then(|file| if file.metadata()?.len() == listed { Ok(file) } else { Err(changed(listed)) });
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return sent.blocking_send(Sent::Unreadable(input, error.to_string())).map_err(|_| Over),
    };
    let name = name_of(&input);
    post.send(vec![input], sent, |unit, send| {
        let begin = wire::Payload { bytes_total: listed, data: Bytes::new() };
        send(vec![Word::Unit(wire::Unit { unit: unit.0, input: Some(begin), name })])?;
        let mut missing = listed;
        while missing > 0 {
            let piece = match read_piece(&mut file, missing) {
                Ok(data) if data.is_empty() => wire::Piece { data, broken: changed(listed).to_string() },
                Ok(data) => wire::Piece { data, broken: String::new() },
                Err(error) => wire::Piece { data: Bytes::new(), broken: error.to_string() },
            };
            let is_broken = !piece.broken.is_empty();
            missing -= piece.data.len() as u64;
            send(vec![Word::Piece(piece)])?;
            if is_broken {
                return Ok(());
            }
        }
        Ok(())
    })
}

fn read_piece(file: &mut File, missing: u64) -> io::Result<Bytes> {
    let bytes = missing.min(MESSAGE_FILL_BYTES as u64);
    let mut data = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    file.take(bytes).read_to_end(&mut data)?;
    Ok(data.into())
}
