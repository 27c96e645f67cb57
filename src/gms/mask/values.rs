//! What a verification value looks like in what people write, beside a card's number or a word for one. Text only: it knows
//! neither JSON nor stars.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::cards::Card;

/// How far behind a card its verification value is looked for, in bytes: an expiry date and two words.
const BEHIND_BYTES_MAX: usize = 120;

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

/// The verification values in a text: beside the words for one, and behind its cards.
pub(super) fn values_in(text: &str, cards: &[Card]) -> Vec<Range<usize>> {
    let beside = [&*BEHIND_WORD, &*BEFORE_WORD].into_iter().flat_map(|words| words.captures_iter(text));
    let beside = beside.filter_map(|found| found.get(1)).map(|value| value.range());
    let behind = cards.iter().filter_map(|card| value_behind(text, card));
    let is_apart =
        |value: &Range<usize>| cards.iter().all(|card| value.end <= card.place.start || card.place.end <= value.start);
    let mut values: Vec<Range<usize>> = beside.chain(behind).filter(is_apart).collect();
    values.sort_by_key(|value| value.start);
    values.dedup();
    values
}

/// The words for a verification value, in the languages that GMS is sold in.
const WORDS: &str = r"(?:\b(?:cvv|cvc|cvn|cav)2?|\b(?:csc|cid|cvd)\b|\bcard[ -]?(?:verification|security)[ -]?(?:code|value|number|no)\b|\bsecurity[ -]?(?:code|number)\b|\b(?:karten)?sicherheits(?:code|nummer|zahl)\b|\b(?:karten)?pr(?:ü|ue)f(?:ziffern?|nummer|zahl|code)\b|\bcryptogramme\b|\bcode de s[ée]curit[ée]\b|\bc[óo]digo de seguridad\b|\bc[óo]digo de seguran[çc]a\b|\bcodice di sicurezza\b|\b(?:beveiligings|veiligheids)code\b|\bs[äa]kerhetskod\b|\bsikkerhed?s?kode\b|\bturvakoodi\b|\bkod (?:bezpieczeństwa|zabezpieczający)\b|\bgüvenlik kodu\b|\bкод безопасности\b|安全码|校验码|セキュリティコード|보안 ?코드|رمز الأمان|קוד אבטחה)";

static BEHIND_WORD: LazyLock<Regex> =
    LazyLock::new(|| expression(&format!(r"(?i){WORDS}[^\d*]{{0,24}}(\d(?:[ .-]?\d){{2,3}})(?:[^\d*]|$)")));

static BEFORE_WORD: LazyLock<Regex> = LazyLock::new(|| {
    expression(r"(?i)(?:^|[^\d*])(\d{3,4})[^\w*]{0,3}(?:is (?:my |the )?|ist (?:mein |der |die )?|= ?)?(?:cvv|cvc)")
});

/// Behind a card, an expiry date between them: `12/27 123`, `exp 12-2027, code 123`, `1227 123`.
static BEHIND_DATE: LazyLock<Regex> = LazyLock::new(|| {
    expression(r"^[^\d*]{0,24}(?:\d{1,2} ?[/.-] ?(?:20)?\d{2}|\d{4})[^\d*]{1,24}(\d{3,4})(?:[^\d*]|$)")
});

/// Right behind a card.
static BEHIND_CARD: LazyLock<Regex> = LazyLock::new(|| expression(r"^[^\w*]{1,5}(\d{3,4})(?:[^\d*]|$)"));

fn expression(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the expressions here are sound: a test uses each")
}

fn value_behind(text: &str, card: &Card) -> Option<Range<usize>> {
    let from = card.place.end;
    let to = text.floor_char_boundary(from + BEHIND_BYTES_MAX);
    let behind = &text[from..to.max(from)];
    let dated = BEHIND_DATE.captures(behind).and_then(|found| found.get(1));
    // Four digits are a value on American Express only: else they are a year, or a price.
    let fits = |digits: usize| digits == 3 || card.digits == 15;
    let bare = || {
        let value = BEHIND_CARD.captures(behind).and_then(|found| found.get(1));
        value.filter(|value| fits(value.as_str().chars().count()))
    };
    dated.or_else(bare).map(|value| from + value.start()..from + value.end())
}
