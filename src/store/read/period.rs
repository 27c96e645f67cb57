//! What an archive knows of a stretch of time: when it was recorded, what was seen, what is missing, what went wrong, what was
//! done. Each question is asked by an index where there is one, and what comes back is bounded by the calendar or a limit, not
//! by how much was recorded.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, Row};

use super::{Archive, Error, json_list};
use crate::store::seal::{ERRORS, EVENTS, KeyValue, Refs};
use crate::units;

/// A stretch of time, half-open; milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Its beginning.
    #[serde(serialize_with = "units::as_iso")]
    pub from: i64,
    /// What comes after it.
    #[serde(serialize_with = "units::as_iso")]
    pub until: i64,
}

/// What counts are given by, so that days of any zone can be made of them: all zones are whole quarters from UTC.
pub const QUARTER_MS: i64 = 900_000;

/// A time that `serve` ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub run_id: i64,
    /// Of which recorder: the archive it was recorded into, where it is another one than this; else empty.
    pub recorder: String,
    /// Its host, or what the operator set.
    pub instance: String,
    /// Program version.
    pub version: String,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// None: it goes on, or it died.
    pub stopped_at: Option<i64>,
    /// `pass`, `spool`, `refuse`.
    pub when_unavailable: String,
    /// Who sealed its rows: `itself`, `later`, `nobody`, `pending`.
    pub sealing: String,
    /// What it said of itself at its end, JSON.
    pub ledger: Option<String>,
    /// When its account was last written. None of releases that had none.
    pub heard_at: Option<i64>,
}

/// A row of `outages` that touches a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the columns of `outages`")]
pub struct OutageRow {
    #[serde(serialize_with = "units::as_iso")]
    pub started_at: i64,
    #[serde(serialize_with = "units::as_iso_or_none")]
    pub ended_at: Option<i64>,
    pub reason: String,
    pub detail: Option<String>,
    pub events: i64,
    pub answers: i64,
    pub delivered_early: i64,
    pub refused: i64,
    pub dropped: i64,
    pub spooled: i64,
}

/// How often something was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// What.
    pub what: String,
    /// How often.
    pub count: i64,
}

/// Errors of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the columns of `api_errors` and `error_codes`")]
pub struct ErrorKind {
    pub code: Option<i64>,
    pub http_status: Option<i64>,
    pub origin: String,
    pub class: String,
    pub meaning: Option<String>,
    pub remedy: Option<String>,
    pub errors: i64,
    pub chats: i64,
}

/// A chat, and why it is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the columns of `chats`")]
pub struct ChatCount {
    pub chat_id: String,
    pub service: Option<String>,
    #[serde(serialize_with = "units::as_iso_or_none")]
    pub first_seen_at: Option<i64>,
    pub count: i64,
}

/// What was removed or masked, of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "sums of the columns of `erasures`")]
pub struct Removed {
    pub how: String,
    pub acts: i64,
    pub chats: i64,
    pub events: i64,
    pub rows: i64,
}

/// A signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `checkpoints`")]
pub struct CheckpointRow {
    pub number: i64,
    pub size: i64,
    pub at: i64,
    pub note: String,
}

/// Holds, as they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Set in the span.
    pub set: i64,
    /// Released in it.
    pub released: i64,
    /// In force at its end.
    pub in_force: i64,
    /// Erasures that wait for one now.
    pub waiting_erasures: i64,
}

