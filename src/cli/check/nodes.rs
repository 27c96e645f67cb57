//! What the nodes say when they are asked: where their names lead, whether they take connections, whether they are well.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Config;
use crate::proxy::health::Check;
use crate::proxy::places::{Places, Unreached};
use crate::proxy::stream::Stream;
use crate::proxy::tls::{self, Fault};
use crate::proxy::{NodeAddress, Proxy};

/// How long resolving a node's name, connecting to it and a TLS handshake may take together: on the network of a GMS node
/// it takes ms.
const NODE_WAIT: Duration = Duration::from_secs(1);

/// A node that says nothing for so long has nothing against us.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    authority: String,
    addresses: Vec<SocketAddr>,
    connect_ms: Option<f64>,
    pub(super) problem: Option<String>,
    /// What its health check said against it.
    pub(super) unwell: Option<String>,
}

/// All at once: many dead nodes take no longer than one.
pub(super) async fn look_at(config: &Config, check: Option<Check>) -> Vec<Node> {
    let mut looks = JoinSet::new();
    let addresses: Vec<_> =
        config.proxy.upstreams.iter().filter_map(|upstream| NodeAddress::parse(upstream).ok()).collect();
    // Only where it is needed: it reads all CAs of the system.
    let has_tls = addresses.iter().any(|address| address.is_tls);
    let tls = has_tls.then(|| tls::Connector::new(&config.node_tls).map_err(|problems| problems.to_string()));
    for (n, address) in addresses.into_iter().enumerate() {
        let tls = if address.is_tls { tls.clone() } else { None };
        let (check, listen) = (check.clone(), config.proxy.listen);
        looks.spawn(async move { (n, Node::of(address, tls, check, listen).await) });
    }
    let mut nodes = looks.join_all().await;
    nodes.sort_by_key(|(n, _)| *n);
    nodes.into_iter().map(|(_, node)| node).collect()
}

impl Node {
    async fn of(
        address: NodeAddress,
        tls: Option<Result<tls::Connector, String>>,
        check: Option<Check>,
        listen: SocketAddr,
    ) -> Self {
        let (name, authority) = (address.name.clone(), address.authority());
        let mut node = Self { name, authority, addresses: Vec::new(), connect_ms: None, problem: None, unwell: None };
        let tls = match tls.transpose() {
            Ok(tls) => tls,
            Err(problem) => return Self { problem: Some(problem), ..node },
        };
        let places = Places::new(&address, tls, NODE_WAIT);
        let stream = match node.reach(&address, &places).await {
            Ok(stream) => stream,
            Err(problem) => return Self { problem: Some(problem), ..node },
        };
        if node.addresses.iter().any(|address| Proxy::is_at(listen, *address)) {
            let circle = format!("it is proxy.listen = \"{listen}\", our own address: requests would go in a circle");
            return Self { problem: Some(circle), ..node };
        }
        match check {
            Some(check) => {
                node.unwell = check.ask(&node.authority, &places).await.err().map(|unwell| unwell.to_string())
            }
            None => node.problem = objection(stream, &node.authority, &places).await,
        }
        node
    }

    async fn reach(&mut self, address: &NodeAddress, places: &Places) -> Result<Stream, String> {
        let look = async {
            let found = lookup_host((address.host.as_str(), address.port)).await;
            self.addresses = found.map_err(|error| format!("its name cannot be resolved: {error}"))?.collect();
            places.learn(self.addresses.clone());
            let started = Instant::now();
            let stream = places.connect().await.map_err(|error| match error {
                Unreached::Tls(fault) => fault.to_string(),
                error => format!("it does not accept connections: {error}"),
            })?;
            // Microseconds are noise to whoever reads this.
            self.connect_ms = Some((started.elapsed().as_secs_f64() * 10_000.0).round() / 10.0);
            Ok(stream)
        };
        match timeout(NODE_WAIT, look).await {
            Ok(outcome) => outcome,
            Err(_) if self.addresses.is_empty() => Err("its name was not resolved within 1s".into()),
            Err(_) => Err("it did not accept a connection, TLS included, within 1s".into()),
        }
    }

    pub(super) fn told(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let resolved = if addresses.is_empty() { self.authority.clone() } else { addresses.join(", ") };
        let outcome = match (&self.problem, self.connect_ms) {
            (Some(problem), _) => format!("NOT REACHED: {problem}"),
            (None, Some(ms)) => match &self.unwell {
                None => format!("connected in {ms} ms"),
                Some(why) => format!("connected in {ms} ms, NOT WELL: {why}"),
            },
            (None, None) => String::new(),
        };
        if resolved == self.name { outcome } else { format!("{resolved}  {outcome}") }
    }
}

/// What a node says against being spoken to as its URL says: by TLS after the handshake, when it has seen our certificate;
/// in clear text when it has seen a request.
async fn objection(mut stream: Stream, authority: &str, places: &Places) -> Option<String> {
    let is_clear = matches!(stream, Stream::Clear(_));
    if is_clear {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: gms-recorder\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await; // what is wrong shows in the answer
    }
    let mut start = [0; 12];
    let answer = timeout(SILENCE, stream.read(&mut start)).await.ok()?;
    match answer {
        Err(error) if !is_clear => Fault::of(&error).map(|fault| fault.to_string()),
        Ok(length) if start[..length].starts_with(b"HTTP/1.") && !start[..length].ends_with(b" 400") => None,
        _ if is_clear && places.speaks_tls().await => {
            Some("it speaks TLS: write https:// in place of http:// in proxy.upstreams".into())
        }
        _ => None,
    }
}
