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
/// A masking with its rule and field.
const MASKING_BYTES: usize = 128;

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
    let maskings = entry.maskings().count() * MASKING_BYTES;
    ENTRY_BYTES + texts + findings + (entry.errors.len() + entry.files.len()) * EVENT_BYTES + maskings
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{ChatId, TranscriptEvent};
    use crate::gms::{Finding, FindingKind};
    use crate::store::ChatRecord;
    use crate::store::spool::tests::full;

    /// An entry of so many events, told apart by its time.
    fn entry(at: i64, events: u64, raw_bytes: usize) -> Queued {
        let finding = Finding {
            kind: FindingKind::TooLarge,
            chat_id: None,
            detail: String::new(),
            raw: vec![0; raw_bytes],
            raw_length: raw_bytes,
            events,
            maskings: Vec::new(),
        };
        Queued::new(Entry { at, findings: vec![finding], ..Entry::default() }, Vec::new(), None)
    }

    fn times(queued: &[Queued]) -> Vec<i64> {
        queued.iter().map(|queued| queued.entry.at).collect()
    }

    #[test]
    fn what_came_first_goes_first_in_batches_of_about_so_many_events() {
        let (queue, metrics) = (Queue::new(1 << 20), Metrics::default());
        assert!(queue.is_empty() && queue.take(10, &metrics).is_empty());
        // Those without events count as one, so that there is an end to a batch of them.
        for (at, events) in [(1, 4), (2, 6), (3, 1), (4, 50), (5, 0), (6, 0), (7, 0)] {
            queue.push(entry(at, events, 0), &metrics).expect("there is room");
        }
        assert_eq!((queue.len(), queue.is_empty()), (7, false));
        assert_eq!(metrics.queue_entries.get(), 7);
        let batches = [(10, vec![1, 2]), (10, vec![3]), (10, vec![4]), (1, vec![5, 6]), (1, vec![7]), (1, vec![])];
        for (events_max, wanted) in batches {
            assert_eq!(times(&queue.take(events_max, &metrics)), wanted);
        }
        assert_eq!((metrics.queue_entries.get(), metrics.queue_bytes.get()), (0, 0));
    }

    #[test]
    fn a_full_queue_hands_back_and_has_room_again_for_what_was_taken() {
        let bytes = (ENTRY_BYTES + EVENT_BYTES + 100) as i64;
        let (queue, metrics) = (Queue::new(2 * bytes as usize), Metrics::default());
        queue.push(entry(1, 1, 100), &metrics).expect("there is room");
        assert_eq!(metrics.queue_bytes.get(), bytes);
        assert_eq!(queue.push(entry(2, 1, 101), &metrics).expect_err("one byte too many").entry.at, 2);
        queue.push(entry(3, 1, 100), &metrics).expect("it fits exactly");
        assert!(queue.push(entry(4, 1, 0), &metrics).is_err());
        assert_eq!((metrics.queue_bytes.get(), metrics.queue_entries.get()), (2 * bytes, 2));
        assert_eq!(times(&queue.take(1, &metrics)), [1]);
        assert_eq!(metrics.queue_bytes.get(), bytes);
        queue.push(entry(5, 1, 100), &metrics).expect("there is room again");
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_what_comes_and_by_hand() {
        let (queue, metrics) = (Queue::new(1 << 20), Metrics::default());
        let soon = std::time::Duration::from_secs(10);
        assert!(tokio::time::timeout(soon / 500, queue.arrival()).await.is_err(), "nothing came");
        queue.push(entry(1, 1, 0), &metrics).expect("there is room");
        tokio::time::timeout(soon, queue.arrival()).await.expect("it came before one waited");
        queue.wake();
        tokio::time::timeout(soon, queue.arrival()).await.expect("it was woken");
    }

    #[test]
    fn events_and_findings_are_counted_and_weighed() {
        let raw = "x".repeat(100);
        let event = |index| TranscriptEvent::plain(index, &raw);
        let chat = ChatRecord {
            chat_id: ChatId::parse("C1").expect("an id"),
            service: None,
            events: vec![event(1), event(2)],
            covered: None,
            next_position: None,
            ended: None,
            is_async: false,
            attributes: Vec::new(),
            highest_index: None,
        };
        let mut queued = entry(1, 3, 10);
        queued.entry.chats.push(chat);
        queued.entry.errors = [full(1).errors, full(2).errors].concat();
        queued.entry.files = full(1).files;
        let maskings = queued.entry.maskings().count();
        assert!(maskings > 0);
        let queued = Queued::new(queued.entry, Vec::new(), None);
        assert_eq!(queued.events, 5);
        let rows = 2 * (200 + EVENT_BYTES) + 10 + EVENT_BYTES + 3 * EVENT_BYTES;
        assert_eq!(queued.bytes, ENTRY_BYTES + rows + maskings * MASKING_BYTES);
    }
}
