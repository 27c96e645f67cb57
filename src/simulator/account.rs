//! The simulator's own account of what it issued, so that a test can hold an archive against it.
//! It only reports; what happened is decided elsewhere.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Everything the nodes issued since the start. It keeps all of it, on purpose: memory grows with the number of events.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Account {
    /// Every chat that was opened, by id.
    pub chats: Vec<ChatAccount>,
    /// Every error issued, oldest first.
    pub errors: Vec<IssuedError>,
    /// Requests by operation (`send`, `refresh`, `cometd`, …), one number a node.
    pub requests: BTreeMap<String, Vec<u64>>,
    /// Requests that were received on a chat route but reset before their body was read.
    pub resets_before_reading: u64,
    /// How often each message text was received by `send`, `sendMessage` or `refresh`, whatever became of it: a proxy that
    /// sends a POST twice shows here.
    pub messages: BTreeMap<String, u64>,
    /// Bytes received by the upload sink.
    pub uploaded_bytes: u64,
}

impl Account {
    /// The account of one chat.
    pub fn chat(&self, chat_id: &str) -> Option<&ChatAccount> {
        self.chats.iter().find(|chat| chat.chat_id == chat_id)
    }

    /// Requests of one operation at all nodes.
    pub fn requests_of(&self, operation: &str) -> u64 {
        self.requests.get(operation).map_or(0, |by_node| by_node.iter().sum())
    }
}

/// One chat as the Chat Server knows it.
#[derive(Debug, Clone, Serialize)]
pub struct ChatAccount {
    /// The chat's id.
    pub chat_id: String,
    /// The service it was opened with.
    pub service: String,
    /// The credential of the session, so that a test can look for it where it must not be.
    pub secure_key: String,
    /// Whether the chat is over.
    pub ended: bool,
    /// The index the next event will have.
    pub next_position: u64,
    /// Every event, hidden ones too, by index.
    pub events: Vec<EventAccount>,
}

impl ChatAccount {
    /// The events a client can see.
    pub fn visible(&self) -> impl Iterator<Item = &EventAccount> {
        self.events.iter().filter(|event| !event.hidden)
    }
}

/// One event of a transcript.
#[derive(Debug, Clone, Serialize)]
pub struct EventAccount {
    /// Its serial number, from 1.
    pub index: u64,
    /// Whether it exists but is never shown to the client: a legitimate gap in the indices.
    pub hidden: bool,
    /// Whether some intact answer that held it was written to a socket completely.
    pub delivered: bool,
    /// The event as first issued.
    pub event: Value,
    /// Other contents under the same index that were delivered later (the fault `variant`).
    pub variants: Vec<Value>,
}

/// One error as a client was told it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IssuedError {
    /// The code; none in the old validation format, with a bare statusCode 1 or 2, and with HTML pages.
    pub code: Option<u16>,
    /// The parameter complained of, where the old validation format names it.
    pub field: Option<String>,
    /// The advice, verbatim.
    pub advice: Option<String>,
    /// The reference ID inside the advice.
    pub reference_id: Option<String>,
    /// The HTTP status of the answer.
    pub http_status: u16,
    /// `statusCode` of the answer, where it has one.
    pub status_code: Option<u8>,
    /// The Bayeux error (`402::Unknown client`), where it is one.
    pub bayeux: Option<String>,
    /// The node that issued it, from 0.
    pub node: usize,
    /// The operation it answers.
    pub operation: String,
    /// The chat that the request named, known or not.
    pub chat_id: Option<String>,
    /// Whether the intact answer was written to the socket completely.
    pub delivered: bool,
}
