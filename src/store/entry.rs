//! What is given to the store: entries of exchanges, outages, marks of a spool; and what became of them. Plain values, without SQL.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chat::{ChatId, Covered, Masking, TranscriptEvent};
use crate::gms::files::{Direction, Outcome};
use crate::gms::{ApiError, Attribute, Comparison, Ended, Finding};

/// What one exchange brought.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Entry {
    /// When it was observed, milliseconds since the epoch.
    pub at: i64,
    /// The node that answered.
    pub node: Option<Arc<str>>,
    /// A record for each chat.
    pub chats: Vec<ChatRecord>,
    /// Errors to audit.
    pub errors: Vec<ErrorRecord>,
    /// What could not be understood.
    pub findings: Vec<Finding>,
    /// Files that went through.
    #[serde(default)]
    pub files: Vec<FileTransfer>,
}

impl Entry {
    /// Events in it, those of its findings included, as the account counts them.
    pub fn events(&self) -> u64 {
        let events = self.chats.iter().map(|chat| chat.events.len() as u64).sum::<u64>();
        events + self.findings.iter().map(|finding| finding.events).sum::<u64>()
    }

    /// What was masked in it.
    pub fn maskings(&self) -> impl Iterator<Item = &Masking> {
        let of_errors =
            self.errors.iter().flat_map(|record| record.error.maskings.iter().chain(&record.exchange.maskings));
        let of_findings = self.findings.iter().flat_map(|finding| &finding.maskings);
        self.chats.iter().flat_map(ChatRecord::maskings).chain(of_errors).chain(of_findings)
    }
}

/// What one exchange brought of one chat.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatRecord {
    /// Which chat.
    pub chat_id: ChatId,
    /// `{serviceName}`.
    pub service: Option<String>,
    /// Events to store.
    pub events: Vec<TranscriptEvent>,
    /// Ground that the answer covered.
    pub covered: Option<Covered>,
    /// nextPosition.
    pub next_position: Option<i64>,
    /// chatEnded.
    pub ended: Option<Ended>,
    /// An asynchronous chat.
    pub is_async: bool,
    /// Attributes that changed.
    pub attributes: Vec<Attribute>,
    /// The highest index of earlier events, where these are written and it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_index: Option<i64>,
}

impl ChatRecord {
    /// A record that says nothing yet but which chat it is of.
    pub fn of(chat_id: ChatId) -> Self {
        Self {
            chat_id,
            service: None,
            events: Vec::new(),
            covered: None,
            next_position: None,
            ended: None,
            is_async: false,
            attributes: Vec::new(),
            highest_index: None,
        }
    }

    /// What was masked in it.
    pub fn maskings(&self) -> impl Iterator<Item = &Masking> {
        let of_events = self.events.iter().flat_map(|event| &event.maskings);
        of_events.chain(self.attributes.iter().flat_map(|attribute| &attribute.maskings))
    }
}

/// An error and the exchange it came in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// What was said.
    pub error: ApiError,
    /// When and where.
    pub exchange: Arc<ExchangeFacts>,
}

/// A file that went through: a row of `file_transfers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTransfer {
    /// The chat, where it is known.
    pub chat_id: Option<ChatId>,
    /// GMS's name for it.
    pub file_id: Option<String>,
    /// From the customer, or to them.
    pub direction: Direction,
    /// Its length, as far as it came.
    pub bytes: u64,
    /// Of these bytes, 64 hex digits.
    pub sha256: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What the audit says of an exchange besides its error. Nothing secret: the path has no query.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExchangeFacts {
    /// GET, POST, …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The node asked, if one was.
    pub node: Option<Arc<str>>,
    /// The client's address.
    pub client: String,
    /// The client's X-Request-Id, if it sent one.
    pub request_id: Option<String>,
    /// The trace that its `traceparent` belongs to, if it sent one.
    pub trace_id: Option<String>,
    /// From the request's head to its answer, milliseconds.
    pub duration_ms: i64,
    /// What was masked in these words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub maskings: Vec<Masking>,
}

/// A row of `outages`.
#[derive(Debug, Clone)]
pub struct Outage {
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// The same.
    pub ended_at: i64,
    /// One of [`super::ErrorKind::as_str`], `slow` or `queue_full`.
    pub reason: String,
    /// The first error's words.
    pub detail: String,
    /// Events affected.
    pub events: u64,
    /// Answers affected.
    pub answers: u64,
    /// Events that clients had before they were on disk.
    pub delivered_early: u64,
    /// Events that clients were not given.
    pub refused: u64,
    /// Events that will never be written.
    pub dropped: u64,
    /// Events that were kept in the spool before clients had them.
    pub spooled: u64,
    /// The chats affected, the first 1,000.
    pub chat_ids: Vec<ChatId>,
}

/// How much of a spool is in the archive once a batch is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Of the spool's present filling, 32 hex digits.
    pub spool_id: String,
    /// Bytes of it.
    pub drained_to: u64,
    /// Milliseconds since the epoch.
    pub at: i64,
}

/// What became of an entry's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stored now.
    pub new: u64,
    /// Stored before.
    pub duplicate: u64,
    /// The same key with other content, stored now.
    pub variant: u64,
    /// Kept as findings.
    pub finding: u64,
    /// Not stored: they were erased or purged before.
    pub suppressed: u64,
}

impl Tally {
    /// The sum of two, number by number.
    pub fn plus(self, other: Self) -> Self {
        Self {
            new: self.new + other.new,
            duplicate: self.duplicate + other.duplicate,
            variant: self.variant + other.variant,
            finding: self.finding + other.finding,
            suppressed: self.suppressed + other.suppressed,
        }
    }
}

/// What a committed batch did.
#[derive(Debug, Default)]
pub struct Appended {
    /// For each entry, in order.
    pub tallies: Vec<Tally>,
    /// Where variants were found.
    pub variants: Vec<(ChatId, i64, Comparison)>,
    /// Somebody has erased or purged chats since the last time: what else is remembered of what is on disk may be wrong.
    pub is_forgetful: bool,
}

impl Appended {
    /// Adds what a further transaction did.
    pub fn absorb(&mut self, other: Self) {
        self.tallies.extend(other.tallies);
        self.variants.extend(other.variants);
        self.is_forgetful |= other.is_forgetful;
    }
}
