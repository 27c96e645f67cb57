//! Chat V2 over REST, and chat-ntf beside it: from parameters to the answer a client reads.
//! What an operation does is decided in `operations`; here is only what the answers look like.

use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::chats::{Chat, Chats, KeyForm, Page};
use super::faults::{Failure, Fate};
use super::operations::{Call, Done, Operation, execute};
use super::params::Params;
use super::refusal::{Refusal, media_server, unexpected};
use super::wire::{Answer, Content};
use super::world::{Receipt, State, World, now};

/// A request on a Chat V2 route.
pub(super) struct Request<'a> {
    pub(super) node: usize,
    pub(super) operation: Operation,
    /// Absent on chat-ntf.
    pub(super) service: Option<&'a str>,
    pub(super) chat_id: Option<&'a str>,
    pub(super) file_id: Option<&'a str>,
    pub(super) params: &'a Params,
}

/// Executes a request and says what came of it.
pub(super) fn answer(world: &World, request: &Request<'_>, fate: &Fate) -> Answer {
    let mut state = world.lock();
    let done = match fate.failure.and_then(|failure| injected(failure, &mut state.chats)) {
        Some(refusal) => Err(refusal),
        None => execute(&mut state.chats, &world.services, &call(request)),
    };
    match done {
        Ok(done) if request.operation == Operation::Download => download(&mut state.chats, &done),
        Ok(done) => success(&mut state.chats, request, &done, fate),
        Err(refusal) => refused(world, &mut state, request, &refusal),
    }
}

fn call<'a>(request: &Request<'a>) -> Call<'a> {
    let Request { operation, service, chat_id, file_id, params, .. } = *request;
    Call { operation, service, chat_id, file_id, params, key_form: KeyForm::Hex, now: now() }
}

/// The refusal that a fault puts in place of the operation; none for faults that have no JSON.
pub(super) fn injected(failure: Failure, chats: &mut Chats) -> Option<Refusal> {
    match failure {
        Failure::Unexpected => Some(Refusal::Invalid(vec![unexpected(chats.reference())])),
        Failure::MediaServer => Some(Refusal::Final { complaint: media_server(chats.reference()), ended: Some(false) }),
        Failure::Temporary => Some(Refusal::Temporary),
        Failure::Page(_) => None,
    }
}

fn refused(world: &World, state: &mut State, request: &Request<'_>, refusal: &Refusal) -> Answer {
    let spoken = refusal.over_rest(world.error_format);
    let by_key = || state.chats.id_of_key(request.params.text("secureKey")?).map(str::to_owned);
    let chat_id = request.chat_id.map(str::to_owned).or_else(by_key);
    let name = request.operation.name();
    let receipt = state.ledger.issue(&spoken, request.node, name, chat_id.as_deref());
    Answer::json(spoken.http_status, &Value::Object(spoken.body), receipt)
}

fn download(chats: &mut Chats, done: &Done) -> Answer {
    let file =
        chats.chat(&done.chat_id).and_then(|chat| chat.files.iter().find(|f| Some(&f.id) == done.file_id.as_ref()));
    let Some(file) = file else { return Answer::page(StatusCode::NOT_FOUND, "/genesys/2/chat") };
    let disposition = format!("attachment; filename=\"{}\"", file.name.replace(['"', '\r', '\n'], "_"));
    Answer::new(StatusCode::OK, "application/octet-stream", Content::Whole(file.content.clone()))
        .with(header::CONTENT_DISPOSITION, disposition)
}

fn success(chats: &mut Chats, request: &Request<'_>, done: &Done, fate: &Fate) -> Answer {
    let (alias_every, limits) = (chats.conduct.alias_every, chats.conduct.files.clone());
    let Some(chat) = chats.chat(&done.chat_id) else { return Answer::page(StatusCode::NOT_FOUND, "/genesys/2/chat") };
    let by_key_only = request.service.is_none();
    let mut page = chat.page(wanted(request, chat), fate.variant.then_some(fate.number));
    if request.operation == Operation::Limits {
        page = Page { messages: vec![limits.notice(chat, now())], handed: Vec::new() };
    }
    let receipt = Receipt { handed: page.handed, errors: Vec::new() };
    let mut body = match by_key_only {
        true => anonymous(chat, page.messages),
        false => session(chat, page.messages, alias_every),
    };
    if let (Operation::Upload, Some(id)) = (request.operation, &done.file_id) {
        body.insert("userData".into(), json!({"file-id": id}));
    }
    Answer::json(200, &Value::Object(body), receipt)
}

/// chat-ntf has no transcriptPosition of its own: its answer holds the event that the operation made.
fn wanted(request: &Request<'_>, chat: &Chat) -> Option<u64> {
    match (request.service, request.operation) {
        (None, Operation::Upload | Operation::Delete) => Some(chat.next_position().saturating_sub(1)),
        (None, _) => None,
        (Some(_), operation) => operation.wanted(request.params),
    }
}

/// The members of every positive Chat V2 answer, in the order of the page's example.
pub(super) fn session(chat: &mut Chat, messages: Vec<Value>, alias_every: u64) -> Map<String, Value> {
    let members = [
        ("alias", json!(chat.alias(alias_every))),
        ("chatEnded", json!(chat.ended)),
        ("chatId", json!(chat.id)),
        ("messages", Value::Array(messages)),
        ("nextPosition", json!(chat.next_position())),
        ("secureKey", json!(chat.secure_key)),
        ("statusCode", json!(0)),
        ("userId", json!(chat.user_id)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A chat-ntf answer says nothing of the session.
fn anonymous(chat: &Chat, messages: Vec<Value>) -> Map<String, Value> {
    let members = [("messages", Value::Array(messages)), ("chatEnded", json!(chat.ended)), ("statusCode", json!(0))];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
