//! Removes what was recorded: rows and the salts of their leaves go, the leaves stay. Each chat in one transaction, with the
//! row of `erasures` that says which leaves, so that nothing half-done is ever taken for done.

use std::collections::BTreeSet;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, params};

use super::Custody;
use super::hold::{self, Asker, InForce};
use super::words::{Forgetting, Gone, Mentions};
use crate::store::audit::Snapshot;
use crate::store::seal::destroyed::{Located, RowName, destroy, packed};
use crate::store::seal::{
    self, ATTRIBUTES, CHATS, COVERAGE, ERASURES, ERRORS, EVENTS, FILES, FINDINGS, Form, HOLDS, KeyValue, MASKINGS,
    Pack, VARIANTS, WAITING,
};
use crate::store::{Error, ErrorKind, search};

/// Tables with content of a chat.
const OF_CHAT: [u8; 9] = [CHATS, EVENTS, VARIANTS, ATTRIBUTES, COVERAGE, ERRORS, FINDINGS, MASKINGS, FILES];
/// Chats whose leaves are looked for together: the seals are read through once for all of them.
const TOGETHER_MAX: usize = 10_000;
/// Rows in one transaction, from which on no further chat is begun: some ten milliseconds.
pub(super) const ROWS_MAX: usize = 500;

/// Why something is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Somebody asked for it.
    Erased,
    /// The schedule.
    Purged,
}

impl How {
    /// As `erasures.how` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Erased => "erased",
            Self::Purged => "purged",
        }
    }
}

/// A chat to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub chat_id: String,
    /// Only where it was not seen after this, milliseconds since the epoch.
    pub not_seen_after: Option<i64>,
}

impl Target {
    /// A chat, whenever it was seen.
    pub fn of(chat_id: impl Into<String>) -> Self {
        Self { chat_id: chat_id.into(), not_seen_after: None }
    }
}

/// What became of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone.
    Removed {
        /// Events of it.
        events: i64,
        /// Rows of all tables.
        rows: i64,
    },
    /// A hold is in the way, by its number.
    Held(i64),
    /// It was seen again since it was chosen.
    SeenAgain,
    /// It was erased or purged before.
    GoneBefore,
    /// There is nothing of it, and there never was.
    Nothing,
    /// A row of it is not as it was sealed: what was done by hand is not removed before somebody has looked. Which row, and why.
    Altered(String),
}

/// An erasure that a hold is in the way of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub id: i64,
    /// The chat.
    pub chat_id: String,
    /// The act that asked for it.
    pub act_id: i64,
    /// The hold that was in the way.
    pub held_by: i64,
    /// That one is released: another one may be in the way now.
    pub is_released: bool,
    /// Since when.
    pub at: i64,
    /// Why it was asked for.
    pub reason: String,
    /// By whom, and for which case.
    pub asked_by: Asker,
}

/// A chat that the schedule would remove, and what there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub chat_id: String,
    /// Its service.
    pub service: Option<String>,
    /// When it was last seen.
    pub last_seen_at: i64,
    /// The hold that is in the way.
    pub held_by: Option<i64>,
}

