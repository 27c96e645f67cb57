//! The closed list of counters: every one has its name, its words and its place here.
//!
//! The account of promise 4 is kept under one lock, so that it is always read as one snapshot.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use serde::{Deserialize, Serialize};

/// What became of every event seen: seen = new + duplicate + variant + finding + suppressed + refused + dropped +
/// in_flight, always (promise 4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Events in answers of nodes.
    pub seen: u64,
    /// Stored.
    pub new: u64,
    /// Stored before, or known to be.
    pub duplicate: u64,
    /// Stored beside another content of the same key.
    pub variant: u64,
    /// Kept as findings, having no key.
    pub finding: u64,
    /// Delivered again under an erased key.
    pub suppressed: u64,
    /// Not given to the client, because it could not be recorded.
    pub refused: u64,
    /// Given to the client and never to be written.
    pub dropped: u64,
    /// On the way to the file.
    pub in_flight: u64,
    /// Apart from the sum: given to the client before it was on disk.
    pub delivered_early: u64,
}

impl Account {
    /// Its numbers, in the order in which they are declared.
    pub fn numbers(&self) -> [u64; 10] {
        let Self { seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, delivered_early } =
            *self;
        [seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, delivered_early]
    }

    /// The account with these numbers, in the same order.
    pub fn of_numbers(numbers: [u64; 10]) -> Self {
        let [seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, delivered_early] =
            numbers;
        Self { seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, delivered_early }
    }

    /// Whether everything seen is accounted for.
    pub fn balances(&self) -> bool {
        let known = self.new + self.duplicate + self.variant + self.finding + self.suppressed;
        self.seen == known + self.refused + self.dropped + self.in_flight
    }
}

/// The account, and the lock it is changed under.
#[derive(Default)]
pub struct Ledger(Mutex<Account>);

impl Ledger {
    /// Changes several numbers at once.
    pub fn enter(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.lock());
    }

    /// One snapshot.
    pub fn read(&self) -> Account {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Collector for Ledger {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let account = self.read();
        let fates = [
            ("new", account.new),
            ("duplicate", account.duplicate),
            ("variant", account.variant),
            ("finding", account.finding),
            ("suppressed", account.suppressed),
            ("refused", account.refused),
            ("dropped", account.dropped),
        ];
        let seen = ConstCounter::new(account.seen);
        let metric =
            encoder.encode_descriptor("events_seen", "Events in answers of nodes", None, seen.metric_type())?;
        seen.encode(metric)?;
        let help = "What became of the events seen; with events_in_flight they add up to events_seen";
        let mut family = encoder.encode_descriptor("events", help, None, ConstCounter::new(0_u64).metric_type())?;
        for (fate, count) in fates {
            ConstCounter::new(count).encode(family.encode_family(&[("fate", fate)])?)?;
        }
        let waiting = ConstGauge::new(account.in_flight as i64);
        let help = "Events on the way to the file";
        let metric = encoder.encode_descriptor("events_in_flight", help, None, waiting.metric_type())?;
        waiting.encode(metric)?;
        let early = ConstCounter::new(account.delivered_early);
        let help = "Events that clients had before they were on disk";
        let metric = encoder.encode_descriptor("events_delivered_early", help, None, early.metric_type())?;
        early.encode(metric)
    }
}

/// The limits that clients can reach, as the label `limit` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `proxy.connections_max`
    Connections,
    /// `limits.client_connections_max`
    ClientConnections,
    /// `limits.reserve_percent`
    Reserve,
    /// `proxy.proxy_protocol`: from elsewhere, malformed, or not there within `limits.head_timeout`.
    ProxyProtocol,
    /// `limits.head_bytes_max` and `limits.head_fields_max`
    Head,
    /// `limits.target_bytes_max`
    Target,
    /// `limits.head_timeout`
    HeadTime,
    /// `limits.body_bytes_max`
    Body,
    /// `limits.pace_bytes` within `limits.pace_time`, of a request; and `proxy.body_idle_timeout`.
    BodyPace,
    /// The same of an answer.
    AnswerPace,
    /// `limits.exchange_time_max`
    ExchangeTime,
    /// `proxy.client_timeout`
    Idle,
    /// `proxy.node_connections_max`, and `nodes.waiting_max` or `nodes.wait_max` on top.
    NodeConnections,
    /// `recording.body_max` and `recording.inspected_bytes_max`
    InspectedBytes,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Connections,
        Self::ClientConnections,
        Self::Reserve,
        Self::ProxyProtocol,
        Self::Head,
        Self::Target,
        Self::HeadTime,
        Self::Body,
        Self::BodyPace,
        Self::AnswerPace,
        Self::ExchangeTime,
        Self::Idle,
        Self::NodeConnections,
        Self::InspectedBytes,
    ];

    /// As the label writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ClientConnections => "client_connections",
            Self::Reserve => "reserve",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Head => "head",
            Self::Target => "target",
            Self::HeadTime => "head_time",
            Self::Body => "body",
            Self::BodyPace => "body_pace",
            Self::AnswerPace => "answer_pace",
            Self::ExchangeTime => "exchange_time",
            Self::Idle => "idle",
            Self::NodeConnections => "node_connections",
            Self::InspectedBytes => "inspected_bytes",
        }
    }
}

