//! What an answer says: the one shape of all Chat V2 answers (seed page, "Response Format"), its events and its errors.
//! Reads leniently: anything may be missing, null or of another kind. Reads scrubbed and masked values only.

use compact_str::CompactString;

use super::body::{Document, chat_id};
use super::errors::{ErrorClass, ErrorFormat, Origin, entry_of, reference_id};
use super::json::{Kind, Value};
use super::request::{Form, Position, attribute, user_data};
use super::route::Operation;
use super::scrub::{is_secret_name, key_digest};
use super::{
    ApiError, Attribute, AttributeSource, ChatAnswer, ChatKey, Coverage, Ended, Finding, FindingKind, Observation,
    Policy,
};
use crate::chat::{ChatId, ContentDigest, EventIndex, Masking, Party, Secret, TranscriptEvent};

/// Answer fields that have a place of their own, or change with every poll and say nothing lasting.
const NO_ATTRIBUTES: [&str; 9] = [
    "statusCode",
    "chatId",
    "secureKey",
    "nextPosition",
    "messages",
    "errors",
    "chatEnded",
    "idleTimerExpire",
    "userData", // its members are attributes each
];

/// Members that make an object an answer.
const MARKS: [&str; 5] = ["statusCode", "messages", "chatId", "errors", "error"];

/// How much of a page that is no JSON goes into an error's detail.
const DETAIL_CHARS_MAX: usize = 200;

/// What an answer is an answer to.
pub(super) struct Asked<'a> {
    /// The operation, where it is known.
    pub operation: Option<&'a Operation>,
    /// `{serviceName}`.
    pub service: Option<&'a str>,
    /// The chat that the path names.
    pub chat_id: Option<ChatId>,
    /// What was sent along.
    pub form: Option<&'a Form<'a>>,
    /// Keyed digest of the CometD clientId, for deliveries.
    pub session: Option<ContentDigest>,
    /// It came over CometD.
    pub is_delivery: bool,
    /// The HTTP status.
    pub status: u16,
}

/// Whether an object is an answer of Chat V2 or an error of any API.
pub(super) fn is_answer(value: Value<'_>) -> bool {
    value.members().any(|(key, _)| MARKS.iter().any(|mark| key.is_named(mark)))
}

/// Reads one answer into the observation. `document` knows what a value was before it was scrubbed, and what was masked in it.
pub(super) fn read(
    answer: Value<'_>,
    document: &Document<'_>,
    asked: &Asked<'_>,
    policy: &Policy,
    seen: &mut Observation,
) {
    let named = answer.given("chatId").and_then(chat_id);
    let chat = named.clone().or_else(|| asked.chat_id.clone());
    seen.chat_id_mismatch |= named.is_some() && asked.chat_id.is_some() && named != asked.chat_id;
    let status_code = answer.given("statusCode").and_then(Value::integer);
    let begun = seen.errors.len();
    read_errors(answer, document, status_code, asked, seen);
    for error in &mut seen.errors[begun..] {
        error.chat_id = chat.clone();
        error.alias = answer.given("alias").map(|alias| alias.text_or_raw().into_owned());
    }

    let events = read_events(answer, document, chat.as_ref(), policy, seen);
    let key = match (chat, asked.form.and_then(Form::secure_key)) {
        (Some(chat), _) => ChatKey::Id(chat),
        (None, Some(key)) if !asked.is_delivery => ChatKey::SecureKey(key_digest(&policy.digest_key, &key)),
        (None, _) => return seen.findings.extend(events.into_iter().map(|event| without_chat(event, policy))),
    };
    let is_valid = status_code == Some(0);
    let next_position = answer.given("nextPosition").and_then(Value::integer).filter(|_| is_valid);
    let coverage = if is_valid { covered(&events, next_position, asked) } else { Coverage::Nothing };
    let said_ended = answer.given("chatEnded").and_then(Value::boolean) == Some(true);
    let ended = match status_code {
        Some(0) if said_ended => Some(Ended::Normally),
        Some(2) if said_ended => Some(Ended::WithError),
        _ => None,
    };
    // A key that GMS refused is anybody's: it must not lead to this chat.
    let accepted = matches!(status_code, None | Some(0)) && asked.status < 400;
    let secrets = if accepted { secure_keys(answer, document, asked) } else { Vec::new() };
    let opens = matches!(asked.operation, Some(Operation::RequestChat));
    seen.chats.push(ChatAnswer {
        key,
        secure_keys: secrets.iter().map(|secret| key_digest(&policy.digest_key, secret)).collect(),
        secrets,
        service: asked.service.map(String::from),
        events,
        coverage,
        next_position,
        ended,
        is_async: opens && asked.form.is_some_and(Form::is_async),
        attributes: if is_valid { attributes(answer, document, asked, policy) } else { Vec::new() },
    });
}

