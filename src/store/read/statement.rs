//! A user's own statement: one, reading, and within a time limit. The connection is read-only and `query_only`; what a
//! read-only connection could still do (ATTACH another file, VACUUM INTO one, change settings) is refused by its first word.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Column, Executor, Row, SqlSafeStr, Statement, TypeInfo, ValueRef};

use super::{Archive, Error, message, primary_code};

/// One value of a result, of the type it has (SQLite's columns have none).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT; what is no UTF-8 in it is replaced.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
}

/// One statement that reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select(String);

const FIRST_WORDS: [&str; 5] = ["SELECT", "WITH", "VALUES", "EXPLAIN", "PRAGMA"];

/// Pragmas that show and change nothing, called without a value.
const PRAGMAS: [&str; 19] = [
    "application_id",
    "auto_vacuum",
    "collation_list",
    "compile_options",
    "database_list",
    "encoding",
    "freelist_count",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "journal_mode",
    "page_count",
    "page_size",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Those of them whose parentheses name what to show; for the others they would set something.
const PRAGMAS_ABOUT: [&str; 8] = [
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

impl Select {
    /// Takes a text that is one reading statement, with or without a closing semicolon.
    ///
    /// # Errors
    /// A sentence that says what was found instead.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let tokens = tokens(text);
        let statement = tokens.iter().position(|token| *token == ";").unwrap_or(tokens.len());
        if tokens[statement..].iter().any(|token| *token != ";") {
            return Err(Error::Refused("one statement at a time: something follows the first one's semicolon".into()));
        }
        let words = &tokens[..statement];
        let first = words.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        match first.as_str() {
            "" => {
                Err(Error::Refused("there is no statement: write for example \"SELECT count(*) FROM events\"".into()))
            }
            "PRAGMA" => pragma(&words[1..]).map(|()| Self(text.to_owned())),
            word if FIRST_WORDS.contains(&word) => Ok(Self(text.to_owned())),
            word => Err(refused(word)),
        }
    }
}

fn refused(word: &str) -> Error {
    let why = match word {
        "ATTACH" | "DETACH" => "other files are not opened from here",
        "VACUUM" => "for a copy of the archive use `gms-recorder snapshot DEST`",
        _ => "the archive is only read here",
    };
    Error::Refused(format!("{word} is refused: {why}. A statement starts with {}", FIRST_WORDS.join(", ")))
}

fn pragma(words: &[&str]) -> Result<(), Error> {
    // `main.table_info(chats)` and `table_info(chats)` are the same.
    let words = match words {
        [_, ".", rest @ ..] => rest,
        _ => words,
    };
    let name = words.first().map(|word| word.to_ascii_lowercase()).unwrap_or_default();
    let allowed = match &words[words.len().min(1)..] {
        [] => PRAGMAS.contains(&name.as_str()),
        ["(", ..] => PRAGMAS_ABOUT.contains(&name.as_str()),
        _ => false,
    };
    match allowed {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "of PRAGMA only those that show something are allowed, without a value: {}",
            PRAGMAS.join(", ")
        ))),
    }
}

/// Splits SQL into words, punctuation and quoted pieces; comments and spaces are left out. Just enough to find the first
/// word and the end of a statement; SQLite does the rest.
fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    while let Some(c) = rest.chars().next() {
        let length = token_length(rest, c);
        let (token, after) = rest.split_at(length);
        let is_comment = token.starts_with("--") || token.starts_with("/*");
        if !c.is_whitespace() && !is_comment {
            found.push(token);
        }
        rest = after;
    }
    found
}

