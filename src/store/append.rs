//! One batch, one transaction. The database decides what is new, a duplicate or a variant (promise 3).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe};

use super::{Error, Store};
use crate::chat::{ChatId, ContentDigest, Covered, TranscriptEvent};
use crate::gms::{self, ApiError, Attribute, Comparison, Ended, Finding};

/// Binds values in order.
macro_rules! bind_all {
    ($arguments:expr, $($value:expr),+) => {
        $($arguments.add($value).map_err(cannot_bind)?;)+
    };
}

/// Rows in one INSERT: few sizes, so that each is prepared once and kept.
const ROWS_PER_STATEMENT: [usize; 4] = [128, 32, 8, 1];

/// Identical errors within this time fold into one row (R11), in milliseconds.
const FOLD_MS: i64 = 60_000;

/// Chats and errors remembered between batches; what is forgotten costs a row more, never a row less.
const MEMORY_MAX: usize = 50_000;

/// What one exchange brought.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// When it was observed, milliseconds since the epoch.
    pub at: i64,
    /// The node that answered.
    pub node: Option<Arc<str>>,
    /// A record for each chat.
    pub chats: Vec<ChatRecord>,
    /// Errors to audit.
    pub errors: Vec<ErrorRecord>,
    /// What could not be understood.
    pub findings: Vec<Finding>,
}

/// What one exchange brought of one chat.
#[derive(Debug, Clone)]
pub struct ChatRecord {
    /// Which chat.
    pub chat_id: ChatId,
    /// `{serviceName}`.
    pub service: Option<String>,
    /// Events to store.
    pub events: Vec<TranscriptEvent>,
    /// Ground that the answer covered.
    pub covered: Option<Covered>,
    /// nextPosition.
    pub next_position: Option<i64>,
    /// chatEnded.
    pub ended: Option<Ended>,
    /// An asynchronous chat.
    pub is_async: bool,
    /// Attributes that changed.
    pub attributes: Vec<Attribute>,
}

impl ChatRecord {
    /// A record that says nothing yet but which chat it is of.
    pub fn of(chat_id: ChatId) -> Self {
        Self {
            chat_id,
            service: None,
            events: Vec::new(),
            covered: None,
            next_position: None,
            ended: None,
            is_async: false,
            attributes: Vec::new(),
        }
    }
}

/// An error and the exchange it came in.
#[derive(Debug, Clone)]
pub struct ErrorRecord {
    /// What was said.
    pub error: ApiError,
    /// When and where.
    pub exchange: Arc<ExchangeFacts>,
}

/// What the audit says of an exchange besides its error. Nothing secret: the path has no query.
#[derive(Debug, Clone, Default)]
pub struct ExchangeFacts {
    /// GET, POST, …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The node asked, if one was.
    pub node: Option<Arc<str>>,
    /// The client's address.
    pub client: String,
    /// The client's X-Request-Id, if it sent one.
    pub request_id: Option<String>,
    /// From the request's head to its answer, milliseconds.
    pub duration_ms: i64,
}

/// A row of `outages`.
#[derive(Debug, Clone)]
pub struct Outage {
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// The same.
    pub ended_at: i64,
    /// One of [`super::ErrorKind::as_str`], `slow` or `queue_full`.
    pub reason: String,
    /// The first error's words.
    pub detail: String,
    /// Events affected.
    pub events: u64,
    /// Answers affected.
    pub answers: u64,
    /// Events that clients had before they were on disk.
    pub delivered_early: u64,
    /// Events that clients were not given.
    pub refused: u64,
    /// Events that will never be written.
    pub dropped: u64,
    /// The chats affected, the first 1,000.
    pub chat_ids: Vec<ChatId>,
}

/// What became of an entry's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stored now.
    pub new: u64,
    /// Stored before.
    pub duplicate: u64,
    /// The same key with other content, stored now.
    pub variant: u64,
    /// Kept as findings.
    pub finding: u64,
}

