//! What a verification value looks like in what people write, beside a card's number or a word for one. Text only: it knows
//! neither JSON nor stars.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::cards::{Card, digit_of};

/// How far from a card its verification value, or the word for one, is looked for, in bytes: an expiry date and two words.
const BESIDE_BYTES_MAX: usize = 120;

/// Whether a text may have a verification value: three or four digits by themselves, or some apart by one separator. Most
/// texts with a number have none, and need no look at the words.
pub(super) fn may_have_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut ended) = (0, None);
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let is_joined = ended.is_some_and(|end| end + 1 == at && matches!(bytes[end], b' ' | b'.' | b'-'));
        match length {
            // Another script's digits are not told apart here.
            0 if bytes[at] >= 0xd9 => return true,
            0 => at += 1,
            3 | 4 => return true,
            1 | 2 if is_joined => return true,
            _ => {
                at += length;
                ended = (length < 3).then_some(at);
            }
        }
    }
    false
}

/// The digits of a text that is a verification value and nothing else: three or four, with blanks around or between them, or a
/// fraction of zeros behind.
pub(super) fn value_alone(text: &str) -> Option<Range<usize>> {
    let start = text.len() - text.trim_start().len();
    if let Some(apart) = APART.find(text.trim()) {
        return Some(start..start + apart.len());
    }
    let digits = || text[start..].chars().take(5).map_while(|char| digit_of(char).map(|_| char));
    let end = start + digits().map(char::len_utf8).sum::<usize>();
    let rest = text[end..].trim_end();
    let is_zeros = |zeros: &str| !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0');
    let is_whole = rest.is_empty() || rest.strip_prefix('.').is_some_and(is_zeros);
    (is_whole && matches!(digits().count(), 3 | 4)).then_some(start..end)
}

/// Whether a field's name has a word for a verification value in it, however its parts are joined: `card_cvv`,
/// `userData[card][securityCode]`.
pub(super) fn is_value_name(name: &str) -> bool {
    let may_be = |byte: u8| LETTERS_OF_WORDS.contains(&byte.to_ascii_lowercase()) || !byte.is_ascii();
    if !name.bytes().any(may_be) {
        return false;
    }
    let parts = parts_of(name);
    NAME.is_match(&parts) && !OF_SOMETHING_ELSE.is_match(&parts)
}

/// The parts of a name, with blanks between them: what is between other signs than letters and digits, and between a small
/// letter and a large one.
fn parts_of(name: &str) -> String {
    let mut parts = String::with_capacity(2 * name.len());
    let mut was_small = false;
    for char in name.chars() {
        if was_small && char.is_uppercase() {
            parts.push(' ');
        }
        parts.push(if char.is_alphanumeric() { char } else { ' ' });
        was_small = char.is_lowercase();
    }
    parts
}

/// The verification values in a text: beside the words for one, and beside its cards.
pub(super) fn values_in(text: &str, cards: &[Card]) -> Vec<Range<usize>> {
    let before_word = if cards.is_empty() { &BEFORE_ABBREVIATION } else { &BEFORE_WORD };
    let behind_stars = text.contains('*').then_some(&*BEHIND_WORD_AND_STARS);
    let beside =
        [&*BEHIND_WORD, before_word].into_iter().chain(behind_stars).flat_map(|words| words.captures_iter(text));
    let beside = beside.filter_map(|found| found.get(1)).map(|value| value.range());
    let behind = cards.iter().filter_map(|card| value_behind(text, card));
    let is_apart =
        |value: &Range<usize>| cards.iter().all(|card| value.end <= card.place.start || card.place.end <= value.start);
    let mut values: Vec<Range<usize>> = beside.chain(behind).filter(is_apart).collect();
    values.sort_by_key(|value| value.start);
    values.dedup();
    values
}

/// What nobody says of anything else. Before the other words a number counts beside a card only: it may be for a door.
const ABBREVIATIONS: &str = "(?:cvv|cvc|ccv)";

