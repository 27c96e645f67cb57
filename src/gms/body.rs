//! An answer's body made readable and clean: decoded, UTF-8, scrubbed, masked, and on a tape if it is JSON. Knows which
//! fields are secret or private, not what an answer means.

use std::borrow::Cow;
use std::ops::Range;

use super::decode::{Decoded, Trouble, decode};
use super::json::{Kind, Tape, Value};
use super::mask::{Masked, Masks};
use super::scrub::{Scrubber, fields_in, is_secret_name};
use super::{Exchange, Policy};
use crate::chat::{ChatId, Masking, Secret};

/// What a body turned out to be.
pub(super) struct Body<'a> {
    /// What could be decoded, as it came; UTF-16 as UTF-8.
    pub bytes: Cow<'a, [u8]>,
    /// Why that is not all.
    pub trouble: Option<Trouble>,
    /// The bytes as text, invalid sequences replaced.
    pub text: Cow<'a, str>,
    /// The bytes were no UTF-8.
    pub is_repaired: bool,
}

impl<'a> Body<'a> {
    /// Undoes the Content-Encoding and makes UTF-8 of it. In what has zeros still neither a secret nor a card would be found:
    /// nothing is left of that.
    pub fn open(exchange: &Exchange<'a>, policy: &Policy) -> Self {
        let mut decoded = decode(exchange.body, exchange.content_encoding, policy.decoded_bytes_max);
        if let Some(text) = of_utf16(&decoded.bytes) {
            decoded.bytes = Cow::Owned(text.into_bytes());
        }
        if memchr::memchr(0, &decoded.bytes).is_some() {
            decoded = Decoded { bytes: Cow::Borrowed(b""), trouble: Some(Trouble::UnknownCharacters) };
        }
        let (text, is_repaired) = match &decoded.bytes {
            Cow::Borrowed(bytes) => as_text(bytes),
            Cow::Owned(bytes) => {
                let (text, is_repaired) = as_text(bytes);
                (Cow::Owned(text.into_owned()), is_repaired)
            }
        };
        Self { is_repaired, text, bytes: decoded.bytes, trouble: decoded.trouble }
    }
}

/// What UTF-16 says: told by its mark, or by two ASCII characters at the beginning, as there are in all JSON and HTML (RFC 4627,
/// section 3).
fn of_utf16(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let of_units = |read: fn([u8; 2]) -> u16| {
        let units = units.iter().map(|unit| read(*unit)).skip_while(|unit| *unit == 0xfeff);
        let broken_off = (!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        let chars = char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER));
        chars.chain(broken_off).collect()
    };
    match units {
        [[0xff, 0xfe], ..] | [[1..=0x7f, 0], [1..=0x7f, 0], ..] => Some(of_units(u16::from_le_bytes)),
        [[0xfe, 0xff], ..] | [[0, 1..=0x7f], [0, 1..=0x7f], ..] => Some(of_units(u16::from_be_bytes)),
        _ => None,
    }
}

/// The bytes as text, and whether they had to be repaired for it.
fn as_text(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), false),
        Err(_) => (String::from_utf8_lossy(bytes), true),
    }
}

/// The secrets and the public words that an exchange brings along, before its answer's own are added.
pub(super) struct Known<'a> {
    /// Of the request's fields.
    pub requested: &'a [Secret],
    /// Of one of them only the beginning was seen.
    pub begun: Option<&'a str>,
    /// Of the header fields of both sides.
    pub credentials: &'a [Secret],
    /// The chat of the path.
    pub path_chat: Option<&'a ChatId>,
    /// What was seen with a chat before.
    pub of_chat: &'a dyn Fn(&ChatId) -> Vec<Secret>,
}

