//! The frames that a duke and a peasant exchange over the peasant's stdin and stdout.
//!
//! A frame is a 32-bit little-endian header followed by a body. The low 31 bits of the header are the length of the
//! body in bytes. The top bit, set only by a peasant, says that the body is an encoded [`Failure`] instead of a
//! result.
//!
//! The first frame to a peasant that was started without a compiled program is the program. When the program is
//! compiled and initialised, the peasant says so with an empty frame (four zero bytes). From then on it answers each
//! frame with one frame, in order. The framing is that of the original distwasm; the failure bit is ours.
//!
//! A peasant that was started with `--described` gets two frames for each unit: a [`Description`], then the input.
//!
//! A peasant that was started with `--descriptors` gets a [`Reference`] before each description, in the same frame. It
//! says which files of the unit come over a socket, as descriptors. If the input does, its frame is left out.

use byteorder::{ByteOrder, LittleEndian};

use crate::{failure::Failure, ids::UnitNo};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 4;

/// The longest body that a header can describe: 2 GiB − 1.
pub const BODY_BYTES_MAX: usize = (1 << 31) - 1;

/// A peasant's message that its program is initialised: the header of an empty frame.
pub const READY: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

const FAILURE_BIT: u32 = 1 << 31;

/// The header before each body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the body in bytes, at most [`BODY_BYTES_MAX`].
    pub body_bytes: usize,
    /// Whether the body is an encoded [`Failure`].
    pub is_failure: bool,
}

impl Header {
    /// The header of a plain body; `None` if the body is longer than [`BODY_BYTES_MAX`].
    pub fn of_body(body: &[u8]) -> Option<Header> {
        Some(Header { body_bytes: body.len(), is_failure: false }).filter(|_| body.len() <= BODY_BYTES_MAX)
    }

    /// The header at the start of `buffer`; `None` while fewer than [`HEADER_BYTES`] bytes are there.
    pub fn parse(buffer: &[u8]) -> Option<Header> {
        let word = LittleEndian::read_u32(buffer.get(..HEADER_BYTES)?);
        Some(Header { body_bytes: (word & !FAILURE_BIT) as usize, is_failure: word & FAILURE_BIT != 0 })
    }

    /// The four bytes that go over the pipe. `body_bytes` must not exceed [`BODY_BYTES_MAX`].
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.body_bytes <= BODY_BYTES_MAX, "checked where the header was made");
        let length = u32::try_from(self.body_bytes).unwrap_or(u32::MAX) & !FAILURE_BIT;
        let word = if self.is_failure { length | FAILURE_BIT } else { length };
        let mut bytes = [0; HEADER_BYTES];
        LittleEndian::write_u32(&mut bytes, word);
        bytes
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.body_bytes
    }
}

/// The description of a unit, for the guest that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description<'a> {
    /// The unit's number within its job.
    pub unit: UnitNo,
    /// Which try of the unit this is; the first is 1.
    pub attempt: u32,
    /// The unit's name: the path of its input below the input folder, in the bytes that its system uses.
    pub name: &'a [u8],
}

impl<'a> Description<'a> {
    const NUMBERS_BYTES: usize = 12;

    /// A description's frame as a whole: the header, 64 bits of the unit's number and 32 bits of the attempt's, both
    /// little-endian, then the name.
    pub fn append(self, extend: impl FnMut(&[u8])) {
        self.append_after(&[], extend);
    }

    /// A description's frame with a reference before the description.
    pub fn append_with(self, reference: Reference, extend: impl FnMut(&[u8])) {
        self.append_after(&reference.encode(), extend);
    }

    fn append_after(self, before: &[u8], mut extend: impl FnMut(&[u8])) {
        let body_bytes = before.len() + Self::NUMBERS_BYTES + self.name.len();
        extend(&Header { body_bytes, is_failure: false }.encode());
        extend(before);
        extend(&self.unit.0.to_le_bytes());
        extend(&self.attempt.to_le_bytes());
        extend(self.name);
    }

    /// The description in a frame's body; `None` if it is too short to be one.
    pub fn parse(body: &'a [u8]) -> Option<Description<'a>> {
        let (numbers, name) = body.split_at_checked(Self::NUMBERS_BYTES)?;
        let (unit, attempt) = numbers.split_at_checked(8)?;
        Some(Description { unit: UnitNo(LittleEndian::read_u64(unit)), attempt: LittleEndian::read_u32(attempt), name })
    }
}

/// What of a unit is in files whose descriptors come over the socket beside the pipe: the input, then the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// The size of the input, if it is in a file.
    pub input_bytes: Option<u64>,
    /// Whether the answer is to be written to a file. The frame of a good answer is empty then.
    pub output: bool,
}

