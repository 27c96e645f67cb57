//! The write-ahead log: what a failed sync may have done to it, and bringing it into the file.
//!
//! After a sync that failed, Linux holds the pages for clean: they are read from memory as they were written, but the disk
//! never had them, and no later sync brings them there ("fsyncgate"). A log may so have a hole that only a power cut shows.
//! SQLite counts on nothing of a commit that failed, but frames behind the hole are lost with it, and a checkpoint that the
//! power cuts short leaves the file half written with nothing to repair it by. Hence: nobody folds a log into the file that
//! was left behind until it was written anew.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use super::{APPLICATION_ID, Error, ErrorKind, beside, connect};

/// How much is read and written at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Where a log was left behind: writes its bytes over themselves, syncs them, and folds them into the file. Before anything
/// else opens an archive, since whoever closes it last folds the log, too.
///
/// # Errors
/// As writing goes wrong. What is no archive of ours is left as it is, without an error.
pub(super) fn make_good(path: &Path) -> Result<(), Error> {
    let log = beside(path, "-wal");
    if std::fs::metadata(&log).map_or(0, |metadata| metadata.len()) == 0 {
        return Ok(());
    }
    let mut connection = connect(path)?;
    leave_behind(&connection, true)?;
    let id: i64 = connection.query_row("PRAGMA application_id", (), |row| row.get(0))?;
    if id != APPLICATION_ID {
        return Ok(());
    }
    // Nobody else may write meanwhile: neither frames nor, after a checkpoint, the log from its start.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let written = OpenOptions::new().read(true).write(true).open(&log).and_then(|log| write_over(&log));
    written.map_err(|error| {
        let message = format!("{} could not be written anew: {error}", log.display());
        Error::new(ErrorKind::Io, message)
    })?;
    transaction.rollback()?;
    fold(&connection)?;
    Ok(())
}

fn write_over(file: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut place = 0;
    loop {
        let length = file.read_at(&mut piece, place)?;
        if length == 0 {
            return file.sync_data();
        }
        file.write_all_at(&piece[..length], place)?;
        place += length as u64;
    }
}

/// Brings what the log holds into the file, synced, and empties it. False where a reader is in the way, for as long as the
/// connection waits.
pub(super) fn fold(connection: &Connection) -> Result<bool, Error> {
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
    Ok(busy == 0)
}

/// The same, waiting for nobody. `patience`: how long the connection waits for others, otherwise.
pub(super) fn fold_at_once(connection: &Connection, patience: Duration) -> Result<bool, Error> {
    connection.busy_timeout(Duration::ZERO)?;
    // Most of it without the lock that a writer needs.
    let folded = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()))
        .map_err(Error::from)
        .and_then(|()| fold(connection));
    connection.busy_timeout(patience)?;
    folded
}

/// Whether the log stays where it is when the connection is closed, or is folded as SQLite does.
pub(super) fn leave_behind(connection: &Connection, stays: bool) -> Result<(), Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, stays)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive whose log was left behind, with one row in it.
    fn left_behind(folder: &Path, application_id: i64) -> std::path::PathBuf {
        let path = folder.join("a.db");
        let connection = Connection::open(&path).expect("the folder is ours");
        leave_behind(&connection, true).expect("this SQLite can");
        let sql = format!(
            "PRAGMA journal_mode = WAL; PRAGMA application_id = {application_id}; CREATE TABLE t (x); INSERT INTO t VALUES (7);"
        );
        connection.execute_batch(&sql).expect("sound SQL");
        path
    }

    #[test]
    fn a_log_that_was_left_behind_comes_into_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = left_behind(folder.path(), APPLICATION_ID);
        assert!(std::fs::metadata(beside(&path, "-wal")).expect("it is there").len() > 0);
        make_good(&path).expect("the disk is sound");
        assert_eq!(std::fs::metadata(beside(&path, "-wal")).map_or(0, |log| log.len()), 0);
        let found: i64 = Connection::open(&path)
            .and_then(|connection| connection.query_row("SELECT x FROM t", (), |row| row.get(0)))
            .expect("it is in the file");
        assert_eq!(found, 7);
    }

    #[test]
    fn another_programs_log_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = left_behind(folder.path(), 1);
        let log = beside(&path, "-wal");
        let before = std::fs::read(&log).expect("it is there");
        make_good(&path).expect("it is passed over");
        assert_eq!(std::fs::read(&log).expect("it is still there"), before);
    }

    /// A writer has the lock: nothing is written over that could change meanwhile.
    #[test]
    fn a_log_that_is_written_to_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = left_behind(folder.path(), APPLICATION_ID);
        let writer = Connection::open(&path).expect("it is there");
        writer.execute_batch("BEGIN IMMEDIATE").expect("nobody else writes");
        assert_eq!(make_good(&path).expect_err("locked").kind, ErrorKind::Busy);
        writer.execute_batch("COMMIT").expect("it is ours");
        make_good(&path).expect("it is free");
    }
}
