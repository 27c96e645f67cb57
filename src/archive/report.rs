//! What an officer signs: a day, a week or a month of an archive. Was it recording throughout, what was seen and what became of
//! it, what is missing and why, what went wrong, what was done, and how strong the proof is of all that.
//!
//! It asks the store and draws conclusions. It does not know zones, nor how any of it is put into words.

pub mod chart;
pub mod document;
pub mod page;
pub mod recording;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::note::{self, PublicKey};
use super::{anchor, anchored};
use crate::store::read::period::{ChatCount, CheckpointRow, Count, ErrorKind, Holds, OutageRow, Removed, Run, Span};
use crate::store::read::{self, Archive, Error, Hole, Interruption};
use crate::telemetry::metrics::Account;
use crate::units;

use recording::{Ending, Lifetime, Recording};

/// Holes looked into for their reasons; more say that something else is wrong.
const HOLES_MAX: i64 = 10_000;
/// Holes of one chat that are told.
const HOLES_A_CHAT_MAX: usize = 10;
/// Outages of a period that are told.
const OUTAGES_MAX: i64 = 1_000;
/// Rows of a list by code or by node.
const KINDS_MAX: i64 = 50;
/// What was recorded in a period is committed within this time after it.
const COMMITTED_WITHIN_MS: i64 = 60_000;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The period.
    pub span: Span,
    /// It in pieces, one at least, for charts: a name, and what it spans.
    pub pieces: Vec<(String, Span)>,
    /// When it is asked; milliseconds since the epoch.
    pub as_of: i64,
    /// Chats in a list.
    pub chats_max: usize,
    /// Archives that are served now, by their ids.
    pub served: BTreeSet<String>,
    /// How many files are read as one.
    pub files: usize,
    /// The anchors that the configuration names.
    pub anchors: Vec<(String, anchor::Config)>,
    /// What `verify` has just found, if it was asked to.
    pub verified: Option<Verified>,
}

/// An anchor, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Anchor {
    /// Its name there.
    pub name: String,
    /// `file`, `http`, `s3`, `time_stamp`.
    pub kind: String,
    /// Where.
    pub place: String,
    /// The last checkpoint of this archive that it has: of one whose file or folder lies here.
    pub last: Option<Checkpoint>,
}

/// What `verify` said, run for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Rows that are as they were sealed.
    pub rows: u64,
    /// Leaves of the tree.
    pub leaves: u64,
    /// Of them, those that the last checkpoint covers.
    pub signed_leaves: u64,
    /// What is not.
    pub faults: u64,
    /// The first of them, in words.
    pub first_faults: Vec<String>,
    /// Checkpoints of the archive that fit.
    pub checkpoints: u64,
    /// Files of anchors that it was held against.
    pub anchors: Vec<PathBuf>,
    /// Checkpoints of these that fit.
    pub anchored: u64,
    /// What is no fault, and seldom innocent.
    pub warnings: Vec<String>,
    /// The one fault is that of a key that signs only what came after others.
    pub is_of_later_key: bool,
}

/// The account of a period.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "sections of the report; each type says what it is")]
pub struct Report {
    pub archive_id: String,
    pub files: usize,
    pub version: &'static str,
    pub period: Span,
    #[serde(serialize_with = "units::as_iso")]
    pub as_of: i64,
    pub recording: Recording,
    /// When the archive was put back from a backup, in the period or later: what was recorded after that backup is gone.
    #[serde(serialize_with = "units::as_isos")]
    pub restored_at: Vec<i64>,
    pub account: Accounted,
    pub outages: Vec<OutageRow>,
    pub chats: Chats,
    pub holes: Holes,
    pub pieces: Vec<Piece>,
    pub errors: Errors,
    pub variants: Told,
    pub findings: Vec<Count>,
    pub maskings: Vec<Count>,
    pub files_transferred: Vec<Count>,
    pub removed: Vec<Removed>,
    pub holds: Holds,
    pub acts: Vec<Count>,
    pub proof: Proof,
}

