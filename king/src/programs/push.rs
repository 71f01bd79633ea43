//! Takes in a program, and keeps it as the newest version of its name.

use std::time::SystemTime;

use bytes::Bytes;
use distwasm_process::clock::time_of_day;
use distwasm_proto::{
    digest::Digest,
    file_type::why_no_program,
    limits::{LISTED_ENTRIES_MAX, PROGRAM_BYTES_MAX, PROGRAM_NAMES_MAX, PROGRAM_VERSIONS_MAX, PUSH_TRIES_MAX},
    program_name::ProgramName,
    text::is_name,
    wire::{ProgramVersion, PushBegin},
};
use distwasm_store::{Batch, Blob, BlobWriter, CommitError, Expected, Key};

use super::{
    Programs, ProgramsError,
    record::{self, Head, Version},
};
use crate::authority::Identity;

/// The bytes of a program that tell what it is.
const LOOKED_AT_BYTES: usize = 4096;

/// What a peer says of the program that it is going to send, checked.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    name: ProgramName,
    /// `None` for the one that the name has.
    project: Option<String>,
    bytes: u64,
    digest: Digest,
}

impl Announced {
    pub(super) fn check(begin: &PushBegin) -> Result<Announced, ProgramsError> {
        if begin.bytes_total > PROGRAM_BYTES_MAX {
            return Err(ProgramsError::TooLarge);
        }
        if !is_name(&begin.project) {
            return Err(ProgramsError::Project);
        }
        let digest = Digest::from_wire(&begin.digest).ok_or(ProgramsError::Nonsense("a digest has 32 bytes"))?;
        let project = Some(begin.project.clone()).filter(|project| !project.is_empty());
        Ok(Announced { name: begin.name.parse()?, project, bytes: begin.bytes_total, digest })
    }
}

/// A program that is coming in. If this is dropped, nothing is kept.
pub(super) struct Push {
    announced: Announced,
    writer: Box<dyn BlobWriter>,
    /// Its first bytes.
    first: Vec<u8>,
}

impl Push {
    pub(super) async fn take(&mut self, piece: Bytes) -> Result<(), ProgramsError> {
        let lacking = LOOKED_AT_BYTES.saturating_sub(self.first.len());
        self.first.extend(piece.iter().take(lacking));
        Ok(self.writer.write(piece).await?)
    }
}

impl Programs {
    /// Looks whether the newest version of the name is this program, and whether the peer may push one.
    pub(super) async fn is_there(
        &self,
        identity: &Identity,
        announced: &Announced,
    ) -> Result<Option<ProgramVersion>, ProgramsError> {
        let head = self.head(&announced.name).await?.map(|(head, _)| head).unwrap_or_default();
        let project = project_of(&head, announced, identity)?;
        let Some(newest) = head.versions.last() else { return Ok(None) };
        let newest = self.version(identity, &announced.name, *newest, project).await?;
        let Some(newest) = newest.filter(|version| version.digest == announced.digest.to_wire()) else {
            return Ok(None);
        };
        // If its bytes are lost or damaged, they are taken once more.
        Ok(self.has_bytes(announced.digest).await?.then_some(newest))
    }

