//! What this machine's peasants are: which walls of their jail hold, which of them an operator insists on, and which
//! engine they have.

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

/// Why nothing is known of the peasants: they do not work at all.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProbeError {
    #[error("the peasant cannot be started: {0}")]
    Spawn(String),
    #[error("the peasant cannot be listened to")]
    Io(#[from] io::Error),
    #[error("the peasant did not tell its engine and its jail within {START_WITHIN:?}")]
    Slow,
    #[error("the peasant did not tell its engine and its jail: {0}")]
    Odd(String),
}

/// Why the jail is not good enough.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum JailError {
    #[error("the jail of peasants lacks {wall}, which --require-jail demands: {why}")]
    Weak { wall: Wall, why: String },
}

/// What holds on this machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// A word that differs between peasants that cannot load each other's compiled programs.
    pub engine: String,
    /// The walls that hold.
    pub holds: Vec<Wall>,
    /// The others, and why they do not.
    pub missing: BTreeMap<Wall, String>,
}

/// Has a peasant enter the jail, and tell which walls hold and which engine it has.
pub(crate) async fn probe(spawner: &Spawner) -> Result<Report, ProbeError> {
    let args = Arguments { shown: vec!["jail".into()], ..Arguments::default() };
    let child = spawner.spawn(args).await.map_err(|error| ProbeError::Spawn(chain(&error)))?;
    let output = timeout(START_WITHIN, child.wait_with_output()).await.map_err(|_| ProbeError::Slow)??;
    parse(&output.stdout).filter(|_| output.status.success()).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        ProbeError::Odd(format!("{}; it said: {}", describe(output.status), said.trim()))
    })
}

/// Reads what `peasant jail` prints. Walls that this version does not know are left out.
fn parse(text: &[u8]) -> Option<Report> {
    let told: Value = serde_json::from_slice(text).ok()?;
    let engine = told.get("engine")?.as_str()?;
    let is_word = !engine.is_empty() && engine.len() <= 64 && engine.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let holds = told.get("walls")?.as_array()?.iter().filter_map(|name| Wall::from_name(name.as_str()?)).collect();
    let missing = told.get("missing")?.as_object()?.iter();
    let missing = missing.filter_map(|(name, why)| Some((Wall::from_name(name)?, why.as_str()?.to_owned())));
    is_word.then(|| Report { engine: engine.to_owned(), holds, missing: missing.collect() })
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
        let told =
            br#"{"engine":"a1","missing":{"empty-root":"no \"right\"","moat":"dry"},"walls":["seccomp","drawbridge"]}"#;
        let missing = BTreeMap::from([(Wall::EmptyRoot, "no \"right\"".to_owned())]);
        let engine = "a1".to_owned();
        assert_eq!(parse(told), Some(Report { engine, holds: vec![Wall::Seccomp], missing }));
        for odd in [
            &b""[..],
            b"{}",
            b"[1]",
            br#"{"engine":"a1","walls":1,"missing":{}}"#,
            br#"{"engine":"../a","walls":[],"missing":{}}"#,
        ] {
            assert_eq!(parse(odd), None);
        }
    }

    #[test]
    fn a_wall_that_is_demanded_and_missing_is_named() {
        let missing = BTreeMap::from([(Wall::EmptyRoot, "why".to_owned())]);
        let report = Report { engine: "a1".to_owned(), holds: Wall::BASIC.to_vec(), missing };
        assert!(report.check(RequiredJail::None).is_ok() && report.check(RequiredJail::Basic).is_ok());
        assert!(matches!(report.check(RequiredJail::Full), Err(JailError::Weak { wall: Wall::LandlockFiles, .. })));
        let why = Report { holds: Vec::new(), ..report }.check(RequiredJail::Basic).unwrap_err().to_string();
        assert!(why.starts_with("the jail of peasants lacks not-root, which --require-jail demands: "), "{why}");
    }
}
