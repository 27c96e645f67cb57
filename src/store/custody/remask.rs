//! Applies a rule of masking to what is stored: the row is changed and sealed anew, the salts of the leaves that it had are
//! destroyed, and an `erasures` row says which, so that the evidence stands and what was masked cannot be guessed from it.
//!
//! It knows rows, leaves and keys; what a rule makes of a row [`crate::gms::remask`] knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::Custody;
use super::hold::InForce;
use crate::chat::{ContentDigest, Masking};
use crate::gms;
use crate::gms::mask::Masks;
use crate::gms::remask::{Columns, Stored};
use crate::store::append::{finding_digest_of, keyed_digest};
use crate::store::seal::destroyed::{Located, RowName, destroy, packed};
use crate::store::seal::{ATTRIBUTES, ERASURES, ERRORS, EVENTS, FINDINGS, Form, KeyValue, MASKINGS, Pack, VARIANTS};
use crate::store::{Error, ErrorKind, search};

/// Rows that are looked at in one read: some milliseconds, so that no snapshot of ours keeps the log from being folded.
const LOOKED_AT: i64 = 1_000;
/// Rows whose leaves are looked for together, some 100 bytes each: the seals are read through once for all of them.
const TOGETHER_MAX: usize = 100_000;
/// Rows in one transaction, from which on no further chat is begun: some ten milliseconds.
const ROWS_MAX: usize = 200;

/// What became of it, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remasked {
    /// Rows that were changed, by what they are of.
    pub rows: BTreeMap<Stored, i64>,
    /// Chats with such rows.
    pub chats: i64,
    /// Chats that were left as they are, and the hold on each.
    pub held: Vec<(String, i64)>,
}

impl Remasked {
    /// Of all tables.
    pub fn all_rows(&self) -> i64 {
        self.rows.values().sum()
    }
}

/// Rows of one chat, or of none.
type Target = (Option<String>, BTreeSet<RowName>);

impl Custody {
    /// Applies `masks` to every row that they would change, but for held chats. `progress` is told how many rows were looked
    /// at, of how many.
    ///
    /// # Errors
    /// As writing goes wrong, or it is not known what is held; what is done is done, and it can be run again.
    pub fn mask(
        &self,
        act_id: i64,
        masks: &Masks,
        now: impl Fn() -> i64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Remasked, Error> {
        self.check_all_is_sealed()?;
        let mut scan = Scan::of(&self.connection)?;
        let mut outcome = Outcome::default();
        while let Some(targets) = scan.some(masks, progress)? {
            let mut round = Round::begin(self, act_id, masks, &targets)?;
            let mut rest = &targets[..];
            while !rest.is_empty() {
                let began = Instant::now();
                let done = round.some(rest, now(), &mut outcome)?;
                rest = &rest[done..];
                self.give_way(began.elapsed())?;
            }
        }
        Ok(outcome.said())
    }

    /// The rules that were applied to what was stored: what comes in from elsewhere has not seen them.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn rules_applied(&self) -> Result<Vec<String>, Error> {
        let sql = "SELECT DISTINCT json_extract(asked, '$.rule') FROM acts
            WHERE kind = 'mask' AND json_extract(asked, '$.rule') IS NOT NULL ORDER BY 1";
        let mut select = self.connection.prepare(sql)?;
        let rules = select.query_map((), |row| row.get(0))?;
        Ok(rules.collect::<Result<_, _>>()?)
    }

    /// What the `serve` that runs masks by, as `runs.settings` has it. None where none runs.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn masking_of_serve(&self) -> Result<Option<serde_json::Value>, Error> {
        if !self.is_served {
            return Ok(None);
        }
        let has_merges = "SELECT 1 FROM sqlite_schema WHERE name = 'merged_rows'";
        let is_own = match self.connection.prepare(has_merges)?.exists(())? {
            true => "run_id NOT IN (SELECT id FROM merged_rows WHERE form = 9)",
            false => "1",
        };
        let sql =
            format!("SELECT json_extract(settings, '$.masking') FROM runs WHERE {is_own} ORDER BY run_id DESC LIMIT 1");
        let masking: Option<Option<String>> = self.connection.query_row(&sql, (), |row| row.get(0)).optional()?;
        Ok(masking.flatten().and_then(|masking| serde_json::from_str(&masking).ok()))
    }

    /// How many rows [`Custody::mask`] would change, and which chats it would leave.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn would_mask(&self, masks: &Masks, progress: &mut dyn FnMut(u64, u64)) -> Result<Remasked, Error> {
        let (mut scan, in_force) = (Scan::of(&self.connection)?, self.holds_in_force()?);
        let mut outcome = Outcome::default();
        while let Some(targets) = scan.some(masks, progress)? {
            for (chat_id, names) in targets {
                let held = match &chat_id {
                    Some(chat_id) => in_force.on(&self.connection, chat_id)?,
                    None => None,
                };
                match held {
                    Some(held) => outcome.held(chat_id.as_deref(), held),
                    None => outcome.changed(chat_id.as_deref(), names.iter().filter_map(|name| stored_of(name.0))),
                }
            }
        }
        Ok(outcome.said())
    }
}

