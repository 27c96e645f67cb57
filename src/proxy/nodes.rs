//! The nodes: which one a request goes to, and how each of them fares. What is known of a node is the whole process's.
//!
//! A node is passed over while its health check fails, while it takes no connections, or for a while after a burst of
//! server errors; it takes nothing new while an operator drains it. Whatever is said against all of them, somebody is
//! asked: a request is only refused once every node was tried. Knows no HTTP beyond a status.

mod choice;
mod report;
mod sessions;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::address::NodeAddress;
use super::limits;
use super::permits::Permits;
use super::places::{Places, Unreached};
use super::reuse::Reuse;
use super::standing::{Limits, SILENCE_WEIGHT, Standing};
use super::tls::Connector;
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Metrics;
use crate::units;

pub use choice::Affinity;
pub use report::Report;
pub use sessions::{Session, Sessions};

use report::Counted;

/// Choices are kept in one word of bits.
pub const NODES_MAX: usize = 64;
/// A node that is tried again and again may fail in a different way each time.
static REFUSALS: Repeated = Repeated::new(20, Duration::from_secs(60));

/// The `[nodes]` section: how nodes are watched, chosen and kept to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is asked of a node to know that it is well: a path and perhaps a query. Empty: nothing.
    pub health_path: String,
    /// The status of a node that is well.
    pub health_status: usize,
    /// What the answer of a node that is well contains. Empty: anything.
    pub health_text: String,
    /// From one check of a node to the next.
    #[serde(deserialize_with = "units::duration")]
    pub health_interval: Duration,
    /// A check that takes longer has failed.
    #[serde(deserialize_with = "units::duration")]
    pub health_timeout: Duration,
    /// Checks in a row that fail before a node is passed over.
    pub health_failures: usize,
    /// Checks in a row that pass before it is taken back.
    pub health_passes: usize,
    /// A file with `user:password` for the check. Empty: none is sent.
    pub health_credentials: PathBuf,
    /// Connections in a row that fail before a node is passed over.
    pub refusals_max: usize,
    /// By so many a node's server errors may outweigh its other answers before it is passed over; 0: by any number.
    pub server_errors_max: usize,
    /// The longest that a node is passed over before it is tried again.
    #[serde(deserialize_with = "units::duration")]
    pub passed_over_max: Duration,
    /// How long a node that came back gets less than its share of new chats.
    #[serde(deserialize_with = "units::duration")]
    pub slow_start: Duration,
    /// From one look-up of the nodes' names to the next.
    #[serde(deserialize_with = "units::duration")]
    pub resolve_interval: Duration,
    /// Requests that wait for a connection to one node.
    pub waiting_max: usize,
    /// How long each of them waits.
    #[serde(deserialize_with = "units::duration")]
    pub wait_max: Duration,
    /// A file with the key of the affinity cookie. Empty: no such cookie is given.
    pub affinity_key: PathBuf,
    /// What is added to cookies of the nodes: `NAME; Attribute; Attribute=value`.
    pub cookie_attributes: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            health_path: String::new(),
            health_status: 200,
            health_text: String::new(),
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(2),
            health_failures: 3,
            health_passes: 2,
            health_credentials: PathBuf::new(),
            refusals_max: 1,
            server_errors_max: 10,
            passed_over_max: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
            resolve_interval: Duration::from_secs(30),
            waiting_max: 256,
            wait_max: Duration::from_millis(500),
            affinity_key: PathBuf::new(),
            cookie_attributes: Vec::new(),
        }
    }
}

/// One GMS node, as the whole process sees it.
#[derive(Debug)]
pub struct Node {
    /// As logs and rows name it.
    pub name: Arc<str>,
    /// As it was configured.
    pub address: NodeAddress,
    pub(super) places: Places,
    pub(super) permits: Permits,
    pub(super) exchanges: AtomicUsize,
    pub(super) at_work: Gauge,
    pub(super) reuse: Reuse,
    /// Exchanges beyond which only chats in progress are let to it.
    exchanges_for_all: usize,
    standing: Standing,
    counted: Counted,
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    pub(super) all: Vec<Arc<Node>>,
    /// The clock's zero.
    began: Instant,
    /// Choices by load so far: what chance is made of.
    turns: AtomicU64,
    /// Held while a node is judged, so that two threads do not pass over the last two.
    judging: Mutex<()>,
    sessions: Sessions,
    /// Somebody waits for a connection.
    shortage: watch::Sender<()>,
}

