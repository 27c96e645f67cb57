//! Tamper evidence in the archive: each row that a transaction writes becomes a leaf of the one tree, in that transaction.
//! What is hashed, and how a program in another language rebuilds it, is in `migrations/0005_seals.sql`.
//!
//! It knows rows and hashes; it does not know signatures or anchors.

pub mod checkpoint;
pub mod destroyed;
pub mod late;
pub mod leaf;
pub mod merkle;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use super::{Entry, Error, ErrorKind};
use crate::chat::{ChatId, Covered, TranscriptEvent};
use merkle::{HASH_BYTES, Hash, LEAF_PREFIX, Tree};

/// Bytes of a salt, and of the seed that the salts of a pack come from.
pub const SALT_BYTES: usize = 16;
/// Leaves that may be missing before a pack where the tree is made anew. What is further off is no pack of ours.
const GAP_MAX: u64 = 1 << 20;
/// In refs: the key's first column is that of the last row.
const SAME_FIRST: u8 = 0x80;

/// What is sealed of a table. Kept in `sealed_forms` too, for those who read the file without this program.
#[derive(Debug)]
pub struct Form {
    /// In refs.
    pub number: u8,
    /// The table.
    pub table: &'static str,
    /// Columns that name a row.
    pub key: &'static [Column],
    /// Columns or expressions, in the order in which they are hashed.
    pub columns: &'static [&'static str],
}

/// A column of a key.
#[derive(Debug)]
pub struct Column(pub &'static str, pub Kind);

/// What a column of a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Integer,
    /// A text.
    Text,
    /// A blob.
    Blob,
}

use Kind::{Blob, Integer, Text};

// Numbers of forms, where code names one.
pub(super) const EVENTS: u8 = 1;
pub(super) const VARIANTS: u8 = 2;
pub(super) const ATTRIBUTES: u8 = 3;
pub(super) const ERRORS: u8 = 4;
pub(super) const COVERAGE: u8 = 5;
pub(super) const FINDINGS: u8 = 6;
pub(super) const OUTAGES: u8 = 7;
pub(super) const CHATS: u8 = 8;
pub(super) const RUNS: u8 = 9;
pub(super) const ARCHIVE: u8 = 10;
pub(super) const SPOOLS: u8 = 11;
pub(super) const KEYS: u8 = 12;
pub(super) const MASKINGS: u8 = 13;
pub(super) const FILES: u8 = 14;
pub(super) const ACTS: u8 = 15;
pub(super) const HOLDS: u8 = 16;
pub(super) const ERASURES: u8 = 17;
pub(super) const WAITING: u8 = 18;
pub(super) const MERGES: u8 = 19;
pub(super) const DELIVERIES: u8 = 20;
pub(super) const ACCOUNTS: u8 = 21;
const CORE_OF_ERRORS: u8 = 22;
const CORE_OF_FINDINGS: u8 = 23;
const CORE_OF_ACTS: u8 = 24;
const CORE_OF_RUNS: u8 = 25;
const CORE_OF_HOLDS: u8 = 26;
pub(super) const STAGINGS: u8 = 27;

/// What of rows that change never does is sealed apart, once: forms, and those of their cores.
const CORES: [(u8, u8); 5] = [
    (ERRORS, CORE_OF_ERRORS),
    (FINDINGS, CORE_OF_FINDINGS),
    (ACTS, CORE_OF_ACTS),
    (RUNS, CORE_OF_RUNS),
    (HOLDS, CORE_OF_HOLDS),
];

/// `last_seen_at` follows every poll; of it the five minutes are sealed that it lies in.
pub(super) const SEEN_STEP_MS: i64 = 300_000;

