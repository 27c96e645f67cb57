//! Looks into an archive that this program writes, from outside: is everything there that the node issued?

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

/// What takes longer than this without a new row does not come any more.
const STALLED: Duration = Duration::from_secs(4);

/// An archive's file.
pub struct Archive(PathBuf);

/// What is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    pub events: u64,
    /// Variants, findings and errors: a node of this benchmark gives no cause for any.
    pub strays: u64,
}

impl Archive {
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub fn open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(&self.0, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(1))?;
        Ok(connection)
    }

    fn contents(&self) -> rusqlite::Result<Contents> {
        let sql = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM event_variants)
                        + (SELECT count(*) FROM findings) + (SELECT count(*) FROM api_errors)";
        self.open()?.query_row(sql, (), |row| {
            let number = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
            Ok(Contents { events: number(0)?, strays: number(1)? })
        })
    }

    /// Waits until so many events are in it, or none comes any more; what there is then.
    pub fn await_events(&self, events: u64) -> rusqlite::Result<Contents> {
        let mut last = self.contents()?;
        let mut since = Instant::now();
        while last.events != events && since.elapsed() < STALLED {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.contents()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}
