//! What readers asked after stands in acts as they typed it, and may name a customer of whom nothing else is left once the
//! last chat is removed. Then it becomes stars there, with the same proof as what is removed.
//!
//! It knows whole values of attributes: typed alone, as `NAME=VALUE`, as a literal of SQL, or as a word. A part of a value
//! names nobody for certain.

use std::collections::{BTreeSet, HashSet};

use rusqlite::{Connection, params};
use serde_json::Value;

use super::Custody;
use crate::store::seal::destroyed::{Located, RowName, destroy, packed};
use crate::store::seal::{self, ACTS, ERASURES, KeyValue};
use crate::store::{Error, search};

/// Shorter ones are words of the language.
const CHARACTERS_MIN: usize = 3;
/// What ends a word or a literal.
const ENDS: [char; 11] = ['\'', '"', '%', '=', '(', ')', ',', ';', '<', '>', '\u{0}'];

/// Values of attributes that were removed with their chats.
#[derive(Debug, Default)]
pub(super) struct Gone(HashSet<String>);

impl Gone {
    /// Those of a chat, which is about to be removed.
    pub(super) fn note(&mut self, connection: &Connection, chat_id: &str) -> Result<(), Error> {
        let mut select = connection.prepare_cached("SELECT value FROM chat_attributes WHERE chat_id = ?")?;
        let values = select.query_map([chat_id], |row| row.get::<_, String>(0))?;
        for value in values {
            let value = value?;
            if value.chars().count() >= CHARACTERS_MIN {
                self.0.insert(value);
            }
        }
        Ok(())
    }

    /// Those that no chat has any longer, in small letters.
    fn of_nobody(self, connection: &Connection) -> Result<HashSet<String>, Error> {
        let mut select = connection.prepare("SELECT 1 FROM chat_attributes WHERE value = ?")?;
        let mut left = HashSet::new();
        for value in self.0 {
            if !select.exists([&value])? {
                left.insert(value.to_lowercase());
            }
        }
        Ok(left)
    }
}

impl Custody {
    /// Makes stars of them in acts.
    pub(super) fn forget_words(&self, act_id: i64, gone: Gone, at: i64) -> Result<(), Error> {
        let gone = gone.of_nobody(&self.connection)?;
        let looked_until = seal::read_tree(&self.connection)?.size();
        let acts = if gone.is_empty() { Vec::new() } else { acts_with(&self.connection, &gone)? };
        if acts.is_empty() {
            return Ok(());
        }
        let mut located = Located::wanting(acts.into_iter().map(|act| name(act.id)));
        while located.look_on(&self.connection)? {}
        let connection = &self.connection;
        seal::change(connection, None, |pack| {
            let acts = acts_with(connection, &gone)?;
            let names: Vec<RowName> = acts.iter().map(|act| name(act.id)).collect();
            located.find_rest(connection, &names, looked_until)?;
            let leaves: BTreeSet<u64> = names.iter().flat_map(|name| located.of(name)).copied().collect();
            for act in &acts {
                let update = "UPDATE acts SET asked = ?, reason = ?, case_ref = ? WHERE id = ?";
                connection.prepare_cached(update)?.execute(params![act.asked, act.reason, act.case_ref, act.id])?;
                pack.touch(ACTS, [KeyValue::Integer(act.id)]);
            }
            destroy(connection, &leaves)?;
            let insert =
                "INSERT INTO erasures (act_id, how, at, events, rows, leaves) VALUES (?, 'masked', ?, 0, ?, ?)";
            connection.execute(insert, params![act_id, at, acts.len() as i64, packed(&leaves)])?;
            let id = connection.last_insert_rowid();
            pack.touch(ERASURES, [KeyValue::Integer(id)]);
            search::follow(connection, id)?;
            connection.execute("INSERT INTO uncleaned VALUES (1, ?) ON CONFLICT DO NOTHING", [at])?;
            Ok(())
        })
    }
}

