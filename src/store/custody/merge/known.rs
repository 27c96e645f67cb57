//! Which rows of another archive are here already, by their numbers there: `merged_rows`. Numbers are given again: after a purge, in an
//! archive that was restored. So a row is the one of that number only if what never changes of it is the same; else it is another row,
//! which takes the number over, and the one before goes on under a negative `their_id`. Of a row that was removed here `id` is the
//! time of it, negative ([`forget`]).

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::{Merge, NUMBERED};
use crate::store::Error;
use crate::store::seal::{ERRORS, FINDINGS, Form, KeyValue, OUTAGES, RUNS};

impl Merge<'_> {
    /// Whether a row of theirs is here, or was: by its number and what it has of [`lasting_of`].
    pub(super) fn known(&self, form: &Form, archive_id: &str, number: i64, lasting: &[Value]) -> Result<Known, Error> {
        let Value::Integer(time) = lasting[0] else { return Ok(Known::No) };
        let (table, key, is_same, bound) = (form.table, form.key[0].0, is_same(form.number), lasting.len());
        let sql = "SELECT their_id, id, repeats FROM merged_rows WHERE archive_id = ? AND form = ? AND their_id = ?";
        let mut select = self.ours.prepare_cached(sql)?;
        let at_number = select.query_row(params![archive_id, form.number, number], Mapped::of).optional()?;
        let with = |more: &[Value]| params_from_iter(lasting.iter().chain(more).cloned().collect::<Vec<_>>());
        if let Some(mapped) = &at_number {
            let sql = format!("SELECT 1 FROM {table} WHERE {key} = ?{} AND {is_same}", bound + 1);
            match mapped.id {
                id if id > 0 && self.ours.prepare_cached(&sql)?.exists(with(&[id.into()]))? => {
                    return Ok(Known::Here(*mapped));
                }
                id if id <= 0 && time <= -id => return Ok(Known::Removed(*mapped)),
                _ => {}
            }
        } else if number > 0 {
            return Ok(Known::No);
        }
        // One that had to leave its number to another one, here or where it comes from.
        let sql = format!(
            "SELECT m.their_id, m.id, m.repeats FROM {table} t CROSS JOIN merged_rows m ON m.form = ?{} AND m.id = t.{key}
             WHERE {is_same} AND m.archive_id = ?{} AND (m.their_id < 0 OR ?{} < 0) LIMIT 1",
            bound + 1,
            bound + 2,
            bound + 3
        );
        let more = [i64::from(form.number).into(), archive_id.to_owned().into(), number.into()];
        if let Some(mapped) = self.ours.prepare_cached(&sql)?.query_row(with(&more), Mapped::of).optional()? {
            return Ok(Known::Here(mapped));
        }
        let sql = "SELECT their_id, id, repeats FROM merged_rows
            WHERE form = ? AND id = ? AND archive_id = ? AND (their_id < 0 OR ? < 0) LIMIT 1";
        let mut select = self.ours.prepare_cached(sql)?;
        let removed = select.query_row(params![form.number, -time, archive_id, number], Mapped::of).optional()?;
        if let Some(mapped) = removed {
            return Ok(Known::Removed(mapped));
        }
        match at_number {
            Some(mapped) if self.was_removed_before(form, archive_id, &mapped, time)? => Ok(Known::Removed(mapped)),
            _ => Ok(Known::No),
        }
    }

    /// Whether an earlier release has removed the row here, which did not note it: there is none of that number now, or one
    /// that did not come as this one. What was first seen after the last merge is none that was here.
    fn was_removed_before(&self, form: &Form, archive_id: &str, mapped: &Mapped, time: i64) -> Result<bool, Error> {
        if mapped.id <= 0 || self.merged_before.is_none_or(|merged| time > merged) {
            return Ok(false);
        }
        let came = format!(
            "SELECT 1 FROM {} t JOIN merged_rows r ON r.form = 9 AND r.id = t.run_id AND r.archive_id = ?1
             WHERE t.{} = ?2 AND NOT EXISTS (SELECT 1 FROM merged_rows o
                WHERE o.form = ?3 AND o.id = ?2 AND (o.archive_id <> ?1 OR o.their_id <> ?4))",
            form.table, form.key[0].0
        );
        let bound = params![archive_id, mapped.id, form.number, mapped.number];
        if self.ours.prepare_cached(&came)?.exists(bound)? {
            return Ok(false);
        }
        self.remember(form.number, archive_id, mapped.number, -time, mapped.repeats)?;
        Ok(true)
    }

    /// The number is another row's now.
    pub(super) fn put_aside(&self, form: u8, archive_id: &str, number: i64) -> Result<(), Error> {
        let sql = "UPDATE merged_rows SET their_id =
                (SELECT min(0, min(their_id)) - 1 FROM merged_rows WHERE archive_id = ?1 AND form = ?2)
            WHERE archive_id = ?1 AND form = ?2 AND their_id = ?3";
        self.ours.prepare_cached(sql)?.execute(params![archive_id, form, number])?;
        Ok(())
    }

    pub(super) fn remember(&self, form: u8, archive_id: &str, number: i64, id: i64, repeats: i64) -> Result<(), Error> {
        let sql = "INSERT INTO merged_rows (archive_id, form, their_id, id, repeats) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET id = excluded.id, repeats = excluded.repeats";
        self.ours.prepare_cached(sql)?.execute(params![archive_id, form, number, id, repeats])?;
        Ok(())
    }
}

