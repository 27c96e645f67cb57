//! Probes and metrics, on a listener of their own.

use std::net::SocketAddr;

use serde::Deserialize;

/// The `[admin]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where probes and metrics are served; loopback unless told otherwise.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 9180).into() }
    }
}
