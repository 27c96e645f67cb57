//! The only SQL: opens and migrates the archive, appends to it, reads it back.
//!
//! One [`Store`] is the one writer's connection. It knows rows and SQLite's errors; it does not know queues, tickets,
//! HTTP or what to do about an error.

mod accounts;
pub mod entry;
pub mod append;
pub mod audit;
pub mod backup;
pub mod custody;
mod folding;
pub mod growth;
pub mod inspect;
pub mod place;
pub mod read;
pub mod reserve;
pub mod seal;
pub mod search;
pub mod spool;
mod wal;

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{OpenFlags, params};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection};

use crate::gms::errors::catalogue;
use crate::gms::mask::Masks;
use crate::telemetry::metrics::Account;

pub use entry::{Appended, ChatRecord, Entry, ErrorRecord, ExchangeFacts, FileTransfer, Mark, Outage, Tally};
pub use spool::Spool;

use folding::Folding;
use seal::KeyValue;

/// `PRAGMA application_id` of every archive: "GMSR".
pub const APPLICATION_ID: i64 = 0x474D_5352;

/// SQLite 3.7.0 to 3.51.2 can lose committed writes of a WAL file under two connections (sqlite.org/wal.html).
const ENGINE_FLOOR: (u32, u32, u32) = (3, 51, 3);

/// The schema's history. Only added to; a landed migration is never edited.
pub const MIGRATIONS: [(i64, &str, &str); 13] = [
    (1, "archive", include_str!("../../migrations/0001_archive.sql")),
    (2, "spool", include_str!("../../migrations/0002_spool.sql")),
    (3, "traces", include_str!("../../migrations/0003_traces.sql")),
    (4, "maskings", include_str!("../../migrations/0004_maskings.sql")),
    (5, "seals", include_str!("../../migrations/0005_seals.sql")),
    (6, "file transfers", include_str!("../../migrations/0006_file_transfers.sql")),
    (7, "acts", include_str!("../../migrations/0007_acts.sql")),
    (8, "merges", include_str!("../../migrations/0008_merges.sql")),
    (9, "search", include_str!("../../migrations/0009_search.sql")),
    (10, "deliveries", include_str!("../../migrations/0010_deliveries.sql")),
    (11, "accounts", include_str!("../../migrations/0011_accounts.sql")),
    (12, "cores", include_str!("../../migrations/0012_cores.sql")),
    (13, "stagings", include_str!("../../migrations/0013_stagings.sql")),
];

/// What goes wrong between the program and its file. The kind decides what the recorder does about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What it means for the recorder.
    pub kind: ErrorKind,
    /// What happened, for the log.
    pub message: String,
}

/// The kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Another process holds the write lock.
    Busy,
    /// The file system has no room.
    Full,
    /// The file or file system may not be written.
    ReadOnly,
    /// There is no file at the path.
    Missing,
    /// Another file is at the path than the one that was opened.
    Replaced,
    /// The file is damaged.
    Corrupt,
    /// A row is not as it was sealed.
    Altered,
    /// Reading, writing or syncing failed.
    Io,
    /// The file could not be opened.
    CannotOpen,
    /// A file that is not an archive of this program, or another program's.
    NotAnArchive,
    /// One row is at fault, not the file: a constraint, a trigger, a size.
    Row,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// As outages, logs and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "locked",
            Self::Full => "disk_full",
            Self::ReadOnly => "read_only",
            Self::Missing => "file_missing",
            Self::Replaced => "file_replaced",
            Self::Corrupt => "corrupt",
            Self::Altered => "altered",
            Self::Io => "io_error",
            Self::CannotOpen => "cannot_open",
            Self::NotAnArchive => "not_an_archive",
            Self::Row => "row",
            Self::Other => "other",
        }
    }

    /// From SQLite's extended result code; the low byte is the primary code (sqlite.org/rescode.html).
    fn of_sqlite(code: i32) -> Self {
        match code & 0xff {
            5 | 6 => Self::Busy,
            8 => Self::ReadOnly,
            10 => Self::Io,
            11 => Self::Corrupt,
            13 => Self::Full,
            14 => Self::CannotOpen,
            18..=20 => Self::Row,
            26 => Self::NotAnArchive,
            _ => Self::Other,
        }
    }
}

