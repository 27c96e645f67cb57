//! R5: secrets become stars of equal length, before anything is kept. Knows bytes, JSON strings and what a secret may look
//! like in them; not where secrets come from.
//!
//! A secret is found as it is, percent-encoded, JSON-escaped, in any mixture of these three levels deep, and in base64.
//! In JSON only the insides of strings are touched and no escape is cut, so that the text stays JSON and a tape read
//! before stays true.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use memchr::memmem;
use sha2::{Digest, Sha256};

use super::content::first_half;
use super::json::{Escape, Kind, Tape, Value, escape_at};
use super::route::percent_byte;
use crate::chat::{ContentDigest, Secret};

/// Shorter values are starred in the fields that hold them, not wherever they occur: `1234` is in every timestamp.
const SECRET_BYTES_MIN: usize = 8;

/// An exchange has a handful of secrets; each costs a few passes over the text. More can only be meant to cost time.
const SECRETS_MAX: usize = 32;

/// A form in a JSON string in a JSON string is the deepest nesting that makes sense.
const LEVELS_MAX: usize = 3;

/// The shortest beginning of a secret that is starred at the end of a text that breaks off.
const TAIL_BYTES_MIN: usize = 4;

/// How far the name of a field may go on after `securekey`.
const NAME_REST_BYTES_MAX: usize = 64;

/// Words of the API. A client may call any value a secret; were these starred, its chat could not be read.
const PUBLIC_WORDS: &[&str] = &[
    "statusCode",
    "nextPosition",
    "chatEnded",
    "messages",
    "secureKey",
    "monitored",
    "idleTimerExpire",
    "userData",
    "participantId",
    "nickname",
    "messageType",
    "eventAttributes",
    "ParticipantJoined",
    "ParticipantLeft",
    "TypingStarted",
    "TypingStopped",
    "NicknameUpdated",
    "FileUploaded",
    "FileDeleted",
    "CustomNotice",
    "IdleAlert",
    "IdleClose",
    "Supervisor",
    "External",
    "validationError",
    "successful",
    "subscription",
    "/service/chatV2/",
    "/meta/connect",
    "/meta/handshake",
    "/meta/subscribe",
    "/meta/disconnect",
    "file-client-cfg-get",
    "clientId",
];

/// A keyed digest of a secret: it correlates, and cannot be looked up without the key. 128 bits of SHA-256 over the key
/// and the value.
pub fn key_digest(key: &[u8; 32], secret: &Secret) -> ContentDigest {
    first_half(Sha256::new().chain_update(key).chain_update(secret.expose()))
}

/// Stars the secrets in a text, and the values of fields whose names say that they are secret. JSON stays JSON.
pub fn scrub(bytes: &mut [u8], secrets: &[Secret]) {
    let scrubber = Scrubber::new(secrets, &[]);
    match std::str::from_utf8(bytes).ok().and_then(|text| Some((text, Tape::read(text).ok()?))) {
        Some((text, tape)) => {
            let named = secret_leaves(tape.root(text)).map(Value::place).collect();
            scrubber.json(bytes, &tape, named);
        }
        None => scrubber.text(bytes),
    }
}

/// Stars secrets in words of a request that are kept of it elsewhere: ids, names of pages and browsers.
pub fn scrub_words<'w>(words: impl IntoIterator<Item = &'w mut String>, secrets: &[Secret]) {
    let scrubber = Scrubber::new(secrets, &[]);
    words.into_iter().for_each(|word| scrubber.word(word));
}

/// Stars what a path has behind `;name=`: servers put sessions there (`;jsessionid=…`), GMS nothing.
pub fn scrub_path_parameters(path: &mut String) {
    let mut bytes = std::mem::take(path).into_bytes();
    let (mut is_parameter, mut is_value) = (false, false);
    for byte in &mut bytes {
        match byte {
            b'/' => (is_parameter, is_value) = (false, false),
            b';' => (is_parameter, is_value) = (true, false),
            b'=' if is_parameter && !is_value => is_value = true,
            byte if is_value => *byte = b'*',
            _ => {}
        }
    }
    *path = String::from_utf8(bytes).expect("a character of several bytes is starred whole");
}

/// Whether a field of this name holds a secret: `secureKey`, `SMS_SecureKeyL`, `userData[secure_key]`, `apikey`.
pub(super) fn is_secret_name(name: &[u8]) -> bool {
    const WORDS: [&[u8]; 2] = [b"securekey", b"apikey"];
    // Hardly any other name of an answer has a y and is long enough.
    if name.len() < 6 || !name.iter().any(|byte| matches!(byte, b'y' | b'Y')) {
        return false;
    }
    let letters = name.iter().filter(|byte| !matches!(byte, b'_' | b'-' | b' '));
    let letters: Vec<u8> = letters.map(u8::to_ascii_lowercase).collect();
    WORDS.iter().any(|word| letters.windows(word.len()).any(|window| window == *word))
}

