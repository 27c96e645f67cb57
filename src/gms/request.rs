//! What a request asked for: its fields, wherever they stand. Reads forms, multipart, JSON under any content type, the
//! query and CometD messages; knows nothing of answers.

use std::borrow::Cow;

use super::json::{Kind, Tape, Value, whole, without_nul};
use super::route::{Operation, RouteClass};
use super::scrub::{fields_in, is_secret_name, secret_leaves};
use super::{Attribute, AttributeSource, Exchange};
use crate::chat::{ChatId, Secret};

/// Messages remembered of one WebSocket. Each is answered at once, but for `/meta/connect`; with all that belongs to it a
/// connection at rest must stay within 16 KiB.
const EARLIER_MAX: usize = 16;
/// Secrets remembered of one WebSocket: a chat has one, and a client a few chats.
const EARLIER_SECRETS_MAX: usize = 8;
/// A channel, an id or a secret that is remembered: a CometD secureKey has 100.
const EARLIER_BYTES_MAX: usize = 256;

/// Chat V2's channels: `/service/chatV2/{serviceName}`.
pub(super) const CHAT_CHANNELS: &str = "/service/chatV2/";

/// The `transcriptPosition` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// It was not sent.
    Absent,
    /// As sent. 0: no transcript; 1: all of it.
    At(i64),
    /// It was no number, or the request could not be read.
    Unknown,
}

/// What was asked.
#[derive(Default)]
pub(super) struct Request<'a> {
    /// The fields of the query and the body. Of CometD, the query's only.
    pub form: Form<'a>,
    /// The messages of a CometD request.
    pub messages: Vec<Message<'a>>,
    /// Those that came before on the same WebSocket, without their fields: a delivery may answer any of them.
    pub earlier: Vec<Message<'a>>,
    /// The values of all fields whose names say that they are secret.
    pub secrets: Vec<Secret>,
    /// The beginning of one more, which goes on in what was not kept of the body. It may be empty.
    pub begun: Option<String>,
}

/// The secrets that a request names as such, in its query or what was kept of its body.
pub fn secrets_of(exchange: &Exchange<'_>) -> Vec<Secret> {
    Request::read(exchange).secrets
}

/// The secrets in a query.
pub fn secrets_of_query(query: &str) -> Vec<Secret> {
    let fields = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| is_secret_name(name.as_bytes()));
    fields.filter_map(|(_, value)| Secret::new(&*value)).collect()
}

/// One message of a CometD request.
pub(super) struct Message<'a> {
    /// `channel`.
    pub channel: Cow<'a, str>,
    /// `id`, by which its acknowledgement is known.
    pub id: Option<Cow<'a, str>>,
    /// `clientId`: the CometD session.
    pub client_id: Option<Secret>,
    /// `data.operation`.
    pub operation: Option<Operation>,
    /// `data`, flat.
    pub form: Form<'a>,
}

impl<'a> Message<'a> {
    /// `{serviceName}` of the channel, for Chat V2's channels.
    pub fn service(&self) -> Option<&str> {
        self.channel.strip_prefix(CHAT_CHANNELS)
    }
}

