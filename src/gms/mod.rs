//! What GMS says on the wire: bytes in, [`Observation`] out. No I/O, no clock, no panic.
//!
//! [`inspect`] reads one exchange (a request and its answer) and returns everything worth keeping, already scrubbed of
//! secrets and masked. It never fails: what it cannot read becomes a [`Finding`]. It decides nothing about storing or delivering.

pub mod route;
pub mod errors;
pub mod decode;
mod json;
mod content;
pub mod scrub;
pub mod mask;
pub mod remask;
pub mod request;
mod body;
mod wire;
mod bayeux;
pub mod files;
pub mod websocket;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chat::{ChatId, ContentDigest, Masking, Secret, TranscriptEvent};
use body::{Body, CleanText, Document, Known, clean_text};
use mask::Masks;
use request::Request;
use wire::Asked;

pub use bayeux::Dialogue;
pub use content::{compare, digest, is_masked_form_of};
pub use errors::{ErrorClass, ErrorFormat, Origin};
pub use route::{Operation, Route, RouteClass};

/// One exchange as the tap saw it. Everything borrowed; nothing scrubbed yet.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// Where the request went.
    pub route: &'a Route<'a>,
    /// The query of the request target, without `?`.
    pub query: Option<&'a str>,
    /// The request's Content-Type, if any.
    pub request_content_type: Option<&'a str>,
    /// The start of the request body, up to the tap's cap.
    pub request_body: &'a [u8],
    /// False where that cap was reached: the body may go on, and its last value with it.
    pub request_complete: bool,
    /// Credentials of the request's and the answer's fields: Authorization, Cookie, API keys, Set-Cookie.
    pub credentials: &'a [Secret],
    /// The answer's HTTP status.
    pub status: u16,
    /// The answer's Content-Encoding, if any.
    pub content_encoding: Option<&'a str>,
    /// The answer's body as it came, still encoded.
    pub body: &'a [u8],
    /// False where the body broke off.
    pub body_complete: bool,
}

/// The bounds and choices that inspection works under.
#[derive(Debug, Clone)]
pub struct Policy {
    /// A body that decodes to more than this is not read further (8 MiB: 200 times a long transcript).
    pub decoded_bytes_max: usize,
    /// How much of a body that could not be read a finding keeps.
    pub finding_bytes_max: usize,
    /// Names of requestChat and updateData fields that become attributes. `userData[*]` stands for every userData key.
    pub attributes: Vec<String>,
    /// Keep the text of TypingStarted and TypingStopped, which the customer never sent.
    pub keep_typing_text: bool,
    /// What is masked in everything that is kept.
    pub masks: Masks,
    /// Random for each process: digests of secrets cannot be looked up elsewhere.
    pub digest_key: [u8; 32],
}

/// What one exchange showed.
#[derive(Debug, Default)]
pub struct Observation {
    /// An entry for each chat that the answer speaks of, in the answer's order. CometD can carry several.
    pub chats: Vec<ChatAnswer>,
    /// Errors that the answer carried.
    pub errors: Vec<ApiError>,
    /// What could not be understood.
    pub findings: Vec<Finding>,
    /// How many deliveries came on CometD channels other than Chat V2's: counted only.
    pub other_deliveries: u64,
    /// The path's chatId and the body's differ: counted and logged, not a finding.
    pub chat_id_mismatch: bool,
    /// The CometD session ended with this exchange (`/meta/disconnect`).
    pub session_ended: bool,
    /// Something was delivered to this CometD session that was not read (keyed digest of the clientId): what comes later
    /// does not follow on what came before (R6).
    pub missed: Option<ContentDigest>,
    /// A chat was asked for over CometD. Its chatId comes by a later poll of the same session.
    pub opened: Option<OpenedSession>,
}

/// What requestChat said over CometD, until a delivery to the session names the chat.
#[derive(Debug, Clone)]
pub struct OpenedSession {
    /// Keyed digest of the CometD clientId.
    pub session: ContentDigest,
    /// Of the form.
    pub attributes: Vec<Attribute>,
    /// userData[GCTI_Chat_AsyncMode]=true was requested.
    pub is_async: bool,
}

