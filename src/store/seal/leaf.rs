//! One leaf at a time: its salt, its hash, and whether a row is what it says.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::merkle::HASH_BYTES;
use super::{Canonical, Form, KeyValue, Refs, SALT_BYTES, salt};
use crate::store::Error;

/// A pack, for its salts and hashes.
pub(super) struct Sealed {
    first_leaf: u64,
    leaves: u64,
    seed: Vec<u8>,
    salts: Option<Vec<u8>>,
    hashes: Vec<u8>,
}

impl Sealed {
    /// The one with this leaf; None where a value of it is not of its kind, or there is none.
    pub fn read(connection: &Connection, leaf: u64) -> Result<Option<Self>, Error> {
        let sql = "SELECT first_leaf, leaves, seed, salts, hashes FROM seals WHERE first_leaf <= ? ORDER BY first_leaf DESC LIMIT 1";
        let read = |row: &Row<'_>| -> Result<Self, rusqlite::Error> {
            let (first_leaf, leaves): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (first_leaf, leaves) = (first_leaf.cast_unsigned(), leaves.cast_unsigned());
            Ok(Self { first_leaf, leaves, seed: row.get(2)?, salts: row.get(3)?, hashes: row.get(4)? })
        };
        let mut select = connection.prepare_cached(sql)?;
        Ok(select.query_row([leaf.cast_signed()], |row| Ok(read(row).ok())).optional()?.flatten())
    }

    pub fn has(&self, leaf: u64) -> bool {
        (self.first_leaf..self.first_leaf.saturating_add(self.leaves)).contains(&leaf)
    }

    /// Salt and hash; None where the salt was destroyed, or there is no such leaf.
    pub fn leaf(&self, leaf: u64) -> Option<([u8; SALT_BYTES], &[u8])> {
        let place = usize::try_from(leaf.checked_sub(self.first_leaf)?).ok()?;
        let hash = self.hashes.get(place * HASH_BYTES..(place + 1) * HASH_BYTES)?;
        let salt = match &self.salts {
            None if self.seed.len() == SALT_BYTES => salt(&self.seed, u32::try_from(place).ok()?),
            None => return None,
            Some(salts) => *salts.get(place.checked_sub(1)? * SALT_BYTES..)?.first_chunk()?,
        };
        (salt != [0; SALT_BYTES]).then_some((salt, hash))
    }

    /// Whether there is such a row, and the leaf is of it as it is.
    pub fn is_of(&self, connection: &Connection, leaf: u64, form: &Form, key: &[KeyValue]) -> Result<bool, Error> {
        let mut select = connection.prepare_cached(form.select_by_key())?;
        let mut rows = select.query(rusqlite::params_from_iter(key))?;
        let (Some(row), Some((salt, hash))) = (rows.next()?, self.leaf(leaf)) else { return Ok(false) };
        let mut bytes = Canonical::default();
        bytes.row(&salt, form, row)?;
        Ok(bytes.hash()[..] == *hash)
    }
}

/// Whether a row is as this leaf has it.
pub(in crate::store) fn is_as_sealed(
    connection: &Connection,
    leaf: u64,
    form: &Form,
    key: &[KeyValue],
) -> Result<bool, Error> {
    Sealed::read(connection, leaf)?.map_or(Ok(false), |pack| pack.is_of(connection, leaf, form, key))
}

/// Every row that a leaf names, the latest pack first, and within a pack in its order; until `take` says that it is enough, at the
/// end of a pack. What cannot be read of a pack is passed over: `verify` tells of it.
pub(in crate::store) fn each_back(
    connection: &Connection,
    take: &mut dyn FnMut(u64, &'static Form, Vec<KeyValue>),
    is_enough: &dyn Fn(u64) -> bool,
) -> Result<(), Error> {
    let mut select = connection.prepare("SELECT first_leaf, refs FROM seals ORDER BY first_leaf DESC")?;
    each(&mut select.query(())?, take, is_enough)
}

/// The same of the packs from a leaf on, in their order.
pub(in crate::store) fn each_from(
    connection: &Connection,
    leaf: u64,
    take: &mut dyn FnMut(u64, &'static Form, Vec<KeyValue>),
) -> Result<(), Error> {
    let sql = "SELECT first_leaf, refs FROM seals WHERE first_leaf >= ? ORDER BY first_leaf";
    each(&mut connection.prepare_cached(sql)?.query(params![leaf.cast_signed()])?, take, &|_| false)
}

fn each(
    packs: &mut rusqlite::Rows<'_>,
    take: &mut dyn FnMut(u64, &'static Form, Vec<KeyValue>),
    is_enough: &dyn Fn(u64) -> bool,
) -> Result<(), Error> {
    while let Some(pack) = packs.next()? {
        let (Ok(first_leaf), Ok(refs)) = (pack.get_ref(0)?.as_i64(), pack.get_ref(1)?.as_blob()) else { continue };
        let (mut refs, first_leaf) = (Refs::of(refs), first_leaf.cast_unsigned());
        let mut leaf = first_leaf;
        while let Some((form, key)) = refs.next_row() {
            leaf += 1;
            take(leaf, form, key);
        }
        if is_enough(first_leaf) {
            break;
        }
    }
    Ok(())
}
