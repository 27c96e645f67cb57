//! Accepting clients: a thread for each core, each with its own listener, connections and nothing shared but counters.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout_at};

use super::Config;
use super::access::Access;
use super::body::ClientBody;
use super::doorbell::Doorbell;
use super::forward::{Gate, forward};
use super::gathering::{Gathering, Rest, Unrest};
use super::headers::Peer;
use super::nodes::Nodes;
use super::stream::Stream;
use super::tally::Tally;
use super::tap::Budget;
use super::tls;
use super::upstream::{Limits, Pool};
use crate::recorder::Recorder;
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Metrics;

/// Connections the kernel completes for us before they are accepted.
const BACKLOG: i32 = 4096;
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that asked nothing for this long is at rest: between two polls of a widget.
const REST_AFTER: Duration = Duration::from_millis(500);
/// The same where a thread has more conversations than [`WARM_MAX`], so that many clients at once need no more memory
/// than many one after another: a conversation takes 24 KiB, a client at rest 2.
const REST_SOON: Duration = Duration::from_millis(50);
const WARM_MAX: usize = 256;
/// Fields of one message.
const FIELDS_MAX: usize = 128;

/// A scanner tries many handshakes; a handful a minute show what it is.
static HANDSHAKES: Repeated = Repeated::new(10, Duration::from_secs(60));

/// What a proxy is started with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The `[proxy]` section.
    pub config: Config,
    /// Who may pass.
    pub access: Access,
    /// Where to.
    pub nodes: Arc<Nodes>,
    /// TLS toward clients; none: clear text.
    pub tls: Option<tls::Server>,
    /// TLS toward nodes, where one is reached so.
    pub node_tls: Option<tls::Connector>,
    /// What is kept.
    pub recorder: Arc<Recorder>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Binds and starts all threads.
    ///
    /// # Errors
    /// Where the address cannot be had, or a thread cannot be started.
    pub fn start(start: Start) -> io::Result<Self> {
        let address = Self::probe(start.config.listen)?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if start.config.threads == 0 { cores() } else { start.config.threads };
        let (stop, stopping) = watch::channel(false);
        let recording = start.recorder.config();
        let held = start.metrics.inspected_bytes.clone();
        let budget = Arc::new(Budget::new(recording.body_max, recording.inspected_bytes_max, held));
        let (ready, started) = mpsc::channel();
        let spawn = |number| {
            let (start, stopping, budget, ready) = (start.clone(), stopping.clone(), budget.clone(), ready.clone());
            let listener = listen(address)?;
            let thread = move || run(&ready, serve(start, budget, threads, listener, stopping));
            std::thread::Builder::new().name(format!("proxy-{number}")).spawn(thread)
        };
        let all = (0..threads).map(spawn).collect::<io::Result<Vec<_>>>()?;
        let gone = || Err(io::Error::other("a proxy thread ended before it began"));
        all.iter().try_for_each(|_| started.recv().unwrap_or_else(|_| gone()))?;
        Ok(Self { address, stop, threads: all })
    }

    /// Finds out whether the address is free, and which port it is. The threads share it, and with a shared address
    /// another program there would not be noticed; a listener that shares with nobody is.
    ///
    /// # Errors
    /// Where it is not.
    pub fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
        std::net::TcpListener::bind(address)?.local_addr()
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, finishes what is in flight within `drain_max`, and returns when every thread has ended.
    pub fn stop(self) {
        let _ = self.stop.send(true); // a thread that has ended needs no telling
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a proxy thread ended abnormally");
            }
        }
    }
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

