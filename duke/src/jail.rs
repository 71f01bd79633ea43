//! The jail of this machine's peasants and compilers: which of its walls hold, and which an operator insists on.

use std::{collections::BTreeMap, io};

use clap::ValueEnum;
use distwasm_process::handed::Arguments;
use distwasm_proto::{error_text::chain, limits::START_WITHIN, walls::Wall};
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::peasant::{Spawner, describe};

/// The walls that must hold before a duke works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RequiredJail {
    /// None; what is missing is logged
    #[default]
    None,
    /// Those that need no namespaces and no landlock
    Basic,
    /// All
    Full,
}

impl RequiredJail {
    /// The walls that must hold.
    pub fn walls(self) -> Vec<Wall> {
        match self {
            RequiredJail::None => Vec::new(),
            RequiredJail::Basic => Wall::BASIC.to_vec(),
            RequiredJail::Full => Wall::all().collect(),
        }
    }
}

/// Why the jail is not known, or is not good enough.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum JailError {
    #[error("failed to find out which walls the jail of peasants has: {0}")]
    Unknown(String),
    #[error("the jail of peasants lacks {wall}, which --require-jail demands: {why}")]
    Weak { wall: Wall, why: String },
}

impl From<io::Error> for JailError {
    fn from(error: io::Error) -> JailError {
        JailError::Unknown(error.to_string())
    }
}

/// What holds on this machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The walls that hold.
    pub holds: Vec<Wall>,
    /// The others, and why they do not.
    pub missing: BTreeMap<Wall, String>,
}

/// Has a peasant enter the jail and tell which walls hold.
pub(crate) async fn probe(spawner: &Spawner) -> Result<Report, JailError> {
    let args = Arguments { shown: vec!["jail".into()], ..Arguments::default() };
    let child = spawner.spawn(args).await.map_err(|error| JailError::Unknown(chain(&error)))?;
    let slow = |_| JailError::Unknown(format!("no answer in {START_WITHIN:?}"));
    let output = timeout(START_WITHIN, child.wait_with_output()).await.map_err(slow)??;
    parse(&output.stdout).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        JailError::Unknown(format!("{}; it said: {}", describe(output.status), said.trim()))
    })
}

/// Reads what `peasant jail` prints. Walls that this version does not know are left out.
fn parse(text: &[u8]) -> Option<Report> {
    let told: Value = serde_json::from_slice(text).ok()?;
    let holds = told.get("walls")?.as_array()?.iter().filter_map(|name| Wall::from_name(name.as_str()?)).collect();
    let missing = told.get("missing")?.as_object()?.iter();
    let missing = missing.filter_map(|(name, why)| Some((Wall::from_name(name)?, why.as_str()?.to_owned())));
    Some(Report { holds, missing: missing.collect() })
}

impl Report {
    /// Whether what is demanded holds.
    pub(crate) fn check(&self, required: RequiredJail) -> Result<(), JailError> {
        match required.walls().into_iter().find(|wall| !self.holds.contains(wall)) {
            None => Ok(()),
            Some(wall) => {
                let why =
                    self.missing.get(&wall).cloned().unwrap_or_else(|| "this peasant does not know it".to_owned());
                Err(JailError::Weak { wall, why })
            }
        }
    }

    /// Logs which walls are missing. A user who runs a queen on one machine has not asked for it.
    pub(crate) fn log(&self, is_alone: bool) {
        if self.missing.is_empty() {
            return;
        }
        let missing: Vec<String> = self.missing.iter().map(|(wall, why)| format!("{wall} ({why})")).collect();
        let missing = missing.join(", ");
        if is_alone {
            info!(missing, "the jail of peasants lacks walls");
        } else {
            warn!(missing, "the jail of peasants lacks walls (docs/jail.md; --require-jail insists on them)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peasant_tells_is_understood() {
        let told = br#"{"missing":{"empty-root":"no \"right\"","moat":"dry"},"walls":["seccomp","drawbridge"]}"#;
        let missing = BTreeMap::from([(Wall::EmptyRoot, "no \"right\"".to_owned())]);
        assert_eq!(parse(told), Some(Report { holds: vec![Wall::Seccomp], missing }));
        for odd in [&b""[..], b"{}", b"[1]", br#"{"walls":1,"missing":{}}"#] {
            assert_eq!(parse(odd), None);
        }
    }

    #[test]
    fn a_wall_that_is_demanded_and_missing_is_named() {
        let missing = BTreeMap::from([(Wall::EmptyRoot, "why".to_owned())]);
        let report = Report { holds: Wall::BASIC.to_vec(), missing };
        assert!(report.check(RequiredJail::None).is_ok() && report.check(RequiredJail::Basic).is_ok());
        assert!(matches!(report.check(RequiredJail::Full), Err(JailError::Weak { wall: Wall::LandlockFiles, .. })));
        let why = Report { holds: Vec::new(), ..report }.check(RequiredJail::Basic).unwrap_err().to_string();
        assert!(why.starts_with("the jail of peasants lacks not-root, which --require-jail demands: "), "{why}");
    }
}
