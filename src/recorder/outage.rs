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
    /// When the one began that is being written ([`Outages::take`]): it goes on until it is.
    taken: Option<i64>,
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
        let since = log.taken.or(log.current.as_ref().map(|outage| outage.started_at));
        since.map(|since| (since, reason, detail))
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
        let mut log = self.lock();
        let mut outage = log.current.take()?;
        log.taken = Some(outage.started_at);
        outage.ended_at = now;
        Some(outage)
    }

    /// That batch was not committed.
    pub fn put_back(&self, outage: Outage) {
        let mut log = self.lock();
        log.taken = None;
        let later = log.current.take();
        log.current = Some(match later {
            None => outage,
            Some(later) => outage.joined(later),
        });
    }

    /// That batch was committed.
    pub fn end_written(&self) {
        self.lock().taken = None;
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One that is over.
    pub(in crate::recorder) fn row() -> Outage {
        Outage::begun(1, "busy", "it was locked")
    }

    fn chats(names: std::ops::Range<usize>) -> Vec<ChatId> {
        names.map(|n| ChatId::parse(&format!("C{n}")).expect("an id")).collect()
    }

    fn touch(outages: &Outages, effect: Effect, events: u64, names: std::ops::Range<usize>) {
        outages.touch(7, "slow", effect, events, chats(names).iter());
    }

    #[test]
    fn what_is_down_says_since_when_and_why_and_says_it_once() {
        let outages = Outages::default();
        assert!(!outages.is_down() && outages.current().is_none() && !outages.has_finished());
        assert!(outages.begin(1, "busy", "it is locked"));
        assert!(outages.is_down());
        assert!(!outages.begin(2, "busy", "it is locked still"), "no news");
        assert_eq!(outages.current(), Some((1, "busy".into(), "it is locked".into())));
        assert!(outages.begin(3, "disk_full", "no room"), "another reason is news");
        assert_eq!(outages.current(), Some((1, "disk_full".into(), "no room".into())), "it is the same outage");
        let row = outages.end(9).expect("it was down");
        assert_eq!((row.started_at, row.ended_at, &*row.reason), (1, 9, "busy"), "the row keeps what it began with");
        assert_eq!(row.detail, "it is locked; then no room");
        assert!(!outages.is_down() && outages.current().is_none() && outages.end(10).is_none());
        assert!(outages.begin(11, "disk_full", "no room"), "after an end everything is news");
    }

    #[test]
    fn what_began_as_slow_gets_a_better_name() {
        let outages = Outages::default();
        touch(&outages, Effect::DeliveredEarly, 2, 0..1);
        assert!(!outages.is_down(), "late is not down");
        assert!(outages.begin(8, "io", "a disk"));
        let row = outages.end(9).expect("there was one");
        assert_eq!((row.started_at, &*row.reason, &*row.detail), (7, "io", "a disk"));
    }

    #[test]
    fn each_effect_is_counted_by_itself() {
        let outages = Outages::default();
        touch(&outages, Effect::DeliveredEarly, 2, 0..2);
        touch(&outages, Effect::DeliveredEarly, 1, 1..3);
        touch(&outages, Effect::Refused, 10, 0..0);
        touch(&outages, Effect::Refused, 20, 0..0);
        touch(&outages, Effect::Dropped, 100, 0..0);
        touch(&outages, Effect::Dropped, 200, 0..0);
        let row = outages.end(9).expect("there was one");
        assert_eq!((row.answers, row.events), (6, 333));
        assert_eq!((row.delivered_early, row.refused, row.dropped), (3, 30, 300));
        assert_eq!(row.chat_ids, chats(0..3), "each once");
    }

    #[test]
    fn chats_words_and_rows_are_bounded() {
        let outages = Outages::default();
        touch(&outages, Effect::Dropped, 1, 0..CHATS_NAMED - 1);
        touch(&outages, Effect::Dropped, 1, CHATS_NAMED..CHATS_NAMED + 5);
        let detail = "x".repeat(DETAIL_BYTES_MAX / 4);
        for n in 0..10 {
            outages.begin(8, &format!("reason {n}"), &detail);
        }
        let row = outages.end(9).expect("there was one");
        assert_eq!(row.chat_ids.len(), CHATS_NAMED);
        assert_eq!(row.chat_ids.last().map(ChatId::as_str), Some(&*format!("C{CHATS_NAMED}")));
        assert_eq!(row.detail.matches("; then ").count(), 3, "it grows while it is short");
        let told = Outages::default();
        told.begin(8, "io", &"x".repeat(DETAIL_BYTES_MAX));
        told.tell("more");
        assert_eq!(told.end(9).map(|row| row.detail.len()), Some(DETAIL_BYTES_MAX));
        assert!(outages.has_finished());
        for _ in 1..FINISHED_MAX + 5 {
            touch(&outages, Effect::Dropped, 1, 0..0);
            assert!(outages.end(9).is_some());
        }
        assert_eq!(outages.take_finished().len(), FINISHED_MAX);
        assert!(!outages.has_finished() && outages.take_finished().is_empty());
    }

    #[test]
    fn a_row_that_was_not_written_goes_on_with_what_came_meanwhile() {
        let outages = Outages::default();
        assert!(outages.take(1).is_none());
        outages.begin(1, "busy", "locked");
        touch(&outages, Effect::DeliveredEarly, 1, 0..2);
        touch(&outages, Effect::Refused, 2, 0..0);
        touch(&outages, Effect::Dropped, 4, 0..0);
        touch(&outages, Effect::Spooled, 8, 0..0);
        let row = outages.take(5).expect("there is one");
        let told = Some((1, "busy".into(), "locked".into()));
        assert_eq!((row.ended_at, outages.current(), outages.is_down()), (5, told, true), "until it is written");
        touch(&outages, Effect::DeliveredEarly, 100, 1..4);
        touch(&outages, Effect::Refused, 200, 0..0);
        touch(&outages, Effect::Dropped, 400, 0..0);
        touch(&outages, Effect::Spooled, 800, 0..0);
        outages.put_back(row);
        outages.name(chats(8..9).iter());
        outages.tell("still locked");
        let row = outages.take(6).expect("it was put back");
        assert_eq!((row.started_at, row.answers, row.events), (1, 8, 1_515));
        assert_eq!((row.delivered_early, row.refused, row.dropped, row.spooled), (101, 202, 404, 808));
        assert_eq!(row.detail, "locked; then still locked");
        assert_eq!(row.chat_ids, [chats(0..4), chats(8..9)].concat());
        outages.end_written();
        assert!(!outages.is_down() && !outages.has_finished());
        let row = Outage { ended_at: 9, ..row };
        outages.put_back(row.clone());
        assert_eq!(outages.end(10).map(|end| (end.started_at, end.ended_at, end.events)), Some((1, 10, 1_515)));
    }

    #[test]
    fn an_outage_goes_on_over_a_restart_and_nobody_waits_for_a_spool_that_takes() {
        let outages = Outages::default();
        outages.resume(Began { at: 3, reason: "io".into(), detail: "a disk".into() }, 2, 7);
        assert!(outages.is_down() && outages.is_waiting_vain() && !outages.spool_takes());
        assert!(outages.set_spool_takes(true) && !outages.set_spool_takes(true), "news once");
        assert!(outages.spool_takes() && !outages.is_waiting_vain());
        assert!(outages.set_spool_takes(false) && outages.is_waiting_vain());
        let row = outages.end(9).expect("it goes on");
        assert_eq!((row.started_at, row.answers, row.events, row.spooled), (3, 2, 7, 7));
        assert!(!outages.is_waiting_vain());
    }
}
