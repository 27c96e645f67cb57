//! Reads the archive back: every question the commands ask, as SQL. It opens the file read-only, never creates one, and
//! keeps each read short, so that a `serve` that writes at the same time is never held up. It refuses to know how answers
//! look on a screen.

#[cfg(test)]
pub(crate) mod fixture;
pub mod acts;
pub mod listing;
pub mod period;
pub mod snapshot;
pub mod statement;
mod united;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, FromRow, QueryBuilder, Row, Sqlite, SqliteConnection};

pub use statement::{Select, Value};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file.
    #[error(
        "there is no archive at {}: readers never create one. `serve` says at its start where its archive is (--database PATH)",
        .0.display()
    )]
    Missing(PathBuf),
    /// A file, but no database.
    #[error("{} is not a SQLite database, so it is no archive", .0.display())]
    NotSqlite(PathBuf),
    /// A database, but another program's.
    #[error("{} is a SQLite database, but not an archive of gms-recorder", .0.display())]
    NotAnArchive(PathBuf),
    /// SQLite may not or cannot open it.
    #[error(
        "{} cannot be opened for reading: {why}. Reading needs permission on the file, its -wal and -shm beside it, and \
         their directory", path.display()
    )]
    Unreadable {
        /// The archive.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// A server began to write where none seemed to run.
    #[error("a server began to write to {} meanwhile, and this reader may not share its -shm: run this again", .0.display())]
    Overtaken(PathBuf),
    /// A statement that is not a single reading one.
    #[error("{0}")]
    Refused(String),
    /// A statement that SQLite does not accept.
    #[error("{0}")]
    Statement(String),
    /// A statement that ran too long.
    #[error("stopped after {}: the statement took too long. Narrow it with WHERE or LIMIT, or give it more with --timeout", crate::units::format_duration(*.0))]
    TimedOut(Duration),
    /// The file system, while a copy was made.
    #[error("{}: {error}", path.display())]
    File {
        /// What was touched.
        path: PathBuf,
        /// What came of it.
        error: std::io::Error,
    },
    /// The copy's name is taken.
    #[error("{} exists already, and a snapshot overwrites nothing: name another file", .0.display())]
    Exists(PathBuf),
    /// Anything else SQLite reports.
    #[error("the archive could not be read: {0}")]
    Store(#[from] sqlx::Error),
}

/// An archive, open for reading.
#[derive(Debug)]
pub struct Archive {
    connection: SqliteConnection,
    path: PathBuf,
    is_immutable: bool,
    /// Several files, united by views.
    is_united: bool,
}

impl Archive {
    /// Opens the archive at `path`.
    ///
    /// # Errors
    /// A sentence for the user: missing, no database, another program's, not permitted.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        Self::connect(path, true).await
    }

    async fn connect(path: &Path, query_only: bool) -> Result<Self, Error> {
        // The database file is never opened outside SQLite (POSIX locks end with any close of it): this only looks.
        let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match path.metadata() {
            Ok(found) if found.is_file() => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Error::Unreadable { path: absolute(), why: error.to_string() });
            }
            _ => return Err(Error::Missing(absolute())),
        }
        // No server runs: the file alone is whole then.
        if super::leaves_files_of_its_own(path) && !has_wal(path) {
            return Self::connect_with(path, query_only, true).await;
        }
        let opened = Self::connect_with(path, query_only, false).await;
        match opened {
            // The same, and this reader may not create the -shm that WAL asks for, or there is no room for it.
            Err(Error::Unreadable { .. } | Error::Store(_)) if !has_wal(path) => {
                Self::connect_with(path, query_only, true).await
            }
            other => other,
        }
    }

    async fn connect_with(path: &Path, query_only: bool, immutable: bool) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .immutable(immutable)
            .busy_timeout(Duration::from_secs(5))
            .pragma("query_only", if query_only { "ON" } else { "OFF" })
            .disable_statement_logging();
        let named = |error| opening(path, error);
        let mut connection = options.connect().await.map_err(named)?;
        let application: i64 =
            sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await.map_err(named)?;
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = 'chats'")
            .fetch_one(&mut connection)
            .await
            .map_err(named)?;
        match application == super::APPLICATION_ID && tables == 1 {
            true => Ok(Self { connection, path: path.to_owned(), is_immutable: immutable, is_united: false }),
            false => Err(Error::NotAnArchive(path.to_owned())),
        }
    }

    /// What was read without locks is whole only while no server has begun to write.
    fn check_undisturbed(&self) -> Result<(), Error> {
        match self.is_immutable && has_wal(&self.path) {
            true => Err(Error::Overtaken(self.path.clone())),
            false => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes it in order.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn close(self) -> Result<(), Error> {
        Ok(self.connection.close().await?)
    }

    /// Whether it has a table or view: one of an earlier release may not.
    async fn has(&mut self, name: &str) -> Result<bool, Error> {
        // Several are read together only where all of them are of this release.
        let sql = "SELECT count(*) FROM sqlite_master WHERE name = ?";
        Ok(self.is_united || sqlx::query_scalar::<_, i64>(sql).bind(name).fetch_one(&mut self.connection).await? > 0)
    }

    /// How many chats and events it holds.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn totals(&mut self) -> Result<Totals, Error> {
        let sql = "SELECT (SELECT count(*) FROM chats), (SELECT count(*) FROM events)";
        let (chats, events) = sqlx::query_as(sql).fetch_one(&mut self.connection).await?;
        Ok(Totals { chats, events })
    }

    /// The chats whose customer is `who`: an attribute equal to it whatever the case, or, where none is, one that contains
    /// it; or the chat of that id.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn chats_of(&mut self, who: &str) -> Result<Vec<String>, Error> {
        let sql = "SELECT DISTINCT chat_id, value FROM chat_attributes WHERE value LIKE ? ESCAPE '\\'
                   UNION SELECT chat_id, chat_id FROM chats WHERE chat_id = ?";
        let near: Vec<(String, String)> =
            sqlx::query_as(sql).bind(like(who)).bind(who).fetch_all(&mut self.connection).await?;
        let wanted = who.to_lowercase();
        let (equal, within): (Vec<_>, Vec<_>) = near
            .into_iter()
            .map(|(chat_id, value)| (chat_id, value.to_lowercase()))
            .filter(|(_, value)| value.contains(&wanted))
            .partition(|(_, value)| *value == wanted);
        let found = if equal.is_empty() { within } else { equal };
        let mut chats: Vec<_> = found.into_iter().map(|(chat_id, _)| chat_id).collect();
        chats.sort_unstable();
        chats.dedup();
        Ok(chats)
    }

    /// What became of a chat that is not here any longer: `erased on … (reason)`. None where nothing is known of it.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn removal(&mut self, chat_id: &str) -> Result<Option<String>, Error> {
        if !self.has("removals").await? {
            return Ok(None); // of an earlier release
        }
        let sql =
            "SELECT how || ' at ' || at || coalesce(' (' || reason || ')', '') FROM removals WHERE chat_id = ? LIMIT 1";
        Ok(sqlx::query_scalar(sql).bind(chat_id).fetch_optional(&mut self.connection).await?)
    }

    /// Below which index the events of a chat that goes on were erased or purged.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn erased_below(&mut self, chat_id: &str) -> Result<Option<i64>, Error> {
        if !self.has("removals").await? {
            return Ok(None);
        }
        let sql = "SELECT max(below) FROM erasures WHERE chat_id = ?";
        Ok(sqlx::query_scalar(sql).bind(chat_id).fetch_one(&mut self.connection).await?)
    }

    /// Whether chats of a customer were erased or purged, as far as that can be told: some were, and none here is this one's.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn may_have_forgotten(&mut self, who: &str) -> Result<bool, Error> {
        if !self.has("removals").await? {
            return Ok(false);
        }
        let has = "SELECT EXISTS (SELECT 1 FROM erasures)";
        let has_removals: bool = sqlx::query_scalar(has).fetch_one(&mut self.connection).await?;
        Ok(has_removals && self.chats_of(who).await?.is_empty())
    }

    /// Up to `limit` chats, the last seen first, that come after `after`: the last of the page before.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn chats(&mut self, of: &Chats, after: Option<&Chat>, limit: i64) -> Result<Vec<Chat>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(CHAT);
        query.push(" WHERE 1");
        if let Some(from) = of.from {
            query.push(" AND c.last_seen_at >= ").push_bind(from);
        }
        if let Some(until) = of.until {
            query.push(" AND c.first_seen_at <= ").push_bind(until);
        }
        if let Some(chat_ids) = &of.chat_ids {
            query.push(" AND c.chat_id").push(ONE_OF).push_bind(json_list(chat_ids)).push("))");
        }
        if let Some(status) = &of.status {
            query.push(" AND k.status = ").push_bind(status.as_str());
        }
        if let Some(last) = after {
            query.push(" AND (c.last_seen_at, c.rowid) < (").push_bind(last.last_seen_at);
            query.push(", ").push_bind(last.row).push(")");
        }
        // The rowid ends every entry of the index by last_seen_at: nothing is sorted, and a page costs a page.
        query.push(" ORDER BY c.last_seen_at DESC, c.rowid DESC LIMIT ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&mut self.connection).await?)
    }

    /// One chat, if the archive has it.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn chat(&mut self, chat_id: &str) -> Result<Option<Chat>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(CHAT);
        query.push(" WHERE c.chat_id = ").push_bind(chat_id);
        Ok(query.build_query_as().fetch_optional(&mut self.connection).await?)
    }

    /// The attributes of some chats, by chat and name: the latest value of each.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn attributes(&mut self, chat_ids: &[String]) -> Result<Vec<Attribute>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT chat_id, name, value, max(printf('%020d %020d', observed_at, id)) FROM chat_attributes WHERE chat_id IN (SELECT value FROM json_each(",
        );
        query.push_bind(json_list(chat_ids)).push(")) GROUP BY chat_id, name ORDER BY chat_id, name");
        Ok(query.build_query_as().fetch_all(&mut self.connection).await?)
    }

    /// Up to `limit` events of a chat whose index is above `after`, in the order of their indices.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn events(&mut self, chat_id: &str, after: i64, limit: i64) -> Result<Vec<Event>, Error> {
        let sql = "SELECT e.*, EXISTS (SELECT 1 FROM event_variants v WHERE v.chat_id = e.chat_id
                                           AND v.event_index = e.event_index) AS has_variants
                   FROM events e WHERE e.chat_id = ? AND e.event_index > ? ORDER BY e.event_index LIMIT ?";
        let query = sqlx::query_as(sql).bind(chat_id).bind(after).bind(limit);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// The other contents an event was delivered with.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn variants(&mut self, chat_id: &str, event_index: i64) -> Result<Vec<Variant>, Error> {
        let sql = "SELECT kind, raw, recorded_at, node FROM event_variants WHERE chat_id = ? AND event_index = ?
                   ORDER BY recorded_at";
        let query = sqlx::query_as(sql).bind(chat_id).bind(event_index);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// Who takes part in a chat: every distinct party type and name.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn parties(&mut self, chat_id: &str) -> Result<Vec<(Option<String>, Option<String>)>, Error> {
        let sql = "SELECT DISTINCT party_type, coalesce(nickname, '#' || participant_id) FROM events WHERE chat_id = ?";
        Ok(sqlx::query_as(sql).bind(chat_id).fetch_all(&mut self.connection).await?)
    }

    /// Up to `limit` errors, the newest first, that come after `after`: the last of the page before.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn errors(&mut self, of: &Errors, after: Option<&ApiError>, limit: i64) -> Result<Vec<ApiError>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT a.*, c.remedy FROM api_errors a LEFT JOIN error_codes c ON c.code = a.code WHERE 1",
        );
        if let Some(until) = of.until {
            query.push(" AND a.observed_at <= ").push_bind(until);
        }
        if let Some(from) = of.from {
            query.push(" AND a.last_observed_at >= ").push_bind(from);
        }
        if let Some(chat_ids) = &of.chat_ids {
            query.push(" AND a.chat_id").push(ONE_OF).push_bind(json_list(chat_ids)).push("))");
        }
        if let Some(code) = of.code {
            query.push(" AND a.code = ").push_bind(code);
        }
        if let Some(node) = &of.node {
            query.push(" AND instr(a.node, ").push_bind(node.as_str()).push(") > 0");
        }
        if let Some(last) = after {
            query.push(" AND (a.observed_at, a.id) < (").push_bind(last.observed_at);
            query.push(", ").push_bind(last.id).push(")");
        }
        query.push(" ORDER BY a.observed_at DESC, a.id DESC LIMIT ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&mut self.connection).await?)
    }

    /// The holes of one chat, in order.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn holes_of(&mut self, chat_id: &str) -> Result<Vec<Stretch>, Error> {
        let sql = "SELECT from_position, next_position FROM coverage_holes WHERE chat_id = ? ORDER BY from_position";
        Ok(sqlx::query_as(sql).bind(chat_id).fetch_all(&mut self.connection).await?)
    }

    /// Up to `limit` holes of all chats, those of the chat last seen first.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn holes(&mut self, of: &Chats, limit: i64) -> Result<Vec<Hole>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT h.chat_id, h.from_position, h.next_position, c.service, c.first_seen_at, c.last_seen_at, k.status
             FROM coverage_holes h JOIN chats c ON c.chat_id = h.chat_id JOIN completeness k ON k.chat_id = h.chat_id
             WHERE 1",
        );
        if let Some(from) = of.from {
            query.push(" AND c.last_seen_at >= ").push_bind(from);
        }
        if let Some(until) = of.until {
            query.push(" AND c.first_seen_at <= ").push_bind(until);
        }
        if let Some(chat_ids) = &of.chat_ids {
            query.push(" AND h.chat_id").push(ONE_OF).push_bind(json_list(chat_ids)).push("))");
        }
        query.push(" ORDER BY c.last_seen_at DESC, h.chat_id, h.from_position LIMIT ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&mut self.connection).await?)
    }

    /// When recording was not what it should be: outages, and the time between two runs.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn interruptions(&mut self) -> Result<Vec<Interruption>, Error> {
        let query = AssertSqlSafe(interruptions_sql(self.has("merged_rows").await?));
        Ok(sqlx::query_as(query).bind(INTERRUPTIONS_MAX).fetch_all(&mut self.connection).await?)
    }
}

