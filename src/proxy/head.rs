//! Heads of HTTP/1.1 messages as they stand on the wire (RFC 9112): every field with its name's case and its place, strictly
//! read. Knows neither bodies nor what a proxy does with a field.

use std::ops::Range;

use bytes::Bytes;
use http::StatusCode;

/// The longest head: eight times what Jetty takes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Fields of one message.
pub const FIELDS_MAX: usize = 128;
/// Registered methods have at most 17 letters.
const METHOD_BYTES_MAX: usize = 32;

/// Why bytes are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line ends in LF alone, or in CR alone.
    #[error("a line that does not end in CR LF")]
    LineEnd,
    /// The request line or the status line.
    #[error("a start line that HTTP/1.1 does not know")]
    StartLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("a version other than HTTP/1.0 and HTTP/1.1")]
    Version,
    /// A field's name, or what stands around its colon.
    #[error("a field without a proper name")]
    FieldName,
    /// A control character.
    #[error("a control character")]
    Control,
    /// Over [`FIELDS_MAX`].
    #[error("too many fields")]
    TooManyFields,
    /// Over [`HEAD_BYTES_MAX`].
    #[error("too long")]
    TooLong,
    /// The start line alone is.
    #[error("a start line that is too long")]
    LongStartLine,
}

/// Which head is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client's.
    Request,
    /// A node's.
    Answer,
}

/// A whole head.
#[derive(Debug, Clone)]
pub struct Head {
    bytes: Bytes,
    start: Start,
    fields: Vec<Field>,
    /// Which of the [`Known`] fields it has, a bit each, and which more than once.
    has: u32,
    repeats: u32,
}

#[derive(Debug, Clone)]
struct Start {
    /// Method or status code.
    first: Range<u32>,
    /// Request target or reason phrase.
    second: Range<u32>,
    /// Of an answer.
    status: u16,
    is_http_10: bool,
}

/// A field's line: where it begins and, its CR LF included, ends; and what is where in it.
#[derive(Debug, Clone)]
struct Field {
    line: Range<u32>,
    name_end: u32,
    value: Range<u32>,
    known: Known,
}

/// The fields that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the field it is called by")]
pub enum Known {
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Cookie,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    Origin,
    ProxyAuthorization,
    ProxyConnection,
    RequestId,
    SetCookie,
    Te,
    TraceParent,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    WebSocketExtensions,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// `X-Api-Key` or `ApiKey`: GMS deployments put API keys there.
    ApiKey,
    /// Any other.
    Other,
}

impl Known {
    fn bit(self) -> u32 {
        1 << self as u32
    }

    fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            3 if is("via") => Self::Via,
            4 if is("host") => Self::Host,
            6 if is("cookie") => Self::Cookie,
            6 if is("origin") => Self::Origin,
            6 if is("expect") => Self::Expect,
            6 if is("apikey") => Self::ApiKey,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            9 if is("forwarded") => Self::Forwarded,
            9 if is("x-api-key") => Self::ApiKey,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            10 if is("set-cookie") => Self::SetCookie,
            11 if is("traceparent") => Self::TraceParent,
            12 if is("content-type") => Self::ContentType,
            12 if is("x-request-id") => Self::RequestId,
            13 if is("authorization") => Self::Authorization,
            14 if is("content-length") => Self::ContentLength,
            15 if is("x-forwarded-for") => Self::XForwardedFor,
            16 if is("content-encoding") => Self::ContentEncoding,
            16 if is("proxy-connection") => Self::ProxyConnection,
            16 if is("x-forwarded-host") => Self::XForwardedHost,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::XForwardedProto,
            19 if is("proxy-authorization") => Self::ProxyAuthorization,
            24 if is("sec-websocket-extensions") => Self::WebSocketExtensions,
            _ => Self::Other,
        }
    }
}