/// The words for a verification value, in the languages that GMS is sold in.
const WORDS: &str = r"(?:(?:\b|_)(?:(?:credit|debit)?[ _-]?card[ _-]?)?(?:cvv|cvc|ccv)2?|\bc\.v\.[vc]\b\.?|(?:\b|_)(?:cvn|cav)2?(?:\b|_)|(?:\b|_)(?:csc|cvd)(?:\b|_)|(?:\b|_)card[ _-]?(?:verification|security)[ _-]?(?:code|value|number|no)\b|(?:\b|_)security[ _-]?(?:code|number)\b|\b(?:karten)?sicherheits(?:code|nummer|zahl)\b|\b(?:karten)?pr(?:ü|ue)f(?:ziffern?|nummer|zahl|code)\b|\bcryptogramme\b|\bcode de s[ée]curit[ée]\b|\bc[óo]digo de seguridad\b|\bc[óo]digo de seguran[çc]a\b|\bcodice di sicurezza\b|\b(?:beveiligings|veiligheids)code\b|\bs[äa]kerhetskod\b|\bsikkerhed?s?kode\b|\bturvakoodi\b|\bkod (?:bezpieczeństwa|zabezpieczający)\b|\bgüvenlik kodu\b|\bкод безопасности\b|安全码|校验码|セキュリティコード|보안 ?코드|رمز الأمان|קוד אבטחה)";

/// One more in what people write. In a field's name it is as often a call's or a customer's id.
const CID: &str = r"\bcid\b";

/// Two more in a field's name.
const CARD_CODE: &str = r"\bcard ?code\b|\bcv2\b";

/// Letters that every one of [`WORDS`] has one of, if it is written in ASCII only.
const LETTERS_OF_WORDS: [u8; 3] = [b'c', b'k', b'p'];

/// Three or four digits, typed together or apart.
const VALUE: &str = r"(\d(?:[ .-]?\d){2,3})(?:[^\d*]|$)";

/// What a form says of it, behind the word: `CVV (3 digits): 123`.
const REMARK: &str = r"(?:[^\d*(]{0,4}\([^()*]{1,40}\))??";

/// By itself, digit by digit.
static APART: LazyLock<Regex> = LazyLock::new(|| expression(r"^\d(?:[ .-]\d){2,3}$"));

static BEHIND_WORD: LazyLock<Regex> =
    LazyLock::new(|| expression(&format!(r"(?:(?:{WORDS}|{CID}){REMARK}[^\d*]{{0,24}}|\b(?:cvn|cav)){VALUE}")));

/// With stars that make it bold: `cvv: **123**`.
static BEHIND_WORD_AND_STARS: LazyLock<Regex> =
    LazyLock::new(|| expression(&format!(r"(?:{WORDS}|{CID})[^\d*]{{0,24}}\*{{1,2}}(\d{{3,4}})\*{{1,2}}(?:[^\d*]|$)")));

static NAME: LazyLock<Regex> = LazyLock::new(|| {
    // In a name something joined to it may be another word: `cvCategory` is no `cvc`.
    let abbreviations = r"\b(?:credit|debit)? ?(?:card)? ?(?:cvv|cvc|ccv)2?(?:\b|code|number|value|nr|no\b)";
    let words = WORDS.replacen(WORDS_FIRST, abbreviations, 1);
    expression(&format!("(?:{words}|{CARD_CODE})"))
});

/// The first of [`WORDS`], behind which a number may stand at once.
const WORDS_FIRST: &str = r"(?:\b|_)(?:(?:credit|debit)?[ _-]?card[ _-]?)?(?:cvv|cvc|ccv)2?";

/// Fields about one, which have numbers of another kind.
static OF_SOMETHING_ELSE: LazyLock<Regex> = LazyLock::new(|| {
    expression(
        r"\b(?:errors?|status|attempts?|tries|retries|results?|sent|at|time|date|count|year|length|type|category|department|region|cases)\b",
    )
});