impl Known<'_> {
    /// For a text that holds these secrets itself and is about these chats. The nearest come first: their number is
    /// bounded.
    pub fn scrubber(&self, own: &[Secret], mut chats: Vec<ChatId>) -> Scrubber {
        chats.extend(self.path_chat.cloned());
        chats.sort();
        chats.dedup();
        let known: Vec<Secret> = chats.iter().flat_map(|chat| (self.of_chat)(chat)).collect();
        let public: Vec<&str> = chats.iter().map(ChatId::as_str).collect();
        let all = own.iter().chain(&known).chain(self.requested).chain(self.credentials);
        Scrubber::new(all, &public).begun(self.begun, &public)
    }
}

/// A JSON text, scrubbed and masked, with its tape.
pub(super) struct Document<'a> {
    /// As it came: for digests of its secrets, and nothing else.
    original: Cow<'a, str>,
    clean: String,
    tape: Tape,
    /// What was masked, and in which leaf.
    masked: Vec<(Range<usize>, Masked)>,
}

impl<'a> Document<'a> {
    /// Gives the text back if it is no JSON.
    pub fn read(original: Cow<'a, str>, known: &Known<'_>, policy: &Policy) -> Result<Self, Cow<'a, str>> {
        let Ok(tape) = Tape::read(&original) else { return Err(original) };
        let told = Told::by(tape.root(&original));
        let scrubber = known.scrubber(&told.secrets, told.chats);
        let mut private = told.secret_places;
        if told.has_typing && !policy.keep_typing_text {
            private.extend(typing_previews(tape.root(&original)));
        }
        let mut bytes = original.as_bytes().to_vec();
        scrubber.json(&mut bytes, &tape, private);
        // A secret comes first: part of one may look like a card.
        let masked = policy.masks.json(&mut bytes, tape.root(&original));
        let clean = String::from_utf8(bytes).unwrap_or_else(|broken| only_ascii(broken.into_bytes()));
        Ok(Self { original, clean, tape, masked })
    }

    /// The outermost value, scrubbed and masked.
    pub fn root(&self) -> Value<'_> {
        self.tape.root(&self.clean)
    }

    /// The text, scrubbed and masked.
    pub fn text(&self) -> &str {
        &self.clean
    }

    /// What was masked in a value of it.
    pub fn maskings_in(&self, value: Value<'_>) -> Vec<Masking> {
        let place = value.place();
        let inside = self.masked.iter().filter(|(leaf, _)| place.start <= leaf.start && leaf.end <= place.end);
        inside.map(|(leaf, masked)| masked.of(&value.pointer_to(leaf))).collect()
    }

    /// The same value before it was scrubbed.
    pub fn before_scrubbing<'d>(&'d self, value: Value<'d>) -> Value<'d> {
        value.over(&self.original)
    }
}

/// Stars are cut from whole characters only, so this is never needed; if it were, offsets and secrets stay safe.
fn only_ascii(bytes: Vec<u8>) -> String {
    bytes.into_iter().map(|byte| if byte.is_ascii() { char::from(byte) } else { '*' }).collect()
}

/// The bytes that a repaired text stands for, with the stars that the scrubbed text has.
pub(super) fn unrepaired(original: &[u8], clean: &str) -> Vec<u8> {
    const REPLACEMENT_BYTES: usize = 3;
    let mut clean = clean.as_bytes();
    let mut bytes = Vec::with_capacity(original.len());
    for chunk in original.utf8_chunks() {
        let (valid, rest) = clean.split_at(chunk.valid().len().min(clean.len()));
        bytes.extend_from_slice(valid);
        clean = rest;
        if !chunk.invalid().is_empty() {
            let is_starred = !clean.starts_with("\u{fffd}".as_bytes());
            clean = clean.get(REPLACEMENT_BYTES..).unwrap_or_default();
            bytes.extend(chunk.invalid().iter().map(|byte| if is_starred { b'*' } else { *byte }));
        }
    }
    bytes
}

/// A text that is no JSON, scrubbed and masked.
pub(super) struct CleanText {
    /// The text.
    pub bytes: Vec<u8>,
    /// What was masked in it.
    pub maskings: Vec<Masking>,
}