/// More than this in one archive says that something else is wrong; the newest are kept.
const INTERRUPTIONS_MAX: i64 = 10_000;

const ONE_OF: &str = " IN (SELECT value FROM json_each(";

const CHAT: &str = "
    SELECT c.rowid AS row, c.chat_id, c.service, c.first_seen_at, c.last_seen_at, c.ended_at, c.next_position,
           (SELECT count(*) FROM events e WHERE e.chat_id = c.chat_id) AS events,
           (SELECT count(*) FROM events e WHERE e.chat_id = c.chat_id AND e.type = 'Message') AS messages,
           (SELECT group_concat(DISTINCT e.nickname) FROM events e
             WHERE e.chat_id = c.chat_id AND e.party_type = 'Agent') AS agents,
           (SELECT coalesce(sum(a.repeats), 0) FROM api_errors a WHERE a.chat_id = c.chat_id) AS errors,
           k.covered_to, k.hidden, k.holes, k.ended_how, k.status
    FROM chats c JOIN completeness k ON k.chat_id = c.chat_id";

// A run that died did so after the last sign of life before the next of its own recorder began.
fn interruptions_sql(has_merges: bool) -> String {
    let recorder = recorder_sql(has_merges);
    format!(
        "WITH each AS (SELECT r.*, {recorder} AS of FROM runs r)
    SELECT started_at AS from_at, ended_at AS to_at, reason AS why, detail, chat_ids FROM outages
    UNION ALL
    SELECT coalesce(r.stopped_at, max(r.started_at, coalesce(
               (SELECT max(c.last_seen_at) FROM chats c WHERE c.last_seen_at < n.started_at), 0))),
           n.started_at,
           CASE r.clean WHEN 1 THEN 'the recorder was stopped' ELSE 'the recorder died' END, NULL, '[]'
    FROM each r LEFT JOIN each n ON n.run_id = (SELECT min(m.run_id) FROM each m WHERE m.run_id > r.run_id AND m.of = r.of)
    WHERE n.run_id IS NOT NULL OR r.stopped_at IS NOT NULL
    ORDER BY from_at DESC LIMIT ?"
    )
}