/// The strings and numbers in members with a secret name.
pub(super) fn secret_leaves(root: Value<'_>) -> impl Iterator<Item = Value<'_>> {
    let fields = root.all_members().filter(|(key, _)| is_secret_name(&key.wide()));
    fields.flat_map(|(_, value)| value.leaves())
}

/// Finds a set of secrets in all their forms.
pub(super) struct Scrubber {
    secrets: Vec<Vec<u8>>,
    heads: Heads,
    /// What one more begins with. How it goes on is not known: what follows is starred with it.
    begun: Option<Begun>,
}

/// A secret that was cut.
struct Begun {
    known: Vec<u8>,
    /// What begins like it and is none.
    public: Vec<String>,
}

impl Scrubber {
    /// Takes the first [`SECRETS_MAX`] secrets that are long enough and are not part of a public word: one of the API's
    /// or, in `public`, of this exchange (a chatId).
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s Secret>, public: &[&str]) -> Self {
        let mut plain: Vec<Vec<u8>> = Vec::new();
        for value in secrets.into_iter().map(Secret::expose) {
            let is_known = || plain.iter().any(|known| known == value.as_bytes());
            let is_starred = || value.bytes().all(|byte| byte == b'*');
            let is_public = || is_in_public_word(value) || public.iter().any(|word| word.contains(value));
            let fits = value.len() >= SECRET_BYTES_MIN && plain.len() < SECRETS_MAX;
            if fits && !is_known() && !is_starred() && !is_public() {
                plain.push(value.as_bytes().to_vec());
            }
        }
        Self { heads: Heads::of(&plain), secrets: plain, begun: None }
    }

    /// Takes the beginning of a secret that was cut.
    pub fn begun(self, begun: Option<&str>, public: &[&str]) -> Self {
        let public = || public.iter().map(ToString::to_string).collect();
        let begun = begun.map(|known| Begun { known: known.as_bytes().to_vec(), public: public() });
        Self { begun, ..self }
    }

    /// Scrubs a JSON text through the tape read from it, and stars the leaves at `places`.
    pub fn json(&self, bytes: &mut [u8], tape: &Tape, places: Vec<Range<usize>>) {
        for place in places {
            star_leaf(bytes, &place);
        }
        let mut escapes = Escapes { at: 0 };
        for stretch in self.stretches(bytes, TAIL_BYTES_MIN) {
            match tape.leaf_around(&stretch) {
                Some((Kind::Number, place)) if place == stretch => star_leaf(bytes, &place),
                Some((Kind::String | Kind::Key, place)) => {
                    let inside = stretch.start.max(place.start + 1)..stretch.end.min(place.end - 1);
                    let whole = escapes.around(bytes, &place, inside);
                    bytes[whole].fill(b'*');
                }
                _ => {}
            }
        }
        for field in fields_in(bytes) {
            let is_in_string = matches!(tape.leaf_around(&field), Some((Kind::String, _)));
            if is_in_string && looks_like_key(&bytes[field.clone()]) {
                bytes[field].fill(b'*');
            }
        }
    }

    /// Scrubs any other text: the secrets, and what stands in a field with a secret name.
    pub fn text(&self, bytes: &mut [u8]) {
        for field in fields_in(bytes) {
            bytes[field].fill(b'*');
        }
        for stretch in self.stretches(bytes, 0) {
            bytes[stretch].fill(b'*');
        }
    }

    /// Scrubs what a person or a program wrote in a field: the secrets, and what looks like a key.
    pub fn word(&self, word: &mut String) {
        let mut bytes = std::mem::take(word).into_bytes();
        for field in fields_in(&bytes) {
            if looks_like_key(&bytes[field.clone()]) {
                bytes[field].fill(b'*');
            }
        }
        for stretch in self.stretches(&bytes, TAIL_BYTES_MIN) {
            bytes[stretch].fill(b'*');
        }
        *word = String::from_utf8_lossy(&bytes).into_owned();
    }

    /// Stars the beginning of a secret at the end of a text that breaks off.
    pub fn tail(&self, bytes: &mut [u8]) {
        let cut_at = |secret: &Vec<u8>| {
            let lengths = (TAIL_BYTES_MIN..secret.len().min(bytes.len() + 1)).rev();
            lengths.into_iter().find(|length| bytes.ends_with(&secret[..*length]))
        };
        if let Some(length) = self.secrets.iter().filter_map(cut_at).max() {
            let from = bytes.len() - length;
            bytes[from..].fill(b'*');
        }
    }

    /// Where the secrets are: in the bytes as they are, and in what they decode to, level by level. In order. One that was cut
    /// is looked for if so much of it is known.
    fn stretches(&self, bytes: &[u8], begun_bytes_min: usize) -> Vec<Range<usize>> {
        let begun = self.begun.as_ref().filter(|begun| begun.known.len() >= begun_bytes_min);
        if self.secrets.is_empty() && begun.is_none() {
            return Vec::new();
        }
        let as_is = |bytes: &[u8]| {
            let mut found = self.stretches_as_is(bytes);
            found.extend(begun.into_iter().flat_map(|begun| begun.places_in(bytes)));
            found
        };
        let mut found = as_is(bytes);
        let mut views: Vec<View> = Vec::new();
        let mut marks_without_view = 0;
        for mark in [b'\\', b'%'].into_iter().cycle().take(2 * LEVELS_MAX) {
            let Some(view) = View::of(views.last().map_or(bytes, |view| &view.bytes), mark) else {
                marks_without_view += 1;
                if marks_without_view == 2 {
                    break; // neither mark is left
                }
                continue;
            };
            marks_without_view = 0;
            let decoded = as_is(&view.bytes);
            views.push(view);
            let source = |stretch| views.iter().rev().fold(stretch, |stretch, view| view.source_of(&stretch));
            found.extend(decoded.into_iter().map(source));
        }
        found.sort_by_key(|stretch| stretch.start);
        found
    }

    fn stretches_as_is(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut look = |form: &[u8], bytes: &[u8]| {
            found.extend(memmem::find_iter(bytes, form).map(|at| at..at + form.len()));
        };
        if self.heads.are_in(bytes) {
            self.secrets.iter().flat_map(|secret| forms_of(secret)).for_each(|form| look(&form, bytes));
        }
        if self.secrets.iter().any(|secret| secret.contains(&b' ')) {
            let bytes = plus_as_space(bytes);
            let spaced = self.secrets.iter().filter(|secret| secret.contains(&b' '));
            spaced.for_each(|secret| look(&plus_as_space(secret), &bytes));
        }
        found
    }
}

