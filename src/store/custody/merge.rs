//! Brings another proxy's archive in. Its rows become rows of this one, in runs that are copies of its runs, sealed here in
//! the transaction that brings them; what vouches for them is kept in `merges` (migrations/0008_merges.sql says why that is
//! sound). Each transaction is short, beside live recording, and complete in itself: a merge that is interrupted is gone on
//! with by the next, which finds what is here already.
//!
//! It never removes anything here, and brings nothing that was erased or purged on either side.
//!
//! Rows that are known by numbers alone are found again by `merged_rows`, and numbers are given again: after a purge, in an
//! archive that was restored. So a row is the one of that number only if what never changes of it is the same; else it is
//! another row, which takes the number over, and the one before goes on under a negative `their_id`. Of a row that was removed here
//! `id` is the time of it, negative ([`forget`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;

use super::act::{begin, end};
use super::{Act, Custody};
use crate::gms::mask::Masks;
use crate::gms::{self, Comparison};
use crate::store::append::{VARIANTS_COMPARED_MAX, compare, finding_digest_of, keyed};
use crate::store::seal::merkle::Hash;
use crate::store::seal::{
    ACCOUNTS, ATTRIBUTES, CHATS, COVERAGE, ERASURES, ERRORS, EVENTS, FILES, FINDINGS, Form, KeyValue, MASKINGS, MERGES,
    OUTAGES, Pack, RUNS, VARIANTS, checkpoint, read_tree,
};
use crate::store::{Error, ErrorKind, backup, search};

/// Rows brought or looked at in one transaction, from which on nothing further is begun: some ten milliseconds.
const ROWS_MAX: u64 = 500;
/// The same beside a `serve`, whose commits wait for it: a millisecond or two, and five of rest.
const ROWS_MAX_BESIDE: u64 = 60;
/// Tables of which a row is known by its number alone.
const NUMBERED: [u8; 4] = [ERRORS, FINDINGS, FILES, OUTAGES];

/// A row of another archive comes to ours.
const UPSERT_CHAT: &str = "INSERT INTO chats (chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how,
    next_position, is_async, highest_index) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (chat_id) DO UPDATE SET
        service = coalesce(service, excluded.service),
        first_seen_at = min(first_seen_at, excluded.first_seen_at),
        last_seen_at = max(last_seen_at, excluded.last_seen_at),
        ended_at = coalesce(ended_at, excluded.ended_at),
        ended_how = coalesce(ended_how, excluded.ended_how),
        next_position = coalesce(max(next_position, excluded.next_position), next_position, excluded.next_position),
        is_async = max(is_async, excluded.is_async),
        highest_index = coalesce(max(highest_index, excluded.highest_index), highest_index, excluded.highest_index)";

/// Another archive, as it was when it was opened.
#[derive(Debug)]
pub struct Other {
    connection: Connection,
    archive_id: String,
    has_merges: bool,
}

