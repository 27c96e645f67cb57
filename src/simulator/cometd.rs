//! Chat V2 with CometD: Bayeux over HTTP long polling and over WebSocket, several chats on one session, deliveries,
//! acknowledgements and connect replies in one array. A session may change from one transport to the other.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::account::IssuedError;
use super::chats::{Chats, KeyForm};
use super::faults::Fate;
use super::operations::{Call, Operation, execute};
use super::params::Params;
use super::refusal::{Refusal, Spoken, members, unexpected};
use super::rest;
use super::websocket::{Said, WebSocket};
use super::wire::{Answer, Content};
use super::world::{Ledger, Receipt, State, World, now};

const CHAT_CHANNEL: &str = "/service/chatV2/";
const UNKNOWN_CLIENT: &str = "402::Unknown client";

/// The sessions of all nodes; each belongs to the node that shook hands with it.
#[derive(Debug, Default)]
pub(super) struct Sessions(HashMap<String, Session>);

#[derive(Debug)]
struct Session {
    node: usize,
    connected: bool,
    wake: Arc<Notify>,
    chats: Vec<Attached>,
    outbox: Vec<(Value, Receipt)>,
}

/// A chat whose events are delivered to a session, and how far they were.
#[derive(Debug)]
struct Attached {
    chat_id: String,
    channel: String,
    cursor: u64,
}

impl Sessions {
    /// A node dies, and its sessions with it.
    pub(super) fn forget(&mut self, node: usize) {
        self.0.retain(|_, session| session.node != node);
    }

    fn at(&mut self, node: usize, client_id: &str) -> Option<&mut Session> {
        self.0.get_mut(client_id).filter(|session| session.node == node)
    }
}

/// What one HTTP request of a client comes to, piece by piece.
struct Batch<'a> {
    world: &'a World,
    node: usize,
    fate: &'a Fate,
    client_id: Option<String>,
    browser: Option<String>,
    deliveries: Vec<Value>,
    replies: Vec<Value>,
    connects: Vec<Value>,
    holds: bool,
    receipt: Receipt,
}

/// Answers a body of Bayeux messages: an array, or a single one.
pub(super) async fn answer(world: &World, node: usize, body: &[u8], fate: &Fate) -> Answer {
    let Some(messages) = messages(body) else { return unknown_transport() };
    let mut batch = Batch::new(world, node, fate);
    messages.iter().for_each(|message| batch.take(message));
    if batch.holds && batch.replies.is_empty() {
        batch.hold(world.connect_hold).await;
    }
    batch.finish()
}

/// Speaks with a client over a WebSocket until it closes. Deliveries go out as they come up; a connect is held like a poll.
///
/// # Errors
/// Where the connection breaks or the client breaks the rules.
pub(super) async fn speak(world: &Arc<World>, node: usize, socket: &mut WebSocket) -> io::Result<()> {
    let mut client_id = None;
    let mut held: Option<(Vec<Value>, Instant)> = None;
    loop {
        let wake = client_id.as_deref().and_then(|id| Some(Arc::clone(&world.lock().sessions.at(node, id)?.wake)));
        let wake = wake.unwrap_or_default();
        let mut woken = pin!(wake.notified());
        woken.as_mut().enable();
        // What came between the last delivery and listening goes out now.
        let fate = Fate::default();
        send(socket, Batch { client_id: client_id.clone(), ..Batch::new(world, node, &fate) }).await?;
        let until = held.as_ref().map(|(_, until)| *until);
        let said = tokio::select! {
            said = socket.receive() => said?,
            () = woken => continue,
            () = async { if let Some(until) = until { sleep_until(until).await } else { pending().await } } => {
                let connects = held.take().map(|(connects, _)| connects).unwrap_or_default();
                send(socket, Batch { connects, ..Batch::new(world, node, &fate) }).await?;
                continue;
            }
        };
        let Said::Text(text) = &said else {
            socket.answer(&said).await?;
            if matches!(said, Said::Close) { return Ok(()) } else { continue }
        };
        let fate = world.next_fate();
        let mut batch = Batch::new(world, node, &fate);
        batch.receive(text).await;
        if batch.holds {
            held = Some((std::mem::take(&mut batch.connects), Instant::now() + world.connect_hold));
        }
        client_id = batch.client_id.clone().or(client_id);
        send(socket, batch).await?;
        world.let_agents_answer();
    }
}

