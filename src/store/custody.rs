//! What people and schedules do to an archive that another process may serve meanwhile (R10): acts, holds, removals. All of
//! it goes in short transactions, beside live recording, and into the same tree.
//!
//! It knows rows, leaves and pages; who may do what, and why, is for others to say.

mod act;
mod clean;
pub mod delivery;
mod hold;
mod indexing;
mod merge;
mod of_no_chat;
mod remask;
mod removal;
mod undone;
mod words;

use std::cell::OnceCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::Access;

use super::seal;
use super::seal::checkpoint::{self, Standing};
use super::{
    APPLICATION_ID, Error, ErrorKind, FileIdentity, WRITER_PRAGMAS, beside, connect, gives_files_to_the_owner,
    identity, inspect, leaves_files_of_its_own, shadows, wal,
};

pub use act::{Act, Actor, Kind};
pub use clean::Cleaned;
pub use hold::{Asker, Customer, Hold, InForce, Scope};
pub use merge::{Merged, Other};
pub use remask::Remasked;
pub use removal::{Due, How, Outcome, ServicesOf, Target, Waiting};
pub use undone::{Done, Undone};

/// How long the writer of a running `serve` is waited for: its transactions take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same, for a note that is made by the way.
const NOTE_PATIENCE: Duration = Duration::from_secs(2);
/// How long readers are waited for when a log is folded that may as well stay.
const FOLD_PATIENCE: Duration = Duration::from_millis(100);

/// An archive in somebody's custody.
#[derive(Debug)]
pub struct Custody {
    connection: Connection,
    path: PathBuf,
    archive_id: String,
    /// Where the spool is, if there is one.
    spool: PathBuf,
    /// False in an archive of an earlier release.
    has_cores: bool,
    /// Somebody else writes, too.
    is_served: bool,
    file: FileIdentity,
    stop: Arc<AtomicBool>,
    /// The archive's folder, locked while something is removed or masked.
    at_work: OnceCell<File>,
}

