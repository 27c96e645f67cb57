//! When recording is not what it should be: since when, why, and what that touches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::chat::ChatId;
use crate::store::Outage;

/// Chats named in one outage's row.
const CHATS_NAMED: usize = 1_000;
/// Outages that wait to be written; more only where recording comes and goes for long without one commit.
const FINISHED_MAX: usize = 100;

/// The state of recording, as everyone may ask.
#[derive(Debug, Default)]
pub struct Outages {
    down: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    current: Option<Outage>,
    /// What is wrong now; the row keeps what it began with, and the rest as its detail.
    latest: (String, String),
    finished: Vec<Outage>,
}

/// How long the story of an outage may get.
const DETAIL_BYTES_MAX: usize = 2_000;

/// What an outage did to one answer.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    /// The client had it before it was on disk.
    DeliveredEarly,
    /// The client was given an error in its place.
    Refused,
    /// The client had it, and it will never be written.
    Dropped,
}

impl Outages {
    /// Whether recording is known to be down.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// The present outage in words: since when (milliseconds since the epoch), reason, detail.
    pub fn current(&self) -> Option<(i64, String, String)> {
        let log = self.lock();
        let (reason, detail) = log.latest.clone();
        log.current.as_ref().map(|outage| (outage.started_at, reason, detail))
    }

    /// Recording is down. True where that is news, or its reason is.
    pub fn begin(&self, now: i64, reason: &str, detail: &str) -> bool {
        let was_down = self.down.swap(true, Ordering::AcqRel);
        let mut log = self.lock();
        if was_down && log.latest.0 == reason {
            return false;
        }
        log.latest = (reason.into(), detail.into());
        let outage = log.current.get_or_insert_with(|| Outage::begun(now, reason, ""));
        if !was_down {
            outage.reason = reason.into(); // what began as a slow commit or a full queue now has a better name
        }
        if outage.detail.len() < DETAIL_BYTES_MAX {
            let separator = if outage.detail.is_empty() { "" } else { "; then " };
            outage.detail = format!("{}{separator}{detail}", outage.detail);
        }
        true
    }

    /// An answer was touched, by the present outage or by one that begins with it.
    pub fn touch<'a>(
        &self,
        now: i64,
        reason: &str,
        effect: Effect,
        events: u64,
        chats: impl Iterator<Item = &'a ChatId>,
    ) {
        let mut log = self.lock();
        let outage = log.current.get_or_insert_with(|| Outage::begun(now, reason, ""));
        outage.answers += 1;
        outage.events += events;
        match effect {
            Effect::DeliveredEarly => outage.delivered_early += events,
            Effect::Refused => outage.refused += events,
            Effect::Dropped => outage.dropped += events,
        }
        for chat_id in chats {
            if outage.chat_ids.len() < CHATS_NAMED && !outage.chat_ids.contains(chat_id) {
                outage.chat_ids.push(chat_id.clone());
            }
        }
    }

    /// Rows are taken again. The outage that is over, if there was one.
    pub fn end(&self, now: i64) -> Option<Outage> {
        self.down.store(false, Ordering::Release);
        let mut log = self.lock();
        let mut outage = log.current.take()?;
        outage.ended_at = now;
        if log.finished.len() < FINISHED_MAX {
            log.finished.push(outage.clone());
        }
        Some(outage)
    }

    /// Outages that are over and not yet written.
    pub fn take_finished(&self) -> Vec<Outage> {
        std::mem::take(&mut self.lock().finished)
    }

    /// Whether an outage waits to be written.
    pub fn has_finished(&self) -> bool {
        !self.lock().finished.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    fn begun(now: i64, reason: &str, detail: &str) -> Self {
        Self {
            started_at: now,
            ended_at: now,
            reason: reason.into(),
            detail: detail.into(),
            events: 0,
            answers: 0,
            delivered_early: 0,
            refused: 0,
            dropped: 0,
            chat_ids: Vec::new(),
        }
    }
}