/// All of them, by number.
#[rustfmt::skip]
pub static FORMS: [Form; 27] = [
    Form { number: EVENTS, table: "events", key: &[Column("chat_id", Text), Column("event_index", Integer)],
        columns: &["chat_id", "event_index", "type", "utc_time", "participant_id", "nickname", "party_type", "text",
            "message_type", "user_data", "event_attributes", "raw", "recorded_at", "node", "run_id"] },
    Form { number: VARIANTS, table: "event_variants",
        key: &[Column("chat_id", Text), Column("event_index", Integer), Column("digest", Blob)],
        columns: &["chat_id", "event_index", "digest", "kind", "raw", "recorded_at", "node", "run_id"] },
    Form { number: ATTRIBUTES, table: "chat_attributes", key: &[Column("id", Integer)],
        columns: &["id", "chat_id", "name", "value", "source", "observed_at", "run_id"] },
    Form { number: ERRORS, table: "api_errors", key: &[Column("id", Integer)],
        columns: &["id", "observed_at", "last_observed_at", "repeats", "origin", "http_status", "status_code", "format",
            "code", "meaning", "class", "field", "detail", "advice", "reference_id", "service", "operation", "chat_id",
            "alias", "method", "path", "node", "client", "request_id", "duration_ms", "run_id", "trace_id"] },
    Form { number: COVERAGE, table: "coverage",
        key: &[Column("chat_id", Text), Column("from_position", Integer), Column("run_id", Integer), Column("node", Text)],
        columns: &["chat_id", "from_position", "next_position", "node", "run_id", "at"] },
    Form { number: FINDINGS, table: "findings", key: &[Column("id", Integer)],
        columns: &["id", "observed_at", "last_observed_at", "repeats", "kind", "chat_id", "detail", "raw", "raw_length",
            "digest", "run_id"] },
    Form { number: OUTAGES, table: "outages", key: &[Column("id", Integer)],
        columns: &["id", "started_at", "ended_at", "reason", "detail", "events", "answers", "delivered_early", "refused",
            "dropped", "chat_ids", "run_id", "spooled"] },
    Form { number: CHATS, table: "chats", key: &[Column("chat_id", Text)],
        columns: &["chat_id", "service", "first_seen_at", "last_seen_at / 300000", "ended_at", "ended_how",
            "next_position", "is_async", "highest_index"] },
    Form { number: RUNS, table: "runs", key: &[Column("run_id", Integer)],
        columns: &["run_id", "instance", "version", "started_at", "stopped_at", "clean", "deliver", "when_unavailable",
            "settings", "config_hash", "ledger", "sealing"] },
    Form { number: ARCHIVE, table: "archive", key: &[Column("id", Integer)],
        columns: &["id", "archive_id", "created_at", "created_by", "quiet_after_ms", "async_quiet_after_ms"] },
    Form { number: SPOOLS, table: "spools", key: &[Column("spool_id", Text)],
        columns: &["spool_id", "drained_to", "at", "run_id"] },
    Form { number: KEYS, table: "keys", key: &[Column("id", Integer)], columns: &["id", "vkey", "at", "statement"] },
    Form { number: MASKINGS, table: "maskings", key: &[Column("id", Integer)],
        columns: &["id", "what", "chat_id", "event_index", "digest", "row_id", "field", "rule", "at_character",
            "characters", "recorded_at", "run_id"] },
    Form { number: FILES, table: "file_transfers", key: &[Column("id", Integer)],
        columns: &["id", "chat_id", "file_id", "direction", "bytes", "sha256", "at", "outcome", "node", "run_id"] },
    Form { number: ACTS, table: "acts", key: &[Column("id", Integer)],
        columns: &["id", "kind", "at", "ended_at", "who", "via", "host", "case_ref", "asked", "reason", "found", "version"] },
    Form { number: HOLDS, table: "holds", key: &[Column("id", Integer)],
        columns: &["id", "act_id", "at", "reason", "chat_id", "name", "value", "query", "released_at", "released_by"] },
    Form { number: ERASURES, table: "erasures", key: &[Column("id", Integer)],
        columns: &["id", "act_id", "chat_id", "how", "at", "below", "service", "first_seen_at", "last_seen_at", "events",
            "rows", "leaves"] },
    Form { number: WAITING, table: "waiting_erasures", key: &[Column("id", Integer)],
        columns: &["id", "act_id", "chat_id", "held_by", "at", "done_by"] },
    Form { number: MERGES, table: "merges", key: &[Column("id", Integer)],
        columns: &["id", "act_id", "archive_id", "at", "ended_at", "leaves", "root", "checkpoint", "vkeys", "runs",
            "brought"] },
    Form { number: DELIVERIES, table: "deliveries", key: &[Column("id", Integer)],
        columns: &["id", "target", "number", "from_leaf", "to_leaf", "started_at", "finished_at", "who", "destination",
            "format", "chats", "additions", "removals", "rows", "files", "bytes", "manifest", "outcome", "detail"] },
    Form { number: ACCOUNTS, table: "accounts", key: &[Column("run_id", Integer), Column("hour", Integer)],
        columns: &["run_id", "hour", "at", "seen", "new", "duplicate", "variant", "finding", "suppressed", "refused",
            "dropped", "in_flight", "delivered_early"] },
    Form { number: CORE_OF_ERRORS, table: "api_errors", key: &[Column("id", Integer)],
        columns: &["id", "observed_at", "origin", "http_status", "status_code", "format", "code", "meaning", "class",
            "field", "detail", "advice", "reference_id", "service", "operation", "chat_id", "alias", "method", "path",
            "node", "client", "request_id", "duration_ms", "run_id", "trace_id"] },
    Form { number: CORE_OF_FINDINGS, table: "findings", key: &[Column("id", Integer)],
        columns: &["id", "kind", "chat_id", "detail", "raw", "raw_length", "digest", "run_id"] },
    Form { number: CORE_OF_ACTS, table: "acts", key: &[Column("id", Integer)],
        columns: &["id", "kind", "at", "who", "via", "host", "version"] },
    Form { number: CORE_OF_RUNS, table: "runs", key: &[Column("run_id", Integer)],
        columns: &["run_id", "instance", "version", "started_at", "deliver", "when_unavailable", "settings",
            "config_hash", "sealing"] },
    Form { number: CORE_OF_HOLDS, table: "holds", key: &[Column("id", Integer)],
        columns: &["id", "act_id", "at", "chat_id", "name", "value"] },
    Form { number: STAGINGS, table: "stagings", key: &[Column("id", Integer)],
        columns: &["id", "target", "number", "at", "made"] },
];