/// Label pairs of a counter.
pub type Labels<const N: usize> = [(&'static str, String); N];

/// Every metric of the program. Cloning shares the numbers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Promise 4.
    pub ledger: std::sync::Arc<Ledger>,
    /// Which threads get round.
    pub pulses: super::pulse::Pulses,
    /// By route class and status class (`2xx`, … or `left` for a client that left).
    pub requests: Family<Labels<2>, Counter>,
    /// From a request's head to the end of its answer's head, by route class.
    pub request_seconds: Family<Labels<1>, Histogram>,
    /// How long answers with something new waited for their commit.
    pub held_seconds: Histogram,
    /// One transaction, synced.
    pub commit_seconds: Histogram,
    /// Errors given to clients, by origin and class.
    pub api_errors: Family<Labels<2>, Counter>,
    /// Findings by kind.
    pub findings: Family<Labels<1>, Counter>,
    /// Files that went through, by direction and outcome.
    pub file_transfers: Family<Labels<2>, Counter>,
    /// What was masked in what is kept, by rule: as many rules as are configured.
    pub maskings: Family<Labels<1>, Counter>,
    /// Trouble with the file, by kind.
    pub store_errors: Family<Labels<1>, Counter>,
    /// Events that the memory of committed ones spared a look at the file.
    pub memory_hits: Counter,
    /// Answers whose body names another chat than their path.
    pub chat_id_mismatches: Counter,
    /// CometD deliveries on channels other than Chat V2's.
    pub other_deliveries: Counter,
    /// Requests that look like chat but match no route.
    pub unrecognised: Counter,
    /// Answers delivered without being read: too large, or too many at once.
    pub uninspected: Counter,
    /// Log lines not shown because they repeat.
    pub log_lines_hidden: Counter,
    /// Lines of the access log, by fate: `written`, or `dropped` where the disk or a pipe did not take them in time.
    pub access_lines: Family<Labels<1>, Counter>,
    /// Client connections open.
    pub connections: Gauge,
    /// WebSockets open whose messages are read.
    pub websockets: Gauge,
    /// Times that a client reached a limit, by limit.
    pub limits: Family<Labels<1>, Counter>,
    /// Bytes of answers held now.
    pub inspected_bytes: Gauge,
    /// Entries waiting for the writer.
    pub queue_entries: Gauge,
    /// Their size.
    pub queue_bytes: Gauge,
    /// 1 while the archive takes rows.
    pub recording_up: Gauge,
    /// The WAL file.
    pub wal_bytes: Gauge,
    /// The spool file.
    pub spool_bytes: Gauge,
    /// Records in it that are not yet in the archive.
    pub spool_records: Gauge,
    /// Events in those; they are among the account's `in_flight`.
    pub spool_events: Gauge,
    /// Since the first of those was observed.
    pub spool_oldest_seconds: Gauge,
    /// The reserve, as long as it is held.
    pub reserve_bytes: Gauge,
    /// Days until the disk is full at the present rate of growth.
    pub disk_days_left: Gauge,
    /// Trouble with the spool, by kind.
    pub spool_errors: Family<Labels<1>, Counter>,
    /// Checkpoints signed.
    pub checkpoints: Counter,
    /// 1 while checkpoints are signed.
    pub checkpoints_up: Gauge,
    /// 1 while an anchor takes them, by anchor.
    pub anchor_up: Family<Labels<1>, Gauge>,
    /// Checkpoints that an anchor has taken.
    pub anchor_checkpoints: Family<Labels<1>, Counter>,
    /// Attempts that an anchor refused.
    pub anchor_errors: Family<Labels<1>, Counter>,
    /// Checkpoints in whose place an anchor has something else.
    pub anchor_conflicts: Family<Labels<1>, Counter>,
    /// Rows that the full-text index does not have as they are.
    pub search_rows_behind: Gauge,
    /// 1 while a target of continuous exports takes what is due, by target.
    pub export_up: Family<Labels<1>, Gauge>,
    /// Deliveries that a target has acknowledged.
    pub export_deliveries: Family<Labels<1>, Counter>,
    /// Attempts that came to nothing.
    pub export_errors: Family<Labels<1>, Counter>,
    /// Deliveries that were given up.
    pub export_given_up: Family<Labels<1>, Counter>,
    /// When it was last found that a target has everything, by target; seconds since the epoch.
    pub export_delivered_to: Family<Labels<1>, Gauge>,
    /// Free space of the archive's file system.
    pub free_bytes: Gauge,
    /// Upgrades whose new program did not take over.
    pub upgrades_failed: Counter,
    /// Descriptors that the process has open.
    pub open_files: Gauge,
    /// Descriptors that it may have open.
    pub open_files_max: Gauge,
    /// 1 while a node is well, by node.
    pub node_up: Family<Labels<1>, Gauge>,
    /// Exchanges at a node now.
    pub node_exchanges: Family<Labels<1>, Gauge>,
    /// Connections that failed, by node.
    pub node_connect_errors: Family<Labels<1>, Counter>,
    /// 1 while an operator drains a node.
    pub node_drained: Family<Labels<1>, Gauge>,
    /// How often a node was passed over.
    pub node_passed_over: Family<Labels<1>, Counter>,
    /// Health checks by node and outcome (`passed`, `failed`).
    pub node_health_checks: Family<Labels<2>, Counter>,
    /// Addresses that a node's name leads to.
    pub node_addresses: Family<Labels<1>, Gauge>,
    /// Look-ups of a node's name that failed.
    pub node_resolve_errors: Family<Labels<1>, Counter>,
    /// Requests that wait for a connection to a node.
    pub node_waiting: Family<Labels<1>, Gauge>,
    /// Clients whose TLS handshake failed or took too long.
    pub tls_handshake_errors: Counter,
    /// Days until a certificate of a file expires, by file: the first of its chain that does.
    pub certificate_days_left: Family<Labels<1>, Gauge>,
    /// Readings of changed TLS files, by outcome: `taken`, or `refused` where one could not be used.
    pub certificate_reloads: Family<Labels<1>, Counter>,
}

const LATENCY: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];

