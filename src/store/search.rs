//! Full text: rows are found by their words. The index is part of the archive (migrations/0009_search.sql) and follows it: rows
//! are added behind the writer, in short transactions; a row that is removed or masked is noted in the transaction that does so,
//! and its former words are taken out right after it. Nothing is ever found by words that a row does not have any longer.
//!
//! It knows words and rows, and SQLite's FTS5; when the index is filled, and by whom, is for others to say.

mod document;
mod find;
mod lens;
mod query;
mod residue;

use rusqlite::{Connection, OptionalExtension, params};

use super::seal::{Form, KeyValue};
use super::{Error, ErrorKind};

use document::Source;
use residue::clear_residue;

pub use find::{Filter, Found, Hit, Order, sort};
pub use lens::{Piece, Snippet};
pub use query::{Malformed, Query};

/// As the migration has it: what is looked for is taken apart as what is stored.
const TOKENIZE: &str = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc So'";
/// By which rules words are taken from rows ([`Source::document`]). Others than these: the index is made anew.
const RULES: i64 = 1;

/// Rows that are added in one transaction: with the bytes below some five milliseconds.
const ADDED_MAX: usize = 500;
/// Bytes of text in one, from which on nothing further is added.
const BYTES_MAX: usize = 64 << 10;
/// Rows that are looked at for that in one go: most have nothing that is searched.
const LOOKED_AT_MAX: i64 = 2_000;
/// Rows that are taken out in one transaction, and bytes of their texts from which on no further one is: some five milliseconds.
const TAKEN_OUT_MAX: i64 = 5;
const TAKEN_OUT_BYTES_MAX: usize = 1 << 10;
/// Pages that are merged in one transaction: some ten milliseconds. And how often that is done in one step.
const MERGED_PAGES: i64 = 64;
const MERGES_MAX: usize = 4;
/// Pages of an index that is made anew which are removed in one transaction.
const EMPTIED_MAX: i64 = 500;

/// How far the index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    rules: i64,
    /// By [`Source`].
    to: [i64; 3],
    erasures_to: i64,
    last_erasure: i64,
}

/// What is done between two transactions: whoever records has the lock then. An error ends the work.
pub(super) type Rest<'r> = dyn FnMut() -> Result<(), Error> + 'r;

/// What one step of the index came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It has everything.
    Done,
    /// So many rows more were looked at; others wait.
    Going(u64),
}

impl Progress {
    /// None of an archive of a release without search.
    pub(super) fn of(connection: &Connection) -> Result<Option<Self>, Error> {
        let has = "SELECT 1 FROM sqlite_schema WHERE name = 'search_progress'";
        if !connection.prepare_cached(has)?.exists(())? {
            return Ok(None);
        }
        let sql = "SELECT rules, events_to, attributes_to, variants_to, erasures_to,
            (SELECT coalesce(max(id), 0) FROM erasures) FROM search_progress";
        let read = |row: &rusqlite::Row<'_>| {
            let to = [row.get(1)?, row.get(2)?, row.get(3)?];
            Ok(Self { rules: row.get(0)?, to, erasures_to: row.get(4)?, last_erasure: row.get(5)? })
        };
        Ok(connection.prepare_cached(sql)?.query_row((), read).optional()?)
    }

    /// Whether what the index says is so. A release without search may have removed something since, or another one filled it.
    fn is_sound(&self) -> bool {
        self.rules == RULES && self.erasures_to == self.last_erasure
    }

    /// The last row of a table that the index tells of.
    fn reach(&self, source: Source) -> i64 {
        if self.is_sound() { self.to[source as usize] } else { 0 }
    }

    fn has(&self, source: Source, rowid: i64) -> bool {
        rowid <= self.reach(source)
    }

    /// Rows that it does not have as they are: at most so many, since numbers of rows are left out where some were removed.
    pub(super) fn behind(&self, connection: &Connection) -> Result<u64, Error> {
        let mut behind = 0;
        for source in Source::ALL {
            behind += (last_row(connection, source)? - self.reach(source)).max(0);
        }
        let changes = "SELECT count(*) FROM search_changes";
        behind += connection.prepare_cached(changes)?.query_row((), |row| row.get::<_, i64>(0))?;
        Ok(behind.cast_unsigned())
    }
}