/// Of a row that is about to be removed, before its number is given again: it stays known that the other archive's row was
/// removed here, and when it was observed.
pub(in crate::store::custody) fn forget(connection: &Connection, form: &Form, key: &[KeyValue]) -> Result<(), Error> {
    if !NUMBERED.contains(&form.number) {
        return Ok(());
    }
    let has_merges = "SELECT 1 FROM sqlite_schema WHERE name = 'merged_rows'";
    if !connection.prepare_cached(has_merges)?.exists(())? {
        return Ok(());
    }
    let time = if form.number == FINDINGS { "last_observed_at" } else { lasting_of(form.number)[0] };
    let note = format!(
        "UPDATE merged_rows SET id = coalesce(-(SELECT {time} FROM {} WHERE id = ?2), id) WHERE form = ?1 AND id = ?2",
        form.table
    );
    connection.prepare_cached(&note)?.execute(params![form.number, key[0]])?;
    Ok(())
}

/// Columns of a row that never change, masked later or not; the first is its time.
pub(super) fn lasting_of(form: u8) -> &'static [&'static str] {
    match form {
        RUNS => &["started_at"],
        ERRORS => &["observed_at", "origin", "format", "code", "class"],
        FINDINGS => &["observed_at", "kind", "chat_id", "raw_length"],
        OUTAGES => &["started_at", "reason"],
        _ => &["at", "file_id", "direction", "sha256"],
    }
}

/// The condition for it, with the values bound from ?1 on. A finding that several archives have is here from the first on.
fn is_same(form: u8) -> String {
    let condition = |(at, column): (usize, &&str)| match (form, at) {
        (FINDINGS, 0) => "?1 BETWEEN observed_at AND last_observed_at".to_owned(),
        (_, 0) => format!("{column} = ?1"),
        _ => format!("{column} IS ?{}", at + 1),
    };
    lasting_of(form).iter().enumerate().map(condition).collect::<Vec<_>>().join(" AND ")
}

/// What is known here of a row of theirs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    Here(Mapped),
    /// It was, and was erased or purged here.
    Removed(Mapped),
    No,
}

/// A row of `merged_rows`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapped {
    pub number: i64,
    pub id: i64,
    pub repeats: i64,
}

impl Mapped {
    fn of(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self { number: row.get(0)?, id: row.get(1)?, repeats: row.get(2)? })
    }
}
