//! Forgets versions of a program.

use distwasm_proto::{
    limits::PUSH_TRIES_MAX,
    program_name::{ProgramName, ProgramRef},
};
use distwasm_store::{Batch, CommitError, Expected};

use super::{
    Programs, ProgramsError,
    record::{self, Head, Version},
};
use crate::authority::Identity;

/// Versions that are removed together: each takes two changes of a batch.
const TOGETHER: usize = 100;

impl Programs {
    /// Forgets one version of a program, or all that there are. Returns their numbers.
    pub(super) async fn remove(
        &self,
        identity: &Identity,
        name: &ProgramName,
        number: Option<u32>,
    ) -> Result<Vec<u32>, ProgramsError> {
        let (mut removed, mut tries) = (Vec::new(), 0);
        loop {
            let program = match number {
                Some(number) => ProgramRef::Version(name.clone(), number),
                None => ProgramRef::Newest(name.clone()),
            };
            let found = self.head(name).await?.filter(|(head, _)| identity.may_see(&head.project));
            let (head, entry) = match found {
                Some((head, entry)) if !head.versions.is_empty() => (head, entry),
                _ if removed.is_empty() => return Err(ProgramsError::NotFound(program)),
                // All are gone.
                _ => return Ok(removed),
            };
            let wanted: Vec<u32> = match number {
                Some(number) if head.versions.contains(&number) => vec![number],
                Some(_) if removed.is_empty() => {
                    return Err(ProgramsError::NoVersion { program, versions: record::ranges(&head.versions) });
                }
                Some(_) => return Ok(removed),
                None => head.versions.iter().copied().take(TOGETHER).collect(),
            };
            match self.remove_these(name, head, Expected::At(entry.revision), &wanted).await {
                Ok(()) => removed.extend(&wanted),
                Err(ProgramsError::Commit(CommitError::Conflict { .. })) if tries < PUSH_TRIES_MAX => tries += 1,
                Err(ProgramsError::Commit(CommitError::Conflict { .. })) => {
                    return Err(ProgramsError::Contended(name.clone()));
                }
                Err(error) => return Err(error),
            }
            if number.is_some() && !removed.is_empty() {
                return Ok(removed);
            }
        }
    }

    async fn remove_these(
        &self,
        name: &ProgramName,
        mut head: Head,
        expected: Expected,
        numbers: &[u32],
    ) -> Result<(), ProgramsError> {
        let store = self.store()?;
        let mut batch = Batch::default();
        for number in numbers {
            let key = record::version_key(name, *number)?;
            let Some(entry) = store.get(&key).await? else { continue };
            let version: Version = record::parse(&entry)?;
            let by_digest = record::digest_key(&version.sha256, name, *number)?;
            batch = batch.delete(key, Expected::At(entry.revision)).delete(by_digest, Expected::Anything);
        }
        head.versions.retain(|version| !numbers.contains(version));
        if head.versions.is_empty() {
            // The name is free for other projects.
            head.project.clear();
        }
        let batch = batch.put(record::head_key(name)?, expected, record::render(&head), &[]);
        store.commit(batch).await.map_err(ProgramsError::Commit)?;
        Ok(())
    }
}
