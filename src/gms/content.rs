//! R7: when two contents are the same. The canonical form of a JSON value, its digest, and the comparison of two events.

use sha2::{Digest, Sha256};

use super::Comparison;
use super::json::{Decimal, Kind, Tape, Value};
use super::mask::STARS;
use crate::chat::ContentDigest;

/// Members whose change makes a variant `changed`; any other only extends the event.
const TELLING: [&str; 4] = ["type", "text", "from", "utcTime"];

/// Compares the content stored under a key with what came under it now.
pub fn compare(stored_raw: &str, new_raw: &str) -> Comparison {
    let (Ok(stored), Ok(new)) = (Tape::read(stored_raw), Tape::read(new_raw)) else {
        return if stored_raw == new_raw { Comparison::Equal } else { Comparison::Changed };
    };
    let (stored, new) = (stored.root(stored_raw), new.root(new_raw));
    let are_events = stored.kind() == Kind::Object && new.kind() == Kind::Object;
    // A null member is none in an event, but another content: these only tell that a difference is there.
    let is_same = |name: &&str| stored.given(name).map(canonical) == new.given(name).map(canonical);
    match () {
        () if are_events && !TELLING.iter().all(is_same) => Comparison::Changed,
        () if canonical(stored) == canonical(new) => Comparison::Equal,
        () if are_events => Comparison::Extended,
        () => Comparison::Changed,
    }
}

/// The digest of a content: equal for equal JSON values, however they are written. What is no JSON is taken as bytes.
pub fn digest(raw: &str) -> ContentDigest {
    match Tape::read(raw) {
        Ok(tape) => first_half(Sha256::new().chain_update(canonical(tape.root(raw)))),
        Err(_) => first_half(Sha256::new().chain_update("?").chain_update(raw)),
    }
}

/// The first 128 bits.
pub(super) fn first_half(hash: Sha256) -> ContentDigest {
    let digest = hash.finalize();
    std::array::from_fn(|at| digest[at])
}

/// A value still to be written, with its key where it is a member.
struct Step<'a> {
    key: Option<std::borrow::Cow<'a, [u8]>>,
    value: Value<'a>,
}

/// The form that equal values share: keys sorted, escapes decoded, numbers by value, lengths in front so that no two
/// values share one. A key that comes twice keeps both values, in their order: that is another content than either.
pub(super) fn canonical(value: Value<'_>) -> Vec<u8> {
    let mut form = Vec::with_capacity(value.raw().len());
    let mut steps = vec![Step { key: None, value }];
    while let Some(Step { key, value }) = steps.pop() {
        if let Some(key) = key {
            push_string(&mut form, &key);
        }
        match value.kind() {
            Kind::Null => form.push(b'n'),
            Kind::True => form.push(b't'),
            Kind::False => form.push(b'f'),
            Kind::Number => {
                form.push(b'#');
                push_string(&mut form, Decimal::of(value.raw()).canonical().as_bytes());
            }
            Kind::String | Kind::Key => push_string(&mut form, &value.wide()),
            Kind::Array | Kind::Object => push_children(&mut form, &mut steps, value),
        }
    }
    form
}

/// Writes how many children there are, and leaves them on the stack so that the first comes off first.
fn push_children<'a>(form: &mut Vec<u8>, steps: &mut Vec<Step<'a>>, container: Value<'a>) {
    let from = steps.len();
    steps.extend(container.elements().map(|value| Step { key: None, value }));
    steps.extend(container.members().map(|(key, value)| Step { key: Some(key.wide()), value }));
    // A stable sort: values of one key stay in their order.
    steps[from..].sort_by(|a, b| a.key.cmp(&b.key));
    steps[from..].reverse();
    form.push(if container.kind() == Kind::Array { b'[' } else { b'{' });
    push_length(form, steps.len() - from);
}

fn push_string(form: &mut Vec<u8>, bytes: &[u8]) {
    form.push(b'"');
    push_length(form, bytes.len());
    form.extend_from_slice(bytes);
}

fn push_length(form: &mut Vec<u8>, length: usize) {
    form.extend_from_slice(&(length as u64).to_le_bytes());
}

