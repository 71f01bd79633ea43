//! Options of the guest program, for a job and for a check: arguments, environment, directories, and export to call.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use clap::{
    Args,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};
use distwasm_jobs::shares::{self, Packed, ShareError};
use distwasm_proto::{
    digest::Digest,
    guest::{GuestError, GuestSettings},
};
use distwasm_transport::payload::Payload;
use thiserror::Error;

/// The settings of the guest program.
#[derive(Args, Clone, Debug)]
pub struct GuestOptions {
    /// Call this export with the values found in each input, and take what it returns as the output text
    #[arg(long, value_name = "NAME", env = "DISTWASM_CALL", value_parser = NonEmptyStringValueParser::new())]
    pub call: Option<String>,

    /// Give each unit an instance of its own (by default, ProcessStdio programs keep one)
    #[arg(long, env = "DISTWASM_FRESH", value_parser = BoolishValueParser::new())]
    pub fresh: bool,

    /// Make a unit give the same bytes everywhere: fixed clock, randomness drawn from project and unit, canonical NaNs;
    /// implies --fresh
    #[arg(long, env = "DISTWASM_DETERMINISTIC", value_parser = BoolishValueParser::new())]
    pub deterministic: bool,

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

/// Why the options of a guest cannot be used.
#[derive(Debug, Error)]
pub enum GuestOptionsError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("--dir {} is not HOST::GUEST, the path of a directory here and for the program", .text.display())]
    Dir { text: OsString },
    #[error(transparent)]
    Share(#[from] ShareError),
}

impl GuestOptions {
    /// The settings of a job of this project, checked, and the archives of its shared directories.
    ///
    /// # Errors
    ///
    /// When an option is invalid or a directory cannot be packed, with the reason.
    pub fn prepare(&self, project: &str) -> Result<(GuestSettings, Vec<(Digest, Payload)>), GuestOptionsError> {
        let guest = self.settings(project);
        guest.check()?;
        let Packed { shares, archives } = shares::pack(&self.directories()?)?;
        Ok((GuestSettings { shares, ..guest }, archives))
    }

    /// The settings without the directories.
    fn settings(&self, project: &str) -> GuestSettings {
        GuestSettings {
            args: self.args.clone(),
            env: last_of_each_key(&self.env),
            call: self.call.clone().unwrap_or_default(),
            fresh: self.fresh || self.deterministic,
            deterministic: self.deterministic,
            seed: if self.deterministic { project.to_owned() } else { String::new() },
            shares: Vec::new(),
        }
    }

    /// The directories to share, with their places for the guests. Host paths may contain `::`, places may not.
    ///
    /// # Errors
    ///
    /// When one is not written as HOST::GUEST.
    pub fn directories(&self) -> Result<Vec<(PathBuf, String)>, GuestOptionsError> {
        let directory = |text: &OsString| {
            let bytes = text.as_bytes();
            let middle = bytes.windows(2).rposition(|two| two == b"::")?;
            let (host, place) = (bytes.get(..middle)?, bytes.get(middle + 2..)?);
            let place = std::str::from_utf8(place).ok()?.to_owned();
            (!host.is_empty()).then(|| (PathBuf::from(OsStr::from_bytes(host)), place))
        };
        let refused = |text: &OsString| GuestOptionsError::Dir { text: text.clone() };
        self.dirs.iter().map(|text| directory(text).ok_or_else(|| refused(text))).collect()
    }
}

/// The variables without those that a later one overrides.
fn last_of_each_key(env: &[String]) -> Vec<String> {
    let mut later = BTreeSet::new();
    let key = |variable: &str| variable.split_once('=').map(|(key, _)| key.to_owned());
    // A variable without a key is refused elsewhere.
    let last = env.iter().rev().filter(|variable| key(variable).is_none_or(|key| later.insert(key)));
    let mut last: Vec<String> = last.cloned().collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        guest: GuestOptions,
    }

    fn parse(args: &[&str]) -> GuestOptions {
        Line::try_parse_from(["queen"].iter().chain(args)).unwrap().guest
    }

    fn guest(args: &[&str]) -> Result<GuestSettings, GuestError> {
        let guest = parse(args).settings("project");
        guest.check().map(|()| guest)
    }

    #[test]
    fn options_of_guests_are_passed_on_unchanged() {
        let told =
            guest(&["--env", "A=1", "--env=B=x=y", "--env", "A=2,3", "--call", "f", "--", "a", "--env"]).unwrap();
        assert_eq!((told.env, told.args), (vec!["B=x=y".into(), "A=2,3".into()], vec!["a".into(), "--env".into()]));
        assert_eq!((told.call.as_str(), told.fresh, told.seed.as_str()), ("f", false, ""));
    }

    #[test]
    fn deterministic_guests_are_fresh_and_draw_from_the_project() {
        let told = guest(&["--deterministic"]).unwrap();
        assert_eq!((told.fresh, told.deterministic, told.seed.as_str()), (true, true, "project"));
    }

    #[test]
    fn a_directory_is_split_at_the_last_colons() {
        let split = |text: &str| parse(&["--dir", text]).directories().map(|dirs| dirs.into_iter().next().unwrap());
        assert_eq!(split("a/b::/c").unwrap(), ("a/b".into(), "/c".to_owned()));
        assert_eq!(split("a::b::c").unwrap(), ("a::b".into(), "c".to_owned()));
        assert!(split("a:b").is_err() && split("::c").is_err());
    }

    #[test]
    fn variables_that_cannot_be_are_refused() {
        for variable in ["A", "=1", "DISTWASM_UNIT=1"] {
            assert!(guest(&["--env", variable]).is_err(), "{variable}");
        }
    }
}