/// `123 is my cvv`.
static BEFORE_ABBREVIATION: LazyLock<Regex> = LazyLock::new(|| before(ABBREVIATIONS));

/// `123 is my security code`.
static BEFORE_WORD: LazyLock<Regex> = LazyLock::new(|| before(&format!("(?:{ABBREVIATIONS}|{WORDS}|{CID})")));

fn before(words: &str) -> Regex {
    const IS: &str = r"(?:(?:is|ist|est|es|è|é|er|är|jest)(?: \pL{1,8}){0,2} |= ?)";
    expression(&format!(r"(?:^|[^\d*])(\d{{3,4}})[^\w*]{{0,3}}{IS}?{words}"))
}

/// At the end of what is before a card: `cvv for 4111…`.
static WORD_FOR_CARD: LazyLock<Regex> = LazyLock::new(|| expression(&format!(r"(?:{WORDS}|{CID})[^\d*]{{0,24}}$")));

/// Then behind it: ` is 123`.
static BEHIND_WORD_AND_CARD: LazyLock<Regex> = LazyLock::new(|| expression(&format!(r"^[^\d*]{{1,24}}{VALUE}")));

/// Behind a card, an expiry date between them: `12/27 123`, `exp 12-2027, code 123`, `1227 123`, `12 27 123`, `|12|2027|123`.
static BEHIND_DATE: LazyLock<Regex> = LazyLock::new(|| {
    const MONTH: &str = "(?:0?[1-9]|1[0-2])";
    const YEAR: &str = r"(?:20)?\d{2}";
    let date = format!(r"(?:\d{{1,2}} ?[/.-] ?{YEAR}|{MONTH} ?[ |,;:] ?{YEAR}|20\d{{2}} ?[/.-] ?{MONTH}|\d{{4}})");
    expression(&format!(r"^[^\d*]{{0,24}}{date}[^\d*]{{1,24}}(\d{{3,4}})(?:[^\d*]|$)"))
});

/// Behind a card, a code of whatever name between them.
static BEHIND_CODE: LazyLock<Regex> = LazyLock::new(|| {
    const CODE: &str = r"\b(?:code|kode|kod|koodi|c[óo]digo|codice|код)\b";
    expression(&format!(r"^[^\d*]{{0,24}}{CODE}[^\d*]{{0,24}}{VALUE}"))
});

/// Right behind a card.
static BEHIND_CARD: LazyLock<Regex> = LazyLock::new(|| expression(r"^[^\w*]{1,5}(\d{3,4})(?:[^\d*]|$)"));

/// Of any case.
fn expression(pattern: &str) -> Regex {
    Regex::new(&format!("(?i){pattern}")).expect("the expressions here are sound: a test uses each")
}

fn value_behind(text: &str, card: &Card) -> Option<Range<usize>> {
    let from = card.place.end;
    let to = text.floor_char_boundary(from + BESIDE_BYTES_MAX);
    let behind = &text[from..to.max(from)];
    let found = |expression: &Regex| expression.captures(behind).and_then(|found| found.get(1));
    // Four digits are a value on American Express only: else they are a year, or a price.
    let fits = |digits: usize| digits == 3 || card.digits == 15;
    let bare = || found(&BEHIND_CARD).filter(|value| fits(value.as_str().chars().count()));
    let named = || found(&BEHIND_WORD_AND_CARD).filter(|_| is_behind_word(text, card));
    let value = found(&BEHIND_DATE).or_else(|| found(&BEHIND_CODE)).or_else(named).or_else(bare)?;
    Some(from + value.start()..from + value.end())
}

fn is_behind_word(text: &str, card: &Card) -> bool {
    let from = text.floor_char_boundary(card.place.start.saturating_sub(BESIDE_BYTES_MAX));
    WORD_FOR_CARD.is_match(&text[from..card.place.start])
}
