//! `queen programs`: shows the programs that a king keeps, and removes some.

use std::{
    cmp::Reverse,
    fmt::{self, Display},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use distwasm_process::token_flags::TokenFlags;
use distwasm_proto::{
    digest::Digest,
    limits::{KING_PATIENCE, MESSAGE_BYTES_MAX},
    program_name::{ProgramName, ProgramNameError, ProgramRef},
    text,
    wire::{FindProgramRequest, ListProgramsRequest, ProgramVersion, RemoveProgramRequest},
};
use distwasm_transport::{address::Address, link::Remote, service::programs_client::ProgramsClient};
use tonic::transport::Channel;

use super::ask::{AskError, AskedKing};

/// Lists the programs that a king keeps, with their versions, the newest first.
#[derive(Args, Debug)]
#[command(subcommand_negates_reqs = true)]
pub struct ProgramsOptions {
    /// The king to ask
    #[arg(short, long, value_name = "HOST:PORT", required = true, env = "DISTWASM_KING_ADDRESS")]
    pub king_address: Option<Address>,

    /// How the king lets this program in.
    #[command(flatten)]
    pub token: TokenFlags,

    /// Print JSON, one line for each version
    #[arg(long)]
    pub json: bool,

    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<ProgramsCommand>,
}

/// What can be done with the programs that a king keeps.
#[derive(Debug, Subcommand)]
pub enum ProgramsCommand {
    /// Removes versions of programs. Jobs that run them go on; a number never comes again
    Rm(RemoveOptions),
}

impl ProgramsOptions {
    /// The king to ask for all programs; the command line has one unless it names something else to do.
    pub fn king(&self) -> Option<AskedKing> {
        let king_address = self.king_address.clone()?;
        Some(AskedKing { king_address, token: self.token.clone() })
    }
}

/// Programs that are to be removed.
#[derive(Args, Debug)]
pub struct RemoveOptions {
    /// A program with all its versions, or one version of it
    #[arg(value_name = "NAME[:VERSION]", required = true, value_parser = parse_removed)]
    pub programs: Vec<Removed>,

    /// The king that keeps them.
    #[command(flatten)]
    pub king: AskedKing,
}

/// A program, or one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    name: ProgramName,
    /// `None` for all.
    version: Option<u32>,
}

fn parse_removed(text: &str) -> Result<Removed, String> {
    match text.parse().map_err(|error: ProgramNameError| error.to_string())? {
        ProgramRef::Newest(name) => Ok(Removed { name, version: None }),
        ProgramRef::Version(name, version) => Ok(Removed { name, version: Some(version) }),
        ProgramRef::Digest(_) => Err("several names may have this digest: name one of them, as in summer:3".to_owned()),
    }
}

