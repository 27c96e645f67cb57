//! Words that FTS5's secure-delete leaves behind. An index of its pages (`search_idx`) names each page of words by the first letters
//! of its first word, as many as tell it from the last one before. Where that word is taken out, and others of the page stay, the page
//! keeps its name. It is given another one here: the whole of the word that is the first one now, which is as good.
//!
//! It knows FTS5's format as far as that takes (the comments of fts5_index.c); what else there is it leaves alone.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Rest, change};
use crate::store::Error;

/// Pages that are looked at in one go: some ten milliseconds.
const LOOKED_AT_MAX: i64 = 500;

/// A row of `search_idx`: a page of words, and what it is found by.
struct Entry {
    segment: i64,
    name: Vec<u8>,
    /// Twice the page's number, and a flag.
    page: i64,
}

/// Gives pages other names whose names are of words that are gone.
pub(super) fn clear_residue(connection: &Connection, rest: &mut Rest<'_>) -> Result<(), Error> {
    let mut after = (i64::MIN, Vec::new());
    loop {
        let entries = entries(connection, &after)?;
        let Some(last) = entries.last() else { return Ok(()) };
        after = (last.segment, last.name.clone());
        let mut stale = Vec::new();
        for entry in entries {
            if entry.is_stale(connection)?.is_some() {
                stale.push(entry);
            }
        }
        if !stale.is_empty() {
            change(connection, |_| stale.iter().try_for_each(|entry| entry.rename(connection)))?;
            rest()?;
        }
    }
}

fn entries(connection: &Connection, after: &(i64, Vec<u8>)) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT segid, term, pgno FROM search_idx WHERE (segid, term) > (?, ?) ORDER BY segid, term LIMIT ?";
    let mut select = connection.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Entry { segment: row.get(0)?, name: row.get_ref(1)?.as_bytes()?.to_vec(), page: row.get(2)? })
    };
    let entries = select.query_map(params![after.0, after.1, LOOKED_AT_MAX], read)?;
    Ok(entries.collect::<Result<_, _>>()?)
}

impl Entry {
    /// The first word of its page, where that does not begin as its name says. None, too, of a page that is not there any longer.
    fn is_stale(&self, connection: &Connection) -> Result<Option<Vec<u8>>, Error> {
        // FTS5_SEGMENT_ROWID
        let id = (self.segment << 37) + (self.page >> 1);
        let mut select = connection.prepare_cached("SELECT block FROM search_data WHERE id = ?")?;
        let page: Option<Vec<u8>> = select.query_row([id], |row| row.get(0)).optional()?;
        let word = page.as_deref().and_then(first_word).filter(|word| !word.starts_with(&self.name));
        Ok(word.map(<[u8]>::to_vec))
    }

    /// Looks again, now that nobody else writes.
    fn rename(&self, connection: &Connection) -> Result<(), Error> {
        let Some(word) = self.is_stale(connection)? else { return Ok(()) };
        let update = "UPDATE search_idx SET term = ? WHERE segid = ? AND term = ? AND pgno = ?";
        connection.prepare_cached(update)?.execute(params![word, self.segment, self.name, self.page])?;
        Ok(())
    }
}

/// Of a page of words: at byte 2 its length without its footer, whose first number says where the first word stands, which is
/// its length and its bytes.
fn first_word(page: &[u8]) -> Option<&[u8]> {
    let footer = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let (at, _) = number(page.get(footer..)?)?;
    let (length, word) = number(page.get(at..)?)?;
    word.get(..length)
}

/// SQLite's varint, of up to four bytes: no page is larger.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        number = number << 7 | usize::from(byte & 0x7f);
        if *byte < 0x80 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}