impl Tally {
    /// The sum of two, number by number.
    pub fn plus(self, other: Self) -> Self {
        Self {
            new: self.new + other.new,
            duplicate: self.duplicate + other.duplicate,
            variant: self.variant + other.variant,
            finding: self.finding + other.finding,
        }
    }
}

/// What a committed batch did.
#[derive(Debug, Default)]
pub struct Appended {
    /// For each entry, in order.
    pub tallies: Vec<Tally>,
    /// Where variants were found.
    pub variants: Vec<(ChatId, i64, Comparison)>,
}

impl Appended {
    /// Adds what a further transaction did.
    pub fn absorb(&mut self, other: Self) {
        self.tallies.extend(other.tallies);
        self.variants.extend(other.variants);
    }
}

/// What was committed lately and helps the next batch to fewer rows. Only what is committed is ever in it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    extents: HashMap<ChatId, Extent>,
    folds: HashMap<u64, Fold>,
}

/// The coverage row of a chat that grows.
#[derive(Debug, Clone)]
struct Extent {
    covered: Covered,
    node: Arc<str>,
}

/// The error row that identical errors fold into.
#[derive(Debug, Clone, Copy)]
struct Fold {
    id: i64,
    observed_at: i64,
}

/// An event on its way, with the entry it belongs to.
struct Arrival<'a> {
    entry: usize,
    at: i64,
    node: Option<&'a str>,
    chat_id: &'a ChatId,
    event: &'a TranscriptEvent,
}

impl Store {
    /// Writes entries and finished outages in one transaction, synced when it returns.
    ///
    /// # Errors
    /// Nothing of the batch is stored then. [`super::ErrorKind::Row`] means that one row is at fault: try smaller batches.
    pub async fn append(&mut self, entries: &[Entry], outages: &[Outage]) -> Result<Appended, Error> {
        self.execute("BEGIN IMMEDIATE").await?;
        let written = self.write(entries, outages).await;
        let (appended, memory) = match written {
            Ok(written) => written,
            Err(error) => return Err(self.roll_back(error).await),
        };
        if let Err(error) = self.execute("COMMIT").await {
            return Err(self.roll_back(error).await);
        }
        self.remember(memory);
        Ok(appended)
    }

    async fn roll_back(&mut self, error: Error) -> Error {
        // SQLite has rolled back by itself after some errors; then this fails, and nothing is lost.
        let _ = self.execute("ROLLBACK").await;
        error
    }

    fn remember(&mut self, committed: Memory) {
        if self.memory.extents.len() > MEMORY_MAX {
            self.memory.extents.clear();
        }
        if self.memory.folds.len() > MEMORY_MAX {
            self.memory.folds.clear();
        }
        self.memory.extents.extend(committed.extents);
        self.memory.folds.extend(committed.folds);
    }

    async fn write(&mut self, entries: &[Entry], outages: &[Outage]) -> Result<(Appended, Memory), Error> {
        let mut appended = Appended { tallies: vec![Tally::default(); entries.len()], ..Appended::default() };
        let mut fresh = Memory::default();
        self.write_events(entries, &mut appended).await?;
        self.write_chats(entries).await?;
        self.write_coverage(entries, &mut fresh).await?;
        for (index, entry) in entries.iter().enumerate() {
            self.write_attributes(entry).await?;
            for record in &entry.errors {
                self.write_error(entry.at, record, &mut fresh).await?;
            }
            for finding in &entry.findings {
                self.write_finding(entry.at, finding).await?;
                appended.tallies[index].finding += finding.events;
            }
        }
        for outage in outages {
            self.write_outage(outage).await?;
        }
        Ok((appended, fresh))
    }

