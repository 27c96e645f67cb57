//! Holding an answer: until its end, within a bound for each and a bound for all.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

use super::body::NodeBody;
use crate::chat::ChatId;
use crate::gms::{Finding, FindingKind, Route, RouteClass};

/// How much may be held of one answer, and of all together.
#[derive(Debug)]
pub struct Budget {
    one_max: usize,
    all_max: usize,
    for_all: usize,
    held: AtomicUsize,
    shown: Gauge,
}

impl Budget {
    /// `body_max` and `inspected_bytes_max`, and what of that is not kept for chats in progress.
    pub fn new(one_max: usize, all_max: usize, for_all: usize, shown: Gauge) -> Self {
        Self { one_max, all_max, for_all, held: AtomicUsize::new(0), shown }
    }

    /// Whether only what is kept for chats in progress is left.
    pub fn is_short(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.for_all
    }
}

/// A part of the budget: held for as long as the bytes are, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub fn of(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// Whether so much more may be held.
    pub fn grow(&mut self, bytes: usize) -> bool {
        if self.bytes + bytes > self.budget.one_max {
            return false;
        }
        let before = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        self.budget.shown.set((before + bytes) as i64);
        before + bytes <= self.budget.all_max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let before = self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.shown.set((before - self.bytes) as i64);
    }
}

/// What was taken of a body.
pub enum Taken {
    /// All of it.
    Whole {
        /// The body.
        bytes: Bytes,
        /// The trailer section that came after it; empty where none did.
        trailer: Vec<u8>,
    },
    /// Its start; the connection broke.
    Broken {
        /// What came.
        bytes: Bytes,
    },
    /// It begins like no answer: a file.
    File {
        /// What was taken.
        start: Bytes,
        /// The rest, still coming.
        rest: NodeBody,
    },
    /// It is over a bound.
    TooLarge {
        /// What was taken.
        start: Bytes,
        /// The rest, still coming.
        rest: NodeBody,
    },
}

/// Takes a body whole, if it may. `is_file` judges its first bytes.
pub async fn take(mut body: NodeBody, share: &mut Share, is_file: impl Fn(&[u8]) -> bool) -> Taken {
    let whole = body.left().map_or(0, |bytes| (bytes as usize).min(share.budget.one_max));
    let mut bytes = Vec::with_capacity(whole);
    loop {
        let part = poll_fn(|context| {
            body.poll_part(context, |part| {
                bytes.extend_from_slice(part.bytes);
                (part.bytes.len(), part.end)
            })
        });
        match part.await {
            Err(_) => return Taken::Broken { bytes: bytes.into() },
            Ok((length, end)) => {
                let has_room = share.grow(length);
                if bytes.len() == length && length > 0 && is_file(&bytes) {
                    return Taken::File { start: bytes.into(), rest: body };
                }
                match end {
                    _ if !has_room => return Taken::TooLarge { start: bytes.into(), rest: body },
                    Some(trailer) => return Taken::Whole { bytes: bytes.into(), trailer },
                    None => {}
                }
            }
        }
    }
}

/// The finding for an answer that was not read.
pub fn too_large(route: &Route<'_>, taken: usize) -> Finding {
    Finding {
        kind: FindingKind::TooLarge,
        chat_id: route.chat_id.as_deref().and_then(ChatId::parse),
        detail: "an answer over body_max, or while inspected_bytes_max was used up: its ground is not covered".into(),
        raw: Vec::new(),
        raw_length: taken,
        events: 0,
        maskings: Vec::new(),
    }
}

/// Chat V1 is forwarded and not recorded: each session leaves one finding that says so.
pub fn chat_v1(route: &Route<'_>) -> Option<Finding> {
    let session = route.chat_id.as_deref().filter(|_| route.class == RouteClass::ChatV1)?;
    Some(Finding {
        kind: FindingKind::ChatV1,
        chat_id: ChatId::parse(session),
        detail: "a Chat V1 session: forwarded, not recorded".into(),
        raw: Vec::new(),
        raw_length: 0,
        events: 0,
        maskings: Vec::new(),
    })
}
