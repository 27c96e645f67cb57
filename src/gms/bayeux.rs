//! CometD: an envelope of deliveries, acknowledgements and `/meta/` replies, as an array or a single object: the answer to
//! one HTTP request, or a message of a WebSocket, where it may answer any message before it.
//! Chat V2 is on the channels `/service/chatV2/{serviceName}`; what other channels carry is only counted.

use std::borrow::Cow;

use super::body::{Document, Known};
use super::errors::{ErrorClass, entry_of};
use super::json::{Kind, Value, whole};
use super::request::{CHAT_CHANNELS, Message, Request};
use super::route::{Operation, Route, RouteClass};
use super::scrub::key_digest;
use super::wire::{self, Asked};
use super::{
    ApiError, ChatAnswer, ChatKey, Coverage, ErrorFormat, Exchange, Finding, FindingKind, Observation, OpenedSession,
    Policy, inspect_answer,
};
use crate::chat::{ChatId, ContentDigest, Secret};

/// What goes over one WebSocket, in both directions: what the client said is remembered until the node answers it.
pub struct Dialogue {
    route: Route<'static>,
    credentials: Vec<Secret>,
    asked: Request<'static>,
    is_leaving: bool,
}

impl Dialogue {
    /// Nothing was said yet. `credentials` are those of the handshake's fields.
    pub fn new(credentials: Vec<Secret>) -> Self {
        Self { route: Route::new(RouteClass::Cometd), credentials, asked: Request::default(), is_leaving: false }
    }

    /// What a message of the client says itself: attributes, a chat asked for, the session's end.
    pub fn said(&mut self, message: &[u8], policy: &Policy) -> Observation {
        let exchange = Exchange { request_body: message, ..self.exchange(b"[]") };
        let request = Request::read(&exchange);
        let seen = inspect_answer(&exchange, &request, policy, &|_| Vec::new());
        let said = request.into_owned();
        let ends_chat = |message: &Message<'_>| message.operation == Some(Operation::Disconnect);
        self.is_leaving = seen.session_ended || said.messages.iter().any(ends_chat);
        if seen.session_ended {
            self.asked = Request::default();
        }
        self.asked.remember(said);
        seen
    }

    /// Something that the client said was not read: whose deliveries follow is not known until it says more.
    pub fn misheard(&mut self) {
        self.asked = Request::default();
    }

    /// Whether what was said last ends a chat or the session: that is never kept from a node (R3).
    pub fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// What a message of the node delivers, as [`super::inspect`] does. Its errors have no HTTP status.
    pub fn told(&self, message: &[u8], policy: &Policy, known_secrets: &dyn Fn(&ChatId) -> Vec<Secret>) -> Observation {
        let mut seen = inspect_answer(&self.exchange(message), &self.asked, policy, known_secrets);
        seen.errors.iter_mut().for_each(|error| error.http_status = None);
        seen
    }

    /// A message of the node went by unread: what the session delivers later does not follow on what it delivered before.
    pub fn missed(&self, finding: Finding, policy: &Policy) -> Observation {
        Observation { missed: session(&self.asked, policy), findings: vec![finding], ..Observation::default() }
    }

    /// A message as if it were an answer, with status 200.
    pub fn exchange<'a>(&'a self, message: &'a [u8]) -> Exchange<'a> {
        Exchange {
            route: &self.route,
            query: None,
            request_content_type: None,
            request_body: b"",
            request_complete: true,
            credentials: &self.credentials,
            status: 200,
            content_encoding: None,
            body: message,
            body_complete: true,
        }
    }
}

/// The keyed digest of the CometD session that a request is of, or else the one last spoken of on its WebSocket.
pub(super) fn session(request: &Request<'_>, policy: &Policy) -> Option<ContentDigest> {
    let mut client_ids = request.messages.iter().chain(request.earlier.iter().rev());
    client_ids.find_map(|message| message.client_id.as_ref()).map(|id| key_digest(&policy.digest_key, id))
}

/// Whether a value is an envelope or part of one.
pub(super) fn is_envelope(root: Value<'_>) -> bool {
    let is_message = |value: Value<'_>| value.given("channel").is_some();
    is_message(root)
        || (root.kind() == Kind::Array && (root.elements().next().is_none() || root.elements().any(is_message)))
}

