//! What readers asked after stands in acts as they typed it, and what a hold was for in the hold: both may name a customer of
//! whom nothing else is left once the last chat is removed. Then it becomes stars there, with the same proof as what is
//! removed. A hold in force keeps its words: it stands for chats to come.
//!
//! It knows whole values of attributes. One that can hardly be anything but somebody's (an address, a number, two words or more) is
//! found typed alone, as `NAME=VALUE`, as a literal of SQL, or among other words, whatever signs are around it. A name alone may be
//! any word: somebody calls himself `GDPR`, or `events`. It counts only where somebody is named: where it is all that was asked for,
//! behind `NAME=`, in quotation marks. A part of a value names nobody for certain.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use super::hold::is_name;
use crate::store::seal::destroyed::{Located, RowName, destroy, packed};
use crate::store::seal::{ACTS, ERASURES, HOLDS, KeyValue, Pack};
use crate::store::{Error, search};

/// Shorter ones are words of the language.
const CHARACTERS_MIN: usize = 3;
/// Words of a longest value that is found within a text: an address of a page has some ten. A longer one is found where nothing
/// else was typed.
const WORDS_MAX: usize = 12;
/// A value with so many digits is a number of somebody's.
const DIGITS_MIN: usize = 5;

/// Where something was typed: in an act, in a released hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Act(i64),
    Hold(i64),
}

impl Place {
    fn row(self) -> RowName {
        match self {
            Self::Act(id) => (ACTS, vec![KeyValue::Integer(id)]),
            Self::Hold(id) => (HOLDS, vec![KeyValue::Integer(id)]),
        }
    }
}

/// Acts and released holds that name values of chats which are about to be removed.
#[derive(Debug)]
pub(super) struct Mentions {
    /// By value, in small letters.
    places: HashMap<String, Vec<Place>>,
    /// The newest act that was looked at.
    until: i64,
}

impl Mentions {
    /// Looks through all of them: not while the lock is held.
    pub(super) fn of_chats<'t>(connection: &Connection, chats: impl Iterator<Item = &'t str>) -> Result<Self, Error> {
        let mut values = HashSet::new();
        for chat_id in chats {
            values.extend(values_of(connection, chat_id)?.iter().map(|value| key(value)));
        }
        let mut mentions = Self { places: HashMap::new(), until: 0 };
        each_typed(connection, 0, |mut words| {
            let place = words.place;
            if let Place::Act(id) = place {
                mentions.until = id;
            }
            words.mask(&mut |word| {
                if values.contains(word) {
                    mentions.places.entry(word.to_owned()).or_default().push(place);
                }
                false
            });
        })?;
        Ok(mentions)
    }

    /// Their rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = RowName> {
        self.places.values().flatten().map(|place| place.row())
    }
}

/// Values of attributes that a transaction has removed with their chats.
#[derive(Debug, Default)]
pub(super) struct Gone(HashSet<String>);

impl Gone {
    /// Those of a chat, which is about to be removed.
    pub(super) fn note(&mut self, connection: &Connection, chat_id: &str) -> Result<(), Error> {
        self.0.extend(values_of(connection, chat_id)?);
        Ok(())
    }

    /// Makes stars of those that no chat has any longer, wherever they were typed.
    pub(super) fn forget(self, removal: &Forgetting<'_>, located: &mut Located, pack: &mut Pack) -> Result<(), Error> {
        let Forgetting { connection, mentions, .. } = *removal;
        let is_quiet = !has_newer(connection, mentions.until)?;
        if self.0.is_empty() || is_quiet && mentions.places.is_empty() {
            return Ok(());
        }
        let is_asked = |value: &String| !is_quiet || mentions.places.contains_key(&key(value));
        let gone = of_nobody(connection, self.0.into_iter().filter(is_asked))?;
        let known = gone.iter().filter_map(|value| mentions.places.get(value)).flatten().copied();
        let masked = masked(connection, &known.collect(), (!is_quiet).then_some(mentions.until), &gone)?;
        if masked.is_empty() { Ok(()) } else { removal.write(&masked, located, pack) }
    }
}