impl Error {
    /// An error of this program's own making.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse().ok());
        Self { kind: code.map_or(ErrorKind::Other, ErrorKind::of_sqlite), message: error.to_string() }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let kind = match &error {
            rusqlite::Error::SqliteFailure(cause, _) => ErrorKind::of_sqlite(cause.extended_code),
            // A value that is none of ours.
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => ErrorKind::Row,
            _ => ErrorKind::Other,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(e) => e.into(),
            sqlx::migrate::MigrateError::ExecuteMigration(e, _) => e.into(),
            other => Self::new(ErrorKind::NotAnArchive, other.to_string()),
        }
    }
}

/// How the archive is opened for writing.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file.
    pub path: PathBuf,
    /// Whether a missing file is made. Only ever true at start: a lost archive is not silently begun anew.
    pub create: bool,
    /// Permissions of a file that is made.
    pub file_mode: u32,
    /// For the views: when a chat counts as over.
    pub quiet_after: Duration,
    /// The same for asynchronous chats.
    pub async_quiet_after: Duration,
    /// The rules in force, by which contents are compared.
    pub masks: Masks,
}

/// A row of `runs`.
#[derive(Debug, Clone)]
pub struct Run {
    /// Which of several recorders: a host name, or what the operator set.
    pub instance: String,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// `deliver`, as configured.
    pub deliver: &'static str,
    /// `when_unavailable`, as configured.
    pub when_unavailable: &'static str,
    /// JSON: what decides what is recorded.
    pub settings: String,
    /// SHA-256 of the effective configuration.
    pub config_hash: String,
    /// What the same process had before it lost sight of its file: gone on with if that is the file.
    pub resumes: Option<Resumed>,
}

/// A run, and the file that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    archive_id: String,
    run_id: i64,
    file: FileIdentity,
}

#[cfg(test)]
impl Options {
    /// Of a file that is made where there is none.
    pub(crate) fn plain(path: PathBuf) -> Self {
        Self {
            path,
            create: true,
            file_mode: 0o600,
            quiet_after: Duration::from_secs(1),
            async_quiet_after: Duration::from_secs(1),
            masks: Masks::default(),
        }
    }
}

#[cfg(test)]
impl Run {
    /// One that says nothing of importance.
    pub(crate) fn plain() -> Self {
        Self {
            instance: "i".into(),
            started_at: 1,
            deliver: "after_commit",
            when_unavailable: "pass",
            settings: "{}".into(),
            config_hash: "h".into(),
            resumes: None,
        }
    }
}

/// Admits one `serve` to an archive (R10). Released when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub struct ArchiveLock {
    file: File,
}

impl ArchiveLock {
    /// Takes the lock file beside the database.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when another process has it; [`ErrorKind::CannotOpen`] when the file cannot be made.
    pub fn acquire(database: &Path) -> Result<Self, Error> {
        let path = Self::path(database);
        let cannot = |e: std::io::Error| {
            let hint = "serve needs to create files beside the database: check that the folder exists and is writable";
            Error::new(ErrorKind::CannotOpen, format!("{}: {e}; {hint}", path.display()))
        };
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another gms-recorder serves {} (lock {})", database.display(), path.display());
                return Err(Error::new(ErrorKind::Busy, message));
            }
            Err(TryLockError::Error(e)) => return Err(cannot(e)),
        }
        let lock = Self { file };
        lock.sign();
        Ok(lock)
    }

    /// Takes the lock as another process hands it over. It is the open file's, whoever has that open: there is no moment
    /// without it. None where it is another archive's.
    pub fn inherit(file: File, database: &Path) -> Option<Self> {
        let theirs = file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let is_ours = theirs.is_some() && theirs == identity(&Self::path(database));
        // Granted at once where this open file has it.
        (is_ours && file.try_lock().is_ok()).then_some(Self { file })
    }

    /// Writes down which process has it. The number is for people; a stale one does no harm, and neither does a disk too
    /// full to take it.
    pub fn sign(&self) {
        let mut file = &self.file;
        let _ = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| writeln!(file, "{}", std::process::id()));
    }

    /// For [`ArchiveLock::inherit`] in another process.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }

    /// `<database>.lock`
    pub fn path(database: &Path) -> PathBuf {
        beside(database, ".lock")
    }
}

/// The folder where deliveries to buckets are made.
pub fn outbox(database: &Path) -> PathBuf {
    beside(database, "-outbox")
}

