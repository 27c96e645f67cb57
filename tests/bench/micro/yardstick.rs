//! What SQLite itself costs: the archive's own rows, written again by a bare loop of one prepared statement.
//!
//! The rows are read from an archive that the store wrote, and the table is made by the statement that the archive
//! holds, so that this follows the schema by itself. It knows two columns' names: the key.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::ensure;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::cases::{self, Archive, Keys};
use crate::{Case, Cost, Operation, Scratch};

/// As many as the writer takes into one transaction.
const ROWS_A_BATCH: usize = 1_000;
/// As it takes where 64 clients are each given new events as fast as they ask.
const ROWS_COMMITTED: usize = 100;
/// Enough for the index not to fit into the cache; the second half is measured.
const ROWS_COMPARED: usize = 200_000;

/// How the rows lie in the file.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// In order of arrival, with an index of the keys beside them.
    Rowid,
    /// In the tree of the keys.
    WithoutRowid,
}

/// What an archive's events look like, and some of them.
struct Recorded {
    /// CREATE TABLE events …
    table: String,
    /// CREATE INDEX … ON events …
    indexes: Vec<String>,
    page_size: i64,
    rows: Vec<Vec<Value>>,
}

/// The bare loop, to be compared with the store's: in transactions as large as a loop would make them, and as those in which
/// answers of some dozens of clients are committed.
pub fn cases() -> Vec<Case> {
    let case = |keys: Keys, rows: usize, times: usize| {
        let prepare = move |scratch: &Scratch, times: usize| -> anyhow::Result<Operation> {
            let recorded = record(scratch, keys, (times * rows).next_multiple_of(ROWS_A_BATCH))?;
            let connection = recorded.create(&scratch.fresh(), None)?;
            let mut batches = recorded.rows.chunks(rows).map(<[_]>::to_vec).collect::<Vec<_>>().into_iter();
            Ok(Box::new(move || insert(&connection, &batches.next().expect("one was prepared for each"))))
        };
        let name = format!("bare loop, {rows} {}", keys.as_str());
        Case { name, rows, times, prepare: Box::new(prepare) }
    };
    let both = [Keys::Contiguous, Keys::Interleaved];
    both.into_iter().flat_map(|keys| [case(keys, ROWS_COMMITTED, 200), case(keys, ROWS_A_BATCH, 40)]).collect()
}

/// A table in Markdown: both layouts, under both orders of keys.
pub fn compare_layouts(scratch: &Scratch) -> anyhow::Result<String> {
    let mut text = String::from("| layout | keys | CPU µs a row | rows/s | bytes a row |\n|---|---|---|---|---|\n");
    for keys in [Keys::Contiguous, Keys::Interleaved] {
        let recorded = record(scratch, keys, ROWS_COMPARED)?;
        for layout in [Layout::Rowid, Layout::WithoutRowid] {
            let (cost, bytes_a_row) = recorded.fill(&scratch.fresh(), layout)?;
            let rows = (ROWS_COMPARED / 2) as f64;
            let (cpu, rate) = (cost.cpu.as_secs_f64() * 1e6 / rows, rows / cost.wall.as_secs_f64());
            let _ = writeln!(text, "| {layout:?} | {} | {cpu:.2} | {rate:.0} | {bytes_a_row:.0} |", keys.as_str());
        }
    }
    Ok(text)
}

/// Events in the order in which they were recorded.
fn record(scratch: &Scratch, keys: Keys, events: usize) -> anyhow::Result<Recorded> {
    let path = scratch.fresh();
    let mut archive = Archive::make(&path)?;
    let mut batches = cases::batches(keys, ROWS_A_BATCH as u64, events / ROWS_A_BATCH);
    while let Some(batch) = batches.pop() {
        archive.append(&batch)?;
    }
    archive.close()?;
    let recorded = Recorded::read(&path)?;
    std::fs::remove_file(&path)?;
    ensure!(recorded.rows.len() == events, "{} rows of {events} events", recorded.rows.len());
    Ok(recorded)
}

impl Recorded {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let archive = Connection::open(path)?;
        let table = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'events'";
        let indexes = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events' AND sql IS NOT NULL";
        let mut indexes = archive.prepare(indexes)?;
        let mut events = archive.prepare("SELECT * FROM events ORDER BY rowid")?;
        let columns = events.column_count();
        let rows = events.query_map((), |row| (0..columns).map(|column| row.get(column)).collect())?;
        Ok(Self {
            table: archive.query_row(table, (), |row| row.get(0))?,
            indexes: indexes.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?,
            page_size: archive.query_row("PRAGMA page_size", (), |row| row.get(0))?,
            rows: rows.collect::<Result<_, _>>()?,
        })
    }

    /// An empty table, in the archive's own layout or another, under the archive's own pragmas.
    fn create(&self, path: &Path, layout: Option<Layout>) -> anyhow::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.execute_batch(&format!(
            "PRAGMA page_size = {}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA cache_size = -8192;
             PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON;",
            self.page_size
        ))?;
        let plain = self.table.trim_end().trim_end_matches("WITHOUT ROWID");
        connection.execute_batch(&match layout {
            None => self.table.clone(),
            Some(Layout::Rowid) => plain.into(),
            Some(Layout::WithoutRowid) => format!("{plain} WITHOUT ROWID"),
        })?;
        self.indexes.iter().try_for_each(|index| connection.execute_batch(index))?;
        Ok(connection)
    }

    /// What the second half of the rows cost, folding the WAL into the file included, and bytes a row of the file.
    fn fill(&self, path: &Path, layout: Layout) -> anyhow::Result<(Cost, f64)> {
        let connection = self.create(path, Some(layout))?;
        let (first, second) = self.rows.split_at(self.rows.len() / 2);
        let write = |rows: &[Vec<Value>]| {
            rows.chunks(ROWS_A_BATCH).try_for_each(|batch| insert(&connection, batch))?;
            Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
        };
        write(first)?;
        let cost = Cost::of(|| write(second))?;
        let bytes = std::fs::metadata(path)?.len();
        Ok((cost, bytes as f64 / self.rows.len() as f64))
    }
}

/// One transaction, synced, of one prepared statement a row.
fn insert(connection: &Connection, rows: &[Vec<Value>]) -> anyhow::Result<()> {
    let places = vec!["?"; rows.first().map_or(1, Vec::len)].join(", ");
    let sql = format!("INSERT INTO events VALUES ({places}) ON CONFLICT DO NOTHING");
    connection.execute_batch("BEGIN IMMEDIATE")?;
    {
        let mut statement = connection.prepare_cached(&sql)?;
        for row in rows {
            row.iter().enumerate().try_for_each(|(column, value)| statement.raw_bind_parameter(column + 1, value))?;
            statement.raw_execute()?;
        }
    }
    Ok(connection.execute_batch("COMMIT")?)
}
