//! Which rows of a table were named by a leaf, and which fit their latest one: two bits a row.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use crate::store::seal::KeyValue;

/// Rows in one piece of the bits.
const PIECE: i64 = 4_096;
const WORDS: usize = PIECE as usize / 32;

/// Of one table: by rowid, or by a hash of the key where there is none.
#[derive(Debug)]
pub(super) enum Marks {
    ByRowid(BTreeMap<i64, [u64; WORDS]>),
    /// Two keys with one hash of 128 bits, which nobody can choose, are not met with.
    ByKey(HashMap<u128, bool>, [RandomState; 2]),
}

impl Marks {
    pub(super) fn new(has_rowid: bool) -> Self {
        match has_rowid {
            true => Self::ByRowid(BTreeMap::new()),
            false => Self::ByKey(HashMap::new(), [RandomState::new(), RandomState::new()]),
        }
    }

    /// A leaf names this row, and it fits or not. The last one counts.
    pub(super) fn set(&mut self, rowid: i64, key: &[KeyValue], fits: bool) {
        match self {
            Self::ByRowid(pieces) => {
                let (piece, word, shift) = place(rowid);
                let word = &mut pieces.entry(piece).or_insert([0; WORDS])[word];
                *word = *word & !(0b11 << shift) | (0b01 | u64::from(fits) << 1) << shift;
            }
            Self::ByKey(rows, hashers) => drop(rows.insert(hash(hashers, key), fits)),
        }
    }

    /// No leaf names this row.
    pub(super) fn forget(&mut self, rowid: i64, key: &[KeyValue]) {
        match self {
            Self::ByRowid(pieces) => {
                let (piece, word, shift) = place(rowid);
                pieces.entry(piece).and_modify(|words| words[word] &= !(0b11 << shift));
            }
            Self::ByKey(rows, hashers) => drop(rows.remove(&hash(hashers, key))),
        }
    }

    /// Those by rowid that are named and do not fit, rising.
    pub(super) fn unfit(&self) -> Vec<i64> {
        let Self::ByRowid(pieces) = self else { return Vec::new() };
        let rows = pieces.iter().flat_map(|(piece, words)| (0..PIECE).map(move |within| (piece, within, words)));
        let is_unfit =
            |(within, words): (i64, &[u64; WORDS])| words[within as usize / 32] >> (within % 32 * 2) & 0b11 == 0b01;
        rows.filter(|(_, within, words)| is_unfit((*within, words)))
            .map(|(piece, within, _)| piece * PIECE + within)
            .collect()
    }

    /// Whether a row is named, and fits.
    pub(super) fn of(&mut self, rowid: i64, key: &[KeyValue]) -> (bool, bool) {
        match self {
            Self::ByRowid(pieces) => {
                let (piece, word, shift) = place(rowid);
                let bits = pieces.get(&piece).map_or(0, |words| words[word] >> shift);
                (bits & 0b01 != 0, bits & 0b10 != 0)
            }
            Self::ByKey(rows, hashers) => {
                let fits = rows.get(&hash(hashers, key)).copied();
                (fits.is_some(), fits.unwrap_or(false))
            }
        }
    }
}

/// Of which chat leaves are, a byte each: a hash that nobody can foresee, and so many leaves that none is met by chance for all of them.
#[derive(Debug, Default)]
pub(super) struct Chats {
    pieces: BTreeMap<u64, Box<[u8; PIECE as usize]>>,
    hasher: RandomState,
}

impl Chats {
    /// A leaf is of this chat, or of none.
    pub(super) fn set(&mut self, leaf: u64, chat_id: Option<&str>) {
        let byte = chat_id.map_or(0, |chat_id| self.byte(chat_id));
        let piece = self.pieces.entry(leaf / PIECE as u64).or_insert_with(|| Box::new([0; PIECE as usize]));
        piece[(leaf % PIECE as u64) as usize] = byte;
    }

    /// Whether a leaf is of this chat.
    pub(super) fn are(&self, leaf: u64, chat_id: &str) -> bool {
        let byte = self.pieces.get(&(leaf / PIECE as u64)).map(|piece| piece[(leaf % PIECE as u64) as usize]);
        byte == Some(self.byte(chat_id))
    }

    /// Not 0.
    fn byte(&self, chat_id: &str) -> u8 {
        (self.hasher.hash_one(chat_id) % 255 + 1) as u8
    }
}

fn hash([one, other]: &[RandomState; 2], key: &[KeyValue]) -> u128 {
    u128::from(one.hash_one(key)) << 64 | u128::from(other.hash_one(key))
}

/// The piece, the word in it, and how far the two bits are shifted there.
fn place(rowid: i64) -> (i64, usize, u32) {
    let within = rowid.rem_euclid(PIECE) as usize;
    (rowid.div_euclid(PIECE), within / 32, (within % 32 * 2) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_leaf_of_a_row_counts() {
        for has_rowid in [true, false] {
            let mut marks = Marks::new(has_rowid);
            for rowid in [1, 2, 4_095, 4_096, i64::MAX, i64::MIN] {
                let key = [KeyValue::Integer(rowid)];
                assert_eq!(marks.of(rowid, &key), (false, false));
                for fits in [true, false, true] {
                    marks.set(rowid, &key, fits);
                    assert_eq!(marks.of(rowid, &key), (true, fits));
                }
                marks.set(rowid, &key, false);
                if has_rowid {
                    assert_eq!(marks.unfit(), [rowid]);
                }
                marks.forget(rowid, &key);
                assert_eq!((marks.of(rowid, &key), marks.unfit()), ((false, false), vec![]));
            }
        }
    }
}
