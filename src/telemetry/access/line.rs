//! A line of the access log: what it says, and how no word in it can break it. Knows neither where it goes nor who has it.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Access;

/// A path, a name of a browser: what is longer is cut.
const WORD_BYTES_MAX: usize = 4_096;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client was sent all of the answer.
    Whole,
    /// It was not: the node broke off, or the client took no more.
    Broken,
    /// The client left before its answer (nginx's 499).
    Left,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Broken => "broken",
            Self::Left => "left",
        }
    }
}

/// What the log says of an exchange. Its words are free of secrets, and otherwise whatever a client made up.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// When the request came, milliseconds since the epoch.
    pub at: i64,
    /// Who asked.
    pub client: IpAddr,
    /// Of a request that was none, empty.
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// `HTTP/1.1`
    pub protocol: &'a str,
    /// As the client got it; 499 where it left before.
    pub status: u16,
    /// Of the answer's body, as they went out; of an upgraded connection all that the client was sent.
    pub bytes: u64,
    /// From the request's head to the end.
    pub took: Duration,
    /// The node asked last.
    pub node: Option<&'a str>,
    /// From then on until the head of its answer came.
    pub node_took: Option<Duration>,
    /// How long the answer was held for its commit.
    pub held: Option<Duration>,
    /// The route class.
    pub route: Option<&'a str>,
    /// The chat.
    pub chat_id: Option<&'a str>,
    /// `X-Request-Id`
    pub request_id: Option<&'a str>,
    /// Of `traceparent`.
    pub trace_id: Option<&'a str>,
    /// Without its query.
    pub referer: Option<&'a str>,
    /// `User-Agent`
    pub user_agent: Option<&'a str>,
    /// How it ended.
    pub end: End,
    /// The audit, or a finding, has it too.
    pub is_audited: bool,
}

impl Line<'_> {
    /// Whether it is written whatever the sample.
    pub fn is_notable(&self) -> bool {
        self.status >= 400 || self.is_audited || self.end != End::Whole
    }

    /// Writes it behind others.
    pub(super) fn append(&self, out: &mut Vec<u8>, format: Access, clock: &mut Clock) {
        match format {
            Access::None => {}
            Access::Combined => self.append_combined(out, clock),
            Access::Json => self.append_json(out, clock),
        }
    }

    fn append_combined(&self, out: &mut Vec<u8>, clock: &mut Clock) {
        say(out, format_args!("{} - - [", self.client));
        out.extend_from_slice(clock.local(self.at).as_bytes());
        out.extend_from_slice(b"] \"");
        if !self.method.is_empty() {
            hex_escaped(out, self.method);
            out.push(b' ');
            hex_escaped(out, self.path);
            out.push(b' ');
            out.extend_from_slice(self.protocol.as_bytes());
        }
        say(out, format_args!("\" {} {}", self.status, self.bytes));
        for word in [self.referer, self.user_agent] {
            out.extend_from_slice(b" \"");
            hex_escaped(out, word.unwrap_or("-"));
            out.push(b'"');
        }
        out.push(b'\n');
    }

    fn append_json(&self, out: &mut Vec<u8>, clock: &mut Clock) {
        say(out, format_args!("{{\"time\":\"{}", clock.utc(self.at)));
        say(out, format_args!(".{:03}Z\",\"client\":\"{}\"", self.at.rem_euclid(1_000), self.client));
        let words = [("method", Some(self.method)), ("path", Some(self.path)), ("protocol", Some(self.protocol))];
        words.iter().for_each(|(name, word)| member(out, name, *word));
        say(out, format_args!(",\"status\":{},\"bytes\":{}", self.status, self.bytes));
        let spans = [("duration_ms", Some(self.took)), ("node_ms", self.node_took), ("held_ms", self.held)];
        for (name, span) in spans {
            if let Some(span) = span {
                say(out, format_args!(",\"{name}\":{}.{:03}", span.as_millis(), span.subsec_micros() % 1_000));
            }
        }
        let words = [
            ("node", self.node),
            ("route", self.route),
            ("chat_id", self.chat_id),
            ("request_id", self.request_id),
            ("trace_id", self.trace_id),
            ("referer", self.referer),
            ("user_agent", self.user_agent),
            ("end", Some(self.end.as_str())),
        ];
        words.iter().for_each(|(name, word)| member(out, name, *word));
        say(out, format_args!(",\"audited\":{}}}\n", self.is_audited));
    }
}

fn say(out: &mut Vec<u8>, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a vector takes all that is written to it");
}

fn member(out: &mut Vec<u8>, name: &str, word: Option<&str>) {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return };
    say(out, format_args!(",\"{name}\":\""));
    for char in cut(word).chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            // Nor what a terminal would obey, or another reader take for the end of a line.
            char if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') => {
                say(out, format_args!("\\u{:04x}", u32::from(char)));
            }
            char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// As nginx does: `\xXX` for a quote, a backslash, and all that is not printable ASCII.
fn hex_escaped(out: &mut Vec<u8>, word: &str) {
    for byte in cut(word).bytes() {
        match byte {
            b'"' | b'\\' => say(out, format_args!("\\x{byte:02X}")),
            b' '..=b'~' => out.push(byte),
            byte => say(out, format_args!("\\x{byte:02X}")),
        }
    }
}

