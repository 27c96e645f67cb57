//! What passes: the kinds of work, the requests that a browser's widget sends for each, and the answers of a node.
//! Shapes as in the documentation of Chat API V2 ("API Responses" and "Chat API Version 2" on docs.genesys.com).

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// What an answer holds. Lengths do not depend on the chat: a load generator can tell a mutilated answer by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// No event.
    Empty,
    /// Three events from the asked position on.
    R3,
    /// A whole transcript of 200 events.
    T200,
}

impl Content {
    pub const ALL: [Self; 3] = [Self::Empty, Self::R3, Self::T200];

    /// As the path of a request names it, so that the node needs to know nothing else.
    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::R3 => "r3",
            Self::T200 => "t200",
        }
    }

    fn events(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::R3 => 3,
            Self::T200 => 200,
        }
    }
}

/// What one customer does, over and over.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Polls that bring nothing: so many, then another chat.
    Polls(u32),
    /// Polls that bring two new events and a known one: twenty, then another chat.
    R3,
    /// The whole transcript: so often, then another chat's.
    T200(u32),
    /// Of twenty: sixteen polls that bring nothing, three that do, one whole transcript.
    Mix,
    /// Posts to an API that no recorder looks at.
    Other(Content),
}

/// How the work reaches the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub work: Work,
    /// The node answers in chunks.
    pub is_chunked: bool,
    /// A connection a request.
    pub is_closed: bool,
    /// By TLS: a connection's handshake is a full one.
    pub is_tls: bool,
}

impl Traffic {
    pub const fn kept_alive(work: Work) -> Self {
        Self { work, is_chunked: false, is_closed: false, is_tls: false }
    }

    pub const fn chunked(work: Work) -> Self {
        Self { work, is_chunked: true, is_closed: false, is_tls: false }
    }

    pub const fn closed(work: Work) -> Self {
        Self { work, is_chunked: false, is_closed: true, is_tls: false }
    }

    pub const fn by_tls(self) -> Self {
        Self { is_tls: true, ..self }
    }

    /// Answers that a recorder inspects.
    pub fn is_inspected(&self) -> bool {
        !matches!(self.work, Work::Other(_))
    }
}

/// GMS's chat ids are 16 characters: the Chat Server's mark, then a counter in base 36.
pub type ChatId = [u8; 16];

const CHAT_SERVER: &[u8] = b"00001a";

/// Hands out chat ids that no other process has: the counter starts at the microseconds since 1970, and no run hands
/// out one a microsecond.
pub struct ChatIds(u64);

impl ChatIds {
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        Self(since.as_micros() as u64)
    }

    fn next(&mut self) -> ChatId {
        self.0 += 1;
        let mut id = [0; 16];
        id[..CHAT_SERVER.len()].copy_from_slice(CHAT_SERVER);
        let mut rest = self.0;
        for digit in id[CHAT_SERVER.len()..].iter_mut().rev() {
            *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[(rest % 36) as usize];
            rest /= 36;
        }
        id
    }
}

