//! Clients that speak HTTP/2: hyper takes the streams apart, each is an exchange like any other. Toward the nodes it is
//! HTTP/1.1, as GMS speaks it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, Sleep, sleep};

use super::answer::{self, Reach, Refusal};
use super::body::{self, NodeBody, Outgoing, Reply, Upload};
use super::forward::{self, Attendance, Gate, forward};
use super::framing::Framing;
use super::head::{HEAD_BYTES_MAX, Head, Kind};
use super::headers::{self, Peer, Target};
use super::stage::Told;
use super::stream::Stream;
use super::tap::Share;
use super::trail::Trail;

/// What a peer that is gone is noticed by: no answer to a ping.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A connection that is told to end, and has no exchange under way any more, need not agree.
const LEAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Of a stream's bytes that are on their way to a client, and of those that may come before a node takes them.
const STREAM_BYTES_MAX: u32 = 64 << 10;
/// The same of all streams of a connection.
const CONNECTION_BYTES_MAX: u32 = 1 << 20;
/// Streams that a client opened and reset before they were looked at: more is a flood (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// Serves a client until it or the proxy has enough.
pub async fn converse(gate: Rc<Gate>, stream: Stream, peer: SocketAddr, told: Told) {
    let is_tls = matches!(stream, Stream::Tls(_));
    let _ = stream.tcp().set_nodelay(true); // a stream that is broken will say so when it is used
    let peer_of = Peer::new(peer.ip(), is_tls, &gate.config).over_http2();
    let client = Rc::new(Client {
        gate,
        peer: peer_of,
        open: Cell::default(),
        begun: Cell::default(),
        given: RefCell::default(),
    });
    let shared = client.clone();
    let service = service_fn(move |request| {
        let client = shared.clone();
        async move { Ok::<_, Infallible>(client.exchange(request).await) }
    });
    let connection = Builder::new(OnThisThread)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .max_concurrent_streams(client.gate.config.http2_streams_max)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_BYTES_MAX)
        .max_send_buf_size(STREAM_BYTES_MAX as usize)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut patience: Pin<Box<dyn Future<Output = ()>>> = Box::pin(client.patience());
    let mut stalled = pin!(client.stalled());
    let mut is_leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "a client's connection ended");
                }
                return;
            }
            () = stalled.as_mut() => return tracing::debug!(%peer, "a client takes no more of an answer"),
            () = told.leaving(), if !is_leaving => {}
            () = patience.as_mut() => {
                if is_leaving && client.open.get() == 0 {
                    return;
                }
            }
        }
        if !is_leaving {
            is_leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        patience = Box::pin(sleep(LEAVE_INTERVAL));
    }
}

/// One client's connection.
struct Client {
    gate: Rc<Gate>,
    peer: Peer,
    /// Exchanges under way.
    open: Cell<usize>,
    /// Exchanges ever begun.
    begun: Cell<u64>,
    /// When each answer under way last gave a part that hyper is to send.
    given: RefCell<Vec<Rc<Cell<Option<Instant>>>>>,
}

impl Client {
    /// Ends when the client has asked nothing for too long.
    async fn patience(&self) {
        loop {
            let before = self.begun.get();
            sleep(self.gate.config.client_timeout).await;
            if self.open.get() == 0 && self.begun.get() == before {
                return;
            }
        }
    }

    /// Ends when the client has taken nothing of an answer for too long: its window is closed, and its node waits.
    async fn stalled(&self) {
        let idle_max = self.gate.config.body_idle_timeout;
        loop {
            sleep(idle_max / 4).await;
            let is_late = |given: &Rc<Cell<Option<Instant>>>| given.get().is_some_and(|at| at.elapsed() > idle_max);
            if self.given.borrow().iter().any(is_late) {
                return;
            }
        }
    }

