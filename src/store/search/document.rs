//! What of a row is searched, and how it is given to SQLite: as text in which every character of scripts without spaces stands
//! for itself.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::Value;

use crate::store::Error;
use crate::store::seal::{ATTRIBUTES, EVENTS, VARIANTS};

/// Makes the character before it, and the one behind it, words of their own.
pub(super) const APART: char = '\u{1f}';
/// Around what was found. No text has these three: they are blanks there.
pub(super) const OPEN: char = '\u{1e}';
pub(super) const CLOSE: char = '\u{1d}';

/// Longer texts are searched up to here: no message of a chat comes near, and none keeps the writer waiting for long.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Tables that are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Event,
    Attribute,
    Variant,
}

impl Source {
    /// In the order of what [`Source::id`] adds.
    pub(super) const ALL: [Self; 3] = [Self::Event, Self::Attribute, Self::Variant];

    pub(super) fn of_form(form: u8) -> Option<Self> {
        match form {
            EVENTS => Some(Self::Event),
            ATTRIBUTES => Some(Self::Attribute),
            VARIANTS => Some(Self::Variant),
            _ => None,
        }
    }

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Event => "events",
            Self::Attribute => "chat_attributes",
            Self::Variant => "event_variants",
        }
    }

    /// `search.rowid` of a row.
    pub(super) fn id(self, rowid: i64) -> i64 {
        rowid << 2 | self as i64
    }

    /// Which row that is.
    pub(super) fn of_id(id: i64) -> Option<(Self, i64)> {
        let source = Self::ALL.into_iter().find(|source| *source as i64 == id & 3)?;
        Some((source, id >> 2))
    }

    /// `SELECT` of rows by their rowids, for [`Source::document`].
    pub(super) fn select(self) -> &'static str {
        match self {
            Self::Event => "SELECT rowid, type, nickname, text, user_data FROM events",
            Self::Attribute => "SELECT id, value FROM chat_attributes",
            Self::Variant => "SELECT rowid, raw FROM event_variants",
        }
    }

    /// What is searched of a row of [`Source::select`]. None where there is nothing.
    pub(super) fn document(self, row: &Row<'_>) -> Result<Option<String>, rusqlite::Error> {
        let text = |at: usize| row.get_ref(at).map(readable);
        Ok(match self {
            Self::Attribute => document(&[text(1)?]),
            Self::Event => of_event(text(1)?, text(2)?, text(3)?, text(4)?),
            Self::Variant => match json(&text(1)?.unwrap_or_default()) {
                Some(event) => {
                    let said = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let member = |value: &Value, name: &str| value.get(name).filter(|found| !found.is_null()).map(said);
                    let nickname = event.get("from").and_then(|from| member(from, "nickname"));
                    of_event(member(&event, "type"), nickname, member(&event, "text"), member(&event, "userData"))
                }
                None => None,
            },
        })
    }

    /// The same of one row; None, too, where it is not there.
    pub(super) fn read(self, connection: &Connection, rowid: i64) -> Result<Option<String>, Error> {
        let mut select = connection.prepare_cached(&format!("{} WHERE rowid = ?", self.select()))?;
        Ok(select.query_row([rowid], |row| self.document(row)).optional()?.flatten())
    }
}

fn readable(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// The nickname stands in every event of a party: it is searched where it is news.
fn of_event(
    kind: Option<String>,
    nickname: Option<String>,
    text: Option<String>,
    user_data: Option<String>,
) -> Option<String> {
    let is_news = matches!(kind.as_deref(), Some("ParticipantJoined" | "NicknameUpdated"));
    let mut parts = vec![text, nickname.filter(|_| is_news)];
    let user_data = user_data.and_then(|text| json(&text));
    user_data.iter().for_each(|value| add_values(value, &mut parts));
    document(&parts)
}

/// JSON, whatever half characters a customer has sent in it (`\ud83d` alone): they are none.
fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&without_halves(text)).ok())
}

/// With U+FFFD for each surrogate that is not one of a pair.
fn without_halves(text: &str) -> String {
    let unit = |at: usize| {
        let hex = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(hex, 16).ok()
    };
    let (mut whole, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(c) = text[at..].chars().next() {
        let length = match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                whole.push(char::REPLACEMENT_CHARACTER);
                at += 6;
                continue;
            }
            // What is escaped is no escape.
            _ if text[at..].starts_with("\\\\") => 2,
            _ => c.len_utf8(),
        };
        whole.push_str(&text[at..at + length]);
        at += length;
    }
    whole
}

