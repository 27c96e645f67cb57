//! Signs of life: each thread says that it still gets round, and whoever watches over the process hears of those that
//! do not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A thread that has ended as it should.
const ENDED: u64 = u64::MAX;

/// All threads of which signs of life are expected.
#[derive(Debug)]
pub struct Pulses {
    began: Instant,
    all: Mutex<Vec<Pulse>>,
}

/// One thread's.
#[derive(Debug, Clone)]
pub struct Pulse {
    name: Arc<str>,
    began: Instant,
    /// Milliseconds after `began`.
    last: Arc<AtomicU64>,
}

impl Default for Pulses {
    fn default() -> Self {
        Self { began: Instant::now(), all: Mutex::default() }
    }
}

impl Pulses {
    /// From now on a thread is expected to [`Pulse::beat`].
    pub fn begin(&self, name: &str) -> Pulse {
        let pulse = Pulse { name: name.into(), began: self.began, last: Arc::default() };
        pulse.beat();
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        pulse
    }

    /// The threads that gave no sign of life for longer than this; a thread that panicked gives none.
    pub fn silent(&self, longer_than: Duration) -> Vec<Arc<str>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = all.iter().filter(|pulse| pulse.silent_for() > longer_than);
        silent.map(|pulse| pulse.name.clone()).collect()
    }
}

impl Pulse {
    /// A sign of life.
    pub fn beat(&self) {
        self.last.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The thread ends as it should: nothing more is expected of it.
    pub fn end(&self) {
        self.last.store(ENDED, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let now = self.began.elapsed().as_millis() as u64;
        Duration::from_millis(now.saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_is_named_and_who_has_ended_is_not_missed() {
        let pulses = Pulses { began: Instant::now() - Duration::from_secs(60), all: Mutex::default() };
        let (_beating, silent, ended) = (pulses.begin("beating"), pulses.begin("silent"), pulses.begin("ended"));
        silent.last.store(0, Ordering::Relaxed);
        ended.last.store(0, Ordering::Relaxed);
        ended.end();
        drop(silent); // as in a panic
        assert_eq!(pulses.silent(Duration::from_secs(30)), ["silent".into()]);
        assert_eq!(pulses.silent(Duration::from_secs(3600)), []);
    }
}
