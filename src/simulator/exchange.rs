//! The life of one exchange at a node: route, fate, read, answer, and how the answer ends. Each API says for itself what
//! it answers.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use tokio::sync::watch;

use super::account::IssuedError;
use super::cometd;
use super::faults::{Failure, Fate, Faults, Reset};
use super::operations::Operation;
use super::other_apis::{self, Api};
use super::params::Params;
use super::refusal::{Refusal, Spoken, unexpected};
use super::rest;
use super::websocket;
use super::wire::{Aborted, Answer, Connection, Content, Wire};
use super::world::{Receipt, World};

/// Uploads to a chat are kept, so they are bounded: well above the largest file the default limits allow.
const BODY_BYTES_MAX: usize = 32 << 20;

/// What one node's exchanges have in common.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) world: Arc<World>,
    pub(super) node: usize,
    pub(super) hung: watch::Receiver<bool>,
}

/// Where a request leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'p> {
    Chat { service: &'p str, chat_id: Option<&'p str>, operation: Operation, file_id: Option<&'p str> },
    ChatNotify,
    CometD,
    Other(Api<'p>),
    NodeStatus,
    Download(u64),
    UploadSink,
    Account,
    Faults,
    Nowhere,
    NotThisWay,
}

impl<'p> Route<'p> {
    fn of(method: &Method, path: &'p str) -> Self {
        let segments: Vec<&str> = path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
        let route = Self::of_segments(&segments);
        let reads = matches!(route, Self::NodeStatus | Self::Download(_) | Self::Account);
        let either = matches!(route, Self::CometD | Self::Nowhere);
        let fits = if reads { [&Method::GET, &Method::HEAD].contains(&method) } else { method == Method::POST };
        if fits || either { route } else { Self::NotThisWay }
    }

    fn of_segments(segments: &[&'p str]) -> Self {
        match *segments {
            ["genesys", "2", "chat", service] => {
                Self::Chat { service, chat_id: None, operation: Operation::RequestChat, file_id: None }
            }
            ["genesys", "2", "chat", service, chat_id, ref tail @ ..] => match Operation::of_path(tail) {
                Some((operation, file_id)) => Self::Chat { service, chat_id: Some(chat_id), operation, file_id },
                None => Self::Nowhere,
            },
            ["genesys", "2", "chat-ntf"] => Self::ChatNotify,
            ["genesys", "cometd", ..] => Self::CometD,
            ["genesys", "2", "email", service] => Self::Other(Api::Email { service }),
            ["genesys", "2", "openmedia", service] => Self::Other(Api::OpenMedia { service, interaction: None }),
            ["genesys", "2", "openmedia", service, id, "retrieve" | "update" | "stop"] => {
                Self::Other(Api::OpenMedia { service, interaction: Some(id) })
            }
            ["genesys", "1", "service", "request-chat"] => Self::Other(Api::RequestChatV1),
            ["genesys", "1", "admin", "node", "status"] | ["genesys", "1", "node"] => Self::NodeStatus,
            ["genesys", "1", "storage"] => Self::UploadSink,
            ["genesys", "1", "storage", bytes] => bytes.parse().map_or(Self::Nowhere, Self::Download),
            ["__account"] => Self::Account,
            ["__faults"] => Self::Faults,
            _ => Self::Nowhere,
        }
    }

    fn meets_faults(self) -> bool {
        matches!(self, Self::Chat { .. } | Self::ChatNotify | Self::CometD | Self::Other(_))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Chat { operation, .. } => operation.name(),
            Self::ChatNotify => "chat-ntf",
            Self::CometD => "cometd",
            Self::Other(api) => api.name(),
            Self::NodeStatus => "nodeStatus",
            Self::Download(_) => "download",
            Self::UploadSink => "upload",
            Self::Account | Self::Faults | Self::Nowhere | Self::NotThisWay => "other",
        }
    }
}

/// Serves one request.
///
/// # Errors
/// [`Aborted`] where the connection shall end without an answer.
pub(super) async fn exchange(
    site: Arc<Site>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Wire>, Aborted> {
    let (mut head, body) = request.into_parts();
    let route = Route::of(&head.method, head.uri.path());
    if route == Route::CometD
        && let Some(answer) = websocket::handshake(&head, site.world.websocket_deflate)
        && let Some(upgrade) = head.extensions.remove::<OnUpgrade>()
    {
        let is_deflated = answer.headers.iter().any(|(name, _)| name == header::SEC_WEBSOCKET_EXTENSIONS);
        connection.upgrade(upgrade, is_deflated);
        return Ok(answer.dress(&Fate::default(), &connection));
    }
    let fate = if route.meets_faults() { site.world.next_fate() } else { Fate::default() };
    if fate.reset == Some(Reset::BeforeReading) {
        site.world.lock().ledger.resets_before_reading += 1;
        connection.reset();
        return Err(Aborted);
    }
    let answer = site.answer(route, &head, body, &fate).await?;
    site.world.let_agents_answer();
    if fate.reset == Some(Reset::AfterReading) {
        connection.reset();
        return Err(Aborted);
    }
    let mut response = answer.dress(&fate, &connection);
    decorate(&mut response, &head);
    let requests_max = site.world.faults().requests_per_connection;
    if connection.next_request() == requests_max {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What Jetty and the CORS filter put on every answer.
fn decorate(response: &mut Response<Wire>, head: &Parts) {
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("Jetty(9.4.43.v20210629)"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    if let Some(origin) = head.headers.get(header::ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

impl Site {
    async fn answer(&self, route: Route<'_>, head: &Parts, body: Incoming, fate: &Fate) -> Result<Answer, Aborted> {
        if head.method == Method::OPTIONS {
            return Ok(preflight());
        }
        if route == Route::UploadSink {
            return self.count_upload(body).await;
        }
        let Some(body) = read(body).await? else {
            return Ok(Answer::page(StatusCode::PAYLOAD_TOO_LARGE, head.uri.path()));
        };
        self.receive(route, head, &body);
        self.wait_while_hung().await;
        // Even a sleep of nothing lasts up to a tick of the timer, which a benchmark would measure.
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        if let Some(Failure::Page(status)) = fate.failure {
            return Ok(self.fail(route, status, head.uri.path()));
        }
        Ok(self.answer_read(route, head, &body, fate).await)
    }

    async fn answer_read(&self, route: Route<'_>, head: &Parts, body: &Bytes, fate: &Fate) -> Answer {
        let (world, node, path) = (&*self.world, self.node, head.uri.path());
        match route {
            Route::Chat { service, chat_id, operation, file_id } => {
                let (service, params) = (Some(service), &params(head, body));
                rest::answer(world, &rest::Request { node, operation, service, chat_id, file_id, params }, fate)
            }
            Route::ChatNotify => self.chat_notify(&params(head, body), fate),
            Route::CometD if head.method == Method::POST => cometd::answer(world, node, body, fate).await,
            Route::CometD => cometd::unknown_transport(),
            Route::Other(api) => other_apis::answer(world, node, api, &params(head, body), fate),
            Route::NodeStatus => self.node_status(),
            Route::Download(bytes) => Answer::new(StatusCode::OK, "application/octet-stream", Content::Fill(bytes)),
            Route::Account => account(world),
            Route::Faults => replace_faults(world, body),
            Route::NotThisWay => Answer::page(StatusCode::METHOD_NOT_ALLOWED, path),
            Route::Nowhere | Route::UploadSink => Answer::page(StatusCode::NOT_FOUND, path),
        }
    }

    /// What was received is counted as soon as it is, whatever becomes of it.
    fn receive(&self, route: Route<'_>, head: &Parts, body: &Bytes) {
        self.world.count(route.name(), self.node);
        let said = match route {
            Route::Chat { operation: operation @ (Operation::Send | Operation::Refresh), .. } => {
                operation.said(&params(head, body)).map(str::to_owned).into_iter().collect()
            }
            Route::CometD => cometd::said(body),
            _ => Vec::new(),
        };
        if !said.is_empty() {
            let ledger = &mut self.world.lock().ledger;
            said.iter().for_each(|text| ledger.received(text));
        }
    }

    /// A hung node has read the request and goes on only when it wakes up, if ever.
    async fn wait_while_hung(&self) {
        let mut hung = self.hung.clone();
        // An error means that the node is gone, and this exchange with it.
        let _gone = hung.wait_for(|hung| !hung).await;
    }

    fn fail(&self, route: Route<'_>, status: u16, path: &str) -> Answer {
        let chat_id = match route {
            Route::Chat { chat_id, .. } => chat_id,
            _ => None,
        };
        let issued = vec![IssuedError { http_status: status, ..IssuedError::default() }];
        let spoken = Spoken { http_status: status, body: serde_json::Map::new(), issued };
        let receipt = self.world.lock().ledger.issue(&spoken, self.node, route.name(), chat_id);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer { receipt, ..Answer::page(status, path) }
    }

    fn chat_notify(&self, params: &Params, fate: &Fate) -> Answer {
        let node = self.node;
        if let Some(operation) = Operation::of_notify(params.text("operation").unwrap_or_default()) {
            let (service, chat_id, file_id) = (None, None, None);
            let request = rest::Request { node, operation, service, chat_id, file_id, params };
            return rest::answer(&self.world, &request, fate);
        }
        let mut state = self.world.lock();
        let refusal = Refusal::Invalid(vec![unexpected(state.chats.reference())]);
        let spoken = refusal.over_rest(self.world.error_format);
        let receipt = state.ledger.issue(&spoken, node, "chat-ntf", None);
        Answer::json(spoken.http_status, &spoken.body.into(), receipt)
    }

    fn node_status(&self) -> Answer {
        let session = format!("JSESSIONID=node{}0simulated; Path=/genesys; HttpOnly", self.node);
        Answer::new(StatusCode::OK, "text/plain", Content::Whole("ONLINE".into())).with(header::SET_COOKIE, session)
    }

    /// Counts what arrives and keeps none of it.
    async fn count_upload(&self, mut body: Incoming) -> Result<Answer, Aborted> {
        self.world.count(Route::UploadSink.name(), self.node);
        let mut bytes = 0_u64;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Aborted)?;
            bytes += frame.data_ref().map_or(0, |piece| piece.len() as u64);
        }
        self.wait_while_hung().await;
        self.world.lock().ledger.uploaded_bytes += bytes;
        Ok(Answer::json(200, &json!({"bytes": bytes}), Receipt::default()))
    }
}

/// The whole body; none where it is over the limit.
async fn read(body: Incoming) -> Result<Option<Bytes>, Aborted> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(Some(collected.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(None),
        Err(_) => Err(Aborted),
    }
}

fn params(head: &Parts, body: &Bytes) -> Params {
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Params::parse(content_type.unwrap_or_default(), body)
}

fn preflight() -> Answer {
    Answer::new(StatusCode::OK, "text/plain", Content::Whole(Bytes::new()))
        .with(header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS")
        .with(header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type, apikey, x-api-key, ContactCenterId")
}

fn account(world: &World) -> Answer {
    match serde_json::to_vec_pretty(&world.account()) {
        Ok(text) => Answer::new(StatusCode::OK, "application/json", Content::Whole(text.into())),
        Err(_) => Answer::page(StatusCode::INTERNAL_SERVER_ERROR, "/__account"),
    }
}

fn replace_faults(world: &World, body: &Bytes) -> Answer {
    match serde_json::from_slice::<Faults>(body) {
        Ok(faults) => {
            world.replace_faults(faults);
            Answer::json(200, &json!(*world.faults()), Receipt::default())
        }
        Err(error) => Answer::json(400, &json!({"error": error.to_string()}), Receipt::default()),
    }
}
