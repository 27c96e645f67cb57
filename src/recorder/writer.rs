//! The one writer: takes what waits, commits it as a group, tells whoever waited.
//!
//! It owns the file. Trouble with it never ends the thread: the batch stays in memory and is tried again until it is
//! written, on the same connection or on a new one, and everyone may see meanwhile that recording is down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::live::Joined;
use super::queue::Queued;
use super::{Recorder, now_ms, pledge};
use crate::gms::{Finding, FindingKind};
use crate::store::{Appended, ChatRecord, Entry, Error, ErrorKind, Options, Outage, Run, Store, Tally};
use crate::telemetry::Repeated;
use crate::telemetry::pulse::Pulse;

/// Lazy facts are written at least this often (R4: within a second), and an idle file is looked after.
const LAZY_INTERVAL: Duration = Duration::from_millis(500);
/// The writer's, above that of the process: a third of a proxy thread's share of a core that both want.
const NICENESS: i32 = 5;
/// Answers in one batch from which on they come in a crowd.
const CROWD: usize = 8;
/// In a crowd a commit waits for more to go with it: until two steps of this brought few (in the first one the answers of
/// the last commit are still going out), and at most so many steps. Where answers come singly none waits, and a crowd that
/// a slow commit has gathered is not kept up by waiting for it: 3 in a step are 7,500 a second.
const LINGER_STEP: Duration = Duration::from_micros(400);
const LINGER_STEPS_MAX: usize = 8;
const FEW: usize = 3;
/// So many go at once; more save nothing.
const CROWD_MAX: usize = 256;
/// Between attempts while the file takes nothing.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A node that changes what it said before does so for whole transcripts.
static VARIANTS: Repeated = Repeated::new(5, Duration::from_secs(60));

/// The writer and what it holds.
pub(super) struct Writer {
    recorder: Arc<Recorder>,
    options: Options,
    run: Run,
    store: Option<Store>,
    /// Outages that are over, in the batch being written.
    outages: Vec<Outage>,
    /// What a store that was let go had put off.
    left_over: Vec<Entry>,
    last_lazy: Instant,
    /// The last batch was a crowd.
    is_crowded: bool,
}

/// What is written together.
#[derive(Default)]
struct Batch {
    queued: Vec<Queued>,
    lazy: Vec<Entry>,
    /// Nothing is put off any longer.
    whole: bool,
}

impl Writer {
    /// A writer that goes on with an opened store.
    pub(super) fn new(recorder: Arc<Recorder>, options: Options, run: Run, store: Store) -> Self {
        let options = Options { create: false, ..options };
        Self {
            recorder,
            options,
            run,
            store: Some(store),
            outages: Vec::new(),
            left_over: Vec::new(),
            last_lazy: Instant::now(),
            is_crowded: false,
        }
    }

    /// Writes until the recorder closes and nothing is left, or `drain_max` after it closed.
    pub(super) async fn run(mut self) {
        let _end = End(self.recorder.clone());
        let pulse = self.recorder.metrics.pulses.begin("writer");
        self.recorder.metrics.recording_up.set(1);
        while !self.recorder.is_closing() || self.has_work() {
            pulse.beat();
            let batch = self.gather().await;
            let flushes = batch.whole && self.has_put_off();
            if batch.is_empty() && !flushes && !self.recorder.outages.has_finished() {
                self.look_after_file(&pulse).await;
            } else if !self.write(batch, &pulse).await {
                break;
            }
        }
        self.finish().await;
        pulse.end();
    }

    fn has_work(&self) -> bool {
        let is_waited_for = !self.recorder.queue.is_empty() || self.recorder.outages.has_finished();
        is_waited_for || self.recorder.live().has_pending() || self.has_put_off()
    }

    fn has_put_off(&self) -> bool {
        !self.left_over.is_empty() || self.store.as_ref().is_some_and(Store::has_put_off)
    }

    /// Waits for something to write, at most until lazy facts are due.
    async fn gather(&mut self) -> Batch {
        let due = self.last_lazy + LAZY_INTERVAL;
        if self.recorder.queue.is_empty() && !self.recorder.is_closing() {
            let _ = timeout(due.saturating_duration_since(Instant::now()), self.recorder.queue.arrival()).await;
        }
        if self.is_crowded {
            self.linger();
        }
        let queued = self.recorder.queue.take(self.recorder.config.batch_events_max, &self.recorder.metrics);
        self.is_crowded = queued.len() >= CROWD;
        let whole = Instant::now() >= due || self.recorder.is_closing();
        let mut lazy = Vec::new();
        if whole {
            self.last_lazy = Instant::now();
            lazy = self.recorder.live().take_pending();
            lazy.append(&mut self.left_over);
        }
        Batch { queued, lazy, whole }
    }

