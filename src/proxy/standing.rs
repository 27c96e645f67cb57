//! How one node fares, by what it did: connections that it refused, server errors, health checks. It is told the time, in
//! milliseconds on the nodes' clock, and knows nothing of other nodes.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::nodes::Config;

/// The whole of what a node gets of new chats, and what it gets of that when it comes back, in thousandths; the rest
/// follows during the slow start.
pub const SHARE_WHOLE: u64 = 1_000;
const SHARE_MIN: u64 = 100;
/// An answer that did not come whole counts as so many server errors: its head may have counted as a good answer.
pub const SILENCE_WEIGHT: u32 = 2;
/// A time is doubled so often at most: longer than any configured bound by then.
const DOUBLINGS_MAX: u32 = 20;

/// How a node fares, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It gets its share.
    Well,
    /// It came back and gets more and more.
    Returning,
    /// Its health check fails.
    Failing,
    /// It takes no connections.
    Refusing,
    /// It gave too many server errors, or no answers.
    Erring,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Well => "well",
            Self::Returning => "returning",
            Self::Failing => "failing",
            Self::Refusing => "refusing",
            Self::Erring => "erring",
        })
    }
}

/// When a node is passed over, and for how long (milliseconds).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    retry_after: i64,
    passed_over_max: i64,
    slow_start: i64,
    refusals_max: u32,
    server_errors_max: u32,
    health_failures: usize,
    health_passes: usize,
}

impl Limits {
    /// As configured.
    pub fn new(proxy: &super::Config, config: &Config) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            retry_after: ms(proxy.node_retry_after),
            passed_over_max: ms(config.passed_over_max),
            slow_start: ms(config.slow_start),
            refusals_max: count(config.refusals_max),
            server_errors_max: count(config.server_errors_max),
            health_failures: config.health_failures,
            health_passes: config.health_passes,
        }
    }
}

/// What is known of a node.
#[derive(Debug)]
pub struct Standing {
    limits: Limits,
    /// An operator wants it to be given nothing new.
    is_drained: AtomicBool,
    /// Its health check passes, or there is none.
    is_passing: AtomicBool,
    /// It is passed over until it takes a connection.
    is_refusing: AtomicBool,
    /// Passed over until then; and from then on it gets more and more, for as long as the slow start lasts.
    back_at: AtomicI64,
    /// Connections in a row that failed.
    refusals: AtomicU32,
    /// How many server errors there were more than other answers.
    server_errors: AtomicU32,
    /// How often in a row it was passed over.
    times: AtomicU32,
    health: Mutex<Health>,
}

/// The last checks, and what went wrong last.
#[derive(Debug, Default)]
struct Health {
    /// Outcomes in a row that speak against what is believed.
    against: usize,
    /// Why its last failed check failed.
    unwell: String,
    /// Why its last failed connection failed.
    refusal: String,
    last: Option<LastFailure>,
}

/// What a node did last that it should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// When, on the nodes' clock.
    pub at: i64,
    /// What, in words that hold nothing of an exchange.
    pub what: String,
}

