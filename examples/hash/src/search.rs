//! The search: which counter makes a hash that begins with zeros.

use crate::sha256;

/// More hexadecimal zeros a hash cannot begin with.
pub const ZEROS_MAX: u32 = 64;

/// The smallest counter, from 1 on, for which the hexadecimal SHA-256 of the decimal `input`, followed by the decimal
/// counter, begins with so many zeros.
pub fn find(input: i64, zeros: u32) -> u64 {
    let mut message = Message::new();
    if input < 0 {
        message.push(b'-');
    }
    message.push_decimal(input.unsigned_abs());
    let start = message.length;
    let mut counter = 1;
    loop {
        message.length = start;
        message.push_decimal(counter);
        if zeros_of(&sha256::digest(&message.bytes[..message.length])) >= zeros {
            return counter;
        }
        counter += 1;
    }
}

/// How many hexadecimal zeros a hash begins with.
fn zeros_of(hash: &[u32; 8]) -> u32 {
    let mut bits = 0;
    for word in hash {
        bits += word.leading_zeros();
        if *word != 0 {
            break;
        }
    }
    bits / 4
}

/// What is hashed: a sign and two numbers of at most 20 digits.
struct Message {
    bytes: [u8; 41],
    length: usize,
}

impl Message {
    fn new() -> Message {
        Message { bytes: [0; 41], length: 0 }
    }

    fn push(&mut self, letter: u8) {
        self.bytes[self.length] = letter;
        self.length += 1;
    }

    fn push_decimal(&mut self, mut number: u64) {
        let start = self.length;
        loop {
            self.push(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes[start..self.length].reverse();
    }
}
