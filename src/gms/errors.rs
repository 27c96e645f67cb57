//! What GMS's error codes mean, whose they are, and what the support desk can do. Knows no JSON and no HTTP bodies.
//!
//! The codes are those of the GMS page "API Responses" (Web API Validation Error Codes); 204 comes from the message texts
//! of Genesys Widgets. Codes outside the table still have a class, by their range.

use serde::{Deserialize, Serialize};

/// Who reported an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The GMS node.
    Gms,
    /// The media server behind it (codes 250 to 299, "provided directly by the connected Media Server").
    ChatServer,
    /// This proxy.
    Proxy,
    /// The client, by leaving before its answer.
    Client,
}

impl Origin {
    /// As the `api_errors` table writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gms => "gms",
            Self::ChatServer => "chat_server",
            Self::Proxy => "proxy",
            Self::Client => "client",
        }
    }

    /// Whose code it is.
    pub fn of_code(code: i64) -> Self {
        if (250..=299).contains(&code) { Self::ChatServer } else { Self::Gms }
    }
}

/// The shape an error came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorFormat {
    /// An element of `errors[]` (GMS 8.5.103.09 and higher).
    Errors,
    /// An entry of `fields{}` beside `"error":"validationError"` (GMS 8.5.103.08 and lower).
    ValidationError,
    /// A statusCode other than 0, without errors.
    Status,
    /// An unsuccessful Bayeux message.
    Bayeux,
    /// An HTTP status of 400 or more whose body says nothing in a shape of its own; also the proxy's own answers.
    Http,
}

impl ErrorFormat {
    /// As the `api_errors` table writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::ValidationError => "validationError",
            Self::Status => "status",
            Self::Bayeux => "bayeux",
            Self::Http => "http",
        }
    }
}

/// What kind of trouble an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// A required parameter is missing (100 to 199).
    Missing,
    /// A parameter is outside of the configured range (200 to 249, save those below).
    Limit,
    /// GMS itself failed (240).
    Unexpected,
    /// What was asked for is not there (241, 248).
    NotFound,
    /// The media server refused or failed (249, 250 to 299).
    MediaServer,
    /// A parameter is malformed (300 to 399).
    Invalid,
    /// The connection, the gateway or the CometD session failed, not the chat.
    Transport,
    /// None of these.
    Unknown,
}

impl ErrorClass {
    /// As the `api_errors` table writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Limit => "limit",
            Self::Unexpected => "unexpected",
            Self::NotFound => "not_found",
            Self::MediaServer => "media_server",
            Self::Invalid => "invalid",
            Self::Transport => "transport",
            Self::Unknown => "unknown",
        }
    }

    /// By GMS code, of the table or not.
    pub fn of_code(code: i64) -> Self {
        match code {
            240 => Self::Unexpected,
            241 | 248 => Self::NotFound,
            249..=299 => Self::MediaServer,
            100..=199 => Self::Missing,
            200..=248 => Self::Limit,
            300..=399 => Self::Invalid,
            _ => Self::Unknown,
        }
    }

    /// By HTTP status, where an answer gives no code. A plain 500 stays unknown: `unexpected` is GMS's own 240, whose
    /// advice has a reference ID.
    pub fn of_status(status: u16) -> Self {
        match status {
            404 | 410 => Self::NotFound,
            413 | 429 => Self::Limit,
            408 | 502..=504 => Self::Transport,
            _ => Self::Unknown,
        }
    }
}

/// A line of the catalogue, as the `error_codes` table holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeEntry {
    /// GMS's number.
    pub code: i64,
    /// What it means, in the page's words.
    pub meaning: &'static str,
    /// Its class.
    pub class: ErrorClass,
    /// Comma list of chat, email and openmedia. Empty for codes that the page reserves.
    pub channels: &'static str,
    /// What the support desk can do.
    pub remedy: &'static str,
}

const fn entry(
    code: i64,
    class: ErrorClass,
    channels: &'static str,
    meaning: &'static str,
    remedy: &'static str,
) -> CodeEntry {
    CodeEntry { code, meaning, class, channels, remedy }
}

const RESERVED: &str = "reserved";
const RESERVED_REMEDY: &str =
    "GMS should not send a reserved code: note the node and its GMS release, and ask Genesys Care.";
const SESSION_REMEDY: &str = "The client left out a parameter of the session; it has to send back what requestChat gave it. \
     Often a page reload without session restore. GMS 8.5.112 and newer needs only secureKey.";
const FORM_REMEDY: &str =
    "The page or app did not send a required field: compare its form with the service's options in GMS.";