/// Whether a JSON text is another one with stars in the place of some characters, as masking leaves it: each has as many bytes as what
/// it stands for.
pub fn is_masked_form_of(masked: &str, original: &str) -> bool {
    let is_star = |char: char| STARS.iter().any(|star| star.starts_with(char));
    let is_form = |(masked, original): (char, char)| {
        masked == original || is_star(masked) && masked.len_utf8() == original.len_utf8()
    };
    masked.len() == original.len() && masked.chars().zip(original.chars()).all(is_form)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    #[test]
    fn equal_values_are_the_same_content() {
        let rows = [
            (r#"{"a":1,"b":2}"#, r#" { "b" : 2 , "a" : 1 } "#),
            (r#"[1,1.0,1e0,10e-1,0.1e1]"#, "[1,1,1,1,1]"),
            ("[0,-0,0.0,0e5]", "[0,0,0,0]"),
            ("1000", "1e3"),
            ("12345678901234567890123", "12345678901234567890123.0"),
            (r#""\u00e9\/""#, r#""é/""#),
            (r#""\ud83d\ude00""#, r#""😀""#),
            (r#"{"\u0061":null}"#, r#"{"a":null}"#),
            (r#"{"a":1,"b":0,"a":2}"#, r#"{"b":0,"a":1,"a":2}"#),
        ];
        for (a, b) in rows {
            assert_eq!(digest(a), digest(b), "{a} {b}");
            assert_eq!(compare(a, b), Comparison::Equal, "{a} {b}");
        }
    }

    #[test]
    fn different_values_are_not() {
        let rows = [
            ("12345678901234567890123", "12345678901234567890124"),
            ("1", "\"1\""),
            ("1e999999999999999999999", "1e999999999999999999998"),
            ("[[],[]]", "[[[]]]"),
            ("{}", "[]"),
            (r#"["ab"]"#, r#"["a","b"]"#),
            (r#""\ud800""#, r#""\ud801""#),
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""""#, "null"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("{\"a\":", "{\"a\""),
        ];
        for (a, b) in rows {
            assert_ne!(digest(a), digest(b), "{a} {b}");
            assert_ne!(compare(a, b), Comparison::Equal, "{a} {b}");
        }
    }

    #[test]
    fn variants_are_changed_or_extended() {
        use Comparison::{Changed, Equal, Extended};
        let stored =
            r#"{"index":1,"type":"Message","text":"hi","from":{"type":"Client","participantId":1},"utcTime":5}"#;
        let rows = [
            (stored.replace("hi", "ho"), Changed),
            (stored.replace("Message", "Notice"), Changed),
            (stored.replace("Client", "Agent"), Changed),
            (stored.replace(":5}", ":6}"), Changed),
            (stored.replace(":5}", ":5.0}"), Equal),
            (stored.replace(":5}", ":5,\"userData\":{}}"), Extended),
            (stored.replace(":5}", ":5,\"messageType\":\"text\"}"), Extended),
            (stored.replace("\"text\":\"hi\",", ""), Changed),
            ("[]".to_owned(), Changed),
            ("nonsense".to_owned(), Changed),
        ];
        for (new, expected) in rows {
            assert_eq!(compare(stored, &new), expected, "{new}");
        }
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            (-1000_i32..1000, 0_i32..100)
                .prop_map(|(whole, part)| Json::from(f64::from(whole) + f64::from(part) / 128.0)),
            any::<String>().prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                proptest::collection::vec((any::<String>(), inner), 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    /// The same value, written differently: members backwards, every character escaped, numbers with an exponent.
    fn rewritten(value: &Json) -> String {
        let escaped = |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect::<String>();
        match value {
            Json::String(text) => format!("\"{}\"", escaped(text)),
            Json::Number(number) if number.is_i64() && number.as_i64() != Some(0) => format!(" {number}0e-1"),
            Json::Array(elements) => format!("[{}]", elements.iter().map(rewritten).collect::<Vec<_>>().join(" ,")),
            Json::Object(members) => {
                let members =
                    members.iter().rev().map(|(key, value)| format!("\"{}\": {}", escaped(key), rewritten(value)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn the_spelling_does_not_matter(value in json()) {
            prop_assert_eq!(digest(&value.to_string()), digest(&rewritten(&value)));
        }

        #[test]
        fn the_value_does(a in json(), b in json()) {
            prop_assert_eq!(digest(&a.to_string()) == digest(&b.to_string()), a == b);
        }
    }

    #[test]
    fn a_masked_form_has_stars_and_nothing_else_that_is_new() {
        let original = r#"{"text":"card 4111 é 12"}"#;
        for (masked, is_form) in [
            (r#"{"text":"card **** é **"}"#, true),
            (r#"{"text":"card **** \u{66d} 12"}"#, false),
            ("{\"text\":\"card 4111 \u{66d} 12\"}", true),
            (r#"{"text":"card 4112 é 12"}"#, false),
            (r#"{"text":"card * é 12"}"#, false),
            (original, true),
        ] {
            assert_eq!(is_masked_form_of(masked, original), is_form, "{masked}");
        }
        assert!(!is_masked_form_of(original, r#"{"text":"card **** é **"}"#));
    }
}