/// The file beside `path` whose name ends with `suffix`: `-wal`, `-shm`, `.lock`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether something lies beside a file that SQLite would take for its rollback journal. Archives have a write-ahead log.
pub fn has_journal(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-journal")).is_ok_and(|found| found.len() > 0)
}

/// Whether opening an archive that nobody serves would leave a -wal and a -shm beside it that are this user's: then whoever
/// owns it, and serves it next, could not write to them. Root gives them to the owner.
fn leaves_files_of_its_own(path: &Path) -> bool {
    !gives_files_to_the_owner(path) && !beside(path, "-shm").exists()
}

fn gives_files_to_the_owner(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    user == 0 || std::fs::metadata(path).is_ok_and(|found| found.uid() == user)
}

/// Which file a path leads to: device and inode.
type FileIdentity = (u64, u64);

fn identity(path: &Path) -> Option<FileIdentity> {
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// The writer's connection to the archive.
///
/// It is rusqlite's, which lets the writer's thread step SQLite itself: through sqlx each statement is a message to
/// another thread, and each value a copy. Everything else is read through sqlx; both are the one SQLite in the program.
#[derive(Debug)]
pub struct Store {
    /// The first to be dropped: it ends before the connection does.
    folding: Folding,
    connection: rusqlite::Connection,
    path: PathBuf,
    file: FileIdentity,
    /// The WAL exists from the first write of the run on; one that is unlinked takes its commits with it.
    wal: Option<FileIdentity>,
    archive_id: String,
    run_id: i64,
    masks: Masks,
    memory: append::Memory,
    accounts: accounts::Accounts,
    /// What was observed before covers nothing.
    covers_from: i64,
}

impl Store {
    /// Opens the archive, makes it where allowed, brings its schema up to date and begins a run.
    ///
    /// # Errors
    /// Every [`ErrorKind`] but `Row`.
    pub async fn open(options: &Options, run: &Run) -> Result<Self, Error> {
        prepare_file(options)?;
        wal::make_good(&options.path)?;
        let mut migrating = migrating_options(&options.path).connect().await?;
        check_engine(&mut migrating).await?;
        check_application(&mut migrating, &options.path).await?;
        migrate(&mut migrating).await?;
        let gone =
            || Error::new(ErrorKind::Missing, format!("{} vanished while it was opened", options.path.display()));
        let file = identity(&options.path).ok_or_else(gone)?;
        let connection = writer(&options.path)?;
        migrating.close().await?;
        if seal::mend(&connection)? {
            let hint = "it is made anew; see what was done to the evidence with `gms-recorder verify`";
            tracing::error!(path = %options.path.display(), hint, "the tree of the archive did not fit its seals");
        }
        let path = options.path.clone();
        let (archive_id, masks, memory) = (String::new(), options.masks.clone(), append::Memory::of(&connection)?);
        let (accounts, folding) = (accounts::Accounts::default(), Folding::start(&path, &connection)?);
        let (wal, run_id, covers_from) = (None, 0, i64::MIN);
        let mut store =
            Self { connection, path, file, wal, archive_id, run_id, masks, memory, accounts, folding, covers_from };
        store.begin_run(options, run)?;
        store.wal = identity(&beside(&store.path, "-wal"));
        Ok(store)
    }

    fn begin_run(&mut self, options: &Options, run: &Run) -> Result<(), Error> {
        let version = env!("CARGO_PKG_VERSION");
        let connection = &self.connection;
        let is_unsealed = seal::read_tree(connection)?.size() == 0 || seal::late::is_left(connection)?;
        let quiet = [millis(options.quiet_after), millis(options.async_quiet_after)];
        let differs = "SELECT 1 FROM archive WHERE quiet_after_ms IS NOT ? OR async_quiet_after_ms IS NOT ?";
        let is_altered = !is_unsealed
            && connection.prepare(differs)?.exists(quiet)?
            && !is_as_sealed(connection, seal::ARCHIVE, KeyValue::Integer(1))?;
        let (archive_id, run_id, is_resumed) = seal::change(connection, None, |pack| {
            // What is as it was is not sealed anew: somebody may have altered the rest of the row.
            let is_news = connection.execute(
                "INSERT INTO archive (id, archive_id, created_at, created_by, quiet_after_ms, async_quiet_after_ms)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET quiet_after_ms = ?4, async_quiet_after_ms = ?5
                 WHERE quiet_after_ms IS NOT ?4 OR async_quiet_after_ms IS NOT ?5",
                params![random_hex()?, run.started_at, format!("gms-recorder {version}"), quiet[0], quiet[1]],
            )?;
            write_catalogue(connection)?;
            let archive_id: String =
                connection.query_row("SELECT CAST(archive_id AS TEXT) FROM archive", (), |row| row.get(0))?;
            if is_unsealed || is_news == 1 && !is_altered {
                pack.touch(seal::ARCHIVE, [KeyValue::Integer(1)]);
            }
            let (run_id, is_resumed) = match &run.resumes {
                Some(Resumed { archive_id: of, run_id, file })
                    if (of, file) == (&archive_id, &self.file) && resume_run(connection, *run_id, run)? =>
                {
                    pack.touch(seal::RUNS, [KeyValue::Integer(*run_id)]);
                    (*run_id, true)
                }
                _ => {
                    let run_id = insert_run(connection, run)?;
                    pack.touch_whole(seal::RUNS, [KeyValue::Integer(run_id)]);
                    (run_id, false)
                }
            };
            Ok((archive_id, run_id, is_resumed))
        })?;
        (self.archive_id, self.run_id) = (archive_id, run_id);
        if is_resumed {
            self.accounts.resume(&self.connection, run_id)?;
        }
        Ok(())
    }

    /// The archive's own identity, 32 hex digits.
    pub fn archive_id(&self) -> &str {
        &self.archive_id
    }

    /// The number of this run.
    pub fn run_id(&self) -> i64 {
        self.run_id
    }

    /// For whoever opens the same file again.
    pub fn resumable(&self) -> Resumed {
        Resumed { archive_id: self.archive_id.clone(), run_id: self.run_id, file: self.file }
    }

    /// Answers that were observed before, milliseconds since the epoch, were held against another file: which events that had is not known
    /// here, so that they cover no ground.
    pub fn distrust_before(&mut self, at: i64) {
        self.covers_from = at;
    }

    /// Bytes in the WAL file now.
    pub fn wal_bytes(&self) -> u64 {
        std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |m| m.len())
    }

    /// Folds the WAL into the file, synced, and empties it. False where a reader is in the way: it waits for none.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn fold(&self) -> Result<bool, Error> {
        wal::fold_at_once(&self.connection, BUSY_TIMEOUT)
    }

    /// R9: is what was committed in the file that the path leads to, and in the WAL beside it?
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] or [`ErrorKind::Replaced`].
    pub fn check_still_at_path(&self) -> Result<(), Error> {
        let moved =
            |kind, what: &str| Err(Error::new(kind, format!("{} {what} since it was opened", self.path.display())));
        match identity(&self.path) {
            None => return moved(ErrorKind::Missing, "was removed or renamed"),
            Some(file) if file != self.file => return moved(ErrorKind::Replaced, "was replaced by another file"),
            Some(_) => {}
        }
        match identity(&beside(&self.path, "-wal")) {
            wal if wal == self.wal => Ok(()),
            _ => moved(ErrorKind::Replaced, "lost its -wal file"),
        }
    }

    /// Takes the process's account at a moment (milliseconds since the epoch): what of it is news goes with the next batch that
    /// is whole, or with [`Store::write_account`]; most of it ten seconds later, unless it is the last that is told.
    pub fn tell_account(&mut self, at: i64, account: &Account, is_last: bool) {
        self.accounts.tell(at, account, is_last);
    }

    /// Writes what was told of the account and went with no batch. Whether somebody was found to have erased chats meanwhile.
    ///
    /// # Errors
    /// As writing goes wrong; then it goes with a later batch.
    pub fn write_account(&mut self) -> Result<bool, Error> {
        if self.accounts.is_told() { Ok(self.append(&[], &[], true)?.is_forgetful) } else { Ok(false) }
    }

    /// The run began when its process had counted this already.
    pub fn begin_account(&mut self, account: &Account) {
        self.accounts.begin(account);
    }

    /// Ends the run: notes the stop and what became of everything seen.
    ///
    /// # Errors
    /// As writing goes wrong; then it can be tried again.
    pub fn finish(&self, stopped_at: i64, ledger: &str) -> Result<(), Error> {
        seal::change(&self.connection, None, |pack| {
            let sql = "UPDATE runs SET stopped_at = ?, clean = 1, ledger = ? WHERE run_id = ?";
            self.connection.execute(sql, params![stopped_at, ledger, self.run_id])?;
            self.accounts.write(&self.connection, pack, self.run_id)?;
            pack.touch(seal::RUNS, [KeyValue::Integer(self.run_id)]);
            Ok(())
        })
    }

    /// Closes the file, so that the WAL is folded into it where nobody else has it open.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn close(self) -> Result<(), Error> {
        drop(self.folding);
        wal::leave_behind(&self.connection, false)?;
        self.connection.close().map_err(|(_, error)| error.into())
    }

    /// Lets go of the file after an error. What is committed stays in the WAL until that was made good: the error may have been
    /// a sync's.
    ///
    /// A file that was renamed still takes the frames of its WAL, which would otherwise stay at the old name and be
    /// mistaken for the WAL of whatever file is put there (sqlite.org/howtocorrupt.html, section 2.4).
    pub fn abandon(self) {
        let is_elsewhere = self.check_still_at_path().is_err();
        drop(self.folding);
        if is_elsewhere {
            let _ = wal::fold(&self.connection);
        }
        let _ = self.connection.close();
    }
}

