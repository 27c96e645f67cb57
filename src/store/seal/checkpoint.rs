//! Checkpoints and the keys that sign them, as rows. What they say is for others to write and to understand.

use rusqlite::{OptionalExtension, params};

use super::merkle::Hash;
use super::{KEYS, KeyValue, change, read_tree};
use crate::store::{Error, Store};

/// What a checkpoint is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Checkpoints are counted from 1; those of one size have one number.
    pub number: i64,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Store {
    /// Signs the tree as it stands, and keeps the note.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn checkpoint(&self, at: i64, sign: impl FnOnce(&Standing) -> String) -> Result<String, Error> {
        let connection = &self.connection;
        change(connection, None, |_| {
            let tree = read_tree(connection)?;
            let sql = "SELECT number, size FROM checkpoints ORDER BY number DESC LIMIT 1";
            let last: Option<(i64, i64)> =
                connection.prepare_cached(sql)?.query_row((), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let number = match last {
                Some((number, size)) if size.cast_unsigned() == tree.size() => number,
                Some((number, _)) => number + 1,
                None => 1,
            };
            let note = sign(&Standing { number, size: tree.size(), root: tree.root() });
            let upsert = "INSERT INTO checkpoints (number, size, at, note) VALUES (?, ?, ?, ?)
                 ON CONFLICT (number) DO UPDATE SET at = excluded.at, note = excluded.note";
            connection.prepare_cached(upsert)?.execute(params![number, tree.size().cast_signed(), at, note])?;
            Ok(note)
        })
    }

    /// The public keys that this archive was signed with, the present one last.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn keys(&self) -> Result<Vec<String>, Error> {
        let mut select = self.connection.prepare_cached("SELECT vkey FROM keys ORDER BY id")?;
        let keys = select.query_map((), |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    /// From now on checkpoints are signed with this one.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn add_key(&self, vkey: &str, at: i64) -> Result<(), Error> {
        change(&self.connection, None, |pack| {
            self.connection.execute("INSERT INTO keys (vkey, at) VALUES (?, ?)", params![vkey, at])?;
            pack.touch(KEYS, [KeyValue::Integer(self.connection.last_insert_rowid())]);
            Ok(())
        })
    }
}