fn last_row(connection: &Connection, source: Source) -> Result<i64, Error> {
    let sql = format!("SELECT coalesce(max(rowid), 0) FROM {}", source.table());
    Ok(connection.prepare_cached(&sql)?.query_row((), |row| row.get(0))?)
}

/// Notes a row that is about to be removed or changed, within the transaction that does so.
pub(super) fn forget(connection: &Connection, form: &Form, key: &[KeyValue]) -> Result<(), Error> {
    let Some(source) = Source::of_form(form.number) else { return Ok(()) };
    let Some(progress) = Progress::of(connection)? else { return Ok(()) };
    let is_key = form.key.iter().map(|column| format!("{} = ?", column.0)).collect::<Vec<_>>().join(" AND ");
    let sql = format!("SELECT rowid FROM {} WHERE {is_key}", source.table());
    let mut select = connection.prepare_cached(&sql)?;
    let rowid: Option<i64> = select.query_row(rusqlite::params_from_iter(key), |row| row.get(0)).optional()?;
    let Some(rowid) = rowid.filter(|rowid| progress.has(source, *rowid)) else { return Ok(()) };
    if let Some(document) = source.read(connection, rowid)? {
        // What was changed before is in the index as it was first.
        let note = "INSERT INTO search_changes (id, text) VALUES (?, ?) ON CONFLICT DO NOTHING";
        connection.prepare_cached(note)?.execute(params![source.id(rowid), document])?;
    }
    Ok(())
}

/// Follows a row of `erasures` that was just written, once all is done that it tells of. Numbers of rows at the end that were
/// removed are given again: the index then goes on before them.
pub(super) fn follow(connection: &Connection, erasure_id: i64) -> Result<(), Error> {
    if Progress::of(connection)?.is_none() {
        return Ok(());
    }
    let sql = "UPDATE search_progress SET
        events_to = min(events_to, (SELECT coalesce(max(rowid), 0) FROM events)),
        attributes_to = min(attributes_to, (SELECT coalesce(max(id), 0) FROM chat_attributes)),
        variants_to = min(variants_to, (SELECT coalesce(max(rowid), 0) FROM event_variants)),
        erasures_to = CASE erasures_to WHEN (SELECT coalesce(max(id), 0) FROM erasures WHERE id < ?1) THEN ?1 ELSE erasures_to END";
    connection.prepare_cached(sql)?.execute([erasure_id])?;
    Ok(())
}

/// Brings the index a step further, in a few short transactions; `rest` is called after each.
pub(super) fn step(connection: &Connection, rest: &mut Rest<'_>) -> Result<Step, Error> {
    let Some(progress) = Progress::of(connection)? else { return Ok(Step::Done) };
    if !progress.is_sound() {
        empty(connection, rest)?;
        return Ok(Step::Going(0));
    }
    if take_out(connection, rest)? > 0 {
        return Ok(Step::Going(0));
    }
    let addition = Addition::of(connection, &progress)?;
    if addition.to == progress.to {
        return Ok(Step::Done);
    }
    let is_added = change(connection, |now| {
        // Another one was here meanwhile, or a row was removed or masked that is among these.
        let is_as_read = now == progress;
        if is_as_read { addition.write(connection).map(|()| true) } else { Ok(false) }
    })?;
    rest()?;
    if is_added && !addition.documents.is_empty() {
        merge(connection, rest)?;
    }
    Ok(Step::Going(addition.looked_at))
}

/// How many rows the index does not have as they are, at most; 0 where there is no index.
pub(super) fn behind(connection: &Connection) -> Result<u64, Error> {
    Progress::of(connection)?.map_or(Ok(0), |progress| progress.behind(connection))
}

/// Takes out all words of what was removed or masked.
pub(super) fn settle(connection: &Connection, rest: &mut Rest<'_>) -> Result<(), Error> {
    while let Some(progress) = Progress::of(connection)? {
        match progress.is_sound() {
            false => empty(connection, rest)?,
            true if take_out(connection, rest)? == 0 => return clear_residue(connection, rest),
            true => {}
        }
    }
    Ok(())
}