impl Head {
    /// Reads the head at the start of `bytes`, and how long it is with its empty line; none where its end has not come.
    ///
    /// # Errors
    /// For whatever RFC 9112 and RFC 9110 do not allow, whitespace before a colon and folded lines among it; and that as
    /// soon as it is seen.
    pub fn read(bytes: &[u8], kind: Kind) -> Result<Option<(Unbound, usize)>, Malformed> {
        let mut lines = Lines { bytes, at: 0 };
        let Some(line) = lines.next()? else { return lines.to_come() };
        let start = match kind {
            Kind::Request => request_line(bytes, line)?,
            Kind::Answer => status_line(bytes, line)?,
        };
        let (mut fields, mut has, mut repeats) = (Vec::with_capacity(16), 0, 0);
        loop {
            let Some(line) = lines.next()? else { return lines.to_come() };
            if line.is_empty() {
                // One look at all bytes costs less than one at each value.
                let head = &bytes[..lines.at];
                return if is_text(head, fields.len() + 2) {
                    Ok(Some((Unbound { start, fields, has, repeats }, lines.at)))
                } else {
                    Err(Malformed::Control)
                };
            }
            if fields.len() == FIELDS_MAX {
                return Err(Malformed::TooManyFields);
            }
            let field = field(bytes, line)?;
            repeats |= has & field.known.bit();
            has |= field.known.bit();
            fields.push(field);
        }
    }

    /// Reads bytes that are one whole head.
    ///
    /// # Errors
    /// As [`Head::read`]; and where they are less or more than that.
    pub fn parse(bytes: Bytes, kind: Kind) -> Result<Self, Malformed> {
        match Self::read(&bytes, kind)? {
            Some((unbound, length)) if length == bytes.len() => Ok(unbound.bind(bytes)),
            _ => Err(Malformed::LineEnd),
        }
    }

    /// Reads fields alone: a trailer section, its empty line included.
    ///
    /// # Errors
    /// As [`Head::parse`].
    pub fn parse_fields(section: &[u8]) -> Result<Self, Malformed> {
        let whole = [b"HTTP/1.1 200 \r\n", section].concat();
        Self::parse(whole.into(), Kind::Answer)
    }

    /// An answer of the proxy's own.
    pub fn answer(status: StatusCode, fields: &[(&str, &str)]) -> Self {
        let reason = status.canonical_reason().unwrap_or("");
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        Self::parse(text.into(), Kind::Answer).expect("the proxy writes proper fields")
    }

    /// The method.
    pub fn method(&self) -> &str {
        self.text(&self.start.first)
    }

    /// The request target, of any form.
    pub fn target(&self) -> &str {
        self.text(&self.start.second)
    }

    /// How many bytes it has, its empty line included.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// How many fields it has.
    pub fn fields_count(&self) -> usize {
        self.fields.len()
    }

    /// The status code, 100 to 599.
    pub fn status(&self) -> u16 {
        self.start.status
    }

    /// The status code's digits, and the reason phrase, which may be empty and need not be UTF-8.
    pub fn status_and_reason(&self) -> (&[u8], &[u8]) {
        (self.slice(&self.start.first), self.slice(&self.start.second))
    }

