//! A lean GMS node: answers what [`crate::traffic`] asks, and counts what it issued, so that an archive can be held
//! against it. A process of its own.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::traffic::{ANSWER_FIELDS, Asked, ChatId, Content, Template};
use crate::wire::{self, Poller, Read};

/// Where the node says what it issued.
pub const STATS_PATH: &str = "/__stats";

/// What a node issued since it started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Answers to chat requests and others.
    pub answers: u64,
    /// Different events, by chat and index, where a recorder looks.
    pub distinct: u64,
}

/// A node's chunks: small enough that a large answer takes several.
const CHUNK_BYTES: usize = 4096;

/// The number that the listener is watched under.
const LISTENER: usize = usize::MAX;

/// Serves on a free port, which it prints, until it is killed.
pub fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let mut poller = Poller::new()?;
    poller.watch(&listener, LISTENER)?;
    let mut node = Node { issued: Issued::default(), templates: Content::ALL.map(Template::new) };
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut free = Vec::new();
    let mut ready = Vec::new();
    loop {
        poller.wait(&mut ready, Duration::from_secs(60))?;
        for number in ready.iter().copied() {
            if number == LISTENER {
                accept(&listener, &poller, &mut peers, &mut free)?;
            } else if let Some(peer) = &mut peers[number]
                && !peer.serve(&mut node, &poller, number)
            {
                peers[number] = None;
                free.push(number);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poller: &Poller,
    peers: &mut Vec<Option<Peer>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    while let Ok((socket, _)) = listener.accept() {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let number = free.pop().unwrap_or_else(|| {
            peers.push(None);
            peers.len() - 1
        });
        poller.watch(&socket, number)?;
        let (inbox, outbox) = (Vec::new(), Vec::new());
        peers[number] = Some(Peer { socket, inbox, outbox, sent: 0, is_waiting: false, is_last: false });
    }
    Ok(())
}

/// What all connections share.
struct Node {
    issued: Issued,
    templates: [Template; 3],
}

/// How far each chat's events were issued.
#[derive(Default)]
struct Issued {
    stats: Stats,
    next: HashMap<ChatId, u32>,
}

impl Issued {
    fn note(&mut self, asked: &Asked) {
        self.stats.answers += 1;
        let Some(chat) = asked.chat else { return };
        let events = asked.events();
        if events.is_empty() {
            return;
        }
        // A chat's positions only grow, so the highest says all.
        let next = self.next.entry(chat).or_insert(events.start);
        self.stats.distinct += u64::from(events.end.saturating_sub((*next).max(events.start)));
        *next = events.end.max(*next);
    }
}

/// A proxy's connection.
struct Peer {
    socket: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    /// For room to write.
    is_waiting: bool,
    /// The peer said that it closes after this one.
    is_last: bool,
}

impl Peer {
    /// Reads, answers, writes. False: the connection is done.
    fn serve(&mut self, node: &mut Node, poller: &Poller, number: usize) -> bool {
        match wire::read(&self.socket, &mut self.inbox) {
            Ok(Read::Bytes) => {
                let mut done = 0;
                while let Some(length) = self.answer(done, node) {
                    done += length;
                }
                self.inbox.drain(..done);
            }
            Ok(Read::NothingYet) => {}
            Ok(Read::End) | Err(_) => return false,
        }
        self.flush(poller, number).is_ok_and(|all| !(all && self.is_last))
    }

    /// Answers the request at `start`; its length, if it is all there.
    fn answer(&mut self, start: usize, node: &mut Node) -> Option<usize> {
        let request = &self.inbox[start..];
        let head_bytes = wire::head_length(request)?;
        let head = &request[..head_bytes];
        let body_bytes = wire::field(head, "content-length").map_or(Some(0), wire::number)?;
        let body = request.get(head_bytes..head_bytes + body_bytes)?;
        self.is_last = wire::field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        match Asked::read(path, body) {
            Some(asked) => {
                node.issued.note(&asked);
                let body = node.templates[asked.content as usize].body_for(&asked);
                push_answer(&mut self.outbox, body, asked.is_chunked);
            }
            None if path == STATS_PATH.as_bytes() => {
                let stats = serde_json::to_vec(&node.issued.stats).expect("numbers are no trouble to write");
                push_answer(&mut self.outbox, &stats, false);
            }
            None => self.outbox.extend_from_slice(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        }
        Some(head_bytes + body_bytes)
    }

    /// Writes what can be written; true: all of it.
    fn flush(&mut self, poller: &Poller, number: usize) -> io::Result<bool> {
        while self.sent < self.outbox.len() {
            let written = wire::write(&self.socket, &self.outbox[self.sent..])?;
            self.sent += written;
            if written == 0 {
                break;
            }
        }
        let is_all = self.sent == self.outbox.len();
        if is_all {
            self.outbox.clear();
            self.sent = 0;
        }
        if self.is_waiting == is_all {
            self.is_waiting = !is_all;
            poller.watch_writable(&self.socket, number, self.is_waiting)?;
        }
        Ok(is_all)
    }
}

fn push_answer(out: &mut Vec<u8>, body: &[u8], is_chunked: bool) {
    out.extend_from_slice(ANSWER_FIELDS.as_bytes());
    if is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        wire::push_chunks(out, body, CHUNK_BYTES);
    } else {
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
    }
}
