//! What the writer does with the spool: keeps there what the archive does not take, and brings it into the archive, in
//! order, before anything newer.
//!
//! Kept events stay `in_flight` in the account until they are in the archive: also over a restart, where they are counted
//! in as seen anew.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Batch, RETRY_FIRST, RETRY_MAX, Writer, append};
use crate::chat::ChatId;
use crate::gms::{Finding, FindingKind};
use crate::recorder::outage::Effect;
use crate::recorder::{WhenUnavailable, now_ms, pledge};
use crate::store::spool::{Began, Content, Payload, Piece};
use crate::store::{Appended, Entry, Error, ErrorKind, Mark, Outage, Spool, Tally};
use crate::telemetry::pulse::Pulse;

/// When something that failed is tried again: later each time, up to [`RETRY_MAX`].
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Option<Instant>,
    length: Duration,
}

impl Pause {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    fn failed(&mut self) {
        self.length = (self.length * 2).clamp(RETRY_FIRST, RETRY_MAX);
        self.until = Some(Instant::now() + self.length);
    }

    fn worked(&mut self) {
        *self = Self::default();
    }
}

impl Writer {
    /// At the start: what an earlier run has left in the spool counts as seen, and as of an outage that is not over.
    pub(super) fn take_up_spool(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        let takes = self.recorder.config.when_unavailable == WhenUnavailable::Spool || !spool.is_empty();
        self.recorder.outages.set_spool_takes(takes);
        if !self.torn.is_empty() {
            tracing::warn!(
                path = %spool.path().display(),
                bytes = self.torn.len(),
                "the last record of the spool was torn and is cut off: nobody was told that it is kept"
            );
            let finding = damaged("the last record of the spool, torn by a crash", std::mem::take(&mut self.torn));
            self.left_over.push(finding);
        }
        if spool.is_empty() {
            return;
        }
        let known = self.store.as_ref().map_or(Ok(0), |store| store.drained_to(&spool.id()));
        let all = spool.backlog();
        if let Err(error) = known.and_then(|drained_to| spool.skip_to(drained_to)) {
            tracing::warn!(%error, "how much of the spool is in the archive cannot be told; all of it is looked at");
        }
        let left = spool.backlog();
        if spool.is_empty() {
            spool.drained(&[]);
            return;
        }
        self.recorder.metrics.ledger.enter(|account| {
            account.seen += left.events;
            account.in_flight += left.events;
        });
        let first = spool.read(1).ok().and_then(|pieces| pieces.into_iter().next());
        let began = match first.map(|piece| piece.content) {
            Some(Content::Whole(Payload::Began(began))) => began,
            _ => Began { at: left.oldest_at.unwrap_or_else(now_ms), reason: "spool".into(), detail: String::new() },
        };
        self.told_outage = Some(began.at);
        self.recorder.outages.resume(began, all.records, all.events);
        self.recorder.metrics.recording_up.set(0);
        tracing::warn!(
            path = %spool.path().display(),
            records = left.records,
            events = left.events,
            "an earlier run has left a spool; it is written into the archive now"
        );
    }

    /// While a binary is upgraded one of the two processes has the spool: the former one until nothing in it is still to be
    /// written, then the other one, which tries until then.
    pub(super) fn pass_spool_on(&mut self) {
        let is_left = self.recorder.leaves_spool.load(Ordering::Acquire);
        if is_left && self.spool.as_ref().is_some_and(Spool::is_empty) {
            self.spool = None;
            self.recorder.outages.set_spool_takes(false);
        }
        if !self.awaits_spool {
            return;
        }
        match self.recorder.open_spool(&self.options) {
            Err(error) if error.kind == ErrorKind::Busy => {}
            opened => {
                self.awaits_spool = false;
                match opened {
                    Ok(opened) => {
                        let (spool, torn) = opened.unzip();
                        (self.spool, self.torn) = (spool, torn.unwrap_or_default());
                        self.take_up_spool();
                    }
                    Err(error) => self.note_spool_trouble(&error, "the spool cannot be taken over"),
                }
            }
        }
    }

    /// Whether the spool has something that the archive has not. While the spool cannot be read it holds nobody up.
    pub(super) fn has_backlog(&self) -> bool {
        self.read_pause.is_over() && self.spool.as_ref().is_some_and(|spool| !spool.is_empty())
    }

    /// At the stop the spool is drained while that works; else it is safe where it is.
    pub(super) fn drains_at_stop(&self) -> bool {
        self.has_backlog() && self.drain_pause.is_over() && !self.recorder.drain_is_over()
    }

