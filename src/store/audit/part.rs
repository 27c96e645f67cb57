//! What of an archive is due for a target of continuous exports: chats that are over, whole; what was added to chats that it has;
//! what was removed of these. Found by the leaves since it was last looked at, and kept in temporary tables of this one snapshot, so that
//! memory does not grow with it; the exports then read nothing else.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, ToSql, named_params, params};

use super::Snapshot;
use super::extract::{IS_IN_SCOPE, Scope, Table, json_list};
use super::proof::damaged;
use crate::store::seal::destroyed::RowName;
use crate::store::seal::{
    ACTS, ATTRIBUTES, CHATS, COVERAGE, ERASURES, ERRORS, EVENTS, FILES, FINDINGS, Form, KeyValue, MASKINGS, Refs,
    VARIANTS,
};
use crate::store::{Error, ErrorKind};

/// Rows by their keys; chats that anything was recorded of, and whether an export shows it; what is due; what is over and not meant;
/// what waits.
const TABLES: &str = "
    PRAGMA query_only = OFF;  -- the file itself is open for reading alone
    CREATE TEMP TABLE since (form INTEGER, a, b, c, PRIMARY KEY (form, a, b, c)) WITHOUT ROWID;
    CREATE TEMP TABLE touched (chat_id TEXT PRIMARY KEY, is_shown INTEGER) WITHOUT ROWID;
    CREATE TEMP TABLE parts (chat_id TEXT PRIMARY KEY, is_addition INTEGER) WITHOUT ROWID;
    CREATE TEMP TABLE passed (chat_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE waits (chat_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE removed (chat_id TEXT, act_id INTEGER, PRIMARY KEY (chat_id, act_id)) WITHOUT ROWID";

/// Of a chat `c`.
pub(super) const IS_IN_PART: &str = " AND c.chat_id IN (SELECT chat_id FROM temp.parts)";

/// Chats that wait, and chats that are new or were not meant before; with `c` and the archive `a`.
const WAITING: &str = "FROM delivered_chats w CROSS JOIN chats c CROSS JOIN archive a
    WHERE w.target = :target AND w.number IS NULL AND c.chat_id = w.chat_id";
const NEW: &str = "FROM temp.touched w LEFT JOIN delivered_chats d ON d.chat_id = w.chat_id AND d.target = :target
    CROSS JOIN chats c CROSS JOIN archive a WHERE (d.chat_id IS NULL OR d.number = 0) AND c.chat_id = w.chat_id";

/// It is over, and nothing was seen of it for a while.
const IS_READY: &str = "c.last_seen_at <= :settled_at
    AND (c.ended_at IS NOT NULL OR c.last_seen_at + CASE c.is_async WHEN 1 THEN a.async_quiet_after_ms
            ELSE a.quiet_after_ms END <= :as_of)";

/// Such as are neither due nor passed, and are to be found again.
const WAIT: &str = "INSERT INTO temp.waits
    SELECT t.chat_id FROM temp.touched t LEFT JOIN delivered_chats d ON d.chat_id = t.chat_id AND d.target = ?
     WHERE (d.chat_id IS NULL OR d.number = 0) AND t.chat_id NOT IN (SELECT chat_id FROM temp.parts)
       AND t.chat_id NOT IN (SELECT chat_id FROM temp.passed)";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// The target, as `delivered_chats` has it.
    pub target: &'w str,
    /// Leaves before this were looked at.
    pub from: u64,
    /// Now, milliseconds since the epoch.
    pub as_of: i64,
    /// A chat goes when nothing was seen of it after this.
    pub settled_at: i64,
    /// Errors, too.
    pub with_errors: bool,
    /// A chat of which only the times or the coverage have changed counts as added to.
    pub with_states: bool,
    /// Whole chats, at most; others have their turn next.
    pub chats_max: u64,
}

/// What there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Leaves before this are looked at now.
    pub to: u64,
    /// Whole chats.
    pub chats: u64,
    /// Chats with additions.
    pub additions: u64,
    /// Removals of chats that the target has.
    pub removals: u64,
    /// Errors of no chat, new ones or such as were repeated.
    pub errors: u64,
}

