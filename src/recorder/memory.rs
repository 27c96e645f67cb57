//! Bounded memories. What is forgotten costs a look at the file; nothing is ever wrong for being forgotten.

use std::collections::HashMap;
use std::hash::Hash;

use sha2::{Digest, Sha256};

use crate::chat::{ChatId, TranscriptEvent};

/// A map that keeps at least the last `capacity / 3` keys used and never more than `capacity`.
///
/// Two generations: a key that is used moves to the young one; when that is full it becomes the old one, and the old
/// one is let go as a whole. No list to keep in order, no clock. The young one can hold two shares for a while, when all
/// of the old one is used again: hence thirds.
#[derive(Debug)]
pub struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    share: usize,
}

impl<K: Eq + Hash + Clone, V> Generations<K, V> {
    /// An empty map of at most `capacity` entries (at least 3).
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), share: (capacity / 3).max(1) }
    }

    /// Looks a key up and keeps it for longer.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.young.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// Puts a value in. What was let go for it is returned, for the one caller that must not lose it.
    pub fn insert(&mut self, key: K, value: V) -> HashMap<K, V> {
        self.old.remove(&key);
        self.young.insert(key, value);
        if self.young.len() < self.share { HashMap::new() } else { self.turn() }
    }

    fn turn(&mut self) -> HashMap<K, V> {
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

/// A keyed hash of an event: its chat, index and content. 128 bits, so that no two meet by chance (R9).
pub type EventKey = [u8; 16];

/// The memory of committed events: filled after the commit, emptied whenever the file is opened again (R9).
#[derive(Debug)]
pub struct Committed {
    events: Generations<EventKey, ()>,
}

impl Committed {
    /// Remembers at most `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self { events: Generations::new(events_max) }
    }

    /// The key of an event under this process's own secret.
    pub fn key(secret: &[u8; 32], chat_id: &ChatId, event: &TranscriptEvent) -> EventKey {
        let mut hasher = Sha256::new();
        hasher.update(secret);
        hasher.update(event.index.get().to_be_bytes());
        hasher.update(event.digest);
        hasher.update(chat_id.as_str());
        let mut key = EventKey::default();
        key.copy_from_slice(&hasher.finalize()[..16]);
        key
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
}
