//! Accepting clients: a thread for each core, each with its own listener, connections and nothing shared but counters.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::access::Access;
use super::affinity::Cookies;
use super::client;
use super::forward::Gate;
use super::http2;
use super::nodes::Nodes;
use super::stream::Stream;
use super::tally::Tally;
use super::tap::Budget;
use super::tls;
use super::upstream::Pool;
use super::wire::Wire;
use super::{Config, Http2};
use crate::recorder::Recorder;
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Metrics;

/// Connections the kernel completes for us before they are accepted.
const BACKLOG: i32 = 4096;
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const PREFACE_START: &[u8; 6] = b"PRI * ";
/// Between two looks at a preface that comes in pieces, as hardly any does.
const PEEK_PAUSE: Duration = Duration::from_millis(10);
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
    /// What keeps sessions there.
    pub cookies: Cookies,
    /// TLS toward clients; none: clear text.
    pub tls: Option<tls::Server>,
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
    let mut shortage = gate.pool.nodes().shortage();
    let mut tidy = interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if open.get() < connections_max => {
                    let guest = Guest::enter(&open, &gate.metrics);
                    let (gate, tls, stopping) = (gate.clone(), tls.clone(), stopping.clone());
                    tokio::task::spawn_local(async move {
                        let _guest = guest;
                        welcome(gate, tls, stream, peer, stopping).await;
                    });
                }
                Ok(_) => drop(gate.metrics.connections_refused.inc()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = tidy.tick() => gate.pool.let_go_of_idle(),
            Ok(()) = shortage.changed() => gate.pool.make_room(),
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
    let pool = Rc::new(Pool::new(start.nodes, config.node_idle_timeout));
    let (tally, recorder, metrics) = (Tally::new(&start.metrics), start.recorder, start.metrics);
    Rc::new(Gate { config, access: start.access, pool, cookies: start.cookies, recorder, budget, metrics, tally })
}

/// One client, by the protocol that it begins with.
async fn welcome(
    gate: Rc<Gate>,
    tls: Option<tls::Server>,
    stream: TcpStream,
    peer: SocketAddr,
    stopping: watch::Receiver<bool>,
) {
    let begins = async {
        let stream = secured(tls, stream, peer, &gate.metrics).await?;
        let speaks_http2 = speaks_http2(&stream, &gate.config).await;
        Some((stream, speaks_http2))
    };
    let mut stop = stopping.clone();
    // Whoever has not begun when the proxy stops is not waited for.
    let begun = tokio::select! {
        biased; // most have begun at once
        begun = begins => begun,
        _ = stop.wait_for(|stop| *stop) => None,
    };
    match begun {
        Some((stream, true)) => Box::pin(http2::converse(gate, stream, peer, stopping)).await,
        Some((stream, false)) => client::converse(gate, Wire::new(stream), peer, stopping).await,
        None => {}
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