impl CleanText {
    /// What of it is text.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// Cleans a text that is no JSON. `breaks_off`: a secret or a card number may be cut at its end.
pub(super) fn clean_text(text: &[u8], known: &Known<'_>, policy: &Policy, breaks_off: bool) -> CleanText {
    let value = |place: Range<usize>| std::str::from_utf8(&text[place]).ok().and_then(Secret::new);
    let own: Vec<Secret> = fields_in(text).into_iter().filter_map(value).collect();
    let scrubber = known.scrubber(&own, Vec::new());
    let mut clean = text.to_vec();
    scrubber.text(&mut clean);
    if breaks_off {
        scrubber.tail(&mut clean);
    }
    let maskings = mask_text(&mut clean, &policy.masks, breaks_off);
    CleanText { bytes: clean, maskings }
}

/// Masks a text that is no JSON, and perhaps no text in all of its bytes.
pub(super) fn mask_text(text: &mut Vec<u8>, masks: &Masks, breaks_off: bool) -> Vec<Masking> {
    let masked = match std::str::from_utf8(text) {
        Ok(_) => masks.text(text, breaks_off),
        Err(_) => {
            let mut repaired = String::from_utf8_lossy(text).into_owned().into_bytes();
            let masked = masks.text(&mut repaired, breaks_off);
            *text = unrepaired(text, &String::from_utf8_lossy(&repaired));
            masked
        }
    };
    masked.iter().map(|masked| masked.of("")).collect()
}

/// What the members of a JSON text tell about how it is to be scrubbed.
#[derive(Default)]
struct Told {
    /// The values of the fields whose names say that they are secret.
    secrets: Vec<Secret>,
    /// Where they are.
    secret_places: Vec<Range<usize>>,
    /// The chats that are named.
    chats: Vec<ChatId>,
    /// Something is of a typing event's type: there may be typing previews.
    has_typing: bool,
}

impl Told {
    /// One pass: it runs over every answer that brings something new.
    fn by(root: Value<'_>) -> Self {
        let mut told = Self::default();
        for (key, value) in root.all_members() {
            match &*key.wide() {
                // By far most names are these.
                b"from" | b"nickname" | b"participantId" | b"index" | b"text" | b"utcTime" | b"messageType" => {}
                b"type" => told.has_typing |= is_typing(value),
                b"chatId" => told.chats.extend(chat_id(value)),
                name if is_secret_name(name) => {
                    told.secrets.extend(value.leaves().filter_map(|leaf| Secret::new(leaf.text_or_raw())));
                    told.secret_places.extend(value.leaves().map(Value::place));
                }
                _ => {}
            }
        }
        told
    }
}

/// A chatId as a body gives it.
pub(super) fn chat_id(value: Value<'_>) -> Option<ChatId> {
    matches!(value.kind(), Kind::String | Kind::Number).then(|| ChatId::parse(&value.text_or_raw())).flatten()
}

/// What the customer typed and did not send: the text of typing events, wherever there are messages.
fn typing_previews(root: Value<'_>) -> Vec<Range<usize>> {
    let transcripts = root.all_members().filter(|(key, _)| key.is_named("messages"));
    let events = transcripts.flat_map(|(_, messages)| messages.elements().chain([messages]));
    let typing = events.filter(|event| event.members().any(|(key, value)| key.is_named("type") && is_typing(value)));
    let texts = typing.flat_map(|event| event.members().filter(|(key, _)| key.is_named("text")));
    texts.flat_map(|(_, text)| text.leaves()).map(Value::place).collect()
}

fn is_typing(kind: Value<'_>) -> bool {
    let is_one = |kind: &str| ["TypingStarted", "TypingStopped"].iter().any(|name| kind.eq_ignore_ascii_case(name));
    kind.text().is_some_and(|kind| is_one(&kind))
}
