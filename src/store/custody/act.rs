//! What people and schedules do: rows of `acts`, from their begin to their end. One that was killed has no end; whoever looks next
//! gives it one, so that nothing can be removed in its name later.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::Custody;
use crate::store::seal::{self, KeyValue, Pack};
use crate::store::{Error, ErrorKind};

/// How long somebody who looks for acts that were killed is waited for: that takes milliseconds.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What is done, as `acts.kind` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Content was read.
    Read,
    /// Chats are erased.
    Erase,
    /// What is older than the schedule says is removed.
    Purge,
    /// A rule of masking is applied to what is stored.
    Mask,
    /// Something may not be removed.
    Hold,
    /// It may again.
    Unhold,
    /// The signing key was changed.
    Key,
    /// A backup took the place of the archive.
    Restore,
    /// Another proxy's archive was brought in.
    Merge,
}

impl Kind {
    /// Whether rows are changed, removed or brought by it, in many transactions.
    fn is_long(self) -> bool {
        matches!(self, Self::Erase | Self::Purge | Self::Mask | Self::Merge)
    }

    /// As acts name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Erase => "erase",
            Self::Purge => "purge",
            Self::Mask => "mask",
            Self::Hold => "hold",
            Self::Unhold => "unhold",
            Self::Key => "key",
            Self::Restore => "restore",
            Self::Merge => "merge",
        }
    }
}

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user of the operating system, or `serve`.
    pub who: String,
    /// Who called sudo.
    pub via: Option<String>,
    /// The host.
    pub host: String,
    /// A case, a ticket.
    pub case_ref: Option<String>,
}

/// What somebody does: a row of `acts`.
#[derive(Debug, Clone)]
pub struct Act<'a> {
    /// What.
    pub kind: Kind,
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Who.
    pub actor: &'a Actor,
    /// The command, and what it was given; becomes JSON.
    pub asked: serde_json::Value,
    /// Why.
    pub reason: Option<&'a str>,
}

impl Custody {
    /// Notes what is about to be done. Its number.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn begin(&self, act: &Act<'_>) -> Result<i64, Error> {
        self.prepare(act.kind)?;
        self.change(|pack| begin(&self.connection, pack, act))
    }

    /// What is long is known to be under way until this custody ends, and what was of others is ended before.
    pub(super) fn prepare(&self, kind: Kind) -> Result<(), Error> {
        if kind.is_long() && self.at_work.get().is_none() {
            self.end_killed()?;
            self.set_to_work();
        }
        Ok(())
    }

    /// Where nobody removes, masks or merges anything just now, acts of that without an end were killed, and get one: without the number of
    /// rows, which whoever was to count them has not told. How many.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn end_killed(&self) -> Result<i64, Error> {
        let sql =
            "SELECT id, max(at, coalesce((SELECT max(e.at) FROM erasures e WHERE e.act_id = a.id), at)) FROM acts a
            WHERE ended_at IS NULL AND kind IN ('erase', 'purge', 'mask', 'merge')";
        let mut select = self.connection.prepare_cached(sql)?;
        if !select.exists(())? {
            return Ok(0);
        }
        let Some(folder) = folder_of(&self.path).ok().filter(|folder| folder.try_lock().is_ok()) else {
            return Ok(0);
        };
        let killed = self.change(|pack| {
            let killed = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<Vec<_>, _>>()?;
            killed.iter().try_for_each(|(act_id, at)| end(&self.connection, pack, *act_id, *at, None))?;
            Ok(killed.len() as i64)
        });
        drop(folder); // and its lock
        killed
    }

    /// The folder of the archive is locked, shared with others, by whoever removes or masks something there. Where that cannot be
    /// done it is done without: then somebody may end the act, and the next transaction says so.
    fn set_to_work(&self) {
        let Ok(folder) = folder_of(&self.path) else { return };
        let until = Instant::now() + LOOK_MAX;
        while let Err(TryLockError::WouldBlock) = folder.try_lock_shared() {
            if Instant::now() > until {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.at_work.set(folder); // another act of this custody has done so: as good
    }

    /// One transaction of an act that is under way.
    ///
    /// # Errors
    /// As writing goes wrong, or somebody has ended the act: what is done in its name later would be a fault.
    pub(super) fn change_by<T>(
        &self,
        act_id: i64,
        change: impl FnOnce(&mut Pack) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.change(|pack| {
            check_under_way(&self.connection, act_id)?;
            change(pack)
        })
    }

    /// One act, whole: begun and ended in a transaction.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn note(&self, act: &Act<'_>, found: i64) -> Result<i64, Error> {
        let connection = &self.connection;
        self.change(|pack| {
            let act_id = begin(connection, pack, act)?;
            end(connection, pack, act_id, act.at, Some(found))?;
            Ok(act_id)
        })
    }

    /// Notes that it is done, and how many rows that were.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn end(&self, act_id: i64, at: i64, found: i64) -> Result<(), Error> {
        self.change_by(act_id, |pack| end(&self.connection, pack, act_id, at, Some(found)))
    }
}

/// The folder that the file itself is in: others may have come by a link.
fn folder_of(path: &Path) -> std::io::Result<File> {
    let path = path.canonicalize()?;
    File::open(path.parent().unwrap_or(Path::new("/")))
}

fn check_under_way(connection: &Connection, act_id: i64) -> Result<(), Error> {
    let sql = "SELECT 1 FROM acts WHERE id = ? AND ended_at IS NOT NULL";
    if !connection.prepare_cached(sql)?.exists([act_id])? {
        return Ok(());
    }
    let what = format!(
        "another process took act {act_id} for killed and has ended it (this one could not lock the archive's folder): run this again"
    );
    Err(Error::new(ErrorKind::Other, what))
}

pub(super) fn begin(connection: &Connection, pack: &mut Pack, act: &Act<'_>) -> Result<i64, Error> {
    let insert = "INSERT INTO acts (kind, at, who, via, host, case_ref, asked, reason, version)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let Actor { who, via, host, case_ref } = act.actor;
    let (kind, asked) = (act.kind.as_str(), act.asked.to_string());
    let version = concat!("gms-recorder ", env!("CARGO_PKG_VERSION"));
    let values = params![kind, act.at, who, via, host, case_ref, asked, act.reason, version];
    let id = connection.prepare_cached(insert)?.insert(values)?;
    pack.touch_whole(seal::ACTS, [KeyValue::Integer(id)]);
    Ok(id)
}

/// `found` is None of one that was killed.
pub(super) fn end(
    connection: &Connection,
    pack: &mut Pack,
    act_id: i64,
    at: i64,
    found: Option<i64>,
) -> Result<(), Error> {
    let update = "UPDATE acts SET ended_at = ?, found = ? WHERE id = ?";
    connection.prepare_cached(update)?.execute(params![at, found, act_id])?;
    pack.touch(seal::ACTS, [KeyValue::Integer(act_id)]);
    Ok(())
}
