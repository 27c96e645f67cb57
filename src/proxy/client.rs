//! A client's connection, request after request. While the client does not ask, its connection is all that is kept of it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::answer::{self, Reach, Refusal};
use super::body::{self, NodeBody, Outgoing, Reply, Upload};
use super::forward::{Attendance, Gate, Request, forward};
use super::framing::Framing;
use super::head::{Head, Kind, Malformed};
use super::headers::{self, Peer, Target, Unfit};
use super::limits::Pace;
use super::socket::Watch;
use super::stage::Told;
use super::trail::Trail;
use super::upgrade;
use super::upstream::Lease;
use super::wire::{NoHead, Wire};
use crate::telemetry::metrics::Limit;

/// A client that has ended its side gets its answer if that comes so soon. Whoever closes altogether looks the same, and a
/// long-poll must not be kept for them.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(2);
/// What a client may still be sending when its connection is closed: read and dropped, so that it reads its answer and is
/// not cut off by a reset.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 32 << 20;

/// A client that asked nothing for so long is at rest: between two polls of a widget.
const REST_AFTER: Duration = Duration::from_millis(200);

/// A held answer is given to the kernel in pieces of this size, so that what it does not take is not copied.
const PART_BYTES_MAX: usize = 64 << 10;

/// Serves a client until it or the proxy has enough.
pub async fn converse(gate: Rc<Gate>, wire: Wire, peer: SocketAddr, told: Told) {
    let peer = Peer::new(peer.ip(), wire.is_tls(), &gate.config);
    let wire = Rc::new(wire);
    let mut patience = Patience::new(gate.limits.head_timeout, told.clone());
    loop {
        let idle_max = match gate.guests.is_crowded() {
            true => gate.config.client_timeout.min(gate.limits.head_timeout),
            false => gate.config.client_timeout,
        };
        let asked = match patience.next(&wire, idle_max).await {
            Some(asked) => asked,
            None if wire.is_blank() => {
                gate.metrics.reached(if patience.head_due.is_some() { Limit::HeadTime } else { Limit::Idle });
                Asked::NothingMore
            }
            None => Asked::Badly(Refusal::LateRequest),
        };
        // On the heap, so that a client at rest takes no room for an exchange; and not for each anew.
        match Box::pin(attend(&gate, &peer, &wire, asked, &mut patience)).await {
            After::GoOn => {}
            After::Close => return wire.close(),
            After::Reset => return wire.reset_at_close(),
            After::Linger => return Box::pin(linger(&wire)).await,
            After::Switch(lease, watch, trail) => {
                drop(patience);
                if let Ok(wire) = Rc::try_unwrap(wire) {
                    Box::pin(upgrade::join(&gate.config, wire, *lease, watch, trail, told)).await;
                }
                return;
            }
        }
    }
}

/// Answers what a client asks until it is at rest.
async fn attend(gate: &Gate, peer: &Peer, wire: &Rc<Wire>, mut asked: Asked, patience: &mut Patience) -> After {
    loop {
        match asked {
            Asked::For(head) => match exchange(gate, peer, wire, &head, patience.told.is_leaving()).await {
                After::GoOn if wire.has_ended() => return After::Close,
                After::GoOn => {}
                after => return after,
            },
            Asked::Badly(refusal) => {
                let trail = Trail::begin(gate, peer, None, "", Instant::now());
                return refuse(gate, peer, wire, refusal, None, trail.as_deref()).await;
            }
            Asked::NothingMore => return After::Close,
        }
        match patience.next(wire, REST_AFTER).await {
            Some(next) => asked = next,
            None => return After::GoOn,
        }
    }
}

/// What becomes of a connection after an exchange.
#[derive(Debug)]
enum After {
    /// The next request may come.
    GoOn,
    /// It is closed.
    Close,
    /// It is broken off: nothing else tells this client that an answer's end is missing.
    Reset,
    /// It is closed once the client has seen its answer: it may still be sending.
    Linger,
    /// It is joined with a node's.
    Switch(Box<Lease>, Option<Box<Watch>>, Option<Box<Trail>>),
}