/// Whose run `r` is: the archive it was recorded into, where it was brought here; else empty.
fn recorder_sql(has_merges: bool) -> &'static str {
    match has_merges {
        true => "coalesce((SELECT m.archive_id FROM merged_rows m WHERE m.form = 9 AND m.id = r.run_id), '')",
        false => "''",
    }
}

/// A file without a server, to be read without locks, as SQLite's URIs write it (sqlite.org/uri.html).
pub(super) fn immutable_uri(path: &Path) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let encoded = bytes.map(|byte| if is_plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") });
    format!("file:{}?immutable=1", encoded.collect::<String>())
}

pub(super) fn has_wal(path: &Path) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).is_ok_and(|found| found.len() > 0)
}

/// What SQLite's result codes mean for whoever named the file.
fn opening(path: &Path, error: sqlx::Error) -> Error {
    const CANTOPEN: i32 = 14;
    const NOTADB: i32 = 26;
    const READONLY: i32 = 8;
    match primary_code(&error) {
        Some(NOTADB) => Error::NotSqlite(path.to_owned()),
        Some(CANTOPEN | READONLY) => Error::Unreadable { path: path.to_owned(), why: message(&error) },
        _ => Error::Store(error),
    }
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

fn message(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

fn json_list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

/// SQLite's LIKE ignores case in ASCII only: any other character stands for itself in any case here, and the caller
/// compares what is found.
fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        match c {
            '%' | '_' | '\\' => pattern.extend(['\\', c]),
            c if c.is_ascii() => pattern.push(c),
            _ => pattern.push('%'),
        }
    }
    pattern.push('%');
    pattern
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Chats.
    pub chats: i64,
    /// Events.
    pub events: i64,
}

