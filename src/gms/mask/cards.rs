//! What a card number looks like in what people write. Text only: it knows neither JSON nor stars.
//!
//! A number is looked for in runs of digits that separators join. It begins and ends where a run does, has the length and
//! the beginning of an issuer's, and a sound check digit (ISO/IEC 7812-1, annex B: Luhn). In doubt it is one: a number
//! that was masked for nothing is a nuisance, a card that was kept is a breach.

use std::ops::{Range, RangeInclusive};

use crate::gms::json::{Escape, escape_at};
use crate::gms::route::percent_byte;

/// The fewest digits of a card number: nobody issues shorter ones, but for Maestro's twelve in theory.
pub(super) const DIGITS_MIN: usize = 13;

/// ISO/IEC 7812-1 ends at 19.
const DIGITS: RangeInclusive<usize> = DIGITS_MIN..=19;

/// Separators between two runs of digits: `" - "` has three, a keycap emoji two.
const GAP_UNITS_MAX: usize = 3;

/// A phone number has up to 15 digits (E.164); behind a `+` so many are none of a card.
const PHONE_DIGITS_MAX: usize = 14;

/// Digits that may be kept of a number (PCI DSS 3.4.1 allows the first six): what is cut off behind more is masked.
const KEPT_DIGITS_MAX: usize = 6;

/// Texts are looked at in blocks, so that no text takes much more memory than it has itself.
const BLOCK_BYTES: usize = 64 << 10;

/// What a number may take that stands across two blocks: 19 digits of four bytes, with the longest separators.
const CARD_BYTES_MAX: usize = 512;

/// An IBAN of the longest kind, with a blank after every fourth character.
const IBAN_BYTES_MAX: usize = 42;

/// The first four digits of what the networks issue, and how long it is: their public bulletins, as collected under
/// "Payment card number" in Wikipedia. No range begins with 1 (UATP's would be every time stamp), and of 6 only those that
/// are issued from.
const ISSUERS: &[(RangeInclusive<u16>, RangeInclusive<usize>)] = &[
    (4000..=4999, 13..=13), // Visa
    (4000..=4999, 16..=16),
    (4000..=4999, 18..=19),
    (5100..=5599, 16..=16), // Mastercard
    (2221..=2720, 16..=16),
    (3400..=3499, 15..=15), // American Express
    (3700..=3799, 15..=15),
    (6011..=6011, 16..=19), // Discover
    (6440..=6599, 16..=19), // and RuPay, Troy, Verve
    (3000..=3059, 14..=19), // Diners Club
    (3600..=3699, 14..=19),
    (3800..=3999, 14..=19),
    (3528..=3589, 16..=19), // JCB
    (6200..=6299, 16..=19), // UnionPay
    (8100..=8299, 16..=19), // and RuPay
    (5000..=5099, 13..=19), // Maestro, RuPay, Verve, Elo, Dankort
    (5600..=5899, 13..=19),
    (6300..=6399, 13..=19),
    (6700..=6799, 13..=19),
    (6000..=6099, 16..=16), // RuPay
    (2200..=2205, 16..=19), // Mir, Borica
    (9792..=9792, 16..=16), // Troy
    (8600..=8600, 16..=16), // UzCard
    (9860..=9860, 16..=16), // Humo
];

/// How numbers are printed on cards and typed from them; nobody groups anything else so.
const PRINTED: &[&[usize]] = &[
    &[4, 4, 4, 4],
    &[4, 6, 5],
    &[4, 6, 4],
    &[4, 3, 3, 3],
    &[4, 4, 4, 1],
    &[4, 4, 4, 2],
    &[4, 4, 4, 3],
    &[4, 4, 4, 4, 1],
    &[4, 4, 4, 4, 2],
    &[4, 4, 4, 4, 3],
];

/// Of these, what people type with commas here and something else there.
const MIXED: &[&[usize]] = &[&[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4]];

/// Of these, what with commas is a list of amounts.
const AMOUNTS: &[usize] = &[4, 3, 3, 3];

/// How Amazon groups the numbers of its orders, of which many begin as Diners Club's.
const ORDER: &[usize] = &[3, 7, 7];

/// The zeros of all scripts' decimal digits (Unicode's Nd); the nine others follow each.
#[rustfmt::skip]
const ZEROS: &[u32] = &[
    0x0030, 0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66,
    0x0de6, 0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30,
    0x10d40, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x116d0, 0x116da,
    0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16130, 0x16a60, 0x16ac0, 0x16b50,
    0x16d70, 0x1ccf0, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e5f1, 0x1e950,
    0x1fbf0,
];