/// The first [`SECRET_BYTES_MIN`] bytes of every form of some secrets. Hardly any text holds one of them, and one pass
/// tells: it looks at every fourth place only, since four bytes of a head begin at one of these.
struct Heads {
    heads: Vec<Head>,
    /// A bit for the [`slot_of`] each four bytes that a text with a head may have at such a place.
    grams: [u64; SLOTS / 64],
}

type Head = [u8; SECRET_BYTES_MIN];

type Gram = [u8; GRAM_BYTES];

const GRAM_BYTES: usize = 4;

/// A secret sets about 16: few enough to be met seldom by chance, even by those of [`SECRETS_MAX`] secrets.
const SLOTS: usize = 4_096;

/// How many grams are looked up before the next decision.
const BLOCK_GRAMS: usize = 8;

impl Heads {
    fn of(secrets: &[Vec<u8>]) -> Self {
        let mut heads = Vec::with_capacity(secrets.len() * HEADS_A_SECRET);
        secrets.iter().for_each(|secret| push_heads(&mut heads, secret));
        let mut grams = [0; SLOTS / 64];
        for gram in heads.iter().flat_map(|head: &Head| head.array_windows().take(GRAM_BYTES)) {
            let slot = slot_of(gram);
            grams[slot / 64] |= 1 << (slot % 64);
        }
        Self { heads, grams }
    }

    fn bit_of(&self, gram: &Gram) -> u64 {
        let slot = slot_of(gram);
        self.grams[slot / 64] >> (slot % 64) & 1
    }

    /// Whether any head is in a text.
    fn are_in(&self, bytes: &[u8]) -> bool {
        let (grams, _) = bytes.as_chunks();
        let (blocks, _) = grams.as_chunks::<BLOCK_GRAMS>();
        let in_blocks = blocks.iter().enumerate().any(|(at, block)| {
            let is_met = block.iter().fold(0, |met, gram| met | self.bit_of(gram)) != 0;
            is_met && self.are_around(bytes, block, at * BLOCK_GRAMS * GRAM_BYTES)
        });
        let rest = blocks.len() * BLOCK_GRAMS;
        in_blocks || self.are_around(bytes, &grams[rest..], rest * GRAM_BYTES)
    }

    /// Whether a head begins at one of the grams of a text from a place on, or up to three bytes before.
    fn are_around(&self, bytes: &[u8], grams: &[Gram], from: usize) -> bool {
        let met = grams.iter().enumerate().filter(|(_, gram)| self.bit_of(gram) != 0);
        let mut places = met.map(|(at, _)| from + at * GRAM_BYTES);
        places.any(|place| {
            let starts = place.saturating_sub(GRAM_BYTES - 1)..=place;
            starts.filter_map(|start| bytes[start..].first_chunk()).any(|head| self.heads.contains(head))
        })
    }
}

#[inline]
fn slot_of(gram: &Gram) -> usize {
    const GOLDEN_RATIO: u32 = 0x9e37_79b9;
    (u32::from_le_bytes(*gram).wrapping_mul(GOLDEN_RATIO) >> (u32::BITS - SLOTS.ilog2())) as usize
}

const HEADS_A_SECRET: usize = 7;

/// What the forms of a secret begin with: itself, and its base64 from its bits 0, 4 and 2 on, in both alphabets.
fn push_heads(heads: &mut Vec<Head>, secret: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let Some(plain) = secret.first_chunk::<SECRET_BYTES_MIN>() else { return };
    heads.push(*plain);
    let bits = u64::from_be_bytes(*plain);
    for shift in [0, 4, 2] {
        let standard: Head = std::array::from_fn(|at| ALPHABET[(bits << (shift + 6 * at) >> 58) as usize]);
        let url = standard.map(url_safe);
        heads.push(standard);
        heads.extend((url != standard).then_some(url));
    }
}

/// A character of base64 in the other alphabet (RFC 4648, section 5).
fn url_safe(char: u8) -> u8 {
    match char {
        b'+' => b'-',
        b'/' => b'_',
        other => other,
    }
}

/// Whether a value is a part of a word of the API.
fn is_in_public_word(value: &str) -> bool {
    // By far most values are keys, and have a byte that no such word has.
    const ARE_PUBLIC: [bool; 256] = bytes_of(PUBLIC_WORDS);
    let may_be = value.bytes().all(|byte| ARE_PUBLIC[usize::from(byte)]);
    may_be && PUBLIC_WORDS.iter().any(|word| word.contains(value))
}

