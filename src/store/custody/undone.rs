//! What a backup undoes when it takes the place of its archive: what people did after it was made, and it knows nothing of.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row};

use super::hold::{Hold, InForce, holds};
use crate::store::Error;
use crate::store::audit::Snapshot;

/// Erased chats that are named one by one; the others are counted.
const CHATS_TOLD: usize = 20;

/// Something that was done once, with its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<T> {
    /// What it was done to: a hold's number, a rule's name.
    pub what: T,
    /// Why.
    pub reason: Option<String>,
    /// For which case.
    pub case_ref: Option<String>,
}

/// What was recorded after the backup was made, and removals, maskings, holds and releases that it does not have.
#[derive(Debug, Clone, Default)]
pub struct Undone {
    /// Events that were recorded later than all that the backup has, and of how many chats.
    pub later: (i64, i64),
    /// How many chats were erased and are in the backup.
    pub erased: i64,
    /// The same, of those that the schedule removed.
    pub purged: i64,
    /// The first of those that were erased, with what it was asked for with.
    pub chats: Vec<Done<String>>,
    /// The least number in `erasures` of those that were erased.
    pub erased_from: Option<i64>,
    /// Holds in force.
    pub holds: Vec<Hold>,
    /// Holds, by their numbers, that are in force in the backup only.
    pub released: Vec<Done<i64>>,
    /// Chats whose erasure waits for a hold.
    pub waiting: Vec<Done<String>>,
    /// Those of them that are on hold otherwise than by their own ids, as far as that can be told.
    pub held: Vec<String>,
    /// Rules that were applied to what was stored.
    pub masked: Vec<Done<String>>,
}

