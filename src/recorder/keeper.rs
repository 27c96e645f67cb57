//! What is done with the archive now and then while `serve` runs, on a thread and a connection of its own: cleaning up after
//! what was removed, by whomever, and purging where that is configured. In small transactions, beside the writer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::background::{Background, Turns};
use super::now_ms;
use crate::archive::retention::{self, Purged};
use crate::store::Error;
use crate::store::custody::{Actor, Cleaned, Custody};
use crate::telemetry::Repeated;

/// After the start, when there is most to do.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// Between looks at whether something is to be cleaned up: erasures wait for it.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60);
/// Between looks at what is due: schedules count in days.
const PURGE_INTERVAL: Duration = Duration::from_secs(3_600);

static TROUBLE: Repeated = Repeated::new(1, Duration::from_secs(3_600));

/// The thread.
#[derive(Debug)]
pub struct Keeper(Background);

impl Keeper {
    /// Keeps the archive at `path`, whose spool is at `spool`; what these targets of exports have not got yet is not purged.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(
        path: PathBuf,
        spool: PathBuf,
        schedule: retention::Config,
        targets: Vec<String>,
    ) -> std::io::Result<Self> {
        let next_purge = Instant::now();
        let keeping = move |turns: Turns| Keeping { path, spool, schedule, targets, next_purge }.run(&turns);
        Background::start("keeper", keeping).map(Self)
    }

    /// Ends it within a transaction's time.
    pub fn stop(self) {
        self.0.stop();
    }
}

struct Keeping {
    path: PathBuf,
    spool: PathBuf,
    schedule: retention::Config,
    targets: Vec<String>,
    next_purge: Instant,
}

impl Keeping {
    fn run(mut self, turns: &Turns) {
        let mut pause = FIRST_AFTER;
        while turns.next(pause) {
            pause = CLEAN_INTERVAL;
            match self.look(turns) {
                Err(error) if !turns.is_over() => say_trouble(&self.path, &error.to_string()),
                _ => {}
            }
        }
    }

    fn look(&mut self, turns: &Turns) -> Result<(), Error> {
        let purges = self.schedule.automatic && self.schedule.is_limited() && Instant::now() >= self.next_purge;
        let custody = Custody::open(&self.path)?.with_spool(self.spool.clone()).until(turns.stop.clone());
        if purges {
            self.next_purge = Instant::now() + PURGE_INTERVAL;
            self.purge(&custody)?;
        }
        if !custody.is_unclean()? {
            return Ok(());
        }
        match custody.clean(&mut |_, _| {})? {
            Cleaned::All => tracing::info!("what was removed from the archive is overwritten to the last byte"),
            Cleaned::NotYet(why) => say_trouble(&self.path, &why),
        }
        Ok(())
    }

    fn purge(&self, custody: &Custody) -> Result<(), Error> {
        let actor = Actor { who: "serve".into(), via: None, host: host(), case_ref: None };
        let plan = self.schedule.plan(custody, now_ms(), &self.targets)?;
        let purged = self.schedule.purge(custody, &plan, &actor, now_ms, &mut |_, _| {})?;
        if purged.rows > 0 {
            let pages = custody.give_space_back()?;
            let Purged { chats, rows, held, .. } = purged;
            tracing::info!(chats, rows, held, pages, "purged what the schedule says is due");
        }
        if purged.altered > 0 {
            let why =
                format!("{} due chats or rows are not as they were sealed: see `gms-recorder verify`", purged.altered);
            say_trouble(&self.path, &why);
        }
        Ok(())
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn say_trouble(path: &Path, why: &str) {
    if let Some(not_shown) = TROUBLE.admit(Instant::now()) {
        tracing::warn!(path = %path.display(), why, not_shown, "what is due in the archive is not done yet; it is tried again");
    }
}
