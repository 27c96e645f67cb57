//! The nodes: which one a request goes to, and how they are. A node's health and bounds are the whole process's.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::address::NodeAddress;
use crate::recorder::{Generations, now_ms};
use crate::telemetry::metrics::Metrics;

/// Choices are kept in one word of bits.
pub const NODES_MAX: usize = 64;

/// One GMS node, as the whole process sees it.
#[derive(Debug)]
pub struct Node {
    /// As logs and rows name it.
    pub name: Arc<str>,
    pub(super) address: NodeAddress,
    /// Passed over until then, milliseconds since the epoch.
    down_until: AtomicI64,
    pub(super) exchanges: AtomicUsize,
    pub(super) connections: AtomicUsize,
    up: Gauge,
    pub(super) at_work: Gauge,
    connect_errors: Counter,
}

impl Node {
    /// Whether it is not passed over.
    pub fn is_well(&self) -> bool {
        let until = self.down_until.load(Ordering::Relaxed);
        until == 0 || until <= now_ms()
    }

    pub(super) fn failed(&self, retry_after: Duration, error: &std::io::Error) {
        let was_well = self.is_well();
        self.down_until.store(now_ms() + retry_after.as_millis() as i64, Ordering::Relaxed);
        self.connect_errors.inc();
        self.up.set(0);
        if was_well {
            tracing::warn!(node = &*self.name, %error, "a node does not take connections; it is passed over for now");
        }
    }

    pub(super) fn connected(&self) {
        if self.up.set(1) == 0 {
            tracing::info!(node = &*self.name, "a node takes connections");
        }
        self.down_until.store(0, Ordering::Relaxed);
    }
}

/// CometD sessions whose node is remembered.
const SESSIONS_MAX: usize = 100_000;

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    pub(super) all: Vec<Arc<Node>>,
    /// A hash of the cookie that a node gave a CometD session, and which node that was.
    sessions: Mutex<Generations<u64, usize>>,
}

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
    /// None: the least loaded.
    None,
}

impl Nodes {
    /// The nodes in the configuration's order.
    pub fn new(addresses: Vec<NodeAddress>, metrics: &Metrics) -> Self {
        let node = |address: NodeAddress| {
            let label = [("node", address.name.clone())];
            Arc::new(Node {
                name: address.name.as_str().into(),
                down_until: AtomicI64::new(0),
                exchanges: AtomicUsize::new(0),
                connections: AtomicUsize::new(0),
                up: metrics.node_up.get_or_create(&label).clone(),
                at_work: metrics.node_exchanges.get_or_create(&label).clone(),
                connect_errors: metrics.node_connect_errors.get_or_create(&label).clone(),
                address,
            })
        };
        let all: Vec<_> = addresses.into_iter().take(NODES_MAX).map(node).collect();
        for node in &all {
            node.up.set(1);
        }
        Self { all, sessions: Mutex::new(Generations::new(SESSIONS_MAX)) }
    }

    /// A node has begun a CometD session: it alone knows it.
    pub fn remember_session(&self, cookie: &str, name: &str) {
        if let Some(index) = self.all.iter().position(|node| &*node.name == name) {
            self.sessions().insert(rendezvous(b"", cookie.as_bytes()), index);
        }
    }

    fn node_of_session(&self, cookie: &str) -> Option<usize> {
        self.sessions().get_mut(&rendezvous(b"", cookie.as_bytes())).copied()
    }

    fn sessions(&self) -> MutexGuard<'_, Generations<u64, usize>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.all.iter()
    }

    /// The best node not tried yet: well ones before the others; by rendezvous hashing, or by load.
    pub(super) fn choose(&self, affinity: Affinity<'_>, tried: u64) -> Option<usize> {
        if self.all.len() == 1 {
            return (tried == 0).then_some(0);
        }
        let key = match affinity {
            Affinity::Session { cookie, client } => match self.node_of_session(cookie) {
                Some(index) if tried & (1 << index) == 0 && self.all[index].is_well() => return Some(index),
                _ => Some(client),
            },
            Affinity::Key(key) => Some(key),
            Affinity::None => None,
        };
        let untried = (0..self.all.len()).filter(|index| tried & (1 << index) == 0);
        untried.max_by_key(|&index| {
            let node = &self.all[index];
            let score = match key {
                Some(key) => rendezvous(node.name.as_bytes(), key),
                // Fewer exchanges first; among equals one by chance of the clock, so that no node is always first.
                None => {
                    let idle = u64::MAX - node.exchanges.load(Ordering::Relaxed) as u64;
                    (idle << 16) | (rendezvous(node.name.as_bytes(), &now_ms().to_be_bytes()) & 0xffff)
                }
            };
            (node.is_well(), score)
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> Nodes {
        let addresses = names.iter().map(|name| NodeAddress {
            name: (*name).into(),
            host: "localhost".into(),
            port: 1,
            is_tls: false,
        });
        Nodes::new(addresses.collect(), &Metrics::default())
    }

    #[test]
    fn a_chat_keeps_to_its_node_and_chats_spread() {
        let nodes = nodes(&["gms-1", "gms-2", "gms-3"]);
        let mut counts = [0; 3];
        for chat in 0..3000 {
            let key = format!("00001aCY6K8U{chat:04}");
            let first = nodes.choose(Affinity::Key(key.as_bytes()), 0).expect("three nodes");
            assert_eq!(nodes.choose(Affinity::Key(key.as_bytes()), 0), Some(first));
            counts[first] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_node_that_failed_is_the_last_choice_and_still_one() {
        let nodes = nodes(&["gms-1", "gms-2"]);
        let first = nodes.choose(Affinity::Key(b"chat"), 0).expect("two nodes");
        nodes.all[first].failed(Duration::from_secs(60), &std::io::ErrorKind::ConnectionRefused.into());
        let second = nodes.choose(Affinity::Key(b"chat"), 0).expect("two nodes");
        assert_ne!(first, second);
        assert_eq!(nodes.choose(Affinity::Key(b"chat"), 1 << second), Some(first));
        assert_eq!(nodes.choose(Affinity::Key(b"chat"), 0b11), None);
    }

    #[test]
    fn a_new_chat_goes_to_the_least_loaded() {
        let nodes = nodes(&["gms-1", "gms-2", "gms-3"]);
        nodes.all[0].exchanges.store(2, Ordering::Relaxed);
        nodes.all[1].exchanges.store(1, Ordering::Relaxed);
        nodes.all[2].exchanges.store(2, Ordering::Relaxed);
        assert_eq!(nodes.choose(Affinity::None, 0), Some(1));
    }
}
