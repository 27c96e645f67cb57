//! What a database file is, seen from outside and without changing it: which migrations it has, whether it is served.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::{ArchiveLock, MIGRATIONS};

/// The migrations of this release, by their numbers.
fn known() -> impl Iterator<Item = i64> {
    MIGRATIONS.into_iter().map(|(version, ..)| version)
}

/// The state of a file's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrations {
    /// Applied, of any release.
    pub applied: Vec<i64>,
    /// Known to this release and not applied: the next `serve` applies them.
    pub pending: Vec<i64>,
    /// Applied by a newer release. Migrations only add, so that this release works on them.
    pub newer: Vec<i64>,
}

impl Migrations {
    fn of(applied: Vec<i64>) -> Self {
        let pending = known().filter(|version| !applied.contains(version)).collect();
        let newer = applied.iter().copied().filter(|version| !known().any(|known| known == *version)).collect();
        Self { applied, pending, newer }
    }
}

/// Why a file cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It holds tables, but none of ours.
    #[error("it is a SQLite database, but not an archive of gms-recorder")]
    Foreign,
    /// It cannot be read as a SQLite database.
    #[error("it cannot be read as a SQLite database")]
    Unreadable(#[from] sqlx::Error),
}

/// Which migrations the file at `path` has and lacks. A file that does not exist lacks all.
///
/// # Errors
/// The file is no archive, or cannot be read.
pub async fn pending(path: &Path) -> Result<Migrations, Error> {
    if !path.exists() {
        return Ok(Migrations::of(Vec::new()));
    }
    let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await?;
    let applied = applied(&mut connection).await;
    connection.close().await?;
    applied.map(Migrations::of)
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<i64>, Error> {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'").fetch_all(&mut *connection).await?;
    if tables.is_empty() {
        return Ok(Vec::new()); // made, and nothing in it yet
    }
    if !tables.iter().any(|table| table == "_sqlx_migrations") {
        return Err(Error::Foreign);
    }
    let versions = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";
    Ok(sqlx::query_scalar(versions).fetch_all(connection).await?)
}

/// Whether a `serve` holds the database. Makes no file.
///
/// # Errors
/// The lock file exists and may not be opened.
pub fn is_served(database: &Path) -> io::Result<bool> {
    let lock = match File::open(ArchiveLock::path(database)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // Shared, so that two who look do not take each other for a `serve`; given back when `lock` goes, at once.
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn database(path: &Path, statements: &[&'static str]) {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut connection = options.connect().await.expect("a database");
        for statement in statements {
            sqlx::query(*statement).execute(&mut connection).await.expect(statement);
        }
        connection.close().await.expect("closed");
    }

    #[tokio::test]
    async fn migrations_are_counted_without_touching_the_file() {
        let table = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, success BOOLEAN NOT NULL)";
        let all = MIGRATIONS.map(|(version, ..)| version);
        let rows: [(&[&'static str], &[i64], &[i64]); 4] = [
            (&["PRAGMA user_version = 0"], &all, &[]),
            (&[table], &all, &[]),
            (&[table, "INSERT INTO _sqlx_migrations VALUES (1, 1)"], &all[1..], &[]),
            (&[table, "INSERT INTO _sqlx_migrations VALUES (1, 1), (700, 1), (800, 0)"], &all[1..], &[700]),
        ];
        for (statements, pending_versions, newer) in rows {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("a.db");
            database(&path, statements).await;
            let migrations = pending(&path).await.expect("it can be read");
            assert_eq!((migrations.pending.as_slice(), migrations.newer.as_slice()), (pending_versions, newer));
        }
    }

    #[tokio::test]
    async fn what_is_no_archive_is_said() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let missing = folder.path().join("missing.db");
        assert_eq!(pending(&missing).await.expect("it would be made").pending, known().collect::<Vec<_>>());
        assert!(!missing.exists());

        let foreign = folder.path().join("foreign.db");
        database(&foreign, &["CREATE TABLE theirs (x)"]).await;
        assert!(matches!(pending(&foreign).await, Err(Error::Foreign)));

        let text = folder.path().join("text.db");
        std::fs::write(&text, "no database, but long enough to be taken for one".repeat(100)).expect("a file");
        assert!(matches!(pending(&text).await, Err(Error::Unreadable(_))));
    }

    #[test]
    fn a_lock_is_seen_and_never_made() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        assert!(!is_served(&path).expect("no lock"));
        assert!(!ArchiveLock::path(&path).exists());

        let lock = File::create(ArchiveLock::path(&path)).expect("a lock file");
        assert!(!is_served(&path).expect("nobody holds it"));
        lock.lock().expect("held");
        assert!(is_served(&path).expect("it can be opened"));
        drop(lock);
        assert!(!is_served(&path).expect("given back"));
    }
}
