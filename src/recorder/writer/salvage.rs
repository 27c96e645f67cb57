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
