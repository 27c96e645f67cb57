//! What all nodes share: the chats, the CometD sessions, the faults and the account. One lock over all of it, held for
//! the length of a few map lookups and never across an await.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::account::{Account, IssuedError};
use super::chats::{Chats, Conduct, Handed};
use super::cometd::Sessions;
use super::faults::{Fate, Faults};
use super::refusal::Spoken;
use super::{Config, ErrorFormat};

/// The nodes' common ground.
#[derive(Debug)]
pub(super) struct World {
    pub(super) services: Vec<String>,
    pub(super) error_format: ErrorFormat,
    pub(super) connect_hold: Duration,
    pub(super) websocket_deflate: bool,
    seed: u64,
    nodes: usize,
    exchanges: AtomicU64,
    faults: Mutex<Arc<Faults>>,
    state: Mutex<State>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) chats: Chats,
    pub(super) sessions: Sessions,
    pub(super) ledger: Ledger,
    /// Open media interactions by id.
    pub(super) interactions: BTreeSet<String>,
}

/// What is counted and noted beside the chats themselves.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) errors: Vec<IssuedError>,
    pub(super) requests: BTreeMap<String, Vec<u64>>,
    pub(super) messages: BTreeMap<String, u64>,
    pub(super) resets_before_reading: u64,
    pub(super) uploaded_bytes: u64,
}

/// What one answer holds that the account wants to know the arrival of.
#[derive(Debug, Default)]
pub(super) struct Receipt {
    pub(super) handed: Vec<Handed>,
    /// Positions in the ledger's errors.
    pub(super) errors: Vec<usize>,
}

impl Receipt {
    pub(super) fn add(&mut self, other: Self) {
        self.handed.extend(other.handed);
        self.errors.extend(other.errors);
    }
}

impl World {
    pub(super) fn new(config: &Config) -> Self {
        let conduct = Conduct {
            agent: config.agent.clone(),
            files: config.files.clone(),
            growth: config.growth,
            alias_every: config.alias_every,
            ended_refreshes: config.ended_refreshes,
        };
        let chats = Chats::new(config.seed, conduct);
        Self {
            services: config.services.clone(),
            error_format: config.error_format,
            connect_hold: config.connect_hold,
            websocket_deflate: config.websocket_deflate,
            seed: config.seed,
            nodes: config.listen.len(),
            exchanges: AtomicU64::new(0),
            faults: Mutex::new(Arc::new(config.faults.clone())),
            state: Mutex::new(State {
                chats,
                sessions: Sessions::default(),
                ledger: Ledger::default(),
                interactions: BTreeSet::new(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked under the lock did so in a test that fails anyway; the others go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(faults);
    }

    /// What the next exchange meets.
    pub(super) fn next_fate(&self) -> Fate {
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed) + 1;
        self.faults().fate(self.seed, number)
    }

    pub(super) fn count(&self, operation: &str, node: usize) {
        let nodes = self.nodes;
        let requests = &mut self.lock().ledger.requests;
        let by_node = requests.entry(operation.to_owned()).or_insert_with(|| vec![0; nodes]);
        if let Some(count) = by_node.get_mut(node) {
            *count += 1;
        }
    }

    pub(super) fn account(&self) -> Account {
        let state = self.lock();
        let ledger = &state.ledger;
        Account {
            chats: state.chats.account(),
            errors: ledger.errors.clone(),
            requests: ledger.requests.clone(),
            resets_before_reading: ledger.resets_before_reading,
            messages: ledger.messages.clone(),
            uploaded_bytes: ledger.uploaded_bytes,
        }
    }

    /// Lets the agents who owe a reply give it later.
    pub(super) fn let_agents_answer(self: &Arc<Self>) {
        let (due, delay) = {
            let mut state = self.lock();
            (state.chats.take_due(), Duration::from_millis(state.chats.conduct.agent.reply_delay_ms))
        };
        for reply in due {
            let world = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                world.lock().chats.give(&reply, now());
            });
        }
    }
}

impl State {
    /// Notes that an answer was written completely.
    pub(super) fn settle(&mut self, receipt: Receipt) {
        receipt.handed.into_iter().for_each(|handed| self.chats.delivered(handed));
        for position in receipt.errors {
            if let Some(error) = self.ledger.errors.get_mut(position) {
                error.delivered = true;
            }
        }
    }
}

impl Ledger {
    /// Enters the errors of a refusal.
    pub(super) fn issue(&mut self, spoken: &Spoken, node: usize, operation: &str, chat_id: Option<&str>) -> Receipt {
        let chat_id = chat_id.map(str::to_owned);
        let about =
            |error: IssuedError| IssuedError { node, operation: operation.into(), chat_id: chat_id.clone(), ..error };
        let first = self.errors.len();
        self.errors.extend(spoken.issued.iter().cloned().map(about));
        Receipt { handed: Vec::new(), errors: (first..self.errors.len()).collect() }
    }

    pub(super) fn received(&mut self, message: &str) {
        *self.messages.entry(message.to_owned()).or_default() += 1;
    }
}

/// Milliseconds since the epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
