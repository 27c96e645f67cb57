//! How many files may be open: raised as far as the system lets us, since every client and every node's connection is
//! one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::telemetry::metrics::Metrics;

/// For the archive, logs, listeners, runtimes, certificates while they are read, probes, and operators.
const OTHERS: u64 = 256;

/// Raises the limit to the hard one, and says whether all configured connections fit into it.
pub fn raise(config: &Config, metrics: &Metrics) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let outcome = setrlimit(Resource::Nofile, raised);
    if let Err(error) = &outcome {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile).current; // none: unlimited
    metrics.open_files_max.set(limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
    let wanted = wanted(config);
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".into(), |limit| limit.to_string());
    tracing::info!(limit = shown(limit), before = shown(before.current), wanted, "open files");
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            limit,
            wanted,
            "all connections that the configuration allows would need more open files than this process may have: \
             raise LimitNOFILE= of the unit (ulimit -Hn), or lower proxy.connections_max or proxy.node_connections_max"
        );
    }
}

/// For everything at its configured limit.
fn wanted(config: &Config) -> u64 {
    let (proxy, nodes) = (&config.proxy, config.proxy.upstreams.len());
    // Each exchange has one client and holds one connection to a node at most; idle ones are given back when need be.
    let to_nodes = proxy.connections_max.min(proxy.node_connections_max.saturating_mul(nodes));
    OTHERS + proxy.connections_max as u64 + to_nodes as u64
}

/// Shows how many are open now.
pub fn show(metrics: &Metrics) {
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        metrics.open_files.set(open.count() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_at_its_limit_is_counted() {
        let mut config = Config::default();
        config.proxy.upstreams = vec!["http://a".into(), "http://b".into()];
        config.proxy.connections_max = 10_000;
        config.proxy.node_connections_max = 100;
        assert_eq!(wanted(&config), 10_456);
        config.proxy.node_connections_max = 100_000;
        assert_eq!(wanted(&config), 20_256);
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let metrics = Metrics::default();
        raise(&Config::default(), &metrics);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        show(&metrics);
        assert!(metrics.open_files.get() > 2 && metrics.open_files_max.get() > metrics.open_files.get());
    }
}
