//! One batch, one transaction. The database decides what is new, a duplicate or a variant (promise 3).
//!
//! Every row is a statement of its own that SQLite keeps prepared, on the writer's thread: no text of SQL is built, nothing is
//! copied but by SQLite itself, and the count of changes says at once whether a key was taken.

mod memory;

use std::borrow::Cow;
use std::collections::hash_map::Entry as Slot;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use super::entry::{Appended, ChatRecord, Entry, ErrorRecord, FileTransfer, Mark, Outage, Tally};
use super::seal::leaf;
use super::seal::{self, Form, KeyValue, Pack};
use super::{Error, ErrorKind, Store, is_as_sealed, text};
use crate::chat::{ChatId, ContentDigest, Covered, Masking, TranscriptEvent};
use crate::gms::mask::Masks;
use crate::gms::{self, Comparison, Finding, FindingKind};
use memory::{Alteration, ChatRow, Extent, Fold, Fresh, Known, absorb};

pub(super) use memory::Memory;

/// Identical errors within this time fold into one row (R11), in milliseconds.
const FOLD_MS: i64 = 60_000;

/// Variants of one event that another is held against, where the rules of masking may have changed since.
pub(super) const VARIANTS_COMPARED_MAX: i64 = 100;

impl Store {
    /// Writes entries and finished outages in one transaction, synced when it returns.
    ///
    /// The rows of chats that are in the file already are put off, unless `whole`: they are written by the next batch that
    /// is, at least every second (R4).
    ///
    /// # Errors
    /// Nothing of the batch is stored then. [`super::ErrorKind::Row`] means that one row is at fault: try smaller batches.
    pub fn append(&mut self, entries: &[Entry], outages: &[Outage], whole: bool) -> Result<Appended, Error> {
        self.append_marked(entries, outages, whole, None)
    }

    /// The same with entries of a spool: that they are here is noted in the same transaction.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn append_marked(
        &mut self,
        entries: &[Entry],
        outages: &[Outage],
        whole: bool,
        mark: Option<&Mark>,
    ) -> Result<Appended, Error> {
        let at = entries.iter().map(|entry| entry.at).max().or(self.accounts.told_at());
        let ((appended, fresh, accounts), leaves) = seal::append(&self.connection, None, |pack| {
            let is_forgetful = self.memory.catch_up(&self.connection, pack.leaves_before(&self.connection)?)?;
            let mut batch = Batch {
                connection: &self.connection,
                run_id: self.run_id,
                masks: &self.masks,
                covers_from: self.covers_from,
                memory: &self.memory,
                fresh: Fresh::default(),
                pack,
            };
            let mut appended = batch.write(entries, outages, whole)?;
            if let Some(at) = at {
                batch.write_alterations(at);
            }
            appended.is_forgetful = is_forgetful;
            mark.map_or(Ok(()), |mark| batch.write_mark(mark))?;
            let fresh = batch.fresh;
            let accounts = if whole { self.accounts.write(&self.connection, pack, self.run_id)? } else { None };
            Ok((appended, fresh, accounts))
        })?;
        self.folding.committed(&self.connection);
        self.accounts.take_over(accounts);
        self.memory.take_over(fresh, leaves, whole);
        if at.is_some() {
            self.memory.alterations.clear();
        }
        Ok(appended)
    }

    /// Whether somebody has erased, purged or masked chats since the archive was opened, this was last asked, or anything was
    /// written. Where that cannot be told, the next batch tells.
    pub fn has_been_erased_from(&mut self) -> bool {
        let memory = &mut self.memory;
        let mut look = || {
            let snapshot = self.connection.unchecked_transaction()?;
            let is_erased = memory.catch_up(&self.connection, seal::read_tree(&self.connection)?.size())?;
            snapshot.commit()?;
            Ok::<_, Error>(is_erased)
        };
        look().unwrap_or_default()
    }

    /// How many bytes of a spool's filling are here; 0 where it is not known, or not as it was sealed: what comes again is found to be
    /// there.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn drained_to(&self, spool_id: &str) -> Result<u64, Error> {
        if let Some((_, drained_to)) = self.memory.drained.as_ref().filter(|(known, _)| known == spool_id) {
            return Ok(*drained_to);
        }
        let mut select =
            self.connection.prepare_cached("SELECT CAST(drained_to AS INTEGER) FROM spools WHERE spool_id = ?")?;
        let Some(drained_to) = select.query_row([spool_id], |row| row.get::<_, i64>(0)).optional()? else {
            return Ok(0);
        };
        let is_so = is_as_sealed(&self.connection, seal::SPOOLS, KeyValue::Text(spool_id.into()))?;
        Ok(if is_so { drained_to.cast_unsigned() } else { 0 })
    }

    /// Whether rows of chats are put off.
    pub fn has_put_off(&self) -> bool {
        !self.memory.put_off.is_empty()
    }

    /// What is put off, as entries for another store on the same archive.
    pub fn take_put_off(&mut self) -> Vec<Entry> {
        let entry = |(chat_id, row): (ChatId, ChatRow)| {
            let record = ChatRecord {
                service: row.service,
                next_position: row.next_position,
                ended: row.ended.map(|(_, how)| how),
                is_async: row.is_async,
                highest_index: row.highest_index,
                ..ChatRecord::of(chat_id)
            };
            Entry { at: row.last_seen_at, chats: vec![record], ..Entry::default() }
        };
        self.memory.put_off.drain().map(entry).collect()
    }
}

