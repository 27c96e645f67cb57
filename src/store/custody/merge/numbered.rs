//! What a merge brings of tables whose rows are known by a number alone, and the accounts of runs.

use std::time::Instant;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::known::{Known, Mapped, lasting_of};
use super::{MASKING, Masking, Maskings, Merge, values};
use crate::store::Error;
use crate::store::append::finding_digest_of;
use crate::store::seal::{ACCOUNTS, ERRORS, FINDINGS, Form, KeyValue, OUTAGES, Pack};

impl Merge<'_> {
    /// Rows of a table that are known by their numbers, after one of them. Where to go on.
    pub(super) fn numbered(&mut self, pack: &mut Pack, number: u8, after: i64) -> Result<Option<i64>, Error> {
        let form = Form::of(number).expect("listed by its number");
        let sql = format!("{} WHERE id > ? ORDER BY id LIMIT {}", form.select(), self.rows_max);
        let mut select = self.other.connection.prepare_cached(&sql)?;
        let mut rows = select.query([after])?;
        let (mut count, mut last) = (0, after);
        while let Some(row) = rows.next()? {
            (count, last) = (count + 1, row.get(0)?);
            self.numbered_row(pack, form, row, last)?;
        }
        Ok((count == self.rows_max).then_some(last))
    }

    fn numbered_row(&mut self, pack: &mut Pack, form: &'static Form, row: &Row<'_>, theirs: i64) -> Result<(), Error> {
        let place = |column: &str| form.place_of(column).expect("each of them has one");
        let run: i64 = row.get(place("run_id"))?;
        let (mut archive_id, mut number) =
            self.other.origin(form.number, theirs, (form.number != FINDINGS).then_some(run))?;
        let mut values = values(row, 1, form.columns.len())?;
        values[place("run_id") - 1] = Value::Integer(self.run(run));
        if archive_id == self.custody.archive_id {
            if self.own_runs.contains(&run) || (form.number == FINDINGS && self.finding_here(form, &values)?.is_some())
            {
                return Ok(());
            }
            if form.number == FINDINGS {
                (archive_id, number) = (self.other.archive_id.clone(), theirs);
            }
        }
        let lasting: Vec<Value> =
            lasting_of(form.number).iter().map(|column| values[place(column) - 1].clone()).collect();
        let chat_id = match form.place_of("chat_id").map(|place| &values[place - 1]) {
            Some(Value::Text(chat_id)) => Some(chat_id.clone()),
            _ => None,
        };
        if let Some(chat_id) = &chat_id
            && let (_, Some(until)) = self.erased(chat_id)?
        {
            let is_of_before = row.get::<_, i64>(place(lasting_of(form.number)[0]))? <= until;
            if is_of_before || self.is_gone(chat_id)? {
                return Ok(());
            }
            if form.number == FINDINGS {
                // As the writer has it: without what may be of before.
                self.masked.remove(&(FINDINGS, theirs));
                let detail = row.get::<_, Option<String>>(place("detail"))?.unwrap_or_default();
                let kind: String = row.get(place("kind"))?;
                let digest = finding_digest_of(&kind, chat_id, &[], detail.as_bytes());
                values[place("raw") - 1] = Value::Blob(Vec::new());
                values[place("digest") - 1] = Value::Blob(digest.to_vec());
            }
        }
        let known = self.known(form, &archive_id, number, &lasting)?;
        if form.number == FINDINGS {
            return self.finding(pack, form, values, &archive_id, number, known);
        }
        match known {
            Known::Here(Mapped { id, .. }) if form.number == ERRORS => self.repeat_error(pack, form, &values, id),
            Known::Here(_) | Known::Removed(_) => Ok(()),
            Known::No => {
                let id = self.insert(pack, form, values)?;
                self.put_aside(form.number, &archive_id, number)?;
                self.remember(form.number, &archive_id, number, id, 0)?;
                self.bring_maskings_of(pack, form, theirs, id)
            }
        }
    }

    fn insert(&mut self, pack: &mut Pack, form: &Form, values: Vec<Value>) -> Result<i64, Error> {
        let columns = &form.columns[1..];
        let places = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({places})", form.table, columns.join(", "));
        let id = self.ours.prepare_cached(&sql)?.insert(params_from_iter(&values[1..]))?;
        pack.touch_whole(form.number, [KeyValue::Integer(id)]);
        *match form.number {
            ERRORS => &mut self.merged.errors,
            FINDINGS => &mut self.merged.findings,
            OUTAGES => &mut self.merged.outages,
            _ => &mut self.merged.files,
        } += 1;
        Ok(id)
    }

    /// An error that was brought before, and was repeated since. In an older backup that was restored it may have been less often.
    fn repeat_error(&mut self, pack: &mut Pack, form: &Form, values: &[Value], id: i64) -> Result<(), Error> {
        let at = |column: &str| &values[form.place_of(column).expect("a column of errors") - 1];
        let update = "UPDATE api_errors SET repeats = max(repeats, ?1), last_observed_at = max(last_observed_at, ?2)
            WHERE id = ?3 AND (repeats < ?1 OR last_observed_at < ?2)";
        let bound = params![at("repeats"), at("last_observed_at"), id];
        if self.ours.prepare_cached(update)?.execute(bound)? > 0 {
            pack.touch(ERRORS, [KeyValue::Integer(id)]);
        }
        Ok(())
    }

    fn finding_here(&self, form: &Form, values: &[Value]) -> Result<Option<i64>, Error> {
        let digest = &values[form.place_of("digest").expect("a column of findings") - 1];
        let mut select = self.ours.prepare_cached("SELECT id FROM findings WHERE digest = ?")?;
        Ok(select.query_row([digest], |row| row.get(0)).optional()?)
    }

    /// Unique by its content, with a count: what of theirs is counted here already is not counted again.
    fn finding(
        &mut self,
        pack: &mut Pack,
        form: &'static Form,
        values: Vec<Value>,
        archive_id: &str,
        number: i64,
        known: Known,
    ) -> Result<(), Error> {
        let at = |column: &str| form.place_of(column).expect("a column of findings") - 1;
        let (Value::Integer(theirs), Value::Integer(repeats)) = (&values[0], &values[at("repeats")]) else {
            return Ok(());
        };
        let (theirs, repeats) = (*theirs, *repeats);
        let here = match (self.finding_here(form, &values)?, &known) {
            // Masked on one of both sides.
            (None, Known::Here(mapped)) => Some(mapped.id),
            (here, _) => here,
        };
        let (number, counted) = match known {
            Known::Here(mapped) | Known::Removed(mapped) => (mapped.number, mapped.repeats),
            Known::No => {
                self.put_aside(FINDINGS, archive_id, number)?;
                (number, 0)
            }
        };
        let id = match here {
            None if matches!(known, Known::Removed(_)) => return Ok(()),
            None => {
                let id = self.insert(pack, form, values)?;
                self.bring_maskings_of(pack, form, theirs, id)?;
                id
            }
            Some(id) if repeats > counted => {
                let update = "UPDATE findings SET repeats = repeats + ?, observed_at = min(observed_at, ?),
                    last_observed_at = max(last_observed_at, ?) WHERE id = ?";
                let (first, last) = (&values[at("observed_at")], &values[at("last_observed_at")]);
                self.ours.prepare_cached(update)?.execute(params![repeats - counted, first, last, id])?;
                pack.touch(FINDINGS, [KeyValue::Integer(id)]);
                id
            }
            Some(id) => id,
        };
        self.remember(FINDINGS, archive_id, number, id, repeats.max(counted))
    }

    fn bring_maskings_of(&mut self, pack: &mut Pack, form: &Form, theirs: i64, id: i64) -> Result<(), Error> {
        let Some(numbers) = self.masked.remove(&(form.number, theirs)) else { return Ok(()) };
        let sql = format!("SELECT {MASKING} FROM maskings WHERE id = ?");
        let mut select = self.other.connection.prepare_cached(&sql)?;
        let maskings =
            numbers.iter().map(|number| select.query_row([number], Masking::of)).collect::<Result<Maskings, _>>()?;
        self.bring_maskings(pack, maskings.iter(), None, Some(id))
    }

    /// What their runs saw, hour by hour; of one that goes on the present hour is brought anew. None of archives of earlier
    /// releases.
    pub(super) fn accounts(&mut self) -> Result<(), Error> {
        let form = Form::of(ACCOUNTS).expect("there is one");
        let has = |connection: &Connection| {
            connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'accounts'")?.exists(())
        };
        if !has(self.ours)? || !has(&self.other.connection)? {
            return Ok(());
        }
        let mut select = self.other.connection.prepare(&format!("{} ORDER BY run_id, hour", form.select()))?;
        let rows = select.query_map((), |row| values(row, 1, form.columns.len()))?.collect::<Result<Vec<_>, _>>()?;
        for some in rows.chunks(self.rows_max as usize) {
            let began = Instant::now();
            self.custody.change(|pack| some.iter().try_for_each(|row| self.account(pack, form, row)))?;
            self.custody.give_way(began.elapsed())?;
        }
        Ok(())
    }

    fn account(&mut self, pack: &mut Pack, form: &Form, row: &[Value]) -> Result<(), Error> {
        let (Value::Integer(theirs), Value::Integer(hour)) = (&row[0], &row[1]) else { return Ok(()) };
        if self.own_runs.contains(theirs) {
            return Ok(());
        }
        let columns = form.columns.join(", ");
        let changed = form.columns[2..].iter().map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>();
        let places = vec!["?"; form.columns.len()].join(", ");
        let upsert = format!(
            "INSERT INTO accounts ({columns}) VALUES ({places}) ON CONFLICT DO UPDATE SET {} WHERE at < excluded.at",
            changed.join(", ")
        );
        let here = Value::Integer(self.run(*theirs));
        if self.ours.prepare_cached(&upsert)?.execute(params_from_iter(std::iter::once(&here).chain(&row[1..])))? == 1 {
            let Value::Integer(here) = here else { return Ok(()) };
            pack.touch(ACCOUNTS, [KeyValue::Integer(here), KeyValue::Integer(*hour)]);
            self.merged.hours += 1;
        }
        Ok(())
    }
}
