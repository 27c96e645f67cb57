//! Masking: card numbers, their verification values and what the configuration names become stars before anything is kept.
//! Knows texts, JSON and what its rules look for; not what a text is of, nor where it goes.
//!
//! A star has as many bytes as what it stands for: `*`, `٭` (2), `＊` (3), `🞶` (4), or an escape of the same length. So a
//! text keeps its length in characters and in bytes, JSON stays JSON, and a tape read before stays true. In a number, which
//! cannot hold stars, digits become ones. Of a card the digits are masked, all of them, and what separates them is left.

mod cards;
mod values;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::json::{Kind, Tape, Value};
use super::scrub::View;
use crate::chat::Masking;
use cards::{cards_in, digit_of};
use values::{is_value_name, may_have_value, value_alone, values_in};

/// The rule that is named so finds card numbers.
const CARDS: &str = "cards";
/// The rule that is named so finds their verification values.
const VALUES: &str = "cvv";

/// Rules of the configuration. Each looks at every text; more are a programme of their own.
pub const RULES_MAX: usize = 64;
/// A rule's name is a label of a metric and a column of a row.
const NAME_BYTES_MAX: usize = 64;
/// What an expression may take once it is compiled, and its cache for each thread: some thousand states.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;
/// Digits that the shortest of what is looked for has: a verification value.
const DIGITS_MIN: usize = 3;
/// The shortest text in which something is found: `cvv123`.
const VALUE_BYTES_MIN: usize = 6;
const QUOTES_BYTES: usize = 2;
/// The longest string that is a verification value by its name: four digits, each two escapes, and some blanks.
const NAMED_BYTES_MAX: usize = 64;
/// What is left beside a number that was masked is looked at again. Hardly ever is something found then, and never so often.
const ROUNDS_MAX: usize = 8;
/// Maskings told apart in one text. The last one reaches to the end of all that follow.
const MASKINGS_MAX: usize = 100;
/// A field's name in the evidence; what is longer is cut.
const FIELD_BYTES_MAX: usize = 256;

/// Members that are keys and clocks: never masked, whatever they look like.
const KEYS: [&str; 5] = ["chatId", "index", "utcTime", "nextPosition", "transcriptPosition"];
/// Members that often have three digits, and never a verification value.
const NUMBERS: [&str; 2] = ["alias", "participantId"];
/// Members by which an answer is understood: rules of the configuration leave them alone.
const WORDS: [&str; 10] = [
    "type",
    "statusCode",
    "participantId",
    "chatEnded",
    "channel",
    "id",
    "clientId",
    "successful",
    "code",
    "operation",
];

/// The `[masking]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Mask card numbers and their verification values.
    pub cards: bool,
    /// Further rules: a name, and a regular expression. What its groups match is masked, else all that it matches.
    pub rules: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { cards: true, rules: BTreeMap::new() }
    }
}

/// The rules in force. Cheap to clone.
#[derive(Clone)]
pub struct Masks(Arc<Rules>);

struct Rules {
    cards: Option<[Arc<str>; 2]>,
    own: Vec<Rule>,
    /// Of the program's two, the one that counts: they are looked for together.
    one_of_ours: Option<Arc<str>>,
}

/// A rule of the configuration.
#[derive(Clone)]
pub struct Rule {
    name: Arc<str>,
    expression: Regex,
}

impl Rule {
    /// Compiles it.
    ///
    /// # Errors
    /// One sentence: what is wrong with the name or the expression.
    pub fn new(name: &str, expression: &str) -> Result<Self, String> {
        let is_named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_named) {
            let wanted = format!("small letters, digits, - and _ are wanted, at most {NAME_BYTES_MAX}");
            return Err(format!("\"{name}\" is no name of a rule: {wanted}"));
        }
        if [CARDS, VALUES].contains(&name) {
            return Err(format!("\"{name}\" is a rule of the program: masking.cards switches it; choose another name"));
        }
        let mut builder = RegexBuilder::new(expression);
        let compiled = builder.size_limit(EXPRESSION_BYTES_MAX).dfa_size_limit(EXPRESSION_BYTES_MAX).build();
        let compiled = compiled.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => format!("rule \"{name}\" is too large once compiled; split it"),
            other => format!("rule \"{name}\" is no regular expression: {}", in_a_line(&other)),
        })?;
        if compiled.is_match("") {
            return Err(format!(
                "rule \"{name}\" matches the empty text, and so everywhere nothing; ask for a character"
            ));
        }
        Ok(Self { name: name.into(), expression: compiled })
    }
}

