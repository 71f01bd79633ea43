//! The names of programs that a king keeps, and how people name one version.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::{
    digest::Digest,
    limits::{DIGEST_DIGITS_MIN, PROGRAM_NAME_BYTES_MAX},
};

/// What stands before the digits of a digest. No program has this name.
const SHA256: &str = "sha256";

/// The name of a program: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, the first a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramName(String);

/// A program, as people name it: `summer`, `summer:3` or `sha256:` with the first digits of its digest. `summer@3` is read,
/// too, and `@` may stand before each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramRef {
    /// The newest version of a name.
    Newest(ProgramName),
    /// One version.
    Version(ProgramName, u32),
    /// By its digest, or the beginning of that.
    Digest(String),
}

/// Why a text names no program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProgramNameError {
    #[error(
        "{0:?} is not the name of a program: 1 to {PROGRAM_NAME_BYTES_MAX} lowercase letters, digits, `.`, `_` and `-`, of \
         which the first is a letter or a digit"
    )]
    Name(String),
    #[error("`{SHA256}` stands before the digits of a digest, and cannot be the name of a program")]
    Taken,
    #[error("{0:?} is not a version: versions are numbered from 1, as in summer:3")]
    Version(String),
    #[error("{0:?} is not a digest: {SHA256}: and {DIGEST_DIGITS_MIN} to 64 hexadecimal digits in lower case")]
    Digest(String),
}

impl ProgramName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProgramName {
    type Err = ProgramNameError;

    fn from_str(text: &str) -> Result<ProgramName, ProgramNameError> {
        if text == SHA256 {
            return Err(ProgramNameError::Taken);
        }
        let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.bytes().all(|byte| is_first(byte) || b"._-".contains(&byte));
        if !fits || text.len() > PROGRAM_NAME_BYTES_MAX || !text.bytes().next().is_some_and(is_first) {
            return Err(ProgramNameError::Name(text.to_owned()));
        }
        Ok(ProgramName(text.to_owned()))
    }
}

impl fmt::Display for ProgramName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ProgramRef {
    type Err = ProgramNameError;

    fn from_str(text: &str) -> Result<ProgramRef, ProgramNameError> {
        let text = text.strip_prefix('@').unwrap_or(text);
        let Some((name, version)) = text.split_once([':', '@']) else { return Ok(ProgramRef::Newest(text.parse()?)) };
        if name == SHA256 {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if !(DIGEST_DIGITS_MIN..=64).contains(&version.len()) || !version.bytes().all(is_digit) {
                return Err(ProgramNameError::Digest(version.to_owned()));
            }
            return Ok(ProgramRef::Digest(version.to_owned()));
        }
        let name = name.parse()?;
        // `parse` would take a plus sign.
        let number = version.parse().ok().filter(|number| *number > 0 && version.bytes().all(|b| b.is_ascii_digit()));
        number.map(|number| ProgramRef::Version(name, number)).ok_or(ProgramNameError::Version(version.to_owned()))
    }
}

impl ProgramRef {
    /// The program with exactly this digest.
    pub fn of_digest(digest: Digest) -> ProgramRef {
        ProgramRef::Digest(digest.to_string())
    }
}

impl fmt::Display for ProgramRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgramRef::Newest(name) => write!(f, "{name}"),
            ProgramRef::Version(name, version) => write!(f, "{name}:{version}"),
            ProgramRef::Digest(digits) => write!(f, "{SHA256}:{digits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for name in ["summer", "a", "7z", "a.b_c-d", &"n".repeat(64), "sha256sum"] {
            assert_eq!(name.parse::<ProgramName>().unwrap().as_str(), name);
        }
        for name in ["", "Summer", "-a", ".a", "_a", "a/b", "a b", "a:1", "ä", "a\n", &"n".repeat(65)] {
            assert_eq!(name.parse::<ProgramName>(), Err(ProgramNameError::Name(name.to_owned())));
        }
        assert_eq!("sha256".parse::<ProgramName>(), Err(ProgramNameError::Taken));
    }

    #[test]
    fn one_program_is_named_in_several_ways_and_shown_in_one() {
        for (text, shown) in [
            ("summer", "summer"),
            ("@summer", "summer"),
            ("summer:3", "summer:3"),
            ("@summer@3", "summer:3"),
            ("@summer:4294967295", "summer:4294967295"),
            ("sha256:0123abcd", "sha256:0123abcd"),
            ("@sha256@0123abcdef", "sha256:0123abcdef"),
        ] {
            let program: ProgramRef = text.parse().unwrap();
            assert_eq!(program.to_string(), shown);
            assert_eq!(shown.parse::<ProgramRef>().unwrap(), program);
        }
        for text in ["summer:0", "summer:", "summer:x", "summer:+1", "summer:4294967296", "summer:1:2"] {
            assert!(matches!(text.parse::<ProgramRef>(), Err(ProgramNameError::Version(_))), "{text}");
        }
        for text in ["sha256:", "sha256:0123abc", "sha256:0123ABCD", "sha256:0123abcg"] {
            assert!(matches!(text.parse::<ProgramRef>(), Err(ProgramNameError::Digest(_))), "{text}");
        }
        assert!(matches!("@@summer".parse::<ProgramRef>(), Err(ProgramNameError::Name(_))));
    }
}
