//! Anchors: places outside the archive that get every checkpoint, or one now and then. Each has a thread of its own, so that
//! none holds anything or another one up; what an anchor does not take is tried again.

mod collector;
pub mod config;
mod file;
pub(in crate::archive) mod s3;
mod stamps;
pub(in crate::archive) mod web;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::note::Checkpoint;
use super::private;
use crate::store::seal::merkle::Hash;

pub use config::Config;

use web::Web;

/// Checkpoints that wait for an anchor: a day of one a minute. A later one vouches for all before it, so that the oldest go.
const WAITING_MAX: usize = 1_440;
/// Between attempts.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often a checkpoint is refused before another one shows whether the anchor has something against this one, or takes none.
const REFUSALS_MAX: u32 = 3;

/// A checkpoint on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The note.
    pub note: String,
}

impl Signed {
    /// What files and objects of it are named, without an ending: leaves, and when. In the order of the leaves.
    pub fn stem(&self) -> String {
        let at = Timestamp::from_millisecond(self.checkpoint.at).unwrap_or_default();
        format!("{:020}-{}", self.checkpoint.size, at.strftime("%Y%m%dT%H%M%S.%3fZ"))
    }
}

/// How an anchor fares, for whoever counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It has taken so many.
    Took(usize),
    /// It took none, and is asked again: why.
    Refused(String),
    /// It has something else in the place of one, which is given up: why.
    GaveUp(String),
    /// It does not take one, although it takes others; that one is given up: why.
    PassedOver(String),
}

/// Why a checkpoint is not taken, or a file of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::archive) enum Refusal {
    /// For now.
    Now(String),
    /// For now, and by what it says for what this one is.
    ThisOne(String),
    /// Something else has its place.
    Forever(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Now(why)
    }
}

impl Refusal {
    fn at(self, url: &str) -> Self {
        match self {
            Self::Now(why) => Self::Now(format!("{url}: {why}")),
            Self::ThisOne(why) => Self::ThisOne(format!("{url}: {why}")),
            Self::Forever(why) => Self::Forever(format!("{url}: {why}")),
        }
    }
}

/// The first one that waits, where the anchor has something against it.
#[derive(Debug)]
struct Suspect {
    signed: Arc<Signed>,
    refusals: u32,
    /// Another one was taken since.
    is_alone: bool,
}

impl Suspect {
    fn of(signed: &Arc<Signed>) -> Self {
        Self { signed: signed.clone(), refusals: 0, is_alone: false }
    }
}

/// An anchor's thread.
#[derive(Debug)]
pub struct Anchor {
    name: String,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    interval: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Signed>>,
    is_closing: bool,
    is_ended: bool,
}

impl Anchor {
    /// Starts one. `news` is told what becomes of each attempt.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(name: String, config: Config, news: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        let interval = config.interval();
        let shared = Arc::new(Shared { interval, state: Mutex::default(), changed: Condvar::default() });
        let theirs = shared.clone();
        let run = move || {
            theirs.run(&mut Place { config, web: None, lock: None }, &news);
            theirs.lock().is_ended = true;
            theirs.changed.notify_all();
        };
        let thread = std::thread::Builder::new().name("anchor".into()).spawn(run)?;
        Ok(Self { name, shared, thread })
    }

    /// As the configuration names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hands it a checkpoint. Never waits.
    pub fn offer(&self, signed: Arc<Signed>) {
        let mut state = self.shared.lock();
        // Where not each goes there, the last one stands for those before it.
        let is_full = state.waiting.len() == WAITING_MAX || !self.shared.interval.is_zero();
        if is_full {
            state.waiting.pop_front();
        }
        state.waiting.push_back(signed);
        self.shared.changed.notify_all();
    }

    /// Lets all of them bring away what waits, for at most so long. Which ones have how many left, that no anchor has.
    pub fn close(anchors: Vec<Self>, patience: Duration) -> Vec<(String, usize)> {
        let until = Instant::now() + patience;
        for Self { shared, .. } in &anchors {
            shared.lock().is_closing = true;
            shared.changed.notify_all();
        }
        let left = anchors.into_iter().map(|anchor| (anchor.name.clone(), anchor.end(until)));
        left.filter(|(_, left)| *left > 0).collect()
    }

    fn end(self, until: Instant) -> usize {
        let mut state = self.shared.lock();
        while !state.is_ended && Instant::now() < until {
            state = self.shared.wait(state, Some(until));
        }
        let (left, is_ended) = (state.waiting.len(), state.is_ended);
        drop(state);
        if is_ended {
            let _ = self.thread.join(); // a thread that hangs in a file system of the network is left to itself
        }
        left
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>, until: Option<Instant>) -> MutexGuard<'s, State> {
        let Some(until) = until else {
            return self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let left = until.saturating_duration_since(Instant::now());
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Until it is closed and has brought away what it can.
    fn run(&self, place: &mut Place, news: &dyn Fn(News)) {
        let (mut pause, mut due) = (None, Instant::now());
        let (mut suspect, mut is_closing): (Option<Suspect>, bool) = (None, false);
        while let Some(signed) = self.next(due) {
            suspect = suspect.filter(|suspect| Arc::ptr_eq(&suspect.signed, &signed[0]));
            // The last one vouches for all before it: where one of two can be brought, it is the better one.
            let is_detour = signed.len() > 1
                && suspect.as_ref().is_some_and(|it| !it.is_alone && (it.refusals >= REFUSALS_MAX || is_closing));
            let tried = if is_detour { &signed[signed.len() - 1..] } else { &signed[..] };
            // What servers send is read by others' code; whatever that does, the thread goes on.
            let brought = catch_unwind(AssertUnwindSafe(|| place.bring(tried)));
            let (taken, refusal) =
                brought.unwrap_or_else(|_| (0, Err(Refusal::ThisOne("the attempt panicked".into()))));
            let is_given_up = match &refusal {
                Err(Refusal::Forever(_)) => true,
                Err(Refusal::ThisOne(_)) => !is_detour && suspect.as_ref().is_some_and(|suspect| suspect.is_alone),
                _ => false,
            };
            is_closing = self.took(&tried[..taken + usize::from(is_given_up)]);
            if taken > 0 {
                news(News::Took(taken));
                pause = None;
            }
            // At the end each is tried once more, and another one than that which is refused for what it is.
            let mut goes_on = !is_closing;
            if let (Err(Refusal::ThisOne(_)), false) = (&refusal, is_given_up) {
                let suspect = suspect.get_or_insert_with(|| Suspect::of(&signed[0]));
                // After another one the first one is tried again, in turn.
                suspect.refusals = if is_detour { REFUSALS_MAX - 1 } else { suspect.refusals + 1 };
                goes_on |= !is_detour && signed.len() > 1;
            }
            due = match refusal {
                Ok(()) if is_detour => {
                    suspect.iter_mut().for_each(|suspect| suspect.is_alone = true);
                    Instant::now()
                }
                Ok(()) => Instant::now() + self.interval,
                Err(Refusal::Forever(why)) => {
                    news(News::GaveUp(why));
                    Instant::now()
                }
                Err(Refusal::ThisOne(why)) if is_given_up => {
                    news(News::PassedOver(why));
                    Instant::now()
                }
                Err(Refusal::Now(why) | Refusal::ThisOne(why)) => {
                    news(News::Refused(why));
                    if !goes_on {
                        return; // that was the last attempt
                    }
                    let length = pause.map_or(RETRY_FIRST, |pause: Duration| (pause * 2).min(RETRY_MAX));
                    pause = Some(length);
                    Instant::now() + length
                }
            };
        }
    }

    /// What waits, once it is due or at the end. None: it is closed, and nothing waits.
    fn next(&self, due: Instant) -> Option<Vec<Arc<Signed>>> {
        let mut state = self.lock();
        while !state.is_closing && (state.waiting.is_empty() || Instant::now() < due) {
            let until = (!state.waiting.is_empty()).then_some(due);
            state = self.wait(state, until);
        }
        (!state.waiting.is_empty()).then(|| state.waiting.iter().cloned().collect())
    }

    /// They are done with; others have come meanwhile, and some may have gone for them. True where it is closing.
    fn took(&self, done: &[Arc<Signed>]) -> bool {
        let mut state = self.lock();
        state.waiting.retain(|waiting| !done.iter().any(|done| Arc::ptr_eq(waiting, done)));
        state.is_closing
    }
}