/// What was done, while it goes on: a chat may come in several rounds.
#[derive(Debug, Default)]
struct Outcome {
    rows: BTreeMap<Stored, i64>,
    chats: BTreeSet<String>,
    held: BTreeMap<String, i64>,
}

impl Outcome {
    fn held(&mut self, chat_id: Option<&str>, by: i64) {
        self.held.extend(chat_id.map(|chat_id| (chat_id.to_owned(), by)));
    }

    fn changed(&mut self, chat_id: Option<&str>, rows: impl IntoIterator<Item = Stored>) {
        let mut is_any = false;
        for what in rows {
            *self.rows.entry(what).or_default() += 1;
            is_any = true;
        }
        self.chats.extend(chat_id.filter(|_| is_any).map(str::to_owned));
    }

    fn said(self) -> Remasked {
        Remasked { rows: self.rows, chats: self.chats.len() as i64, held: self.held.into_iter().collect() }
    }
}

fn form_of(what: Stored) -> &'static Form {
    let number = match what {
        Stored::Event => EVENTS,
        Stored::Variant => VARIANTS,
        Stored::Attribute => ATTRIBUTES,
        Stored::Error => ERRORS,
        Stored::Finding => FINDINGS,
    };
    Form::of(number).expect("a form of its number")
}

fn stored_of(form: u8) -> Option<Stored> {
    Stored::ALL.into_iter().find(|what| form_of(*what).number == form)
}

/// `SELECT` of what is read of a row: rowid, chat, its key, what a finding says of its end, and what may be masked.
fn select(what: Stored) -> String {
    let form = form_of(what);
    let key = form.key.iter().map(|column| column.0.to_owned());
    let end = match what {
        Stored::Finding => "kind = 'truncated' OR raw_length > length(raw)",
        _ => "0",
    };
    let columns = what.columns().iter().map(|column| format!("CAST({column} AS BLOB)"));
    let all: Vec<String> = key.chain([end.to_owned()]).chain(columns).collect();
    format!("SELECT rowid, chat_id, {} FROM {}", all.join(", "), form.table)
}

/// A row of [`select`].
struct Found {
    rowid: i64,
    chat_id: Option<String>,
    name: RowName,
    breaks_off: bool,
    columns: Columns,
}

impl Found {
    /// None where a value of its key is not of its column's kind: no row of ours.
    fn of(what: Stored, row: &Row<'_>) -> Result<Option<Self>, rusqlite::Error> {
        let form = form_of(what);
        let mut key = Vec::with_capacity(form.key.len());
        for (at, column) in form.key.iter().enumerate() {
            let Some(value) = KeyValue::of(row.get_ref(2 + at)?, column.1) else { return Ok(None) };
            key.push(value);
        }
        let end = 2 + form.key.len();
        let breaks_off = row.get::<_, Option<bool>>(end)?.unwrap_or_default();
        let column = |at: usize| row.get::<_, Option<Vec<u8>>>(end + 1 + at);
        let columns = (0..what.columns().len()).map(column).collect::<Result<_, _>>()?;
        Ok(Some(Self { rowid: row.get(0)?, chat_id: row.get(1)?, name: (form.number, key), breaks_off, columns }))
    }

    /// What it would be, and what was masked; None where it stays as it is.
    fn masked(&self, what: Stored, masks: &Masks) -> Option<(Columns, Vec<Masking>)> {
        let mut columns = self.columns.clone();
        let maskings = what.mask(masks, &mut columns, self.breaks_off);
        (columns != self.columns).then_some((columns, maskings))
    }
}

/// Goes over the tables, in the order in which their rows came.
struct Scan<'c> {
    connection: &'c Connection,
    /// What is left, and up to which row that is done.
    rest: Vec<(Stored, i64)>,
    looked_at: u64,
    all: u64,
    together_max: usize,
}