impl Other {
    /// Opens it for reading; a `serve` may go on with it.
    ///
    /// # Errors
    /// It cannot be read, or is of an earlier release.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = backup::source(path).map_err(|error| Error::new(ErrorKind::CannotOpen, error.to_string()));
        let (connection, _) = opened?;
        connection.set_prepared_statement_cache_capacity(64);
        let has = |table: &str| {
            let select = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?";
            connection.prepare(select)?.exists([table])
        };
        if !has("acts")? {
            let what = "the other archive is of an earlier release: start `serve` of this one with it once, which brings it up to date";
            return Err(Error::new(ErrorKind::Other, what));
        }
        let has_merges = has("merged_rows")?;
        let archive_id = connection.query_row("SELECT archive_id FROM archive", (), |row| row.get(0))?;
        Ok(Self { connection, archive_id, has_merges })
    }

    /// Which archive it is.
    pub fn archive_id(&self) -> &str {
        &self.archive_id
    }

    /// Where a row was recorded: by itself, or by whom it was merged from. What came from another archive is of a run that did:
    /// a row of its own run only has the number of one that was removed by an earlier release.
    fn origin(&self, form: u8, id: i64, run_id: Option<i64>) -> Result<(String, i64), Error> {
        if self.has_merges {
            let sql =
                "SELECT archive_id, their_id FROM merged_rows m WHERE form = ?1 AND id = ?2 AND (?3 IS NULL OR EXISTS
                (SELECT 1 FROM merged_rows r WHERE r.form = 9 AND r.id = ?3 AND r.archive_id = m.archive_id)) LIMIT 1";
            let mut select = self.connection.prepare_cached(sql)?;
            let found = select.query_row(params![form, id, run_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Ok((self.archive_id.clone(), id))
    }

    fn masked_by_number(&self) -> Result<BTreeMap<(u8, i64), Vec<i64>>, Error> {
        let sql = "SELECT what, row_id, id FROM maskings WHERE what IN ('error', 'finding') AND row_id IS NOT NULL ORDER BY id";
        let mut select = self.connection.prepare(sql)?;
        let (mut rows, mut masked) = (select.query(())?, BTreeMap::<_, Vec<i64>>::new());
        while let Some(row) = rows.next()? {
            let form = if row.get_ref(0)?.as_str() == Ok("error") { ERRORS } else { FINDINGS };
            masked.entry((form, row.get(1)?)).or_default().push(row.get(2)?);
        }
        Ok(masked)
    }

    fn count(&self, sql: &str) -> Result<u64, Error> {
        let count: i64 = self.connection.query_row(sql, (), |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }
}

/// What a merge came to, in rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fates of events as the account names them, then tables")]
pub struct Merged {
    pub new: u64,
    pub duplicate: u64,
    pub variant: u64,
    pub suppressed: u64,
    pub chats: u64,
    pub attributes: u64,
    pub coverage: u64,
    pub errors: u64,
    pub findings: u64,
    pub outages: u64,
    pub files: u64,
    pub maskings: u64,
    pub runs: u64,
    /// Hours of the account of their runs.
    pub hours: u64,
    /// Tombstones of chats of which there is nothing here.
    pub tombstones: u64,
    /// Chats that were erased or purged there, and are here still.
    pub erased_there: u64,
}

impl Custody {
    /// Brings everything in that is not here. `told` is given rows looked at, and all there are.
    ///
    /// # Errors
    /// As reading and writing go wrong; what was brought stays, and the next merge goes on.
    pub fn merge(
        &self,
        other: &Other,
        act: &Act<'_>,
        masks: &Masks,
        now: impl Fn() -> i64,
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<Merged, Error> {
        if other.archive_id == self.archive_id {
            let what = "it is a copy of this archive: `restore` puts a backup in its place";
            return Err(Error::new(ErrorKind::Other, what));
        }
        if !self.connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'merges'")?.exists(())? {
            let what = "this archive is of an earlier release: start `serve` of this one with it once, which brings it up to date";
            return Err(Error::new(ErrorKind::Other, what));
        }
        let all = other.count("SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM api_errors)")?;
        self.prepare(act.kind)?;
        let mut merge = Merge::begin(self, other, act, masks)?;
        merge.tombstones()?;
        let mut seen = 0;
        let mut place = Place::default();
        while !place.is_done {
            let began = Instant::now();
            let merged = merge.merged;
            let piece = self.change(|pack| merge.chats(pack, &mut place));
            // What was rolled back was not brought.
            seen += piece.inspect_err(|_| merge.merged = merged)?;
            told(seen.min(all), all);
            self.give_way(began.elapsed())?;
        }
        for number in NUMBERED {
            let mut after = Some(i64::MIN);
            while let Some(from) = after {
                let began = Instant::now();
                after = self.change(|pack| merge.numbered(pack, number, from))?;
                self.give_way(began.elapsed())?;
            }
        }
        merge.accounts()?;
        merge.end(now())?;
        told(all, all);
        Ok(merge.merged)
    }
}

/// How far the chats are brought.
#[derive(Debug, Default)]
struct Place {
    /// The rowid of the chat before.
    chat: i64,
    /// The last event of the present chat, where it goes on.
    event: Option<i64>,
    is_done: bool,
}

struct Merge<'m> {
    custody: &'m Custody,
    ours: &'m Connection,
    /// In one transaction.
    rows_max: u64,
    other: &'m Other,
    masks: &'m Masks,
    act_id: i64,
    merge_id: i64,
    /// Runs here, by their numbers there.
    runs: BTreeMap<i64, i64>,
    /// Those of them, by their numbers there, that this archive has recorded itself.
    own_runs: BTreeSet<i64>,
    /// When somebody last merged into this archive.
    merged_before: Option<i64>,
    /// Numbers of the maskings of their errors and findings, which no index finds.
    masked: BTreeMap<(u8, i64), Vec<i64>>,
    merged: Merged,
}

impl<'m> Merge<'m> {
    /// The act, what vouches for the other archive, and copies of its runs.
    fn begin(custody: &'m Custody, other: &'m Other, act: &Act<'_>, masks: &'m Masks) -> Result<Self, Error> {
        let ours = &custody.connection;
        let tree = read_tree(&other.connection)?;
        let root: Hash = tree.root();
        let note = "SELECT note FROM checkpoints ORDER BY number DESC LIMIT 1";
        let note: Option<String> = other.connection.query_row(note, (), |row| row.get(0)).optional()?;
        let vkeys = checkpoint::keys(&other.connection)?.join("\n");
        let (runs, merged, masked) = (BTreeMap::new(), Merged::default(), other.masked_by_number()?);
        let rows_max = if custody.is_served { ROWS_MAX_BESIDE } else { ROWS_MAX };
        let (act_id, merge_id, own_runs) = (0, 0, BTreeSet::new());
        let last = "SELECT max(coalesce(ended_at, at)) FROM merges";
        let merged_before = ours.query_row(last, (), |row| row.get(0))?;
        let mut merge = Self {
            custody,
            ours,
            rows_max,
            other,
            masks,
            act_id,
            merge_id,
            runs,
            own_runs,
            merged_before,
            masked,
            merged,
        };
        custody.change(|pack| {
            merge.act_id = begin(ours, pack, act)?;
            let runs = merge.bring_runs(pack, &custody.archive_id)?;
            let insert = "INSERT INTO merges (act_id, archive_id, at, leaves, root, checkpoint, vkeys, runs)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
            let leaves = tree.size().cast_signed();
            let values = params![merge.act_id, other.archive_id, act.at, leaves, root, note, vkeys, runs];
            merge.merge_id = ours.prepare(insert)?.insert(values)?;
            pack.touch(MERGES, [KeyValue::Integer(merge.merge_id)]);
            Ok(())
        })?;
        Ok(merge)
    }

    /// Those that are not here, and what came of those that are. As JSON, for `merges.runs`.
    fn bring_runs(&mut self, pack: &mut Pack, own_id: &str) -> Result<String, Error> {
        const COLUMNS: &str =
            "instance, version, started_at, stopped_at, clean, deliver, when_unavailable, settings, config_hash,
            ledger";
        let form = Form::of(RUNS).expect("there is one");
        let mut told = Vec::new();
        let mut select =
            self.other.connection.prepare(&format!("SELECT run_id, {COLUMNS} FROM runs ORDER BY run_id"))?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let theirs: i64 = row.get(0)?;
            let (archive_id, number) = self.other.origin(RUNS, theirs, None)?;
            let values = values(row, 1, 10)?;
            let here = match self.known(form, &archive_id, number, &values[2..3])? {
                // They have it from us. One that a restore has taken from us is as good as another archive's.
                _ if archive_id == own_id && self.is_own_run(number, &values[2])? => {
                    self.own_runs.insert(theirs);
                    number
                }
                Known::Here(Mapped { id: here, .. }) => {
                    // In an older backup that was restored it may not have ended yet.
                    let update = "UPDATE runs SET stopped_at = ?1, clean = ?2, ledger = ?3
                        WHERE run_id = ?4 AND (stopped_at, clean, ledger) IS NOT (?1, ?2, ?3)
                            AND (stopped_at IS NULL OR stopped_at <= ?1)";
                    let changed = params![values[3], values[4], values[9], here];
                    if self.ours.prepare_cached(update)?.execute(changed)? > 0 {
                        pack.touch(RUNS, [KeyValue::Integer(here)]);
                    }
                    here
                }
                Known::Removed(_) | Known::No => {
                    let insert = format!(
                        "INSERT INTO runs ({COLUMNS}, sealing) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'itself')"
                    );
                    let here = self.ours.prepare_cached(&insert)?.insert(params_from_iter(values))?;
                    pack.touch_whole(RUNS, [KeyValue::Integer(here)]);
                    self.put_aside(RUNS, &archive_id, number)?;
                    self.remember(RUNS, &archive_id, number, here, 0)?;
                    self.merged.runs += 1;
                    here
                }
            };
            self.runs.insert(theirs, here);
            told.push(serde_json::json!({ "archive_id": archive_id, "run_id": number, "here": here }));
        }
        Ok(serde_json::Value::from(told).to_string())
    }

    fn is_own_run(&self, number: i64, started_at: &Value) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM runs WHERE run_id = ?1 AND started_at = ?2
            AND run_id NOT IN (SELECT id FROM merged_rows WHERE form = 9)";
        Ok(self.ours.prepare_cached(sql)?.exists(params![number, started_at])?)
    }

    /// Whether a row of theirs is here, or was: by its number and what it has of [`lasting_of`].
    fn known(&self, form: &Form, archive_id: &str, number: i64, lasting: &[Value]) -> Result<Known, Error> {
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
    fn put_aside(&self, form: u8, archive_id: &str, number: i64) -> Result<(), Error> {
        let sql = "UPDATE merged_rows SET their_id =
                (SELECT min(0, min(their_id)) - 1 FROM merged_rows WHERE archive_id = ?1 AND form = ?2)
            WHERE archive_id = ?1 AND form = ?2 AND their_id = ?3";
        self.ours.prepare_cached(sql)?.execute(params![archive_id, form, number])?;
        Ok(())
    }

    fn remember(&self, form: u8, archive_id: &str, number: i64, id: i64, repeats: i64) -> Result<(), Error> {
        let sql = "INSERT INTO merged_rows (archive_id, form, their_id, id, repeats) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET id = excluded.id, repeats = excluded.repeats";
        self.ours.prepare_cached(sql)?.execute(params![archive_id, form, number, id, repeats])?;
        Ok(())
    }

    /// A run here. A masking that a later rule made has the act's number there, negative: here that of the merge.
    fn run(&self, theirs: i64) -> i64 {
        self.runs.get(&theirs).copied().unwrap_or(-self.act_id)
    }

    /// What was erased or purged there is not wanted from elsewhere either. Of what is here still nothing is removed: that
    /// is for somebody to decide.
    fn tombstones(&mut self) -> Result<(), Error> {
        let sql = "SELECT chat_id, how, max(at), max(below), service, first_seen_at, last_seen_at FROM erasures
            WHERE chat_id IS NOT NULL AND below IS NOT NULL GROUP BY chat_id ORDER BY chat_id";
        let mut select = self.other.connection.prepare(sql)?;
        let mut rows = select.query(())?;
        let mut gone = Vec::new();
        while let Some(row) = rows.next()? {
            gone.push(values(row, 0, 7)?);
        }
        for some in gone.chunks(self.rows_max as usize) {
            let began = Instant::now();
            self.custody.change(|pack| some.iter().try_for_each(|row| self.tombstone(pack, row)))?;
            self.custody.give_way(began.elapsed())?;
        }
        Ok(())
    }

    fn tombstone(&mut self, pack: &mut Pack, row: &[Value]) -> Result<(), Error> {
        let is_here = "SELECT 1 FROM chats WHERE chat_id = ?1 UNION ALL SELECT 1 FROM events WHERE chat_id = ?1";
        if self.ours.prepare_cached(is_here)?.exists([&row[0]])? {
            self.merged.erased_there += 1;
            return Ok(());
        }
        let is_known = "SELECT 1 FROM erasures WHERE chat_id = ? AND below >= ?";
        if self.ours.prepare_cached(is_known)?.exists([&row[0], &row[3]])? {
            return Ok(());
        }
        let insert =
            "INSERT INTO erasures (act_id, chat_id, how, at, below, service, first_seen_at, last_seen_at, events, rows,
            leaves) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, x'')";
        let act = Value::Integer(self.act_id);
        let id = self.ours.prepare_cached(insert)?.insert(params_from_iter(std::iter::once(&act).chain(row)))?;
        pack.touch(ERASURES, [KeyValue::Integer(id)]);
        search::follow(self.ours, id)?;
        self.merged.tombstones += 1;
        Ok(())
    }

    /// Some chats, or a piece of a long one. Events looked at.
    fn chats(&mut self, pack: &mut Pack, place: &mut Place) -> Result<u64, Error> {
        let sql = "SELECT rowid, chat_id FROM chats WHERE rowid > ? ORDER BY rowid LIMIT 1";
        let (mut seen, mut rows) = (0, 0);
        while rows < self.rows_max {
            let mut select = self.other.connection.prepare_cached(sql)?;
            let next = select.query_row([place.chat], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((rowid, chat_id)): Option<(i64, String)> = next else {
                place.is_done = true;
                return Ok(seen);
            };
            let (events, last) = self.chat(pack, &chat_id, place.event, self.rows_max)?;
            (seen, rows) = (seen + events, rows + events + 1);
            place.event = last;
            if last.is_none() {
                place.chat = rowid;
            }
        }
        Ok(seen)
    }

    /// A chat from an event on: how many of its events were looked at, and the last of them where there are more.
    fn chat(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        after: Option<i64>,
        limit: u64,
    ) -> Result<(u64, Option<i64>), Error> {
        let (below, until) = self.erased(chat_id)?;
        if below.is_some() && self.is_over_below(chat_id, below)? {
            let count = "SELECT count(*) FROM events WHERE chat_id = ?";
            let count: i64 = self.other.connection.prepare_cached(count)?.query_row([chat_id], |row| row.get(0))?;
            self.merged.suppressed += count.unsigned_abs();
            return Ok((count.unsigned_abs(), None));
        }
        // From the first event on a chat has its row.
        self.chat_row(pack, chat_id)?;
        let maskings = self.maskings_of(chat_id)?;
        let (events, last) = self.events(pack, chat_id, below.unwrap_or(0), after, limit, &maskings)?;
        if last.is_none() {
            self.variants(pack, chat_id, below.unwrap_or(0), &maskings)?;
            self.attributes(pack, chat_id, until, &maskings)?;
            // Never before its events.
            self.coverage(pack, chat_id, below.is_some())?;
        }
        Ok((events, last))
    }

    /// Below which index events of a chat were erased or purged here, and when last. What was observed until then and has no
    /// index is of before: of it nothing is wanted either.
    fn erased(&self, chat_id: &str) -> Result<(Option<i64>, Option<i64>), Error> {
        let sql = "SELECT max(below), max(at) FROM erasures WHERE chat_id = ? AND below IS NOT NULL";
        Ok(self.ours.prepare_cached(sql)?.query_row([chat_id], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// It was erased or purged here, and neither we nor they have anything that came afterwards.
    fn is_over_below(&self, chat_id: &str, below: Option<i64>) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM events WHERE chat_id = ? AND event_index >= ? LIMIT 1";
        let has = |connection: &Connection| connection.prepare_cached(sql)?.exists(params![chat_id, below]);
        Ok(!has(self.ours)? && !has(&self.other.connection)?)
    }

    fn chat_row(&mut self, pack: &mut Pack, chat_id: &str) -> Result<(), Error> {
        let form = Form::of(CHATS).expect("there is one");
        let columns = "chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how, next_position, is_async, highest_index";
        let theirs = format!("SELECT {columns} FROM chats WHERE chat_id = ?");
        let theirs = self.other.connection.prepare_cached(&theirs)?.query_row([chat_id], |row| values(row, 0, 9))?;
        let sealed = |connection: &Connection| {
            let mut select = connection.prepare_cached(form.select_by_key())?;
            select.query_row([chat_id], |row| values(row, 1, form.columns.len())).optional()
        };
        let before = sealed(self.ours)?;
        self.ours.prepare_cached(UPSERT_CHAT)?.execute(params_from_iter(theirs))?;
        if before != sealed(self.ours)? {
            pack.touch(CHATS, [KeyValue::Text(chat_id.into())]);
            self.merged.chats += u64::from(before.is_none());
        }
        Ok(())
    }

    fn events(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        below: i64,
        after: Option<i64>,
        limit: u64,
        maskings: &Maskings,
    ) -> Result<(u64, Option<i64>), Error> {
        const COLUMNS: &str =
            "chat_id, event_index, type, utc_time, participant_id, nickname, party_type, text, message_type,
            user_data, event_attributes, raw, recorded_at, node, run_id";
        let sql =
            format!("SELECT {COLUMNS} FROM events WHERE chat_id = ? AND event_index > ? ORDER BY event_index LIMIT ?");
        let insert = format!(
            "INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        );
        let (mut select, mut insert) =
            (self.other.connection.prepare_cached(&sql)?, self.ours.prepare_cached(&insert)?);
        let mut rows = select.query(params![chat_id, after.unwrap_or(0), limit as i64])?;
        let (mut count, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let index: i64 = row.get(1)?;
            (count, last) = (count + 1, Some(index));
            if index < below {
                self.merged.suppressed += 1;
                continue;
            }
            let mut values = values(row, 0, 15)?;
            values[14] = Value::Integer(self.run(row.get(14)?));
            if insert.execute(params_from_iter(&values))? == 1 {
                pack.touch(EVENTS, [KeyValue::Text(chat_id.into()), KeyValue::Integer(index)]);
                self.merged.new += 1;
                let of = |masking: &&Masking| masking.is_of("event") && masking.event_index == Some(index);
                self.bring_maskings(pack, maskings.iter().filter(of), None, None)?;
            } else {
                let content =
                    Content { raw: row.get(11)?, recorded_at: row.get(12)?, node: row.get(13)?, run_id: row.get(14)? };
                let of = |masking: &&Masking| masking.is_of("event") && masking.event_index == Some(index);
                self.settle(pack, chat_id, index, &content, maskings.iter().filter(of))?;
            }
        }
        Ok((count, last.filter(|_| count == limit)))
    }

    fn variants(&mut self, pack: &mut Pack, chat_id: &str, below: i64, maskings: &Maskings) -> Result<(), Error> {
        let sql = "SELECT event_index, raw, recorded_at, node, run_id, digest FROM event_variants
            WHERE chat_id = ? AND event_index >= ? ORDER BY event_index, recorded_at";
        let mut select = self.other.connection.prepare_cached(sql)?;
        let mut rows = select.query(params![chat_id, below])?;
        while let Some(row) = rows.next()? {
            let content =
                Content { raw: row.get(1)?, recorded_at: row.get(2)?, node: row.get(3)?, run_id: row.get(4)? };
            let (index, digest): (i64, Vec<u8>) = (row.get(0)?, row.get(5)?);
            let of = |masking: &&Masking| masking.is_of("variant") && masking.digest.as_ref() == Some(&digest);
            self.settle(pack, chat_id, index, &content, maskings.iter().filter(of))?;
        }
        Ok(())
    }

    /// A key that is taken here: equal content is a duplicate, other content a variant, kept once (R7).
    fn settle<'k>(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        index: i64,
        content: &Content,
        maskings: impl Iterator<Item = &'k Masking>,
    ) -> Result<(), Error> {
        let sql = "SELECT raw FROM events WHERE chat_id = ? AND event_index = ?";
        let stored: Option<String> =
            self.ours.prepare_cached(sql)?.query_row(params![chat_id, index], |row| row.get(0)).optional()?;
        // A variant of an event that is neither here nor there: erased here.
        let Some(stored) = stored else { return Ok(()) };
        let comparison = self.compare(&stored, &content.raw);
        if comparison == Comparison::Equal {
            self.merged.duplicate += 1;
            return Ok(());
        }
        // What an act has masked on one side only is the same on both.
        let mut maskings = maskings.peekable();
        let is_masked = maskings.peek().is_some() || self.is_masked_here(chat_id, index)?;
        let is_form = |stored: &str| {
            let new = &content.raw;
            is_masked && (gms::is_masked_form_of(stored, new) || gms::is_masked_form_of(new, stored))
        };
        if is_form(&stored) {
            self.merged.duplicate += 1;
            return Ok(());
        }
        let kind = if comparison == Comparison::Extended { "extended" } else { "changed" };
        let sql = "SELECT raw FROM event_variants WHERE chat_id = ? AND event_index = ? LIMIT ?";
        let mut select = self.ours.prepare_cached(sql)?;
        let known = select.query_map(params![chat_id, index, VARIANTS_COMPARED_MAX], |row| row.get::<_, String>(0))?;
        for known in known {
            let known = known?;
            if is_form(&known) || self.compare(&known, &content.raw) == Comparison::Equal {
                self.merged.duplicate += 1;
                return Ok(());
            }
        }
        let digest = keyed(self.ours, chat_id, &gms::digest(&content.raw))?;
        let insert = "INSERT INTO event_variants (chat_id, event_index, digest, kind, raw, recorded_at, node, run_id)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let (run_id, at, node) = (self.run(content.run_id), content.recorded_at, &content.node);
        let inserted = self.ours.prepare_cached(insert)?.execute(params![
            chat_id,
            index,
            digest,
            kind,
            content.raw,
            at,
            node,
            run_id
        ])?;
        if inserted == 0 {
            self.merged.duplicate += 1;
            return Ok(());
        }
        self.merged.variant += 1;
        let key = [KeyValue::Text(chat_id.into()), KeyValue::Integer(index), KeyValue::Blob(digest.into())];
        pack.touch(VARIANTS, key);
        self.bring_maskings(pack, maskings, Some(("variant", &digest)), None)
    }

    /// Each side was masked by its own rules, at its own time: the present ones look at both.
    fn compare(&self, stored: &str, new: &str) -> Comparison {
        match compare(self.masks, stored, new) {
            Comparison::Equal => Comparison::Equal,
            _ => compare(self.masks, stored, &self.masks.again(new)),
        }
    }

    /// Whether anything of an event was masked here.
    fn is_masked_here(&self, chat_id: &str, index: i64) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM maskings WHERE chat_id = ? AND event_index = ?";
        Ok(self.ours.prepare_cached(sql)?.exists(params![chat_id, index])?)
    }

    /// One row a change, in the order of time: what is known at the time is none.
    fn attributes(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        erased_until: Option<i64>,
        maskings: &Maskings,
    ) -> Result<(), Error> {
        let sql = "SELECT id, name, value, source, observed_at, run_id FROM chat_attributes
            WHERE chat_id = ? AND observed_at > ? ORDER BY observed_at, id";
        // By the chat, not by the index of values: half of all chats may have the same one.
        let insert = "INSERT INTO chat_attributes (chat_id, name, value, source, observed_at, run_id)
            SELECT ?1, ?2, ?3, ?4, ?5, ?6
            WHERE ?3 IS NOT (SELECT value FROM chat_attributes WHERE chat_id = ?1 AND name = ?2 AND observed_at <= ?5
                    ORDER BY observed_at DESC, id DESC LIMIT 1)
                AND NOT EXISTS (SELECT 1 FROM chat_attributes WHERE chat_id = ?1 AND name = ?2 AND +value = ?3
                    AND observed_at = ?5 AND run_id = ?6)";
        let mut select = self.other.connection.prepare_cached(sql)?;
        let mut rows = select.query(params![chat_id, erased_until.unwrap_or(i64::MIN)])?;
        while let Some(row) = rows.next()? {
            let theirs: i64 = row.get(0)?;
            let values = values(row, 1, 4)?;
            let run_id = self.run(row.get(5)?);
            let values = params![chat_id, values[0], values[1], values[2], values[3], run_id];
            if self.ours.prepare_cached(insert)?.execute(values)? == 1 {
                let id = self.ours.last_insert_rowid();
                pack.touch(ATTRIBUTES, [KeyValue::Integer(id)]);
                self.merged.attributes += 1;
                let of = |masking: &&Masking| masking.is_of("attribute") && masking.row_id == Some(theirs);
                self.bring_maskings(pack, maskings.iter().filter(of), None, Some(id))?;
            }
        }
        Ok(())
    }

    fn coverage(&mut self, pack: &mut Pack, chat_id: &str, was_erased: bool) -> Result<(), Error> {
        let sql = "SELECT from_position, next_position, node, run_id, at FROM coverage WHERE chat_id = ?";
        let grow =
            "INSERT INTO coverage (chat_id, from_position, next_position, node, run_id, at) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET next_position = excluded.next_position, at = excluded.at
                WHERE excluded.next_position > next_position";
        let mut select = self.other.connection.prepare_cached(sql)?;
        let mut rows = select.query([chat_id])?;
        while let Some(row) = rows.next()? {
            // What was erased was covered: it is no hole.
            let from: i64 = if was_erased { 1 } else { row.get(0)? };
            let (next, node, at): (i64, String, i64) = (row.get(1)?, row.get(2)?, row.get(4)?);
            let run_id = self.run(row.get(3)?);
            if self.ours.prepare_cached(grow)?.execute(params![chat_id, from, next, node, run_id, at])? == 1 {
                let key = [KeyValue::Text(chat_id.into()), KeyValue::Integer(from), KeyValue::Integer(run_id)];
                pack.touch(COVERAGE, key.into_iter().chain([KeyValue::Text(node)]).collect::<Vec<_>>());
                self.merged.coverage += 1;
            }
        }
        Ok(())
    }

    fn maskings_of(&self, chat_id: &str) -> Result<Maskings, Error> {
        let sql = format!("SELECT {MASKING} FROM maskings WHERE chat_id = ? ORDER BY id");
        let mut select = self.other.connection.prepare_cached(&sql)?;
        let maskings = select.query_map([chat_id], Masking::of)?;
        Ok(maskings.collect::<Result<_, _>>()?)
    }

    /// Evidence, with the row that it is of.
    fn bring_maskings<'k>(
        &mut self,
        pack: &mut Pack,
        maskings: impl Iterator<Item = &'k Masking>,
        variant: Option<(&str, &[u8])>,
        row_id: Option<i64>,
    ) -> Result<(), Error> {
        let insert = format!("INSERT INTO maskings ({MASKING}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        for masking in maskings {
            let what = variant.map_or(masking.what.as_str(), |(what, _)| what);
            let digest = variant.map(|(_, digest)| digest);
            let Masking { chat_id, event_index, field, rule, at, characters, recorded_at, run_id, .. } = masking;
            let run_id = self.run(*run_id);
            let mut insert = self.ours.prepare_cached(&insert)?;
            let values =
                params![what, chat_id, event_index, digest, row_id, field, rule, at, characters, recorded_at, run_id];
            let id = insert.insert(values)?;
            pack.touch(MASKINGS, [KeyValue::Integer(id)]);
            self.merged.maskings += 1;
        }
        Ok(())
    }

    /// Rows of a table that are known by their numbers, after one of them. Where to go on.
    fn numbered(&mut self, pack: &mut Pack, number: u8, after: i64) -> Result<Option<i64>, Error> {
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

    /// As the writer has it: erased or purged, and nothing has come of it since that was not.
    fn is_gone(&self, chat_id: &str) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM erasures WHERE chat_id = ?1 AND below IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM events WHERE chat_id = ?1)";
        Ok(self.ours.prepare_cached(sql)?.query_row([chat_id], |row| row.get(0))?)
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
    fn accounts(&mut self) -> Result<(), Error> {
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

    fn end(&self, at: i64) -> Result<(), Error> {
        self.custody.change(|pack| {
            let brought = serde_json::json!(self.merged).to_string();
            let update = "UPDATE merges SET ended_at = ?, brought = ? WHERE id = ?";
            self.ours.prepare(update)?.execute(params![at, brought, self.merge_id])?;
            pack.touch(MERGES, [KeyValue::Integer(self.merge_id)]);
            let rows = self.merged.new + self.merged.variant + self.merged.errors + self.merged.findings;
            end(self.ours, pack, self.act_id, at, Some(rows.cast_signed()))
        })
    }
}

/// Of a row that is about to be removed, before its number is given again: it stays known that the other archive's row was
/// removed here, and when it was observed.
pub(super) fn forget(connection: &Connection, form: &Form, key: &[KeyValue]) -> Result<(), Error> {
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
fn lasting_of(form: u8) -> &'static [&'static str] {
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
enum Known {
    Here(Mapped),
    /// It was, and was erased or purged here.
    Removed(Mapped),
    No,
}

/// A row of `merged_rows`.
#[derive(Debug, Clone, Copy)]
struct Mapped {
    number: i64,
    id: i64,
    repeats: i64,
}

impl Mapped {
    fn of(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self { number: row.get(0)?, id: row.get(1)?, repeats: row.get(2)? })
    }
}

/// What an event or a variant of it is, besides its key.
struct Content {
    raw: String,
    recorded_at: i64,
    node: Option<String>,
    run_id: i64,
}

const MASKING: &str =
    "what, chat_id, event_index, digest, row_id, field, rule, at_character, characters, recorded_at, run_id";

type Maskings = Vec<Masking>;

/// A row of `maskings`, as it is there.
struct Masking {
    what: String,
    chat_id: Option<String>,
    event_index: Option<i64>,
    digest: Option<Vec<u8>>,
    row_id: Option<i64>,
    field: String,
    rule: String,
    at: i64,
    characters: i64,
    recorded_at: i64,
    run_id: i64,
}

impl Masking {
    /// Of a row of [`MASKING`].
    fn of(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            what: row.get(0)?,
            chat_id: row.get(1)?,
            event_index: row.get(2)?,
            digest: row.get(3)?,
            row_id: row.get(4)?,
            field: row.get(5)?,
            rule: row.get(6)?,
            at: row.get(7)?,
            characters: row.get(8)?,
            recorded_at: row.get(9)?,
            run_id: row.get(10)?,
        })
    }

    fn is_of(&self, what: &str) -> bool {
        self.what == what
    }
}

fn values(row: &Row<'_>, from: usize, count: usize) -> Result<Vec<Value>, rusqlite::Error> {
    (from..from + count).map(|at| row.get(at)).collect()
}