/// What was seen, and what became of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Accounted {
    /// By the accounts of the runs.
    #[serde(flatten)]
    pub account: Account,
    /// Hours of runs that it is of.
    pub hours: usize,
    /// Runs that touch the period, of releases without an account by the hour, whose own sum at their end is in it.
    pub by_ledger: Vec<i64>,
    /// The same without: what they saw is not known.
    pub unknown: Vec<i64>,
    /// Events that were recorded in the period, by their rows.
    pub recorded: i64,
    /// Chats last seen in it that were removed since, and their events.
    pub removed_since: (i64, i64),
    /// Some of the runs were brought by `merge`, or several files are read: what two recorders saw both have counted.
    pub is_of_several: bool,
}

/// Chats that were seen in the period.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "statuses of `completeness`")]
pub struct Chats {
    pub seen: i64,
    /// Of them, those that began in it.
    pub begun: i64,
    pub complete: i64,
    pub unfinished: i64,
    pub open: i64,
    pub incomplete: i64,
}

/// Holes of these chats.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Holes {
    /// How many; more were not counted where it is 10,000.
    pub holes: usize,
    /// Of how many chats.
    pub chats: usize,
    /// How many of the holes have which reason first.
    pub reasons: Vec<Count>,
    /// Some of them, those of the chat last seen first.
    pub told: Vec<ToldHole>,
    /// Chats with holes that are not told.
    pub left_out: usize,
    /// More holes of those that are.
    pub left_out_holes: usize,
}

/// A hole, and what is known of how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as `holes` prints it")]
pub struct ToldHole {
    pub chat_id: String,
    pub service: Option<String>,
    pub status: String,
    pub from: i64,
    pub to: i64,
    #[serde(serialize_with = "units::as_iso")]
    pub first_seen_at: i64,
    #[serde(serialize_with = "units::as_iso")]
    pub last_seen_at: i64,
    /// The most certain one first; never none.
    pub reasons: Vec<Reason>,
}

/// Why a hole is there, as far as the archive knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[expect(missing_docs, reason = "times are milliseconds since the epoch; to: None while it lasts")]
pub enum Reason {
    /// An outage that names the chat.
    Outage {
        why: String,
        #[serde(serialize_with = "units::as_iso")]
        from: i64,
        #[serde(serialize_with = "units::as_iso_or_none")]
        to: Option<i64>,
    },
    /// An answer of the chat could not be read: findings of a kind.
    Unreadable { kind: String, times: i64 },
    /// No recorder ran, or an outage that names others, in the life of the chat.
    Interruption {
        why: String,
        #[serde(serialize_with = "units::as_iso")]
        from: i64,
        #[serde(serialize_with = "units::as_iso_or_none")]
        to: Option<i64>,
    },
    /// Its clients were given errors instead of answers.
    Errors { times: i64 },
    /// The first position that was asked for lies behind it: the chat was going on already, or its client had that elsewhere.
    BeforeFirstAnswer,
    /// None of these: no answer that came by here covered it.
    NeverAskedFor,
}

impl Reason {
    /// In a few words, as reasons are counted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Outage { .. } => "an outage that names the chat",
            Self::Unreadable { .. } => "an answer that could not be read",
            Self::Interruption { .. } => "no recorder ran, or an outage, in the life of the chat",
            Self::Errors { .. } => "clients were given errors",
            Self::BeforeFirstAnswer => "the chat was going on before its first answer here",
            Self::NeverAskedFor => "no answer that came by here covered it",
        }
    }
}

/// A piece of the period, for charts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// As it is called: a day, an hour, a month.
    pub name: String,
    /// What it spans.
    #[serde(flatten)]
    pub span: Span,
    /// Chats that began in it.
    pub chats: i64,
    /// Events that were recorded in it.
    pub events: i64,
    /// Errors, by class.
    pub errors: BTreeMap<String, i64>,
    /// Milliseconds of it in which a recorder ran.
    pub on_ms: i64,
}

