//! Files on their way to a node and back: which chat and file a request is about, and what went through, by its hash. The
//! files themselves are customers' and are not kept.

mod form;
mod received;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::request::Request;
use super::route::{Operation, RouteClass, file_id_of};
use super::scrub::key_digest;
use super::{ChatKey, Exchange, Finding, FindingKind, Observation, Policy, Route};
use crate::chat::ChatId;

pub use form::{FormFile, FormFiles};
pub use received::Received;

/// Which way a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the customer.
    Up,
    /// To the customer.
    Down,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it went through, and what was uploaded was taken.
    Complete,
    /// All of it went through, in an encoding that could not be undone: length and hash are of what was sent.
    Encoded,
    /// A stretch of it was asked for (HTTP 206), and went through.
    Partial,
    /// The node did not take it.
    Refused,
    /// It broke off.
    BrokenOff,
    /// It went to the node, whose answer was not seen, or broke off, or was none.
    Unanswered,
}

impl Direction {
    /// As `file_transfers` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Outcome {
    /// As `file_transfers` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Encoded => "encoded",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::BrokenOff => "broken_off",
            Self::Unanswered => "unanswered",
        }
    }
}

/// What a request asks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    /// Which way it is to go.
    pub direction: Direction,
    /// The chat; none where the request names none.
    pub chat: Option<ChatKey>,
    /// The file, where the request names one: downloads do. Masked.
    pub file_id: Option<String>,
}

impl FileRequest {
    /// Reads it from the path, or of `chat-ntf` from the form. None of a request that moves no file.
    pub fn read(exchange: &Exchange<'_>, path: &str, policy: &Policy) -> Option<Self> {
        let request = Request::read(exchange);
        let secrets: Vec<&str> = request.secrets.iter().map(|secret| secret.expose()).collect();
        let named = |id: &str| (!secrets.contains(&id)).then(|| id.to_string());
        let by_form = request.form.get("operation").map(Operation::of_name);
        let (operation, file_id) = match exchange.route.class {
            RouteClass::Chat => (exchange.route.operation.as_ref(), file_id_of(path)),
            RouteClass::ChatNtf => (by_form.as_ref(), request.form.get("fileId").map(String::from)),
            _ => (None, None),
        };
        let direction = match operation? {
            Operation::FileUpload => Direction::Up,
            Operation::FileDownload => Direction::Down,
            _ => return None,
        };
        let path_chat = exchange.route.chat_id.as_deref().and_then(named).and_then(|id| ChatId::parse(&id));
        let masked = |mut id: String| {
            policy.masks.words([("file_id", &mut id)]);
            id
        };
        let by_key = || request.form.secure_key().map(|key| ChatKey::SecureKey(key_digest(&policy.digest_key, &key)));
        Some(Self {
            direction,
            chat: path_chat.map(ChatKey::Id).or_else(by_key),
            file_id: file_id.as_deref().and_then(named).map(masked),
        })
    }
}

/// What reads the files in a request's body, if there may be some: in a form, or where the body is the file itself, which only
/// the operation tells.
pub fn in_body(route: &Route<'_>, query: Option<&str>, content_type: &str) -> Option<FormFiles> {
    if !route.may_upload() {
        return None;
    }
    let fields = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut named = fields.filter(|(name, _)| name == "operation").map(|(_, value)| Operation::of_name(&value));
    let mut is_upload =
        || route.operation == Some(Operation::FileUpload) || named.any(|it| it == Operation::FileUpload);
    FormFiles::of(content_type).or_else(|| is_upload().then(FormFiles::of_body))
}

/// What a body of this Content-Type is that was not taken for a file: fields, though a file may come under that name, too.
pub fn is_of_fields(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The id that an answer gave an uploaded file, and whether it was taken. What broke off or is no answer does not tell.
pub fn uploaded(status: u16, answer: &Observation) -> (Option<String>, Outcome) {
    use FindingKind::{NotJson, Truncated, Undecodable, UnknownShape};
    let attributes = answer.chats.iter().flat_map(|chat| &chat.attributes);
    let mut ids = attributes.filter(|attribute| attribute.name == "userData[file-id]");
    let is_unread = |finding: &Finding| matches!(finding.kind, Truncated | Undecodable | NotJson | UnknownShape);
    let outcome = match () {
        () if status >= 300 || !answer.errors.is_empty() => Outcome::Refused,
        () if answer.findings.iter().any(is_unread) => Outcome::Unanswered,
        () => Outcome::Complete,
    };
    (ids.next().map(|attribute| attribute.value.clone()), outcome)
}

/// The hash of a file, as it goes by.
#[derive(Debug, Clone, Default)]
pub struct Hashed {
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    /// Takes the next stretch.
    pub fn take(&mut self, part: &[u8]) {
        self.hash.update(part);
        self.bytes += part.len() as u64;
    }

    /// How long it is, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256, 64 hex digits.
    pub fn sha256(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