#[cfg(test)]
impl Store {
    /// Does to the file, or to this connection alone, what a test wants done.
    pub(crate) fn execute(&self, sql: &str) {
        // One that refuses a row stands for whatever else may.
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).expect("SQLite has it");
        self.connection.execute_batch(sql).expect("it is sound");
    }

    /// The one column of a query, which is text.
    pub(crate) fn texts(&self, sql: &str) -> Vec<String> {
        let mut select = self.connection.prepare(sql).expect("it is sound");
        let rows = select.query_map((), |row| row.get(0)).expect("it runs");
        rows.map(|row| row.expect("a text")).collect()
    }
}

/// A text, which is none any longer where its bytes were changed.
fn text(row: &rusqlite::Row<'_>, at: usize) -> Result<String, rusqlite::Error> {
    Ok(String::from_utf8_lossy(row.get_ref(at)?.as_bytes().unwrap_or_default()).into_owned())
}

/// A write, so that a file that takes none is noticed here. False where that run is not in the file.
fn resume_run(connection: &rusqlite::Connection, run_id: i64, run: &Run) -> Result<bool, Error> {
    let update = "UPDATE runs SET clean = 0 WHERE run_id = ? AND started_at = ? AND instance = ?";
    Ok(connection.execute(update, params![run_id, run.started_at, run.instance])? == 1)
}