/// Errors that clients were given.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "lists, those with most first")]
pub struct Errors {
    pub all: i64,
    pub by_class: Vec<Count>,
    pub by_code: Vec<ErrorKind>,
    pub by_node: Vec<Count>,
    pub chats: Told,
}

/// The first of a list of chats, and how many there are.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Those with most.
    pub told: Vec<ChatCount>,
    /// Of how many.
    pub all: i64,
}

/// Who vouches for it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The present public key of the archive.
    pub public_key: Option<String>,
    /// Checkpoints that were signed in the period.
    pub checkpoints: i64,
    /// The last one of the archive.
    pub last: Option<Checkpoint>,
    /// One that covers all that the archive has of the period: the first that was signed after it, or, where something came later
    /// (a merge, a spool, rows of an earlier release, a clock that was wrong), the last.
    pub covers_period: Option<Checkpoint>,
    /// Runs of the period whose rows were sealed later than they were written, or are not sealed.
    pub sealed_later: Vec<i64>,
    /// Where copies of the checkpoints go, by the configuration.
    pub anchors: Vec<Anchor>,
    /// What `verify` found.
    pub verified: Option<Verified>,
}

/// A signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// Which one.
    pub number: i64,
    /// Leaves under its root.
    pub size: i64,
    /// When.
    #[serde(serialize_with = "units::as_iso")]
    pub at: i64,
    /// The root, base64.
    pub root: String,
    /// Whether a key of the archive has signed it.
    pub is_signed: bool,
}

/// Asks all of it.
///
/// # Errors
/// As SQLite.
pub async fn report(archive: &mut Archive, question: &Question) -> Result<Report, Error> {
    let span = question.span;
    let (archive_id, _) = archive.identity().await?;
    let runs = archive.runs().await?;
    let recording = recording::as_known(archive, span, question.as_of, &question.served).await?;
    let outages = archive.outages(span, OUTAGES_MAX).await?;
    let pieces = pieces(archive, &recording, question).await?;
    let recorded = pieces.iter().map(|piece| piece.events).sum();
    Ok(Report {
        account: accounted(archive, &runs, &recording, recorded, question).await?,
        chats: chats(archive, span).await?,
        holes: holes(archive, question).await?,
        errors: errors(archive, &pieces, question).await?,
        variants: told(archive.variants_by_chat(span, question.chats_max as i64).await?),
        findings: archive.findings(span).await?,
        maskings: archive.maskings(span).await?,
        files_transferred: archive.files(span).await?,
        removed: archive.removed(span).await?,
        holds: archive.holds(span).await?,
        restored_at: archive.restored_at().await?.into_iter().filter(|at| *at >= span.from).collect(),
        acts: archive.acts_by_kind(span).await?,
        proof: proof(archive, &archive_id, &recording, question).await?,
        archive_id,
        files: question.files,
        version: env!("CARGO_PKG_VERSION"),
        period: span,
        as_of: question.as_of,
        recording,
        outages,
        pieces,
    })
}

/// What hours tell, and runs of earlier releases that have none.
async fn accounted(
    archive: &mut Archive,
    runs: &[Run],
    recording: &Recording,
    recorded: i64,
    question: &Question,
) -> Result<Accounted, Error> {
    let hours = archive.account(question.span).await?;
    let mut sum = hours.iter().fold([0; 10], |sum, (_, numbers)| plus(sum, *numbers));
    let (mut by_ledger, mut unknown) = (Vec::new(), Vec::new());
    for life in &recording.runs {
        let Some(run) = runs.iter().find(|run| run.run_id == life.run_id && run.heard_at.is_none()) else { continue };
        let is_within = life.span.from >= question.span.from && life.span.until < question.span.until;
        let ledger = run.ledger.as_deref().and_then(|ledger| serde_json::from_str::<Account>(ledger).ok());
        match ledger.filter(|_| is_within) {
            Some(account) => {
                sum = plus(sum, account.numbers().map(u64::cast_signed));
                by_ledger.push(run.run_id);
            }
            None => unknown.push(run.run_id),
        }
    }
    Ok(Accounted {
        account: Account::of_numbers(sum.map(|number| u64::try_from(number).unwrap_or_default())),
        hours: hours.len(),
        by_ledger,
        unknown,
        recorded,
        removed_since: archive.removed_since(question.span).await?,
        is_of_several: recording.recorders > 1,
    })
}

