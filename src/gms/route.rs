//! Method and path to [`Route`]: which API a request is for, and which chat. Knows no bodies and no fields of a message.
//!
//! Recognition works on the [`normalised`] path, so that a path which a node would read differently from us cannot dodge
//! inspection. The request itself is forwarded as it came.

use std::borrow::Cow;
use std::str::FromStr;

/// Where a request goes, read from its method and path. Borrowed from the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<'p> {
    /// Which API.
    pub class: RouteClass,
    /// Which chat operation, where the path says. None for OPTIONS and HEAD: preflights and probes perform nothing.
    pub operation: Option<Operation>,
    /// `{serviceName}`, percent-decoded.
    pub service: Option<Cow<'p, str>>,
    /// `{chatId}`, percent-decoded; the session of Chat V1.
    pub chat_id: Option<Cow<'p, str>>,
    /// It looks like chat traffic but matches no route: to be warned of.
    pub looks_like_chat: bool,
    /// Its path says the same to whoever reads it.
    pub has_one_reading: bool,
}

impl<'p> Route<'p> {
    /// Reads a request target's path (without its query) under the base path, usually `/genesys`.
    ///
    /// Whatever the method, the path decides the class: only POST is a chat operation for GMS, but what a node makes of
    /// another method is the node's to say, and its answer is worth a look.
    pub fn parse(method: &str, path: &'p str, base_path: &str) -> Self {
        let mut route = match normalised(path) {
            Cow::Borrowed(path) => Route { has_one_reading: true, ..Route::of(path, base_path) },
            Cow::Owned(path) => Route::of(&path, base_path).into_owned(),
        };
        if hides_separator(path) {
            route.chat_id = None; // its segments are not what they seem: the answer must name the chat itself
        }
        if matches!(method, "OPTIONS" | "HEAD") {
            route.operation = None;
        }
        route
    }

    /// What others could take the path for that we read as [`normalised`]: they cut no parameters, or cut them later; they
    /// take a backslash for a character like any other; they decode twice. Each reading with where it leads; none
    /// where it has what no path has, or can be decoded without an end. For routes that have more than one reading.
    pub fn elsewhere(path: &str, base_path: &str) -> Option<Vec<(String, Route<'static>)>> {
        let readings = readings(path)?;
        let route = |path: String| {
            let route = Route::of(&path, base_path).into_owned();
            (path, route)
        };
        Some(readings.into_iter().map(route).collect())
    }