    /// Whether its sender speaks HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.start.is_http_10
    }

    /// All fields in their order: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.fields.iter().map(|field| (field.known, self.name(field), self.slice(&field.value)))
    }

    /// Copies the lines of those fields that `passes` lets through, as they stand.
    pub fn copy_lines(&self, out: &mut Vec<u8>, mut passes: impl FnMut(Known, &[u8]) -> bool) {
        let mut run = 0..0;
        for field in &self.fields {
            if !passes(field.known, self.name(field)) {
                continue;
            }
            if run.end != field.line.start {
                out.extend_from_slice(self.slice(&run));
                run = field.line.clone();
            }
            run.end = field.line.end;
        }
        out.extend_from_slice(self.slice(&run));
    }

    /// The values of a field, a line each, that are text.
    pub fn values(&self, known: Known) -> impl Iterator<Item = &str> {
        let fields = if self.has(known) { &self.fields[..] } else { &[] };
        let lines = fields.iter().filter(move |field| field.known == known);
        lines.filter_map(|field| std::str::from_utf8(self.slice(&field.value)).ok())
    }

    /// The first value of a field.
    pub fn value(&self, known: Known) -> Option<&str> {
        self.values(known).next()
    }

    /// Whether it has a field.
    pub fn has(&self, known: Known) -> bool {
        self.has & known.bit() != 0
    }

    /// Whether it has a field more than once.
    pub fn repeats(&self, known: Known) -> bool {
        self.repeats & known.bit() != 0
    }

    /// A field's value as it stands, the first one where there are several.
    pub fn raw_value(&self, known: Known) -> Option<&[u8]> {
        let fields = if self.has(known) { &self.fields[..] } else { &[] };
        fields.iter().find(|field| field.known == known).map(|field| self.slice(&field.value))
    }

    /// The comma-separated tokens of a field, all its lines.
    pub fn tokens(&self, known: Known) -> impl Iterator<Item = &str> {
        self.values(known).flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
    }

    /// Whether a field has a token, in any case.
    pub fn has_token(&self, known: Known, token: &str) -> bool {
        self.tokens(known).any(|given| given.eq_ignore_ascii_case(token))
    }

    /// Whether its sender goes on with the connection after this message (RFC 9112, section 9.3).
    pub fn keeps_alive(&self) -> bool {
        if !self.has(Known::Connection) {
            return !self.is_http_10();
        }
        !self.has_token(Known::Connection, "close")
            && (!self.is_http_10() || self.has_token(Known::Connection, "keep-alive"))
    }

    /// Whether its sender reads the trailer section of an answer (RFC 9110, section 6.5.1).
    pub fn takes_trailers(&self) -> bool {
        self.has_token(Known::Te, "trailers")
    }

    fn name(&self, field: &Field) -> &[u8] {
        self.slice(&(field.line.start..field.name_end))
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(self.slice(range)).expect("it was looked at when the head was read")
    }
}

/// A head that was read, without its bytes.
#[derive(Debug)]
pub struct Unbound {
    start: Start,
    fields: Vec<Field>,
    has: u32,
    repeats: u32,
}

impl Unbound {
    /// With the very bytes that it was read from.
    pub fn bind(self, bytes: Bytes) -> Head {
        Head { bytes, start: self.start, fields: self.fields, has: self.has, repeats: self.repeats }
    }
}

/// The lines of a head, without their ends.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Lines<'_> {
    /// The rest may still come, unless it can no longer be a head's.
    fn to_come<T>(&self) -> Result<Option<T>, Malformed> {
        let rest = &self.bytes[self.at..];
        let is_bare = |at: usize| rest.get(at + 1).is_some_and(|next| *next != b'\n');
        match memchr::memchr(b'\r', rest) {
            Some(at) if is_bare(at) => Err(Malformed::LineEnd),
            _ if self.bytes.len() <= HEAD_BYTES_MAX => Ok(None),
            _ if self.at == 0 => Err(Malformed::LongStartLine),
            _ => Err(Malformed::TooLong),
        }
    }

    fn next(&mut self) -> Result<Option<Range<usize>>, Malformed> {
        let Some(length) = memchr::memchr(b'\n', &self.bytes[self.at..]) else { return Ok(None) };
        let line_feed = self.at + length;
        if length == 0 || self.bytes[line_feed - 1] != b'\r' {
            return Err(Malformed::LineEnd);
        }
        let line = self.at..line_feed - 1;
        self.at = line_feed + 1;
        Ok(Some(line))
    }
}

/// `GET /path HTTP/1.1`, with one space at each place.
fn request_line(bytes: &[u8], line: Range<usize>) -> Result<Start, Malformed> {
    let text = &bytes[line.clone()];
    let space = text.iter().position(|byte| !is_token(*byte)).ok_or(Malformed::StartLine)?;
    let last = memchr::memrchr(b' ', text).filter(|last| *last > space + 1).ok_or(Malformed::StartLine)?;
    let target = &text[space + 1..last];
    // A fragment is never sent (RFC 9112, section 3.2); a space would be somebody's second reading.
    let target_ok = target.iter().fold(true, |ok, byte| ok & (*byte > b' ') & (*byte != 0x7f) & (*byte != b'#'));
    if !(1..=METHOD_BYTES_MAX).contains(&space)
        || text[space] != b' '
        || !target_ok
        || std::str::from_utf8(target).is_err()
    {
        return Err(Malformed::StartLine);
    }
    let is_http_10 = is_http_10(&text[last + 1..])?;
    let at = line.start;
    Ok(Start { first: range(at, at + space), second: range(at + space + 1, at + last), status: 0, is_http_10 })
}

