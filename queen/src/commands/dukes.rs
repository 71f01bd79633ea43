//! `queen dukes`: shows the dukes of a king, and the jail of their peasants.

use std::fmt::{self, Display};

use clap::Args;
use distwasm_proto::{
    text,
    walls::Wall,
    wire::{DukeInfo, DukeList, ListDukesRequest},
};

use super::ask::{AskError, AskedKing};

/// Lists the dukes of a king: what each offers, and which walls of the jail its machine cannot raise.
#[derive(Args, Debug)]
pub struct DukesOptions {
    /// The king to ask.
    #[command(flatten)]
    pub king: AskedKing,

    /// Print JSON, one line for each duke
    #[arg(long)]
    pub json: bool,
}

/// Asks the king for its dukes.
///
/// # Errors
///
/// When the king does not answer.
pub async fn list(options: &DukesOptions) -> Result<DukeList, AskError> {
    options.king.ask(async |mut king, remote| king.list_dukes(remote.request(ListDukesRequest {})).await).await
}

/// Dukes as a table for people.
pub struct Table<'a>(pub &'a DukeList);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.dukes.is_empty() {
            return writeln!(f, "no dukes");
        }
        writeln!(f, "{:<24} {:>5} {:>10}  {:<20}  JAIL", "HOST", "SLOTS", "MEMORY", "LABELS")?;
        for duke in &self.0.dukes {
            let (host, labels, jail) = (text::line(&duke.hostname), labels(duke), jail(duke));
            let memory = format!("{} MB", duke.ram_bytes >> 20);
            writeln!(f, "{host:<24} {:>5} {memory:>10}  {:<20}  {jail}", duke.cpus, text::line(&labels))?;
        }
        Ok(())
    }
}

fn labels(duke: &DukeInfo) -> String {
    let mut labels: Vec<String> = duke.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort_unstable();
    labels.join(",")
}

/// The jail in a few words: what is missing, of the walls that this version knows.
fn jail(duke: &DukeInfo) -> String {
    let has = |wall: &Wall| duke.walls.iter().any(|name| name == wall.name());
    let missing: Vec<&str> = Wall::all().filter(|wall| !has(wall)).map(Wall::name).collect();
    match (duke.walls.is_empty(), missing.is_empty()) {
        (true, _) => "unknown".to_owned(),
        (false, true) => "full".to_owned(),
        (false, false) => format!("without {}", missing.join(", ")),
    }
}

/// A duke as one line of JSON.
pub fn to_json(duke: &DukeInfo) -> String {
    serde_json::json!({
        "host": duke.hostname,
        "slots": duke.cpus,
        "memory_bytes": duke.ram_bytes,
        "labels": duke.labels,
        "walls": duke.walls,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duke(walls: impl Iterator<Item = Wall>) -> DukeInfo {
        let labels = [("zone", "eu"), ("disk", "fast")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let walls = walls.map(|wall| wall.name().to_owned()).collect();
        DukeInfo { duke: 1, hostname: "a\nb".to_owned(), cpus: 2, ram_bytes: 3 << 30, labels: labels.into(), walls }
    }

    #[test]
    fn a_jail_is_told_by_what_it_lacks() {
        let without = duke(Wall::all().filter(|wall| !matches!(wall, Wall::EmptyRoot | Wall::Seccomp)));
        assert_eq!(jail(&without), "without seccomp, empty-root");
        assert_eq!((jail(&duke(Wall::all())), jail(&duke([].into_iter()))), ("full".into(), "unknown".into()));
    }

    #[test]
    fn each_duke_is_one_line() {
        let list = DukeList { dukes: vec![duke(Wall::all())] };
        let table = Table(&list).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert!(lines[1].contains(" 2    3072 MB  disk=fast,zone=eu ") && lines[1].ends_with("  full"), "{table}");
        assert_eq!(Table(&DukeList::default()).to_string(), "no dukes\n");
    }
}