/// Which chats are asked for. Times are milliseconds since the epoch.
#[derive(Debug, Clone, Default)]
pub struct Chats {
    /// Seen at this time or later.
    pub from: Option<i64>,
    /// First seen at this time or earlier.
    pub until: Option<i64>,
    /// One of these.
    pub chat_ids: Option<Vec<String>>,
    /// `status` of `completeness`.
    pub status: Option<String>,
}

/// Which errors are asked for. Times are milliseconds since the epoch.
#[derive(Debug, Clone, Default)]
pub struct Errors {
    /// Observed, or repeated, at this time or later.
    pub from: Option<i64>,
    /// First observed at this time or earlier.
    pub until: Option<i64>,
    /// Of one of these chats.
    pub chat_ids: Option<Vec<String>>,
    /// With this code.
    pub code: Option<i64>,
    /// From a node whose name contains this.
    pub node: Option<String>,
}

/// A chat in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `chats`, `completeness` and `chat_summary`")]
pub struct Chat {
    pub chat_id: String,
    pub service: Option<String>,
    pub first_seen_at: i64,
    pub last_seen_at: i64,
    pub ended_at: Option<i64>,
    pub next_position: Option<i64>,
    pub events: i64,
    pub messages: i64,
    pub agents: Option<String>,
    pub errors: i64,
    pub covered_to: i64,
    pub hidden: i64,
    pub holes: i64,
    pub ended_how: Option<String>,
    pub status: String,
    row: i64,
}

