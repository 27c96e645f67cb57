//! The words of a chat: who said what, at which index. Pure values; nothing here knows HTTP, JSON or SQL.

use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize};

/// Names one chat session, as GMS gave it (`00001aCY6K8U003T`). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ChatId(Arc<str>);

impl ChatId {
    /// Longer ids are not GMS's: real ones have 16 characters, and an id is a key in memory and on disk.
    pub const BYTES_MAX: usize = 256;

    /// `None` for an empty id, one of more than [`ChatId::BYTES_MAX`] bytes, or one with control characters.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= Self::BYTES_MAX && !text.chars().any(char::is_control);
        fits.then(|| Self(text.into()))
    }

    /// The id as GMS wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ChatId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no id of a chat"))
    }
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatId({})", self.0)
    }
}

/// The serial number of an event within its chat: 1 to 2^63-1 (seed page: "starts with 1 for the first event").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct EventIndex(i64);

impl EventIndex {
    /// `None` below 1.
    pub fn new(index: i64) -> Option<Self> {
        (index >= 1).then_some(Self(index))
    }

    /// The number itself.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for EventIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(deserializer)?).ok_or_else(|| serde::de::Error::custom("no index of an event"))
    }
}

/// A stretch of a transcript, half-open: events with `from <= index < next` were asked for and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The first position covered, at least 1.
    pub from: i64,
    /// The first position after it; greater than `from`.
    pub next: i64,
}

impl Covered {
    /// `None` where nothing is covered: an empty stretch, or one that starts before 1.
    pub fn new(from: i64, next: i64) -> Option<Self> {
        (from >= 1 && next > from).then_some(Self { from, next })
    }
}

/// Who generated an event. GMS's party types are an open set (Client, Agent, Supervisor, External, …).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// A party that leaves and joins again gets a new one.
    pub participant_id: Option<i64>,
    /// The name shown to the others.
    pub nickname: Option<CompactString>,
    /// `from.type`, verbatim.
    pub party_type: Option<CompactString>,
}

/// A digest of an event's canonical content: equal contents have equal digests, whatever their key order or escapes.
/// The first 128 bits of SHA-256.
pub type ContentDigest = [u8; 16];

/// Where something was masked, and by which rule. Never what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masking {
    /// `cards`, `cvv`, or a rule of the configuration.
    pub rule: Arc<str>,
    /// In which text: a JSON pointer into what is kept, or the name of a column.
    pub field: String,
    /// Characters of the text before it, its escapes decoded.
    pub at: usize,
    /// Its length in characters.
    pub characters: usize,
}

/// One event of a transcript, scrubbed and masked: `raw` and every column are free of secrets.
///
/// Most of its texts are a word or two: up to 24 bytes they need no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptEvent {
    /// Its key within the chat.
    pub index: EventIndex,
    /// `type`, verbatim: Message, ParticipantJoined, … an open set.
    pub kind: Option<CompactString>,
    /// Milliseconds since the epoch as GMS says, never repaired.
    pub utc_time: Option<i64>,
    /// Who.
    pub from: Party,
    /// What was said; JSON where GMS sent something other than a string.
    pub text: Option<CompactString>,
    /// `messageType`.
    pub message_type: Option<CompactString>,
    /// `userData` as JSON text.
    pub user_data: Option<String>,
    /// `eventAttributes` as JSON text.
    pub event_attributes: Option<String>,
    /// The event's JSON as received.
    pub raw: String,
    /// What was masked in `raw`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maskings: Vec<Masking>,
}

#[cfg(test)]
impl TranscriptEvent {
    /// One that says nothing but this.
    pub(crate) fn plain(index: i64, raw: &str) -> Self {
        Self {
            index: EventIndex::new(index).expect("it is valid"),
            kind: None,
            utc_time: None,
            from: Party::default(),
            text: None,
            message_type: None,
            user_data: None,
            event_attributes: None,
            raw: raw.into(),
            maskings: Vec::new(),
        }
    }
}

/// A credential. It cannot be printed; only the scrubber reads it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value. An empty one is no secret.
    pub fn new(value: impl Into<String>) -> Option<Self> {
        let value = value.into();
        (!value.is_empty()).then_some(Self(value))
    }

    /// The value, for comparing and hashing only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("e4071047872b7820630f").expect("not empty");
        assert!(!format!("{secret:?}").contains("e407"));
        assert_eq!(Secret::new(""), None);
    }

    #[test]
    fn keys_hold_only_what_is_valid() {
        assert_eq!(EventIndex::new(0), None);
        assert_eq!(EventIndex::new(1).map(EventIndex::get), Some(1));
        assert!(ChatId::parse("").is_none());
        assert!(ChatId::parse("a\u{0}b").is_none());
        assert!(ChatId::parse(&"x".repeat(257)).is_none());
        assert_eq!(Covered::new(3, 3), None);
        assert_eq!(Covered::new(0, 3), None);
    }
}