/// Characters of an IBAN by country (the registry of ISO 13616).
#[rustfmt::skip]
const IBANS: &[(&str, usize)] = &[
    ("AD", 24), ("AE", 23), ("AL", 28), ("AT", 20), ("AZ", 28), ("BA", 20), ("BE", 16), ("BG", 22), ("BH", 22),
    ("BI", 27), ("BR", 29), ("BY", 28), ("CH", 21), ("CR", 22), ("CY", 28), ("CZ", 24), ("DE", 22), ("DJ", 27),
    ("DK", 18), ("DO", 28), ("EE", 20), ("EG", 29), ("ES", 24), ("FI", 18), ("FK", 18), ("FO", 18), ("FR", 27),
    ("GB", 22), ("GE", 22), ("GI", 23), ("GL", 18), ("GR", 27), ("GT", 28), ("HN", 28), ("HR", 21), ("HU", 28),
    ("IE", 22), ("IL", 23), ("IQ", 23), ("IS", 26), ("IT", 27), ("JO", 30), ("KW", 30), ("KZ", 20), ("LB", 28),
    ("LC", 32), ("LI", 21), ("LT", 20), ("LU", 20), ("LV", 21), ("LY", 25), ("MC", 27), ("MD", 24), ("ME", 22),
    ("MK", 19), ("MN", 20), ("MR", 27), ("MT", 31), ("MU", 30), ("NI", 28), ("NL", 18), ("NO", 15), ("OM", 23),
    ("PK", 24), ("PL", 28), ("PS", 29), ("PT", 25), ("QA", 29), ("RO", 24), ("RS", 22), ("RU", 33), ("SA", 24),
    ("SC", 31), ("SD", 18), ("SE", 24), ("SI", 19), ("SK", 24), ("SM", 27), ("SO", 23), ("ST", 25), ("SV", 28),
    ("TL", 23), ("TN", 24), ("TR", 26), ("UA", 29), ("VA", 22), ("VG", 24), ("XK", 20), ("YE", 30),
];

/// A number that is a card's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// From its first digit to its last, in bytes.
    pub place: Range<usize>,
    pub digits: usize,
}

/// The value of a decimal digit of any script.
pub(super) fn digit_of(char: char) -> Option<u8> {
    if char.is_ascii() {
        return char.to_digit(10).map(|digit| digit as u8);
    }
    let code = u32::from(char);
    let after = ZEROS.partition_point(|zero| *zero <= code);
    let zero = ZEROS.get(after.checked_sub(1)?)?;
    u8::try_from(code - zero).ok().filter(|digit| *digit < 10)
}

/// The card numbers in a text, in order and apart from each other. `breaks_off`: the last may be cut.
pub(super) fn cards_in(text: &str, breaks_off: bool) -> Vec<Card> {
    let mut found: Vec<Card> = Vec::new();
    for from in (0..text.len()).step_by(BLOCK_BYTES) {
        let start = text.floor_char_boundary(from.saturating_sub(CARD_BYTES_MAX));
        let end = text.floor_char_boundary(from + BLOCK_BYTES);
        let numbers = Numbers::read(&text[start..end]);
        let begun = (breaks_off && end == text.len()).then(|| numbers.begun()).flatten();
        for Card { place, digits } in numbers.cards().chain(begun) {
            let place = start + place.start..start + place.end;
            match found.last_mut() {
                // One of the two is none, and nobody can tell which.
                Some(last) if place.start < last.place.end => {
                    last.place = last.place.start.min(place.start)..last.place.end.max(place.end);
                }
                _ => found.push(Card { place, digits }),
            }
        }
    }
    found
}

/// A run of digits.
struct Group {
    place: Range<usize>,
    /// Among all digits of the text.
    digits: Range<usize>,
    /// What joins it to the group before, if anything does.
    gap: Option<Range<usize>>,
}

/// A text's digits, in their groups.
struct Numbers<'t> {
    text: &'t str,
    digits: Vec<u8>,
    groups: Vec<Group>,
}

impl<'t> Numbers<'t> {
    fn read(text: &'t str) -> Self {
        let mut numbers = Self { text, digits: Vec::new(), groups: Vec::new() };
        let mut at = 0;
        while let Some(char) = text[at..].chars().next() {
            at = match digit_of(char) {
                Some(_) => numbers.group(at),
                None => at + separator_at(&text[at..]).unwrap_or(char.len_utf8()),
            };
        }
        numbers
    }

