//! What was brought to targets of continuous exports, and what is on its way: rows of `deliveries` and the bookkeeping beside them
//! (`migrations/0010_deliveries.sql`).

use std::time::Instant;

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::Custody;
use crate::store::audit::Snapshot;
use crate::store::audit::part::{Mark, check_has, check_has_deliveries};
use crate::store::seal::destroyed::Located;
use crate::store::seal::{self, Form, KeyValue};
use crate::store::{Error, ErrorKind};

/// Chats that are marked in one transaction: some milliseconds.
const MARKS_MAX: usize = 500;

/// A row of `deliveries`; without what is known at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the columns are documented where they are made, in migrations/0010_deliveries.sql")]
pub struct Delivery {
    pub target: String,
    pub number: i64,
    pub from_leaf: u64,
    pub to_leaf: u64,
    pub started_at: i64,
    pub who: String,
    pub destination: String,
    pub format: String,
    pub chats: u64,
    pub additions: u64,
    pub removals: u64,
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    /// Hex; None: there is none.
    pub manifest: Option<String>,
    /// The last erasure that it knows of.
    pub last_erasure: i64,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The target has acknowledged it.
    Delivered,
    /// It never will: why.
    GivenUp(String),
}

impl Outcome {
    fn columns(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Delivered => ("delivered", None),
            Self::GivenUp(why) => ("given_up", Some(why)),
        }
    }
}

/// One that is made and not yet acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// It.
    pub delivery: Delivery,
    /// Some of it may be there already.
    pub is_sent: bool,
}

/// How far a target is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The number of the last delivery; 0: there was none.
    pub last_number: i64,
    /// The target has everything up to here that was meant for it.
    pub delivered_to: u64,
    /// There is nothing for it up to here, but for chats that wait; where something is on its way, what was delivered before.
    pub looked_to: u64,
    /// When that was, milliseconds since the epoch.
    pub looked_at: Option<i64>,
    /// What is on its way.
    pub staged: Option<Staged>,
}

impl Custody {
    /// Whether deliveries to a target can be made: what is made is sealed, and goes on where the last one ended, which is as it was
    /// sealed.
    ///
    /// # Errors
    /// The archive is of an earlier release; a row of `deliveries` was altered, or put there.
    pub fn check_can_deliver(&self, target: &str) -> Result<(), Error> {
        check_has(&self.connection, "stagings")?;
        let sql = "SELECT id, CAST(to_leaf AS INTEGER) FROM deliveries WHERE target = ?1 AND (
            number = (SELECT max(number) FROM deliveries WHERE target = ?1)
            OR to_leaf = (SELECT max(to_leaf) FROM deliveries WHERE target = ?1 AND outcome = 'delivered'))";
        let mut select = self.connection.prepare(sql)?;
        let last = select.query_map([target], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (id, to_leaf) in last.collect::<Result<Vec<(i64, i64)>, _>>()? {
            // It was sealed after all that is in it.
            let name = (seal::DELIVERIES, vec![KeyValue::Integer(id)]);
            Located::check(&self.connection, name, to_leaf.cast_unsigned())?;
        }
        Ok(())
    }

