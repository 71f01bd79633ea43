//! The schema of the database, and how an older one becomes that of today.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::{OpenError, StorageError};

/// What SQLite files of a store say that they are: `dwst`.
const APPLICATION: i64 = 0x6477_7374;

/// What each version of the schema adds to the one before. The first one makes it. Never change one that was released.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE entries (
        key TEXT NOT NULL PRIMARY KEY,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE blobs (
        digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
        bytes INTEGER NOT NULL,
        named INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE names (
        key TEXT NOT NULL REFERENCES entries (key),
        digest BLOB NOT NULL REFERENCES blobs (digest),
        PRIMARY KEY (key, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE last (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL
    ) STRICT;
    INSERT INTO last VALUES (1, 0);
"];

/// The version of the schema that this program reads and writes.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Refuses a database that is not that of a store.
pub(crate) fn check_owner(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let application = number(connection, path, "SELECT application_id FROM pragma_application_id")?;
    let tables = number(connection, path, "SELECT count(*) FROM sqlite_schema")?;
    let is_new = tables == 0 && application == 0;
    if application == APPLICATION || is_new { Ok(()) } else { Err(OpenError::Foreign { path: path.to_owned() }) }
}

/// The version of the schema that a database has; 0 if it is empty.
pub(crate) fn version(connection: &Connection, path: &Path) -> Result<i64, StorageError> {
    number(connection, path, "SELECT user_version FROM pragma_user_version")
}

/// Brings a database to the schema of today, each step whole or not at all.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    migrate_by(&MIGRATIONS, connection, path)
}

fn migrate_by(migrations: &[&str], connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |error| StorageError::of_sql("bring to the schema of this version", path, error);
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let found = version(connection, path)?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for (version, migration) in (1..).zip(migrations).skip(usize::try_from(found).unwrap_or(0)) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let stamp = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {version};");
        transaction.execute_batch(migration).and_then(|()| transaction.execute_batch(&stamp)).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

fn number(connection: &Connection, path: &Path, query: &str) -> Result<i64, StorageError> {
    let found = connection.query_row(query, [], |row| row.get(0));
    found.map_err(|error| StorageError::of_sql("read", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_schema_is_brought_to_the_newest_and_keeps_what_it_has() {
        let path = Path::new("store.db");
        let mut database = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE a (x); INSERT INTO a VALUES (7);", "ALTER TABLE a ADD y DEFAULT 8;"];
        migrate_by(&steps[..1], &mut database, path).unwrap();
        assert_eq!(version(&database, path).unwrap(), 1);
        migrate_by(&steps, &mut database, path).unwrap();
        migrate_by(&steps, &mut database, path).unwrap();
        let sum: i64 = database.query_row("SELECT x + y FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!((sum, version(&database, path).unwrap()), (15, 2));
        check_owner(&database, path).unwrap();
        let newer = migrate_by(&steps[..1], &mut database, path).unwrap_err();
        assert!(matches!(newer, OpenError::Newer { found: 2, known: 1, .. }), "{newer}");
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let path = Path::new("store.db");
        let mut database = Connection::open_in_memory().unwrap();
        assert!(migrate_by(&["CREATE TABLE a (x); CREATE TABLE a (x);"], &mut database, path).is_err());
        assert_eq!(version(&database, path).unwrap(), 0);
        assert_eq!(number(&database, path, "SELECT count(*) FROM sqlite_schema").unwrap(), 0);
    }

    #[test]
    fn the_database_of_another_program_is_refused() {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(check_owner(&database, Path::new("x")), Err(OpenError::Foreign { .. })));
    }
}