/// The part of a king that keeps programs.
pub(super) fn client(remote: &Remote) -> ProgramsClient<Channel> {
    ProgramsClient::new(remote.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Asks a king for all programs that it shows: by name, the newest version first.
///
/// # Errors
///
/// When the king does not answer, or keeps none.
pub async fn list(king: &AskedKing) -> Result<Vec<ProgramVersion>, AskError> {
    let (mut programs, mut after) = (Vec::new(), String::new());
    loop {
        let request = ListProgramsRequest { after };
        let asked = async |remote: Remote| client(&remote).list_programs(remote.request(request)).await;
        let part = king.ask_within(KING_PATIENCE, asked).await?;
        programs.extend(part.programs);
        after = part.next;
        if after.is_empty() {
            break;
        }
    }
    programs.sort_by(|one, other| (&one.name, Reverse(one.version)).cmp(&(&other.name, Reverse(other.version))));
    Ok(programs)
}

/// Asks a king for one version of a program.
///
/// # Errors
///
/// When the king does not answer, or has no such program for this peer.
pub async fn find(king: &AskedKing, program: &ProgramRef) -> Result<ProgramVersion, AskError> {
    let request = FindProgramRequest { program: program.to_string() };
    let asked = async |remote: Remote| client(&remote).find_program(remote.request(request)).await;
    king.ask_within(KING_PATIENCE, asked).await
}

/// Removes a program, or a version of it; returns a sentence about that.
///
/// # Errors
///
/// When the king does not answer, or has no such program for this peer.
pub async fn remove(king: &AskedKing, removed: &Removed) -> Result<String, AskError> {
    let Removed { name, version } = removed;
    let request = RemoveProgramRequest { name: name.to_string(), version: version.unwrap_or(0) };
    let asked = async |remote: Remote| client(&remote).remove_program(remote.request(request)).await;
    let versions = king.ask_within(KING_PATIENCE, asked).await?.versions;
    let named: Vec<String> = versions.iter().map(|version| format!("{name}:{version}")).collect();
    Ok(format!("removed {}", named.join(", ")))
}

/// Programs as a table for people.
pub struct Table<'a>(pub &'a [ProgramVersion]);

/// The digits of a digest that are shown: enough to name it.
const DIGITS_SHOWN: usize = 12;

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return writeln!(f, "no programs");
        }
        writeln!(f, "{:<24} {:<16} {:>12}  {:<20}  SHA256", "PROGRAM", "PROJECT", "BYTES", "PUSHED")?;
        for program in self.0 {
            let named = format!("{}:{}", text::line(&program.name), program.version);
            let (project, bytes, pushed) = (text::line(&program.project), program.bytes, pushed(program));
            let mut digest = sha256(program);
            digest.truncate(DIGITS_SHOWN);
            writeln!(f, "{named:<24} {project:<16} {bytes:>12}  {pushed:<20}  {digest}")?;
        }
        Ok(())
    }
}

fn sha256(program: &ProgramVersion) -> String {
    Digest::from_wire(&program.digest).map(|digest| digest.to_string()).unwrap_or_default()
}

/// When it was pushed, such as 2026-01-31T12:00:00Z.
fn pushed(program: &ProgramVersion) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(program.pushed_ms));
    // A king may say any number, and not all of them are years with four digits.
    let shown = time.filter(|_| program.pushed_ms < YEAR_10000_MS).map(humantime::format_rfc3339_seconds);
    shown.map(|time| time.to_string()).unwrap_or_default()
}

const YEAR_10000_MS: u64 = 253_402_300_800_000;

/// A version as one line of JSON.
pub fn to_json(program: &ProgramVersion) -> String {
    serde_json::json!({
        "name": program.name,
        "version": program.version,
        "project": program.project,
        "bytes": program.bytes,
        "sha256": sha256(program),
        "pushed": pushed(program),
        "pushed_by": program.pushed_by,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_one_line() {
        let digest = Digest::of([b"x".as_slice()]);
        let mut program = ProgramVersion {
            name: "summer".to_owned(),
            version: 3,
            project: "a\nb".to_owned(),
            digest: digest.to_wire(),
            bytes: 123,
            pushed_ms: 1_769_860_800_000,
            pushed_by: String::new(),
        };
        let table = Table(&[program.clone()]).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        let expected = format!("a\\nb                      123  2026-01-31T12:00:00Z  {}", &digest.to_string()[..12]);
        assert!(lines[1].starts_with("summer:3  ") && lines[1].ends_with(&expected), "{table}");
        assert!(to_json(&program).contains(&format!("\"sha256\":\"{digest}\"")));
        program.pushed_ms = u64::MAX;
        assert_eq!(pushed(&program), "");
        assert_eq!(Table(&[]).to_string(), "no programs\n");
    }

    #[test]
    fn what_is_removed_has_a_name() {
        let named = |text| parse_removed(text).map(|removed| (removed.name.to_string(), removed.version));
        assert_eq!(named("summer"), Ok(("summer".to_owned(), None)));
        assert_eq!(named("summer@2"), Ok(("summer".to_owned(), Some(2))));
        assert!(named("sha256:01234567").unwrap_err().contains("name one of them"));
        assert!(named("Summer").unwrap_err().contains("is not the name of a program"));
    }
}
