//! Which node a CometD session lives in, by a hash of the cookie that the node gave it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::broadcast;

use crate::recorder::Generations;

/// CometD sessions whose node is remembered.
const SESSIONS_MAX: usize = 100_000;
/// Sessions that wait to be told of: some seconds of a busy proxy's.
const UNTOLD_MAX: usize = 4_096;

/// The hash of a session's cookie, and the name of its node.
pub type Session = (u64, Arc<str>);

/// The sessions of all nodes.
#[derive(Debug)]
pub struct Sessions {
    known: Mutex<Generations<u64, Arc<str>>>,
    /// While another process serves them, too.
    learnt: OnceLock<broadcast::Sender<Session>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { known: Mutex::new(Generations::new(SESSIONS_MAX)), learnt: OnceLock::new() }
    }
}

impl Sessions {
    /// A node has given this cookie, or another process says so.
    pub fn learn(&self, (cookie, node): Session) {
        let mut known = self.known();
        let is_news = known.get_mut(&cookie).is_none_or(|known| *known != node);
        if is_news {
            known.insert(cookie, node.clone());
        }
        drop(known);
        if let Some(learnt) = self.learnt.get().filter(|learnt| is_news && learnt.receiver_count() > 0) {
            let _ = learnt.send((cookie, node)); // whoever listened may just have gone
        }
    }

    /// The node that gave it.
    pub fn node(&self, cookie: u64) -> Option<Arc<str>> {
        self.known().get_mut(&cookie).cloned()
    }

    /// All that are known, and from then on those that are learnt.
    pub fn share(&self) -> (Vec<Session>, broadcast::Receiver<Session>) {
        let learnt = self.learnt.get_or_init(|| broadcast::Sender::new(UNTOLD_MAX)).subscribe();
        let known = self.known().iter_mut().map(|(cookie, node)| (*cookie, node.clone())).collect();
        (known, learnt) // one that is learnt meanwhile is told twice
    }

    fn known(&self) -> MutexGuard<'_, Generations<u64, Arc<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
