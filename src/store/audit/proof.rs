//! Proves that the rows of one chat are in the tree: each with its salt, its place, and the hashes from it up to the root.

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::ValueRef;
use rusqlite::{Row, ToSql};

use super::Snapshot;
use super::packs::{self, Pack};
use crate::store::seal::destroyed::RowName;
use crate::store::seal::merkle::{HASH_BYTES, Hash, Paths};
use crate::store::seal::{
    ACTS, ATTRIBUTES, CHATS, COVERAGE, ERASURES, ERRORS, EVENTS, FILES, FINDINGS, Form, HOLDS, MASKINGS, Refs,
    SALT_BYTES, VARIANTS, WAITING,
};
use crate::store::{Error, ErrorKind};

/// Tables with rows of a chat, in the order in which they are shown: at last what was erased of it.
const OF_CHAT: [u8; 10] = [CHATS, EVENTS, VARIANTS, ATTRIBUTES, COVERAGE, ERRORS, FINDINGS, MASKINGS, FILES, ERASURES];
/// Tables with rows of an act.
const OF_ACT: [u8; 3] = [ERASURES, HOLDS, WAITING];

/// What is to be proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The rows of a chat; or that they were erased, by whom and why.
    Chat(String),
    /// An act, with all that it did: the certificate of an erasure.
    Act(i64),
}

/// Where a row stands in the tree, by its latest leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What its hash begins with.
    pub salt: [u8; SALT_BYTES],
    /// Its leaf.
    pub leaf: u64,
    /// When it was sealed, where that was later than it was written; milliseconds since the epoch.
    pub sealed_later_at: Option<i64>,
}

