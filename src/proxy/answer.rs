//! What the proxy itself answers: a small JSON body, `Proxy-Status` (RFC 9209) that says which proxy and whether the
//! node may have acted, and a row in the audit.

use bytes::Bytes;
use http::StatusCode;

use super::body::Reply;
use super::head::Head;
use super::tls::FaultKind;
use crate::gms::{ApiError, ErrorClass, ErrorFormat, Origin, Route};

/// Did the request reach a node?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing of it was sent.
    NotForwarded,
    /// It was sent, in part or whole; the node may have acted on it.
    MayHaveActed,
    /// The node answered: it has acted.
    Executed,
}

impl Reach {
    fn sentence(self) -> &'static str {
        match self {
            Self::NotForwarded => "not forwarded",
            Self::MayHaveActed => "forwarded; the node may have acted on it",
            Self::Executed => "forwarded and executed by the node",
        }
    }
}

/// Why the proxy answers in a node's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Every node refused or timed out the connection.
    NoNode,
    /// No node could be reached: the last one's TLS failed.
    NodeTls(FaultKind),
    /// Every node has all the connections it may have.
    NodesFull,
    /// The node did not answer in time.
    NoAnswer,
    /// The node's connection broke before its answer was whole.
    BrokenAnswer,
    /// The configuration does not let this through.
    Denied,
    /// Recording is down, known before forwarding.
    RecordingDown,
    /// The answer could not be recorded.
    NotRecorded,
    /// The answer was too large to be recorded.
    TooLarge,
    /// A request that cannot be forwarded.
    BadRequest,
    /// Its path leads elsewhere for other readers.
    AmbiguousPath,
    /// Its client did not send its head in time.
    LateRequest,
    /// Its head is over the bounds.
    LongHead,
    /// Its target is.
    LongTarget,
    /// Its body is.
    LargeBody,
    /// Its client sends its body too slowly.
    SlowBody,
    /// What is left is for chats in progress.
    Overload,
    /// The proxy has all the connections it may have.
    TooManyConnections,
    /// This client has.
    TooManyOfClient,
    /// A method that no reverse proxy forwards.
    Method,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::NoNode | Self::NodeTls(_) | Self::BrokenAnswer => StatusCode::BAD_GATEWAY,
            Self::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::BadRequest | Self::AmbiguousPath => StatusCode::BAD_REQUEST,
            Self::LateRequest | Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::LongHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::LongTarget => StatusCode::URI_TOO_LONG,
            Self::LargeBody => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyOfClient => StatusCode::TOO_MANY_REQUESTS,
            Self::Method => StatusCode::NOT_IMPLEMENTED,
            Self::Overload
            | Self::TooManyConnections
            | Self::NodesFull
            | Self::RecordingDown
            | Self::NotRecorded
            | Self::TooLarge => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// A proxy error type of RFC 9209, section 2.3.
    fn error_type(self) -> &'static str {
        match self {
            Self::NoNode => "destination_unavailable",
            Self::NodeTls(FaultKind::Certificate) => "tls_certificate_error",
            Self::NodeTls(FaultKind::Alert) => "tls_alert_received",
            Self::NodeTls(FaultKind::Protocol) => "tls_protocol_error",
            Self::NodesFull | Self::Overload | Self::TooManyConnections | Self::TooManyOfClient => {
                "connection_limit_reached"
            }
            Self::NoAnswer => "http_response_timeout",
            Self::BrokenAnswer => "http_response_incomplete",
            Self::Denied => "http_request_denied",
            Self::RecordingDown | Self::NotRecorded => "proxy_internal_error",
            Self::TooLarge => "http_response_body_size",
            Self::BadRequest
            | Self::AmbiguousPath
            | Self::LateRequest
            | Self::LongHead
            | Self::LongTarget
            | Self::LargeBody
            | Self::SlowBody
            | Self::Method => "http_request_error",
        }
    }

    /// For the client's developer and the support desk.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoNode => "no GMS node could be reached",
            Self::NodeTls(_) => "no GMS node could be reached: TLS with it failed",
            Self::NodesFull => "all connections to the GMS nodes are in use",
            Self::NoAnswer => "the GMS node did not answer in time",
            Self::BrokenAnswer => "the connection to the GMS node broke before its answer was whole",
            Self::Denied => "this path is not let through here",
            Self::RecordingDown => "chats cannot be recorded at the moment, and none is let through unrecorded",
            Self::NotRecorded => "the answer could not be recorded in time, and none is let out unrecorded",
            Self::TooLarge => "the answer is too large to be recorded, and none is let out unrecorded",
            Self::BadRequest => "the request cannot be forwarded",
            Self::AmbiguousPath => {
                "the path can be read in more than one way, and they differ in what is let through or recorded"
            }
            Self::LateRequest => "the request did not come in time",
            Self::LongHead => "the head of the request is too long",
            Self::LongTarget => "the target of the request is too long",
            Self::LargeBody => "the body of the request is too large",
            Self::SlowBody => "the body of the request came too slowly",
            Self::Overload => "too much is going on; what is left is for chats in progress",
            Self::TooManyConnections => "too many clients are connected",
            Self::TooManyOfClient => "this client has too many connections",
            Self::Method => "this method is not forwarded",
        }
    }

    /// Whether trying again soon may help.
    fn is_passing(self) -> bool {
        use Refusal::{
            NoNode, NodeTls, NodesFull, NotRecorded, Overload, RecordingDown, TooManyConnections, TooManyOfClient,
        };
        matches!(
            self,
            NoNode
                | NodeTls(_)
                | NodesFull
                | Overload
                | RecordingDown
                | NotRecorded
                | TooManyConnections
                | TooManyOfClient
        )
    }
}

