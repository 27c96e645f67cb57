//! Reads the evidence of an archive back: every row against its leaf, the leaves against the tree. All of it out of one
//! snapshot, so that a `serve` that writes meanwhile changes nothing, and in one pass over the packs.
//!
//! It knows rows and hashes. Whether a root is the one that somebody signed is for others to say.

mod marks;
mod packs;
mod removals;
pub(super) mod schema;
pub mod extract;
pub mod leaves;
pub mod part;
pub mod proof;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::read::{has_wal, immutable_uri};
use super::seal::merkle::{Hash, Tree};
use super::seal::{
    ACTS, CHATS, ERASURES, ERRORS, FINDINGS, FORMS, Form, HOLDS, KEYS, KeyValue, RUNS, SEEN_STEP_MS, SPOOLS, row_name,
};
use super::{Error, ErrorKind, text};

use marks::{Chats, Marks};
use packs::{Held, Looked, Named};

/// Faults that are told one by one; the others are counted.
const FAULTS_TOLD: usize = 20;
/// How long a checkpoint of the write-ahead log is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that go over an archive at the same time.
const READERS_MAX: usize = 8;
/// What all of them may keep of the file in memory.
const CACHE_KIB: usize = 64 << 10;
/// How far a clock may be set back from one run to the next: it is put right by some seconds, or by an hour.
const CLOCK_SET_BACK_MS: i64 = 86_400_000;
const WITHOUT_CORE: &str = "it was not sealed when it came, but when it was changed: gms-recorder did not write it";
/// How often it is tried to have them see the same.
const ATTEMPTS: usize = 100;

/// An archive as it was at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) connection: Connection,
    /// Others that see the same, for what is done by several threads.
    others: Vec<Connection>,
    archive_id: String,
    /// Of which only this is read by the exports.
    part: Option<part::Part>,
}

/// Something that is not as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which row, pack or checkpoint.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.what)
    }
}

/// Faults, the first ones in words.
#[derive(Debug, Default)]
pub struct Faults {
    /// In the order in which they were found.
    pub told: Vec<Fault>,
    /// All of them.
    pub count: u64,
}

impl Faults {
    /// One more.
    pub fn add(&mut self, subject: impl fmt::Display, what: impl Into<String>) {
        self.count += 1;
        if self.told.len() < FAULTS_TOLD {
            self.told.push(Fault { subject: subject.to_string(), what: what.into() });
        }
    }
}

/// A row of `checkpoints`, not yet understood.
#[derive(Debug, Clone)]
pub struct StoredCheckpoint {
    /// Which one.
    pub number: i64,
    /// Leaves.
    pub size: i64,
    /// Milliseconds since the epoch.
    pub at: i64,
    /// The note.
    pub note: String,
}

/// A row of `keys`, not yet understood.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// The public key.
    pub vkey: String,
    /// Since when it signs, milliseconds since the epoch.
    pub since: i64,
    /// That it follows the one before.
    pub statement: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// What is wrong.
    pub faults: Faults,
    /// Leaves of the tree.
    pub leaves: u64,
    /// Rows that fit their latest leaf.
    pub rows: u64,
    /// The roots that were asked for, by size.
    pub roots: BTreeMap<u64, Hash>,
    /// The leaves of the keys, in their order.
    pub keys: Vec<u64>,
    /// Leaves of rows that were sealed later than they were written, and when that was at first and at last.
    pub sealed_later: Option<(u64, i64, i64)>,
    /// Rows of releases that do not seal, which are not yet sealed.
    pub unsealed: u64,
    /// Leaves whose rows were removed or masked, as sealed acts say.
    pub erased: u64,
    /// How many chats were removed; in how many acts, those that masked among them.
    pub removals: (i64, i64),
    /// Of how many chats rows were masked later.
    pub masked_chats: i64,
    /// Findings of what somebody altered by hand, beside a writer that met it.
    pub alterations: i64,
    /// Acts that remove, mask or merge, and have no end.
    pub open_acts: Vec<i64>,
    /// Text that was removed may still be in unused space.
    pub is_unclean: bool,
    /// A release that is not known has changed the archive, or somebody says so: views were not looked at.
    pub has_unknown_views: bool,
    /// The last run that ended in order, and the leaf that says so.
    pub last_stop: Option<(i64, u64)>,
}