fn latency() -> Histogram {
    Histogram::new(LATENCY)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("gms_recorder"),
            ledger: std::sync::Arc::default(),
            pulses: super::pulse::Pulses::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(latency),
            held_seconds: latency(),
            commit_seconds: latency(),
            api_errors: Family::default(),
            findings: Family::default(),
            file_transfers: Family::default(),
            maskings: Family::default(),
            store_errors: Family::default(),
            memory_hits: Counter::default(),
            chat_id_mismatches: Counter::default(),
            other_deliveries: Counter::default(),
            unrecognised: Counter::default(),
            uninspected: Counter::default(),
            log_lines_hidden: Counter::default(),
            access_lines: Family::default(),
            connections: Gauge::default(),
            websockets: Gauge::default(),
            limits: Family::default(),
            inspected_bytes: Gauge::default(),
            queue_entries: Gauge::default(),
            queue_bytes: Gauge::default(),
            recording_up: Gauge::default(),
            wal_bytes: Gauge::default(),
            spool_bytes: Gauge::default(),
            spool_records: Gauge::default(),
            spool_events: Gauge::default(),
            spool_oldest_seconds: Gauge::default(),
            reserve_bytes: Gauge::default(),
            disk_days_left: Gauge::default(),
            spool_errors: Family::default(),
            checkpoints: Counter::default(),
            checkpoints_up: Gauge::default(),
            anchor_up: Family::default(),
            anchor_checkpoints: Family::default(),
            anchor_errors: Family::default(),
            anchor_conflicts: Family::default(),
            search_rows_behind: Gauge::default(),
            export_up: Family::default(),
            export_deliveries: Family::default(),
            export_errors: Family::default(),
            export_given_up: Family::default(),
            export_delivered_to: Family::default(),
            free_bytes: Gauge::default(),
            upgrades_failed: Counter::default(),
            open_files: Gauge::default(),
            open_files_max: Gauge::default(),
            node_up: Family::default(),
            node_exchanges: Family::default(),
            node_connect_errors: Family::default(),
            node_drained: Family::default(),
            node_passed_over: Family::default(),
            node_health_checks: Family::default(),
            node_addresses: Family::default(),
            node_resolve_errors: Family::default(),
            node_waiting: Family::default(),
            tls_handshake_errors: Counter::default(),
            certificate_days_left: Family::default(),
            certificate_reloads: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_collector(Box::new(self.ledger.clone()));
        let r = registry;
        r.register("requests", "Requests by route class and status class", self.requests.clone());
        let help = "From a request's head to its answer's head";
        r.register_with_unit("request", help, Unit::Seconds, self.request_seconds.clone());
        let help = "How long answers with something new waited for their commit";
        r.register_with_unit("held", help, Unit::Seconds, self.held_seconds.clone());
        r.register_with_unit("commit", "One transaction, synced", Unit::Seconds, self.commit_seconds.clone());
        r.register("api_errors", "Errors given to clients, by origin and class", self.api_errors.clone());
        r.register("findings", "What could not be understood, by kind", self.findings.clone());
        r.register("file_transfers", "Files that went through, by direction and outcome", self.file_transfers.clone());
        r.register("maskings", "Masked in what is kept, by rule", self.maskings.clone());
        r.register("store_errors", "Trouble with the archive file, by kind", self.store_errors.clone());
        let help = "Events that the memory of committed ones spared a look at the file";
        r.register("memory_hits", help, self.memory_hits.clone());
        let help = "Answers whose body names another chat than their path";
        r.register("chat_id_mismatches", help, self.chat_id_mismatches.clone());
        let help = "CometD deliveries on channels other than Chat V2's";
        r.register("other_deliveries", help, self.other_deliveries.clone());
        let help = "Requests that look like chat but match no route";
        r.register("unrecognised_requests", help, self.unrecognised.clone());
        let help = "Answers delivered without being read: too large, or too many at once";
        r.register("uninspected_answers", help, self.uninspected.clone());
        r.register("log_lines_hidden", "Log lines not shown because they repeat", self.log_lines_hidden.clone());
        r.register("access_lines", "Lines of the access log, by fate", self.access_lines.clone());
        for fate in ["written", "dropped"] {
            drop(self.access_lines.get_or_create(&[("fate", fate.into())]));
        }
        r.register("connections", "Client connections open", self.connections.clone());
        r.register("websockets", "WebSockets open whose messages are read", self.websockets.clone());
        r.register("limits_reached", "Times that a client reached a limit", self.limits.clone());
        Limit::ALL.iter().for_each(|limit| drop(self.limits.get_or_create(&[("limit", limit.as_str().into())])));
        r.register_with_unit("inspected", "Answers held now", Unit::Bytes, self.inspected_bytes.clone());
        r.register("queue_entries", "Entries waiting for the writer", self.queue_entries.clone());
        r.register_with_unit("queue", "Size of what waits for the writer", Unit::Bytes, self.queue_bytes.clone());
        r.register("recording_up", "1 while the archive takes rows", self.recording_up.clone());
        r.register_with_unit("wal", "The write-ahead log's file", Unit::Bytes, self.wal_bytes.clone());
        let help = "Upgrades whose new program did not take over";
        r.register("upgrades_failed", help, self.upgrades_failed.clone());
        r.register("open_files", "Descriptors open: connections, files", self.open_files.clone());
        r.register("open_files_max", "Descriptors that may be open", self.open_files_max.clone());
        r.register_with_unit("spool", "The spool's file", Unit::Bytes, self.spool_bytes.clone());
        let help = "Records in the spool that are not yet in the archive";
        r.register("spool_records", help, self.spool_records.clone());
        let help = "Events in the spool that are not yet in the archive; events_in_flight counts them";
        r.register("spool_events", help, self.spool_events.clone());
        let help = "How long the oldest record of the spool waits for the archive";
        r.register_with_unit("spool_oldest", help, Unit::Seconds, self.spool_oldest_seconds.clone());
        let help = "Disk space held in reserve beside the archive; 0 once it was given back";
        r.register_with_unit("reserve", help, Unit::Bytes, self.reserve_bytes.clone());
        let help =
            "Days until the disk of the archive is full at its present rate of growth; 36500 where it does not grow";
        r.register("disk_days_left", help, self.disk_days_left.clone());
        r.register("spool_errors", "Trouble with the spool's file, by kind", self.spool_errors.clone());
        r.register("checkpoints", "Checkpoints of the archive that were signed", self.checkpoints.clone());
        r.register("checkpoints_up", "1 while checkpoints are signed", self.checkpoints_up.clone());
        self.checkpoints_up.set(1);
        r.register("anchor_up", "1 while an anchor takes checkpoints", self.anchor_up.clone());
        r.register("anchor_checkpoints", "Checkpoints that an anchor has taken", self.anchor_checkpoints.clone());
        r.register("anchor_errors", "Attempts that an anchor refused", self.anchor_errors.clone());
        let help = "Checkpoints in whose place an anchor has something else";
        r.register("anchor_conflicts", help, self.anchor_conflicts.clone());
        let help = "Rows that the full-text index does not have yet, or as they were";
        r.register("search_rows_behind", help, self.search_rows_behind.clone());
        r.register("export_up", "1 while a target of exports takes what is due", self.export_up.clone());
        r.register("export_deliveries", "Deliveries that a target has acknowledged", self.export_deliveries.clone());
        let help = "Attempts to deliver that came to nothing; they are made again";
        r.register("export_errors", help, self.export_errors.clone());
        r.register("export_given_up", "Deliveries that were given up", self.export_given_up.clone());
        let help = "When a target was last known to have everything that is due, since the epoch";
        r.register_with_unit("export_delivered_to", help, Unit::Seconds, self.export_delivered_to.clone());
        r.register_with_unit("free", "Free space beside the archive", Unit::Bytes, self.free_bytes.clone());
        r.register("node_up", "1 while a node is well: it gets its share of requests", self.node_up.clone());
        r.register("node_exchanges", "Exchanges at a node now", self.node_exchanges.clone());
        let help = "Connections to a node that failed";
        r.register("node_connect_errors", help, self.node_connect_errors.clone());
        r.register("node_drained", "1 while an operator drains a node", self.node_drained.clone());
        let help = "Times that a node was passed over for refusing connections or giving server errors";
        r.register("node_passed_over", help, self.node_passed_over.clone());
        r.register("node_health_checks", "Health checks by outcome", self.node_health_checks.clone());
        r.register("node_addresses", "Addresses that a node's name leads to", self.node_addresses.clone());
        r.register("node_resolve_errors", "Look-ups of a node's name that failed", self.node_resolve_errors.clone());
        r.register("node_waiting", "Requests that wait for a connection to a node", self.node_waiting.clone());
        let help = "Clients whose TLS handshake failed or took too long";
        r.register("tls_handshake_errors", help, self.tls_handshake_errors.clone());
        let help = "Days until the first certificate of a file's chain expires";
        r.register("certificate_days_left", help, self.certificate_days_left.clone());
        let help = "Readings of changed TLS files, by outcome";
        r.register("certificate_reloads", help, self.certificate_reloads.clone());
    }

    /// A client has reached a limit.
    pub fn reached(&self, limit: Limit) {
        self.limits.get_or_create(&[("limit", limit.as_str().into())]).inc();
    }

    /// The whole list as Prometheus text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(e) => format!("# {e}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_one_snapshot_and_balances() {
        let metrics = Metrics::default();
        metrics.ledger.enter(|a| (a.seen, a.in_flight) = (3, 3));
        metrics.ledger.enter(|a| (a.new, a.duplicate, a.in_flight) = (1, 1, 1));
        assert!(metrics.ledger.read().balances());
        metrics.ledger.enter(|a| a.in_flight = 0);
        assert!(!metrics.ledger.read().balances());
        let text = metrics.encode();
        assert!(text.contains("gms_recorder_events_seen_total 3\n"), "{text}");
        assert!(text.contains("gms_recorder_events_total{fate=\"new\"} 1\n"), "{text}");
        assert!(text.contains("gms_recorder_events_in_flight 0\n"), "{text}");
    }
}