    async fn write_events(&mut self, entries: &[Entry], appended: &mut Appended) -> Result<(), Error> {
        let mut first: HashMap<(&ChatId, i64), &TranscriptEvent> = HashMap::new();
        let mut arrivals = Vec::new();
        let mut conflicts = Vec::new();
        for arrival in arrivals_of(entries) {
            match first.get(&(arrival.chat_id, arrival.event.index.get())) {
                None => {
                    first.insert((arrival.chat_id, arrival.event.index.get()), arrival.event);
                    arrivals.push(arrival);
                }
                Some(earlier) if earlier.raw == arrival.event.raw => appended.tallies[arrival.entry].duplicate += 1,
                Some(_) => conflicts.push(arrival),
            }
        }
        let mut rest = arrivals.as_slice();
        for size in ROWS_PER_STATEMENT {
            while rest.len() >= size {
                let (chunk, after) = rest.split_at(size);
                self.insert_events(chunk, appended).await?;
                rest = after;
            }
        }
        for arrival in &conflicts {
            self.settle_conflict(arrival, appended).await?;
        }
        Ok(())
    }

    async fn insert_events(&mut self, chunk: &[Arrival<'_>], appended: &mut Appended) -> Result<(), Error> {
        let mut arguments = SqliteArguments::default();
        for arrival in chunk {
            bind_event(&mut arguments, arrival, self.run_id)?;
        }
        let sql = insert_rows(
            "INSERT INTO events (chat_id, event_index, type, utc_time, participant_id, nickname, party_type, text,
             message_type, user_data, event_attributes, raw, recorded_at, node, run_id) VALUES ",
            15,
            chunk.len(),
            " ON CONFLICT DO NOTHING",
        );
        let done = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut self.connection).await?;
        if done.rows_affected() == chunk.len() as u64 {
            chunk.iter().for_each(|arrival| appended.tallies[arrival.entry].new += 1);
            return Ok(());
        }
        // Rows that were there before have a lower rowid than the ones this statement made.
        let oldest_new = done.last_insert_rowid() - done.rows_affected() as i64 + 1;
        for arrival in chunk {
            if done.rows_affected() > 0 && self.rowid(arrival).await? >= oldest_new {
                appended.tallies[arrival.entry].new += 1;
            } else {
                self.settle_conflict(arrival, appended).await?;
            }
        }
        Ok(())
    }

    async fn rowid(&mut self, arrival: &Arrival<'_>) -> Result<i64, Error> {
        let row = sqlx::query_scalar("SELECT rowid FROM events WHERE chat_id = ? AND event_index = ?")
            .bind(arrival.chat_id.as_str())
            .bind(arrival.event.index.get())
            .fetch_one(&mut self.connection)
            .await?;
        Ok(row)
    }

    /// A key that is taken: equal content is a duplicate, other content a variant, kept once (R7).
    async fn settle_conflict(&mut self, arrival: &Arrival<'_>, appended: &mut Appended) -> Result<(), Error> {
        let tally = &mut appended.tallies[arrival.entry];
        let index = arrival.event.index.get();
        let stored: String = sqlx::query_scalar("SELECT raw FROM events WHERE chat_id = ? AND event_index = ?")
            .bind(arrival.chat_id.as_str())
            .bind(index)
            .fetch_one(&mut self.connection)
            .await?;
        let comparison = gms::compare(&stored, &arrival.event.raw);
        let kind = match comparison {
            Comparison::Equal => {
                tally.duplicate += 1;
                return Ok(());
            }
            Comparison::Changed => "changed",
            Comparison::Extended => "extended",
        };
        let done = sqlx::query(
            "INSERT INTO event_variants (chat_id, event_index, digest, kind, raw, recorded_at, node, run_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(arrival.chat_id.as_str())
        .bind(index)
        .bind(gms::digest(&arrival.event.raw).as_slice())
        .bind(kind)
        .bind(&arrival.event.raw)
        .bind(arrival.at)
        .bind(arrival.node)
        .bind(self.run_id)
        .execute(&mut self.connection)
        .await?;
        if done.rows_affected() == 0 {
            tally.duplicate += 1;
        } else {
            tally.variant += 1;
            appended.variants.push((arrival.chat_id.clone(), index, comparison));
        }
        Ok(())
    }

    async fn write_chats(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let chats = merge_chats(entries);
        let mut rest = chats.as_slice();
        for size in ROWS_PER_STATEMENT {
            while rest.len() >= size {
                let (chunk, after) = rest.split_at(size);
                self.upsert_chats(chunk).await?;
                rest = after;
            }
        }
        Ok(())
    }

    async fn upsert_chats(&mut self, chunk: &[ChatRow<'_>]) -> Result<(), Error> {
        let mut arguments = SqliteArguments::default();
        for chat in chunk {
            bind_all!(
                arguments,
                chat.chat_id.as_str(),
                chat.service,
                chat.first_seen_at,
                chat.last_seen_at,
                chat.ended.map(|(at, _)| at),
                chat.ended.map(|(_, how)| how.as_str()),
                chat.next_position,
                chat.is_async,
                chat.highest_index
            );
        }
        let sql = insert_rows(
            "INSERT INTO chats (chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how, next_position,
             is_async, highest_index) VALUES ",
            9,
            chunk.len(),
            " ON CONFLICT (chat_id) DO UPDATE SET
                service = coalesce(service, excluded.service),
                first_seen_at = min(first_seen_at, excluded.first_seen_at),
                last_seen_at = max(last_seen_at, excluded.last_seen_at),
                ended_at = coalesce(ended_at, excluded.ended_at),
                ended_how = coalesce(ended_how, excluded.ended_how),
                next_position = coalesce(max(next_position, excluded.next_position), next_position, excluded.next_position),
                is_async = max(is_async, excluded.is_async),
                highest_index = coalesce(max(highest_index, excluded.highest_index), highest_index, excluded.highest_index)",
        );
        sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut self.connection).await?;
        Ok(())
    }

    /// A row grows while answers follow on; a new one begins where they do not.
    async fn write_coverage(&mut self, entries: &[Entry], fresh: &mut Memory) -> Result<(), Error> {
        for entry in entries {
            for chat in &entry.chats {
                let Some(covered) = chat.covered else { continue };
                let node = entry.node.clone().unwrap_or_else(|| "".into());
                let known = fresh.extents.get(&chat.chat_id).or_else(|| self.memory.extents.get(&chat.chat_id));
                let Some(extent) = grown(known, covered, &node) else { continue };
                sqlx::query(
                    "INSERT INTO coverage (chat_id, from_position, next_position, node, run_id, at)
                     VALUES (?, ?, ?, ?, ?, ?)
                     ON CONFLICT DO UPDATE SET next_position = max(next_position, excluded.next_position), at = excluded.at",
                )
                .bind(chat.chat_id.as_str())
                .bind(extent.covered.from)
                .bind(extent.covered.next)
                .bind(&*extent.node)
                .bind(self.run_id)
                .bind(entry.at)
                .execute(&mut self.connection)
                .await?;
                fresh.extents.insert(chat.chat_id.clone(), extent);
            }
        }
        Ok(())
    }

    async fn write_attributes(&mut self, entry: &Entry) -> Result<(), Error> {
        for chat in &entry.chats {
            for attribute in &chat.attributes {
                sqlx::query(
                    "INSERT INTO chat_attributes (chat_id, name, value, source, observed_at, run_id)
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?3 IS NOT (SELECT value FROM chat_attributes
                         WHERE chat_id = ?1 AND name = ?2 ORDER BY id DESC LIMIT 1)",
                )
                .bind(chat.chat_id.as_str())
                .bind(&attribute.name)
                .bind(&attribute.value)
                .bind(attribute.source.as_str())
                .bind(entry.at)
                .bind(self.run_id)
                .execute(&mut self.connection)
                .await?;
            }
        }
        Ok(())
    }

    async fn write_error(&mut self, at: i64, record: &ErrorRecord, fresh: &mut Memory) -> Result<(), Error> {
        let key = fold_key(record);
        let known = fresh.folds.get(&key).or_else(|| self.memory.folds.get(&key)).copied();
        if let Some(fold) = known.filter(|fold| (0..FOLD_MS).contains(&(at - fold.observed_at))) {
            sqlx::query(
                "UPDATE api_errors SET repeats = repeats + 1, last_observed_at = max(last_observed_at, ?) WHERE id = ?",
            )
            .bind(at)
            .bind(fold.id)
            .execute(&mut self.connection)
            .await?;
            return Ok(());
        }
        let id = self.insert_error(at, record).await?;
        fresh.folds.insert(key, Fold { id, observed_at: at });
        Ok(())
    }

    async fn insert_error(&mut self, at: i64, record: &ErrorRecord) -> Result<i64, Error> {
        let (error, exchange) = (&record.error, &record.exchange);
        let mut arguments = SqliteArguments::default();
        bind_all!(
            arguments,
            at,
            at,
            error.origin.as_str(),
            error.http_status.map(i64::from),
            error.status_code,
            error.format.as_str(),
            error.code,
            error.meaning,
            error.class.as_str(),
            error.field.as_deref(),
            error.detail.as_deref(),
            error.advice.as_deref(),
            error.reference_id.as_deref(),
            error.service.as_deref(),
            error.operation.as_deref(),
            error.chat_id.as_ref().map(ChatId::as_str),
            error.alias.as_deref(),
            exchange.method.as_str(),
            exchange.path.as_str(),
            exchange.node.as_deref(),
            exchange.client.as_str(),
            exchange.request_id.as_deref(),
            exchange.duration_ms,
            self.run_id
        );
        let sql = insert_rows(
            "INSERT INTO api_errors (observed_at, last_observed_at, origin, http_status, status_code, format, code,
             meaning, class, field, detail, advice, reference_id, service, operation, chat_id, alias, method, path,
             node, client, request_id, duration_ms, run_id) VALUES ",
            24,
            1,
            "",
        );
        let done = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut self.connection).await?;
        Ok(done.last_insert_rowid())
    }

    async fn write_finding(&mut self, at: i64, finding: &Finding) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO findings (observed_at, last_observed_at, kind, chat_id, detail, raw, raw_length, digest, run_id)
             VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (digest) DO UPDATE SET repeats = repeats + 1,
                last_observed_at = max(last_observed_at, excluded.last_observed_at)",
        )
        .bind(at)
        .bind(finding.kind.as_str())
        .bind(finding.chat_id.as_ref().map(ChatId::as_str))
        .bind(&finding.detail)
        .bind(&finding.raw)
        .bind(finding.raw_length as i64)
        .bind(finding_digest(finding).as_slice())
        .bind(self.run_id)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    async fn write_outage(&mut self, outage: &Outage) -> Result<(), Error> {
        let ids: Vec<&str> = outage.chat_ids.iter().map(ChatId::as_str).collect();
        sqlx::query(
            "INSERT INTO outages (started_at, ended_at, reason, detail, events, answers, delivered_early, refused,
                dropped, chat_ids, run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(outage.started_at)
        .bind(outage.ended_at)
        .bind(&outage.reason)
        .bind(&outage.detail)
        .bind(outage.events as i64)
        .bind(outage.answers as i64)
        .bind(outage.delivered_early as i64)
        .bind(outage.refused as i64)
        .bind(outage.dropped as i64)
        .bind(serde_json::json!(ids).to_string())
        .bind(self.run_id)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}

fn cannot_bind(error: sqlx::error::BoxDynError) -> Error {
    Error::new(super::ErrorKind::Row, error.to_string())
}

fn bind_event(arguments: &mut SqliteArguments, arrival: &Arrival<'_>, run_id: i64) -> Result<(), Error> {
    let event = arrival.event;
    bind_all!(
        arguments,
        arrival.chat_id.as_str(),
        event.index.get(),
        event.kind.as_deref(),
        event.utc_time,
        event.from.participant_id,
        event.from.nickname.as_deref(),
        event.from.party_type.as_deref(),
        event.text.as_deref(),
        event.message_type.as_deref(),
        event.user_data.as_deref(),
        event.event_attributes.as_deref(),
        event.raw.as_str(),
        arrival.at,
        arrival.node,
        run_id
    );
    Ok(())
}

/// `head (?,…),(?,…) tail`
fn insert_rows(head: &str, columns: usize, rows: usize, tail: &str) -> String {
    let row = format!("({}?)", "?,".repeat(columns - 1));
    let rows = format!("{}{row}", format!("{row},").repeat(rows - 1));
    format!("{head}{rows}{tail}")
}

fn arrivals_of(entries: &[Entry]) -> impl Iterator<Item = Arrival<'_>> {
    entries.iter().enumerate().flat_map(|(index, entry)| {
        entry.chats.iter().flat_map(move |chat| {
            chat.events.iter().map(move |event| Arrival {
                entry: index,
                at: entry.at,
                node: entry.node.as_deref(),
                chat_id: &chat.chat_id,
                event,
            })
        })
    })
}