/// Takes the former words of some rows out, and puts in what these have now. How many rows.
fn take_out(connection: &Connection, rest: &mut Rest<'_>) -> Result<usize, Error> {
    if !connection.prepare_cached("SELECT 1 FROM search_changes")?.exists(())? {
        return Ok(0);
    }
    let count = change(connection, |progress| {
        let mut select = connection.prepare_cached("SELECT id, text FROM search_changes ORDER BY id LIMIT ?")?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let changes: Vec<(i64, String)> = select.query_map([TAKEN_OUT_MAX], read)?.collect::<Result<_, _>>()?;
        let (mut count, mut bytes) = (0, 0);
        for (id, former) in changes {
            if bytes >= TAKEN_OUT_BYTES_MAX {
                break;
            }
            if progress.is_sound() {
                replace(connection, &progress, id, &former)?;
            }
            connection.prepare_cached("DELETE FROM search_changes WHERE id = ?")?.execute([id])?;
            (count, bytes) = (count + 1, bytes + former.len());
        }
        Ok(count)
    })?;
    rest()?;
    merge(connection, rest)?;
    Ok(count)
}

fn replace(connection: &Connection, progress: &Progress, id: i64, former: &str) -> Result<(), Error> {
    let delete = "INSERT INTO search (search, rowid, text) VALUES ('delete', ?, ?)";
    connection.prepare_cached(delete)?.execute(params![id, former])?;
    match Source::of_id(id) {
        Some((source, rowid)) if progress.has(source, rowid) => {
            let document = source.read(connection, rowid)?;
            document.map_or(Ok(()), |document| add(connection, id, &document))
        }
        _ => Ok(()),
    }
}

fn add(connection: &Connection, id: i64, document: &str) -> Result<(), Error> {
    connection.prepare_cached("INSERT INTO search (rowid, text) VALUES (?, ?)")?.execute(params![id, document])?;
    Ok(())
}

/// Each addition is a segment of its own; some become one, in transactions of their own (sqlite.org/fts5.html, section 6.8).
fn merge(connection: &Connection, rest: &mut Rest<'_>) -> Result<(), Error> {
    for _ in 0..MERGES_MAX {
        let before = connection.total_changes();
        change(connection, |progress| {
            if progress.is_sound() {
                let sql = "INSERT INTO search (search, rank) VALUES ('merge', ?)";
                connection.prepare_cached(sql)?.execute([MERGED_PAGES])?;
            }
            Ok(())
        })?;
        let is_all_merged = connection.total_changes() - before < 2;
        if is_all_merged {
            break;
        }
        rest()?;
    }
    Ok(())
}

/// Rows that come next.
struct Addition {
    documents: Vec<(i64, String)>,
    to: [i64; 3],
    looked_at: u64,
}

impl Addition {
    fn of(connection: &Connection, progress: &Progress) -> Result<Self, Error> {
        let mut addition = Self { documents: Vec::new(), to: progress.to, looked_at: 0 };
        let mut bytes = 0;
        for source in Source::ALL {
            let sql = format!("{} WHERE rowid > ? ORDER BY rowid LIMIT ?", source.select());
            let mut select = connection.prepare_cached(&sql)?;
            let mut rows = select.query(params![progress.to[source as usize], LOOKED_AT_MAX])?;
            while addition.documents.len() < ADDED_MAX && bytes < BYTES_MAX {
                let Some(row) = rows.next()? else { break };
                let rowid = row.get(0)?;
                let document = source.document(row)?;
                bytes += document.as_ref().map_or(0, String::len);
                addition.documents.extend(document.map(|document| (source.id(rowid), document)));
                addition.to[source as usize] = rowid;
                addition.looked_at += 1;
            }
        }
        // FTS5 begins another segment where a number is lower than the one before.
        addition.documents.sort_unstable_by_key(|(id, _)| *id);
        Ok(addition)
    }

    fn write(&self, connection: &Connection) -> Result<(), Error> {
        for (id, document) in &self.documents {
            add(connection, *id, document)?;
        }
        let update = "UPDATE search_progress SET events_to = ?, attributes_to = ?, variants_to = ?";
        connection.prepare_cached(update)?.execute(self.to)?;
        Ok(())
    }
}