impl Due {
    /// Whether there is nothing to be brought.
    pub fn is_nothing(&self) -> bool {
        self.chats + self.additions + self.removals + self.errors == 0
    }
}

/// Where a chat stands with a target, as `delivered_chats.number` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It waits.
    Waits,
    /// It is over, and not meant.
    Passed,
    /// It is brought, whole, now.
    Brought,
}

/// A row of `deliveries`, for people.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the columns are documented where they are made, in migrations/0010_deliveries.sql")]
pub struct Made {
    pub target: String,
    pub number: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub who: String,
    pub destination: String,
    pub format: String,
    pub chats: i64,
    pub additions: i64,
    pub removals: i64,
    pub rows: i64,
    pub files: i64,
    pub bytes: i64,
    pub outcome: String,
    pub detail: Option<String>,
}

/// A snapshot of which only a part is read.
#[derive(Debug)]
pub struct Part {
    pub(super) as_of: i64,
    /// Nothing was ever looked at: everything is new.
    is_first: bool,
}

impl Part {
    /// ` AND …` of a row `r` of a table: that it is of a chat that goes whole, or is new itself.
    pub(super) fn is_new(part: Option<&Self>, table: Table) -> String {
        let (form, key) = match (part, table) {
            (None, _) | (_, Table::Chats | Table::Holes) => return String::new(),
            (Some(_), Table::Removals) => {
                let is_it = "x.chat_id = r.chat_id AND x.act_id = r.act_id";
                return format!(" AND EXISTS (SELECT 1 FROM temp.removed x WHERE {is_it})");
            }
            (Some(part), _) if part.is_first => return String::new(),
            (_, Table::Events) => (EVENTS, "s.a = r.chat_id AND s.b = r.event_index"),
            (_, Table::Variants) => (VARIANTS, "s.a = r.chat_id AND s.b = r.event_index AND s.c = r.digest"),
            (_, Table::Attributes) => (ATTRIBUTES, "s.a = r.id"),
            (_, Table::Maskings) => (MASKINGS, "s.a = r.id"),
            (_, Table::Files) => (FILES, "s.a = r.id"),
            (_, Table::Errors) => (ERRORS, "s.a = r.id"),
        };
        format!(
            " AND (NOT EXISTS (SELECT 1 FROM temp.parts p WHERE p.chat_id = r.chat_id AND p.is_addition)
               OR EXISTS (SELECT 1 FROM temp.since s WHERE s.form = {form} AND {key}))"
        )
    }

    /// The same of an error of no chat.
    pub(super) fn is_new_of_no_chat(part: Option<&Self>) -> String {
        match part {
            Some(part) if !part.is_first => {
                format!(" AND r.id IN (SELECT a FROM temp.since WHERE form = {ERRORS})")
            }
            _ => String::new(),
        }
    }
}

impl Snapshot {
    /// From here on only what is due is read of it: chats in scope, additions to chats that the target has, removals of these.
    ///
    /// # Errors
    /// The file cannot be read, or its evidence is damaged; the temporary tables cannot be written; the archive is of an earlier release.
    pub fn narrow(&mut self, wanted: &Wanted<'_>, scope: &Scope) -> Result<Due, Error> {
        check_has_deliveries(&self.connection)?;
        self.connection.execute_batch(TABLES)?;
        let is_first = wanted.from == 0;
        match is_first {
            true => drop(self.connection.execute("INSERT INTO touched SELECT chat_id, 1 FROM chats", ())?),
            false => self.gather(wanted)?,
        }
        let mut due = Due { to: self.size()?, ..Due::default() };
        due.additions = self.choose_additions(wanted, scope)?;
        due.chats = self.choose_whole(wanted, scope)?;
        self.connection.execute(WAIT, [wanted.target])?;
        self.part = Some(Part { as_of: wanted.as_of, is_first });
        let removals = "SELECT count(*) FROM temp.removed";
        due.removals = self.connection.query_row(removals, (), |row| row.get::<_, i64>(0))?.cast_unsigned();
        if wanted.with_errors {
            self.each_other_error::<Error>(scope, |_| {
                due.errors += 1;
                Ok(())
            })?;
        }
        Ok(due)
    }