/// `HTTP/1.1 200 OK`; the phrase, and the space before it, may be missing.
fn status_line(bytes: &[u8], line: Range<usize>) -> Result<Start, Malformed> {
    let text = &bytes[line.clone()];
    let (version, rest) = text.split_at_checked(8).ok_or(Malformed::StartLine)?;
    let is_http_10 = is_http_10(version)?;
    let status = match rest {
        [b' ', a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => [a, b, c],
        [b' ', a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => [a, b, c],
        _ => return Err(Malformed::StartLine),
    };
    let status = status.iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'));
    let at = line.start;
    Ok(Start { first: range(at + 9, at + 12), second: range((at + 13).min(line.end), line.end), status, is_http_10 })
}

fn is_http_10(version: &[u8]) -> Result<bool, Malformed> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        other if other.starts_with(b"HTTP/") => Err(Malformed::Version),
        _ => Err(Malformed::StartLine),
    }
}

fn field(bytes: &[u8], line: Range<usize>) -> Result<Field, Malformed> {
    let text = &bytes[line.clone()];
    let colon = text.iter().position(|byte| !is_token(*byte)).unwrap_or(0);
    if colon == 0 || text[colon] != b':' {
        return Err(Malformed::FieldName);
    }
    // Whitespace around a value is not part of it: of spaces and tabs, nothing else.
    let is_value = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let value_at = text[colon + 1..].iter().position(is_value).map_or(text.len(), |blanks| colon + 1 + blanks);
    let value_end = text[value_at..].iter().rposition(is_value).map_or(value_at, |last| value_at + last + 1);
    Ok(Field {
        line: range(line.start, line.end + 2),
        name_end: (line.start + colon) as u32,
        value: range(line.start + value_at, line.start + value_end),
        known: Known::of(&text[..colon]),
    })
}

fn range(start: usize, end: usize) -> Range<u32> {
    start as u32..end as u32
}