impl Archive {
    /// Its id, and when it was made.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn identity(&mut self) -> Result<(String, i64), Error> {
        let sql = "SELECT archive_id, created_at FROM archive";
        Ok(sqlx::query_as(sql).fetch_one(&mut self.connection).await?)
    }

    /// Whether it is a copy (`backup`, `snapshot`): only the archive itself has a write-ahead log. Not known, and false, of a
    /// file that this user cannot read as one with a log.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn is_copy(&mut self) -> Result<bool, Error> {
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut self.connection).await?;
        Ok(mode != "wal" && !self.is_immutable && !self.is_united)
    }

    /// When it was put back from a backup, the first time first.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn restored_at(&mut self) -> Result<Vec<i64>, Error> {
        if !self.has("acts").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT at FROM acts WHERE kind = 'restore' ORDER BY at";
        Ok(sqlx::query_scalar(sql).fetch_all(&mut self.connection).await?)
    }

    /// All runs, the first first.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn runs(&mut self) -> Result<Vec<Run>, Error> {
        let or = |has: bool, sql: &'static str, other: &'static str| if has { sql } else { other };
        let recorder = super::recorder_sql(self.has("merged_rows").await?);
        let heard_at = "(SELECT max(a.at) FROM accounts a WHERE a.run_id = r.run_id)";
        let heard_at = or(self.has("accounts").await?, heard_at, "NULL");
        let sealing = or(self.has("seals").await?, "r.sealing", "'nobody'");
        let sql = format!(
            "SELECT r.run_id, {recorder} AS recorder, r.instance, r.version, r.started_at, r.stopped_at, r.when_unavailable,
                 {sealing} AS sealing, r.ledger, {heard_at} AS heard_at FROM runs r ORDER BY r.started_at, r.run_id"
        );
        Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut self.connection).await?)
    }

    /// When a chat was last seen before a moment.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn last_seen_before(&mut self, at: i64) -> Result<Option<i64>, Error> {
        let sql = "SELECT max(last_seen_at) FROM chats WHERE last_seen_at < ?";
        Ok(sqlx::query_scalar(sql).bind(at).fetch_one(&mut self.connection).await?)
    }

    /// The account of the hours (UTC) that begin in a span, by the hour: milliseconds since the epoch, and its numbers in the
    /// order of [`crate::telemetry::metrics::Account::numbers`].
    ///
    /// # Errors
    /// As SQLite.
    pub async fn account(&mut self, span: Span) -> Result<Vec<(i64, [i64; 10])>, Error> {
        if !self.has("accounts").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT hour, sum(seen), sum(new), sum(duplicate), sum(variant), sum(finding), sum(suppressed),
                sum(refused), sum(dropped), sum(in_flight), sum(delivered_early)
            FROM accounts WHERE hour >= ? AND hour < ? GROUP BY hour ORDER BY hour";
        let rows: Vec<SqliteRow> =
            sqlx::query(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?;
        let read = |row: &SqliteRow| {
            let mut numbers = [0; 10];
            for (at, number) in numbers.iter_mut().enumerate() {
                *number = row.try_get(at + 1)?;
            }
            Ok((row.try_get(0)?, numbers))
        };
        rows.iter().map(read).collect()
    }

    /// Up to `limit` outages that touch a span, the first first.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn outages(&mut self, span: Span, limit: i64) -> Result<Vec<OutageRow>, Error> {
        let spooled = if self.has("spools").await? { "spooled" } else { "0" };
        let sql = format!(
            "SELECT started_at, ended_at, reason, detail, events, answers, delivered_early, refused, dropped,
                 {spooled} AS spooled FROM outages
             WHERE started_at < ? AND coalesce(ended_at, started_at) >= ? ORDER BY started_at, id LIMIT ?"
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(span.until).bind(span.from).bind(limit);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// Chats that were seen in a span, by the status that they have now: status, chats, and how many of them began in it.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn statuses(&mut self, span: Span) -> Result<Vec<(String, i64, i64)>, Error> {
        let sql = "SELECT k.status, count(*), sum(c.first_seen_at >= ?1)
            FROM chats c JOIN completeness k ON k.chat_id = c.chat_id
            WHERE c.last_seen_at >= ?1 AND c.first_seen_at < ?2 GROUP BY k.status ORDER BY k.status";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?)
    }

    /// Chats that began in a span, by the quarter of an hour.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn chats_begun(&mut self, span: Span) -> Result<Vec<(i64, i64)>, Error> {
        let sql = "SELECT first_seen_at / ?3 * ?3, count(*) FROM chats
            WHERE last_seen_at >= ?1 AND first_seen_at >= ?1 AND first_seen_at < ?2 GROUP BY 1 ORDER BY 1";
        self.by_quarter(sql, span).await
    }

    /// Events that were recorded in a span and are here, by the quarter of an hour.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn events_recorded(&mut self, span: Span) -> Result<Vec<(i64, i64)>, Error> {
        // No index has the time of an event: the chats of the span have it among theirs.
        let sql = "SELECT e.recorded_at / ?3 * ?3, count(*) FROM chats c CROSS JOIN events e ON e.chat_id = c.chat_id
            WHERE c.last_seen_at >= ?1 AND c.first_seen_at < ?2 AND e.recorded_at >= ?1 AND e.recorded_at < ?2
            GROUP BY 1 ORDER BY 1";
        self.by_quarter(sql, span).await
    }

    async fn by_quarter(&mut self, sql: &'static str, span: Span) -> Result<Vec<(i64, i64)>, Error> {
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(QUARTER_MS);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// Errors that clients were given in a span, by the quarter of an hour and by class.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn errors_by_class(&mut self, span: Span) -> Result<Vec<(i64, String, i64)>, Error> {
        let sql = "SELECT observed_at / ?3 * ?3, class, sum(repeats) FROM api_errors
            WHERE observed_at >= ?1 AND observed_at < ?2 GROUP BY 1, 2 ORDER BY 1, 2";
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(QUARTER_MS);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// The same by code, most first.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn errors_by_code(&mut self, span: Span, limit: i64) -> Result<Vec<ErrorKind>, Error> {
        let sql = "SELECT a.code, CASE WHEN a.code IS NULL THEN a.http_status END AS http_status, a.origin, a.class,
                coalesce(max(c.meaning), max(a.meaning)) AS meaning, max(c.remedy) AS remedy,
                sum(a.repeats) AS errors, count(DISTINCT a.chat_id) AS chats
            FROM api_errors a LEFT JOIN error_codes c ON c.code = a.code
            WHERE a.observed_at >= ? AND a.observed_at < ? GROUP BY 1, 2, 3, 4
            ORDER BY errors DESC, a.code, http_status, a.origin, a.class LIMIT ?";
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(limit);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// The same by node, most first.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn errors_by_node(&mut self, span: Span, limit: i64) -> Result<Vec<Count>, Error> {
        let sql = "SELECT coalesce(node, '') AS what, sum(repeats) AS count FROM api_errors
            WHERE observed_at >= ? AND observed_at < ? GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?";
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(limit);
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// The chats with most of them, and how many chats have any.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn errors_by_chat(&mut self, span: Span, limit: i64) -> Result<(Vec<ChatCount>, i64), Error> {
        let sql = "SELECT a.chat_id, max(c.service) AS service, max(c.first_seen_at) AS first_seen_at, sum(a.repeats) AS count
            FROM api_errors a LEFT JOIN chats c ON c.chat_id = a.chat_id
            WHERE a.observed_at >= ? AND a.observed_at < ? AND a.chat_id IS NOT NULL
            GROUP BY a.chat_id ORDER BY count DESC, a.chat_id LIMIT ?";
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(limit);
        let chats = query.fetch_all(&mut self.connection).await?;
        let sql = "SELECT count(DISTINCT chat_id) FROM api_errors WHERE observed_at >= ? AND observed_at < ?";
        let all = sqlx::query_scalar(sql).bind(span.from).bind(span.until).fetch_one(&mut self.connection).await?;
        Ok((chats, all))
    }

    /// Chats with events that were delivered with other content in a span, most first, and how many there are.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn variants_by_chat(&mut self, span: Span, limit: i64) -> Result<(Vec<ChatCount>, i64), Error> {
        let sql =
            "SELECT v.chat_id, max(c.service) AS service, max(c.first_seen_at) AS first_seen_at, count(*) AS count
            FROM event_variants v LEFT JOIN chats c ON c.chat_id = v.chat_id
            WHERE v.recorded_at >= ? AND v.recorded_at < ?
            GROUP BY v.chat_id ORDER BY count DESC, v.chat_id LIMIT ?";
        let query = sqlx::query_as(sql).bind(span.from).bind(span.until).bind(limit);
        let chats = query.fetch_all(&mut self.connection).await?;
        let sql = "SELECT count(DISTINCT chat_id) FROM event_variants WHERE recorded_at >= ? AND recorded_at < ?";
        let all = sqlx::query_scalar(sql).bind(span.from).bind(span.until).fetch_one(&mut self.connection).await?;
        Ok((chats, all))
    }

    /// Findings that were first observed in a span, by kind.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn findings(&mut self, span: Span) -> Result<Vec<Count>, Error> {
        let sql = "SELECT kind AS what, count(*) AS count FROM findings WHERE observed_at >= ? AND observed_at < ?
            GROUP BY kind ORDER BY 2 DESC, 1";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?)
    }

    /// Maskings of what was recorded in a span, by rule; those of `mask`, later, are among the removals.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn maskings(&mut self, span: Span) -> Result<Vec<Count>, Error> {
        if !self.has("maskings").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT rule AS what, count(*) AS count FROM maskings
            WHERE recorded_at >= ? AND recorded_at < ? AND run_id > 0 GROUP BY rule ORDER BY 2 DESC, 1";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?)
    }

    /// Files that went through in a span, by direction and outcome.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn files(&mut self, span: Span) -> Result<Vec<Count>, Error> {
        if !self.has("file_transfers").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT direction || ', ' || outcome AS what, count(*) AS count FROM file_transfers
            WHERE at >= ? AND at < ? GROUP BY 1 ORDER BY 2 DESC, 1";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?)
    }

    /// What people did with the archive in a span, by kind.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn acts_by_kind(&mut self, span: Span) -> Result<Vec<Count>, Error> {
        if !self.has("acts").await? {
            return Ok(Vec::new());
        }
        let sql =
            "SELECT kind AS what, count(*) AS count FROM acts WHERE at >= ? AND at < ? GROUP BY kind ORDER BY kind";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?)
    }

    /// What was removed or masked later in a span, by how: `words in acts` are the stars that an erasure puts into acts.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn removed(&mut self, span: Span) -> Result<Vec<Removed>, Error> {
        if !self.has("acts").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT CASE WHEN how = 'masked' AND (SELECT kind FROM acts WHERE id = act_id) <> 'mask' THEN 'words in acts'
                    ELSE how END AS means, count(DISTINCT act_id) AS acts, count(DISTINCT chat_id) AS chats,
                sum(events) AS events, sum(rows) AS rows
            FROM erasures WHERE at >= ? AND at < ? GROUP BY means ORDER BY means";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_all(&mut self.connection).await?)
    }

    /// Chats that were last seen in a span and were removed since, whenever: chats, and their events.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn removed_since(&mut self, span: Span) -> Result<(i64, i64), Error> {
        if !self.has("acts").await? {
            return Ok((0, 0));
        }
        let sql = "SELECT count(DISTINCT chat_id), coalesce(sum(events), 0) FROM erasures
            WHERE how <> 'masked' AND chat_id IS NOT NULL AND last_seen_at >= ? AND first_seen_at < ?";
        Ok(sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_one(&mut self.connection).await?)
    }

    /// Holds.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn holds(&mut self, span: Span) -> Result<Holds, Error> {
        if !self.has("acts").await? {
            return Ok(Holds::default());
        }
        let sql =
            "SELECT coalesce(sum(at >= ?1 AND at < ?2), 0), coalesce(sum(released_at >= ?1 AND released_at < ?2), 0),
                coalesce(sum(at < ?2 AND coalesce(released_at, ?2) >= ?2), 0),
                (SELECT count(*) FROM waiting_erasures WHERE done_by IS NULL) FROM holds";
        let (set, released, in_force, waiting_erasures) =
            sqlx::query_as(sql).bind(span.from).bind(span.until).fetch_one(&mut self.connection).await?;
        Ok(Holds { set, released, in_force, waiting_erasures })
    }

    /// Of these chats: what could not be read in them, by kind. Chat, kind, how often.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn findings_of(&mut self, chat_ids: &[String]) -> Result<Vec<(String, String, i64)>, Error> {
        let sql = "SELECT chat_id, kind, sum(repeats) FROM findings WHERE chat_id IN (SELECT value FROM json_each(?))
            GROUP BY chat_id, kind ORDER BY chat_id, kind";
        Ok(sqlx::query_as(sql).bind(json_list(chat_ids)).fetch_all(&mut self.connection).await?)
    }

    /// Of these chats: how many errors their clients were given.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn errors_of(&mut self, chat_ids: &[String]) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT chat_id, sum(repeats) FROM api_errors WHERE chat_id IN (SELECT value FROM json_each(?))
            GROUP BY chat_id";
        Ok(sqlx::query_as(sql).bind(json_list(chat_ids)).fetch_all(&mut self.connection).await?)
    }

    /// The first checkpoint that was signed at a moment or later; with none, None. They are in the order of time.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn checkpoint_from(&mut self, at: i64) -> Result<Option<CheckpointRow>, Error> {
        let Some(last) = self.checkpoint(i64::MAX).await?.filter(|last| last.at >= at) else { return Ok(None) };
        // No index has their times, and their rows are long.
        let (mut below, mut found) = (0, last);
        while below + 1 < found.number {
            let middle = below + (found.number - below) / 2;
            match self.checkpoint(middle).await? {
                Some(row) if row.at >= at => found = row,
                _ => below = middle,
            }
        }
        Ok(Some(found))
    }

    /// The last checkpoint before a moment that no command signed, at the end of what it did: whoever serves the archive did.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn signed_by_serve_before(&mut self, at: i64) -> Result<Option<i64>, Error> {
        let mut number = self.checkpoint_from(at).await?.map_or(i64::MAX, |checkpoint| checkpoint.number - 1);
        let sql = "SELECT 1 FROM acts WHERE kind <> 'read' AND who <> 'serve' AND at >= ?1 - 86400000
            AND ended_at BETWEEN ?1 - 15000 AND ?1 LIMIT 1";
        let has_acts = self.has("acts").await?;
        while let Some(checkpoint) = self.checkpoint(number).await? {
            let is_a_commands =
                has_acts && sqlx::query(sql).bind(checkpoint.at).fetch_optional(&mut self.connection).await?.is_some();
            if checkpoint.at < at && !is_a_commands {
                return Ok(Some(checkpoint.at));
            }
            number = checkpoint.number - 1;
        }
        Ok(None)
    }

    /// The last checkpoint of up to this number.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn checkpoint(&mut self, number: i64) -> Result<Option<CheckpointRow>, Error> {
        if !self.has("checkpoints").await? {
            return Ok(None);
        }
        let sql = "SELECT number, size, at, note FROM checkpoints WHERE number <= ? ORDER BY number DESC LIMIT 1";
        Ok(sqlx::query_as(sql).bind(number).fetch_optional(&mut self.connection).await?)
    }

    /// Whether rows may have come into the archive since a moment that were recorded before: of another archive, or of a spool.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn has_taken_in(&mut self, since: i64) -> Result<bool, Error> {
        for (table, at) in [("merges", "coalesce(ended_at, 9223372036854775807)"), ("spools", "at")] {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {at} >= ?)");
            if self.has(table).await?
                && sqlx::query_scalar::<_, bool>(AssertSqlSafe(sql)).bind(since).fetch_one(&mut self.connection).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether events or errors of a span lie behind the first `size` leaves; also where there are too many to look at.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn has_unsigned(&mut self, size: i64, span: Span) -> Result<bool, Error> {
        const PACKS_MAX: usize = 2_000;
        let sql = "SELECT refs FROM seals WHERE first_leaf >= ? ORDER BY first_leaf LIMIT ?";
        let packs: Vec<Vec<u8>> =
            sqlx::query_scalar(sql).bind(size).bind(PACKS_MAX as i64).fetch_all(&mut self.connection).await?;
        for refs in &packs {
            let mut refs = Refs::of(refs);
            while let Some((form, key)) = refs.next_row() {
                let query = match (form.number, &key[..]) {
                    (EVENTS, [KeyValue::Text(chat_id), KeyValue::Integer(index)]) => {
                        let sql = "SELECT recorded_at FROM events WHERE chat_id = ? AND event_index = ?";
                        sqlx::query_scalar::<_, i64>(sql).bind(chat_id).bind(index)
                    }
                    (ERRORS, [KeyValue::Integer(id)]) => {
                        sqlx::query_scalar("SELECT last_observed_at FROM api_errors WHERE id = ?").bind(id)
                    }
                    _ => continue,
                };
                let at = query.fetch_optional(&mut self.connection).await?;
                if at.is_some_and(|at| (span.from..span.until).contains(&at)) {
                    return Ok(true);
                }
            }
        }
        Ok(packs.len() == PACKS_MAX)
    }

    /// The public keys of its checkpoints, the present one last.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn public_keys(&mut self) -> Result<Vec<String>, Error> {
        if !self.has("keys").await? {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_scalar("SELECT vkey FROM keys ORDER BY id").fetch_all(&mut self.connection).await?)
    }
}

