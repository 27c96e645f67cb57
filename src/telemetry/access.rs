//! The access log: a line an exchange, to a file or stdout. Whoever has a line leaves it in a buffer of its own thread; one
//! thread writes what is in the buffers, so that no client ever waits for a disk or a pipe.

mod line;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use serde::Deserialize;

use super::metrics::Metrics;
use super::{Config, Repeated};

use line::Clock;
pub use line::{End, Line};

/// Lines that wait in one thread's buffer: some thousands. What comes while it is full is dropped and counted.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// A buffer that is this full is not left to wait.
const BUFFER_BYTES_URGENT: usize = 64 << 10;
/// The longest that a line waits.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// At the stop: how long the last lines may take, should nobody read our stdout.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// A disk that is full is so for every line.
static UNWRITTEN: Repeated = Repeated::new(2, Duration::from_secs(60));

/// `access`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Nothing is written.
    None,
    /// As Apache and nginx write it.
    Combined,
    /// One JSON object a line.
    Json,
}

impl Access {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Combined => "combined",
            Self::Json => "json",
        }
    }
}

/// The running access log.
#[derive(Debug)]
pub struct AccessLog {
    format: Access,
    sample: f64,
    shared: Arc<Shared>,
    writer: Thread,
    ended: Mutex<Receiver<()>>,
}

/// What the threads that have lines and the one that writes them share.
#[derive(Debug)]
struct Shared {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    reopen: AtomicBool,
    closing: AtomicBool,
    written: Counter,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Buffer(Mutex<Vec<u8>>);

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccessLog {
    /// Starts it, if there is to be one.
    ///
    /// # Errors
    /// Where its file cannot be opened, or the thread not be started.
    pub fn start(config: &Config, metrics: &Metrics) -> io::Result<Option<Self>> {
        if config.access == Access::None {
            return Ok(None);
        }
        let of_fate = |fate: &str| metrics.access_lines.get_or_create(&[("fate", fate.into())]).clone();
        let shared = Arc::new(Shared {
            buffers: Mutex::default(),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            written: of_fate("written"),
            dropped: of_fate("dropped"),
        });
        let (end, ended) = mpsc::channel();
        let mut output = Output::open(&config.access_file)?;
        let lines = shared.clone();
        let write = move || {
            lines.write(&mut output);
            drop(end);
        };
        let writer = thread::Builder::new().name("access-log".into()).spawn(write)?.thread().clone();
        let (format, sample) = (config.access, config.access_sample);
        Ok(Some(Self { format, sample, shared, writer, ended: Mutex::new(ended) }))
    }

    /// What a thread writes its lines with.
    pub fn pen(&self) -> Pen {
        let buffer = Arc::new(Buffer::default());
        self.shared.buffers().push(buffer.clone());
        let mut seed = [1; 8];
        let _ = getrandom::fill(&mut seed); // any other will do
        Pen {
            format: self.format,
            sample: self.sample,
            random: Cell::new(u64::from_le_bytes(seed) | 1),
            clock: RefCell::default(),
            buffer,
            dropped: self.shared.dropped.clone(),
            writer: self.writer.clone(),
        }
    }

    /// Goes on in a new file at the same path: the old one was moved away (logrotate).
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.writer.unpark();
    }

    /// Writes what waits, if it can be written soon.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.writer.unpark();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(CLOSE_MAX); // it says so by hanging up
    }
}

impl Shared {
    fn buffers(&self) -> MutexGuard<'_, Vec<Arc<Buffer>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, output: &mut Output) {
        let mut batch = Vec::new();
        loop {
            let is_closing = self.closing.load(Ordering::Acquire);
            let is_moved = self.reopen.swap(false, Ordering::AcqRel);
            let buffers = self.buffers().clone();
            for buffer in buffers {
                std::mem::swap(&mut *buffer.lock(), &mut batch);
                let written = output.write(&batch);
                let lines = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
                self.written.inc_by(lines(&batch[..written]));
                self.dropped.inc_by(lines(&batch[written..]));
                batch.clear();
            }
            if is_moved {
                output.reopen(); // what came before is in the old one
            }
            if is_closing {
                return;
            }
            thread::park_timeout(FLUSH_INTERVAL);
        }
    }
}

/// Where the lines go.
#[derive(Debug)]
struct Output {
    file: File,
    /// None: it is stdout.
    path: Option<PathBuf>,
    /// What was written last ends within a line: the disk was full.
    is_torn: bool,
}

impl Output {
    fn open(path: &Path) -> io::Result<Self> {
        let path = (!path.as_os_str().is_empty()).then(|| path.to_path_buf());
        let file = match &path {
            Some(path) => open(path)?,
            None => io::stdout().as_fd().try_clone_to_owned()?.into(),
        };
        Ok(Self { file, path, is_torn: false })
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(new) => (self.file, self.is_torn) = (new, false),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the access log cannot be opened anew; it goes on where it was")
            }
        }
    }

    /// How much of it could be written.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        if bytes.is_empty() || (self.is_torn && self.put(b"\n").is_none()) {
            return 0;
        }
        while written < bytes.len() {
            let Some(more) = self.put(&bytes[written..]) else { break };
            written += more;
            self.is_torn = bytes[..written].last() != Some(&b'\n');
        }
        written
    }

    fn put(&mut self, bytes: &[u8]) -> Option<usize> {
        match self.file.write(bytes) {
            Ok(0) => None,
            Ok(length) => Some(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(0),
            Err(error) => {
                if let Some(not_shown) = UNWRITTEN.admit(Instant::now()) {
                    tracing::error!(%error, not_shown, "the access log cannot be written; its lines are dropped");
                }
                None
            }
        }
    }
}

