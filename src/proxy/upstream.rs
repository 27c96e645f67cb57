//! The connections to the nodes: a thread's own.
//!
//! A connection has no task of its own: whoever uses it drives it, in the same wake-up that brought the bytes. One that is
//! idle is driven by nobody, and looked at when it is wanted again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Reach, Refusal};
use super::body::Upload;
use super::head::{Head, Kind};
use super::nodes::{Affinity, Nodes};
use super::permits::Permit;
use super::places::Unreached;
use super::tls::Fault;
use super::wire::{NoHead, Wire};

/// Idle connections a thread keeps to one node: more than two threads' polls ever need at once.
const IDLE_MAX: usize = 256;
/// A connection that was idle for longer is proved to be alive by a look at the kernel before a request goes out on it. A
/// busy one was used a moment ago, and the look would be a tenth of what the proxy itself does for a poll.
const PROVE_AFTER: Duration = Duration::from_millis(5);
/// Interim answers (1xx) before an answer. They are not relayed (R1).
const INTERIM_MAX: usize = 16;

/// A thread's connections to all nodes.
#[derive(Debug)]
pub struct Pool {
    nodes: Arc<Nodes>,
    /// How long an unused connection is kept.
    idle_timeout: Duration,
    idle: RefCell<Vec<VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// One connection, counted for as long as it is open.
#[derive(Debug)]
struct Line {
    wire: Wire,
    /// Where the node's name led, see `Places::version`.
    version: u32,
    permit: Permit,
}

impl Line {
    /// Whether the next request can go out on it: the node has not closed it, and sent nothing that was not asked for.
    fn is_quiet(&self, idle: Duration) -> bool {
        self.wire.is_quiet(idle > PROVE_AFTER)
    }
}

/// A connection in use. Dropped, it closes; given back, it is used again.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    index: usize,
    /// There until it is given back.
    line: Option<Line>,
    upload: Option<Rc<Upload>>,
    /// When the exchange began. Its connection counts as unused since then, which spares a look at the clock.
    began: Instant,
    /// How long the connection was unused before; none: it is new.
    unused: Option<Duration>,
    /// The node will close it, or may.
    is_last: bool,
}

/// A request as a node gets it.
#[derive(Debug)]
pub struct Outbound {
    /// Its head, and what has come of its body.
    pub bytes: Vec<u8>,
    /// What is still to come of it.
    pub upload: Rc<Upload>,
    /// It may be sent once more where it was lost (R2): it is safe, and has no body.
    pub is_safe: bool,
    /// It is of a chat in progress.
    pub goes_on: bool,
    /// When its head was there.
    pub began: Instant,
}

/// Why no answer came.
#[derive(Debug)]
pub struct Failure {
    /// What the client is told.
    pub refusal: Refusal,
    /// Whether the node may have acted.
    pub reach: Reach,
    /// The node asked last.
    pub node: Option<Arc<str>>,
    /// What went wrong last, and at which node: for operators.
    pub why: Option<String>,
}

/// Why a node was not asked.
#[derive(Debug)]
struct Closed {
    refusal: Refusal,
    why: Option<String>,
}

/// How an exchange on a connection broke.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("nothing was sent: {0}")]
    Unsent(io::Error),
    #[error("no byte of an answer came: {0}")]
    Silent(NoHead),
    /// Within the answer's head, or by the client within its request.
    #[error("{0}")]
    Midway(String, Refusal),
}

impl Pool {
    /// No connection yet.
    pub fn new(nodes: Arc<Nodes>, idle_timeout: Duration) -> Self {
        let idle = RefCell::new(nodes.all.iter().map(|_| VecDeque::new()).collect());
        Self { nodes, idle_timeout, idle }
    }

    /// The nodes it leads to.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Sends a request and returns the head of its answer (R2).
    ///
    /// It is tried at another node only while nothing of it was sent; and once more where it has no body, is safe, and
    /// its reused connection died before any byte of an answer.
    ///
    /// # Errors
    /// Where no node took it, or its connection broke.
    pub async fn send(
        self: &Rc<Self>,
        request: &Outbound,
        affinity: Affinity<'_>,
        asked: &RefCell<Option<Arc<str>>>,
    ) -> Result<(Head, Lease), Failure> {
        let mut tried = 0_u64;
        let mut closed = Closed { refusal: Refusal::NoNode, why: None };
        while let Some(index) = self.nodes.choose(affinity, tried) {
            if !request.goes_on && self.nodes.is_short(index) {
                closed = Closed { refusal: Refusal::NodesFull, why: None };
                tried |= 1 << index;
                continue;
            }
            let mut lease = match self.lease(index, request).await {
                Ok(lease) => lease,
                Err(other) => {
                    if closed.refusal != Refusal::NodesFull {
                        closed = other; // it is said that all are in use where any is
                    }
                    tried |= 1 << index;
                    continue;
                }
            };
            asked.replace(Some(self.nodes.all[index].name.clone()));
            let unused = lease.unused;
            let broken = match lease.exchange(request).await {
                Ok(head) => {
                    self.nodes.answered(index, head.status());
                    return Ok((head, lease));
                }
                Err(broken) => broken,
            };
            drop(lease);
            if let (Break::Silent(_), Some(unused)) = (&broken, unused) {
                self.nodes.lost(index, unused);
            }
            match broken {
                Break::Unsent(_) if unused.is_some() => {} // a fresh connection to the same node may do
                Break::Unsent(_) => tried |= 1 << index,
                Break::Silent(_) if unused.is_some() && request.is_safe => {
                    return Box::pin(self.send_again(request, index)).await;
                }
                broken => return Err(self.broken(index, &broken)),
            }
        }
        let Closed { refusal, why } = closed;
        Err(Failure { refusal, reach: Reach::NotForwarded, node: asked.borrow().clone(), why })
    }

