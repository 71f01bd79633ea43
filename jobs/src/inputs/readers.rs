//! Reads inputs and sends them, on threads of their own: opening thousands of small files is work that blocks.
//!
//! Small inputs gather in one message; a large one is sent in pieces as it is read, so that it is never in memory as a
//! whole. Units get their numbers when their message is sent ([`super::numbers`]). Of inputs that dukes read, only names
//! and sizes are sent; of streamed ones also the parts that the king asks for (`parts.rs`).

use std::{
    fs::File,
    io::{self, Read},
};

use bytes::Bytes;
use distwasm_process::aligned::Aligned;
use distwasm_proto::{
    ids::UnitNo,
    limits::{GATHERED_INPUT_BYTES_MAX, MESSAGE_FILL_BYTES, MESSAGE_WORDS, PIECE_BYTES, UNIT_NAME_BYTES_MAX},
};
use tokio::sync::mpsc;

use super::{
    BATCH, Input, InputFolder, ReadOrder, Sent,
    numbers::LinkNo,
    parts,
    post::{Cut, OpenLink, Over, Post},
};
use crate::{
    descriptors::when_there_are,
    king_link::words::{self, Way},
    request::InPlaces,
    work_queue::Taker,
};

/// Where inputs are read from, and which are not read here.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) folder: &'a InputFolder,
    pub(crate) in_places: InPlaces,
}

/// Works until there are no more orders, or the run is over.
pub(crate) fn read(source: Source<'_>, orders: &Taker<ReadOrder>, post: &Post, sent: &mpsc::Sender<Sent>) {
    while let Some(orders) = orders.take(BATCH) {
        if obey(source, orders, post, sent).is_err() {
            return;
        }
    }
}

fn obey(source: Source<'_>, orders: Vec<ReadOrder>, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
    let mut batch = Batch::default();
    for order in orders {
        match order {
            ReadOrder::Input(input) => batch.read(source, input, post, sent)?,
            ReadOrder::Again(link, units) => send_again(source, link, units, post)?,
            ReadOrder::Part(link, part, input, seen) => parts::send(source.folder, link, part, (&input, &seen), post)?,
            ReadOrder::Close(link, units) => {
                post.send_over(link, |open| open.say(vec![words::close_job(units)]))?;
            }
        }
    }
    batch.flush(post, sent)
}

/// Small inputs that wait to be sent together.
#[derive(Default)]
struct Batch {
    inputs: Vec<Input>,
    /// Of each of them, its name, its content, and how its bytes travel.
    words: Vec<(Bytes, Bytes, Way)>,
    bytes: usize,
}

impl Batch {
    fn read(&mut self, source: Source<'_>, input: Input, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
        let unreadable = |input, why| sent.blocking_send(Sent::Unreadable(input, why)).map_err(|_| Over);
        if input.name().len() > UNIT_NAME_BYTES_MAX {
            let why = format!("its path below the input folder has more than {UNIT_NAME_BYTES_MAX} bytes");
            return unreadable(input, why);
        }
        let Source { folder, in_places } = source;
        let content = if in_places.tells_size(&input) {
            Ok(size_of(&input))
        } else {
            if let Err(error) = check_length(&input, post) {
                return unreadable(input, error.to_string());
            }
            if input.bytes > GATHERED_INPUT_BYTES_MAX {
                self.flush(post, sent)?;
                return send_large(source, input, post, sent);
            }
            read_small(folder, &input)
        };
        match content {
            Ok(content) => self.push(in_places, input, content),
            Err(error) => return unreadable(input, error.to_string()),
        }
        if self.bytes >= MESSAGE_FILL_BYTES { self.flush(post, sent) } else { Ok(()) }
    }

    fn push(&mut self, in_places: InPlaces, input: Input, content: Bytes) {
        self.bytes += input.name().len() + content.len();
        self.words.push((name_of(&input), content, way_of(in_places, &input)));
        self.inputs.push(input);
    }

    fn flush(&mut self, post: &Post, sent: &mpsc::Sender<Sent>) -> Result<(), Over> {
        if self.inputs.is_empty() {
            return Ok(());
        }
        let Batch { inputs, words, .. } = std::mem::take(self);
        post.send(inputs, sent, |units, link| {
            let units = units.iter().zip(words);
            link.say(units.map(|(unit, (name, data, way))| words::unit(*unit, name, data, way)).collect())
        })
    }
}

fn check_length(input: &Input, post: &Post) -> io::Result<()> {
    let (bytes, most) = (input.bytes, post.input_bytes_max());
    if bytes <= most {
        return Ok(());
    }
    let why = format!("it has {bytes} bytes, and this king takes inputs of at most {most} (its --memory-limit)");
    Err(io::Error::other(why))
}

fn way_of(in_places: InPlaces, input: &Input) -> Way {
    Way { in_places: in_places.applies(input), streamed: in_places.streams(input) }
}

/// What is sent of an input that dukes read, or that is streamed: its size.
fn size_of(input: &Input) -> Bytes {
    Bytes::copy_from_slice(&input.bytes.to_le_bytes())
}

fn name_of(input: &Input) -> Bytes {
    Bytes::copy_from_slice(input.name())
}

pub(super) fn changed(listed: u64) -> io::Error {
    io::Error::other(format!(
        "it had {listed} bytes when it was listed, and has changed since; run again when it is at rest"
    ))
}

