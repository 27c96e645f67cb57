//! A strict reader of JSON in one pass, without recursion: text to [`Tape`], and [`Value`], a cursor over it. Knows
//! nothing of chats.
//!
//! Why not serde_json: a transcript must be read although it holds lone surrogates, a key twice, a 23-digit number or
//! 400 levels of nesting, and every value must be found again in the text, byte for byte, to be kept and scrubbed.

use std::borrow::Cow;
use std::ops::Range;

/// Deeper nesting is no chat: 400 levels were seen in tests of GMS clients, none in real traffic.
const DEPTH_MAX: usize = 1_024;

/// Bounds the tape to 32 MiB. A transcript of 8 MiB has about half as many values.
const NODES_MAX: usize = 1 << 21;

/// How far apart the values of a transcript are. Only a guess of the tape's size.
const VALUE_BYTES: usize = 11;

/// What a short answer has more than that.
const VALUES_MORE: usize = 16;

/// How far back the beginning of a container is looked for: a dozen members.
const AROUND_NODES_MAX: usize = 32;

/// Where a text stops being JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid {
    /// Byte offset.
    pub at: usize,
    /// What was wrong there.
    pub why: &'static str,
}

/// What a node is. A member of an object is two nodes: its key and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    True,
    False,
    Number,
    String,
    Key,
    Object,
    Array,
}

/// A value's place in the text and on the tape.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    /// The node after this one's subtree.
    next: u32,
    kind: Kind,
    /// A string or key with a backslash in it.
    escaped: bool,
}

/// Every value of a text in the order they begin. Offsets only: replacing bytes inside strings by as many keeps it valid.
#[derive(Debug)]
pub(super) struct Tape {
    nodes: Vec<Node>,
}

impl Tape {
    /// Reads a whole text: one value, white space around it, a byte order mark before it.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let mut reader = Reader { bytes: text.as_bytes(), at: 0, nodes: Vec::new(), open: Vec::new() };
        if u32::try_from(text.len()).is_err() {
            return reader.fail("more than 4 GiB");
        }
        if text.starts_with('\u{feff}') {
            reader.at = '\u{feff}'.len_utf8();
        }
        reader.nodes.reserve(text.len() / VALUE_BYTES + VALUES_MORE);
        loop {
            reader.value()?;
            if !reader.goes_on()? {
                return Ok(Self { nodes: reader.nodes });
            }
        }
    }

    /// The outermost value of the text this tape was read from.
    pub fn root<'a>(&'a self, text: &'a str) -> Value<'a> {
        Value { text, nodes: &self.nodes, at: 0 }
    }

    /// The kind and place of the innermost scalar or key that holds the whole of a stretch of text.
    pub fn leaf_around(&self, stretch: &Range<usize>) -> Option<(Kind, Range<usize>)> {
        let after = self.nodes.partition_point(|node| node.start as usize <= stretch.start);
        let node = self.nodes.get(after.checked_sub(1)?)?;
        let is_leaf = !matches!(node.kind, Kind::Object | Kind::Array);
        (is_leaf && stretch.end <= node.end as usize).then_some((node.kind, node.start as usize..node.end as usize))
    }
}

/// Its steps are inlined into [`Tape::read`]: they are short and many, and the place is kept in a register then.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// The containers around the current place.
    open: Vec<u32>,
}

