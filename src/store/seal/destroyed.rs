//! Leaves whose salts are destroyed: what their rows held cannot be guessed from the hashes any longer, and the tree stays
//! what it was. Which ones, and by which act, `erasures.leaves` says.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::leaf::Sealed;
use super::merkle::HASH_BYTES;
use super::{Form, HOLDS, KeyValue, Refs, SALT_BYTES, number_of, put_number, row_name, salt};
use crate::store::{Error, ErrorKind};

/// Form and key.
pub type RowName = (u8, Vec<KeyValue>);

/// Packs that are read in one go: a few milliseconds, so that no reader's snapshot keeps the log from being folded.
const PACKS_MAX: usize = 1_000;

/// All leaves of some rows, earlier ones of rows that change included.
#[derive(Debug, Default)]
pub struct Located {
    /// By row, rising.
    leaves: BTreeMap<RowName, Vec<u64>>,
    /// The same of their cores, by the names of the whole rows.
    cores: BTreeMap<RowName, Vec<u64>>,
    /// Leaves up to here (exclusive) were looked at.
    pub until: u64,
    /// The latest leaf of each hold that was ever sealed.
    holds: BTreeMap<i64, u64>,
}

impl Located {
    /// Nothing looked at yet, for these rows.
    pub fn wanting(rows: impl IntoIterator<Item = RowName>) -> Self {
        let leaves: BTreeMap<RowName, _> = rows.into_iter().map(|name| (name, Vec::new())).collect();
        let has_core = |name: &&RowName| Form::of(name.0).is_some_and(|form| form.core().is_some());
        let cores = leaves.keys().filter(has_core).map(|name| (name.clone(), Vec::new())).collect();
        Self { leaves, cores, ..Self::default() }
    }

    /// The same, from a leaf on.
    pub fn wanting_from(rows: impl IntoIterator<Item = RowName>, leaf: u64) -> Self {
        Self { until: leaf, ..Self::wanting(rows) }
    }

    /// Holds one row against its latest leaf, which came after this one.
    ///
    /// # Errors
    /// As [`Located::find_rest`]: [`ErrorKind::Altered`] where it is not as it was sealed, or never was.
    pub fn check(connection: &Connection, name: RowName, after: u64) -> Result<(), Error> {
        Self::wanting_from([name.clone()], after).find_rest(connection, &[name], after)
    }

    /// Takes over what another look has found.
    pub fn absorb(&mut self, other: Self) {
        self.leaves.extend(other.leaves);
        self.cores.extend(other.cores);
    }

    /// The leaves of a row.
    pub fn of(&self, name: &RowName) -> &[u64] {
        self.leaves.get(name).map_or(&[], Vec::as_slice)
    }

    /// The same with those of its core: all that would tell what was in it.
    pub fn all_of(&self, name: &RowName) -> impl Iterator<Item = u64> {
        let core = self.cores.get(name).map_or(&[][..], Vec::as_slice);
        self.of(name).iter().chain(core).copied()
    }

    /// Leaves that came since the seals were looked through. A row that came since, too, may have its leaf in what was looked
    /// at before anybody asked for it: between `looked_until` and now.
    ///
    /// Then the rows are held against their latest leaves: what was changed by hand is neither removed nor sealed anew.
    ///
    /// # Errors
    /// As [`Located::look_on`]; a row is not as it was sealed.
    pub fn find_rest(&mut self, connection: &Connection, rows: &[RowName], looked_until: u64) -> Result<(), Error> {
        while self.look_on(connection)? {}
        let unknown: Vec<_> = rows.iter().filter(|name| self.of(name).is_empty()).cloned().collect();
        if !unknown.is_empty() {
            let mut again = Self::wanting_from(unknown, looked_until);
            while again.look_on(connection)? {}
            self.absorb(again);
        }
        self.check_fit(connection, rows)
    }

