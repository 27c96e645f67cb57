//! THE HOT PATH: the life of one exchange, on one screen.
//!
//! A request is routed, checked, sent to a node. Answers of other routes stream through. An answer of an inspected route
//! is held until it was read, and if it brought something new until that is committed; then it goes out as it came.

mod account;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::Config;
use super::access::Access;
use super::affinity::{self, Cookies};
use super::answer::{self, Reach, Refusal};
use super::body::{NodeBody, Reply, Upload};
use super::file::Download;
use super::framing::Framing;
use super::head::{Head, Known};
use super::headers::{self, Noted, Peer, Target};
use super::limits::{self, Guests};
use super::nodes::Affinity;
use super::socket::Watch;
use super::tally::Tally;
use super::tap::{self, Budget, Share, Taken};
use super::trail::Trail;
use super::upstream::{Failure, Lease, Outbound, Pool};
use crate::gms::files::{self, Direction, Outcome};
use crate::gms::{self, Exchange, Operation, Route, RouteClass};
use crate::recorder::{Recorded, Recorder, Verdict};
use crate::telemetry::Repeated;
use crate::telemetry::access::Pen;
use crate::telemetry::metrics::{Limit, Metrics};

/// What GMS binds a CometD session by.
const SESSION_COOKIE: &str = "BAYEUX_BROWSER";
/// A commit that is late anyway gets this much, however late the answer was.
const COMMIT_WAIT_MIN: Duration = Duration::from_millis(100);

/// Paths that look like chat and are none of ours: a new release, or a typing error in a client.
static UNRECOGNISED: Repeated = Repeated::new(5, Duration::from_secs(60));

/// What every exchange of a thread shares.
#[derive(Debug)]
pub struct Gate {
    /// The `[proxy]` section.
    pub config: Config,
    /// The `[limits]` section.
    pub limits: limits::Config,
    /// The clients that are connected.
    pub guests: Arc<Guests>,
    /// Who may pass.
    pub access: Access,
    /// Where to.
    pub pool: Rc<Pool>,
    /// What keeps sessions there.
    pub cookies: Cookies,
    /// What is kept.
    pub recorder: Arc<Recorder>,
    /// How much may be held.
    pub budget: Arc<Budget>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The same of exchanges, found once.
    pub tally: Tally,
    /// The access log, if there is one.
    pub access_log: Option<Rc<Pen>>,
}

/// A request that can be forwarded.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its head.
    pub head: &'a Head,
    /// What it asks for.
    pub target: Target<'a>,
    /// How its body is framed.
    pub framing: Framing,
    /// Its body, under way.
    pub upload: Rc<Upload>,
    /// When its head was there.
    pub began: Instant,
    /// Its client.
    pub attendance: &'a Attendance,
    /// What the access log is told of it.
    pub trail: Option<&'a Trail>,
}

/// Whether a client is still there, and what becomes of its request if not.
#[derive(Debug, Default)]
pub struct Attendance {
    /// It has left.
    pub is_gone: Cell<bool>,
    /// The exchange goes on without it, so that what the node answers is recorded.
    pub is_outlasted: Cell<bool>,
}

/// One exchange, as far as it is known before the answer.
struct Asked<'a> {
    gate: &'a Gate,
    request: &'a Request<'a>,
    route: Route<'a>,
    noted: Noted<'a>,
    peer: &'a Peer,
    client: IpAddr,
    /// The node asked last.
    node: RefCell<Option<Arc<str>>>,
}

/// Forwards one request and returns the answer for its client.
pub async fn forward(gate: &Gate, peer: &Peer, request: &Request<'_>) -> Reply {
    let Request { head, target, framing, .. } = *request;
    let route = Route::parse(head.method(), target.path, &gate.config.base_path);
    if route.is_inspected() {
        request.upload.keep(gate.recorder.config().request_bytes_max);
    }
    let noted = Noted::of(head, framing);
    if let Some(files) = files::in_body(&route, target.query, noted.content_type.unwrap_or_default()) {
        request.upload.hash_files(files);
    }
    let client = peer.client(head, &gate.config.trusted_proxies);
    let asked = Asked { gate, request, route, noted, peer, client, node: RefCell::default() };
    request.attendance.is_outlasted.set(asked.changes_chat());
    let mut departure = Departure(Some(asked));
    let asked = departure.0.as_ref().expect("it is taken only below");

    let answered = match asked.admit() {
        Ok(()) => asked.ask().await,
        Err(refusal) => Err(asked.refuse(refusal, Reach::NotForwarded)),
    };
    let reply = match answered {
        Ok((head, lease)) if head.status() == 101 => asked.switch(head, lease),
        Ok((head, lease)) => asked.answer(head, lease).await,
        Err(refused) => refused,
    };
    if !request.attendance.is_gone.get() {
        asked.count(&reply);
        asked.tell();
        departure.0 = None;
    }
    reply
}

