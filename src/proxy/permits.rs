//! Connections to one node, bounded for the whole process; and a bounded queue for them, first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::answer::Refusal;

/// The connections that one node may have.
#[derive(Debug)]
pub struct Permits {
    free: Arc<Semaphore>,
    max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    waiting_for_all: usize,
    wait_max: Duration,
    shown: Gauge,
    shortage: watch::Sender<()>,
}

/// Stands for one connection; dropped with it, it goes to whoever has waited longest.
#[derive(Debug)]
pub struct Permit(Arc<Semaphore>);

impl Permit {
    fn of(permit: OwnedSemaphorePermit) -> Self {
        let free = permit.semaphore().clone();
        permit.forget(); // it comes back by `drop` below; each connection is smaller for it
        Self(free)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Permits {
    /// At most `max` connections, and `waiting_max` requests that wait for one, each for `wait_max`; places from
    /// `waiting_for_all` on are for chats in progress. How many wait is `shown`; that one begins to is told by `shortage`.
    pub fn new(
        max: usize,
        waiting_max: usize,
        waiting_for_all: usize,
        wait_max: Duration,
        shown: Gauge,
        shortage: watch::Sender<()>,
    ) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(max));
        Self { free, max, waiting: AtomicUsize::new(0), waiting_max, waiting_for_all, wait_max, shown, shortage }
    }

    /// Waits for a place. Whoever stops waiting gives theirs on.
    ///
    /// # Errors
    /// [`Refusal::NodesFull`] where too many wait already, or it took too long.
    pub async fn take(&self, goes_on: bool) -> Result<Permit, Refusal> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Ok(Permit::of(permit));
        }
        let _waiting = Waiting::enter(self, goes_on).ok_or(Refusal::NodesFull)?;
        self.shortage.send_replace(());
        match timeout(self.wait_max, self.free.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Permit::of(permit)),
            Ok(Err(_)) | Err(_) => Err(Refusal::NodesFull),
        }
    }

    /// Connections there are.
    pub fn given(&self) -> usize {
        self.max - self.free.available_permits()
    }

    /// Requests that wait for one.
    pub fn awaited(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a Permits);

impl<'a> Waiting<'a> {
    fn enter(permits: &'a Permits, goes_on: bool) -> Option<Self> {
        let waiting_max = if goes_on { permits.waiting_max } else { permits.waiting_max.min(permits.waiting_for_all) };
        let more = |waiting: usize| (waiting < waiting_max).then_some(waiting + 1);
        permits.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        permits.shown.inc();
        Some(Self(permits))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.shown.dec();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn permits(max: usize, waiting_max: usize) -> Permits {
        Permits::new(
            max,
            waiting_max,
            waiting_max.div_ceil(2),
            Duration::from_millis(500),
            Gauge::default(),
            watch::Sender::new(()),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_first_is_served_first_and_who_leaves_gives_their_place_on() {
        let permits = permits(1, 3);
        let first = permits.take(true).await.expect("one is free");
        let (mut second, mut third, mut fourth) =
            (Box::pin(permits.take(true)), Box::pin(permits.take(true)), Box::pin(permits.take(true)));
        assert!([&mut second, &mut third, &mut fourth].into_iter().all(|waiting| waiting.now_or_never().is_none()));
        assert_eq!((permits.given(), permits.awaited()), (1, 3));
        assert_eq!(permits.take(true).await.expect_err("three wait"), Refusal::NodesFull);
        drop(first);
        drop(second); // it was given the place by now, and leaves before it knows
        let third = third.now_or_never().expect("it is its turn").expect("a place");
        assert!((&mut fourth).now_or_never().is_none());
        drop(third);
        assert!(fourth.await.is_ok());
        assert_eq!((permits.given(), permits.awaited()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_places_are_for_chats_in_progress() {
        let permits = permits(1, 2);
        let _first = permits.take(false).await.expect("one is free");
        let (mut second, mut third, mut fourth) =
            (Box::pin(permits.take(false)), Box::pin(permits.take(false)), Box::pin(permits.take(true)));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!((&mut third).now_or_never().map(|taken| taken.is_ok()), Some(false), "it is refused");
        assert!((&mut fourth).now_or_never().is_none(), "it waits");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long_and_a_shortage_is_told() {
        let permits = permits(1, 1);
        let mut shortage = permits.shortage.subscribe();
        let _first = permits.take(true).await.expect("one is free");
        assert!(!shortage.has_changed().expect("it is there"));
        assert_eq!(permits.take(true).await.expect_err("it took too long"), Refusal::NodesFull);
        assert!(shortage.changed().await.is_ok());
        assert_eq!(permits.awaited(), 0);
    }
}