/// Sends what a batch comes to, if anything, and settles it once it is written.
async fn send(socket: &mut WebSocket, batch: Batch<'_>) -> io::Result<()> {
    let world = batch.world;
    let (envelope, receipt) = batch.envelope();
    if !envelope.is_empty() {
        socket.send(&Value::Array(envelope).to_string()).await?;
        world.lock().settle(receipt);
    }
    Ok(())
}

/// CometD's answer to what is no Bayeux message, and to a GET without one.
pub(super) fn unknown_transport() -> Answer {
    let body = Content::Whole("Unknown Bayeux Transport".into());
    Answer::new(StatusCode::BAD_REQUEST, "text/plain;charset=utf-8", body)
}

fn messages(body: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let messages = match serde_json::from_slice(body).ok()? {
        Value::Array(messages) => messages,
        single => vec![single],
    };
    let objects: Option<Vec<_>> = messages.iter().map(|message| message.as_object().cloned()).collect();
    objects.filter(|objects| !objects.is_empty())
}

/// The texts that publishes of this body say, for the account.
pub(super) fn said(body: &[u8]) -> Vec<String> {
    let text = |message: Map<String, Value>| {
        let data = message.get("data")?;
        (data.get("operation")? == "sendMessage").then(|| data.get("message")?.as_str().map(str::to_owned)).flatten()
    };
    messages(body).unwrap_or_default().into_iter().filter_map(text).collect()
}

fn text<'m>(message: &'m Map<String, Value>, name: &str) -> &'m str {
    message.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A reply to a message carries its channel and id.
