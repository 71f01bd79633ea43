//! Secrets that prove to a king who a peer is, and the marks by which others recognise the peer without being able to
//! take its place.
//!
//! A queen makes up a key for its job, and a duke has a secret for its place on its machine. Kings compare and keep
//! marks only, and dukes are told only the mark of a job: a mark shows whether a secret is the right one, and leads to
//! no secret.

use std::{
    fmt,
    hash::{Hash, Hasher},
    hint::black_box,
};

use crate::digest::Digest;

/// The bytes of a secret, and of a mark: more than anybody can try.
const BYTES: usize = 16;

/// Something that only its owner knows, and the king while it reads it.
#[derive(Clone, Copy)]
pub struct Secret([u8; BYTES]);

/// What shows whether a secret is the right one.
#[derive(Clone, Copy, Eq)]
pub struct Mark([u8; BYTES]);

/// What a secret proves. Secrets for one purpose have no marks in common with secrets for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// That a queen's job is its own.
    Job,
    /// That a duke's place on its machine is its own.
    Seat,
}

impl Secret {
    /// The secret of these bytes, which must come from the system's source of randomness.
    pub const fn new(bytes: [u8; BYTES]) -> Secret {
        Secret(bytes)
    }

    /// The mark of this secret.
    pub fn mark(&self, purpose: Purpose) -> Mark {
        let purpose = match purpose {
            Purpose::Job => b"distwasm job\0".as_slice(),
            Purpose::Seat => b"distwasm seat\0",
        };
        let digest = Digest::of([purpose, &self.0]).to_wire();
        Mark(std::array::from_fn(|place| digest.get(place).copied().unwrap_or_default()))
    }

    /// The secret in a peer's message; `None` if its length is wrong.
    pub fn from_wire(bytes: &[u8]) -> Option<Secret> {
        bytes.try_into().ok().map(Secret)
    }

    /// Its bytes, for a message to a king.
    pub fn to_wire(&self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0)
    }

    /// The secret in a file; `None` unless it is what [`Secret::to_text`] writes.
    pub fn from_text(text: &str) -> Option<Secret> {
        let is_hex = text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(|number| Secret(number.to_be_bytes()))
    }

    /// As text, for a file that only its owner can read.
    pub fn to_text(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Mark {
    /// The mark in a peer's message; `None` if its length is wrong.
    pub fn from_wire(bytes: &[u8]) -> Option<Mark> {
        bytes.try_into().ok().map(Mark)
    }

    /// Its bytes, for a message.
    pub fn to_wire(&self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0)
    }
}

/// Takes equally long wherever the first difference is, so that nobody can find a secret byte by byte.
fn is_equal(one: &[u8; BYTES], other: &[u8; BYTES]) -> bool {
    black_box(one.iter().zip(other).fold(0, |differences, (one, other)| differences | (one ^ other))) == 0
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        is_equal(&self.0, &other.0)
    }
}

impl Eq for Secret {}

impl PartialEq for Mark {
    fn eq(&self, other: &Mark) -> bool {
        is_equal(&self.0, &other.0)
    }
}

impl Hash for Mark {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Never shows the secret: logs and panics are read by others.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_fits_one_secret_and_one_purpose() {
        let (one, other) = (Secret::new([7; BYTES]), Secret::new([8; BYTES]));
        assert_eq!(one.mark(Purpose::Job), one.mark(Purpose::Job));
        assert_ne!(one.mark(Purpose::Job), other.mark(Purpose::Job));
        assert_ne!(one.mark(Purpose::Job), one.mark(Purpose::Seat));
        assert_ne!(one.mark(Purpose::Job).to_wire(), one.to_wire());
    }

    #[test]
    fn a_secret_comes_back_from_text_and_from_a_message_and_is_never_shown() {
        let secret = Secret::new(std::array::from_fn(|place| place as u8));
        assert_eq!(Secret::from_text(&secret.to_text()), Some(secret));
        assert_eq!(Secret::from_wire(&secret.to_wire()), Some(secret));
        let (zero, text) = (Secret::new([0; BYTES]), secret.to_text());
        assert_eq!(Secret::from_text(&zero.to_text()), Some(zero));
        for wrong in ["", "0", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..])] {
            assert_eq!(Secret::from_text(wrong), None, "{wrong}");
        }
        assert_eq!((Secret::from_wire(&[0; 15]), Mark::from_wire(&[0; 17])), (None, None));
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn every_bit_counts() {
        let secret = Secret::new([0; BYTES]);
        for bit in 0..8 * BYTES {
            let mut bytes = [0; BYTES];
            bytes[bit / 8] = 1 << (bit % 8);
            assert_ne!(secret, Secret::new(bytes));
        }
    }
}
