//! Errors, findings and files that are of no chat of the archive: of none at all, or of one that has no row in `chats` (a client
//! asked for it, and no node knew it; or it was removed before). Their age is their own.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

use rusqlite::{Connection, params};

use super::Custody;
use super::hold::InForce;
use super::removal::{Facts, How, ROWS_MAX, Removal, ServicesOf, add_rows, select_keys};
use crate::store::seal::destroyed::{Located, RowName};
use crate::store::seal::{ERRORS, FILES, FINDINGS, Form, KeyValue, MASKINGS, Pack};
use crate::store::{Error, ErrorKind};

/// Their tables, and the time that their age counts from. Maskings go with what was masked; those that were left of it go by
/// themselves.
const TABLES: [(u8, &str); 4] =
    [(ERRORS, "last_observed_at"), (FINDINGS, "last_observed_at"), (FILES, "at"), (MASKINGS, "recorded_at")];
/// Rows whose leaves are looked for together: the seals are read through once for all of them.
const TOGETHER_MAX: usize = 100_000;

impl Custody {
    /// How many [`Custody::remove_of_no_chat`] would remove, but for their maskings.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn due_of_no_chat(&self, before: i64, services: &ServicesOf<'_>, in_force: &InForce) -> Result<i64, Error> {
        let connection = &self.connection;
        let due = Due { before, services: services.named(), held: held(connection, in_force)? };
        let mut count = 0;
        for (number, age) in TABLES {
            let Some(wanted) = wanted(number, age, services) else { continue };
            let form = Form::of(number).expect("listed by its number");
            let sql = format!("SELECT count(*) FROM {} WHERE {wanted} AND ?4", form.table);
            let values = params![due.before, due.services, due.held, 1];
            count += connection.prepare_cached(&sql)?.query_row(values, |row| row.get::<_, i64>(0))?;
        }
        Ok(count)
    }

    /// Removes errors, findings and files of no chat that are older than `before`, with their maskings; of errors those of a
    /// service, or of services that are not among some. How many rows; and how many are not as they were sealed, and stay.
    ///
    /// # Errors
    /// As writing goes wrong; what was removed is noted.
    pub fn remove_of_no_chat(
        &self,
        act_id: i64,
        before: i64,
        services: &ServicesOf<'_>,
        now: impl Fn() -> i64,
    ) -> Result<(i64, i64), Error> {
        self.check_all_is_sealed()?;
        let (mut removed, mut altered) = (0, BTreeSet::new());
        let mut in_force = self.holds_in_force()?;
        loop {
            let due = Due { before, services: services.named(), held: held(&self.connection, &in_force)? };
            let units = due.units(&self.connection, services, &altered)?;
            if units.is_empty() {
                return Ok((removed, altered.len() as i64));
            }
            let mut located = Located::wanting(units.iter().flatten().cloned());
            while located.look_on(&self.connection)? {}
            let mut rest = &units[..];
            while !rest.is_empty() {
                if !in_force.is_current(&self.connection)? || in_force.is_stale() {
                    in_force = self.holds_in_force()?;
                    if held(&self.connection, &in_force)? != due.held {
                        break;
                    }
                }
                let began = Instant::now();
                let some = &rest[..rest.len().min(ROWS_MAX)];
                removed += self.change_by(act_id, |pack| {
                    if !in_force.is_current(&self.connection)? {
                        let what = "somebody puts something on hold just now: run this again";
                        return Err(Error::new(ErrorKind::Busy, what));
                    }
                    let (connection, looked_until) = (&self.connection, located.until);
                    let removal = Removal { connection, act_id, how: How::Purged, at: now(), looked_until };
                    remove(&removal, some, &mut located, &mut altered, pack)
                })?;
                rest = &rest[some.len()..];
                self.give_way(began.elapsed())?;
            }
        }
    }
}

fn remove(
    removal: &Removal<'_>,
    units: &[Vec<RowName>],
    located: &mut Located,
    altered: &mut BTreeSet<RowName>,
    pack: &mut Pack,
) -> Result<i64, Error> {
    let mut rows = Vec::new();
    for unit in units {
        match located.find_rest(removal.connection, unit, removal.looked_until) {
            Err(error) if error.kind == ErrorKind::Altered => drop(altered.insert(unit[0].clone())),
            found => {
                found?;
                rows.extend_from_slice(unit);
            }
        }
    }
    if rows.is_empty() { Ok(0) } else { removal.write(pack, None, &Facts::default(), &rows, located) }
}

