//! What the writer knows of the file: what it has written itself, and what others have sealed since. Rows that change are written
//! whole, from here, so that what somebody alters by hand is put right by the next change, and not sealed with it.
//!
//! What it forgets costs a row more, never a row less.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::chat::{ChatId, ContentDigest, Covered};
use crate::gms::Ended;
use crate::store::Error;
use crate::store::audit::schema;
use crate::store::entry::{ChatRecord, Entry};
use crate::store::seal::leaf::{each_back, each_from, is_as_sealed};
use crate::store::seal::{CHATS, ERASURES, ERRORS, EVENTS, FINDINGS, Form, KeyValue, SEEN_STEP_MS, late, read_tree};

/// Of each kind, so many or up to twice as many are remembered.
const MEMORY_MAX: usize = 25_000;
/// How far an archive is looked back through when it is opened, for chats that may go on, and where something was ever erased for
/// the last time of it: some hundred milliseconds.
const LEAVES_MAX: u64 = 1 << 17;
const LEAVES_MAX_FOR_ERASURES: u64 = 1 << 20;
const CHATS_MAX: usize = 10_000;

/// What is known between batches. Only what is committed is ever in it, but for the rows that are put off.
#[derive(Debug, Default)]
pub(in crate::store) struct Memory {
    pub chats: Recent<ChatId, Known>,
    /// Chats whose rows somebody has altered, and the leaves that say so: they are left as they are, for `verify` to find, until they
    /// are as they were.
    pub altered: BTreeMap<ChatId, u64>,
    /// Rows that identical errors fold into.
    pub errors: Recent<u64, Fold>,
    /// The same of findings.
    pub findings: Recent<ContentDigest, Fold>,
    /// Rows of chats that are in the file, and say less there than is known by now (R4: lazy).
    pub put_off: HashMap<ChatId, ChatRow>,
    /// The same of chats whose rows were altered: for when they are as they were.
    pub withheld: HashMap<ChatId, ChatRow>,
    /// The spool that was last drained from, and up to where.
    pub drained: Option<(String, u64)>,
    /// The newest erasure that a leaf names.
    pub last_erasure: i64,
    /// What somebody has altered, and no finding says yet.
    pub alterations: Vec<Alteration>,
    /// Leaves of the tree that it knows of.
    leaves: u64,
    /// Of the schema, as SQLite counts its changes.
    schema_version: i64,
}

/// Something that somebody has altered by hand.
#[derive(Debug, Clone)]
pub(in crate::store) struct Alteration {
    pub chat_id: Option<ChatId>,
    pub what: String,
}

/// What a batch adds to the memory once it is committed.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub chats: HashMap<ChatId, Known>,
    pub errors: HashMap<u64, Fold>,
    pub findings: HashMap<ContentDigest, Fold>,
    pub put_off: HashMap<ChatId, ChatRow>,
    pub withheld: HashMap<ChatId, ChatRow>,
    /// Chats whose rows are as they were again, and go on.
    pub righted: BTreeSet<ChatId>,
    pub drained: Option<(String, u64)>,
}

/// What is in the file of a chat.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Known {
    /// Its row.
    pub row: Option<ChatRow>,
    /// The row of its coverage that grows, if this run has one.
    pub extent: Option<Extent>,
    /// The highest index of its events, of whatever process: a row with a higher one is nobody's.
    pub highest: Option<i64>,
    /// Its events below this index were erased or purged (`erasures.below`).
    pub below: Option<i64>,
}

impl Known {
    /// What the file says of a chat that is met for the first time. Its row is read once it is written.
    pub fn read(connection: &Connection, chat_id: &ChatId, last_erasure: i64) -> Result<Self, Error> {
        let mut select = connection.prepare_cached("SELECT max(event_index) FROM events WHERE chat_id = ?")?;
        let highest = select.query_row([chat_id.as_str()], |row| row.get(0))?;
        let mut below = None;
        if last_erasure > 0 {
            let sql = "SELECT max(CAST(below AS INTEGER)) FROM erasures WHERE chat_id = ? AND id BETWEEN 1 AND ?";
            let mut select = connection.prepare_cached(sql)?;
            below = select.query_row(params![chat_id.as_str(), last_erasure], |row| row.get(0))?;
        }
        Ok(Self { highest, below, ..Self::default() })
    }
}