const fn bytes_of(words: &[&str]) -> [bool; 256] {
    let mut found = [false; 256];
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_bytes();
        let mut of_word = 0;
        while of_word < word.len() {
            found[word[of_word] as usize] = true;
            of_word += 1;
        }
        at += 1;
    }
    found
}

impl Begun {
    /// Where it is, to the end of what may be a key. What is known of it may be little: then it has to look like one.
    fn places_in(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let is_short = self.known.len() < SECRET_BYTES_MIN;
        let forms = if is_short { vec![self.known.clone()] } else { forms_of(&self.known) };
        let mut found = Vec::new();
        for form in forms {
            let mut end = 0;
            for start in memmem::find_iter(bytes, &form) {
                let is_within = start.checked_sub(1).is_some_and(|before| bytes[before].is_ascii_alphanumeric());
                // Each stretch is looked at once, or a long one would cost its square.
                if start < end || is_short && is_within {
                    continue;
                }
                let known_end = start + form.len();
                end = known_end + bytes[known_end..].iter().take_while(|byte| is_of_keys(byte)).count();
                let is_secret = !is_short || looks_like_key(&bytes[start..end]);
                found.extend((is_secret && !self.is_public(&bytes[start..end])).then_some(start..end));
            }
        }
        found
    }

    fn is_public(&self, value: &[u8]) -> bool {
        let is_within = |value: &str| is_in_public_word(value) || self.public.iter().any(|word| word.contains(value));
        std::str::from_utf8(value).is_ok_and(is_within)
    }
}

fn plus_as_space(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect()
}

/// A secret as it is and the base64 characters that it determines wherever it begins among others, in both alphabets.
fn forms_of(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    for (bytes_before, chars_shared) in [(0, 0), (1, 2), (2, 3)] {
        let encoded = STANDARD_NO_PAD.encode([&[0; 2][..bytes_before], secret].concat()).into_bytes();
        let chars_whole = (bytes_before + secret.len()) * 8 / 6;
        let standard = encoded[chars_shared..chars_whole].to_vec();
        let url: Vec<u8> = standard.iter().copied().map(url_safe).collect();
        if url != standard {
            forms.push(url);
        }
        forms.push(standard);
    }
    forms
}

/// Stars the inside of a string; the digits of a number, which cannot be stars, become ones.
fn star_leaf(bytes: &mut [u8], place: &Range<usize>) {
    let leaf = &mut bytes[place.clone()];
    match leaf {
        [b'"', content @ .., b'"'] => content.fill(b'*'),
        number => number.iter_mut().filter(|byte| byte.is_ascii_digit()).for_each(|byte| *byte = b'1'),
    }
}

/// Walks forward over the escapes of JSON strings, so that a stretch can be drawn in to where none is cut.
struct Escapes {
    /// Not inside an escape.
    at: usize,
}

impl Escapes {
    /// The part of a stretch in a string that cuts no escape. Stretches have to come in order.
    fn around(&mut self, bytes: &[u8], string: &Range<usize>, stretch: Range<usize>) -> Range<usize> {
        self.at = self.at.max(string.start + 1);
        self.walk(bytes, stretch.start);
        let start = self.at.max(stretch.start);
        let mut end = Self { at: start };
        let before = end.walk(bytes, stretch.end);
        let end = if end.at > stretch.end { before } else { stretch.end };
        start..end.max(start)
    }

    /// Goes to `to`, or behind the escape that it is inside of. Returns where the last escape on the way began.
    fn walk(&mut self, bytes: &[u8], to: usize) -> usize {
        let mut began = self.at;
        while let Some(run) = bytes.get(self.at..to).and_then(|run| memchr::memchr(b'\\', run)) {
            began = self.at + run;
            self.at = began + escape_at(&bytes[began..]).map_or(1, |(_, length)| length);
        }
        self.at = self.at.max(to);
        began
    }
}

/// A text with its JSON escapes or its percent-encodings undone once, and the way back.
pub(super) struct View {
    /// The text, decoded.
    pub bytes: Vec<u8>,
    units: Vec<Unit>,
}

/// One thing that was decoded.
struct Unit {
    at: usize,
    length: usize,
    source_at: usize,
    source_length: usize,
}

impl View {
    /// Undoes what begins with `mark`. None where there is nothing to undo.
    pub fn of(source: &[u8], mark: u8) -> Option<Self> {
        memchr::memchr(mark, source)?;
        let mut view = Self { bytes: Vec::with_capacity(source.len()), units: Vec::new() };
        let mut copied = 0;
        let mut at = 0;
        while let Some(run) = memchr::memchr(mark, &source[at..]) {
            at += run;
            view.bytes.extend_from_slice(&source[copied..at]);
            copied = at;
            let begun = view.bytes.len();
            let Some(source_length) = push_unit(&mut view.bytes, &source[at..]) else {
                at += 1;
                continue;
            };
            view.units.push(Unit { at: begun, length: view.bytes.len() - begun, source_at: at, source_length });
            at += source_length;
            copied = at;
        }
        view.bytes.extend_from_slice(&source[copied..]);
        (!view.units.is_empty()).then_some(view)
    }

    /// Where a stretch of it is written.
    pub fn source_of(&self, stretch: &Range<usize>) -> Range<usize> {
        let last = stretch.end.saturating_sub(1);
        self.byte(stretch.start).start..self.byte(last).end
    }

