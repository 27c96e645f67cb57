//! The spool: a second file that keeps entries while the archive takes none. Appended to and synced like a log, read back
//! in order, emptied once all of it is in the archive.
//!
//! It knows its own bytes and what goes wrong with its file; when it is used is the recorder's to say.
//!
//! # The format, version 1
//!
//! Numbers are little-endian. A head of 32 bytes: `GMSSPOL` and the version; an identity of 16 random bytes, another one for
//! each filling; a checksum of all that. Then records: `\nREC`; the length of the payload (4 bytes); when it was observed
//! (8, milliseconds since the epoch); how many events it holds (4); a checksum of 8 bytes; the payload, a [`Payload`] as
//! JSON. A checksum is the first 8 bytes of SHA-256, a record's over the identity, its position in the file, its head and
//! its payload: nothing that was written at another time or place passes for a record.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memmem;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Entry, Error, ErrorKind, FileIdentity, identity};

const MAGIC: &[u8; 7] = b"GMSSPOL";
const VERSION: u8 = 1;
const HEAD_BYTES: u64 = 32;
const RECORD: &[u8; 4] = b"\nREC";
const RECORD_HEAD_BYTES: usize = 28;
const CHECKSUM_BYTES: usize = 8;
/// What is read at one time in search of the next record.
const SEARCH_BYTES: usize = 64 << 10;
/// So much of a damaged stretch is kept to be looked at.
const DAMAGED_BYTES_MAX: u64 = 64 << 10;
/// Of a chunk that is read back: some answers of the largest size, far below what the queue may hold.
const CHUNK_BYTES_MAX: u64 = 8 << 20;

/// Bytes of records in the file at `path`: a spool that is empty has a head, or is none.
pub fn waiting_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len().saturating_sub(HEAD_BYTES))
}

/// What a record says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload<'e> {
    /// What one exchange brought.
    Entry(Cow<'e, Entry>),
    /// From here on the archive took nothing.
    Began(Began),
}

/// The beginning of an outage: what its row needs to know if this process does not live to write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// One of [`ErrorKind::as_str`].
    pub reason: String,
    /// The error's words.
    pub detail: String,
}

/// A stretch of the file, in order.
#[derive(Debug)]
pub struct Piece {
    /// Where it ends: the file up to here is in the archive once it is written.
    pub end: u64,
    /// Events in it, as the account counts them.
    pub events: u64,
    /// What it holds.
    pub content: Content,
}

/// What a stretch of the file holds.
#[derive(Debug)]
pub enum Content {
    /// A record that is whole.
    Whole(Payload<'static>),
    /// Bytes that are none, the first [`DAMAGED_BYTES_MAX`] of them, and how many there are.
    Damaged(Vec<u8>, u64),
}

/// What is in a spool and not yet in the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Records.
    pub records: u64,
    /// Events in them.
    pub events: u64,
    /// When the first of them was observed, milliseconds since the epoch.
    pub oldest_at: Option<i64>,
}

/// An open spool file, which nobody else has.
#[derive(Debug)]
pub struct Spool {
    file: File,
    path: PathBuf,
    place: Option<FileIdentity>,
    file_mode: u32,
    bytes_max: u64,
    /// Of this filling; none where the head is still to be written.
    id: Option<[u8; 16]>,
    /// Everything before is written and synced.
    end: u64,
    /// Everything before is in the archive.
    drained_to: u64,
    backlog: Backlog,
    /// There may be bytes after `end`, of a write that failed.
    is_torn: bool,
}

/// Twenty milliseconds.
const LOCK_ATTEMPTS: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

struct Record {
    end: u64,
    at: i64,
    events: u64,
    payload: Vec<u8>,
}

/// For a moment it may be that of a process which was just forked from this one, and has what was open here until it is another
/// program.
fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
    file.try_lock()
}