/// A row of coverage that grows.
#[derive(Debug, Clone)]
pub(in crate::store) struct Extent {
    pub covered: Covered,
    pub node: Arc<str>,
}

/// A row that what is identical folds into.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Fold {
    pub id: i64,
    pub observed_at: i64,
    pub last_observed_at: i64,
    pub repeats: i64,
}

impl Fold {
    /// One more of it.
    pub fn again(self, at: i64) -> Self {
        Self { repeats: self.repeats.saturating_add(1), last_observed_at: self.last_observed_at.max(at), ..self }
    }
}

/// A row of `chats`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::store) struct ChatRow {
    pub service: Option<String>,
    pub first_seen_at: i64,
    pub last_seen_at: i64,
    pub ended: Option<(i64, Ended)>,
    pub next_position: Option<i64>,
    pub is_async: bool,
    pub highest_index: Option<i64>,
}

impl ChatRow {
    pub fn of(entry: &Entry, chat: &ChatRecord) -> Self {
        Self {
            service: chat.service.clone(),
            first_seen_at: entry.at,
            last_seen_at: entry.at,
            ended: chat.ended.map(|how| (entry.at, how)),
            next_position: chat.next_position,
            is_async: chat.is_async,
            highest_index: chat.events.iter().map(|event| event.index.get()).max().max(chat.highest_index),
        }
    }

    /// Takes over what a later answer said.
    pub fn absorb(&mut self, later: Self) {
        self.service = self.service.take().or(later.service);
        self.first_seen_at = self.first_seen_at.min(later.first_seen_at);
        self.last_seen_at = self.last_seen_at.max(later.last_seen_at);
        self.ended = self.ended.or(later.ended);
        self.next_position = self.next_position.max(later.next_position);
        self.is_async |= later.is_async;
        self.highest_index = self.highest_index.max(later.highest_index);
    }

    /// Whether the row is sealed alike with both: a poll that brings nothing new costs no leaf.
    pub fn seals_like(&self, other: &Self) -> bool {
        let step = |row: &Self| row.last_seen_at / SEEN_STEP_MS;
        step(self) == step(other) && *self == Self { last_seen_at: self.last_seen_at, ..other.clone() }
    }

    /// None where there is no such row; within, where a value of it is not of its kind.
    pub fn read(connection: &Connection, chat_id: &ChatId) -> Result<Option<Option<Self>>, Error> {
        let sql =
            "SELECT service, first_seen_at, last_seen_at, ended_at, ended_how, next_position, is_async, highest_index
            FROM chats WHERE chat_id = ?";
        let mut select = connection.prepare_cached(sql)?;
        Ok(select.query_row([chat_id.as_str()], |row| Ok(Self::of_row(row).ok())).optional()?)
    }

    fn of_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        let how: Option<String> = row.get(4)?;
        Ok(Self {
            service: row.get(0)?,
            first_seen_at: row.get(1)?,
            last_seen_at: row.get(2)?,
            ended: row.get::<_, Option<i64>>(3)?.zip(how.as_deref().and_then(Ended::parse)),
            next_position: row.get(5)?,
            is_async: row.get(6)?,
            highest_index: row.get(7)?,
        })
    }
}

/// The latest entries of a map: one that was not put there anew for long is forgotten.
#[derive(Debug)]
pub(in crate::store) struct Recent<K, V> {
    new: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { new: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.new.get(key).or_else(|| self.old.get(key))
    }