/// What came next from a client.
enum Asked {
    /// A request.
    For(Head),
    /// What is none.
    Badly(Refusal),
    /// It went, or the proxy stops.
    NothingMore,
}

/// Waiting for a client to ask: for some time, and not once the proxy stops.
struct Patience {
    /// Mostly moved back, which costs no more than a store.
    deadline: Pin<Box<Sleep>>,
    head_timeout: Duration,
    /// When a head must be there that has begun; the first of a connection begins with it.
    head_due: Option<Instant>,
    stop: Pin<Box<dyn Future<Output = ()>>>,
    told: Told,
    is_listening: bool,
}

impl Patience {
    fn new(head_timeout: Duration, told: Told) -> Self {
        let stopping = told.clone();
        let stop = Box::pin(async move { stopping.stopping().await });
        let deadline = Box::pin(sleep(head_timeout));
        let head_due = Some(deadline.deadline());
        Self { deadline, head_timeout, head_due, stop, told, is_listening: false }
    }

    /// Waits for the next request; none came within `time_max`.
    async fn next(&mut self, wire: &Wire, time_max: Duration) -> Option<Asked> {
        let until = Instant::now() + time_max;
        self.deadline.as_mut().reset(self.head_due.map_or(until, |due| due.min(until)));
        poll_fn(|context| {
            if !self.is_listening {
                self.is_listening = true;
                let _ = self.stop.as_mut().poll(context); // it keeps the waker; from then on a look is enough
            }
            let asked = match wire.poll_head(context, Kind::Request) {
                Poll::Ready(Ok(Some(head))) => Asked::For(head),
                Poll::Ready(Ok(None) | Err(NoHead::Broken(_))) => Asked::NothingMore,
                Poll::Ready(Err(NoHead::Malformed(Malformed::TooLong | Malformed::TooManyFields))) => {
                    Asked::Badly(Refusal::LongHead)
                }
                Poll::Ready(Err(NoHead::Malformed(Malformed::LongStartLine))) => Asked::Badly(Refusal::LongTarget),
                Poll::Ready(Err(NoHead::Malformed(_))) => Asked::Badly(Refusal::BadRequest),
                Poll::Pending if wire.is_blank() && self.told.is_stopping() => Asked::NothingMore,
                Poll::Pending => {
                    if self.head_due.is_none() && !wire.is_blank() {
                        let due = Instant::now() + self.head_timeout;
                        self.head_due = Some(due);
                        if due < self.deadline.deadline() {
                            self.deadline.as_mut().reset(due);
                        }
                    }
                    return self.deadline.as_mut().poll(context).map(|()| None);
                }
            };
            self.head_due = None;
            Poll::Ready(Some(asked))
        })
        .await
    }
}

/// One request and its answer.
async fn exchange(gate: &Gate, peer: &Peer, wire: &Rc<Wire>, head: &Head, is_leaving: bool) -> After {
    let began = Instant::now();
    let protocol = if head.is_http_10() { "HTTP/1.0" } else { "HTTP/1.1" };
    let trail = Trail::begin(gate, peer, Some(head), protocol, began);
    let (target, framing) = match fit(gate, head) {
        Ok(fit) => fit,
        Err(refusal) => return refuse(gate, peer, wire, refusal, Some(head), trail.as_deref()).await,
    };
    let upload = Upload::new(wire, head, framing, began, &gate.limits);
    let attendance = Attendance::default();
    let request = Request { head, target, framing, upload, began, attendance: &attendance, trail: trail.as_deref() };
    let Some(reply) = unless_gone(wire, &request.upload, &attendance, forward(gate, peer, &request)).await else {
        return After::Close;
    };
    let goes_on = head.keeps_alive() && !is_leaving && request.upload.is_over();
    let delivered = {
        let delivery = Delivery::new(gate, wire, began, Some(&request.upload), trail.as_deref());
        deliver(&delivery, head, reply, goes_on).await
    };
    match delivered {
        After::Switch(lease, watch, _) => After::Switch(lease, watch, trail),
        After::GoOn | After::Close if !request.upload.is_over() => After::Linger,
        after => after,
    }
}

