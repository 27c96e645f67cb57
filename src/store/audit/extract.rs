//! Reads chats whole, in the order of their keys, out of one snapshot: what an export is made of. Of a chat at most an event at
//! a time is held.

use rusqlite::types::ValueRef;
use rusqlite::{Row, ToSql, named_params};

use super::Snapshot;
use super::part::{self, Part};
use super::proof::Field;
use crate::store::Error;

/// Which chats. Times are milliseconds since the epoch; None: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// One of these.
    pub chat_ids: Option<Vec<String>>,
    /// Last seen at this time or later.
    pub from: Option<i64>,
    /// First seen at this time or earlier.
    pub until: Option<i64>,
    /// Of this service.
    pub service: Option<String>,
    /// With this party: a nickname, in ASCII whatever the case, or the number of a participant.
    pub party: Option<String>,
}

impl Scope {
    /// Whether it names chats by what they are, so that what is of no chat cannot be meant.
    pub fn is_of_chats(&self) -> bool {
        self.chat_ids.is_some() || self.party.is_some()
    }
}

/// A row, with the names of its columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    names: &'static [&'static str],
    fields: Vec<Field>,
}

impl Record {
    /// Its columns, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Field)> {
        self.names.iter().copied().zip(&self.fields)
    }

    /// The text in a column that has one.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Field::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer in a column that has one.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Field::Integer(number) => Some(*number),
            _ => None,
        }
    }

    fn get(&self, name: &str) -> Option<&Field> {
        self.iter().find(|(column, _)| *column == name).map(|(_, field)| field)
    }

    fn of(names: &'static [&'static str], row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        let field = |at: usize| {
            Ok(match row.get_ref(at)? {
                ValueRef::Null => Field::Null,
                ValueRef::Integer(number) => Field::Integer(number),
                ValueRef::Real(number) => Field::Real(number),
                ValueRef::Text(text) => Field::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Field::Blob(bytes.to_vec()),
            })
        };
        Ok(Self { names, fields: (0..names.len()).map(field).collect::<Result<_, rusqlite::Error>>()? })
    }
}

/// What an export has of an archive: names of the lists, and what is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// A row a chat, with what of it was covered, up to [`Snapshot::as_of`].
    Chats,
    /// What is known of chats and their customers, a row a change.
    Attributes,
    /// What was said.
    Events,
    /// The same delivered with other content.
    Variants,
    /// Positions that no answer covered.
    Holes,
    /// What was masked, before it was recorded or later.
    Maskings,
    /// Files that went through.
    Files,
    /// Errors that clients were given.
    Errors,
    /// What was erased or purged, by whom and why.
    Removals,
}

/// What a column holds, where it is not NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Integer,
    /// 0 or 1.
    Flag,
    /// Milliseconds since the epoch, by our clock.
    Time,
    /// A text.
    Text,
    /// A text that is JSON.
    Json,
    /// Bytes.
    Blob,
}

impl Table {
    /// Those of a chat, without errors.
    pub const OF_CHAT: [Self; 7] =
        [Self::Chats, Self::Attributes, Self::Events, Self::Variants, Self::Holes, Self::Maskings, Self::Files];

