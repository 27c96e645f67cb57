//! Rows that a release without seals has written are sealed later, in pieces, beside live recording. Each piece is a
//! transaction and says how far it came: a process that is killed goes on from there.
//!
//! What such a run inserted is known by its number. Rows that it may have changed (of chats, findings, spools) say
//! nothing of it, and are all sealed anew.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    ACCOUNTS, ACTS, ARCHIVE, CHATS, COVERAGE, DELIVERIES, ERASURES, Form, HOLDS, KEYS, KeyValue, MERGES, Pack, RUNS,
    STAGINGS, WAITING, change,
};
use crate::store::{Error, Store};

/// Rows looked at in one transaction: a few milliseconds.
const ROWS_MAX: usize = 1_000;

/// What a piece of late sealing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Everything is sealed.
    Nothing,
    /// It was begun, or so many rows more are sealed.
    Going(u64),
    /// That was the last piece.
    Done,
}

impl Store {
    /// Seals a piece of what was written by runs that did not seal it. While another process may still write (`is_shared`),
    /// runs that have not ended are left for later.
    ///
    /// # Errors
    /// As writing goes wrong; what earlier pieces did stays.
    pub fn seal_later(&self, now: i64, is_shared: bool) -> Result<Late, Error> {
        let connection = &self.connection;
        if !is_begun(connection)? && !is_needed(connection, is_shared)? {
            return Ok(Late::Nothing);
        }
        change(connection, Some(now), |pack| match place(connection)? {
            None => begin(connection, is_shared),
            Some((form, after)) => go_on(connection, pack, form, after),
        })
    }
}

/// Whether runs of a release that does not seal are left, of which not everything is sealed yet.
pub(in crate::store) fn is_left(connection: &Connection) -> Result<bool, Error> {
    Ok(connection.prepare("SELECT 1 FROM runs WHERE sealing = 'nobody' LIMIT 1")?.exists(())? || is_begun(connection)?)
}

/// Somebody may have put its row there: without such a run nothing is sealed anew.
fn is_begun(connection: &Connection) -> Result<bool, Error> {
    Ok(place(connection)?.is_some() && !pending(connection)?.is_empty())
}

const IS_LEFT: &str = "sealing = 'nobody' AND (stopped_at IS NOT NULL OR NOT ?)";

fn is_needed(connection: &Connection, is_shared: bool) -> Result<bool, Error> {
    let sql = format!("SELECT 1 FROM runs WHERE {IS_LEFT} LIMIT 1");
    Ok(connection.prepare_cached(&sql)?.exists([is_shared])?)
}

fn place(connection: &Connection) -> Result<Option<(u8, i64)>, Error> {
    let mut select =
        connection.prepare_cached("SELECT CAST(form AS INTEGER), CAST(after AS INTEGER) FROM late_sealing")?;
    let read = |row: &Row<'_>| Ok((u8::try_from(row.get::<_, i64>(0)?).unwrap_or_default(), row.get(1)?));
    Ok(select.query_row((), read).optional()?)
}

/// Which runs it is about is settled now: rows of another that ends meanwhile may be in what was passed already.
fn begin(connection: &Connection, is_shared: bool) -> Result<Late, Error> {
    connection.execute(&format!("UPDATE runs SET sealing = 'pending' WHERE {IS_LEFT}"), [is_shared])?;
    connection.execute("INSERT INTO late_sealing VALUES (1, 1, 0)", ())?;
    Ok(Late::Going(0))
}

fn go_on(connection: &Connection, pack: &mut Pack, number: u8, after: i64) -> Result<Late, Error> {
    let Some(form) = Form::of(number) else { return finish(connection, pack) };
    let pending = pending(connection)?;
    // Rows of coverage go with their chats, since they have no rowids; the others in the end, or as they are written: such a
    // release knows nothing of acts.
    let is_passed = matches!(
        form.number,
        COVERAGE
            | RUNS
            | ARCHIVE
            | KEYS
            | ACTS
            | HOLDS
            | ERASURES
            | WAITING
            | MERGES
            | DELIVERIES
            | ACCOUNTS
            | STAGINGS
    ) || form.whole().is_some_and(|whole| matches!(whole.number, RUNS | ACTS | HOLDS));
    let (mut seen, mut last, mut sealed) = (0, after, 0);
    if !is_passed {
        let sql = format!("{} WHERE rowid > ? ORDER BY rowid LIMIT {ROWS_MAX}", form.select());
        let mut select = connection.prepare_cached(&sql)?;
        let mut rows = select.query([after])?;
        while let Some(row) = rows.next()? {
            (seen, last) = (seen + 1, row.get(0)?);
            if form.number == CHATS {
                sealed += coverage_of(connection, pack, row.get_ref(1)?.as_str().unwrap_or_default(), &pending)?;
            }
            sealed += u64::from(is_of(form, row, &pending)? && pack.row(form, row)?);
        }
    }
    let next = if seen < ROWS_MAX { (number + 1, 0) } else { (number, last) };
    connection.execute("UPDATE late_sealing SET form = ?, after = ?", params![next.0, next.1])?;
    Ok(Late::Going(sealed))
}

fn pending(connection: &Connection) -> Result<HashSet<i64>, Error> {
    let mut select = connection.prepare_cached("SELECT run_id FROM runs WHERE sealing = 'pending'")?;
    let runs = select.query_map((), |row| row.get(0))?;
    Ok(runs.collect::<Result<_, _>>()?)
}

/// Whether a row is one that such a run may have written.
fn is_of(form: &Form, row: &Row<'_>, pending: &HashSet<i64>) -> Result<bool, Error> {
    let may_change = form.whole().is_none() && matches!(form.table, "findings" | "spools" | "chats");
    match form.place_of("run_id").filter(|_| !may_change) {
        None => Ok(true),
        Some(place) => Ok(row.get_ref(place)?.as_i64().is_ok_and(|run_id| pending.contains(&run_id))),
    }
}

fn coverage_of(connection: &Connection, pack: &mut Pack, chat_id: &str, pending: &HashSet<i64>) -> Result<u64, Error> {
    let form = Form::of(COVERAGE).expect("there is one");
    let mut select = connection.prepare_cached(&format!("{} WHERE chat_id = ?", form.select()))?;
    let mut rows = select.query([chat_id])?;
    let mut sealed = 0;
    while let Some(row) = rows.next()? {
        sealed += u64::from(is_of(form, row, pending)? && pack.row(form, row)?);
    }
    Ok(sealed)
}

fn finish(connection: &Connection, pack: &mut Pack) -> Result<Late, Error> {
    for run_id in pending(connection)? {
        pack.touch_whole(RUNS, [KeyValue::Integer(run_id)]);
    }
    connection.execute("UPDATE runs SET sealing = 'later' WHERE sealing = 'pending'", ())?;
    connection.execute("DELETE FROM late_sealing", ())?;
    Ok(Late::Done)
}