impl FromRow<'_, SqliteRow> for Run {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            run_id: row.try_get("run_id")?,
            recorder: row.try_get("recorder")?,
            instance: row.try_get("instance")?,
            version: row.try_get("version")?,
            started_at: row.try_get("started_at")?,
            stopped_at: row.try_get("stopped_at")?,
            when_unavailable: row.try_get("when_unavailable")?,
            sealing: row.try_get("sealing")?,
            ledger: row.try_get("ledger")?,
            heard_at: row.try_get("heard_at")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for OutageRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            started_at: row.try_get("started_at")?,
            ended_at: row.try_get("ended_at")?,
            reason: row.try_get("reason")?,
            detail: row.try_get("detail")?,
            events: row.try_get("events")?,
            answers: row.try_get("answers")?,
            delivered_early: row.try_get("delivered_early")?,
            refused: row.try_get("refused")?,
            dropped: row.try_get("dropped")?,
            spooled: row.try_get("spooled")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Count {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self { what: row.try_get("what")?, count: row.try_get("count")? })
    }
}

impl FromRow<'_, SqliteRow> for ErrorKind {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            code: row.try_get("code")?,
            http_status: row.try_get("http_status")?,
            origin: row.try_get("origin")?,
            class: row.try_get("class")?,
            meaning: row.try_get("meaning")?,
            remedy: row.try_get("remedy")?,
            errors: row.try_get("errors")?,
            chats: row.try_get("chats")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for ChatCount {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            chat_id: row.try_get("chat_id")?,
            service: row.try_get("service")?,
            first_seen_at: row.try_get("first_seen_at")?,
            count: row.try_get("count")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for Removed {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            how: row.try_get("means")?,
            acts: row.try_get("acts")?,
            chats: row.try_get("chats")?,
            events: row.try_get("events")?,
            rows: row.try_get("rows")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for CheckpointRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            number: row.try_get("number")?,
            size: row.try_get("size")?,
            at: row.try_get("at")?,
            note: row.try_get("note")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[tokio::test]
    async fn checkpoints_are_found_by_their_times() {
        let minutes = [1, 2, 3, 10, 11, 12, 13, 30];
        let rows: Vec<String> = minutes
            .iter()
            .enumerate()
            .map(|(at, minute)| format!("({}, 1, {}, '')", at + 1, minute * 60_000))
            .collect();
        let fixture = Fixture::with(&format!("INSERT INTO checkpoints VALUES {}", rows.join(", "))).await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        for at in 0..=31 {
            let found = archive.checkpoint_from(at * 60_000).await.expect("read").map(|row| row.number);
            let wanted = minutes.iter().position(|minute| *minute >= at).map(|at| at as i64 + 1);
            assert_eq!(found, wanted, "minute {at}");
        }
        assert_eq!(archive.checkpoint(5).await.expect("read").map(|row| row.at), Some(11 * 60_000));
    }

    /// What somebody does with an archive that nobody serves is signed, and is no sign that it was served.
    #[tokio::test]
    async fn what_a_command_signed_is_no_sign_of_a_recorder() {
        let fixture = Fixture::with(
            "INSERT INTO checkpoints VALUES (1, 1, 60000, ''), (2, 2, 120000, ''), (3, 3, 600000, ''), (4, 4, 610000, '');
             INSERT INTO acts VALUES (1, 'hold', 599000, 599500, 'root', NULL, 'h', NULL, '{}', 'r', 1, 'v'),
                 (2, 'erase', 600500, 609900, 'root', NULL, 'h', NULL, '{}', 'r', 1, 'v'),
                 (3, 'purge', 119000, 119500, 'serve', NULL, 'h', NULL, '{}', NULL, 1, 'v'),
                 (4, 'read', 119800, 119900, 'root', NULL, 'h', NULL, '{}', NULL, 1, 'v')",
        )
        .await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        for (before, wanted) in
            [(700_000, Some(120_000)), (120_000, Some(60_000)), (60_000, None), (60_001, Some(60_000))]
        {
            assert_eq!(archive.signed_by_serve_before(before).await.expect("read"), wanted, "{before}");
        }
    }

    #[tokio::test]
    async fn what_the_example_has_is_counted_by_its_time() {
        let fixture = Fixture::example().await;
        let mut archive = Archive::open(&fixture.path).await.expect("open");
        let hour = Span { from: 1_795_438_800_000, until: 1_795_442_400_000 };
        let statuses = archive.statuses(hour).await.expect("read");
        assert_eq!(statuses, [("complete".to_owned(), 1, 1), ("incomplete".to_owned(), 1, 1)]);
        assert_eq!(archive.chats_begun(hour).await.expect("read"), [(1_795_438_800_000, 2)]);
        let errors = archive.errors_by_class(hour).await.expect("read");
        let quarter = 1_795_438_800_000;
        assert_eq!(errors, [(quarter, "media_server".to_owned(), 3), (quarter, "transport".to_owned(), 1)]);
        let codes = archive.errors_by_code(hour, 10).await.expect("read");
        let told: Vec<_> = codes.iter().map(|kind| (kind.code, kind.http_status, kind.errors, kind.chats)).collect();
        assert_eq!(told, [(Some(249), None, 3, 1), (None, Some(503), 1, 1)]);
        assert_eq!(archive.outages(hour, 10).await.expect("read").len(), 1);
        // Its events were recorded in 1970.
        let then = Span { from: 0, until: 10 };
        assert_eq!(archive.events_recorded(hour).await.expect("read"), []);
        assert_eq!(archive.events_recorded(then).await.expect("read"), [], "chats of another time have them");
        assert_eq!(archive.variants_by_chat(hour, 10).await.expect("read").1, 1);
        assert_eq!(archive.last_seen_before(1_795_439_500_000).await.expect("read"), Some(1_795_439_368_000));
    }
}
