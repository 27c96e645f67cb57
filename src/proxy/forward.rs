//! THE HOT PATH: the life of one exchange, on one screen.
//!
//! A request is routed, checked, sent to a node. Answers of other routes stream through. An answer of an inspected route
//! is held until it was read, and if it brought something new until that is committed; then it goes out as it came.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, TE, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::access::Access;
use super::answer::{self, Reach, Refusal};
use super::body::{Break, ClientBody, Idle, NodeBody, RequestBody, Upload};
use super::doorbell::Doorbell;
use super::headers::{self, Noted, Peer};
use super::nodes::Affinity;
use super::socket::Watch;
use super::tally::Tally;
use super::tap::{self, Budget, Share, Taken};
use super::upstream::{Failure, Lease, Pool};
use super::{Config, upgrade};
use crate::gms::{self, Exchange, Operation, Route, RouteClass};
use crate::recorder::{Recorder, Verdict};
use crate::store::ExchangeFacts;
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Metrics;

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
    /// Who may pass.
    pub access: Access,
    /// Where to.
    pub pool: Rc<Pool>,
    /// What is kept.
    pub recorder: Arc<Recorder>,
    /// How much may be held.
    pub budget: Arc<Budget>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The same of exchanges, found once.
    pub tally: Tally,
    /// Conversations of this thread that are not at rest.
    pub warm: Rc<Cell<usize>>,
}

/// One exchange, as far as it is known before the answer.
struct Asked<'a> {
    gate: &'a Rc<Gate>,
    route: Route<'a>,
    method: Method,
    uri: &'a Uri,
    noted: Noted,
    client: IpAddr,
    bell: &'a Arc<Doorbell>,
    upload: Rc<Upload>,
    /// The node asked last.
    node: RefCell<Option<Arc<str>>>,
    began: Instant,
}

/// Forwards one request and returns the answer for its client.
///
/// It is polled in the task of the client's connection, whose `bell` must not ring for what it does itself.
pub async fn forward(
    gate: &Rc<Gate>,
    peer: &Peer,
    bell: &Arc<Doorbell>,
    mut request: Request<Incoming>,
) -> Response<ClientBody> {
    let uri = request.uri().clone();
    let route = Route::parse(request.method().as_str(), uri.path(), &gate.config.base_path);
    let noted = Noted::of(request.headers());
    let client = headers::forwarded(request.headers_mut(), peer, &gate.config.trusted_proxies);
    let method = request.method().clone();
    let began = Instant::now();
    let kept = if route.is_inspected() { gate.recorder.config().request_bytes_max } else { 0 };
    let upload = Upload::of(request.body(), kept, began);
    let asked = Asked { gate, route, method, uri: &uri, noted, client, bell, upload, node: RefCell::default(), began };
    let mut departure = Departure(Some(asked));
    let asked = departure.0.as_ref().expect("it is taken only below");

    let answered = match asked.admit() {
        Ok(()) => asked.ask(request).await,
        Err(refusal) => Err(asked.refuse(refusal, Reach::NotForwarded)),
    };
    let response = match answered {
        Ok((response, upgraded)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            asked.switch(response, upgraded)
        }
        Ok((response, _)) if asked.reads(&response) => asked.record(response).await,
        Ok((response, _)) => response.map(ClientBody::stream),
        Err(refused) => refused,
    };
    asked.count(&response);
    departure.0 = None;
    response
}

