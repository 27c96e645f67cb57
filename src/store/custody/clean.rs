//! What was removed is not only out of the rows: no byte of it is to be left in any file of the database.
//!
//! `secure_delete` overwrites the cell of a row that is deleted. But where SQLite balances its trees it writes pages anew, and
//! what of the old page lies between the pointers and the cells of the new one is left there (`rebuildPage` in btree.c): copies
//! of cells that have moved elsewhere, and may be deleted there. Hence every page is looked at, and that gap is overwritten.
//! Then the write-ahead log is folded in and cut off. Before all that the full-text index forgets the words, and what was made of
//! chats to be delivered and has not gone out is thrown away.
//!
//! It knows the file format (sqlite.org/fileformat.html, section 1.6); it does not know rows.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::{BUSY_TIMEOUT, Custody};
use crate::store::{Error, ErrorKind, outbox, wal};

/// Pages that are read in one go, so that no snapshot of ours keeps the log from being folded: some 10 ms.
const READ_MAX: u32 = 2_000;
/// Pages that are overwritten in one transaction: half a MiB of log.
const WRITTEN_MAX: usize = 64;
/// Free pages that are given back in one transaction.
const GIVEN_BACK: u32 = 256;
/// How long readers are waited for, who keep the log from being cut off.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(100);

/// How cleaning went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleaned {
    /// Nothing is left of what was removed.
    All,
    /// Something may be, for so long as this lasts.
    NotYet(String),
}