impl<'c> Scan<'c> {
    fn of(connection: &'c Connection) -> Result<Self, Error> {
        let mut all = 0;
        for what in Stored::ALL {
            let sql = format!("SELECT count(*) FROM {}", form_of(what).table);
            all += connection.query_row(&sql, (), |row| row.get::<_, i64>(0))?.cast_unsigned();
        }
        let rest = Stored::ALL.into_iter().rev().map(|what| (what, i64::MIN)).collect();
        Ok(Self { connection, rest, looked_at: 0, all, together_max: TOGETHER_MAX })
    }

    /// The next rows that would be changed, by chat. None where there are no more.
    fn some(&mut self, masks: &Masks, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Vec<Target>>, Error> {
        let (mut targets, mut rows) = (BTreeMap::<_, BTreeSet<RowName>>::new(), 0);
        while rows < self.together_max {
            let Some((what, after)) = self.rest.pop() else { break };
            let sql = format!("{} WHERE rowid > ? ORDER BY rowid LIMIT ?", select(what));
            let mut select = self.connection.prepare_cached(&sql)?;
            let mut found = select.query([after, LOOKED_AT])?;
            let mut last = None;
            while let Some(row) = found.next()? {
                self.looked_at += 1;
                last = Some(row.get(0)?);
                let Some(row) = Found::of(what, row)? else { continue };
                if row.masked(what, masks).is_some() {
                    rows += 1;
                    targets.entry(row.chat_id).or_default().insert(row.name);
                }
            }
            progress(self.looked_at.min(self.all), self.all);
            self.rest.extend(last.map(|last| (what, last)));
        }
        Ok((rows > 0).then(|| targets.into_iter().flat_map(in_pieces).collect()))
    }
}

/// A chat is masked in pieces, each whole in itself: a long one would keep the writer of `serve` waiting. Its variants stay
/// together, since they are named anew together.
fn in_pieces((chat_id, names): Target) -> Vec<Target> {
    let (variants, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.0 == VARIANTS);
    let pieces = others.chunks(ROWS_MAX).chain((!variants.is_empty()).then_some(&variants[..]));
    pieces.map(|piece| (chat_id.clone(), piece.iter().cloned().collect())).collect()
}

/// Rows that are masked with one look through the seals.
struct Round<'r> {
    custody: &'r Custody,
    act_id: i64,
    masks: &'r Masks,
    located: Located,
    looked_until: u64,
    in_force: InForce,
}

impl<'r> Round<'r> {
    fn begin(custody: &'r Custody, act_id: i64, masks: &'r Masks, targets: &[Target]) -> Result<Self, Error> {
        let mut names: BTreeSet<RowName> = BTreeSet::new();
        for (chat_id, of_chat) in targets {
            names.extend(of_chat.iter().cloned());
            if let (Some(chat_id), true) = (chat_id, of_chat.iter().any(|name| name.0 == VARIANTS)) {
                names.extend(named_by_digest(&custody.connection, chat_id)?);
            }
        }
        let mut located = Located::wanting(names);
        while located.look_on(&custody.connection)? {}
        let (looked_until, in_force) = (located.until, custody.holds_in_force()?);
        Ok(Self { custody, act_id, masks, located, looked_until, in_force })
    }

    /// The first few targets, in one transaction. How many those are: at least one.
    fn some(&mut self, targets: &[Target], at: i64, outcome: &mut Outcome) -> Result<usize, Error> {
        let connection = &self.custody.connection;
        // Queries of holds are not asked while the lock is held.
        while !self.in_force.is_current(connection)? || self.in_force.is_stale() {
            self.in_force = self.custody.holds_in_force()?;
        }
        let Self { custody, act_id, masks, located, looked_until, in_force, .. } = self;
        let (told, done) = custody.change_by(*act_id, |pack| {
            if !in_force.is_current(connection)? {
                let what = "somebody puts something on hold just now: run this again";
                return Err(Error::new(ErrorKind::Busy, what));
            }
            let mut change = Change { connection, pack, act_id: *act_id, masks, at };
            let (mut told, mut rows) = (Vec::new(), 0);
            for (chat_id, names) in targets {
                let held = match chat_id {
                    Some(chat_id) => in_force.on(connection, chat_id)?,
                    None => None,
                };
                if let Some(held) = held {
                    told.push((chat_id.as_deref(), Err(held)));
                    continue;
                }
                let changed = change.target(chat_id.as_deref(), names, located, *looked_until)?;
                rows += changed.len();
                told.push((chat_id.as_deref(), Ok(changed)));
                if rows >= ROWS_MAX || told.len() >= ROWS_MAX {
                    break;
                }
            }
            let done = told.len();
            Ok((told, done))
        })?;
        for (chat_id, became) in told {
            match became {
                Ok(changed) => outcome.changed(chat_id, changed),
                Err(by) => outcome.held(chat_id, by),
            }
        }
        Ok(done)
    }
}

