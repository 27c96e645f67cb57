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

/// How far the clock may be ahead of what the archive knows of it.
const AHEAD_MAX_MS: i64 = 7 * 86_400_000;
/// How long nothing is purged after that, and after a backup was put in the archive's place: somebody is to look first.
const WAIT: Duration = Duration::from_secs(86_400);

const CLOCK_AHEAD: &str = "the clock is more than a week ahead of the archive's last checkpoint before this run, or was set ahead: for \
    a day nothing is purged by it. Is it right? Then `gms-recorder purge` does it now";
const RESTORED: &str = "a backup has taken the archive's place less than a day ago, and holds that were set after it are to be set again \
    first. `gms-recorder purge` does it now";

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
        let clock = Clock::default();
        let keeping = move |turns: Turns| Keeping { path, spool, schedule, targets, next_purge, clock }.run(&turns);
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
    clock: Clock,
}

/// Whether what is due by the clock is to be believed: what is purged never comes back.
#[derive(Debug, Default)]
struct Clock {
    /// What it showed, and when that was by the other clock, which nobody sets.
    last: Option<(Instant, i64)>,
    doubted: Option<Instant>,
}

impl Clock {
    /// It shows `now`, milliseconds since the epoch; `known` is when the archive was last signed before this run.
    fn look(&mut self, now: i64, known: Option<i64>) {
        let elapsed = |(at, then): (Instant, i64)| then.saturating_add(at.elapsed().as_millis() as i64);
        match self.last.map(elapsed).or(known) {
            Some(expected) if now.saturating_sub(expected) > AHEAD_MAX_MS => self.doubted = Some(Instant::now()),
            Some(expected) if expected.saturating_sub(now) > AHEAD_MAX_MS => self.doubted = None, // it was put right
            _ => {}
        }
        self.last = Some((Instant::now(), now));
    }

    fn is_doubted(&self) -> bool {
        self.doubted.is_some_and(|since| since.elapsed() < WAIT)
    }
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
        let is_automatic = self.schedule.automatic && self.schedule.is_limited();
        let custody = Custody::open(&self.path)?.with_spool(self.spool.clone()).until(turns.stop.clone());
        let now = now_ms();
        let killed = custody.end_killed()?;
        if killed > 0 {
            tracing::info!(acts = killed, "acts that were killed have an end now: see `gms-recorder access`");
        }
        if is_automatic {
            let is_first = self.clock.last.is_none();
            self.clock.look(now, if is_first { custody.signed_before_this_run()? } else { None });
        }
        if is_automatic && Instant::now() >= self.next_purge {
            self.next_purge = Instant::now() + PURGE_INTERVAL;
            match self.reason_to_wait(&custody, now)? {
                None => self.purge(&custody)?,
                Some(why) => say_trouble(&self.path, why),
            }
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

    fn reason_to_wait(&self, custody: &Custody, now: i64) -> Result<Option<&'static str>, Error> {
        if self.clock.is_doubted() {
            return Ok(Some(CLOCK_AHEAD));
        }
        let since = custody.restored_at()?.map(|at| now.saturating_sub(at));
        let is_fresh = since.is_some_and(|since| (0..WAIT.as_millis() as i64).contains(&since));
        Ok(is_fresh.then_some(RESTORED))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_ahead_is_doubted_until_it_is_put_right() {
        const DAY: i64 = 86_400_000;
        let shows = |known: Option<i64>, times: &[i64]| {
            let mut clock = Clock::default();
            times.iter().for_each(|now| clock.look(*now, known));
            clock.is_doubted()
        };
        for (known, times, is_doubted) in [
            (None, &[400 * DAY][..], false),
            (Some(0), &[6 * DAY], false),
            (Some(0), &[8 * DAY], true),
            (Some(0), &[8 * DAY, 8 * DAY], true),
            (Some(0), &[400 * DAY, DAY], false),
            (Some(0), &[DAY, DAY + 60_000, 400 * DAY], true),
            (Some(400 * DAY), &[0, 60_000], false),
        ] {
            assert_eq!(shows(known, times), is_doubted, "{known:?} {times:?}");
        }
    }
}
