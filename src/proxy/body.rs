//! The bodies on their way through: what is copied, what is counted, and that an end is seen exactly once.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::doorbell::Doorbell;
use super::upstream::Lease;

/// What can go wrong with a body under way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection it came on failed.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// No byte moved for `body_idle_timeout`.
    #[error("no byte moved for too long")]
    Stalled,
    /// What came before was delivered; the end is missing on purpose, so that the client sees it.
    #[error("the node's answer broke off")]
    BrokeOff,
}

/// A request's body under way, as whoever waits for the answer sees it: its start, and when its last part went out.
#[derive(Debug)]
pub struct Upload {
    copied: RefCell<Copied>,
    moved_at: Cell<Instant>,
    is_over: Cell<bool>,
}

#[derive(Debug, Default)]
struct Copied {
    first: Bytes,
    more: Vec<u8>,
    room: usize,
}

impl Upload {
    /// Keeps at most `bytes_max` of what passes of a body.
    pub fn of(body: &Incoming, bytes_max: usize, began: Instant) -> Rc<Self> {
        let copied = RefCell::new(Copied { room: bytes_max, ..Copied::default() });
        Rc::new(Self { copied, moved_at: Cell::new(began), is_over: Cell::new(body.is_end_stream()) })
    }

    fn add(&self, chunk: &Bytes) {
        let mut copied = self.copied.borrow_mut();
        let part = chunk.slice(..chunk.len().min(copied.room));
        copied.room -= part.len();
        if copied.first.is_empty() {
            copied.first = part;
        } else {
            copied.more.extend_from_slice(&part);
        }
    }

    /// What was kept so far. One chunk, as most requests are, was never really copied.
    pub fn take(&self) -> Bytes {
        let mut copied = self.copied.borrow_mut();
        let first = std::mem::take(&mut copied.first);
        match copied.more.is_empty() {
            true => first,
            false => [&first[..], &std::mem::take(&mut copied.more)].concat().into(),
        }
    }

    /// All of it went to the node.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// When its last part went to the node; at first, when the exchange began.
    pub fn moved_at(&self) -> Instant {
        self.moved_at.get()
    }
}

/// A request's body toward the node.
#[derive(Debug)]
pub enum RequestBody {
    /// As it comes from the client.
    Client {
        /// From the client.
        incoming: Incoming,
        /// Who watches it.
        upload: Rc<Upload>,
        /// Of the task that puts it in and takes it out.
        bell: Arc<Doorbell>,
        /// Gives up when no byte moves.
        idle: Idle,
    },
    /// None.
    Empty,
}

impl RequestBody {
    /// What is known of it while it is under way.
    pub fn upload(&self) -> Option<&Rc<Upload>> {
        match self {
            Self::Client { upload, .. } => Some(upload),
            Self::Empty => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self::Client { incoming, upload, bell, idle } = self.get_mut() else { return Poll::Ready(None) };
        let (came, rung) = bell.muffle(|| Pin::new(&mut *incoming).poll_frame(context));
        if rung && !incoming.is_end_stream() {
            bell.ring(); // there is more to put in
        }
        let frame = ready!(idle.watch(context, came));
        upload.is_over.set(frame.is_none() || incoming.is_end_stream());
        if !upload.is_over() {
            upload.moved_at.set(Instant::now()); // more is to come: it may take long
        }
        if let Some(chunk) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            upload.add(chunk);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client { incoming, .. } => incoming.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client { incoming, .. } => incoming.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Watches a body for standing still. The timer is made at the first pause: most bodies have none.
#[derive(Debug)]
pub struct Idle {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a body gives.
type Given = Option<Result<Frame<Bytes>, Error>>;

impl Idle {
    /// A body may stand still for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, timer: None }
    }

    /// Passes on what came; where nothing did, that is an error after too long.
    fn watch(&mut self, context: &mut Context<'_>, came: Poll<Option<hyper::Result<Frame<Bytes>>>>) -> Poll<Given> {
        if let Poll::Ready(frame) = came {
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(Instant::now() + self.timeout);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::Broken)));
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        timer.as_mut().poll(context).map(|()| Some(Err(Error::Stalled)))
    }
}

/// An answer's body from a node. The connection goes back to the pool when the end was seen, and only then.
#[derive(Debug)]
pub struct NodeBody {
    incoming: Incoming,
    lease: Option<Lease>,
    bell: Arc<Doorbell>,
    idle: Idle,
}

impl NodeBody {
    /// The body, and the connection it comes on.
    pub fn new(incoming: Incoming, lease: Lease, bell: &Arc<Doorbell>, idle_timeout: Duration) -> Self {
        let idle = Idle::new(idle_timeout);
        let mut body = Self { incoming, lease: Some(lease), bell: bell.clone(), idle };
        if body.incoming.is_end_stream() {
            body.release();
        }
        body
    }

