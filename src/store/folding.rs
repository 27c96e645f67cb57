//! Folds the write-ahead log into the file beside the writer, on a thread and a connection of its own: no answer waits while
//! megabytes are copied and synced, not even after a long reader, behind which the log has grown.
//!
//! Never all of it is folded so while there is something to write, and SQLite begins the log anew only where all of it is
//! (sqlite.org/wal.html, "Avoiding Excessively Large WAL Files"). So once little is left, the writer is asked to fold that
//! between two batches.
//!
//! It ends before the connection of the writer does: after a sync that failed nobody folds (see [`super::wal`]). Nor is anything
//! folded once another file is at the archive's path: the log beside it is that one's then, or will be.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::{Error, ErrorKind, FileIdentity, connect, identity, wal};

/// From which on it is worth a sync of the file: 8 MiB, as SQLite has it.
const PAGES_MIN: i64 = 1_000;
/// From which on the log is to begin anew: 32 MiB, an eighth of what it is cut back to.
const PAGES_MAX: i64 = 4_000;
/// What the writer may fold itself: 2 MiB, some milliseconds.
const REST_MAX: i64 = 250;
/// From which on the writer folds, whatever that takes: 512 MiB.
const PAGES_LEFT_MAX: i64 = 65_536;
/// In which the writer fills some megabytes at the most.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// For the writer to meet the same trouble first, where it is the disk's, and to let go of the file. A full disk is freed later.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// As the writer: more would hold up answers, less would let the log grow under load.
const NICENESS: i32 = 5;

/// The thread.
#[derive(Debug)]
pub(super) struct Folding {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: Option<FileIdentity>,
    is_over: Mutex<bool>,
    woken: Condvar,
    /// Something was committed since the last look.
    is_news: AtomicBool,
    /// Little is left, and the writer is to fold it.
    wants_end: AtomicBool,
}