/// What a batch says of a chat, for its row.
struct ChatRow<'a> {
    chat_id: &'a ChatId,
    service: Option<&'a str>,
    first_seen_at: i64,
    last_seen_at: i64,
    ended: Option<(i64, Ended)>,
    next_position: Option<i64>,
    is_async: bool,
    highest_index: Option<i64>,
}

fn merge_chats(entries: &[Entry]) -> Vec<ChatRow<'_>> {
    let mut rows: Vec<ChatRow<'_>> = Vec::new();
    let mut places: HashMap<&ChatId, usize> = HashMap::new();
    for entry in entries {
        for chat in &entry.chats {
            let place = *places.entry(&chat.chat_id).or_insert_with(|| {
                rows.push(ChatRow {
                    chat_id: &chat.chat_id,
                    service: None,
                    first_seen_at: entry.at,
                    last_seen_at: entry.at,
                    ended: None,
                    next_position: None,
                    is_async: false,
                    highest_index: None,
                });
                rows.len() - 1
            });
            let row = &mut rows[place];
            row.service = row.service.or(chat.service.as_deref());
            row.first_seen_at = row.first_seen_at.min(entry.at);
            row.last_seen_at = row.last_seen_at.max(entry.at);
            row.ended = row.ended.or(chat.ended.map(|how| (entry.at, how)));
            row.next_position = row.next_position.max(chat.next_position);
            row.is_async |= chat.is_async;
            row.highest_index = row.highest_index.max(chat.events.iter().map(|event| event.index.get()).max());
        }
    }
    rows
}