fn reply(message: &Map<String, Value>, what: Value) -> Value {
    let mut reply = Map::new();
    for name in ["channel", "id"] {
        reply.extend(message.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    reply.extend(members(what));
    Value::Object(reply)
}

impl<'a> Batch<'a> {
    fn new(world: &'a World, node: usize, fate: &'a Fate) -> Self {
        let (deliveries, replies, connects) = (Vec::new(), Vec::new(), Vec::new());
        let (client_id, browser, receipt) = (None, None, Receipt::default());
        Self { world, node, fate, client_id, browser, deliveries, replies, connects, holds: false, receipt }
    }

    /// Takes a message of a WebSocket, counted as a request is.
    async fn receive(&mut self, text: &[u8]) {
        self.world.count("cometd", self.node);
        said(text).iter().for_each(|text| self.world.lock().ledger.received(text));
        if !self.fate.delay.is_zero() {
            tokio::time::sleep(self.fate.delay).await;
        }
        messages(text).iter().flatten().for_each(|message| self.take(message));
    }

    fn take(&mut self, message: &Map<String, Value>) {
        let world = self.world;
        let state = &mut *world.lock();
        let channel = text(message, "channel");
        if channel == "/meta/handshake" {
            return self.handshake(state, message);
        }
        let client_id = text(message, "clientId");
        if state.sessions.at(self.node, client_id).is_none() {
            return self.unknown_client(&mut state.ledger, message);
        }
        self.client_id = Some(client_id.to_owned());
        match channel {
            "/meta/connect" => self.connect(state, client_id, message),
            "/meta/disconnect" => self.disconnect(state, client_id, message),
            "/meta/subscribe" | "/meta/unsubscribe" => {
                let subscription = message.get("subscription");
                self.replies.push(reply(message, json!({"subscription": subscription, "successful": true})));
            }
            channel if channel.starts_with(CHAT_CHANNEL) => self.publish(state, client_id, message),
            _ => self.replies.push(reply(message, json!({"successful": false, "error": "404::Unknown channel"}))),
        }
    }

    fn handshake(&mut self, state: &mut State, message: &Map<String, Value>) {
        let client_id = state.chats.session_id();
        let (wake, chats, outbox) = (Arc::new(Notify::new()), Vec::new(), Vec::new());
        let session = Session { node: self.node, connected: false, wake, chats, outbox };
        state.sessions.0.insert(client_id.clone(), session);
        self.browser = Some(state.chats.session_id());
        let types = json!(["websocket", "long-polling"]);
        self.replies.push(reply(
            message,
            json!({
                "version": "1.0", "minimumVersion": "1.0", "supportedConnectionTypes": types, "clientId": client_id,
                "advice": self.advice(), "successful": true,
            }),
        ));
    }

    fn advice(&self) -> Value {
        let timeout = u64::try_from(self.world.connect_hold.as_millis()).unwrap_or(u64::MAX);
        json!({"interval": 0, "timeout": timeout, "reconnect": "retry"})
    }

    fn unknown_client(&mut self, ledger: &mut Ledger, message: &Map<String, Value>) {
        let what = json!({"error": UNKNOWN_CLIENT, "successful": false});
        let mut answer = reply(message, what);
        if text(message, "channel").starts_with("/meta/") {
            answer["advice"] = json!({"reconnect": "handshake", "interval": 0});
        }
        let bayeux = Some(UNKNOWN_CLIENT.to_owned());
        let issued = vec![IssuedError { http_status: 200, bayeux, ..IssuedError::default() }];
        let spoken = Spoken { http_status: 200, body: Map::new(), issued };
        self.receipt.add(ledger.issue(&spoken, self.node, "cometd", None));
        self.replies.push(answer);
    }

    fn connect(&mut self, state: &mut State, client_id: &str, message: &Map<String, Value>) {
        let impatient = message.get("advice").and_then(|advice| advice.get("timeout")) == Some(&json!(0));
        if let Some(session) = state.sessions.at(self.node, client_id) {
            // The first connect is answered at once, so that the client learns the advice.
            self.holds = session.connected && !impatient;
            session.connected = true;
        }
        self.connects.push(reply(message, json!({"successful": true, "advice": self.advice()})));
    }

    fn disconnect(&mut self, state: &mut State, client_id: &str, message: &Map<String, Value>) {
        self.replies.push(reply(message, json!({"successful": true})));
        self.deliver(state);
        if let Some(session) = state.sessions.0.remove(client_id) {
            let mine = session.chats.iter().map(|attached| &attached.chat_id);
            mine.for_each(|id| state.chats.chat(id).into_iter().for_each(|chat| chat.unwatch(&session.wake)));
            session.wake.notify_waiters();
        }
    }

    fn publish(&mut self, state: &mut State, client_id: &str, message: &Map<String, Value>) {
        let channel = text(message, "channel");
        let service = channel.strip_prefix(CHAT_CHANNEL).unwrap_or_default();
        let nothing = Map::new();
        let data = message.get("data").and_then(Value::as_object).unwrap_or(&nothing);
        let params = Params::from_json(data);
        self.replies.push(reply(message, json!({"successful": true})));
        let Some(operation) = Operation::of_publish(params.text("operation").unwrap_or_default()) else {
            let refusal = Refusal::Invalid(vec![unexpected(state.chats.reference())]);
            return self.refuse(state, client_id, channel, "cometd", None, &refusal);
        };
        let chat_id = params.text("chatId").map(str::to_owned);
        let by_key = || state.chats.id_of_key(params.text("secureKey")?).map(str::to_owned);
        let chat_id = chat_id.or_else(by_key);
        let service = Some(service);
        let (key_form, now) = (KeyForm::Base64, now());
        let call =
            Call { operation, service, chat_id: chat_id.as_deref(), file_id: None, params: &params, key_form, now };
        let injected = self.fate.failure.and_then(|failure| rest::injected(failure, &mut state.chats));
        match injected.map_or_else(|| execute(&mut state.chats, &self.world.services, &call), Err) {
            Ok(done) => self.attach(state, client_id, channel, &done.chat_id, &call),
            Err(refusal) => {
                self.refuse(state, client_id, channel, operation.name(), chat_id.as_deref(), &refusal);
            }
        }
    }

    /// requestChat and requestNotifications tie the chat to the session, the latter from where it says.
    fn attach(&self, state: &mut State, client_id: &str, channel: &str, chat_id: &str, call: &Call<'_>) {
        if !matches!(call.operation, Operation::RequestChat | Operation::RequestNotifications) {
            return;
        }
        let Some(session) = state.sessions.at(self.node, client_id) else { return };
        if let Some(chat) = state.chats.chat(chat_id) {
            chat.watch(&session.wake);
        }
        session.chats.retain(|attached| attached.chat_id != chat_id);
        let cursor = call.operation.wanted(call.params).unwrap_or(1);
        session.chats.push(Attached { chat_id: chat_id.to_owned(), channel: channel.to_owned(), cursor });
    }

    fn refuse(
        &self,
        state: &mut State,
        client_id: &str,
        channel: &str,
        operation: &str,
        chat_id: Option<&str>,
        refusal: &Refusal,
    ) {
        let spoken = refusal.over_cometd();
        let receipt = state.ledger.issue(&spoken, self.node, operation, chat_id);
        if let Some(session) = state.sessions.at(self.node, client_id) {
            session.outbox.push((json!({"channel": channel, "data": spoken.body}), receipt));
        }
    }

    /// Holds a connect until there is something to deliver, the session ends, or the time is up. As at Jetty, a woken
    /// connect is answered even where a publish in between took the delivery along.
    async fn hold(&self, at_most: Duration) {
        let Some(client_id) = &self.client_id else { return };
        let Some(wake) = self.idle(client_id) else { return };
        let woken = wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        // What came between looking and listening is seen by looking again.
        if self.idle(client_id).is_some() {
            // Running out of time is no failure: the client connects again.
            let _out_of_time = tokio::time::timeout(at_most, woken).await;
        }
    }

    /// What to wait for while the session has nothing to deliver.
    fn idle(&self, client_id: &str) -> Option<Arc<Notify>> {
        let state = &mut *self.world.lock();
        let session = state.sessions.at(self.node, client_id)?;
        let news = session.chats.iter().any(|attached| attached.has_news(&mut state.chats));
        (session.outbox.is_empty() && !news).then(|| Arc::clone(&session.wake))
    }

    /// Moves what the session has to deliver into the answer.
    fn deliver(&mut self, state: &mut State) {
        let variant = self.fate.variant.then_some(self.fate.number);
        let client_id = self.client_id.as_deref().unwrap_or_default();
        let Some(session) = state.sessions.at(self.node, client_id) else { return };
        let news = session.chats.iter_mut().filter_map(|attached| attached.delivery(&mut state.chats, variant));
        let news: Vec<_> = news.chain(session.outbox.drain(..)).collect();
        session.forget_ended(&mut state.chats);
        for (delivery, receipt) in news {
            self.deliveries.push(delivery);
            self.receipt.add(receipt);
        }
    }

    /// All that there is to say, in CometD's order.
    fn envelope(mut self) -> (Vec<Value>, Receipt) {
        let world = self.world;
        self.deliver(&mut world.lock());
        ([self.deliveries, self.replies, self.connects].concat(), self.receipt)
    }

    fn finish(mut self) -> Answer {
        let browser = self.browser.take();
        let (envelope, receipt) = self.envelope();
        let answer = Answer::json(200, &Value::Array(envelope), receipt);
        match browser {
            Some(browser) => answer.with(header::SET_COOKIE, format!("BAYEUX_BROWSER={browser}; Path=/; HttpOnly")),
            None => answer,
        }
    }
}

impl Session {
    fn forget_ended(&mut self, chats: &mut Chats) {
        let wake = &self.wake;
        self.chats.retain(|attached| match chats.chat(&attached.chat_id) {
            Some(chat) if chat.ended => {
                chat.unwatch(wake);
                false
            }
            found => found.is_some(),
        });
    }
}

impl Attached {
    fn has_news(&self, chats: &mut Chats) -> bool {
        chats.chat(&self.chat_id).is_some_and(|chat| !chat.page(Some(self.cursor), None).messages.is_empty())
    }

    /// What came since the last delivery; none where the client may see nothing of it.
    fn delivery(&mut self, chats: &mut Chats, variant: Option<u64>) -> Option<(Value, Receipt)> {
        let alias_every = chats.conduct.alias_every;
        let chat = chats.chat(&self.chat_id)?;
        let page = chat.page(Some(self.cursor), variant);
        self.cursor = chat.next_position();
        if page.messages.is_empty() {
            return None;
        }
        let receipt = Receipt { handed: page.handed, errors: Vec::new() };
        let data = rest::session(chat, page.messages, alias_every);
        Some((json!({"channel": self.channel, "data": data}), receipt))
    }
}