impl FromRow<'_, SqliteRow> for Chat {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            chat_id: row.try_get("chat_id")?,
            service: row.try_get("service")?,
            first_seen_at: row.try_get("first_seen_at")?,
            last_seen_at: row.try_get("last_seen_at")?,
            ended_at: row.try_get("ended_at")?,
            next_position: row.try_get("next_position")?,
            events: row.try_get("events")?,
            messages: row.try_get("messages")?,
            agents: row.try_get("agents")?,
            errors: row.try_get("errors")?,
            covered_to: row.try_get("covered_to")?,
            hidden: row.try_get("hidden")?,
            holes: row.try_get("holes")?,
            ended_how: row.try_get("ended_how")?,
            status: row.try_get("status")?,
            row: row.try_get("row")?,
        })
    }
}

/// What is known of a chat under one name: the latest value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `chat_attributes`")]
pub struct Attribute {
    pub chat_id: String,
    pub name: String,
    pub value: String,
}

impl FromRow<'_, SqliteRow> for Attribute {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self { chat_id: row.try_get("chat_id")?, name: row.try_get("name")?, value: row.try_get("value")? })
    }
}

/// One event of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `events`")]
pub struct Event {
    pub chat_id: String,
    pub event_index: i64,
    pub kind: Option<String>,
    pub utc_time: Option<i64>,
    pub participant_id: Option<i64>,
    pub nickname: Option<String>,
    pub party_type: Option<String>,
    pub text: Option<String>,
    pub message_type: Option<String>,
    pub user_data: Option<String>,
    pub event_attributes: Option<String>,
    pub recorded_at: i64,
    pub node: Option<String>,
    pub run_id: i64,
    pub has_variants: bool,
}

