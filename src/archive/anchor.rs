//! Anchors: places outside the archive that get every checkpoint. A thread of its own brings them there, so that none holds
//! anything up; what an anchor does not take is tried again.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Checkpoints that wait for an anchor: a day of one a minute. A later one vouches for all before it, so that the oldest go.
const WAITING_MAX: usize = 1_440;
/// Between attempts.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How an anchor fares, for whoever counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It has taken so many.
    Took(usize),
    /// It took none: why.
    Refused(String),
}

/// An anchor's thread.
#[derive(Debug)]
pub struct Anchor {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    dropped: u64,
    is_closing: bool,
    is_ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Anchor {
    /// An append-only file. `news` is told what becomes of each attempt.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn file(path: PathBuf, news: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let run = move || {
            run(&theirs, &path, &news);
            theirs.lock().is_ended = true;
            theirs.changed.notify_all();
        };
        let thread = std::thread::Builder::new().name("anchor".into()).spawn(run)?;
        Ok(Self { shared, thread })
    }

    /// Hands it a checkpoint. Never waits.
    pub fn offer(&self, note: String) {
        let mut state = self.shared.lock();
        if state.waiting.len() == WAITING_MAX {
            state.waiting.pop_front();
            state.dropped += 1;
        }
        state.waiting.push_back(note);
        self.shared.changed.notify_all();
    }

    /// Lets it bring away what waits, for at most so long. How many are left, that no anchor has.
    pub fn close(self, patience: Duration) -> u64 {
        let until = Instant::now() + patience;
        let mut state = self.shared.lock();
        state.is_closing = true;
        self.shared.changed.notify_all();
        while !state.is_ended && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let (left, is_ended) = (state.waiting.len() as u64, state.is_ended);
        drop(state);
        if is_ended {
            let _ = self.thread.join(); // a thread that hangs in a file system of the network is left to itself
        }
        left
    }
}

/// Until it is closed and has brought away what it can.
fn run(shared: &Shared, path: &Path, news: &dyn Fn(News)) {
    let mut pause = None;
    loop {
        let notes = {
            let mut state = shared.lock();
            while state.waiting.is_empty() && !state.is_closing {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.waiting.is_empty() {
                return;
            }
            Vec::from(std::mem::take(&mut state.waiting))
        };
        match append(path, &notes) {
            Ok(()) => {
                pause = None;
                news(News::Took(notes.len()));
            }
            Err(error) => {
                news(News::Refused(format!("{}: {error}", path.display())));
                if put_back(shared, notes) {
                    return;
                }
                let length = pause.map_or(RETRY_FIRST, |pause: Duration| (pause * 2).min(RETRY_MAX));
                pause = Some(length);
                rest(shared, length);
            }
        }
    }
}

/// True where it is closing: then that was the last attempt.
fn put_back(shared: &Shared, notes: Vec<String>) -> bool {
    let mut state = shared.lock();
    for note in notes.into_iter().rev() {
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push_front(note);
        } else {
            state.dropped += 1;
        }
    }
    state.is_closing
}

fn rest(shared: &Shared, length: Duration) {
    let until = Instant::now() + length;
    let mut state = shared.lock();
    while !state.is_closing && Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// A line between notes; one more, where something torn lies before. Synced.
fn append(path: &Path, notes: &[String]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    let mut bytes = if ends_in_line(&mut file)? { String::new() } else { "\n".to_owned() };
    for note in notes {
        bytes.push_str(note);
        bytes.push('\n');
    }
    file.write_all(bytes.as_bytes())?;
    file.sync_data()
}

fn ends_in_line(file: &mut std::fs::File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn notes_are_appended_in_order_and_what_was_torn_stays_by_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("anchor");
        std::fs::write(&path, "torn").expect("the folder is ours");
        let (said, news) = channel();
        let anchor = Anchor::file(path.clone(), move |one| said.send(one).expect("heard")).expect("a thread");
        anchor.offer("a\n".into());
        assert_eq!(news.recv(), Ok(News::Took(1)));
        anchor.offer("b\n".into());
        assert_eq!(anchor.close(Duration::from_secs(30)), 0);
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "torn\na\n\nb\n\n");
    }

    #[test]
    fn an_anchor_that_is_down_holds_nothing_up_and_gets_all_of_it_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("missing/anchor");
        let (said, news) = channel();
        let anchor = Anchor::file(path.clone(), move |one| said.send(one).expect("heard")).expect("a thread");
        anchor.offer("a\n".into());
        assert!(matches!(news.recv(), Ok(News::Refused(why)) if why.contains("missing/anchor")));
        for n in 0..2 * WAITING_MAX {
            anchor.offer(format!("{n}\n"));
        }
        std::fs::create_dir(folder.path().join("missing")).expect("the folder is ours");
        while !matches!(news.recv(), Ok(News::Took(_))) {}
        assert_eq!(anchor.close(Duration::from_secs(30)), 0);
        let text = std::fs::read_to_string(&path).expect("it is there");
        let last = format!("{}\n\n", 2 * WAITING_MAX - 1);
        assert!(text.ends_with(&last) && text.lines().count() <= 2 * WAITING_MAX, "the oldest went");
    }

    #[test]
    fn at_the_stop_one_more_attempt_is_made_and_what_is_left_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let anchor = Anchor::file(folder.path().join("missing/anchor"), |_| {}).expect("a thread");
        anchor.offer("a\n".into());
        assert_eq!(anchor.close(Duration::from_secs(30)), 1);
    }
}
