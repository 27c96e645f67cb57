//! How far along a proxy is with its end, as every connection of it is told.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// No WebSocket ends because the proxy is to stop. Its client is told so long before what still goes on is cut off.
const TOLD_BEFORE_CUT: Duration = Duration::from_secs(1);

/// What becomes of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Whoever comes is served.
    Serving,
    /// Another process takes new connections. Those that are here end with their next answer; one at rest is left until it
    /// asks, since its client could be asking just when it is closed.
    HandedOver {
        /// What is not over by then is cut off.
        until: Instant,
    },
    /// Nobody takes new connections. Those that are here end with the answer under way, those at rest at once.
    Stopping {
        /// What is not over by then is cut off.
        until: Instant,
    },
}

/// Knows the stage.
#[derive(Debug, Clone)]
pub struct Told(watch::Receiver<Stage>);

impl Told {
    /// By a proxy that has one stage after another.
    pub fn new(stages: watch::Receiver<Stage>) -> Self {
        Self(stages)
    }

    /// Where the proxy is gone, it stops.
    pub fn stage(&self) -> Stage {
        // It leaves `Serving` once, and then only goes on: a look without a lock is enough until it has.
        match self.0.has_changed() {
            Ok(false) => Stage::Serving,
            Ok(true) => *self.0.borrow(),
            Err(_) => Stage::Stopping { until: Instant::now() },
        }
    }

    /// Whether connections end with their next answer.
    pub fn is_leaving(&self) -> bool {
        self.stage() != Stage::Serving
    }

    /// Whether connections at rest end.
    pub fn is_stopping(&self) -> bool {
        matches!(self.stage(), Stage::Stopping { .. })
    }

    /// Whether it is time to cut off what still goes on.
    pub fn is_over(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() >= until)
    }

    fn until(&self) -> Option<Instant> {
        match self.stage() {
            Stage::Serving => None,
            Stage::HandedOver { until } | Stage::Stopping { until } => Some(until),
        }
    }

    /// Waits until connections end with their next answer.
    pub async fn leaving(&self) {
        self.reached(|stage| *stage != Stage::Serving).await;
    }

    /// Waits until connections at rest end.
    pub async fn stopping(&self) {
        self.reached(|stage| matches!(stage, Stage::Stopping { .. })).await;
    }

    /// Waits until it is time to tell a client that its connection will be cut off.
    pub async fn farewell(&self) {
        self.leaving().await;
        if !self.is_stopping() {
            tokio::select! {
                () = self.last_words() => return,
                () = self.stopping() => {} // sooner than it was to be
            }
        }
        self.last_words().await;
    }

    async fn last_words(&self) {
        let until = self.until().unwrap_or_else(Instant::now);
        sleep_until(until.checked_sub(TOLD_BEFORE_CUT).unwrap_or(until)).await;
    }

    /// A receiver of its own, so that this one goes on seeing that something has changed.
    async fn reached(&self, is_it: impl FnMut(&Stage) -> bool) {
        let _ = self.0.clone().wait_for(is_it).await; // whoever would tell is gone: that is an end, too
    }
}