impl<'a> Request<'a> {
    /// Reads the captured start of a request.
    pub fn read(exchange: &Exchange<'a>) -> Self {
        let mut request = Request::default();
        if let Some(query) = exchange.query {
            request.form.fields.extend(form_urlencoded::parse(query.as_bytes()));
        }
        let body = exchange.request_body;
        match std::str::from_utf8(body) {
            Ok(text) => request.read_body(text, exchange),
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                let mut owned = Request::default();
                owned.read_body(&text, exchange);
                request.take(owned);
            }
        }
        request.begun.take_if(|_| exchange.request_complete);
        let forms = std::iter::once(&request.form).chain(request.messages.iter().map(|message| &message.form));
        let fields = forms.flat_map(|form| &form.fields).filter(|(name, _)| is_secret_name(name.as_bytes()));
        let named: Vec<Secret> = fields.filter_map(|(_, value)| Secret::new(&**value)).collect();
        request.secrets.extend(named);
        request.secrets.extend(request.begun.clone().and_then(Secret::new));
        request
    }

    fn read_body(&mut self, text: &'a str, exchange: &Exchange<'_>) {
        let content_type = exchange.request_content_type.unwrap_or_default();
        let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        if start.starts_with(['{', '[']) {
            self.read_json(text, exchange.route.class == RouteClass::Cometd);
        } else if let Some(boundary) = boundary(content_type, text) {
            self.form.fields.extend(multipart(text, boundary));
            if !exchange.request_complete {
                self.cut(cut_part(text, boundary));
            }
        } else {
            self.form.fields.extend(form_urlencoded::parse(text.as_bytes()));
            if !exchange.request_complete {
                let last = text.rsplit('&').next().unwrap_or_default();
                self.cut(form_urlencoded::parse(last.as_bytes()).next());
            }
        }
    }

    /// Of a form that was kept in part: its last field, cut perhaps, is none.
    fn cut(&mut self, last: Option<(Cow<'a, str>, Cow<'a, str>)>) {
        self.form.is_unread = true;
        if let Some((name, value)) = last {
            self.form.fields.pop();
            self.begun = is_secret_name(name.as_bytes()).then(|| whole_units(&value).to_owned());
        }
    }

    fn read_json(&mut self, text: &str, is_cometd: bool) {
        let Ok(tape) = Tape::read(text) else {
            // Cut by the cap, or no JSON after all. What it asked is unknown; what it must not tell is looked for.
            self.form.is_unread = true;
            let places = fields_in(text.as_bytes());
            let end = whole_units(text).len();
            let last = places.last().filter(|place| place.end >= end);
            self.begun = last.and_then(|place| text.get(place.start..end)).map(String::from);
            self.secrets.extend(places.into_iter().filter_map(|place| text.get(place)).filter_map(Secret::new));
            return;
        };
        let root = tape.root(text);
        self.secrets.extend(secret_leaves(root).filter_map(|leaf| Secret::new(leaf.text_or_raw())));
        let mut read = Request::default();
        if is_cometd {
            read.messages.extend(root.elements().chain([root]).filter_map(Message::of));
        } else {
            read.form.add_members(root);
        }
        self.take(read);
    }

    /// Of a text that it no longer needs.
    pub fn into_owned(self) -> Request<'static> {
        let mut owned = Request::default();
        owned.take(self);
        owned
    }

    /// Remembers what was said on the same WebSocket, in bounds: the latest, and of each `/meta/` channel only that.
    pub fn remember(&mut self, said: Request<'a>) {
        for message in said.messages {
            let words =
                [Some(&*message.channel), message.id.as_deref(), message.client_id.as_ref().map(Secret::expose)];
            if words.into_iter().flatten().all(|word| word.len() <= EARLIER_BYTES_MAX) {
                let is_meta = message.channel.starts_with("/meta/");
                self.earlier.retain(|earlier| !is_meta || earlier.channel != message.channel);
                self.earlier.push(Message { form: Form::default(), ..message });
            }
        }
        self.earlier.drain(..self.earlier.len().saturating_sub(EARLIER_MAX));
        let secrets = said.secrets.into_iter().filter(|secret| secret.expose().len() <= EARLIER_BYTES_MAX);
        for secret in secrets {
            self.secrets.retain(|earlier| *earlier != secret);
            self.secrets.push(secret);
        }
        self.secrets.drain(..self.secrets.len().saturating_sub(EARLIER_SECRETS_MAX));
    }

    /// Takes over what was read from a text that does not live as long as the request.
    fn take(&mut self, other: Request<'_>) {
        self.form.take(other.form);
        self.secrets.extend(other.secrets);
        self.begun = self.begun.take().or(other.begun);
        self.messages.extend(other.messages.into_iter().map(|message| {
            let mut form = Form::default();
            form.take(message.form);
            Message {
                channel: Cow::Owned(message.channel.into_owned()),
                id: message.id.map(|id| Cow::Owned(id.into_owned())),
                client_id: message.client_id,
                operation: message.operation,
                form,
            }
        }));
    }
}