/// Reads what a CometD answer delivers.
pub(super) fn read(
    document: &Document<'_>,
    known: &Known<'_>,
    request: &Request<'_>,
    exchange: &Exchange<'_>,
    policy: &Policy,
    seen: &mut Observation,
) {
    let session = session(request, policy);
    let root = document.root();
    let one = (root.kind() == Kind::Object).then_some(root);
    for message in root.elements().chain(one) {
        let Some(channel) = message.given("channel").map(Value::text_or_raw) else {
            seen.findings.push(odd(message, document, "an element of a CometD answer without a channel", policy));
            continue;
        };
        let service = channel.strip_prefix(CHAT_CHANNELS);
        let id = message.given("id").map(Value::text_or_raw);
        let on_channel = |published: &&Message<'_>| published.channel == channel;
        let mut of_channel = request.earlier.iter().chain(&request.messages).rev().filter(on_channel);
        // An acknowledgement has its message's id, a delivery none.
        let same_id = of_channel.clone().find(|published| id.is_some() && published.id == id);
        let published = same_id.or_else(|| of_channel.next());
        let asked = Asked {
            operation: published.and_then(|message| message.operation.as_ref()),
            service,
            chat_id: None,
            form: None,
            session,
            is_delivery: true,
            status: exchange.status,
        };
        seen.errors.extend(refusal(message, &asked));
        match (message.given("data"), service) {
            (Some(delivery), Some(_)) => read_delivery(delivery, document, known, &asked, policy, seen),
            (Some(_), None) if !channel.starts_with("/meta/") => seen.other_deliveries += 1,
            _ => {}
        }
    }
    for message in &request.messages {
        read_published(message, session, policy, seen);
    }
}

/// `data` is an answer, or an answer's JSON in a string.
fn read_delivery(
    delivery: Value<'_>,
    document: &Document<'_>,
    known: &Known<'_>,
    asked: &Asked<'_>,
    policy: &Policy,
    seen: &mut Observation,
) {
    let said = document.before_scrubbing(delivery).text();
    // Its own secrets and typing previews are found only in what the string holds.
    let inner = said.and_then(|text| Document::read(Cow::Owned(text.into_owned()), known, policy).ok());
    let (answer, document) = inner.as_ref().map_or((delivery, document), |inner| (inner.root(), inner));
    if wire::is_answer(answer) {
        wire::read(answer, document, asked, policy, seen);
    } else {
        seen.findings.push(odd(answer, document, "a delivery of a shape that no answer has", policy));
    }
}

fn odd(value: Value<'_>, document: &Document<'_>, detail: &str, policy: &Policy) -> Finding {
    let found = wire::finding(FindingKind::UnknownShape, None, detail.into(), value.raw().as_bytes(), 0, policy);
    Finding { maskings: document.maskings_in(value), ..found }
}

/// `{"channel":…,"successful":false,"error":"402::Unknown client"}`
fn refusal(message: Value<'_>, asked: &Asked<'_>) -> Option<ApiError> {
    let said = message.given("error").map(|error| error.text_or_raw().into_owned()).filter(|error| !error.is_empty());
    let failed = message.given("successful").and_then(Value::boolean) == Some(false);
    let channel = message.given("channel").map(|channel| channel.text_or_raw().into_owned());
    let code = said.as_deref().and_then(|said| said.split(':').next()).and_then(whole);
    let entry = code.and_then(entry_of).filter(|entry| entry.class == ErrorClass::Transport);
    (failed || said.is_some()).then(|| ApiError {
        format: ErrorFormat::Bayeux,
        code,
        class: entry.map_or(ErrorClass::Unknown, |entry| entry.class),
        meaning: entry.map(|entry| entry.meaning.into()),
        detail: said.or_else(|| Some("not successful".into())),
        operation: asked.operation.map(|operation| operation.as_str().to_owned()).or(channel),
        ..wire::blank(asked)
    })
}

/// What a published message says itself: attributes, and that the session is over. Its answer comes by a later poll.
fn read_published(message: &Message<'_>, session: Option<ContentDigest>, policy: &Policy, seen: &mut Observation) {
    seen.session_ended |= message.channel == "/meta/disconnect";
    let Some(service) = message.service() else { return };
    let attributes: Vec<_> = message.form.attributes(&policy.attributes).collect();
    // The key proves the session; a chatId is only said.
    let named = || message.form.chat_id().filter(|id| !policy.masks.is_card(id.as_str())).map(ChatKey::Id);
    let by_key = message.form.secure_key().map(|key| ChatKey::SecureKey(key_digest(&policy.digest_key, &key)));
    match (&message.operation, session) {
        (Some(Operation::RequestChat), Some(session)) => {
            seen.opened = Some(OpenedSession { session, attributes, is_async: message.form.is_async() });
        }
        (Some(Operation::UpdateData), _) if !attributes.is_empty() => {
            seen.chats.extend(by_key.or_else(named).map(|key| ChatAnswer {
                key,
                secure_keys: Vec::new(),
                secrets: Vec::new(),
                service: Some(service.to_owned()),
                events: Vec::new(),
                coverage: Coverage::Nothing,
                next_position: None,
                ended: None,
                is_async: false,
                attributes,
            }));
        }
        _ => {}
    }
}