impl Custody {
    /// Removes chats. `told` is given what became of each.
    ///
    /// # Errors
    /// As writing goes wrong, or it is not known what is held; what was told is done.
    pub fn remove(
        &self,
        act_id: i64,
        how: How,
        targets: &[Target],
        now: impl Fn() -> i64,
        told: &mut dyn FnMut(&Target, Outcome),
    ) -> Result<(), Error> {
        self.check_all_is_sealed()?;
        for targets in targets.chunks(TOGETHER_MAX) {
            // Before it is known which rows there are: one that comes meanwhile has its leaf behind this.
            let looked_until = seal::read_tree(&self.connection)?.size();
            let mut rows = hold::rows(&self.connection)?;
            for target in targets {
                rows.extend(rows_of(&self.connection, &target.chat_id)?);
                rows.extend(waiting_of(&self.connection, &target.chat_id)?);
            }
            let chats = targets.iter().map(|target| target.chat_id.as_str());
            let mentions = Mentions::of_chats(&self.connection, chats)?;
            rows.extend(mentions.rows());
            let mut located = Located::wanting(rows);
            while located.look_on(&self.connection)? {}
            located.check_holds(&self.connection, looked_until)?;
            let in_force = self.holds_in_force()?;
            let mut round = Round { custody: self, act_id, how, located, looked_until, in_force, mentions };
            let mut rest = targets;
            while !rest.is_empty() {
                let began = Instant::now();
                let done = round.some(rest, now())?;
                let count = done.len();
                rest.iter().zip(done).for_each(|(target, outcome)| told(target, outcome));
                rest = &rest[count..];
                self.give_way(began.elapsed())?;
            }
        }
        Ok(())
    }

    /// Rows without leaves would be removed without a trace, and delivered twice.
    ///
    /// # Errors
    /// There are such.
    pub fn check_all_is_sealed(&self) -> Result<(), Error> {
        if !seal::late::is_left(&self.connection)? {
            return Ok(());
        }
        let what = "an earlier release has written rows that are not sealed yet, and nothing is removed or delivered before they are: \
                    `serve` seals them within minutes of its start; then run this again";
        Err(Error::new(ErrorKind::Other, what))
    }

    /// Events of a chat, and rows of all tables.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn extent(&self, chat_id: &str) -> Result<(i64, i64), Error> {
        let rows = rows_of(&self.connection, chat_id)?;
        Ok((rows.iter().filter(|(form, _)| *form == EVENTS).count() as i64, rows.len() as i64))
    }

    /// Whether a chat was erased or purged before.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn was_removed(&self, chat_id: &str) -> Result<bool, Error> {
        was_removed(&self.connection, chat_id)
    }

    /// Removes released holds on customers of whom there is no chat any longer: they stand in them. How many.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn forget_released(&self, act_id: i64, how: How, at: i64) -> Result<i64, Error> {
        let released = hold::released_on_nobody(&self.connection)?;
        if released.is_empty() {
            return Ok(0);
        }
        let rows: Vec<RowName> = released.into_iter().map(|id| (HOLDS, vec![KeyValue::Integer(id)])).collect();
        let mut located = Located::wanting(rows.iter().cloned());
        while located.look_on(&self.connection)? {}
        self.change_by(act_id, |pack| {
            let (connection, looked_until) = (&self.connection, located.until);
            located.find_rest(connection, &rows, looked_until)?;
            let removal = Removal { connection, act_id, how, at, looked_until };
            removal.write(pack, None, &Facts::default(), &rows, &located)
        })
    }

    /// Chats that were last seen before a time: of a service, or of services that are not among some. The first seen first.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn due(&self, before: i64, services: &ServicesOf<'_>, in_force: &InForce) -> Result<Vec<Due>, Error> {
        let sql = "SELECT chat_id, service, last_seen_at FROM chats WHERE last_seen_at < ? ORDER BY last_seen_at";
        let mut select = self.connection.prepare_cached(sql)?;
        let mut rows = select.query([before])?;
        let mut due = Vec::new();
        while let Some(row) = rows.next()? {
            let service: Option<String> = row.get(1)?;
            if services.have(service.as_deref()) {
                let chat_id: String = row.get(0)?;
                let held_by = in_force.on(&self.connection, &chat_id)?;
                due.push(Due { chat_id, service, last_seen_at: row.get(2)?, held_by });
            }
        }
        Ok(due)
    }

    /// Notes that erasures wait for holds to be released.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn let_wait(&self, act_id: i64, at: i64, held: &[(String, i64)]) -> Result<(), Error> {
        let connection = &self.connection;
        self.change(|pack| {
            for (chat_id, held_by) in held {
                let waits = "SELECT 1 FROM waiting_erasures WHERE chat_id = ? AND done_by IS NULL";
                if connection.prepare_cached(waits)?.exists([chat_id])? {
                    continue;
                }
                let insert = "INSERT INTO waiting_erasures (act_id, chat_id, held_by, at) VALUES (?, ?, ?, ?)";
                let id = connection.prepare_cached(insert)?.insert(params![act_id, chat_id, held_by, at])?;
                pack.touch(WAITING, [KeyValue::Integer(id)]);
            }
            Ok(())
        })
    }

    /// Erasures that wait.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn waiting(&self) -> Result<Vec<Waiting>, Error> {
        waiting(&self.connection)
    }
}