    /// Reads the packs since, for what they are of.
    fn gather(&self, wanted: &Wanted<'_>) -> Result<(), Error> {
        let mut touched = Touched { snapshot: self, last: None };
        self.each_pack_from(wanted.from, |pack| {
            let mut refs = Refs::of(&pack.refs);
            for _ in 1..pack.leaves {
                let (form, key) = refs.next_row().ok_or_else(damaged)?;
                match (form.number, &key[..]) {
                    (CHATS | COVERAGE, [chat_id, ..]) => touched.note(chat_id, false)?,
                    (EVENTS, [chat_id, index]) => {
                        self.note_since(form, chat_id, index, &none())?;
                        touched.note(chat_id, true)?;
                    }
                    (VARIANTS, [chat_id, index, digest]) => {
                        self.note_since(form, chat_id, index, digest)?;
                        touched.note(chat_id, true)?;
                    }
                    (ATTRIBUTES | MASKINGS | FILES, [id]) => self.note_by_id(form, id, &mut touched)?,
                    (ERRORS, [id]) if wanted.with_errors => self.note_by_id(form, id, &mut touched)?,
                    (FINDINGS, [id]) => self.note_since(form, id, &none(), &none())?,
                    (ERASURES, [id]) => self.note_removal(wanted.target, id)?,
                    _ => {}
                }
            }
            Ok(())
        })
    }

    fn note_since(&self, form: &Form, a: &KeyValue, b: &KeyValue, c: &KeyValue) -> Result<(), Error> {
        let insert = "INSERT OR IGNORE INTO temp.since VALUES (?, ?, ?, ?)";
        self.connection.prepare_cached(insert)?.execute(params![form.number, a, b, c])?;
        Ok(())
    }

    /// Where the row is there still, and whatever chat it is of.
    fn note_by_id(&self, form: &Form, id: &KeyValue, touched: &mut Touched<'_>) -> Result<(), Error> {
        let sql = format!("SELECT chat_id FROM {} WHERE id = ?", form.table);
        let mut select = self.connection.prepare_cached(&sql)?;
        let chat_id: Option<Option<String>> = select.query_row([id], |row| row.get(0)).optional()?;
        let Some(chat_id) = chat_id else { return Ok(()) };
        self.note_since(form, id, &none(), &none())?;
        chat_id.map_or(Ok(()), |chat_id| touched.note(&KeyValue::Text(chat_id), true))
    }

    fn note_removal(&self, target: &str, id: &KeyValue) -> Result<(), Error> {
        let insert = "INSERT OR IGNORE INTO temp.removed SELECT e.chat_id, e.act_id FROM erasures e
            JOIN delivered_chats d ON d.chat_id = e.chat_id AND d.target = ? AND d.number > 0 WHERE e.id = ?";
        self.connection.prepare_cached(insert)?.execute(params![target, id])?;
        Ok(())
    }

    fn choose_additions(&self, wanted: &Wanted<'_>, scope: &Scope) -> Result<u64, Error> {
        let sql = format!(
            "INSERT INTO temp.parts SELECT c.chat_id, 1 FROM temp.touched t
               JOIN delivered_chats d ON d.chat_id = t.chat_id AND d.target = :target AND d.number > 0
               JOIN chats c ON c.chat_id = t.chat_id
              WHERE (t.is_shown OR :with_states) AND {IS_IN_SCOPE}"
        );
        let more: [(&str, &dyn ToSql); 2] = [(":target", &wanted.target), (":with_states", &wanted.with_states)];
        self.choose(&sql, scope, &more)
    }