/// A character of a method or a field's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let (mut at, allowed) = (0, b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
        while at < allowed.len() {
            table[allowed[at] as usize] = true;
            at += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// No control character but the tab (RFC 9110, section 5.5) and the CR LF that ends each line of a head: then these two are
/// all there are. Without a branch, so that the compiler takes many bytes at once; in pieces whose counts fit a byte.
fn is_text(head: &[u8], lines: usize) -> bool {
    let is_control = |byte: u8| ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f);
    let counted =
        head.chunks(240).map(|piece| piece.iter().fold(0_u8, |count, byte| count + u8::from(is_control(*byte))));
    counted.map(usize::from).sum::<usize>() == 2 * lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, kind: Kind) -> Result<Head, Malformed> {
        Head::parse(Bytes::copy_from_slice(text.as_bytes()), kind)
    }

    #[test]
    fn requests_are_read_as_they_stand() {
        let head = parse("POST /a?b=%20 HTTP/1.1\r\nHost:a\r\nX-CuStoM: \t1 2\t \r\nx-empty:\r\n\r\n", Kind::Request);
        let head = head.expect("a head");
        assert_eq!((head.method(), head.target(), head.is_http_10()), ("POST", "/a?b=%20", false));
        let fields: Vec<_> = head.fields().map(|(known, name, value)| (known, name.to_vec(), value.to_vec())).collect();
        let expected = [
            (Known::Host, b"Host".to_vec(), b"a".to_vec()),
            (Known::Other, b"X-CuStoM".to_vec(), b"1 2".to_vec()),
            (Known::Other, b"x-empty".to_vec(), b"".to_vec()),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        use Malformed::{Control, FieldName, StartLine, TooManyFields, Version};
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        for (text, why) in [
            ("GET  / HTTP/1.1\r\n\r\n", StartLine),
            ("GET /  HTTP/1.1\r\n\r\n", StartLine),
            ("GET /a b HTTP/1.1\r\n\r\n", StartLine),
            ("GET /a#b HTTP/1.1\r\n\r\n", StartLine),
            ("GET\t/ HTTP/1.1\r\n\r\n", StartLine),
            ("G{T / HTTP/1.1\r\n\r\n", StartLine),
            ("GET /\r\n\r\n", StartLine),
            (" GET / HTTP/1.1\r\n\r\n", StartLine),
            ("GET / HTTP/2.0\r\n\r\n", Version),
            ("GET / HTTP/1.2\r\n\r\n", Version),
            ("GET / http/1.1\r\n\r\n", StartLine),
            ("GET / HTTP/1.1 \r\n\r\n", StartLine),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nA\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\n A: b\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", Control),
            ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Control),
            (&many, TooManyFields),
        ] {
            assert_eq!(parse(text, Kind::Request).map(|_| ()), Err(why), "{text:?}");
        }
    }

    #[test]
    fn status_lines_are_read() {
        let check = |line: &str, expected: Result<(u16, &str), Malformed>| {
            let head = parse(&format!("{line}\r\n\r\n"), Kind::Answer);
            let expected = expected.map(|(status, text)| (status, text.as_bytes()));
            let read = head.as_ref().map(|head| (head.status(), head.status_and_reason().1));
            assert_eq!(read.map_err(|error| *error), expected, "{line:?}");
        };
        check("HTTP/1.1 200 OK", Ok((200, "OK")));
        check("HTTP/1.0 207 Ganz Eigen", Ok((207, "Ganz Eigen")));
        check("HTTP/1.1 204 ", Ok((204, "")));
        check("HTTP/1.1 204", Ok((204, "")));
        check("HTTP/1.1 600 X", Err(Malformed::StartLine));
        check("HTTP/1.1 20 X", Err(Malformed::StartLine));
        check("HTTP/1.1 2000", Err(Malformed::StartLine));
        check("HTTP/1.1  200 OK", Err(Malformed::StartLine));
        check("HTTP/2 200 OK", Err(Malformed::Version));
        check("ICY 200 OK", Err(Malformed::StartLine));
    }

    #[test]
    fn the_end_is_found_however_the_bytes_come() {
        let read = |bytes: &[u8]| Head::read(bytes, Kind::Request).map(|read| read.map(|(_, length)| length));
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\n";
        for length in 0..27 {
            assert_eq!(read(&text[..length]), Ok(None), "{length}");
        }
        assert_eq!(read(text), Ok(Some(27)));
        assert_eq!(read(b"GET / HTTP/1.1\nHost: a\r\n\r\n"), Err(Malformed::LineEnd));
        assert_eq!(read(b"GET / HTTP/1.1\r\nHost: a\n"), Err(Malformed::LineEnd));
        assert_eq!(read(b"\n"), Err(Malformed::LineEnd));
        assert_eq!(read(b"GET / HTTP/1.1\rHost: a\r\r"), Err(Malformed::LineEnd));
        assert_eq!(read(b"GET / HTTP/1.1\r"), Ok(None));
        assert_eq!(read(&vec![b'a'; HEAD_BYTES_MAX + 1]), Err(Malformed::LongStartLine));
    }

    #[test]
    fn lines_are_copied_as_they_stand() {
        let head = parse("GET / HTTP/1.1\r\nHost:a\r\nX-A:  1 \r\nCookie: b\r\nX-C: d\r\n\r\n", Kind::Request);
        let copied = |keep: &dyn Fn(Known) -> bool| {
            let mut out = Vec::new();
            head.as_ref().expect("a head").copy_lines(&mut out, |known, _| keep(known));
            String::from_utf8(out).expect("text")
        };
        assert_eq!(copied(&|_| true), "Host:a\r\nX-A:  1 \r\nCookie: b\r\nX-C: d\r\n");
        assert_eq!(copied(&|known| known == Known::Other), "X-A:  1 \r\nX-C: d\r\n");
        assert_eq!(copied(&|_| false), "");
    }

    #[test]
    fn connections_go_on_as_the_version_and_the_fields_say() {
        let check = |version: &str, connection: &str, expected: bool| {
            let head = parse(&format!("GET / {version}\r\n{connection}\r\n"), Kind::Request).expect("a head");
            assert_eq!(head.keeps_alive(), expected, "{version} {connection}");
        };
        check("HTTP/1.1", "", true);
        check("HTTP/1.1", "Connection: x, Close\r\n", false);
        check("HTTP/1.0", "", false);
        check("HTTP/1.0", "Connection: Keep-Alive\r\n", true);
    }
}