/// The answer of the proxy's own to a request of that method: HEAD gets its fields alone.
pub fn refuse(refusal: Refusal, reach: Reach, method: &str, origin: Option<&str>, cors_origins: &[String]) -> Reply {
    let body = serde_json::json!({
        "error": {
            "source": "gms-recorder",
            "type": refusal.error_type(),
            "message": refusal.sentence(),
            "request": reach.sentence(),
        }
    });
    let bytes = Bytes::from(body.to_string());
    let length = bytes.len().to_string();
    let status = format!("gms-recorder; error={}; details=\"{}\"", refusal.error_type(), reach.sentence());
    let mut fields = vec![
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Content-Length", &length),
        ("Proxy-Status", &status),
    ];
    // Not where the node has acted: another try would be another message.
    if refusal.is_passing() && reach == Reach::NotForwarded {
        fields.push(("Retry-After", "1"));
    }
    // Lets the scripts of a configured origin read the answer.
    if let Some(origin) = origin.filter(|origin| cors_origins.iter().any(|allowed| allowed == origin)) {
        fields.extend([
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", "proxy-status, retry-after"),
            ("Vary", "origin"),
        ]);
    }
    let head = Head::answer(refusal.status(), &fields);
    if method == "HEAD" { Reply::without_body(head) } else { Reply::own(head, bytes) }
}

/// The audit's row for an answer of the proxy's own. `why` is for whoever looks into it, and not for the client.
pub fn audited(refusal: Refusal, reach: Reach, why: Option<&str>, route: &Route<'_>) -> ApiError {
    let why = why.map(|why| format!("; {why}")).unwrap_or_default();
    ApiError {
        origin: Origin::Proxy,
        http_status: Some(refusal.status().as_u16()),
        detail: Some(format!("{}: {}{why}", refusal.error_type(), refusal.sentence())),
        advice: Some(reach.sentence().into()),
        ..blank(route)
    }
}

/// The audit's row for a client that left before its answer (nginx's 499).
pub fn client_left(route: &Route<'_>) -> ApiError {
    ApiError { origin: Origin::Client, detail: Some("the client left before its answer".into()), ..blank(route) }
}

fn blank(route: &Route<'_>) -> ApiError {
    ApiError {
        origin: Origin::Proxy,
        format: ErrorFormat::Http,
        http_status: None,
        status_code: None,
        code: None,
        class: ErrorClass::Transport,
        meaning: None,
        field: None,
        detail: None,
        advice: None,
        reference_id: None,
        service: route.service.as_deref().map(String::from),
        operation: route.operation.as_ref().map(|operation| operation.as_str().into()),
        chat_id: route.chat_id.as_deref().and_then(crate::chat::ChatId::parse),
        alias: None,
        maskings: Vec::new(),
    }
}