/// The last line says what is wrong; those before draw an arrow to it.
fn in_a_line(error: &regex::Error) -> String {
    let said = error.to_string();
    said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl Default for Masks {
    fn default() -> Self {
        Self::new(&Config::default()).expect("there are no rules that could be wrong")
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Masks").field(&self.names()).finish()
    }
}

/// Which rules look at a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    CardsOnly,
}

/// How characters are written in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Plain,
    /// With the escapes of a JSON string.
    Json,
    /// Percent-encoded, as in a URL.
    Percent,
}

/// What a rule found, in bytes of a decoded text.
struct Hit {
    rule: Arc<str>,
    place: Range<usize>,
    digits_only: bool,
}

/// A masking before it is said of which text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Masked {
    rule: Arc<str>,
    at: usize,
    characters: usize,
}

impl Masked {
    /// Of a stretch of a text.
    fn at(rule: &Arc<str>, text: &str, place: &Range<usize>) -> Self {
        let [at, characters] = [&text[..place.start], &text[place.clone()]].map(|text| text.chars().count());
        Self { rule: rule.clone(), at, characters }
    }

    /// Says of which text.
    pub fn of(&self, field: &str) -> Masking {
        let field = field[..field.floor_char_boundary(FIELD_BYTES_MAX)].to_owned();
        Masking { rule: self.rule.clone(), field, at: self.at, characters: self.characters }
    }
}

impl Masks {
    /// Compiles the rules.
    ///
    /// # Errors
    /// Which rule is at fault, in the order of their names, and a sentence.
    pub fn new(config: &Config) -> Result<Self, (usize, String)> {
        let rules = config.rules.iter().enumerate();
        let own = rules.map(|(n, (name, expression))| Rule::new(name, expression).map_err(|sentence| (n, sentence)));
        let cards = config.cards.then(|| [CARDS, VALUES].map(Arc::from));
        Ok(Self(Arc::new(Rules { cards, own: own.collect::<Result<_, _>>()?, one_of_ours: None })))
    }

    /// One of the rules in force, by its name; with that for cards comes that for their values, which are found by the card that
    /// they stand beside. None where there is none of that name.
    pub fn only(&self, name: &str) -> Option<Self> {
        let Rules { cards, own, .. } = &*self.0;
        let cards = cards.clone().filter(|_| [CARDS, VALUES].contains(&name));
        let values = cards.iter().flatten().find(|rule| ***rule == *VALUES && name == VALUES).cloned();
        let own: Vec<Rule> = own.iter().filter(|rule| &*rule.name == name).cloned().collect();
        let is_any = cards.is_some() || !own.is_empty();
        is_any.then(|| Self(Arc::new(Rules { cards, own, one_of_ours: values })))
    }

    /// What a rule of the configuration looks for. None of the program's own.
    pub fn expression(&self, name: &str) -> Option<&str> {
        self.0.own.iter().find(|rule| &*rule.name == name).map(|rule| rule.expression.as_str())
    }

    /// The names of the rules.
    pub fn names(&self) -> Vec<&str> {
        let Rules { cards, own, .. } = &*self.0;
        cards.iter().flatten().chain(own.iter().map(|rule| &rule.name)).map(|name| &**name).collect()
    }