/// Whether a row is as its latest leaf has it, which may be far back: all that is sealed is looked through.
fn is_as_sealed(connection: &rusqlite::Connection, form: u8, key: KeyValue) -> Result<bool, Error> {
    match seal::destroyed::Located::check(connection, (form, vec![key]), 0) {
        Err(error) if error.kind == ErrorKind::Altered => {
            tracing::error!(%error, "what was altered is not sealed anew");
            Ok(false)
        }
        found => found.map(|()| true),
    }
}

fn insert_run(connection: &rusqlite::Connection, run: &Run) -> Result<i64, Error> {
    connection.execute(
        "INSERT INTO runs (instance, version, started_at, deliver, when_unavailable, settings, config_hash, sealing)
         VALUES (?, ?, ?, ?, ?, ?, ?, 'itself')",
        params![
            run.instance,
            env!("CARGO_PKG_VERSION"),
            run.started_at,
            run.deliver,
            run.when_unavailable,
            run.settings,
            run.config_hash
        ],
    )?;
    Ok(connection.last_insert_rowid())
}

fn write_catalogue(connection: &rusqlite::Connection) -> Result<(), Error> {
    let mut upsert = connection.prepare(
        "INSERT INTO error_codes (code, meaning, class, channels, remedy) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (code) DO UPDATE SET meaning = excluded.meaning, class = excluded.class,
            channels = excluded.channels, remedy = excluded.remedy
         WHERE (meaning, class, channels, remedy)
            IS NOT (excluded.meaning, excluded.class, excluded.channels, excluded.remedy)",
    )?;
    for entry in catalogue() {
        upsert.execute(params![entry.code, entry.meaning, entry.class.as_str(), entry.channels, entry.remedy])?;
    }
    Ok(())
}