/// `SELECT` of a row by its key, of each form: first its rowid, then its columns. Of a key that an index has, SQLite would take
/// the columns from there: the index says where the row is, and the row what it is.
static BY_KEY: LazyLock<Vec<String>> = LazyLock::new(|| {
    let select = |form: &Form| {
        let is_key = form.key.iter().map(|Column(name, _)| format!("{name} = ?")).collect::<Vec<_>>().join(" AND ");
        let is_indexed = form.has_rowid() && !matches!(form.key, [Column(_, Integer)]);
        match is_indexed {
            true => format!("{} WHERE rowid = (SELECT rowid FROM {} WHERE {is_key})", form.select(), form.table),
            false => format!("{} WHERE {is_key}", form.select()),
        }
    };
    FORMS.iter().map(select).collect()
});

impl Form {
    /// By its number.
    pub fn of(number: u8) -> Option<&'static Self> {
        FORMS.get(usize::from(number).checked_sub(1)?)
    }

    /// Where it stands in [`FORMS`].
    pub(super) fn place(&self) -> usize {
        usize::from(self.number) - 1
    }

    /// The migration from which on it is sealed.
    pub fn since(&self) -> i64 {
        match self.number {
            ..=MASKINGS => 5,
            FILES => 6,
            MERGES => 8,
            DELIVERIES => 10,
            ACCOUNTS => 11,
            CORE_OF_ERRORS..=CORE_OF_HOLDS => 12,
            STAGINGS.. => 13,
            _ => 7,
        }
    }

    /// Its core, where it has one.
    pub fn core(&self) -> Option<&'static Self> {
        CORES.iter().find(|(whole, _)| *whole == self.number).and_then(|(_, core)| Self::of(*core))
    }

    /// Of a core: the form of the whole row.
    pub fn whole(&self) -> Option<&'static Self> {
        CORES.iter().find(|(_, core)| *core == self.number).and_then(|(whole, _)| Self::of(*whole))
    }

    /// Whether the archive knows of it: one of an earlier release has fewer.
    ///
    /// # Errors
    /// As SQLite.
    pub fn is_known(&self, connection: &Connection) -> Result<bool, rusqlite::Error> {
        let has_forms = "SELECT 1 FROM sqlite_schema WHERE name = 'sealed_forms'";
        Ok(connection.prepare_cached(has_forms)?.exists(())?
            && connection.prepare_cached("SELECT 1 FROM sealed_forms WHERE form = ?")?.exists([self.number])?)
    }

    /// Whether its table has rowids.
    pub fn has_rowid(&self) -> bool {
        self.number != COVERAGE
    }

    /// `SELECT` of its rows: the rowid (0 where there is none), then the columns.
    pub fn select(&self) -> String {
        let rowid = if self.has_rowid() { "rowid" } else { "0" };
        format!("SELECT {rowid}, {} FROM {}", self.columns.join(", "), self.table)
    }

    /// Whether its rows never change: each of them is sealed once.
    pub fn is_final(&self) -> bool {
        let is_of_final = matches!(
            self.number,
            EVENTS | VARIANTS | ATTRIBUTES | MASKINGS | FILES | KEYS | ERASURES | DELIVERIES | OUTAGES | STAGINGS
        );
        is_of_final || self.whole().is_some()
    }

    /// Columns that are set once, later, where nothing else of a row ever changes; but for words that become stars, and then no
    /// earlier leaf keeps its salt. Empty for tables whose rows change otherwise, or never.
    pub fn set_later(&self) -> &'static [&'static str] {
        match self.number {
            ACTS => &["ended_at", "found"],
            HOLDS => &["released_at", "released_by"],
            WAITING => &["done_by"],
            MERGES => &["ended_at", "brought"],
            _ => &[],
        }
    }

    /// The same of one row by its key.
    pub fn select_by_key(&self) -> &'static str {
        &BY_KEY[self.place()]
    }

    /// Where a column stands in a row of [`Form::select`].
    pub fn place_of(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| *name == column).map(|at| at + 1)
    }

    /// The key of a row of [`Form::select`]. None where a value of it is not of its column's kind: no row of ours.
    pub fn key_of(&self, row: &Row<'_>) -> Result<Option<Vec<KeyValue>>, rusqlite::Error> {
        let mut key = Vec::with_capacity(self.key.len());
        for Column(name, kind) in self.key {
            let at = self.place_of(name).expect("every column of a key is sealed");
            let Some(value) = KeyValue::of(row.get_ref(at)?, *kind) else { return Ok(None) };
            key.push(value);
        }
        Ok(Some(key))
    }
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    /// An integer.
    Integer(i64),
    /// A text.
    Text(String),
    /// A blob.
    Blob(Vec<u8>),
}