impl Asked<'_> {
    /// May it be forwarded at all?
    fn admit(&self) -> Result<(), Refusal> {
        if self.route.looks_like_chat {
            self.gate.metrics.unrecognised.inc();
            if let Some(not_shown) = UNRECOGNISED.admit(std::time::Instant::now()) {
                let path = self.uri.path();
                tracing::warn!(path, not_shown, "looks like chat but matches no route: forwarded, not recorded");
            }
        }
        if let Some(finding) = tap::chat_v1(&self.route) {
            self.gate.recorder.find(finding, &self.facts());
        }
        let disconnects = self.route.operation == Some(Operation::Disconnect);
        match () {
            () if !self.gate.access.admits(&self.route, self.uri.path()) => Err(Refusal::Denied),
            () if self.route.is_inspected() && !disconnects && self.gate.recorder.refuses() => {
                Err(Refusal::RecordingDown)
            }
            () => Ok(()),
        }
    }

    /// Sends the request to a node and waits for the head of its answer, within the class's time.
    async fn ask(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Response<NodeBody>, Option<upgrade::Client>), Response<ClientBody>> {
        let (request, upgraded) = self.toward_node(request);
        let affinity = affinity(&self.route, &self.noted, &self.client);
        let sent = self.in_time(self.gate.pool.send(request, affinity.as_affinity(), &self.node, self.bell)).await;
        let failure = match sent {
            Some(Ok((response, lease))) => return Ok((self.answered(response, lease), upgraded)),
            Some(Err(failure)) => failure,
            None if self.node.borrow().is_none() => {
                Failure { refusal: Refusal::NoNode, reach: Reach::NotForwarded, node: None }
            }
            None => Failure { refusal: Refusal::NoAnswer, reach: Reach::MayHaveActed, node: self.node.take() },
        };
        self.node.replace(failure.node);
        Err(self.refuse(failure.refusal, failure.reach))
    }

    /// The head of an answer, as it goes on from here.
    fn answered(&self, response: Response<Incoming>, lease: Lease) -> Response<NodeBody> {
        if let (Some(cookie), Some(node)) =
            (headers::given_cookie(response.headers(), SESSION_COOKIE), &*self.node.borrow())
        {
            self.gate.pool.nodes().remember_session(cookie, node);
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return response.map(|body| NodeBody::of_upgrade(body, lease, self.bell));
        }
        let mut response =
            response.map(|body| NodeBody::new(body, lease, self.bell, self.gate.config.body_idle_timeout));
        headers::strip_hop_by_hop(response.headers_mut());
        response
    }

    /// Waits for something within the class's time. A long upload that has moved on meanwhile has more of it.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            match timeout(self.time_left(), work.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if self.time_left().is_zero() => return None,
                Err(_) => {}
            }
        }
    }

    /// The request as the node gets it (R1).
    fn toward_node(&self, request: Request<Incoming>) -> (Request<RequestBody>, Option<upgrade::Client>) {
        let (mut parts, incoming) = request.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        if self.noted.takes_trailers {
            parts.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(protocol) = &self.noted.upgrade {
            parts.headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        parts.version = Version::HTTP_11;
        if parts.uri.authority().is_some() {
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()); // absolute form
            parts.uri = path.parse().unwrap_or_default();
        }
        let upgraded = self.noted.upgrade.is_some().then(|| upgrade::Client::take(&mut parts));
        let idle = Idle::new(self.gate.config.body_idle_timeout);
        let (upload, bell) = (self.upload.clone(), self.bell.clone());
        (Request::from_parts(parts, RequestBody::Client { incoming, upload, bell, idle }), upgraded)
    }

    /// Is the answer one to hold and read?
    fn reads(&self, response: &Response<NodeBody>) -> bool {
        self.route.is_inspected() && self.method != Method::HEAD && response.status() != StatusCode::NOT_MODIFIED
    }

    /// Holds the answer until it was read, and if need be until it is committed. Then it goes out as it came.
    async fn record(&self, response: Response<NodeBody>) -> Response<ClientBody> {
        let (head, body) = response.into_parts();
        let encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        let could_be_file = self.route.may_be_file();
        let mut share = Share::of(&self.gate.budget);
        let taken = tap::take(body, &mut share, |start| could_be_file && !gms::could_be_answer(start, encoding));
        let Some(taken) = self.in_time(taken).await else {
            return self.refuse(Refusal::NoAnswer, Reach::Executed);
        };
        let (bytes, trailers, whole) = match taken {
            Taken::Whole { bytes, trailers } => (bytes, trailers, true),
            Taken::Broken { bytes } if bytes.is_empty() => {
                return self.refuse(Refusal::BrokenAnswer, Reach::MayHaveActed);
            }
            Taken::Broken { bytes } => (bytes, None, false),
            Taken::File { start, rest } => return Response::from_parts(head, ClientBody::Stream { start, rest }),
            Taken::TooLarge { start, rest } => return self.pass_unread(head, start, rest),
        };
        if self.keep(&head, &bytes, whole).await == Verdict::Refuse
            && self.route.operation != Some(Operation::Disconnect)
        {
            return self.refuse(Refusal::NotRecorded, Reach::Executed);
        }
        let sized = head.headers.contains_key(CONTENT_LENGTH);
        Response::from_parts(
            head,
            ClientBody::Held { bytes, trailers, sized, broken: (!whole).then_some(Break::Flushing) },
        )
    }

    /// Reads an answer, unless the same one to the same request was read before and is on disk; has what is new recorded.
    async fn keep(&self, head: &http::response::Parts, body: &[u8], whole: bool) -> Verdict {
        let recorder = &self.gate.recorder;
        let request_body = self.upload.take();
        let content_type = self.noted.content_type.as_ref().and_then(|value| value.to_str().ok());
        let content_encoding = head.headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        let exchange = Exchange {
            route: &self.route,
            query: self.uri.query(),
            request_content_type: content_type,
            request_body: &request_body,
            credentials: &[],
            status: head.status.as_u16(),
            content_encoding,
            body,
            body_complete: whole,
        };
        let node = self.node.borrow().clone();
        let key = recorder.answer_key(self.method.as_str(), self.uri.path(), &exchange);
        let wait_max = recorder.config().commit_wait_max.min(self.time_left().max(COMMIT_WAIT_MIN));
        if whole && let Some(recorded) = recorder.recognise(&key, node.as_ref()) {
            return recorder.wait(recorded, wait_max).await;
        }
        let secrets = self.noted.credentials(&head.headers);
        let exchange = Exchange { credentials: &secrets, ..exchange };
        let observation = gms::inspect(&exchange, recorder.policy(), &|chat_id| recorder.known_secrets(chat_id));
        let recorded = recorder.observe(observation, key, node.as_ref(), || self.facts());
        recorder.wait(recorded, wait_max).await
    }

    /// An answer over the bounds: streamed under `pass`, refused under `refuse`.
    fn pass_unread(
        &self,
        head: http::response::Parts,
        start: bytes::Bytes,
        rest: Box<NodeBody>,
    ) -> Response<ClientBody> {
        self.gate.metrics.uninspected.inc();
        self.gate.recorder.find(tap::too_large(&self.route, start.len()), &self.facts());
        match self.gate.recorder.passes_unrecorded() {
            true => Response::from_parts(head, ClientBody::Stream { start, rest }),
            false => self.refuse(Refusal::TooLarge, Reach::Executed),
        }
    }

    fn switch(&self, response: Response<NodeBody>, upgraded: Option<upgrade::Client>) -> Response<ClientBody> {
        match upgraded {
            Some(client) => {
                let watch = self.watch(response.headers());
                upgrade::join(client, response, watch, self.gate.config.websocket_idle_timeout)
            }
            None => self.refuse(Refusal::BrokenAnswer, Reach::MayHaveActed), // a 101 that nobody asked for
        }
    }

    /// With what a WebSocket is recorded, if it is CometD's.
    fn watch(&self, answer: &HeaderMap) -> Option<Watch> {
        let is_websocket = |protocol: &HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
        let is_ours = self.route.class == RouteClass::Cometd && self.noted.upgrade.as_ref().is_some_and(is_websocket);
        is_ours.then(|| {
            let extensions: Vec<&str> = headers::tokens(answer, &SEC_WEBSOCKET_EXTENSIONS).collect();
            let (recorder, budget) = (&self.gate.recorder, &self.gate.budget);
            Watch::new(recorder, budget, self.facts(), self.noted.credentials(answer), &extensions.join(","))
        })
    }

    /// The proxy's own answer, and its row in the audit.
    fn refuse(&self, refusal: Refusal, reach: Reach) -> Response<ClientBody> {
        self.gate.recorder.audit(answer::audited(refusal, reach, &self.route), &self.facts());
        answer::refuse(refusal, reach, self.noted.origin.as_ref(), &self.gate.config.cors_origins)
    }

    /// Chats are measured from their request on. Elsewhere a request may be a long upload: from its last part on.
    fn time_left(&self) -> Duration {
        let config = &self.gate.config;
        let (whole, since) = match self.route.class {
            RouteClass::Cometd => (config.long_poll_timeout, self.began),
            RouteClass::Chat if !self.moves_file() => (config.chat_timeout, self.began),
            _ => (config.other_timeout, self.upload.moved_at()),
        };
        whole.saturating_sub(since.elapsed())
    }

    /// Files take their time; chats do not.
    fn moves_file(&self) -> bool {
        self.route.may_be_file() || self.route.operation == Some(Operation::FileUpload)
    }

    fn facts(&self) -> Arc<ExchangeFacts> {
        Arc::new(ExchangeFacts {
            method: self.method.as_str().into(),
            path: self.uri.path().into(),
            node: self.node.borrow().clone(),
            client: self.client.to_string(),
            request_id: self.noted.request_id.as_ref().and_then(|value| value.to_str().ok()).map(String::from),
            duration_ms: self.began.elapsed().as_millis() as i64,
        })
    }

    fn count(&self, response: &Response<ClientBody>) {
        let counted = self.gate.tally.of(self.route.class);
        counted.answered(response.status().as_u16(), self.began.elapsed());
    }
}