fn fit<'a>(gate: &Gate, head: &'a Head) -> Result<(Target<'a>, Framing), Refusal> {
    let refused = |unfit| {
        tracing::debug!(%unfit, "a request that cannot be forwarded");
        if unfit == Unfit::Method { Refusal::Method } else { Refusal::BadRequest }
    };
    let target = Target::of(head).map_err(refused)?;
    let framing = Framing::of_request(head).map_err(|ambiguous| refused(ambiguous.into()))?;
    gate.limits.admit(head, framing)?;
    Ok((target, framing))
}

/// An answer to what is no request that can be forwarded. Nothing after it can be told apart.
async fn refuse(
    gate: &Gate,
    peer: &Peer,
    wire: &Wire,
    refusal: Refusal,
    head: Option<&Head>,
    trail: Option<&Trail>,
) -> After {
    let (method, path) = head.map_or(("", ""), |head| (head.method(), head.target()));
    gate.turn_away(refusal, peer.address(), method, path);
    if let Reply::Held { head, bytes, .. } = answer::refuse(refusal, Reach::NotForwarded, method, None, &[]) {
        let out = headers::toward_client(&head, Outgoing::Sized, "close");
        let delivery = Delivery::new(gate, wire, Instant::now(), None, trail);
        delivery.begins(head.status());
        let is_sent = delivery.send(out, Outgoing::Sized, bytes, &[]).await;
        if let Some(trail) = trail {
            trail.audited();
            trail.ends(is_sent);
        }
    }
    After::Linger
}

/// Tells a client that there is no room for it, and does not read what it asks.
pub async fn dismiss(refusal: Refusal, wire: Wire) {
    if let Reply::Held { head, bytes, .. } = answer::refuse(refusal, Reach::NotForwarded, "", None, &[]) {
        let out = headers::toward_client(&head, Outgoing::Sized, "close");
        let mut nobody = Context::from_waker(Waker::noop());
        // It fits into what the kernel keeps for a connection that was just made.
        let _ = wire.send(&mut nobody, [&out, &bytes]);
    }
    linger(&wire).await;
}