    /// Puts a batch into the spool, synced, and honours its tickets. False where there is no spool, or none that takes it.
    pub(super) fn keep(&mut self, batch: &mut Batch) -> bool {
        let is_wanted = self.recorder.config.when_unavailable == WhenUnavailable::Spool || self.has_backlog();
        let Some(spool) = self.spool.as_mut().filter(|_| is_wanted) else { return false };
        // What the archive's rows of chats were to say later is kept too: this process may not live to write it.
        self.left_over.extend(self.store.as_mut().map(crate::store::Store::take_put_off).into_iter().flatten());
        batch.lazy.append(&mut self.left_over);
        if batch.is_empty() {
            return true;
        }
        let began = self.recorder.outages.current().filter(|(since, ..)| self.told_outage != Some(*since));
        let began = began.map(|(at, reason, detail)| Began { at, reason, detail });
        let since = began.as_ref().map(|began| began.at);
        let entries = batch.queued.iter().map(|queued| &queued.entry).chain(&batch.lazy);
        let mut payloads: Vec<Payload<'_>> = began.into_iter().map(Payload::Began).collect();
        payloads.extend(entries.map(|entry| Payload::Entry(Cow::Borrowed(entry))));
        match spool.append(&payloads) {
            Ok(()) => {
                self.told_outage = since.or(self.told_outage);
                if self.recorder.outages.set_spool_takes(true) {
                    tracing::info!("the spool takes again what the archive does not");
                }
                self.settle_kept(batch);
                true
            }
            Err(error) => {
                self.note_spool_trouble(&error, "the spool takes nothing");
                false
            }
        }
    }

    /// After the sync: memory, account, tickets, in this order. Events stay in flight; whoever waited for the same ones had
    /// duplicates of them.
    fn settle_kept(&self, batch: &mut Batch) {
        let recorder = &self.recorder;
        recorder.committed().remember(batch.queued.iter_mut().flat_map(|queued| queued.keys.drain(..)));
        let joined: Vec<_> = self.landed(batch, &[]).into_iter().map(|(joined, _)| joined).collect();
        let again: u64 = joined.iter().map(|joined| joined.events).sum();
        recorder.metrics.ledger.enter(|account| {
            account.duplicate += again;
            account.in_flight -= again;
        });
        for queued in batch.queued.iter().filter(|queued| queued.events > 0) {
            let chats = queued.entry.chats.iter().map(|chat| &chat.chat_id);
            recorder.outages.touch(now_ms(), "down", Effect::Spooled, queued.events, chats);
        }
        let own = batch.queued.iter_mut().filter_map(|queued| queued.pledge.take());
        pledge::keep(own.chain(joined.into_iter().flat_map(|joined| joined.pledges)));
    }

    fn note_spool_trouble(&self, error: &Error, what: &str) {
        let kind = error.kind.as_str();
        self.recorder.metrics.spool_errors.get_or_create(&[("kind", kind.into())]).inc();
        if self.recorder.outages.set_spool_takes(false) {
            self.recorder.outages.tell(&error.message);
            tracing::error!(reason = kind, %error, "{what}; what is seen is kept in memory");
        }
    }

    /// Writes the spool into the archive, a batch at a time, until nothing is left, something newer waits, or it goes wrong.
    pub(super) async fn drain(&mut self, pulse: &Pulse) {
        while self.has_backlog() && self.drain_pause.is_over() && !self.recorder.drain_is_over() {
            pulse.beat();
            if let Err(error) = self.drain_some().await {
                self.note_trouble(&error, Duration::MAX).await;
                return self.drain_pause.failed();
            }
            self.drain_pause.worked();
            if !self.recorder.queue.is_empty() {
                return;
            }
        }
    }