/// Of nested JSON what is said, not what it is named.
fn add_values(value: &Value, parts: &mut Vec<Option<String>>) {
    match value {
        Value::String(text) => parts.push(Some(text.clone())),
        Value::Number(number) => parts.push(Some(number.to_string())),
        Value::Array(values) => values.iter().for_each(|value| add_values(value, parts)),
        Value::Object(members) => members.values().for_each(|value| add_values(value, parts)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn document(parts: &[Option<String>]) -> Option<String> {
    let joined =
        parts.iter().flatten().filter(|part| has_words(part)).map(String::as_str).collect::<Vec<_>>().join("\n");
    let end = joined.floor_char_boundary(TEXT_BYTES_MAX);
    (!joined.is_empty()).then(|| apart(&joined[..end]))
}

/// Whether anything of a text is a word.
pub(super) fn has_words(text: &str) -> bool {
    text.chars().any(|c| c.is_alphanumeric() || stands_alone(c))
}

/// A text as SQLite is given it.
pub(super) fn apart(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_last_alone = false;
    for c in text.chars() {
        let is_alone = stands_alone(c);
        if (is_alone || is_last_alone) && !out.is_empty() {
            out.push(APART);
        }
        out.push(if matches!(c, APART | OPEN | CLOSE) { ' ' } else { c });
        is_last_alone = is_alone;
    }
    out
}

/// Letters of scripts that have no spaces between words, or whose words have endings of many kinds; signs and emoji, which
/// stand before and behind words without a space.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{a6}' | '\u{a9}' | '\u{ae}' | '\u{b0}'
        | '\u{e00}'..='\u{eff}' // Thai, Lao
        | '\u{f00}'..='\u{fff}' // Tibetan
        | '\u{1000}'..='\u{109f}' // Myanmar
        | '\u{1780}'..='\u{17ff}' // Khmer
        | '\u{2100}'..='\u{214f}' | '\u{2190}'..='\u{23ff}' | '\u{2500}'..='\u{2bff}'
        | '\u{3000}'..='\u{312f}' | '\u{3190}'..='\u{a4cf}' // kana, ideographs
        | '\u{ac00}'..='\u{d7af}' // Hangul
        | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}' | '\u{fffc}' | '\u{fffd}'
        | '\u{1f000}'..='\u{1faff}'
        | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_of_scripts_without_spaces_stand_apart() {
        let rows = [
            ("where is my parcel", "where is my parcel"),
            ("退款", "退|款"),
            ("要退款now, please", "要|退|款|now, please"),
            ("great👍🏽!", "great|👍|🏽|!"),
            ("iPhone™ 20°C", "iPhone|™| 20|°|C"),
            ("ไม่", "ไ|ม|่"),
            ("a\u{1f}b\u{1e}c\u{1d}", "a b c "),
            ("straße naïve ёлка", "straße naïve ёлка"),
        ];
        for (text, wanted) in rows {
            assert_eq!(apart(text).replace(APART, "|"), wanted, "{text}");
        }
    }

    #[test]
    fn of_an_event_what_was_said_is_searched() {
        let rows: [([Option<&str>; 4], Option<&str>); 9] = [
            ([Some("Message"), Some("Anna"), Some("Hello"), None], Some("Hello")),
            ([Some("ParticipantJoined"), Some("Anna"), None, None], Some("Anna")),
            ([Some("NicknameUpdated"), Some("Anna B"), None, None], Some("Anna B")),
            ([Some("TypingStarted"), Some("Anna"), Some(""), None], None),
            ([Some("Message"), None, None, Some(r#"{"a":"surrfish \ud83d \\ud83d \ud83d\ude00"}"#)], {
                Some("surrfish \u{1f}\u{fffd}\u{1f} \\ud83d \u{1f}😀")
            }),
            ([Some("Message"), None, Some("**** ****"), None], None),
            ([Some("FileUploaded"), None, Some("f1"), Some(r#"{"file-name":"a.pdf","n":[1,{"x":"y"}],"b":true}"#)], {
                Some("f1\na.pdf\n1\ny")
            }),
            ([None, None, None, None], None),
            ([None, None, Some("x"), Some("no JSON")], Some("x")),
        ];
        for (columns, wanted) in rows {
            let [kind, nickname, text, user_data] = columns.map(|column| column.map(str::to_owned));
            assert_eq!(of_event(kind, nickname, text, user_data).as_deref(), wanted, "{columns:?}");
        }
    }

    #[test]
    fn a_very_long_text_is_cut_between_two_characters() {
        let long = document(&[Some("é".repeat(TEXT_BYTES_MAX))]).expect("words");
        assert_eq!(long.len(), TEXT_BYTES_MAX);
        let odd = document(&[Some(format!("a{}", "é".repeat(TEXT_BYTES_MAX)))]).expect("words");
        assert_eq!(odd.len(), TEXT_BYTES_MAX - 1);
    }

    #[test]
    fn numbers_of_rows_are_told_apart() {
        for source in Source::ALL {
            assert_eq!(Source::of_id(source.id(77)), Some((source, 77)));
        }
        assert_eq!(Source::of_id(3), None);
    }
}