impl Standing {
    /// Of a node that is taken to be well, with its whole share.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            is_drained: AtomicBool::new(false),
            is_passing: AtomicBool::new(true),
            is_refusing: AtomicBool::new(false),
            back_at: AtomicI64::new(-limits.slow_start),
            refusals: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            times: AtomicU32::new(0),
            health: Mutex::default(),
        }
    }

    /// In a word.
    pub fn state(&self, now: i64) -> State {
        match () {
            () if !self.is_passing.load(Ordering::Relaxed) => State::Failing,
            () if self.has_refused() => State::Refusing,
            () if !self.is_well(now) => State::Erring,
            () if self.share(now) < SHARE_WHOLE => State::Returning,
            () => State::Well,
        }
    }

    /// Nothing is said against it.
    pub fn is_well(&self, now: i64) -> bool {
        self.is_passing.load(Ordering::Relaxed) && !self.is_refusing() && self.is_back(now)
    }

    /// It is passed over for what it answered.
    pub fn is_erring(&self, now: i64) -> bool {
        !self.is_refusing() && !self.is_back(now)
    }

    /// It took no connection, and is to be tried again by now.
    pub fn is_to_be_tried(&self, now: i64) -> bool {
        self.has_refused() && self.is_back(now)
    }

    /// Nothing new is to be given to it.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// What it gets of new chats, in thousandths of what it would.
    pub fn share(&self, now: i64) -> u64 {
        let (since, whole) = (now - self.back_at.load(Ordering::Relaxed), self.limits.slow_start);
        if since >= whole {
            return SHARE_WHOLE;
        }
        SHARE_MIN + (SHARE_WHOLE - SHARE_MIN) * since.max(0) as u64 / whole.max(1) as u64
    }

    fn is_back(&self, now: i64) -> bool {
        now >= self.back_at.load(Ordering::Relaxed)
    }

    fn is_refusing(&self) -> bool {
        self.is_refusing.load(Ordering::Relaxed)
    }

    /// Refusing, or the last one left, which is not passed over for it.
    fn has_refused(&self) -> bool {
        self.is_refusing() || self.refusals.load(Ordering::Relaxed) >= self.limits.refusals_max
    }

    /// An operator drains it, or restores it. Whether that is news.
    pub fn set_drained(&self, drained: bool, now: i64) -> bool {
        let is_news = self.is_drained.swap(drained, Ordering::Relaxed) != drained;
        if is_news && !drained && self.is_well(now) {
            self.back_at.store(now, Ordering::Relaxed);
        }
        is_news
    }

    /// A connection failed. Where enough did in a row to pass the node over: whether that is news, or why it is.
    pub fn refused(&self, why: &str, now: i64) -> Option<bool> {
        let refusals = self.refusals.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut health = self.health();
        let is_other = health.refusal != why;
        why.clone_into(&mut health.refusal);
        health.fail(why, now);
        (refusals >= self.limits.refusals_max).then_some(refusals == self.limits.refusals_max || is_other)
    }

    /// An exchange with it failed.
    pub fn failed(&self, why: &str, now: i64) {
        self.health().fail(why, now);
    }

    /// Passes it over until it takes a connection. For how long it is not even tried; none where that goes on already, or
    /// it is the last that is well.
    pub fn pass_over_refusing(&self, now: i64, is_last: bool) -> Option<Duration> {
        if !self.is_back(now) || (is_last && !self.is_refusing()) {
            return None;
        }
        let was_refusing = self.is_refusing.swap(true, Ordering::Relaxed);
        Some(self.pass_over(now, !was_refusing))
    }

    /// Its name leads elsewhere: it is tried at once, since what refused there says nothing of here.
    pub fn moved(&self, now: i64) {
        if self.is_refusing() {
            self.back_at.store(now, Ordering::Relaxed);
        }
    }

    /// A connection was made. How many failed before, where that is news.
    pub fn connected(&self, now: impl FnOnce() -> i64) -> Option<u32> {
        if self.refusals.load(Ordering::Relaxed) == 0 && !self.is_refusing() {
            return None; // as nearly always
        }
        let refusals = self.refusals.swap(0, Ordering::Relaxed);
        let was_refusing = self.is_refusing.swap(false, Ordering::Relaxed);
        if was_refusing {
            self.back_at.store(now(), Ordering::Relaxed);
        }
        (was_refusing || refusals >= self.limits.refusals_max).then_some(refusals)
    }

    /// An answer that is no server error.
    pub fn answered(&self) {
        if self.server_errors.load(Ordering::Relaxed) > 0 {
            let less = |errors: u32| errors.checked_sub(1);
            let _ = self.server_errors.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less); // none is left
        }
    }

    /// A server error, or what counts as `weight` of them. Whether they are a burst.
    pub fn erred(&self, weight: u32) -> bool {
        let max = self.limits.server_errors_max;
        let errors = self.server_errors.fetch_add(weight, Ordering::Relaxed).saturating_add(weight);
        let is_burst = max > 0 && errors >= max;
        if is_burst {
            self.server_errors.store(0, Ordering::Relaxed);
        }
        is_burst
    }

    /// Passes it over for what it answered, and for how long.
    pub fn pass_over_erring(&self, now: i64) -> Duration {
        self.pass_over(now, true)
    }

    /// For longer each time, until it was well for as long as the longest such time.
    fn pass_over(&self, now: i64, was_well: bool) -> Duration {
        let Limits { retry_after, passed_over_max, .. } = self.limits;
        let well_for = if was_well { now - self.back_at.load(Ordering::Relaxed) } else { 0 };
        let times = if well_for > passed_over_max { 0 } else { self.times.load(Ordering::Relaxed) };
        self.times.store(times.saturating_add(1), Ordering::Relaxed);
        let wait = retry_after.saturating_mul(1 << times.min(DOUBLINGS_MAX)).min(passed_over_max.max(retry_after));
        self.back_at.store(now + wait, Ordering::Relaxed);
        Duration::from_millis(wait as u64)
    }

    /// A health check passed, or failed for a reason. As many in a row as configured change what is believed: then
    /// whether it passes is returned.
    pub fn checked(&self, outcome: Result<(), String>, now: i64) -> Option<bool> {
        let passes = outcome.is_ok();
        let enough = if passes { self.limits.health_passes } else { self.limits.health_failures };
        let mut health = self.health();
        if let Err(why) = outcome {
            health.fail(&why, now);
            health.unwell = why;
        }
        let is_against = passes != self.is_passing.load(Ordering::Relaxed);
        health.against = if is_against { health.against + 1 } else { 0 };
        if health.against < enough {
            return None;
        }
        health.against = 0;
        if passes {
            self.back_at.store(now, Ordering::Relaxed);
        }
        self.is_passing.store(passes, Ordering::Relaxed);
        Some(passes)
    }

    /// Why its last failed check failed.
    pub fn unwell(&self) -> String {
        self.health().unwell.clone()
    }

    /// Why its last failed connection failed.
    pub fn refusal(&self) -> String {
        self.health().refusal.clone()
    }

    /// What it did last that it should not have.
    pub fn last_failure(&self) -> Option<LastFailure> {
        self.health().last.clone()
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn fail(&mut self, what: &str, at: i64) {
        self.last = Some(LastFailure { at, what: what.into() });
    }
}