    fn of<'n>(path: &'n str, base_path: &str) -> Route<'n> {
        let below = path.strip_prefix(base_path.trim_end_matches('/')).filter(|below| below.starts_with('/'));
        let known = below.and_then(|below| Route::below_base(below.trim_matches('/')));
        known.unwrap_or_else(|| Route { looks_like_chat: looks_like_chat(path), ..Route::new(RouteClass::Other) })
    }

    fn below_base(path: &str) -> Option<Route<'_>> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match first {
            "2" => Route::version_2(rest),
            "1" => Route::version_1(rest),
            // CometD clients append the message type to the URL: /cometd/handshake, /cometd/connect.
            "cometd" => Some(Route::new(RouteClass::Cometd)),
            _ => None,
        }
    }

    fn version_2(path: &str) -> Option<Route<'_>> {
        let (api, rest) = path.split_once('/').unwrap_or((path, ""));
        if api == "chat-ntf" {
            return Some(Route::new(RouteClass::ChatNtf));
        }
        let (service, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if service.is_empty() {
            return None;
        }
        let class = match api {
            "chat" => return Some(Route::chat(service, rest)),
            "email" => RouteClass::Email,
            "openmedia" => RouteClass::OpenMedia,
            _ => return None,
        };
        let last = rest.rsplit('/').next().filter(|last| !last.is_empty());
        let operation = last.map(|name| Operation::Other(name.into()));
        Some(Route { service: Some(service.into()), operation, ..Route::new(class) })
    }

    fn chat<'n>(service: &'n str, rest: &'n str) -> Route<'n> {
        let route = Route { service: Some(service.into()), ..Route::new(RouteClass::Chat) };
        if rest.is_empty() {
            return Route { operation: Some(Operation::RequestChat), ..route };
        }
        let (chat_id, operation) = rest.split_once('/').unwrap_or((rest, ""));
        let operation = (!operation.is_empty()).then(|| Operation::of_path(operation));
        Route { chat_id: Some(chat_id.into()), operation, ..route }
    }

    fn version_1(path: &str) -> Option<Route<'_>> {
        let mut parts = path.split('/');
        let (api, session) = (parts.next()?, parts.next()?);
        let rest = (parts.next(), parts.next(), parts.next());
        let route = Route::new(RouteClass::ChatV1);
        match (api, session, rest) {
            ("service", "request-chat", (None, ..)) => Some(Route { operation: Some(Operation::RequestChat), ..route }),
            ("service", _, (Some("ixn"), Some("chat"), operation)) => {
                Some(Route { chat_id: Some(session.into()), operation: operation.map(Operation::of_path), ..route })
            }
            _ => None,
        }
    }

    pub(super) fn new(class: RouteClass) -> Self {
        Self { class, operation: None, service: None, chat_id: None, looks_like_chat: false, has_one_reading: false }
    }

    fn into_owned(self) -> Route<'static> {
        let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Route {
            class: self.class,
            operation: self.operation,
            service: owned(self.service),
            chat_id: owned(self.chat_id),
            looks_like_chat: self.looks_like_chat,
            has_one_reading: self.has_one_reading,
        }
    }

    /// Its answers are read by `gms::inspect`.
    pub fn is_inspected(&self) -> bool {
        use RouteClass::{Chat, ChatNtf, Cometd, Email, OpenMedia};
        matches!(self.class, Chat | ChatNtf | Cometd | Email | OpenMedia)
    }

    /// It is of a chat in progress, or of a session that may be: under overload it comes before what begins anew.
    pub fn goes_on(&self) -> bool {
        match self.class {
            RouteClass::ChatNtf | RouteClass::Cometd => true,
            RouteClass::Chat | RouteClass::ChatV1 => self.chat_id.is_some(),
            RouteClass::Email | RouteClass::OpenMedia | RouteClass::Other => false,
        }
    }

    /// Its request may bring files, in a form.
    pub fn may_upload(&self) -> bool {
        match self.class {
            RouteClass::ChatNtf => true,
            RouteClass::Chat => self.operation == Some(Operation::FileUpload),
            _ => false,
        }
    }

    /// Its answer may be a raw file, which is never to be held: `gms::could_be_answer` tells by the first bytes.
    /// Operations that nobody documented are treated as if they could.
    pub fn may_be_file(&self) -> bool {
        match self.class {
            RouteClass::ChatNtf => true,
            RouteClass::Chat => matches!(self.operation, Some(Operation::FileDownload | Operation::Other(_))),
            _ => false,
        }
    }
}

/// The APIs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteClass {
    /// Chat V2 over REST.
    Chat,
    /// `/2/chat-ntf`: file operations of CometD chats.
    ChatNtf,
    /// `/cometd`.
    Cometd,
    /// `/2/email`.
    Email,
    /// `/2/openmedia`.
    OpenMedia,
    /// Chat V1.
    ChatV1,
    /// Everything else.
    Other,
}

impl RouteClass {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 7] =
        [Self::Chat, Self::ChatNtf, Self::Cometd, Self::Email, Self::OpenMedia, Self::ChatV1, Self::Other];

    /// As the configuration and the metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::ChatNtf => "chat_ntf",
            Self::Cometd => "cometd",
            Self::Email => "email",
            Self::OpenMedia => "openmedia",
            Self::ChatV1 => "chat_v1",
            Self::Other => "other",
        }
    }
}

impl FromStr for RouteClass {
    type Err = String;

    /// Reads what [`RouteClass::as_str`] writes; the error is a sentence that names what would be right.
    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        let class = Self::ALL.into_iter().find(|class| class.as_str() == name);
        class.ok_or_else(|| format!("\"{name}\" is no route class; there are {}", known()))
    }
}

/// The operations of Chat V2, over REST, `chat-ntf` and CometD.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opens a chat.
    RequestChat,
    /// Sends a message (REST).
    Send,
    /// Asks for the transcript from a position on.
    Refresh,
    /// Leaves the chat.
    Disconnect,
    /// Announces typing, with a preview of the text.
    StartTyping,
    /// Takes that back.
    StopTyping,
    /// Pushes a URL to the other side.
    PushUrl,
    /// Changes the nickname.
    UpdateNickname,
    /// Sends a notice that is no message.
    CustomNotice,
    /// Changes the chat's user data.
    UpdateData,
    /// Says how far the transcript was read.
    ReadReceipt,
    /// Uploads a file.
    FileUpload,
    /// Asks which files may be uploaded.
    FileLimits,
    /// Downloads a file: the answer is the raw file.
    FileDownload,
    /// Deletes a file.
    FileDelete,
    /// CometD: asks for deliveries to a new session.
    RequestNotifications,
    /// CometD: sends a message.
    SendMessage,
    /// One that is not documented, verbatim.
    Other(Box<str>),
}

