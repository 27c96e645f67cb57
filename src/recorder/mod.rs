//! From an observation to a durable row: what is new is queued, written by one writer in groups, and answered with a
//! ticket that is honoured after the commit.
//!
//! This floor decides what happens when recording is unavailable (R3). It does not know HTTP or SQL.

mod live;
mod memory;
mod outage;
mod pledge;
mod background;
pub mod courier;
pub mod indexer;
pub mod keeper;
mod queue;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::archive;
use crate::chat::{ChatId, ContentDigest, Masking, Secret};
use crate::gms::mask::Masks;
use crate::gms::{ApiError, ChatAnswer, ChatKey, Coverage, Exchange, Finding, FindingKind, Observation, Policy};
use crate::store::{self, ChatRecord, Entry, ErrorRecord, ExchangeFacts, FileTransfer, Spool, Store};
use crate::telemetry::Repeated;
use crate::telemetry::metrics::Metrics;
use crate::units;
use serde::Deserialize;
use tokio::sync::broadcast;

use live::{Again, KnownAnswer, LiveChats};
use memory::{Committed, EventKey, HashKey};

pub use live::Fact;
pub use memory::{AnswerKey, Generations};
use outage::{Effect, Outages};
use pledge::{Kept, pledge};
use queue::{Queue, Queued};
use writer::{Evidence, EvidenceTrouble};

/// Chats whose secrets, sessions and attributes are kept in memory: a large centre's chats of some hours.
const LIVE_CHATS_MAX: usize = 30_000;
/// An error's log line is not repeated within this time, milliseconds (as its row folds, R11).
const LOG_AGAIN_MS: i64 = 60_000;
/// A node that answers for another chat may do so at every poll.
static MISMATCHES: Repeated = Repeated::new(5, Duration::from_secs(60));
/// Errors whose last log line is remembered.
const LOGGED_MAX: usize = 10_000;

/// The `[recording]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The SQLite file.
    pub database: PathBuf,
    /// Permissions of a file that is created, octal.
    pub file_mode: String,
    /// Whether a missing file is made.
    pub create: Create,
    /// When an answer with something new goes to the client.
    pub deliver: Deliver,
    /// What happens to answers that cannot be recorded.
    pub when_unavailable: WhenUnavailable,
    /// The spool file; empty: beside the database.
    pub spool: PathBuf,
    /// What the spool may hold.
    #[serde(deserialize_with = "units::size")]
    pub spool_bytes_max: usize,
    /// A file beside the database that is given back when its disk is full; 0: none.
    #[serde(deserialize_with = "units::size")]
    pub reserve: usize,
    /// How long an answer waits for its commit.
    #[serde(deserialize_with = "units::duration")]
    pub commit_wait_max: Duration,
    /// The longest answer that is held and read.
    #[serde(deserialize_with = "units::size")]
    pub body_max: usize,
    /// All answers held at one time together.
    #[serde(deserialize_with = "units::size")]
    pub inspected_bytes_max: usize,
    /// How much of a request body is read for attributes, positions and secrets.
    #[serde(deserialize_with = "units::size")]
    pub request_bytes_max: usize,
    /// How much of an unreadable body a finding keeps.
    #[serde(deserialize_with = "units::size")]
    pub finding_bytes_max: usize,
    /// What may wait to be written.
    #[serde(deserialize_with = "units::size")]
    pub queue_bytes_max: usize,
    /// Events in one transaction at most.
    pub batch_events_max: usize,
    /// Committed events remembered, so that repeated ones need no look at the file.
    pub memory_events_max: usize,
    /// Form fields of requestChat and updateData that become chat attributes.
    pub attributes: Vec<String>,
    /// Keep what customers typed and did not send.
    pub keep_typing_text: bool,
    /// Index what is recorded, so that it is found by its words.
    pub search: bool,
    /// What is masked: the section `[masking]`, compiled by whoever starts the recorder.
    #[serde(skip)]
    pub masks: Masks,
    /// A chat without traffic this long counts as over.
    #[serde(deserialize_with = "units::duration")]
    pub quiet_after: Duration,
    /// The same for asynchronous chats.
    #[serde(deserialize_with = "units::duration")]
    pub async_quiet_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: "transcripts.db".into(),
            file_mode: "0600".into(),
            create: Create::Missing,
            deliver: Deliver::AfterCommit,
            when_unavailable: WhenUnavailable::Pass,
            spool: PathBuf::new(),
            spool_bytes_max: 1 << 30,
            reserve: 16 << 20,
            commit_wait_max: Duration::from_millis(800),
            body_max: 8 << 20,
            inspected_bytes_max: 64 << 20,
            request_bytes_max: 64 << 10,
            finding_bytes_max: 64 << 10,
            queue_bytes_max: 32 << 20,
            batch_events_max: 1000,
            memory_events_max: 200_000,
            attributes: ["nickname", "firstName", "lastName", "emailAddress", "subject", "userData[*]"]
                .map(String::from)
                .into(),
            keep_typing_text: false,
            search: true,
            masks: Masks::default(),
            quiet_after: Duration::from_secs(3600),
            async_quiet_after: Duration::from_secs(7 * 86_400),
        }
    }
}

