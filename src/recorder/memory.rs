//! Bounded memories. What is forgotten costs a look at the file; nothing is ever wrong for being forgotten.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use foldhash::fast::RandomState;
use highway::{HighwayHash, HighwayHasher, Key};

use crate::chat::{ChatId, TranscriptEvent};
use crate::gms::Exchange;

/// A map that keeps at least the last `capacity / 3` keys used and never more than `capacity`.
///
/// Two generations: a key that is used moves to the young one; when that is full it becomes the old one, and the old
/// one is let go as a whole. No list to keep in order, no clock. The young one can hold two shares for a while, when all
/// of the old one is used again: hence thirds.
#[derive(Debug)]
pub struct Generations<K, V, H = RandomState> {
    young: HashMap<K, V, H>,
    old: HashMap<K, V, H>,
    share: usize,
}

impl<K: Eq + Hash + Clone, V, H: BuildHasher + Default> Generations<K, V, H> {
    /// An empty map of at most `capacity` entries (at least 3).
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), share: (capacity / 3).max(1) }
    }

    /// Looks a key up and keeps it for longer.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.young.entry(key.clone()) {
            Entry::Occupied(found) => Some(found.into_mut()),
            Entry::Vacant(place) => Some(place.insert(self.old.remove(key)?)),
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Puts a value in. What was let go for it is returned, for the one caller that must not lose it.
    pub fn insert(&mut self, key: K, value: V) -> HashMap<K, V, H> {
        self.old.remove(&key);
        self.young.insert(key, value);
        if self.young.len() < self.share { HashMap::default() } else { self.turn() }
    }

    fn turn(&mut self) -> HashMap<K, V, H> {
        std::mem::replace(&mut self.old, std::mem::take(&mut self.young))
    }

    /// Everything there is.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.young.iter_mut().chain(self.old.iter_mut())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// A keyed hash of an event: its chat, index and content as it was written. 128 bits, so that no two meet by chance (R9).
pub type EventKey = [u8; 16];

/// A keyed hash of an exchange: what was asked and what was answered, byte for byte.
pub type AnswerKey = [u8; 16];

/// For keys that are hashes under a secret key already: 64 of their bits are as good as any hash of them.
#[derive(Debug, Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        if let Some((first, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of a key says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map from such keys.
pub type ByHash<K, V> = Generations<K, V, BuildHasherDefault<AsItIs>>;

/// This process's own secret for hashes that nobody else is to foresee. HighwayHash: keyed, and quick on long bodies.
#[derive(Debug)]
pub struct HashKey(Key);

impl HashKey {
    /// From random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        let (words, _) = random.as_chunks::<8>();
        Self(Key(std::array::from_fn(|at| u64::from_le_bytes(words[at]))))
    }

    /// Of an event.
    pub fn of_event(&self, chat_id: &ChatId, event: &TranscriptEvent) -> EventKey {
        self.of_parts(&[&event.index.get().to_le_bytes(), chat_id.as_str().as_bytes(), event.raw.as_bytes()])
    }

    /// Of everything that decides what [`crate::gms::inspect`] makes of an exchange, but for what was known before it.
    pub fn of_answer(&self, method: &str, path: &str, exchange: &Exchange<'_>) -> AnswerKey {
        self.of_parts(&[
            method.as_bytes(),
            path.as_bytes(),
            exchange.query.unwrap_or_default().as_bytes(),
            exchange.request_content_type.unwrap_or_default().as_bytes(),
            exchange.request_body,
            &exchange.status.to_le_bytes(),
            exchange.content_encoding.unwrap_or_default().as_bytes(),
            exchange.body,
        ])
    }

    /// All lengths go in first, so that no two lists of parts are alike.
    fn of_parts<const N: usize>(&self, parts: &[&[u8]; N]) -> [u8; 16] {
        let mut hasher = HighwayHasher::new(self.0);
        let lengths: [[u8; 8]; N] = std::array::from_fn(|at| (parts[at].len() as u64).to_le_bytes());
        hasher.append(lengths.as_flattened());
        parts.iter().for_each(|part| hasher.append(part));
        let [low, high] = hasher.finalize128().map(u64::to_le_bytes);
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&low);
        hash[8..].copy_from_slice(&high);
        hash
    }
}

/// The memory of committed events: filled after the commit, emptied whenever the file is opened again (R9).
#[derive(Debug)]
pub struct Committed {
    events: ByHash<EventKey, ()>,
}

impl Committed {
    /// Remembers at most `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self { events: Generations::new(events_max) }
    }

    /// Is this content known to be on disk?
    pub fn contains(&mut self, key: &EventKey) -> bool {
        self.events.get_mut(key).is_some()
    }

    /// To be called after the commit, never before.
    pub fn remember(&mut self, keys: impl IntoIterator<Item = EventKey>) {
        for key in keys {
            self.events.insert(key, ());
        }
    }

    /// The file was opened again: it may be another one.
    pub fn forget(&mut self) {
        self.events.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len<K, V>(map: &Generations<K, V>) -> usize {
        map.young.len() + map.old.len()
    }

    #[test]
    fn generations_are_bounded_and_keep_what_is_used() {
        let mut map = Generations::new(100);
        map.insert(0, "used");
        for n in 1..10_000 {
            map.insert(n, "passing");
            assert!(map.get_mut(&0).is_some(), "lost after {n}");
            assert!(len(&map) <= 100, "{} entries", len(&map));
        }
        assert!(map.get_mut(&5).is_none());
    }

    #[test]
    fn what_is_let_go_is_handed_back_once() {
        let mut map = Generations::new(10);
        let mut forgotten = 0;
        for n in 0..100 {
            forgotten += map.insert(n, n).len();
        }
        assert_eq!(forgotten + len(&map), 100);
    }

    #[test]
    fn parts_that_run_together_have_other_hashes() {
        let key = HashKey::new([7; 32]);
        assert_ne!(key.of_parts(&[b"ab", b"c"]), key.of_parts(&[b"a", b"bc"]));
        assert_ne!(key.of_parts(&[b"ab", b"c"]), HashKey::new([8; 32]).of_parts(&[b"ab", b"c"]));
        assert_eq!(key.of_parts(&[b"ab", b"c"]), key.of_parts(&[b"ab", b"c"]));
    }
}