impl Asked<'_> {
    /// May it be forwarded at all?
    fn admit(&self) -> Result<(), Refusal> {
        if self.route.looks_like_chat {
            self.gate.metrics.unrecognised.inc();
            if let Some(not_shown) = UNRECOGNISED.admit(std::time::Instant::now()) {
                let path = self.clean_words().path;
                tracing::warn!(path, not_shown, "looks like chat but matches no route: forwarded, not recorded");
            }
        }
        if let Some(finding) = tap::chat_v1(&self.route) {
            self.find(finding);
        }
        let disconnects = self.route.operation == Some(Operation::Disconnect);
        self.gate.access.admit(&self.route, self.request.target.path, &self.gate.config.base_path)?;
        match () {
            () if !self.route.goes_on() && self.is_short() => Err(Refusal::Overload),
            () if self.route.is_inspected() && !disconnects && self.gate.recorder.refuses() => {
                Err(Refusal::RecordingDown)
            }
            () => Ok(()),
        }
    }

    /// Whether only what is kept for chats in progress is left.
    fn is_short(&self) -> bool {
        self.gate.guests.is_crowded() || self.gate.budget.is_short()
    }

    /// Sends the request to a node and waits for the head of its answer, within the class's time.
    async fn ask(&self) -> Result<(Head, Lease), Reply> {
        let Request { head, target, framing, upload, .. } = self.request;
        let mut bytes = headers::toward_node(head, target, &self.noted, self.peer, *framing);
        if let Err(error) = upload.start(&mut bytes) {
            return Err(self.refuse(error.refusal(), Reach::NotForwarded));
        }
        // What may use the last connections to a node must not hold one for nothing.
        if self.route.goes_on() && !upload.is_over() {
            let gathered = Box::pin(self.in_time(upload.gather(&mut bytes))).await;
            let refusal =
                gathered.map_or(Some(Refusal::SlowBody), |gathered| gathered.err().map(|error| error.refusal()));
            if let Some(refusal) = refusal {
                return Err(self.refuse(refusal, Reach::NotForwarded));
            }
        }
        let has_body = !matches!(framing, Framing::None | Framing::Length(0));
        let is_safe = matches!(head.method(), "GET" | "HEAD" | "OPTIONS") && !has_body;
        let goes_on = self.route.goes_on();
        let outbound = Outbound { bytes, upload: upload.clone(), is_safe, goes_on, began: self.request.began };
        let key = key_of(&self.route, &self.noted, &self.client, self.pinned());
        self.note(Trail::asks);
        let asks = |has_answered| self.note(|trail| trail.asked(self.node.borrow().as_ref(), has_answered));
        let failure = match self.in_time(self.gate.pool.send(&outbound, key.as_affinity(), &self.node)).await {
            Some(Ok((head, lease))) => {
                asks(true);
                self.remember_session(&head);
                return Ok((self.with_cookies(head), lease));
            }
            Some(Err(failure)) => failure,
            None if self.node.borrow().is_none() => {
                Failure { refusal: Refusal::NoNode, reach: Reach::NotForwarded, node: None, why: None }
            }
            None => {
                let refusal = if upload.due().is_none() { self.late() } else { Refusal::SlowBody };
                Failure { refusal, reach: Reach::MayHaveActed, node: self.node.take(), why: None }
            }
        };
        self.node.replace(failure.node);
        asks(false);
        Err(self.refuse_because(failure.refusal, failure.reach, failure.why.as_deref()))
    }

    /// The node's time is over.
    fn late(&self) -> Refusal {
        if let Some(node) = &*self.node.borrow() {
            self.gate.pool.nodes().unanswered(node, "it did not answer in time");
        }
        Refusal::NoAnswer
    }

    /// A node that gives a CometD session its cookie alone knows that session.
    fn remember_session(&self, head: &Head) {
        if let (Some(cookie), Some(node)) = (headers::given_cookie(head, SESSION_COOKIE), &*self.node.borrow()) {
            self.gate.pool.nodes().remember_session(cookie, node);
        }
    }

    /// The node that the client's affinity cookie names.
    fn pinned(&self) -> Option<&str> {
        self.gate.cookies.key.as_ref()?.verify(self.noted.cookie(affinity::COOKIE)?)
    }

    /// The nodes' cookies as configured, and where a CometD session is not pinned to its node yet, ours.
    fn with_cookies(&self, head: Head) -> Head {
        let Cookies { key, rules } = &self.gate.cookies;
        let node = self.node.borrow();
        let is_session = self.route.class == RouteClass::Cometd && head.status() < 400;
        let pin = match (key, &*node) {
            (Some(key), Some(node)) if is_session && self.pinned() != Some(&**node) => {
                let is_tls = self.peer.is_tls(self.request.head);
                Some(key.set_cookie(node, &self.gate.config.base_path, is_tls))
            }
            _ => None,
        };
        headers::with_cookies(head, rules, pin.as_deref())
    }

    /// From the head of an answer to what the client gets.
    async fn answer(&self, head: Head, lease: Lease) -> Reply {
        let Ok(framing) = Framing::of_answer(&head, self.request.head.method()) else {
            return self.refuse(Refusal::BrokenAnswer, Reach::MayHaveActed);
        };
        let body = NodeBody::new(framing, lease);
        if self.reads(&head) {
            self.record(head, framing, body).await
        } else {
            Reply::Stream { head, framing, start: Bytes::new(), rest: body }
        }
    }

    /// Waits for something within the class's time. A long upload that has moved on meanwhile has more of it.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut timer = pin!(sleep_until(self.until()));
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            let until = self.until();
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            timer.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Is the answer one to hold and read?
    fn reads(&self, answer: &Head) -> bool {
        self.route.is_inspected() && self.request.head.method() != "HEAD" && answer.status() != 304
    }

    /// Holds the answer until it was read, and if need be until it is committed. Then it goes out as it came.
    async fn record(&self, head: Head, framing: Framing, body: NodeBody) -> Reply {
        let encoding = head.value(Known::ContentEncoding);
        // A page that stands in a file's place tells of an error.
        let could_be_file = self.route.may_be_file() && head.status() < 400;
        let mut share = Share::of(&self.gate.budget);
        let taken = tap::take(body, &mut share, |start| could_be_file && !gms::could_be_answer(start, encoding));
        let Some(taken) = self.in_time(taken).await else {
            return self.refuse(self.late(), Reach::Executed);
        };
        let (bytes, trailer, is_whole) = match taken {
            Taken::Whole { bytes, trailer } => (bytes, trailer, true),
            Taken::Broken { bytes } if bytes.is_empty() => {
                return self.refuse(Refusal::BrokenAnswer, Reach::MayHaveActed);
            }
            Taken::Broken { bytes } => (bytes, Vec::new(), false),
            Taken::File { start, rest } => return self.stream(head, framing, start, rest),
            Taken::TooLarge { start, rest } => return self.pass_unread(head, framing, start, rest),
        };
        let recorded = self.keep(&head, &bytes, is_whole);
        if self.committed(recorded).await == Verdict::Refuse && self.route.operation != Some(Operation::Disconnect) {
            return self.refuse(Refusal::NotRecorded, Reach::Executed);
        }
        Reply::Held { head, framing, bytes, trailer, is_whole, share: Some(share) }
    }

    /// Reads an answer, unless the same one to the same request was read before and is on disk; has what is new recorded.
    fn keep(&self, head: &Head, body: &[u8], whole: bool) -> Recorded {
        let recorder = &self.gate.recorder;
        let request_body = self.request.upload.kept();
        let exchange = Exchange {
            status: head.status(),
            content_encoding: head.value(Known::ContentEncoding),
            body,
            body_complete: whole,
            ..self.said(&request_body)
        };
        let node = self.node.borrow().clone();
        let key = recorder.answer_key(self.request.head.method(), self.request.target.path, &exchange);
        if whole
            && !self.route.may_upload()
            && let Some(recorded) = recorder.recognise(&key, node.as_ref())
        {
            return recorded;
        }
        let secrets = self.noted.credentials(head);
        let exchange = Exchange { credentials: &secrets, ..exchange };
        let observation = gms::inspect(&exchange, recorder.policy(), &|chat_id| recorder.known_secrets(chat_id));
        drop(request_body); // its files are taken out of it
        self.note(|trail| trail.read(&observation));
        self.tell_files(|| files::uploaded(head.status(), &observation));
        if observation.errors.is_empty()
            && let Some(mut download) = self.download(head)
        {
            download.take(body, whole);
        }
        recorder.observe(observation, key, node.as_ref(), || self.facts())
    }

    /// The exchange as far as its client said it.
    fn said<'s>(&'s self, request_body: &'s [u8]) -> Exchange<'s> {
        Exchange {
            route: &self.route,
            query: self.request.target.query,
            request_content_type: self.noted.content_type,
            request_body,
            request_complete: request_body.len() < self.gate.recorder.config().request_bytes_max,
            credentials: &[],
            status: 0,
            content_encoding: None,
            body: b"",
            body_complete: false,
        }
    }

    /// Waits for the commit of what was new, if anything was.
    async fn committed(&self, recorded: Recorded) -> Verdict {
        let recorder = &self.gate.recorder;
        if matches!(recorded, Recorded::Nothing) {
            return Verdict::Deliver;
        }
        let since = Instant::now();
        let time_left = self.until().saturating_duration_since(since);
        let wait_max = recorder.config().commit_wait_max.min(time_left.max(COMMIT_WAIT_MIN));
        let verdict = recorder.wait(recorded, wait_max).await;
        self.note(|trail| trail.held(since));
        verdict
    }

    /// An answer over the bounds: streamed under `pass`, refused under `refuse`.
    fn pass_unread(&self, head: Head, framing: Framing, start: Bytes, rest: NodeBody) -> Reply {
        self.gate.metrics.uninspected.inc();
        self.gate.metrics.reached(Limit::InspectedBytes);
        self.miss();
        self.find(tap::too_large(&self.route, start.len()));
        match self.gate.recorder.passes_unrecorded() {
            true => self.stream(head, framing, start, rest),
            false => self.refuse(Refusal::TooLarge, Reach::Executed),
        }
    }

    /// Straight through. A file is hashed as it goes by.
    fn stream(&self, head: Head, framing: Framing, start: Bytes, mut rest: NodeBody) -> Reply {
        if let Some(mut download) = self.download(&head) {
            download.take(&start, false);
            rest.is_download(download);
        }
        Reply::Stream { head, framing, start, rest }
    }

    /// The file that an answer brings, if it may.
    fn download(&self, head: &Head) -> Option<Box<Download>> {
        if !self.route.may_be_file() || !matches!(head.status(), 200 | 206) {
            return None;
        }
        let request = self.file_request().filter(|request| request.direction == Direction::Down)?;
        let (recorder, node, encoding) =
            (&self.gate.recorder, self.node.borrow().clone(), head.value(Known::ContentEncoding));
        Some(Box::new(Download::new(recorder, request, node, head.status(), encoding)))
    }

    /// What the node answers, or would have, goes unread.
    fn miss(&self) {
        self.tell_files(|| (None, Outcome::Unanswered));
        let (recorder, content_type) = (&self.gate.recorder, self.noted.content_type);
        if self.route.class == RouteClass::Cometd {
            let session = gms::session(&self.route, content_type, &self.request.upload.kept(), recorder.policy());
            session.into_iter().for_each(|session| recorder.missed(session));
        }
    }

    fn switch(&self, head: Head, lease: Lease) -> Reply {
        match self.noted.upgrade {
            Some(protocol) => Reply::Switch { watch: self.watch(protocol, &head), head, lease },
            None => self.refuse(Refusal::BrokenAnswer, Reach::MayHaveActed), // a 101 that nobody asked for
        }
    }

    /// With what a WebSocket is recorded, if it is CometD's.
    fn watch(&self, protocol: &str, answer: &Head) -> Option<Box<Watch>> {
        let is_ours = self.route.class == RouteClass::Cometd && protocol.eq_ignore_ascii_case("websocket");
        is_ours.then(|| {
            let extensions: Vec<&str> = answer.tokens(Known::WebSocketExtensions).collect();
            let (recorder, budget) = (&self.gate.recorder, &self.gate.budget);
            let credentials = self.noted.credentials(answer);
            Box::new(Watch::new(recorder, budget, self.facts(), credentials, &extensions.join(",")))
        })
    }

    /// The proxy's own answer, and its row in the audit.
    fn refuse(&self, refusal: Refusal, reach: Reach) -> Reply {
        self.refuse_because(refusal, reach, None)
    }

    fn refuse_because(&self, refusal: Refusal, reach: Reach, why: Option<&str>) -> Reply {
        limits::behind(refusal).into_iter().for_each(|limit| self.gate.metrics.reached(limit));
        if reach != Reach::NotForwarded {
            self.miss();
        }
        self.audit(answer::audited(refusal, reach, why, &self.route));
        answer::refuse(refusal, reach, self.request.head.method(), self.noted.origin, &self.gate.config.cors_origins)
    }

    /// Chats are measured from their request on. Elsewhere a request may be a long upload: from its last part on, as long
    /// as its client keeps up the pace.
    fn until(&self) -> Instant {
        let config = &self.gate.config;
        let (whole, since) = match self.route.class {
            RouteClass::Cometd => (config.long_poll_timeout, self.request.began),
            RouteClass::Chat if !self.moves_file() => (config.chat_timeout, self.request.began),
            _ if self.request.upload.is_over() => (config.other_timeout, self.request.upload.moved_at()),
            _ => (config.body_idle_timeout.min(config.other_timeout), self.request.upload.moved_at()),
        };
        let until = (since + whole).min(self.request.began + self.gate.limits.exchange_time_max);
        self.request.upload.due().map_or(until, |due| due.min(until))
    }

    /// Whether its answer tells of what a node did, and comes soon. A long poll must free its node when nobody waits for it.
    fn changes_chat(&self) -> bool {
        self.route.class == RouteClass::Chat && self.route.operation.is_some() && !self.moves_file()
    }

    /// Files take their time; chats do not.
    fn moves_file(&self) -> bool {
        self.route.may_be_file() || self.route.operation == Some(Operation::FileUpload)
    }
}