/// An attribute is a name, an address, a subject; what is longer is cut.
const ATTRIBUTE_BYTES_MAX: usize = 4_096;

/// How an answer says which chat it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatKey {
    /// By chatId, of the body or else the path.
    Id(ChatId),
    /// `chat-ntf` answers name no chat: found by the keyed digest of the request's secureKey.
    SecureKey(ContentDigest),
}

/// What an answer says of one chat.
#[derive(Debug)]
pub struct ChatAnswer {
    /// Which chat.
    pub key: ChatKey,
    /// The keyed digests of the secureKeys seen with this chat in this exchange.
    pub secure_keys: Vec<ContentDigest>,
    /// The secrets seen with this chat in this exchange, to be scrubbed from its later answers too.
    pub secrets: Vec<Secret>,
    /// `{serviceName}`.
    pub service: Option<String>,
    /// The events with a valid index, in the answer's order, repetitions included.
    pub events: Vec<TranscriptEvent>,
    /// What ground the answer covers.
    pub coverage: Coverage,
    /// nextPosition, where statusCode 0 makes it valid.
    pub next_position: Option<i64>,
    /// chatEnded true, at statusCode 0 or 2.
    pub ended: Option<Ended>,
    /// userData[GCTI_Chat_AsyncMode]=true was requested.
    pub is_async: bool,
    /// Attributes of the request and the answer, scrubbed.
    pub attributes: Vec<Attribute>,
}

/// R6: which positions an answer covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// None: statusCode other than 0, position 0, or an operation that asked for no transcript.
    Nothing,
    /// REST: [from, next).
    Rest {
        /// At least 1.
        from: i64,
        /// nextPosition, else one past the last index.
        next: i64,
    },
    /// CometD: from the end of what this session was given before, else from the lowest index delivered, to `next`.
    Session {
        /// Keyed digest of the CometD clientId.
        session: ContentDigest,
        /// The lowest index in this delivery.
        lowest: Option<i64>,
        /// nextPosition, else one past the last index.
        next: i64,
    },
}

/// How a chat ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// chatEnded at statusCode 0.
    Normally,
    /// chatEnded at statusCode 2.
    WithError,
}

impl Ended {
    /// As the `chats` table writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normally => "chat_ended",
            Self::WithError => "chat_ended_with_error",
        }
    }

    /// [`Ended::as_str`] read back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Normally, Self::WithError].into_iter().find(|how| how.as_str() == text)
    }
}

/// A name and a value known of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// The form field's or answer field's name, `userData[key]` for user data.
    pub name: String,
    /// The value; JSON where it was not a string.
    pub value: String,
    /// Where it was said.
    pub source: AttributeSource,
    /// What was masked in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maskings: Vec<Masking>,
}

impl Attribute {
    fn mask(&mut self, masks: &Masks) {
        let of_value = masks.field(&self.name, &mut self.value);
        self.maskings.extend(masks.plain(&mut self.name).iter().map(|masked| masked.of("name")));
        self.maskings.extend(of_value.iter().map(|(place, masked)| masked.of(&format!("value{place}"))));
    }

    fn bound(&mut self) {
        for text in [&mut self.name, &mut self.value] {
            text.truncate(text.floor_char_boundary(ATTRIBUTE_BYTES_MAX));
        }
    }
}

impl ApiError {
    /// Masks what is said of it, wherever that was taken from.
    pub fn mask(&mut self, masks: &Masks) {
        let columns = [
            ("field", &mut self.field),
            ("detail", &mut self.detail),
            ("advice", &mut self.advice),
            ("reference_id", &mut self.reference_id),
            ("service", &mut self.service),
            ("operation", &mut self.operation),
            ("alias", &mut self.alias),
        ];
        for (column, text) in columns.into_iter().filter_map(|(column, text)| Some((column, text.as_mut()?))) {
            self.maskings.extend(masks.plain(text).iter().map(|masked| masked.of(column)));
        }
    }
}

