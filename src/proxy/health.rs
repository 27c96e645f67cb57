//! The watch over the nodes, one for the process: asks them how they are, tries those that took no connections, and looks
//! their names up again. No client waits for any of it.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::nodes::{self, Nodes};
use super::places::{Places, Unreached};
use super::stream::Stream;
use super::tls::Fault;
use crate::archive::private;

/// How often it is seen whose time of being passed over has ended: what a node's return is late by.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Names that were never resolved are looked up again so soon, whatever `resolve_interval` says.
const UNRESOLVED_INTERVAL: Duration = Duration::from_secs(2);
/// For one look-up. The system's resolver gives up after 10 s unless it was set otherwise (resolv.conf(5): 2 attempts of
/// 5 s), and a look-up that is given up sooner would still hold a thread.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(12);
/// What the first look-up may delay the start by. Nodes that have no address by then get it a little later.
const FIRST_RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A status page takes a few bytes; `health_text` is looked for in so many.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is asked of each node, and what it should answer.
#[derive(Debug, Clone)]
pub struct Check {
    path: Uri,
    status: u16,
    text: String,
    interval: Duration,
    timeout: Duration,
    /// Marked as sensitive: it is never printed.
    credentials: Option<HeaderValue>,
}

impl Check {
    /// As configured; none where nothing is to be asked.
    ///
    /// # Errors
    /// A sentence about a path that is none, or credentials that cannot be had.
    pub fn of(config: &nodes::Config) -> Result<Option<Self>, String> {
        if config.health_path.is_empty() {
            return Ok(None);
        }
        let path = config.health_path.parse().map_err(|_| "nodes.health_path is no path".to_string())?;
        let credentials = match config.health_credentials.as_os_str().is_empty() {
            true => None,
            false => Some(credentials(&private::read(&config.health_credentials)?)?),
        };
        Ok(Some(Self {
            path,
            status: u16::try_from(config.health_status).unwrap_or(200),
            text: config.health_text.clone(),
            interval: config.health_interval,
            timeout: config.health_timeout,
            credentials,
        }))
    }

    /// Asks a node, whose `authority` is `host:port`, whether it is well.
    ///
    /// # Errors
    /// Why it is not, or why it could not be asked.
    pub async fn ask(&self, authority: &str, places: &Places) -> Result<(), Unwell> {
        let asked = async {
            let stream = places.connect().await.map_err(Unwell::Unreached)?;
            let Err(objection) = self.exchange(authority, stream).await else { return Ok(()) };
            let may_be_tls = matches!(objection, Objection::Broke(_) | Objection::Status(400, _));
            Err(Unwell::Answered(match may_be_tls && places.speaks_tls().await {
                true => format!("{objection}; it speaks TLS: write https:// in proxy.upstreams"),
                false => objection.to_string(),
            }))
        };
        let late = || Err(Unwell::Answered(format!("it did not answer within {:?}", self.timeout)));
        timeout(self.timeout, asked).await.unwrap_or_else(|_| late())
    }

    async fn exchange(&self, authority: &str, stream: Stream) -> Result<(), Objection> {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let request = self.request(authority).map_err(|error| Objection::Other(error.to_string()))?;
        let judged = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            if status != self.status {
                return Err(Objection::Status(status, self.status));
            }
            if self.text.is_empty() {
                return Ok(());
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let unread = |error| Objection::Other(format!("its answer could not be read: {error}"));
            let body = body.map_err(unread)?.to_bytes();
            match memchr::memmem::find(&body, self.text.as_bytes()) {
                Some(_) => Ok(()),
                None => Err(Objection::Other(format!("its answer does not contain {:?}", self.text))),
            }
        };
        // The connection ends once the exchange has let go of it; what it ended with, the exchange has seen.
        tokio::join!(judged, connection).0
    }