impl Config {
    /// Where the spool of an archive lies.
    pub fn spool_path(&self, database: &Path) -> PathBuf {
        if self.spool.as_os_str().is_empty() { store::beside(database, "-spool") } else { self.spool.clone() }
    }
}

/// `create`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Create {
    /// Make the file if there is none.
    Missing,
    /// Refuse to start without one.
    Never,
}

/// `deliver`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deliver {
    /// Commit and sync first.
    AfterCommit,
    /// Deliver at once and write behind.
    Immediately,
}

/// `when_unavailable`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnavailable {
    /// Deliver, and account for it.
    Pass,
    /// Let nothing unrecorded out.
    Refuse,
    /// Keep them in a second file, synced, until the archive takes them; where that cannot be done, as under `Pass`.
    Spool,
}

/// Takes observations from every thread of the proxy; one thread writes them.
#[derive(Debug)]
pub struct Recorder {
    config: Config,
    policy: Policy,
    hash_key: HashKey,
    /// Shared with everyone who counts.
    pub metrics: Arc<Metrics>,
    outages: Outages,
    queue: Queue,
    committed: Mutex<Committed>,
    live: Mutex<LiveChats>,
    logged: Mutex<Generations<u64, i64>>,
    closing: AtomicBool,
    leaves_spool: AtomicBool,
    writing: AtomicBool,
    drain_until: OnceLock<Instant>,
    reserve_is_out: AtomicBool,
    evidence_trouble: Mutex<EvidenceTrouble>,
    /// Why targets of exports get nothing, by their names.
    export_trouble: Mutex<BTreeMap<String, String>>,
}

/// What a recorder is made of.
#[derive(Debug)]
pub struct Start {
    /// `[recording]`
    pub config: Config,
    /// `[evidence]`
    pub evidence: archive::Config,
    /// The archive, opened.
    pub store: Store,
    /// How it is opened again.
    pub options: store::Options,
    /// The run that was begun in it.
    pub run: store::Run,
    /// Shared with everyone who counts.
    pub metrics: Arc<Metrics>,
}

/// The writer's thread. Close it, or what waits is lost.
#[derive(Debug)]
pub struct WriterThread {
    recorder: Arc<Recorder>,
    thread: JoinHandle<()>,
}

/// What is to happen with an answer.
#[derive(Debug)]
pub enum Recorded {
    /// It brought nothing that is not on disk.
    Nothing,
    /// It waits for its commit: ask [`Recorder::wait`].
    Held(Ticket),
    /// There was no room in the queue.
    QueueFull(Touched),
}

/// A place in the queue.
#[derive(Debug)]
pub struct Ticket {
    committed: Kept,
    touched: Touched,
}

/// Which events of which chats an answer holds, for the account of an outage.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    events: u64,
    chats: Vec<ChatId>,
}

/// May the client have the answer?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Deliver,
    /// No: it is not on disk, and `when_unavailable = "refuse"`.
    Refuse,
}