impl Spool {
    /// Opens the file at `path`, and makes it where there is none and `create` allows it. None where there is none.
    ///
    /// A last record that a crash has torn is cut off; its bytes are returned. Nobody was told that it is kept.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where another process has it, [`ErrorKind::NotAnArchive`] where it is no spool of ours,
    /// [`ErrorKind::Corrupt`] where its head is damaged, and all that opening a file has.
    pub fn open(path: &Path, file_mode: u32, bytes_max: u64, create: bool) -> Result<Option<(Self, Vec<u8>)>, Error> {
        let opened = OpenOptions::new().read(true).write(true).create(create).mode(file_mode).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            opened => opened.map_err(|error| of_io(path, &error))?,
        };
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process has the spool {}", path.display());
                return Err(Error::new(ErrorKind::Busy, message));
            }
            Err(TryLockError::Error(error)) => return Err(of_io(path, &error)),
        }
        let mut spool = Self {
            file,
            path: path.to_owned(),
            place: identity(path),
            file_mode,
            bytes_max,
            id: None,
            end: HEAD_BYTES,
            drained_to: HEAD_BYTES,
            backlog: Backlog::default(),
            is_torn: false,
        };
        let torn = spool.take_stock().map_err(|error| spool.says(error))?;
        if create && spool.id.is_none() {
            spool.begin().and_then(|()| sync_folder(path)).map_err(|error| of_io(path, &error))?;
        }
        Ok(Some((spool, torn)))
    }

    /// Reads the file from end to end. Returns what was cut off.
    fn take_stock(&mut self) -> Result<Vec<u8>, Trouble> {
        let length = self.file.metadata()?.len();
        let mut head = [0; HEAD_BYTES as usize];
        let head_bytes = length.min(HEAD_BYTES) as usize;
        self.file.read_exact_at(&mut head[..head_bytes], 0)?;
        // A head is synced before the first record is written: one that is torn has nothing behind it.
        let Some(id) = read_head(&head) else {
            let is_ours = head[..head_bytes].iter().zip(MAGIC).all(|(byte, magic)| byte == magic || *byte == 0);
            return match length {
                ..=HEAD_BYTES if is_ours => Ok(Vec::new()),
                _ if head[..7] == *MAGIC && head[7] != VERSION => Err(Trouble::Version(head[7])),
                _ if is_ours => Err(Trouble::Head),
                _ => Err(Trouble::Foreign),
            };
        };
        self.id = Some(id);
        while let Some((_, record)) = self.next_record(self.end, length)? {
            self.end = record.end;
            self.backlog.records += 1;
            self.backlog.events += record.events;
            self.backlog.oldest_at.get_or_insert(record.at);
        }
        if self.end == length {
            return Ok(Vec::new());
        }
        let mut torn = vec![0; (length - self.end).min(DAMAGED_BYTES_MAX) as usize];
        self.file.read_exact_at(&mut torn, self.end)?;
        self.is_torn = true;
        self.cut()?;
        Ok(torn)
    }

    /// Passes over what is in the archive already: `position` bytes of this filling, as the archive says. Nothing where no
    /// record begins there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn skip_to(&mut self, position: u64) -> Result<(), Error> {
        let (mut at, mut passed) = (self.drained_to, Backlog::default());
        while at < position.min(self.end) {
            let found = self.next_record(at, self.end).map_err(|error| of_io(&self.path, &error))?;
            let Some((_, record)) = found else { return Ok(()) };
            passed.records += 1;
            passed.events += record.events;
            at = record.end;
        }
        if at == position || at == self.end && position > self.end {
            self.pass(at, passed.records, passed.events);
        }
        Ok(())
    }

    /// Appends records and syncs them: all of them are kept when it returns, or none.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] at `bytes_max` or on a full disk; else as writing goes wrong.
    pub fn append(&mut self, payloads: &[Payload<'_>]) -> Result<(), Error> {
        if identity(&self.path) != self.place && self.is_empty() {
            let anew = Self::open(&self.path, self.file_mode, self.bytes_max, true)?;
            *self = anew.map_or_else(|| unreachable!("it is made where there is none"), |(spool, _)| spool);
        }
        if identity(&self.path) != self.place {
            let message = format!("the spool {} was moved or removed", self.path.display());
            return Err(Error::new(ErrorKind::Replaced, message));
        }
        let id = self.ready().map_err(|error| of_io(&self.path, &error))?;
        let (mut bytes, mut added) = (Vec::new(), Backlog::default());
        for payload in payloads {
            let (at, events) = match payload {
                Payload::Entry(entry) => (entry.at, entry.events()),
                Payload::Began(began) => (began.at, 0),
            };
            encode(&mut bytes, &id, self.end, at, events, payload)?;
            added.records += 1;
            added.events += events;
            added.oldest_at.get_or_insert(at);
        }
        if self.end + bytes.len() as u64 > self.bytes_max {
            let message = format!("the spool {} has reached spool_bytes_max", self.path.display());
            return Err(Error::new(ErrorKind::Full, message));
        }
        let written = self.file.write_all_at(&bytes, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // After a failed sync nothing is known of the pages: they are written anew, or not at all.
            self.is_torn = true;
            let _ = self.cut();
            return Err(of_io(&self.path, &error));
        }
        self.end += bytes.len() as u64;
        self.backlog.records += added.records;
        self.backlog.events += added.events;
        self.backlog.oldest_at = self.backlog.oldest_at.or(added.oldest_at);
        Ok(())
    }

    /// What comes next, about `events_max` events of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, events_max: u64) -> Result<Vec<Piece>, Error> {
        let (mut pieces, mut events, mut at) = (Vec::new(), 0, self.drained_to);
        while at < self.end && events < events_max && at - self.drained_to < CHUNK_BYTES_MAX {
            let found = self.next_record(at, self.end).map_err(|error| of_io(&self.path, &error))?;
            let whole_from = found.as_ref().map_or(self.end, |(from, _)| *from);
            if whole_from > at {
                let bytes = self.bytes(at, whole_from).map_err(|error| of_io(&self.path, &error))?;
                pieces.push(Piece { end: whole_from, events: 0, content: Content::Damaged(bytes, whole_from - at) });
            }
            let Some((from, record)) = found else { break };
            let content = match serde_json::from_slice(&record.payload) {
                Ok(payload) => Content::Whole(payload),
                Err(_) => Content::Damaged(record.payload, record.end - from),
            };
            events += record.events.max(1);
            pieces.push(Piece { end: record.end, events: record.events, content });
            at = record.end;
        }
        Ok(pieces)
    }

    /// Notes that pieces are in the archive, committed. Once all of them are, the file is emptied; then it returns how many
    /// events were counted and not found again, which is 0 on a sound disk.
    pub fn drained(&mut self, pieces: &[Piece]) -> Option<u64> {
        let end = pieces.last().map_or(self.drained_to, |piece| piece.end);
        let whole = pieces.iter().filter(|piece| matches!(piece.content, Content::Whole(_))).count() as u64;
        self.pass(end, whole, pieces.iter().map(|piece| piece.events).sum());
        if self.drained_to < self.end {
            return None;
        }
        let lost = std::mem::take(&mut self.backlog).events;
        self.id = None;
        let _ = self.begin(); // else before the next record; a file that is drained and still there is passed over
        Some(lost)
    }

    /// What is not yet in the archive.
    pub fn backlog(&self) -> Backlog {
        self.backlog
    }

    /// Whether all of it is in the archive.
    pub fn is_empty(&self) -> bool {
        self.drained_to == self.end
    }

    /// Where it ends: bytes in the file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of this filling, 32 hex digits.
    pub fn id(&self) -> String {
        self.id.iter().flatten().map(|byte| format!("{byte:02x}")).collect()
    }

    fn pass(&mut self, end: u64, records: u64, events: u64) {
        self.drained_to = end;
        self.backlog.records = self.backlog.records.saturating_sub(records);
        self.backlog.events = self.backlog.events.saturating_sub(events);
        let next = self.next_record(end, self.end).ok().flatten();
        self.backlog.oldest_at = next.map(|(_, record)| record.at);
    }

    /// The identity to write under, with nothing after the end.
    fn ready(&mut self) -> io::Result<[u8; 16]> {
        if self.id.is_none() {
            self.begin()?;
        }
        self.cut()?;
        Ok(self.id.expect("begun above"))
    }

    /// A new filling.
    fn begin(&mut self) -> io::Result<()> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        self.file.set_len(0)?;
        self.file.write_all_at(&written_head(&id), 0)?;
        self.file.sync_data()?;
        (self.id, self.end, self.drained_to, self.is_torn) = (Some(id), HEAD_BYTES, HEAD_BYTES, false);
        Ok(())
    }

    /// What a failed write has left must not be there when the next one ends before it.
    fn cut(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.end)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// The first record from `from` on that is whole, and where it begins. It begins at `from` on a sound disk.
    fn next_record(&self, from: u64, limit: u64) -> io::Result<Option<(u64, Record)>> {
        if let Some(record) = self.record_at(from, limit)? {
            return Ok(Some((from, record)));
        }
        let mut at = from + 1;
        while at < limit {
            let block = self.bytes_at(at, (limit - at).min(SEARCH_BYTES as u64) as usize)?;
            for found in memmem::find_iter(&block, RECORD) {
                let start = at + found as u64;
                if let Some(record) = self.record_at(start, limit)? {
                    return Ok(Some((start, record)));
                }
            }
            // The next block begins with the last bytes of this one: the mark may lie across.
            at += (block.len().saturating_sub(RECORD.len() - 1)).max(1) as u64;
        }
        Ok(None)
    }

    fn record_at(&self, position: u64, limit: u64) -> io::Result<Option<Record>> {
        let Some(room) = limit.saturating_sub(position).checked_sub(RECORD_HEAD_BYTES as u64) else { return Ok(None) };
        let head = self.bytes_at(position, RECORD_HEAD_BYTES)?;
        let (said, checksum) = head.split_at(RECORD_HEAD_BYTES - CHECKSUM_BYTES);
        let length = u64::from(u32::from_le_bytes(four(&said[4..])));
        if said[..4] != *RECORD || length > room {
            return Ok(None);
        }
        let payload = self.bytes_at(position + RECORD_HEAD_BYTES as u64, length as usize)?;
        let id = self.id.unwrap_or_default();
        if checksum_of(&[&id, &position.to_le_bytes(), said, &payload]) != checksum {
            return Ok(None);
        }
        let [low, high] = [four(&said[8..]), four(&said[12..])].map(u32::from_le_bytes);
        let at = (u64::from(high) << 32 | u64::from(low)).cast_signed();
        let events = u64::from(u32::from_le_bytes(four(&said[16..])));
        Ok(Some(Record { end: position + RECORD_HEAD_BYTES as u64 + length, at, events, payload }))
    }

    fn bytes(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        self.bytes_at(from, (to - from).min(DAMAGED_BYTES_MAX) as usize)
    }

    fn bytes_at(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    fn says(&self, trouble: Trouble) -> Error {
        let path = self.path.display();
        match trouble {
            Trouble::Io(error) => of_io(&self.path, &error),
            Trouble::Version(version) => Error::new(
                ErrorKind::NotAnArchive,
                format!("{path} is a spool of a newer release (version {version}); let that one drain it"),
            ),
            Trouble::Foreign => {
                Error::new(ErrorKind::NotAnArchive, format!("{path} is no spool of gms-recorder; move it away"))
            }
            Trouble::Head => Error::new(
                ErrorKind::Corrupt,
                format!("the head of the spool {path} is damaged; keep the file and move it away"),
            ),
        }
    }
}

