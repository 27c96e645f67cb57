//! What is stored, under a rule of masking that came later: the same as if it had been recorded under it. Knows which columns
//! hold what came from outside, and how each was taken from its answer; not how they are stored.

use super::body::mask_text;
use super::json::Tape;
use super::mask::Masks;
use super::wire::bare_event;
use crate::chat::{Masking, TranscriptEvent};

/// Something stored with texts of customers, agents and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stored {
    /// A row of `events`.
    Event,
    /// Of `event_variants`.
    Variant,
    /// Of `chat_attributes`.
    Attribute,
    /// Of `api_errors`.
    Error,
    /// Of `findings`.
    Finding,
}

/// Columns of a row, in the order of [`Stored::columns`], as bytes of text; numbers in digits.
pub type Columns = Vec<Option<Vec<u8>>>;

impl Stored {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Event, Self::Variant, Self::Attribute, Self::Error, Self::Finding];

    /// As `maskings.what` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Variant => "variant",
            Self::Attribute => "attribute",
            Self::Error => "error",
            Self::Finding => "finding",
        }
    }

    /// The columns that hold something of it.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Event => &[
                "raw",
                "type",
                "participant_id",
                "nickname",
                "party_type",
                "text",
                "message_type",
                "user_data",
                "event_attributes",
            ],
            Self::Variant => &["raw"],
            Self::Attribute => &["name", "value"],
            Self::Error => &[
                "field",
                "detail",
                "advice",
                "reference_id",
                "service",
                "operation",
                "alias",
                "method",
                "path",
                "request_id",
            ],
            Self::Finding => &["raw", "detail"],
        }
    }

    /// Masks a row. What was masked in it, also where that were stars before. `breaks_off`: a number may be cut at its end.
    pub fn mask(self, masks: &Masks, columns: &mut Columns, breaks_off: bool) -> Vec<Masking> {
        let mut maskings = Vec::new();
        match self {
            Self::Event => maskings.extend(event(masks, columns)),
            Self::Variant => maskings.extend(json(masks, &mut columns[0], breaks_off)),
            Self::Attribute => maskings.extend(attribute(masks, columns)),
            Self::Error => {
                for (name, column) in self.columns().iter().zip(columns) {
                    maskings.extend(word(masks, name, column, matches!(*name, "method" | "path" | "request_id")));
                }
            }
            Self::Finding => {
                maskings.extend(json(masks, &mut columns[0], breaks_off));
                maskings.extend(word(masks, "detail", &mut columns[1], false));
            }
        }
        maskings
    }
}

/// JSON, where it is some, else a text.
fn json(masks: &Masks, column: &mut Option<Vec<u8>>, breaks_off: bool) -> Vec<Masking> {
    let Some(bytes) = column else { return Vec::new() };
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    let Some((text, tape)) = text.ok().and_then(|text| Tape::read(&text).ok().map(|tape| (text, tape))) else {
        return mask_text(bytes, masks, breaks_off);
    };
    let root = tape.root(&text);
    masks.json(bytes, root).iter().map(|(leaf, masked)| masked.of(&root.pointer_to(leaf))).collect()
}

/// One text, which may be percent-encoded where it is of a request.
fn word(masks: &Masks, name: &'static str, column: &mut Option<Vec<u8>>, is_of_request: bool) -> Vec<Masking> {
    let Some(mut text) = column.take().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) else {
        return Vec::new();
    };
    let maskings = match is_of_request {
        true => masks.words([(name, &mut text)]),
        false => masks.plain(&mut text).iter().map(|masked| masked.of(name)).collect(),
    };
    *column = Some(text.into_bytes());
    maskings
}