impl Reference {
    /// Bytes of a reference.
    pub const BYTES: usize = 9;

    const INPUT: u8 = 1;
    const OUTPUT: u8 = 2;

    /// The bytes that go before the description: one with a bit for the input (1) and one for the output (2), and 64 bits
    /// of the input's size, little-endian.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let input = self.input_bytes.map_or(0, |_| Self::INPUT);
        let output = if self.output { Self::OUTPUT } else { 0 };
        let [a, b, c, d, e, f, g, h] = self.input_bytes.unwrap_or(0).to_le_bytes();
        [input | output, a, b, c, d, e, f, g, h]
    }

    /// The reference at the start of a frame's body; `None` if there is none, or it says what is not known.
    pub fn parse(body: &[u8]) -> Option<Reference> {
        let (flags, size) = body.get(..Self::BYTES)?.split_first()?;
        let (is_input, is_output) = (flags & Self::INPUT != 0, flags & Self::OUTPUT != 0);
        let input_bytes = is_input.then(|| LittleEndian::read_u64(size));
        let is_known = flags & !(Self::INPUT | Self::OUTPUT) == 0;
        is_known.then_some(Reference { input_bytes, output: is_output })
    }

    /// Descriptors that come for the unit.
    pub fn descriptors(self) -> usize {
        usize::from(self.input_bytes.is_some()) + usize::from(self.output)
    }
}

/// One whole frame found in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The frame's header.
    pub header: Header,
    /// The frame's body, [`Header::body_bytes`] long.
    pub body: &'a [u8],
}

/// The frame at the start of `buffer`, or `None` while it is not there as a whole.
pub fn parse(buffer: &[u8]) -> Option<Frame<'_>> {
    let header = Header::parse(buffer)?;
    let body = buffer.get(HEADER_BYTES..header.frame_bytes())?;
    Some(Frame { header, body })
}

/// Appends a failure as a frame. A failure is far smaller than [`BODY_BYTES_MAX`] by its own limits.
pub fn append_failure(failure: &Failure, out: &mut Vec<u8>) {
    let body = failure.encode();
    out.extend_from_slice(&Header { body_bytes: body.len(), is_failure: true }.encode());
    out.extend_from_slice(&body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    #[test]
    fn a_frame_is_found_only_when_it_is_whole() {
        let mut bytes = Header { body_bytes: 3, is_failure: false }.encode().to_vec();
        bytes.extend_from_slice(b"abcrest");
        for cut in 0..7 {
            assert_eq!(parse(&bytes[..cut]), None, "cut at {cut}");
        }
        let frame = parse(&bytes).unwrap();
        assert_eq!(frame.body, b"abc");
        assert_eq!(frame.header.frame_bytes(), 7);
    }

    #[test]
    fn the_longest_body_keeps_clear_of_the_failure_bit() {
        for is_failure in [false, true] {
            let header = Header { body_bytes: BODY_BYTES_MAX, is_failure };
            assert_eq!(Header::parse(&header.encode()), Some(header));
        }
    }

    #[test]
    fn a_description_comes_back_as_it_was() {
        let description = Description { unit: UnitNo(1 << 40), attempt: 3, name: b"sub/\xff" };
        let mut bytes = Vec::new();
        description.append(|part| bytes.extend_from_slice(part));
        let frame = parse(&bytes).unwrap();
        assert_eq!((frame.header.frame_bytes(), Description::parse(frame.body)), (bytes.len(), Some(description)));
        assert_eq!(Description::parse(&frame.body[..11]), None);
    }

    #[test]
    fn a_reference_comes_back_as_it_was() {
        let description = Description { unit: UnitNo(5), attempt: 1, name: b"a" };
        for (input_bytes, output, descriptors) in [(None, false, 0), (Some(0), false, 1), (Some(5 << 30), true, 2)] {
            let reference = Reference { input_bytes, output };
            let mut bytes = Vec::new();
            description.append_with(reference, |part| bytes.extend_from_slice(part));
            let body = parse(&bytes).unwrap().body;
            assert_eq!((Reference::parse(body), reference.descriptors()), (Some(reference), descriptors));
            assert_eq!(Description::parse(&body[Reference::BYTES..]), Some(description));
        }
        assert_eq!(Reference::parse(&[0; 8]), None);
        assert_eq!(Reference::parse(&[4, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_failure_comes_back_as_it_was() {
        let failure = Failure::new(FailureKind::Trap, "unreachable").with_stderr(b"before\xff");
        let mut bytes = Vec::new();
        append_failure(&failure, &mut bytes);
        let frame = parse(&bytes).unwrap();
        assert!(frame.header.is_failure);
        assert_eq!(Failure::decode(frame.body), failure);
    }
}
