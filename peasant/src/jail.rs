//! `peasant jail`: says which walls hold on this machine and which engine it has, and rehearses escapes.

#[cfg(target_os = "linux")]
mod attempts;

use std::io::{self, Write};
use std::path::PathBuf;

use distwasm_proto::walls::Wall;
use serde_json::json;

use crate::engine::{self, Kind};
use crate::enter_to_compile;
use crate::guest::{Grants, SharedDir};
use crate::options::{CompileLimits, Inmate};
use crate::sandbox::{self, Jail};

/// Enters the jail as this inmate does, and prints which walls hold and why others do not. Then tries what `attempt`
/// says, if anything: what to do, and where.
pub fn show(of: Inmate, share: Option<PathBuf>, attempt: &[String]) -> io::Result<()> {
    let mut grants = Grants::default();
    grants.dirs.extend(share.map(|path| SharedDir::new(path, ".".to_owned())));
    grants.open_dirs().map_err(|failure| io::Error::other(failure.message))?;
    let engine = engine::plain(Kind::default()).map_err(|error| io::Error::other(format!("{error:#}")))?;
    let open = grants.open_folders();
    let mut jail = match of {
        Inmate::Peasant => Jail::enter(&open),
        Inmate::Compiler => enter_to_compile(&open, CompileLimits::default())?,
    };
    if let Some(share) = open.shares.first() {
        rustix::process::fchdir(share)?;
    }
    // Without a required wall this cannot fail.
    let _locked = jail.lock(grants.needs(), &[]);
    if matches!(of, Inmate::Peasant) {
        sandbox::limit_files()?;
    }
    writeln!(io::stdout(), "{}", to_json(&jail, &engine::fingerprint(&engine)))?;
    let Some(what) = attempt.first() else { return Ok(()) };
    let place = attempt.get(1).map_or("", |place| place);
    match attempts::attempt(what, place) {
        Ok(()) => writeln!(io::stdout(), "{what}: done"),
        Err(error) => writeln!(io::stdout(), "{what}: refused: {error}"),
    }
}

/// Other systems have no walls that could be tried.
#[cfg(not(target_os = "linux"))]
mod attempts {
    pub fn attempt(_what: &str, _place: &str) -> std::io::Result<()> {
        Ok(())
    }
}

fn to_json(jail: &Jail, engine: &str) -> serde_json::Value {
    let names: Vec<&str> = jail.holds.iter().copied().map(Wall::name).collect();
    let missing = jail.missing.iter().map(|(wall, why)| (wall.name().to_owned(), why.as_str().into()));
    json!({ "engine": engine, "walls": names, "missing": serde_json::Value::Object(missing.collect()) })
}