    fn check_fit(&self, connection: &Connection, rows: &[RowName]) -> Result<(), Error> {
        let mut latest = Vec::with_capacity(rows.len());
        for name in rows {
            let form = Form::of(name.0).ok_or_else(damaged)?;
            latest.push((*self.of(name).last().ok_or_else(|| unfit(name))?, name, form));
            // One of an earlier release has none.
            let core = self.cores.get(name).and_then(|leaves| leaves.last());
            latest.extend(core.zip(form.core()).map(|(leaf, core)| (*leaf, name, core)));
        }
        latest.sort_unstable_by_key(|(leaf, ..)| *leaf); // so that a pack is read once
        let mut pack: Option<Sealed> = None;
        for (leaf, name, form) in latest {
            if !pack.as_ref().is_some_and(|pack| pack.has(leaf)) {
                pack = Sealed::read(connection, leaf)?;
            }
            let is_of = pack.as_ref().map(|pack| pack.is_of(connection, leaf, form, &name.1)).transpose()?;
            if is_of != Some(true) {
                return Err(unfit(name));
            }
        }
        Ok(())
    }

    /// Holds that were deleted by hand are as good as in force: nothing is removed before somebody has looked.
    ///
    /// # Errors
    /// A hold is not as it was sealed, or is gone.
    pub fn check_holds(&mut self, connection: &Connection, looked_until: u64) -> Result<(), Error> {
        let mut select = connection.prepare_cached("SELECT id FROM holds")?;
        let here: BTreeSet<i64> = select.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?;
        let names: Vec<RowName> = here.iter().map(|id| (HOLDS, vec![KeyValue::Integer(*id)])).collect();
        self.find_rest(connection, &names, looked_until)?;
        for (id, leaf) in self.holds.iter().filter(|(id, _)| !here.contains(id)) {
            if Sealed::read(connection, *leaf)?.is_none_or(|pack| pack.leaf(*leaf).is_some()) {
                return Err(unfit(&(HOLDS, vec![KeyValue::Integer(*id)])));
            }
        }
        Ok(())
    }

    /// Looks at some more packs. False where that were the last ones.
    ///
    /// # Errors
    /// The evidence is damaged: then nothing may be removed, since what else is left of it would not be known.
    pub fn look_on(&mut self, connection: &Connection) -> Result<bool, Error> {
        let sql = "SELECT first_leaf, leaves, refs FROM seals WHERE first_leaf >= ? ORDER BY first_leaf LIMIT ?";
        let mut select = connection.prepare_cached(sql)?;
        let mut rows = select.query(params![self.until.cast_signed(), PACKS_MAX as i64])?;
        let mut packs = 0;
        while let Some(row) = rows.next()? {
            packs += 1;
            let (first_leaf, leaves): (i64, i64) = (row.get(0)?, row.get(1)?);
            let mut refs = Refs::of(row.get_ref(2)?.as_blob().map_err(|_| damaged())?);
            for leaf in first_leaf + 1..first_leaf + leaves {
                let (form, key) = refs.next_row().ok_or_else(damaged)?;
                if let (HOLDS, [KeyValue::Integer(id)]) = (form.number, &key[..]) {
                    self.holds.insert(*id, leaf.cast_unsigned());
                }
                let (name, found) = match form.whole() {
                    None => ((form.number, key), &mut self.leaves),
                    Some(whole) => ((whole.number, key), &mut self.cores),
                };
                if let Some(found) = found.get_mut(&name) {
                    found.push(leaf.cast_unsigned());
                }
            }
            self.until = (first_leaf + leaves).cast_unsigned();
        }
        Ok(packs == PACKS_MAX)
    }
}

fn unfit(name: &RowName) -> Error {
    let row = Form::of(name.0).map_or_else(String::new, |form| row_name(form, &name.1));
    let what = format!(
        "{row}: it is not as it was sealed, or was never sealed (see `gms-recorder verify`): what was done by hand is neither removed nor \
         sealed anew"
    );
    Error::new(ErrorKind::Altered, what)
}

fn damaged() -> Error {
    let what = "the seals are damaged (see `gms-recorder verify`): nothing is removed, since not all that is left of it would be found";
    Error::new(ErrorKind::Corrupt, what)
}

