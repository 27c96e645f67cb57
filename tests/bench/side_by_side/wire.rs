//! The little of sockets and of HTTP/1.1 framing that the node and the load generator share. Knows no chats.
//!
//! Both are to cost a few microseconds a request, so that they do not stand in the way of what is measured: one thread,
//! one epoll, no copies that are not needed.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Room for one read: above the largest answer, so that it seldom takes a second.
const READ_BYTES: usize = 64 * 1024;

/// Sockets looked after in one turn.
const EVENTS_MAX: usize = 256;

/// Below this a wait is timed by `poll`, which counts in nanoseconds where `epoll_wait` counts in milliseconds.
const COARSE: Duration = Duration::from_millis(20);

/// Waits for sockets to become ready. Each is known by a number.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches a socket for something to read. Closing the socket ends it.
    pub fn watch(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(number as u64), EventFlags::IN)?)
    }

    /// Watches it for room to write, too, or no longer.
    pub fn watch_writable(&self, socket: impl AsFd, number: usize, wanted: bool) -> io::Result<()> {
        let flags = if wanted { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(number as u64), flags)?)
    }

    /// Fills `ready` with the numbers of the sockets that are, after `timeout` at the latest.
    pub fn wait(&mut self, ready: &mut Vec<usize>, timeout: Duration) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let mut timeout = timespec(timeout);
        if timeout < timespec(COARSE) {
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => timeout = timespec(Duration::ZERO),
                Err(error) => return Err(error.into()),
            }
        }
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Bytes,
    NothingYet,
    End,
}

/// Reads once, to the end of `inbox`.
pub fn read(socket: &TcpStream, inbox: &mut Vec<u8>) -> io::Result<Read> {
    inbox.reserve(READ_BYTES);
    match rustix::io::read(socket, spare_capacity(inbox)) {
        Ok(0) => Ok(Read::End),
        Ok(_) => Ok(Read::Bytes),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Read::NothingYet),
        Err(error) => Err(error.into()),
    }
}

/// Writes what of `bytes` the socket takes now; how much that was.
pub fn write(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::write(socket, bytes) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        written => Ok(written?),
    }
}

/// Length of a message's head, the empty line included, once it is all there.
pub fn head_length(message: &[u8]) -> Option<usize> {
    memmem::find(message, b"\r\n\r\n").map(|at| at + 4)
}

/// A field's value, of a message's head.
pub fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let is_it = line.len() > name.len()
            && line[name.len()] == b':'
            && line[..name.len()].eq_ignore_ascii_case(name.as_bytes());
        is_it.then(|| line[name.len() + 1..].trim_ascii())
    })
}

/// A decimal number, if it is nothing else.
pub fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Appends `body` as chunks of `chunk_bytes`, the last one smaller, and the end.
pub fn push_chunks(out: &mut Vec<u8>, body: &[u8], chunk_bytes: usize) {
    for chunk in body.chunks(chunk_bytes) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}

/// Bytes that a chunked body carries; None until all of it is there, or where it is no chunked body.
pub fn chunked_length(mut body: &[u8]) -> Option<usize> {
    // Bodies here are JSON and hold no bare line break: only the end looks like this. Spares walking half a body.
    if !body.ends_with(b"\r\n0\r\n\r\n") {
        return None;
    }
    let mut carried = 0;
    loop {
        let line = memchr::memchr(b'\r', body)?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(carried);
        }
        carried += size;
        body = body.get(line + 2 + size + 2..)?;
    }
}
