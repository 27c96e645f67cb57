//! Connections that change their protocol (WebSocket): two streams joined once the node's 101 is with the client.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::body::{ClientBody, NodeBody};
use super::socket::{Side, Watch, relay};

/// The client's side of an upgrade to come.
#[derive(Debug)]
pub struct Client(Option<OnUpgrade>);

impl Client {
    /// Takes the upgrade out of the request, so that it does not go to the node's side.
    pub fn take(parts: &mut Parts) -> Self {
        Self(parts.extensions.remove::<OnUpgrade>())
    }
}

/// Answers the client with the node's 101 and relays from then on.
pub fn join(
    client: Client,
    mut response: Response<NodeBody>,
    watch: Option<Watch>,
    idle_timeout: Duration,
) -> Response<ClientBody> {
    let node = response.extensions_mut().remove::<OnUpgrade>();
    if let (Some(client), Some(node)) = (client.0, node) {
        tokio::task::spawn_local(async move {
            if let (Ok(client), Ok(node)) = tokio::join!(client, node) {
                // The thread's end ends it: until then it may go on.
                relay(side(client), side(node), watch.as_ref(), idle_timeout, std::future::pending()).await;
            }
        });
    }
    response.map(ClientBody::stream)
}

fn side(upgraded: Upgraded) -> Side<TokioIo<Upgraded>> {
    Side { stream: TokioIo::new(upgraded), start: Bytes::new() }
}