/// Polls an exchange for as long as there is somebody to answer: none where the client broke its connection off, or ended
/// its side and had no answer soon. An exchange that outlasts its client goes on to its end first.
async fn unless_gone<T>(
    wire: &Wire,
    upload: &Upload,
    attendance: &Attendance,
    exchange: impl Future<Output = T>,
) -> Option<T> {
    let mut exchange = pin!(exchange);
    let mut half_closed: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        if let Poll::Ready(done) = exchange.as_mut().poll(context) {
            return Poll::Ready(Some(done).filter(|_| !attendance.is_gone.get()));
        }
        if attendance.is_gone.get() || !upload.is_over() {
            return Poll::Pending; // there is nothing to read, or it reads the connection itself
        }
        let is_over = match &mut half_closed {
            Some(timer) => timer.as_mut().poll(context).is_ready(),
            none => match ready!(wire.poll_gone(context)) {
                true => true,
                false => none.insert(Box::pin(sleep(HALF_CLOSED_MAX))).as_mut().poll(context).is_ready(),
            },
        };
        attendance.is_gone.set(is_over);
        if is_over && !attendance.is_outlasted.get() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Sends a reply as the client can read it.
async fn deliver(delivery: &Delivery<'_>, request: &Head, reply: Reply, goes_on: bool) -> After {
    delivery.begins(reply.head().status());
    let (outgoing, framed) = match &reply {
        Reply::Held { framing, .. } | Reply::Stream { framing, .. } => {
            let outgoing = Outgoing::of_answer(*framing, request.is_http_10());
            (outgoing, outgoing != Outgoing::UntilClose)
        }
        Reply::Switch { .. } => (Outgoing::None, true),
    };
    let goes_on = goes_on && framed;
    let connection = match (&reply, goes_on) {
        (Reply::Switch { .. }, _) => "upgrade",
        (_, false) => "close",
        (_, true) if request.is_http_10() => "keep-alive",
        (_, true) => "",
    };
    let out = headers::toward_client(reply.head(), outgoing, connection);
    let takes_trailers = request.takes_trailers();
    let trailer_of = |head: &Head, trailer: &[u8]| match takes_trailers {
        true => body::announced(Some(head), trailer),
        false => Vec::new(),
    };
    let is_whole = match reply {
        Reply::Held { head, bytes, trailer, is_whole, share: _share, .. } => {
            let last = if is_whole { outgoing.last(&trailer_of(&head, &trailer)) } else { Vec::new() };
            delivery.send(out, outgoing, bytes, &last).await && is_whole
        }
        Reply::Stream { head, start, rest, .. } => {
            let last = |trailer: &[u8]| outgoing.last(&trailer_of(&head, trailer));
            delivery.stream(out, outgoing, start, rest, last).await
        }
        Reply::Switch { lease, watch, .. } => {
            let is_sent = delivery.send(out, outgoing, Bytes::new(), &[]).await;
            return if is_sent { After::Switch(Box::new(lease), watch, None) } else { After::Close };
        }
    };
    delivery.trail.into_iter().for_each(|trail| trail.ends(is_whole));
    match is_whole {
        true if goes_on => After::GoOn,
        // What the kernel still holds of an answer for whoever does not take it goes at once.
        false if !framed || delivery.is_late.get() => After::Reset,
        _ => After::Close,
    }
}

/// Sending to one client, which must take something every so often, or still be sending.
struct Delivery<'a> {
    gate: &'a Gate,
    wire: &'a Wire,
    /// What the client may still be sending: a node can answer before it has the whole request.
    upload: Option<&'a Upload>,
    /// When the exchange is over, whatever happens.
    until: Instant,
    /// It was cut off.
    is_late: Cell<bool>,
    trail: Option<&'a Trail>,
    /// What the client had before, and with the head.
    before_body: Cell<u64>,
}

/// How an answer moves on.
struct Motion {
    timer: Pin<Box<Sleep>>,
    sent: u64,
    sent_at: Instant,
    pace: Pace,
}

impl<'a> Delivery<'a> {
    fn new(
        gate: &'a Gate,
        wire: &'a Wire,
        began: Instant,
        upload: Option<&'a Rc<Upload>>,
        trail: Option<&'a Trail>,
    ) -> Self {
        let until = began + gate.limits.exchange_time_max;
        let (upload, before_body) = (upload.map(Rc::as_ref), Cell::new(wire.sent()));
        Self { gate, wire, upload, until, is_late: Cell::new(false), trail, before_body }
    }

    fn begins(&self, status: u16) {
        if let Some(trail) = self.trail {
            trail.answers(status);
        }
    }

    fn begins_with(&self, head: &[u8]) {
        self.before_body.set(self.before_body.get() + head.len() as u64);
    }

