//! The one writer: takes what waits, commits it as a group, tells whoever waited.
//!
//! It owns the file. Trouble with it never ends the thread: the batch stays in memory and is tried again until it is
//! written, on the same connection or on a new one, and everyone may see meanwhile that recording is down. Where there is a
//! spool it goes there, and from there into the archive.

mod evidence;
mod salvage;
mod spooling;
mod tending;
#[cfg(test)]
mod tests;
mod trouble;

pub(super) use evidence::{Evidence, Trouble as EvidenceTrouble};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::live::Joined;
use super::queue::Queued;
use super::{Recorder, now_ms, pledge};
use crate::store::reserve::Reserve;
use crate::store::{Appended, Entry, Error, ErrorKind, Options, Outage, Run, Spool, Store, Tally};
use crate::telemetry::Repeated;
use crate::telemetry::pulse::Pulse;

use salvage::append;
use spooling::Pause;
use tending::Tended;
use trouble::road_back;

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
    spool: Option<Spool>,
    /// The process whose place this one takes still has it.
    awaits_spool: bool,
    /// What a crash has torn of it.
    torn: Vec<u8>,
    /// When the spool is next written into the archive, or read at all.
    drain_pause: Pause,
    read_pause: Pause,
    /// The outage, by its beginning, that the spool's records are told to be of.
    told_outage: Option<i64>,
    reserve: Reserve,
    tended: Tended,
    evidence: Evidence,
    last_lazy: Instant,
    /// When another file took the place of the one before, milliseconds since the epoch.
    covers_from: i64,
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
    pub(super) fn new(
        recorder: Arc<Recorder>,
        options: Options,
        run: Run,
        store: Store,
        spool: Option<(Spool, Vec<u8>)>,
        evidence: Evidence,
        awaits_spool: bool,
    ) -> Self {
        let (spool, torn) = spool.unzip();
        let options = Options { create: false, ..options };
        let reserve = Reserve::new(&options.path, recorder.config.reserve as u64);
        Self {
            recorder,
            options,
            run,
            store: Some(store),
            outages: Vec::new(),
            left_over: Vec::new(),
            spool,
            awaits_spool,
            torn: torn.unwrap_or_default(),
            drain_pause: Pause::default(),
            read_pause: Pause::default(),
            told_outage: None,
            reserve,
            tended: Tended::default(),
            evidence,
            last_lazy: Instant::now(),
            covers_from: i64::MIN,
            is_crowded: false,
        }
    }

    /// Writes until the recorder closes and nothing is left, or `drain_max` after it closed.
    pub(super) async fn run(mut self) {
        let _end = End(self.recorder.clone());
        let pulse = self.recorder.metrics.pulses.begin("writer");
        self.recorder.metrics.recording_up.set(1);
        self.take_up_spool();
        while !self.recorder.is_closing() || self.has_work() {
            pulse.beat();
            self.tend();
            self.keep_evidence().await;
            let batch = self.gather().await;
            if batch.whole {
                self.pass_spool_on();
                self.tell_account(false);
            }
            let flushes = batch.whole && self.has_put_off();
            if batch.is_empty() && !flushes && !self.recorder.outages.has_finished() {
                self.look_after_file(&pulse).await;
                self.write_account();
            } else if !self.write(batch, &pulse).await {
                break;
            }
            self.show_spool();
        }
        self.finish().await;
        pulse.end();
    }

    fn has_work(&self) -> bool {
        // Behind a spool that is not drained any longer no outage gets its row.
        let has_outage = self.recorder.outages.has_finished() && !self.has_backlog();
        !self.recorder.queue.is_empty()
            || has_outage
            || self.recorder.live().has_pending()
            || self.has_put_off()
            || self.drains_at_stop()
    }

    /// Nobody waits for it, nor is recording down where it cannot be written: what else is to be written will tell.
    fn write_account(&mut self) {
        if !self.recorder.is_down()
            && let Some(store) = &mut self.store
            && let Ok(true) = store.write_account()
        {
            self.forget_erased();
        }
    }

    fn tell_account(&mut self, is_last: bool) {
        let account = self.recorder.metrics.ledger.read();
        if let Some(store) = &mut self.store {
            store.tell_account(now_ms(), &account, is_last);
        }
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
            self.tend();
            let had_backlog = self.has_backlog();
            let is_kept = if had_backlog {
                // Nothing overtakes what is in the spool.
                let is_kept = self.keep(&mut batch);
                self.drain(pulse).await;
                is_kept
            } else {
                self.outages.extend(self.recorder.outages.take_finished());
                match self.attempt(&mut batch).await {
                    Ok(()) => return true,
                    Err(error) => self.note_trouble(&error, began.elapsed()).await,
                }
                // At the end of a drain nobody has time to find out whether it passes.
                (self.recorder.is_down() || self.recorder.drain_is_over()) && self.keep(&mut batch)
            };
            if is_kept {
                return true;
            }
            if self.recorder.is_down() {
                self.break_pledges(&mut batch);
            }
            if self.recorder.drain_is_over() {
                self.give_up(&batch);
                return false;
            }
            if !had_backlog || self.has_backlog() {
                sleep(pause).await;
            }
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
        let appended = append(store, &entries, &self.outages, batch.whole, &[]);
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
        if appended.is_forgetful {
            self.forget_erased();
        }
        // What was suppressed is not on disk: whenever it comes again that is to be found anew.
        let stored = batch.queued.iter_mut().zip(&appended.tallies).filter(|(_, tally)| tally.suppressed == 0);
        recorder.committed().remember(stored.flat_map(|(queued, _)| queued.keys.drain(..)));
        let joined = self.landed(batch, &appended.tallies);
        recorder.metrics.ledger.enter(|account| {
            for (queued, tally) in batch.queued.iter().zip(&appended.tallies) {
                account.new += tally.new;
                account.duplicate += tally.duplicate;
                account.variant += tally.variant;
                account.finding += tally.finding;
                account.suppressed += tally.suppressed;
                account.in_flight -= queued.events;
            }
            for (joined, is_suppressed) in &joined {
                let counted = if *is_suppressed { &mut account.suppressed } else { &mut account.duplicate };
                *counted += joined.events;
                account.in_flight -= joined.events;
            }
        });
        self.say_variants(appended);
        let own = batch.queued.iter_mut().filter_map(|queued| queued.pledge.take());
        pledge::keep(own.chain(joined.into_iter().flat_map(|(joined, _)| joined.pledges)));
        if let Some(outage) = recorder.outages.end(now_ms()) {
            self.say_up(&outage);
        }
    }

    /// Another process has erased or purged chats: what is remembered of what is on disk may not be there any longer.
    pub(super) fn forget_erased(&self) {
        self.recorder.committed().forget();
        self.recorder.live().forget_written();
    }

    /// Who else waited for the answers of a batch, which are on disk now; or suppressed, and not remembered. In a spool none
    /// is suppressed yet.
    fn landed(&self, batch: &Batch, tallies: &[Tally]) -> Vec<(Joined, bool)> {
        let mut live = self.recorder.live();
        let suppressed = tallies.iter().map(|tally| tally.suppressed > 0).chain(std::iter::repeat(false));
        let answers =
            batch.queued.iter().zip(suppressed).filter_map(|(queued, is)| Some((queued.answer.as_ref()?, is)));
        answers.map(|(key, is_suppressed)| (live.landed(key, !is_suppressed), is_suppressed)).collect()
    }

    fn say_variants(&self, appended: &Appended) {
        for (chat_id, index, comparison) in &appended.variants {
            let Some(not_shown) = VARIANTS.admit(std::time::Instant::now()) else { continue };
            tracing::warn!(%chat_id, index, kind = ?comparison, not_shown, "an event was delivered with other content than before; both are kept");
        }
    }

    fn say_up(&self, outage: &Outage) {
        self.recorder.metrics.recording_up.set(1);
        let seconds = (outage.ended_at - outage.started_at) as f64 / 1000.0;
        tracing::info!(
            reason = outage.reason,
            seconds,
            events = outage.events,
            spooled = outage.spooled,
            delivered_early = outage.delivered_early,
            refused = outage.refused,
            dropped = outage.dropped,
            "recording is up again"
        );
    }

    /// What an error means: how long to keep the connection, and whether recording is down.
    async fn note_trouble(&mut self, error: &Error, lasted: Duration) {
        let error = match self.store.as_ref().map(Store::check_still_at_path) {
            Some(Err(moved)) => moved,
            _ => error.clone(),
        };
        self.recorder.metrics.store_errors.get_or_create(&[("kind", error.kind.as_str().into())]).inc();
        if error.kind == ErrorKind::Full && self.give_back_reserve() {
            return;
        }
        let road = road_back(error.kind);
        let patience = if road.is_waited_out { self.patience() } else { Duration::ZERO };
        if matches!(error.kind, ErrorKind::Missing | ErrorKind::Replaced) {
            self.let_go().await; // once it is said, the file that was moved away is whole
        }
        if lasted >= patience {
            self.declare_down(&error, road.hint);
        }
        if !road.keeps_connection {
            self.let_go().await;
        }
    }

    /// How long a lock is waited for before recording counts as down. What goes into the spool is there well within the
    /// time that its client waits.
    fn patience(&self) -> Duration {
        let wait_max = self.recorder.config.commit_wait_max;
        if self.recorder.outages.spool_takes() { wait_max / 4 } else { wait_max }
    }

    fn declare_down(&self, error: &Error, hint: &str) {
        if self.recorder.outages.begin(now_ms(), error.kind.as_str(), &error.message) {
            self.recorder.metrics.recording_up.set(0);
            let spooling = self.recorder.outages.spool_takes();
            tracing::error!(reason = error.kind.as_str(), %error, spooling, hint, "recording is down");
        }
    }

    /// Whoever waits is told now, by losing the other end, and does not wait in vain.
    fn break_pledges(&self, batch: &mut Batch) {
        batch.queued.iter_mut().for_each(|queued| queued.pledge = None);
        let mut live = self.recorder.live();
        batch.queued.iter().filter_map(|queued| queued.answer.as_ref()).for_each(|key| live.dismiss(key));
    }

    async fn let_go(&mut self) {
        if let Some(mut store) = self.store.take() {
            self.left_over.extend(store.take_put_off());
            self.run.resumes = Some(store.resumable());
            store.abandon();
        }
        self.recorder.committed().forget();
        self.recorder.live().forget_written();
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        let mut store = Store::open(&self.options, &self.run).await?;
        tracing::info!(path = %self.options.path.display(), run_id = store.run_id(), "the archive is open again");
        if self.run.resumes.as_ref().is_some_and(|resumed| *resumed != store.resumable()) {
            store.begin_account(&self.recorder.metrics.ledger.read());
            self.covers_from = now_ms();
        }
        store.distrust_before(self.covers_from);
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
            Err(error) => self.note_trouble(&error, Duration::MAX).await,
            Ok(()) if self.store.as_mut().is_some_and(Store::has_been_erased_from) => self.forget_erased(),
            Ok(()) if self.has_backlog() => self.drain(pulse).await,
            Ok(()) if self.recorder.is_down() => drop(self.write(Batch::default(), pulse).await),
            Ok(()) => {}
        }
    }

    /// At the end of a drain: what could not be written is lost, and that is said.
    fn give_up(&self, batch: &Batch) {
        let waiting = self.recorder.queue.take(usize::MAX, &self.recorder.metrics);
        let mut live = self.recorder.live();
        let joined = |queued: &Queued| queued.answer.as_ref().map_or(0, |key| live.landed(key, false).events);
        let lost: u64 = batch.queued.iter().chain(&waiting).map(joined).sum();
        let lost = lost + batch.queued.iter().chain(&waiting).map(|queued| queued.events).sum::<u64>();
        drop(live);
        self.recorder.metrics.ledger.enter(|account| {
            account.in_flight -= lost;
            account.dropped += lost;
        });
        tracing::error!(events = lost, "stopping although these events could not be written");
    }

    /// Where the archive has been locked for long already, waiting longer keeps a stop up for nothing.
    fn gives_up_waiting(&self) -> bool {
        self.recorder.drain_is_over() || self.recorder.is_down()
    }

    async fn finish(&mut self) {
        if let Some(spool) = self.spool.as_ref().filter(|spool| !spool.is_empty()) {
            let (path, left) = (spool.path().display(), spool.backlog());
            tracing::warn!(%path, events = left.events, "the spool keeps what the archive has not; the next start writes it there");
        }
        self.tell_account(true);
        let Some(store) = &self.store else { return };
        let ledger = serde_json::to_string(&self.recorder.metrics.ledger.read()).unwrap_or_default();
        let mut finished = store.finish(now_ms(), &ledger);
        // Another process that writes, say a successor, lets go of the file between two commits.
        while finished.as_ref().is_err_and(|error| error.kind == ErrorKind::Busy) && !self.gives_up_waiting() {
            sleep(RETRY_FIRST).await;
            finished = store.finish(now_ms(), &ledger);
        }
        let finished = finished.and_then(|()| self.close_evidence());
        let Some(store) = self.store.take() else { return };
        if let Err(error) = finished.and_then(|()| store.close()) {
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

#[cfg(test)]
impl Writer {
    /// One without a thread, on an archive in a folder: a test lets it take its steps. `is_shared`: another process may have
    /// the spool.
    async fn idle(folder: &std::path::Path, config: super::Config, is_shared: bool) -> Self {
        let options = Options::plain(folder.join("a.db"));
        let store = Store::open(&options, &Run::plain()).await.expect("an archive");
        let (evidence, run, metrics) = (crate::archive::Config::default(), Run::plain(), Arc::default());
        let start = super::Start { config, evidence, store, options, run, metrics };
        let made = Recorder::with_writer(start, [7; 32], is_shared);
        made.expect("the spool is ours, too").1
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("it is open")
    }
}

/// What this thread logs until the guard is dropped, for a test.
///
/// Where there is only one subscriber, whether a line is of interest to it is asked once and for all on the thread that comes by
/// first (tracing-core, `has_just_one`): that may be another test's, which has none. So there is always a second one.
#[cfg(test)]
fn log(folder: &std::path::Path) -> (tracing::subscriber::DefaultGuard, impl Fn() -> String) {
    static SECOND: std::sync::LazyLock<tracing::Dispatch> =
        std::sync::LazyLock::new(|| tracing_subscriber::fmt().with_writer(std::io::sink).finish().into());
    std::sync::LazyLock::force(&SECOND);
    let path = folder.join("log");
    let file = Arc::new(std::fs::File::create(&path).expect("the folder is ours"));
    let guard = tracing::subscriber::set_default(tracing_subscriber::fmt().with_ansi(false).with_writer(file).finish());
    (guard, move || std::fs::read_to_string(&path).expect("it is there"))
}