impl<'a> Message<'a> {
    fn of(value: Value<'a>) -> Option<Self> {
        let channel = value.get("channel")?.text()?;
        let mut form = Form::default();
        match value.given("data") {
            Some(json) if json.kind() == Kind::String => form.add_text(&json.text().unwrap_or_default()),
            Some(object) => form.add_members(object),
            None => {}
        }
        Some(Self {
            channel,
            id: value.given("id").map(Value::text_or_raw),
            client_id: value.given("clientId").and_then(|id| Secret::new(id.text_or_raw())),
            operation: form.get("operation").map(Operation::of_name),
            form,
        })
    }
}

/// Names and values, in their order.
#[derive(Default)]
pub(super) struct Form<'a> {
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// There was a body, and not all of it could be read.
    is_unread: bool,
}

impl<'a> Form<'a> {
    /// The first value of a name, as a servlet sees it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// From which position on a transcript was asked for.
    pub fn position(&self) -> Position {
        match self.get("transcriptPosition") {
            Some(text) => whole(text.trim()).map_or(Position::Unknown, Position::At),
            None if self.is_unread => Position::Unknown,
            None => Position::Absent,
        }
    }

    /// The credential of the session.
    pub fn secure_key(&self) -> Option<Secret> {
        let mut keys = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("secureKey"));
        keys.find_map(|(_, value)| Secret::new(&**value))
    }

    /// The chat that the request names in a field (Widgets over CometD).
    pub fn chat_id(&self) -> Option<ChatId> {
        self.get("chatId").and_then(ChatId::parse)
    }

    /// Asynchronous mode was asked for.
    pub fn is_async(&self) -> bool {
        self.get("userData[GCTI_Chat_AsyncMode]").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// The fields that the list admits, without empty ones. No list admits a secret.
    pub fn attributes(&self, admitted: &[String]) -> impl Iterator<Item = Attribute> {
        let is_user_data = |name: &str| name.starts_with("userData[");
        let is_admitted = move |name: &str| {
            admitted.iter().any(|known| known == name || (known == "userData[*]" && is_user_data(name)))
        };
        let wanted = self
            .fields
            .iter()
            .filter(move |(name, value)| !value.is_empty() && is_admitted(name) && !is_secret_name(name.as_bytes()));
        wanted.map(|(name, value)| attribute(name, value, AttributeSource::Request))
    }

    /// Adds the members of a JSON object; `userData`'s own as `userData[key]`.
    fn add_members(&mut self, object: Value<'a>) {
        for (key, value) in object.members() {
            let name = key.text().unwrap_or_default();
            match (&*name, value.kind()) {
                (_, Kind::Null) => {}
                ("userData", Kind::Object) => {
                    self.fields.extend(user_data(value).map(|(name, _, value)| (name, value.text_or_raw())));
                }
                _ => self.fields.push((name, value.text_or_raw())),
            }
        }
    }

    /// Adds the members of an object that came as JSON in a string.
    fn add_text(&mut self, text: &str) {
        match Tape::read(text) {
            Ok(tape) => {
                let mut inner = Form::default();
                inner.add_members(tape.root(text));
                self.take(inner);
            }
            Err(_) => self.is_unread = true,
        }
    }

    fn take(&mut self, other: Form<'_>) {
        self.is_unread |= other.is_unread;
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        self.fields.extend(other.fields.into_iter().map(|(name, value)| (owned(name), owned(value))));
    }
}

/// The members of a userData object, with the names that a form gives them.
pub(super) fn user_data<'a>(object: Value<'a>) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>, Value<'a>)> {
    let members = object.members().filter(|(_, value)| value.kind() != Kind::Null);
    members.map(|(key, value)| (Cow::Owned(format!("userData[{}]", key.text().unwrap_or_default())), key, value))
}

/// An attribute, without NUL.
pub(super) fn attribute(name: &str, value: &str, source: AttributeSource) -> Attribute {
    let [name, value] = [name, value].map(|text| without_nul(text.to_owned()));
    Attribute { name, value, source, maskings: Vec::new() }
}

/// The boundary of a multipart body, by the Content-Type or else by its first line.
fn boundary<'a>(content_type: &'a str, text: &'a str) -> Option<&'a str> {
    let by_line = || text.strip_prefix("--")?.lines().next().filter(|line| !line.is_empty());
    boundary_of(content_type).or_else(by_line)
}