    /// Takes in the group that begins here. Returns where it ends.
    fn group(&mut self, start: usize) -> usize {
        let digits_before = self.digits.len();
        let mut end = start;
        for char in self.text[start..].chars() {
            let Some(digit) = digit_of(char) else { break };
            self.digits.push(digit);
            end += char.len_utf8();
        }
        let previous = self.groups.last().map(|group| group.place.end);
        let gap = previous.map(|previous| previous..start).filter(|gap| is_gap(&self.text[gap.clone()]));
        self.groups.push(Group { place: start..end, digits: digits_before..self.digits.len(), gap });
        end
    }

    /// Every window of whole groups that is a card's number.
    fn cards(&self) -> impl Iterator<Item = Card> {
        let beginnings = (0..self.groups.len()).filter(|first| self.is_issued_from(*first));
        beginnings.flat_map(move |first| {
            let joined = self.joined_from(first);
            let windows = (first + 1..=joined).map(move |end| first..end);
            let windows = windows.map(|window| (self.count(&window), window));
            let fitting =
                windows.take_while(|(digits, _)| digits <= DIGITS.end()).filter(|(digits, _)| digits >= DIGITS.start());
            fitting
                .filter(|(_, window)| self.is_card(window))
                .map(|(digits, window)| Card { place: self.place(&window), digits })
        })
    }

    /// Whether a card may begin with this group: by far most do not.
    fn is_issued_from(&self, first: usize) -> bool {
        let begin = begins(&self.digits[self.groups[first].digits.start..]);
        begin.is_some_and(|begin| ISSUERS.iter().any(|(first, _)| first.contains(&begin)))
    }

    /// Where the groups end that are joined to this one, as far as a card may reach.
    fn joined_from(&self, first: usize) -> usize {
        let most = self.groups.len().min(first + DIGITS.end());
        (first + 1..most).find(|at| self.groups[*at].gap.is_none()).unwrap_or(most)
    }

    fn count(&self, window: &Range<usize>) -> usize {
        self.groups[window.end - 1].digits.end - self.groups[window.start].digits.start
    }

    fn place(&self, window: &Range<usize>) -> Range<usize> {
        self.groups[window.start].place.start..self.groups[window.end - 1].place.end
    }

    fn is_card(&self, window: &Range<usize>) -> bool {
        let digits = &self.digits[self.groups[window.start].digits.start..self.groups[window.end - 1].digits.end];
        let is_issued = |(first, length): &(RangeInclusive<u16>, RangeInclusive<usize>)| {
            length.contains(&digits.len()) && begins(digits).is_some_and(|begin| first.contains(&begin))
        };
        let place = self.place(window);
        ISSUERS.iter().any(is_issued)
            && is_luhn(digits)
            && self.is_grouped_so(window)
            && !(digits.len() <= PHONE_DIGITS_MAX && self.text[..place.start].ends_with('+'))
            && !(window.len() == 1 && is_ean(digits))
            && !is_in_iban(self.text, &place)
    }

    /// Whether somebody would group a card number so: in one, as printed, or by itself and read out in fours or digit by
    /// digit; else with the same separator throughout, and with nothing else beside it or evenly in three groups or more.
    fn is_grouped_so(&self, window: &Range<usize>) -> bool {
        let groups = &self.groups[window.clone()];
        let lengths: Vec<usize> = groups.iter().map(|group| group.digits.len()).collect();
        let has_commas = groups[1..].iter().any(|group| self.gap(group).is_some_and(has_comma));
        let separator = groups.get(1).and_then(|second| self.gap(second));
        let is_same = groups.iter().skip(1).all(|group| self.gap(group) == separator);
        // What else has such signs (times, addresses, sums) is not grouped as cards are printed.
        if groups[1..].iter().any(|group| self.gap(group).is_some_and(has_sign)) {
            return is_same && PRINTED.contains(&&*lengths) && lengths != AMOUNTS;
        }
        let printed = if has_commas && !is_same { MIXED } else { PRINTED };
        if lengths.len() == 1 || printed.contains(&&*lengths) && !(has_commas && lengths == AMOUNTS) {
            return !has_commas || !self.is_in_list(window);
        }
        let is_one_line = groups[1..].iter().all(|group| self.gap(group).is_some_and(is_of_one_line));
        let is_read_out =
            lengths.iter().all(|length| *length == 1) || !has_commas && lengths.iter().all(|length| length % 4 == 0);
        if is_read_out && is_one_line && self.is_apart(window, |gap| has_commas || !has_comma(gap)) {
            return true;
        }
        let (last, others) = lengths.split_last().expect("there are two or more");
        let is_even = others.iter().all(|length| *length == lengths[0]) && *last <= lengths[0];
        let is_alone = self.is_apart(window, |gap| Some(gap) == separator);
        let is_odd = has_commas || lengths == ORDER;
        is_same && is_one_line && !is_odd && (is_alone || is_even && lengths.len() > 2)
    }