    fn request(&self, authority: &str) -> http::Result<Request<Empty<Bytes>>> {
        let mut request = Request::get(self.path.clone())
            .header(HOST, authority)
            .header(USER_AGENT, "gms-recorder")
            .header(CONNECTION, "close");
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, credentials.clone());
        }
        request.body(Empty::new())
    }
}

/// Why a node is not well, in words that hold nothing of its answer.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// There is no connection to it. That may be our own fault.
    #[error("it takes no connection: {0}")]
    Unreached(Unreached),
    /// It did not answer as it should.
    #[error("{0}")]
    Answered(String),
}

/// What a check objects to.
#[derive(Debug, thiserror::Error)]
enum Objection {
    #[error("{}", broke(.0))]
    Broke(#[from] hyper::Error),
    #[error("it answered {0}, not {1}")]
    Status(u16, u16),
    #[error("{0}")]
    Other(String),
}

/// A node may refuse our certificate after the handshake (TLS 1.3).
fn broke(error: &hyper::Error) -> String {
    let fault = error.source().and_then(|source| Fault::of(source.downcast_ref()?));
    fault.map_or_else(|| format!("the connection broke: {error}"), |fault| fault.to_string())
}

/// `user:password` as an `Authorization` field (RFC 7617).
fn credentials(file: &[u8]) -> Result<HeaderValue, String> {
    let pair = file.trim_ascii();
    if !pair.contains(&b':') {
        return Err("the file of nodes.health_credentials holds no user:password".into());
    }
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).map_err(|e| e.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Looks the nodes' names up for the first time: so long that the first request finds them, and not so long that a name
/// server which is down keeps the proxy from starting.
pub async fn resolve_first(nodes: &Arc<Nodes>) {
    // What goes on longer is given up, and asked again by the watch.
    let _ = timeout(FIRST_RESOLVE_TIMEOUT, resolve(nodes, |_| true, look_up)).await;
}

/// Watches until dropped.
pub async fn watch(nodes: Arc<Nodes>, check: Option<Check>, resolve_interval: Duration) {
    let checking = async {
        match check {
            Some(check) => check_all(&nodes, &check).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(checking, look_at_all(&nodes), resolve_all(&nodes, resolve_interval));
}

async fn check_all(nodes: &Arc<Nodes>, check: &Check) {
    let mut ticks = ticks(check.interval);
    loop {
        ticks.tick().await;
        let ask = |nodes: Arc<Nodes>, index: usize| {
            let check = check.clone();
            async move {
                let node = &nodes.all[index];
                match check.ask(&node.address.authority(), &node.places).await {
                    Err(Unwell::Unreached(error)) if error.is_told_as_ours() => {} // it was not asked
                    outcome => nodes.checked(index, outcome.map_err(|unwell| unwell.to_string())),
                }
            }
        };
        of_each(nodes, 0..nodes.all.len(), ask).await;
    }
}

/// Tries nodes that took no connections before clients are led to them, and keeps the metrics in time.
async fn look_at_all(nodes: &Arc<Nodes>) {
    let mut ticks = ticks(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        let attempt = async |nodes: Arc<Nodes>, index: usize| match nodes.all[index].places.connect().await {
            Ok(_) => nodes.connected(index),
            Err(error) if error.is_told_as_ours() => {} // it was not tried
            Err(error) => nodes.refused(index, &error),
        };
        of_each(nodes, nodes.to_try(), attempt).await;
        nodes.iter().for_each(|node| nodes.show(node));
    }
}

async fn resolve_all(nodes: &Arc<Nodes>, resolve_interval: Duration) {
    let mut ticks = ticks(resolve_interval.min(UNRESOLVED_INTERVAL));
    let mut last = tokio::time::Instant::now();
    loop {
        ticks.tick().await;
        let is_time = last.elapsed() >= resolve_interval;
        if is_time {
            last = tokio::time::Instant::now();
        }
        resolve(nodes, |places| is_time || places.all().is_empty(), look_up).await;
    }
}

/// Looks up the names of those nodes that are wanted.
async fn resolve<F>(nodes: &Arc<Nodes>, is_wanted: impl Fn(&Places) -> bool, look_up: impl Fn(String, u16) -> F)
where
    F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
{
    let is_name = |index: &usize| nodes.all[*index].address.host.parse::<std::net::IpAddr>().is_err();
    let wanted = (0..nodes.all.len()).filter(is_name).filter(|index| is_wanted(&nodes.all[*index].places));
    let ask = |nodes: Arc<Nodes>, index: usize| {
        let address = &nodes.all[index].address;
        let found = timeout(RESOLVE_TIMEOUT, look_up(address.host.clone(), address.port));
        async move {
            let found = found.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            nodes.resolved(index, found);
        }
    };
    of_each(nodes, wanted, ask).await;
}

async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// All at once: one that is slow delays no other.
async fn of_each<F>(nodes: &Arc<Nodes>, indices: impl Iterator<Item = usize>, work: impl Fn(Arc<Nodes>, usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut works = JoinSet::new();
    for index in indices {
        works.spawn(work(nodes.clone(), index));
    }
    while works.join_next().await.is_some() {}
}

/// A round that took longer than its interval is not made up for.
fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::nodes::Affinity;
    use super::super::standing::State;
    use super::super::{Config, NodeAddress};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn nodes(addresses: &[NodeAddress]) -> Arc<Nodes> {
        let (proxy, nodes) = (Config::default(), nodes::Config::default());
        Arc::new(Nodes::new(addresses.to_vec(), None, &proxy, &Default::default(), &nodes, &Metrics::default()))
    }

    fn at(host: impl ToString, port: u16) -> NodeAddress {
        NodeAddress { name: format!("{}:{port}", host.to_string()), host: host.to_string(), port, is_tls: false }
    }

    /// A node that answers every connection with the same bytes, or never where there are none; and what it was asked.
    async fn node(ip: Ipv4Addr, port: u16, answer: &'static [u8]) -> (u16, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind((ip, port)).await.expect("a free port");
        let (port, asked) = (listener.local_addr().expect("it is bound").port(), Arc::new(Mutex::new(Vec::new())));
        let heard = asked.clone();
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut buffer = vec![0; 4096];
                let length = stream.read(&mut buffer).await.unwrap_or(0);
                heard.lock().expect("no panic holds it").extend_from_slice(&buffer[..length]);
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = stream.write_all(answer).await; // the check may have enough before
            }
        });
        (port, asked)
    }

    #[tokio::test]
    async fn a_node_is_well_that_answers_as_expected() {
        let rows: [(&[u8], Option<&str>); 8] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nONLINE", None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nON\r\n4\r\nLINE\r\n0\r\n\r\n", None),
            (b"HTTP/1.1 200 OK\r\n\r\nthe node is ONLINE", None),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nOFFLINE", Some("its answer does not contain \"ONLINE\"")),
            (b"HTTP/1.1 503 No\r\nContent-Length: 6\r\n\r\nONLINE", Some("it answered 503, not 200")),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nONLINE", Some("its answer could not be read")),
            (b"SSH-2.0-OpenSSH\r\n", Some("the connection broke")),
            (b"", Some("it did not answer within 300ms")),
        ];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "monitor:pa55word\n").expect("the folder is ours");
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
        let config = nodes::Config {
            health_path: "/genesys/1/admin/node/status?a=b".into(),
            health_text: "ONLINE".into(),
            health_timeout: Duration::from_millis(300),
            health_credentials: secret,
            ..nodes::Config::default()
        };
        let check = Check::of(&config).expect("the file can be read").expect("there is a path");
        assert!(!format!("{check:?}").contains(&STANDARD.encode("monitor:pa55word")), "{check:?}");
        for (answer, objection) in rows {
            let (port, asked) = node(Ipv4Addr::LOCALHOST, 0, answer).await;
            let nodes = nodes(&[at("127.0.0.1", port)]);
            let outcome = check.ask("gms-1:8080", &nodes.all[0].places).await.map_err(|unwell| unwell.to_string());
            let answer = String::from_utf8_lossy(answer);
            match (&outcome, objection) {
                (Ok(()), None) => {}
                (Err(why), Some(objection)) => assert!(why.starts_with(objection), "{answer}: {why}"),
                _ => panic!("{answer}: {outcome:?}, wanted {objection:?}"),
            }
            // Where it answered as no node does, it was also asked by TLS.
            let asked = String::from_utf8_lossy(&asked.lock().expect("no panic holds it")).to_ascii_lowercase();
            assert!(
                asked.starts_with("get /genesys/1/admin/node/status?a=b http/1.1\r\nhost: gms-1:8080\r\n"),
                "{asked}"
            );
            let field = format!("authorization: basic {}", STANDARD.encode("monitor:pa55word").to_ascii_lowercase());
            assert!(asked.contains(&field), "{asked}");
        }
        let nodes = nodes(&[at("127.0.0.1", 1)]);
        let why = check.ask("gms-1:8080", &nodes.all[0].places).await.expect_err("nobody listens there");
        assert!(why.to_string().starts_with("it takes no connection"), "{why}");
    }

    #[tokio::test]
    async fn a_name_that_moves_is_followed_and_one_that_cannot_be_looked_up_stays_where_it_was() {
        let well = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let (port, _asked) = node(Ipv4Addr::new(127, 0, 0, 2), 0, well).await;
        node(Ipv4Addr::new(127, 0, 0, 3), port, well).await;
        let nodes = nodes(&[at("gms-1.example.com", port), at("127.0.0.2", port)]);
        let led_to = async || {
            let stream = nodes.all[0].places.connect().await;
            let peer = stream.map_err(|error| error.to_string())?.tcp().peer_addr().expect("it is connected");
            Ok::<_, String>(peer.ip().to_string())
        };
        let found = |ip: &'static str| {
            move |host: String, port: u16| async move {
                assert_eq!(host, "gms-1.example.com", "addresses are not looked up");
                let ip = ip.parse().map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
                Ok(vec![SocketAddr::new(ip, port)])
            }
        };
        assert_eq!(led_to().await.expect_err("it is unknown"), "its name was not resolved yet");
        for (answer, place) in [("127.0.0.2", "127.0.0.2"), ("127.0.0.3", "127.0.0.3"), ("no answer", "127.0.0.3")] {
            resolve(&nodes, |_| true, found(answer)).await;
            assert_eq!(led_to().await.as_deref(), Ok(place), "after {answer}");
        }
        assert_eq!(nodes.report(&nodes.all[0]).detail, "its name cannot be resolved");
        resolve(&nodes, |places| places.all().is_empty(), found("127.0.0.2")).await;
        assert_eq!(led_to().await.as_deref(), Ok("127.0.0.3"), "it was not asked for");
    }

    #[tokio::test]
    async fn a_node_that_is_back_is_found_by_the_watch() {
        let well = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let (port, _asked) = node(Ipv4Addr::LOCALHOST, 0, well).await;
        let config = Config { node_retry_after: Duration::from_millis(50), ..Config::default() };
        let addresses = vec![at("127.0.0.1", port), at("127.0.0.2", port)];
        let nodes = Arc::new(Nodes::new(
            addresses,
            None,
            &config,
            &Default::default(),
            &nodes::Config::default(),
            &Metrics::default(),
        ));
        nodes.refused(0, &io::Error::from(io::ErrorKind::ConnectionRefused).into());
        assert_eq!(nodes.choose(Affinity::None, 0), Some(1));
        let watching = tokio::spawn(watch(nodes.clone(), None, Duration::from_secs(30)));
        let back = async {
            while nodes.report(&nodes.all[0]).state == State::Refusing {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), back).await.expect("it was tried and found well");
        watching.abort();
    }
}