    /// What one byte of the view was decoded from.
    fn byte(&self, at: usize) -> Range<usize> {
        let after = self.units.partition_point(|unit| unit.at <= at);
        let Some(unit) = after.checked_sub(1).map(|before| &self.units[before]) else { return at..at + 1 };
        let source_end = unit.source_at + unit.source_length;
        match at.checked_sub(unit.at + unit.length) {
            Some(behind) => source_end + behind..source_end + behind + 1,
            None => unit.source_at..source_end,
        }
    }
}

/// Decodes what a text starts with. Returns how much of the text it was.
fn push_unit(decoded: &mut Vec<u8>, source: &[u8]) -> Option<usize> {
    if let Some(byte) = percent_byte(source) {
        decoded.push(byte);
        return Some(3);
    }
    let (escape, length) = escape_at(source)?;
    let char = match escape {
        Escape::Char(char) => char,
        Escape::Surrogate(_) => char::REPLACEMENT_CHARACTER,
    };
    decoded.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    Some(length)
}

/// Where a text that is not read as JSON names a secret field, the stretches of the values: `"secureKey": "…"`, with
/// single quotes or none, `secureKey=…`, escaped or percent-encoded quotes and brackets included.
pub(super) fn fields_in(bytes: &[u8]) -> Vec<Range<usize>> {
    const NAME: &[u8] = b"securekey";
    const K_AT: usize = 6;
    const BLOCK_BYTES: usize = 256;
    let mut found: Vec<Range<usize>> = Vec::new();
    for block in (0..bytes.len()).step_by(BLOCK_BYTES) {
        let end = bytes.len().min(block + BLOCK_BYTES);
        // One byte more on either side: the `k` may be the first or the last of the block.
        if !has_eke(&bytes[block.saturating_sub(1)..bytes.len().min(end + 1)]) {
            continue;
        }
        for k in memchr::memchr2_iter(b'k', b'K', &bytes[block..end]).map(|at| block + at) {
            let Some(name) = k.checked_sub(K_AT).and_then(|at| bytes.get(at..at + NAME.len())) else { continue };
            let is_in_value = found.last().is_some_and(|value| k < value.end);
            if name.eq_ignore_ascii_case(NAME) && !is_in_value {
                found.extend(value_after(bytes, k - K_AT + NAME.len()));
            }
        }
    }
    found
}

/// Whether an `eke` is somewhere, in any case. Without branches, so that it is done for many bytes at once.
fn has_eke(bytes: &[u8]) -> bool {
    let is = |byte: &u8, letter: u8| byte | 0x20 == letter;
    let middles = bytes.get(1..).unwrap_or_default();
    let ends = bytes.get(2..).unwrap_or_default();
    let places = bytes.iter().zip(middles).zip(ends);
    places.fold(false, |has, ((a, b), c)| has | (is(a, b'e') & is(b, b'k') & is(c, b'e')))
}

fn value_after(bytes: &[u8], name_end: usize) -> Option<Range<usize>> {
    let skip =
        |from: usize, wanted: fn(&u8) -> bool| from + bytes[from..].iter().take_while(|byte| wanted(byte)).count();
    let of_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let at = name_end + bytes[name_end..].iter().take(NAME_REST_BYTES_MAX).take_while(of_name).count();
    let mut at = skip(at, |byte| matches!(byte, b'"' | b'\'' | b'\\' | b']' | b' ' | b'\t' | b'\r' | b'\n'));
    for bracket in [b"%5D", b"%5d", b"%22"] {
        at += if bytes[at..].starts_with(bracket) { bracket.len() } else { 0 };
    }
    at = match bytes.get(at) {
        Some(b':' | b'=' | b'>') => at + 1,
        _ if bytes[at..].starts_with(b"%3D") || bytes[at..].starts_with(b"%3A") => at + 3,
        _ => return None,
    };
    let start = skip(at, |byte| matches!(byte, b'"' | b'\'' | b'\\' | b'[' | b'{' | b' ' | b'\t' | b'\r' | b'\n'));
    let quote = bytes[at..start].iter().rev().find(|byte| matches!(byte, b'"' | b'\''));
    let ends = |byte: &u8| match quote {
        Some(quote) => byte == quote || *byte == b'\\',
        None => {
            byte.is_ascii_whitespace() || matches!(byte, b'&' | b',' | b';' | b'}' | b']' | b'<' | b'"' | b'\'' | b'\\')
        }
    };
    let length = bytes[start..].iter().position(ends).unwrap_or(bytes.len() - start);
    (length > 0).then_some(start..start + length)
}

/// In what a person wrote, `secureKey: …` is followed by a key only if it looks like one.
fn looks_like_key(value: &[u8]) -> bool {
    value.len() >= SECRET_BYTES_MIN && value.iter().any(u8::is_ascii_digit) && value.iter().all(is_of_keys)
}