/// Destroys the salts of leaves. Those whose salts are destroyed already stay so.
pub(in crate::store) fn destroy(connection: &Connection, leaves: &BTreeSet<u64>) -> Result<(), Error> {
    let mut next = 0;
    while let Some(leaf) = leaves.range(next..).next() {
        let sql =
            "SELECT first_leaf, leaves, seed, salts FROM seals WHERE first_leaf <= ? ORDER BY first_leaf DESC LIMIT 1";
        let mut select = connection.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| {
            let salts: Option<Vec<u8>> = row.get(3)?;
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?, salts))
        };
        let (first_leaf, count, seed, salts) = select.query_row([leaf.cast_signed()], read)?;
        next = (first_leaf + count).cast_unsigned();
        let rows = usize::try_from(count - 1).map_err(|_| damaged())?;
        let places = leaves.range(*leaf..next).map(|leaf| (leaf - first_leaf.cast_unsigned()) as usize);
        let salts = without(&seed, salts, rows, places).ok_or_else(damaged)?;
        let seed_hash = if seed.len() == SALT_BYTES { Sha256::digest(&seed).to_vec() } else { seed };
        let update = "UPDATE seals SET seed = ?, salts = ? WHERE first_leaf = ?";
        connection.prepare_cached(update)?.execute(params![seed_hash, salts, first_leaf])?;
    }
    Ok(())
}

/// The salts of a pack without those of some places; none at all where none is left.
fn without(seed: &[u8], salts: Option<Vec<u8>>, rows: usize, places: impl Iterator<Item = usize>) -> Option<Vec<u8>> {
    let mut salts = match (seed.len(), salts) {
        (SALT_BYTES, None) => (1..=rows).flat_map(|place| salt(seed, place as u32)).collect(),
        (HASH_BYTES, Some(salts)) if salts.is_empty() => return Some(salts),
        (HASH_BYTES, Some(mut salts)) if salts.len() == rows * SALT_BYTES + HASH_BYTES => {
            salts.truncate(rows * SALT_BYTES);
            salts
        }
        _ => return None,
    };
    for place in places {
        let at = place.checked_sub(1)? * SALT_BYTES;
        salts.get_mut(at..at + SALT_BYTES)?.fill(0);
    }
    if salts.iter().all(|byte| *byte == 0) {
        return Some(Vec::new());
    }
    let check = Sha256::digest(&salts);
    salts.extend_from_slice(&check);
    Some(salts)
}

/// Rising numbers of leaves, each less the one before, as LEB128.
pub(in crate::store) fn packed(leaves: &BTreeSet<u64>) -> Vec<u8> {
    let (mut bytes, mut before) = (Vec::with_capacity(leaves.len()), 0);
    for leaf in leaves {
        put_number(&mut bytes, leaf - before);
        before = *leaf;
    }
    bytes
}

/// Reads [`packed`]. None at the end, and where the bytes make no sense.
pub(in crate::store) fn unpacked(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (mut rest, mut last) = (bytes, 0_u64);
    std::iter::from_fn(move || {
        last = last.checked_add(number_of(&mut rest)?)?;
        Some(last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_leaves_are_read_as_they_were_written() {
        for leaves in [vec![], vec![0], vec![1, 2, 3], vec![7, 300, 1 << 40, u64::MAX]] {
            let leaves: BTreeSet<u64> = leaves.into_iter().collect();
            assert_eq!(unpacked(&packed(&leaves)).collect::<BTreeSet<_>>(), leaves);
        }
        assert_eq!(unpacked(&[0xff]).count(), 0);
    }

    #[test]
    fn salts_that_stay_are_those_of_the_seed() {
        let seed = [7; SALT_BYTES];
        let left = without(&seed, None, 3, [2].into_iter()).expect("a sound pack");
        assert_eq!(left[..SALT_BYTES], salt(&seed, 1));
        assert_eq!(left[SALT_BYTES..2 * SALT_BYTES], [0; SALT_BYTES]);
        assert_eq!(left[2 * SALT_BYTES..3 * SALT_BYTES], salt(&seed, 3));
        assert_eq!(left[3 * SALT_BYTES..], Sha256::digest(&left[..3 * SALT_BYTES])[..]);
        let none = without(&[0; HASH_BYTES], Some(left.clone()), 3, [1, 3].into_iter()).expect("a sound pack");
        assert!(none.is_empty());
        assert_eq!(without(&[0; HASH_BYTES], Some(none), 3, [1].into_iter()), Some(Vec::new()));
        for (seed, salts, place) in [(SALT_BYTES, None, 4), (SALT_BYTES, None, 0), (HASH_BYTES, None, 1), (3, None, 1)]
        {
            assert_eq!(without(&vec![1; seed], salts, 3, [place].into_iter()), None);
        }
        assert_eq!(without(&[0; HASH_BYTES], Some(left), 4, [1].into_iter()), None);
    }
}