enum Trouble {
    Io(io::Error),
    Version(u8),
    Foreign,
    Head,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn written_head(id: &[u8; 16]) -> [u8; HEAD_BYTES as usize] {
    let mut head = [0; HEAD_BYTES as usize];
    head[..7].copy_from_slice(MAGIC);
    head[7] = VERSION;
    head[8..24].copy_from_slice(id);
    let checksum = checksum_of(&[&head[..24]]);
    head[24..].copy_from_slice(&checksum);
    head
}

/// The identity, where the head is whole.
fn read_head(head: &[u8; HEAD_BYTES as usize]) -> Option<[u8; 16]> {
    let id = *head[8..].first_chunk()?;
    (written_head(&id) == *head).then_some(id)
}

/// Adds a record to `bytes`, which will be written at `begin`.
fn encode(
    bytes: &mut Vec<u8>,
    id: &[u8; 16],
    begin: u64,
    at: i64,
    events: u64,
    payload: &Payload<'_>,
) -> Result<(), Error> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    let unwritable =
        |why: &dyn std::fmt::Display| Error::new(ErrorKind::Other, format!("no record of the spool: {why}"));
    serde_json::to_writer(&mut *bytes, payload).map_err(|error| unwritable(&error))?;
    let (head, payload) = bytes[start..].split_at_mut(RECORD_HEAD_BYTES);
    let length = u32::try_from(payload.len()).map_err(|_| unwritable(&"more than 4 GiB"))?;
    head[..4].copy_from_slice(RECORD);
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..16].copy_from_slice(&at.to_le_bytes());
    head[16..20].copy_from_slice(&u32::try_from(events).unwrap_or(u32::MAX).to_le_bytes());
    let (said, checksum) = head.split_at_mut(RECORD_HEAD_BYTES - CHECKSUM_BYTES);
    checksum.copy_from_slice(&checksum_of(&[id, &(begin + start as u64).to_le_bytes(), said, payload]));
    Ok(())
}

fn checksum_of(parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hasher.finalize()[..CHECKSUM_BYTES]);
    checksum
}

fn four(bytes: &[u8]) -> [u8; 4] {
    *bytes.first_chunk().expect("a record's head has 28 bytes")
}

/// A file that is made is on disk once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn of_io(path: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => ErrorKind::ReadOnly,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => ErrorKind::CannotOpen,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the spool {}: {error}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests;