impl KeyValue {
    pub(super) fn of(value: ValueRef<'_>, kind: Kind) -> Option<Self> {
        match (value, kind) {
            (ValueRef::Integer(number), Integer) => Some(Self::Integer(number)),
            (ValueRef::Text(text), Text) => String::from_utf8(text.to_vec()).ok().map(Self::Text),
            (ValueRef::Blob(bytes), Blob) => Some(Self::Blob(bytes.to_vec())),
            _ => None,
        }
    }
}

impl ToSql for KeyValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Integer(number) => (*number).into(),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// A row's bytes as they are hashed, after the prefix of a leaf and the salt.
#[derive(Debug, Default)]
pub struct Canonical(Vec<u8>);

impl Canonical {
    /// Begins a leaf's bytes: salt (none for a pack's own) and table.
    pub fn begin(&mut self, salt: &[u8], table: &str) {
        self.0.clear();
        self.0.push(LEAF_PREFIX);
        self.0.extend_from_slice(salt);
        self.text(Some(table));
    }

    /// A whole row of [`Form::select`].
    pub fn row(&mut self, salt: &[u8], form: &Form, row: &Row<'_>) -> Result<(), rusqlite::Error> {
        self.row_without(salt, form, row, &[])
    }

    /// The same as if some columns of it were NULL.
    pub fn row_without(
        &mut self,
        salt: &[u8],
        form: &Form,
        row: &Row<'_>,
        columns: &[&str],
    ) -> Result<(), rusqlite::Error> {
        self.begin(salt, form.table);
        for (at, column) in (1..).zip(form.columns) {
            match row.get_ref(at)? {
                _ if columns.contains(column) => self.0.push(b'N'),
                ValueRef::Null => self.0.push(b'N'),
                ValueRef::Integer(number) => self.integer(Some(number)),
                ValueRef::Real(number) => {
                    self.0.push(b'R');
                    self.0.extend_from_slice(&number.to_be_bytes());
                }
                ValueRef::Text(text) => self.bytes(b'T', text),
                ValueRef::Blob(bytes) => self.bytes(b'B', bytes),
            }
        }
        Ok(())
    }

    fn integer(&mut self, number: Option<i64>) {
        let Some(number) = number else { return self.0.push(b'N') };
        self.0.push(b'I');
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, text: Option<&str>) {
        match text {
            None => self.0.push(b'N'),
            Some(text) => self.bytes(b'T', text.as_bytes()),
        }
    }

    fn bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.0.push(kind);
        // SQLite keeps no value of 4 GiB.
        self.0.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// The leaf's hash.
    pub fn hash(&self) -> Hash {
        Sha256::digest(&self.0).into()
    }

    /// Without prefix and salt.
    #[cfg(test)]
    fn content(&self) -> &[u8] {
        &self.0[1 + SALT_BYTES..]
    }
}

/// The salt of a leaf, by its place in its pack: the first row's is 1.
pub fn salt(seed: &[u8], place: u32) -> [u8; SALT_BYTES] {
    let mut bytes = [0; SALT_BYTES + 4];
    bytes[..SALT_BYTES].copy_from_slice(&seed[..SALT_BYTES]);
    bytes[SALT_BYTES..].copy_from_slice(&place.to_be_bytes());
    *Sha256::digest(bytes).first_chunk().expect("a hash is longer than a salt")
}

/// The head of a pack: what its own leaf is of.
#[derive(Debug)]
pub struct Head<'p> {
    /// The number of its own leaf.
    pub first_leaf: i64,
    /// With its own.
    pub leaves: i64,
    /// When, where its rows were written before; milliseconds since the epoch.
    pub sealed_later_at: Option<i64>,
    /// For [`Refs`].
    pub refs: &'p [u8],
    /// The seed, or the hash of one that was destroyed.
    pub seed: &'p [u8],
}

impl Head<'_> {
    /// Its leaf.
    pub fn hash(&self) -> Hash {
        let seed_hash = match self.seed.len() {
            SALT_BYTES => Sha256::digest(self.seed).to_vec(),
            _ => self.seed.to_vec(),
        };
        let mut bytes = Canonical::default();
        bytes.begin(&[], "seals");
        bytes.integer(Some(self.first_leaf));
        bytes.integer(Some(self.leaves));
        bytes.integer(self.sealed_later_at);
        bytes.bytes(b'B', self.refs);
        bytes.bytes(b'B', &seed_hash);
        bytes.hash()
    }
}

