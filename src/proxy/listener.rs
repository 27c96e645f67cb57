//! Accepting clients: a thread for each core, each with its own listener, connections and nothing shared but counters.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

use super::access::Access;
use super::affinity::Cookies;
use super::answer::Refusal;
use super::claim::Claim;
use super::client;
use super::forward::Gate;
use super::http2;
use super::limits::{self, Guest, Guests};
use super::nodes::Nodes;
use super::stage::{Stage, Told};
use super::stream::Stream;
use super::tally::Tally;
use super::tap::Budget;
use super::tls;
use super::upstream::Pool;
use super::wire::Wire;
use super::{Config, Http2, ProxyProtocol, proxy_protocol};
use crate::recorder::Recorder;
use crate::telemetry::Repeated;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::{Limit, Metrics};
use crate::telemetry::pulse;

/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients of a thread that are being told that there is no room for them.
const TOLD_MAX: usize = 64;
const PREFACE_START: &[u8; 6] = b"PRI * ";
/// Between two looks at a preface that comes in pieces, as hardly any does.
const PEEK_PAUSE: Duration = Duration::from_millis(10);
/// Between two signs of life of a thread.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at whether a proxy that ends still has connections.
const LEAVING_PAUSE: Duration = Duration::from_millis(10);
/// Without descriptors it is so after each pause.
static UNACCEPTED: Repeated = Repeated::new(2, Duration::from_secs(60));
/// A scanner tries many handshakes; a handful a minute show what it is.
static HANDSHAKES: Repeated = Repeated::new(10, Duration::from_secs(60));

/// Under a flood the count is in the metrics; here and in the audit it is enough to know that there was one.
static TURNED_AWAY: Repeated = Repeated::new(10, Duration::from_secs(60));

/// Nor need every port scan be told of.
static HEADERS: Repeated = Repeated::new(10, Duration::from_secs(60));

/// What a proxy is started with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The `[proxy]` section.
    pub config: Config,
    /// The `[limits]` section.
    pub limits: limits::Config,
    /// Who may pass.
    pub access: Access,
    /// Where to.
    pub nodes: Arc<Nodes>,
    /// What keeps sessions there.
    pub cookies: Cookies,
    /// TLS toward clients; none: clear text.
    pub tls: Option<tls::Server>,
    /// What is kept.
    pub recorder: Arc<Recorder>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The access log, if there is one.
    pub access_log: Option<Arc<AccessLog>>,
}

/// Where clients come in.
#[derive(Debug)]
pub enum Door {
    /// At an address of our own.
    Claimed(Claim),
    /// Through sockets that listen already: one at the least.
    Open(Vec<std::net::TcpListener>),
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    drain_max: Duration,
    stage: Arc<watch::Sender<Stage>>,
    /// The threads' own, for whoever they are handed over to.
    listeners: Vec<std::net::TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts all threads. Sockets that listen already are accepted from, each by some thread.
    ///
    /// # Errors
    /// Where the address cannot be had, or a thread cannot be started.
    pub fn start(start: Start, door: Door) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if start.config.threads == 0 { cores() } else { start.config.threads };
        let listeners = match door {
            Door::Claimed(claim) => claim.listen(threads)?,
            Door::Open(listeners) => listeners,
        };
        let address = listeners[0].local_addr()?;
        // Whoever acknowledges nothing of what is sent for so long is cut off by the kernel, also once we have closed.
        let silence_max = u32::try_from(start.config.body_idle_timeout.as_millis()).unwrap_or(u32::MAX);
        for listener in &listeners {
            rustix::net::sockopt::set_tcp_user_timeout(listener, silence_max)?; // accepted connections inherit it
        }
        let drain_max = start.config.drain_max;
        let (stage, told) = watch::channel(Stage::Serving);
        let recording = start.recorder.config();
        let held = start.metrics.inspected_bytes.clone();
        let for_all = start.limits.for_all(recording.inspected_bytes_max);
        let budget = Arc::new(Budget::new(recording.body_max, recording.inspected_bytes_max, for_all, held));
        let guests = Guests::new(start.config.connections_max, &start.limits, start.metrics.clone());
        let (ready, started) = mpsc::channel();
        let spawn = |number| {
            let (start, told, budget, ready) = (start.clone(), Told::new(told.clone()), budget.clone(), ready.clone());
            let guests = guests.clone();
            let own = share(&listeners, number, threads)?;
            let name = format!("proxy-{number}");
            let pulse = start.metrics.pulses.begin(&name);
            let thread = move || run(&ready, serve(start, budget, guests, own, told, pulse));
            std::thread::Builder::new().name(name).spawn(thread)
        };
        let all = (0..threads).map(spawn).collect::<io::Result<Vec<_>>>()?;
        let gone = || Err(io::Error::other("a proxy thread ended before it began"));
        all.iter().try_for_each(|_| started.recv().unwrap_or_else(|_| gone()))?;
        Ok(Self { address, drain_max, stage: Arc::new(stage), listeners, threads: all })
    }

    /// Whether a proxy that listens at an address is who answers at another: a node there would be the proxy itself.
    pub fn is_at(listen: SocketAddr, address: SocketAddr) -> bool {
        let (ours, there) = (listen.ip().to_canonical(), address.ip().to_canonical());
        listen.port() == address.port() && (ours == there || (ours.is_unspecified() && is_own(there)))
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets that clients connect to.
    pub fn listeners(&self) -> &[std::net::TcpListener] {
        &self.listeners
    }

    /// What ends it, to be kept while it ends.
    pub fn ending(&self) -> Ending {
        Ending { stage: self.stage.clone(), drain_max: self.drain_max }
    }

    /// Returns when every thread has ended, as [`Ending`] tells them to.
    pub fn join(self) {
        drop(self.listeners);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a proxy thread ended abnormally");
            }
        }
    }
}