impl Reader<'_> {
    #[cold]
    fn fail<T>(&self, why: &'static str) -> Result<T, Invalid> {
        Err(Invalid { at: self.at, why })
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline(always)]
    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads a scalar or an empty container, opening the containers that begin before it.
    #[inline(always)]
    fn value(&mut self) -> Result<(), Invalid> {
        loop {
            self.blanks();
            match self.peek() {
                Some(b'{') => {
                    self.open(Kind::Object)?;
                    if self.peek() == Some(b'}') {
                        self.close();
                        return Ok(());
                    }
                    self.key()?;
                }
                Some(b'[') => {
                    self.open(Kind::Array)?;
                    if self.peek() == Some(b']') {
                        self.close();
                        return Ok(());
                    }
                }
                Some(b'"') => return self.string(Kind::String),
                Some(b'-' | b'0'..=b'9') => return self.number(),
                Some(b't') => return self.word(b"true", Kind::True),
                Some(b'f') => return self.word(b"false", Kind::False),
                Some(b'n') => return self.word(b"null", Kind::Null),
                Some(_) => return self.fail("a value was expected"),
                None => return self.fail("the text ends where a value was expected"),
            }
        }
    }

    /// After a value: closes the containers that end here. True where another value follows.
    #[inline(always)]
    fn goes_on(&mut self) -> Result<bool, Invalid> {
        loop {
            self.blanks();
            let Some(&parent) = self.open.last() else {
                return if self.at == self.bytes.len() { Ok(false) } else { self.fail("something follows the value") };
            };
            let kind = self.nodes[parent as usize].kind;
            match (kind, self.peek()) {
                (Kind::Object, Some(b',')) => {
                    self.at += 1;
                    self.blanks();
                    self.key()?;
                    return Ok(true);
                }
                (_, Some(b',')) => {
                    self.at += 1;
                    return Ok(true);
                }
                (Kind::Object, Some(b'}')) | (Kind::Array, Some(b']')) => self.close(),
                (_, Some(_)) => return self.fail("a comma or the end of the container was expected"),
                (_, None) => return self.fail("the text ends inside a container"),
            }
        }
    }

    #[inline(always)]
    fn push(&mut self, kind: Kind, start: usize, escaped: bool) -> Result<(), Invalid> {
        if self.nodes.len() >= NODES_MAX {
            return self.fail("too many values");
        }
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { start: start as u32, end: self.at as u32, next, kind, escaped });
        Ok(())
    }

    #[inline(always)]
    fn open(&mut self, kind: Kind) -> Result<(), Invalid> {
        if self.open.len() >= DEPTH_MAX {
            return self.fail("nested too deeply");
        }
        self.open.push(self.nodes.len() as u32);
        self.push(kind, self.at, false)?;
        self.at += 1;
        self.blanks();
        Ok(())
    }

    #[inline(always)]
    fn close(&mut self) {
        self.at += 1;
        let next = self.nodes.len() as u32;
        if let Some(container) = self.open.pop() {
            let node = &mut self.nodes[container as usize];
            (node.end, node.next) = (self.at as u32, next);
        }
    }

    #[inline(always)]
    fn key(&mut self) -> Result<(), Invalid> {
        if self.peek() != Some(b'"') {
            return self.fail("a key was expected");
        }
        self.string(Kind::Key)?;
        self.blanks();
        if self.peek() != Some(b':') {
            return self.fail("a colon was expected");
        }
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn string(&mut self, kind: Kind) -> Result<(), Invalid> {
        let start = self.at;
        let mut escaped = false;
        let mut at = start + 1;
        loop {
            at += plain_run(&self.bytes[at..]);
            let why = match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return self.push(kind, start, escaped);
                }
                Some(b'\\') => match escape_length(&self.bytes[at..]) {
                    Some(length) => {
                        escaped = true;
                        at += length;
                        continue;
                    }
                    None => "an unknown escape",
                },
                Some(_) => "a control character in a string",
                None => "the text ends inside a string",
            };
            self.at = at;
            return self.fail(why);
        }
    }

    #[inline(always)]
    fn number(&mut self) -> Result<(), Invalid> {
        let start = self.at;
        match number_length(&self.bytes[start..]) {
            Some(length) => self.at += length,
            None => return self.fail("a malformed number"),
        }
        self.push(Kind::Number, start, false)
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<(), Invalid> {
        let start = self.at;
        if !self.bytes[start..].starts_with(word) {
            return self.fail("an unknown word");
        }
        self.at += word.len();
        self.push(kind, start, false)
    }
}

/// The length of the escape that the bytes start with, halves of a pair apart.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => hex4(&bytes[2..]).map(|_| 6),
        _ => None,
    }
}