/// Those of a chat that may name somebody.
fn values_of(connection: &Connection, chat_id: &str) -> Result<HashSet<String>, Error> {
    let mut select = connection.prepare_cached("SELECT value FROM chat_attributes WHERE chat_id = ?")?;
    let values: HashSet<String> = select.query_map([chat_id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(values.into_iter().filter(|value| key(value).chars().count() >= CHARACTERS_MIN).collect())
}

/// Those that no chat has any longer, in small letters.
fn of_nobody(connection: &Connection, values: impl Iterator<Item = String>) -> Result<HashSet<String>, Error> {
    let mut select = connection.prepare_cached("SELECT 1 FROM chat_attributes WHERE value = ?")?;
    let mut left = HashSet::new();
    for value in values {
        if !select.exists([&value])? {
            left.insert(key(&value));
        }
    }
    Ok(left)
}

/// The transaction that makes stars.
pub(super) struct Forgetting<'c> {
    pub(super) connection: &'c Connection,
    pub(super) mentions: &'c Mentions,
    pub(super) act_id: i64,
    pub(super) at: i64,
    pub(super) looked_until: u64,
}

impl Forgetting<'_> {
    fn write(&self, masked: &[Words], located: &mut Located, pack: &mut Pack) -> Result<(), Error> {
        let connection = self.connection;
        let names: Vec<RowName> = masked.iter().map(|words| words.place.row()).collect();
        located.find_rest(connection, &names, self.looked_until)?;
        let leaves: BTreeSet<u64> = names.iter().flat_map(|name| located.of(name)).copied().collect();
        for words in masked {
            words.store(connection)?;
            let (table, key) = words.place.row();
            pack.touch(table, key);
        }
        destroy(connection, &leaves)?;
        let insert = "INSERT INTO erasures (act_id, how, at, events, rows, leaves) VALUES (?, 'masked', ?, 0, ?, ?)";
        connection.execute(insert, params![self.act_id, self.at, masked.len() as i64, packed(&leaves)])?;
        let id = connection.last_insert_rowid();
        pack.touch(ERASURES, [KeyValue::Integer(id)]);
        search::follow(connection, id)
    }
}

/// What was typed there.
struct Words {
    place: Place,
    /// JSON.
    asked: Option<String>,
    /// An act's reason and case, a hold's reason and query.
    texts: [Option<String>; 2],
}

impl Words {
    const OF_ACTS: &str = "SELECT id, asked, reason, case_ref FROM acts";
    const OF_HOLDS: &str = "SELECT id, NULL, reason, query FROM holds";

    fn of_act(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { place: Place::Act(row.get(0)?), asked: row.get(1)?, texts: [row.get(2)?, row.get(3)?] })
    }

    fn of_hold(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { place: Place::Hold(row.get(0)?), asked: row.get(1)?, texts: [row.get(2)?, row.get(3)?] })
    }

    fn at(connection: &Connection, place: Place) -> Result<Self, Error> {
        let (sql, id, read): (_, _, fn(&Row<'_>) -> _) = match place {
            Place::Act(id) => (Self::OF_ACTS, id, Self::of_act),
            Place::Hold(id) => (Self::OF_HOLDS, id, Self::of_hold),
        };
        Ok(connection.prepare_cached(&format!("{sql} WHERE id = ?"))?.query_row([id], read)?)
    }

    fn store(&self, connection: &Connection) -> Result<(), Error> {
        let [first, second] = &self.texts;
        match self.place {
            Place::Act(id) => {
                let update = "UPDATE acts SET asked = ?, reason = ?, case_ref = ? WHERE id = ?";
                connection.prepare_cached(update)?.execute(params![self.asked, first, second, id])?
            }
            Place::Hold(id) => {
                let update = "UPDATE holds SET reason = ?, query = ? WHERE id = ?";
                connection.prepare_cached(update)?.execute(params![first, second, id])?
            }
        };
        Ok(())
    }

    /// Makes stars of what is told to be gone. Whether there was any.
    fn mask(&mut self, is_gone: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut is_any = false;
        if let Some(asked) = &mut self.asked {
            let mut value: Value = serde_json::from_str(asked).unwrap_or_default();
            if mask_value(&mut value, Role::Said, is_gone) {
                *asked = value.to_string();
                is_any = true;
            }
        }
        let second = match self.place {
            Place::Act(_) => Role::Why,
            Place::Hold(_) => Role::Said,
        };
        for (text, role) in self.texts.iter_mut().zip([Role::Why, second]) {
            if let Some(masked) = text.as_deref().and_then(|text| mask(text, role, is_gone)) {
                *text = Some(masked);
                is_any = true;
            }
        }
        is_any
    }
}

fn has_newer(connection: &Connection, id: i64) -> Result<bool, Error> {
    Ok(connection.prepare_cached("SELECT 1 FROM acts WHERE id > ?")?.exists([id])?)
}