impl Snapshot {
    /// Erasures that wait for a hold.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn waiting_erasures(&self) -> Result<Vec<Waiting>, Error> {
        waiting(&self.connection)
    }
}

fn waiting(connection: &Connection) -> Result<Vec<Waiting>, Error> {
    let sql = format!(
        "SELECT w.id, w.chat_id, w.act_id, w.held_by, w.at, coalesce(a.reason, ''),
            NOT EXISTS (SELECT 1 FROM holds h WHERE h.id = w.held_by AND h.released_at IS NULL), {} FROM waiting_erasures w
         LEFT JOIN acts a ON a.id = w.act_id WHERE w.done_by IS NULL ORDER BY w.id",
        Asker::columns("a")
    );
    let mut select = connection.prepare_cached(&sql)?;
    let waiting = select.query_map((), |row| {
        let (id, chat_id, act_id) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (held_by, at, reason) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let is_released = row.get(6)?;
        Ok(Waiting { id, chat_id, act_id, held_by, is_released, at, reason, asked_by: Asker::read(row, 7)? })
    })?;
    Ok(waiting.collect::<Result<_, _>>()?)
}

/// Whose chats a rule of retention is about.
#[derive(Debug, Clone, Copy)]
pub enum ServicesOf<'a> {
    /// One service's.
    One(&'a str),
    /// Those of all services but these, and of none.
    AllBut(&'a [String]),
}

impl ServicesOf<'_> {
    fn have(&self, service: Option<&str>) -> bool {
        match self {
            Self::One(wanted) => service == Some(wanted),
            Self::AllBut(others) => service.is_none_or(|service| !others.iter().any(|other| other == service)),
        }
    }

    /// The service, or a list in JSON of the others.
    pub(super) fn named(&self) -> String {
        match self {
            Self::One(service) => (*service).to_owned(),
            Self::AllBut(others) => serde_json::json!(others).to_string(),
        }
    }
}

/// Chats that are removed with one look through the seals.
struct Round<'c> {
    custody: &'c Custody,
    act_id: i64,
    how: How,
    located: Located,
    looked_until: u64,
    in_force: InForce,
    /// Where readers have named whose chats they are.
    mentions: Mentions,
}

impl Round<'_> {
    /// The first few chats, in one transaction. What became of them: at least of one.
    fn some(&mut self, targets: &[Target], at: i64) -> Result<Vec<Outcome>, Error> {
        let connection = &self.custody.connection;
        // Queries of holds are not asked while the lock is held, but shortly before.
        while !self.in_force.is_current(connection)? || self.in_force.is_stale() {
            self.in_force = self.custody.holds_in_force()?;
        }
        let Self { custody, act_id, how, located, looked_until, in_force, mentions } = self;
        custody.change_by(*act_id, |pack| {
            if !in_force.is_current(connection)? {
                let what = "somebody puts something on hold just now: run this again";
                return Err(Error::new(ErrorKind::Busy, what));
            }
            let removal = Removal { connection, act_id: *act_id, how: *how, at, looked_until: *looked_until };
            let (mut outcomes, mut rows_done, mut gone) = (Vec::new(), 0, Gone::default());
            for target in targets {
                let outcome = removal.chat(pack, target, located, in_force, &mut gone)?;
                if let Outcome::Removed { rows, .. } = outcome {
                    rows_done += rows;
                }
                outcomes.push(outcome);
                if rows_done >= ROWS_MAX as i64 || outcomes.len() >= ROWS_MAX {
                    break;
                }
            }
            let (act_id, looked_until) = (*act_id, *looked_until);
            gone.forget(&Forgetting { connection, mentions, act_id, at, looked_until }, located, pack)?;
            Ok(outcomes)
        })
    }
}