    fn put(&mut self, key: K, value: V) {
        if self.new.len() >= MEMORY_MAX {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        self.new.remove(key);
        self.old.remove(key);
    }
}

impl Memory {
    /// Of an archive as it is opened: what its last leaves name is held against them.
    pub(in crate::store) fn of(connection: &Connection) -> Result<Self, Error> {
        let snapshot = connection.unchecked_transaction()?;
        let mut memory = Self { leaves: read_tree(connection)?.size(), ..Self::default() };
        memory.look_at_schema(connection)?;
        let (mut chats, last_erasure) = (BTreeMap::new(), Cell::new(0));
        let oldest = memory.leaves.saturating_sub(LEAVES_MAX);
        let newest = newest_erasure(connection)?;
        let is_looked_for =
            |leaf| newest > 0 && last_erasure.get() == 0 && leaf + LEAVES_MAX_FOR_ERASURES > memory.leaves;
        each_back(
            connection,
            &mut |leaf, form, key| match (form.number, &key[..]) {
                (CHATS, [KeyValue::Text(chat_id)])
                    if leaf > oldest && (chats.len() < CHATS_MAX || chats.contains_key(chat_id)) =>
                {
                    let latest = chats.entry(chat_id.clone()).or_insert(leaf);
                    *latest = leaf.max(*latest);
                }
                (ERASURES, [KeyValue::Integer(id)]) => last_erasure.set(last_erasure.get().max(*id)),
                _ => {}
            },
            &|leaf| leaf <= oldest && !is_looked_for(leaf),
        )?;
        // One of before that cannot be told from one that somebody put there.
        let is_all = memory.leaves <= LEAVES_MAX_FOR_ERASURES;
        memory.last_erasure = if is_all || last_erasure.get() > 0 { last_erasure.get() } else { newest };
        if !late::is_left(connection)? {
            for (chat_id, leaf) in chats {
                memory.hold_against(connection, &chat_id, leaf)?;
            }
        }
        snapshot.commit()?;
        Ok(memory)
    }

    /// Looks at what others have sealed since the last time. True where something was erased, purged or masked: what is remembered of
    /// what is on disk may not be there any longer. Within a transaction, in which the tree has so many leaves.
    pub(super) fn catch_up(&mut self, connection: &Connection, leaves: u64) -> Result<bool, Error> {
        self.look_at_schema(connection)?;
        if leaves == self.leaves {
            return Ok(false);
        }
        let (mut chats, mut erasures, mut is_folded) = (BTreeMap::new(), BTreeMap::new(), false);
        let mut events: BTreeMap<String, i64> = BTreeMap::new();
        each_from(connection, self.leaves, &mut |leaf, form, key| match (form.number, &key[..]) {
            (CHATS, [KeyValue::Text(chat_id)]) => drop(chats.insert(chat_id.clone(), leaf)),
            (ERASURES, [KeyValue::Integer(id)]) => drop(erasures.insert(*id, leaf)),
            (ERRORS | FINDINGS, _) => is_folded = true,
            (EVENTS, [KeyValue::Text(chat_id), KeyValue::Integer(index)]) => match events.get_mut(chat_id) {
                Some(highest) => *highest = (*highest).max(*index),
                None => drop(events.insert(chat_id.clone(), *index)),
            },
            _ => {}
        })?;
        for (chat_id, index) in events {
            let chat_id = ChatId::parse(&chat_id);
            if let Some((chat_id, mut known)) = chat_id.and_then(|id| Some((id.clone(), self.chats.get(&id)?.clone())))
            {
                known.highest = known.highest.max(Some(index));
                self.chats.put(chat_id, known);
            }
        }
        if is_folded || !erasures.is_empty() {
            (self.errors, self.findings) = Default::default();
        }
        let form = Form::of(ERASURES).expect("there is one");
        for (id, leaf) in &erasures {
            if is_as_sealed(connection, *leaf, form, &[KeyValue::Integer(*id)])? {
                self.last_erasure = self.last_erasure.max(*id);
                self.forget_erased(connection, *id)?;
            }
        }
        for (chat_id, leaf) in chats {
            let chat = ChatId::parse(&chat_id);
            if chat.is_some_and(|id| self.chats.get(&id).is_some() || self.altered.contains_key(&id)) {
                self.hold_against(connection, &chat_id, leaf)?;
            }
        }
        self.leaves = leaves;
        Ok(!erasures.is_empty())
    }