/// A chat's secureKey, 20 hex digits. Follows from its id, so that node and load generator need not tell each other.
pub fn secure_key(chat: &ChatId) -> [u8; 20] {
    let mut key = [0; 20];
    for (at, byte) in chat[6..].iter().enumerate() {
        key[2 * at] = b"0123456789abcdef"[usize::from(byte >> 4)];
        key[2 * at + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    key
}

/// A chat and how often it was asked for.
struct Chat {
    id: ChatId,
    asked: u32,
}

/// One customer: a browser with a connection, or with one a request.
pub struct Customer {
    /// One chat for each content: the mix has all three going.
    chats: [Chat; 3],
    turn: u32,
}

impl Customer {
    pub fn new(ids: &mut ChatIds) -> Self {
        let chats = [(); 3].map(|()| Chat { id: ids.next(), asked: 0 });
        Self { chats, turn: 0 }
    }

    /// Writes the next request; says what its answer must hold.
    pub fn ask(&mut self, traffic: &Traffic, ids: &mut ChatIds, out: &mut Vec<u8>) -> Content {
        self.turn += 1;
        let (content, asked_max) = match traffic.work {
            Work::Polls(asked_max) => (Content::Empty, asked_max),
            Work::R3 => (Content::R3, 20),
            Work::T200(asked_max) => (Content::T200, asked_max),
            Work::Mix => match self.turn % 20 {
                0 => (Content::T200, 4),
                5 | 10 | 15 => (Content::R3, 20),
                _ => (Content::Empty, 20),
            },
            Work::Other(content) => (content, u32::MAX),
        };
        let chat = &mut self.chats[content as usize];
        if chat.asked == asked_max {
            *chat = Chat { id: ids.next(), asked: 0 };
        }
        let position = match content {
            Content::Empty => 14,
            Content::R3 => FIRST_POSITION + 2 * chat.asked % 80, // two digits, whatever happens
            Content::T200 => 1,
        };
        chat.asked = chat.asked.wrapping_add(1);
        write_request(out, traffic, content, &chat.id, position);
        content
    }
}

/// Where the short answers begin: with two digits, so that all have one length.
const FIRST_POSITION: u32 = 10;

/// As a widget in a browser sends it from a page of another origin.
fn write_request(out: &mut Vec<u8>, traffic: &Traffic, content: Content, chat: &ChatId, position: u32) {
    let (name, chunked) = (content.name(), if traffic.is_chunked { "-ck" } else { "" });
    out.extend_from_slice(b"POST /genesys/");
    if traffic.is_inspected() {
        push(out, format_args!("2/chat/{name}{chunked}/"));
        out.extend_from_slice(chat);
        out.extend_from_slice(b"/refresh");
    } else {
        push(out, format_args!("1/service/{name}{chunked}"));
    }
    let digits = if position < 10 { 1 } else { 2 };
    let connection = if traffic.is_closed { "close" } else { "keep-alive" };
    out.extend_from_slice(REQUEST_FIELDS.as_bytes());
    push(out, format_args!("Connection: {connection}\r\nContent-Length: {}\r\n\r\n", FORM_BYTES + digits));
    out.extend_from_slice(FORM[0].as_bytes());
    out.extend_from_slice(&secure_key(chat));
    push(out, format_args!("{}{position}", FORM[1]));
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all that is written to it");
}

const REQUEST_FIELDS: &str = " HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: application/json, text/javascript, */*; q=0.01\r\n\
    Accept-Language: en-US,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n\
    Origin: https://www.example.com\r\n\
    Referer: https://www.example.com/support\r\n\
    Cookie: GMSSESSION=ab12cd34; route=117\r\n";

/// Before and after the secureKey.
const FORM: [&str; 2] = ["userId=007559F34DB30001&secureKey=", "&alias=117&tenantName=Resources&transcriptPosition="];
const FORM_BYTES: usize = FORM[0].len() + 20 + FORM[1].len();

/// A request, as the node reads it.
pub struct Asked {
    pub content: Content,
    pub is_chunked: bool,
    /// None where no recorder looks.
    pub chat: Option<ChatId>,
    pub position: u32,
}

impl Asked {
    /// From the request line's path and the body. None for what [`Customer`] does not send.
    pub fn read(path: &[u8], body: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let (name, chat) = match path.strip_prefix("/genesys/2/chat/") {
            Some(rest) => {
                let (name, rest) = rest.split_once('/')?;
                (name, Some(rest.strip_suffix("/refresh")?.as_bytes().try_into().ok()?))
            }
            None => (path.strip_prefix("/genesys/1/service/")?, None),
        };
        let plain = name.strip_suffix("-ck");
        let content = Content::ALL.into_iter().find(|content| content.name() == plain.unwrap_or(name))?;
        let position = body.rsplit(|byte| *byte == b'=').next()?;
        let position = std::str::from_utf8(position).ok()?.parse().ok()?;
        Some(Self { content, is_chunked: plain.is_some(), chat, position })
    }

    /// The events that the answer holds, by index.
    pub fn events(&self) -> std::ops::Range<u32> {
        self.position..self.position + self.content.events()
    }
}

/// The head of every answer but for its framing.
pub const ANSWER_FIELDS: &str = "HTTP/1.1 200 OK\r\n\
    Date: Fri, 27 Oct 2017 15:16:08 GMT\r\n\
    Content-Type: application/json;charset=UTF-8\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    Cache-Control: no-store\r\n\
    Access-Control-Allow-Origin: https://www.example.com\r\n\
    Access-Control-Allow-Credentials: true\r\n";

/// The body of an answer, made once and then only patched.
pub struct Template {
    body: Vec<u8>,
    chat_at: usize,
    key_at: usize,
    /// Where numbers of two digits go, and how much above the asked position each is: the events' indexes, seconds of
    /// their times, the next position. None in whole transcripts, which always begin at 1.
    numbers: Vec<(usize, u32)>,
}

impl Template {
    pub fn new(content: Content) -> Self {
        let mut body = br#"{"messages":["#.to_vec();
        let first = if content == Content::T200 { 1 } else { FIRST_POSITION };
        let mut numbers = Vec::new();
        for event in 0..content.events() {
            if event > 0 {
                body.push(b',');
            }
            push_event(&mut body, content, first + event, &mut numbers);
        }
        body.extend_from_slice(br#"],"chatEnded":false,"statusCode":0,"alias":"117","secureKey":""#);
        let key_at = body.len();
        body.extend_from_slice(&[b'0'; 20]);
        body.extend_from_slice(br#"","userId":"007559F34DB30001","chatId":""#);
        let chat_at = body.len();
        body.extend_from_slice(b"00001aCY6K8U003T\",\"nextPosition\":");
        numbers.push((body.len(), first + content.events()));
        push(&mut body, format_args!("{}}}", first + content.events()));
        match content {
            Content::T200 => numbers.clear(),
            _ => numbers.iter_mut().for_each(|(_, number)| *number -= first),
        }
        Self { body, chat_at, key_at, numbers }
    }

    /// The body for a request. It is lent: the next one overwrites it.
    pub fn body_for(&mut self, asked: &Asked) -> &[u8] {
        if let Some(chat) = &asked.chat {
            self.body[self.chat_at..][..chat.len()].copy_from_slice(chat);
            self.body[self.key_at..][..20].copy_from_slice(&secure_key(chat));
        }
        for (at, above) in &self.numbers {
            let number = asked.position + above;
            self.body[*at] = b'0' + (number / 10 % 10) as u8;
            self.body[at + 1] = b'0' + (number % 10) as u8;
        }
        &self.body
    }

    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// An event's content follows from its index, as it must: another content for the same index would be a variant. Short
/// answers begin with even indexes, so there it is enough that odd and even ones differ.
fn push_event(body: &mut Vec<u8>, content: Content, index: u32, numbers: &mut Vec<(usize, u32)>) {
    let (nickname, participant, party) =
        if index.is_multiple_of(2) { ("FirstStep", 1, "Client") } else { ("TestName", 2, "Agent") };
    push(
        body,
        format_args!(r#"{{"from":{{"nickname":"{nickname}","participantId":{participant},"type":"{party}"}},"index":"#),
    );
    numbers.push((body.len(), index));
    let text = match content {
        Content::T200 => TEXTS[index as usize % TEXTS.len()],
        _ => SHORT_TEXTS[index as usize % SHORT_TEXTS.len()],
    };
    push(body, format_args!(r#"{index},"text":"{text}","type":"Message","utcTime":"#));
    numbers.push((body.len() + "15091173".len(), index));
    push(body, format_args!("{}}}", 1_509_117_300_000 + 1_000 * u64::from(index)));
}

const SHORT_TEXTS: [&str; 2] = ["First message", "Grüß Gott"];

/// As they stand in the JSON: escapes, umlauts as UTF-8, emoji as surrogates.
const TEXTS: [&str; 5] = [
    r#"Hello, I have a question about my invoice: it says \"overdue\" but I paid it"#,
    r"Grüß Gott — einen Moment bitte \ud83d\ude00",
    "First message",
    r"Please see https:\/\/example.com\/help?id=4711&lang=de for the steps, then come back\nThanks",
    "Thank you, that works now. One more thing: can I change the delivery address?",
];