    /// By chat id, so that no more are looked at than are wanted, however many wait; of all others that are over and not meant, that
    /// they are.
    fn choose_whole(&self, wanted: &Wanted<'_>, scope: &Scope) -> Result<u64, Error> {
        let time: [(&str, &dyn ToSql); 3] =
            [(":target", &wanted.target), (":as_of", &wanted.as_of), (":settled_at", &wanted.settled_at)];
        let mut chosen = 0;
        for from in [WAITING, NEW] {
            if *scope != Scope::default() {
                let passed =
                    format!("INSERT INTO temp.passed SELECT w.chat_id {from} AND {IS_READY} AND NOT ({IS_IN_SCOPE})");
                self.choose(&passed, scope, &time)?;
            }
            let left = wanted.chats_max - chosen;
            let sql = format!(
                "INSERT INTO temp.parts SELECT w.chat_id, 0 {from} AND {IS_READY} AND {IS_IN_SCOPE} ORDER BY w.chat_id LIMIT {left}"
            );
            chosen += self.choose(&sql, scope, &time)?;
        }
        if chosen < wanted.chats_max {
            // Few wait now; those that were erased meanwhile need not.
            let sql = "INSERT OR IGNORE INTO temp.passed SELECT w.chat_id FROM delivered_chats w WHERE w.target = ?
                AND w.number IS NULL AND NOT EXISTS (SELECT 1 FROM chats c WHERE c.chat_id = w.chat_id)";
            self.connection.execute(sql, [wanted.target])?;
        }
        Ok(chosen)
    }

    fn choose(&self, sql: &str, scope: &Scope, more: &[(&str, &dyn ToSql)]) -> Result<u64, Error> {
        let chat_ids = scope.chat_ids.as_deref().map(json_list);
        let of_scope = named_params! {
            ":chat_ids": chat_ids, ":from": scope.from, ":until": scope.until, ":service": scope.service,
            ":party": scope.party,
        };
        Ok(self.connection.prepare(sql)?.execute(&[of_scope, more].concat()[..])? as u64)
    }