/// The acts after one, and the released holds: a release is an act.
fn each_typed(connection: &Connection, after: i64, mut visit: impl FnMut(Words)) -> Result<(), Error> {
    let acts = format!("{} WHERE id > ? ORDER BY id", Words::OF_ACTS);
    for words in connection.prepare_cached(&acts)?.query_map([after], Words::of_act)? {
        visit(words?);
    }
    let holds = format!("{} WHERE released_at IS NOT NULL", Words::OF_HOLDS);
    for words in connection.prepare_cached(&holds)?.query_map((), Words::of_hold)? {
        visit(words?);
    }
    Ok(())
}

/// At some places, and, where more may have been typed since, after an act: what has such values, with stars for them.
fn masked(
    connection: &Connection,
    known: &BTreeSet<Place>,
    after: Option<i64>,
    gone: &HashSet<String>,
) -> Result<Vec<Words>, Error> {
    let mut found = Vec::new();
    let mut take = |mut words: Words| {
        if words.mask(&mut |word| gone.contains(word)) {
            found.push(words);
        }
    };
    for place in known {
        take(Words::at(connection, *place)?);
    }
    if let Some(after) = after {
        each_typed(connection, after, |words| {
            if !known.contains(&words.place) {
                take(words)
            }
        })?;
    }
    Ok(found)
}

/// What a text was to whoever typed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A customer, a chat, all that was looked for.
    Sought,
    /// SQL, or what else the command was given.
    Said,
    /// A reason, a case.
    Why,
}

/// What is asked of commands about somebody: the options and arguments of `chats`, `errors`, `search`, `export`, …
const SOUGHT: [&str; 7] = ["who", "query", "search", "party", "chat", "chats", "chat_id"];

impl Role {
    fn of(name: &str, value: &Value) -> Self {
        match value {
            // Words of one question, which were typed without quotation marks of the shell.
            Value::Array(_) if name == "query" => Self::Said,
            _ if SOUGHT.contains(&name) => Self::Sought,
            _ => Self::Said,
        }
    }
}

fn mask_value(value: &mut Value, role: Role, is_gone: &mut dyn FnMut(&str) -> bool) -> bool {
    match value {
        Value::String(text) => match mask(text, role, is_gone) {
            Some(masked) => {
                *text = masked;
                true
            }
            None => false,
        },
        Value::Array(values) => {
            values.iter_mut().fold(false, |is_any, value| mask_value(value, role, is_gone) | is_any)
        }
        Value::Object(members) => members.iter_mut().fold(false, |is_any, (name, value)| {
            let role = Role::of(name, value);
            mask_value(value, role, is_gone) | is_any
        }),
        _ => false,
    }
}

/// The text with stars for the values in it; None where there are none.
fn mask(text: &str, role: Role, is_gone: &mut dyn FnMut(&str) -> bool) -> Option<String> {
    let mut tells = |text: &str| {
        let key = key(text);
        is_telling(&key) && is_gone(&key)
    };
    let mut found: Vec<Range<usize>> = named(text).into_iter().filter(|range| tells(&text[range.clone()])).collect();
    let quoted = quoted(text, role);
    for (range, says) in quoted.iter().filter(|(range, says)| text[range.clone()] != **says) {
        if named(says).into_iter().any(|part| tells(&says[part])) {
            found.push(range.clone());
        }
    }
    found
        .extend(alone(text, role, &quoted).into_iter().filter(|(_, says)| is_gone(&key(says))).map(|(range, _)| range));
    let is_found = |at: usize| found.iter().any(|range| range.contains(&at));
    let masked = text.char_indices().map(|(at, c)| if is_found(at) && !c.is_whitespace() { '*' } else { c }).collect();
    (!found.is_empty()).then_some(masked)
}

/// Whether a value can hardly be anything but somebody's, wherever it stands: an address, a number, some words. (`chat_id` is one.)
fn is_telling(key: &str) -> bool {
    let words = key.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    key.contains('@') || key.chars().filter(|c| c.is_numeric()).count() >= DIGITS_MIN || words.count() > 1
}

/// Where a name alone is somebody's, and what stands there: all that was asked for, what follows `NAME=`, what stands in quotation
/// marks.
fn alone(text: &str, role: Role, quoted: &[(Range<usize>, String)]) -> Vec<(Range<usize>, String)> {
    if role == Role::Why {
        return Vec::new();
    }
    let within = |range: Range<usize>| {
        let words = words_of(&text[range.clone()]);
        let (first, last) = (words.first()?, words.last()?);
        Some(range.start + first.start..range.start + last.end)
    };
    let plain = |range: Range<usize>| within(range).map(|range| (range.clone(), text[range].to_owned()));
    let behind =
        text.split_once('=').filter(|(name, _)| is_name(name.trim())).map(|(name, _)| name.len() + 1..text.len());
    let all = (role == Role::Sought).then_some(0..text.len());
    let marked = quoted.iter().filter_map(|(range, says)| Some((within(range.clone())?, says.clone())));
    [all, behind].into_iter().flatten().filter_map(plain).chain(marked).collect()
}

