//! SHA-256 (FIPS 180-4) of messages that fit into one block, which is all that the search needs.

/// The hash of at most 55 bytes, as eight big-endian words.
pub fn digest(message: &[u8]) -> [u32; 8] {
    let mut schedule = [0; 64];
    for (word, bytes) in schedule.iter_mut().zip(padded(message).chunks(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for at in 16..64 {
        let (two, fifteen) = (schedule[at - 2], schedule[at - 15]);
        let sigma1 = u32::rotate_right(two, 17) ^ u32::rotate_right(two, 19) ^ (two >> 10);
        let sigma0 = u32::rotate_right(fifteen, 7) ^ u32::rotate_right(fifteen, 18) ^ (fifteen >> 3);
        schedule[at] = sigma1.wrapping_add(schedule[at - 7]).wrapping_add(sigma0).wrapping_add(schedule[at - 16]);
    }
    let mut state = INITIAL;
    for (word, constant) in schedule.iter().zip(&ROUNDS) {
        round(&mut state, word.wrapping_add(*constant));
    }
    for (word, initial) in state.iter_mut().zip(&INITIAL) {
        *word = word.wrapping_add(*initial);
    }
    state
}

/// The message as a block: a one bit, zeros, and the number of bits.
fn padded(message: &[u8]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..message.len()].copy_from_slice(message);
    block[message.len()] = 0x80;
    block[56..].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
    block
}

fn round(state: &mut [u32; 8], added: u32) {
    let [a, b, c, d, e, f, g, h] = *state;
    let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
    let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
    let choice = (e & f) ^ (!e & g);
    let majority = (a & b) ^ (a & c) ^ (b & c);
    let first = h.wrapping_add(sum1).wrapping_add(choice).wrapping_add(added);
    let second = sum0.wrapping_add(majority);
    *state = [first.wrapping_add(second), a, b, c, d.wrapping_add(first), e, f, g];
}

/// The fractions of the square roots of the first 8 primes.
const INITIAL: [u32; 8] =
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

/// The fractions of the cube roots of the first 64 primes.
const ROUNDS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
    0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
    0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
    0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
];

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn known_hashes() {
        for (message, wanted) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            let hex: String = digest(message.as_bytes()).iter().map(|word| format!("{word:08x}")).collect();
            assert_eq!(hex, wanted);
        }
    }
}