/// Where an attribute was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeSource {
    /// A requestChat or updateData form.
    Request,
    /// An answer's field.
    Answer,
}

impl AttributeSource {
    /// As the `chat_attributes` table writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
        }
    }
}

/// One error that a client was given. The exchange's own facts (node, client, duration) are added where it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Who said it.
    pub origin: Origin,
    /// The shape it came in.
    pub format: ErrorFormat,
    /// The HTTP status of the answer; none for a client that left.
    pub http_status: Option<u16>,
    /// GMS's statusCode beside it.
    pub status_code: Option<i64>,
    /// A numeric code, of the catalogue or not.
    pub code: Option<i64>,
    /// By code, else by format.
    pub class: ErrorClass,
    /// The catalogue's words for the code.
    pub meaning: Option<Cow<'static, str>>,
    /// The form field a validation error names.
    pub field: Option<String>,
    /// Message, non-numeric code, Bayeux error or the start of a body: what else was said.
    pub detail: Option<String>,
    /// `advice`, raw.
    pub advice: Option<String>,
    /// Drawn from the advice of any code.
    pub reference_id: Option<String>,
    /// `{serviceName}`.
    pub service: Option<String>,
    /// The chat operation, of the path or the CometD message.
    pub operation: Option<String>,
    /// The chat, where known.
    pub chat_id: Option<ChatId>,
    /// The Chat Server instance, where the answer says.
    pub alias: Option<String>,
    /// What was masked in what was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maskings: Vec<Masking>,
}

/// Something that could not be understood or keyed. Kept, scrubbed, so that a person can look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The chat, where known.
    pub chat_id: Option<ChatId>,
    /// One sentence for a person.
    pub detail: String,
    /// The bytes: decoded, scrubbed, at most `finding_bytes_max`. Empty where they could not be decoded.
    #[serde(with = "base64_text")]
    pub raw: Vec<u8>,
    /// The length before the cut.
    pub raw_length: usize,
    /// How many events it stands for in the account of promise 4.
    pub events: u64,
    /// What was masked in `raw`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maskings: Vec<Masking>,
}

/// Bytes as text, where the format has no bytes of its own.
mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// The kinds of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// An event without a valid index: it has no key.
    EventWithoutKey,
    /// Events in an answer that names no chat, and none is known for it.
    EventsWithoutChat,
    /// An element of messages that is no object.
    NotAnEvent,
    /// A body that is not JSON where an answer was expected.
    NotJson,
    /// JSON of a shape that no answer has.
    UnknownShape,
    /// A body that broke off.
    Truncated,
    /// A body whose Content-Encoding could not be undone, or that decodes to too much.
    Undecodable,
    /// A body over `body_max`, or while `inspected_bytes_max` was used up: delivered, not read.
    TooLarge,
    /// Bytes that are no UTF-8, read with replacement characters.
    InvalidUtf8,
    /// A stretch of the spool that cannot be read: torn by a crash, or damaged.
    SpoolDamaged,
    /// A row that the database refused on its own account.
    Unstorable,
    /// Somebody has altered the archive by hand, and the writer has met that.
    Altered,
    /// Chat V1 traffic: not recorded.
    ChatV1,
}

impl FindingKind {
    /// As the `findings` table writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventWithoutKey => "event_without_key",
            Self::EventsWithoutChat => "events_without_chat",
            Self::NotAnEvent => "not_an_event",
            Self::NotJson => "not_json",
            Self::UnknownShape => "unknown_shape",
            Self::Truncated => "truncated",
            Self::Undecodable => "undecodable",
            Self::TooLarge => "too_large",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::SpoolDamaged => "spool_damaged",
            Self::Unstorable => "unstorable",
            Self::Altered => "altered",
            Self::ChatV1 => "chat_v1",
        }
    }
}

/// How two contents under one key compare (R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same JSON value.
    Equal,
    /// type, text, from or utcTime differ.
    Changed,
    /// Only other fields differ.
    Extended,
}

