//! Proves the rows of many chats at once: the latest leaf of each of their rows, and the hashes that all of the proofs share.
//! The packs are read twice, whatever the number of rows; what is known of rows is kept in a scratch file, so that memory does
//! not grow with them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::Snapshot;
use super::extract::{Scope, json_list};
use super::proof::{Field, Fields, Place, Subject, damaged};
use crate::store::seal::destroyed::RowName;
use crate::store::seal::merkle::{HASH_BYTES, Hash, node};
use crate::store::seal::{CHATS, COVERAGE, ERRORS, EVENTS, Form, KeyValue, OUTAGES, Refs, VARIANTS};
use crate::store::{Error, ErrorKind};

/// Kept in the scratch file: it is thrown away, so that nothing of it needs to be safe.
const SCRATCH: &str = "
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32768;
    CREATE TABLE chats (chat_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE leaves (name BLOB PRIMARY KEY, leaf INTEGER, salt BLOB, sealed_later_at INTEGER) WITHOUT ROWID;
    CREATE TABLE proved (leaf INTEGER PRIMARY KEY);
    BEGIN";

/// Removals that are in scope. Of a customer or party that was erased nobody knows any longer.
const REMOVALS: &str = "
    SELECT DISTINCT chat_id FROM erasures
     WHERE chat_id IS NOT NULL AND :party IS NULL
       AND (:chat_ids IS NULL OR chat_id IN (SELECT value FROM json_each(:chat_ids)))
       AND (:from IS NULL OR last_seen_at >= :from) AND (:until IS NULL OR first_seen_at <= :until)
       AND (:service IS NULL OR service = :service)
     ORDER BY chat_id";

/// A row, and where in the tree it is.
#[derive(Debug)]
pub struct Placed {
    /// Its table.
    pub table: &'static str,
    /// Its columns as they are hashed, in that order.
    pub fields: Vec<(&'static str, Field)>,
    /// None: it is newer than the tree that is proved against, or was changed after it.
    pub place: Option<Place>,
}

/// The latest leaves of all rows that may be of the scope, and which of them were asked for.
#[derive(Debug)]
pub struct Leaves<'s> {
    snapshot: &'s Snapshot,
    scratch: Connection,
    size: u64,
    stop: &'s AtomicBool,
}

impl Snapshot {
    /// Chats of the scope of which something was removed, by chat id; of a part, since it was last looked at.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn removed(&self, scope: &Scope) -> Result<Vec<String>, Error> {
        if self.part.is_some() {
            return self.removed_since();
        }
        let chat_ids = scope.chat_ids.as_deref().map(json_list);
        let mut select = self.connection.prepare_cached(REMOVALS)?;
        let parameters = named_params! {
            ":chat_ids": chat_ids, ":from": scope.from, ":until": scope.until, ":service": scope.service,
            ":party": scope.party,
        };
        let ids = select.query_map(parameters, |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// Finds the leaves of the rows of all chats in scope, in a tree of `size` leaves. `scratch` is a file that is not there;
    /// with `stop` passing over the packs ends within one.
    ///
    /// # Errors
    /// The file cannot be read, or its evidence is damaged; the scratch file cannot be written; it was stopped.
    pub fn leaves<'s>(
        &'s self,
        scope: &Scope,
        size: u64,
        scratch: &Path,
        stop: &'s AtomicBool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Leaves<'s>, Error> {
        let scratch = Connection::open(scratch)?;
        scratch.execute_batch(SCRATCH)?;
        let mut insert = scratch.prepare("INSERT OR IGNORE INTO chats VALUES (?)")?;
        self.each_chat::<Error>(scope, |chat| Ok(insert.execute([chat.text("chat_id")]).map(drop)?))?;
        for chat_id in self.removed(scope)? {
            insert.execute([chat_id])?;
        }
        drop(insert);
        let leaves = Leaves { snapshot: self, scratch, size, stop };
        leaves.gather(progress)?;
        Ok(leaves)
    }
}

impl Leaves<'_> {
    fn check_stop(&self) -> Result<(), Error> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Other, "interrupted: nothing was exported")),
            false => Ok(()),
        }
    }

    fn gather(&self, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let mut upsert = self.scratch.prepare("INSERT OR REPLACE INTO leaves VALUES (?, ?, ?, ?)")?;
        let mut is_meant = self.scratch.prepare("SELECT 1 FROM chats WHERE chat_id = ?")?;
        // Rows of a transaction are mostly of few chats, one after the other.
        let mut last: Option<(KeyValue, bool)> = None;
        self.snapshot.each_pack(|pack| {
            self.check_stop()?;
            let mut refs = Refs::of(&pack.refs);
            for place in 1..u32::try_from(pack.leaves).unwrap_or_default() {
                let (form, key) = refs.next_row().ok_or_else(damaged)?;
                if matches!(form.number, EVENTS | VARIANTS | COVERAGE | CHATS) {
                    if last.as_ref().is_none_or(|(known, _)| *known != key[0]) {
                        last = Some((key[0].clone(), is_meant.exists([&key[0]])?));
                    }
                    if last.as_ref().is_some_and(|(_, is_meant)| !is_meant) {
                        continue;
                    }
                }
                // An earlier leaf of a row that was masked or erased, and came again.
                let Some(salt) = pack.salt(place) else { continue };
                let leaf = pack.first_leaf + i64::from(place);
                upsert.execute(params![named(form.number, &key), leaf, salt, pack.sealed_later_at])?;
            }
            progress(pack.first_leaf.cast_unsigned());
            Ok(())
        })
    }

    /// All rows of a chat, or what was added to it; of one that was removed, by whom and why. An act that is of several chats comes
    /// once.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn each_of_chat<E: From<Error>>(
        &self,
        chat_id: &str,
        with_errors: bool,
        take: impl FnMut(Placed) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rows = self.snapshot.rows_of(&Subject::Chat(chat_id.to_owned()))?;
        if !with_errors {
            rows.retain(|(form, _), _| *form != ERRORS);
        }
        if self.snapshot.is_addition(chat_id)? {
            self.snapshot.retain_new(&mut rows)?;
        }
        self.place(rows, take)
    }

    /// Errors of no chat in scope, and outages within a time; milliseconds since the epoch.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn each_other<E: From<Error>>(
        &self,
        scope: &Scope,
        with_errors: bool,
        (from, until): (i64, i64),
        mut take: impl FnMut(Placed) -> Result<(), E>,
    ) -> Result<(), E> {
        if with_errors {
            let mut ids = Vec::new();
            self.snapshot.each_other_error::<Error>(scope, |error| {
                ids.extend(error.integer("id"));
                Ok(())
            })?;
            for id in ids {
                let mut rows = BTreeMap::new();
                self.snapshot.add_rows(ERRORS, "id = ?", &[&id], &mut rows)?;
                self.place(rows, &mut take)?;
            }
        }
        let mut rows = BTreeMap::new();
        let which = "started_at <= ?2 AND coalesce(ended_at, ?2) >= ?1";
        self.snapshot.add_rows(OUTAGES, which, &[&from, &until], &mut rows)?;
        self.place(rows, take)
    }

    fn place<E: From<Error>>(
        &self,
        rows: BTreeMap<RowName, Fields>,
        mut take: impl FnMut(Placed) -> Result<(), E>,
    ) -> Result<(), E> {
        for ((number, key), fields) in rows {
            let form = Form::of(number).expect("read by its form");
            let place = self.place_of(number, &key)?;
            if let Some(place) = place
                && !self.mark(place.leaf)?
            {
                continue;
            }
            take(Placed { table: form.table, fields, place })?;
        }
        Ok(())
    }

    fn place_of(&self, form: u8, key: &[KeyValue]) -> Result<Option<Place>, Error> {
        let sql = "SELECT leaf, salt, sealed_later_at FROM leaves WHERE name = ?";
        let mut select = self.scratch.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| {
            let leaf = row.get::<_, i64>(0)?.cast_unsigned();
            Ok(Place { salt: row.get(1)?, leaf, sealed_later_at: row.get(2)? })
        };
        let found = select.query_row([named(form, key)], read).optional()?;
        Ok(found.filter(|place| place.leaf < self.size))
    }

    /// False where it was asked for before.
    fn mark(&self, leaf: u64) -> Result<bool, Error> {
        let mut insert = self.scratch.prepare_cached("INSERT OR IGNORE INTO proved VALUES (?)")?;
        Ok(insert.execute([leaf.cast_signed()])? == 1)
    }

    /// The hashes that lead from all leaves that were asked for up to the root, each once. In the order in which they are
    /// wanted by whoever goes through the tree from the left: at a node first what is below it, left before right, then the
    /// hash of that child below which nothing was asked for.
    ///
    /// # Errors
    /// As reading goes wrong, and as `take`.
    pub fn nodes<E: From<Error>>(
        &self,
        progress: &mut dyn FnMut(u64),
        mut take: impl FnMut(&Hash) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut select = self.scratch.prepare("SELECT leaf FROM proved ORDER BY leaf").map_err(Error::from)?;
        let mut proved = select.query(()).map_err(Error::from)?;
        let mut next_proved = || -> Result<Option<u64>, Error> {
            Ok(proved.next()?.map(|row| row.get::<_, i64>(0)).transpose()?.map(i64::cast_unsigned))
        };
        let (mut wanted, mut leaf, mut shared) = (next_proved()?, 0, Shared::default());
        let mut failed = None;
        self.snapshot.each_pack(|pack| {
            self.check_stop()?;
            for hash in pack.hashes.as_chunks::<HASH_BYTES>().0 {
                if leaf == self.size || failed.is_some() {
                    break;
                }
                let is_wanted = wanted == Some(leaf);
                if is_wanted {
                    wanted = next_proved()?;
                }
                failed = shared.push(*hash, is_wanted, &mut take).err();
                leaf += 1;
            }
            progress(leaf);
            Ok(())
        })?;
        match failed {
            Some(error) => Err(error),
            None => shared.finish(&mut take),
        }
    }
}