impl Snapshot {
    /// Opens an archive at `path`, which [`super::read::Archive::open`] has found to be one.
    ///
    /// # Errors
    /// It cannot be read, or has no seals yet.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, 0)
    }

    /// The same, to go over all of it with every core.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub fn open_whole(path: &Path) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::open_with(path, if cores > 1 { cores.min(READERS_MAX) } else { 0 })
    }

    fn open_with(path: &Path, readers: usize) -> Result<Self, Error> {
        let is_alone = super::leaves_files_of_its_own(path) && !has_wal(path);
        let (connection, is_alone) = match Self::connect(path, is_alone) {
            // As for other readers: without a server, and without the right to make its -shm, the file alone is whole.
            Err(_) if !has_wal(path) => (Self::connect(path, true)?, true),
            connected => (connected?, is_alone),
        };
        let has_seals = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'seals'")?.exists(())?;
        if !has_seals {
            let what = "this archive is of a release that does not seal: the next `serve` of this one seals it";
            return Err(Error::new(ErrorKind::Other, what));
        }
        let archive_id = connection.query_row("SELECT CAST(archive_id AS TEXT) FROM archive", (), |row| row.get(0))?;
        let others = (0..readers).map(|_| Self::connect(path, is_alone)).collect::<Result<Vec<_>, _>>()?;
        let mut snapshot = Self { connection, others, archive_id, part: None };
        snapshot.settle()?;
        Ok(snapshot)
    }

    /// Has all connections see the same. Whoever changes what is sealed appends leaves; beside a `serve` that does so all the time it
    /// takes a few attempts, and where they are in vain one connection does it all.
    fn settle(&mut self) -> Result<(), Error> {
        let memory = CACHE_KIB / self.others.len().max(1);
        for other in &self.others {
            other.pragma_update(None, "cache_size", -(memory as i64))?;
        }
        for _ in 0..ATTEMPTS {
            let end = last_leaf(&self.connection)?;
            let mut ends = self.others.iter().map(last_leaf);
            if ends.all(|other| other.as_ref().ok() == Some(&end)) {
                return Ok(());
            }
            for connection in std::iter::once(&self.connection).chain(&self.others) {
                connection.execute_batch("COMMIT; BEGIN")?;
            }
        }
        self.others.clear();
        Ok(())
    }

    /// With a transaction begun, and the snapshot taken by the first thing that is read.
    fn connect(path: &Path, is_immutable: bool) -> Result<Connection, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let connection = match is_immutable {
            false => Connection::open_with_flags(path, flags - OpenFlags::SQLITE_OPEN_URI)?,
            true => Connection::open_with_flags(immutable_uri(path), flags)?,
        };
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cell_size_check = ON; BEGIN")?;
        connection.pragma_update(None, "cache_size", -(CACHE_KIB as i64))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.prepare("SELECT 1 FROM sqlite_schema")?.exists(())?;
        Ok(connection)
    }

    /// Which archive it is.
    pub fn archive_id(&self) -> &str {
        &self.archive_id
    }

    /// Whether it has the analyst's tables besides, which no erasure knows.
    ///
    /// # Errors
    /// As SQLite.
    pub fn has_star(&self) -> Result<bool, Error> {
        Ok(self.connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'dim_chats'")?.exists(())?)
    }

    /// Leaves that its tree has by its own account.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn size(&self) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(first_leaf + leaves), 0) FROM seals";
        let size: i64 = self.connection.query_row(sql, (), |row| row.get(0))?;
        Ok(size.cast_unsigned())
    }

    /// The public keys, the present one last.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn keys(&self) -> Result<Vec<StoredKey>, Error> {
        let sql = "SELECT CAST(vkey AS TEXT), CAST(at AS INTEGER), coalesce(CAST(statement AS TEXT), '') FROM keys ORDER BY id";
        let mut select = self.connection.prepare(sql)?;
        let read = |row: &Row<'_>| Ok(StoredKey { vkey: text(row, 0)?, since: row.get(1)?, statement: text(row, 2)? });
        let keys = select.query_map((), read)?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    /// All checkpoints, by number.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn checkpoints(&self) -> Result<Vec<StoredCheckpoint>, Error> {
        let sql = "SELECT number, CAST(size AS INTEGER), CAST(at AS INTEGER), CAST(note AS TEXT) FROM checkpoints ORDER BY number";
        let read = |row: &Row<'_>| {
            Ok(StoredCheckpoint { number: row.get(0)?, size: row.get(1)?, at: row.get(2)?, note: text(row, 3)? })
        };
        let mut select = self.connection.prepare(sql)?;
        let checkpoints = select.query_map((), read)?;
        Ok(checkpoints.collect::<Result<_, _>>()?)
    }

    /// Holds every row against its leaf and the leaves against the tree. `progress` is told, from time to time, how many
    /// leaves are done.
    ///
    /// # Errors
    /// The file cannot be read. What can be read and is wrong is in what was found.
    pub fn verify(&mut self, roots_at: &BTreeSet<u64>, progress: &mut dyn FnMut(u64)) -> Result<Found, Error> {
        let others = std::mem::take(&mut self.others);
        let mut walk = Walk::new(&self.connection, roots_at)?;
        walk.check_schema()?;
        walk.read_erasures()?;
        walk.packs(others, progress)?;
        walk.check_definitions()?;
        walk.check_tree()?;
        walk.check_erasures()?;
        walk.check_rows()?;
        Ok(walk.found)
    }
}