/// Reads one exchange. `known_secrets` are those seen with a chat in earlier exchanges.
pub fn inspect(
    exchange: &Exchange<'_>,
    policy: &Policy,
    known_secrets: &dyn Fn(&ChatId) -> Vec<Secret>,
) -> Observation {
    inspect_answer(exchange, &Request::read(exchange), policy, known_secrets)
}

/// The keyed digest of the CometD session that a request is of, for where its answer is not read: what that delivered is not
/// delivered again, and what comes later does not follow on what came before (R6).
pub fn session(
    route: &Route<'_>,
    request_content_type: Option<&str>,
    request_body: &[u8],
    policy: &Policy,
) -> Option<ContentDigest> {
    let exchange = Exchange {
        route,
        query: None,
        request_content_type,
        request_body,
        request_complete: true,
        credentials: &[],
        status: 0,
        content_encoding: None,
        body: b"",
        body_complete: false,
    };
    let is_cometd = route.class == RouteClass::Cometd;
    is_cometd.then(|| bayeux::session(&Request::read(&exchange), policy)).flatten()
}

/// The same with the request read before.
fn inspect_answer(
    exchange: &Exchange<'_>,
    request: &Request<'_>,
    policy: &Policy,
    known_secrets: &dyn Fn(&ChatId) -> Vec<Secret>,
) -> Observation {
    let mut seen = Observation::default();
    // Where a client has put its secureKey or a card number in a chat's place, that is no chat.
    let is_secret = |id: &ChatId| {
        request.secrets.iter().any(|secret| secret.expose() == id.as_str()) || policy.masks.is_card(id.as_str())
    };
    let path_chat = exchange.route.chat_id.as_deref().and_then(ChatId::parse).filter(|id| !is_secret(id));
    let known = Known {
        requested: &request.secrets,
        begun: request.begun.as_deref(),
        credentials: exchange.credentials,
        path_chat: path_chat.as_ref(),
        of_chat: known_secrets,
    };
    let by_form = request.form.get("operation").filter(|_| exchange.route.class == RouteClass::ChatNtf);
    let by_form = by_form.map(Operation::of_name);
    let asked = Asked {
        operation: exchange.route.operation.as_ref().or(by_form.as_ref()),
        service: exchange.route.service.as_deref(),
        chat_id: path_chat.clone(),
        form: Some(&request.form),
        session: None,
        is_delivery: false,
        status: exchange.status,
    };
    let reading = Reading { exchange, policy, known: &known, asked: &asked, request };
    reading.body(&mut seen);
    reading.clean_request_words(&mut seen);
    mask_words(&mut seen, &policy.masks);
    bound(&mut seen);
    seen
}

/// Rows that one answer can make of what is wrong with it. What is beyond is counted in the last one.
const WRONGS_MAX: usize = 256;

/// What was taken over from the request, or put together from what was masked apart, and the bounds of attributes: a number
/// that is cut is not found any more.
fn mask_words(seen: &mut Observation, masks: &Masks) {
    let opened = seen.opened.iter_mut().flat_map(|opened| &mut opened.attributes);
    for attribute in opened.chain(seen.chats.iter_mut().flat_map(|chat| &mut chat.attributes)) {
        // Those of the answer were masked with it.
        if attribute.source == AttributeSource::Request {
            attribute.mask(masks);
        }
        attribute.bound();
    }
    let said = seen.findings.iter_mut().map(|finding| &mut finding.detail);
    said.chain(seen.chats.iter_mut().filter_map(|chat| chat.service.as_mut())).for_each(|word| drop(masks.plain(word)));
    seen.errors.iter_mut().for_each(|error| error.mask(masks));
}

fn bound(seen: &mut Observation) {
    let surplus = seen.findings.split_off(seen.findings.len().min(WRONGS_MAX));
    if let (Some(last), false) = (seen.findings.last_mut(), surplus.is_empty()) {
        last.events += surplus.iter().map(|finding| finding.events).sum::<u64>();
        last.detail = format!("{}; and {} more findings in this answer", last.detail, surplus.len());
    }
    let surplus = seen.errors.split_off(seen.errors.len().min(WRONGS_MAX));
    if let (Some(last), false) = (seen.errors.last_mut(), surplus.is_empty()) {
        let detail = last.detail.take().unwrap_or_default();
        last.detail = Some(format!("{detail}; and {} more errors in this answer", surplus.len()));
    }
}

