//! Connections that change their protocol (WebSocket): what was an exchange becomes two streams that are joined.

use std::cell::Cell;

use super::Config;
use super::socket::{Side, Watch, relay};
use super::stage::Told;
use super::trail::Trail;
use super::upstream::Lease;
use super::wire::Wire;

/// Relays both ways, from what was read ahead on.
pub async fn join(
    config: &Config,
    client: Wire,
    lease: Lease,
    watch: Option<Box<Watch>>,
    trail: Option<Box<Trail>>,
    told: Told,
) {
    let (node, _counted) = lease.into_wire();
    let (client, node) = (side(client), side(node));
    let not_asked_for = Cell::default();
    let sent = trail.as_deref().map_or(&not_asked_for, Trail::sent);
    let idle_timeout = config.websocket_idle_timeout;
    let is_whole = relay(client, node, watch.as_deref(), idle_timeout, sent, told.farewell()).await;
    if let Some(trail) = trail {
        trail.ends(is_whole);
    }
}

fn side(wire: Wire) -> Side<super::stream::Stream> {
    let (stream, start) = wire.into_parts();
    Side { stream, start: start.freeze() }
}