/// The leaves of one transaction.
#[derive(Debug)]
pub(super) struct Pack {
    seed: [u8; SALT_BYTES],
    refs: Vec<u8>,
    /// The first text of the last key that begins with one.
    last_first: Vec<u8>,
    /// The pack's own comes first, once it is known.
    hashes: Vec<Hash>,
    /// Rows that change: sealed as they are in the end.
    touched: BTreeSet<(u8, Vec<KeyValue>)>,
    /// False in an archive of an earlier release.
    pub(super) has_cores: bool,
    bytes: Canonical,
    /// As it was when the transaction began, once somebody has asked.
    tree: Option<Tree>,
}

impl Pack {
    pub(super) fn begin() -> Result<Self, Error> {
        let mut seed = [0; SALT_BYTES];
        getrandom::fill(&mut seed).map_err(|e| Error::new(ErrorKind::Other, format!("no random numbers: {e}")))?;
        let (refs, last_first, touched, bytes) = Default::default();
        let (hashes, has_cores, tree) = (vec![[0; HASH_BYTES]], true, None);
        Ok(Self { seed, refs, last_first, hashes, touched, has_cores, bytes, tree })
    }

    /// How many leaves the tree has without these. Within the transaction.
    pub(super) fn leaves_before(&mut self, connection: &Connection) -> Result<u64, Error> {
        let tree = read_tree(connection)?;
        let size = tree.size();
        self.tree = Some(tree);
        Ok(size)
    }

    /// An event that was just inserted. Most other rows are read back once they are as they stay; these are most of all rows.
    pub(super) fn event(&mut self, run_id: i64, entry: &Entry, chat_id: &ChatId, event: &TranscriptEvent) {
        let salt = self.next_salt();
        let bytes = &mut self.bytes;
        bytes.begin(&salt, "events");
        bytes.text(Some(chat_id.as_str()));
        bytes.integer(Some(event.index.get()));
        bytes.text(event.kind.as_deref());
        bytes.integer(event.utc_time);
        bytes.integer(event.from.participant_id);
        bytes.text(event.from.nickname.as_deref());
        bytes.text(event.from.party_type.as_deref());
        bytes.text(event.text.as_deref());
        bytes.text(event.message_type.as_deref());
        bytes.text(event.user_data.as_deref());
        bytes.text(event.event_attributes.as_deref());
        bytes.text(Some(&event.raw));
        bytes.integer(Some(entry.at));
        bytes.text(entry.node.as_deref());
        bytes.integer(Some(run_id));
        self.hashes.push(self.bytes.hash());
        self.name_first(EVENTS, chat_id.as_str().as_bytes());
        put_number(&mut self.refs, event.index.get().cast_unsigned());
    }

    /// A row of coverage that was just grown to this. Where it grows again before the end, its later leaf counts.
    pub(super) fn coverage(&mut self, run_id: i64, at: i64, chat_id: &ChatId, covered: Covered, node: &str) {
        let salt = self.next_salt();
        let bytes = &mut self.bytes;
        bytes.begin(&salt, "coverage");
        bytes.text(Some(chat_id.as_str()));
        bytes.integer(Some(covered.from));
        bytes.integer(Some(covered.next));
        bytes.text(Some(node));
        bytes.integer(Some(run_id));
        bytes.integer(Some(at));
        self.hashes.push(self.bytes.hash());
        self.name_first(COVERAGE, chat_id.as_str().as_bytes());
        put_number(&mut self.refs, covered.from.cast_unsigned());
        put_number(&mut self.refs, run_id.cast_unsigned());
        put_bytes(&mut self.refs, node.as_bytes());
    }

    /// A row that was written, and may be again before the end of the transaction.
    pub(super) fn touch(&mut self, form: u8, key: impl Into<Vec<KeyValue>>) {
        self.touched.insert((form, key.into()));
    }

    /// The same of a row that was inserted, or masked: its core is sealed, too, if it has one.
    pub(super) fn touch_whole(&mut self, form: u8, key: impl Into<Vec<KeyValue>>) {
        let key = key.into();
        if let Some(core) = Form::of(form).and_then(Form::core).filter(|_| self.has_cores) {
            self.touch(core.number, key.clone());
        }
        self.touch(form, key);
    }

    /// A row of [`Form::select`], as it is. False where it is none of ours.
    pub(super) fn row(&mut self, form: &Form, row: &Row<'_>) -> Result<bool, Error> {
        let Some(key) = form.key_of(row)? else { return Ok(false) };
        let salt = self.next_salt();
        self.bytes.row(&salt, form, row)?;
        self.hashes.push(self.bytes.hash());
        let mut key = key.iter();
        match key.next() {
            Some(KeyValue::Text(first)) => self.name_first(form.number, first.as_bytes()),
            first => {
                self.refs.push(form.number);
                first.iter().for_each(|value| put(&mut self.refs, value));
            }
        }
        key.for_each(|value| put(&mut self.refs, value));
        Ok(true)
    }