impl FromRow<'_, SqliteRow> for Event {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            chat_id: row.try_get("chat_id")?,
            event_index: row.try_get("event_index")?,
            kind: row.try_get("type")?,
            utc_time: row.try_get("utc_time")?,
            participant_id: row.try_get("participant_id")?,
            nickname: row.try_get("nickname")?,
            party_type: row.try_get("party_type")?,
            text: row.try_get("text")?,
            message_type: row.try_get("message_type")?,
            user_data: row.try_get("user_data")?,
            event_attributes: row.try_get("event_attributes")?,
            recorded_at: row.try_get("recorded_at")?,
            node: row.try_get("node")?,
            run_id: row.try_get("run_id")?,
            has_variants: row.try_get("has_variants")?,
        })
    }
}

/// Another content of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `event_variants`")]
pub struct Variant {
    pub kind: String,
    pub raw: String,
    pub recorded_at: i64,
    pub node: Option<String>,
}

impl FromRow<'_, SqliteRow> for Variant {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            kind: row.try_get("kind")?,
            raw: row.try_get("raw")?,
            recorded_at: row.try_get("recorded_at")?,
            node: row.try_get("node")?,
        })
    }
}

/// An error some client was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `api_errors`, and the remedy of `error_codes`")]
pub struct ApiError {
    pub id: i64,
    pub observed_at: i64,
    pub last_observed_at: i64,
    pub repeats: i64,
    pub origin: String,
    pub http_status: Option<i64>,
    pub status_code: Option<i64>,
    pub format: String,
    pub code: Option<i64>,
    pub meaning: Option<String>,
    pub class: String,
    pub field: Option<String>,
    pub detail: Option<String>,
    pub advice: Option<String>,
    pub reference_id: Option<String>,
    pub service: Option<String>,
    pub operation: Option<String>,
    pub chat_id: Option<String>,
    pub alias: Option<String>,
    pub method: Option<String>,
    pub path: Option<String>,
    pub node: Option<String>,
    pub client: Option<String>,
    pub request_id: Option<String>,
    pub trace_id: Option<String>,
    pub duration_ms: Option<i64>,
    pub run_id: i64,
    pub remedy: Option<String>,
}

impl FromRow<'_, SqliteRow> for ApiError {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            observed_at: row.try_get("observed_at")?,
            last_observed_at: row.try_get("last_observed_at")?,
            repeats: row.try_get("repeats")?,
            origin: row.try_get("origin")?,
            http_status: row.try_get("http_status")?,
            status_code: row.try_get("status_code")?,
            format: row.try_get("format")?,
            code: row.try_get("code")?,
            meaning: row.try_get("meaning")?,
            class: row.try_get("class")?,
            field: row.try_get("field")?,
            detail: row.try_get("detail")?,
            advice: row.try_get("advice")?,
            reference_id: row.try_get("reference_id")?,
            service: row.try_get("service")?,
            operation: row.try_get("operation")?,
            chat_id: row.try_get("chat_id")?,
            alias: row.try_get("alias")?,
            method: row.try_get("method")?,
            path: row.try_get("path")?,
            node: row.try_get("node")?,
            client: row.try_get("client")?,
            request_id: row.try_get("request_id")?,
            trace_id: row.try_get("trace_id").unwrap_or_default(), // schema 1 has none
            duration_ms: row.try_get("duration_ms")?,
            run_id: row.try_get("run_id")?,
            remedy: row.try_get("remedy")?,
        })
    }
}

