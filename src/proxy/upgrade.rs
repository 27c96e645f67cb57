//! Connections that change their protocol (WebSocket): two streams joined, nothing buffered whole.

use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::upstream::Lease;
use super::wire::Wire;

/// Copies both ways, from what was read ahead on.
pub async fn join(client: Wire, lease: Lease) {
    let (node, _counted) = lease.into_wire();
    let ((mut client, client_said), (mut node, node_said)) = (client.into_parts(), node.into_parts());
    if node.write_all(&client_said).await.is_ok() && client.write_all(&node_said).await.is_ok() {
        // Either side may break at any time; the other then sees the end.
        let _ = copy_bidirectional(&mut client, &mut node).await;
    }
}