    /// How far a target is.
    ///
    /// # Errors
    /// As reading goes wrong; the archive is of an earlier release.
    pub fn standing(&self, target: &str) -> Result<Standing, Error> {
        let connection = &self.connection;
        check_has_deliveries(connection)?;
        let sql = "SELECT coalesce(max(number), 0), coalesce(max(to_leaf) FILTER (WHERE outcome = 'delivered'), 0)
            FROM deliveries WHERE target = ?";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
        let (last_number, delivered_to) = connection.prepare_cached(sql)?.query_row([target], read)?;
        let sql = "SELECT looked_to, looked_at, staged, is_sent FROM delivering WHERE target = ?";
        let read = |row: &Row<'_>| {
            let staged: Option<String> = row.get(2)?;
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?, staged, row.get(3)?))
        };
        let found = connection.prepare_cached(sql)?.query_row([target], read).optional()?;
        let (looked_to, looked_at, staged, is_sent) =
            found.map_or((0, None, None, false), |(to, at, staged, is_sent)| (to, Some(at), staged, is_sent));
        let Some(text) = staged else {
            return Ok(Standing { last_number, delivered_to, looked_to, looked_at, staged: None });
        };
        let staged = self.made(target, last_number, &text)?.map(|delivery| Staged { delivery, is_sent });
        if staged.is_none() {
            let hint = "somebody put it there, or an earlier release: it is made anew";
            tracing::warn!(target, hint, "what is noted as being on its way to a target of exports was never sealed");
        }
        // What was not brought is looked for again.
        Ok(Standing { last_number, delivered_to, looked_to: delivered_to, looked_at, staged })
    }

    /// The delivery that was made and sealed, if this is one.
    fn made(&self, target: &str, last_number: i64, text: &str) -> Result<Option<Delivery>, Error> {
        let Ok(delivery) = serde_json::from_str::<Delivery>(text) else { return Ok(None) };
        let form = Form::of(seal::STAGINGS).expect("there is one");
        if (delivery.target.as_str(), delivery.number) != (target, last_number + 1)
            || !form.is_known(&self.connection)?
        {
            return Ok(None);
        }
        let sql = "SELECT max(id) FROM stagings WHERE target = ? AND number = ? AND made = ?";
        let mut select = self.connection.prepare_cached(sql)?;
        let id: Option<i64> = select.query_row(params![target, delivery.number, text], |row| row.get(0))?;
        let Some(id) = id else { return Ok(None) };
        // Its leaf came after all that is in it.
        match Located::check(&self.connection, (form.number, vec![KeyValue::Integer(id)]), delivery.to_leaf) {
            Err(error) if error.kind == ErrorKind::Altered => Ok(None),
            found => found.map(|()| Some(delivery)),
        }
    }

    /// The number of the last erasure.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn last_erasure(&self) -> Result<i64, Error> {
        let sql = "SELECT coalesce(max(id), 0) FROM erasures";
        Ok(self.connection.prepare_cached(sql)?.query_row((), |row| row.get(0))?)
    }

    /// Whether something of it was erased, purged or masked since it was made. Which chats it has additions to is not kept: where it has
    /// some, all count that the target has.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn is_outdated(&self, delivery: &Delivery) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM erasures e JOIN delivered_chats c ON c.chat_id = e.chat_id AND c.target = ?
            WHERE e.id > ? AND (c.number = ? OR ? AND c.number > 0)";
        let Delivery { target, number, last_erasure, additions, .. } = delivery;
        let values = params![target, last_erasure, number, *additions > 0];
        Ok(self.connection.prepare_cached(sql)?.exists(values)?)
    }

    /// Marks the chats of a part: those that are brought with this number.
    ///
    /// # Errors
    /// As writing goes wrong; it can be done again.
    pub fn mark_chats(&self, target: &str, number: i64, part: Snapshot) -> Result<(), Error> {
        let mut marks = Vec::with_capacity(MARKS_MAX);
        part.into_marks::<Error>(|chat_id, mark| {
            let number = match mark {
                Mark::Waits => None,
                Mark::Passed => Some(0),
                Mark::Brought => Some(number),
            };
            marks.push((chat_id, number));
            if marks.len() == MARKS_MAX {
                self.mark(target, &marks)?;
                marks.clear();
            }
            Ok(())
        })?;
        self.mark(target, &marks)
    }

    fn mark(&self, target: &str, marks: &[(String, Option<i64>)]) -> Result<(), Error> {
        let upsert = "INSERT INTO delivered_chats VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number";
        self.in_turn(|connection| {
            let mut upsert = connection.prepare_cached(upsert)?;
            marks
                .iter()
                .try_for_each(|(chat_id, number)| Ok(upsert.execute(params![chat_id, target, number]).map(drop)?))
        })
    }

    /// Chats that were marked with a number of which nothing came wait again.
    ///
    /// # Errors
    /// As writing goes wrong; it can be done again.
    pub fn unmark_chats(&self, target: &str, number: i64) -> Result<(), Error> {
        let sql = format!(
            "UPDATE delivered_chats SET number = NULL WHERE target = ?1 AND chat_id IN
                (SELECT chat_id FROM delivered_chats WHERE target = ?1 AND number = ?2 LIMIT {MARKS_MAX})"
        );
        let mut changed = MARKS_MAX;
        while changed == MARKS_MAX {
            self.in_turn(|connection| {
                changed = connection.prepare_cached(&sql)?.execute(params![target, number])?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whether each of these targets has a chat, or is not meant to.
    ///
    /// # Errors
    /// As reading goes wrong; the archive is of an earlier release.
    pub fn is_delivered(&self, chat_id: &str, targets: &[String]) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM delivered_chats c WHERE chat_id = ? AND target = ? AND (number = 0 OR EXISTS
            (SELECT 1 FROM deliveries d WHERE d.target = c.target AND d.number = c.number AND outcome = 'delivered'))";
        if !targets.is_empty() {
            check_has_deliveries(&self.connection)?;
        }
        for target in targets {
            if !self.connection.prepare_cached(sql)?.exists([chat_id, target])? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One transaction of bookkeeping, which is not sealed, and then the writer's turn.
    fn in_turn(&self, change: impl FnOnce(&rusqlite::Connection) -> Result<(), Error>) -> Result<(), Error> {
        let began = Instant::now();
        self.change(|_| change(&self.connection))?;
        self.give_way(began.elapsed())
    }

    /// There was nothing for the target.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn looked(&self, target: &str, to: u64, at: i64) -> Result<(), Error> {
        self.change(|_| self.note_delivering(target, to, at, None))
    }

    /// A delivery is made, and its chats are marked. Where there is more to be brought it was `looked_at` never.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn stage(&self, delivery: &Delivery, looked_to: u64, looked_at: i64) -> Result<(), Error> {
        let staged =
            serde_json::to_string(delivery).map_err(|error| Error::new(ErrorKind::Other, error.to_string()))?;
        let Delivery { target, number, started_at, .. } = delivery;
        self.change(|pack| {
            let insert = "INSERT INTO stagings (target, number, at, made) VALUES (?, ?, ?, ?)";
            let id = self.connection.prepare_cached(insert)?.insert(params![target, number, started_at, staged])?;
            pack.touch(seal::STAGINGS, [KeyValue::Integer(id)]);
            self.note_delivering(target, looked_to, looked_at, Some(&staged))
        })
    }

    fn note_delivering(&self, target: &str, looked_to: u64, at: i64, staged: Option<&str>) -> Result<(), Error> {
        let upsert = "INSERT INTO delivering (target, looked_to, looked_at, staged, is_sent) VALUES (?, ?, ?, ?, 0)
            ON CONFLICT DO UPDATE SET looked_to = excluded.looked_to, looked_at = excluded.looked_at,
                staged = excluded.staged, is_sent = 0";
        let values = params![target, looked_to.cast_signed(), at, staged];
        Ok(self.connection.prepare_cached(upsert)?.execute(values).map(drop)?)
    }

    /// From here on some of it may be there.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn sending(&self, target: &str) -> Result<(), Error> {
        self.change(|_| {
            let update = "UPDATE delivering SET is_sent = 1 WHERE target = ?";
            Ok(self.connection.prepare_cached(update)?.execute([target]).map(drop)?)
        })
    }

    /// Notes that a delivery is there, or that it was given up: sealed, as everything is that people rely on.
    ///
    /// # Errors
    /// As writing goes wrong; it can be done again.
    pub fn acknowledge(&self, delivery: &Delivery, finished_at: i64, outcome: &Outcome) -> Result<(), Error> {
        let connection = &self.connection;
        let manifest = delivery.manifest.as_deref().map(bytes_of_hex);
        let (is_delivered, (outcome, detail)) = (*outcome == Outcome::Delivered, outcome.columns());
        let numbers = [delivery.from_leaf, delivery.to_leaf, delivery.chats, delivery.additions, delivery.removals];
        let [from_leaf, to_leaf, chats, additions, removals] = numbers.map(u64::cast_signed);
        let [rows, files, bytes] = [delivery.rows, delivery.files, delivery.bytes].map(u64::cast_signed);
        let Delivery { target, number, started_at, who, destination, format, .. } = delivery;
        self.change(|pack| {
            let insert =
                "INSERT INTO deliveries (target, number, from_leaf, to_leaf, started_at, finished_at, who, destination,
                format, chats, additions, removals, rows, files, bytes, manifest, outcome, detail)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let values = params![
                target,
                number,
                from_leaf,
                to_leaf,
                started_at,
                finished_at,
                who,
                destination,
                format,
                chats,
                additions,
                removals,
                rows,
                files,
                bytes,
                manifest,
                outcome,
                detail
            ];
            let id = connection.prepare_cached(insert)?.insert(values)?;
            pack.touch(seal::DELIVERIES, [KeyValue::Integer(id)]);
            // What was given up is looked for again from where it began.
            let back = "UPDATE delivering SET staged = NULL, is_sent = 0, looked_to = CASE ?3 WHEN 1 THEN looked_to ELSE ?2 END,
                looked_at = CASE ?3 WHEN 1 THEN looked_at ELSE 0 END WHERE target = ?1";
            connection.prepare_cached(back)?.execute(params![target, from_leaf, is_delivered])?;
            Ok(())
        })?;
        if is_delivered { Ok(()) } else { self.unmark_chats(target, *number) }
    }
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