/// The boundary that a Content-Type names, if it is multipart.
pub(super) fn boundary_of(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    let is_multipart = kind.trim().get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/"));
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let (_, named) = parameters.find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    Some(named.trim_matches('"')).filter(|value| is_multipart && !value.is_empty())
}

/// A value that is cut, without the escape that the cut is in.
fn whole_units(value: &str) -> &str {
    let cut_in = |mark: char, length: usize| value.rfind(mark).filter(|at| value.len() - at < length);
    let at = cut_in('%', "%25".len()).into_iter().chain(cut_in('\\', r"\u0025".len())).min();
    &value[..at.unwrap_or(value.len())]
}

/// The field that a multipart body ends in, without what there is of the delimiter behind it. None where that is whole.
fn cut_part<'a>(text: &'a str, boundary: &str) -> Option<(Cow<'a, str>, Cow<'a, str>)> {
    let (_, part) = text.rsplit_once(&*format!("--{boundary}"))?;
    let delimiter = format!("\r\n--{boundary}");
    let begun = delimiter.char_indices().map(|(at, _)| &delimiter[..at]).rev().find(|begun| part.ends_with(begun));
    multipart_field(part.strip_suffix(begun.unwrap_or_default()).unwrap_or(part))
}

/// The fields of a multipart/form-data body (RFC 7578), without the files. The last may be cut.
fn multipart<'a>(text: &'a str, boundary: &str) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let delimiter = format!("--{boundary}");
    let parts = text.split(&*delimiter).skip(1).map_while(|part| (!part.starts_with("--")).then_some(part));
    parts.filter_map(multipart_field).collect()
}

fn multipart_field(part: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let (head, value) = part.split_once("\r\n\r\n").or_else(|| part.split_once("\n\n"))?;
    let Disposition { name, is_file, .. } = disposition(head)?;
    let value = value.strip_suffix("\r\n").or_else(|| value.strip_suffix('\n')).unwrap_or(value);
    (!is_file).then_some((Cow::Borrowed(name?), Cow::Borrowed(value)))
}

/// What a part of a form is.
pub(super) struct Disposition<'a> {
    name: Option<&'a str>,
    /// It has a file's name.
    pub has_file_name: bool,
    /// It has, or the name of the field that files come in.
    pub is_file: bool,
}