impl Folding {
    /// Begins. The writer folds by itself only what this has left for long: where it has failed, or cannot keep up.
    ///
    /// # Errors
    /// The file cannot be opened once more, or no thread started.
    pub(super) fn start(path: &Path, writer: &Connection) -> Result<Self, Error> {
        writer.pragma_update(None, "wal_autocheckpoint", PAGES_LEFT_MAX)?;
        let connection = connect(path)?;
        wal::leave_behind(&connection, true)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")?;
        let (path, file, is_over, woken) = (path.to_owned(), identity(path), Mutex::default(), Condvar::new());
        let (is_news, wants_end) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { path, file, is_over, woken, is_news, wants_end });
        let of_thread = shared.clone();
        let run = move || {
            // Not permitted where somebody has forbidden it: then it has the proxy's priority.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            of_thread.fold_until_over(&connection);
        };
        let started = std::thread::Builder::new().name("folding".into()).spawn(run);
        let thread = started.map_err(|error| Error::new(ErrorKind::Other, format!("no thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// To be called by the writer after each commit. Costs next to nothing, unless it is time to fold the rest.
    pub(super) fn committed(&self, writer: &Connection) {
        if !self.shared.is_news.swap(true, Ordering::AcqRel) {
            let _is_over = self.shared.lock();
            self.shared.woken.notify_one();
        }
        if self.shared.wants_end.swap(false, Ordering::AcqRel) && self.shared.is_in_place() {
            let _ = counts(writer, "PASSIVE"); // where that fails the next commit does, too
        }
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        *self.shared.lock() = true;
        self.shared.woken.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it says nothing
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_place(&self) -> bool {
        self.file.is_some() && identity(&self.path) == self.file
    }

    /// Asleep while nothing is committed.
    fn fold_until_over(&self, connection: &Connection) {
        let (mut is_over, mut pause) = (self.lock(), LOOK_INTERVAL);
        while !*is_over {
            if !self.is_news.load(Ordering::Acquire) {
                is_over = self.woken.wait(is_over).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // It stays news until then, so that no commit wakes this.
            is_over = self.woken.wait_timeout(is_over, pause).unwrap_or_else(PoisonError::into_inner).0;
            if *is_over {
                break;
            }
            self.is_news.store(false, Ordering::Release);
            drop(is_over);
            pause = match self.fold(connection) {
                Ok(()) => LOOK_INTERVAL,
                Err(error) => {
                    tracing::debug!(error = %error.message, "the write-ahead log could not be folded; it is tried again");
                    self.is_news.store(true, Ordering::Release);
                    PAUSE_AFTER_ERROR
                }
            };
            is_over = self.lock();
        }
    }

    fn fold(&self, connection: &Connection) -> Result<(), Error> {
        let (mut pages, mut folded) = counts(connection, "NOOP")?;
        if pages - folded >= PAGES_MIN && self.is_in_place() {
            (pages, folded) = counts(connection, "PASSIVE")?;
        }
        if pages >= PAGES_MAX && pages - folded <= REST_MAX {
            self.wants_end.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Pages in the log, and how many of them are in the file, after a checkpoint of some kind. -1, -1 while somebody else makes one.
fn counts(connection: &Connection, kind: &str) -> Result<(i64, i64), Error> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(1)?, row.get(2)?));
    Ok(connection.prepare_cached(&format!("PRAGMA wal_checkpoint({kind})"))?.query_row((), read)?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store::writer;

    /// Rows of a page each.
    fn write(connection: &Connection, folding: &Folding, rows: usize) {
        for _ in 0..rows {
            connection.execute("INSERT INTO t VALUES (randomblob(7000))", ()).expect("written");
            folding.committed(connection);
        }
    }

    fn made(folder: &Path) -> (Connection, Folding, std::path::PathBuf) {
        let path = folder.join("a.db");
        Connection::open(&path)
            .and_then(|made| {
                made.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
            })
            .expect("the folder is ours");
        let connection = writer(&path).expect("it is there");
        connection.execute_batch("PRAGMA synchronous = OFF").expect("a pragma");
        let folding = Folding::start(&path, &connection).expect("a thread");
        (connection, folding, path)
    }

    #[test]
    fn the_log_is_folded_and_begins_anew_while_it_is_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let (connection, folding, path) = made(folder.path());
        let (mut highest, mut restarts, mut before) = (0, 0, 0);
        let until = Instant::now() + Duration::from_secs(30);
        while restarts < 3 && Instant::now() < until {
            write(&connection, &folding, 100);
            let (pages, _) = counts(&connection, "NOOP").expect("counted");
            highest = highest.max(pages);
            restarts += usize::from((0..before).contains(&pages));
            before = pages.max(before * i64::from(pages < 0));
        }
        assert_eq!(restarts, 3, "the log goes on for ever: {highest} pages");
        let length = std::fs::metadata(&path).expect("it is there").len();
        assert!(length > 8_192 * 3 * PAGES_MIN as u64, "what was written is in the file: {length}");
    }

    /// A reader keeps the log from being folded; once it ends that is made up for, and no commit waits for it.
    #[test]
    fn what_a_reader_has_kept_back_is_folded_beside_the_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let (connection, folding, path) = made(folder.path());
        let reader = Connection::open(&path).expect("it is there");
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("it reads");
        write(&connection, &folding, 10_000);
        let (pages, folded) = counts(&connection, "NOOP").expect("counted");
        assert!(pages >= 10_000 && folded < 100, "{pages} {folded}");
        reader.execute_batch("COMMIT").expect("it ends");
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            write(&connection, &folding, 1);
            let (pages, folded) = counts(&connection, "NOOP").expect("counted");
            if pages < 10_000 || pages - folded < 1_000 {
                break;
            }
            assert!(Instant::now() < until, "{pages} {folded}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn it_ends_at_once_asleep_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (connection, folding, _) = made(folder.path());
        write(&connection, &folding, 1);
        let began = Instant::now();
        drop(folding);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
