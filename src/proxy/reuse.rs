//! How long one node keeps connections, as learnt from requests that were lost. A request that is sent just as its node closes
//! the connection is answered 502, and must not be sent again unless it is safe (R2); so a node that was seen closing
//! connections after some time is sent others on those only that were unused for less. Knows no sockets.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// What was learnt holds for so long after the last loss: a node that merely restarted loses requests once.
const LEARNT_FOR_MS: i64 = 60_000;

/// What is known of one node.
#[derive(Debug)]
pub struct Reuse {
    unused_max_us: AtomicU64,
    lost_at_ms: AtomicI64,
}

impl Reuse {
    /// Nothing was lost yet.
    pub fn new() -> Self {
        Self { unused_max_us: AtomicU64::new(u64::MAX), lost_at_ms: AtomicI64::new(0) }
    }

    /// Whether a request that must not be lost may go out on a connection that was unused for so long.
    pub fn admits(&self, unused: Duration) -> bool {
        unused.as_micros() as u64 <= self.unused_max_us.load(Ordering::Relaxed)
    }

    /// A request was lost on one.
    pub fn lost(&self, unused: Duration, now_ms: i64) {
        self.unused_max_us.fetch_min(unused.as_micros() as u64 / 2, Ordering::Relaxed);
        self.lost_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Forgets what was learnt, once it is old.
    pub fn forget(&self, now_ms: i64) {
        if now_ms - self.lost_at_ms.load(Ordering::Relaxed) > LEARNT_FOR_MS {
            self.unused_max_us.store(u64::MAX, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_bounds_what_follows_for_a_while() {
        let reuse = Reuse::new();
        let ms = Duration::from_millis;
        assert!(reuse.admits(ms(60_000)));
        reuse.lost(ms(10), 1_000);
        assert!(reuse.admits(ms(5)) && !reuse.admits(ms(6)));
        reuse.lost(ms(20), 2_000); // it knows better
        assert!(reuse.admits(ms(5)) && !reuse.admits(ms(6)));
        reuse.lost(ms(4), 3_000);
        assert!(!reuse.admits(ms(3)));
        reuse.forget(63_000);
        assert!(!reuse.admits(ms(3)));
        reuse.forget(63_001);
        assert!(reuse.admits(ms(60_000)));
    }
}