/// How many bytes there are before a quote, a backslash or a control character. Eight at a time: this is where most of
/// the reading happens.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (at, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        let quote = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        let control = word.wrapping_sub(ONES * u64::from(b' '));
        // A high bit that the subtraction set, in a byte that had none: there it went below zero.
        let stop = (quote | backslash | control) & !word & HIGHS;
        if stop != 0 {
            return at * 8 + (stop.trailing_zeros() / 8) as usize;
        }
    }
    let in_rest = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
    chunks.len() * 8 + in_rest.unwrap_or(rest.len())
}

/// The length of the JSON number that the bytes start with.
fn number_length(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let rest = &bytes[from..];
        rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    match (bytes.get(at), digits(at)) {
        (Some(b'0'), 1) => at += 1,
        (Some(b'1'..=b'9'), length) => at += length,
        _ => return None,
    }
    if bytes.get(at) == Some(&b'.') {
        let length = digits(at + 1);
        at += (length > 0).then_some(1 + length)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let length = digits(at + 1 + sign);
        at += (length > 0).then_some(1 + sign + length)?;
    }
    Some(at)
}

/// The number that four hex digits stand for.
pub(super) fn hex4(bytes: &[u8]) -> Option<u16> {
    bytes.get(..4)?.iter().try_fold(0, |number, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(number << 4 | digit as u16)
    })
}

/// A value of a text.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    text: &'a str,
    nodes: &'a [Node],
    at: usize,
}

impl<'a> Value<'a> {
    fn node(self) -> Node {
        self.nodes[self.at]
    }

    /// What it is.
    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// Where it is in the text.
    pub fn place(self) -> Range<usize> {
        self.node().start as usize..self.node().end as usize
    }