/// One transaction under way.
struct Batch<'s> {
    connection: &'s Connection,
    run_id: i64,
    masks: &'s Masks,
    covers_from: i64,
    memory: &'s Memory,
    /// For the memory, once it is committed.
    fresh: Fresh,
    /// What is sealed with it.
    pack: &'s mut Pack,
}

impl<'s> Batch<'s> {
    /// Finding a statement hashes its text: what is done for every row is found once a batch.
    fn statement(&self, sql: &'static str) -> Result<CachedStatement<'s>, Error> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    fn write(&mut self, entries: &[Entry], outages: &[Outage], whole: bool) -> Result<Appended, Error> {
        let mut appended = Appended { tallies: Vec::with_capacity(entries.len()), ..Appended::default() };
        let (mut insert, mut cover) = (EventInsert(self.statement(INSERT_EVENT)?), self.statement(PUT_COVERAGE)?);
        for entry in entries {
            let mut tally = Tally::default();
            for chat in &entry.chats {
                self.meet(&chat.chat_id)?;
                let Some(chat) = self.without_erased(chat, &mut tally)? else { continue };
                insert.of(self.run_id, entry, &chat.chat_id)?;
                let before = self.known(&chat.chat_id).and_then(|known| known.highest);
                let mut highest = before;
                for event in &chat.events {
                    let index = Some(event.index.get());
                    let mut is_new = insert.execute(event)?;
                    if !is_new && index > highest {
                        self.remove_forged(entry.at, &chat.chat_id, event)?;
                        is_new = insert.execute(event)?;
                    }
                    match is_new {
                        true => {
                            tally.new += 1;
                            highest = highest.max(index);
                            let of = Evidence { event_index: index, ..Evidence::of("event", entry.at) };
                            self.pack.event(self.run_id, entry, &chat.chat_id, event);
                            self.write_maskings(&Evidence { chat_id: Some(&chat.chat_id), ..of }, &event.maskings)?;
                        }
                        false => self.settle_conflict(entry, &chat.chat_id, event, &mut tally, &mut appended)?,
                    }
                }
                if highest != before {
                    self.remember(&chat.chat_id).highest = highest;
                }
                self.cover(&mut cover, entry, &chat)?;
                self.write_attributes(entry, &chat)?;
            }
            for record in &entry.errors {
                self.write_error(entry.at, record)?;
            }
            for finding in &entry.findings {
                let Some(left) = self.finding_without_erased(finding)? else {
                    tally.suppressed += finding.events;
                    continue;
                };
                self.write_finding(entry.at, &left)?;
                tally.finding += finding.events;
            }
            for file in &entry.files {
                if !self.is_gone(file.chat_id.as_ref())? {
                    self.write_file(entry, file)?;
                }
            }
            appended.tallies.push(tally);
        }
        self.write_chats(entries, whole)?;
        for outage in outages {
            self.write_outage(outage)?;
        }
        Ok(appended)
    }

    /// What of a chat is not under a tombstone. None where that is nothing: what only accompanies erased events (their
    /// coverage, attributes, the chat's row) is as little wanted.
    fn without_erased<'e>(
        &mut self,
        chat: &'e ChatRecord,
        tally: &mut Tally,
    ) -> Result<Option<Cow<'e, ChatRecord>>, Error> {
        let Some(below) = self.tombstone(&chat.chat_id)? else { return Ok(Some(Cow::Borrowed(chat))) };
        let mut left = chat.clone();
        left.events.retain(|event| event.index.get() >= below);
        tally.suppressed += (chat.events.len() - left.events.len()) as u64;
        if left.events.is_empty() && self.is_gone(Some(&chat.chat_id))? {
            return Ok(None);
        }
        // What was erased was covered: it is no hole.
        left.covered = left.covered.and_then(|covered| Covered::new(1, covered.next));
        Ok(Some(Cow::Owned(left)))
    }

    /// The same of a finding: where its chat goes on, without what may be of before.
    fn finding_without_erased<'e>(&mut self, finding: &'e Finding) -> Result<Option<Cow<'e, Finding>>, Error> {
        let Some(chat_id) = &finding.chat_id else { return Ok(Some(Cow::Borrowed(finding))) };
        if self.tombstone(chat_id)?.is_none() {
            return Ok(Some(Cow::Borrowed(finding)));
        }
        if self.is_gone(Some(chat_id))? {
            return Ok(None);
        }
        Ok(Some(Cow::Owned(Finding { raw: Vec::new(), maskings: Vec::new(), ..finding.clone() })))
    }

    /// Whether a chat was erased or purged, and nothing has come of it since that was not.
    fn is_gone(&mut self, chat_id: Option<&ChatId>) -> Result<bool, Error> {
        let Some(chat_id) = chat_id else { return Ok(false) };
        if self.tombstone(chat_id)?.is_none() {
            return Ok(false);
        }
        let select = "SELECT 1 FROM events WHERE chat_id = ? LIMIT 1";
        Ok(!self.statement(select)?.exists([chat_id.as_str()])?)
    }

    /// Below which index the events of a chat were erased or purged.
    fn tombstone(&mut self, chat_id: &ChatId) -> Result<Option<i64>, Error> {
        if self.memory.last_erasure == 0 {
            return Ok(None);
        }
        self.meet(chat_id)?;
        Ok(self.known(chat_id).and_then(|known| known.below))
    }

    /// A row with a higher index than anybody has recorded of its chat.
    fn remove_forged(&mut self, at: i64, chat_id: &ChatId, event: &TranscriptEvent) -> Result<(), Error> {
        let index = event.index.get();
        tracing::error!(%chat_id, index, "an event was there that gms-recorder has not recorded: somebody put it there by hand");
        let what = "an event was there that was not recorded: what the node delivered has taken its place";
        self.write_alteration(at, Some(chat_id), format!("event_index {index}: {what}"));
        let mut delete = self.statement("DELETE FROM events WHERE chat_id = ? AND event_index = ?")?;
        delete.execute(params![chat_id.as_str(), event.index.get()])?;
        Ok(())
    }

    /// A key that is taken: equal content is a duplicate, other content a variant, kept once (R7).
    fn settle_conflict(
        &mut self,
        entry: &Entry,
        chat_id: &ChatId,
        event: &TranscriptEvent,
        tally: &mut Tally,
        appended: &mut Appended,
    ) -> Result<(), Error> {
        let index = event.index.get();
        let mut select =
            self.statement("SELECT CAST(raw AS TEXT) FROM events WHERE chat_id = ? AND event_index = ?")?;
        let stored = select.query_row(params![chat_id.as_str(), index], |row| text(row, 0))?;
        let comparison = compare(self.masks, &stored, &event.raw);
        let kind = match comparison {
            Comparison::Equal => {
                tally.duplicate += 1;
                return Ok(());
            }
            Comparison::Changed => "changed",
            Comparison::Extended => "extended",
        };
        let content = gms::digest(&event.raw);
        if self.has_variant(chat_id, event, &content)? {
            tally.duplicate += 1;
            return Ok(());
        }
        let mut insert = self.statement(
            "INSERT INTO event_variants (chat_id, event_index, digest, kind, raw, recorded_at, node, run_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (chat_id, event_index, digest) DO NOTHING",
        )?;
        let digest = keyed(self.connection, chat_id.as_str(), &content)?;
        let node = entry.node.as_deref();
        let inserted =
            insert.execute(params![chat_id.as_str(), index, digest, kind, event.raw, entry.at, node, self.run_id])?;
        if inserted == 0 {
            tally.duplicate += 1;
        } else {
            let evidence =
                Evidence { event_index: Some(index), digest: Some(&digest), ..Evidence::of("variant", entry.at) };
            self.write_maskings(&Evidence { chat_id: Some(chat_id), ..evidence }, &event.maskings)?;
            tally.variant += 1;
            let key =
                [KeyValue::Text(chat_id.as_str().into()), KeyValue::Integer(index), KeyValue::Blob(digest.into())];
            self.pack.touch(seal::VARIANTS, key);
            appended.variants.push((chat_id.clone(), index, comparison));
        }
        Ok(())
    }

    /// Whether this content is a variant already: one of an earlier release, whose digest has no key; or one that was masked
    /// by other rules. Others have the same digest.
    fn has_variant(&self, chat_id: &ChatId, event: &TranscriptEvent, content: &ContentDigest) -> Result<bool, Error> {
        let by_digest = "SELECT 1 FROM event_variants WHERE chat_id = ? AND event_index = ? AND digest = ?";
        if self.statement(by_digest)?.exists(params![chat_id.as_str(), event.index.get(), content])? {
            return Ok(true);
        }
        if event.maskings.is_empty() {
            return Ok(false);
        }
        let mut select = self
            .statement("SELECT CAST(raw AS TEXT) FROM event_variants WHERE chat_id = ? AND event_index = ? LIMIT ?")?;
        let mut rows = select.query(params![chat_id.as_str(), event.index.get(), VARIANTS_COMPARED_MAX])?;
        while let Some(row) = rows.next()? {
            let stored = text(row, 0)?;
            if compare(self.masks, &stored, &event.raw) == Comparison::Equal {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Evidence, in the transaction of what it is of.
    fn write_maskings(&mut self, of: &Evidence<'_>, maskings: &[Masking]) -> Result<(), Error> {
        if maskings.is_empty() {
            return Ok(());
        }
        let mut insert = self.statement(
            "INSERT INTO maskings (what, chat_id, event_index, digest, row_id, field, rule, at_character, characters,
                recorded_at, run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        for masking in maskings {
            insert.execute(params![
                of.what,
                of.chat_id.map(ChatId::as_str),
                of.event_index,
                of.digest,
                of.row_id,
                masking.field,
                masking.rule,
                masking.at as i64,
                masking.characters as i64,
                of.recorded_at,
                self.run_id,
            ])?;
            self.pack.touch(seal::MASKINGS, [KeyValue::Integer(self.connection.last_insert_rowid())]);
        }
        Ok(())
    }

    /// A chat has its row from the first thing on that is stored of it; what the row says then follows lazily.
    fn write_chats(&mut self, entries: &[Entry], whole: bool) -> Result<(), Error> {
        let mut rows: HashMap<&ChatId, ChatRow> = HashMap::new();
        for (entry, chat) in entries.iter().flat_map(|entry| entry.chats.iter().map(move |chat| (entry, chat))) {
            let row = ChatRow::of(entry, chat);
            match rows.entry(&chat.chat_id) {
                Slot::Occupied(known) => known.into_mut().absorb(row),
                Slot::Vacant(place) => drop(place.insert(row)),
            }
        }
        let mut put = self.statement(PUT_CHAT)?;
        for (chat_id, row) in rows {
            if self.is_gone(Some(chat_id))? {
                continue;
            }
            if self.known(chat_id).is_some_and(|known| known.row.is_some()) && row.ended.is_none() && !whole {
                absorb(&mut self.fresh.put_off, chat_id.clone(), row);
                continue;
            }
            self.write_chat(&mut put, chat_id, row)?;
        }
        if whole {
            for (chat_id, row) in self.memory.put_off.iter().chain(&self.memory.withheld) {
                if !self.is_gone(Some(chat_id))? {
                    self.write_chat(&mut put, chat_id, row.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Writes the whole row, whatever is there: what somebody has altered meanwhile is put right.
    fn write_chat(&mut self, put: &mut CachedStatement<'_>, chat_id: &ChatId, row: ChatRow) -> Result<(), Error> {
        if let Some(sealed) = self.memory.altered.get(chat_id).filter(|_| !self.fresh.righted.contains(chat_id)) {
            let form = Form::of(seal::CHATS).expect("there is one");
            let key = [KeyValue::Text(chat_id.as_str().into())];
            if !leaf::is_as_sealed(self.connection, *sealed, form, &key)? {
                absorb(&mut self.fresh.withheld, chat_id.clone(), row);
                return Ok(());
            }
            self.fresh.righted.insert(chat_id.clone());
        }
        let before = match self.known(chat_id).and_then(|known| known.row.clone()) {
            Some(before) => Some(before),
            // It is new, or was forgotten. What is none of ours in it is written over.
            None => ChatRow::read(self.connection, chat_id)?.flatten(),
        };
        let mut after = before.clone().unwrap_or_else(|| row.clone());
        after.absorb(row);
        put.execute(params![
            chat_id.as_str(),
            after.service,
            after.first_seen_at,
            after.last_seen_at,
            after.ended.map(|(at, _)| at),
            after.ended.map(|(_, how)| how.as_str()),
            after.next_position,
            after.is_async,
            after.highest_index,
        ])?;
        if !before.is_some_and(|before| before.seals_like(&after)) {
            self.pack.touch(seal::CHATS, [KeyValue::Text(chat_id.as_str().into())]);
        }
        self.remember(chat_id).row = Some(after);
        Ok(())
    }

    fn known(&self, chat_id: &ChatId) -> Option<&Known> {
        self.fresh.chats.get(chat_id).or_else(|| self.memory.chats.get(chat_id))
    }

    /// The file is asked of a chat once.
    fn meet(&mut self, chat_id: &ChatId) -> Result<(), Error> {
        if self.known(chat_id).is_none() {
            let known = Known::read(self.connection, chat_id, self.memory.last_erasure)?;
            self.fresh.chats.insert(chat_id.clone(), known);
        }
        Ok(())
    }

    fn remember(&mut self, chat_id: &ChatId) -> &mut Known {
        let before = self.memory.chats.get(chat_id);
        self.fresh.chats.entry(chat_id.clone()).or_insert_with(|| before.cloned().unwrap_or_default())
    }

    /// A row grows while answers follow on; a new one begins where they do not. This run alone writes them, and knows what it has
    /// written: one that it has forgotten is not grown any more.
    fn cover(&mut self, put: &mut CachedStatement<'_>, entry: &Entry, chat: &ChatRecord) -> Result<(), Error> {
        let Some(covered) = chat.covered.filter(|_| entry.at >= self.covers_from) else { return Ok(()) };
        let node = entry.node.clone().unwrap_or_else(|| "".into());
        let before = self.known(&chat.chat_id).and_then(|known| known.extent.as_ref());
        let Some(mut extent) = grown(before, covered, &node) else { return Ok(()) };
        let is_same_row =
            before.is_some_and(|before| before.covered.from == extent.covered.from && before.node == extent.node);
        let chat_id = chat.chat_id.as_str();
        if !is_same_row {
            while let Some(to) = self.covered_to(chat_id, &extent)? {
                let Some(rest) = Covered::new(to, extent.covered.next) else { return Ok(()) };
                extent.covered = rest;
            }
        }
        let Extent { covered: Covered { from, next }, node } = &extent;
        put.execute(params![chat_id, from, next, &**node, self.run_id, entry.at])?;
        self.pack.coverage(self.run_id, entry.at, &chat.chat_id, extent.covered, node);
        self.remember(&chat.chat_id).extent = Some(extent);
        Ok(())
    }

    /// Where a row ends that begins as this does; None where there is none, or it ends before it begins: whose ever that is, it is
    /// written over.
    fn covered_to(&self, chat_id: &str, extent: &Extent) -> Result<Option<i64>, Error> {
        let from = extent.covered.from;
        let key = params![chat_id, from, self.run_id, &*extent.node];
        let to: Option<i64> = self.statement(COVERED_TO)?.query_row(key, |row| row.get(0)).optional()?;
        Ok(to.filter(|to| *to > from))
    }

    fn write_attributes(&mut self, entry: &Entry, chat: &ChatRecord) -> Result<(), Error> {
        if chat.attributes.is_empty() {
            return Ok(());
        }
        let mut insert = self.statement(
            "INSERT INTO chat_attributes (chat_id, name, value, source, observed_at, run_id)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?3 IS NOT (SELECT value FROM chat_attributes
                 WHERE chat_id = ?1 AND name = ?2 ORDER BY observed_at DESC, id DESC LIMIT 1)",
        )?;
        for attribute in &chat.attributes {
            let source = attribute.source.as_str();
            let chat_id = chat.chat_id.as_str();
            let values = params![chat_id, attribute.name, attribute.value, source, entry.at, self.run_id];
            if insert.execute(values)? == 1 {
                let row_id = self.connection.last_insert_rowid();
                self.pack.touch(seal::ATTRIBUTES, [KeyValue::Integer(row_id)]);
                let of = Evidence { row_id: Some(row_id), ..Evidence::of("attribute", entry.at) };
                self.write_maskings(&Evidence { chat_id: Some(&chat.chat_id), ..of }, &attribute.maskings)?;
            }
        }
        Ok(())
    }

    fn write_file(&mut self, entry: &Entry, file: &FileTransfer) -> Result<(), Error> {
        let mut insert = self.statement(
            "INSERT INTO file_transfers (chat_id, file_id, direction, bytes, sha256, at, outcome, node, run_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        insert.execute(params![
            file.chat_id.as_ref().map(ChatId::as_str),
            file.file_id,
            file.direction.as_str(),
            file.bytes.cast_signed(),
            file.sha256,
            entry.at,
            file.outcome.as_str(),
            entry.node.as_deref(),
            self.run_id,
        ])?;
        self.pack.touch(seal::FILES, [KeyValue::Integer(self.connection.last_insert_rowid())]);
        Ok(())
    }

    fn write_error(&mut self, at: i64, record: &ErrorRecord) -> Result<(), Error> {
        let key = fold_key(record);
        let known = self.fresh.errors.get(&key).or_else(|| self.memory.errors.get(&key)).copied();
        if let Some(fold) = known.filter(|fold| (0..FOLD_MS).contains(&(at - fold.observed_at))) {
            let fold = fold.again(at);
            let update = "UPDATE api_errors SET repeats = ?, last_observed_at = ? WHERE id = ?";
            // Where it is gone somebody has deleted or renumbered it: it is another one then.
            if self.statement(update)?.execute(params![fold.repeats, fold.last_observed_at, fold.id])? == 1 {
                self.pack.touch(seal::ERRORS, [KeyValue::Integer(fold.id)]);
                self.fresh.errors.insert(key, fold);
                return Ok(());
            }
        }
        let id = self.insert_error(at, record)?;
        self.pack.touch_whole(seal::ERRORS, [KeyValue::Integer(id)]);
        let (error, exchange) = (&record.error, &record.exchange);
        let of = Evidence { chat_id: error.chat_id.as_ref(), row_id: Some(id), ..Evidence::of("error", at) };
        self.write_maskings(&of, &error.maskings)?;
        self.write_maskings(&of, &exchange.maskings)?;
        self.fresh.errors.insert(key, Fold { id, observed_at: at, last_observed_at: at, repeats: 1 });
        Ok(())
    }

    fn insert_error(&self, at: i64, record: &ErrorRecord) -> Result<i64, Error> {
        let (error, exchange) = (&record.error, &record.exchange);
        let mut insert = self.statement(
            "INSERT INTO api_errors (observed_at, last_observed_at, repeats, origin, http_status, status_code, format, code,
             meaning, class, field, detail, advice, reference_id, service, operation, chat_id, alias, method, path,
             node, client, request_id, trace_id, duration_ms, run_id)
             VALUES (?1, ?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
             ?21, ?22, ?23, ?24)",
        )?;
        let id = insert.insert(params![
            at,
            error.origin.as_str(),
            error.http_status,
            error.status_code,
            error.format.as_str(),
            error.code,
            error.meaning,
            error.class.as_str(),
            error.field,
            error.detail,
            error.advice,
            error.reference_id,
            error.service,
            error.operation,
            error.chat_id.as_ref().map(ChatId::as_str),
            error.alias,
            exchange.method,
            exchange.path,
            exchange.node.as_deref(),
            exchange.client,
            exchange.request_id,
            exchange.trace_id,
            exchange.duration_ms,
            self.run_id,
        ])?;
        Ok(id)
    }

    fn write_finding(&mut self, at: i64, finding: &Finding) -> Result<(), Error> {
        let digest = finding_digest(finding);
        let known = self.fresh.findings.get(&digest).or_else(|| self.memory.findings.get(&digest)).copied();
        if let Some(known) = known
            && self.repeat_finding(digest, known.again(at))?
        {
            return Ok(());
        }
        let mut insert = self.statement(
            "INSERT INTO findings (observed_at, last_observed_at, repeats, kind, chat_id, detail, raw, raw_length, digest, run_id)
             VALUES (?1, ?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (digest) DO NOTHING RETURNING id",
        )?;
        let values = params![
            at,
            finding.kind.as_str(),
            finding.chat_id.as_ref().map(ChatId::as_str),
            finding.detail,
            finding.raw,
            finding.raw_length as i64,
            digest,
            self.run_id,
        ];
        let Some(id) = insert.query_row(values, |row| row.get(0)).optional()? else {
            let sql =
                "SELECT id, CAST(observed_at AS INTEGER), CAST(last_observed_at AS INTEGER), CAST(repeats AS INTEGER)
                FROM findings WHERE digest = ?";
            let read = |row: &Row<'_>| {
                let (id, observed_at, last_observed_at) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(Fold { id, observed_at, last_observed_at, repeats: row.get::<_, i64>(3)?.max(1) })
            };
            let known = self.statement(sql)?.query_row([digest], read)?;
            self.repeat_finding(digest, known.again(at))?;
            return Ok(());
        };
        self.pack.touch_whole(seal::FINDINGS, [KeyValue::Integer(id)]);
        let of = Evidence { chat_id: finding.chat_id.as_ref(), row_id: Some(id), ..Evidence::of("finding", at) };
        self.write_maskings(&of, &finding.maskings)?;
        self.fresh.findings.insert(digest, Fold { id, observed_at: at, last_observed_at: at, repeats: 1 });
        Ok(())
    }

    fn write_alterations(&mut self, at: i64) {
        for Alteration { chat_id, what } in &self.memory.alterations {
            self.write_alteration(at, chat_id.as_ref(), what.clone());
        }
    }

    /// It keeps nothing else from being written.
    fn write_alteration(&mut self, at: i64, chat_id: Option<&ChatId>, detail: String) {
        let (kind, chat_id) = (FindingKind::Altered, chat_id.cloned());
        let (raw, raw_length, events, maskings) = (Vec::new(), 0, 0, Vec::new());
        let finding = Finding { kind, chat_id, detail, raw, raw_length, events, maskings };
        if let Err(error) = self.write_finding(at, &finding) {
            tracing::error!(%error, "there is no finding of it");
        }
    }

    /// False where it is not there any longer.
    fn repeat_finding(&mut self, digest: ContentDigest, fold: Fold) -> Result<bool, Error> {
        let update =
            "UPDATE findings SET observed_at = ?, last_observed_at = ?, repeats = ? WHERE id = ? AND digest = ?";
        let values = params![fold.observed_at, fold.last_observed_at, fold.repeats, fold.id, digest];
        if self.statement(update)?.execute(values)? != 1 {
            return Ok(false);
        }
        self.pack.touch(seal::FINDINGS, [KeyValue::Integer(fold.id)]);
        self.fresh.findings.insert(digest, fold);
        Ok(true)
    }

    fn write_mark(&mut self, mark: &Mark) -> Result<(), Error> {
        let mut upsert = self.statement(
            "INSERT INTO spools (spool_id, drained_to, at, run_id) VALUES (?, ?, ?, ?) ON CONFLICT (spool_id) DO UPDATE
             SET drained_to = excluded.drained_to, at = excluded.at, run_id = excluded.run_id",
        )?;
        upsert.execute(params![mark.spool_id, mark.drained_to.cast_signed(), mark.at, self.run_id])?;
        self.pack.touch(seal::SPOOLS, [KeyValue::Text(mark.spool_id.clone())]);
        self.fresh.drained = Some((mark.spool_id.clone(), mark.drained_to));
        Ok(())
    }

    fn write_outage(&mut self, outage: &Outage) -> Result<(), Error> {
        let ids: Vec<&str> = outage.chat_ids.iter().map(ChatId::as_str).collect();
        let mut insert = self.statement(
            "INSERT INTO outages (started_at, ended_at, reason, detail, events, answers, delivered_early, refused,
                dropped, spooled, chat_ids, run_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let id = insert.insert(params![
            outage.started_at,
            outage.ended_at,
            outage.reason,
            outage.detail,
            outage.events as i64,
            outage.answers as i64,
            outage.delivered_early as i64,
            outage.refused as i64,
            outage.dropped as i64,
            outage.spooled as i64,
            serde_json::json!(ids).to_string(),
            self.run_id,
        ])?;
        self.pack.touch(seal::OUTAGES, [KeyValue::Integer(id)]);
        Ok(())
    }
}

/// What is stored was masked by the rules of its time, what comes by the present ones: these look at both.
pub(super) fn compare(masks: &Masks, stored: &str, new: &str) -> Comparison {
    if stored == new || gms::compare(stored, new) == Comparison::Equal {
        return Comparison::Equal;
    }
    gms::compare(&masks.again(stored), new)
}

/// The digest of a variant: with a key of the chat's, so that one that was erased cannot be guessed from what seals.refs keeps
/// of it.
pub(super) fn keyed(connection: &Connection, chat_id: &str, content: &ContentDigest) -> Result<ContentDigest, Error> {
    let mut key = [0_u8; 16];
    let mut select = connection.prepare_cached("SELECT key FROM variant_keys WHERE chat_id = ?")?;
    match select.query_row([chat_id], |row| Ok(row.get(0).ok())).optional()?.flatten() {
        Some(known) => key = known,
        None => {
            getrandom::fill(&mut key).map_err(|e| Error::new(ErrorKind::Other, format!("no random numbers: {e}")))?;
            let insert = "INSERT OR REPLACE INTO variant_keys VALUES (?, ?)";
            connection.prepare_cached(insert)?.execute(params![chat_id, key])?;
        }
    }
    Ok(keyed_digest(&key, content))
}

/// Which row something was masked in.
struct Evidence<'r> {
    what: &'static str,
    chat_id: Option<&'r ChatId>,
    event_index: Option<i64>,
    digest: Option<&'r ContentDigest>,
    row_id: Option<i64>,
    recorded_at: i64,
}

impl Evidence<'_> {
    fn of(what: &'static str, recorded_at: i64) -> Self {
        Self { what, chat_id: None, event_index: None, digest: None, row_id: None, recorded_at }
    }
}

/// The digest of a variant, by its chat's key and the digest of its content.
pub(super) fn keyed_digest(key: &[u8; 16], content: &ContentDigest) -> ContentDigest {
    let hash = Sha256::new().chain_update(key).chain_update(content).finalize();
    *hash.first_chunk().expect("a hash is longer than a digest")
}

const INSERT_EVENT: &str = "INSERT INTO events (chat_id, recorded_at, node, run_id, event_index, type, utc_time,
    participant_id, nickname, party_type, text, message_type, user_data, event_attributes, raw)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (chat_id, event_index) DO NOTHING";

/// [`INSERT_EVENT`]. A parameter stays what it is until it is bound again: what the events of an answer have in common
/// is bound once.
struct EventInsert<'s>(CachedStatement<'s>);

impl EventInsert<'_> {
    /// Turns to the events of a chat in an answer.
    fn of(&mut self, run_id: i64, entry: &Entry, chat_id: &ChatId) -> Result<(), Error> {
        let Self(statement) = self;
        statement.raw_bind_parameter(1, chat_id.as_str())?;
        statement.raw_bind_parameter(2, entry.at)?;
        statement.raw_bind_parameter(3, entry.node.as_deref())?;
        statement.raw_bind_parameter(4, run_id)?;
        Ok(())
    }

    /// True where the key was free.
    fn execute(&mut self, event: &TranscriptEvent) -> Result<bool, Error> {
        let Self(statement) = self;
        statement.raw_bind_parameter(5, event.index.get())?;
        statement.raw_bind_parameter(6, event.kind.as_deref())?;
        statement.raw_bind_parameter(7, event.utc_time)?;
        statement.raw_bind_parameter(8, event.from.participant_id)?;
        statement.raw_bind_parameter(9, event.from.nickname.as_deref())?;
        statement.raw_bind_parameter(10, event.from.party_type.as_deref())?;
        statement.raw_bind_parameter(11, event.text.as_deref())?;
        statement.raw_bind_parameter(12, event.message_type.as_deref())?;
        statement.raw_bind_parameter(13, event.user_data.as_deref())?;
        statement.raw_bind_parameter(14, event.event_attributes.as_deref())?;
        statement.raw_bind_parameter(15, event.raw.as_str())?;
        Ok(statement.raw_execute()? == 1)
    }
}

const COVERED_TO: &str = "SELECT CAST(next_position AS INTEGER) FROM coverage WHERE chat_id = ? AND from_position = ? AND run_id = ? AND node = ?";

const PUT_COVERAGE: &str = "INSERT INTO coverage (chat_id, from_position, next_position, node, run_id, at)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET next_position = excluded.next_position, at = excluded.at";

const PUT_CHAT: &str = "INSERT INTO chats (chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how,
    next_position, is_async, highest_index) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (chat_id) DO UPDATE SET service = excluded.service, first_seen_at = excluded.first_seen_at,
        last_seen_at = excluded.last_seen_at, ended_at = excluded.ended_at, ended_how = excluded.ended_how,
        next_position = excluded.next_position, is_async = excluded.is_async, highest_index = excluded.highest_index";

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
    let chat_id = finding.chat_id.as_ref().map_or("", ChatId::as_str);
    finding_digest_of(finding.kind.as_str(), chat_id, &finding.raw, finding.detail.as_bytes())
}

/// The same of a stored one.
pub(super) fn finding_digest_of(kind: &str, chat_id: &str, raw: &[u8], detail: &[u8]) -> ContentDigest {
    let mut hasher = Sha256::new();
    for part in [kind.as_bytes(), chat_id.as_bytes(), if raw.is_empty() { detail } else { raw }] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut digest = ContentDigest::default();
    digest.copy_from_slice(&hasher.finalize()[..16]);
    digest
}

#[cfg(test)]
mod tests;