    /// Whether groups of four go on before or behind these, with commas as between these: a list of numbers. Behind a card
    /// there may be a month and a year.
    fn is_in_list(&self, window: &Range<usize>) -> bool {
        let inside = self.groups[window.start + 1..window.end].iter().filter_map(|group| self.gap(group));
        let commas: Vec<&str> = inside.filter(|gap| has_comma(gap)).collect();
        let goes_on =
            |at: usize| self.groups.get(at).and_then(|group| self.gap(group)).is_some_and(|gap| commas.contains(&gap));
        let of_four = |at: usize| Some(&self.digits[self.groups.get(at)?.digits.clone()]).filter(|it| it.len() == 4);
        let is_month = |digits: &[u8]| matches!(digits, [0, 1..=9, ..] | [1, 0..=2, ..]);
        goes_on(window.start) && of_four(window.start - 1).is_some()
            || goes_on(window.end) && of_four(window.end).is_some_and(|digits| !is_month(digits))
    }

    /// Whether no such gap joins another number to these groups, but for what people write behind a card's.
    fn is_apart(&self, window: &Range<usize>, joins: impl Fn(&str) -> bool) -> bool {
        let gap = |at: usize| self.groups.get(at).and_then(|group| self.gap(group));
        let goes_on = |at: usize| gap(at).is_some_and(|gap| !has_sign(gap) && joins(gap));
        !goes_on(window.start) && (!goes_on(window.end) || self.is_date_or_value(window.end))
    }

    /// What is between a group and the one before, if it joins them.
    fn gap(&self, group: &Group) -> Option<&'t str> {
        group.gap.clone().map(|gap| &self.text[gap])
    }

    /// Whether what people write behind a card's number is here: until when it is valid (12/27), or its verification value.
    fn is_date_or_value(&self, at: usize) -> bool {
        let length = |at: usize| self.groups.get(at).map_or(0, |group| group.digits.len());
        let joined = |at: usize| self.groups.get(at).and_then(|group| self.gap(group)).filter(|gap| !has_comma(gap));
        match (length(at), joined(at + 1)) {
            (1 | 2, Some(gap)) => gap.trim() == "/" && matches!(length(at + 1), 2 | 4),
            (3, None) => true,
            _ => false,
        }
    }

    /// The beginning of a number at the very end, of more digits than may be kept.
    fn begun(&self) -> Option<Card> {
        let end = self.groups.len();
        let is_last = self.groups.last().is_some_and(|group| {
            let rest = &self.text[group.place.end..];
            rest.is_empty() || is_gap(rest)
        });
        let first_joined = (0..end).rev().find(|at| self.groups[*at].gap.is_none()).filter(|_| is_last)?;
        let windows = (first_joined.max(end.saturating_sub(*DIGITS.end()))..end).map(|first| first..end);
        let begun = windows.map(|window| (self.count(&window), window)).find(|(count, window)| {
            (KEPT_DIGITS_MAX + 1..*DIGITS.end()).contains(count) && self.is_issued_from(window.start)
        });
        begun.map(|(digits, window)| Card { place: self.place(&window), digits })
    }
}

/// The number that the first four digits are.
fn begins(digits: &[u8]) -> Option<u16> {
    Some(digits.get(..4)?.iter().fold(0, |number, digit| 10 * number + u16::from(*digit)))
}

fn is_luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let values = digits.iter().rev().map(|digit| u32::from(*digit)).enumerate();
    values.map(|(at, digit)| if at % 2 == 0 { digit } else { doubled(digit) }).sum::<u32>() % 10 == 0
}

/// A sound article number (GTIN-13): many begin as Visa's numbers of 13 digits do, which were last issued decades ago.
fn is_ean(digits: &[u8]) -> bool {
    let weighted = digits.iter().zip([1, 3].into_iter().cycle()).map(|(digit, weight)| weight * u32::from(*digit));
    digits.len() == 13 && weighted.sum::<u32>() % 10 == 0
}

/// Whether a stretch lies within an IBAN: a country, two digits, as many characters as the country has, and a sound check
/// (ISO 13616).
fn is_in_iban(text: &str, place: &Range<usize>) -> bool {
    let bytes = text.as_bytes();
    let is_of_iban = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b' ';
    let before = bytes[..place.start].iter().rev().take(IBAN_BYTES_MAX).take_while(is_of_iban).count();
    (place.start - before..place.start).any(|start| {
        let is_border = start.checked_sub(1).is_none_or(|before| !bytes[before].is_ascii_alphanumeric());
        is_border && iban_at(&bytes[start..]).is_some_and(|length| place.end <= start + length)
    })
}