    /// The one repetition of a safe request, on a connection of its own.
    async fn send_again(self: &Rc<Self>, request: &Outbound, index: usize) -> Result<(Head, Lease), Failure> {
        let unreachable = |Closed { refusal, why }| Failure {
            refusal,
            reach: Reach::MayHaveActed,
            node: Some(self.nodes.all[index].name.clone()),
            why,
        };
        let mut lease = self.connect(index, request).await.map_err(unreachable)?;
        match lease.exchange(request).await {
            Ok(head) => {
                self.nodes.answered(index, head.status());
                Ok((head, lease))
            }
            Err(broken) => Err(self.broken(index, &broken)),
        }
    }

    fn broken(&self, index: usize, broken: &Break) -> Failure {
        let node = &self.nodes.all[index];
        tracing::debug!(node = &*node.name, %broken, "an exchange with a node broke");
        let (refusal, why) = match broken {
            Break::Midway(why, refusal) => (*refusal, why.clone()),
            Break::Silent(NoHead::Broken(error)) => match Fault::of(error) {
                Some(fault) => (Refusal::NodeTls(fault.kind), fault.to_string()),
                None => (Refusal::BrokenAnswer, broken.to_string()),
            },
            Break::Unsent(_) | Break::Silent(_) => (Refusal::BrokenAnswer, broken.to_string()),
        };
        let is_node_s = matches!(refusal, Refusal::BrokenAnswer | Refusal::NodeTls(_));
        if is_node_s {
            self.nodes.unanswered(&node.name, &why);
        }
        let why = is_node_s.then(|| format!("{}: {why}", node.name));
        Failure { refusal, reach: Reach::MayHaveActed, node: Some(node.name.clone()), why }
    }

    /// An idle connection that is still alive, or a new one.
    async fn lease(self: &Rc<Self>, index: usize, request: &Outbound) -> Result<Lease, Closed> {
        match self.idle_line(index, request) {
            Some((line, unused)) => Ok(self.leased(index, line, request.began, Some(unused))),
            None => Box::pin(self.connect(index, request)).await, // seldom, and large
        }
    }

    /// The one used last, so that surplus ones grow old and go.
    fn idle_line(&self, index: usize, request: &Outbound) -> Option<(Line, Duration)> {
        let mut idle = self.idle.borrow_mut();
        while let Some(latest) = idle[index].pop_back() {
            let unused = request.began.saturating_duration_since(latest.since);
            if !request.is_safe && !self.nodes.all[index].reuse.admits(unused) {
                return None; // nor would an older one do
            }
            if unused <= self.idle_timeout && latest.line.is_quiet(unused) {
                return Some((latest.line, unused));
            }
        }
        None
    }

    async fn connect(self: &Rc<Self>, index: usize, request: &Outbound) -> Result<Lease, Closed> {
        let node = &self.nodes.all[index];
        let permit = node.permits.take(request.goes_on).await;
        let permit = permit.map_err(|refusal| Closed { refusal, why: None })?;
        let version = node.places.version();
        match node.places.connect().await {
            Ok(stream) => {
                self.nodes.connected(index);
                Ok(self.leased(index, Line { wire: Wire::new(stream), version, permit }, request.began, None))
            }
            Err(error) if error.is_told_as_ours() => {
                Err(Closed { refusal: Refusal::NodesFull, why: Some(error.to_string()) })
            }
            Err(error) => {
                self.nodes.refused(index, &error);
                let refusal = match &error {
                    Unreached::Tls(fault) => Refusal::NodeTls(fault.kind),
                    Unreached::Refused(_) | Unreached::Unresolved => Refusal::NoNode,
                };
                Err(Closed { refusal, why: Some(format!("{}: {error}", node.name)) })
            }
        }
    }

    fn leased(self: &Rc<Self>, index: usize, line: Line, began: Instant, unused: Option<Duration>) -> Lease {
        let node = &self.nodes.all[index];
        node.exchanges.fetch_add(1, Ordering::Relaxed);
        node.at_work.inc();
        Lease { pool: self.clone(), index, line: Some(line), upload: None, began, unused, is_last: false }
    }

