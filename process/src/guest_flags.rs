//! Flags about guests, for every program that starts some: how a guest is called, and what it gets.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use clap::{
    Args,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};
use thiserror::Error;

/// How a guest is called.
#[derive(Args, Clone, Debug)]
pub struct CallFlags {
    /// Call this export with the values found in each input, and take what it returns as the output text
    #[arg(long, value_name = "NAME", env = "DISTWASM_CALL", value_parser = NonEmptyStringValueParser::new())]
    pub call: Option<String>,

    /// Make a unit give the same bytes everywhere: fixed clock, randomness drawn from project and unit, canonical NaNs;
    /// implies --fresh
    #[arg(long, env = "DISTWASM_DETERMINISTIC", value_parser = BoolishValueParser::new())]
    pub deterministic: bool,
}

/// How a guest is called, and what it gets.
#[derive(Args, Clone, Debug)]
pub struct GuestFlags {
    /// How it is called.
    #[command(flatten)]
    pub calling: CallFlags,

    /// Give each unit an instance of its own (by default, ProcessStdio programs keep one)
    #[arg(long, env = "DISTWASM_FRESH", value_parser = BoolishValueParser::new())]
    pub fresh: bool,

    /// A variable in the environment of the program; may be given several times
    #[arg(long, value_name = "K=V", env = "DISTWASM_ENV")]
    pub env: Vec<String>,

    /// A directory of this machine that the program sees, read-only; may be given several times
    #[arg(long = "dir", value_name = "HOST::GUEST", env = "DISTWASM_DIR")]
    pub dirs: Vec<OsString>,

    /// Arguments for the program
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// A directory that is not written as HOST::GUEST.
#[derive(Debug, Error)]
#[error("--dir {} is not HOST::GUEST, the path of a directory here and for the program", .text.display())]
pub struct NotADirectory {
    text: OsString,
}

impl GuestFlags {
    /// Whether each unit gets an instance of its own. State that an instance keeps depends on the units before, so a
    /// deterministic guest always gets one.
    pub fn is_fresh(&self) -> bool {
        self.fresh || self.calling.deterministic
    }

    /// The directories, each with its path for the guest.
    ///
    /// # Errors
    ///
    /// When one is not written as HOST::GUEST.
    pub fn directories(&self) -> Result<Vec<(PathBuf, String)>, NotADirectory> {
        let refused = |text: &OsString| NotADirectory { text: text.clone() };
        self.dirs.iter().map(|text| split_directory(text).ok_or_else(|| refused(text))).collect()
    }
}

/// Splits at the last pair of colons: the path of a directory here may contain some, its path for the guest may not.
fn split_directory(text: &OsStr) -> Option<(PathBuf, String)> {
    let bytes = text.as_bytes();
    let middle = bytes.windows(2).rposition(|two| two == b"::")?;
    let (here, guest) = (bytes.get(..middle)?, bytes.get(middle + 2..)?);
    let guest = std::str::from_utf8(guest).ok()?.to_owned();
    (!here.is_empty()).then(|| (PathBuf::from(OsStr::from_bytes(here)), guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_split_at_the_last_colons() {
        let split = |text: &str| split_directory(text.as_ref());
        assert_eq!(split("a/b::/c"), Some(("a/b".into(), "/c".to_owned())));
        assert_eq!(split("a::b::c"), Some(("a::b".into(), "c".to_owned())));
        assert_eq!((split("a:b"), split("::c")), (None, None));
    }
}