/// What a value is compared by: in small letters, without what stands around it.
fn key(value: &str) -> String {
    value.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// Where something may be named: all of a text, what follows the name of an attribute, and whatever begins and ends where a word
/// does, up to some words.
fn named(text: &str) -> Vec<Range<usize>> {
    let words = words_of(text);
    let Some(end) = words.last().map(|last| last.end) else { return Vec::new() };
    let from = |at: usize| words.iter().find(|word| word.start >= at).map(|first| first.start..end);
    let mut found: Vec<_> = [from(0), text.find('=').and_then(from)].into_iter().flatten().collect();
    for (at, first) in words.iter().enumerate() {
        found.extend(words[at..].iter().take(WORDS_MAX).map(|last| first.start..last.end));
    }
    found
}

fn words_of(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for (at, c) in text.char_indices().filter(|(_, c)| c.is_alphanumeric()) {
        match words.last_mut() {
            Some(word) if word.end == at => word.end = at + c.len_utf8(),
            _ => words.push(at..at + c.len_utf8()),
        }
    }
    words
}

/// The marks that may end what this one begins.
fn closing(mark: char) -> Option<&'static [char]> {
    let found: &[char] = match mark {
        '\'' => &['\''],
        '"' => &['"'],
        '`' => &['`'],
        '„' => &['“', '”', '"'],
        '“' => &['”'],
        '‚' => &['‘', '’'],
        '‘' => &['’'],
        '«' => &['»'],
        '»' => &['«'],
        _ => return None,
    };
    Some(found)
}

/// What stands in quotation marks: where, and what it says. A mark that is written twice within (SQL) is one of the text. In what is
/// no SQL a mark behind a letter is an apostrophe, and begins nothing.
fn quoted(text: &str, role: Role) -> Vec<(Range<usize>, String)> {
    let (mut found, mut begins, mut before) = (Vec::new(), 0, None);
    while let Some(mark) = text[begins..].chars().next() {
        let from = begins + mark.len_utf8();
        let is_apostrophe = role == Role::Sought && before.is_some_and(char::is_alphanumeric);
        let content = closing(mark).filter(|_| !is_apostrophe).and_then(|closing| until(&text[from..], closing));
        (begins, before) = match content {
            Some((length, close)) => {
                let doubled = [close; 2].iter().collect::<String>();
                found.push((
                    from..from + length,
                    text[from..from + length].replace(&doubled, close.encode_utf8(&mut [0; 4])),
                ));
                (from + length + close.len_utf8(), Some(close))
            }
            None => (from, Some(mark)),
        };
    }
    found
}