/// What names variants of a chat by their digests: the variants, and their maskings.
fn named_by_digest(connection: &Connection, chat_id: &str) -> Result<Vec<RowName>, Error> {
    let mut names = Vec::new();
    let sql = format!("{} WHERE chat_id = ?", select(Stored::Variant));
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query([chat_id])?;
    while let Some(row) = rows.next()? {
        names.extend(Found::of(Stored::Variant, row)?.map(|found| found.name));
    }
    let sql = "SELECT id FROM maskings WHERE chat_id = ? AND what = 'variant'";
    let mut select = connection.prepare_cached(sql)?;
    let ids = select.query_map([chat_id], |row| row.get(0))?;
    for id in ids {
        names.push((MASKINGS, vec![KeyValue::Integer(id?)]));
    }
    Ok(names)
}

/// One transaction.
struct Change<'t> {
    connection: &'t Connection,
    pack: &'t mut Pack,
    act_id: i64,
    masks: &'t Masks,
    at: i64,
}

/// A row that is changed.
struct Changed {
    what: Stored,
    found: Found,
    columns: Columns,
    maskings: Vec<Masking>,
}

impl Change<'_> {
    /// Rows of one chat, or of none. What was changed.
    fn target(
        &mut self,
        chat_id: Option<&str>,
        names: &BTreeSet<RowName>,
        located: &mut Located,
        looked_until: u64,
    ) -> Result<Vec<Stored>, Error> {
        let mut changed = Vec::new();
        for name in names {
            changed.extend(self.masked(name)?);
        }
        if changed.is_empty() {
            return Ok(Vec::new()); // they were masked or erased meanwhile
        }
        let mut before: Vec<RowName> = changed.iter().map(|changed: &Changed| changed.found.name.clone()).collect();
        if let (Some(chat_id), true) = (chat_id, changed.iter().any(|changed| changed.what == Stored::Variant)) {
            let named = named_by_digest(self.connection, chat_id)?;
            before.extend(named.into_iter().filter(|name| !names.contains(name)));
            located.find_rest(self.connection, &before, looked_until)?;
            self.rekey(chat_id, &mut changed)?;
            // Also those of which no variant is left: what they were sealed as goes.
            before.iter().filter(|name| name.0 == MASKINGS).for_each(|name| self.pack.touch(name.0, name.1.clone()));
        } else {
            located.find_rest(self.connection, &before, looked_until)?;
        }
        for row in &changed {
            self.write(row)?;
        }
        let leaves: BTreeSet<u64> = before.iter().flat_map(|name| located.all_of(name)).collect();
        destroy(self.connection, &leaves)?;
        self.note(chat_id, &changed, before.len(), &leaves)?;
        Ok(changed.into_iter().map(|changed| changed.what).collect())
    }

    fn masked(&self, name: &RowName) -> Result<Option<Changed>, Error> {
        let what = stored_of(name.0).expect("found by its table");
        let form = form_of(what);
        let is_key = form.key.iter().map(|column| format!("{} = ?", column.0)).collect::<Vec<_>>().join(" AND ");
        let mut select = self.connection.prepare_cached(&format!("{} WHERE {is_key}", select(what)))?;
        let mut rows = select.query(params_from_iter(&name.1))?;
        let Some(found) = rows.next()?.map(|row| Found::of(what, row)).transpose()?.flatten() else { return Ok(None) };
        let masked = found.masked(what, self.masks);
        Ok(masked.map(|(columns, maskings)| Changed { what, found, columns, maskings }))
    }

    /// The digest of a variant, and the key that it is made with, would tell what was masked: all variants of the chat get
    /// others. Two that have become the same are one.
    fn rekey(&mut self, chat_id: &str, changed: &mut Vec<Changed>) -> Result<(), Error> {
        let mut key = [0_u8; 16];
        getrandom::fill(&mut key).map_err(|e| Error::new(ErrorKind::Other, format!("no random numbers: {e}")))?;
        let upsert = "INSERT INTO variant_keys VALUES (?, ?) ON CONFLICT (chat_id) DO UPDATE SET key = excluded.key";
        self.connection.prepare_cached(upsert)?.execute(params![chat_id, key])?;
        for found in self.variants(chat_id)? {
            let at = changed.iter().position(|changed| changed.found.name == found.name);
            let columns = at.map_or(&found.columns, |at| &changed[at].columns);
            let raw = String::from_utf8_lossy(columns[0].as_deref().unwrap_or_default()).into_owned();
            let digest = keyed_digest(&key, &gms::digest(&raw));
            let is_kept = self.move_variant(chat_id, &found, &digest)?;
            if let Some(at) = at {
                if is_kept {
                    changed[at].found.name.1[2] = KeyValue::Blob(digest.into());
                } else {
                    changed.remove(at);
                }
            }
        }
        Ok(())
    }

    fn variants(&self, chat_id: &str) -> Result<Vec<Found>, Error> {
        let sql = format!("{} WHERE chat_id = ? ORDER BY rowid", select(Stored::Variant));
        let mut select = self.connection.prepare_cached(&sql)?;
        let mut rows = select.query([chat_id])?;
        let mut variants = Vec::new();
        while let Some(row) = rows.next()? {
            variants.extend(Found::of(Stored::Variant, row)?);
        }
        Ok(variants)
    }

    /// A variant, and the maskings of it, get its new digest. False where another one has it: then it is taken out.
    fn move_variant(&mut self, chat_id: &str, found: &Found, digest: &ContentDigest) -> Result<bool, Error> {
        let (index, old) = (&found.name.1[1], &found.name.1[2]);
        let sql = "SELECT 1 FROM event_variants WHERE chat_id = ? AND event_index = ? AND digest = ?";
        let is_taken = self.connection.prepare_cached(sql)?.exists(params![chat_id, index, digest])?;
        if is_taken {
            search::forget(self.connection, form_of(Stored::Variant), &found.name.1)?;
        }
        let sql = match is_taken {
            true => "DELETE FROM event_variants WHERE rowid = ?2 AND ?1 IS NOT NULL",
            false => "UPDATE event_variants SET digest = ?1 WHERE rowid = ?2",
        };
        self.connection.prepare_cached(sql)?.execute(params![digest, found.rowid])?;
        if !is_taken {
            let key = [KeyValue::Text(chat_id.into()), index.clone(), KeyValue::Blob(digest.to_vec())];
            self.pack.touch(VARIANTS, key);
        }
        let sql = "UPDATE maskings SET digest = ? WHERE chat_id = ? AND event_index = ? AND digest = ? RETURNING id";
        let mut update = self.connection.prepare_cached(sql)?;
        let ids = update.query_map(params![digest, chat_id, index, old], |row| row.get(0))?;
        for id in ids {
            self.pack.touch(MASKINGS, [KeyValue::Integer(id?)]);
        }
        Ok(!is_taken)
    }

    fn write(&mut self, row: &Changed) -> Result<(), Error> {
        let (form, found) = (form_of(row.what), &row.found);
        let mut sets: Vec<(&str, Value)> = Vec::new();
        for ((name, before), after) in row.what.columns().iter().zip(&found.columns).zip(&row.columns) {
            if before != after {
                sets.push((name, value_of(row.what, name, after.clone())));
            }
        }
        if row.what == Stored::Finding {
            sets.push(("digest", Value::Blob(self.digest_of_finding(row)?.to_vec())));
        }
        let list = sets.iter().map(|(name, _)| format!("{name} = ?")).collect::<Vec<_>>().join(", ");
        let values = sets.iter().map(|(_, value)| value as &dyn ToSql).chain([&found.rowid as &dyn ToSql]);
        let sql = format!("UPDATE {} SET {list} WHERE rowid = ?", form.table);
        search::forget(self.connection, form, &found.name.1)?;
        self.connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        self.pack.touch_whole(form.number, found.name.1.clone());
        self.write_maskings(row)
    }

    /// Of its content as it is now, so that it says nothing of what was masked; and so that the same that comes again is known.
    /// Where another finding is that already, a number by chance.
    fn digest_of_finding(&self, row: &Changed) -> Result<ContentDigest, Error> {
        let sql = "SELECT kind, coalesce(chat_id, '') FROM findings WHERE id = ?";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let (kind, chat_id): (String, String) = self.connection.query_row(sql, [row.found.rowid], read)?;
        let bytes = |at: usize| row.columns[at].as_deref().unwrap_or_default();
        let mut digest = finding_digest_of(&kind, &chat_id, bytes(0), bytes(1));
        let sql = "SELECT 1 FROM findings WHERE digest = ? AND id IS NOT ?";
        if self.connection.prepare_cached(sql)?.exists(params![digest, row.found.rowid])? {
            getrandom::fill(&mut digest)
                .map_err(|e| Error::new(ErrorKind::Other, format!("no random numbers: {e}")))?;
        }
        Ok(digest)
    }

    /// Evidence: as when it was recorded, and by the act instead of a run.
    fn write_maskings(&mut self, row: &Changed) -> Result<(), Error> {
        let insert = "INSERT INTO maskings (what, chat_id, event_index, digest, row_id, field, rule, at_character,
            characters, recorded_at, run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let key = &row.found.name.1;
        let (index, digest, row_id) = match row.what {
            Stored::Event => (Some(&key[1]), None, None),
            Stored::Variant => (Some(&key[1]), Some(&key[2]), None),
            _ => (None, None, Some(&key[0])),
        };
        for masking in &row.maskings {
            let id = self.connection.prepare_cached(insert)?.insert(params![
                row.what.as_str(),
                row.found.chat_id,
                index,
                digest,
                row_id,
                masking.field,
                masking.rule,
                masking.at as i64,
                masking.characters as i64,
                self.at,
                -self.act_id,
            ])?;
            self.pack.touch(MASKINGS, [KeyValue::Integer(id)]);
        }
        Ok(())
    }

    fn note(
        &mut self,
        chat_id: Option<&str>,
        changed: &[Changed],
        rows: usize,
        leaves: &BTreeSet<u64>,
    ) -> Result<(), Error> {
        let events = changed.iter().filter(|changed| changed.what == Stored::Event).count();
        let service = "SELECT service FROM chats WHERE chat_id = ?";
        let service: Option<Option<String>> =
            self.connection.prepare_cached(service)?.query_row([chat_id], |row| row.get(0)).optional()?;
        let insert = "INSERT INTO erasures (act_id, chat_id, how, at, service, events, rows, leaves)
            VALUES (?, ?, 'masked', ?, ?, ?, ?, ?)";
        let values =
            params![self.act_id, chat_id, self.at, service.flatten(), events as i64, rows as i64, packed(leaves)];
        let id = self.connection.prepare_cached(insert)?.insert(values)?;
        self.pack.touch(ERASURES, [KeyValue::Integer(id)]);
        search::follow(self.connection, id)?;
        let unclean = "INSERT INTO uncleaned VALUES (1, ?) ON CONFLICT DO NOTHING";
        self.connection.prepare_cached(unclean)?.execute([self.at])?;
        Ok(())
    }
}