impl Undone {
    /// Compares an archive with a backup of it.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn between(former: &Path, backup: &Path) -> Result<Self, Error> {
        let (former, backup) = (Snapshot::open(former)?, Snapshot::open(backup)?);
        let (former, backup) = (&former.connection, &backup.connection);
        let mut undone = Self { later: later(former, backup)?, ..Self::default() };
        if has_acts(former)? {
            undone.find_removals(former, backup)?;
            undone.find_holds(former, backup)?;
            undone.find_waiting(former, backup)?;
            undone.find_maskings(former, backup)?;
        }
        Ok(undone)
    }

    /// Which of both are in force in one of them only.
    fn find_holds(&mut self, former: &Connection, backup: &Connection) -> Result<(), Error> {
        let known: Vec<Hold> = if has_acts(backup)? { holds(backup)? } else { Vec::new() };
        let here = holds(former)?;
        let find = |holds: &[Hold], hold: &Hold| {
            holds.iter().find(|other| (other.id, other.at) == (hold.id, hold.at)).cloned()
        };
        self.holds =
            here.iter().filter(|hold| hold.released_at.is_none() && find(&known, hold).is_none()).cloned().collect();
        let sql = "SELECT reason, case_ref FROM acts WHERE kind = 'unhold' AND json_extract(asked, '$.hold') = ?
            ORDER BY id DESC LIMIT 1";
        let mut release = former.prepare(sql)?;
        for hold in known.iter().filter(|hold| hold.released_at.is_none()) {
            // One that is not there any longer was released: it went with its customer.
            if find(&here, hold).is_none_or(|hold| hold.released_at.is_some()) {
                let words = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
                let (reason, case_ref) = release.query_row([hold.id], words).optional()?.unwrap_or_default();
                self.released.push(Done { what: hold.id, reason, case_ref });
            }
        }
        Ok(())
    }

    fn find_waiting(&mut self, former: &Connection, backup: &Connection) -> Result<(), Error> {
        let mut waits = match has_acts(backup)? {
            true => backup.prepare("SELECT 1 FROM waiting_erasures WHERE chat_id = ? AND done_by IS NULL")?,
            false => backup.prepare("SELECT 1 WHERE ? IS NULL")?,
        };
        let in_force = InForce::read(former);
        // By its own id it is on hold again with that hold.
        let mut by_id = former.prepare("SELECT 1 FROM holds WHERE chat_id = ? AND released_at IS NULL")?;
        let sql = "SELECT w.chat_id, a.reason, a.case_ref FROM waiting_erasures w LEFT JOIN acts a ON a.id = w.act_id
            WHERE w.done_by IS NULL GROUP BY w.chat_id ORDER BY min(w.id)";
        let mut select = former.prepare(sql)?;
        let words =
            |row: &Row<'_>| Ok(Done { what: row.get::<_, String>(0)?, reason: row.get(1)?, case_ref: row.get(2)? });
        for waiting in select.query_map((), words)? {
            let waiting = waiting?;
            let chat_id: &String = &waiting.what;
            if waits.exists([chat_id])? {
                continue;
            }
            let is_held = match &in_force {
                Ok(in_force) => in_force.on(former, chat_id)?.is_some(),
                Err(_) => true, // a query of a hold fails
            };
            if is_held && !by_id.exists([chat_id])? {
                self.held.push(chat_id.clone());
            }
            self.waiting.push(waiting);
        }
        Ok(())
    }

    /// Those that found something, once each, in the order of the last time.
    fn find_maskings(&mut self, former: &Connection, backup: &Connection) -> Result<(), Error> {
        let mut is_known = match has_acts(backup)? {
            true => backup.prepare("SELECT 1 FROM acts WHERE id = ? AND at = ? AND ended_at IS NOT NULL")?,
            false => backup.prepare("SELECT 1 WHERE ? IS NULL AND ?")?,
        };
        let sql = "SELECT id, at, json_extract(asked, '$.rule'), reason, case_ref FROM acts
            WHERE kind = 'mask' AND coalesce(found, (SELECT count(*) FROM erasures e WHERE e.act_id = acts.id)) > 0 ORDER BY id";
        let mut select = former.prepare(sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (id, at, rule): (i64, i64, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(rule) = rule else { continue };
            if !is_known.exists((id, at))? {
                self.masked.retain(|known| known.what != rule);
                self.masked.push(Done { what: rule, reason: row.get(3)?, case_ref: row.get(4)? });
            }
        }
        Ok(())
    }

    /// By chat: an archive that was restored before has other numbers from there on.
    fn find_removals(&mut self, former: &Connection, backup: &Connection) -> Result<(), Error> {
        let is_known = match has_acts(backup)? {
            true => "EXISTS (SELECT 1 FROM erasures WHERE chat_id = ?1 AND how = ?2 AND at = ?3)",
            false => "0 AND ?2 AND ?3",
        };
        let sql = format!("SELECT 1 FROM chats WHERE chat_id = ?1 AND NOT ({is_known})");
        let mut comes_back = backup.prepare(&sql)?;
        // Of one that had waited, why it was asked for at first.
        let sql = "SELECT e.chat_id, e.how, e.at, e.id, a.reason, a.case_ref FROM erasures e
            LEFT JOIN waiting_erasures w ON w.chat_id = e.chat_id AND w.done_by = e.act_id
            LEFT JOIN acts a ON a.id = coalesce(w.act_id, e.act_id)
            WHERE e.chat_id IS NOT NULL AND e.how IN ('erased', 'purged') ORDER BY e.chat_id, e.id, w.id";
        let mut select = former.prepare(sql)?;
        let (mut rows, mut last) = (select.query(())?, None);
        while let Some(row) = rows.next()? {
            let (chat_id, how, at): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if last.as_ref() == Some(&chat_id) || !comes_back.exists((&chat_id, &how, at))? {
                continue;
            }
            match how.as_str() {
                "erased" => {
                    let done = Done { what: chat_id.clone(), reason: row.get(4)?, case_ref: row.get(5)? };
                    self.add_erased(done, row.get(3)?);
                }
                _ => self.purged += 1,
            }
            last = Some(chat_id);
        }
        Ok(())
    }

    fn add_erased(&mut self, done: Done<String>, number: i64) {
        self.erased += 1;
        self.erased_from = Some(self.erased_from.map_or(number, |least| least.min(number)));
        if self.chats.len() < CHATS_TOLD {
            self.chats.push(done);
        }
    }

    /// Nothing was done.
    pub fn is_empty(&self) -> bool {
        let lists = [self.holds.len(), self.released.len(), self.waiting.len(), self.masked.len()];
        self.erased + self.purged == 0 && lists.iter().all(|length| *length == 0)
    }
}

fn later(former: &Connection, backup: &Connection) -> Result<(i64, i64), Error> {
    let last = "SELECT coalesce(max(CAST(recorded_at AS INTEGER)), 0) FROM events";
    let last: i64 = backup.query_row(last, (), |row| row.get(0))?;
    let sql = "SELECT count(*), count(DISTINCT chat_id) FROM events WHERE recorded_at > ?";
    Ok(former.query_row(sql, [last], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// False of a backup of an earlier release.
fn has_acts(connection: &Connection) -> Result<bool, Error> {
    Ok(connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'erasures'")?.exists(())?)
}