/// A log names clients and chats: a file that is made is its owner's. One that is there keeps its mode.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// What one thread writes its lines with.
#[derive(Debug)]
pub struct Pen {
    format: Access,
    sample: f64,
    random: Cell<u64>,
    clock: RefCell<Clock>,
    buffer: Arc<Buffer>,
    dropped: Counter,
    writer: Thread,
}

impl Pen {
    /// Leaves a line to be written, if it is one of the sample. Never waits.
    pub fn write(&self, line: &Line<'_>) {
        if !line.is_notable() && !self.draws() {
            return;
        }
        let mut buffer = self.buffer.lock();
        let before = buffer.len();
        line.append(&mut buffer, self.format, &mut self.clock.borrow_mut());
        let after = buffer.len();
        if after > BUFFER_BYTES_MAX {
            buffer.truncate(before);
            self.dropped.inc();
        }
        drop(buffer);
        if before < BUFFER_BYTES_URGENT && after >= BUFFER_BYTES_URGENT {
            self.writer.unpark();
        }
    }

    /// Whether a line is of the sample: xorshift, which is random enough for that.
    fn draws(&self) -> bool {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        ((random >> 11) as f64) < self.sample * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(file: &Path, sample: f64) -> Config {
        Config { access: Access::Json, access_file: file.into(), access_sample: sample, ..Config::default() }
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path).expect("it is there").lines().count()
    }

    fn of_fate(metrics: &Metrics, fate: &str) -> u64 {
        metrics.access_lines.get_or_create(&[("fate", fate.into())]).get()
    }

    #[test]
    fn a_sample_is_taken_of_what_is_not_notable() {
        let folder = tempfile::tempdir().expect("a folder");
        for (sample, least, most) in [(0.0, 0, 0), (0.25, 400, 600), (1.0, 2_000, 2_000)] {
            let (path, metrics) = (folder.path().join(format!("{sample}.log")), Metrics::default());
            let log = AccessLog::start(&config(&path, sample), &metrics).expect("it starts").expect("there is one");
            let pen = log.pen();
            for _ in 0..2_000 {
                pen.write(&Line { status: 200, ..line::tests::example() });
            }
            for _ in 0..10 {
                pen.write(&Line { status: 404, ..line::tests::example() });
            }
            log.close();
            let written = lines(&path);
            assert!((least + 10..=most + 10).contains(&written), "{written} of a sample of {sample}");
            assert_eq!(of_fate(&metrics, "written"), written as u64);
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::start(&config(&path, 1.0), &Metrics::default()).expect("it starts").expect("there is one");
        let pen = log.pen();
        pen.write(&line::tests::example());
        let until = Instant::now() + Duration::from_secs(10);
        while lines(&path) == 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        std::fs::rename(&path, &moved).expect("the folder is ours");
        log.reopen();
        while !path.exists() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        pen.write(&line::tests::example());
        pen.write(&line::tests::example());
        log.close();
        assert_eq!((lines(&moved), lines(&path)), (1, 2));
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let metrics = Metrics::default();
        let (pen, buffer) = {
            let folder = tempfile::tempdir().expect("a folder");
            let log = AccessLog::start(&config(&folder.path().join("a"), 1.0), &metrics).expect("it starts");
            let log = log.expect("there is one");
            log.close(); // nobody writes any more
            let pen = log.pen();
            let buffer = pen.buffer.clone();
            (pen, buffer)
        };
        let path = "p".repeat(1_000);
        for _ in 0..2_000 {
            pen.write(&Line { path: &path, ..line::tests::example() });
        }
        let kept = memchr::memchr_iter(b'\n', &buffer.lock()).count() as u64;
        assert!(buffer.lock().len() <= BUFFER_BYTES_MAX && buffer.lock().ends_with(b"}\n"));
        assert_eq!(kept + of_fate(&metrics, "dropped"), 2_000);
        assert!(kept > 700, "{kept}");
    }

    #[test]
    fn a_full_disk_tears_no_line_but_its_own() {
        let metrics = Metrics::default();
        let log = AccessLog::start(&config(Path::new("/dev/full"), 1.0), &metrics).expect("it opens").expect("one");
        log.pen().write(&line::tests::example());
        log.close();
        assert_eq!((of_fate(&metrics, "written"), of_fate(&metrics, "dropped")), (0, 1));
        // After a line that was cut, the next one begins on a line of its own.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let mut output = Output::open(&path).expect("it opens");
        assert_eq!(output.write(b"one\ntw"), 6);
        assert_eq!(output.write(b""), 0);
        assert_eq!(output.write(b"three\n"), 6);
        assert_eq!(output.write(b"four\n"), 5);
        assert_eq!(std::fs::read(&path).expect("it is there"), b"one\ntw\nthree\nfour\n");
    }
}