impl Recorder {
    /// Starts the writer on an opened archive.
    ///
    /// # Errors
    /// Where the thread cannot be started, no random numbers are to be had, or `when_unavailable = "spool"` and the spool
    /// cannot be used.
    pub fn start(start: Start) -> std::io::Result<WriterThread> {
        let mut digest_key = [0_u8; 32];
        getrandom::fill(&mut digest_key).map_err(std::io::Error::other)?;
        Self::begin(start, digest_key, false)
    }

    /// The same beside another process whose place it is to take: with the key of that one, whose facts it is to
    /// [`Recorder::learn`], and with the spool once that one has let it go.
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub fn start_with_key(start: Start, digest_key: [u8; 32]) -> std::io::Result<WriterThread> {
        Self::begin(start, digest_key, true)
    }

    fn begin(start: Start, digest_key: [u8; 32], is_shared: bool) -> std::io::Result<WriterThread> {
        let (recorder, writer) = Self::with_writer(start, digest_key, is_shared)?;
        let thread = writer::spawn(writer)?;
        Ok(WriterThread { recorder, thread })
    }

    fn with_writer(
        start: Start,
        digest_key: [u8; 32],
        is_shared: bool,
    ) -> std::io::Result<(Arc<Self>, writer::Writer)> {
        let Start { config, evidence, store, options, run, metrics } = start;
        let policy = Policy {
            decoded_bytes_max: config.body_max,
            finding_bytes_max: config.finding_bytes_max,
            attributes: config.attributes.clone(),
            keep_typing_text: config.keep_typing_text,
            masks: config.masks.clone(),
            digest_key,
        };
        let mut hash_key = [0_u8; 32];
        getrandom::fill(&mut hash_key).map_err(std::io::Error::other)?;
        let recorder = Arc::new(Self {
            policy,
            hash_key: HashKey::new(hash_key),
            metrics,
            outages: Outages::default(),
            queue: Queue::new(config.queue_bytes_max),
            committed: Mutex::new(Committed::new(config.memory_events_max)),
            live: Mutex::new(LiveChats::new(LIVE_CHATS_MAX)),
            logged: Mutex::new(Generations::new(LOGGED_MAX)),
            closing: AtomicBool::new(false),
            leaves_spool: AtomicBool::new(false),
            writing: AtomicBool::new(true),
            drain_until: OnceLock::new(),
            reserve_is_out: AtomicBool::new(false),
            evidence_trouble: Mutex::default(),
            export_trouble: Mutex::default(),
            config,
        });
        let (spool, awaits_spool) = match recorder.open_spool(&options) {
            Err(error) if error.kind == store::ErrorKind::Busy && is_shared => (None, true),
            opened => (opened.map_err(std::io::Error::other)?, false),
        };
        let evidence = Evidence::new(evidence, &recorder, is_shared)?;
        let writer = writer::Writer::new(recorder.clone(), options, run, store, spool, evidence, awaits_spool);
        Ok((recorder, writer))
    }

    /// How inspection is to be done.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Secrets of a chat seen in earlier exchanges, for [`crate::gms::inspect`].
    pub fn known_secrets(&self, chat_id: &ChatId) -> Vec<Secret> {
        self.live().secrets(chat_id)
    }

    /// What is known of live chats, and from now on what is learnt of them: for another process that serves them, too.
    pub fn share(&self) -> (Vec<Fact>, broadcast::Receiver<Fact>) {
        self.live().share()
    }

    /// Takes what another process knows of live chats.
    pub fn learn(&self, facts: impl IntoIterator<Item = Fact>) {
        facts.into_iter().for_each(|fact| self.live().take(fact));
    }

    /// Another process has taken this one's place: it gets the spool as soon as nothing in it is still to be written.
    pub fn leave_spool(&self) {
        self.leaves_spool.store(true, Ordering::Release);
    }

    /// Whether recording is known to be down.
    pub fn is_down(&self) -> bool {
        self.outages.is_down()
    }

    /// Whether the disk was full and its reserve is in use.
    pub fn is_reserve_out(&self) -> bool {
        self.reserve_is_out.load(Ordering::Acquire)
    }

