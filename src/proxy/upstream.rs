//! The connections to the nodes: a thread's own.
//!
//! A connection has no task of its own: whoever uses it drives it, in the same wake-up that brought the bytes. One that is
//! idle is driven by nobody, and looked at when it is wanted again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::answer::{Reach, Refusal};
use super::body::{Error, RequestBody, Upload};
use super::doorbell::Doorbell;
use super::gathering::Gathering;
use super::nodes::{Affinity, Node, Nodes};
use super::stream::Stream;
use super::tls::Connector;

/// Idle connections a thread keeps to one node: more than two threads' polls ever need at once.
const IDLE_MAX: usize = 256;

/// How connections are made and kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For one connection.
    pub connect_timeout: Duration,
    /// How long an unused one is kept.
    pub idle_timeout: Duration,
    /// To one node, of the whole process.
    pub connections_max: usize,
    /// How long a node that failed is passed over.
    pub retry_after: Duration,
}

/// A thread's connections to all nodes.
#[derive(Debug)]
pub struct Pool {
    nodes: Arc<Nodes>,
    tls: Option<Connector>,
    limits: Limits,
    idle: RefCell<Vec<VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// One connection: the end that takes requests, and what moves its bytes.
struct Line {
    sender: SendRequest<RequestBody>,
    /// Ends when the connection does.
    driver: Pin<Box<dyn Future<Output = ()>>>,
    ended: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Line {
    /// Moves what can be moved; the task is woken when more can.
    fn drive(&mut self, context: &mut Context<'_>) {
        if !self.ended {
            self.ended = self.driver.as_mut().poll(context).is_ready();
        }
    }

    /// Whether the next request can go out on it: the peer has not closed it, and sent nothing that was not asked for.
    fn is_ready(&mut self, context: &mut Context<'_>) -> bool {
        self.drive(context);
        !self.ended && self.sender.is_ready()
    }
}

/// A connection in use. Dropped, it closes; given back, it is used again.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    index: usize,
    line: Option<Line>,
    upload: Option<Rc<Upload>>,
    reused: bool,
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
}

impl Pool {
    /// No connection yet.
    pub fn new(nodes: Arc<Nodes>, tls: Option<Connector>, limits: Limits) -> Self {
        let idle = RefCell::new(nodes.all.iter().map(|_| VecDeque::new()).collect());
        Self { nodes, tls, limits, idle }
    }

    /// The nodes it leads to.
    pub fn nodes(&self) -> &Nodes {
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
        mut request: Request<RequestBody>,
        affinity: Affinity<'_>,
        asked: &RefCell<Option<Arc<str>>>,
        bell: &Doorbell,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let spare = again_if_lost(&request);
        let mut tried = 0_u64;
        let mut full = false;
        while let Some(index) = self.nodes.choose(affinity, tried) {
            let mut lease = match self.lease(index).await {
                Ok(lease) => lease,
                Err(refused) => {
                    full |= refused == Refusal::NodesFull;
                    tried |= 1 << index;
                    continue;
                }
            };
            asked.replace(Some(self.nodes.all[index].name.clone()));
            let reused = lease.reused;
            let mut error = match lease.exchange(request, bell).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            drop(lease);
            request = match (error.take_message(), &spare) {
                (Some(unsent), _) if reused => unsent,
                (Some(unsent), _) => {
                    tried |= 1 << index;
                    unsent
                }
                (None, Some(spare)) if reused => return self.send_again(spare(), index, bell).await,
                (None, _) => return Err(self.broken(index, error.error())),
            };
        }
        let refusal = if full { Refusal::NodesFull } else { Refusal::NoNode };
        Err(Failure { refusal, reach: Reach::NotForwarded, node: asked.borrow().clone() })
    }

    /// The one repetition of a safe request, on a connection of its own.
    async fn send_again(
        self: &Rc<Self>,
        request: Request<RequestBody>,
        index: usize,
        bell: &Doorbell,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let unreachable =
            |refusal| Failure { refusal, reach: Reach::MayHaveActed, node: Some(self.nodes.all[index].name.clone()) };
        let mut lease = self.connect(index).await.map_err(unreachable)?;
        match lease.exchange(request, bell).await {
            Ok(response) => Ok((response, lease)),
            Err(error) => Err(self.broken(index, error.error())),
        }
    }

    fn broken(&self, index: usize, error: &hyper::Error) -> Failure {
        let node = &self.nodes.all[index];
        tracing::debug!(node = &*node.name, %error, "an exchange with a node broke");
        let client_failed = std::error::Error::source(error).is_some_and(|source| source.is::<Error>());
        let refusal = if client_failed { Refusal::BadRequest } else { Refusal::BrokenAnswer };
        Failure { refusal, reach: Reach::MayHaveActed, node: Some(node.name.clone()) }
    }

