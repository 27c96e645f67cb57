//! What the disk and SQLite give by themselves: a loop of prepared statements, for the same rows in the same table.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

/// Rows in one transaction.
const BATCH: usize = 1_000;

/// Single commits that are timed.
const COMMITS: usize = 100;

/// As the program's writer has them (`store`), and its table: what differs is only what stands around it.
const PRAGMAS: &str = "
    PRAGMA page_size = 8192;
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA secure_delete = ON;
    PRAGMA wal_autocheckpoint = 1000;
    PRAGMA journal_size_limit = 67108864;
    PRAGMA cache_size = -2048;
    PRAGMA temp_store = MEMORY;
    PRAGMA mmap_size = 0;
    PRAGMA cell_size_check = ON;
    PRAGMA trusted_schema = OFF;";

/// Rows a second, where every batch is synced. Reads the rows from an archive's `events`, whose table and indexes it takes
/// over; reading them is not timed.
pub fn rows_per_second(archive: &Connection, folder: &Path) -> anyhow::Result<f64> {
    let bare = open(folder)?;
    copy_schema(archive, &bare)?;
    let mut select = archive.prepare("SELECT * FROM events")?;
    let columns = select.column_count();
    let marks = vec!["?"; columns].join(", ");
    let mut insert = bare.prepare(&format!("INSERT INTO events VALUES ({marks}) ON CONFLICT DO NOTHING"))?;
    let mut rows = select.query(())?;
    let (mut count, mut elapsed) = (0, Duration::ZERO);
    loop {
        let mut batch: Vec<Vec<Value>> = Vec::with_capacity(BATCH);
        while batch.len() < BATCH
            && let Some(row) = rows.next()?
        {
            batch.push((0..columns).map(|at| row.get(at)).collect::<Result<_, _>>()?);
        }
        if batch.is_empty() {
            return Ok(count as f64 / elapsed.as_secs_f64());
        }
        let start = Instant::now();
        bare.execute_batch("BEGIN IMMEDIATE")?;
        for row in &batch {
            count += insert.execute(params_from_iter(row))?;
        }
        bare.execute_batch("COMMIT")?;
        elapsed += start.elapsed();
    }
}

/// The median time of a commit of one row, synced.
pub fn commit_time(folder: &Path) -> anyhow::Result<Duration> {
    let bare = open(folder)?;
    bare.execute_batch("CREATE TABLE one (n INTEGER)")?;
    let mut insert = bare.prepare("INSERT INTO one VALUES (?)")?;
    let mut times = Vec::with_capacity(COMMITS);
    for n in 0..COMMITS {
        let start = Instant::now();
        insert.execute([n as i64])?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times.get(COMMITS / 2).copied().context("no commit was timed")
}

fn open(folder: &Path) -> anyhow::Result<Connection> {
    let bare = Connection::open(folder.join("bare.db"))?;
    bare.execute_batch(PRAGMAS)?;
    Ok(bare)
}

fn copy_schema(archive: &Connection, bare: &Connection) -> anyhow::Result<()> {
    let mut select = archive
        .prepare("SELECT sql FROM sqlite_master WHERE tbl_name = 'events' AND type <> 'view' AND sql IS NOT NULL")?;
    for sql in select.query_map((), |row| row.get::<_, String>(0))? {
        bare.execute_batch(&sql?)?;
    }
    Ok(())
}