/// What is looked for.
struct Due {
    before: i64,
    /// JSON.
    services: String,
    /// Ids of chats on hold, JSON.
    held: String,
}

impl Due {
    /// The first of them, each with its maskings behind it.
    fn units(
        &self,
        connection: &Connection,
        services: &ServicesOf<'_>,
        altered: &BTreeSet<RowName>,
    ) -> Result<Vec<Vec<RowName>>, Error> {
        let mut rows = Vec::new();
        let limit = TOGETHER_MAX + altered.len();
        for (number, age) in TABLES {
            let Some(wanted) = wanted(number, age, services) else { continue };
            let form = Form::of(number).expect("listed by its number");
            let sql = format!("{} WHERE {wanted} LIMIT ?4", select_keys(form));
            let values = params![self.before, self.services, self.held, (limit - rows.len()) as i64];
            add_rows(connection, &sql, values, form, &mut rows)?;
        }
        rows.retain(|name| !altered.contains(name));
        let mut maskings = maskings(connection)?;
        let with_maskings = |name: RowName| {
            let behind = maskings.remove(&name).unwrap_or_default();
            std::iter::once(name).chain(behind).collect()
        };
        Ok(rows.into_iter().map(with_maskings).collect())
    }
}

/// By what was masked.
fn maskings(connection: &Connection) -> Result<BTreeMap<RowName, Vec<RowName>>, Error> {
    let sql = "SELECT id, what, row_id FROM maskings WHERE what IN ('error', 'finding') AND row_id IS NOT NULL";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(())?;
    let mut maskings: BTreeMap<RowName, Vec<RowName>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let of = if row.get_ref(1)?.as_str() == Ok("error") { ERRORS } else { FINDINGS };
        let masking = (MASKINGS, vec![KeyValue::Integer(row.get(0)?)]);
        maskings.entry((of, vec![KeyValue::Integer(row.get(2)?)])).or_default().push(masking);
    }
    Ok(maskings)
}

/// The condition of a table: `?1` is the age, `?2` names services, `?3` chats on hold. None where nothing of it can be due.
fn wanted(number: u8, age: &str, services: &ServicesOf<'_>) -> Option<String> {
    let of_service = match (number, services) {
        (ERRORS, ServicesOf::One(_)) => "service = ?2",
        (ERRORS, ServicesOf::AllBut(_)) => "(service IS NULL OR service NOT IN (SELECT value FROM json_each(?2)))",
        (_, ServicesOf::One(_)) => return None,
        (MASKINGS, ServicesOf::AllBut(_)) => {
            "?2 IS NOT NULL AND CASE what WHEN 'error' THEN row_id NOT IN (SELECT id FROM api_errors)
                WHEN 'finding' THEN row_id NOT IN (SELECT id FROM findings) ELSE 1 END"
        }
        (_, ServicesOf::AllBut(_)) => "?2 IS NOT NULL",
    };
    let of_no_chat = "(chat_id IS NULL OR chat_id NOT IN (SELECT chat_id FROM chats)
        AND chat_id NOT IN (SELECT value FROM json_each(?3)))";
    Some(format!("{of_no_chat} AND {age} < ?1 AND {of_service} AND ?3 IS NOT NULL"))
}

/// Chats without a row in `chats` that are on hold: their ids, as a list in JSON.
fn held(connection: &Connection, in_force: &InForce) -> Result<String, Error> {
    let mut held = HashSet::new();
    for (number, _) in TABLES {
        let table = Form::of(number).expect("listed by its number").table;
        let sql = format!(
            "SELECT DISTINCT chat_id FROM {table} WHERE chat_id IS NOT NULL AND chat_id NOT IN (SELECT chat_id FROM chats)"
        );
        let mut select = connection.prepare_cached(&sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let chat_id: String = row.get(0)?;
            if in_force.on(connection, &chat_id)?.is_some() {
                held.insert(chat_id);
            }
        }
    }
    let mut held: Vec<String> = held.into_iter().collect();
    held.sort_unstable();
    Ok(serde_json::json!(held).to_string())
}