fn plus(one: [i64; 10], other: [i64; 10]) -> [i64; 10] {
    std::array::from_fn(|at| one[at] + other[at])
}

async fn chats(archive: &mut Archive, span: Span) -> Result<Chats, Error> {
    let mut chats = Chats::default();
    for (status, seen, begun) in archive.statuses(span).await? {
        (chats.seen, chats.begun) = (chats.seen + seen, chats.begun + begun);
        *match status.as_str() {
            "complete" => &mut chats.complete,
            "unfinished" => &mut chats.unfinished,
            "open" => &mut chats.open,
            _ => &mut chats.incomplete,
        } += seen;
    }
    Ok(chats)
}

async fn pieces(archive: &mut Archive, recording: &Recording, question: &Question) -> Result<Vec<Piece>, Error> {
    let piece = |(name, span): &(String, Span)| {
        let on_ms = recording.on_ms_in(*span);
        Piece { name: name.clone(), span: *span, chats: 0, events: 0, errors: BTreeMap::new(), on_ms }
    };
    let mut pieces: Vec<Piece> = question.pieces.iter().map(piece).collect();
    for (at, chats) in archive.chats_begun(question.span).await? {
        piece_at(&mut pieces, at).chats += chats;
    }
    for (at, events) in archive.events_recorded(question.span).await? {
        piece_at(&mut pieces, at).events += events;
    }
    for (at, class, errors) in archive.errors_by_class(question.span).await? {
        *piece_at(&mut pieces, at).errors.entry(class).or_default() += errors;
    }
    Ok(pieces)
}

/// The piece that a quarter of an hour lies in. Where the period begins within the quarter, the first one.
fn piece_at(pieces: &mut [Piece], at: i64) -> &mut Piece {
    let after = pieces.partition_point(|piece| piece.span.from <= at);
    &mut pieces[after.saturating_sub(1)]
}

fn told((told, all): (Vec<ChatCount>, i64)) -> Told {
    Told { told, all }
}

async fn errors(archive: &mut Archive, pieces: &[Piece], question: &Question) -> Result<Errors, Error> {
    let mut classes: BTreeMap<&str, i64> = BTreeMap::new();
    for (class, count) in pieces.iter().flat_map(|piece| &piece.errors) {
        *classes.entry(class).or_default() += count;
    }
    Ok(Errors {
        all: classes.values().sum(),
        by_class: most_first(classes.into_iter().map(|(what, count)| Count { what: what.into(), count }).collect()),
        by_code: archive.errors_by_code(question.span, KINDS_MAX).await?,
        by_node: archive.errors_by_node(question.span, KINDS_MAX).await?,
        chats: told(archive.errors_by_chat(question.span, question.chats_max as i64).await?),
    })
}

fn most_first(mut counts: Vec<Count>) -> Vec<Count> {
    counts.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.what.cmp(&other.what)));
    counts
}

