//! A batch of which the database refuses a row: the others go on, and what it refuses is kept as a finding.

use crate::gms::{Finding, FindingKind};
use crate::store::{Appended, ChatRecord, Entry, Error, ErrorKind, Mark, Outage, Store, Tally};

/// One transaction; where a row of it is refused, as many as it takes. `marks` are none, or one for each entry: the place of
/// the spool that it ends at.
pub(super) fn append(
    store: &mut Store,
    entries: &[Entry],
    outages: &[Outage],
    whole: bool,
    marks: &[Mark],
) -> Result<Appended, Error> {
    match store.append_marked(entries, outages, whole, marks.last()) {
        Err(error) if error.kind == ErrorKind::Row => isolate(store, entries, outages, marks),
        done => done,
    }
}

/// Some row of these entries is refused by the database: every entry alone, and in the one at fault every event alone.
/// What is refused even then is kept as a finding; the others go on.
fn isolate(store: &mut Store, entries: &[Entry], outages: &[Outage], marks: &[Mark]) -> Result<Appended, Error> {
    let mut all = Appended::default();
    for (n, entry) in entries.iter().enumerate() {
        let mark = marks.get(n);
        match store.append_marked(std::slice::from_ref(entry), &[], true, mark) {
            Ok(one) => all.absorb(one),
            Err(error) if error.kind == ErrorKind::Row => {
                all.absorb(salvage(store, entry)?);
                store.append_marked(&[], &[], true, mark)?;
            }
            Err(error) => return Err(error),
        }
    }
    store.append(&[], outages, false)?;
    Ok(all)
}

fn salvage(store: &mut Store, entry: &Entry) -> Result<Appended, Error> {
    let mut tally = Tally::default();
    let mut all = Appended::default();
    for part in parts(entry) {
        let one = match store.append(std::slice::from_ref(&part), &[], true) {
            Ok(one) => one,
            Err(error) if error.kind == ErrorKind::Row => store.append(&[as_finding(&part, &error)], &[], true)?,
            Err(error) => return Err(error),
        };
        tally = one.tallies.iter().fold(tally, |sum, one| sum.plus(*one));
        all.variants.extend(one.variants);
        all.is_forgetful |= one.is_forgetful;
    }
    all.tallies = vec![tally];
    Ok(all)
}

/// An entry taken apart into entries of one row each, facts of the chat last.
fn parts(entry: &Entry) -> Vec<Entry> {
    let blank = || Entry { at: entry.at, node: entry.node.clone(), ..Entry::default() };
    let mut parts = Vec::new();
    for chat in &entry.chats {
        for event in &chat.events {
            let record = ChatRecord { events: vec![event.clone()], ..ChatRecord::of(chat.chat_id.clone()) };
            parts.push(Entry { chats: vec![record], ..blank() });
        }
        parts.push(Entry { chats: vec![ChatRecord { events: Vec::new(), ..chat.clone() }], ..blank() });
    }
    parts.extend(entry.errors.iter().map(|error| Entry { errors: vec![error.clone()], ..blank() }));
    parts.extend(entry.findings.iter().map(|finding| Entry { findings: vec![finding.clone()], ..blank() }));
    parts.extend(entry.files.iter().map(|file| Entry { files: vec![file.clone()], ..blank() }));
    parts
}