impl Operation {
    /// The API's name for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::RequestChat => "requestChat",
            Self::Send => "send",
            Self::Refresh => "refresh",
            Self::Disconnect => "disconnect",
            Self::StartTyping => "startTyping",
            Self::StopTyping => "stopTyping",
            Self::PushUrl => "pushUrl",
            Self::UpdateNickname => "updateNickname",
            Self::CustomNotice => "customNotice",
            Self::UpdateData => "updateData",
            Self::ReadReceipt => "readReceipt",
            Self::FileUpload => "fileUpload",
            Self::FileLimits => "fileLimits",
            Self::FileDownload => "fileDownload",
            Self::FileDelete => "fileDelete",
            Self::RequestNotifications => "requestNotifications",
            Self::SendMessage => "sendMessage",
            Self::Other(name) => name,
        }
    }

    /// Reads the `operation` of a CometD message or a `chat-ntf` form.
    pub fn of_name(name: &str) -> Self {
        match name {
            "requestChat" => Self::RequestChat,
            "requestNotifications" => Self::RequestNotifications,
            "sendMessage" => Self::SendMessage,
            "fileUpload" => Self::FileUpload,
            // The page says fileGetLimits, Genesys' own iOS library sends fileGetsLimits.
            "fileGetLimits" | "fileGetsLimits" | "fileLimits" => Self::FileLimits,
            "fileDownload" => Self::FileDownload,
            "fileDelete" => Self::FileDelete,
            _ => Self::of_path(name),
        }
    }

    /// Reads what follows `/{chatId}/` in a path.
    fn of_path(path: &str) -> Self {
        match path {
            "send" => Self::Send,
            "refresh" => Self::Refresh,
            "disconnect" => Self::Disconnect,
            "startTyping" => Self::StartTyping,
            "stopTyping" => Self::StopTyping,
            "pushUrl" => Self::PushUrl,
            "updateNickname" => Self::UpdateNickname,
            "customNotice" => Self::CustomNotice,
            "updateData" => Self::UpdateData,
            "readReceipt" => Self::ReadReceipt,
            "file" => Self::FileUpload,
            "file/limits" => Self::FileLimits,
            _ => Self::of_file_path(path),
        }
    }

    fn of_file_path(path: &str) -> Self {
        match path.strip_prefix("file/").and_then(|file| file.split_once('/')) {
            Some((_, "download")) => Self::FileDownload,
            Some((_, "delete")) => Self::FileDelete,
            _ => Self::Other(path.into()),
        }
    }
}

/// `{fileId}` of the path of a download or a deletion.
pub(super) fn file_id_of(path: &str) -> Option<String> {
    let path = normalised(path);
    let (_, file) = path.rsplit_once("/file/")?;
    let (id, _) = file.split_once('/')?;
    Some(id.to_string())
}

/// An encoded slash or backslash: one segment to some, two to others.
fn hides_separator(path: &str) -> bool {
    let hidden = |code: &str| matches!(code.get(..3), Some("%2f" | "%2F" | "%5c" | "%5C"));
    path.match_indices('%').any(|(at, _)| hidden(&path[at..]))
}

fn looks_like_chat(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ["/2/chat", "cometd", "chat-ntf", "/ixn/chat"].iter().any(|mark| path.contains(mark))
}

/// The path as a node may read it: `;parameters` cut, percent-decoded once, backslash as slash, repeated slashes
/// collapsed, dot segments resolved. Borrowed where nothing had to change. For recognition and for allow and deny.
pub fn normalised(path: &str) -> Cow<'_, str> {
    if is_plain(path) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(resolved(&percent_decoded(&without_parameters(path)).replace('\\', "/")))
}

/// More encodings within one another are nobody's honest path.
const DECODINGS_MAX: usize = 4;

