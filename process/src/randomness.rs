//! Secrets from the system's source of randomness.

use std::io;

use distwasm_proto::secret::Secret;

/// A secret that nobody can guess.
///
/// # Errors
///
/// When the system has no source of randomness.
pub fn secret() -> io::Result<Secret> {
    bytes().map(Secret::new)
}

/// As many random bytes as are wanted.
///
/// # Errors
///
/// When the system has no source of randomness.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(io::Error::other(format!("the system gives no random bytes: {error}"))),
    }
}