fn is_of_keys(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'_' | b'-' | b'%')
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "e4071047872b7820630f";

    fn scrubbed(text: &str, secrets: &[&str]) -> String {
        let secrets: Vec<Secret> = secrets.iter().filter_map(|secret| Secret::new(*secret)).collect();
        let mut bytes = text.as_bytes().to_vec();
        scrub(&mut bytes, &secrets);
        let once = bytes.clone();
        scrub(&mut bytes, &secrets);
        assert_eq!(once, bytes, "scrubbing again changes nothing: {text}");
        String::from_utf8(bytes).expect("still UTF-8")
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(scrubbed(text, &[KEY, "pass word/+ü\"1"]), expected, "{text}");
    }

    fn stars(length: usize) -> String {
        "*".repeat(length)
    }

    #[test]
    fn secrets_are_found_in_every_form() {
        let escaped: String = KEY.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
        let percent: String = KEY.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mixed = KEY.replacen('e', "%65", 1).replacen('7', "\\u0037", 1);
        for (open, close) in [("[\"", "\"]"), ("<p>", "</p>")] {
            let star = |form: &str| format!("{open}{}{close}", stars(form.len()));
            for form in [KEY, &escaped, &percent, &mixed, &percent.replace('%', "%25"), &escaped.replace('\\', "\\\\")]
            {
                check(&format!("{open}{form}{close}"), &star(form));
            }
        }
        check(r#"["x pass word/+ü\"1 y"]"#, &format!("[\"x {} y\"]", stars(16)));
        check(r#"["pass+word\/%2b\u00fC%221"]"#, &format!("[\"{}\"]", stars(24)));
        check("pass%20word%2F%2B%C3%BC%221", &stars(27));
    }

    #[test]
    fn secrets_are_found_in_base64() {
        for before in ["", "a", "ab", "abc"] {
            let encoded = URL_SAFE.encode(format!("{before}{KEY}!x"));
            let clean = scrubbed(&format!("[\"{encoded}\"]"), &[KEY]);
            assert!(clean.matches('*').count() >= KEY.len() * 8 / 6 - 1, "{clean}");
            assert_eq!(clean.len(), encoded.len() + 4);
        }
        let odd = ">>>???>>>???";
        for encoded in [STANDARD_NO_PAD.encode(odd), URL_SAFE.encode(odd)] {
            assert_eq!(scrubbed(&encoded, &[odd]), stars(16));
        }
    }

    #[test]
    fn fields_with_a_secret_name_are_starred_whatever_they_hold() {
        check(r#"{"secureKey":"abc","x":"abc"}"#, r#"{"secureKey":"***","x":"abc"}"#);
        check(r#"{"SMS_SecureKeyL":["a\n",{"b":-12.5e3}]}"#, r#"{"SMS_SecureKeyL":["***",{"b":-11.1e1}]}"#);
        check(r#"{"secure\u004bey":null,"apiKey":"k"}"#, r#"{"secure\u004bey":null,"apiKey":"*"}"#);
        check("{'secureKey': 'abc'", "{'secureKey': '***'");
        check("secureKey=abc&x=abc", "secureKey=***&x=abc");
        check("userData%5BSMS_SecureKeyL%5D=abc&y", "userData%5BSMS_SecureKeyL%5D=***&y");
        check("<secureKey>abc</secureKey>", "<secureKey>***</secureKey>");
        check(r#"{"secureKey":"e4071"#, r#"{"secureKey":"*****"#);
        check(r#"x{\"secureKey\":\"abc\"}"#, r#"x{\"secureKey\":\"***\"}"#);
    }

    #[test]
    fn keys_in_what_was_said_are_starred_and_prose_is_kept() {
        check(r#"{"text":"{\"secureKey\":\"0123abcd\"}"}"#, r#"{"text":"{\"secureKey\":\"********\"}"}"#);
        check(r#"{"text":"the secureKey: what is it?"}"#, r#"{"text":"the secureKey: what is it?"}"#);
        check(r#"{"text":"secureKey"}"#, r#"{"text":"secureKey"}"#);
    }

    #[test]
    fn json_stays_json() {
        let rows: [(&str, &[&str], &str); 8] = [
            (r#"{"a":1,"type":"x"}"#, &[r#"":1,"type":""#], r#"{"a":1,"type":"x"}"#),
            (r#"["\nabcdefg"]"#, &["nabcdefg"], r#"["\n*******"]"#),
            (r#"["\u00e4071047872b7820630f"]"#, &[KEY], r#"["\u00e4******************"]"#),
            (r#"["abcdefgh\\\"x"]"#, &[r"abcdefgh\"], r#"["**********\"x"]"#),
            (r#"["abcdefgh\""]"#, &[r"abcdefgh\"], r#"["********\""]"#),
            ("[12345678, 123456789]", &["12345678"], "[11111111, 123456789]"),
            (
                r#"{"messages":[],"type":"ParticipantJoined"}"#,
                &["messages", "ParticipantJoined"],
                r#"{"messages":[],"type":"ParticipantJoined"}"#,
            ),
            (r#"{"key 12345678":1}"#, &["12345678"], r#"{"key ********":1}"#),
        ];
        for (text, secrets, expected) in rows {
            assert_eq!(scrubbed(text, secrets), expected);
        }
    }

    #[test]
    fn the_beginning_of_a_secret_at_a_broken_end_is_starred() {
        let secrets = [Secret::new(KEY).expect("not empty")];
        for (text, expected) in [("x e40710", "x ******"), ("x e40", "x e40"), ("e407", "****"), ("", "")] {
            let mut bytes = text.as_bytes().to_vec();
            Scrubber::new(&secrets, &[]).tail(&mut bytes);
            assert_eq!(bytes, expected.as_bytes());
        }
    }

    #[test]
    fn a_secret_that_was_cut_is_starred_to_its_end() {
        let begun = |begun: &str| {
            let secrets: Vec<Secret> = Secret::new(begun).into_iter().collect();
            Scrubber::new(&secrets, &[]).begun(Some(begun), &["e407-room-17"])
        };
        let check = |known: &str, text: &str, expected: &str| {
            let mut bytes = text.as_bytes().to_vec();
            match Tape::read(text) {
                Ok(tape) => begun(known).json(&mut bytes, &tape, Vec::new()),
                Err(_) => begun(known).text(&mut bytes),
            }
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{known} in {text}");
        };
        for length in 0..KEY.len() {
            let text = format!("bad {KEY}, else e is 1");
            check(&KEY[..length], &text, &text.replace(KEY, &stars(KEY.len())));
        }
        for length in 5..KEY.len() {
            let escaped = KEY.replacen('4', "\\u0034", 1).replacen('8', "%38", 1);
            check(&KEY[..length], &format!(r#"["{KEY}\n"]"#), &format!(r#"["{}\n"]"#, stars(KEY.len())));
            check(&KEY[..length], &format!(r#"["{escaped}"]"#), &format!(r#"["{}"]"#, stars(escaped.len())));
        }
        let encoded = URL_SAFE.encode(format!("a{KEY}!x"));
        check(&KEY[..12], &encoded, &format!("{}{}", &encoded[..2], stars(encoded.len() - 2)));
        check("e40", r#"["e4071047872b7820630f"]"#, r#"["e4071047872b7820630f"]"#);
        check(
            "e407",
            "e407-room-17, e407, me4071047872, e407 is 12345678",
            "e407-room-17, e407, me4071047872, e407 is 12345678",
        );
        check("statusCo", r#"{"statusCode":0}"#, r#"{"statusCode":0}"#);
    }

    #[test]
    fn paths_keep_no_session_and_words_no_secret() {
        let check = |path: &str, expected: &str| {
            let mut path = path.to_string();
            scrub_path_parameters(&mut path);
            assert_eq!(path, expected);
        };
        check("/genesys/2/chat/a=b/c", "/genesys/2/chat/a=b/c");
        check("/a;jsessionid=n0de/b;v=\u{e9}=2;w/c", "/a;jsessionid=****/b;v=****;w/c");
        check("/a;jsessionid", "/a;jsessionid");
        let mut words =
            ["/svc/0123456789abcdef/x", "securekey=0123abcd0123abcd", "%30123456789abcdef"].map(String::from);
        scrub_words(&mut words, &[Secret::new("0123456789abcdef").expect("not empty")]);
        assert_eq!(words, ["/svc/****************/x", "securekey=****************", "******************"]);
    }

    #[test]
    fn short_and_public_secrets_are_not_hunted() {
        assert_eq!(scrubbed("1234567", &["1234567"]), "1234567");
        let secrets = [Secret::new("00001aCY6K8U003T").expect("not empty")];
        assert!(Scrubber::new(&secrets, &["00001aCY6K8U003T"]).secrets.is_empty());
    }

    #[test]
    fn digests_depend_on_key_and_secret() {
        let secret = |text: &str| Secret::new(text).expect("not empty");
        let digests = [(0, "abc"), (1, "abc"), (0, "abd")].map(|(key, text)| key_digest(&[key; 32], &secret(text)));
        assert!(digests[0] != digests[1] && digests[0] != digests[2]);
        assert_eq!(digests[0], key_digest(&[0; 32], &secret("abc")));
    }

    /// What of a secret's base64 does not depend on what is around it, in both alphabets.
    fn base64_forms(secret: &[u8]) -> Vec<Vec<u8>> {
        let mut forms = Vec::new();
        for (before, engine) in (0..3).flat_map(|before| [(before, STANDARD), (before, URL_SAFE)]) {
            let among = |other: u8| engine.encode([&[other].repeat(before), secret, &[other; 3]].concat()).into_bytes();
            let (zeros, ones) = (among(0), among(0xff));
            forms.push(zeros.iter().zip(&ones).filter(|(a, b)| a == b && **a != b'=').map(|(a, _)| *a).collect());
        }
        forms
    }

    /// A byte of a decoded text, and what of the text as it came it stands for.
    type Decoded = (u8, Range<usize>);

    /// Undoes what begins with `mark`, byte by byte.
    fn undone(text: &[Decoded], mark: u8) -> Vec<Decoded> {
        let mut view = Vec::new();
        let mut at = 0;
        while let Some((first, source)) = text.get(at) {
            let bytes: Vec<u8> = text[at..].iter().take(12).map(|(byte, _)| *byte).collect();
            let unit = if *first != mark {
                None
            } else if mark == b'%' {
                let digits = bytes.get(1..3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(|byte| (vec![byte], 3))
            } else {
                let decoded = |escape| match escape {
                    Escape::Char(char) => char.to_string().into_bytes(),
                    Escape::Surrogate(_) => "\u{fffd}".into(),
                };
                escape_at(&bytes).map(|(escape, length)| (decoded(escape), length))
            };
            let (bytes, length) = unit.unwrap_or((vec![*first], 1));
            let place = source.start..text[at + length - 1].1.end;
            view.extend(bytes.into_iter().map(|byte| (byte, place.clone())));
            at += length;
        }
        view
    }

    /// Every form of every secret, by plain search in every view.
    fn plainly_found(text: &[u8], secrets: &[Vec<u8>]) -> Vec<(usize, usize)> {
        let mut view: Vec<Decoded> = text.iter().enumerate().map(|(at, byte)| (*byte, at..at + 1)).collect();
        let mut found = Vec::new();
        for mark in [None].into_iter().chain([b'\\', b'%'].repeat(LEVELS_MAX).into_iter().map(Some)) {
            view = mark.map_or_else(|| view.clone(), |mark| undone(&view, mark));
            let as_is: Vec<u8> = view.iter().map(|(byte, _)| *byte).collect();
            let mut look = |form: &[u8], bytes: &[u8]| {
                let mut at = 0;
                while at + form.len() <= bytes.len() {
                    let is_found = bytes[at..].starts_with(form);
                    let end = at + form.len();
                    found.extend(is_found.then(|| (view[at].1.start, view[end - 1].1.end)));
                    at = if is_found { end } else { at + 1 };
                }
            };
            for secret in secrets {
                look(secret, &as_is);
                base64_forms(secret).iter().for_each(|form| look(form, &as_is));
                if secret.contains(&b' ') {
                    look(&plus_as_space(secret), &plus_as_space(&as_is));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A secret in a dress: as it is, in base64 among others, cut; then some of it escaped, percent-encoded, again.
    fn dressed(secret: &str, (form, ways): &(u8, Vec<u8>)) -> String {
        let before = &"\u{7f}a"[..usize::from(form % 3)];
        let base = match form % 5 {
            0 => STANDARD.encode(format!("{before}{secret}~~")),
            1 => URL_SAFE.encode(format!("{before}{secret}~~")),
            2 => secret[1..].to_owned(),
            3 => secret.replace(' ', "+"),
            _ => secret.to_owned(),
        };
        let mut text = base;
        for level in ways.chunks(3) {
            let ways = level.iter().cycle();
            text = text.chars().zip(ways).map(|(c, way)| spelt(c, if *way < 200 { 0 } else { *way })).collect();
        }
        text
    }

    /// One character of a secret, written one of the ways.
    fn spelt(c: char, way: u8) -> String {
        let percent = || c.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
        let units = || c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
        match way % 3 {
            0 if !matches!(c, '"' | '\\' | '%' | '+') => c.to_string(),
            1 => percent(),
            _ => units(),
        }
    }

    proptest! {
        #[test]
        fn what_a_plain_search_finds_is_found_and_nothing_else(
            secrets in proptest::collection::vec("[ab+ ?>0]{8,11}|[0-9a-f]{20}", 1..4),
            dresses in proptest::collection::vec(
                (0..3_usize, (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..10)), r"[ab0 +%\\u5c2]{0,9}|%25|\\\\|\\u005c"),
                0..6,
            ),
        ) {
            let pieces = dresses.iter().map(|(of, dress, noise)| dressed(&secrets[of % secrets.len()], dress) + noise);
            let text: String = pieces.collect();
            let wrapped: Vec<Secret> = secrets.iter().filter_map(|secret| Secret::new(secret.as_str())).collect();
            let scrubber = Scrubber::new(&wrapped, &[]);
            let stretches = scrubber.stretches(text.as_bytes(), 0);
            prop_assert!(stretches.is_sorted_by_key(|stretch| stretch.start));
            let mut found: Vec<_> = stretches.into_iter().map(|stretch| (stretch.start, stretch.end)).collect();
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found, plainly_found(text.as_bytes(), &scrubber.secrets), "{}", text);
        }

        #[test]
        fn no_spelling_of_a_secret_survives(
            // Without % and \\: what reads as an encoding itself is undone with the text around it. Keys are hex or base64.
            secret in r#"[a-zA-Z0-9"/+=é😀 ]{8,24}"#,
            ways in proptest::collection::vec(any::<u8>(), 24),
            before in "[a-z é]{0,6}",
            after in "[a-z %é]{0,5}",
        ) {
            prop_assume!(!PUBLIC_WORDS.iter().any(|word| word.contains(&secret)));
            let spelt: String = secret.chars().zip(&ways).map(|(c, way)| spelt(c, *way)).collect();
            let stars = stars(spelt.len());
            for (open, close) in [("{\"text\":\"", "\"}"), ("", "\u{1}")] {
                let clean = scrubbed(&format!("{open}{before}{spelt}{after}{close}"), &[&secret]);
                prop_assert!(clean.contains(&stars), "{}", clean);
                prop_assert!(!clean.contains(&secret));
                prop_assert_eq!(Tape::read(&clean).is_ok(), !open.is_empty());
            }
        }

        #[test]
        fn any_json_stays_json(text in r#"(\\u00[0-9a-f]{2}|\\\\|\\"|\\n|%[0-9a-f]{2}|[a-e0-3]){0,40}"#, secret in r#"[a-e0-3u\\"n%]{8,9}"#) {
            let json = format!("[\"{text}\",12301230]");
            prop_assert!(Tape::read(&json).is_ok());
            let clean = scrubbed(&json, &[&secret]);
            prop_assert!(Tape::read(&clean).is_ok(), "{}", clean);
            prop_assert_eq!(clean.len(), json.len());
        }

        #[test]
        fn whatever_comes_never_panics(mut bytes in any::<Vec<u8>>(), secret in any::<String>()) {
            let length = bytes.len();
            scrub(&mut bytes, &Secret::new(secret).into_iter().collect::<Vec<_>>());
            prop_assert_eq!(bytes.len(), length);
        }
    }
}