fn read_small(folder: &InputFolder, input: &Input) -> io::Result<Bytes> {
    let listed = input.bytes;
    // The buffer has room for one byte more than was listed, so that one read shows whether the file has grown: a file
    // gives less than it is asked for only at its end.
    let mut content = vec![0; usize::try_from(listed).unwrap_or(0) + 1];
    let mut file = Aligned(when_there_are(|| folder.open(input.source()))?);
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
fn send_large(
    Source { folder, in_places }: Source<'_>,
    input: Input,
    post: &Post,
    sent: &mpsc::Sender<Sent>,
) -> Result<(), Over> {
    let listed = input.bytes;
    let file = match open_listed(folder, &input) {
        Ok(file) => file,
        Err(error) => return sent.blocking_send(Sent::Unreadable(input, error.to_string())).map_err(|_| Over),
    };
    let about = (name_of(&input), way_of(in_places, &input));
    post.send(vec![input], sent, |units, link| {
        units.iter().try_for_each(|unit| send_pieces(&file, listed, *unit, &about, link))
    })
}

pub(super) fn open_listed(folder: &InputFolder, input: &Input) -> io::Result<File> {
    let file = when_there_are(|| folder.open(input.source()))?;
    if file.metadata()?.len() == input.bytes { Ok(file) } else { Err(changed(input.bytes)) }
}

/// Sends an input in pieces, with its name and how the other bytes of its unit travel.
fn send_pieces(file: &File, listed: u64, unit: UnitNo, (name, way): &(Bytes, Way), link: &OpenLink) -> Result<(), Cut> {
    let mut message = vec![words::begin_unit(unit, name.clone(), listed, *way)];
    let (mut missing, mut is_broken) = (listed, false);
    while missing > 0 && !is_broken {
        let mut bytes = 0;
        while bytes < MESSAGE_FILL_BYTES && missing > 0 && !is_broken {
            let piece = read_piece(file, missing, listed);
            is_broken = piece.is_err();
            message.push(match piece {
                Ok(data) => {
                    missing -= data.len() as u64;
                    bytes += data.len();
                    words::piece(data)
                }
                Err(error) => words::broken_piece(error.to_string()),
            });
        }
        link.say(std::mem::take(&mut message))?;
    }
    Ok(())
}

/// Sends units again, unless the link breaks again. Units whose inputs cannot be read any more fail.
fn send_again(
    Source { folder, in_places }: Source<'_>,
    link: LinkNo,
    units: Vec<(UnitNo, Input)>,
    post: &Post,
) -> Result<(), Over> {
    let mut message = Vec::new();
    let mut bytes = 0;
    for (no, input) in units {
        let (name, listed) = (name_of(&input), input.bytes);
        let mut large = None;
        let mut read = || {
            if in_places.tells_size(&input) {
                return Ok(size_of(&input));
            }
            check_length(&input, post)?;
            if listed <= GATHERED_INPUT_BYTES_MAX {
                return read_small(folder, &input);
            }
            large = Some(open_listed(folder, &input)?);
            Ok(Bytes::new())
        };
        let content: io::Result<Bytes> = read();
        let way = way_of(in_places, &input);
        match content {
            Ok(_) if large.is_some() => {}
            Ok(content) => {
                bytes += name.len() + content.len();
                message.push(words::unit(no, name.clone(), content, way));
            }
            Err(error) => message.extend(words::broken_unit(no, name.clone(), error.to_string())),
        }
        let is_full = bytes >= MESSAGE_FILL_BYTES || message.len() >= MESSAGE_WORDS || large.is_some();
        if is_full && !post.send_over(link, |open| open.say(std::mem::take(&mut message)))? {
            return Ok(());
        }
        bytes = if is_full { 0 } else { bytes };
        if let Some(file) = large
            && !post.send_over(link, |open| send_pieces(&file, listed, no, &(name, way), open))?
        {
            return Ok(());
        }
    }
    post.send_over(link, |open| open.say(message)).map(|_stands| ())
}

fn read_piece(file: &File, missing: u64, listed: u64) -> io::Result<Bytes> {
    let bytes = usize::try_from(missing).unwrap_or(usize::MAX).min(PIECE_BYTES);
    let mut data = Vec::with_capacity(bytes);
    Aligned(file).append(&mut data, bytes)?;
    if data.is_empty() { Err(changed(listed)) } else { Ok(data.into()) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

    use super::*;

    #[test]
    fn what_took_the_place_of_an_input_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("in")).unwrap();
        fs::write(path("secret"), "secret").unwrap();
        fs::write(path("in/file"), "public").unwrap();
        symlink("../secret", path("in/out")).unwrap();
        symlink("/proc/self/environ", path("in/proc")).unwrap();
        symlink("file", path("in/near")).unwrap();
        // Without a writer, opening a named pipe would wait for one.
        assert!(Command::new("mkfifo").arg(path("in/pipe")).status().unwrap().success());
        let read = |name: &str, follows_links| {
            let folder = InputFolder::new(path("in"), follows_links);
            let input = Input::new(name, 6);
            let opened = open_listed(&folder, &input).map(|_| ());
            let content = read_small(&folder, &input).map(|content| content.to_vec());
            assert_eq!(opened.is_ok(), content.is_ok(), "{name}");
            content.map_err(|error| error.to_string())
        };
        for follows_links in [false, true] {
            assert_eq!(read("file", follows_links).unwrap(), b"public");
            assert_eq!(read("near", follows_links).unwrap(), b"public");
            assert_eq!(read("pipe", follows_links).unwrap_err(), "it is not a regular file");
        }
        for name in ["out", "proc"] {
            assert_eq!(read(name, false).unwrap_err(), "it is a link that leads out of its folder");
        }
        assert_eq!(read("out", true).unwrap(), b"secret");
        let source = Some(Path::new(&path("secret")).into());
        let stdin = Input { source, ..Input::new("stdin", 6) };
        assert_eq!(read_small(&InputFolder::new("/dev/null", false), &stdin).unwrap(), b"secret"[..]);
    }
}
