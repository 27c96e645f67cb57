//! Puts a copy at an archive's path. Whatever moment the process is killed at, either the old archive is there or the new one,
//! whole, and neither with a log of the other: SQLite would write that into the file. What was there is kept.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{BUSY_TIMEOUT, COMPANIONS, Error, Part, at, folder, sqlite, sync_folder};
use crate::store::{self, ArchiveLock, ErrorKind, beside, wal};

/// Names with the same time are told apart by a number; more within a second are no accident.
const NAMES_MAX: u32 = 100;

/// What became of what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its name now; none where nothing was there.
    pub kept: Option<PathBuf>,
    /// It could not be read: its log was kept beside it, as it was.
    pub was_unreadable: bool,
}

/// Gives a copy the archive's place. What is there gets the name `<path>.before-<stamp>` first, in addition to its own: there
/// is no moment without a file at the path. The caller has the archive's lock, so that no `serve` begins meanwhile.
///
/// # Errors
/// [`Error::InUse`] where a reader has the old file open: it would take away the new one's log when it ends
/// (sqlite.org/howtocorrupt.html, section 2.4); else as the file system. The old archive is at the path then.
pub fn replace(mut part: Part, path: &Path, stamp: &str, _lock: &ArchiveLock) -> Result<Replaced, Error> {
    make_an_archive(part.path())?;
    part.sync()?;
    let kept = path.exists().then(|| free_name(path, stamp)).transpose()?;
    let alone = kept.as_ref().map(|_| Alone::with(path)).transpose()?;
    let was_unreadable = matches!(alone, Some(Alone::Unreadable));
    if let Some(kept) = &kept {
        std::fs::hard_link(path, kept).map_err(at(kept))?;
    }
    own_like(path, &part)?;
    let aside = kept.clone().unwrap_or(free_name(path, stamp)?);
    set_companions_aside(path, &aside)?;
    std::fs::rename(part.path(), path).map_err(at(path))?;
    part.is_named = true;
    sync_folder(path)?;
    drop(alone);
    Ok(Replaced { kept, was_unreadable })
}

/// A copy has no write-ahead log, an archive has one: by that they are told apart.
fn make_an_archive(path: &Path) -> Result<(), Error> {
    let connection = Connection::open(path).map_err(sqlite("the copy"))?;
    let mode = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0));
    mode.map_err(sqlite("the copy"))?;
    connection.close().map_err(|(_, error)| sqlite("the copy")(error))
}

/// Nobody else has the old archive open, nor can until this is dropped, and it is whole without a log.
enum Alone {
    /// Keeps the lock.
    Locked { _connection: Connection },
    /// No database any longer: nobody reads it.
    Unreadable,
}

impl Alone {
    fn with(path: &Path) -> Result<Self, Error> {
        match wal::make_good(path).and_then(|()| Self::lock(path)) {
            Ok(connection) => Ok(Self::Locked { _connection: connection }),
            Err(error) => match error.kind {
                ErrorKind::Busy => Err(Error::InUse(path.to_owned())),
                ErrorKind::Corrupt | ErrorKind::NotAnArchive | ErrorKind::Io => Ok(Self::Unreadable),
                _ => Err(Error::Old { path: path.to_owned(), error }),
            },
        }
    }

    /// Out of WAL mode SQLite lets a file go only where nobody else has it open, and folds its log. Its header is written for that:
    /// with a journal in memory, since a file would be left beside the archive by who is killed then. What changes of the
    /// header is in one sector.
    fn lock(path: &Path) -> Result<Connection, store::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.query_row("PRAGMA journal_mode = MEMORY", (), |row| row.get::<_, String>(0))?;
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        Ok(connection)
    }
}

/// The kept file and its log keep together: it has both names while the log's is changed.
fn set_companions_aside(path: &Path, aside: &Path) -> Result<(), Error> {
    for suffix in COMPANIONS {
        let (from, to) = (beside(path, suffix), beside(aside, suffix));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&from)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn free_name(path: &Path, stamp: &str) -> Result<PathBuf, Error> {
    let names = (1..=NAMES_MAX).map(|number| match number {
        1 => beside(path, &format!(".before-{stamp}")),
        _ => beside(path, &format!(".before-{stamp}-{number}")),
    });
    let is_free = |name: &PathBuf| {
        let is_taken = |suffix: &str| beside(name, suffix).symlink_metadata().is_ok();
        name.symlink_metadata().is_err() && !COMPANIONS.iter().any(|suffix| is_taken(suffix))
    };
    names.into_iter().find(is_free).ok_or_else(|| Error::Exists(beside(path, &format!(".before-{stamp}"))))
}

/// Whoever restores as root does it for the user of `serve`, who has the old file, or the folder.
fn own_like(path: &Path, part: &Part) -> Result<(), Error> {
    let model = if path.exists() { path } else { folder(path) };
    let owner = |of: &Path| of.metadata().map(|found| (found.uid(), found.gid())).map_err(at(of));
    let wanted = owner(model)?;
    for file in [part.path().to_owned(), ArchiveLock::path(path)] {
        if owner(&file)? != wanted {
            chown(&file, Some(wanted.0), Some(wanted.1)).map_err(at(&file))?;
        }
    }
    Ok(())
}