    /// Masks words of a request, where some may be percent-encoded: a path, the name of a page or a browser.
    pub fn words<'w>(&self, words: impl IntoIterator<Item = (&'static str, &'w mut String)>) -> Vec<Masking> {
        let of_word = |(field, word): (&str, &mut String)| {
            let masked = self.string(word, Spelling::Percent);
            masked.into_iter().map(move |masked| masked.of(field)).collect::<Vec<_>>()
        };
        words.into_iter().flat_map(of_word).collect()
    }

    /// Masks one plain text.
    pub(super) fn plain(&self, text: &mut String) -> Vec<Masked> {
        self.string(text, Spelling::Plain)
    }

    /// Masks the value of a field: as a text, and as JSON where it is some. The place within it of each, and what was masked.
    pub(super) fn field(&self, name: &str, value: &mut String) -> Vec<(String, Masked)> {
        if !self.may_find(value.as_bytes(), Scope::All) {
            return Vec::new();
        }
        let original = value.clone();
        let of_text = self.named(name, value).into_iter().chain(self.plain(value));
        let of_text: Vec<_> = of_text.map(|masked| (String::new(), masked)).collect();
        match original.trim_start().starts_with(['{', '[']).then(|| Tape::read(&original)) {
            Some(Ok(tape)) => [of_text, self.field_of_json(name, &original, &tape, value)].concat(),
            _ => of_text,
        }
    }

    /// Masks in a field's value what it holds as JSON, beside what was masked in it as a text.
    fn field_of_json(&self, name: &str, original: &str, tape: &Tape, value: &mut String) -> Vec<(String, Masked)> {
        let mut json = original.as_bytes().to_vec();
        let mut found = self.json_of(Some(name), &mut json, tape.root(original));
        let mut bytes = std::mem::take(value).into_bytes();
        let is_left = |bytes: &[u8], at: usize| bytes[at] == original.as_bytes()[at];
        found.retain(|(leaf, _)| leaf.clone().any(|at| is_left(&bytes, at) && !is_left(&json, at)));
        // Both put the same star in the place of a character.
        for (byte, (original, json)) in bytes.iter_mut().zip(original.bytes().zip(&json)) {
            if *byte == original {
                *byte = *json;
            }
        }
        *value =
            String::from_utf8(bytes).unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned());
        let json = String::from_utf8_lossy(&json);
        found.into_iter().map(|(leaf, masked)| (tape.root(&json).pointer_to(&leaf), masked)).collect()
    }

    /// Masks the value of a field that is named as one for verification values: `cvv`, `userData[cvv]`.
    fn named(&self, name: &str, value: &mut String) -> Option<Masked> {
        let rule = self.values_rule()?;
        let digits = value_alone(value).filter(|_| is_value_name(name))?;
        let masked = Masked::at(rule, value, &digits);
        let mut bytes = std::mem::take(value).into_bytes();
        star_each(&mut bytes, &digits, None);
        *value = String::from_utf8(bytes).expect("a star has the bytes of what it stands for");
        Some(masked)
    }

    /// Whether a card number is in a text.
    pub fn is_card(&self, text: &str) -> bool {
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        self.0.cards.is_some() && digits >= cards::DIGITS_MIN && !cards_in(text, false).is_empty()
    }

    fn string(&self, text: &mut String, spelling: Spelling) -> Vec<Masked> {
        if !self.may_find(text.as_bytes(), Scope::All) {
            return Vec::new();
        }
        let mut bytes = std::mem::take(text).into_bytes();
        let masked = self.mask(&mut bytes, spelling, Scope::All, false);
        *text = String::from_utf8(bytes).unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned());
        masked
    }

    /// Masks a text that is not read as JSON, and may be a part of one. `breaks_off`: a number may be cut at its end.
    pub(super) fn text(&self, text: &mut [u8], breaks_off: bool) -> Vec<Masked> {
        self.mask(text, Spelling::Json, Scope::All, breaks_off)
    }

    /// Masks the strings, numbers and names in a JSON text, and says in which of them. `root` is of this text.
    pub(super) fn json(&self, bytes: &mut [u8], root: Value<'_>) -> Vec<(Range<usize>, Masked)> {
        self.json_of(None, bytes, root)
    }

    /// The same of what is the value of a field, where the rules of the configuration look at the text as it is.
    fn json_of(&self, field: Option<&str>, bytes: &mut [u8], root: Value<'_>) -> Vec<(Range<usize>, Masked)> {
        let mut masked = Vec::new();
        let widest = if field.is_none() { Scope::All } else { Scope::CardsOnly };
        let is_ruled = widest == Scope::All && !self.0.own.is_empty();
        // By far most leaves are shorter.
        let bytes_min = |kind| match kind {
            Kind::Key => cards::DIGITS_MIN + QUOTES_BYTES,
            Kind::Number if is_ruled => 1,
            Kind::Number => cards::DIGITS_MIN,
            _ if is_ruled => 1 + QUOTES_BYTES,
            _ => VALUE_BYTES_MIN + QUOTES_BYTES,
        };
        let named_min = |kind| match kind {
            Kind::Key => bytes_min(Kind::Key),
            Kind::Number => bytes_min(Kind::Number).min(DIGITS_MIN),
            _ => bytes_min(kind).min(DIGITS_MIN + QUOTES_BYTES),
        };
        for (key, leaf) in root.texts(named_min) {
            let place = leaf.place();
            if may_be_value(&bytes[place.clone()])
                && let Some(value) = self.named_value(field, bytes, key, leaf)
            {
                masked.push((place, value));
                continue;
            }
            if place.len() < bytes_min(leaf.kind()) {
                continue;
            }
            let (inside, scope) = match leaf.kind() {
                Kind::Key => (place.start + 1..place.end - 1, Scope::CardsOnly),
                // No card begins so, and every time stamp does.
                Kind::Number if bytes[place.start] == b'1' && !is_ruled => continue,
                Kind::Number => (place.clone(), widest),
                _ => (place.start + 1..place.end - 1, widest),
            };
            if !self.may_find(&bytes[inside.clone()], scope) {
                continue;
            }
            let Some(scope) = scope_of(key, scope) else { continue };
            let found = match leaf.kind() {
                Kind::Number => self.mask_number(&mut bytes[inside], scope),
                _ => self.mask(&mut bytes[inside], Spelling::Json, scope, false),
            };
            masked.extend(found.into_iter().map(|found| (place.clone(), found)));
        }
        masked
    }

    /// Masks a leaf that is a verification value by the name of its member, or of the field, array or object that it is in.
    #[cold]
    fn named_value(
        &self,
        field: Option<&str>,
        bytes: &mut [u8],
        key: Option<Value<'_>>,
        leaf: Value<'_>,
    ) -> Option<Masked> {
        let rule = self.values_rule()?;
        if key.is_some_and(|key| KEYS.iter().chain(&NUMBERS).any(|name| key.is_named(name))) {
            return None;
        }
        let place = leaf.place();
        let inside = match leaf.kind() {
            Kind::Number => place,
            Kind::String => place.start + 1..place.end - 1,
            _ => return None,
        };
        let written = &mut bytes[inside];
        let view = View::of(written, b'\\');
        let decoded = std::str::from_utf8(view.as_ref().map_or(written, |view| &view.bytes)).ok()?;
        let digits = value_alone(decoded)?;
        let is_named = |key: Value<'_>| key.text().is_some_and(|name| is_value_name(&name));
        if !(field.is_some_and(is_value_name) || key.into_iter().chain(leaf.keys_around()).any(is_named)) {
            return None;
        }
        let masked = Masked::at(rule, decoded, &digits);
        match leaf.kind() {
            Kind::Number => written[digits].fill(b'1'),
            _ => star_each(written, &digits, view.as_ref()),
        }
        Some(masked)
    }

    /// Where verification values are looked for.
    fn values_rule(&self) -> Option<&Arc<str>> {
        let [_, rule] = self.0.cards.as_ref()?;
        Some(rule).filter(|rule| self.counts(rule))
    }

    fn counts(&self, rule: &Arc<str>) -> bool {
        self.0.one_of_ours.as_ref().is_none_or(|one| one == rule)
    }

    /// What a JSON text would be under the rules in force: what was kept under others is held against it.
    pub fn again<'r>(&self, raw: &'r str) -> Cow<'r, str> {
        let Ok(tape) = Tape::read(raw) else { return Cow::Borrowed(raw) };
        let mut bytes = raw.as_bytes().to_vec();
        match self.json(&mut bytes, tape.root(raw)).is_empty() {
            true => Cow::Borrowed(raw),
            false => String::from_utf8(bytes).map_or(Cow::Borrowed(raw), Cow::Owned),
        }
    }

    /// Whether it is worth looking closer: by far most texts hold no number of three digits.
    fn may_find(&self, bytes: &[u8], scope: Scope) -> bool {
        let is_ruled = scope == Scope::All && !self.0.own.is_empty();
        is_ruled || self.0.cards.is_some() && may_have_digits(bytes)
    }

    fn mask_number(&self, number: &mut [u8], scope: Scope) -> Vec<Masked> {
        let hits = std::str::from_utf8(number).map_or_else(|_| Vec::new(), |text| self.hits(text, scope, false));
        let masked = evidence(std::str::from_utf8(number).unwrap_or_default(), &hits);
        for hit in hits {
            number[hit.place].iter_mut().filter(|byte| byte.is_ascii_digit()).for_each(|byte| *byte = b'1');
        }
        masked
    }

    /// Looks at what a text decodes to, and puts a star in the place of each character where it is written.
    fn mask(&self, written: &mut [u8], spelling: Spelling, scope: Scope, breaks_off: bool) -> Vec<Masked> {
        let mut masked = Vec::new();
        let mut scope = scope;
        for _ in 0..ROUNDS_MAX {
            let view = match spelling {
                Spelling::Plain => None,
                Spelling::Json => View::of(written, b'\\'),
                Spelling::Percent => View::of(written, b'%'),
            };
            let Ok(decoded) = std::str::from_utf8(view.as_ref().map_or(written, |view| &view.bytes)) else {
                // What is percent-encoded may be no text; what it is written in always is.
                let is_plain = spelling == Spelling::Plain;
                return if is_plain { masked } else { self.mask(written, Spelling::Plain, scope, breaks_off) };
            };
            let hits = self.hits(decoded, scope, breaks_off);
            if hits.is_empty() {
                break;
            }
            masked.extend(evidence(decoded, &hits));
            let decoded = decoded.to_owned();
            let chars = hits.iter().flat_map(|hit| {
                let chars = decoded[hit.place.clone()].char_indices();
                let wanted = chars.filter(|(_, char)| !hit.digits_only || digit_of(*char).is_some());
                wanted.map(|(at, char)| hit.place.start + at..hit.place.start + at + char.len_utf8())
            });
            let source = |char: Range<usize>| view.as_ref().map_or(char.clone(), |view| view.source_of(&char));
            chars.map(source).for_each(|place| star(&mut written[place]));
            // A rule of the configuration may match its own stars.
            scope = Scope::CardsOnly;
        }
        masked
    }

    fn hits(&self, text: &str, scope: Scope, breaks_off: bool) -> Vec<Hit> {
        let mut hits = Vec::new();
        if let Some([cards_rule, values_rule]) = &self.0.cards {
            let digits = text.chars().filter(|char| digit_of(*char).is_some()).count();
            let may_have_card = digits >= cards::DIGITS_MIN || breaks_off;
            let cards = if may_have_card { cards_in(text, breaks_off) } else { Vec::new() };
            let may_have_value = digits >= DIGITS_MIN && may_have_value(text);
            let values = if may_have_value { values_in(text, &cards) } else { Vec::new() };
            let hit = |rule: &Arc<str>, place| Hit { rule: rule.clone(), place, digits_only: true };
            hits.extend(cards.into_iter().map(|card| hit(cards_rule, card.place)));
            hits.extend(values.into_iter().map(|value| hit(values_rule, value)));
        }
        hits.retain(|hit| self.counts(&hit.rule));
        if scope == Scope::All {
            hits.extend(self.0.own.iter().flat_map(|rule| rule.hits(text)));
        }
        hits.sort_by_key(|hit| hit.place.start);
        hits
    }
}