/// What the fields of a part say of it.
pub(super) fn disposition(head: &str) -> Option<Disposition<'_>> {
    let is_disposition =
        |line: &&str| line.get(..20).is_some_and(|name| name.eq_ignore_ascii_case("content-disposition:"));
    let line = head.lines().find(is_disposition)?;
    let lower = line.to_ascii_lowercase();
    let parameter = |name: &str| {
        let after = &line[lower.find(name)? + name.len()..];
        after.strip_prefix('"').map_or(after.split(';').next(), |quoted| quoted.split('"').next())
    };
    let name = parameter(" name=").or_else(|| parameter(";name="));
    let has_file_name = parameter("filename=").or_else(|| parameter("filename*=")).is_some();
    Some(Disposition { name, has_file_name, is_file: has_file_name || name == Some("file") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gms::Route;

    fn exchange<'a>(
        route: &'a Route<'a>,
        query: Option<&'a str>,
        content_type: &'a str,
        body: &'a [u8],
    ) -> Exchange<'a> {
        Exchange {
            route,
            query,
            request_content_type: Some(content_type),
            request_body: body,
            request_complete: true,
            credentials: &[],
            status: 200,
            content_encoding: None,
            body: b"",
            body_complete: true,
        }
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[track_caller]
    fn check(content_type: &str, body: &[u8], expected: &[(&str, &str)]) {
        let route = Route::parse("POST", "/genesys/2/chat/s", "/genesys");
        let request = Request::read(&exchange(&route, None, content_type, body));
        let fields: Vec<(&str, &str)> = request.form.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn fields_are_read_in_every_dress() {
        check(FORM, b"a=1&userData%5Bk%5D=x+y&b=", &[("a", "1"), ("userData[k]", "x y"), ("b", "")]);
        check(
            FORM,
            br#" {"a":1,"userData":{"k":"x","n":null},"b":null,"c":[1]}"#,
            &[("a", "1"), ("userData[k]", "x"), ("c", "[1]")],
        );
        check("text/plain", b"\xef\xbb\xbf{\"a\":\"1\"}", &[("a", "1")]);
        check(FORM, b"a=\xff", &[("a", "\u{fffd}")]);
        check(FORM, b"{\"a\":", &[]);
        check("", b"", &[]);
        let multipart = "--XX\r\nContent-Disposition: form-data; name=\"nickname\"\r\n\r\nAnna\r\n\
             --XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n--secret--\r\n\
             --XX\r\ncontent-disposition: form-data; name=\"secureKey\"\r\nContent-Type: text/plain\r\n\r\nabc\r\n--XX--\r\n";
        let fields = [("nickname", "Anna"), ("secureKey", "abc")];
        check("multipart/form-data; boundary=XX", multipart.as_bytes(), &fields);
        check("Multipart/Form-Data; charset=utf-8; boundary=\"XX\"", multipart.as_bytes(), &fields);
        check("", multipart.as_bytes(), &fields);
        check("multipart/form-data; boundary=XX", &multipart.as_bytes()[..60], &[("nickname", "Ann")]);
    }

    #[test]
    fn positions_are_numbers_or_unknown() {
        let rows: [(Option<&str>, &[u8], Position); 9] = [
            (None, b"transcriptPosition=4", Position::At(4)),
            (None, b"{\"transcriptPosition\":4.0}", Position::At(4)),
            (None, b"{\"transcriptPosition\":\" 4\"}", Position::At(4)),
            (Some("transcriptPosition=2"), b"transcriptPosition=4", Position::At(2)),
            (None, b"x=1", Position::Absent),
            (None, b"", Position::Absent),
            (None, b"transcriptPosition=", Position::Unknown),
            (None, b"transcriptPosition=all", Position::Unknown),
            (None, b"{\"transcriptPos", Position::Unknown),
        ];
        let route = Route::parse("POST", "/genesys/2/chat/s/ID/refresh", "/genesys");
        for (query, body, expected) in rows {
            let request = Request::read(&exchange(&route, query, FORM, body));
            assert_eq!(request.form.position(), expected, "{body:?}");
        }
    }

    #[test]
    fn secrets_are_gathered_wherever_they_stand() {
        let rows: [(&str, &[u8]); 6] = [
            (FORM, b"secureKey=0123abcd"),
            (FORM, b"userData%5BSMS_SecureKeyL%5D=0123abcd"),
            (FORM, br#"{"x":{"SECUREKEY":"0123abcd"}}"#),
            (FORM, br#"{"x":{"secureKey":"0123abcd"#),
            (FORM, b"a=\xff&secureKey=0123abcd"),
            (
                "multipart/form-data; boundary=X",
                b"--X\nContent-Disposition: form-data; name=\"secureKey\"\n\n0123abcd\n--X--",
            ),
        ];
        let route = Route::parse("POST", "/genesys/2/chat/s", "/genesys");
        for (content_type, body) in rows {
            let request = Request::read(&exchange(&route, None, content_type, body));
            assert!(request.secrets.iter().any(|secret| secret.expose() == "0123abcd"), "{body:?}");
        }
        let in_query = Request::read(&exchange(&route, Some("secureKey=0123abcd"), FORM, b""));
        assert_eq!(in_query.secrets.len(), 1);
    }

    /// Of a body that was kept in part the last field is none, and of a secret the beginning is known.
    #[test]
    fn what_is_cut_is_no_value() {
        const PARTS: &str = "multipart/form-data; boundary=XX";
        let part =
            |name: &str, value: &str| format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}");
        let whole = format!("{}\r\n", part("a", "1"));
        let file = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nsecureKey=x";
        let rows: [(&str, String, &[&str], Option<&str>); 14] = [
            (FORM, "a=1&nickname=453917882275797".into(), &["a"], None),
            (FORM, "a=1&nickname=4539178822757973&".into(), &["a", "nickname"], None),
            (FORM, "a=1&userData%5Bx".into(), &["a"], None),
            (FORM, "a=1&b=\u{fffd}".into(), &["a"], None),
            (FORM, "a=1&secureKey=k12%3".into(), &["a"], Some("k12")),
            (FORM, "a=1&secureKey=".into(), &["a"], Some("")),
            (FORM, r#"{"a":"1","userData":{"secureKey":"k12\u00"#.into(), &[], Some("k12")),
            (FORM, r#"{"a":"1","secureKey":"k12","b":"4539178"#.into(), &[], None),
            (PARTS, format!("{whole}{}", part("nickname", "453917882275797")), &["a"], None),
            (PARTS, format!("{whole}{}", part("secureKey", "k12\r\n--X")), &["a"], Some("k12")),
            (PARTS, format!("{whole}{}\r\n--XX", part("nickname", "4539")), &["a", "nickname"], None),
            (PARTS, format!("{whole}{file}"), &["a"], None),
            (PARTS, format!("{whole}--XX--\r\n"), &["a"], None),
            (PARTS, format!("{whole}--XX\r\nContent-Dispo"), &["a"], None),
        ];
        let route = Route::parse("POST", "/genesys/2/chat/s", "/genesys");
        for (content_type, body, names, begun) in rows {
            let cut = Exchange { request_complete: false, ..exchange(&route, None, content_type, body.as_bytes()) };
            let request = Request::read(&cut);
            let fields: Vec<&str> = request.form.fields.iter().map(|(name, _)| &**name).collect();
            assert_eq!((&*fields, request.begun.as_deref()), (names, begun), "{body}");
            assert_eq!(request.form.position(), Position::Unknown, "{body}");
            assert!(request.begun.and_then(Secret::new).is_none_or(|begun| request.secrets.contains(&begun)));
            let whole = Request::read(&Exchange { request_complete: true, ..cut });
            assert!(whole.begun.is_none());
        }
        let cut = b"a=1&nickname=\xc3";
        let cut = Exchange { request_complete: false, ..exchange(&route, None, FORM, cut) };
        assert_eq!(Request::read(&cut).form.fields.len(), 1);
    }

    #[test]
    fn attributes_are_those_of_the_list() {
        let body = b"nickname=Anna&subject=&text=hi&userData%5Ba%5D=1&userData%5BxSecureKey%5D=s&userData%5BGCTI_Chat_AsyncMode%5D=true";
        let route = Route::parse("POST", "/genesys/2/chat/s", "/genesys");
        let request = Request::read(&exchange(&route, None, FORM, body));
        let drawn = |admitted: &[&str]| {
            let admitted: Vec<String> = admitted.iter().map(ToString::to_string).collect();
            request.form.attributes(&admitted).map(|attribute| attribute.name).collect::<Vec<_>>()
        };
        assert_eq!(drawn(&["nickname", "subject", "userData[a]"]), ["nickname", "userData[a]"]);
        assert_eq!(drawn(&["userData[*]"]), ["userData[a]", "userData[GCTI_Chat_AsyncMode]"]);
        assert!(drawn(&["userData[xSecureKey]", "secureKey"]).is_empty());
        assert!(request.form.is_async());
    }

    #[test]
    fn cometd_messages_are_read() {
        let body = br#"[{"channel":"/service/chatV2/s","id":7,"clientId":"c1","data":{"operation":"requestChat","nickname":"A","secureKey":"k","userData":{"x":"y"}}},{"channel":"/meta/connect"},{"channel":"/service/chatV2/s","data":"{\"operation\":\"updateData\",\"userData\":{\"z\":1}}"},5]"#;
        let route = Route::parse("POST", "/genesys/cometd", "/genesys");
        let request = Request::read(&exchange(&route, None, "application/json", body));
        let [publish, connect, nested] = &request.messages[..] else { panic!("three messages") };
        assert_eq!((publish.service(), publish.id.as_deref()), (Some("s"), Some("7")));
        assert_eq!(publish.operation, Some(Operation::RequestChat));
        assert_eq!(publish.form.get("userData[x]"), Some("y"));
        assert_eq!(publish.client_id, Secret::new("c1"));
        assert_eq!((connect.service(), &*connect.channel), (None, "/meta/connect"));
        assert_eq!(nested.form.get("userData[z]"), Some("1"));
        let single = Request::read(&exchange(&route, None, "", br#"{"channel":"/meta/disconnect"}"#));
        assert_eq!(single.messages.len(), 1);
    }
}
