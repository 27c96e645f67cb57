//! Connections that change their protocol (WebSocket): what was an exchange becomes two streams that are joined.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::Config;
use super::socket::{Side, Watch, relay};
use super::upstream::Lease;
use super::wire::Wire;

/// No WebSocket ends because the proxy is to stop. Its client is told so long before what still goes on is cut off.
const TOLD_BEFORE_CUT: Duration = Duration::from_secs(1);

/// Relays both ways, from what was read ahead on.
pub async fn join(
    config: &Config,
    client: Wire,
    lease: Lease,
    watch: Option<Box<Watch>>,
    mut stopping: watch::Receiver<bool>,
) {
    let (node, _counted) = lease.into_wire();
    let stop = async {
        let _ = stopping.wait_for(|stop| *stop).await; // whoever would tell is gone: stopping, too
        sleep(config.drain_max.saturating_sub(TOLD_BEFORE_CUT)).await;
    };
    relay(side(client), side(node), watch.as_deref(), config.websocket_idle_timeout, stop).await;
}

fn side(wire: Wire) -> Side<super::stream::Stream> {
    let (stream, start) = wire.into_parts();
    Side { stream, start: start.freeze() }
}