/// Where the leaves end, by the last pack.
fn last_leaf(connection: &Connection) -> Result<Option<(i64, i64)>, rusqlite::Error> {
    let sql = "SELECT first_leaf, CAST(leaves AS INTEGER) FROM seals ORDER BY first_leaf DESC LIMIT 1";
    connection.prepare_cached(sql)?.query_row((), |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// One pass over everything.
struct Walk<'s> {
    connection: &'s Connection,
    roots_at: &'s BTreeSet<u64>,
    /// Those whose tables are here: an archive of an earlier release has fewer.
    forms: BTreeSet<u8>,
    tree: Tree,
    marks: Vec<Marks>,
    /// The latest leaf of each run.
    runs: BTreeMap<i64, u64>,
    /// Leaves of rows that were masked, and those rows until a later leaf of theirs comes.
    masked_leaves: Marks,
    masked: BTreeSet<(u8, Vec<KeyValue>)>,
    /// Rows whose latest leaf is of the time before they ended ([`Form::set_later`]), by form and rowid.
    before: BTreeSet<(u8, i64)>,
    /// The latest leaf of each act that has removed or masked something.
    acts: BTreeMap<i64, u64>,
    /// The pack of each erasure, by its first leaf.
    erasures: BTreeMap<i64, u64>,
    /// How many leaves of each hold have lost their salts: one that was released had two.
    holds: BTreeMap<i64, u64>,
    /// Of which chats leaves are said to be erased.
    chats: Chats,
    /// Tables that are told to be gone.
    dropped: BTreeSet<&'static str>,
    /// Rows that are told to be gone, and have a core, by form and key.
    gone: BTreeSet<(u8, Vec<KeyValue>)>,
    /// Of rows with cores, by form: that a leaf has named them.
    seen: Vec<Marks>,
    /// Runs of releases that seal cores; how many of the last that began were such.
    cored_runs: BTreeSet<i64>,
    cored_in_row: u32,
    /// Rows were sealed later, and no run yet that they would be of.
    is_late_open: bool,
    /// Errors and findings that came without, when no release that seals none was left.
    bare: BTreeSet<(u8, i64)>,
    /// Leaves by their numbers: that their salts were destroyed is said (named), and so it is (fits).
    erased: Marks,
    /// False of a backup of an earlier release.
    has_merges: bool,
    found: Found,
}

impl<'s> Walk<'s> {
    fn new(connection: &'s Connection, roots_at: &'s BTreeSet<u64>) -> Result<Self, Error> {
        let mut is_here = connection.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?")?;
        let mut forms = BTreeSet::new();
        for form in &FORMS {
            // A core is not a table of its own.
            if is_here.exists([form.table])? && (form.whole().is_none() || form.is_known(connection)?) {
                forms.insert(form.number);
            }
        }
        let marks = FORMS.iter().map(|form| Marks::new(form.has_rowid())).collect();
        let mut walk = Self {
            connection,
            roots_at,
            forms,
            tree: Tree::default(),
            marks,
            runs: BTreeMap::new(),
            masked_leaves: Marks::new(true),
            masked: BTreeSet::new(),
            before: BTreeSet::new(),
            acts: BTreeMap::new(),
            erasures: BTreeMap::new(),
            holds: BTreeMap::new(),
            chats: Chats::default(),
            dropped: BTreeSet::new(),
            gone: BTreeSet::new(),
            seen: FORMS.iter().map(|_| Marks::new(true)).collect(),
            cored_runs: BTreeSet::new(),
            cored_in_row: 0,
            is_late_open: false,
            bare: BTreeSet::new(),
            erased: Marks::new(true),
            has_merges: false,
            found: Found::default(),
        };
        walk.note_root();
        Ok(walk)
    }

    fn packs(&mut self, others: Vec<Connection>, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let forms = self.forms.clone();
        packs::each(self.connection, others, &forms, &mut |looked| {
            match looked {
                Some(looked) => self.pack(&looked),
                None => self.found.faults.add("a row of seals", "a value of it is not of its kind: it was changed"),
            }
            progress(self.tree.size());
            Ok(())
        })?;
        self.found.leaves = self.tree.size();
        Ok(())
    }

    fn pack(&mut self, looked: &Looked) {
        let subject = || format!("seals, first_leaf {}", looked.first_leaf);
        if looked.first_leaf != self.tree.size().cast_signed() {
            let what =
                format!("the leaves before it end at {}: packs were deleted, inserted or moved", self.tree.size());
            self.found.faults.add(subject(), what);
        }
        if let Some(flaw) = looked.flaw {
            self.found.faults.add(subject(), flaw);
        }
        if !looked.fits {
            self.found
                .faults
                .add(subject(), "its own leaf does not fit it: its refs, seed, numbers or hash were changed");
        }
        if let (Some(at), None) = (looked.sealed_later_at, looked.flaw) {
            let rows = looked.hashes().len() as u64 - 1;
            let (before, first, last) = self.found.sealed_later.unwrap_or((0, at, at));
            self.found.sealed_later = Some((before + rows, first.min(at), last.max(at)));
            self.is_late_open = looked.rows.iter().all(|named| named.form.number != RUNS);
        }
        self.see_cores(looked);
        for (leaf, named) in (self.tree.size() + 1..).zip(&looked.rows) {
            self.named(leaf, named);
        }
        if let Some(misnamed) = looked.misnamed {
            self.found.faults.add(subject(), misnamed);
        }
        for leaf in looked.hashes() {
            self.tree.push(*leaf);
            self.note_root();
        }
    }

    /// A row that is named for the first time has its core beside it: one that has not was put there, and sealed when one of our
    /// commands changed it. Releases that seal no cores are known by their runs; what such a one writes once the next one has begun
    /// is its last errors and findings.
    fn see_cores(&mut self, looked: &Looked) {
        let has_core = |form: &Form, key: &[KeyValue]| {
            let is_it =
                |named: &Named| named.form.whole().is_some_and(|whole| whole.number == form.number) && named.key == key;
            looked.rows.iter().any(is_it)
        };
        for Named { form, key, .. } in looked.rows.iter().filter(|named| named.form.core().is_some()) {
            let [KeyValue::Integer(id)] = key[..] else { continue };
            let (was_seen, _) = self.seen[form.place()].of(id, &[]);
            if was_seen {
                continue;
            }
            self.seen[form.place()].set(id, &[], true);
            match (form.number, has_core(form, key)) {
                (RUNS, true) if looked.sealed_later_at.is_none() => {
                    self.cored_runs.insert(id);
                    self.cored_in_row += 1;
                }
                (RUNS, false) => self.cored_in_row = 0,
                (ACTS | HOLDS, false) if self.cored_in_row > 0 => {
                    self.found.faults.add(row_name(form, key), WITHOUT_CORE);
                }
                (ERRORS | FINDINGS, false) if self.cored_in_row > 1 => drop(self.bare.insert((form.number, id))),
                _ => {}
            }
        }
    }

    /// An error or a finding that has no core.
    fn check_bare(&mut self, form: &'static Form, id: i64) -> Result<(), Error> {
        if !matches!(form.number, ERRORS | FINDINGS) {
            return Ok(());
        }
        let sql = format!("SELECT run_id FROM {} WHERE rowid = ?", form.table);
        let run_id: Option<i64> = self.connection.prepare_cached(&sql)?.query_row([id], |row| row.get(0)).optional()?;
        if run_id.is_some_and(|run_id| self.cored_runs.contains(&run_id)) || self.bare.contains(&(form.number, id)) {
            self.found.faults.add(row_name(form, &[KeyValue::Integer(id)]), WITHOUT_CORE);
        }
        Ok(())
    }

    /// A row that a leaf names.
    fn named(&mut self, leaf: u64, named: &Named) {
        let Named { form, key, held } = named;
        match (form.number, &key[..]) {
            (KEYS, _) => self.found.keys.push(leaf),
            (RUNS, [KeyValue::Integer(run_id)]) => drop(self.runs.insert(*run_id, leaf)),
            (ERASURES, [KeyValue::Integer(id)]) => drop(self.erasures.insert(*id, self.tree.size())),
            _ => {}
        }
        if !matches!(held, Held::Dropped | Held::Destroyed(_)) && !self.masked.is_empty() {
            self.masked.remove(&(form.number, key.clone()));
        }
        match *held {
            Held::Fits(rowid) => self.sealed(form, key, rowid, true, leaf),
            Held::Before(rowid) => {
                self.before.insert((form.number, rowid));
                self.sealed(form, key, rowid, false, leaf);
            }
            Held::Differs(rowid) => self.sealed(form, key, rowid, false, leaf),
            Held::Gone => {
                let is_told = form.whole().is_some_and(|whole| self.gone.contains(&(whole.number, key.clone())));
                if !is_told {
                    self.found.faults.add(row_name(form, key), "it was sealed, and is gone");
                }
                if form.core().is_some() {
                    self.gone.insert((form.number, key.clone()));
                }
            }
            Held::Dropped if self.dropped.insert(form.table) => {
                self.found.faults.add(format!("table {}", form.table), "rows of it are sealed, and it was dropped");
            }
            Held::Dropped => {}
            Held::Destroyed(rowid) => self.destroyed(form, key, leaf.cast_signed(), rowid),
        }
    }

    fn sealed(&mut self, form: &'static Form, key: &[KeyValue], rowid: i64, fits: bool, leaf: u64) {
        let marks = &mut self.marks[form.place()];
        let (is_sealed, did_fit) = marks.of(rowid, key);
        marks.set(rowid, key, fits);
        if is_sealed && form.is_final() {
            self.found.faults.add(
                row_name(form, key),
                "it was sealed a second time, as something else perhaps: such rows never change",
            );
        }
        if form.set_later().is_empty() {
            return;
        }
        // What came first, if anything, is the row before its end.
        let was_before = fits && self.before.remove(&(form.number, rowid));
        if is_sealed && (did_fit || !was_before) {
            let what = "it was sealed as something else before: of such rows nothing changes but how they ended";
            self.found.faults.add(row_name(form, key), what);
        }
        if form.number == ACTS {
            self.acts.entry(rowid).and_modify(|last| *last = leaf);
        }
    }

    fn note_root(&mut self) {
        let size = self.tree.size();
        if self.roots_at.contains(&size) {
            self.found.roots.insert(size, self.tree.root());
        }
    }

    fn check_tree(&mut self) -> Result<(), Error> {
        let stored = super::seal::read_tree(self.connection);
        let faults = &mut self.found.faults;
        match stored {
            Ok(tree) if tree == self.tree => {}
            Ok(tree) if tree.size() == self.tree.size() => {
                faults.add("tree", "its hashes are not those of the leaves: a hash in it or in seals was changed");
            }
            Ok(tree) => {
                let what = format!(
                    "it counts {} leaves, and seals has {}: packs are missing, or too many",
                    tree.size(),
                    self.tree.size()
                );
                faults.add("tree", what);
            }
            Err(error) if error.kind == ErrorKind::Corrupt => faults.add("tree", "its row is damaged or gone"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Every row has a leaf, and its latest one fits.
    fn check_rows(&mut self) -> Result<(), Error> {
        // Runs that a merge has brought were signed in another tree.
        let is_own = if self.has_merges { "run_id NOT IN (SELECT id FROM merged_rows WHERE form = 9)" } else { "1" };
        let sql = format!("SELECT run_id FROM runs WHERE clean = 1 AND {is_own} ORDER BY run_id DESC LIMIT 1");
        let last: Option<i64> = self.connection.query_row(&sql, (), |row| row.get(0)).optional()?;
        self.found.last_stop = last.and_then(|run_id| Some((run_id, *self.runs.get(&run_id)?)));
        self.check_merged_runs()?;
        let sql = "SELECT count(*) FROM findings WHERE kind = 'altered'";
        self.found.alterations = self.connection.query_row(sql, (), |row| row.get(0))?;
        if self.is_late_open && !super::seal::late::is_left(self.connection)? {
            let what = "rows were sealed later than they were written, and no run is there that they would be of: somebody had them sealed anew";
            self.found.faults.add("seals", what);
        }
        let unsealed_runs = self.unsealed_runs()?;
        // Of this only the five minutes are sealed that it lies in.
        let sql = "SELECT CAST(chat_id AS TEXT) FROM chats WHERE typeof(last_seen_at) <> 'integer'";
        let mut select = self.connection.prepare(sql)?;
        for chat_id in select.query_map((), |row| row.get::<_, String>(0))? {
            self.found
                .faults
                .add(format!("chats, chat_id {:?}", chat_id?), "its last_seen_at is no number: it was changed");
        }
        let forms = self.forms.clone();
        let mut told: BTreeSet<(u8, i64)> = BTreeSet::new();
        for form in FORMS.iter().filter(|form| forms.contains(&form.number)) {
            let mut marks = std::mem::replace(&mut self.marks[form.place()], Marks::new(true));
            let sql = match form.has_rowid() {
                true => format!("SELECT rowid FROM {} NOT INDEXED", form.table),
                false => form.select(),
            };
            let mut select = self.connection.prepare(&sql)?;
            let mut rows = select.query(())?;
            while let Some(row) = rows.next()? {
                let rowid: i64 = row.get(0)?;
                let key = if form.has_rowid() { None } else { form.key_of(row)? };
                match marks.of(rowid, key.as_deref().unwrap_or_default()) {
                    (_, true) if form.whole().is_some() => {}
                    (_, true) => self.found.rows += 1,
                    // Where the row is told to be wrong, that says it all.
                    (_, false) if form.whole().is_some_and(|whole| told.contains(&(whole.number, rowid))) => {}
                    (false, false) if form.whole().is_some() => {
                        self.check_bare(form.whole().unwrap_or(form), rowid)?;
                    }
                    (is_named, false) if form.has_rowid() => {
                        let before = self.found.faults.count;
                        self.unfit_by_rowid(form, rowid, is_named, &unsealed_runs)?;
                        if form.core().is_some() && self.found.faults.count > before {
                            told.insert((form.number, rowid));
                        }
                    }
                    (is_named, false) => self.unfit(form, row, is_named, &unsealed_runs)?,
                }
            }
        }
        Ok(())
    }

    /// Which runs are another archive's, of which `holes` and `report` do not believe a gap, is told by an unsealed table: the sealed
    /// one has them, too.
    fn check_merged_runs(&mut self) -> Result<(), Error> {
        if !self.has_merges {
            return Ok(());
        }
        let sql = "SELECT r.id FROM merged_rows r WHERE r.form = 9 AND r.id NOT IN (
            SELECT j.value ->> 'here' FROM merges m, json_each(m.runs) j WHERE json_valid(m.runs) AND j.value ->> 'here' IS NOT NULL)";
        let mut select = self.connection.prepare(sql)?;
        for id in select.query_map((), |row| row.get::<_, i64>(0))? {
            let what = "it says that a merge has brought run ".to_owned()
                + &id?.to_string()
                + ", and none has: somebody put it there";
            self.found.faults.add("merged_rows", what);
        }
        Ok(())
    }

    fn unfit_by_rowid(
        &mut self,
        form: &'static Form,
        rowid: i64,
        is_named: bool,
        unsealed_runs: &BTreeMap<i64, i64>,
    ) -> Result<(), Error> {
        let mut select = self.connection.prepare_cached(&format!("{} WHERE rowid = ?", form.select()))?;
        let mut rows = select.query([rowid])?;
        match rows.next()? {
            Some(row) => self.unfit(form, row, is_named, unsealed_runs),
            // An index that names rows that are not there.
            None => {
                self.found
                    .faults
                    .add(format!("{}, rowid {rowid}", form.table), "an index names it, and it is not there");
                Ok(())
            }
        }
    }

    /// A row that does not fit a leaf. Where a release that does not seal ran, and nobody sealed for it yet, its rows are
    /// no fault: of chats, findings and spools it changes rows of others, too, and its time is in them then.
    fn unfit(
        &mut self,
        form: &'static Form,
        row: &Row<'_>,
        is_named: bool,
        unsealed_runs: &BTreeMap<i64, i64>,
    ) -> Result<(), Error> {
        let integer = |column| form.place_of(column).and_then(|place| row.get_ref(place).ok()?.as_i64().ok());
        let is_of_unsealed = integer("run_id").is_some_and(|id| unsealed_runs.contains_key(&id)) && !is_named;
        let changed_at = match form.number {
            CHATS => integer("last_seen_at / 300000").map(|step| (step + 1) * SEEN_STEP_MS),
            FINDINGS => integer("last_observed_at"),
            SPOOLS => integer("at"),
            _ => None,
        };
        let may_be_changed = changed_at.is_some_and(|at| unsealed_runs.values().any(|began| at >= *began));
        if is_of_unsealed || may_be_changed {
            self.found.unsealed += 1;
            return Ok(());
        }
        let subject = match form.key_of(row)? {
            Some(key) => row_name(form, &key),
            None => format!("{}, rowid {}", form.table, row.get::<_, i64>(0)?),
        };
        let what = match is_named {
            true => "it is not as it was sealed",
            false => "it was never sealed: gms-recorder did not write it",
        };
        self.found.faults.add(subject, what);
        Ok(())
    }

    /// Since when they ran, by their numbers. One that would have begun before a run with a lower number excuses nothing.
    fn unsealed_runs(&mut self) -> Result<BTreeMap<i64, i64>, Error> {
        let sql =
            "SELECT run_id, CAST(started_at AS INTEGER), sealing IN ('nobody', 'pending'), sealing = 'nobody' FROM runs
            ORDER BY run_id";
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query(())?;
        let (mut unsealed, mut last) = (BTreeMap::new(), i64::MIN);
        while let Some(row) = rows.next()? {
            let (run_id, began, is_unsealed): (i64, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let subject = || format!("runs, run_id {run_id}");
            if run_id < 1 {
                self.found.faults.add(subject(), "no run has such a number: somebody put it there");
                continue;
            }
            if row.get(3)? && self.runs.contains_key(&run_id) {
                self.found
                    .faults
                    .add(subject(), "it is sealed, and says that nobody did that: it was sealed anew as another one");
                continue;
            }
            match is_unsealed {
                true if began < last.saturating_sub(CLOCK_SET_BACK_MS) => {
                    let what = "it is said to have begun before runs that were there already, and was not sealed: somebody put it there";
                    self.found.faults.add(subject(), what);
                }
                true => drop(unsealed.insert(run_id, began)),
                false => last = last.max(began),
            }
        }
        Ok(unsealed)
    }
}