/// How long it is until a mark that ends it, and which.
fn until(text: &str, closing: &[char]) -> Option<(usize, char)> {
    let mut marks = text.char_indices().filter(|(_, c)| closing.contains(c)).peekable();
    while let Some((at, mark)) = marks.next() {
        if marks.next_if_eq(&(at + mark.len_utf8(), mark)).is_none() {
            return Some((at, mark));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_become_stars_and_parts_do_not() {
        let gone = [
            "anna@example.com",
            "anna berg",
            "my order",
            "o'zz@example.com",
            "o'berg",
            "berg, anna",
            "https://a.example/b?c=d",
        ];
        let gone: HashSet<String> = gone.map(key).into();
        let rows = [
            ("anna@example.com", Some("****************")),
            ("Anna@Example.com", Some("****************")),
            ("email=anna@example.com", Some("email=****************")),
            ("SELECT * FROM t WHERE value = 'anna@example.com' OR x LIKE '%Anna Berg%'", {
                Some("SELECT * FROM t WHERE value = '****************' OR x LIKE '%**** ****%'")
            }),
            ("asked for by anna@example.com today", Some("asked for by **************** today")),
            ("about anna@example.com.", Some("about ****************.")),
            ("call: anna@example.com: angry", Some("call: ****************: angry")),
            ("[Anna@Example.com]", Some("[****************]")),
            ("mailto:anna@example.com", Some("mailto:****************")),
            ("email=o'zz@example.com", Some("email=****************")),
            ("lastName=O'Berg", Some("lastName=******")),
            ("lastName=Berg, Anna", Some("lastName=***** ****")),
            ("value = 'o''zz@example.com' AND x = 'Berg, Anna'", {
                Some("value = '*****************' AND x = '***** ****'")
            }),
            ("done with o'zz@example.com", Some("done with ****************")),
            ("see https://a.example/b?c=d, please", Some("see ***********************, please")),
            ("LIKE '%o''zz@example.com%'", Some("LIKE '*******************'")),
            ("q <mailto:o'zz@example.com>’s", Some("q <mailto:****************>’s")),
            ("„anna@example.com“/1 #o'berg ?to=anna@example.com&a=b", {
                Some("„****************“/1 #****** ?to=****************&a=b")
            }),
            ("it's 'one", None),
            ("anna", None),
            ("joanna@example.com", None),
            ("", None),
        ];
        for (text, wanted) in rows {
            for role in [Role::Sought, Role::Said, Role::Why] {
                assert_eq!(mask(text, role, &mut |word| gone.contains(word)).as_deref(), wanted, "{text}");
            }
        }
        let mut asked = serde_json::json!({"command": "chats", "who": "anna berg", "n": 1, "list": ["x", "my order"]});
        assert!(mask_value(&mut asked, Role::Said, &mut |word| gone.contains(word)));
        let wanted = serde_json::json!({"command": "chats", "who": "**** ****", "n": 1, "list": ["x", "** *****"]});
        assert_eq!(asked, wanted);
        assert!(!mask_value(&mut asked, Role::Said, &mut |word| gone.contains(word)));
    }

    /// What was asked, with stars; the same of a reason.
    #[test]
    fn a_name_alone_counts_only_where_somebody_is_named() {
        let gone: HashSet<String> =
            ["GDPR", "events", "chat_id", "search", "O'Zz", "Art. 17 a", "K-47110", "#Anna"].map(key).into();
        let all = |asked: &str, wanted: &str| {
            let mut value = serde_json::from_str(asked).expect("JSON");
            mask_value(&mut value, Role::Said, &mut |word| gone.contains(word));
            assert_eq!(value, serde_json::from_str::<Value>(wanted).expect("JSON"), "{asked}");
        };
        for (asked, wanted) in [
            (r#"{"command":"search","query":"gdpr"}"#, r#"{"command":"search","query":"****"}"#),
            (r#"{"query":["gdpr","parcel"]}"#, r#"{"query":["gdpr","parcel"]}"#),
            (r#"{"query":"gdpr parcel"}"#, r#"{"query":"gdpr parcel"}"#),
            (r#"{"query":"it's \"gdpr\" or isn't"}"#, r#"{"query":"it's \"****\" or isn't"}"#),
            (r#"{"query":"'gdpr' parcel"}"#, r#"{"query":"'****' parcel"}"#),
            (r#"{"query":"„GDPR“ parcel"}"#, r#"{"query":"„****“ parcel"}"#),
            (r#"{"who":"nickname=GDPR"}"#, r#"{"who":"nickname=****"}"#),
            (r##"{"who":"userData[x]=#anna"}"##, r##"{"who":"userData[x]=#****"}"##),
            (r#"{"chat_id":"Events"}"#, r#"{"chat_id":"******"}"#),
            (r#"{"chats":["events","c1"]}"#, r#"{"chats":["******","c1"]}"#),
            (r#"{"service":"events"}"#, r#"{"service":"events"}"#),
            (r#"{"dest":"/tmp/k-47110/x"}"#, r#"{"dest":"/tmp/*******/x"}"#),
        ] {
            all(asked, wanted);
        }
        for (sql, wanted) in [
            ("SELECT count(*) FROM events", None),
            ("SELECT 'a',events,'b' FROM t", None),
            ("SELECT chat_id FROM events e WHERE e.chat_id=events.chat_id", None),
            ("SELECT 1 WHERE x='events' OR x LIKE'%gdpr%'", Some("SELECT 1 WHERE x='******' OR x LIKE'%****%'")),
            ("SELECT \"GDPR\" WHERE x = 'a GDPR'", Some("SELECT \"****\" WHERE x = 'a GDPR'")),
            ("SELECT 'it''s', events, 'o''zz'", Some("SELECT 'it''s', events, '*****'")),
        ] {
            assert_eq!(mask(sql, Role::Said, &mut |word| gone.contains(word)).as_deref(), wanted, "{sql}");
        }
        for (reason, wanted) in [
            ("Art. 17 GDPR", None),
            ("GDPR", None),
            ("nickname=GDPR", None),
            ("'GDPR'", None),
            ("of art. 17 A, K-47110", Some("of **** ** *, *******")),
        ] {
            assert_eq!(mask(reason, Role::Why, &mut |word| gone.contains(word)).as_deref(), wanted, "{reason}");
        }
    }
}