    /// Lets a crowd gather. This thread has nothing else to do, and the runtime's timer is too coarse.
    fn linger(&self) {
        let (mut waiting, mut poor_steps) = (self.recorder.queue.len(), 0);
        for _ in 0..LINGER_STEPS_MAX {
            std::thread::sleep(LINGER_STEP);
            let before = std::mem::replace(&mut waiting, self.recorder.queue.len());
            poor_steps += usize::from(waiting < before + FEW);
            if poor_steps == 2 || waiting >= CROWD_MAX {
                break;
            }
        }
    }

    /// Writes a batch, however long that takes. False when it had to give up at the end of a drain.
    async fn write(&mut self, mut batch: Batch, pulse: &Pulse) -> bool {
        let began = Instant::now();
        let mut pause = RETRY_FIRST;
        loop {
            pulse.beat();
            self.outages.extend(self.recorder.outages.take_finished());
            match self.attempt(&mut batch).await {
                Ok(()) => return true,
                Err(error) => self.note_trouble(&error, began.elapsed(), &mut batch).await,
            }
            if self.recorder.drain_is_over() {
                self.give_up(&batch);
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn attempt(&mut self, batch: &mut Batch) -> Result<(), Error> {
        if self.store.is_none() {
            self.reopen().await?;
        }
        let store = self.store.as_mut().expect("reopened above");
        let began = Instant::now();
        let entries = batch.take_entries();
        let appended = append(store, &entries, &self.outages, batch.whole);
        batch.put_back(entries);
        let appended = appended?;
        store.check_still_at_path()?;
        self.recorder.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        self.settle(batch, &appended);
        Ok(())
    }

    /// After the commit: memory, account, tickets, in this order.
    fn settle(&mut self, batch: &mut Batch, appended: &Appended) {
        let recorder = &self.recorder;
        self.outages.clear();
        recorder.committed().remember(batch.queued.iter_mut().flat_map(|queued| queued.keys.drain(..)));
        let joined: Vec<Joined> = {
            let mut live = recorder.live();
            batch.queued.iter().filter_map(|queued| queued.answer.as_ref()).map(|key| live.landed(key)).collect()
        };
        recorder.metrics.ledger.enter(|account| {
            for (queued, tally) in batch.queued.iter().zip(&appended.tallies) {
                account.new += tally.new;
                account.duplicate += tally.duplicate;
                account.variant += tally.variant;
                account.finding += tally.finding;
                account.in_flight -= queued.events;
            }
            for events in joined.iter().map(|joined| joined.events) {
                account.duplicate += events;
                account.in_flight -= events;
            }
        });
        for (chat_id, index, comparison) in &appended.variants {
            let Some(not_shown) = VARIANTS.admit(std::time::Instant::now()) else { continue };
            tracing::warn!(%chat_id, index, kind = ?comparison, not_shown, "an event was delivered with other content than before; both are kept");
        }
        let own = batch.queued.iter_mut().filter_map(|queued| queued.pledge.take());
        pledge::keep(own.chain(joined.into_iter().flat_map(|joined| joined.pledges)));
        if let Some(outage) = recorder.outages.end(now_ms()) {
            recorder.metrics.recording_up.set(1);
            let seconds = (outage.ended_at - outage.started_at) as f64 / 1000.0;
            tracing::info!(
                reason = outage.reason,
                seconds,
                events = outage.events,
                delivered_early = outage.delivered_early,
                refused = outage.refused,
                dropped = outage.dropped,
                "recording is up again"
            );
        }
    }

    /// What an error means: how long to keep the connection, and whether recording is down.
    async fn note_trouble(&mut self, error: &Error, lasted: Duration, batch: &mut Batch) {
        let error = match self.store.as_ref().map(Store::check_still_at_path) {
            Some(Err(moved)) => moved,
            _ => error.clone(),
        };
        let kind = error.kind;
        self.recorder.metrics.store_errors.get_or_create(&[("kind", kind.as_str().into())]).inc();
        let patience = if kind == ErrorKind::Busy { self.recorder.config.commit_wait_max } else { Duration::ZERO };
        if lasted >= patience {
            self.declare_down(&error, batch);
        }
        // After these the same connection goes on; a failed sync or a damaged page must be read anew from the file.
        if !matches!(kind, ErrorKind::Busy | ErrorKind::Full | ErrorKind::ReadOnly) {
            self.let_go().await;
        }
    }

    fn declare_down(&self, error: &Error, batch: &mut Batch) {
        if self.recorder.outages.begin(now_ms(), error.kind.as_str(), &error.message) {
            self.recorder.metrics.recording_up.set(0);
            tracing::error!(reason = error.kind.as_str(), error = %error, hint = hint(error.kind), "recording is down");
        }
        // Whoever waits is told now, by losing the other end, and does not wait in vain.
        batch.queued.iter_mut().for_each(|queued| queued.pledge = None);
        let mut live = self.recorder.live();
        batch.queued.iter().filter_map(|queued| queued.answer.as_ref()).for_each(|key| live.dismiss(key));
    }

    async fn let_go(&mut self) {
        if let Some(mut store) = self.store.take() {
            self.left_over.extend(store.take_put_off());
            self.run.resumes = Some((store.archive_id().into(), store.run_id()));
            store.abandon();
        }
        self.recorder.committed().forget();
        self.recorder.live().forget_written();
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        let store = Store::open(&self.options, &self.run).await?;
        tracing::info!(path = %self.options.path.display(), run_id = store.run_id(), "the archive is open again");
        self.store = Some(store);
        Ok(())
    }

    /// Between batches: is the file still where it was, and how does it do?
    async fn look_after_file(&mut self, pulse: &Pulse) {
        let checked = match &self.store {
            Some(store) => store.check_still_at_path(),
            None => self.reopen().await,
        };
        match checked {
            Err(error) => self.note_trouble(&error, Duration::MAX, &mut Batch::default()).await,
            Ok(()) if self.recorder.outages.is_down() => drop(self.write(Batch::default(), pulse).await),
            Ok(()) => {}
        }
        let wal_bytes = self.store.as_ref().map_or(0, Store::wal_bytes);
        self.recorder.metrics.wal_bytes.set(wal_bytes as i64);
    }

    /// At the end of a drain: what could not be written is lost, and that is said.
    fn give_up(&self, batch: &Batch) {
        let waiting = self.recorder.queue.take(usize::MAX, &self.recorder.metrics);
        let mut live = self.recorder.live();
        let joined = |queued: &Queued| queued.answer.as_ref().map_or(0, |key| live.landed(key).events);
        let lost: u64 = batch.queued.iter().chain(&waiting).map(joined).sum();
        let lost = lost + batch.queued.iter().chain(&waiting).map(|queued| queued.events).sum::<u64>();
        drop(live);
        self.recorder.metrics.ledger.enter(|account| {
            account.in_flight -= lost;
            account.dropped += lost;
        });
        tracing::error!(events = lost, "stopping although these events could not be written");
    }

    async fn finish(&mut self) {
        let Some(store) = self.store.take() else { return };
        let ledger = serde_json::to_string(&self.recorder.metrics.ledger.read()).unwrap_or_default();
        if let Err(error) = store.finish(now_ms(), &ledger) {
            tracing::error!(%error, "the end of the run could not be noted");
        }
    }
}

/// Says that the writer has ended, however it ended.
struct End(Arc<Recorder>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.writing.store(false, Ordering::Release);
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.lazy.is_empty()
    }

    /// All entries in order, queued ones first, moved out for the time of the attempt.
    fn take_entries(&mut self) -> Vec<Entry> {
        let queued = self.queued.iter_mut().map(|queued| std::mem::take(&mut queued.entry));
        let lazy = self.lazy.iter_mut().map(std::mem::take);
        queued.chain(lazy).collect()
    }

    fn put_back(&mut self, entries: Vec<Entry>) {
        let places = self.queued.iter_mut().map(|queued| &mut queued.entry).chain(&mut self.lazy);
        places.zip(entries).for_each(|(place, entry)| *place = entry);
    }
}

/// One transaction; where a row of it is refused, as many as it takes.
fn append(store: &mut Store, entries: &[Entry], outages: &[Outage], whole: bool) -> Result<Appended, Error> {
    match store.append(entries, outages, whole) {
        Err(error) if error.kind == ErrorKind::Row => isolate(store, entries, outages),
        done => done,
    }
}

/// Some row of these entries is refused by the database: every entry alone, and in the one at fault every event alone.
/// What is refused even then is kept as a finding; the others go on.
fn isolate(store: &mut Store, entries: &[Entry], outages: &[Outage]) -> Result<Appended, Error> {
    let mut all = store.append(&[], outages, false)?;
    for entry in entries {
        match store.append(std::slice::from_ref(entry), &[], true) {
            Ok(one) => all.absorb(one),
            Err(error) if error.kind == ErrorKind::Row => all.absorb(salvage(store, entry)?),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn salvage(store: &mut Store, entry: &Entry) -> Result<Appended, Error> {
    let mut tally = Tally::default();
    let mut all = Appended::default();
    for part in parts(entry) {
        let one = match store.append(std::slice::from_ref(&part), &[], true) {
            Ok(one) => one,
            Err(error) if error.kind == ErrorKind::Row => store.append(&[as_finding(&part, &error)], &[], true)?,
            Err(error) => return Err(error),
        };
        tally = one.tallies.iter().fold(tally, |sum, one| sum.plus(*one));
        all.variants.extend(one.variants);
    }
    all.tallies = vec![tally];
    Ok(all)
}

/// An entry taken apart into entries of one row each, facts of the chat last.
fn parts(entry: &Entry) -> Vec<Entry> {
    let blank = || Entry { at: entry.at, node: entry.node.clone(), ..Entry::default() };
    let mut parts = Vec::new();
    for chat in &entry.chats {
        for event in &chat.events {
            let record = ChatRecord { events: vec![event.clone()], ..ChatRecord::of(chat.chat_id.clone()) };
            parts.push(Entry { chats: vec![record], ..blank() });
        }
        parts.push(Entry { chats: vec![ChatRecord { events: Vec::new(), ..chat.clone() }], ..blank() });
    }
    parts.extend(entry.errors.iter().map(|error| Entry { errors: vec![error.clone()], ..blank() }));
    parts.extend(entry.findings.iter().map(|finding| Entry { findings: vec![finding.clone()], ..blank() }));
    parts
}

fn as_finding(part: &Entry, error: &Error) -> Entry {
    let chat = part.chats.first();
    let event = chat.and_then(|chat| chat.events.first());
    let raw = event.map(|event| event.raw.clone().into_bytes()).unwrap_or_default();
    let finding = Finding {
        kind: FindingKind::Unstorable,
        chat_id: chat.map(|chat| chat.chat_id.clone()),
        detail: format!("the database refused this row: {error}"),
        raw_length: raw.len(),
        raw,
        events: u64::from(event.is_some()) + part.findings.iter().map(|finding| finding.events).sum::<u64>(),
    };
    tracing::error!(chat_id = ?finding.chat_id, %error, "a row was refused by the database; it is kept as a finding");
    Entry { at: part.at, node: part.node.clone(), findings: vec![finding], ..Entry::default() }
}

fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Busy => "another process holds the write lock: look for a backup tool or an open sqlite3 shell",
        ErrorKind::Full => "free space on the file system of the archive; recording then goes on by itself",
        ErrorKind::ReadOnly => "make the file and its folder writable for this user; recording then goes on by itself",
        ErrorKind::Missing => "put the archive back at its path; it is never made anew while serving",
        ErrorKind::Replaced => "another file is at the archive's path; recording goes on in it if it is an archive",
        ErrorKind::Corrupt => "stop, keep the file, and restore a backup; recording goes on when a sound file is there",
        ErrorKind::Io => "look into the kernel log for disk errors; recording then goes on by itself",
        ErrorKind::CannotOpen => "check that the folder exists and is writable",
        ErrorKind::NotAnArchive => "put the archive back at its path",
        ErrorKind::Row | ErrorKind::Other => "see the error",
    }
}

/// How everyone else sees the writer's thread end.
pub(super) fn spawn(writer: Writer) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let write = move || {
        // Where it shares a core with a proxy thread, a poll must not wait until a batch is written.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        runtime.block_on(writer.run());
    };
    std::thread::Builder::new().name("writer".into()).spawn(write)
}