    /// Where the chats that were looked at stand with the target from now on, those that are brought last. Nothing else can be read of
    /// it then: it is no longer kept as it was, so that the write-ahead log can be folded while this takes its time.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn into_marks<E: From<Error>>(self, mut take: impl FnMut(String, Mark) -> Result<(), E>) -> Result<(), E> {
        if self.part.is_none() {
            return Ok(());
        }
        self.connection.execute_batch("COMMIT").map_err(Error::from)?;
        let marked = [
            ("SELECT chat_id FROM temp.waits", Mark::Waits),
            ("SELECT chat_id FROM temp.passed", Mark::Passed),
            ("SELECT chat_id FROM temp.parts WHERE NOT is_addition", Mark::Brought),
        ];
        for (sql, mark) in marked {
            let mut select = self.connection.prepare(sql).map_err(Error::from)?;
            let mut rows = select.query(()).map_err(Error::from)?;
            while let Some(row) = rows.next().map_err(Error::from)? {
                take(row.get(0).map_err(Error::from)?, mark)?;
            }
        }
        Ok(())
    }

    /// Whether only what was added to a chat is read of it.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn is_addition(&self, chat_id: &str) -> Result<bool, Error> {
        if self.part.is_none() {
            return Ok(false);
        }
        let sql = "SELECT is_addition FROM temp.parts WHERE chat_id = ?";
        let read = |row: &Row<'_>| row.get(0);
        Ok(self.connection.prepare_cached(sql)?.query_row([chat_id], read).optional()?.unwrap_or_default())
    }

    /// Leaves those that are new, and those that say how a chat stands now.
    pub(super) fn retain_new<V>(&self, rows: &mut BTreeMap<RowName, V>) -> Result<(), Error> {
        let sql = "SELECT 1 FROM temp.since WHERE form = ? AND a = ? AND b = ? AND c = ?";
        let mut is_new = self.connection.prepare_cached(sql)?;
        let mut old = Vec::new();
        for (form, key) in rows.keys().filter(|(form, _)| !matches!(*form, CHATS | COVERAGE | ERASURES | ACTS)) {
            let mut parts = key.iter().cloned().chain(std::iter::repeat_with(none));
            let [a, b, c] = std::array::from_fn(|_| parts.next());
            if !is_new.exists(params![form, a, b, c])? {
                old.push((*form, key.clone()));
            }
        }
        old.iter().for_each(|name| drop(rows.remove(name)));
        Ok(())
    }

    /// Deliveries that were made, the oldest first: to a target, or to all.
    ///
    /// # Errors
    /// As reading goes wrong; the archive is of an earlier release.
    pub fn deliveries(&self, target: Option<&str>) -> Result<Vec<Made>, Error> {
        check_has_deliveries(&self.connection)?;
        let sql = "SELECT target, number, started_at, finished_at, who, destination, format, chats, additions, removals, rows,
                files, bytes, outcome, detail FROM deliveries WHERE ?1 IS NULL OR target = ?1 ORDER BY id";
        let mut select = self.connection.prepare(sql)?;
        let made = select.query_map([target], |row| {
            Ok(Made {
                target: row.get(0)?,
                number: row.get(1)?,
                started_at: row.get(2)?,
                finished_at: row.get(3)?,
                who: row.get(4)?,
                destination: row.get(5)?,
                format: row.get(6)?,
                chats: row.get(7)?,
                additions: row.get(8)?,
                removals: row.get(9)?,
                rows: row.get(10)?,
                files: row.get(11)?,
                bytes: row.get(12)?,
                outcome: row.get(13)?,
                detail: row.get(14)?,
            })
        })?;
        Ok(made.collect::<Result<_, _>>()?)
    }

    pub(super) fn removed_since(&self) -> Result<Vec<String>, Error> {
        let mut select = self.connection.prepare("SELECT DISTINCT chat_id FROM temp.removed ORDER BY chat_id")?;
        let ids = select.query_map((), |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }
}

/// What an archive of an earlier release has not.
pub(in crate::store) fn check_has_deliveries(connection: &Connection) -> Result<(), Error> {
    check_has(connection, "deliveries")
}

/// The same of one table.
pub(in crate::store) fn check_has(connection: &Connection, table: &str) -> Result<(), Error> {
    if connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = ?")?.exists([table])? {
        return Ok(());
    }
    let what =
        "this archive is of an earlier release: start `serve` of this one with it once, which brings it up to date";
    Err(Error::new(ErrorKind::Other, what))
}

/// Chats of which something was recorded. Rows of a transaction are mostly of few chats, one after the other.
struct Touched<'s> {
    snapshot: &'s Snapshot,
    last: Option<(KeyValue, bool)>,
}

impl Touched<'_> {
    fn note(&mut self, chat_id: &KeyValue, is_shown: bool) -> Result<(), Error> {
        if self.last.as_ref().is_some_and(|(last, was_shown)| last == chat_id && *was_shown >= is_shown) {
            return Ok(());
        }
        let upsert = "INSERT INTO temp.touched VALUES (?, ?)
            ON CONFLICT DO UPDATE SET is_shown = max(is_shown, excluded.is_shown)";
        self.snapshot.connection.prepare_cached(upsert)?.execute(params![chat_id, is_shown])?;
        self.last = Some((chat_id.clone(), is_shown));
        Ok(())
    }
}

/// In the place of a column that a key has not.
fn none() -> KeyValue {
    KeyValue::Text(String::new())
}