/// A stretch of positions, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first position of it.
    pub from: i64,
    /// The first position after it.
    pub next: i64,
}

impl FromRow<'_, SqliteRow> for Stretch {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self { from: row.try_get("from_position")?, next: row.try_get("next_position")? })
    }
}

/// Ground of a chat that no answer covered, and what is known of the chat.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `chats` and `completeness`")]
pub struct Hole {
    pub chat_id: String,
    /// What is not covered.
    pub ground: Stretch,
    pub service: Option<String>,
    pub first_seen_at: i64,
    pub last_seen_at: i64,
    pub status: String,
}

impl FromRow<'_, SqliteRow> for Hole {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            chat_id: row.try_get("chat_id")?,
            ground: Stretch::from_row(row)?,
            service: row.try_get("service")?,
            first_seen_at: row.try_get("first_seen_at")?,
            last_seen_at: row.try_get("last_seen_at")?,
            status: row.try_get("status")?,
        })
    }
}

/// A time in which something may not have been recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interruption {
    /// When it began, at the earliest.
    pub from: i64,
    /// When it was over; none while it lasts.
    pub to: Option<i64>,
    /// The reason, in words.
    pub why: String,
    /// More of it.
    pub detail: Option<String>,
    /// The chats known to be affected, as a JSON list; bounded, so others may be too.
    pub chat_ids: String,
}

impl Interruption {
    /// A client polls every few seconds: what began this soon after a chat was last seen can be what cut it off.
    pub const SLACK_MS: i64 = 60_000;

    /// It overlaps the chat's life. A list of chats that names others does not speak against it: the list is bounded.
    pub fn may_explain(&self, hole: &Hole) -> bool {
        let began = self.from <= hole.last_seen_at.saturating_add(Self::SLACK_MS);
        began && self.to.is_none_or(|to| to >= hole.first_seen_at)
    }

    /// The chat is one of those known to be affected.
    pub fn names(&self, chat_id: &str) -> bool {
        let chat_ids: Vec<String> = serde_json::from_str(&self.chat_ids).unwrap_or_default();
        chat_ids.iter().any(|named| named == chat_id)
    }
}

impl FromRow<'_, SqliteRow> for Interruption {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            from: row.try_get("from_at")?,
            to: row.try_get("to_at")?,
            why: row.try_get("why")?,
            detail: row.try_get("detail")?,
            chat_ids: row.try_get("chat_ids")?,
        })
    }
}

#[cfg(test)]
mod tests {

    use super::fixture::Fixture;
    use super::*;

    #[tokio::test]
    async fn what_is_no_archive_is_said_and_nothing_is_made() {
        let fixture = Fixture::example().await;
        std::fs::write(fixture.beside("text"), "no database at all, but long enough to look into").expect("written");
        std::fs::write(fixture.beside("empty"), "").expect("written");
        let other = SqliteConnectOptions::new().filename(fixture.beside("other")).create_if_missing(true);
        let mut other = other.connect().await.expect("a database");
        sqlx::raw_sql("CREATE TABLE chats (a)").execute(&mut other).await.expect("a table");
        other.close().await.expect("closed");

        let rows = [
            ("absent", "there is no archive at /"),
            ("absent", "--database"),
            (".", "there is no archive at"),
            ("text", "is not a SQLite database"),
            ("empty", "not an archive of gms-recorder"),
            ("other", "not an archive of gms-recorder"),
        ];
        for (name, wanted) in rows {
            let why = Archive::open(&fixture.beside(name)).await.expect_err(name).to_string();
            assert!(why.contains(wanted), "{name}: {why}");
        }
        assert!(!fixture.beside("absent").exists());
    }