/// An index that is not to be trusted any longer is emptied in pieces, and then filled anew. While that goes on nobody uses it.
fn empty(connection: &Connection, rest: &mut Rest<'_>) -> Result<(), Error> {
    change(connection, |progress| if progress.is_sound() { Ok(()) } else { empty_some(connection) })?;
    rest()
}

fn empty_some(connection: &Connection) -> Result<(), Error> {
    let begun = "UPDATE search_progress SET rules = 0, events_to = 0, attributes_to = 0, variants_to = 0";
    connection.execute(begun, ())?;
    let unclean =
        "INSERT INTO uncleaned VALUES (1, CAST(strftime('%s', 'now') AS INTEGER) * 1000) ON CONFLICT DO NOTHING";
    connection.execute(unclean, ())?;
    let mut removed = 0;
    // FTS5's own records (10 and less) stay until the last piece.
    for (table, key) in [("search_data", "id > 10"), ("search_docsize", "1"), ("search_changes", "1")] {
        let sql =
            format!("DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {key} LIMIT {EMPTIED_MAX})");
        removed += connection.prepare_cached(&sql)?.execute(())?;
    }
    if removed == 0 {
        connection.execute("INSERT INTO search (search) VALUES ('delete-all')", ())?;
        let anew = "UPDATE search_progress SET rules = ?, erasures_to = (SELECT coalesce(max(id), 0) FROM erasures)";
        connection.execute(anew, [RULES])?;
    }
    Ok(())
}

/// One transaction of the index's own: nothing of it is sealed.
fn change<T>(connection: &Connection, change: impl FnOnce(Progress) -> Result<T, Error>) -> Result<T, Error> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    let gone = || Error::new(ErrorKind::Corrupt, "the row of table `search_progress` is gone");
    let changed =
        Progress::of(connection).and_then(|progress| change(progress.ok_or_else(gone)?)).and_then(|changed| {
            connection.prepare_cached("COMMIT")?.execute(())?;
            Ok(changed)
        });
    if let Err(error) = &changed {
        let _ = connection.execute_batch("ROLLBACK"); // where SQLite has not done so by itself
        if error.kind == ErrorKind::Corrupt {
            distrust(connection)?;
        }
    }
    changed
}

/// What is damaged is made anew: the rows have it all.
fn distrust(connection: &Connection) -> Result<(), Error> {
    tracing::warn!("the full-text index is damaged; it is made anew");
    connection.execute("UPDATE search_progress SET rules = 0", ())?;
    Ok(())
}

/// Looks whether the index is damaged, beside whoever writes; then it is made anew by the next steps.
pub(super) fn check(connection: &Connection) -> Result<(), Error> {
    if Progress::of(connection)?.is_none_or(|progress| !progress.is_sound()) {
        return Ok(());
    }
    let told: Result<String, _> = connection.query_row("PRAGMA quick_check(search)", (), |row| row.get(0));
    match told.map_err(Error::from) {
        Ok(told) if told == "ok" => Ok(()),
        Err(error) if error.kind != ErrorKind::Corrupt => Err(error),
        _ => distrust(connection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MIGRATIONS;

    /// What is looked for is taken apart as the archive's own index takes it, and a new index is of these rules.
    #[test]
    fn the_index_is_as_the_migration_makes_it() {
        let connection = Connection::open_in_memory().expect("memory");
        connection.execute_batch(&MIGRATIONS.map(|(_, _, sql)| sql).concat()).expect("sound SQL");
        let sql = "SELECT sql FROM sqlite_schema WHERE name = 'search'";
        let schema: String = connection.query_row(sql, (), |row| row.get(0)).expect("a table");
        assert!(schema.contains(&format!("tokenize=\"{TOKENIZE}\"")), "{schema}");
        let progress = Progress::of(&connection).expect("read").expect("a row");
        assert!(progress.is_sound(), "{progress:?}");
        assert_eq!(step(&connection, &mut || Ok(())).expect("nothing to do"), Step::Done);
    }
}
