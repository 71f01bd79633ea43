//! Makes the changes of one batch within a transaction, and counts which blobs entries name.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_proto::digest::Digest;
use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::{
    Batch, Changed, CommitError, Expected, Key, Revision,
    batch::{Change, What},
};

/// What a batch has changed.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) changes: Vec<Changed>,
    /// Blobs that no entry names any more.
    pub(super) released: BTreeSet<Digest>,
}

/// Why a batch is not made: it does not fit what is there, or the database fails.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(CommitError),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Failed(error)
    }
}

/// Whether an entry names a blob.
pub(super) fn named_query(connection: &Connection) -> rusqlite::Result<Statement<'_>> {
    connection.prepare("SELECT 1 FROM blobs WHERE digest = ?1")
}

/// Makes all changes of a batch, with this revision. If it stops, what it has done is to be undone.
pub(super) fn apply(connection: &Connection, batch: &Batch, revision: Revision) -> Result<Applied, Stop> {
    let held: BTreeMap<Digest, u64> = batch.holds.iter().map(|blob| (blob.digest(), blob.bytes())).collect();
    let mut applied = Applied::default();
    for Change { key, expected, what } in &batch.changes {
        let found = revision_of(connection, key)?;
        let is_expected = match expected {
            Expected::Anything => true,
            Expected::Absent => found.is_none(),
            Expected::At(revision) => found == Some(*revision),
        };
        if !is_expected {
            return Err(Stop::Refused(CommitError::Conflict { key: key.clone(), found }));
        }
        let exists = match what {
            What::Nothing => continue,
            What::Delete if found.is_none() => continue,
            What::Delete => {
                name_blobs(connection, key, &[], &held, &mut applied.released)?;
                connection.execute("DELETE FROM entries WHERE key = ?1", [key.as_str()])?;
                false
            }
            What::Put { value, blobs } => {
                let number = i64::try_from(revision.0).unwrap_or(i64::MAX);
                connection.execute(
                    "INSERT INTO entries VALUES (?1, ?2, ?3) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
                    params![key.as_str(), &value[..], number],
                )?;
                name_blobs(connection, key, blobs, &held, &mut applied.released)?;
                true
            }
        };
        applied.changes.push(Changed { key: key.clone(), revision, exists });
    }
    forget_unnamed(connection, &mut applied.released)?;
    Ok(applied)
}

fn revision_of(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Revision>> {
    let mut query = connection.prepare("SELECT revision FROM entries WHERE key = ?1")?;
    let found: Option<i64> = query.query_row([key.as_str()], |row| row.get(0)).optional()?;
    Ok(found.and_then(|revision| u64::try_from(revision).ok()).map(Revision))
}

/// Has an entry name these blobs, and no others.
fn name_blobs(
    connection: &Connection,
    key: &Key,
    blobs: &[Digest],
    held: &BTreeMap<Digest, u64>,
    released: &mut BTreeSet<Digest>,
) -> Result<(), Stop> {
    let named = names_of(connection, key)?;
    let wanted: BTreeSet<Digest> = blobs.iter().copied().collect();
    for digest in wanted.difference(&named) {
        let counted =
            connection.execute("UPDATE blobs SET named = named + 1 WHERE digest = ?1", [digest.as_bytes()])?;
        if counted == 0 {
            let bytes = held
                .get(digest)
                .ok_or_else(|| Stop::Refused(CommitError::NoBlob { key: key.clone(), digest: *digest }))?;
            let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
            connection.execute("INSERT INTO blobs VALUES (?1, ?2, 1)", params![digest.as_bytes(), bytes])?;
        }
        connection.execute("INSERT INTO names VALUES (?1, ?2)", params![key.as_str(), digest.as_bytes()])?;
    }
    for digest in named.difference(&wanted) {
        let name = params![key.as_str(), digest.as_bytes()];
        connection.execute("DELETE FROM names WHERE key = ?1 AND digest = ?2", name)?;
        connection.execute("UPDATE blobs SET named = named - 1 WHERE digest = ?1", [digest.as_bytes()])?;
        released.insert(*digest);
    }
    Ok(())
}

fn names_of(connection: &Connection, key: &Key) -> rusqlite::Result<BTreeSet<Digest>> {
    let mut query = connection.prepare("SELECT digest FROM names WHERE key = ?1")?;
    let digests = query.query_map([key.as_str()], |row| row.get::<_, [u8; 32]>(0))?;
    digests.map(|digest| digest.map(Digest::from)).collect()
}

/// Forgets those of these blobs that no entry names, and leaves only them.
fn forget_unnamed(connection: &Connection, released: &mut BTreeSet<Digest>) -> rusqlite::Result<()> {
    let mut forgotten = BTreeSet::new();
    for digest in &*released {
        let rows = connection.execute("DELETE FROM blobs WHERE digest = ?1 AND named = 0", [digest.as_bytes()])?;
        if rows > 0 {
            forgotten.insert(*digest);
        }
    }
    *released = forgotten;
    Ok(())
}
