//! A list of chat ids from elsewhere, held against an archive. The list is a temporary table of the reader's own, which goes to
//! a temporary file where it is long; the archive is not written to.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use super::period::Span;
use super::{Archive, Error};

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which one.
    pub line: i64,
    /// The chat's id, as it stands there.
    pub chat_id: String,
    /// When it was, if the list says so; milliseconds since the epoch.
    pub at: Option<i64>,
}

/// What list and archive have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Different ids in the list.
    pub listed: i64,
    /// Those of them that are chats of the archive.
    pub both: i64,
    /// Chats of the archive.
    pub chats: i64,
    /// From the earliest to the latest time of the list; where it has none, from the first to the last beginning of what both
    /// have. None where there is neither.
    pub span: Option<Span>,
}

/// An id of the list that is no chat of the archive, and what is known of it all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its line.
    pub listed: Listed,
    /// It was removed: how, when, why.
    pub removed: Option<String>,
    /// A chat whose id is this one in other letters, large for small.
    pub other_spelling: Option<String>,
    /// Errors that its client was given.
    pub errors: i64,
    /// Findings of it.
    pub findings: i64,
}

/// A chat of the archive that is not in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `chats` and `completeness`, and a count of messages")]
pub struct Unlisted {
    pub chat_id: String,
    pub service: Option<String>,
    pub first_seen_at: i64,
    pub last_seen_at: i64,
    pub status: String,
    pub messages: i64,
}

impl Archive {
    /// Begins a list, and forgets another one.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn begin_list(&mut self) -> Result<(), Error> {
        let sql = "PRAGMA query_only = OFF; DROP TABLE IF EXISTS temp.listed; DROP TABLE IF EXISTS temp.spelt;
            CREATE TEMP TABLE listed (line INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at INTEGER);
            CREATE TEMP TABLE spelt (id TEXT PRIMARY KEY, other TEXT NOT NULL)";
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Adds lines. How many of them are of ids that it has already.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn list(&mut self, lines: &[Listed]) -> Result<u64, Error> {
        let rows: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::json!([line.line, line.chat_id, line.at])).collect();
        let insert = "INSERT OR IGNORE INTO temp.listed (line, id, at)
            SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)";
        let rows = serde_json::Value::from(rows).to_string();
        let inserted = sqlx::query(insert).bind(rows).execute(&mut self.connection).await?.rows_affected();
        Ok(lines.len() as u64 - inserted)
    }

    /// Ends it: from now on the archive is as it is at this moment, until [`Archive::close`].
    ///
    /// # Errors
    /// As SQLite.
    pub async fn end_list(&mut self) -> Result<Overlap, Error> {
        sqlx::raw_sql("BEGIN").execute(&mut self.connection).await?;
        let sql = "SELECT count(*), count(c.chat_id), min(l.at), max(l.at), min(c.first_seen_at), max(c.first_seen_at),
                (SELECT count(*) FROM chats)
            FROM temp.listed l LEFT JOIN chats c ON c.chat_id = l.id";
        type Found = (i64, i64, Option<i64>, Option<i64>, Option<i64>, Option<i64>, i64);
        let (listed, both, first_at, last_at, first_seen, last_seen, chats): Found =
            sqlx::query_as(sql).fetch_one(&mut self.connection).await?;
        if both < listed {
            self.look_for_other_spellings().await?;
        }
        sqlx::raw_sql("PRAGMA query_only = ON").execute(&mut self.connection).await?;
        let span = first_at.zip(last_at).or(first_seen.zip(last_seen));
        let span = span.map(|(from, last)| Span { from, until: last + 1 });
        Ok(Overlap { listed, both, chats, span })
    }

    /// No index has ids in other letters: all chats are looked at once.
    async fn look_for_other_spellings(&mut self) -> Result<(), Error> {
        let sql = "CREATE TEMP TABLE missing (lower TEXT NOT NULL, id TEXT NOT NULL);
            INSERT INTO temp.missing SELECT lower(trim(id)), id FROM temp.listed
                WHERE NOT EXISTS (SELECT 1 FROM chats c WHERE c.chat_id = id);
            CREATE INDEX temp.missing_by_lower ON missing (lower);
            INSERT OR IGNORE INTO temp.spelt
                SELECT m.id, c.chat_id FROM chats c CROSS JOIN temp.missing m ON m.lower = lower(c.chat_id);
            DROP TABLE temp.missing";
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Up to `limit` ids of the list that are no chats of the archive, by their lines, after one.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn missing(&mut self, after_line: i64, limit: i64) -> Result<Vec<Missing>, Error> {
        let removed = "(SELECT how || ' at ' || at || coalesce(' (' || reason || ')', '') FROM removals r
            WHERE r.chat_id = l.id LIMIT 1)";
        let removed = if self.has("removals").await? { removed } else { "NULL" };
        let sql = format!(
            "SELECT l.line, l.id, l.at, {removed} AS removed,
                 (SELECT s.other FROM temp.spelt s WHERE s.id = l.id) AS other_spelling,
                 (SELECT coalesce(sum(a.repeats), 0) FROM api_errors a WHERE a.chat_id = l.id) AS errors,
                 (SELECT count(*) FROM findings f WHERE f.chat_id = l.id) AS findings
             FROM temp.listed l WHERE l.line > ? AND NOT EXISTS (SELECT 1 FROM chats c WHERE c.chat_id = l.id)
             ORDER BY l.line LIMIT ?"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(after_line).bind(limit);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// How many chats began in a span, and how many of them are in the list.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn begun_and_listed(&mut self, span: Span) -> Result<(i64, i64), Error> {
        let sql = "SELECT count(*), count(l.id) FROM chats c LEFT JOIN temp.listed l ON l.id = c.chat_id
            WHERE c.last_seen_at >= ?1 AND c.first_seen_at >= ?1 AND c.first_seen_at < ?2";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_one(&mut self.connection).await?)
    }

    /// Up to `limit` chats that began in a span and are not in the list, the first that began first, after one.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn unlisted(&mut self, span: Span, after: Option<&Unlisted>, limit: i64) -> Result<Vec<Unlisted>, Error> {
        let sql = "SELECT c.chat_id, c.service, c.first_seen_at, c.last_seen_at, k.status,
                (SELECT count(*) FROM events e WHERE e.chat_id = c.chat_id AND e.type = 'Message') AS messages
            FROM (SELECT * FROM chats c
                   WHERE c.last_seen_at >= ?1 AND c.first_seen_at >= ?1 AND c.first_seen_at < ?2
                     AND (c.first_seen_at, c.chat_id) > (?3, ?4)
                     AND NOT EXISTS (SELECT 1 FROM temp.listed l WHERE l.id = c.chat_id)
                   ORDER BY c.first_seen_at, c.chat_id LIMIT ?5) c
            JOIN completeness k ON k.chat_id = c.chat_id ORDER BY c.first_seen_at, c.chat_id";
        let (seen, id) = after.map_or((i64::MIN, ""), |after| (after.first_seen_at, after.chat_id.as_str()));
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(seen).bind(id).bind(limit);
        Ok(query.fetch_all(&mut self.connection).await?)
    }
}