fn attribute(masks: &Masks, columns: &mut Columns) -> Vec<Masking> {
    let mut maskings = Vec::new();
    let name = columns[0].as_deref().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    if let Some(value) = &mut columns[1] {
        let mut text = String::from_utf8_lossy(value).into_owned();
        let masked = masks.field(&name, &mut text);
        maskings.extend(masked.iter().map(|(place, masked)| masked.of(&format!("value{place}"))));
        *value = text.into_bytes();
    }
    maskings.extend(word(masks, "name", &mut columns[0], false));
    maskings
}

/// The columns follow `raw` where they were taken from it as they would be today, else each is masked for itself.
fn event(masks: &Masks, columns: &mut Columns) -> Vec<Masking> {
    let before = columns[0].clone();
    let maskings = json(masks, &mut columns[0], false);
    if columns[0] == before {
        return maskings;
    }
    let read = [&before, &columns[0]].map(|raw| drawn(raw.as_deref().unwrap_or_default()));
    let [was, is] = read;
    for (column, (was, is)) in columns.iter_mut().skip(1).zip(was.into_iter().zip(is)) {
        if *column == was {
            *column = is;
        } else {
            word(masks, "", column, false);
        }
    }
    maskings
}

/// The columns after `raw`.
fn drawn(raw: &[u8]) -> Columns {
    let Ok(raw) = std::str::from_utf8(raw) else { return vec![None; Stored::Event.columns().len() - 1] };
    let event = Tape::read(raw).ok().and_then(|tape| bare_event(tape.root(raw)).ok());
    let Some(TranscriptEvent { kind, from, text, message_type, user_data, event_attributes, .. }) = event else {
        return vec![None; Stored::Event.columns().len() - 1];
    };
    let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
    vec![
        bytes(kind.as_deref()),
        from.participant_id.map(|id| id.to_string().into_bytes()),
        bytes(from.nickname.as_deref()),
        bytes(from.party_type.as_deref()),
        bytes(text.as_deref()),
        bytes(message_type.as_deref()),
        bytes(user_data.as_deref()),
        bytes(event_attributes.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "4111 1111 1111 1111";
    const STARS: &str = "**** **** **** ****";

    fn masks() -> Masks {
        let rules = [("account".to_owned(), r"K-\d{6}".to_owned())].into();
        Masks::new(&crate::gms::mask::Config { cards: true, rules }).expect("sound rules")
    }

    type Texts = &'static [Option<&'static str>];

    fn some(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    fn masked(what: Stored, rule: &str, columns: &[Option<&str>]) -> (Vec<Option<String>>, Vec<String>) {
        let mut columns: Columns = columns.iter().map(|column| column.and_then(some)).collect();
        let maskings = what.mask(&masks().only(rule).expect("it is in force"), &mut columns, false);
        let text = |column: Option<Vec<u8>>| column.map(|bytes| String::from_utf8(bytes).expect("a text"));
        let said =
            |masking: &Masking| format!("{} {} {}+{}", masking.rule, masking.field, masking.at, masking.characters);
        (columns.into_iter().map(text).collect(), maskings.iter().map(said).collect())
    }

    #[test]
    fn the_columns_of_an_event_follow_its_raw() {
        let raw = format!(
            r#"{{"index":1,"type":"Message","from":{{"nickname":"Anna {CARD}","participantId":4111111111111111}},"text":"{CARD}, K-123456","userData":{{"a":"{CARD}"}}}}"#
        );
        let wanted = raw.replace(CARD, STARS).replace("4111111111111111", "1111111111111111");
        let nickname = format!("Anna {CARD}");
        let text = format!("{CARD}, K-123456");
        let data = format!(r#"{{"a":"{CARD}"}}"#);
        // Its attributes were kept in another way once.
        let attributes = format!("old: {CARD}");
        let columns = [
            Some(&*raw),
            Some("Message"),
            Some("4111111111111111"),
            Some(&*nickname),
            None,
            Some(&*text),
            None,
            Some(&*data),
            Some(&*attributes),
        ];
        let (found, maskings) = masked(Stored::Event, "cards", &columns);
        let stars = |text: &str| Some(text.replace(CARD, STARS));
        let wanted_columns = vec![
            Some(wanted),
            stars("Message"),
            Some("1111111111111111".into()),
            stars(&nickname),
            None,
            stars(&text),
            None,
            stars(&data),
            stars(&attributes),
        ];
        assert_eq!(found, wanted_columns);
        let wanted = [
            "cards /from/nickname 5+19",
            "cards /from/participantId 0+16",
            "cards /text 0+19",
            "cards /userData/a 0+19",
        ];
        assert_eq!(maskings, wanted);
        let (found, maskings) = masked(Stored::Event, "account", &columns);
        assert_eq!(found[5].as_deref(), Some(&*text.replace("K-123456", "********")));
        assert_eq!(maskings, ["account /text 21+8"]);
        assert_eq!(found[3].as_deref(), Some(&*nickname));
    }

    #[test]
    fn other_rows_are_masked_as_they_are_recorded() {
        let rows: [(Stored, &str, Texts, Texts, &[&str]); 8] = [
            (
                Stored::Attribute,
                "cvv",
                &[Some("userData[cvv]"), Some("737")],
                &[Some("userData[cvv]"), Some("***")],
                &["cvv value 0+3"],
            ),
            (
                Stored::Attribute,
                "account",
                &[Some("userData[cvv]"), Some("737")],
                &[Some("userData[cvv]"), Some("737")],
                &[],
            ),
            // A value is known by its card, and is not any more once that is stars.
            (
                Stored::Attribute,
                "cards",
                &[Some("note"), Some("4111 1111 1111 1111, 737")],
                &[Some("note"), Some("**** **** **** ****, ***")],
                &["cards value 0+19", "cvv value 21+3"],
            ),
            (
                Stored::Attribute,
                "cvv",
                &[Some("note"), Some("4111 1111 1111 1111, 737")],
                &[Some("note"), Some("4111 1111 1111 1111, ***")],
                &["cvv value 21+3"],
            ),
            (
                Stored::Variant,
                "cvv",
                &[Some(r#"{"cvv":"737","n":[1]}"#)],
                &[Some(r#"{"cvv":"***","n":[1]}"#)],
                &["cvv /cvv 0+3"],
            ),
            (Stored::Variant, "account", &[Some("no JSON K-123456")], &[Some("no JSON ********")], &["account  8+8"]),
            (
                Stored::Error,
                "account",
                &[None, Some("K-123456"), None, None, None, None, None, None, Some("/a/K%2D123456"), None],
                &[None, Some("********"), None, None, None, None, None, None, Some("/a/*%2A******"), None],
                &["account detail 0+8", "account path 3+8"],
            ),
            (
                Stored::Finding,
                "account",
                &[Some(r#"["K-123456"]"#), Some("K-123456!")],
                &[Some(r#"["********"]"#), Some("********!")],
                &["account /0 0+8", "account detail 0+8"],
            ),
        ];
        for (what, rule, columns, wanted, wanted_maskings) in rows {
            let (found, maskings) = masked(what, rule, columns);
            assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), wanted, "{what:?} {rule}");
            assert_eq!(maskings, wanted_maskings, "{what:?} {rule}");
        }
        assert!(masks().only("other").is_none());
    }

    /// The answer broke off, or the finding was cut.
    #[test]
    fn a_number_that_may_be_cut_is_masked() {
        for (breaks_off, wanted) in [(false, "n 4111111111111"), (true, "n *************")] {
            let mut columns: Columns = vec![some("n 4111111111111"), None];
            Stored::Finding.mask(&masks(), &mut columns, breaks_off);
            assert_eq!(columns[0], some(wanted), "{breaks_off}");
        }
        let mut columns: Columns = vec![Some(b"\xff 4111111111111111".to_vec()), None];
        assert_eq!(Stored::Finding.mask(&masks(), &mut columns, false).len(), 1);
        assert_eq!(columns[0], Some(b"\xff ****************".to_vec()));
    }
}