/// One transaction.
pub(super) struct Removal<'c> {
    pub connection: &'c Connection,
    pub act_id: i64,
    pub how: How,
    pub at: i64,
    pub looked_until: u64,
}

/// What is left to say of a chat.
#[derive(Debug, Default)]
pub(super) struct Facts {
    service: Option<String>,
    first_seen_at: Option<i64>,
    last_seen_at: Option<i64>,
    below: Option<i64>,
}

impl Removal<'_> {
    fn chat(
        &self,
        pack: &mut Pack,
        target: &Target,
        located: &mut Located,
        in_force: &InForce,
        gone: &mut Gone,
    ) -> Result<Outcome, Error> {
        let chat_id = &target.chat_id;
        let facts = facts(self.connection, chat_id)?;
        if target.not_seen_after.is_some_and(|limit| facts.last_seen_at.is_some_and(|seen| seen > limit)) {
            return Ok(Outcome::SeenAgain);
        }
        if let Some(held) = in_force.on(self.connection, chat_id)? {
            return Ok(Outcome::Held(held));
        }
        let (waiting, rows) = (waiting_of(self.connection, chat_id)?, rows_of(self.connection, chat_id)?);
        for rows in [&waiting, &rows] {
            match located.find_rest(self.connection, rows, self.looked_until) {
                Err(error) if error.kind == ErrorKind::Altered => return Ok(Outcome::Altered(error.message)),
                found => found?,
            }
        }
        for (_, key) in waiting {
            let update = "UPDATE waiting_erasures SET done_by = ? WHERE id = ?";
            self.connection.prepare_cached(update)?.execute(params![self.act_id, key[0]])?;
            pack.touch(WAITING, key);
        }
        if rows.is_empty() {
            let is_gone = was_removed(self.connection, chat_id)?;
            return Ok(if is_gone { Outcome::GoneBefore } else { Outcome::Nothing });
        }
        gone.note(self.connection, chat_id)?;
        let events = rows.iter().filter(|(form, _)| *form == EVENTS).count() as i64;
        let rows = self.write(pack, Some(chat_id), &facts, &rows, located)?;
        Ok(Outcome::Removed { events, rows })
    }

    /// Rows go, and their salts, and it is noted. How many.
    pub(super) fn write(
        &self,
        pack: &mut Pack,
        chat_id: Option<&str>,
        facts: &Facts,
        rows: &[RowName],
        located: &Located,
    ) -> Result<i64, Error> {
        let connection = self.connection;
        let leaves: BTreeSet<u64> = rows.iter().flat_map(|name| located.all_of(name)).collect();
        for (number, key) in rows {
            let form = Form::of(*number).expect("listed by its number");
            let is_key = form.key.iter().map(|column| format!("{} = ?", column.0)).collect::<Vec<_>>().join(" AND ");
            let delete = format!("DELETE FROM {} WHERE {is_key}", form.table);
            search::forget(connection, form, key)?;
            super::merge::forget(connection, form, key)?;
            connection.prepare_cached(&delete)?.execute(rusqlite::params_from_iter(key))?;
        }
        destroy(connection, &leaves)?;
        if let Some(chat_id) = chat_id {
            connection.prepare_cached("DELETE FROM variant_keys WHERE chat_id = ?")?.execute([chat_id])?;
        }
        let events = rows.iter().filter(|(form, _)| *form == EVENTS).count() as i64;
        let insert =
            "INSERT INTO erasures (act_id, chat_id, how, at, below, service, first_seen_at, last_seen_at, events,
            rows, leaves) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let id = connection.prepare_cached(insert)?.insert(params![
            self.act_id,
            chat_id,
            self.how.as_str(),
            self.at,
            facts.below,
            facts.service,
            facts.first_seen_at,
            facts.last_seen_at,
            events,
            rows.len() as i64,
            packed(&leaves),
        ])?;
        pack.touch(ERASURES, [KeyValue::Integer(id)]);
        search::follow(connection, id)?;
        let unclean = "INSERT INTO uncleaned VALUES (1, ?) ON CONFLICT DO NOTHING";
        connection.prepare_cached(unclean)?.execute([self.at])?;
        Ok(rows.len() as i64)
    }
}

