//! Brings another proxy's archive in. Its rows become rows of this one, in runs that are copies of its runs, sealed here in
//! the transaction that brings them; what vouches for them is kept in `merges` (migrations/0008_merges.sql says why that is
//! sound). Each transaction is short, beside live recording, and complete in itself: a merge that is interrupted is gone on
//! with by the next, which finds what is here already.
//!
//! It never removes anything here, and brings nothing that was erased or purged on either side.

mod chat;
mod known;
mod numbered;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;

use super::act::{begin, end};
use super::{Act, Custody};
use crate::gms::mask::Masks;
use crate::store::seal::merkle::Hash;
use crate::store::seal::{
    ERASURES, ERRORS, FILES, FINDINGS, Form, KeyValue, MASKINGS, MERGES, OUTAGES, Pack, RUNS, checkpoint, read_tree,
};
use crate::store::{Error, ErrorKind, backup, search};
use known::{Known, Mapped};

pub(super) use known::forget;

/// Rows brought or looked at in one transaction, from which on nothing further is begun: some ten milliseconds.
const ROWS_MAX: u64 = 500;
/// The same beside a `serve`, whose commits wait for it: a millisecond or two, and five of rest.
const ROWS_MAX_BESIDE: u64 = 60;
/// Tables of which a row is known by its number alone.
const NUMBERED: [u8; 4] = [ERRORS, FINDINGS, FILES, OUTAGES];

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
        let archive_id = connection.query_row("SELECT CAST(archive_id AS TEXT) FROM archive", (), |row| row.get(0))?;
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

    /// Below which index events of a chat were erased or purged here, and when last. What was observed until then and has no
    /// index is of before: of it nothing is wanted either.
    fn erased(&self, chat_id: &str) -> Result<(Option<i64>, Option<i64>), Error> {
        let sql = "SELECT max(below), max(at) FROM erasures WHERE chat_id = ? AND below IS NOT NULL";
        Ok(self.ours.prepare_cached(sql)?.query_row([chat_id], |row| Ok((row.get(0)?, row.get(1)?)))?)
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

    /// As the writer has it: erased or purged, and nothing has come of it since that was not.
    fn is_gone(&self, chat_id: &str) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM erasures WHERE chat_id = ?1 AND below IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM events WHERE chat_id = ?1)";
        Ok(self.ours.prepare_cached(sql)?.query_row([chat_id], |row| row.get(0))?)
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
