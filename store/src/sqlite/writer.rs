//! The one thread that writes: commits the batches that have gathered together, and removes blobs that nothing names.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use distwasm_proto::{digest::Digest, limits::BATCHES_TOGETHER_MAX};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::apply::{self, Applied, Stop};
use crate::{Batch, CommitError, Revision, StorageError, backup::Snapshot, blobs::Blobs, watch::Hub};

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Makes the changes of a batch.
    Commit(Batch, oneshot::Sender<Result<Revision, CommitError>>),
    /// Makes a copy of the database as it is now, and pins all blobs that it names.
    Snapshot(oneshot::Sender<Result<Snapshot, StorageError>>),
    /// Removes blobs that nobody wants any more.
    Collect,
}

/// What becomes of one batch among those that are written together.
type Outcome = Result<(Revision, Applied), CommitError>;

/// The writer of a store.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    blobs: Arc<Blobs>,
    hub: Arc<Hub>,
    last: Revision,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        path: PathBuf,
        blobs: Arc<Blobs>,
        hub: Arc<Hub>,
    ) -> Result<Writer, StorageError> {
        let last = connection.query_row("SELECT revision FROM last", [], |row| row.get::<_, i64>(0));
        let last = last.map_err(|error| StorageError::of_sql("read", &path, error))?;
        Ok(Writer { connection, path, blobs, hub, last: Revision(u64::try_from(last).unwrap_or(0)) })
    }

    /// Writes until the store is dropped.
    pub(super) fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.blocking_recv() {
            let mut gathered = vec![order];
            while gathered.len() < BATCHES_TOGETHER_MAX
                && let Ok(order) = orders.try_recv()
            {
                gathered.push(order);
            }
            let (mut commits, mut snapshots) = (Vec::new(), Vec::new());
            for order in gathered {
                match order {
                    Order::Commit(batch, answer) => commits.push((batch, answer)),
                    Order::Snapshot(answer) => snapshots.push(answer),
                    Order::Collect => {}
                }
            }
            self.commit_all(commits);
            for answer in snapshots {
                // Whoever asked may have gone; then the copy is removed.
                let _there = answer.send(self.snapshot());
            }
        }
        // The log goes into the database, so that a folder that is copied now is whole with fewer files.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            warn!(path = %self.path.display(), %error, "the log of the database stays; the next start reads it");
        }
    }

    fn commit_all(&mut self, commits: Vec<(Batch, oneshot::Sender<Result<Revision, CommitError>>)>) {
        let (batches, answers): (Vec<Batch>, Vec<_>) = commits.into_iter().unzip();
        let outcomes = match self.write(&batches) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let error = StorageError::of_sql("write", &self.path, error);
                batches.iter().map(|_| Err(error.clone().into())).collect()
            }
        };
        let mut unnamed: BTreeSet<Digest> = BTreeSet::new();
        for (outcome, answer) in outcomes.into_iter().zip(answers) {
            // The caller may have gone.
            let _there = match outcome {
                Ok((revision, applied)) => {
                    self.last = self.last.max(revision);
                    unnamed.extend(applied.released);
                    applied.changes.into_iter().for_each(|changed| self.hub.tell(changed));
                    answer.send(Ok(revision))
                }
                Err(error) => answer.send(Err(error)),
            };
        }
        // Blobs that the batches held, and that they name or not.
        drop(batches);
        unnamed.extend(self.blobs.take_loose());
        self.collect(&unnamed);
    }

    /// Writes batches in one transaction. Those that do not fit what is there are left out.
    fn write(&mut self, batches: &[Batch]) -> rusqlite::Result<Vec<Outcome>> {
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut outcomes, mut last) = (Vec::with_capacity(batches.len()), self.last);
        for batch in batches {
            let next = Revision(last.0 + 1);
            let savepoint = transaction.savepoint()?;
            match apply::apply(&savepoint, batch, next) {
                Ok(applied) => {
                    savepoint.commit()?;
                    last = next;
                    outcomes.push(Ok((next, applied)));
                }
                // Dropped, a savepoint undoes what was done since.
                Err(Stop::Refused(error)) => outcomes.push(Err(error)),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        if last > self.last {
            transaction.execute("UPDATE last SET revision = ?1", [i64::try_from(last.0).unwrap_or(i64::MAX)])?;
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Copies the database while nothing is written, which takes a moment for each hundred thousand entries.
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let failed = |error| StorageError::of_sql("copy", &self.path, error);
        let mut query = self.connection.prepare("SELECT digest, bytes FROM blobs ORDER BY digest").map_err(failed)?;
        let named = query.query_map([], |row| {
            let bytes = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            Ok(self.blobs.pin(Digest::from(row.get::<_, [u8; 32]>(0)?), bytes))
        });
        let held = named.and_then(Iterator::collect).map_err(failed)?;
        let snapshot = Snapshot { database: self.blobs.unfinished_path(), held };
        let path = snapshot.database.to_string_lossy();
        self.connection.execute("VACUUM INTO ?1", [&*path]).map_err(failed)?;
        Ok(snapshot)
    }

    /// Removes those of these blobs that no entry names: a later batch may name one that an earlier one has released.
    fn collect(&self, unnamed: &BTreeSet<Digest>) {
        for digest in unnamed {
            let named = apply::named_query(&self.connection).and_then(|mut query| query.exists([digest.as_bytes()]));
            match named {
                Ok(true) => {}
                Ok(false) => self.blobs.remove(*digest),
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "a blob may be left; the next start removes it");
                }
            }
        }
    }
}
