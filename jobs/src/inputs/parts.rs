//! Parts of streamed inputs, which the king asks for: each is read when it is wanted, so that no input is in memory as a
//! whole. All parts must be of one file that nobody changes meanwhile.

use std::{fs::File, io, os::unix::fs::FileExt, os::unix::fs::MetadataExt};

use bytes::Bytes;
use distwasm_proto::limits::{MESSAGE_FILL_BYTES, PART_BYTES_MAX};

use super::{
    FileState, FirstSeen, Input, InputFolder,
    numbers::LinkNo,
    post::{Over, Post},
    readers::{changed, open_listed},
};
use crate::king_link::{PartWanted, words};

/// Reads a part and sends it, unless the link breaks: then the king asks for it again over the next one.
pub(super) fn send(
    folder: &InputFolder,
    link: LinkNo,
    part: PartWanted,
    (input, seen): (&Input, &FirstSeen),
    post: &Post,
) -> Result<(), Over> {
    let PartWanted { transfer, from, until, .. } = part;
    let mut next = from;
    while next < until {
        let (mut message, mut bytes) = (Vec::new(), 0);
        let read = read(folder, input, seen, next..until, |data| {
            let offset = next + bytes as u64;
            bytes += data.len();
            message.push(words::unit_part(transfer, offset, data));
            bytes < MESSAGE_FILL_BYTES
        });
        if let Err(error) = read {
            let broken = vec![words::broken_part(transfer, next, error.to_string())];
            return post.send_over(link, |open| open.say(broken)).map(|_stands| ());
        }
        if !post.send_over(link, |open| open.say(message))? {
            return Ok(());
        }
        next += bytes as u64;
    }
    Ok(())
}

/// Reads pieces of a range until it ends or `take` wants no more.
fn read(
    folder: &InputFolder,
    input: &Input,
    FirstSeen(seen): &FirstSeen,
    range: std::ops::Range<u64>,
    mut take: impl FnMut(Bytes) -> bool,
) -> io::Result<()> {
    let file = open_listed(folder, input)?;
    let check = || {
        let state = state_of(&file)?;
        if *seen.get_or_init(|| state) == state { Ok(()) } else { Err(changed(input.bytes)) }
    };
    check()?;
    let mut next = range.start;
    let mut goes_on = true;
    while next < range.end && goes_on {
        let bytes = (range.end - next).min(PART_BYTES_MAX as u64);
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        match file.read_exact_at(&mut data, next) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed(input.bytes)),
            read => read?,
        }
        next += bytes;
        goes_on = take(data.into());
    }
    check()
}

fn state_of(file: &File) -> io::Result<FileState> {
    let found = file.metadata()?;
    Ok((found.len(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_part_is_read_in_pieces_until_the_file_changes() {
        let place = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..2 * PART_BYTES_MAX + 7).map(|number| (number % 251) as u8).collect();
        let path = place.path().join("a");
        fs::write(&path, &content).unwrap();
        let (folder, input) = (InputFolder::new(place.path(), false), Input::new("a", content.len() as u64));
        let seen = FirstSeen::default();
        let pieces = |seen: &FirstSeen, range| {
            let mut pieces: Vec<Bytes> = Vec::new();
            let taken = read(&folder, &input, seen, range, |data| {
                pieces.push(data);
                true
            });
            taken.map(|()| pieces).map_err(|error| error.to_string())
        };
        let all = pieces(&seen, 3..content.len() as u64).unwrap();
        assert_eq!(all.iter().map(Bytes::len).collect::<Vec<_>>(), [PART_BYTES_MAX, PART_BYTES_MAX, 4]);
        assert_eq!(all.concat(), content[3..]);
        assert!(pieces(&seen, 0..content.len() as u64 + 1).unwrap_err().contains("has changed since"));
        // The size is the same, and the time is not.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(pieces(&seen, 0..1).unwrap_err().contains("has changed since"));
        assert_eq!(pieces(&FirstSeen::default(), 0..1).unwrap().concat(), content[..1]);
        file.set_len(5).unwrap();
        assert!(pieces(&FirstSeen::default(), 0..1).unwrap_err().contains("has changed since"));
    }
}
