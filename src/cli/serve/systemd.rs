//! What a service manager is told (sd_notify(3)); without one nothing is. And that it hears from us only while every
//! thread gets round.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::telemetry::metrics::Metrics;

/// A thread gives a sign of life every second; one that is late by less than this may have been kept from its core.
const LATE_MAX: Duration = Duration::from_secs(3);

/// Clients are served; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read anew. [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of a reload"),
    }
}

/// Another process is the one to watch and to signal from now on.
pub fn main_is(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// No new clients are served.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how it goes");
    }
}

/// Says again and again that all is well, for as long as every thread gives signs of life; after that the service manager
/// ends us (WatchdogSec=). Returns where it does not watch.
pub async fn watch(metrics: Arc<Metrics>) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut turns = tokio::time::interval(patience / 4);
    let mut was_silent = false;
    loop {
        turns.tick().await;
        let silent = metrics.pulses.silent(LATE_MAX.max(patience / 2)).join(", ");
        match silent.is_empty() {
            true => tell(&[NotifyState::Watchdog]),
            false if !was_silent => {
                tracing::error!(silent, ?patience, "a thread hangs; the service manager is not told that all is well")
            }
            false => {}
        }
        was_silent = !silent.is_empty();
    }
}