/// A row and what proves it.
#[derive(Debug)]
pub struct Proof {
    /// Its table.
    pub table: &'static str,
    /// Its columns as they are hashed, in that order.
    pub fields: Vec<(&'static str, Field)>,
    /// Where it stands in the tree.
    pub place: Place,
    /// From the leaf's sibling upwards.
    pub path: Vec<Hash>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A real.
    Real(f64),
    /// A text.
    Text(String),
    /// A blob.
    Blob(Vec<u8>),
}

/// All rows of a chat.
#[derive(Debug, Default)]
pub struct Proofs {
    /// Those that the checkpoint covers.
    pub rows: Vec<Proof>,
    /// How many are newer than the checkpoint, or were changed after it.
    pub newer: u64,
}

/// Columns as they are hashed, in that order.
pub(super) type Fields = Vec<(&'static str, Field)>;

impl Snapshot {
    /// Proves rows against a tree of `size` leaves. Reads all packs, once, and knows nothing of what is not there.
    ///
    /// # Errors
    /// The file cannot be read, or its evidence is damaged.
    pub fn prove(&self, subject: &Subject, size: u64, progress: &mut dyn FnMut(u64)) -> Result<Proofs, Error> {
        let mut rows = self.rows_of(subject)?;
        let leaves = self.leaves_of(&rows)?;
        let mut proofs = Proofs::default();
        let mut wanted: HashMap<u64, usize> = HashMap::new();
        for (name, fields) in &mut rows {
            let Some(place) = leaves.get(name).filter(|place| place.leaf < size) else {
                proofs.newer += 1;
                continue;
            };
            wanted.insert(place.leaf, proofs.rows.len());
            let form = Form::of(name.0).expect("read by its form");
            let (table, fields, path) = (form.table, std::mem::take(fields), Vec::new());
            proofs.rows.push(Proof { table, fields, place: *place, path });
        }
        let (mut paths, mut order, mut next) = (Paths::default(), Vec::<usize>::new(), 0);
        self.each_pack(|pack| {
            for hash in pack.hashes.as_chunks::<HASH_BYTES>().0 {
                if next < size {
                    let row = wanted.get(&next);
                    paths.push(*hash, row.is_some());
                    order.extend(row);
                    next += 1;
                }
            }
            progress(next);
            Ok(())
        })?;
        for (row, path) in order.into_iter().zip(paths.finish()) {
            proofs.rows[row].path = path;
        }
        Ok(proofs)
    }

    pub(super) fn rows_of(&self, subject: &Subject) -> Result<BTreeMap<RowName, Fields>, Error> {
        let mut found = BTreeMap::new();
        match subject {
            Subject::Chat(chat_id) => {
                for number in OF_CHAT {
                    self.add_rows(number, "chat_id = ?", &[chat_id], &mut found)?;
                }
                let acts = "id IN (SELECT act_id FROM erasures WHERE chat_id = ?)";
                self.add_rows(ACTS, acts, &[chat_id], &mut found)?;
            }
            Subject::Act(id) => {
                self.add_rows(ACTS, "id = ?", &[id], &mut found)?;
                for number in OF_ACT {
                    self.add_rows(number, "act_id = ?", &[id], &mut found)?;
                }
                // What it did that had waited, and who had asked for it then.
                self.add_rows(WAITING, "done_by = ?", &[id], &mut found)?;
                let asked = "id IN (SELECT act_id FROM waiting_erasures WHERE done_by = ?)";
                self.add_rows(ACTS, asked, &[id], &mut found)?;
            }
        }
        Ok(found)
    }

    pub(super) fn add_rows(
        &self,
        number: u8,
        which: &str,
        values: &[&dyn ToSql],
        found: &mut BTreeMap<RowName, Fields>,
    ) -> Result<(), Error> {
        let form = Form::of(number).expect("listed by its number");
        let mut select = self.connection.prepare_cached(&format!("{} WHERE {which}", form.select()))?;
        let mut rows = select.query(values)?;
        while let Some(row) = rows.next()? {
            let Some(key) = form.key_of(row)? else { continue };
            found.insert((number, key), fields(form, row)?);
        }
        Ok(())
    }

    /// The latest leaf of each of them.
    fn leaves_of<V>(&self, rows: &BTreeMap<RowName, V>) -> Result<BTreeMap<RowName, Place>, Error> {
        let mut leaves = BTreeMap::new();
        self.each_pack(|pack| {
            let mut refs = Refs::of(&pack.refs);
            for place in 1..u32::try_from(pack.leaves).unwrap_or_default() {
                let (form, key) = refs.next_row().ok_or_else(damaged)?;
                let name = (form.number, key);
                if !rows.contains_key(&name) {
                    continue;
                }
                let number = pack.first_leaf.cast_unsigned() + u64::from(place);
                // An earlier leaf of a row that was masked or erased, and came again.
                let Some(salt) = pack.salt(place) else { continue };
                leaves.insert(name, Place { salt, leaf: number, sealed_later_at: pack.sealed_later_at });
            }
            Ok(())
        })?;
        Ok(leaves)
    }

    pub(super) fn each_pack(&self, take: impl FnMut(&Pack) -> Result<(), Error>) -> Result<(), Error> {
        self.each_pack_from(0, take)
    }

    /// Those that begin at a leaf or after it.
    pub(super) fn each_pack_from(
        &self,
        leaf: u64,
        mut take: impl FnMut(&Pack) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut select = self.connection.prepare_cached(packs::SELECT)?;
        let mut rows = select.query([leaf.cast_signed()])?;
        while let Some(row) = rows.next()? {
            let pack = Pack::of(row)?.filter(|pack| pack.flaw().is_none()).ok_or_else(damaged)?;
            take(&pack)?;
        }
        Ok(())
    }
}

pub(super) fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the evidence is damaged, and proves nothing: see `gms-recorder verify`")
}

fn fields(form: &'static Form, row: &Row<'_>) -> Result<Fields, Error> {
    let field = |(at, name): (usize, &&'static str)| {
        let field = match row.get_ref(at + 1)? {
            ValueRef::Null => Field::Null,
            ValueRef::Integer(number) => Field::Integer(number),
            ValueRef::Real(number) => Field::Real(number),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Field::Text(text.into()),
                Err(_) => return Err(damaged()),
            },
            ValueRef::Blob(bytes) => Field::Blob(bytes.to_vec()),
        };
        Ok((*name, field))
    };
    form.columns.iter().enumerate().map(field).collect()
}