/// Makes a missing file with the wanted permissions, before SQLite knows of it; refuses one that may not be made.
fn prepare_file(options: &Options) -> Result<(), Error> {
    let path = &options.path;
    let shown = path.display();
    if path.exists() {
        return Ok(());
    }
    if !options.create {
        return Err(Error::new(
            ErrorKind::Missing,
            format!("there is no archive at {shown}, and it is not to be made"),
        ));
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(options.file_mode).open(path);
    match made {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::new(ErrorKind::CannotOpen, format!("cannot create {shown}: {e}"))),
    }
}

/// For the schema. What can be chosen only before the first table is chosen here.
fn migrating_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .page_size(PAGE_BYTES)
        .auto_vacuum(SqliteAutoVacuum::Incremental) // so that purges can give space back
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false) // there are none
        .disable_statement_logging()
}

/// Twice SQLite's own: a row of `events` has about 400 bytes, and an event costs a sixth less (1.30 µs against 1.61, in
/// batches of 1,000). 16 KiB gain a few percent more under load, and double what a lone commit writes.
const PAGE_BYTES: u32 = 8_192;

/// The writer tries again itself, and sees how long it has been.
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// Every pragma that matters, said aloud.
const WRITER_PRAGMAS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;             -- a commit is on disk when it returns
    PRAGMA foreign_keys = OFF;             -- there are none
    PRAGMA secure_delete = ON;             -- what is erased is gone from the pages
    PRAGMA wal_autocheckpoint = 1000;      -- pages: 8 MiB
    PRAGMA journal_size_limit = 268435456; -- a WAL that a long reader made large is cut back, which takes tens of milliseconds
    PRAGMA cache_size = -2048;             -- KiB: the writer appends; the system caches the file
    PRAGMA temp_store = MEMORY;
    PRAGMA mmap_size = 0;                  -- an I/O error stays an error and is no signal
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;
";

/// To a file that is there, as it is.
fn connect(path: &Path) -> Result<rusqlite::Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // There are none of ours: one of somebody's would change rows before they are sealed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    Ok(connection)
}

/// Tables that SQLite would ask in the place of its own functions and tables: `json_each`, `pragma_table_info`, `sqlite_dbpage`. There
/// are none of ours.
fn shadows(connection: &rusqlite::Connection) -> Result<Vec<String>, rusqlite::Error> {
    let sql = r"SELECT CAST(name AS TEXT) FROM sqlite_schema WHERE type IN ('table', 'view') AND lower(name) <> 'search'
        AND (sql LIKE 'CREATE VIRTUAL%' OR name LIKE 'pragma\_%' ESCAPE '\' OR name LIKE 'json\_%' ESCAPE '\'
            OR name LIKE 'sqlite\_%' ESCAPE '\' AND lower(name) NOT IN ('sqlite_sequence', 'sqlite_stat1', 'sqlite_stat4'))";
    let mut select = connection.prepare(sql)?;
    select.query_map((), |row| row.get(0))?.collect()
}

fn writer(path: &Path) -> Result<rusqlite::Connection, Error> {
    let connection = connect(path)?;
    wal::leave_behind(&connection, true)?;
    connection.execute_batch(WRITER_PRAGMAS)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

async fn check_engine(connection: &mut SqliteConnection) -> Result<(), Error> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(connection).await?;
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let found = (part(), part(), part());
    if found >= ENGINE_FLOOR {
        return Ok(());
    }
    let message = format!("SQLite {version} can corrupt a WAL database; 3.51.3 or newer is needed");
    Err(Error::new(ErrorKind::Other, message))
}

/// Refuses a file of another program, and marks a new one as ours.
async fn check_application(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    if id == APPLICATION_ID {
        return Ok(());
    }
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master").fetch_one(&mut *connection).await?;
    if id != 0 || tables != 0 {
        let message = format!("{} is a SQLite file of another program (application_id {id})", path.display());
        return Err(Error::new(ErrorKind::NotAnArchive, message));
    }
    sqlx::query("PRAGMA application_id = 0x474D5352").execute(connection).await?;
    Ok(())
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), Error> {
    let known = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.map(known).into());
    // An archive that a newer release has migrated stays usable: migrations only add (R12).
    migrator.set_ignore_missing(true);
    Ok(migrator.run(connection).await?)
}

fn random_hex() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(ErrorKind::Other, format!("no random numbers: {e}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