impl FromRow<'_, SqliteRow> for Missing {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            listed: Listed { line: row.try_get("line")?, chat_id: row.try_get("id")?, at: row.try_get("at")? },
            removed: row.try_get("removed")?,
            other_spelling: row.try_get("other_spelling")?,
            errors: row.try_get("errors")?,
            findings: row.try_get("findings")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Unlisted {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            chat_id: row.try_get("chat_id")?,
            service: row.try_get("service")?,
            first_seen_at: row.try_get("first_seen_at")?,
            last_seen_at: row.try_get("last_seen_at")?,
            status: row.try_get("status")?,
            messages: row.try_get("messages")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[tokio::test]
    async fn a_list_is_held_against_the_archive_and_leaves_nothing_in_it() {
        let fixture = Fixture::with(
            "INSERT INTO chats VALUES ('a', 's', 10, 20, NULL, NULL, NULL, 0, NULL), ('B', NULL, 30, 40, NULL, NULL, NULL, 0, NULL),
                 ('c', NULL, 50, 60, NULL, NULL, NULL, 0, NULL);
             INSERT INTO acts (id, kind, at, who, host, asked, reason, version) VALUES (1, 'erase', 1, 'w', 'h', '{}', 'why', 'v');
             INSERT INTO erasures (act_id, chat_id, how, at, events, rows, leaves) VALUES (1, 'gone', 'erased', 0, 1, 1, x'')",
        )
        .await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        let listed = |line, chat_id: &str, at| Listed { line, chat_id: chat_id.into(), at };
        archive.begin_list().await.expect("begun");
        let lines = [listed(2, "a", None), listed(3, "b", None), listed(4, "a", None), listed(5, "gone", None)];
        assert_eq!(archive.list(&lines).await.expect("listed"), 1);
        let overlap = archive.end_list().await.expect("ended");
        assert_eq!(overlap, Overlap { listed: 3, both: 1, chats: 3, span: Some(Span { from: 10, until: 11 }) });
        let missing = archive.missing(0, 10).await.expect("read");
        let told: Vec<_> = missing.iter().map(|one| (one.listed.line, one.other_spelling.as_deref())).collect();
        assert_eq!(told, [(3, Some("B")), (5, None)]);
        assert_eq!(missing[1].removed.as_deref(), Some("erased at 1970-01-01T00:00:00.000Z (why)"));
        assert_eq!(archive.missing(3, 10).await.expect("read").len(), 1);
        let all = Span { from: 0, until: 100 };
        assert_eq!(archive.begun_and_listed(all).await.expect("read"), (3, 1));
        let mut found: Vec<Unlisted> = Vec::new();
        while let Some(one) = archive.unlisted(all, found.last(), 1).await.expect("read").pop() {
            found.push(one);
        }
        assert_eq!(found.iter().map(|one| one.chat_id.as_str()).collect::<Vec<_>>(), ["B", "c"]);
        let written = sqlx::query("CREATE TABLE temp.more (a)").execute(&mut archive.connection).await;
        assert!(written.is_err(), "it reads only");
        archive.close().await.expect("closed");
        assert_eq!(Archive::open(&fixture.path).await.expect("open").totals().await.expect("read").chats, 3);
    }
}