/// Notices a client that leaves before its answer: then, and only then, it is not taken out before the end.
struct Departure<'a>(Option<Asked<'a>>);

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        let Some(asked) = &self.0 else { return };
        asked.tell();
        asked.gate.tally.of(asked.route.class).left();
        if asked.route.is_inspected() {
            asked.miss();
            asked.audit(answer::client_left(&asked.route));
        }
    }
}

/// What a request keeps to a node by: its chat; the node that our cookie names; a CometD session's cookie, or else the
/// client's address.
enum Key<'a> {
    Chat(&'a str),
    Pinned { node: &'a str, client: String },
    Session { cookie: &'a str, client: String },
    Client(String),
    None,
}

fn key_of<'a>(route: &'a Route<'_>, noted: &Noted<'a>, client: &IpAddr, pinned: Option<&'a str>) -> Key<'a> {
    match (route.class, route.chat_id.as_deref()) {
        (_, Some(chat_id)) => Key::Chat(chat_id),
        (RouteClass::Cometd | RouteClass::ChatNtf, None) => match (pinned, noted.cookie(SESSION_COOKIE)) {
            (Some(node), _) => Key::Pinned { node, client: client.to_string() },
            (None, Some(cookie)) => Key::Session { cookie, client: client.to_string() },
            (None, None) => Key::Client(client.to_string()),
        },
        _ => Key::None,
    }
}

impl Key<'_> {
    fn as_affinity(&self) -> Affinity<'_> {
        match self {
            Self::Chat(chat_id) => Affinity::Key(chat_id.as_bytes()),
            Self::Pinned { node, client } => Affinity::Pinned { node, client: client.as_bytes() },
            Self::Session { cookie, client } => Affinity::Session { cookie, client: client.as_bytes() },
            Self::Client(client) => Affinity::Key(client.as_bytes()),
            Self::None => Affinity::None,
        }
    }
}
