//! Checkpoints and the keys that sign them, as rows. What they say is for others to write and to understand.

use rusqlite::{Connection, OptionalExtension, params};

use super::merkle::Hash;
use super::{KEYS, KeyValue, change, read_tree};
use crate::store::{Error, Store, text};

/// What a checkpoint is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Checkpoints are counted from 1; those of one size have one number.
    pub number: i64,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// Leaves that the one before signs, and when that was.
    pub before: Option<(u64, i64)>,
}

impl Store {
    /// Signs the tree as it stands, and keeps the note. None where `vkey` is not the present key (any longer).
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn checkpoint(
        &self,
        at: i64,
        vkey: &str,
        sign: impl FnOnce(&Standing) -> String,
    ) -> Result<Option<String>, Error> {
        self::sign(&self.connection, at, vkey, sign)
    }

    /// The public keys that this archive was signed with, the present one last.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn keys(&self) -> Result<Vec<String>, Error> {
        keys(&self.connection)
    }

    /// The first key of an archive. False where it has one.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn add_key(&self, vkey: &str, at: i64) -> Result<bool, Error> {
        add(&self.connection, vkey, at, None)
    }
}

pub(in crate::store) fn sign(
    connection: &Connection,
    at: i64,
    vkey: &str,
    sign: impl FnOnce(&Standing) -> String,
) -> Result<Option<String>, Error> {
    change(connection, None, |_| {
        if keys(connection)?.last().is_none_or(|present| present != vkey) {
            return Ok(None);
        }
        let tree = read_tree(connection)?;
        let sql =
            "SELECT number, CAST(size AS INTEGER), CAST(at AS INTEGER) FROM checkpoints ORDER BY number DESC LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?));
        let last: Option<(i64, u64, i64)> = connection.prepare_cached(sql)?.query_row((), read).optional()?;
        let number = match last {
            Some((number, size, _)) if size == tree.size() => number,
            Some((number, ..)) => number.saturating_add(1),
            None => 1,
        };
        let before = last.map(|(_, size, at)| (size, at));
        let note = sign(&Standing { number, size: tree.size(), root: tree.root(), before });
        let upsert = "INSERT INTO checkpoints (number, size, at, note) VALUES (?, ?, ?, ?)
             ON CONFLICT (number) DO UPDATE SET at = excluded.at, note = excluded.note";
        connection.prepare_cached(upsert)?.execute(params![number, tree.size().cast_signed(), at, note])?;
        Ok(Some(note))
    })
}

pub(in crate::store) fn keys(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut select = connection.prepare_cached("SELECT CAST(vkey AS TEXT) FROM keys ORDER BY id")?;
    let keys = select.query_map((), |row| text(row, 0))?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// A key, and in `succession` the one that it follows, with the statement that it does. False where that is not the present
/// one (any longer): nothing has changed then.
pub(in crate::store) fn add(
    connection: &Connection,
    vkey: &str,
    at: i64,
    succession: Option<(&str, &str)>,
) -> Result<bool, Error> {
    change(connection, None, |pack| {
        let (former, statement) = succession.unzip();
        if keys(connection)?.last().map(String::as_str) != former {
            return Ok(false);
        }
        let insert = "INSERT INTO keys (vkey, at, statement) VALUES (?, ?, ?)";
        connection.execute(insert, params![vkey, at, statement])?;
        pack.touch(KEYS, [KeyValue::Integer(connection.last_insert_rowid())]);
        Ok(true)
    })
}