impl Nodes {
    /// The nodes in the configuration's order, all of them taken to be well.
    ///
    /// `tls` is how those are reached that want TLS.
    pub fn new(
        addresses: Vec<NodeAddress>,
        tls: Option<Connector>,
        proxy: &super::Config,
        bounds: &limits::Config,
        config: &Config,
        metrics: &Metrics,
    ) -> Self {
        let limits = Limits::new(proxy, config);
        let shortage = watch::Sender::new(());
        let node = |address: NodeAddress| {
            let counted = Counted::of(&address.name, metrics);
            let at_work = metrics.node_exchanges.get_or_create(&[("node", address.name.clone())]).clone();
            let permits = Permits::new(
                proxy.node_connections_max,
                config.waiting_max,
                bounds.for_all(config.waiting_max),
                config.wait_max,
                counted.waiting.clone(),
                shortage.clone(),
            );
            Arc::new(Node {
                name: address.name.as_str().into(),
                places: Places::new(&address, tls.clone(), proxy.connect_timeout),
                permits,
                exchanges: AtomicUsize::new(0),
                at_work,
                reuse: Reuse::new(),
                exchanges_for_all: bounds.for_all(proxy.node_connections_max),
                standing: Standing::new(limits),
                counted,
                address,
            })
        };
        Self {
            all: addresses.into_iter().take(NODES_MAX).map(node).collect(),
            began: Instant::now(),
            turns: AtomicU64::new(0),
            judging: Mutex::new(()),
            sessions: Sessions::default(),
            shortage,
        }
    }

    /// Every node.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.all.iter()
    }

    /// Tells when somebody waits for a connection to a node: whoever keeps idle ones then lets [`Node::awaited`] of them
    /// go.
    pub fn shortage(&self) -> watch::Receiver<()> {
        self.shortage.subscribe()
    }

    /// Which node each CometD session lives in.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|node| &*node.name == name)
    }

    fn now(&self) -> i64 {
        self.began.elapsed().as_millis() as i64
    }

    /// A node closed a connection, unused for so long before, without a word to the request that was sent on it.
    pub(super) fn lost(&self, index: usize, unused: Duration) {
        self.all[index].reuse.lost(unused, self.now());
    }

    /// Forgets what was learnt long ago.
    pub(super) fn forget(&self) {
        self.all.iter().for_each(|node| node.reuse.forget(self.now()));
    }

    /// A connection to a node failed. The last one that is well is not passed over for it.
    pub(super) fn refused(&self, index: usize, error: &Unreached) {
        let (node, now) = (&self.all[index], self.now());
        node.counted.connect_errors.inc();
        let Some(is_news) = node.standing.refused(&error.to_string(), now) else { return };
        if is_news {
            self.show(node);
            if let Some(not_shown) = REFUSALS.admit(std::time::Instant::now()) {
                tracing::warn!(node = &*node.name, %error, not_shown, "a node does not take connections");
            }
        }
        let _judging = self.judge();
        if let Some(passed_over) = node.standing.pass_over_refusing(now, self.others_well(index, now) == 0) {
            node.counted.passed_over.inc();
            tracing::debug!(node = &*node.name, ?passed_over, "it is passed over, and then tried again");
        }
    }

    /// A connection to a node was made.
    pub(super) fn connected(&self, index: usize) {
        let node = &self.all[index];
        if let Some(refusals) = node.standing.connected(|| self.now()) {
            tracing::info!(node = &*node.name, refusals, "a node takes connections again");
            self.show(node);
        }
    }

    /// A node answered with this status.
    pub(super) fn answered(&self, index: usize, status: u16) {
        if status < 500 {
            self.all[index].standing.answered();
        } else {
            self.erred(index, 1, &format!("it answered {status}"));
        }
    }

    /// A node took a request and did not answer, in time or at all.
    pub(super) fn unanswered(&self, name: &str, why: &str) {
        if let Some(index) = self.index(name) {
            self.erred(index, SILENCE_WEIGHT, why);
        }
    }

    /// What most nodes have in common is no node's fault: at most half of them are passed over for it.
    fn erred(&self, index: usize, weight: u32, why: &str) {
        let (node, now) = (&self.all[index], self.now());
        node.standing.failed(why, now);
        if !node.standing.erred(weight) {
            return;
        }
        let _judging = self.judge();
        let erring = self.all.iter().filter(|node| node.standing.is_erring(now)).count();
        let is_allowed = self.others_well(index, now) > 0 && (erring + 1) * 2 <= self.all.len();
        if is_allowed && node.standing.is_well(now) {
            let passed_over = node.standing.pass_over_erring(now);
            node.counted.passed_over.inc();
            tracing::warn!(node = &*node.name, ?passed_over, "a node gives server errors; it is passed over");
            self.show(node);
        }
    }

    fn judge(&self) -> MutexGuard<'_, ()> {
        self.judging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others_well(&self, index: usize, now: i64) -> usize {
        let others = self.all.iter().enumerate().filter(|(other, _)| *other != index);
        others.filter(|(_, node)| node.standing.is_well(now) && !node.standing.is_drained()).count()
    }
}