/// Every other reading of a path, once; see [`Route::elsewhere`].
fn readings(path: &str) -> Option<Vec<String>> {
    let mut readings = Vec::new();
    let cut = without_parameters(path);
    for start in [path, &cut] {
        let mut text = start.to_owned();
        for depth in 0.. {
            if depth > DECODINGS_MAX || has_what_no_path_has(&text) {
                return None;
            }
            let slashed = text.replace('\\', "/");
            for reading in [&text, &without_parameters(&text), &slashed, &without_parameters(&slashed)] {
                let reading = resolved(reading);
                if !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
            let decoded = percent_decoded(&text.replace("%u00", "%"));
            if decoded == text {
                break;
            }
            text = decoded;
        }
    }
    Some(readings)
}

/// A control character, which some readers end at; or an ASCII character in a longer form of UTF-8 than it has, which some
/// decode and others do not.
fn has_what_no_path_has(text: &str) -> bool {
    let encoded: Vec<u8> = text.match_indices('%').filter_map(|(at, _)| percent_byte(&text.as_bytes()[at..])).collect();
    let is_overlong =
        |pair: &[u8]| matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f]);
    encoded.iter().any(u8::is_ascii_control) || encoded.windows(2).any(is_overlong)
}

fn resolved(decoded: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let is_folder = kept.is_empty() || matches!(decoded.rsplit('/').next(), Some("" | "." | ".."));
    let mut path = String::with_capacity(decoded.len() + 1);
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if is_folder {
        path.push('/');
    }
    path
}

fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.first() == Some(&b'/')
        && memchr::memchr3(b'%', b';', b'\\', bytes).is_none()
        && memchr::memchr_iter(b'/', bytes).all(|at| !matches!(bytes.get(at + 1), Some(b'/' | b'.')))
}