/// Ends a proxy.
#[derive(Debug, Clone)]
pub struct Ending {
    stage: Arc<watch::Sender<Stage>>,
    drain_max: Duration,
}

impl Ending {
    /// Stops accepting and finishes what is in flight within `drain_max`.
    pub fn stop(&self) {
        self.stage.send_replace(Stage::Stopping { until: Instant::now() + self.drain_max });
    }

    /// Leaves new clients to another process that accepts from the same sockets, and goes on with those that are here:
    /// each connection until its next answer, and none longer than `leave_max`.
    pub fn hand_over(&self, leave_max: Duration) {
        self.stage.send_replace(Stage::HandedOver { until: Instant::now() + leave_max });
    }
}

/// The listeners of one thread: as many as there are for it, or a part in one where there are fewer than threads.
fn share(all: &[std::net::TcpListener], number: usize, threads: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let places = all.len().max(threads);
    (number..places).step_by(threads).map(|place| all[place % all.len()].try_clone()).collect()
}

/// Whether an address is this machine's: the kernel then takes it for the sender's, too. Nothing is sent.
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let sender = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || ip.is_unspecified() || sender().is_ok_and(|sender| sender.ip() == ip)
}

/// A thread's runtime: its tasks stay on it and share without locks. Reports whether it could be had.
fn run(ready: &mpsc::Sender<io::Result<()>>, thread: impl Future<Output = ()>) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    if ready.send(Ok(())).is_ok() {
        runtime.block_on(thread);
    }
}

/// What a thread accepts from.
struct Listeners {
    all: Vec<TcpListener>,
    /// The one that is asked first next time.
    turn: Cell<usize>,
}

impl Listeners {
    fn new(all: Vec<std::net::TcpListener>) -> io::Result<Self> {
        let own = |listener: std::net::TcpListener| {
            listener.set_nonblocking(true)?; // one of another process may block
            TcpListener::from_std(listener)
        };
        Ok(Self { all: all.into_iter().map(own).collect::<io::Result<_>>()?, turn: Cell::new(0) })
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let count = self.all.len();
        let in_turn = (0..count).map(|at| &self.all[turn.wrapping_add(at) % count]);
        in_turn.map(|listener| listener.poll_accept(context)).find(Poll::is_ready).unwrap_or(Poll::Pending)
    }
}

