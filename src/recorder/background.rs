//! A thread that does something with the archive now and then, below the writer and the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a stop waits for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Below the writer, which is below the proxy.
const NICENESS: i32 = 10;

/// The thread.
#[derive(Debug)]
pub(super) struct Background {
    stop: Arc<AtomicBool>,
    wake: Sender<()>,
    thread: JoinHandle<()>,
}

/// What the thread has of it.
#[derive(Debug)]
pub(super) struct Turns {
    /// Set once it is to end: long work looks at it.
    pub(super) stop: Arc<AtomicBool>,
    woken: Receiver<()>,
}

impl Background {
    /// Runs it on a thread of that name.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub(super) fn start(name: &str, run: impl FnOnce(Turns) + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let turns = Turns { stop: stop.clone(), woken };
        let body = move || {
            // Not permitted where somebody has forbidden it: then it has the proxy's priority.
            let _ = rustix::process::nice(NICENESS);
            run(turns);
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(Self { stop, wake, thread })
    }

    fn tell(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.send(()); // where it has ended by itself
    }

    /// Ends it within a transaction's time. One that is busy with something longer is left to itself: it ends with the
    /// process, and nothing it does is ever half done.
    pub(super) fn stop(self) {
        Self::stop_all(vec![self]);
    }

    /// The same of several, at the same time.
    pub(super) fn stop_all(all: Vec<Self>) {
        all.iter().for_each(Self::tell);
        let until = Instant::now() + PATIENCE;
        while all.iter().any(|one| !one.thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Turns {
    /// Waits for the next turn. False where it is to end.
    pub(super) fn next(&self, pause: Duration) -> bool {
        self.woken.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }

    /// Whether it is to end.
    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