    /// Of an answer that changes the protocol: it has none, and its connection goes on by itself.
    pub fn of_upgrade(incoming: Incoming, lease: Lease, bell: &Arc<Doorbell>) -> Self {
        lease.let_loose();
        Self { incoming, lease: None, bell: bell.clone(), idle: Idle::new(Duration::MAX) }
    }

    fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// What has come; if nothing has, the connection is looked at. Only that can bring more, so only it wakes the task.
    fn poll_incoming(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Self { incoming, lease, bell, .. } = self;
        let mut nobody = Context::from_waker(Waker::noop());
        let mut take = || bell.muffle(|| Pin::new(&mut *incoming).poll_frame(&mut nobody)).0;
        if let Poll::Ready(frame) = take() {
            return Poll::Ready(frame);
        }
        if let Some(lease) = lease {
            lease.drive(context);
        }
        take()
    }
}

impl Body for NodeBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Given> {
        let this = &mut *self;
        let came = this.poll_incoming(context);
        let frame = ready!(this.idle.watch(context, came));
        match &frame {
            None => this.release(),
            Some(Err(_)) => drop(this.lease.take()),
            Some(Ok(_)) if this.incoming.is_end_stream() => this.release(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// How a body that broke off is ended. Its error must not overtake its bytes: hyper drops what it has not flushed when a
/// body fails, so there is one pause between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// What came is still to be flushed.
    Flushing,
    /// Now the client may see it.
    Now,
}

/// An answer's body toward the client.
#[derive(Debug)]
pub enum ClientBody {
    /// Held, read and let go: its bytes, its trailers, whether its framing was by length, and whether its end came.
    Held {
        /// The bytes not yet given out.
        bytes: Bytes,
        /// After them.
        trailers: Option<HeaderMap>,
        /// By Content-Length: its size is told. Else it goes out chunked, as it came.
        sized: bool,
        /// It broke off: the client must see that too.
        broken: Option<Break>,
    },
    /// Straight through, after what was taken from its start.
    Stream {
        /// What was read before it was let through.
        start: Bytes,
        /// The rest.
        rest: Box<NodeBody>,
    },
}

impl ClientBody {
    /// A body of this proxy's own.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Held { bytes, trailers: None, sized: true, broken: None }
    }

    /// A node's body, untouched.
    pub fn stream(body: NodeBody) -> Self {
        Self::Stream { start: Bytes::new(), rest: Box::new(body) }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Held { bytes, .. } if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Held { broken: Some(Break::Now), .. } => Poll::Ready(Some(Err(Error::BrokeOff))),
            Self::Held { broken: broken @ Some(Break::Flushing), .. } => {
                *broken = Some(Break::Now);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Held { trailers, .. } => Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Self::Stream { start, .. } if !start.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(start)))))
            }
            Self::Stream { rest, .. } => Pin::new(&mut **rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            // A chunked body of no bytes still goes out chunked.
            Self::Held { bytes, trailers, sized, broken } => {
                *sized && bytes.is_empty() && trailers.is_none() && broken.is_none()
            }
            Self::Stream { start, rest } => start.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held { bytes, sized: true, broken: None, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Held { .. } => SizeHint::default(),
            Self::Stream { start, rest } => grown(rest.size_hint(), start.len() as u64),
        }
    }
}

fn grown(hint: SizeHint, by: u64) -> SizeHint {
    let mut grown = SizeHint::new();
    grown.set_lower(hint.lower() + by);
    if let Some(upper) = hint.upper() {
        grown.set_upper(upper + by);
    }
    grown
}