/// What the watch over the nodes finds, and what an operator wants.
impl Nodes {
    /// Nodes that took no connection and are to be tried again, by the proxy itself rather than by a client.
    pub(super) fn to_try(&self) -> impl Iterator<Item = usize> {
        let now = self.now();
        (0..self.all.len()).filter(move |index| self.all[*index].standing.is_to_be_tried(now))
    }

    /// A health check of a node passed, or failed for a reason.
    pub(super) fn checked(&self, index: usize, outcome: Result<(), String>) {
        let node = &self.all[index];
        if outcome.is_ok() { &node.counted.checks_passed } else { &node.counted.checks_failed }.inc();
        match node.standing.checked(outcome, self.now()) {
            Some(true) => tracing::info!(node = &*node.name, "a node passes its health check again"),
            Some(false) => {
                let (why, name) = (node.standing.unwell(), &*node.name);
                match self.others_well(index, self.now()) {
                    0 if self.all.len() == 1 => {
                        tracing::warn!(
                            node = name,
                            why,
                            "the only node fails its health check; requests still go to it"
                        );
                    }
                    0 => tracing::error!(
                        node = name,
                        why,
                        "a node fails its health check, and no other one is well; requests still go to all of them"
                    ),
                    _ => tracing::warn!(node = name, why, "a node fails its health check; it is passed over"),
                }
            }
            None => {}
        }
        self.show(node);
    }

    /// A look-up of a node's name came to an end.
    pub(super) fn resolved(&self, index: usize, outcome: std::io::Result<Vec<std::net::SocketAddr>>) {
        let node = &self.all[index];
        match outcome {
            Ok(found) if !found.is_empty() => {
                if let Some(addresses) = node.places.learn(found) {
                    node.standing.moved(self.now());
                    tracing::info!(node = &*node.name, ?addresses, "where a node's name leads");
                }
            }
            outcome => {
                node.counted.resolve_errors.inc();
                if node.places.miss() {
                    let error =
                        outcome.err().map_or_else(|| "it has no address".to_string(), |error| error.to_string());
                    let kept = node.places.all().len();
                    tracing::warn!(node = &*node.name, error, kept, "a node's name cannot be resolved");
                }
            }
        }
        self.show(node);
    }