    /// The same value in another text that this tape is true of.
    pub fn over<'b>(self, text: &'b str) -> Value<'b>
    where
        'a: 'b,
    {
        Value { text, ..self }
    }

    /// Every key of every object in it, with its value.
    pub fn all_members(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        let nodes = &self.nodes[..self.node().next as usize];
        let keys = (self.at..nodes.len()).filter(|at| nodes[*at].kind == Kind::Key);
        keys.map(move |at| (Value { at, ..self }, Value { at: at + 1, ..self }))
    }

    /// The strings and numbers in it, itself included, keys not.
    pub fn leaves(self) -> impl Iterator<Item = Value<'a>> {
        let subtree = (self.at..self.node().next as usize).map(move |at| Value { at, ..self });
        subtree.filter(|value| matches!(value.kind(), Kind::String | Kind::Number))
    }

    /// The keys, strings and numbers in it that are written with so many bytes, each with the key whose value it is.
    pub fn texts(self, bytes_min: impl Fn(Kind) -> usize) -> impl Iterator<Item = (Option<Value<'a>>, Value<'a>)> {
        let nodes = self.nodes[..self.node().next as usize].iter().enumerate().skip(self.at);
        let is_long = move |node: &Node| (node.end - node.start) as usize >= bytes_min(node.kind);
        let is_text = |kind: Kind| matches!(kind, Kind::String | Kind::Number | Kind::Key);
        let long = nodes.filter(move |(_, node)| is_text(node.kind) && is_long(node));
        long.map(move |(at, node)| {
            let before = at.checked_sub(1).map(|at| Value { at, ..self });
            let key = before.filter(|before| before.kind() == Kind::Key && node.kind != Kind::Key);
            (key, Value { at, ..self })
        })
    }

    /// The keys of the two containers around it, as far as they have some, the nearest first. One that begins more than
    /// [`AROUND_NODES_MAX`] nodes before it is not looked for.
    pub fn keys_around(self) -> impl Iterator<Item = Value<'a>> {
        let is_around = move |at: &usize| {
            let node = self.nodes[*at];
            matches!(node.kind, Kind::Object | Kind::Array) && node.next as usize > self.at
        };
        let around = (self.at.saturating_sub(AROUND_NODES_MAX)..self.at).rev().filter(is_around).take(2);
        let before = around.filter_map(move |at| Some(Value { at: at.checked_sub(1)?, ..self }));
        before.filter(|before| before.kind() == Kind::Key)
    }

    /// The JSON pointer (RFC 6901) of what is at a place in it; of a key its value's, and `#` behind.
    pub fn pointer_to(self, place: &Range<usize>) -> String {
        let (mut pointer, mut value) = (String::new(), self);
        let holds = |value: &Value<'_>| value.place().start <= place.start && place.end <= value.place().end;
        for _ in 0..DEPTH_MAX {
            let member = value.members().find(|(key, value)| holds(key) || holds(value));
            let element = value.elements().enumerate().find(|(_, value)| holds(value));
            value = match (member, element) {
                (Some((key, member)), _) => {
                    let name = key.text().unwrap_or_default().replace('~', "~0").replace('/', "~1");
                    pointer.extend(["/", &name]);
                    if holds(&key) {
                        pointer.push('#');
                        break;
                    }
                    member
                }
                (None, Some((n, element))) => {
                    pointer.push_str(&format!("/{n}"));
                    element
                }
                (None, None) => break,
            };
        }
        pointer
    }

    /// Its text as written, strings with their quotes.
    pub fn raw(self) -> &'a str {
        &self.text[self.place()]
    }

    /// A string or key as written between its quotes.
    fn content(self) -> &'a str {
        let Node { start, end, .. } = self.node();
        self.text.get(start as usize + 1..end as usize - 1).unwrap_or_default()
    }

    /// The same as bytes, which need no look at where characters begin.
    fn content_bytes(self) -> &'a [u8] {
        let Node { start, end, .. } = self.node();
        self.text.as_bytes().get(start as usize + 1..end as usize - 1).unwrap_or_default()
    }

    /// The members of an object in their order, repeated keys included. Nothing for other kinds.
    pub fn members(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        let keys = self.children(Kind::Object, 1);
        keys.map(move |key| (key, Value { at: key.at + 1, ..self }))
    }

    /// The elements of an array. Nothing for other kinds.
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        self.children(Kind::Array, 0)
    }

    fn children(self, of: Kind, behind: usize) -> impl Iterator<Item = Value<'a>> {
        let end = if self.kind() == of { self.node().next as usize } else { 0 };
        let mut at = self.at + 1;
        std::iter::from_fn(move || {
            let child = (at < end).then_some(Value { at, ..self })?;
            at = self.nodes[at + behind].next as usize;
            Some(child)
        })
    }

    /// The value under a key of an object. Where the key comes twice the last one wins, as in JavaScript and in Java.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        let mut found = None;
        let mut at = self.at + 1;
        let end = if self.kind() == Kind::Object { self.node().next as usize } else { at };
        while at < end {
            let value = at + 1;
            if (Value { at, ..self }).is_named(name) {
                found = Some(Value { at: value, ..self });
            }
            at = self.nodes[value].next as usize;
        }
        found
    }

    /// Like [`Value::get`], without null.
    pub fn given(self, name: &str) -> Option<Value<'a>> {
        self.get(name).filter(|value| value.kind() != Kind::Null)
    }

    /// Whether a key, its escapes decoded, reads so.
    #[inline(always)]
    pub fn is_named(self, name: &str) -> bool {
        let Node { start, end, escaped, .. } = self.node();
        match escaped {
            false => (end - start) as usize == name.len() + "\"\"".len() && self.content_bytes() == name.as_bytes(),
            true => self.decoded_wide() == name.as_bytes(),
        }
    }

    /// A string's or key's characters. Lone surrogates and NUL, which no column can hold, become U+FFFD.
    #[inline]
    pub fn text(self) -> Option<Cow<'a, str>> {
        if !matches!(self.kind(), Kind::String | Kind::Key) {
            return None;
        }
        if !self.node().escaped {
            return Some(Cow::Borrowed(self.content()));
        }
        Some(Cow::Owned(self.decoded_text()))
    }

    fn decoded_text(self) -> String {
        let mut decoded = String::with_capacity(self.content().len());
        unescaped(self.content(), |plain, escape| {
            decoded.push_str(plain);
            match escape {
                Some(Escape::Char('\0') | Escape::Surrogate(_)) => decoded.push(char::REPLACEMENT_CHARACTER),
                Some(Escape::Char(char)) => decoded.push(char),
                None => {}
            }
        });
        decoded
    }

    /// A string's characters, else the value's own JSON: what a text column keeps of it.
    #[inline]
    pub fn text_or_raw(self) -> Cow<'a, str> {
        self.text().unwrap_or(Cow::Borrowed(self.raw()))
    }

    /// A string's or key's characters, nothing lost: lone surrogates as the three bytes they would be (WTF-8).
    #[inline]
    pub fn wide(self) -> Cow<'a, [u8]> {
        match self.node().escaped {
            false => Cow::Borrowed(self.content_bytes()),
            true => Cow::Owned(self.decoded_wide()),
        }
    }

    #[inline(never)]
    fn decoded_wide(self) -> Vec<u8> {
        let mut decoded = Vec::with_capacity(self.content().len());
        unescaped(self.content(), |plain, escape| {
            decoded.extend_from_slice(plain.as_bytes());
            match escape {
                Some(Escape::Char(char)) => decoded.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
                Some(Escape::Surrogate(unit)) => {
                    let bytes = [0xe0 | (unit >> 12), 0x80 | (unit >> 6 & 0x3f), 0x80 | (unit & 0x3f)];
                    decoded.extend_from_slice(&bytes.map(|byte| byte as u8));
                }
                None => {}
            }
        });
        decoded
    }

    /// A whole number: an integer, a float without a fraction, or a string that holds one.
    pub fn integer(self) -> Option<i64> {
        match self.kind() {
            Kind::Number => whole(self.raw()),
            Kind::String => whole(self.text()?.trim()),
            _ => None,
        }
    }

    /// True or false, or a string that says so.
    pub fn boolean(self) -> Option<bool> {
        match self.kind() {
            Kind::True => Some(true),
            Kind::False => Some(false),
            Kind::String => match &*self.text()? {
                text if text.trim().eq_ignore_ascii_case("true") => Some(true),
                text if text.trim().eq_ignore_ascii_case("false") => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
}

/// No column holds NUL: it becomes U+FFFD.
pub(super) fn without_nul(text: String) -> String {
    if memchr::memchr(0, text.as_bytes()).is_some() { text.replace('\0', "\u{fffd}") } else { text }
}

/// Decodes the escapes of a string that was found well-formed: pushes what is plain, with the escape behind it.
fn unescaped(content: &str, mut push: impl FnMut(&str, Option<Escape>)) {
    let mut rest = content;
    while let Some(run) = memchr::memchr(b'\\', rest.as_bytes()) {
        let (plain, from_escape) = rest.split_at(run);
        rest = from_escape;
        let Some((escape, length)) = escape_at(rest.as_bytes()) else {
            push(plain, None);
            break;
        };
        push(plain, Some(escape));
        rest = &rest[length..];
    }
    push(rest, None);
}

/// What a backslash and what follows stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// A character.
    Char(char),
    /// Half of one.
    Surrogate(u16),
}

/// Reads the escape that the bytes start with, a pair of surrogates as one. None where they start with none.
pub(super) fn escape_at(bytes: &[u8]) -> Option<(Escape, usize)> {
    let char = match (bytes.first()?, bytes.get(1)?) {
        (b'\\', b'u') => return unicode_escape_at(bytes),
        (b'\\', b'b') => '\u{8}',
        (b'\\', b'f') => '\u{c}',
        (b'\\', b'n') => '\n',
        (b'\\', b'r') => '\r',
        (b'\\', b't') => '\t',
        (b'\\', mark @ (b'"' | b'\\' | b'/')) => char::from(*mark),
        _ => return None,
    };
    Some((Escape::Char(char), 2))
}

fn unicode_escape_at(bytes: &[u8]) -> Option<(Escape, usize)> {
    let first = hex4(bytes.get(2..)?)?;
    if let Some(char) = char::from_u32(u32::from(first)) {
        return Some((Escape::Char(char), 6));
    }
    let second = bytes.get(6..).and_then(|rest| rest.strip_prefix(br"\u")).and_then(hex4);
    let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok());
    Some(pair.map_or((Escape::Surrogate(first), 6), |char| (Escape::Char(char), 12)))
}