/// A listener that shares its address with the other threads' (SO_REUSEPORT).
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// One thread's life: accept until told to stop, then drain.
async fn serve(
    start: Start,
    budget: Arc<Budget>,
    threads: usize,
    listener: std::net::TcpListener,
    stopping: watch::Receiver<bool>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let tls = start.tls.clone();
    let gate = gate(start, budget);
    let connections_max = gate.config.connections_max.div_ceil(threads);
    let open = Rc::new(Cell::new(0));
    let mut stop = stopping.clone();
    let mut tidy = interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if open.get() < connections_max => {
                    let guest = Guest::enter(&open, &gate.metrics);
                    tokio::task::spawn_local(converse(gate.clone(), tls.clone(), stream, peer, stopping.clone(), guest));
                }
                Ok(_) => drop(gate.metrics.connections_refused.inc()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = tidy.tick() => gate.pool.let_go_of_idle(),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    let until = Instant::now() + gate.config.drain_max;
    while open.get() > 0 && timeout_at(until, sleep(Duration::from_millis(10))).await.is_ok() {}
    if open.get() > 0 {
        tracing::warn!(connections = open.get(), "closing connections that were still at work after drain_max");
    }
}

fn gate(start: Start, budget: Arc<Budget>) -> Rc<Gate> {
    let config = start.config;
    let limits = Limits {
        connect_timeout: config.connect_timeout,
        idle_timeout: config.node_idle_timeout,
        connections_max: config.node_connections_max,
        retry_after: config.node_retry_after,
    };
    let pool = Rc::new(Pool::new(start.nodes, start.node_tls, limits));
    let (tally, recorder, metrics) = (Tally::new(&start.metrics), start.recorder, start.metrics);
    Rc::new(Gate { config, access: start.access, pool, recorder, budget, metrics, tally, warm: Rc::default() })
}

/// One client's connection, request after request.
///
/// A widget asks every few seconds and keeps its connection. While it does not ask, nothing is kept for it but the
/// stream: what hyper needs for a conversation (two buffers of 8 KiB, the exchange) is let go and made anew.
async fn converse(
    gate: Rc<Gate>,
    tls: Option<tls::Server>,
    stream: TcpStream,
    peer: SocketAddr,
    stopping: watch::Receiver<bool>,
    guest: Guest,
) {
    let _guest = guest;
    let rest = Arc::new(Rest::default());
    let Some(stream) = secured(tls, stream, peer, &gate.metrics).await else { return };
    let mut stream = Gathering::new(stream, rest.clone());
    loop {
        let (quiet, unread) = match attend(&gate, stream, peer, &rest, stopping.clone()).await {
            Attended::Ended(Ok(())) => return,
            Attended::Ended(Err(error)) => return tracing::debug!(%error, %peer, "a client's connection ended"),
            Attended::AtRest(stream, unread) => (stream, unread),
        };
        if unread.is_empty() && !rouse(&quiet, gate.config.client_timeout, stopping.clone()).await {
            return;
        }
        stream = Gathering::resume(quiet, unread, rest.clone());
    }
}

/// The stream to talk by; none where the client's handshake failed.
async fn secured(tls: Option<tls::Server>, stream: TcpStream, peer: SocketAddr, metrics: &Metrics) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Clear(stream)) };
    match tls.accept(stream).await {
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

/// How a conversation paused.
enum Attended {
    Ended(hyper::Result<()>),
    AtRest(Stream, Bytes),
}

/// Serves a client until it has been at rest for a while.
async fn attend(
    gate: &Rc<Gate>,
    stream: Gathering,
    peer: SocketAddr,
    rest: &Arc<Rest>,
    mut stopping: watch::Receiver<bool>,
) -> Attended {
    let bell = Doorbell::new();
    let waker = Waker::from(bell.clone());
    let from = Rc::new((Peer::new(peer.ip(), &gate.config.trusted_proxies), bell.clone(), rest.clone()));
    let timeout = gate.config.client_timeout;
    let shared = gate.clone();
    let service = service_fn(move |request| {
        let (gate, from) = (shared.clone(), from.clone());
        async move {
            let unrest = from.2.disturb();
            let response = forward(&gate, &from.0, &from.1, request).await;
            Ok::<_, Infallible>(response.map(|body| Lasting { body, _unrest: unrest }))
        }
    });
    let connection = http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_headers(FIELDS_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut connection = Box::new(connection); // so that a task at rest is small
    let told = stopping.clone();
    let mut stop = pin!(stopping.wait_for(|stop| *stop));
    let warm = Warm::enter(&gate.warm);
    let mut pause = pin!(sleep(warm.rest_after()));
    let (mut is_listening, mut is_leaving, mut exchanges) = (false, false, None);
    let ended = poll_fn(|context| {
        if !is_listening {
            is_listening = true;
            // Both keep the waker; from then on a look at each is enough.
            let _ = stop.as_mut().poll(context);
            let _ = pause.as_mut().poll(context);
        }
        if !is_leaving && told.has_changed().unwrap_or(true) {
            is_leaving = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        if pause.is_elapsed() && !is_leaving {
            let before = std::mem::replace(&mut exchanges, rest.at_rest());
            if exchanges.is_some() && exchanges == before {
                return Poll::Ready(None);
            }
            pause.as_mut().reset(Instant::now() + warm.rest_after());
            let _ = pause.as_mut().poll(context);
        }
        bell.poll(&waker, Pin::new(&mut *connection), context).map(Some)
    });
    if let Some(ended) = ended.await {
        return Attended::Ended(ended);
    }
    let Some(parts) = connection.into_parts() else { return Attended::Ended(Ok(())) };
    let (stream, unread) = parts.io.into_inner();
    Attended::AtRest(stream, Bytes::from([parts.read_buf, unread].concat()))
}

/// Waits until a client at rest says something. False where it is to be left: too late, gone, or the proxy stops.
async fn rouse(stream: &Stream, timeout: Duration, mut stopping: watch::Receiver<bool>) -> bool {
    tokio::select! {
        readable = stream.tcp().readable() => readable.is_ok(),
        () = sleep(timeout) => false,
        _ = stopping.wait_for(|stop| *stop) => false,
    }
}

/// An answer's body, as long as which the exchange lasts.
struct Lasting {
    body: ClientBody,
    _unrest: Unrest,
}

impl Body for Lasting {
    type Data = Bytes;
    type Error = super::body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a conversation for as long as hyper keeps something for it.
struct Warm(Rc<Cell<usize>>);

impl Warm {
    fn enter(warm: &Rc<Cell<usize>>) -> Self {
        warm.set(warm.get() + 1);
        Self(warm.clone())
    }

    fn rest_after(&self) -> Duration {
        if self.0.get() > WARM_MAX { REST_SOON } else { REST_AFTER }
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Counts a connection for as long as it is open.
struct Guest {
    open: Rc<Cell<usize>>,
    metrics: Arc<Metrics>,
}

impl Guest {
    fn enter(open: &Rc<Cell<usize>>, metrics: &Arc<Metrics>) -> Self {
        open.set(open.get() + 1);
        metrics.connections.inc();
        Self { open: open.clone(), metrics: metrics.clone() }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.metrics.connections.dec();
    }
}