fn as_finding(part: &Entry, error: &Error) -> Entry {
    let chat = part.chats.first();
    let event = chat.and_then(|chat| chat.events.first());
    let raw = event.map(|event| event.raw.clone().into_bytes()).unwrap_or_default();
    let maskings = event.map(|event| event.maskings.clone()).unwrap_or_default();
    let finding = Finding {
        kind: FindingKind::Unstorable,
        chat_id: chat.map(|chat| chat.chat_id.clone()),
        detail: format!("the database refused this row: {error}"),
        raw_length: raw.len(),
        raw,
        events: u64::from(event.is_some()) + part.findings.iter().map(|finding| finding.events).sum::<u64>(),
        maskings,
    };
    tracing::error!(chat_id = ?finding.chat_id, %error, "a row was refused by the database; it is kept as a finding");
    Entry { at: part.at, node: part.node.clone(), findings: vec![finding], ..Entry::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::spool::tests::full;
    use crate::store::{Options, Run};

    async fn store(folder: &tempfile::TempDir) -> Store {
        let options = Options::plain(folder.path().join("a.db"));
        let store = Store::open(&options, &Run::plain()).await.expect("a new archive");
        store.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.text = 'poison'
             BEGIN SELECT RAISE(ABORT, 'refused by a trigger'); END",
        );
        store
    }

    /// An entry with events of these texts, from `first` on, and nothing else.
    fn entry(first: i64, texts: &[&str]) -> Entry {
        let mut entry = Entry { errors: Vec::new(), findings: Vec::new(), ..full(first) };
        entry.chats[0].events = (first..).zip(texts).map(|(index, text)| event(index, text)).collect();
        entry
    }

    fn event(index: i64, text: &str) -> crate::chat::TranscriptEvent {
        let event = full(index).chats.remove(0).events.remove(0);
        crate::chat::TranscriptEvent { text: Some(text.into()), raw: format!("{{\"text\":\"{text}\"}}"), ..event }
    }

    fn indices(store: &Store) -> String {
        store.texts("SELECT coalesce(group_concat(event_index), '') FROM events").concat()
    }

    #[tokio::test]
    async fn what_the_database_refuses_is_a_finding_and_the_others_go_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = store(&folder).await;
        let entries = [entry(1, &["a"]), entry(2, &["b", "poison", "c"]), entry(5, &["d"])];
        let outages = [crate::recorder::outage::tests::row()];
        let appended = append(&mut store, &entries, &outages, true, &[]).expect("all of it is kept somehow");
        let tally = |new, finding| Tally { new, finding, ..Tally::default() };
        assert_eq!(appended.tallies, [tally(1, 0), tally(2, 1), tally(1, 0)]);
        assert_eq!(indices(&store), "1,2,4,5");
        let finding = "SELECT concat_ws('|', kind, observed_at, chat_id, CAST(raw AS TEXT), raw_length) FROM findings";
        let expected = r#"unstorable|1700000000002|00001aCY6K8U003T|{"text":"poison"}|17"#;
        assert_eq!(store.texts(finding), [expected]);
        assert_eq!(store.texts("SELECT reason FROM outages").len(), 1);
    }

    #[tokio::test]
    async fn a_file_without_room_is_no_row_at_fault() {
        let large = "x".repeat(400_000);
        let check = async |entries: &[Entry], left: &str| {
            let folder = tempfile::tempdir().expect("a folder");
            let mut store = store(&folder).await;
            let pages = store.texts("SELECT CAST(page_count AS TEXT) FROM pragma_page_count").concat();
            let pages_max = pages.parse::<u64>().expect("a number") + 75; // 600 kB: room for one copy of the large text
            store.execute(&format!("PRAGMA max_page_count = {pages_max}"));
            let error = append(&mut store, entries, &[], true, &[]).expect_err("there is no room");
            assert_eq!((error.kind, indices(&store)), (ErrorKind::Full, left.to_owned()));
        };
        check(&[entry(1, &["a"]), entry(2, &[&large])], "").await;
        check(&[entry(1, &["poison"]), entry(2, &["b", &large])], "").await;
        check(&[entry(1, &["poison", "b", &large])], "2").await;
    }

    #[test]
    fn parts_hold_one_row_each_and_together_all_of_it() {
        let whole = full(1);
        let chat = &whole.chats[0];
        let blank = Entry { at: whole.at, node: Some(Arc::from("gms-1")), ..Entry::default() };
        let events = ChatRecord { events: chat.events.clone(), ..ChatRecord::of(chat.chat_id.clone()) };
        let facts = ChatRecord { events: Vec::new(), ..chat.clone() };
        let expected = [
            Entry { chats: vec![events], ..blank.clone() },
            Entry { chats: vec![facts], ..blank.clone() },
            Entry { errors: whole.errors.clone(), ..blank.clone() },
            Entry { findings: whole.findings.clone(), ..blank.clone() },
            Entry { files: whole.files.clone(), ..blank },
        ];
        assert_eq!(format!("{:?}", parts(&whole)), format!("{expected:?}"));
    }

    #[test]
    fn a_finding_counts_the_events_of_what_it_stands_for() {
        let refused = Error::new(ErrorKind::Row, "no");
        let entry = as_finding(&full(1), &refused);
        assert_eq!((entry.events(), entry.at, entry.node), (3, full(1).at, full(1).node));
    }
}