    /// An idle connection that is still alive, or a new one.
    async fn lease(self: &Rc<Self>, index: usize) -> Result<Lease, Refusal> {
        match poll_fn(|context| Poll::Ready(self.idle_line(index, context))).await {
            Some(line) => Ok(self.leased(index, line, true)),
            None => self.connect(index).await,
        }
    }

    /// The one used last, so that surplus ones grow old and go.
    fn idle_line(&self, index: usize, context: &mut Context<'_>) -> Option<Line> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut latest) = idle[index].pop_back() {
            if latest.since.elapsed() <= self.limits.idle_timeout && latest.line.is_ready(context) {
                return Some(latest.line);
            }
        }
        None
    }

    async fn connect(self: &Rc<Self>, index: usize) -> Result<Lease, Refusal> {
        let node = self.nodes.all[index].clone();
        if node.connections.fetch_add(1, Ordering::Relaxed) >= self.limits.connections_max {
            node.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::NodesFull);
        }
        let open = Open(node.clone());
        let connected = timeout(self.limits.connect_timeout, self.reach(&node)).await;
        let stream = match connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => {
                node.failed(self.limits.retry_after, &error);
                return Err(Refusal::NoNode);
            }
        };
        node.connected();
        let handshake =
            http1::Builder::new().preserve_header_case(true).handshake(Gathering::new(stream, Arc::default())).await;
        let (sender, connection) = handshake.map_err(|_| Refusal::NoNode)?;
        let driver = Box::pin(async move {
            let _open = open;
            let _ = connection.with_upgrades().await; // the exchange on it sees the error
        });
        Ok(self.leased(index, Line { sender, driver, ended: false }, false))
    }

    /// A connection of its own, TLS included.
    async fn reach(&self, node: &Node) -> std::io::Result<Stream> {
        let address = &node.address;
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        match &self.tls {
            Some(tls) if address.is_tls => Ok(Stream::Tls(Box::new(tls.connect(stream, &address.host).await?.into()))),
            _ => Ok(Stream::Clear(stream)),
        }
    }

    fn leased(self: &Rc<Self>, index: usize, line: Line, reused: bool) -> Lease {
        let node = &self.nodes.all[index];
        node.exchanges.fetch_add(1, Ordering::Relaxed);
        node.at_work.inc();
        Lease { pool: self.clone(), index, line: Some(line), upload: None, reused }
    }

    /// Lets go of connections that were unused for too long, or that their node has closed.
    pub fn let_go_of_idle(&self) {
        let mut context = Context::from_waker(Waker::noop());
        for idle in self.idle.borrow_mut().iter_mut() {
            idle.retain_mut(|connection| {
                connection.since.elapsed() <= self.limits.idle_timeout && connection.line.is_ready(&mut context)
            });
        }
    }
}

/// Counts a connection for as long as it is open.
struct Open(Arc<Node>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// Sends a request and waits for the head of its answer.
    ///
    /// Only the driver can bring the answer, and it is polled just before: so the answer itself needs to wake nobody.
    async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        bell: &Doorbell,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.upload = request.body().upload().cloned();
        let line = self.line.as_mut().expect("a lease has its connection until it is given back");
        // It is taken up below, by this very task.
        let (answer, _) = bell.muffle(|| line.sender.try_send_request(request));
        let mut answer = pin!(answer);
        let mut ended = line.ended;
        let outcome = poll_fn(|context| {
            ended = ended || line.driver.as_mut().poll(context).is_ready();
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        let outcome = outcome.await;
        line.ended = ended;
        outcome
    }

    /// Moves the answer's body on. To be polled whenever that body has nothing to give.
    pub fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(line) = &mut self.line {
            line.drive(context);
        }
    }

    /// The connection has changed its protocol: it goes on by itself.
    pub fn let_loose(mut self) {
        if let Some(line) = self.line.take().filter(|line| !line.ended) {
            tokio::task::spawn_local(line.driver);
        }
    }

    /// The exchange is over and its end was seen: the connection may be used again. Not so where the node answered before
    /// it had the whole request: nobody would drive the rest of that, and the client would wait.
    pub fn give_back(mut self) {
        let Some(line) = self.line.take() else { return };
        if self.upload.take().is_some_and(|upload| !upload.is_over()) {
            return;
        }
        let mut idle = self.pool.idle.borrow_mut();
        if !line.ended && idle[self.index].len() < IDLE_MAX {
            idle[self.index].push_back(Idle { line, since: Instant::now() });
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

/// R2: a safe request without a body can be made anew.
fn again_if_lost(request: &Request<RequestBody>) -> Option<impl Fn() -> Request<RequestBody> + use<>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !http_body::Body::is_end_stream(request.body()) {
        return None;
    }
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    *head.extensions_mut() = request.extensions().clone();
    Some(move || head.clone().map(|()| RequestBody::Empty))
}