/// Reads the errors of an answer of another API: nothing else in it is of Chat V2.
pub(super) fn read_errors_only(document: &Document<'_>, asked: &Asked<'_>, seen: &mut Observation) {
    let answer = document.root();
    let status_code = answer.given("statusCode").and_then(Value::integer);
    read_errors(answer, document, status_code, asked, seen);
}

/// R6.
fn covered(events: &[TranscriptEvent], next_position: Option<i64>, asked: &Asked<'_>) -> Coverage {
    let indices = || events.iter().map(|event| event.index.get());
    let Some(next) = next_position.or_else(|| indices().max()?.checked_add(1)) else { return Coverage::Nothing };
    if asked.is_delivery {
        let lowest = indices().min();
        return match (asked.session, lowest) {
            (Some(session), lowest) => Coverage::Session { session, lowest, next },
            (None, Some(from)) => Coverage::Rest { from, next },
            (None, None) => Coverage::Nothing,
        };
    }
    let position = asked.form.map_or(Position::Absent, Form::position);
    match (asked.operation, position) {
        // Its position says how far the client has read; its answer holds no transcript.
        (Some(Operation::ReadReceipt), _) => Coverage::Nothing,
        (Some(Operation::RequestChat), _) | (Some(Operation::Refresh), Position::Absent) => {
            Coverage::Rest { from: 1, next }
        }
        (_, Position::At(from)) if from >= 1 => Coverage::Rest { from, next },
        _ => Coverage::Nothing,
    }
}

/// The credentials of the session, from both sides.
fn secure_keys(answer: Value<'_>, document: &Document<'_>, asked: &Asked<'_>) -> Vec<Secret> {
    let original = document.before_scrubbing(answer);
    let given = original.given("secureKey").and_then(|key| Secret::new(key.text_or_raw()));
    let mut found: Vec<Secret> = given.into_iter().chain(asked.form.and_then(Form::secure_key)).collect();
    found.dedup();
    found
}

fn attributes(answer: Value<'_>, document: &Document<'_>, asked: &Asked<'_>, policy: &Policy) -> Vec<Attribute> {
    let tells = matches!(asked.operation, Some(Operation::RequestChat | Operation::UpdateData));
    let form = asked.form.filter(|_| tells);
    let mut found: Vec<Attribute> = form.into_iter().flat_map(|form| form.attributes(&policy.attributes)).collect();
    let known = |key: Value<'_>| NO_ATTRIBUTES.iter().any(|name| key.is_named(name));
    let fields = answer.members().filter(|(key, value)| !known(*key) && value.kind() != Kind::Null);
    let fields = fields.filter_map(|(key, value)| Some((key.text()?, key, value)));
    let data = answer.given("userData").into_iter().flat_map(user_data);
    let public = fields.chain(data).filter(|(name, _, _)| !is_secret_name(name.as_bytes()));
    found.extend(public.filter_map(|(name, key, value)| {
        let text = value.text_or_raw();
        let maskings =
            in_column("name", document.maskings_in(key)).chain(in_column("value", document.maskings_in(value)));
        let drawn = || Attribute { maskings: maskings.collect(), ..attribute(&name, &text, AttributeSource::Answer) };
        (!text.is_empty()).then(drawn)
    }));
    found
}

/// What was masked in a value that goes into a column.
fn in_column(column: &str, maskings: Vec<Masking>) -> impl Iterator<Item = Masking> {
    maskings.into_iter().map(move |masking| Masking { field: format!("{column}{}", masking.field), ..masking })
}

/// The events with a key; the others become findings.
fn read_events(
    answer: Value<'_>,
    document: &Document<'_>,
    chat: Option<&ChatId>,
    policy: &Policy,
    seen: &mut Observation,
) -> Vec<TranscriptEvent> {
    let Some(messages) = answer.given("messages") else { return Vec::new() };
    let one = (messages.kind() != Kind::Array).then_some(messages);
    let mut events = Vec::with_capacity(messages.elements().count());
    for element in messages.elements().chain(one) {
        let kind = match event(element, document) {
            Ok(event) => {
                events.push(event);
                continue;
            }
            Err(kind) => kind,
        };
        let detail = match kind {
            FindingKind::NotAnEvent => "an element of messages that is no object",
            _ => "an event without a valid index: it has no key",
        };
        let found = finding(kind, chat.cloned(), detail.into(), element.raw().as_bytes(), 1, policy);
        seen.findings.push(Finding { maskings: document.maskings_in(element), ..found });
    }
    events
}