    /// Whether all bytes of a blob are there as they should be.
    async fn has_bytes(&self, digest: Digest) -> Result<bool, ProgramsError> {
        let Ok(mut blob) = self.store()?.read_blob(digest).await else { return Ok(false) };
        loop {
            match blob.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            }
        }
    }

    /// Makes a place for the program.
    pub(super) async fn begin(&self, announced: Announced) -> Result<Push, ProgramsError> {
        let writer = self.store()?.write_blob(announced.bytes).await?;
        Ok(Push { announced, writer, first: Vec::new() })
    }

    /// All of it has come: keeps it. Returns the version, and whether it is new.
    pub(super) async fn finish(
        &self,
        identity: &Identity,
        push: Push,
    ) -> Result<(ProgramVersion, bool), ProgramsError> {
        let Push { announced, writer, first } = push;
        if let Some(why) = why_no_program(whole_characters(&first)) {
            return Err(ProgramsError::NotWasm(why));
        }
        let blob = writer.finish().await?;
        if blob.bytes() < announced.bytes {
            return Err(ProgramsError::BrokenOff);
        }
        if blob.digest() != announced.digest {
            return Err(ProgramsError::Garbled);
        }
        for _ in 0..PUSH_TRIES_MAX {
            match self.keep(identity, &announced, &blob).await {
                // Somebody else has pushed or removed a version meanwhile.
                Err(ProgramsError::Commit(CommitError::Conflict { .. })) => {}
                kept => return kept,
            }
        }
        Err(ProgramsError::Contended(announced.name))
    }

    async fn keep(
        &self,
        identity: &Identity,
        announced: &Announced,
        blob: &Blob,
    ) -> Result<(ProgramVersion, bool), ProgramsError> {
        if let Some(version) = self.is_there(identity, announced).await? {
            return Ok((version, false));
        }
        let name = &announced.name;
        let found = self.head(name).await?;
        let expected = found.as_ref().map_or(Expected::Absent, |(_, entry)| Expected::At(entry.revision));
        let mut batch = Batch::default().hold(blob.clone());
        if found.is_none() {
            batch = self.make_room(batch).await?;
        }
        let mut head = found.map(|(head, _)| head).unwrap_or_default();
        if head.versions.len() >= PROGRAM_VERSIONS_MAX {
            return Err(ProgramsError::TooManyVersions(name.clone()));
        }
        head.project = project_of(&head, announced, identity)?;
        let number = head.last.checked_add(1).ok_or_else(|| ProgramsError::TooManyVersions(name.clone()))?;
        head.last = number;
        head.versions.push(number);
        let since = time_of_day().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let version = Version {
            sha256: blob.digest().to_string(),
            bytes: blob.bytes(),
            pushed_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            pushed_by: match identity {
                Identity::Trusted => String::new(),
                Identity::Token(grant) => grant.id.to_string(),
            },
        };
        let by_digest = record::digest_key(&version.sha256, name, number)?;
        let batch = batch
            .put(record::head_key(name)?, expected, record::render(&head), &[])
            .put(record::version_key(name, number)?, Expected::Absent, record::render(&version), &[blob.digest()])
            .put(by_digest, Expected::Absent, Bytes::new(), &[]);
        self.store()?.commit(batch).await.map_err(ProgramsError::Commit)?;
        Ok((version.to_wire(name, number, head.project)?, true))
    }

    /// Makes sure that there is room for one name more. If there is not, a name without versions is forgotten.
    async fn make_room(&self, batch: Batch) -> Result<Batch, ProgramsError> {
        let store = self.store()?;
        let (mut names, mut empty, mut after) = (0, None, None::<Key>);
        loop {
            let page = store.list(record::NAMES, after.as_ref(), LISTED_ENTRIES_MAX).await?;
            names += page.entries.len();
            if empty.is_none() {
                let mut heads = page.entries.iter().map(|entry| Ok((record::parse::<Head>(entry)?, entry)));
                let found = heads.find(|head: &Result<_, ProgramsError>| {
                    head.as_ref().map_or(true, |(head, _)| head.versions.is_empty())
                });
                empty = found.transpose()?.map(|(_, entry)| (entry.key.clone(), entry.revision));
            }
            match page.entries.last() {
                Some(last) if page.has_more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        match empty {
            _ if names < PROGRAM_NAMES_MAX => Ok(batch),
            Some((key, revision)) => Ok(batch.delete(key, Expected::At(revision))),
            None => Err(ProgramsError::TooManyNames),
        }
    }
}

/// The project of a program that is pushed, if the peer may push programs of that project.
fn project_of(head: &Head, announced: &Announced, identity: &Identity) -> Result<String, ProgramsError> {
    let Announced { name, project: wanted, .. } = announced;
    if head.versions.is_empty() {
        let project = wanted.clone().unwrap_or_else(|| name.to_string());
        identity.check_project(&project).map_err(ProgramsError::Refused)?;
        return Ok(project);
    }
    let project = head.project.clone();
    if !identity.may_see(&project) {
        return Err(ProgramsError::NameTaken(name.clone()));
    }
    match wanted {
        Some(wanted) if *wanted != project => {
            Err(ProgramsError::OtherProject { name: name.clone(), project, wanted: wanted.clone() })
        }
        _ => Ok(project),
    }
}

/// The bytes without the part of a character at their end.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.get(..error.valid_up_to()).unwrap_or(bytes),
        _ => bytes,
    }
}