    #[tokio::test]
    async fn an_archive_is_read_while_it_is_written() {
        let fixture = Fixture::example().await;
        let mut writer = fixture.writer().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        sqlx::raw_sql("BEGIN IMMEDIATE; DELETE FROM events").execute(&mut writer).await.expect("a transaction");
        assert_eq!(archive.totals().await.expect("read"), Totals { chats: 3, events: 18 });
        sqlx::raw_sql("COMMIT").execute(&mut writer).await.expect("a reader does not hold the writer up");
        assert_eq!(archive.totals().await.expect("read"), Totals { chats: 3, events: 0 });
    }

    #[tokio::test]
    async fn events_come_in_pages_of_their_order() {
        let fixture = Fixture::example().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        let mut found = Vec::new();
        loop {
            let page = archive.events("c1", found.last().copied().unwrap_or(0), 4).await.expect("read");
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 4 && last.chat_id == "c1");
            found.extend(page.iter().map(|event| event.event_index));
        }
        assert_eq!(found, [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[tokio::test]
    async fn completeness_says_what_is_known() {
        // (ended_how, last_seen_at, nextPosition, rows of coverage, indices) to (status, covered_to, hidden, holes).
        let now = "CAST(strftime('%s', 'now') AS INTEGER) * 1000";
        let rows = [
            ("'chat_ended'", "1", "4", "1-4", "1 2 3", ("complete", 4, 0, 0)),
            ("'chat_ended'", "1", "4", "1-4", "1 3", ("complete", 4, 1, 0)),
            ("'chat_ended'", "1", "9", "1-4", "1 2 3", ("incomplete", 4, 0, 1)),
            ("'chat_ended_with_error'", "1", "9", "1-4 6-9", "1 2 3 4 8", ("incomplete", 4, 2, 1)),
            ("'chat_ended'", "1", "NULL", "", "", ("incomplete", 1, 0, 0)),
            ("NULL", "1", "4", "1-4", "1 2 3", ("unfinished", 4, 0, 0)),
            ("NULL", "1", "4", "2-4", "2 3", ("incomplete", 1, 0, 1)),
            ("NULL", now, "4", "2-4", "2 3", ("open", 1, 0, 1)),
            ("NULL", now, "4", "1-3 2-4", "1 2 3", ("open", 4, 0, 0)),
        ];
        for (ended, seen, next, coverage, indices, wanted) in rows {
            let ended_at = if ended == "NULL" { "NULL" } else { "1" };
            let mut sql =
                format!("INSERT INTO chats VALUES ('c', NULL, 1, {seen}, {ended_at}, {ended}, {next}, 0, NULL);");
            for stretch in coverage.split_whitespace() {
                let stretch = stretch.replace('-', ", ");
                sql += &format!("INSERT INTO coverage VALUES ('c', {stretch}, 'n', 1, 1);");
            }
            for index in indices.split_whitespace() {
                sql += &format!(
                    "INSERT INTO events (chat_id, event_index, raw, recorded_at, run_id) VALUES ('c', {index}, '', 1, 1);"
                );
            }
            let fixture = Fixture::with(&sql).await;
            let chat = Archive::open(&fixture.path).await.expect("open").chat("c").await.expect("read").expect("there");
            let found = (chat.status.as_str(), chat.covered_to, chat.hidden, chat.holes);
            assert_eq!(found, wanted, "{ended} {next} {coverage} {indices}");
        }
    }

    #[tokio::test]
    async fn one_chat_is_found_by_index_in_every_view() {
        let fixture = Fixture::example().await;
        let mut writer = fixture.writer().await;
        let views = ["transcript", "error_audit", "coverage_holes", "completeness", "chat_summary"];
        let views = views.map(|view| format!("SELECT * FROM {view} WHERE chat_id = 'c1'"));
        for sql in views.into_iter().chain([format!("{CHAT} WHERE c.chat_id = 'c1'")]) {
            let plan = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let steps: Vec<SqliteRow> = sqlx::query(plan).fetch_all(&mut writer).await.expect("a plan");
            for step in steps {
                let step: String = step.get("detail");
                let table = step.strip_prefix("SCAN ").unwrap_or_default();
                let is_whole_table = ["a", "c", "e", "t", "v", "events", "coverage", "chats", "api_errors"];
                assert!(!is_whole_table.contains(&table.split(' ').next().unwrap_or_default()), "{sql}: {step}");
            }
        }
    }
}