    /// Lets go of connections that were unused for too long, that their node has closed, or that were made before its name
    /// led elsewhere.
    pub fn let_go_of_idle(&self) {
        self.nodes.forget();
        for (node, idle) in self.nodes.iter().zip(self.idle.borrow_mut().iter_mut()) {
            idle.retain(|idle| {
                let unused = idle.since.elapsed();
                unused <= self.idle_timeout && idle.line.is_quiet(unused) && idle.line.version == node.places.version()
            });
        }
    }

    /// Lets go of as many idle connections as are waited for elsewhere, the oldest first.
    pub fn make_room(&self) {
        for (node, idle) in self.nodes.iter().zip(self.idle.borrow_mut().iter_mut()) {
            let surplus = node.awaited().min(idle.len());
            idle.drain(..surplus);
        }
    }
}

impl Lease {
    /// Its connection.
    pub fn wire(&self) -> &Wire {
        &self.line.as_ref().expect("a lease has its connection until it is given back").wire
    }

    /// Sends a request and waits for the head of its answer.
    async fn exchange(&mut self, request: &Outbound) -> Result<Head, Break> {
        let mut is_sent = false;
        let mut interim = 0;
        let head = poll_fn(|context| {
            if !is_sent {
                // TLS may have sent a part of it before it failed.
                let lost = |error| match self.wire().is_tls() {
                    true => Break::Silent(NoHead::Broken(error)),
                    false => Break::Unsent(error),
                };
                self.wire().send(context, [&request.bytes]).map_err(lost)?;
                is_sent = true;
            }
            loop {
                // A node that takes no more may have answered already: its answer counts.
                if let Poll::Ready(Err(error)) = request.upload.poll_pump(context, self.wire()) {
                    return Poll::Ready(Err(Break::Midway(error.to_string(), error.refusal())));
                }
                match ready!(self.wire().poll_head(context, Kind::Answer)) {
                    Ok(Some(head)) if head.status() == 101 || head.status() >= 200 => return Poll::Ready(Ok(head)),
                    Ok(Some(_)) if interim < INTERIM_MAX => interim += 1,
                    Ok(Some(_)) => {
                        let too_many = "interim answers without an end".into();
                        return Poll::Ready(Err(Break::Midway(too_many, Refusal::BrokenAnswer)));
                    }
                    Err(_) if self.wire().speaks_tls() => {
                        let why = "it speaks TLS: write https:// in proxy.upstreams".into();
                        return Poll::Ready(Err(Break::Midway(why, Refusal::BrokenAnswer)));
                    }
                    Ok(None) => {
                        let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
                        return Poll::Ready(Err(Break::Silent(ended.into())));
                    }
                    Err(error @ NoHead::Broken(_)) if self.wire().is_blank() && interim == 0 => {
                        return Poll::Ready(Err(Break::Silent(error)));
                    }
                    Err(error) => return Poll::Ready(Err(Break::Midway(error.to_string(), Refusal::BrokenAnswer))),
                }
            }
        });
        let head = head.await?;
        self.is_last = !head.keeps_alive();
        let is_sent = request.upload.is_over() && self.wire().is_flushed();
        self.upload = (!is_sent).then(|| request.upload.clone());
        Ok(head)
    }

    /// Moves on what is left of the request: a node may answer before it has the whole of it.
    pub fn pump(&self, context: &mut Context<'_>) {
        if let Some(upload) = &self.upload {
            let _ = upload.poll_pump(context, self.wire()); // the answer says what became of it
        }
    }

    /// When a part of the request came last, where it is not all sent yet.
    pub fn request_moved_at(&self) -> Option<Instant> {
        self.upload.as_ref().map(|upload| upload.moved_at())
    }

    /// The connection has changed its protocol: it is nobody's but the caller's from here on. It stays counted.
    pub fn into_wire(mut self) -> (Wire, Permit) {
        let line = self.line.take().expect("a lease has its connection until it is given back");
        (line.wire, line.permit)
    }

    /// The exchange is over and its end was seen: the connection may be used again. Not so where the node answered before
    /// it had the whole request, said more than was asked, or will close; or where somebody waits for its place.
    pub fn give_back(mut self) {
        let Some(line) = self.line.take() else { return };
        let is_uploading = self.upload.take().is_some_and(|upload| !upload.is_over());
        if is_uploading || self.is_last || !line.wire.is_blank() || !line.wire.is_flushed() {
            return;
        }
        let is_wanted = self.pool.nodes.all[self.index].awaited() > 0;
        let mut idle = self.pool.idle.borrow_mut();
        if !is_wanted && idle[self.index].len() < IDLE_MAX {
            idle[self.index].push_back(Idle { line, since: self.began });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let node = &self.pool.nodes.all[self.index];
        node.exchanges.fetch_sub(1, Ordering::Relaxed);
        node.at_work.dec();
    }
}
