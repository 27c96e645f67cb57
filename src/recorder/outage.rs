//! When recording is not what it should be: since when, why, and what that touches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::chat::ChatId;
use crate::store::Outage;
use crate::store::spool::Began;

/// Chats named in one outage's row.
const CHATS_NAMED: usize = 1_000;
/// Outages that wait to be written; more only where recording comes and goes for long without one commit.
const FINISHED_MAX: usize = 100;

/// The state of recording, as everyone may ask.
#[derive(Debug, Default)]
pub struct Outages {
    down: AtomicBool,
    /// Tickets are honoured all the same, out of the spool.
    spool_takes: AtomicBool,
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
    /// It was kept in the spool before the client had it.
    Spooled,
}

impl Outages {
    /// Whether recording is known to be down.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// Whether recording is down and nothing else keeps what is seen: nobody need wait then.
    pub fn is_waiting_vain(&self) -> bool {
        self.is_down() && !self.spool_takes.load(Ordering::Acquire)
    }

    /// Whether the spool takes what the archive does not. True where that is news.
    pub fn set_spool_takes(&self, takes: bool) -> bool {
        self.spool_takes.swap(takes, Ordering::AcqRel) != takes
    }

    /// Whether the spool takes what the archive does not.
    pub fn spool_takes(&self) -> bool {
        self.spool_takes.load(Ordering::Acquire)
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
        outage.add_detail(detail);
        true
    }

    /// Adds to the story of the present outage.
    pub fn tell(&self, detail: &str) {
        if let Some(outage) = &mut self.lock().current {
            outage.add_detail(detail);
        }
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
            Effect::Spooled => outage.spooled += events,
        }
        outage.name(chats);
    }

    /// Recording was down in an earlier run, and what it brought is in the spool: `answers` with `events`.
    pub fn resume(&self, began: Began, answers: u64, events: u64) {
        self.begin(began.at, &began.reason, &began.detail);
        if let Some(outage) = &mut self.lock().current {
            (outage.answers, outage.events, outage.spooled) = (answers, events, events);
        }
    }

    /// Chats that the present outage touched.
    pub fn name<'a>(&self, chats: impl Iterator<Item = &'a ChatId>) {
        if let Some(outage) = &mut self.lock().current {
            outage.name(chats);
        }
    }

    /// The present outage as it will be when a batch is committed, taken out: its row goes with that batch.
    pub fn take(&self, now: i64) -> Option<Outage> {
        let mut outage = self.lock().current.take()?;
        outage.ended_at = now;
        Some(outage)
    }

    /// That batch was not committed.
    pub fn put_back(&self, outage: Outage) {
        let mut log = self.lock();
        let later = log.current.take();
        log.current = Some(match later {
            None => outage,
            Some(later) => outage.joined(later),
        });
    }

    /// That batch was committed.
    pub fn end_written(&self) {
        self.down.store(false, Ordering::Release);
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
    fn add_detail(&mut self, detail: &str) {
        if self.detail.len() < DETAIL_BYTES_MAX {
            let separator = if self.detail.is_empty() { "" } else { "; then " };
            self.detail = format!("{}{separator}{detail}", self.detail);
        }
    }

    fn name<'a>(&mut self, chats: impl Iterator<Item = &'a ChatId>) {
        for chat_id in chats {
            if self.chat_ids.len() < CHATS_NAMED && !self.chat_ids.contains(chat_id) {
                self.chat_ids.push(chat_id.clone());
            }
        }
    }

    fn joined(mut self, later: Self) -> Self {
        self.answers += later.answers;
        self.events += later.events;
        self.delivered_early += later.delivered_early;
        self.refused += later.refused;
        self.dropped += later.dropped;
        self.spooled += later.spooled;
        self.name(later.chat_ids.iter());
        self
    }

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
            spooled: 0,
            chat_ids: Vec::new(),
        }
    }
}