    /// Seals what was touched, and writes all of it: the leaves of the tree then. None where nothing is sealed, and written.
    pub(super) fn close(mut self, connection: &Connection, sealed_later_at: Option<i64>) -> Result<Option<u64>, Error> {
        for (form, key) in std::mem::take(&mut self.touched) {
            let form = Form::of(form).expect("touched by its number here");
            let mut select = connection.prepare_cached(form.select_by_key())?;
            let mut rows = select.query(rusqlite::params_from_iter(&key))?;
            // A row that was taken back within its transaction is none.
            if let Some(row) = rows.next()? {
                self.row(form, row)?;
            }
        }
        if self.hashes.len() == 1 {
            return Ok(None);
        }
        let mut tree = self.tree.take().map_or_else(|| read_tree(connection), Ok)?;
        let head = Head {
            first_leaf: tree.size().cast_signed(),
            leaves: self.hashes.len() as i64,
            sealed_later_at,
            refs: &self.refs,
            seed: &self.seed,
        };
        self.hashes[0] = head.hash();
        connection
            .prepare_cached(
                "INSERT INTO seals (first_leaf, leaves, sealed_later_at, refs, seed, hashes) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                head.first_leaf,
                head.leaves,
                head.sealed_later_at,
                head.refs,
                head.seed,
                self.hashes.as_flattened()
            ])?;
        self.hashes.iter().for_each(|leaf| tree.push(*leaf));
        let mut update = connection.prepare_cached("UPDATE tree SET size = ?, roots = ? WHERE id = 1")?;
        update.execute(params![tree.size().cast_signed(), tree.roots()])?;
        Ok(Some(tree.size()))
    }

    fn next_salt(&self) -> [u8; SALT_BYTES] {
        salt(&self.seed, self.hashes.len() as u32)
    }

    fn name_first(&mut self, form: u8, first: &[u8]) {
        if self.last_first == first {
            return self.refs.push(form | SAME_FIRST);
        }
        self.refs.push(form);
        put_bytes(&mut self.refs, first);
        self.last_first.clear();
        self.last_first.extend_from_slice(first);
    }
}

fn put(refs: &mut Vec<u8>, value: &KeyValue) {
    match value {
        KeyValue::Integer(number) => put_number(refs, number.cast_unsigned()),
        KeyValue::Text(text) => put_bytes(refs, text.as_bytes()),
        KeyValue::Blob(bytes) => put_bytes(refs, bytes),
    }
}

fn put_bytes(refs: &mut Vec<u8>, bytes: &[u8]) {
    put_number(refs, bytes.len() as u64);
    refs.extend_from_slice(bytes);
}

fn put_number(refs: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        refs.push(number as u8 | 0x80);
        number >>= 7;
    }
    refs.push(number as u8);
}

/// Reads refs, a row at a time.
#[derive(Debug)]
pub struct Refs<'p> {
    rest: &'p [u8],
    last_first: Option<&'p [u8]>,
}

impl<'p> Refs<'p> {
    /// Those of a pack.
    pub fn of(refs: &'p [u8]) -> Self {
        Self { rest: refs, last_first: None }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next row: its form, its key. None at the end, and where the bytes make no sense.
    pub fn next_row(&mut self) -> Option<(&'static Form, Vec<KeyValue>)> {
        let number = self.take(1)?[0];
        let form = Form::of(number & !SAME_FIRST)?;
        let is_same = number & SAME_FIRST != 0;
        let mut key = Vec::with_capacity(form.key.len());
        for (place, Column(_, kind)) in form.key.iter().enumerate() {
            let bytes = match kind {
                Integer => {
                    key.push(KeyValue::Integer(self.number()?.cast_signed()));
                    continue;
                }
                Text | Blob if place == 0 && is_same => self.last_first?,
                Text | Blob => {
                    let length = usize::try_from(self.number()?).ok()?;
                    self.take(length)?
                }
            };
            if place == 0 {
                self.last_first = Some(bytes);
            }
            key.push(match kind {
                Text => KeyValue::Text(String::from_utf8(bytes.to_vec()).ok()?),
                _ => KeyValue::Blob(bytes.to_vec()),
            });
        }
        Some((form, key))
    }

    fn take(&mut self, count: usize) -> Option<&'p [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        number_of(&mut self.rest)
    }
}