    /// As files are named.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chats => "chats",
            Self::Attributes => "attributes",
            Self::Events => "events",
            Self::Variants => "variants",
            Self::Holes => "holes",
            Self::Maskings => "maskings",
            Self::Files => "files",
            Self::Errors => "errors",
            Self::Removals => "removals",
        }
    }

    /// The columns.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Chats => &[
                "chat_id",
                "service",
                "first_seen_at",
                "last_seen_at",
                "ended_at",
                "ended_how",
                "next_position",
                "is_async",
                "highest_index",
                "covered_to",
                "hidden",
                "holes",
                "status",
            ],
            Self::Attributes => &["chat_id", "id", "name", "value", "source", "observed_at", "run_id"],
            Self::Events => &[
                "chat_id",
                "event_index",
                "type",
                "utc_time",
                "participant_id",
                "nickname",
                "party_type",
                "text",
                "message_type",
                "user_data",
                "event_attributes",
                "raw",
                "recorded_at",
                "node",
                "run_id",
            ],
            Self::Variants => &["chat_id", "event_index", "digest", "kind", "raw", "recorded_at", "node", "run_id"],
            Self::Holes => &["chat_id", "from_position", "next_position"],
            Self::Maskings => &[
                "chat_id",
                "id",
                "what",
                "event_index",
                "digest",
                "row_id",
                "field",
                "rule",
                "at_character",
                "characters",
                "recorded_at",
                "run_id",
            ],
            Self::Files => {
                &["chat_id", "id", "file_id", "direction", "bytes", "sha256", "at", "outcome", "node", "run_id"]
            }
            Self::Removals => &[
                "chat_id",
                "how",
                "at",
                "reason",
                "who",
                "events",
                "rows",
                "service",
                "first_seen",
                "last_seen",
                "act_id",
            ],
            Self::Errors => &[
                "chat_id",
                "id",
                "observed_at",
                "last_observed_at",
                "repeats",
                "origin",
                "http_status",
                "status_code",
                "format",
                "code",
                "meaning",
                "class",
                "field",
                "detail",
                "advice",
                "reference_id",
                "service",
                "operation",
                "alias",
                "method",
                "path",
                "node",
                "client",
                "request_id",
                "duration_ms",
                "run_id",
                "trace_id",
            ],
        }
    }

    /// What one of them holds. `utc_time` is what GMS said, and may be no time.
    pub fn kind(self, column: &str) -> Kind {
        match (self, column) {
            // Of a view for people.
            (Self::Removals, "at") => Kind::Text,
            (
                _,
                "first_seen_at" | "last_seen_at" | "ended_at" | "observed_at" | "last_observed_at" | "recorded_at"
                | "at",
            ) => Kind::Time,
            (_, "raw" | "user_data" | "event_attributes") => Kind::Json,
            (_, "digest") => Kind::Blob,
            (_, "is_async") => Kind::Flag,
            (
                _,
                "id" | "run_id" | "row_id" | "act_id" | "event_index" | "utc_time" | "participant_id" | "next_position"
                | "from_position" | "highest_index" | "covered_to" | "hidden" | "holes" | "events" | "rows" | "bytes"
                | "at_character" | "characters" | "repeats" | "http_status" | "status_code" | "code" | "duration_ms",
            ) => Kind::Integer,
            _ => Kind::Text,
        }
    }

    fn relation(self) -> &'static str {
        match self {
            Self::Attributes => "chat_attributes",
            Self::Variants => "event_variants",
            Self::Holes => "coverage_holes",
            Self::Files => "file_transfers",
            Self::Errors => "api_errors",
            Self::Chats | Self::Events | Self::Maskings | Self::Removals => self.name(),
        }
    }

    fn order(self) -> &'static str {
        match self {
            Self::Events => "event_index",
            Self::Variants => "event_index, digest",
            Self::Holes => "from_position",
            Self::Removals => "act_id",
            _ => "id",
        }
    }
}