fn event(value: Value<'_>, document: &Document<'_>) -> Result<TranscriptEvent, FindingKind> {
    Ok(TranscriptEvent { maskings: document.maskings_in(value), ..bare_event(value)? })
}

/// Reads the members in one pass. The last one of a name wins; null is none.
pub(super) fn bare_event(value: Value<'_>) -> Result<TranscriptEvent, FindingKind> {
    if value.kind() != Kind::Object {
        return Err(FindingKind::NotAnEvent);
    }
    let json = |value: Value<'_>| value.raw().to_owned();
    let (mut index, mut kind, mut utc_time, mut from) = (None, None, None, Party::default());
    let (mut said, mut message_type, mut user_data, mut event_attributes) = (None, None, None, None);
    for (key, value) in value.members() {
        let given = (value.kind() != Kind::Null).then_some(value);
        match &*key.wide() {
            b"index" => index = given.and_then(Value::integer).and_then(EventIndex::new),
            b"type" => kind = given.map(text),
            b"utcTime" => utc_time = given.and_then(Value::integer),
            b"from" => from = given.map(party).unwrap_or_default(),
            b"text" => said = given.map(text),
            b"messageType" => message_type = given.map(text),
            b"userData" => user_data = given.map(json),
            b"eventAttributes" => event_attributes = given.map(json),
            _ => {}
        }
    }
    let index = index.ok_or(FindingKind::EventWithoutKey)?;
    let (raw, maskings) = (json(value), Vec::new());
    let text = said;
    Ok(TranscriptEvent { index, kind, utc_time, from, text, message_type, user_data, event_attributes, raw, maskings })
}

fn party(from: Value<'_>) -> Party {
    let mut party = Party::default();
    for (key, value) in from.members() {
        let given = (value.kind() != Kind::Null).then_some(value);
        match &*key.wide() {
            b"participantId" => party.participant_id = given.and_then(Value::integer),
            b"nickname" => party.nickname = given.map(text),
            b"type" => party.party_type = given.map(text),
            _ => {}
        }
    }
    party
}

fn text(value: Value<'_>) -> CompactString {
    value.text_or_raw().into()
}

fn without_chat(event: TranscriptEvent, policy: &Policy) -> Finding {
    let detail = "an event of an answer that names no chat".into();
    let found = finding(FindingKind::EventsWithoutChat, None, detail, event.raw.as_bytes(), 1, policy);
    Finding { maskings: event.maskings, ..found }
}

/// A finding; what it keeps was scrubbed and masked before, and is cut here.
pub(super) fn finding(
    kind: FindingKind,
    chat_id: Option<ChatId>,
    detail: String,
    raw: &[u8],
    events: u64,
    policy: &Policy,
) -> Finding {
    let kept = &raw[..raw.len().min(policy.finding_bytes_max)];
    Finding { kind, chat_id, detail, raw: kept.to_vec(), raw_length: raw.len(), events, maskings: Vec::new() }
}

/// All shapes of an error in a JSON object: `errors[]`, `fields{}`, a bare `error`, a statusCode that tells of one.
fn read_errors(
    answer: Value<'_>,
    document: &Document<'_>,
    status_code: Option<i64>,
    asked: &Asked<'_>,
    seen: &mut Observation,
) {
    let with_maskings =
        |error: ApiError, source: Value<'_>| ApiError { maskings: document.maskings_in(source), ..error };
    let begun = seen.errors.len();
    // Hardly any answer has an error.
    let blank = || ApiError { status_code, ..blank(asked) };
    if let Some(errors) = answer.given("errors") {
        let one = (!matches!(errors.kind(), Kind::Array)).then_some(errors);
        let all = errors.elements().chain(one);
        seen.errors.extend(all.map(|error| with_maskings(of_element(error, blank()), error)));
    }
    let word = answer.given("error").map(|error| error.text_or_raw().into_owned()).filter(|word| !word.is_empty());
    let fields = answer.given("fields").filter(|fields| fields.kind() == Kind::Object && word.is_some());
    if let Some(fields) = fields {
        let all = fields.members();
        seen.errors.extend(all.map(|(name, text)| with_maskings(of_field(name, text, blank()), text)));
    } else if let Some(word) = word {
        let said =
            ["message", "exception", "phrase"].into_iter().filter_map(|name| Some(answer.given(name)?.text_or_raw()));
        let detail = std::iter::once(word.as_str().into()).chain(said).collect::<Vec<_>>().join(": ");
        let format = if word == "validationError" { ErrorFormat::ValidationError } else { ErrorFormat::Http };
        let class = ErrorClass::of_status(asked.status);
        seen.errors.push(with_maskings(ApiError { format, class, detail: Some(detail), ..blank() }, answer));
    }
    let tells = matches!(status_code, Some(1 | 2)) || status_code.is_some_and(|code| code > 2);
    if tells && seen.errors.len() == begun {
        let meaning = match status_code {
            Some(1) => "temporary error: the client may repeat the request",
            _ => "error: repeating the request does not help",
        };
        seen.errors.push(ApiError { format: ErrorFormat::Status, meaning: Some(meaning.into()), ..blank() });
    }
}