fn facts(connection: &Connection, chat_id: &str) -> Result<Facts, Error> {
    let sql = "SELECT service, first_seen_at, last_seen_at FROM chats WHERE chat_id = ?";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Facts { service: row.get(0)?, first_seen_at: row.get(1)?, last_seen_at: row.get(2)?, below: None })
    };
    let facts = connection.prepare_cached(sql)?.query_row([chat_id], read).optional()?.unwrap_or_default();
    // What is delivered again of it is nothing new, hidden indexes within it included.
    let sql = "SELECT max(below) FROM (SELECT next_position AS below FROM chats WHERE chat_id = ?1
        UNION ALL SELECT max(event_index) + 1 FROM events WHERE chat_id = ?1 AND event_index < 9223372036854775807
        UNION ALL SELECT max(below) FROM erasures WHERE chat_id = ?1)";
    let below = connection.prepare_cached(sql)?.query_row([chat_id], |row| row.get(0))?;
    Ok(Facts { below: Some(Option::unwrap_or(below, 1)), ..facts })
}

/// All rows of a chat.
fn rows_of(connection: &Connection, chat_id: &str) -> Result<Vec<RowName>, Error> {
    let mut rows = Vec::new();
    for number in OF_CHAT {
        let form = Form::of(number).expect("listed by its number");
        let sql = format!("{} WHERE chat_id = ?", select_keys(form));
        add_rows(connection, &sql, [chat_id], form, &mut rows)?;
    }
    Ok(rows)
}

fn was_removed(connection: &Connection, chat_id: &str) -> Result<bool, Error> {
    Ok(connection.prepare_cached("SELECT 1 FROM erasures WHERE chat_id = ?")?.exists([chat_id])?)
}

/// Erasures of a chat that wait: whoever erases it has done them.
fn waiting_of(connection: &Connection, chat_id: &str) -> Result<Vec<RowName>, Error> {
    let sql = "SELECT id FROM waiting_erasures WHERE chat_id = ? AND done_by IS NULL";
    let mut select = connection.prepare_cached(sql)?;
    let ids = select.query_map([chat_id], |row| row.get(0))?;
    Ok(ids.map(|id| id.map(|id| (WAITING, vec![KeyValue::Integer(id)]))).collect::<Result<_, _>>()?)
}

pub(super) fn select_keys(form: &Form) -> String {
    let columns: Vec<&str> = form.key.iter().map(|column| column.0).collect();
    format!("SELECT {} FROM {}", columns.join(", "), form.table)
}

pub(super) fn add_rows(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    form: &'static Form,
    rows: &mut Vec<RowName>,
) -> Result<(), Error> {
    let mut select = connection.prepare_cached(sql)?;
    let mut found = select.query(values)?;
    while let Some(row) = found.next()? {
        let key = form
            .key
            .iter()
            .enumerate()
            .map(|(at, column)| KeyValue::of(row.get_ref(at)?, column.1).ok_or(rusqlite::Error::InvalidQuery));
        rows.push((form.number, key.collect::<Result<_, _>>()?));
    }
    Ok(())
}
