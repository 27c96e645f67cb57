//! Keeps the full-text index of the archive close behind the writer while `serve` runs, on a thread and a connection of its own. Where
//! the archive or its disk is in trouble it waits: recording comes first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Recorder;
use super::background::{Background, Turns};
use crate::store::custody::Custody;
use crate::store::search::Step;
use crate::store::{Error, ErrorKind};
use crate::telemetry::Repeated;

/// Between looks at whether something has come: a search is at most so far behind, and what a look takes.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same after trouble.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is told how far a long one is.
const TOLD: Duration = Duration::from_secs(60);

static TROUBLE: Repeated = Repeated::new(1, Duration::from_secs(3_600));

/// The thread.
#[derive(Debug)]
pub struct Indexer(Background);

impl Indexer {
    /// Follows the archive at `path`, which `recorder` writes.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(path: PathBuf, recorder: Arc<Recorder>) -> std::io::Result<Self> {
        Background::start("indexer", move |turns| Indexing { path, recorder }.run(&turns)).map(Self)
    }

    /// Ends it within a transaction's time.
    pub fn stop(self) {
        self.0.stop();
    }
}

struct Indexing {
    path: PathBuf,
    recorder: Arc<Recorder>,
}

impl Indexing {
    fn run(self, turns: &Turns) {
        let mut pause = INTERVAL;
        while turns.next(pause) {
            pause = INTERVAL;
            if self.recorder.is_down() || self.recorder.is_reserve_out() {
                continue;
            }
            match self.look(turns) {
                Err(error) if error.kind != ErrorKind::Busy && !turns.is_over() => {
                    pause = PATIENCE;
                    self.say_trouble(&error);
                }
                _ => {} // where somebody writes for long, the next look goes on
            }
        }
    }

    /// Opens the archive for this look alone. Where another file has taken its place, a connection to the former one would share the
    /// files beside it with the writer's, and closing it would drop the locks of that (sqlite.org/howtocorrupt.html, section 2.2).
    fn look(&self, turns: &Turns) -> Result<(), Error> {
        let metrics = &self.recorder.metrics;
        let custody = Custody::open_to_index(&self.path)?.until(turns.stop.clone());
        metrics.search_rows_behind.set(custody.rows_behind()?.cast_signed());
        let (mut told, mut rows) = (Instant::now(), 0);
        while let Step::Going(looked_at) = custody.index()? {
            rows += looked_at;
            if told.elapsed() >= TOLD {
                told = Instant::now();
                let behind = custody.rows_behind()?;
                metrics.search_rows_behind.set(behind.cast_signed());
                tracing::info!(rows, behind, "the archive is being indexed for search");
            }
            if self.recorder.is_down() || self.recorder.is_reserve_out() {
                return Ok(());
            }
        }
        metrics.search_rows_behind.set(custody.rows_behind()?.cast_signed());
        Ok(())
    }

    fn say_trouble(&self, error: &Error) {
        if let Some(not_shown) = TROUBLE.admit(Instant::now()) {
            let hint = "search looks through the rows that the index does not have; it is tried again";
            tracing::warn!(path = %self.path.display(), %error, not_shown, hint, "the archive is not indexed for search");
        }
    }
}
