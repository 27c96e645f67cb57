//! Which node a request goes to: the one that it keeps to, while that is well, or the least loaded. Knows what is thought of each
//! node, not why.

use std::sync::atomic::Ordering;

use super::super::standing::SHARE_WHOLE;
use super::{Node, Nodes};

/// What a request keeps to a node by.
#[derive(Debug, Clone, Copy)]
pub enum Affinity<'a> {
    /// A chat, or a client: the same text leads to the same node while it is well.
    Key(&'a [u8]),
    /// A CometD session by its cookie: the node that gave it, or else as the client's address leads, which led to that
    /// node when the session had no cookie yet.
    Session {
        /// The cookie's value.
        cookie: &'a str,
        /// The client's address.
        client: &'a [u8],
    },
    /// A CometD session by the proxies' own cookie, which names its node.
    Pinned {
        /// The node's name, of a cookie that was verified.
        node: &'a str,
        /// The client's address, for where there is no such node any more.
        client: &'a [u8],
    },
    /// None: the least loaded.
    None,
}

impl Nodes {
    /// The best node not tried yet: one that is well before one that is drained before any other; by rendezvous hashing,
    /// or by load.
    pub(in super::super) fn choose(&self, affinity: Affinity<'_>, tried: u64) -> Option<usize> {
        if self.all.len() == 1 {
            return (tried == 0).then_some(0);
        }
        let now = self.now();
        let is_untried = |index: usize| tried & (1 << index) == 0;
        let (kept_to, key) = match affinity {
            Affinity::Session { cookie, client } => (self.node_of_session(cookie), Some(client)),
            Affinity::Pinned { node, client } => (self.index(node), Some(client)),
            Affinity::Key(key) => (None, Some(key)),
            Affinity::None => (None, None),
        };
        // A session lives in its node: it stays also where that is drained.
        if let Some(index) = kept_to.filter(|index| is_untried(*index) && self.all[*index].standing.is_well(now)) {
            return Some(index);
        }
        let turn = if key.is_none() { self.turns.fetch_add(1, Ordering::Relaxed).to_be_bytes() } else { [0; 8] };
        (0..self.all.len()).filter(|index| is_untried(*index)).max_by_key(|&index| {
            let node = &self.all[index];
            let chance = || rendezvous(node.name.as_bytes(), &turn);
            let (has_turn, score) = match key {
                Some(key) => (true, rendezvous(node.name.as_bytes(), key)),
                // Fewer exchanges first; among equals one by chance, so that no node is always first.
                None => {
                    let idle = u64::MAX - node.exchanges.load(Ordering::Relaxed) as u64;
                    let has_turn = chance() % SHARE_WHOLE < node.standing.share(now);
                    (has_turn, (idle << 16) | (chance() & 0xffff))
                }
            };
            (node.rank(now, has_turn), score)
        })
    }

    /// Whether a node is so busy that only chats in progress are let to it.
    pub(in super::super) fn is_short(&self, index: usize) -> bool {
        let node = &self.all[index];
        node.exchanges.load(Ordering::Relaxed) >= node.exchanges_for_all
    }

    /// A node has begun a CometD session: it alone knows it.
    pub fn remember_session(&self, cookie: &str, name: &str) {
        if let Some(index) = self.index(name) {
            self.sessions.learn((rendezvous(b"", cookie.as_bytes()), self.all[index].name.clone()));
        }
    }

    fn node_of_session(&self, cookie: &str) -> Option<usize> {
        self.index(&self.sessions.node(rendezvous(b"", cookie.as_bytes()))?)
    }
}

impl Node {
    /// The higher the sooner it is chosen. A drained one is better than one that would fail.
    fn rank(&self, now: i64, has_turn: bool) -> u8 {
        match (self.standing.is_well(now), self.standing.is_drained()) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) if !has_turn => 2,
            (true, false) => 3,
        }
    }
}

/// Highest random weight: FNV-1a with a finish that spreads it (splitmix64). The same on every machine and release, so
/// that several proxies agree.
fn rendezvous(node: &[u8], key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in node.iter().chain(&[0]).chain(key) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
