//! HTTP toward clients and nodes. [`forward`] is the life of one exchange; read it first.

pub mod access;
pub mod address;
pub mod affinity;
mod answer;
mod body;
mod claim;
mod client;
mod file;
mod forward;
pub mod forwarded;
pub mod framing;
pub mod head;
mod headers;
pub mod health;
mod http2;
pub mod limits;
mod listener;
pub mod nodes;
mod permits;
pub mod places;
pub mod proxy_protocol;
mod reuse;
mod socket;
mod stage;
pub mod standing;
pub mod stream;
mod tally;
mod tap;
pub mod tls;
mod trail;
mod upgrade;
mod upstream;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::units;

pub use address::NodeAddress;
pub use claim::Claim;
pub use listener::{Door, Ending, Proxy, Start};
pub use nodes::Nodes;

/// The `[proxy]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The GMS nodes: `http://host:port` or `https://host:port`, or `name=http://host:port`.
    pub upstreams: Vec<String>,
    /// The path under which the nodes serve their APIs; recognised, never rewritten.
    pub base_path: String,
    /// Route classes and path prefixes that are let through; empty lets everything through.
    pub allow: Vec<String>,
    /// Route classes and path prefixes that are refused; stronger than `allow`.
    pub deny: Vec<String>,
    /// Networks whose X-Forwarded-* fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether clients' connections begin with a header of the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// Whether the nodes are told of the client by Forwarded (RFC 7239), too.
    pub forwarded: bool,
    /// Origins whose scripts may read the proxy's own errors.
    pub cors_origins: Vec<String>,
    /// Threads, each with its own listener and connections; 0: one for each core.
    pub threads: usize,
    /// Who may speak HTTP/2.
    pub http2: Http2,
    /// Requests of one HTTP/2 connection at one time.
    pub http2_streams_max: u32,
    /// Client connections at one time.
    pub connections_max: usize,
    /// Connections to one node at one time.
    pub node_connections_max: usize,
    /// How long an unused connection to a node is kept.
    #[serde(deserialize_with = "units::duration")]
    pub node_idle_timeout: Duration,
    /// How long a node that refused a connection is passed over.
    #[serde(deserialize_with = "units::duration")]
    pub node_retry_after: Duration,
    /// How long a connection to a node may take, its TLS handshake included.
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// From a chat request to its whole answer.
    #[serde(deserialize_with = "units::duration")]
    pub chat_timeout: Duration,
    /// From a CometD request to its whole answer.
    #[serde(deserialize_with = "units::duration")]
    pub long_poll_timeout: Duration,
    /// From any other request to the head of its answer.
    #[serde(deserialize_with = "units::duration")]
    pub other_timeout: Duration,
    /// A body that moves no byte this long is given up.
    #[serde(deserialize_with = "units::duration")]
    pub body_idle_timeout: Duration,
    /// An upgraded connection (WebSocket) over which nothing comes this long, from either side, is closed.
    #[serde(deserialize_with = "units::duration")]
    pub websocket_idle_timeout: Duration,
    /// How long a client's connection may take until the head of its next request is there, idling included.
    #[serde(deserialize_with = "units::duration")]
    pub client_timeout: Duration,
    /// After a stop signal: not ready, but still accepting.
    #[serde(deserialize_with = "units::duration")]
    pub drain_delay: Duration,
    /// After that: how long what is in flight may take.
    #[serde(deserialize_with = "units::duration")]
    pub drain_max: Duration,
    /// How long a new program may take until it serves.
    #[serde(deserialize_with = "units::duration")]
    pub upgrade_start_max: Duration,
    /// How long the former one may go on with the connections that it has.
    #[serde(deserialize_with = "units::duration")]
    pub upgrade_drain_max: Duration,
}

/// `proxy_protocol`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// None does.
    Never,
    /// All do, and all come from trusted proxies.
    Required,
}

impl ProxyProtocol {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Required => "required",
        }
    }
}

/// `http2`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Http2 {
    /// Nobody.
    Never,
    /// Clients that choose it in their TLS handshake (ALPN).
    Tls,
    /// And those that begin with it in clear text (prior knowledge).
    Always,
}

impl Http2 {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Tls => "tls",
            Self::Always => "always",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: ([0, 0, 0, 0], 8080).into(),
            upstreams: Vec::new(),
            base_path: "/genesys".into(),
            allow: Vec::new(),
            deny: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Never,
            forwarded: false,
            cors_origins: Vec::new(),
            threads: 0,
            http2: Http2::Tls,
            http2_streams_max: 128,
            connections_max: 16_384,
            node_connections_max: 1_024,
            node_idle_timeout: Duration::from_secs(60),
            node_retry_after: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            chat_timeout: Duration::from_millis(2_800),
            long_poll_timeout: Duration::from_secs(90),
            other_timeout: Duration::from_secs(20),
            body_idle_timeout: Duration::from_secs(30),
            websocket_idle_timeout: Duration::from_secs(120),
            client_timeout: Duration::from_secs(75),
            drain_delay: Duration::from_secs(1),
            drain_max: Duration::from_secs(30),
            upgrade_start_max: Duration::from_secs(60),
            upgrade_drain_max: Duration::from_secs(600),
        }
    }
}