/// Everything that reading an answer takes.
struct Reading<'a> {
    exchange: &'a Exchange<'a>,
    policy: &'a Policy,
    known: &'a Known<'a>,
    asked: &'a Asked<'a>,
    request: &'a Request<'a>,
}

impl Reading<'_> {
    fn body(&self, seen: &mut Observation) {
        let body = Body::open(self.exchange, self.policy);
        if self.is_file() {
            return self.file(body, seen);
        }
        if !self.exchange.body_complete {
            let clean = clean_text(&body.bytes, self.known, self.policy, true);
            let detail = format!("the answer broke off after {} bytes", self.exchange.body.len());
            seen.errors.extend(self.failed().then(|| self.of_page(&clean)));
            seen.missed = self.missed();
            return seen.findings.push(self.finding(FindingKind::Truncated, detail, &clean));
        }
        if let Some(trouble) = &body.trouble {
            // Its status is an error all the same.
            seen.errors.extend(self.failed().then(|| wire::of_page("", self.asked)));
            seen.missed = self.missed();
            return seen.findings.push(self.undecodable(trouble));
        }
        let document = Document::read(body.text, self.known, self.policy);
        if body.is_repaired {
            let clean = match &document {
                Ok(document) => CleanText {
                    bytes: body::unrepaired(&body.bytes, document.text()),
                    maskings: document.maskings_in(document.root()),
                },
                Err(_) => clean_text(&body.bytes, self.known, self.policy, false),
            };
            let detail = "bytes that are no UTF-8, read with replacement characters".into();
            seen.findings.push(self.finding(FindingKind::InvalidUtf8, detail, &clean));
        }
        match document {
            Ok(document) => self.document(&document, seen),
            Err(text) => self.page(&text, seen),
        }
    }

    /// A node does not deliver again what was in an answer that could not be read.
    fn missed(&self) -> Option<ContentDigest> {
        let is_cometd = self.exchange.route.class == RouteClass::Cometd;
        is_cometd.then(|| bayeux::session(self.request, self.policy)).flatten()
    }

    /// A downloaded file is a customer's: whatever it looks like, it is no transcript, and nothing of it is kept.
    fn is_file(&self) -> bool {
        matches!(self.asked.operation, Some(Operation::FileDownload))
    }

    /// In place of a file, an answer can only tell of errors.
    fn file(&self, body: Body<'_>, seen: &mut Observation) {
        let document = Document::read(body.text, self.known, self.policy);
        if let Ok(document) = document.as_ref() {
            wire::read_errors_only(document, self.asked, seen);
        }
        if self.failed() && seen.errors.is_empty() {
            let clean = clean_text(&body.bytes, self.known, self.policy, !self.exchange.body_complete);
            seen.errors.push(self.of_page(&clean));
        }
    }

    /// What was taken over from the request was not scrubbed with the answer.
    fn clean_request_words(&self, seen: &mut Observation) {
        let own: Vec<Secret> = seen.chats.iter().flat_map(|chat| chat.secrets.iter().cloned()).collect();
        let opened = seen.opened.iter_mut().flat_map(|opened| &mut opened.attributes);
        let of_chats = seen.chats.iter_mut().flat_map(|chat| {
            let requested = |attribute: &&mut Attribute| attribute.source == AttributeSource::Request;
            chat.attributes.iter_mut().filter(requested)
        });
        let named = opened.chain(of_chats).flat_map(|attribute| [&mut attribute.name, &mut attribute.value]);
        let operations = seen.errors.iter_mut().filter_map(|error| error.operation.as_mut());
        let mut words = named.chain(operations).peekable();
        if words.peek().is_some() {
            let scrubber = self.known.scrubber(&own, Vec::new());
            words.for_each(|word| scrubber.word(word));
        }
    }

    fn document(&self, document: &Document<'_>, seen: &mut Observation) {
        let root = document.root();
        let before = seen.errors.len();
        let is_understood = match self.exchange.route.class {
            RouteClass::Cometd if bayeux::is_envelope(root) => {
                bayeux::read(document, self.known, self.request, self.exchange, self.policy, seen);
                true
            }
            RouteClass::Email | RouteClass::OpenMedia => {
                wire::read_errors_only(document, self.asked, seen);
                true
            }
            _ if wire::is_answer(root) => {
                wire::read(root, document, self.asked, self.policy, seen);
                true
            }
            _ => false,
        };
        if self.failed() && seen.errors.len() == before {
            let maskings = document.maskings_in(root);
            seen.errors.push(ApiError { maskings, ..wire::of_page(document.text(), self.asked) });
        } else if !is_understood && !self.failed() {
            let detail = "JSON of a shape that no answer has".into();
            let clean = CleanText { bytes: document.text().into(), maskings: document.maskings_in(root) };
            seen.findings.push(self.finding(FindingKind::UnknownShape, detail, &clean));
        }
    }

    /// A body that is no JSON.
    fn page(&self, text: &str, seen: &mut Observation) {
        use RouteClass::{Chat, ChatNtf, Cometd};
        let expects_json = matches!(self.exchange.route.class, Chat | ChatNtf | Cometd);
        let is_blank = text.trim().is_empty();
        if self.failed() {
            let clean = clean_text(text.as_bytes(), self.known, self.policy, false);
            seen.errors.push(self.of_page(&clean));
        } else if expects_json && !is_blank && self.exchange.status == 200 {
            let clean = clean_text(text.as_bytes(), self.known, self.policy, false);
            let detail = "a body that is not JSON where an answer was expected".into();
            seen.findings.push(self.finding(FindingKind::NotJson, detail, &clean));
        }
    }

    fn failed(&self) -> bool {
        self.exchange.status >= 400
    }

    fn of_page(&self, clean: &CleanText) -> ApiError {
        ApiError { maskings: clean.maskings.clone(), ..wire::of_page(&clean.text(), self.asked) }
    }

    fn finding(&self, kind: FindingKind, detail: String, clean: &CleanText) -> Finding {
        let finding = wire::finding(kind, self.asked.chat_id.clone(), detail, &clean.bytes, 0, self.policy);
        Finding { maskings: clean.maskings.clone(), ..finding }
    }

    /// What cannot be decoded cannot be scrubbed, so it is not kept: only what identifies it.
    fn undecodable(&self, trouble: &decode::Trouble) -> Finding {
        let body = self.exchange.body;
        let hash = Sha256::new().chain_update(self.policy.digest_key).chain_update(body).finalize();
        let digest: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let encoding = self.exchange.content_encoding.unwrap_or("none");
        let detail = format!("{trouble}: {} bytes, Content-Encoding {encoding:?}, keyed digest {digest}", body.len());
        let nothing = CleanText { bytes: Vec::new(), maskings: Vec::new() };
        Finding { raw_length: body.len(), ..self.finding(FindingKind::Undecodable, detail, &nothing) }
    }
}

/// Whether a body may be an answer by its first bytes, and so is worth holding: on routes whose answers may be raw files.
/// Where so few are encoded that nothing comes out yet, that cannot be told.
pub fn could_be_answer(first_bytes: &[u8], content_encoding: Option<&str>) -> bool {
    let is_encoded = content_encoding.is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity"));
    let start = match is_encoded {
        true => decode::decode(first_bytes, content_encoding, ANSWER_START_BYTES).bytes,
        false => Cow::Borrowed(first_bytes),
    };
    start.trim_ascii_start().is_empty() || decode::starts_like_json(&start)
}

/// White space before a brace is all that an answer may begin with.
const ANSWER_START_BYTES: usize = 1 << 10;

#[cfg(test)]
mod tests;
