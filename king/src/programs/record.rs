//! How programs are written down in the store: one entry for each name, and for each version one by its number, which
//! names the blob, and one by its digest.

use bytes::Bytes;
use distwasm_proto::{digest::Digest, program_name::ProgramName, wire::ProgramVersion};
use distwasm_store::{Entry, Key};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::ProgramsError;

/// Where the names are.
pub(super) const NAMES: &str = "program/";
/// Where the versions are, in the order of their numbers.
pub(super) const VERSIONS: &str = "program-version/";
/// Where the versions are found by their digests.
pub(super) const DIGESTS: &str = "program-digest/";

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The project that it belongs to; empty if it has no versions any more.
    pub(super) project: String,
    /// The highest number that a version had. It is kept when all versions are gone, so that no number comes again.
    pub(super) last: u32,
    /// The versions that there are, in order.
    pub(super) versions: Vec<u32>,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) pushed_ms: u64,
    pub(super) pushed_by: String,
}

impl Version {
    pub(super) fn to_wire(
        &self,
        name: &ProgramName,
        number: u32,
        project: String,
    ) -> Result<ProgramVersion, ProgramsError> {
        let digest = Digest::from_hex(&self.sha256).ok_or_else(|| damaged(&format!("{VERSIONS}{name}")))?;
        Ok(ProgramVersion {
            name: name.to_string(),
            version: number,
            project,
            digest: digest.to_wire(),
            bytes: self.bytes,
            pushed_ms: self.pushed_ms,
            pushed_by: self.pushed_by.clone(),
        })
    }
}

/// The key of a name.
pub(super) fn head_key(name: &ProgramName) -> Result<Key, ProgramsError> {
    key(format!("{NAMES}{name}"))
}

/// The key of a version.
pub(super) fn version_key(name: &ProgramName, number: u32) -> Result<Key, ProgramsError> {
    key(format!("{VERSIONS}{name}/{number:010}"))
}

/// The key by which a version is found when its digest is known.
pub(super) fn digest_key(sha256: &str, name: &ProgramName, number: u32) -> Result<Key, ProgramsError> {
    key(format!("{DIGESTS}{sha256}/{name}/{number:010}"))
}

fn key(text: String) -> Result<Key, ProgramsError> {
    Key::new(text).map_err(|error| damaged(&error.0))
}

/// The name and the number in the key of a version.
pub(super) fn of_version_key(entry: &Entry) -> Result<(ProgramName, u32), ProgramsError> {
    let parts = entry.key.as_str().strip_prefix(VERSIONS).and_then(|rest| rest.split_once('/'));
    let parts = parts.and_then(|(name, number)| Some((name.parse().ok()?, number.parse().ok()?)));
    parts.ok_or_else(|| damaged(entry.key.as_str()))
}

/// The digest, the name and the number in the key by which a version is found.
pub(super) fn of_digest_key(entry: &Entry) -> Result<(Digest, ProgramName, u32), ProgramsError> {
    let read = |text: &str| {
        let (digest, rest) = text.strip_prefix(DIGESTS)?.split_once('/')?;
        let (name, number) = rest.split_once('/')?;
        Some((Digest::from_hex(digest)?, name.parse().ok()?, number.parse().ok()?))
    };
    read(entry.key.as_str()).ok_or_else(|| damaged(entry.key.as_str()))
}

/// What is written down in an entry.
pub(super) fn parse<T: DeserializeOwned>(entry: &Entry) -> Result<T, ProgramsError> {
    serde_json::from_slice(&entry.value).map_err(|_| damaged(entry.key.as_str()))
}

/// How something is written down.
pub(super) fn render(record: &impl Serialize) -> Bytes {
    // These records have no maps with keys that are not text, and nothing else that cannot be written.
    serde_json::to_vec(record).unwrap_or_default().into()
}

fn damaged(key: &str) -> ProgramsError {
    ProgramsError::Record { key: key.to_owned() }
}

/// Numbers in order, as people write them: `1-3, 5`.
pub(super) fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let shown = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let name: ProgramName = "a.b-c".parse().unwrap();
        let digest = Digest::of([b"x".as_slice()]);
        let entry = |key| Entry { key, value: Bytes::new(), revision: Default::default() };
        assert_eq!(of_version_key(&entry(version_key(&name, 7).unwrap())).unwrap(), (name.clone(), 7));
        let found = entry(digest_key(&digest.to_string(), &name, u32::MAX).unwrap());
        assert_eq!(of_digest_key(&found).unwrap(), (digest, name.clone(), u32::MAX));
        assert!(of_digest_key(&entry(head_key(&name).unwrap())).is_err());
        assert!(version_key(&name, 9).unwrap() < version_key(&name, 10).unwrap());
        let longest: ProgramName = "n".repeat(64).parse().unwrap();
        assert!(digest_key(&digest.to_string(), &longest, u32::MAX).is_ok());
    }

    #[test]
    fn numbers_in_a_row_are_shown_as_a_range() {
        assert_eq!(ranges(&[1, 2, 3, 5, 7, 8]), "1-3, 5, 7-8");
        assert_eq!((ranges(&[]), ranges(&[4])), (String::new(), "4".to_owned()));
    }
}
