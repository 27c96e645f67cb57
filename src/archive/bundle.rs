//! An export that proves itself to somebody who has neither the archive nor this program: a BagIt bag (RFC 8493) with the chats
//! in a readable format, all of their rows with what proves them against a signed checkpoint, and what is said of their
//! completeness. [`check`] holds one against a public key; so does `tests/integration/bundle.py`.

pub mod check;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::export::folder::{Document, Folder, Written};
use super::export::tables::{Encoding, Sheet};
use super::export::{self, Error, Errors, Plan, Tally};
use super::note::{self, Checkpoint, PublicKey};
use crate::store::audit::Snapshot;
use crate::store::audit::extract::Table;
use crate::store::audit::leaves::{Leaves, Placed};
use crate::store::audit::proof::{Field, Place};
use crate::units::iso;

const BAGIT: &str = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n";
const MANIFEST: &str = "manifest-sha256.txt";
/// Of everything but the payload; it names the manifest of that.
pub const TAG_MANIFEST: &str = "tagmanifest-sha256.txt";
const ROWS: &str = "data/rows.jsonl";
const UNPROVED: &str = "data/unproved.jsonl";
const NODES: &str = "data/nodes.bin";
const CHECKPOINT: &str = "data/checkpoint.txt";
/// A list, as in a proof: of each key but the first the statement of the one before that it follows. Not there while there is one
/// key, nor in bundles of releases before this file.
const SUCCESSIONS: &str = "data/successions.json";
const ABOUT: &str = "data/export/export.json";

const README: &str = include_str!("bundle/README.txt");

/// What was bundled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundled {
    /// In a readable format.
    pub tally: Tally,
    /// Rows that the checkpoint proves.
    pub proved: u64,
    /// Rows that are newer than it.
    pub unproved: u64,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
}

/// How many there are of each kind of transcript.
#[derive(Debug, Default)]
struct Statuses([u64; 4]);

const STATUSES: [&str; 4] = ["complete", "incomplete", "unfinished", "open"];

