//! What waits for the writer: bounded in bytes, first in, first out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::memory::{AnswerKey, EventKey};
use super::pledge::Pledge;
use crate::store::Entry;
use crate::telemetry::metrics::Metrics;

/// An entry on its way, with what is to happen once it is committed.
#[derive(Debug)]
pub struct Queued {
    /// What to write.
    pub entry: Entry,
    /// Its events' keys, for the memory of what is committed.
    pub keys: Vec<EventKey>,
    /// By what the whole answer is recognised, now and from then on.
    pub answer: Option<AnswerKey>,
    /// Kept after the commit. Broken when recording is found to be down.
    pub pledge: Option<Pledge>,
    /// Events in it, findings' included, as the account counts them.
    pub events: u64,
    bytes: usize,
}

/// Beyond the texts: rows, keys, pointers. An estimate on the high side.
const ENTRY_BYTES: usize = 512;
const EVENT_BYTES: usize = 512;

impl Queued {
    /// Wraps an entry and weighs it.
    pub fn new(entry: Entry, keys: Vec<EventKey>, pledge: Option<Pledge>) -> Self {
        let (events, bytes) = (entry.events(), weigh(&entry));
        Self { entry, keys, answer: None, pledge, events, bytes }
    }
}

fn weigh(entry: &Entry) -> usize {
    let events = entry.chats.iter().flat_map(|chat| &chat.events);
    let texts: usize = events.map(|event| 2 * event.raw.len() + EVENT_BYTES).sum();
    let findings: usize = entry.findings.iter().map(|finding| finding.raw.len() + EVENT_BYTES).sum();
    ENTRY_BYTES + texts + findings + entry.errors.len() * EVENT_BYTES
}

/// The queue between the exchanges and the writer.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Queued>,
    bytes: usize,
}

impl Queue {
    /// Holds at most `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), bytes_max }
    }

    /// Puts an entry at the end, or hands it back where there is no room.
    ///
    /// # Errors
    /// The entry itself.
    #[allow(clippy::result_large_err, reason = "it is handed back, and that is rare")]
    pub fn push(&self, queued: Queued, metrics: &Metrics) -> Result<(), Queued> {
        let mut waiting = self.lock();
        if waiting.bytes + queued.bytes > self.bytes_max {
            return Err(queued);
        }
        waiting.bytes += queued.bytes;
        waiting.entries.push_back(queued);
        Self::show(&waiting, metrics);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes what is there, up to about `events_max` events, without waiting.
    pub fn take(&self, events_max: usize, metrics: &Metrics) -> Vec<Queued> {
        let mut waiting = self.lock();
        let (mut events, mut count) = (0, 0);
        for queued in &waiting.entries {
            if count > 0 && events + queued.events > events_max as u64 {
                break;
            }
            events += queued.events.max(1);
            count += 1;
        }
        let taken: Vec<Queued> = waiting.entries.drain(..count).collect();
        waiting.bytes -= taken.iter().map(|queued| queued.bytes).sum::<usize>();
        Self::show(&waiting, metrics);
        taken
    }

    /// Waits until something was pushed, or [`Queue::wake`] was called.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Wakes the writer.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn show(waiting: &Waiting, metrics: &Metrics) {
        metrics.queue_entries.set(waiting.entries.len() as i64);
        metrics.queue_bytes.set(waiting.bytes as i64);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