/// `:as_of`: whether a chat without an end is over is not for the reader's clock to say, or no two exports were the same.
/// The rules are those of the view `completeness`.
const CHATS: &str = "
    SELECT c.chat_id, c.service, c.first_seen_at, c.last_seen_at, c.ended_at, c.ended_how, c.next_position, c.is_async,
           c.highest_index, k.covered_to, k.hidden, k.holes,
           CASE WHEN c.ended_at IS NULL AND c.last_seen_at + CASE c.is_async WHEN 1 THEN a.async_quiet_after_ms
                     ELSE a.quiet_after_ms END > :as_of THEN 'open'
                WHEN k.holes > 0 THEN 'incomplete'
                WHEN c.ended_at IS NULL THEN 'unfinished'
                WHEN k.covered_to <= 1 THEN 'incomplete'
                ELSE 'complete' END
      FROM chats c JOIN completeness k ON k.chat_id = c.chat_id CROSS JOIN archive a
     WHERE c.chat_id IN (";

/// Of a chat `c`.
pub(super) const IS_IN_SCOPE: &str = "
       (:chat_ids IS NULL OR c.chat_id IN (SELECT value FROM json_each(:chat_ids)))
       AND (:from IS NULL OR c.last_seen_at >= :from)
       AND (:until IS NULL OR c.first_seen_at <= :until)
       AND (:service IS NULL OR c.service = :service)
       AND (:party IS NULL OR EXISTS (
            SELECT 1 FROM events e WHERE e.chat_id = c.chat_id
               AND (e.nickname = :party COLLATE NOCASE OR CAST(e.participant_id AS TEXT) = :party)))";

fn in_scope(part: Option<&Part>) -> String {
    let is_in_part = part.map_or("", |_| part::IS_IN_PART);
    format!("SELECT c.chat_id FROM chats c WHERE {IS_IN_SCOPE}{is_in_part}")
}

/// Errors of nobody's chat, where the scope is not of chats.
const OF_NO_CHAT: &str = "
    chat_id IS NULL AND NOT :is_of_chats
       AND (:from IS NULL OR last_observed_at >= :from) AND (:until IS NULL OR observed_at <= :until)
       AND (:service IS NULL OR service = :service)";

impl Snapshot {
    /// The last sign of life in it, milliseconds since the epoch: what is said of chats is said as of then. Of a part, when it was
    /// asked for.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn as_of(&self) -> Result<i64, Error> {
        if let Some(part) = &self.part {
            return Ok(part.as_of);
        }
        let sql = "SELECT coalesce(max(last_seen_at), 0) FROM chats";
        Ok(self.connection.query_row(sql, (), |row| row.get(0))?)
    }

    /// The chats in scope, by chat id.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn each_chat<E: From<Error>>(&self, scope: &Scope, take: impl FnMut(Record) -> Result<(), E>) -> Result<(), E> {
        let (as_of, chat_ids) = (self.as_of()?, scope.chat_ids.as_deref().map(json_list));
        let sql = format!("{CHATS}{}) ORDER BY c.chat_id", in_scope(self.part.as_ref()));
        let parameters = named_params! {
            ":as_of": as_of, ":chat_ids": chat_ids, ":from": scope.from, ":until": scope.until,
            ":service": scope.service, ":party": scope.party,
        };
        self.each(&sql, parameters, Table::Chats.columns(), take)
    }

    /// The rows of a chat in one of the other tables, by their keys.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn each_of_chat<E: From<Error>>(
        &self,
        table: Table,
        chat_id: &str,
        take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let (columns, relation, order) = (table.columns().join(", "), table.relation(), table.order());
        let is_new = Part::is_new(self.part.as_ref(), table);
        let sql = format!("SELECT {columns} FROM {relation} r WHERE chat_id = :chat_id{is_new} ORDER BY {order}");
        self.each(&sql, named_params! { ":chat_id": chat_id }, table.columns(), take)
    }

    /// Errors that are of no chat, by their ids.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn each_other_error<E: From<Error>>(
        &self,
        scope: &Scope,
        take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let columns = Table::Errors.columns().join(", ");
        let is_new = Part::is_new_of_no_chat(self.part.as_ref());
        let sql = format!("SELECT {columns} FROM api_errors r WHERE {OF_NO_CHAT}{is_new} ORDER BY id");
        let parameters = named_params! {
            ":is_of_chats": scope.is_of_chats(), ":from": scope.from, ":until": scope.until, ":service": scope.service,
        };
        self.each(&sql, parameters, Table::Errors.columns(), take)
    }

    /// How many rows of a table are in scope, asked of the archive in one question: what an export is held against.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn count(&self, table: Table, scope: &Scope) -> Result<u64, Error> {
        let (relation, chat_ids) = (table.relation(), scope.chat_ids.as_deref().map(json_list));
        let part = self.part.as_ref();
        let (in_scope, is_new) = (in_scope(part), Part::is_new(part, table));
        let others = match table {
            Table::Errors => format!("{OF_NO_CHAT}{}", Part::is_new_of_no_chat(part)),
            _ => ":is_of_chats IS NULL".into(),
        };
        let sql = format!("SELECT count(*) FROM {relation} r WHERE chat_id IN ({in_scope}){is_new} OR {others}");
        let parameters = named_params! {
            ":chat_ids": chat_ids, ":from": scope.from, ":until": scope.until, ":service": scope.service,
            ":party": scope.party, ":is_of_chats": scope.is_of_chats(),
        };
        let count: i64 = self.connection.query_row(&sql, parameters, |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    pub(super) fn each<E: From<Error>>(
        &self,
        sql: &str,
        parameters: &[(&str, &dyn ToSql)],
        names: &'static [&'static str],
        mut take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut select = self.connection.prepare_cached(sql).map_err(Error::from)?;
        let mut rows = select.query(parameters).map_err(Error::from)?;
        while let Some(row) = rows.next().map_err(Error::from)? {
            take(Record::of(names, row).map_err(Error::from)?)?;
        }
        Ok(())
    }
}

pub(super) fn json_list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::MIGRATIONS;

    #[test]
    fn columns_hold_what_the_schema_says() {
        let connection = Connection::open_in_memory().expect("memory");
        connection.execute_batch(&MIGRATIONS.map(|(_, _, sql)| sql).concat()).expect("sound SQL");
        let declared = "SELECT type FROM pragma_table_info(?) WHERE name = ?";
        let mut known = 0;
        for table in Table::OF_CHAT.into_iter().chain([Table::Errors, Table::Removals]) {
            let relations = if table == Table::Chats { ["chats", "completeness"] } else { [table.relation(); 2] };
            for column in table.columns() {
                let of =
                    |relation: &str| connection.query_row(declared, [relation, *column], |row| row.get::<_, String>(0));
                let kind = relations.into_iter().find_map(|relation| of(relation).ok()).unwrap_or_default();
                let wanted = match table.kind(column) {
                    Kind::Integer | Kind::Flag | Kind::Time => ["INTEGER", "INT", "NUM", ""],
                    Kind::Text | Kind::Json => ["TEXT", "", "", ""],
                    Kind::Blob => ["BLOB", "", "", ""],
                };
                assert!(wanted.contains(&kind.as_str()), "{table:?}, {column}: {kind}");
                known += usize::from(!kind.is_empty());
            }
        }
        assert!(known > 90, "{known} columns have a type");
    }
}