/// The row to write for newly covered ground, or `None` where a row already says so.
fn grown(known: Option<&Extent>, covered: Covered, node: &Arc<str>) -> Option<Extent> {
    let begin_new = Extent { covered, node: node.clone() };
    let Some(extent) = known else { return Some(begin_new) };
    let follows_on = extent.covered.from <= covered.from && covered.from <= extent.covered.next;
    match follows_on {
        true if covered.next <= extent.covered.next => None,
        true if *node == extent.node => {
            Some(Extent { covered: Covered { from: extent.covered.from, ..covered }, ..begin_new })
        }
        _ => Some(begin_new),
    }
}

/// What identical errors have in common (R11).
pub fn fold_key(record: &ErrorRecord) -> u64 {
    let mut hasher = DefaultHasher::new();
    let error = &record.error;
    (&error.chat_id, &error.operation, &error.service, error.http_status, error.status_code).hash(&mut hasher);
    (error.origin, error.format, error.code, &error.field, &error.detail, &error.advice).hash(&mut hasher);
    (&record.exchange.node, error.chat_id.is_none().then_some(&record.exchange.path)).hash(&mut hasher);
    hasher.finish()
}

fn finding_digest(finding: &Finding) -> ContentDigest {
    let mut hasher = Sha256::new();
    for part in [
        finding.kind.as_str().as_bytes(),
        finding.chat_id.as_ref().map_or("", ChatId::as_str).as_bytes(),
        if finding.raw.is_empty() { finding.detail.as_bytes() } else { &finding.raw },
    ] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut digest = ContentDigest::default();
    digest.copy_from_slice(&hasher.finalize()[..16]);
    digest
}