impl Custody {
    /// Whether anything was removed since the file was last cleaned.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn is_unclean(&self) -> Result<bool, Error> {
        Ok(self.connection.prepare_cached("SELECT 1 FROM uncleaned")?.exists(())?)
    }

    /// Overwrites what is left of removed rows, in pieces, and cuts the log off. `progress` is told how many pages are
    /// done, of how many.
    ///
    /// # Errors
    /// As writing goes wrong; then the file counts as unclean, and it can be tried again.
    pub fn clean(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Cleaned, Error> {
        if !self.is_unclean()? {
            return Ok(Cleaned::All);
        }
        check_can_see_pages(&self.connection)?;
        let sql = "SELECT coalesce(max(id), 0) FROM erasures";
        let last: i64 = self.connection.query_row(sql, (), |row| row.get(0))?;
        self.empty_outbox()?;
        self.settle_index()?;
        self.overwrite_gaps(progress)?;
        if !self.cut_log_off()? {
            let what = "a reader has the archive open as it was before: until it ends, removed text is left in the log beside the \
                        database";
            return Ok(Cleaned::NotYet(what.into()));
        }
        if crate::store::spool::waiting_bytes(&self.spool) > 0 {
            let what = "there is a spool beside the database that is not in the archive yet, and removed text may be in it: `serve` \
                        empties it as soon as it can write";
            return Ok(Cleaned::NotYet(what.into()));
        }
        let delete = "DELETE FROM uncleaned WHERE (SELECT coalesce(max(id), 0) FROM erasures) = ?";
        // A `serve` cleans, too, and may have come to the end first.
        match self.connection.execute(delete, [last])? {
            0 if self.is_unclean()? => Ok(Cleaned::NotYet("more was removed meanwhile: that is cleaned next".into())),
            _ => Ok(Cleaned::All),
        }
    }

    /// What was made for a target, has not gone out, and has something that was removed since: it is made anew, without that.
    fn empty_outbox(&self) -> Result<(), Error> {
        let Some(path) = self.connection.path() else { return Ok(()) };
        let outbox = outbox(Path::new(path));
        let failed = |error: io::Error| Error::new(ErrorKind::Io, format!("{}: {error}", outbox.display()));
        let entries = match std::fs::read_dir(&outbox) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !self.is_as_recorded(&entry.file_name().to_string_lossy())? {
                std::fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Whether a folder of the outbox, `TARGET-NUMBER`, is a delivery that is on its way and has nothing that was removed since.
    fn is_as_recorded(&self, folder: &str) -> Result<bool, Error> {
        let Some((target, Ok(number))) =
            folder.rsplit_once('-').map(|(target, number)| (target, number.parse::<i64>()))
        else {
            return Ok(false); // half made
        };
        let staged = self.standing(target)?.staged.filter(|staged| staged.delivery.number == number);
        Ok(staged.is_some_and(|staged| !self.is_outdated(&staged.delivery).unwrap_or(true)))
    }

    /// Gives free pages back to the file system, in pieces. How many.
    ///
    /// # Errors
    /// As writing goes wrong.
    pub fn give_space_back(&self) -> Result<u64, Error> {
        let free = || self.connection.query_row("PRAGMA freelist_count", (), |row| row.get::<_, i64>(0));
        let first = free()?;
        let mut left = first;
        while left > 0 {
            let began = Instant::now();
            self.check_in_place()?;
            // A row for each page, and the transaction ends after the last one.
            let mut give_back = self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({GIVEN_BACK})"))?;
            let mut pages = give_back.query(())?;
            while pages.next()?.is_some() {}
            drop(pages);
            let now = free()?;
            if now >= left {
                break; // an archive that was made without auto_vacuum, or others need pages as fast
            }
            left = now;
            self.give_way(began.elapsed())?;
        }
        Ok(first.abs_diff(left))
    }

    fn overwrite_gaps(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
        let pages: u32 = self.connection.query_row("PRAGMA page_count", (), |row| row.get(0))?;
        let map = Map::of(&self.connection)?;
        let mut next = 1;
        while next <= pages {
            let until = pages.min(next.saturating_add(READ_MAX - 1));
            let dirty = self.dirty_among(&map, next, until)?;
            for some in dirty.chunks(WRITTEN_MAX) {
                let began = Instant::now();
                self.overwrite_gaps_of(&map, some)?;
                self.give_way(began.elapsed())?;
            }
            progress(u64::from(until), u64::from(pages));
            next = until + 1;
        }
        Ok(())
    }

    fn dirty_among(&self, map: &Map, first: u32, last: u32) -> Result<Vec<u32>, Error> {
        let reading = self.connection.unchecked_transaction()?;
        let mut dirty = Vec::new();
        let mut entries = Entries::default();
        for number in first..=last {
            if !entries.is_of_a_tree(&self.connection, map, number)? {
                continue;
            }
            let found = page(&self.connection, number, |page| {
                gap(page).is_some_and(|gap| page[gap].iter().any(|byte| *byte != 0))
            })?;
            if found == Some(true) {
                dirty.push(number);
            }
        }
        reading.rollback()?;
        Ok(dirty)
    }

    fn overwrite_gaps_of(&self, map: &Map, pages: &[u32]) -> Result<(), Error> {
        let connection = &self.connection;
        self.check_in_place()?;
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        let mut entries = Entries::default();
        let written = pages.iter().try_for_each(|number| overwrite_gap(connection, map, &mut entries, *number));
        let ended = written.and_then(|()| Ok(connection.execute_batch("COMMIT")?));
        if ended.is_err() {
            let _ = connection.execute_batch("ROLLBACK"); // SQLite has rolled back by itself after some errors
        }
        ended
    }

    fn cut_log_off(&self) -> Result<bool, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            self.check_in_place()?;
            // It has the lock that the writer of a `serve` needs while it waits for readers: it waits for none.
            if wal::fold_at_once(&self.connection, BUSY_TIMEOUT)? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// Where the pages lie that say of each page what it is (section 1.8, pointer map): archives are made with `auto_vacuum`.
#[derive(Debug)]
struct Map {
    /// A page of the map and those it speaks of.
    group: u32,
    /// Is never used.
    lock_page: u32,
}

/// Offset of the byte that locks are taken on.
const PENDING_BYTE: u32 = 0x4000_0000;
const ENTRY_BYTES: u32 = 5;
/// What entries call pages of trees.
const ROOT: u8 = 1;
const OF_TREE: u8 = 5;

impl Map {
    fn of(connection: &Connection) -> Result<Self, Error> {
        let (page_bytes, auto_vacuum): (u32, i64) = (
            connection.query_row("PRAGMA page_size", (), |row| row.get(0))?,
            connection.query_row("PRAGMA auto_vacuum", (), |row| row.get(0))?,
        );
        let reserved = page(connection, 1, |head| u32::from(head.get(20).copied().unwrap_or_default()))?;
        if auto_vacuum == 0 {
            let what = "the archive was made without auto_vacuum, so that it is not known which page holds what; a `snapshot` of it \
                        has nothing of what was removed";
            return Err(Error::new(ErrorKind::Other, what));
        }
        let usable = page_bytes - reserved.unwrap_or_default();
        Ok(Self { group: usable / ENTRY_BYTES + 1, lock_page: PENDING_BYTE / page_bytes + 1 })
    }

    /// The page of the map that speaks of a page, and where in it. None of the first page, of those of the map itself, and
    /// of the one for locks.
    fn entry_of(&self, number: u32) -> Option<(u32, usize)> {
        let mut map_page = number.checked_sub(2)? / self.group * self.group + 2;
        if map_page == self.lock_page {
            map_page += 1;
        }
        let place = number.checked_sub(map_page + 1)?;
        (number != self.lock_page).then_some((map_page, (place * ENTRY_BYTES) as usize))
    }
}

/// The page of the map that was read last.
#[derive(Debug, Default)]
struct Entries(Option<(u32, Vec<u8>)>);

impl Entries {
    fn is_of_a_tree(&mut self, connection: &Connection, map: &Map, number: u32) -> Result<bool, Error> {
        let Some((map_page, at)) = map.entry_of(number) else { return Ok(false) };
        if self.0.as_ref().is_none_or(|(read, _)| *read != map_page) {
            self.0 = page(connection, map_page, <[u8]>::to_vec)?.map(|bytes| (map_page, bytes));
        }
        let kind = self.0.as_ref().and_then(|(_, bytes)| bytes.get(at));
        Ok(kind.is_some_and(|kind| matches!(*kind, ROOT | OF_TREE)))
    }
}

/// A page as it is. None where the file ends before it.
fn page<T>(connection: &Connection, number: u32, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Error> {
    let mut select = connection.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?")?;
    let mut rows = select.query([number])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(row.get_ref(0)?.as_blob().ok().map(read))
}

/// Looks again before it writes: the page may have become another one.
fn overwrite_gap(connection: &Connection, map: &Map, entries: &mut Entries, number: u32) -> Result<(), Error> {
    if !entries.is_of_a_tree(connection, map, number)? {
        return Ok(());
    }
    let Some(mut page) = page(connection, number, <[u8]>::to_vec)? else { return Ok(()) };
    let Some(gap) = gap(&page) else { return Ok(()) };
    page[gap].fill(0);
    connection.prepare_cached("UPDATE sqlite_dbpage SET data = ? WHERE pgno = ?")?.execute(params![page, number])?;
    Ok(())
}

/// The unused space between the cells' pointers and the cells of a page of a tree. The first page, whose head is longer,
/// holds the schema alone and is not asked for.
fn gap(page: &[u8]) -> Option<std::ops::Range<usize>> {
    let head_bytes = match page.first()? {
        0x02 | 0x05 => 12,
        0x0a | 0x0d => 8,
        _ => return None,
    };
    let number_at = |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    let (cells, content) = (number_at(3)?, number_at(5)?);
    let content = if content == 0 { 65_536 } else { content };
    let begin = head_bytes + 2 * cells;
    (begin <= content && content <= page.len()).then_some(begin..content)
}

fn check_can_see_pages(connection: &Connection) -> Result<(), Error> {
    let has = connection.prepare("SELECT 1 FROM pragma_module_list WHERE name = 'sqlite_dbpage'")?.exists(())?;
    if has {
        return Ok(());
    }
    let what = "this build of gms-recorder cannot look at pages, so that it is not known what is left of removed text: build it \
                in its own folder, where .cargo/config.toml says how";
    Err(Error::new(ErrorKind::Other, what))
}
