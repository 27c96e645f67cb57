//! What a merge brings of chats, one after the other: their rows, events, variants, attributes and coverage.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::{MASKING, Masking, Maskings, Merge, Place, values};
use crate::gms::{self, Comparison};
use crate::store::Error;
use crate::store::append::{VARIANTS_COMPARED_MAX, compare, keyed};
use crate::store::seal::{ATTRIBUTES, CHATS, COVERAGE, EVENTS, Form, KeyValue, Pack, VARIANTS};

/// A row of another archive comes to ours.
const UPSERT_CHAT: &str = "INSERT INTO chats (chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how,
    next_position, is_async, highest_index) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (chat_id) DO UPDATE SET
        service = coalesce(service, excluded.service),
        first_seen_at = min(first_seen_at, excluded.first_seen_at),
        last_seen_at = max(last_seen_at, excluded.last_seen_at),
        ended_at = coalesce(ended_at, excluded.ended_at),
        ended_how = coalesce(ended_how, excluded.ended_how),
        next_position = coalesce(max(next_position, excluded.next_position), next_position, excluded.next_position),
        is_async = max(is_async, excluded.is_async),
        highest_index = coalesce(max(highest_index, excluded.highest_index), highest_index, excluded.highest_index)";

impl Merge<'_> {
    /// Some chats, or a piece of a long one. Events looked at.
    pub(super) fn chats(&mut self, pack: &mut Pack, place: &mut Place) -> Result<u64, Error> {
        let sql = "SELECT rowid, chat_id FROM chats WHERE rowid > ? ORDER BY rowid LIMIT 1";
        let (mut seen, mut rows) = (0, 0);
        while rows < self.rows_max {
            let mut select = self.other.connection.prepare_cached(sql)?;
            let next = select.query_row([place.chat], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((rowid, chat_id)): Option<(i64, String)> = next else {
                place.is_done = true;
                return Ok(seen);
            };
            let (events, last) = self.chat(pack, &chat_id, place.event, self.rows_max)?;
            (seen, rows) = (seen + events, rows + events + 1);
            place.event = last;
            if last.is_none() {
                place.chat = rowid;
            }
        }
        Ok(seen)
    }

    /// A chat from an event on: how many of its events were looked at, and the last of them where there are more.
    fn chat(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        after: Option<i64>,
        limit: u64,
    ) -> Result<(u64, Option<i64>), Error> {
        let (below, until) = self.erased(chat_id)?;
        if below.is_some() && self.is_over_below(chat_id, below)? {
            let count = "SELECT count(*) FROM events WHERE chat_id = ?";
            let count: i64 = self.other.connection.prepare_cached(count)?.query_row([chat_id], |row| row.get(0))?;
            self.merged.suppressed += count.unsigned_abs();
            return Ok((count.unsigned_abs(), None));
        }
        // From the first event on a chat has its row.
        self.chat_row(pack, chat_id)?;
        let maskings = self.maskings_of(chat_id)?;
        let (events, last) = self.events(pack, chat_id, below.unwrap_or(0), after, limit, &maskings)?;
        if last.is_none() {
            self.variants(pack, chat_id, below.unwrap_or(0), &maskings)?;
            self.attributes(pack, chat_id, until, &maskings)?;
            // Never before its events.
            self.coverage(pack, chat_id, below.is_some())?;
        }
        Ok((events, last))
    }

    /// It was erased or purged here, and neither we nor they have anything that came afterwards.
    fn is_over_below(&self, chat_id: &str, below: Option<i64>) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM events WHERE chat_id = ? AND event_index >= ? LIMIT 1";
        let has = |connection: &Connection| connection.prepare_cached(sql)?.exists(params![chat_id, below]);
        Ok(!has(self.ours)? && !has(&self.other.connection)?)
    }

    fn chat_row(&mut self, pack: &mut Pack, chat_id: &str) -> Result<(), Error> {
        let form = Form::of(CHATS).expect("there is one");
        let columns = "chat_id, service, first_seen_at, last_seen_at, ended_at, ended_how, next_position, is_async, highest_index";
        let theirs = format!("SELECT {columns} FROM chats WHERE chat_id = ?");
        let theirs = self.other.connection.prepare_cached(&theirs)?.query_row([chat_id], |row| values(row, 0, 9))?;
        let sealed = |connection: &Connection| {
            let mut select = connection.prepare_cached(form.select_by_key())?;
            select.query_row([chat_id], |row| values(row, 1, form.columns.len())).optional()
        };
        let before = sealed(self.ours)?;
        self.ours.prepare_cached(UPSERT_CHAT)?.execute(params_from_iter(theirs))?;
        if before != sealed(self.ours)? {
            pack.touch(CHATS, [KeyValue::Text(chat_id.into())]);
            self.merged.chats += u64::from(before.is_none());
        }
        Ok(())
    }

    fn events(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        below: i64,
        after: Option<i64>,
        limit: u64,
        maskings: &Maskings,
    ) -> Result<(u64, Option<i64>), Error> {
        const COLUMNS: &str =
            "chat_id, event_index, type, utc_time, participant_id, nickname, party_type, text, message_type,
            user_data, event_attributes, raw, recorded_at, node, run_id";
        let sql =
            format!("SELECT {COLUMNS} FROM events WHERE chat_id = ? AND event_index > ? ORDER BY event_index LIMIT ?");
        let insert = format!(
            "INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        );
        let (mut select, mut insert) =
            (self.other.connection.prepare_cached(&sql)?, self.ours.prepare_cached(&insert)?);
        let mut rows = select.query(params![chat_id, after.unwrap_or(0), limit as i64])?;
        let (mut count, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let index: i64 = row.get(1)?;
            (count, last) = (count + 1, Some(index));
            if index < below {
                self.merged.suppressed += 1;
                continue;
            }
            let mut values = values(row, 0, 15)?;
            values[14] = Value::Integer(self.run(row.get(14)?));
            if insert.execute(params_from_iter(&values))? == 1 {
                pack.touch(EVENTS, [KeyValue::Text(chat_id.into()), KeyValue::Integer(index)]);
                self.merged.new += 1;
                let of = |masking: &&Masking| masking.is_of("event") && masking.event_index == Some(index);
                self.bring_maskings(pack, maskings.iter().filter(of), None, None)?;
            } else {
                let content =
                    Content { raw: row.get(11)?, recorded_at: row.get(12)?, node: row.get(13)?, run_id: row.get(14)? };
                let of = |masking: &&Masking| masking.is_of("event") && masking.event_index == Some(index);
                self.settle(pack, chat_id, index, &content, maskings.iter().filter(of))?;
            }
        }
        Ok((count, last.filter(|_| count == limit)))
    }

    fn variants(&mut self, pack: &mut Pack, chat_id: &str, below: i64, maskings: &Maskings) -> Result<(), Error> {
        let sql = "SELECT event_index, raw, recorded_at, node, run_id, digest FROM event_variants
            WHERE chat_id = ? AND event_index >= ? ORDER BY event_index, recorded_at";
        let mut select = self.other.connection.prepare_cached(sql)?;
        let mut rows = select.query(params![chat_id, below])?;
        while let Some(row) = rows.next()? {
            let content =
                Content { raw: row.get(1)?, recorded_at: row.get(2)?, node: row.get(3)?, run_id: row.get(4)? };
            let (index, digest): (i64, Vec<u8>) = (row.get(0)?, row.get(5)?);
            let of = |masking: &&Masking| masking.is_of("variant") && masking.digest.as_ref() == Some(&digest);
            self.settle(pack, chat_id, index, &content, maskings.iter().filter(of))?;
        }
        Ok(())
    }

    /// A key that is taken here: equal content is a duplicate, other content a variant, kept once (R7).
    fn settle<'k>(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        index: i64,
        content: &Content,
        maskings: impl Iterator<Item = &'k Masking>,
    ) -> Result<(), Error> {
        let sql = "SELECT raw FROM events WHERE chat_id = ? AND event_index = ?";
        let stored: Option<String> =
            self.ours.prepare_cached(sql)?.query_row(params![chat_id, index], |row| row.get(0)).optional()?;
        // A variant of an event that is neither here nor there: erased here.
        let Some(stored) = stored else { return Ok(()) };
        let comparison = self.compare(&stored, &content.raw);
        if comparison == Comparison::Equal {
            self.merged.duplicate += 1;
            return Ok(());
        }
        // What an act has masked on one side only is the same on both.
        let mut maskings = maskings.peekable();
        let is_masked = maskings.peek().is_some() || self.is_masked_here(chat_id, index)?;
        let is_form = |stored: &str| {
            let new = &content.raw;
            is_masked && (gms::is_masked_form_of(stored, new) || gms::is_masked_form_of(new, stored))
        };
        if is_form(&stored) {
            self.merged.duplicate += 1;
            return Ok(());
        }
        let kind = if comparison == Comparison::Extended { "extended" } else { "changed" };
        let sql = "SELECT raw FROM event_variants WHERE chat_id = ? AND event_index = ? LIMIT ?";
        let mut select = self.ours.prepare_cached(sql)?;
        let known = select.query_map(params![chat_id, index, VARIANTS_COMPARED_MAX], |row| row.get::<_, String>(0))?;
        for known in known {
            let known = known?;
            if is_form(&known) || self.compare(&known, &content.raw) == Comparison::Equal {
                self.merged.duplicate += 1;
                return Ok(());
            }
        }
        let digest = keyed(self.ours, chat_id, &gms::digest(&content.raw))?;
        let insert = "INSERT INTO event_variants (chat_id, event_index, digest, kind, raw, recorded_at, node, run_id)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let (run_id, at, node) = (self.run(content.run_id), content.recorded_at, &content.node);
        let inserted = self.ours.prepare_cached(insert)?.execute(params![
            chat_id,
            index,
            digest,
            kind,
            content.raw,
            at,
            node,
            run_id
        ])?;
        if inserted == 0 {
            self.merged.duplicate += 1;
            return Ok(());
        }
        self.merged.variant += 1;
        let key = [KeyValue::Text(chat_id.into()), KeyValue::Integer(index), KeyValue::Blob(digest.into())];
        pack.touch(VARIANTS, key);
        self.bring_maskings(pack, maskings, Some(("variant", &digest)), None)
    }

    /// Each side was masked by its own rules, at its own time: the present ones look at both.
    fn compare(&self, stored: &str, new: &str) -> Comparison {
        match compare(self.masks, stored, new) {
            Comparison::Equal => Comparison::Equal,
            _ => compare(self.masks, stored, &self.masks.again(new)),
        }
    }

    /// Whether anything of an event was masked here.
    fn is_masked_here(&self, chat_id: &str, index: i64) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM maskings WHERE chat_id = ? AND event_index = ?";
        Ok(self.ours.prepare_cached(sql)?.exists(params![chat_id, index])?)
    }

    /// One row a change, in the order of time: what is known at the time is none.
    fn attributes(
        &mut self,
        pack: &mut Pack,
        chat_id: &str,
        erased_until: Option<i64>,
        maskings: &Maskings,
    ) -> Result<(), Error> {
        let sql = "SELECT id, name, value, source, observed_at, run_id FROM chat_attributes
            WHERE chat_id = ? AND observed_at > ? ORDER BY observed_at, id";
        // By the chat, not by the index of values: half of all chats may have the same one.
        let insert = "INSERT INTO chat_attributes (chat_id, name, value, source, observed_at, run_id)
            SELECT ?1, ?2, ?3, ?4, ?5, ?6
            WHERE ?3 IS NOT (SELECT value FROM chat_attributes WHERE chat_id = ?1 AND name = ?2 AND observed_at <= ?5
                    ORDER BY observed_at DESC, id DESC LIMIT 1)
                AND NOT EXISTS (SELECT 1 FROM chat_attributes WHERE chat_id = ?1 AND name = ?2 AND +value = ?3
                    AND observed_at = ?5 AND run_id = ?6)";
        let mut select = self.other.connection.prepare_cached(sql)?;
        let mut rows = select.query(params![chat_id, erased_until.unwrap_or(i64::MIN)])?;
        while let Some(row) = rows.next()? {
            let theirs: i64 = row.get(0)?;
            let values = values(row, 1, 4)?;
            let run_id = self.run(row.get(5)?);
            let values = params![chat_id, values[0], values[1], values[2], values[3], run_id];
            if self.ours.prepare_cached(insert)?.execute(values)? == 1 {
                let id = self.ours.last_insert_rowid();
                pack.touch(ATTRIBUTES, [KeyValue::Integer(id)]);
                self.merged.attributes += 1;
                let of = |masking: &&Masking| masking.is_of("attribute") && masking.row_id == Some(theirs);
                self.bring_maskings(pack, maskings.iter().filter(of), None, Some(id))?;
            }
        }
        Ok(())
    }

    fn coverage(&mut self, pack: &mut Pack, chat_id: &str, was_erased: bool) -> Result<(), Error> {
        let sql = "SELECT from_position, next_position, node, run_id, at FROM coverage WHERE chat_id = ?";
        let grow =
            "INSERT INTO coverage (chat_id, from_position, next_position, node, run_id, at) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET next_position = excluded.next_position, at = excluded.at
                WHERE excluded.next_position > next_position";
        let mut select = self.other.connection.prepare_cached(sql)?;
        let mut rows = select.query([chat_id])?;
        while let Some(row) = rows.next()? {
            // What was erased was covered: it is no hole.
            let from: i64 = if was_erased { 1 } else { row.get(0)? };
            let (next, node, at): (i64, String, i64) = (row.get(1)?, row.get(2)?, row.get(4)?);
            let run_id = self.run(row.get(3)?);
            if self.ours.prepare_cached(grow)?.execute(params![chat_id, from, next, node, run_id, at])? == 1 {
                let key = [KeyValue::Text(chat_id.into()), KeyValue::Integer(from), KeyValue::Integer(run_id)];
                pack.touch(COVERAGE, key.into_iter().chain([KeyValue::Text(node)]).collect::<Vec<_>>());
                self.merged.coverage += 1;
            }
        }
        Ok(())
    }

    fn maskings_of(&self, chat_id: &str) -> Result<Maskings, Error> {
        let sql = format!("SELECT {MASKING} FROM maskings WHERE chat_id = ? ORDER BY id");
        let mut select = self.other.connection.prepare_cached(&sql)?;
        let maskings = select.query_map([chat_id], Masking::of)?;
        Ok(maskings.collect::<Result<_, _>>()?)
    }
}

/// What an event or a variant of it is, besides its key.
struct Content {
    raw: String,
    recorded_at: i64,
    node: Option<String>,
    run_id: i64,
}