    async fn exchange(self: Rc<Self>, request: Request<Incoming>) -> Response<ReplyBody> {
        let began = Instant::now();
        let open = Open::new(&self);
        let (parts, incoming) = request.into_parts();
        let framing = match (incoming.is_end_stream(), parts.headers.contains_key(header::CONTENT_LENGTH)) {
            (true, _) => Some(Framing::None),
            (false, true) => None, // as the field says
            (false, false) => Some(Framing::Chunked),
        };
        let head = head_of(&parts);
        let trail = Trail::begin(&self.gate, &self.peer, head.as_ref(), "HTTP/2.0", began);
        let fit = head.as_ref().ok_or(Refusal::BadRequest).and_then(|head| {
            let framing = framing.or_else(|| Framing::of_request(head).ok()).ok_or(Refusal::BadRequest)?;
            self.gate.limits.admit(head, framing)?;
            Ok((head, Target::of(head).map_err(|_| Refusal::BadRequest)?, framing))
        });
        let (reply, takes_trailers) = match fit {
            Ok((head, target, framing)) => {
                let upload = Upload::of_stream(incoming, head, framing, began, &self.gate.limits);
                let takes_trailers = head.takes_trailers();
                let attendance = &Attendance::default();
                let request =
                    forward::Request { head, target, framing, upload, began, attendance, trail: trail.as_deref() };
                (forward(&self.gate, &self.peer, &request).await, takes_trailers)
            }
            Err(refusal) => {
                let method = parts.method.as_str();
                let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
                self.gate.turn_away(refusal, self.peer.address(), method, target);
                trail.iter().for_each(|trail| trail.audited());
                (answer::refuse(refusal, Reach::NotForwarded, method, None, &[]), false)
            }
        };
        if let Some(trail) = &trail {
            trail.answers(reply.head().status());
        }
        respond(reply, takes_trailers, self.gate.config.body_idle_timeout, open, trail)
    }
}

/// Counts an exchange until its answer was handed over, and knows when a part of it last was.
struct Open {
    client: Rc<Client>,
    given: Rc<Cell<Option<Instant>>>,
}

impl Open {
    fn new(client: &Rc<Client>) -> Self {
        client.open.set(client.open.get() + 1);
        client.begun.set(client.begun.get() + 1);
        let given = Rc::new(Cell::new(None));
        client.given.borrow_mut().push(given.clone());
        Self { client: client.clone(), given }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.client.open.set(self.client.open.get() - 1);
        self.client.given.borrow_mut().retain(|given| !Rc::ptr_eq(given, &self.given));
    }
}

/// The request's head as HTTP/1.1 would have it (RFC 9113, sections 8.2.3 and 8.3.1): a Host, and one Cookie field. None
/// where it has two different hosts, or is none.
fn head_of(parts: &Parts) -> Option<Head> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut out = format!("{} {target} HTTP/1.1\r\n", parts.method).into_bytes();
    let given = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (authority, given) {
        (Some(authority), Some(given)) if !authority.eq_ignore_ascii_case(given) => return None,
        (Some(host), _) | (None, Some(host)) => out.extend_from_slice(&[b"Host: ", host, b"\r\n"].concat()),
        (None, None) => {}
    }
    let cookies: Vec<&[u8]> = parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty() {
        out.extend_from_slice(&[b"cookie: ", &cookies.join(&b"; "[..])[..], b"\r\n"].concat());
    }
    for (name, value) in &parts.headers {
        if name != header::HOST && name != header::COOKIE {
            out.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    }
    out.extend_from_slice(b"\r\n");
    Head::parse(out.into(), Kind::Request).ok()
}

/// A reply as a stream carries it.
fn respond(
    reply: Reply,
    takes_trailers: bool,
    idle_max: Duration,
    open: Open,
    trail: Option<Box<Trail>>,
) -> Response<ReplyBody> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(reply.head().status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let outgoing = match &reply {
        Reply::Held { framing, .. } | Reply::Stream { framing, .. } => Outgoing::of_answer(*framing, false),
        Reply::Switch { .. } => Outgoing::None,
    };
    headers::toward_http2(reply.head(), outgoing, response.headers_mut());
    let announcing = takes_trailers.then(|| reply.head().clone());
    let content = match reply {
        Reply::Held { bytes, trailer, is_whole, share, .. } => {
            Content::Held { bytes, trailer: fields_of(announcing.as_ref(), &trailer), is_whole, _share: share }
        }
        Reply::Stream { start, rest, .. } => Content::Stream {
            start,
            rest: Box::new(rest),
            announcing: announcing.map(Box::new),
            trailer: None,
            timer: None,
        },
        // Nobody can ask for it on a stream.
        Reply::Switch { .. } => Content::Held { bytes: Bytes::new(), trailer: None, is_whole: false, _share: None },
    };
    response.map(|()| ReplyBody { content, idle_max, open, trail })
}

