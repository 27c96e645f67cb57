//! What is told of a node: to an operator, and in the metrics.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};

use super::super::standing::State;
use super::{Node, Nodes};
use crate::recorder::now_ms;
use crate::telemetry::metrics::Metrics;

/// A node as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// How it fares.
    pub state: State,
    /// An operator drains it.
    pub drained: bool,
    /// Why it is passed over, where that is known.
    pub detail: String,
    /// `host:port`, as configured.
    pub address: String,
    /// Where that leads.
    pub resolved: Vec<String>,
    /// Requests that it is answering, long polls among them.
    pub exchanges: usize,
    /// Connections to it.
    pub connections: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// What it did last that it should not have; empty: nothing.
    pub last_failure: String,
    /// When: milliseconds since the epoch.
    pub last_failed_at: Option<i64>,
}

impl Nodes {
    /// How a node fares now.
    pub fn report(&self, node: &Node) -> Report {
        let last = node.standing.last_failure();
        Report {
            name: node.name.to_string(),
            state: self.state(node),
            drained: node.standing.is_drained(),
            detail: self.detail(node),
            address: node.address.authority(),
            resolved: node.places.all().iter().map(ToString::to_string).collect(),
            exchanges: node.exchanges.load(Ordering::Relaxed),
            connections: node.permits.given(),
            waiting: node.permits.awaited(),
            last_failed_at: last.as_ref().map(|last| now_ms() - (self.now() - last.at)),
            last_failure: last.map(|last| last.what).unwrap_or_default(),
        }
    }

    pub(super) fn state(&self, node: &Node) -> State {
        node.standing.state(self.now())
    }

    fn detail(&self, node: &Node) -> String {
        let why = match self.state(node) {
            State::Failing => node.standing.unwell(),
            State::Refusing => format!("it takes no connections: {}", node.standing.refusal()),
            State::Erring => "it gave too many server errors, or no answers".into(),
            State::Returning | State::Well => String::new(),
        };
        let unresolved = if node.places.is_missed() { "its name cannot be resolved" } else { "" };
        [why.as_str(), unresolved].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("; ")
    }

    /// Brings a node's metrics up to date.
    pub(in super::super) fn show(&self, node: &Node) {
        let is_up = matches!(self.state(node), State::Well | State::Returning);
        node.counted.up.set(i64::from(is_up));
        node.counted.drained.set(i64::from(node.standing.is_drained()));
        node.counted.addresses.set(node.places.all().len() as i64);
    }
}

/// What is counted of a node.
#[derive(Debug)]
pub(super) struct Counted {
    pub up: Gauge,
    pub drained: Gauge,
    pub waiting: Gauge,
    pub addresses: Gauge,
    pub connect_errors: Counter,
    pub resolve_errors: Counter,
    pub passed_over: Counter,
    pub checks_passed: Counter,
    pub checks_failed: Counter,
}

impl Counted {
    pub(super) fn of(name: &str, metrics: &Metrics) -> Self {
        let node = || ("node", name.to_string());
        let checks =
            |outcome: &str| metrics.node_health_checks.get_or_create(&[node(), ("outcome", outcome.into())]).clone();
        let counted = Self {
            up: metrics.node_up.get_or_create(&[node()]).clone(),
            drained: metrics.node_drained.get_or_create(&[node()]).clone(),
            waiting: metrics.node_waiting.get_or_create(&[node()]).clone(),
            addresses: metrics.node_addresses.get_or_create(&[node()]).clone(),
            connect_errors: metrics.node_connect_errors.get_or_create(&[node()]).clone(),
            resolve_errors: metrics.node_resolve_errors.get_or_create(&[node()]).clone(),
            passed_over: metrics.node_passed_over.get_or_create(&[node()]).clone(),
            checks_passed: checks("passed"),
            checks_failed: checks("failed"),
        };
        counted.up.set(1);
        counted
    }
}
