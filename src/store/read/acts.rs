//! What people have done with the archive.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite};

use super::{Archive, Error};

/// Which acts are meant. What is None restricts nothing.
#[derive(Debug, Clone, Default)]
pub struct Acts {
    /// Milliseconds since the epoch.
    pub from: Option<i64>,
    /// The same; included.
    pub until: Option<i64>,
    /// Whoever did it, or called sudo for it.
    pub user: Option<String>,
    /// `read`, `erase`, …
    pub kind: Option<String>,
    /// What it was for.
    pub case_ref: Option<String>,
    /// Named in what was asked, or something of it was removed.
    pub chat_id: Option<String>,
}

/// A row of `acts`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns are documented where they are made, in migrations/0007_acts.sql")]
pub struct Act {
    pub id: i64,
    pub kind: String,
    pub at: i64,
    pub ended_at: Option<i64>,
    pub who: String,
    pub via: Option<String>,
    pub host: String,
    pub case_ref: Option<String>,
    pub asked: String,
    pub reason: Option<String>,
    pub found: Option<i64>,
    pub version: String,
}

impl Archive {
    /// Up to `limit` acts, the newest first, that come after `after`: the number of the last of the page before. None of an
    /// archive of an earlier release, which has no acts.
    ///
    /// # Errors
    /// As SQLite.
    pub async fn acts(&mut self, of: &Acts, after: Option<i64>, limit: i64) -> Result<Option<Vec<Act>>, Error> {
        if !self.has("acts").await? {
            return Ok(None);
        }
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM acts WHERE 1");
        if let Some(from) = of.from {
            // A long one that went on into that time, and one that was never seen to end.
            query.push(" AND coalesce(ended_at, at) >= ").push_bind(from);
        }
        if let Some(until) = of.until {
            query.push(" AND at <= ").push_bind(until);
        }
        if let Some(user) = &of.user {
            query.push(" AND (who = ").push_bind(user.as_str()).push(" OR via = ").push_bind(user.as_str()).push(")");
        }
        if let Some(kind) = &of.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(case_ref) = &of.case_ref {
            query.push(" AND case_ref = ").push_bind(case_ref.as_str());
        }
        if let Some(chat_id) = &of.chat_id {
            let named = serde_json::Value::from(chat_id.as_str()).to_string();
            query.push(" AND (instr(asked, ").push_bind(named);
            query
                .push(") > 0 OR id IN (SELECT act_id FROM erasures WHERE chat_id = ")
                .push_bind(chat_id.as_str())
                .push("))");
        }
        if let Some(after) = after {
            query.push(" AND id < ").push_bind(after);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
        Ok(Some(query.build_query_as().fetch_all(&mut self.connection).await?))
    }
}

impl FromRow<'_, SqliteRow> for Act {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            at: row.try_get("at")?,
            ended_at: row.try_get("ended_at")?,
            who: row.try_get("who")?,
            via: row.try_get("via")?,
            host: row.try_get("host")?,
            case_ref: row.try_get("case_ref")?,
            asked: row.try_get("asked")?,
            reason: row.try_get("reason")?,
            found: row.try_get("found")?,
            version: row.try_get("version")?,
        })
    }
}