impl Rule {
    fn hits(&self, text: &str) -> Vec<Hit> {
        let hit = |place: Range<usize>| Hit { rule: self.name.clone(), place, digits_only: false };
        let places: Vec<Range<usize>> = match self.expression.captures_len() {
            1 => self.expression.find_iter(text).map(|found| found.range()).collect(),
            _ => {
                let found = self.expression.captures_iter(text);
                found
                    .flat_map(|found| {
                        let groups: Vec<_> = found.iter().skip(1).flatten().map(|group| group.range()).collect();
                        if groups.is_empty() { vec![found.get(0).expect("it matched").range()] } else { groups }
                    })
                    .collect()
            }
        };
        places.into_iter().filter(|place| !place.is_empty()).map(hit).collect()
    }
}

/// Whether a string or a number in JSON may be a verification value, in whatever way it is written. Most are too long, or begin
/// with a letter.
fn may_be_value(written: &[u8]) -> bool {
    if written.len() > NAMED_BYTES_MAX {
        return false;
    }
    let inside = written.strip_prefix(b"\"").unwrap_or(written);
    match inside.first() {
        // Most have a fifth digit.
        Some(b'0'..=b'9') => !inside.get(3..5).is_some_and(|more| more.iter().all(u8::is_ascii_digit)),
        Some(first) => matches!(first, b'\\' | b' ') || !first.is_ascii(),
        None => false,
    }
}