fn token_length(rest: &str, c: char) -> usize {
    let until = |end: &str, skip: usize| rest[skip..].find(end).map_or(rest.len(), |at| skip + at + end.len());
    match c {
        '-' if rest.starts_with("--") => until("\n", 2),
        '/' if rest.starts_with("/*") => until("*/", 2),
        // A doubled quote reads as two quoted pieces side by side: the end of both is right.
        '\'' => until("'", 1),
        '"' => until("\"", 1),
        '`' => until("`", 1),
        '[' => until("]", 1),
        _ if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        _ => c.len_utf8(),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

impl Archive {
    /// Runs a statement and hands on its column names, then row after row as they come. The time that `row` takes
    /// (a pager that waits for its reader) is not counted against `timeout`.
    ///
    /// # Errors
    /// What SQLite says to it, the time limit, or what `columns` or `row` return.
    pub async fn select(
        &mut self,
        select: &Select,
        timeout: Duration,
        columns: impl FnOnce(&[String]) -> io::Result<()>,
        mut row: impl FnMut(Vec<Value>) -> io::Result<()>,
    ) -> Result<(), SelectError> {
        let failed = |error: sqlx::Error| SelectError::Archive(said(error, timeout));
        let waited = self.limit(timeout).await.map_err(failed)?;
        let sql = || AssertSqlSafe(select.0.as_str()).into_sql_str();
        let statement = self.connection.prepare(sql()).await.map_err(failed)?;
        let names: Vec<_> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        columns(&names)?;
        let mut rows = sqlx::query(sql()).persistent(false).fetch(&mut self.connection);
        while let Some(found) = rows.try_next().await.map_err(failed)? {
            let before = Instant::now();
            row(values(&found).map_err(failed)?)?;
            waited.fetch_add(micros(before.elapsed()), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Dropping a query's future does not stop SQLite; this does. Returns where to add time that does not count.
    async fn limit(&mut self, timeout: Duration) -> Result<Arc<AtomicU64>, sqlx::Error> {
        const INSTRUCTIONS: i32 = 10_000; // some hundred microseconds
        let started = Instant::now();
        let waited = Arc::new(AtomicU64::new(0));
        let pauses = Arc::clone(&waited);
        let in_time =
            move || micros(started.elapsed()) < micros(timeout).saturating_add(pauses.load(Ordering::Relaxed));
        self.connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS, in_time);
        Ok(waited)
    }
}

/// Why a statement's result was not handed on whole.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The archive's side.
    #[error(transparent)]
    Archive(#[from] Error),
    /// The reader's side.
    #[error(transparent)]
    Output(#[from] io::Error),
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn said(error: sqlx::Error, timeout: Duration) -> Error {
    const INTERRUPT: i32 = 9;
    const ERROR: i32 = 1;
    const READONLY: i32 = 8;
    match primary_code(&error) {
        Some(INTERRUPT) => Error::TimedOut(timeout),
        Some(READONLY) => Error::Refused("the statement would write, and the archive is only read here".into()),
        Some(ERROR) => Error::Statement(format!("SQLite does not accept the statement: {}", message(&error))),
        _ => Error::Store(error),
    }
}

fn values(row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
    (0..row.len()).map(|index| value(row, index)).collect()
}

fn value(row: &SqliteRow, index: usize) -> Result<Value, sqlx::Error> {
    let kind = row.try_get_raw(index)?;
    if kind.is_null() {
        return Ok(Value::Null);
    }
    Ok(match kind.type_info().name() {
        "INTEGER" => Value::Integer(row.try_get_unchecked(index)?),
        "REAL" => Value::Real(row.try_get_unchecked(index)?),
        "BLOB" => Value::Blob(row.try_get_unchecked(index)?),
        _ => Value::Text(String::from_utf8_lossy(&row.try_get_unchecked::<Vec<u8>, _>(index)?).into_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn rows(archive: &mut Archive, sql: &str) -> Result<(Vec<String>, Vec<Vec<Value>>), SelectError> {
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        let select = Select::parse(sql)?;
        let columns = |found: &[String]| {
            names = found.to_vec();
            Ok(())
        };
        let row = |values| {
            rows.push(values);
            Ok(())
        };
        archive.select(&select, LONG, columns, row).await?;
        Ok((names, rows))
    }

    #[test]
    fn one_reading_statement_passes() {
        let rows = [
            "SELECT 1",
            "select 1;",
            "WITH a AS (SELECT 1) SELECT * FROM a ; ; -- done",
            "VALUES (1)",
            "EXPLAIN QUERY PLAN SELECT 1",
            "-- a; comment\n/* another; */ SELECT ';', \";\", [;], `;`, 'it''s; fine' -- ;",
            "SELECT 1 /* not closed",
            "PRAGMA table_info(events)",
            "pragma main.table_list",
            "PRAGMA user_version;",
            "SELECT 'not closed",
        ];
        for sql in rows {
            assert!(Select::parse(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_sentence() {
        let rows = [
            ("", "there is no statement"),
            (" ; ;", "there is no statement"),
            ("-- only a comment", "there is no statement"),
            ("SELECT 1; SELECT 2", "one statement at a time"),
            ("SELECT ';' ; DELETE FROM events", "one statement at a time"),
            ("SELECT 1;/**/VACUUM", "one statement at a time"),
            ("DELETE FROM events", "DELETE is refused: the archive is only read"),
            ("/* x */ insert INTO events VALUES (1)", "INSERT is refused"),
            ("ATTACH 'other.db' AS other", "other files are not opened"),
            ("VACUUM INTO 'copy.db'", "gms-recorder snapshot"),
            ("BEGIN", "BEGIN is refused"),
            ("PRAGMA query_only = 0", "without a value"),
            ("PRAGMA query_only(0)", "without a value"),
            ("PRAGMA main.journal_mode=DELETE", "without a value"),
            ("PRAGMA journal_mode(delete)", "without a value"),
            ("PRAGMA user_version(7)", "without a value"),
            ("PRAGMA writable_schema", "without a value"),
            ("PRAGMA", "without a value"),
            ("\u{202e}SELECT 1", "is refused"),
        ];
        for (sql, wanted) in rows {
            let why = Select::parse(sql).expect_err(sql).to_string();
            assert!(why.contains(wanted), "{sql}: {why}");
        }
    }

    #[tokio::test]
    async fn values_come_with_the_types_they_have() {
        let fixture = Fixture::example().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        let sql = "SELECT NULL AS a, -1, 1.5, 'x' || char(0) || 'y', x'00ff', CAST(x'ff41' AS TEXT)";
        let (names, found) = rows(&mut archive, sql).await.expect("rows");
        assert_eq!((names.len(), names[0].as_str()), (6, "a"));
        let text = |text: &str| Value::Text(text.into());
        let wanted = [
            Value::Null,
            Value::Integer(-1),
            Value::Real(1.5),
            text("x\0y"),
            Value::Blob(vec![0, 255]),
            text("\u{fffd}A"),
        ];
        assert_eq!(found, [wanted]);
        let (names, found) = rows(&mut archive, "SELECT chat_id, raw FROM events WHERE 0").await.expect("rows");
        assert_eq!((names, found.len()), (vec!["chat_id".to_owned(), "raw".to_owned()], 0));
    }

    #[tokio::test]
    async fn what_would_write_all_the_same_meets_a_read_only_file() {
        let fixture = Fixture::example().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        for (sql, wanted) in [
            ("WITH x AS (SELECT 1) DELETE FROM events", "only read here"),
            ("WITH x AS (SELECT 1) INSERT INTO runs SELECT * FROM runs", "only read here"),
            ("SELECT * FROM absent", "no such table"),
            ("SELECT FROM", "syntax error"),
            ("SELECT load_extension('x')", "not authorized"),
        ] {
            let why = rows(&mut archive, sql).await.expect_err(sql).to_string();
            assert!(why.contains(wanted), "{sql}: {why}");
        }
        let (_, found) = rows(&mut archive, "SELECT count(*) FROM events").await.expect("rows");
        assert_eq!(found, [[Value::Integer(18)]]);
    }

    #[tokio::test]
    async fn a_statement_that_takes_too_long_is_stopped() {
        const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        let fixture = Fixture::example().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        let select = Select::parse(ENDLESS).expect("a statement");
        let stopped = archive.select(&select, Duration::from_millis(50), |_| Ok(()), |_| Ok(())).await;
        assert!(matches!(stopped, Err(SelectError::Archive(Error::TimedOut(_)))), "{stopped:?}");
        let (_, found) = rows(&mut archive, "SELECT 1").await.expect("the connection goes on");
        assert_eq!(found, [[Value::Integer(1)]]);
    }

    #[tokio::test]
    async fn a_reader_that_stops_reading_ends_it() {
        let fixture = Fixture::example().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        let select = Select::parse("SELECT * FROM events").expect("a statement");
        let broken = |_| Err(io::ErrorKind::BrokenPipe.into());
        let ended = archive.select(&select, LONG, |_| Ok(()), broken).await;
        assert!(matches!(ended, Err(SelectError::Output(_))), "{ended:?}");
    }
}