    /// Tables and indexes that somebody makes otherwise for a while change or refuse rows.
    fn look_at_schema(&mut self, connection: &Connection) -> Result<(), Error> {
        let version = connection.prepare_cached("PRAGMA schema_version")?.query_row((), |row| row.get(0))?;
        if version == self.schema_version {
            return Ok(());
        }
        for what in schema::altered(connection)? {
            tracing::error!(what, "somebody has altered how the archive is made");
            self.alterations.push(Alteration { chat_id: None, what });
        }
        self.schema_version = version;
        Ok(())
    }

    fn forget_erased(&mut self, connection: &Connection, erasure: i64) -> Result<(), Error> {
        let sql = "SELECT chat_id FROM erasures WHERE id = ? AND how <> 'masked' AND chat_id IS NOT NULL";
        let mut select = connection.prepare_cached(sql)?;
        let chat_id: Option<String> = select.query_row([erasure], |row| row.get(0)).optional()?;
        if let Some(chat_id) = chat_id.and_then(|text| ChatId::parse(&text)) {
            self.chats.remove(&chat_id);
            self.altered.remove(&chat_id);
        }
        Ok(())
    }

    /// Takes over the row of a chat as it is in the file, if it is so in its latest leaf.
    fn hold_against(&mut self, connection: &Connection, chat_id: &str, leaf: u64) -> Result<(), Error> {
        let form = Form::of(CHATS).expect("there is one");
        let key = [KeyValue::Text(chat_id.to_owned())];
        let Some(chat_id) = ChatId::parse(chat_id) else { return Ok(()) };
        let Some(row) = ChatRow::read(connection, &chat_id)? else {
            self.chats.remove(&chat_id); // it was erased
            return Ok(());
        };
        let mut known = match self.chats.get(&chat_id) {
            Some(known) => known.clone(),
            None => Known::read(connection, &chat_id, self.last_erasure)?,
        };
        if is_as_sealed(connection, leaf, form, &key)? {
            known.row = row;
            self.altered.remove(&chat_id);
        } else {
            known.row = None;
            let hint = "somebody changed it by hand: it is left as it is, and `gms-recorder verify` tells of it";
            tracing::error!(%chat_id, hint, "the row of a chat is not as it was sealed");
            let what = "the row of the chat is not as it was sealed".into();
            self.alterations.push(Alteration { chat_id: Some(chat_id.clone()), what });
            self.altered.insert(chat_id.clone(), leaf);
        }
        self.chats.put(chat_id, known);
        Ok(())
    }

    /// A batch is committed; the tree has so many leaves by that, if it has sealed anything.
    pub(super) fn take_over(&mut self, fresh: Fresh, leaves: Option<u64>, whole: bool) {
        self.leaves = leaves.unwrap_or(self.leaves);
        fresh.chats.into_iter().for_each(|(chat_id, known)| self.chats.put(chat_id, known));
        fresh.errors.into_iter().for_each(|(key, fold)| self.errors.put(key, fold));
        fresh.findings.into_iter().for_each(|(key, fold)| self.findings.put(key, fold));
        self.drained = fresh.drained.or_else(|| self.drained.take());
        if whole {
            self.put_off.clear();
            self.withheld.clear();
        }
        self.altered.retain(|chat_id, _| !fresh.righted.contains(chat_id));
        fresh.put_off.into_iter().for_each(|(chat_id, row)| absorb(&mut self.put_off, chat_id, row));
        fresh.withheld.into_iter().for_each(|(chat_id, row)| absorb(&mut self.withheld, chat_id, row));
    }
}

/// A row more of what waits.
pub(super) fn absorb(rows: &mut HashMap<ChatId, ChatRow>, chat_id: ChatId, row: ChatRow) {
    match rows.get_mut(&chat_id) {
        Some(known) => known.absorb(row),
        None => drop(rows.insert(chat_id, row)),
    }
}

fn newest_erasure(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.query_row("SELECT coalesce(max(id), 0) FROM erasures", (), |row| row.get(0))?)
}