    /// Whether the writer's thread lives. It ends at the stop, or by a defect.
    pub fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Acquire)
    }

    /// Whether what the archive does not take is kept in the spool.
    pub fn is_spooling(&self) -> bool {
        self.outages.spool_takes()
    }

    /// Since when recording is down (milliseconds since the epoch), the reason and the detail.
    pub fn outage(&self) -> Option<(i64, String, String)> {
        self.outages.current().filter(|_| self.is_down())
    }

    /// R3: must a request be refused before it is forwarded?
    pub fn refuses(&self) -> bool {
        self.config.when_unavailable == WhenUnavailable::Refuse && self.outages.is_waiting_vain()
    }

    /// Whether answers that cannot be recorded are delivered all the same.
    pub fn passes_unrecorded(&self) -> bool {
        self.config.when_unavailable != WhenUnavailable::Refuse
    }

    /// By what an exchange is recognised when it comes again.
    pub fn answer_key(&self, method: &str, path: &str, exchange: &Exchange<'_>) -> AnswerKey {
        self.hash_key.of_answer(method, path, exchange)
    }

    /// Whether the same answer to the same request was read before. Then it is accounted for here, and need not be read
    /// again: everything of it is on disk, or it waits for the commit that will bring it there.
    pub fn recognise(&self, key: &AnswerKey, node: Option<&Arc<str>>) -> Option<Recorded> {
        let mut live = self.live();
        match live.seen_again(key, now_ms(), node)? {
            Again::OnDisk(events) => {
                drop(live);
                self.metrics.memory_hits.inc_by(events);
                self.enter_seen(events, 0);
                Some(Recorded::Nothing)
            }
            Again::UnderWay(committed, events, chat_id) => {
                // Counted in before the writer, who needs `live` for that, counts it out.
                self.enter_seen(0, events);
                Some(Recorded::Held(Ticket { committed, touched: Touched { events, chats: vec![chat_id] } }))
            }
        }
    }

    /// Records what an exchange showed. Cheap where it showed nothing new; never waits.
    pub fn observe(
        &self,
        observation: Observation,
        key: AnswerKey,
        node: Option<&Arc<str>>,
        facts: impl FnOnce() -> Arc<ExchangeFacts>,
    ) -> Recorded {
        let now = now_ms();
        self.count(&observation);
        let answer = Self::plain_answer(&observation);
        if let Some(opened) = observation.opened {
            self.live().opened(opened);
        }
        if let Some(session) = observation.missed {
            self.live().missed(session);
        }
        let mut findings = observation.findings;
        let mut records = Vec::with_capacity(observation.chats.len());
        let mut keys = Vec::new();
        let mut known = 0;
        for answer in observation.chats {
            match self.sort_out(answer) {
                Ok(mut record) => {
                    known += self.keep_news(&mut record, &mut keys);
                    records.push(record);
                }
                Err(without_chat) => findings.extend(without_chat),
            }
        }
        if keys.is_empty() && observation.errors.is_empty() && findings.is_empty() {
            self.count_masked(records.iter().flat_map(ChatRecord::maskings));
            let mut live = self.live();
            records.into_iter().for_each(|record| live.put_off(now, node, record));
            if let Some(answer) = answer {
                let answer = live.renewed(answer);
                live.remember(key, answer);
            }
            drop(live);
            self.enter_seen(known, 0);
            return Recorded::Nothing;
        }
        let errors = match observation.errors.is_empty() {
            true => Vec::new(),
            false => self.audited(now, observation.errors, &facts()),
        };
        let entry = Entry { at: now, node: node.cloned(), chats: records, errors, findings, ..Entry::default() };
        self.enqueue(entry, keys, known, answer.map(|answer| (key, answer)))
    }

    /// An answer that says nothing but how one chat goes on: when it comes again, it says nothing new.
    ///
    /// Errors and findings are counted each time, and CometD's coverage depends on what the session had before.
    fn plain_answer(seen: &Observation) -> Option<KnownAnswer> {
        let [answer] = &seen.chats[..] else { return None };
        let ChatKey::Id(chat_id) = &answer.key else { return None };
        let is_plain = seen.errors.is_empty()
            && seen.findings.is_empty()
            && seen.opened.is_none()
            && seen.other_deliveries == 0
            && !seen.chat_id_mismatch
            && !matches!(answer.coverage, Coverage::Session { .. });
        is_plain.then(|| KnownAnswer::of(answer, chat_id))
    }

    /// A CometD session was given something that was not read (R6).
    pub fn missed(&self, session: ContentDigest) {
        self.live().missed(session);
    }

    /// Records an error that is no node's: the proxy's own answers, and clients that left. Nobody waits for it.
    pub fn audit(&self, error: ApiError, exchange: &Arc<ExchangeFacts>) {
        let now = now_ms();
        let errors = self.audited(now, vec![error], exchange);
        drop(self.enqueue(
            Entry { at: now, node: exchange.node.clone(), errors, ..Entry::default() },
            Vec::new(),
            0,
            None,
        ));
    }

    /// Records something that could not be read, outside of an inspected answer. Nobody waits for it.
    pub fn find(&self, finding: Finding, exchange: &Arc<ExchangeFacts>) {
        self.metrics.findings.get_or_create(&[("kind", finding.kind.as_str().into())]).inc();
        let (at, node) = (now_ms(), exchange.node.clone());
        drop(self.enqueue(Entry { at, node, findings: vec![finding], ..Entry::default() }, Vec::new(), 0, None));
    }

    /// Records a file that went through. Nobody waits for it: the event that tells of it is held as any other.
    pub fn transferred(&self, chat: Option<&ChatKey>, file: FileTransfer, node: Option<Arc<str>>) {
        let labels = [("direction", file.direction.as_str().into()), ("outcome", file.outcome.as_str().into())];
        self.metrics.file_transfers.get_or_create(&labels).inc();
        let chat_id = chat.and_then(|chat| self.chat_of(chat));
        let files = vec![FileTransfer { chat_id, ..file }];
        drop(self.enqueue(Entry { at: now_ms(), node, files, ..Entry::default() }, Vec::new(), 0, None));
    }

    fn chat_of(&self, key: &ChatKey) -> Option<ChatId> {
        match key {
            ChatKey::Id(chat_id) => Some(chat_id.clone()),
            ChatKey::SecureKey(digest) => self.live().by_secure_key(digest),
        }
    }

    /// R3: waits for the commit of an answer, at most `wait_max`, and says whether the client may have it.
    pub async fn wait(&self, recorded: Recorded, wait_max: Duration) -> Verdict {
        let (touched, reason) = match recorded {
            Recorded::Nothing => return Verdict::Deliver,
            Recorded::Held(_) if self.config.deliver == Deliver::Immediately => return Verdict::Deliver,
            Recorded::QueueFull(touched) => return self.verdict_on_dropped(&touched),
            Recorded::Held(ticket) if self.outages.is_waiting_vain() => (ticket.touched, "down"),
            Recorded::Held(ticket) => {
                let began = tokio::time::Instant::now();
                let committed = tokio::time::timeout(wait_max, ticket.committed).await;
                self.metrics.held_seconds.observe(began.elapsed().as_secs_f64());
                match committed {
                    Ok(true) => return Verdict::Deliver,
                    _ => (ticket.touched, "slow"),
                }
            }
        };
        self.verdict_on_waiting(&touched, reason)
    }

    /// Not on disk yet, but still in the queue: it will be.
    fn verdict_on_waiting(&self, touched: &Touched, reason: &str) -> Verdict {
        let (effect, verdict) = match self.config.when_unavailable {
            WhenUnavailable::Pass | WhenUnavailable::Spool => (Effect::DeliveredEarly, Verdict::Deliver),
            WhenUnavailable::Refuse => (Effect::Refused, Verdict::Refuse),
        };
        if verdict == Verdict::Deliver {
            self.metrics.ledger.enter(|account| account.delivered_early += touched.events);
        }
        self.outages.touch(now_ms(), reason, effect, touched.events, touched.chats.iter());
        verdict
    }

    /// No room to keep it: it will never be written.
    fn verdict_on_dropped(&self, touched: &Touched) -> Verdict {
        let refuse = self.config.when_unavailable == WhenUnavailable::Refuse;
        let effect = if refuse { Effect::Refused } else { Effect::Dropped };
        self.metrics.ledger.enter(|account| {
            account.in_flight -= touched.events;
            *(if refuse { &mut account.refused } else { &mut account.dropped }) += touched.events;
        });
        self.outages.touch(now_ms(), "queue_full", effect, touched.events, touched.chats.iter());
        self.queue.wake();
        if refuse { Verdict::Refuse } else { Verdict::Deliver }
    }

    fn count_masked<'m>(&self, maskings: impl Iterator<Item = &'m Masking>) {
        for masking in maskings {
            self.metrics.maskings.get_or_create(&[("rule", masking.rule.to_string())]).inc();
        }
    }

    fn count(&self, observation: &Observation) {
        self.metrics.other_deliveries.inc_by(observation.other_deliveries);
        if observation.chat_id_mismatch {
            self.metrics.chat_id_mismatches.inc();
            if let Some(not_shown) = MISMATCHES.admit(std::time::Instant::now()) {
                tracing::warn!(not_shown, "an answer names another chat than its path; the answer is believed");
            }
        }
        for finding in &observation.findings {
            self.metrics.findings.get_or_create(&[("kind", finding.kind.as_str().into())]).inc();
        }
    }

    /// One chat of an answer, and what of it is not known yet. Its events are findings where no chat is known for them.
    fn sort_out(&self, mut answer: ChatAnswer) -> Result<ChatRecord, Vec<Finding>> {
        let Some(chat_id) = self.chat_of(&answer.key) else { return Err(without_chat(answer)) };
        let mut live = self.live();
        live.learn(&chat_id, &answer);
        live.name_opened(&mut answer);
        let covered = live.covered(&chat_id, answer.coverage);
        Ok(live.unknown(&chat_id, &mut answer, covered))
    }

    /// Leaves the events that are not known to be on disk, and adds their keys. How many were known.
    fn keep_news(&self, record: &mut ChatRecord, keys: &mut Vec<EventKey>) -> u64 {
        if record.events.is_empty() {
            return 0;
        }
        let seen = record.events.len();
        let mut committed = self.committed();
        record.events.retain(|event| {
            let key = self.hash_key.of_event(&record.chat_id, event);
            let news = !committed.contains(&key);
            if news {
                keys.push(key);
            }
            news
        });
        let known = (seen - record.events.len()) as u64;
        self.metrics.memory_hits.inc_by(known);
        known
    }

    /// Counts in what an answer held, all at once: the account never shows an event that is nowhere.
    fn enter_seen(&self, known: u64, in_flight: u64) {
        if known + in_flight > 0 {
            self.metrics.ledger.enter(|account| {
                account.seen += known + in_flight;
                account.duplicate += known;
                account.in_flight += in_flight;
            });
        }
    }

    /// Errors as they will be rows; one structured log line for each, not repeated while it would fold.
    fn audited(&self, now: i64, errors: Vec<ApiError>, exchange: &Arc<ExchangeFacts>) -> Vec<ErrorRecord> {
        let records = errors.into_iter().map(|error| ErrorRecord { error, exchange: exchange.clone() });
        records
            .inspect(|record| {
                let error = &record.error;
                let labels =
                    [("origin", error.origin.as_str().to_string()), ("class", error.class.as_str().to_string())];
                self.metrics.api_errors.get_or_create(&labels).inc();
                if self.is_news(now, record) {
                    log_error(record);
                } else {
                    self.metrics.log_lines_hidden.inc();
                }
            })
            .collect()
    }

    fn is_news(&self, now: i64, record: &ErrorRecord) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let key = store::append::fold_key(record);
        // A clock that was set back makes it news.
        if logged.get_mut(&key).is_some_and(|at| (0..LOG_AGAIN_MS).contains(&(now - *at))) {
            return false;
        }
        logged.insert(key, now);
        true
    }

    fn enqueue(
        &self,
        entry: Entry,
        keys: Vec<EventKey>,
        known: u64,
        answer: Option<(AnswerKey, KnownAnswer)>,
    ) -> Recorded {
        self.count_masked(entry.maskings());
        let (pledge, committed) = pledge();
        let chats = entry.chats.iter().map(|chat| chat.chat_id.clone()).collect();
        let mut queued = Queued::new(entry, keys, Some(pledge));
        let touched = Touched { events: queued.events, chats };
        // Counted in before it can be counted out: the writer may be quicker than this thread.
        self.enter_seen(known, touched.events);
        let mut live = self.live();
        queued.entry.chats.iter().for_each(|record| live.sent(record));
        queued.answer = answer.as_ref().map(|(key, _)| *key);
        // Under the lock that the writer needs to tell that it is on disk.
        if self.queue.push(queued, &self.metrics).is_err() {
            return Recorded::QueueFull(touched);
        }
        if let Some((key, answer)) = answer {
            let answer = live.renewed(answer);
            live.under_way(key, answer);
        }
        Recorded::Held(Ticket { committed, touched })
    }

    /// The spool, where it is wanted or an earlier run has left one. What a crash has torn of it is returned too.
    fn open_spool(&self, options: &store::Options) -> Result<Option<(Spool, Vec<u8>)>, store::Error> {
        let path = self.config.spool_path(&options.path);
        let is_wanted = self.config.when_unavailable == WhenUnavailable::Spool;
        match Spool::open(&path, options.file_mode, self.config.spool_bytes_max as u64, is_wanted) {
            Ok(Some((spool, torn))) if is_wanted || !spool.is_empty() || !torn.is_empty() => Ok(Some((spool, torn))),
            Ok(_) => Ok(None),
            Err(error) if is_wanted => Err(error),
            Err(error) => {
                tracing::error!(%error, "there is a spool, and what it holds cannot be written into the archive");
                Ok(None)
            }
        }
    }

    fn live(&self) -> MutexGuard<'_, LiveChats> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn drain_is_over(&self) -> bool {
        self.drain_until.get().is_some_and(|until| Instant::now() > *until)
    }
}