async fn holes(archive: &mut Archive, question: &Question) -> Result<Holes, Error> {
    let wanted =
        read::Chats { from: Some(question.span.from), until: Some(question.span.until - 1), ..read::Chats::default() };
    let holes = archive.holes(&wanted, HOLES_MAX).await?;
    let interruptions = if holes.is_empty() { Vec::new() } else { archive.interruptions().await? };
    let mut chat_ids: Vec<String> = holes.iter().map(|hole| hole.chat_id.clone()).collect();
    chat_ids.dedup();
    let mut unreadable: BTreeMap<String, Vec<(String, i64)>> = BTreeMap::new();
    for (chat_id, kind, times) in archive.findings_of(&chat_ids).await? {
        unreadable.entry(chat_id).or_default().push((kind, times));
    }
    let errors: BTreeMap<String, i64> = archive.errors_of(&chat_ids).await?.into_iter().collect();
    let mut counts: BTreeMap<&'static str, i64> = BTreeMap::new();
    let (mut told, mut of_chat): (Vec<ToldHole>, BTreeMap<&str, usize>) = Default::default();
    for hole in &holes {
        let unreadable = unreadable.get(&hole.chat_id).map_or(&[][..], Vec::as_slice);
        let reasons = reasons(hole, &interruptions, unreadable, errors.get(&hole.chat_id).copied());
        *counts.entry(reasons[0].name()).or_default() += 1;
        let is_told = of_chat.contains_key(hole.chat_id.as_str()) || of_chat.len() < question.chats_max;
        if is_told {
            let holes_told = of_chat.entry(&hole.chat_id).or_default();
            *holes_told += 1;
            if *holes_told <= HOLES_A_CHAT_MAX {
                told.push(told_hole(hole, reasons));
            }
        }
    }
    let reasons = counts.into_iter().map(|(what, count)| Count { what: what.into(), count }).collect();
    Ok(Holes {
        holes: holes.len(),
        chats: chat_ids.len(),
        reasons: most_first(reasons),
        left_out: chat_ids.len() - of_chat.len(),
        left_out_holes: of_chat.values().sum::<usize>() - told.len(),
        told,
    })
}

fn told_hole(hole: &Hole, reasons: Vec<Reason>) -> ToldHole {
    let Hole { chat_id, ground, service, first_seen_at, last_seen_at, status } = hole.clone();
    let (from, to) = (ground.from, ground.next - 1);
    ToldHole { chat_id, service, status, from, to, first_seen_at, last_seen_at, reasons }
}

/// The reasons told of a hole at most: of a chat of many days many may be.
const REASONS_MAX: usize = 4;

/// Everything that may have made a hole, the most certain first; where there is nothing, what that leaves.
fn reasons(
    hole: &Hole,
    interruptions: &[Interruption],
    unreadable: &[(String, i64)],
    errors: Option<i64>,
) -> Vec<Reason> {
    let may = || interruptions.iter().filter(|interruption| interruption.may_explain(hole));
    let named = may().filter(|interruption| interruption.names(&hole.chat_id)).map(|interruption| {
        let Interruption { why, from, to, .. } = interruption.clone();
        Reason::Outage { why, from, to }
    });
    let of_answers = unreadable.iter().map(|(kind, times)| Reason::Unreadable { kind: kind.clone(), times: *times });
    let others = may().filter(|interruption| !interruption.names(&hole.chat_id)).map(|interruption| {
        let Interruption { why, from, to, .. } = interruption.clone();
        Reason::Interruption { why, from, to }
    });
    let errors = errors.map(|times| Reason::Errors { times });
    let mut reasons: Vec<Reason> = named.chain(of_answers).chain(others).chain(errors).take(REASONS_MAX).collect();
    if reasons.is_empty() {
        reasons.push(if hole.ground.from == 1 { Reason::BeforeFirstAnswer } else { Reason::NeverAskedFor });
    }
    reasons
}

async fn proof(
    archive: &mut Archive,
    archive_id: &str,
    recording: &Recording,
    question: &Question,
) -> Result<Proof, Error> {
    let keys = archive.public_keys().await?;
    let parsed: Vec<PublicKey> = keys.iter().filter_map(|vkey| PublicKey::parse(vkey)).collect();
    let understood = |row: CheckpointRow| checkpoint(row, &parsed);
    let (first, after) =
        (archive.checkpoint_from(question.span.from).await?, archive.checkpoint_from(question.span.until).await?);
    let last = archive.checkpoint(i64::MAX).await?;
    let in_period = match (&first, &after, &last) {
        (Some(first), Some(after), _) => after.number - first.number,
        (Some(first), None, Some(last)) => last.number + 1 - first.number,
        _ => 0,
    };
    let covers_period = covering(archive, recording, question, last.as_ref()).await?;
    let is_own = |life: &&Lifetime| life.sealing != "itself" && life.ending != Ending::GoesOn;
    Ok(Proof {
        public_key: keys.last().cloned(),
        checkpoints: in_period,
        last: last.map(understood),
        covers_period: covers_period.map(understood),
        sealed_later: recording.runs.iter().filter(is_own).map(|life| life.run_id).collect(),
        anchors: question.anchors.iter().map(|(name, config)| anchor(name, config, archive_id, &parsed)).collect(),
        verified: question.verified.clone(),
    })
}

