//! The programs that the king keeps by name, with versions: in its store, beside the scheduler, which knows nothing of them.
//!
//! A name belongs to a project. Peers that may have jobs of the project may push, pull, run and remove its programs
//! ([`Identity::may_see`]); what else a peer may do is decided by its role before (`authority/`).

mod error;
mod push;
mod record;
mod remove;
mod rpc;
mod turns;

use std::{collections::HashMap, sync::Arc};

use distwasm_proto::{
    digest::Digest,
    limits::LISTED_ENTRIES_MAX,
    program_name::{ProgramName, ProgramRef},
    wire::{ProgramList, ProgramVersion},
};
use distwasm_store::{Backup, BlobReader, Entry, Key, Store};

pub use error::ProgramsError;
pub(crate) use rpc::{Methods, PIECES_WAITING};

use crate::authority::Identity;
use record::{Head, Version};

/// The programs of a king. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// `None` for a king that remembers nothing.
    store: Option<Arc<dyn Store>>,
}

impl Programs {
    /// No programs, and no place for any.
    pub fn none() -> Programs {
        Programs::default()
    }

    /// Those in a store.
    pub fn in_store(store: Arc<dyn Store>) -> Programs {
        Programs { store: Some(store) }
    }

    fn store(&self) -> Result<&dyn Store, ProgramsError> {
        self.store.as_deref().ok_or(ProgramsError::NoStore)
    }

    /// Begins a backup of the store that they are in.
    pub(crate) async fn back_up(&self) -> Result<Backup, ProgramsError> {
        Ok(self.store()?.back_up().await?)
    }

    /// A part of the programs that this peer may see, and what to name to get the next one.
    async fn list(&self, identity: &Identity, after: &str) -> Result<ProgramList, ProgramsError> {
        let store = self.store()?;
        let after = match after {
            "" => None,
            after => {
                Some(Key::new(after).map_err(|_| ProgramsError::Nonsense("a list begins after what `next` said"))?)
            }
        };
        let page = store.list(record::VERSIONS, after.as_ref(), LISTED_ENTRIES_MAX).await?;
        // The versions of a name stand together.
        let mut projects: HashMap<ProgramName, Option<String>> = HashMap::new();
        let mut list = ProgramList::default();
        for entry in &page.entries {
            let (name, number) = record::of_version_key(entry)?;
            let project = match projects.get(&name) {
                Some(project) => project.clone(),
                None => {
                    // It may have been removed a moment ago.
                    let project = self.head(&name).await?.map(|(head, _)| head.project);
                    projects.insert(name.clone(), project.clone());
                    project
                }
            };
            if let Some(project) = project.filter(|project| identity.may_see(project)) {
                list.programs.push(record::parse::<Version>(entry)?.to_wire(&name, number, project)?);
            }
        }
        if let (true, Some(last)) = (page.has_more, page.entries.last()) {
            list.next = last.key.to_string();
        }
        Ok(list)
    }

    /// What a peer means by this. What it may not see is not there for it.
    ///
    /// # Errors
    ///
    /// When there is no such program, or several begin with these digits.
    pub async fn find(&self, identity: &Identity, program: &ProgramRef) -> Result<ProgramVersion, ProgramsError> {
        let none = || ProgramsError::NotFound(program.clone());
        match program {
            ProgramRef::Newest(name) => {
                let (head, _) = self.head(name).await?.ok_or_else(none)?;
                let newest = head.versions.last().ok_or_else(none)?;
                self.version(identity, name, *newest, head.project).await?.ok_or_else(none)
            }
            ProgramRef::Version(name, number) => {
                let (head, _) = self.head(name).await?.ok_or_else(none)?;
                let found = self.version(identity, name, *number, head.project).await?;
                found.ok_or_else(|| match head.versions.as_slice() {
                    [] => none(),
                    versions => {
                        ProgramsError::NoVersion { program: program.clone(), versions: record::ranges(versions) }
                    }
                })
            }
            ProgramRef::Digest(digits) => self.find_by_digest(identity, digits).await?.ok_or_else(none),
        }
    }

    async fn find_by_digest(&self, identity: &Identity, digits: &str) -> Result<Option<ProgramVersion>, ProgramsError> {
        let store = self.store()?;
        let (prefix, mut after) = (format!("{}{digits}", record::DIGESTS), None);
        let mut found: Option<ProgramVersion> = None;
        loop {
            let page = store.list(&prefix, after.as_ref(), LISTED_ENTRIES_MAX).await?;
            for entry in &page.entries {
                let (digest, name, number) = record::of_digest_key(entry)?;
                if found.as_ref().is_some_and(|found| found.digest == digest.to_wire()) {
                    continue;
                }
                let Some((head, _)) = self.head(&name).await? else { continue };
                let Some(version) = self.version(identity, &name, number, head.project).await? else { continue };
                if found.is_some() {
                    return Err(ProgramsError::Ambiguous(digits.to_owned()));
                }
                found = Some(version);
            }
            match page.entries.last() {
                Some(last) if page.has_more => after = Some(last.key.clone()),
                _ => return Ok(found),
            }
        }
    }

    /// One version, if it is there and the peer may see it.
    async fn version(
        &self,
        identity: &Identity,
        name: &ProgramName,
        number: u32,
        project: String,
    ) -> Result<Option<ProgramVersion>, ProgramsError> {
        if !identity.may_see(&project) {
            return Ok(None);
        }
        let entry = self.store()?.get(&record::version_key(name, number)?).await?;
        entry.map(|entry| record::parse::<Version>(&entry)?.to_wire(name, number, project)).transpose()
    }

    /// What is known of a name, and its entry.
    async fn head(&self, name: &ProgramName) -> Result<Option<(Head, Entry)>, ProgramsError> {
        let entry = self.store()?.get(&record::head_key(name)?).await?;
        entry.map(|entry| Ok((record::parse(&entry)?, entry))).transpose()
    }

    /// Begins to read a program that a peer may run.
    ///
    /// # Errors
    ///
    /// When the king does not keep it, or the peer may not run it.
    pub async fn open(&self, identity: &Identity, digest: Digest) -> Result<Box<dyn BlobReader>, ProgramsError> {
        self.find(identity, &ProgramRef::of_digest(digest)).await?;
        Ok(self.store()?.read_blob(digest).await?)
    }
}

#[cfg(test)]
mod tests;