/// A number in the one form that all its spellings share: `-?digits × 10^exponent`, no zeros around the digits.
pub(super) struct Decimal<'a> {
    negative: bool,
    digits: String,
    /// What the exponent is short of by moving the point.
    shift: i64,
    /// The exponent as written, sign included; empty for none.
    exponent: &'a str,
}

impl<'a> Decimal<'a> {
    /// Reads a well-formed JSON number; leading zeros do no harm.
    pub fn of(raw: &'a str) -> Self {
        let (mantissa, exponent) = raw.split_once(['e', 'E']).unwrap_or((raw, ""));
        let negative = mantissa.starts_with('-');
        let mantissa = mantissa.trim_start_matches('-');
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, fraction].concat();
        let digits = all.trim_end_matches('0');
        let shift = (all.len() - digits.len()) as i64 - fraction.len() as i64;
        Self { negative, digits: digits.trim_start_matches('0').to_owned(), shift, exponent }
    }

    /// None where the exponent is beyond all numbers.
    fn power(&self) -> Option<i64> {
        if self.exponent.is_empty() {
            Some(self.shift)
        } else {
            self.exponent.parse::<i64>().ok()?.checked_add(self.shift)
        }
    }

    /// The form that equal numbers share. Two numbers with exponents over 2^63 are equal only if spelt alike.
    pub fn canonical(&self) -> String {
        if self.digits.is_empty() {
            return "0".to_owned();
        }
        let sign = if self.negative { "-" } else { "" };
        match self.power() {
            Some(power) => format!("{sign}{}e{power}", self.digits),
            None => format!("{sign}{}e{}+{}", self.digits, self.exponent, self.shift),
        }
    }

    fn whole(&self) -> Option<i64> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let power = u32::try_from(self.power()?).ok()?;
        let number = self.digits.parse::<i128>().ok()?.checked_mul(10_i128.checked_pow(power)?)?;
        i64::try_from(if self.negative { -number } else { number }).ok()
    }
}