/// A checkpoint that covers all of the period.
async fn covering(
    archive: &mut Archive,
    recording: &Recording,
    question: &Question,
    last: Option<&CheckpointRow>,
) -> Result<Option<CheckpointRow>, Error> {
    let Span { until, .. } = question.span;
    let is_sealed_later = recording.runs.iter().any(|life| life.sealing != "itself");
    if let Some(after) = archive.checkpoint_from(until.saturating_add(COMMITTED_WITHIN_MS)).await?
        && after.at <= question.as_of
        && !is_sealed_later
        && !archive.has_taken_in(until).await?
    {
        return Ok(Some(after));
    }
    match last {
        Some(last) if !archive.has_unsigned(last.size, question.span).await? => Ok(Some(last.clone())),
        _ => Ok(None),
    }
}

fn anchor(name: &str, config: &anchor::Config, archive_id: &str, keys: &[PublicKey]) -> Anchor {
    let last = anchored::last(config, archive_id, keys).map(|checkpoint| Checkpoint {
        number: checkpoint.number,
        size: checkpoint.size.cast_signed(),
        at: checkpoint.at,
        root: BASE64_STANDARD.encode(checkpoint.root),
        is_signed: true,
    });
    Anchor { name: name.into(), kind: config.kind().into(), place: config.place(), last }
}

fn checkpoint(row: CheckpointRow, keys: &[PublicKey]) -> Checkpoint {
    let CheckpointRow { number, size, at, note } = row;
    let opened = note::open(&note, keys).ok().map(|(checkpoint, _)| checkpoint);
    let opened = opened.filter(|opened| (opened.number, opened.size.cast_signed(), opened.at) == (number, size, at));
    let root = opened.as_ref().map_or(String::new(), |opened| BASE64_STANDARD.encode(opened.root));
    Checkpoint { number, size, at, root, is_signed: opened.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::read::Stretch;

    fn hole(from: i64) -> Hole {
        Hole {
            chat_id: "c".into(),
            ground: Stretch { from, next: from + 1 },
            service: None,
            first_seen_at: 100_000,
            last_seen_at: 200_000,
            status: "incomplete".into(),
        }
    }

    #[test]
    fn the_most_certain_reason_comes_first_and_there_always_is_one() {
        let interruption = |why: &str, from, chat_ids: &str| Interruption {
            from,
            to: Some(from + 1),
            why: why.into(),
            detail: None,
            chat_ids: chat_ids.into(),
        };
        let all = [interruption("stopped", 150_000, "[]"), interruption("disk_full", 160_000, r#"["c"]"#)];
        let late = [interruption("later", 900_000, "[]")];
        let unreadable = [("too_large".to_owned(), 2)];
        let names = |reasons: Vec<Reason>| reasons.iter().map(Reason::name).collect::<Vec<_>>();
        let rows = [
            (5, &all[..], &unreadable[..], Some(3), 4, "an outage that names the chat"),
            (5, &all[..1], &unreadable[..], None, 2, "an answer that could not be read"),
            (5, &all[..1], &[], Some(3), 2, "no recorder ran, or an outage, in the life of the chat"),
            (5, &late[..], &[], Some(3), 1, "clients were given errors"),
            (1, &late[..], &[], None, 1, "the chat was going on before its first answer here"),
            (5, &[], &[], None, 1, "no answer that came by here covered it"),
        ];
        for (from, interruptions, unreadable, errors, count, first) in rows {
            let found = names(reasons(&hole(from), interruptions, unreadable, errors));
            assert_eq!((found.len(), found[0]), (count, first));
        }
    }
}