impl WriterThread {
    /// The recorder it writes for.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Writes what waits, at most `drain_max` where the file takes nothing, notes the end of the run and closes the file.
    pub fn close(self, drain_max: Duration) {
        let _ = self.recorder.drain_until.set(Instant::now() + drain_max);
        self.recorder.closing.store(true, Ordering::Release);
        self.recorder.queue.wake();
        if self.thread.join().is_err() {
            tracing::error!("the writer ended abnormally");
        }
    }
}

/// Events that no chat could be found for: kept, but not as events.
fn without_chat(answer: ChatAnswer) -> Vec<Finding> {
    let finding = |event: crate::chat::TranscriptEvent| Finding {
        kind: FindingKind::EventsWithoutChat,
        chat_id: None,
        detail: "an event of an answer that names no chat, under a secureKey that no earlier answer had".into(),
        raw_length: event.raw.len(),
        raw: event.raw.into_bytes(),
        events: 1,
        maskings: event.maskings,
    };
    answer.events.into_iter().map(finding).collect()
}

fn log_error(record: &ErrorRecord) {
    let (error, exchange) = (&record.error, &record.exchange);
    tracing::warn!(
        target: "gms_recorder::audit",
        origin = error.origin.as_str(),
        http_status = error.http_status,
        status_code = error.status_code,
        format = error.format.as_str(),
        code = error.code,
        class = error.class.as_str(),
        meaning = error.meaning.as_deref(),
        field = error.field,
        detail = error.detail,
        advice = error.advice,
        reference_id = error.reference_id,
        service = error.service,
        operation = error.operation,
        chat_id = error.chat_id.as_ref().map(ChatId::as_str),
        node = exchange.node.as_deref(),
        client = exchange.client,
        path = exchange.path,
        request_id = exchange.request_id,
        trace_id = exchange.trace_id,
        duration_ms = exchange.duration_ms,
        "api error"
    );
}

/// The clock, read at the edge: milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