    /// What is there already, piece by piece. Whether all of it went out.
    async fn send(&self, mut before: Vec<u8>, outgoing: Outgoing, mut bytes: Bytes, last: &[u8]) -> bool {
        let mut is_sent = false;
        self.begins_with(&before);
        self.in_motion(|context| {
            loop {
                match ready!(self.wire.poll_flush(context)) {
                    Ok(()) if !is_sent => {}
                    flushed => return Poll::Ready(flushed.is_ok()),
                }
                let part = bytes.split_to(bytes.len().min(PART_BYTES_MAX));
                is_sent = bytes.is_empty();
                let last = if is_sent { last } else { &[] };
                if outgoing.send(self.wire, context, &mut before, &part, last).is_err() {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// As it comes from the node. Whether all of it came and went out.
    async fn stream(
        &self,
        mut before: Vec<u8>,
        outgoing: Outgoing,
        mut start: Bytes,
        mut rest: NodeBody,
        last: impl Fn(&[u8]) -> Vec<u8>,
    ) -> bool {
        let mut end = None;
        self.begins_with(&before);
        self.in_motion(|context| {
            rest.pump(context); // also while the client takes nothing
            loop {
                match ready!(self.wire.poll_flush(context)) {
                    Ok(()) => {}
                    Err(_) => return Poll::Ready(false),
                }
                if let Some(is_whole) = end {
                    return Poll::Ready(is_whole);
                }
                let mut waker = Context::from_waker(context.waker());
                let part = if start.is_empty() {
                    rest.poll_part(context, |part| {
                        end = part.end.is_some().then_some(true);
                        let last = part.end.map(|trailer| last(&trailer)).unwrap_or_default();
                        outgoing.send(self.wire, &mut waker, &mut before, part.bytes, &last)
                    })
                } else {
                    let start = std::mem::take(&mut start);
                    Poll::Ready(Ok(outgoing.send(self.wire, context, &mut before, &start, &[])))
                };
                let sent = match part {
                    Poll::Ready(Ok(sent)) => sent,
                    Poll::Pending if before.is_empty() => return Poll::Pending,
                    // The head waits for no body; nor for one that broke off, after which there is no end.
                    without_part => {
                        end = without_part.is_ready().then_some(false);
                        outgoing.send(self.wire, context, &mut before, &[], &[])
                    }
                };
                if sent.is_err() {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// Polls something for as long as bytes move, either way, and the client keeps up the pace. False where it does not.
    async fn in_motion(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<bool>) -> bool {
        let mut motion = None;
        poll_fn(|context| {
            if let Poll::Ready(done) = poll(context) {
                return Poll::Ready(done);
            }
            self.poll_late(motion.get_or_insert_with(|| Motion::new(self)), context).map(|()| false)
        })
        .await
    }

    /// Ready once too little has moved for too long.
    fn poll_late(&self, motion: &mut Motion, context: &mut Context<'_>) -> Poll<()> {
        let (now, sent) = (Instant::now(), self.wire.sent());
        if sent != motion.sent {
            motion.pace.moved((sent - motion.sent) as usize, || now);
            (motion.sent, motion.sent_at) = (sent, now);
        }
        match self.wire.is_flushed() {
            true => motion.pace.rest(|| now), // it is the node that is waited for
            false => motion.pace.wait(|| now),
        }
        let moved_at = self.upload.map_or(motion.sent_at, |upload| upload.moved_at().max(motion.sent_at));
        let idle = moved_at + self.gate.config.body_idle_timeout;
        let due = motion.pace.due().map_or(idle, |due| due.min(idle)).min(self.until);
        if motion.timer.deadline() != due {
            motion.timer.as_mut().reset(due);
        }
        ready!(motion.timer.as_mut().poll(context));
        if due == self.until {
            self.gate.metrics.reached(Limit::ExchangeTime);
        } else if !self.wire.is_flushed() {
            self.gate.metrics.reached(Limit::AnswerPace);
        }
        self.is_late.set(!self.wire.is_flushed());
        Poll::Ready(())
    }
}

impl Motion {
    fn new(delivery: &Delivery<'_>) -> Self {
        let timer = Box::pin(sleep(delivery.gate.config.body_idle_timeout));
        Self { timer, sent: delivery.wire.sent(), sent_at: Instant::now(), pace: Pace::new(&delivery.gate.limits) }
    }
}

/// However the delivery ended, what the client took of it is known.
impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        if let Some(trail) = self.trail {
            trail.sent().set(self.wire.sent().saturating_sub(self.before_body.get()));
        }
    }
}

/// Lets a client read the last answer before its connection goes.
async fn linger(wire: &Wire) {
    let mut bytes_max = LINGER_BYTES_MAX;
    let _ = timeout(LINGER_MAX, async {
        let _ = poll_fn(|context| wire.poll_end(context)).await;
        poll_fn(|context| wire.poll_drained(context, &mut bytes_max)).await;
    })
    .await;
}