fn fields_of(announcing: Option<&Head>, trailer: &[u8]) -> Option<HeaderMap> {
    let passing = body::announced(announcing, trailer);
    let section = (!passing.is_empty()).then(|| Head::parse_fields(&passing).ok()).flatten()?;
    let field = |(_, name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
    Some(section.fields().filter_map(field).collect())
}

/// A reply's body, as long as which the exchange lasts.
struct ReplyBody {
    content: Content,
    idle_max: Duration,
    open: Open,
    trail: Option<Box<Trail>>,
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Some(trail) = &self.trail {
            trail.ends(self.content.is_end_stream());
        }
    }
}

enum Content {
    Held {
        bytes: Bytes,
        trailer: Option<HeaderMap>,
        is_whole: bool,
        _share: Option<Share>,
    },
    Stream {
        start: Bytes,
        rest: Box<NodeBody>,
        announcing: Option<Box<Head>>,
        /// They came with the last bytes.
        trailer: Option<HeaderMap>,
        timer: Option<Pin<Box<Sleep>>>,
    },
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let idle_max = self.idle_max;
        let frame = self.content.poll_frame(context, idle_max);
        // From then on it is the client that is waited for.
        self.open.given.set(frame.is_ready().then(Instant::now));
        if let (Some(trail), Poll::Ready(Some(Ok(frame)))) = (&self.trail, &frame) {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            trail.sent().set(trail.sent().get() + length);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }
}

impl Content {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
        idle_max: Duration,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        match self {
            // In pieces, so that it is seen how a client takes them.
            Self::Held { bytes, .. } if !bytes.is_empty() => {
                let part = bytes.split_to(bytes.len().min(STREAM_BYTES_MAX as usize));
                Poll::Ready(Some(Ok(Frame::data(part))))
            }
            Self::Held { is_whole: false, .. } => Poll::Ready(Some(Err(body::Error::BrokeOff))),
            Self::Held { trailer, .. } => Poll::Ready(trailer.take().map(|trailer| Ok(Frame::trailers(trailer)))),
            Self::Stream { start, .. } if !start.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(start)))))
            }
            Self::Stream { trailer, .. } if trailer.is_some() => {
                Poll::Ready(trailer.take().map(Frame::trailers).map(Ok))
            }
            Self::Stream { rest, announcing, trailer, timer, .. } => loop {
                let part = rest.poll_part(context, |part| (Bytes::copy_from_slice(part.bytes), part.end));
                let Poll::Ready(part) = part else {
                    let timer = timer.get_or_insert_with(|| Box::pin(sleep(idle_max)));
                    // A request that still comes is a movement, too.
                    if let Some(until) = rest.request_moved_at().map(|moved_at| moved_at + idle_max)
                        && until > timer.deadline()
                    {
                        timer.as_mut().reset(until);
                    }
                    return timer.as_mut().poll(context).map(|()| Some(Err(body::Error::BrokeOff)));
                };
                *timer = None;
                let (bytes, end) = match part {
                    Ok(part) => part,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                };
                let is_last = end.is_some();
                *trailer = end.and_then(|end| fields_of(announcing.as_deref(), &end));
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                if is_last {
                    return Poll::Ready(trailer.take().map(Frame::trailers).map(Ok));
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held { bytes, trailer, is_whole, .. } => bytes.is_empty() && trailer.is_none() && *is_whole,
            Self::Stream { start, rest, trailer, .. } => start.is_empty() && rest.is_over() && trailer.is_none(),
        }
    }
}

/// Streams are tasks of the connection's thread.
#[derive(Debug, Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
