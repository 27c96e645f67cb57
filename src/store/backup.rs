//! Copies of a whole archive, page by page: a backup of one that may be written to meanwhile, and a backup put back in its
//! place. Both are made under a name of their own, synced, and named only once they are whole.
//!
//! It knows pages, files and names. Whether what was copied is as it was sealed is for others to say, before it is named.

mod replace;

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::beside;
use super::read::snapshot::{folder, rename_to_free};
use super::read::{has_wal, immutable_uri};

pub use replace::{Replaced, replace};

/// How much is copied between two looks at the clock and at whether to stop: at 8 KiB a page half a MiB.
const PAGES_AT_ONCE: i32 = 64;
/// How much is put on disk at a time.
const SYNC_EACH: u64 = 4 << 20;
/// How long a checkpoint of the write-ahead log is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite's code for a lock that somebody else has.
const BUSY: i32 = 5;
/// Sleeps of a limited rate are cut to this, so that it stops soon when it is told to.
const NAP: Duration = Duration::from_millis(100);

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The copy's name is taken.
    #[error("{} exists already, and a backup overwrites nothing: name another file", .0.display())]
    Exists(PathBuf),
    /// Another process makes the same copy.
    #[error("another process is writing {} just now: wait for it, or name another file", .0.display())]
    UnderWay(PathBuf),
    /// The file system.
    #[error("{}: {error}", path.display())]
    File {
        /// What was touched.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// SQLite, while it read or wrote.
    #[error("{what}: {error}")]
    Sqlite {
        /// What it was at.
        what: &'static str,
        /// Its words.
        error: rusqlite::Error,
    },
    /// The copy is no sound database.
    #[error("the copy is damaged, as the file is that it was made of: {0}")]
    Damaged(String),
    /// A server began to write where none seemed to run.
    #[error("a server began to write to {} meanwhile, and this reader may not share its -shm: run this again", .0.display())]
    Overtaken(PathBuf),
    /// Somebody reads or writes what is to be replaced.
    #[error(
        "somebody has {} open: a reader, or a tool that looks into it. End it, then run this again; nothing was changed", .0.display()
    )]
    InUse(PathBuf),
    /// What is to be replaced cannot be locked.
    #[error("{} cannot be set aside: {error}; nothing was changed", path.display())]
    Old {
        /// The archive that is there.
        path: PathBuf,
        /// What came of it.
        error: super::Error,
    },
    /// It was told to stop.
    #[error("interrupted: nothing was made")]
    Stopped,
}

/// How fast, and until when.
#[derive(Debug)]
pub struct Pace<'p> {
    /// Bytes a second; none: as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// Ends with [`Error::Stopped`] once this is set.
    pub stop: &'p AtomicBool,
}

/// A copy under the name that it has while it is made. Dropped before it is named, it is removed; a process that is killed
/// leaves it, and the next one takes it over.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    /// Open as long as this is: its lock says that somebody is at it. Nothing is read or written by it.
    file: File,
    is_named: bool,
}

impl Part {
    /// Reserves the name: that of the copy and a suffix.
    ///
    /// # Errors
    /// [`Error::UnderWay`]; else as the file system.
    pub fn reserve(dest: &Path, suffix: &str, mode: u32) -> Result<Self, Error> {
        let path = beside(dest, suffix);
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(mode).open(&path);
        let file = open.map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::UnderWay(path)),
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        // Of a process that was killed: nothing of it is of use.
        file.set_len(0).and_then(|()| file.set_permissions(Permissions::from_mode(mode))).map_err(at(&path))?;
        let part = Self { path, file, is_named: false };
        part.remove_companions();
        Ok(part)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything is on disk.
    ///
    /// # Errors
    /// As the file system.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(at(&self.path))
    }

    fn remove_companions(&self) {
        for suffix in COMPANIONS {
            let _ = std::fs::remove_file(beside(&self.path, suffix)); // most often there is none
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = std::fs::remove_file(&self.path);
        }
        self.remove_companions();
    }
}

/// What SQLite puts beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Begins a backup: nothing is at `dest` yet. As private as the archive, unless told others.
///
/// # Errors
/// [`Error::Exists`] where the name is taken; else as [`Part::reserve`].
pub fn begin(archive: &Path, dest: &Path, mode: Option<u32>) -> Result<Part, Error> {
    if dest.symlink_metadata().is_ok() {
        return Err(Error::Exists(dest.to_owned()));
    }
    let mode = mode.unwrap_or(archive.metadata().map_err(at(archive))?.mode() & 0o777);
    Part::reserve(dest, ".partial", mode)
}