    async fn drain_some(&mut self) -> Result<(), Error> {
        if self.store.is_none() {
            self.reopen().await?;
        }
        let (Some(spool), Some(store)) = (&self.spool, &mut self.store) else { return Ok(()) };
        let pieces = match spool.read(self.recorder.config.batch_events_max as u64) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.note_spool_trouble(&error, "the spool cannot be read");
                self.read_pause.failed();
                return Ok(());
            }
        };
        self.read_pause.worked();
        let spool_id = spool.id();
        // A commit that seemed to fail may have been one.
        let known = store.drained_to(&spool_id)?;
        let (entries, marks) = entries_of(&pieces, known, &spool_id);
        let is_last = pieces.last().is_some_and(|piece| piece.end == spool.end());
        let chats: Vec<&ChatId> = entries.iter().flat_map(|entry| &entry.chats).map(|chat| &chat.chat_id).collect();
        self.recorder.outages.name(chats.into_iter());
        let outage = is_last.then(|| self.recorder.outages.take(now_ms())).flatten();
        let appended = append(store, &entries, outage.as_slice(), true, &marks);
        let appended = appended.and_then(|appended| store.check_still_at_path().map(|()| appended));
        match appended {
            Ok(appended) => {
                self.settle_drained(&pieces, known, &appended, outage.as_ref());
                Ok(())
            }
            Err(error) => {
                outage.into_iter().for_each(|outage| self.recorder.outages.put_back(outage));
                Err(error)
            }
        }
    }

    fn settle_drained(&mut self, pieces: &[Piece], known: u64, appended: &Appended, outage: Option<&Outage>) {
        let arrived: u64 = pieces.iter().map(|piece| piece.events).sum();
        let before = pieces.iter().filter(|piece| piece.end <= known).map(|piece| piece.events).sum::<u64>();
        let sum = appended.tallies.iter().fold(Tally::default(), |sum, one| sum.plus(*one));
        if appended.is_forgetful {
            self.forget_erased();
        }
        let lost = self.spool.as_mut().and_then(|spool| spool.drained(pieces));
        self.recorder.metrics.ledger.enter(|account| {
            account.new += sum.new;
            account.duplicate += sum.duplicate + before;
            account.variant += sum.variant;
            account.finding += sum.finding;
            account.suppressed += sum.suppressed;
            account.in_flight -= arrived;
            account.in_flight -= lost.unwrap_or_default();
            account.dropped += lost.unwrap_or_default();
        });
        self.say_variants(appended);
        if lost.is_some() {
            self.told_outage = None;
            self.recorder.outages.set_spool_takes(self.recorder.config.when_unavailable == WhenUnavailable::Spool);
            self.recorder.outages.end_written();
            match outage {
                Some(outage) => self.say_up(outage),
                None => {
                    self.recorder.metrics.recording_up.set(1);
                }
            }
        }
        if let Some(lost) = lost.filter(|lost| *lost > 0) {
            tracing::error!(events = lost, "the spool was damaged: these events are lost");
        }
    }

    /// For the metrics, after each batch.
    pub(super) fn show_spool(&self) {
        let Some(spool) = &self.spool else { return };
        let (metrics, backlog) = (&self.recorder.metrics, spool.backlog());
        metrics.spool_bytes.set(spool.end().cast_signed());
        metrics.spool_records.set(backlog.records.cast_signed());
        metrics.spool_events.set(backlog.events.cast_signed());
        let age_ms = backlog.oldest_at.map_or(0, |at| now_ms().saturating_sub(at).max(0));
        metrics.spool_oldest_seconds.set(age_ms / 1000);
    }
}

/// What is to be written of these pieces, and the place of the spool at which each of it ends. Not what is known to be in
/// the archive: up to `known`.
fn entries_of(pieces: &[Piece], known: u64, spool_id: &str) -> (Vec<Entry>, Vec<Mark>) {
    let (mut entries, mut marks) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(pieces.len()));
    let at = now_ms();
    for piece in pieces.iter().filter(|piece| piece.end > known) {
        entries.push(match &piece.content {
            Content::Whole(Payload::Entry(entry)) => Entry::clone(entry),
            Content::Whole(Payload::Began(_)) => Entry::default(),
            Content::Damaged(bytes, length) => {
                let detail = format!("{length} bytes of the spool that are no record of it");
                tracing::error!(
                    bytes = length,
                    events = piece.events,
                    "a stretch of the spool is damaged; it is kept as a finding"
                );
                let mut entry = damaged(&detail, bytes.clone());
                entry.findings.iter_mut().for_each(|finding| finding.events = piece.events);
                entry
            }
        });
        marks.push(Mark { spool_id: spool_id.to_owned(), drained_to: piece.end, at });
    }
    (entries, marks)
}

fn damaged(detail: &str, raw: Vec<u8>) -> Entry {
    let kind = FindingKind::SpoolDamaged;
    let finding = Finding {
        kind,
        chat_id: None,
        detail: detail.into(),
        raw_length: raw.len(),
        raw,
        events: 0,
        maskings: Vec::new(),
    };
    Entry { at: now_ms(), findings: vec![finding], ..Entry::default() }
}

#[cfg(test)]
mod tests;