fn name(id: i64) -> RowName {
    (ACTS, vec![KeyValue::Integer(id)])
}

/// An act as it is to be.
struct Masked {
    id: i64,
    asked: String,
    reason: Option<String>,
    case_ref: Option<String>,
}

fn acts_with(connection: &Connection, gone: &HashSet<String>) -> Result<Vec<Masked>, Error> {
    let mut select = connection.prepare_cached("SELECT id, asked, reason, case_ref FROM acts")?;
    let mut rows = select.query(())?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, asked): (i64, String) = (row.get(0)?, row.get(1)?);
        let (reason, case_ref): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let mut value: Value = serde_json::from_str(&asked).unwrap_or_default();
        let is_asked = mask_value(&mut value, gone);
        let masked = |text: &Option<String>| text.as_deref().and_then(|text| mask(text, gone));
        let (masked_reason, masked_case) = (masked(&reason), masked(&case_ref));
        if is_asked || masked_reason.is_some() || masked_case.is_some() {
            let asked = if is_asked { value.to_string() } else { asked };
            found.push(Masked { id, asked, reason: masked_reason.or(reason), case_ref: masked_case.or(case_ref) });
        }
    }
    Ok(found)
}

fn mask_value(value: &mut Value, gone: &HashSet<String>) -> bool {
    match value {
        Value::String(text) => match mask(text, gone) {
            Some(masked) => {
                *text = masked;
                true
            }
            None => false,
        },
        Value::Array(values) => values.iter_mut().fold(false, |is_any, value| mask_value(value, gone) | is_any),
        Value::Object(members) => members.values_mut().fold(false, |is_any, value| mask_value(value, gone) | is_any),
        _ => false,
    }
}

/// The text with stars for the values in it; None where there are none.
fn mask(text: &str, gone: &HashSet<String>) -> Option<String> {
    let is_gone = |part: &str| gone.contains(&part.trim().to_lowercase());
    if is_gone(text) {
        return Some(stars(text));
    }
    let masked: String = pieces(text, |c| ENDS.contains(&c))
        .map(|piece| match is_gone(piece) {
            true => stars(piece),
            false => pieces(piece, char::is_whitespace)
                .map(|word| if is_gone(word) { stars(word) } else { word.to_owned() })
                .collect(),
        })
        .collect();
    (masked != text).then_some(masked)
}

/// What lies between such characters, and they themselves.
fn pieces(text: &str, is_end: impl Fn(char) -> bool + Copy) -> impl Iterator<Item = &str> {
    text.split_inclusive(is_end).flat_map(move |piece| {
        let (body, end) = piece.split_at(piece.trim_end_matches(is_end).len());
        [body, end]
    })
}

fn stars(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_become_stars_and_parts_do_not() {
        let gone: HashSet<String> = ["anna@example.com", "anna berg", "my order"].map(String::from).into();
        let rows = [
            ("anna@example.com", Some("****************")),
            ("Anna@Example.com", Some("****************")),
            ("email=anna@example.com", Some("email=****************")),
            ("SELECT * FROM t WHERE value = 'anna@example.com' OR x LIKE '%Anna Berg%'", {
                Some("SELECT * FROM t WHERE value = '****************' OR x LIKE '%**** ****%'")
            }),
            ("asked for by anna@example.com today", Some("asked for by **************** today")),
            ("anna", None),
            ("joanna@example.com", None),
            ("", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(mask(text, &gone).as_deref(), wanted, "{text}");
        }
        let mut asked = serde_json::json!({"command": "chats", "who": "anna berg", "n": 1, "list": ["x", "my order"]});
        assert!(mask_value(&mut asked, &gone));
        let wanted = serde_json::json!({"command": "chats", "who": "**** ****", "n": 1, "list": ["x", "** *****"]});
        assert_eq!(asked, wanted);
        assert!(!mask_value(&mut asked, &gone));
    }
}