/// Every code that the page lists, in ascending order.
static CATALOGUE: [CodeEntry; 37] = {
    use ErrorClass::{Invalid, Limit, MediaServer, Missing, NotFound, Unexpected};
    [
        entry(100, Missing, "", RESERVED, RESERVED_REMEDY),
        entry(
            101,
            Missing,
            "",
            "tenant is missing",
            "Set the tenant in the GMS service's options, or have the client send it.",
        ),
        entry(102, Missing, "chat,email", "firstName is missing", FORM_REMEDY),
        entry(103, Missing, "chat,email", "lastName is missing", FORM_REMEDY),
        entry(104, Missing, "chat,email", "subject is missing", FORM_REMEDY),
        entry(105, Missing, "openmedia", "userData is missing", FORM_REMEDY),
        entry(151, Missing, "chat", "alias is missing", SESSION_REMEDY),
        entry(152, Missing, "chat", "userId is missing", SESSION_REMEDY),
        entry(153, Missing, "chat", "secureKey is missing", SESSION_REMEDY),
        entry(154, Missing, "chat", "chatId is missing", SESSION_REMEDY),
        entry(
            161,
            Missing,
            "chat",
            "nickname is missing",
            "The client has to send a nickname, or firstName and lastName.",
        ),
        entry(
            162,
            Missing,
            "chat",
            "message is missing",
            "The client sent an empty message: check what it does with blank input.",
        ),
        entry(163, Missing, "chat", "pushUrl is missing", "The client called pushUrl without a URL."),
        entry(181, Missing, "email", "fromAddress is missing", FORM_REMEDY),
        entry(182, Missing, "email", "text is missing", FORM_REMEDY),
        entry(191, Missing, "openmedia", "mediaType is missing", FORM_REMEDY),
        entry(192, Missing, "openmedia", "interactionType is missing", FORM_REMEDY),
        entry(193, Missing, "openmedia", "interactionSubtype is missing", FORM_REMEDY),
        entry(200, Limit, "", RESERVED, RESERVED_REMEDY),
        entry(
            201,
            Limit,
            "chat,email",
            "The total number of uploaded files is too high",
            "The advice gives the count allowed: tell the customer, or raise upload-max-files.",
        ),
        entry(
            202,
            Limit,
            "chat,email",
            "The total size of the uploaded files is too large",
            "The advice gives the bytes allowed: tell the customer, or raise upload-max-total-size.",
        ),
        entry(
            203,
            Limit,
            "chat,email",
            "The uploaded file has an incorrect filetype",
            "The advice lists the types allowed: tell the customer, or extend upload-file-types.",
        ),
        entry(
            204,
            Limit,
            "chat",
            "The message is too long",
            "Ask the customer to send shorter messages. Chat Server takes 32768 bytes of XML, less than half of it text.",
        ),
        entry(
            240,
            Unexpected,
            "chat,email,openmedia",
            "An unexpected error occurred",
            "Search the reference ID of the advice in the GMS log of the node that answered.",
        ),
        entry(
            241,
            NotFound,
            "chat",
            "The specified file is not present in the current session",
            "The file was never uploaded in this chat, or the client asks with another chat's key.",
        ),
        entry(
            248,
            NotFound,
            "openmedia",
            "The interaction with the specified ID was not found",
            "It was stopped already, or the ID is wrong: look it up in Interaction Server.",
        ),
        entry(
            249,
            MediaServer,
            "chat",
            "The Media Server was not able to execute the request",
            "Search the reference ID of the advice in the GMS log of the node, then the Chat Server log at that time. Often \
             the chat has ended already.",
        ),
        entry(250, MediaServer, "", RESERVED, RESERVED_REMEDY),
        entry(
            261,
            MediaServer,
            "chat",
            "File Upload is not possible until an agent joins the session",
            "Ask the customer to wait for the agent, or turn upload-need-agent off in Chat Server.",
        ),
        entry(
            264,
            MediaServer,
            "chat",
            "File was already deleted",
            "Nothing to do: the customer or the agent deleted the file before.",
        ),
        entry(300, Invalid, "", RESERVED, RESERVED_REMEDY),
        entry(
            306,
            Invalid,
            "chat,email,openmedia",
            "serviceName URL parameter is invalid (not configured in the GMS application)",
            "Compare the service name in the path with the chat.<serviceName> sections of the GMS application on that node.",
        ),
        entry(
            364,
            Invalid,
            "chat",
            "emailAddress contains an invalid email address",
            "The customer mistyped the address, or the page sends another field as emailAddress.",
        ),
        entry(
            381,
            Invalid,
            "email",
            "fromAddress contains an invalid email address",
            "The customer mistyped the address, or the page sends another field as fromAddress.",
        ),
        entry(
            383,
            Invalid,
            "email",
            "mailbox contains an invalid email address",
            "Check the mailbox that the page sends, or the one configured for the service.",
        ),
        entry(
            402,
            ErrorClass::Transport,
            "chat",
            "Unknown client: the node does not know this CometD session",
            "The node restarted or the client reached another one: check that the BAYEUX_BROWSER cookie keeps it to its node.",
        ),
        entry(
            403,
            ErrorClass::Transport,
            "chat",
            "The node refused this CometD message",
            "Check that the CometD mode is enabled (enable_notification_mode) and the channel's service is configured.",
        ),
    ]
};