impl Custody {
    /// Opens an archive at `path`, which [`super::read::Archive::open`] has found to be one.
    ///
    /// # Errors
    /// As opening goes wrong; the archive is of an earlier release.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_within(path, BUSY_TIMEOUT, |_| Ok(()))
    }

    /// The same, for a note that is made by the way, of somebody who reads: not in a copy, and leaving no file beside the
    /// archive that `serve` could not open. Pair it with [`Custody::close`].
    ///
    /// # Errors
    /// As [`Custody::open`]; [`ErrorKind::ReadOnly`] where this user may not write.
    pub fn open_to_note(path: &Path) -> Result<Self, Error> {
        check_may_write(path)?;
        Self::open_within(path, NOTE_PATIENCE, check_is_no_copy)
    }

    /// `check` sees the file before anything is done to it that is not in the log.
    fn open_within(
        path: &Path,
        patience: Duration,
        check: impl FnOnce(&Connection) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut is_served = inspect::is_served(path).unwrap_or(true);
        if !is_served {
            match wal::make_good(path) {
                Err(error) if error.kind == ErrorKind::Busy => is_served = true, // another command does so just now
                made_good => made_good?,
            }
        }
        let gone = || Error::new(ErrorKind::Missing, format!("{} vanished while it was opened", path.display()));
        let file = identity(path).ok_or_else(gone)?;
        let connection = connect(path)?;
        // Who could not make these files anew does not take them away.
        wal::leave_behind(&connection, is_served || !gives_files_to_the_owner(path))?;
        connection.busy_timeout(patience)?;
        check(&connection)?;
        if let Some(name) = shadows(&connection)?.first() {
            let what = format!(
                "somebody has put a table {name} there, which SQLite asks in the place of its own: nothing is done before that is gone (see \
                 `gms-recorder verify`)"
            );
            return Err(Error::new(ErrorKind::Altered, what));
        }
        connection.execute_batch(WRITER_PRAGMAS)?;
        connection.set_prepared_statement_cache_capacity(128);
        let has_acts = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'acts'")?.exists(())?;
        if !has_acts {
            let what = "this archive is of an earlier release: start `serve` of this one with it once, which brings it up to date";
            return Err(Error::new(ErrorKind::Other, what));
        }
        let archive_id = connection.query_row("SELECT CAST(archive_id AS TEXT) FROM archive", (), |row| row.get(0))?;
        let has_cores = seal::has_cores(&connection)?;
        let (path, spool) = (path.to_owned(), beside(path, "-spool"));
        Ok(Self {
            connection,
            path,
            spool,
            archive_id,
            has_cores,
            is_served,
            file,
            stop: Arc::default(),
            at_work: OnceCell::new(),
        })
    }

    /// Where nobody serves the archive, its log goes into the file: readers would meet one that they may not open.
    ///
    /// # Errors
    /// As writing goes wrong; nothing is lost.
    pub fn settle(&self) -> Result<(), Error> {
        self.check_in_place()?;
        if !self.is_served {
            self.connection.busy_timeout(FOLD_PATIENCE)?;
            wal::fold(&self.connection)?;
        }
        Ok(())
    }

    /// Settles and closes it.
    ///
    /// # Errors
    /// As writing goes wrong; nothing is lost.
    pub fn close(self) -> Result<(), Error> {
        self.settle()?;
        self.connection.close().map_err(|(_, error)| error.into())
    }

    /// With its spool elsewhere than beside it.
    pub fn with_spool(self, spool: PathBuf) -> Self {
        Self { spool, ..self }
    }

    /// What is in the spool is not in the archive yet, and cannot be removed from it.
    ///
    /// # Errors
    /// There is something in it.
    pub fn check_spool(&self) -> Result<(), Error> {
        if super::spool::waiting_bytes(&self.spool) == 0 {
            return Ok(());
        }
        let what = format!(
            "the spool {} has chats that are not in the archive yet, so that not all of one could be removed or masked: `serve` brings them there \
             as soon as it can write to the archive; run this again then",
            self.spool.display()
        );
        Err(Error::new(ErrorKind::Other, what))
    }

    /// Long work ends with an error, between two transactions, once this is set.
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Which archive it is.
    pub fn archive_id(&self) -> &str {
        &self.archive_id
    }

    /// The public keys, the present one last.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn keys(&self) -> Result<Vec<String>, Error> {
        checkpoint::keys(&self.connection)
    }

    /// From now on checkpoints are signed with this one, by the word of the one before. False where `former` is not the present
    /// key (any longer).
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn add_key(&self, former: &str, vkey: &str, at: i64, statement: &str) -> Result<bool, Error> {
        self.check_in_place()?;
        checkpoint::add(&self.connection, vkey, at, Some((former, statement)))
    }

    /// Signs the tree as it stands, and keeps the note. None where `vkey` is not the present key (any longer).
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn checkpoint(
        &self,
        at: i64,
        vkey: &str,
        sign: impl FnOnce(&Standing) -> String,
    ) -> Result<Option<String>, Error> {
        self.check_in_place()?;
        checkpoint::sign(&self.connection, at, vkey, sign)
    }

    /// When the archive was last signed before the present run of a `serve` began, milliseconds since the epoch.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn signed_before_this_run(&self) -> Result<Option<i64>, Error> {
        let sql =
            "SELECT max(at) FROM checkpoints WHERE at < (SELECT started_at FROM runs ORDER BY run_id DESC LIMIT 1)";
        Ok(self.connection.prepare_cached(sql)?.query_row((), |row| row.get(0))?)
    }

    /// When a backup last took the archive's place.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn restored_at(&self) -> Result<Option<i64>, Error> {
        let sql = "SELECT max(at) FROM acts WHERE kind = 'restore'";
        Ok(self.connection.prepare_cached(sql)?.query_row((), |row| row.get(0))?)
    }

    /// One transaction. Both files beside the archive are found by its name: where another file has taken its place they are that
    /// one's, and what is written through them by this connection would destroy it.
    fn change<T>(&self, change: impl FnOnce(&mut seal::Pack) -> Result<T, Error>) -> Result<T, Error> {
        self.check_in_place()?;
        seal::change(&self.connection, None, |pack| {
            pack.has_cores = self.has_cores;
            let changed = change(pack)?;
            self.check_in_place()?;
            Ok(changed)
        })
    }

    /// # Errors
    /// [`ErrorKind::Replaced`].
    fn check_in_place(&self) -> Result<(), Error> {
        if !self.has_moved() {
            return Ok(());
        }
        // Not even the last one to close the log may fold it.
        wal::leave_behind(&self.connection, true)?;
        let what =
            format!("{} was moved or replaced since it was opened: nothing more is written", self.path.display());
        Err(Error::new(ErrorKind::Replaced, what))
    }

    /// Lets the writer of a running `serve` have its turn: it asks for the lock again and again, and so do we.
    /// What comes next is another transaction.
    fn give_way(&self, worked: Duration) -> Result<(), Error> {
        if self.is_served {
            std::thread::sleep(worked.clamp(Duration::from_millis(5), Duration::from_millis(200)));
        }
        self.check_in_place()?;
        match self.stop.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Other, "stopped before it was done: run it again")),
            false => Ok(()),
        }
    }
}

/// SQLite opens a file that may not be written for reading alone.
fn check_may_write(path: &Path) -> Result<(), Error> {
    if rustix::fs::access(path, Access::WRITE_OK).is_err() {
        return Err(Error::new(ErrorKind::ReadOnly, "this user may read the archive and not write to it"));
    }
    if leaves_files_of_its_own(path) {
        let what = "no `serve` runs, and only the archive's owner makes the files beside it that writing needs";
        return Err(Error::new(ErrorKind::ReadOnly, what));
    }
    Ok(())
}

/// Only the archive itself has a write-ahead log.
fn is_copy(connection: &Connection) -> Result<bool, Error> {
    let mode: String = connection.query_row("PRAGMA journal_mode", (), |row| row.get(0))?;
    Ok(mode != "wal")
}

fn check_is_no_copy(connection: &Connection) -> Result<(), Error> {
    let id: i64 = connection.query_row("PRAGMA application_id", (), |row| row.get(0))?;
    if id != APPLICATION_ID {
        wal::leave_behind(connection, true)?; // nothing of it is ours to touch
        return Err(Error::new(ErrorKind::NotAnArchive, "it is no archive of gms-recorder"));
    }
    if !is_copy(connection)? {
        return Ok(());
    }
    let what =
        "this is a copy (`snapshot`), and what is noted in a copy is not in the archive; that the copy was made is";
    Err(Error::new(ErrorKind::Other, what))
}