/// Which rules look at the value of a member: none at keys and clocks.
fn scope_of(key: Option<Value<'_>>, scope: Scope) -> Option<Scope> {
    let is_one = |names: &[&str]| key.is_some_and(|key| names.iter().any(|name| key.is_named(name)));
    match () {
        () if is_one(&KEYS) => None,
        () if is_one(&WORDS) => Some(Scope::CardsOnly),
        () => Some(scope),
    }
}

/// Whether a text may have [`DIGITS_MIN`] digits, in whatever way they are written: an escaped one is written with some,
/// too. Eight bytes at a time: it runs over every text that is kept.
fn may_have_digits(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    /// The first byte of the first decimal digit beyond ASCII.
    const FIRST_WIDE: u8 = 0xd9;
    let (words, rest) = bytes.as_chunks::<8>();
    let (mut digits, mut wide) = (0, 0);
    for word in words {
        let word = u64::from_le_bytes(*word);
        // Below ten, where the digits are; adding what is short of the high bit sets it in all others.
        let from_zero = word ^ (ONES * u64::from(b'0'));
        let others = ((from_zero & !HIGHS) + ONES * (0x80 - 10)) | from_zero;
        digits += (!others & HIGHS).count_ones() as usize;
        wide |= word & HIGHS;
    }
    digits += rest.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_wide = || wide != 0 || rest.iter().any(|byte| !byte.is_ascii());
    digits >= DIGITS_MIN || is_wide() && bytes.iter().any(|byte| *byte >= FIRST_WIDE)
}