/// A number of [`put_number`], taken off the front.
fn number_of(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Whether the archive is of a release that seals cores.
pub(super) fn has_cores(connection: &Connection) -> Result<bool, Error> {
    let core = Form::of(CORE_OF_ERRORS).expect("there is one");
    Ok(core.is_known(connection)?)
}

/// A row, for people.
pub(super) fn row_name(form: &Form, key: &[KeyValue]) -> String {
    let values = form.key.iter().zip(key).map(|(column, value)| match value {
        KeyValue::Integer(number) => format!("{} {number}", column.0),
        KeyValue::Text(text) => format!("{} {text:?}", column.0),
        KeyValue::Blob(bytes) => {
            format!("{} {}", column.0, bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
    });
    format!("{}, {}", form.table, values.collect::<Vec<_>>().join(", "))
}

/// One transaction, and what it touched sealed with it.
pub(super) fn change<T>(
    connection: &Connection,
    sealed_later_at: Option<i64>,
    change: impl FnOnce(&mut Pack) -> Result<T, Error>,
) -> Result<T, Error> {
    append(connection, sealed_later_at, change).map(|(changed, _)| changed)
}

/// The same, for who goes on from there: how many leaves the tree has by that, where anything was sealed.
pub(super) fn append<T>(
    connection: &Connection,
    sealed_later_at: Option<i64>,
    change: impl FnOnce(&mut Pack) -> Result<T, Error>,
) -> Result<(T, Option<u64>), Error> {
    let mut pack = Pack::begin()?;
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    let changed = change(&mut pack).and_then(|changed| {
        let leaves = pack.close(connection, sealed_later_at)?;
        connection.prepare_cached("COMMIT")?.execute(())?;
        Ok((changed, leaves))
    });
    if changed.is_err() {
        // SQLite has rolled back by itself after some errors; then this fails, and nothing is lost.
        let _ = connection.execute_batch("ROLLBACK");
    }
    changed
}

/// Makes the tree's row anew from the packs where it is not of as many leaves: recording goes on, and what was done to the
/// evidence stays for [`super::audit`] to find, by the checkpoints. True where that was needed.
pub(super) fn mend(connection: &Connection) -> Result<bool, Error> {
    if is_whole(connection)? {
        return Ok(false);
    }
    // Another process may have appended between two looks: what counts is seen with the lock.
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    let mended = is_whole(connection).and_then(|is_whole| {
        if !is_whole {
            rebuild(connection)?;
        }
        connection.execute_batch("COMMIT")?;
        Ok(!is_whole)
    });
    if mended.is_err() {
        let _ = connection.execute_batch("ROLLBACK"); // as in `change`
    }
    mended
}

/// Whether the tree is of as many leaves as the packs.
fn is_whole(connection: &Connection) -> Result<bool, Error> {
    let tree = match read_tree(connection) {
        Err(error) if error.kind != ErrorKind::Corrupt => return Err(error),
        tree => tree.ok(),
    };
    let Some(tree) = tree else { return Ok(false) };
    let sql =
        "SELECT first_leaf, CAST(leaves AS INTEGER) FROM seals WHERE first_leaf <= ? ORDER BY first_leaf DESC LIMIT 1";
    let mut select = connection.prepare(sql)?;
    let end = |row: &Row<'_>| Ok(row.get::<_, i64>(0)?.saturating_add(row.get(1)?));
    let size = select.query_row([tree.size().saturating_add(GAP_MAX).cast_signed()], end).optional()?;
    Ok(tree.size() == size.unwrap_or_default().cast_unsigned())
}

fn rebuild(connection: &Connection) -> Result<(), Error> {
    let mut tree = Tree::default();
    let sql = "SELECT first_leaf, CAST(leaves AS INTEGER), hashes FROM seals ORDER BY first_leaf";
    let mut select = connection.prepare(sql)?;
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        let (first_leaf, leaves): (i64, i64) = (row.get(0)?, row.get(1)?);
        if !(0..=(tree.size() + GAP_MAX).cast_signed()).contains(&first_leaf) {
            continue;
        }
        let hashes = row.get_ref(2)?.as_blob().unwrap_or_default();
        hashes.as_chunks::<HASH_BYTES>().0.iter().for_each(|leaf| tree.push(*leaf));
        // Numbers go on after the last pack whatever is missing before it: none is given twice.
        let end = first_leaf.saturating_add(leaves).cast_unsigned();
        for _ in tree.size()..end.min(tree.size() + GAP_MAX) {
            tree.push([0; HASH_BYTES]);
        }
    }
    let upsert = "INSERT OR REPLACE INTO tree (id, size, roots) VALUES (1, ?, ?)";
    connection.execute(upsert, params![tree.size().cast_signed(), tree.roots()])?;
    Ok(())
}

/// The tree as it stands, which another process may have appended to since we last did.
pub(super) fn read_tree(connection: &Connection) -> Result<Tree, Error> {
    let mut select = connection.prepare_cached("SELECT size, roots FROM tree WHERE id = 1")?;
    let read = |row: &Row<'_>| {
        let (size, roots) = (row.get_ref(0)?.as_i64(), row.get_ref(1)?.as_bytes());
        Ok(size.ok().zip(roots.ok()).and_then(|(size, roots)| Tree::of(size.cast_unsigned(), roots)))
    };
    let damaged = || {
        let what =
            "the row of table `tree` is damaged or gone, and nothing can be sealed after it: see `gms-recorder verify`";
        Error::new(ErrorKind::Corrupt, what)
    };
    select.query_row((), read).optional()?.flatten().ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MIGRATIONS;

    fn archive() -> Connection {
        let connection = Connection::open_in_memory().expect("memory");
        let schema = MIGRATIONS.map(|(_, _, sql)| sql).concat();
        connection.execute_batch(&schema).expect("sound SQL");
        connection
    }

    /// What others read of the forms is what we do; a form covers its whole table, and a core some of what its form does.
    #[test]
    fn forms_are_as_the_archive_itself_says() {
        let connection = archive();
        for form in &FORMS {
            let key: Vec<_> = form.key.iter().map(|Column(name, _)| *name).collect();
            let found: (String, String, String) = connection
                .query_row("SELECT tbl, key, columns FROM sealed_forms WHERE form = ?", [form.number], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .expect("there is one");
            assert_eq!(found, (form.table.into(), key.join(","), form.columns.join(",")));
            let mut columns = connection.prepare("SELECT name FROM pragma_table_info(?)").expect("sound SQL");
            let of_table: BTreeSet<String> = columns
                .query_map([form.table], |row| row.get(0))
                .and_then(|rows| rows.collect())
                .expect("a table has columns");
            let name = |column: &&str| column.split(' ').next().unwrap_or_default().to_owned();
            let names: BTreeSet<String> = form.columns.iter().map(name).collect();
            match form.whole() {
                None => assert_eq!(names, of_table, "{}", form.table),
                Some(whole) => {
                    assert_eq!((whole.table, whole.core().map(|core| core.number)), (form.table, Some(form.number)));
                    assert!(names.is_subset(&of_table) && names != of_table, "{}", form.table);
                    assert!(whole.set_later().iter().all(|column| !names.contains(*column)), "{}", form.table);
                }
            }
            assert_eq!(Form::of(form.number).map(|form| form.table), Some(form.table));
        }
        let sql = "SELECT count(*) FROM sealed_forms";
        let count: i64 = connection.query_row(sql, (), |row| row.get(0)).expect("one");
        assert_eq!(count, FORMS.len() as i64);
        assert!(Form::of(0).is_none() && Form::of(FORMS.len() as u8 + 1).is_none());
    }

    #[test]
    fn bytes_of_a_row_are_as_documented() {
        let connection = archive();
        connection.execute_batch("INSERT INTO spools VALUES ('é', -2, NULL, X'0102')").expect_err("NOT NULL");
        connection.execute_batch("INSERT INTO spools VALUES ('é', -2, 1.5, X'0102')").expect("as it is");
        let form = Form::of(SPOOLS).expect("one");
        let mut bytes = Canonical::default();
        let read = |row: &Row<'_>| bytes.row(&[7; SALT_BYTES], form, row);
        connection.query_row(&form.select(), (), read).expect("a row");
        let mut wanted = b"T\0\0\0\x06spoolsT\0\0\0\x02\xc3\xa9I\xff\xff\xff\xff\xff\xff\xff\xfeR".to_vec();
        wanted.extend_from_slice(&1.5_f64.to_be_bytes());
        wanted.extend_from_slice(b"B\0\0\0\x02\x01\x02");
        assert_eq!(bytes.content(), wanted);
        assert_eq!(bytes.0[..1 + SALT_BYTES], [&[0][..], &[7; SALT_BYTES]].concat());
    }

    #[test]
    fn refs_are_read_as_they_were_written() {
        let text = |text: &str| KeyValue::Text(text.into());
        let number = KeyValue::Integer;
        let rows = [
            (EVENTS, vec![text("c1"), number(1)]),
            (EVENTS, vec![text("c1"), number(300)]),
            (VARIANTS, vec![text("c1"), number(i64::MAX), KeyValue::Blob(vec![0; 16])]),
            (ERRORS, vec![number(7)]),
            (CHATS, vec![text("c1")]),
            (COVERAGE, vec![text("c2"), number(1), number(-1), text("")]),
        ];
        let mut pack = Pack::begin().expect("random numbers");
        for (form, key) in &rows {
            match &key[0] {
                KeyValue::Text(first) => pack.name_first(*form, first.as_bytes()),
                first => {
                    pack.refs.push(*form);
                    put(&mut pack.refs, first);
                }
            }
            key[1..].iter().for_each(|value| put(&mut pack.refs, value));
        }
        let mut refs = Refs::of(&pack.refs);
        for (form, key) in rows {
            let (read, read_key) = refs.next_row().expect("one more");
            assert_eq!((read.number, read_key), (form, key));
        }
        assert!(refs.is_empty() && refs.next_row().is_none());
        for garbage in [&[99][..], &[EVENTS, 200], &[EVENTS | SAME_FIRST, 1], &[ERRORS, 0xff], &[CHATS, 1, 0xff]] {
            assert!(Refs::of(garbage).next_row().is_none(), "{garbage:?}");
        }
    }
}