fn cut(word: &str) -> &str {
    &word[..word.floor_char_boundary(WORD_BYTES_MAX)]
}

/// The time of day in words, made once a second.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<i64>,
    words: String,
}

impl Clock {
    /// `10/Oct/2000:13:55:36 -0700`
    fn local(&mut self, at: i64) -> &str {
        self.words(at, |at| at.to_zoned(TimeZone::system()).strftime("%d/%b/%Y:%H:%M:%S %z").to_string())
    }

    /// `2000-10-10T20:55:36`
    fn utc(&mut self, at: i64) -> &str {
        self.words(at, |at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string())
    }

    /// A clock is asked for one of the two only.
    fn words(&mut self, at: i64, made: impl FnOnce(Timestamp) -> String) -> &str {
        let second = at.div_euclid(1_000);
        if self.second != Some(second) {
            self.second = Some(second);
            self.words = made(Timestamp::from_second(second).unwrap_or_default());
        }
        &self.words
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn example() -> Line<'static> {
        Line {
            at: 1_700_000_000_123,
            client: [203, 0, 113, 7].into(),
            method: "POST",
            path: "/genesys/2/chat/svc/C1/refresh",
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 512,
            took: Duration::from_micros(12_345),
            node: Some("gms-1"),
            node_took: Some(Duration::from_micros(9_000)),
            held: None,
            route: Some("chat"),
            chat_id: Some("C1"),
            request_id: None,
            trace_id: None,
            referer: None,
            user_agent: Some("curl/8"),
            end: End::Whole,
            is_audited: false,
        }
    }

    fn written(line: &Line<'_>, format: Access) -> String {
        let mut out = Vec::new();
        line.append(&mut out, format, &mut Clock::default());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn json_says_all_and_leaves_out_what_there_is_not() {
        let expected = "{\"time\":\"2023-11-14T22:13:20.123Z\",\"client\":\"203.0.113.7\",\"method\":\"POST\",\
             \"path\":\"/genesys/2/chat/svc/C1/refresh\",\"protocol\":\"HTTP/1.1\",\"status\":200,\"bytes\":512,\
             \"duration_ms\":12.345,\"node_ms\":9.000,\"node\":\"gms-1\",\"route\":\"chat\",\"chat_id\":\"C1\",\
             \"user_agent\":\"curl/8\",\"end\":\"whole\",\"audited\":false}\n";
        assert_eq!(written(&example(), Access::Json), expected);
        let held = Line { held: Some(Duration::from_millis(1_002)), trace_id: Some("4b"), ..example() };
        let line = written(&held, Access::Json);
        assert!(line.contains(",\"held_ms\":1002.000,") && line.contains(",\"trace_id\":\"4b\","), "{line}");
    }

    #[test]
    fn combined_is_as_nginx_writes_it() {
        let line = written(&example(), Access::Combined);
        let (before, after) = line.split_once(" [").expect("a time");
        let (time, after) = after.split_once("] ").expect("a time");
        assert_eq!(before, "203.0.113.7 - -");
        assert!(time.starts_with("14/Nov/2023:") || time.starts_with("15/Nov/2023:"), "{time}");
        assert_eq!(after, "\"POST /genesys/2/chat/svc/C1/refresh HTTP/1.1\" 200 512 \"-\" \"curl/8\"\n");
        let none = Line { method: "", path: "", status: 400, ..example() };
        assert!(written(&none, Access::Combined).contains("] \"\" 400 512 "));
        let odd = Line { user_agent: Some("a\"b\\c\u{e9}\n"), ..example() };
        assert!(written(&odd, Access::Combined).ends_with("\"a\\x22b\\x5Cc\\xC3\\xA9\\x0A\"\n"));
    }

    #[test]
    fn notable_is_what_went_wrong_or_is_audited() {
        let check = |line: Line<'_>, expected| assert_eq!(line.is_notable(), expected, "{line:?}");
        check(example(), false);
        check(Line { status: 101, ..example() }, false);
        check(Line { status: 399, ..example() }, false);
        check(Line { status: 400, ..example() }, true);
        check(Line { end: End::Broken, ..example() }, true);
        check(Line { end: End::Left, ..example() }, true);
        check(Line { is_audited: true, ..example() }, true);
    }

    proptest! {
        #[test]
        fn no_word_breaks_a_line(words in proptest::array::uniform6(any::<String>()), long in 0..6_000_usize) {
            let [method, path, chat_id, request_id, referer, user_agent] = words;
            let path = path.repeat(1 + long / path.len().max(1));
            let line = Line {
                method: &method,
                path: &path,
                chat_id: Some(&chat_id),
                request_id: Some(&request_id),
                referer: Some(&referer),
                user_agent: Some(&user_agent),
                ..example()
            };
            let json = written(&line, Access::Json);
            prop_assert!(!json[..json.len() - 1].contains(|c: char| c.is_control()));
            let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(read["path"].as_str().unwrap_or_default(), cut(&path));
            prop_assert_eq!(read["user_agent"].as_str().unwrap_or_default(), cut(&user_agent));
            let combined = written(&line, Access::Combined);
            prop_assert!(combined[..combined.len() - 1].bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(combined.matches('"').count(), 6);
        }
    }
}