/// The catalogue: every code of the GMS page and two of CometD, in ascending order.
pub fn catalogue() -> &'static [CodeEntry] {
    &CATALOGUE
}

/// The catalogue's line for a code.
pub fn entry_of(code: i64) -> Option<&'static CodeEntry> {
    let at = CATALOGUE.binary_search_by_key(&code, |entry| entry.code).ok()?;
    CATALOGUE.get(at)
}

/// Draws the reference ID out of an advice, whatever the code: `… referenceId[10016629]`, `Reference ID: 4711`.
///
/// Between "reference" and the ID there may be white space, a hyphen, "id" in any case, a colon, an equals sign or a
/// bracket. It has to contain a digit, so that prose is not taken for one.
pub fn reference_id(advice: &str) -> Option<String> {
    const WORD: &str = "reference";
    let lower = advice.to_ascii_lowercase();
    lower.match_indices(WORD).find_map(|(at, _)| id_after(&advice[at + WORD.len()..]))
}

fn id_after(text: &str) -> Option<String> {
    let text = text.trim_start();
    let text = text.strip_prefix('-').unwrap_or(text);
    let is_id = text.get(..2)?.eq_ignore_ascii_case("id");
    let text = text.get(2..).filter(|_| is_id)?;
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '[' | ':' | '='));
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(text.len());
    let id = &text[..end];
    id.contains(|c: char| c.is_ascii_digit()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_page_is_there_once_and_in_order() {
        let page = [
            100, 101, 102, 103, 104, 105, 151, 152, 153, 154, 161, 162, 163, 181, 182, 191, 192, 193, 200, 201, 202,
            203, 204, 240, 241, 248, 249, 250, 261, 264, 300, 306, 364, 381, 383,
        ];
        assert!(page.iter().all(|code| entry_of(*code).is_some_and(|entry| entry.code == *code)));
        assert!(catalogue().is_sorted_by_key(|entry| entry.code));
        assert!(catalogue().iter().all(|entry| entry.remedy.ends_with('.') && !entry.remedy.contains("  ")));
    }

    #[test]
    fn the_table_and_the_ranges_agree() {
        for entry in catalogue().iter().filter(|entry| entry.code < 400) {
            assert_eq!(entry.class, ErrorClass::of_code(entry.code), "{}", entry.code);
        }
    }

    #[test]
    fn unlisted_codes_have_a_class_and_an_origin() {
        use ErrorClass::*;
        let rows = [
            (99, Unknown, Origin::Gms),
            (120, Missing, Origin::Gms),
            (245, Limit, Origin::Gms),
            (249, MediaServer, Origin::Gms),
            (250, MediaServer, Origin::ChatServer),
            (299, MediaServer, Origin::ChatServer),
            (300, Invalid, Origin::Gms),
            (399, Invalid, Origin::Gms),
            (400, Unknown, Origin::Gms),
            (-1, Unknown, Origin::Gms),
            (i64::MAX, Unknown, Origin::Gms),
        ];
        for (code, class, origin) in rows {
            assert_eq!((ErrorClass::of_code(code), Origin::of_code(code)), (class, origin), "{code}");
        }
    }

    #[test]
    fn the_reference_id_is_drawn_from_any_advice() {
        let rows = [
            ("Media server was not able to execute request. referenceId[10016629]", Some("10016629")),
            ("ReferenceID: 4711", Some("4711")),
            ("Reference ID=ab-12", Some("ab-12")),
            ("reference-id 5", Some("5")),
            ("REFERENCEID[ 77 ]", Some("77")),
            ("see reference for details, referenceId[9]", Some("9")),
            ("the referenceId is unknown", None),
            ("reference 12", None),
            ("referenceId[]", None),
            ("Référence reference", None),
            ("reference é", None),
            ("300000", None),
            ("", None),
        ];
        for (advice, expected) in rows {
            assert_eq!(reference_id(advice).as_deref(), expected, "{advice}");
        }
    }
}