/// Cut before decoding, as servlet containers do: `..;x` is a dot segment, `%3B` is part of a name.
fn without_parameters(path: &str) -> String {
    let name = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    path.split('/').map(name).collect::<Vec<_>>().join("/")
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match percent_byte(&bytes[at..]) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The byte that a text starting with `%XX` stands for.
pub(super) fn percent_byte(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, class: RouteClass, operation: &str, service: &str, chat_id: &str) {
        let route = Route::parse("POST", path, "/genesys");
        assert_eq!(route.class, class, "{path}");
        assert_eq!(route.operation.as_ref().map_or("", Operation::as_str), operation, "{path}");
        assert_eq!(route.service.as_deref().unwrap_or_default(), service, "{path}");
        assert_eq!(route.chat_id.as_deref().unwrap_or_default(), chat_id, "{path}");
        assert!(!route.looks_like_chat, "{path}");
    }

    #[test]
    fn every_operation_has_its_path() {
        use RouteClass::*;
        check("/genesys/2/chat/support", Chat, "requestChat", "support", "");
        check("/genesys/2/chat/support/", Chat, "requestChat", "support", "");
        for name in
            "send refresh disconnect startTyping stopTyping pushUrl updateNickname customNotice updateData readReceipt"
                .split(' ')
        {
            check(&format!("/genesys/2/chat/s/00001aCY6K8U003T/{name}"), Chat, name, "s", "00001aCY6K8U003T");
            check(&format!("/genesys/2/chat/s/00001aCY6K8U003T/{name}/"), Chat, name, "s", "00001aCY6K8U003T");
        }
        check("/genesys/2/chat/s/ID/file", Chat, "fileUpload", "s", "ID");
        check("/genesys/2/chat/s/ID/file/limits", Chat, "fileLimits", "s", "ID");
        check("/genesys/2/chat/s/ID/file/f1/download", Chat, "fileDownload", "s", "ID");
        check("/genesys/2/chat/s/ID/file/f1/delete/", Chat, "fileDelete", "s", "ID");
        check("/genesys/2/chat/s/ID/newThing/x", Chat, "newThing/x", "s", "ID");
        check("/genesys/2/chat/s/ID", Chat, "", "s", "ID");
        check("/genesys/2/chat-ntf", ChatNtf, "", "", "");
        check("/genesys/2/chat-ntf/", ChatNtf, "", "", "");
        check("/genesys/cometd", Cometd, "", "", "");
        check("/genesys/cometd/connect", Cometd, "", "", "");
        check("/genesys/2/email/mail", Email, "", "mail", "");
        check("/genesys/2/openmedia/om", OpenMedia, "", "om", "");
        check("/genesys/2/openmedia/om/17/stop", OpenMedia, "stop", "om", "");
        check("/genesys/1/service/request-chat", ChatV1, "requestChat", "", "");
        check("/genesys/1/service/81f0/ixn/chat", ChatV1, "", "", "81f0");
        check("/genesys/1/service/81f0/ixn/chat/send", ChatV1, "send", "", "81f0");
        check("/genesys/1/service/callback/x", Other, "", "", "");
        check("/genesys/1/admin/node/status", Other, "", "", "");
        check("/", Other, "", "", "");
        check("*", Other, "", "", "");
        check("", Other, "", "", "");
    }

    #[test]
    fn a_path_in_disguise_is_recognised() {
        let rows = [
            "/genesys//2/chat/s/ID/refresh",
            "/genesys/./2/chat/s/ID/refresh",
            "/genesys/x/../2/chat/s/ID/refresh",
            "/genesys/x/..;a=b/2/chat/s/ID/refresh",
            "/genesys/%32/ch%61t/s/ID/refresh",
            "/genesys/2/chat;jsessionid=1/s/ID/refresh;x",
            "/genesys\\2\\chat/s/ID/refresh",
            "/genesys/x/%2e%2E/2/chat/s/ID/refresh",
            "/../genesys/2/chat/s/ID/refresh",
        ];
        for path in rows {
            check(path, RouteClass::Chat, "refresh", "s", "ID");
        }
        check("/genesys/2/chat/my%20service/I%2bD/send", RouteClass::Chat, "send", "my service", "I+D");
    }

    #[test]
    fn paths_are_normalised_once() {
        let rows = [
            ("/genesys/2/chat/s", "/genesys/2/chat/s"),
            ("/a/%2561", "/a/%61"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("a", "/a"),
            ("/a%zz%4", "/a%zz%4"),
            ("/%ff", "/\u{fffd}"),
            ("/a;b/c;d", "/a/c"),
        ];
        for (path, expected) in rows {
            assert_eq!(normalised(path), expected, "{path}");
        }
        assert!(matches!(normalised("/genesys/2/chat/s/ID/refresh"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_looks_like_chat_but_is_none_is_noticed() {
        for path in
            ["/genesys/2/chats", "/gms/2/chat/s", "/genesys/2/chat", "/CometD", "/x/chat-ntf", "/genesys/3/cometd"]
        {
            assert!(Route::parse("POST", path, "/genesys").looks_like_chat, "{path}");
        }
        assert!(!Route::parse("GET", "/genesys/admin", "/genesys").looks_like_chat);
    }

    #[test]
    fn the_base_path_is_as_configured() {
        for (base_path, path) in [("", "/2/chat/s"), ("/", "/2/chat/s"), ("/genesys/", "/genesys/2/chat/s")] {
            assert_eq!(Route::parse("POST", path, base_path).class, RouteClass::Chat, "{base_path}");
        }
        assert_eq!(Route::parse("POST", "/genesysx/2/chat/s", "/genesys").class, RouteClass::Other);
    }

    #[test]
    fn a_preflight_performs_nothing() {
        let route = Route::parse("OPTIONS", "/genesys/2/chat/s/ID/refresh", "/genesys");
        assert_eq!((route.class, route.operation), (RouteClass::Chat, None));
    }

    #[test]
    fn classes_are_read_as_written() {
        for class in RouteClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
        }
        assert!("chats".parse::<RouteClass>().is_err_and(|sentence| sentence.contains("chat_ntf")));
    }

    #[test]
    fn files_are_told_from_answers() {
        let is_file = |path| Route::parse("POST", path, "/genesys").may_be_file();
        assert!(is_file("/genesys/2/chat/s/ID/file/f/download"));
        assert!(is_file("/genesys/2/chat-ntf"));
        assert!(is_file("/genesys/2/chat/s/ID/unheardOf"));
        assert!(!is_file("/genesys/2/chat/s/ID/refresh"));
        assert!(!is_file("/genesys/cometd"));
    }

    #[test]
    fn chats_in_progress_are_told_from_what_begins() {
        let goes_on = |path: &str| Route::parse("POST", path, "/genesys").goes_on();
        for path in
            ["/2/chat/s/ID/send", "/2/chat/s/ID/file", "/2/chat-ntf", "/cometd/connect", "/1/service/9/ixn/chat/send"]
        {
            assert!(goes_on(&format!("/genesys{path}")), "{path}");
        }
        for path in ["/2/chat/s", "/2/email/s", "/2/openmedia/s", "/1/service/request-chat", "/1/storage/x", "/2/chats"]
        {
            assert!(!goes_on(&format!("/genesys{path}")), "{path}");
        }
    }

    #[test]
    fn a_hidden_separator_hides_whose_chat_it_is() {
        for path in ["/genesys/2/chat/svc/no%2Fbody/send", "/genesys/2/chat/svc/no%5cbody/send"] {
            let route = Route::parse("POST", path, "/genesys");
            assert!(route.is_inspected() && route.chat_id.is_none(), "{path}");
        }
    }
}