/// Where an anchor is, and the way there.
#[derive(Debug)]
struct Place {
    config: Config,
    web: Option<Web>,
    lock: Option<s3::Known>,
}

impl Place {
    /// Brings all to a file, since that is one sync, and else the first one. How many it took, and why no more.
    fn bring(&mut self, signed: &[Arc<Signed>]) -> (usize, Result<(), Refusal>) {
        let (wanted, brought) = match (&self.config, signed) {
            (_, []) => (0, Ok(())),
            (Config::File(file), _) => (signed.len(), append(&file.path, signed)),
            (_, [first, ..]) => (1, self.bring_one(first)),
        };
        if brought.is_err() {
            self.web = None; // the next attempt reads CAs anew, and has other connections
        }
        (if brought.is_ok() { wanted } else { 0 }, brought)
    }

    fn bring_one(&mut self, signed: &Signed) -> Result<(), Refusal> {
        let (url, ca) = match &self.config {
            Config::File(_) => return Ok(()),
            Config::Http(http) => (&http.url, &http.ca),
            Config::S3(s3) => (&s3.url, &s3.ca),
            Config::TimeStamp(stamp) => (&stamp.url, &stamp.ca),
        };
        let web = match &self.web {
            Some(web) => web,
            None => self.web.insert(Web::new(ca)?),
        };
        let brought = match &self.config {
            Config::File(_) => Ok(()),
            Config::Http(http) => collector::post(http, web, signed),
            Config::S3(s3) => s3::put(s3, web, signed, &mut self.lock),
            Config::TimeStamp(stamp) => stamps::stamp(stamp, web, signed),
        };
        brought.map_err(|refusal| refusal.at(url))
    }
}

fn append(path: &Path, signed: &[Arc<Signed>]) -> Result<(), Refusal> {
    file::append(path, signed).map_err(|error| Refusal::Now(format!("{}: {error}", path.display())))
}

/// Whether an anchor would take checkpoints now, as far as that shows without leaving one there: how it is, in words.
///
/// # Errors
/// What is wrong with it.
pub fn look(config: &Config) -> Result<String, String> {
    match config {
        Config::File(file) => file::look(&file.path),
        Config::Http(http) => collector::look(http),
        Config::S3(s3) => s3::look(s3),
        Config::TimeStamp(stamp) => stamps::look(stamp),
    }
}

pub(in crate::archive) use file::look_at_folder;

fn random() -> Result<Hash, getrandom::Error> {
    let mut bytes = Hash::default();
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn read_up_to(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > bytes_max => Err(format!("is larger than {bytes_max} bytes")),
        Ok(_) => Ok(bytes),
    }
}

/// A secret of one line.
fn private_text(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(private::read(path)?).map(|text| text.trim().to_owned()).unwrap_or_default();
    let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(text) } else { Err(format!("{} is no token: one line of visible ASCII", path.display())) }
}

#[cfg(test)]
mod tests;