/// How long the IBAN is that the bytes begin with.
fn iban_at(bytes: &[u8]) -> Option<usize> {
    let country = std::str::from_utf8(bytes.get(..2)?).ok()?.to_ascii_uppercase();
    let (_, chars) = IBANS.iter().find(|(known, _)| *known == country)?;
    let in_blocks = bytes.iter().take(IBAN_BYTES_MAX).enumerate().filter(|(_, byte)| **byte != b' ').take(*chars);
    let (places, iban): (Vec<usize>, Vec<u8>) = in_blocks.unzip();
    let end = places.last()? + 1;
    let is_whole = iban.len() == *chars && iban.iter().all(u8::is_ascii_alphanumeric);
    let is_border = !bytes.get(end).is_some_and(u8::is_ascii_alphanumeric);
    (is_whole && is_border && remainder_97(iban[4..].iter().chain(&iban[..4])) == 1).then_some(end)
}

fn remainder_97<'b>(chars: impl Iterator<Item = &'b u8>) -> u32 {
    chars.filter_map(|char| char::from(*char).to_digit(36)).fold(0, |rest, value| {
        let shift = if value < 10 { 10 } else { 100 };
        (rest * shift + value) % 97
    })
}

/// Whether all of a text is separators, and few of them.
fn is_gap(text: &str) -> bool {
    let length: usize = separators(text).take(GAP_UNITS_MAX).map(str::len).sum();
    length == text.len() && !text.is_empty()
}

/// Whether a comma or a semicolon is among a gap's separators: they part numbers as often as they join digits.
fn has_comma(gap: &str) -> bool {
    separators(gap).any(|separator| matches!(separator, "," | ";"))
}

/// Whether a sign is among a gap's separators that people type between the groups of a card, and seldom.
fn has_sign(gap: &str) -> bool {
    separators(gap).any(|separator| matches!(separator, "|" | ":" | "*" | "=" | "~"))
}

fn is_of_one_line(gap: &str) -> bool {
    !gap.contains(['\n', '\r', '\t'])
}

/// The separators that a text begins with.
fn separators(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (separator, after) = rest.split_at(separator_at(rest)?);
        rest = after;
        Some(separator)
    })
}

/// The length of the separator that a text begins with: a character, or how one is spelt in HTML, in a URL, in JSON.
fn separator_at(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    match first {
        '%' => {
            let byte = percent_byte(text.as_bytes())?;
            match byte {
                b' ' | b'-' | b'.' | b'/' | b'+' => Some(3),
                0xa0 | 0xad => Some(3), // a blank and a hyphen in Latin-1
                // `%B4111…` is how a card's first track begins, and no separator.
                _ => spelt_in_utf8(text).filter(|(char, _)| is_separator(*char)).map(|(_, length)| length),
            }
        }
        '\\' => match escape_at(text.as_bytes())? {
            (Escape::Char(char), length) if is_separator(char) => Some(length),
            _ => None,
        },
        '&' => {
            ["&nbsp;", "&#160;", "&#xa0;"].iter().find(|entity| text.starts_with(**entity)).map(|entity| entity.len())
        }
        char => is_separator(char).then_some(char.len_utf8()),
    }
}

/// A character of several bytes that a text begins with, percent-encoded, and how long it is written.
fn spelt_in_utf8(text: &str) -> Option<(char, usize)> {
    let bytes: Vec<u8> = text.as_bytes().chunks(3).take(4).map_while(percent_byte).collect();
    (2..=bytes.len()).find_map(|length| {
        let char = std::str::from_utf8(&bytes[..length]).ok()?.chars().next()?;
        (char.len_utf8() == length).then_some((char, 3 * length))
    })
}

/// Blanks, dashes, dots, slashes, commas, some signs, and what cannot be seen.
fn is_separator(char: char) -> bool {
    match char {
        ' ' | '-' | '.' | '/' | '_' | '+' | ',' | ';' | '\t' | '\n' | '\r' => true,
        '|' | ':' | '*' | '=' | '~' => true,
        char if char.is_ascii() => false,
        '\u{a0}' | '\u{ad}' | '\u{b7}' | '\u{2000}'..='\u{2015}' | '\u{2022}' | '\u{202a}'..='\u{202f}' => true,
        '\u{205f}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{20e3}' | '\u{2212}' | '\u{3000}' | '\u{fe0f}' => true,
        '\u{fe58}' | '\u{fe63}' | '\u{feff}' | '\u{ff0d}'..='\u{ff0f}' | char::REPLACEMENT_CHARACTER => true,
        _ => false,
    }
}