/// Copies an archive as it is at this moment; what is written meanwhile is not in it. The copy is found to be a sound
/// database, needs no other file beside it, and is on disk. `told` is given bytes copied and all bytes, from time to time.
///
/// One transaction reads all of it: nobody who writes waits, SQLite does not begin anew with each commit (as its backup API
/// does by itself), and the write-ahead log grows by what is written meanwhile.
///
/// # Errors
/// As SQLite and the file system; what was copied so far is of no use.
pub fn fill(part: &Part, archive: &Path, pace: &Pace<'_>, told: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
    let (from, is_immutable) = source(archive)?;
    {
        let mut to = Connection::open(&part.path).map_err(sqlite("the copy"))?;
        // Half a copy is of no use to anybody: there is nothing to roll back to, and SQLite need not sync it.
        to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(sqlite("the copy"))?;
        let mut synced = 0;
        copy(&from, &mut to, pace, &mut |done, all| {
            // Piece by piece: who syncs a write-ahead log beside it would wait for all that is not on the disk yet.
            if done - synced >= SYNC_EACH {
                let _ = part.file.sync_data(); // trouble shows at the last one
                synced = done;
            }
            told(done, all);
        })?;
        to.close().map_err(|(_, error)| sqlite("the copy")(error))?;
    }
    if is_immutable && has_wal(archive) {
        return Err(Error::Overtaken(archive.to_owned()));
    }
    drop(from);
    settle(&part.path)?;
    part.sync()
}

/// Read-only, with a transaction begun; true where it is read without locks.
pub(super) fn source(archive: &Path) -> Result<(Connection, bool), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let begin = |connection: Connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA cell_size_check = ON; BEGIN")?;
        connection.prepare("SELECT 1 FROM sqlite_schema")?.exists(())?;
        Ok(connection)
    };
    let opened = Connection::open_with_flags(archive, flags).and_then(begin);
    let is_immutable = opened.is_err() && !has_wal(archive);
    let opened = match is_immutable {
        // As for other readers: without a server, and without the right to make its -shm, the file alone is whole.
        true => Connection::open_with_flags(immutable_uri(archive), flags | OpenFlags::SQLITE_OPEN_URI).and_then(begin),
        false => opened,
    };
    Ok((opened.map_err(sqlite("the archive"))?, is_immutable))
}

fn copy(from: &Connection, to: &mut Connection, pace: &Pace<'_>, told: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
    const WHAT: &str = "copying";
    let page_bytes: u64 =
        from.query_row("PRAGMA page_size", (), |row| row.get::<_, i64>(0)).map_err(sqlite(WHAT))?.unsigned_abs();
    let (backup, began) = (Backup::new(from, to).map_err(sqlite(WHAT))?, Instant::now());
    loop {
        let step = backup.step(PAGES_AT_ONCE).map_err(sqlite(WHAT))?;
        let progress = backup.progress();
        let pages = |pages: i32| u64::try_from(pages).unwrap_or(0) * page_bytes;
        let (all, left) = (pages(progress.pagecount), pages(progress.remaining));
        told(all - left.min(all), all);
        match step {
            StepResult::Done => return Ok(()),
            // Nobody else writes to the copy, and a reader of a write-ahead log waits for nobody.
            StepResult::More => {}
            _ => return Err(sqlite(WHAT)(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(BUSY), None))),
        }
        keep_pace(pace, began, all - left.min(all))?;
    }
}

fn keep_pace(pace: &Pace<'_>, began: Instant, done: u64) -> Result<(), Error> {
    loop {
        if pace.stop.load(Ordering::Acquire) {
            return Err(Error::Stopped);
        }
        let Some(rate) = pace.bytes_per_second else { return Ok(()) };
        let due = Duration::from_secs_f64(done as f64 / rate.max(1) as f64);
        match due.saturating_sub(began.elapsed()) {
            Duration::ZERO => return Ok(()),
            early => std::thread::sleep(early.min(NAP)),
        }
    }
}

/// What was written to a copy since is in its one file, which needs no others beside it, and is sound.
///
/// # Errors
/// [`Error::Damaged`]; else as SQLite and the file system.
pub fn settle(path: &Path) -> Result<(), Error> {
    const WHAT: &str = "checking the copy";
    let connection = Connection::open(path).map_err(sqlite(WHAT))?;
    let settled: Result<String, _> = connection.query_row("PRAGMA journal_mode = DELETE", (), |row| row.get(0));
    settled.map_err(sqlite(WHAT))?;
    let found: String =
        connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0)).map_err(sqlite(WHAT))?;
    connection.close().map_err(|(_, error)| sqlite(WHAT)(error))?;
    if found == "ok" { Ok(()) } else { Err(Error::Damaged(found)) }
}

/// The copy gets its name.
///
/// # Errors
/// [`Error::Exists`] where that was taken meanwhile; else as the file system.
pub fn finish(mut part: Part, dest: &Path) -> Result<(), Error> {
    part.sync()?;
    rename_to_free(&part.path, dest).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(dest.to_owned()),
        _ => at(dest)(error),
    })?;
    part.is_named = true;
    sync_folder(dest)
}

fn sync_folder(of: &Path) -> Result<(), Error> {
    let folder = folder(of);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::File { path, error }
}

fn sqlite(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| Error::Sqlite { what, error }
}