/// Notices a client that leaves before its answer: then, and only then, the exchange is dropped unanswered.
struct Departure<'a>(Option<Asked<'a>>);

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        let Some(asked) = &self.0 else { return };
        asked.gate.tally.of(asked.route.class).left();
        if asked.route.is_inspected() {
            asked.gate.recorder.audit(answer::client_left(&asked.route), &asked.facts());
        }
    }
}

/// What a request keeps to a node by: its chat; a CometD session's cookie, or else the client's address.
enum Key<'a> {
    Chat(&'a str),
    Session { cookie: &'a str, client: String },
    Client(String),
    None,
}

fn affinity<'a>(route: &'a Route<'_>, noted: &'a Noted, client: &IpAddr) -> Key<'a> {
    match (route.class, route.chat_id.as_deref()) {
        (_, Some(chat_id)) => Key::Chat(chat_id),
        (RouteClass::Cometd | RouteClass::ChatNtf, None) => match noted.cookie(SESSION_COOKIE) {
            Some(cookie) => Key::Session { cookie, client: client.to_string() },
            None => Key::Client(client.to_string()),
        },
        _ => Key::None,
    }
}

impl Key<'_> {
    fn as_affinity(&self) -> Affinity<'_> {
        match self {
            Self::Chat(chat_id) => Affinity::Key(chat_id.as_bytes()),
            Self::Session { cookie, client } => Affinity::Session { cookie, client: client.as_bytes() },
            Self::Client(client) => Affinity::Key(client.as_bytes()),
            Self::None => Affinity::None,
        }
    }
}