/// A number in digits becomes one by its column's affinity.
fn value_of(what: Stored, name: &str, bytes: Option<Vec<u8>>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) if what == Stored::Finding && name == "raw" => Value::Blob(bytes),
        Some(bytes) => Value::Text(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gms::mask::Config;
    use crate::store::read::fixture::Fixture;

    /// However few are taken at a time, each row that a rule finds something in comes, and comes once.
    #[tokio::test]
    async fn every_row_is_looked_at_once() {
        let archive = Fixture::example().await;
        let rules = [("hello".to_owned(), "(?i)hello|referenceId".to_owned())].into();
        let masks = Masks::new(&Config { cards: false, rules }).expect("a sound rule");
        let connection = Connection::open(&archive.path).expect("it is ours");
        // In columns alone: their raw is `{}`, as no node sends it.
        connection.execute_batch("UPDATE events SET raw = '{\"text\":\"hello\"}'").expect("it is ours");
        let count = connection.query_row("SELECT count(*) FROM events", (), |row| row.get::<_, i64>(0));
        let rows = usize::try_from(count.expect("a number")).expect("not below 0");
        for together_max in [1, 3, 1_000] {
            let mut scan = Scan { together_max, ..Scan::of(&connection).expect("read") };
            let (mut names, mut last) = (Vec::new(), (0, 0));
            while let Some(targets) = scan.some(&masks, &mut |done, all| last = (done, all)).expect("read") {
                names.extend(targets.into_iter().flat_map(|(_, names)| names));
            }
            let different: BTreeSet<_> = names.iter().collect();
            assert_eq!((names.len(), different.len()), (rows + 2, rows + 2), "a variant, an error");
            assert_eq!(last.0, last.1);
        }
    }
}