/// One thread's life: accept until told to leave that to others, then drain.
async fn serve(
    start: Start,
    budget: Arc<Budget>,
    guests: Arc<Guests>,
    listeners: Vec<std::net::TcpListener>,
    told: Told,
    pulse: pulse::Pulse,
) {
    let Ok(listeners) = Listeners::new(listeners) else { return };
    let tls = start.tls.clone();
    let gate = gate(start, budget, guests.clone());
    let (open, dismissed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let mut shortage = gate.pool.nodes().shortage();
    let (mut tidy, mut sign_of_life) = (interval(Duration::from_secs(5)), interval(PULSE_INTERVAL));
    loop {
        tokio::select! {
            accepted = listeners.accept() => match accepted {
                Ok((stream, peer)) => match admit(&gate, &guests, peer) {
                    Ok(guest) => {
                        let (gate, tls, told) = (gate.clone(), tls.clone(), told.clone());
                        let at_work = AtWork::enter(&open);
                        tokio::task::spawn_local(async move {
                            let _at_work = at_work;
                            welcome(gate, guest, tls, stream, peer, told).await;
                        });
                    }
                    Err(refusal) => turn_away(&gate, &dismissed, refusal, stream, peer, tls.is_some()),
                },
                Err(error) => {
                    if let Some(not_shown) = UNACCEPTED.admit(std::time::Instant::now()) {
                        tracing::warn!(%error, not_shown, "a connection could not be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = tidy.tick() => gate.pool.let_go_of_idle(),
            _ = sign_of_life.tick() => pulse.beat(),
            Ok(()) = shortage.changed() => gate.pool.make_room(),
            () = told.leaving() => break,
        }
    }
    drop(listeners);
    while open.get() > 0 && !told.is_over() {
        tokio::select! {
            () = sleep(LEAVING_PAUSE) => {}
            _ = tidy.tick() => gate.pool.let_go_of_idle(),
            _ = sign_of_life.tick() => pulse.beat(),
            Ok(()) = shortage.changed() => gate.pool.make_room(),
        }
    }
    if open.get() > 0 {
        tracing::warn!(connections = open.get(), "closing connections that were still at work at the end");
    }
    pulse.end();
}

fn gate(start: Start, budget: Arc<Budget>, guests: Arc<Guests>) -> Rc<Gate> {
    let config = start.config;
    let pool = Rc::new(Pool::new(start.nodes, config.node_idle_timeout));
    let (tally, recorder, metrics) = (Tally::new(&start.metrics), start.recorder, start.metrics);
    Rc::new(Gate {
        config,
        limits: start.limits,
        guests,
        access: start.access,
        pool,
        cookies: start.cookies,
        recorder,
        budget,
        metrics,
        tally,
        access_log: start.access_log.map(|log| Rc::new(log.pen())),
    })
}

/// Whether there is room for one more.
fn admit(gate: &Gate, guests: &Arc<Guests>, peer: SocketAddr) -> Result<Guest, Refusal> {
    let mut guest = guests.enter()?;
    if !is_trusted(gate, peer.ip()) {
        guest.introduce(peer.ip())?;
    }
    Ok(guest)
}

fn is_trusted(gate: &Gate, address: IpAddr) -> bool {
    gate.config.trusted_proxies.iter().any(|network| network.contains(&address))
}

/// Closes a connection for which there is no room. Its client is told why, where it can read that and not too many are
/// being told already: then it is just closed.
fn turn_away(
    gate: &Gate,
    dismissed: &Rc<Cell<usize>>,
    refusal: Refusal,
    stream: TcpStream,
    peer: SocketAddr,
    is_tls: bool,
) {
    if let Some(not_shown) = TURNED_AWAY.admit(std::time::Instant::now()) {
        tracing::warn!(%peer, not_shown, "{}", refusal.sentence());
        gate.turn_away(refusal, peer.ip(), "", "");
    } else if let Some(limit) = limits::behind(refusal) {
        gate.metrics.reached(limit);
    }
    if let Some(at_work) = AtWork::enter_below(dismissed, TOLD_MAX).filter(|_| !is_tls) {
        tokio::task::spawn_local(async move {
            let _at_work = at_work;
            client::dismiss(refusal, Wire::new(Stream::Clear(stream))).await;
        });
    }
}

/// One client, by the protocol that it begins with.
async fn welcome(
    gate: Rc<Gate>,
    mut guest: Guest,
    tls: Option<tls::Server>,
    mut stream: TcpStream,
    peer: SocketAddr,
    told: Told,
) {
    let begins = async {
        let peer = match gate.config.proxy_protocol {
            ProxyProtocol::Never => peer,
            ProxyProtocol::Required => Box::pin(client_behind(&gate, &mut guest, &mut stream, peer)).await?,
        };
        let stream = secured(tls, stream, peer, &gate.metrics).await?;
        let speaks_http2 = speaks_http2(&stream, &gate.config).await;
        Some((stream, peer, speaks_http2))
    };
    // Whoever has not begun when the proxy stops is not waited for.
    let begun = tokio::select! {
        biased; // most have begun at once
        begun = begins => begun,
        () = told.stopping() => None,
    };
    match begun {
        Some((stream, peer, true)) => Box::pin(http2::converse(gate, stream, peer, told)).await,
        Some((stream, peer, false)) => client::converse(gate, Wire::new(stream), peer, told).await,
        None => {}
    }
}

/// The client that a load balancer speaks for, by the header that its connection begins with; none where it is to be closed.
async fn client_behind(gate: &Gate, guest: &mut Guest, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
    let header = async {
        if !is_trusted(gate, peer.ip()) {
            return Err(io::Error::other("it is not of proxy.trusted_proxies"));
        }
        timeout(gate.limits.head_timeout, header_of(stream)).await?
    };
    let client = match header.await {
        Ok(header) => header.client.unwrap_or(peer),
        Err(error) => {
            gate.metrics.reached(Limit::ProxyProtocol);
            if let Some(not_shown) = HEADERS.admit(std::time::Instant::now()) {
                tracing::info!(%error, %peer, not_shown, "a connection without a PROXY header to believe was closed");
            }
            return None;
        }
    };
    if !is_trusted(gate, client.ip())
        && let Err(refusal) = guest.introduce(client.ip())
    {
        gate.turn_away(refusal, client.ip(), "", "");
        return None;
    }
    Some(client)
}

/// Takes the header, and nothing behind it, from the stream.
async fn header_of(stream: &mut TcpStream) -> io::Result<proxy_protocol::Header> {
    let mut start = [0; proxy_protocol::HEADER_BYTES_MAX];
    loop {
        let length = stream.peek(&mut start).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match proxy_protocol::read(&start[..length]).map_err(io::Error::other)? {
            Some(header) => {
                stream.read_exact(&mut start[..header.length]).await?;
                return Ok(header);
            }
            None => sleep(PEEK_PAUSE).await, // as in `begins_with_preface`
        }
    }
}

/// The stream to talk by; none where the client's handshake failed.
async fn secured(tls: Option<tls::Server>, stream: TcpStream, peer: SocketAddr, metrics: &Metrics) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Clear(stream)) };
    match Box::pin(tls.accept(stream)).await {
        Ok(stream) => Some(Stream::Tls(Box::new(stream.into()))),
        Err(error) => {
            metrics.tls_handshake_errors.inc();
            if let Some(not_shown) = HANDSHAKES.admit(std::time::Instant::now()) {
                tracing::info!(%error, %peer, not_shown, "a client's TLS handshake failed");
            }
            None
        }
    }
}

/// Whether a client has chosen HTTP/2: in its handshake, or by how it begins, where that is let through.
async fn speaks_http2(stream: &Stream, config: &Config) -> bool {
    match stream {
        Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        Stream::Clear(stream) if config.http2 == Http2::Always => {
            let begins = Box::pin(begins_with_preface(stream));
            timeout(config.client_timeout, begins).await.unwrap_or(false)
        }
        Stream::Clear(_) => false,
    }
}

/// Looks at the first bytes without taking them. No method of HTTP/1.1 begins as the preface of HTTP/2 does (RFC 9113,
/// section 3.4).
async fn begins_with_preface(stream: &TcpStream) -> bool {
    let mut start = [0; PREFACE_START.len()];
    loop {
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return false,
            Ok(length) if start[..length] != PREFACE_START[..length] => return false,
            Ok(length) if length == PREFACE_START.len() => return true,
            Ok(_) => sleep(PEEK_PAUSE).await, // it came in pieces: what has come would be seen again at once
        }
    }
}

/// Counts something of this thread for as long as it goes on.
struct AtWork(Rc<Cell<usize>>);

impl AtWork {
    fn enter(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }

    fn enter_below(count: &Rc<Cell<usize>>, most: usize) -> Option<Self> {
        (count.get() < most).then(|| Self::enter(count))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_knows_its_own_addresses() {
        let rows = [
            ("10.9.8.7:8080", "10.9.8.7:8080", true),
            ("10.9.8.7:8080", "10.9.8.7:8081", false),
            ("10.9.8.7:8080", "127.0.0.1:8080", false),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "127.8.8.8:8080", true),
            ("0.0.0.0:8080", "127.0.0.1:8081", false),
            ("0.0.0.0:8080", "192.0.2.1:8080", false), // nobody's (RFC 5737)
            ("[::]:8080", "127.0.0.1:8080", true),
            ("[::]:8080", "[::1]:8080", true),
            ("[::ffff:10.9.8.7]:8080", "10.9.8.7:8080", true),
        ];
        for (listen, address, is_at) in rows {
            let parse = |text: &str| text.parse().expect("an address");
            assert_eq!(Proxy::is_at(parse(listen), parse(address)), is_at, "{listen}, {address}");
        }
    }
}