/// The whole number that a text is, in any JSON spelling; leading zeros do no harm.
pub(super) fn whole(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let is_number = number_length(text.as_bytes()) == Some(text.len());
        is_number.then(|| Decimal::of(text).whole()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads(text: &str) -> bool {
        Tape::read(text).is_ok()
    }

    #[test]
    fn what_is_json_and_what_is_not() {
        let good = [
            "{}",
            "[]",
            " [ ] ",
            "null",
            "-0",
            "0.5e+10",
            "\"\\ud800\"",
            "{\"a\":1,\"a\":2}",
            "\u{feff}{}",
            "[[],{},[{}]]",
            "\"\\u00e9\\n\\/\"",
            "12345678901234567890123",
            "1e999999999999999999999999",
        ];
        for text in good {
            assert!(reads(text), "{text}");
        }
        let bad = [
            "",
            " ",
            "{",
            "[",
            "]",
            "{]",
            "[}",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "{\"a\"}",
            "{\"a\":}",
            "[1 2]",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "NaN",
            "True",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"\t\"",
            "1 2",
            "{} x",
            "[]]",
            "\"\\",
            "\u{feff}",
            "{\"a\":1 \"b\":2}",
            "\u{0}",
        ];
        for text in bad {
            assert!(!reads(text), "{text}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(reads(&nested(DEPTH_MAX)));
        assert_eq!(Tape::read(&nested(DEPTH_MAX + 1)).map(drop), Err(Invalid { at: 1_024, why: "nested too deeply" }));
    }

    #[test]
    fn values_are_found_again() {
        let text = r#"{"a":[1,{"b":"x\n"}],"\u0063":null,"a":2.0,"d":"4"}"#;
        let tape = Tape::read(text).expect("JSON");
        let root = tape.root(text);
        assert_eq!(root.get("a").map(Value::raw), Some("2.0"), "the last one wins");
        assert_eq!(root.get("a").and_then(Value::integer), Some(2));
        assert_eq!(root.get("d").and_then(Value::integer), Some(4));
        assert!(root.get("c").is_some() && root.given("c").is_none());
        assert_eq!(root.members().count(), 4);
        let first = root.members().next().map(|(_, value)| value).expect("a member");
        assert_eq!(first.elements().map(Value::raw).collect::<Vec<_>>(), ["1", r#"{"b":"x\n"}"#]);
        let around = |value: Value<'_>| value.keys_around().map(Value::raw).collect::<Vec<_>>().join(" ");
        let twice =
            root.members().next().and_then(|(_, value)| value.elements().nth(1)?.get("b")).expect("it is there");
        assert_eq!([twice, first.elements().next().expect("an element"), first].map(around), [r#""a""#, r#""a""#, ""]);
        assert_eq!(tape.leaf_around(&(0..1)), None);
        let x = text.find('x').expect("there");
        assert_eq!(tape.leaf_around(&(x..x + 1)), Some((Kind::String, x - 1..x + 4)));
        assert_eq!(tape.leaf_around(&(x..x + 9)), None);
    }

    #[test]
    fn strings_are_decoded_for_columns() {
        let rows = [
            (r#""plain""#, "plain"),
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u0041\u00e9\ud83d\ude00""#, "Aé😀"),
            (r#""a\ud800b\udc00""#, "a\u{fffd}b\u{fffd}"),
            (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""a\u0000b""#, "a\u{fffd}b"),
            (r#""""#, ""),
        ];
        for (raw, expected) in rows {
            let tape = Tape::read(raw).expect("JSON");
            assert_eq!(tape.root(raw).text().as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn whole_numbers_in_every_spelling() {
        let rows = [
            ("4", Some(4)),
            ("4.0", Some(4)),
            ("40e-1", Some(4)),
            ("0.4e1", Some(4)),
            ("-0.0", Some(0)),
            ("007", Some(7)),
            ("1509117368000.0", Some(1_509_117_368_000)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775807.0", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("12345678901234567890123", None),
            ("1e999999999999999999999", None),
            ("0e999999999999999999999", Some(0)),
            ("4.5", None),
            ("1e-1", None),
            ("", None),
            ("x", None),
            ("1e", None),
            ("1e4000000000", None),
        ];
        for (text, expected) in rows {
            assert_eq!(whole(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn serde_json_agrees_on_what_is_json(text in r#"[\[\]{}:,"\\ a-fnrtu0-9.eE+\-]{0,24}"#) {
            let oracle = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(reads(&text), oracle);
        }

        #[test]
        fn whatever_comes_is_read_or_refused(text in any::<String>()) {
            let oracle = serde_json::from_str::<serde::de::IgnoredAny>(text.trim_start_matches('\u{feff}')).is_ok();
            prop_assume!(!text.starts_with("\u{feff}\u{feff}"));
            prop_assert_eq!(reads(&text), oracle);
        }

        #[test]
        fn strings_read_as_serde_json_writes_them(text in any::<String>()) {
            let raw = serde_json::to_string(&text).expect("a string");
            let tape = Tape::read(&raw).expect("JSON");
            prop_assert_eq!(tape.root(&raw).wide(), text.as_bytes());
        }

        #[test]
        fn runs_end_where_a_plain_loop_says(bytes in proptest::collection::vec(prop_oneof![9 => 0x20_u8..=0xff, 1 => any::<u8>()], 0..64)) {
            let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), plain);
        }
    }
}