/// Makes a bundle at `dest`, a folder that is not there yet. `progress` is told how much of how much is done.
///
/// # Errors
/// As [`export::export`]; nothing is signed yet, or the evidence is damaged. Then `dest` is not there.
pub fn bundle(
    database: &Path,
    dest: &Path,
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Bundled, Error> {
    let snapshot = Snapshot::open(database)?;
    signed(&snapshot)?;
    let folder = Folder::begin(dest, export::mode(database)?)?;
    let (bundled, _) = write(&snapshot, &folder, plan, stop, progress)?;
    folder.finish()?;
    Ok(bundled)
}

/// Writes one into a folder that is there: the file that names all others, too.
///
/// # Errors
/// As [`bundle`].
pub fn write(
    snapshot: &Snapshot,
    folder: &Folder,
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Bundled, Written), Error> {
    let (note, checkpoint, key) = signed(snapshot)?;
    folder.keep_manifest(MANIFEST)?;
    for within in ["data", "data/export", "data/coverage"] {
        folder.within(within)?;
    }
    let tally = export::write(snapshot, folder, "data/export/", plan, stop, progress)?;
    let (statuses, times) = coverage(snapshot, folder, plan)?;
    let scratch = folder.path().join("scratch");
    let mut rows = Rows { proved: folder.create(ROWS)?, unproved: folder.create(UNPROVED)?, counts: [0, 0] };
    {
        let size = checkpoint.size;
        let leaves = snapshot.leaves(&plan.scope, size, &scratch, stop, &mut |done| progress(done, size))?;
        rows.take(snapshot, &leaves, plan, times, stop)?;
        nodes(folder, &leaves, size, progress)?;
    }
    std::fs::remove_file(&scratch).map_err(|error| Error::File { path: scratch, error })?;
    let [proved, unproved] = rows.close(folder)?;
    let bundled = Bundled { tally, proved, unproved, checkpoint };
    text(folder, CHECKPOINT, &note)?;
    text(folder, "data/key.txt", &format!("{}\n", key.vkey()))?;
    let stored = snapshot.keys()?;
    let statements: Vec<&str> = stored.iter().skip(1).map(|key| key.statement.as_str()).collect();
    if !statements.is_empty() {
        text(folder, SUCCESSIONS, &format!("{}\n", json!(statements)))?;
    }
    text(folder, "data/coverage/coverage.txt", &statement(snapshot, &bundled, &statuses)?)?;
    let manifest = tags(snapshot, folder, &bundled)?;
    Ok((bundled, manifest))
}

/// The last checkpoint, which must be sound.
fn signed(snapshot: &Snapshot) -> Result<(String, Checkpoint, PublicKey), Error> {
    let keys: Vec<PublicKey> = snapshot.keys()?.iter().filter_map(|stored| PublicKey::parse(&stored.vkey)).collect();
    let unsigned = || Error::Unproved("nothing is signed yet: a running `serve` signs checkpoints".into());
    let last = snapshot.checkpoints()?.pop().ok_or_else(unsigned)?;
    match note::open(&last.note, &keys) {
        Ok((checkpoint, key)) => Ok((last.note.clone(), checkpoint, key.clone())),
        Err(flaw) => {
            let what = format!("the last checkpoint proves nothing: {flaw}; see `gms-recorder verify`");
            Err(Error::Unproved(what))
        }
    }
}

/// What is said of completeness, as tables; how many chats there are of each kind; and from when to when they were seen.
fn coverage(snapshot: &Snapshot, folder: &Folder, plan: &Plan) -> Result<(Statuses, (i64, i64)), Error> {
    let begin = |table| Sheet::begin(folder, "data/coverage/", table, Encoding::Csv);
    let (mut chats, mut holes, mut maskings) = (begin(Table::Chats)?, begin(Table::Holes)?, begin(Table::Maskings)?);
    let (mut statuses, mut times) = (Statuses::default(), (i64::MAX, i64::MIN));
    snapshot.each_chat::<Error>(&plan.scope, |chat| {
        let chat_id = chat.text("chat_id").unwrap_or_default();
        chats.row(&chat)?;
        snapshot.each_of_chat::<Error>(Table::Holes, chat_id, |row| holes.row(&row))?;
        snapshot.each_of_chat::<Error>(Table::Maskings, chat_id, |row| maskings.row(&row))?;
        statuses.add(chat.text("status").unwrap_or_default());
        times.0 = times.0.min(chat.integer("first_seen_at").unwrap_or(i64::MAX));
        times.1 = times.1.max(chat.integer("last_seen_at").unwrap_or(i64::MIN));
        Ok(())
    })?;
    for sheet in [chats, holes, maskings] {
        sheet.close(folder)?;
    }
    let mut removals = Sheet::begin(folder, "data/coverage/", Table::Removals, Encoding::Csv)?;
    for chat_id in snapshot.removed(&plan.scope)? {
        snapshot.each_of_chat::<Error>(Table::Removals, &chat_id, |row| removals.row(&row))?;
    }
    removals.close(folder)?;
    Ok((statuses, times))
}

/// The rows, and those that nothing proves yet.
#[derive(Debug)]
struct Rows {
    proved: Document,
    unproved: Document,
    counts: [u64; 2],
}

impl Rows {
    fn take(
        &mut self,
        snapshot: &Snapshot,
        leaves: &Leaves<'_>,
        plan: &Plan,
        times: (i64, i64),
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let with_errors = plan.errors != Errors::Without;
        let mut here = HashSet::new();
        snapshot.each_chat::<Error>(&plan.scope, |chat| {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let chat_id = chat.text("chat_id").unwrap_or_default();
            here.insert(chat_id.to_owned());
            leaves.each_of_chat(chat_id, with_errors, |row| self.row(&row))
        })?;
        for chat_id in snapshot.removed(&plan.scope)?.into_iter().filter(|chat_id| !here.contains(chat_id)) {
            leaves.each_of_chat(&chat_id, with_errors, |row| self.row(&row))?;
        }
        leaves.each_other(&plan.scope, with_errors, times, |row| self.row(&row))
    }

    fn row(&mut self, row: &Placed) -> Result<(), Error> {
        let (to, count) = match row.place {
            Some(_) => (&mut self.proved, &mut self.counts[0]),
            None => (&mut self.unproved, &mut self.counts[1]),
        };
        *count += 1;
        serde_json::to_writer(&mut *to, &document(row)).map_err(io::Error::from)?;
        Ok(writeln!(to)?)
    }

    fn close(self, folder: &Folder) -> Result<[u64; 2], Error> {
        folder.close(self.proved)?;
        folder.close(self.unproved)?;
        if self.counts == [0, 0] {
            return Err(Error::Unproved("the archive has nothing of what was asked for".into()));
        }
        if self.counts[0] == 0 {
            let what =
                "none of these rows is signed yet: a running `serve` signs them within evidence.checkpoint_interval";
            return Err(Error::Unproved(what.into()));
        }
        Ok(self.counts)
    }
}

fn document(row: &Placed) -> Value {
    match &row.place {
        None => json!({ "table": row.table, "fields": named(&row.fields) }),
        Some(place) => sealed_row(row.table, &row.fields, place),
    }
}

/// A row and what its leaf's hash is made of; how that is in the tree is for others to add.
pub fn sealed_row(table: &str, fields: &[(&str, Field)], place: &Place) -> Value {
    json!({
        "table": table,
        "fields": named(fields),
        "salt": BASE64_STANDARD.encode(place.salt),
        "leaf": place.leaf,
        "sealed_later_at": place.sealed_later_at,
    })
}

/// Of each its name, its type as in the canonical bytes, its value.
fn named(fields: &[(&str, Field)]) -> Vec<Value> {
    let named = |(name, field): &(&str, Field)| match field {
        Field::Null => json!([name, "N", null]),
        Field::Integer(number) => json!([name, "I", number]),
        Field::Real(number) => json!([name, "R", number]),
        Field::Text(text) => json!([name, "T", text]),
        Field::Blob(bytes) => json!([name, "B", BASE64_STANDARD.encode(bytes)]),
    };
    fields.iter().map(named).collect()
}

fn nodes(folder: &Folder, leaves: &Leaves<'_>, size: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
    let mut document = folder.create(NODES)?;
    leaves.nodes::<Error>(&mut |done| progress(done, size), |hash| Ok(document.write_all(hash)?))?;
    folder.close(document).map(drop)
}

fn text(folder: &Folder, name: &str, text: &str) -> Result<Written, Error> {
    let mut document = folder.create(name)?;
    document.write_all(text.as_bytes())?;
    folder.close(document)
}

impl Statuses {
    fn add(&mut self, status: &str) {
        if let Some(at) = STATUSES.iter().position(|known| *known == status) {
            self.0[at] += 1;
        }
    }
}

/// The coverage statement, in words.
fn statement(snapshot: &Snapshot, bundled: &Bundled, statuses: &Statuses) -> Result<String, Error> {
    let Bundled { tally, proved, unproved, checkpoint } = bundled;
    let at = |ms| iso(ms).unwrap_or_default();
    let mut words = format!(
        "Coverage of {} chats of the archive {}, as of {}\n\n",
        tally.of(Table::Chats),
        snapshot.archive_id(),
        at(snapshot.as_of()?)
    );
    for (count, status) in statuses.0.iter().zip(STATUSES) {
        let what = match status {
            "complete" => "the chat ended, and every position up to its end was covered",
            "incomplete" => "the chat is over, and positions of it were not covered: holes.csv",
            "unfinished" => "no end was seen; nothing is missing up to the last event",
            _ => "the chat was still going on",
        };
        words += &format!("{count:>10} {status:<11} {what}\n");
    }
    words += &format!(
        "\nEvents: {}. A position that was covered and has no event was hidden by GMS from these clients (chats.csv, hidden).\n\
         \"Complete\" means: as delivered to the clients behind the recorder. What was masked, before it was recorded or\n\
         later by an act, is in maskings.csv, what was erased or purged in removals.csv; of what was removed only chat\n\
         ids, services, times and reasons are known, so that an export by customer or party cannot tell of it.\n\n\
         {proved} rows are proved by checkpoint {} of {}; {unproved} rows are newer than it, and nothing vouches for these yet.\n",
        tally.of(Table::Events),
        checkpoint.number,
        at(checkpoint.at),
    );
    Ok(words)
}

/// Everything of a bag but its payload. Its date is that of the checkpoint: the same snapshot gives the same bytes.
fn tags(snapshot: &Snapshot, folder: &Folder, bundled: &Bundled) -> Result<Written, Error> {
    let (manifest, files, bytes) = folder.end_manifest()?;
    let checkpoint = &bundled.checkpoint;
    let date = iso(checkpoint.at).unwrap_or_default();
    let info = format!(
        "Bag-Software-Agent: gms-recorder {}\nBagging-Date: {}\nExternal-Identifier: {}\nPayload-Oxum: {bytes}.{files}\n",
        env!("CARGO_PKG_VERSION"),
        date.get(..10).unwrap_or("1970-01-01"),
        snapshot.archive_id(),
    );
    let mut lines: Vec<String> =
        manifest.iter().map(|written| format!("{}  {}\n", written.sha256, written.name)).collect();
    for (name, content) in [("bagit.txt", BAGIT), ("bag-info.txt", &info), ("README.txt", README)] {
        let written = text(folder, name, content)?;
        lines.push(format!("{}  {}\n", written.sha256, written.name));
    }
    text(folder, TAG_MANIFEST, &lines.concat())
}
