//! Connections that change their protocol (WebSocket): two streams joined, nothing buffered whole.

use http::Response;
use http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::body::{ClientBody, NodeBody};

/// The client's side of an upgrade to come.
#[derive(Debug)]
pub struct Client(Option<OnUpgrade>);

impl Client {
    /// Takes the upgrade out of the request, so that it does not go to the node's side.
    pub fn take(parts: &mut Parts) -> Self {
        Self(parts.extensions.remove::<OnUpgrade>())
    }
}

/// Answers the client with the node's 101 and copies both ways from then on.
pub fn join(client: Client, mut response: Response<NodeBody>) -> Response<ClientBody> {
    let node = response.extensions_mut().remove::<OnUpgrade>();
    if let (Some(client), Some(node)) = (client.0, node) {
        tokio::task::spawn_local(async move {
            if let (Ok(client), Ok(node)) = tokio::join!(client, node) {
                copy(client, node).await;
            }
        });
    }
    response.map(ClientBody::stream)
}

async fn copy(client: Upgraded, node: Upgraded) {
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    // Either side may break at any time; the other then sees the end.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
}