/// `{"code":249,"advice":"…","message":"…"}`, or the code alone.
fn of_element(element: Value<'_>, blank: ApiError) -> ApiError {
    let given = |name: &str| element.given(name);
    let code_value = given("code").or((element.kind() != Kind::Object).then_some(element));
    let code = code_value.and_then(Value::integer);
    let odd_code = code_value.filter(|_| code.is_none()).map(|value| value.text_or_raw().into_owned());
    let message = given("message").map(|message| message.text_or_raw().into_owned());
    let neither = || (code.is_none() && element.kind() == Kind::Object).then(|| shortened(element.raw()));
    let detail = match (odd_code, message) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (code, message) => code.or(message).or_else(neither),
    };
    let advice = given("advice").map(|advice| advice.text_or_raw().into_owned());
    ApiError {
        origin: code.map_or(Origin::Gms, Origin::of_code),
        format: ErrorFormat::Errors,
        code,
        class: code.map_or(ErrorClass::Unknown, ErrorClass::of_code),
        meaning: code.and_then(entry_of).map(|entry| entry.meaning.into()),
        detail,
        reference_id: advice.as_deref().and_then(reference_id),
        advice,
        ..blank
    }
}

/// `"nickname": "either nickname or firstName and lastName should be supplied"` (up to 8.5.103.08).
fn of_field(name: Value<'_>, text: Value<'_>, blank: ApiError) -> ApiError {
    let detail = text.text_or_raw().into_owned();
    let class = if detail.to_ascii_lowercase().contains("invalid") { ErrorClass::Invalid } else { ErrorClass::Missing };
    ApiError {
        format: ErrorFormat::ValidationError,
        class,
        field: name.text().map(|name| name.into_owned()),
        detail: Some(detail),
        ..blank
    }
}

/// A 4xx or 5xx that says nothing in JSON: the status, and the start of its text without the tags.
pub(super) fn of_page(text: &str, asked: &Asked<'_>) -> ApiError {
    let detail = shortened(&without_tags(text));
    ApiError {
        format: ErrorFormat::Http,
        class: ErrorClass::of_status(asked.status),
        detail: Some(detail).filter(|detail| !detail.is_empty()),
        chat_id: asked.chat_id.clone(),
        ..blank(asked)
    }
}

/// An error of which nothing is known but the exchange.
pub(super) fn blank(asked: &Asked<'_>) -> ApiError {
    ApiError {
        origin: Origin::Gms,
        format: ErrorFormat::Http,
        http_status: Some(asked.status),
        status_code: None,
        code: None,
        class: ErrorClass::Unknown,
        meaning: None,
        field: None,
        detail: None,
        advice: None,
        reference_id: None,
        service: asked.service.map(String::from),
        operation: asked.operation.map(|operation| operation.as_str().to_owned()),
        chat_id: None,
        alias: None,
        maskings: Vec::new(),
    }
}

fn without_tags(text: &str) -> String {
    let mut plain = String::new();
    let mut is_tag = false;
    for char in text.chars() {
        match char {
            '<' => is_tag = true,
            '>' if is_tag => {
                is_tag = false;
                plain.push(' ');
            }
            _ if !is_tag => plain.push(char),
            _ => {}
        }
    }
    plain
}

fn shortened(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(DETAIL_CHARS_MAX).map(|char| if char == '\0' { '\u{fffd}' } else { char }).collect()
}
