//! Connections that change their protocol (WebSocket): what was an exchange becomes two streams that are joined.

use super::Config;
use super::socket::{Side, Watch, relay};
use super::stage::Told;
use super::upstream::Lease;
use super::wire::Wire;

/// Relays both ways, from what was read ahead on.
pub async fn join(config: &Config, client: Wire, lease: Lease, watch: Option<Box<Watch>>, told: Told) {
    let (node, _counted) = lease.into_wire();
    relay(side(client), side(node), watch.as_deref(), config.websocket_idle_timeout, told.farewell()).await;
}

fn side(wire: Wire) -> Side<super::stream::Stream> {
    let (stream, start) = wire.into_parts();
    Side { stream, start: start.freeze() }
}