    /// Gives a node nothing new from now on, or again. None where there is no node of that name.
    ///
    /// Chats over REST go on at other nodes with their next request: GMS keeps them in the chat server, and any node serves
    /// any of them. CometD sessions live in their node, and stay there until they end.
    pub fn set_drained(&self, name: &str, drained: bool) -> Option<Report> {
        let node = &self.all[self.index(name)?];
        if node.standing.set_drained(drained, self.now()) {
            tracing::info!(node = &*node.name, drained, "an operator changed what a node is given");
        }
        self.show(node);
        Some(self.report(node))
    }
}

impl Node {
    /// How many requests wait for a connection to it.
    pub fn awaited(&self) -> usize {
        self.permits.awaited()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::standing::State;
    use super::*;

    fn refusal() -> Unreached {
        std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
    }

    fn nodes(count: usize, change: impl FnOnce(&mut Config)) -> Nodes {
        let addresses = (1..=count).map(|n| NodeAddress {
            name: format!("gms-{n}"),
            host: "127.0.0.1".into(),
            port: 1,
            is_tls: false,
        });
        let mut config = Config::default();
        change(&mut config);
        let (proxy, limits) = (super::super::Config::default(), limits::Config::default());
        Nodes::new(addresses.collect(), None, &proxy, &limits, &config, &Metrics::default())
    }

    /// The shares of so many new chats that the nodes get.
    fn shares(nodes: &Nodes, chats: usize) -> Vec<usize> {
        let mut shares = vec![0; nodes.all.len()];
        for _ in 0..chats {
            shares[nodes.choose(Affinity::None, 0).expect("a node")] += 1;
        }
        shares
    }

    fn node_of(nodes: &Nodes, chat: &str) -> usize {
        nodes.choose(Affinity::Key(chat.as_bytes()), 0).expect("a node")
    }

    #[tokio::test(start_paused = true)]
    async fn a_chat_keeps_to_its_node_and_chats_spread() {
        let nodes = nodes(3, |_| ());
        let mut counts = [0; 3];
        for chat in 0..3000 {
            let key = format!("00001aCY6K8U{chat:04}");
            let first = node_of(&nodes, &key);
            assert_eq!(node_of(&nodes, &key), first);
            counts[first] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_refused_is_the_last_choice_and_still_one() {
        let nodes = nodes(2, |_| ());
        let first = node_of(&nodes, "chat");
        nodes.refused(first, &refusal());
        let second = node_of(&nodes, "chat");
        assert_ne!(first, second);
        assert_eq!(nodes.choose(Affinity::Key(b"chat"), 1 << second), Some(first));
        assert_eq!(nodes.choose(Affinity::Key(b"chat"), 0b11), None);
        // The last one is not passed over, but it is not called well either.
        nodes.refused(second, &refusal());
        assert_eq!(node_of(&nodes, "chat"), second);
        let report = nodes.report(&nodes.all[second]);
        assert_eq!((report.state, &*report.detail), (State::Refusing, "it takes no connections: connection refused"));
        assert_eq!((&*report.last_failure, report.last_failed_at.is_some()), ("connection refused", true));
        nodes.connected(second);
        assert_eq!(nodes.state(&nodes.all[second]), State::Well);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_passed_over_for_longer_each_time_and_tried_by_the_proxy_itself() {
        let nodes = nodes(2, |_| ());
        for seconds in [2, 4, 8, 16, 32, 60, 60] {
            nodes.refused(0, &refusal());
            nodes.refused(0, &refusal()); // while it is passed over, more of it changes nothing
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(nodes.to_try().count(), 0, "{seconds} s are not over");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(nodes.to_try().collect::<Vec<_>>(), [0]);
            assert_eq!(nodes.choose(Affinity::None, 0), Some(1), "no client tries it first");
        }
        nodes.refused(0, &refusal());
        nodes.resolved(0, Ok(vec![([127, 0, 0, 9], 1).into()]));
        assert_eq!(nodes.to_try().count(), 1, "it moved: it is tried at once");
        nodes.connected(0);
        tokio::time::advance(Duration::from_secs(61)).await;
        nodes.refused(0, &refusal());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(nodes.to_try().count(), 1, "what was long ago is forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_server_errors_is_one_node_s_or_everybody_s() {
        let nodes = nodes(4, |config| config.server_errors_max = 5);
        for _ in 0..100 {
            nodes.answered(0, 500);
            nodes.answered(0, 200);
        }
        assert_eq!(nodes.state(&nodes.all[0]), State::Well, "half of its answers are not a burst");
        (0..5).for_each(|_| nodes.answered(0, 503));
        assert_eq!(nodes.state(&nodes.all[0]), State::Erring);
        for _ in 0..4 {
            nodes.answered(1, 200); // the head of an answer whose body never came
            nodes.unanswered("gms-2", "it did not answer in time");
        }
        assert_eq!(nodes.state(&nodes.all[1]), State::Erring);
        (0..50).for_each(|_| nodes.answered(2, 503));
        assert_eq!(nodes.state(&nodes.all[2]), State::Well, "more than half are not passed over");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(nodes.state(&nodes.all[0]), State::Returning);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_came_back_gets_more_and_more_new_chats_and_its_old_ones_at_once() {
        let nodes = nodes(2, |_| ());
        let chats: Vec<String> = (0..100).map(|n| format!("chat-{n}")).collect();
        let before: Vec<usize> = chats.iter().map(|chat| node_of(&nodes, chat)).collect();
        nodes.refused(0, &refusal());
        assert_eq!(shares(&nodes, 1000)[0], 0);
        nodes.connected(0);
        assert_eq!(chats.iter().map(|chat| node_of(&nodes, chat)).collect::<Vec<_>>(), before);
        for (seconds, share) in [(0, 40..110), (5, 250..330), (5, 460..540)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let got = shares(&nodes, 1000)[0];
            assert!(share.contains(&got), "{got} of 1000 after {seconds} s more, wanted {share:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_node_takes_nothing_new_and_keeps_its_sessions() {
        let nodes = nodes(3, |_| ());
        nodes.remember_session("cookie", "gms-1");
        let session = Affinity::Session { cookie: "cookie", client: b"10.0.0.1" };
        let pinned = Affinity::Pinned { node: "gms-1", client: b"10.0.0.1" };
        assert!(nodes.set_drained("gms-1", true).expect("it exists").drained);
        assert_eq!(nodes.set_drained("gms-4", true), None);
        assert_eq!(shares(&nodes, 100)[0], 0);
        assert!((0..100).all(|chat| node_of(&nodes, &chat.to_string()) != 0));
        assert_eq!(nodes.choose(session, 0), Some(0));
        assert_eq!(nodes.choose(pinned, 0), Some(0));
        nodes.refused(1, &refusal());
        nodes.refused(2, &refusal());
        assert_eq!(nodes.choose(Affinity::None, 1 << 2), Some(0), "rather than one that is down");
        assert!(!nodes.set_drained("gms-1", false).expect("it exists").drained);
        assert_eq!(nodes.state(&nodes.all[0]), State::Returning);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_checks_in_a_row_change_what_is_believed() {
        let nodes = nodes(2, |_| ());
        let check = |outcomes: &str, state: State| {
            for outcome in outcomes.chars() {
                nodes.checked(0, if outcome == '+' { Ok(()) } else { Err("it answered 503, not 200".into()) });
            }
            assert_eq!(nodes.state(&nodes.all[0]), state, "after {outcomes}");
        };
        check("--+--", State::Well);
        check("-", State::Failing);
        assert_eq!(nodes.report(&nodes.all[0]).detail, "it answered 503, not 200");
        check("+-+-", State::Failing);
        check("++", State::Returning);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_chat_goes_to_the_least_loaded() {
        let nodes = nodes(3, |_| ());
        nodes.all[0].exchanges.store(2, Ordering::Relaxed);
        nodes.all[1].exchanges.store(1, Ordering::Relaxed);
        nodes.all[2].exchanges.store(2, Ordering::Relaxed);
        assert_eq!(nodes.choose(Affinity::None, 0), Some(1));
    }
}