/// What was found, in characters, without what it was.
fn evidence(text: &str, hits: &[Hit]) -> Vec<Masked> {
    let (told, more) = hits.split_at(hits.len().min(MASKINGS_MAX));
    let end_of_more = more.iter().map(|hit| hit.place.end).max();
    let (mut bytes, mut at) = (0, 0);
    let mut masked: Vec<Masked> = Vec::with_capacity(told.len());
    for (n, hit) in told.iter().enumerate() {
        // They come in order: nothing is counted twice.
        at += text[bytes..hit.place.start].chars().count();
        bytes = hit.place.start;
        let end = end_of_more.filter(|_| n + 1 == told.len()).map_or(hit.place.end, |end| end.max(hit.place.end));
        masked.push(Masked { rule: hit.rule.clone(), at, characters: text[bytes..end].chars().count() });
    }
    masked
}

/// Puts stars in the place of each character of a stretch of what a text decodes to by a view, or of the text itself.
fn star_each(written: &mut [u8], place: &Range<usize>, view: Option<&View>) {
    let decoded = view.map_or(&*written, |view| &view.bytes);
    let decoded = std::str::from_utf8(&decoded[place.clone()]).unwrap_or_default();
    let chars = decoded.char_indices().map(|(at, char)| place.start + at..place.start + at + char.len_utf8());
    let places: Vec<_> = chars.map(|char| view.map_or(char.clone(), |view| view.source_of(&char))).collect();
    places.into_iter().for_each(|place| star(&mut written[place]));
}

/// Stars of one to four bytes.
pub(super) const STARS: [&str; 4] = ["*", "\u{66d}", "\u{ff0a}", "\u{1f7b6}"];

/// Puts a star of as many bytes in the place of one character, however it is written.
fn star(written: &mut [u8]) {
    let length = written.len();
    let escaped = match (&*written, length) {
        ([b'\\', b'u', ..], 6) => br"\u002a".to_vec(),
        ([b'\\', b'u', ..], 12) => br"\ud83d\udfb6".to_vec(),
        ([b'%', ..], 3..) => {
            let star = STARS[(length / 3).clamp(1, STARS.len()) - 1];
            star.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect()
        }
        _ => STARS[length.clamp(1, STARS.len()) - 1].as_bytes().to_vec(),
    };
    match escaped.len() == length {
        true => written.copy_from_slice(&escaped),
        false => written.fill(b'*'), // parts of a character, spelt in two ways: no server reads that
    }
}

#[cfg(test)]
mod tests;