/// Finds the hashes that some proofs share while all leaves pass by.
#[derive(Debug, Default)]
struct Shared {
    /// What is not yet under one root: how many leaves, their root, and whether one that is wanted is among them.
    pending: Vec<(u64, Hash, bool)>,
}

impl Shared {
    fn push<E>(&mut self, leaf: Hash, is_wanted: bool, take: &mut impl FnMut(&Hash) -> Result<(), E>) -> Result<(), E> {
        self.pending.push((1, leaf, is_wanted));
        while let [.., (left, ..), (right, ..)] = self.pending[..]
            && left == right
        {
            self.join(take)?;
        }
        Ok(())
    }

    fn finish<E>(mut self, take: &mut impl FnMut(&Hash) -> Result<(), E>) -> Result<(), E> {
        while self.pending.len() > 1 {
            self.join(take)?;
        }
        Ok(())
    }

    fn join<E>(&mut self, take: &mut impl FnMut(&Hash) -> Result<(), E>) -> Result<(), E> {
        let (Some(right), Some(left)) = (self.pending.pop(), self.pending.pop()) else { return Ok(()) };
        match (left.2, right.2) {
            (true, false) => take(&right.1)?,
            (false, true) => take(&left.1)?,
            _ => {}
        }
        self.pending.push((left.0 + right.0, node(&left.1, &right.1), left.2 || right.2));
        Ok(())
    }
}

/// Form and key as one value: each with its kind and length before it, so that no two are alike.
fn named(form: u8, key: &[KeyValue]) -> Vec<u8> {
    let mut name = vec![form];
    let mut put = |kind: u8, bytes: &[u8]| {
        name.push(kind);
        name.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        name.extend_from_slice(bytes);
    };
    for value in key {
        match value {
            KeyValue::Integer(number) => put(b'I', &number.to_be_bytes()),
            KeyValue::Text(text) => put(b'T', text.as_bytes()),
            KeyValue::Blob(bytes) => put(b'B', bytes),
        }
    }
    name
}
