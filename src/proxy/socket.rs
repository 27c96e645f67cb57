//! After an upgrade: two streams joined, bytes both ways with backpressure. A CometD WebSocket's messages are read on their
//! way, as answers are: one with something new is held until it is committed, and what comes after it in its direction
//! waits behind it.
//!
//! At rest a connection has no buffer: a read takes place in one on the stack, and what came is copied out of it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::answer::{self, Reach, Refusal};
use super::tap::{Budget, Share};
use crate::chat::Secret;
use crate::gms::websocket::{Item, Reader, Trouble};
use crate::gms::{ApiError, Dialogue, Finding, FindingKind, Observation};
use crate::recorder::{Recorded, Recorder, Verdict};
use crate::store::ExchangeFacts;

/// What one read takes: as much as a TLS record holds. Many chat messages fit into it.
const READ_BYTES: usize = 16 << 10;
/// Fragments of one message come in one go. One that takes longer is not waited for: it passes unread, and the control
/// frames among its fragments with it.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(10);
/// A connection over which nothing came for so long is at rest: between two messages of people who are typing.
const REST_AFTER: Duration = Duration::from_secs(5);
/// How long a client that is told to go may take to leave, so that it reads why.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The proxy ends (RFC 6455, section 7.4.1).
const GOING_AWAY: u16 = 1001;
/// The node said something that cannot be recorded.
const CANNOT_RECORD: u16 = 1011;
/// It cannot be recorded now.
const TRY_AGAIN_LATER: u16 = 1013;

/// One side of an upgraded connection.
#[derive(Debug)]
pub struct Side<S> {
    /// Its stream.
    pub stream: S,
    /// What was read of it already.
    pub start: Bytes,
}

/// What the messages of a CometD WebSocket are recorded with.
pub struct Watch {
    recorder: Arc<Recorder>,
    budget: Arc<Budget>,
    /// Of the handshake.
    facts: Arc<ExchangeFacts>,
    dialogue: RefCell<Dialogue>,
    client: RefCell<Reader>,
    node: RefCell<Reader>,
}

impl Watch {
    /// `credentials` and `facts` are those of the handshake, `extensions` its answer's `Sec-WebSocket-Extensions`.
    pub fn new(
        recorder: &Arc<Recorder>,
        budget: &Arc<Budget>,
        facts: Arc<ExchangeFacts>,
        credentials: Vec<Secret>,
        extensions: &str,
    ) -> Self {
        let config = recorder.config();
        let (client, node) = Reader::pair(extensions, config.request_bytes_max, config.body_max);
        recorder.metrics.websockets.inc();
        Self {
            recorder: recorder.clone(),
            budget: budget.clone(),
            facts,
            dialogue: Dialogue::new(credentials).into(),
            client: client.into(),
            node: node.into(),
        }
    }

    /// Reads what the client says. False where it must not reach the node: recording is known to be down (R3).
    fn said(&self, mut bytes: &[u8]) -> bool {
        while let Some(item) = self.client.borrow_mut().next(&mut bytes) {
            match item {
                Item::Text(message) => {
                    let seen = self.dialogue.borrow_mut().said(&message, self.recorder.policy());
                    if self.recorder.refuses() && !self.dialogue.borrow().is_leaving() {
                        return false;
                    }
                    drop(self.record(&message, seen)); // attributes are lazy (R4)
                }
                Item::Unread(trouble) | Item::Lost(trouble) => {
                    self.dialogue.borrow_mut().misheard();
                    let detail = format!("{trouble}; the client's attributes in it are not known");
                    self.recorder.find(finding(trouble, detail), &self.facts);
                }
                Item::Other => {}
            }
        }
        true
    }

    /// Reads a message of the node and has what is new recorded.
    fn told(&self, message: &[u8]) -> Recorded {
        let (recorder, dialogue) = (&self.recorder, self.dialogue.borrow());
        let seen = dialogue.told(message, recorder.policy(), &|chat_id| recorder.known_secrets(chat_id));
        drop(dialogue);
        self.record(message, seen)
    }

    fn record(&self, message: &[u8], seen: Observation) -> Recorded {
        let dialogue = self.dialogue.borrow();
        let key = self.recorder.answer_key(&self.facts.method, &self.facts.path, &dialogue.exchange(message));
        self.recorder.observe(seen, key, self.facts.node.as_ref(), || self.facts.clone())
    }

    fn rest(&self) {
        self.client.borrow_mut().rest();
        self.node.borrow_mut().rest();
    }

    /// Something of the node's goes by unread: under `pass`, that is.
    fn missed(&self, trouble: Trouble) -> Result<(), Ended> {
        self.recorder.metrics.uninspected.inc();
        let detail = format!("{trouble}; what the node delivered in it is not covered");
        let seen = self.dialogue.borrow().missed(finding(trouble, detail), self.recorder.policy());
        drop(self.record(b"", seen)); // as of an answer over the bounds, nobody waits for it
        match self.recorder.passes_unrecorded() {
            true => Ok(()),
            false => Err(self.refused(Refusal::TooLarge, Reach::Executed, CANNOT_RECORD)),
        }
    }

    /// The client must go: with a row in the audit, as for the proxy's own answers.
    fn refused(&self, refusal: Refusal, reach: Reach, code: u16) -> Ended {
        let row = answer::audited(refusal, reach, None, self.dialogue.borrow().exchange(b"").route);
        self.recorder.audit(ApiError { http_status: None, ..row }, &self.facts);
        Ended::Told(code)
    }
}

/// What was said on it is nobody's to print.
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.recorder.metrics.websockets.dec();
    }
}

fn finding(trouble: Trouble, detail: String) -> Finding {
    let kind = if trouble == Trouble::TooLong { FindingKind::TooLarge } else { FindingKind::Undecodable };
    Finding { kind, chat_id: None, detail, raw: Vec::new(), raw_length: 0, events: 0, maskings: Vec::new() }
}

/// Why a connection is over before both sides have said all.
#[derive(Debug)]
enum Ended {
    /// Either side broke.
    Broken(io::Error),
    /// Nothing moved for too long, or the time to stop has come, or it must not go on: the client is told by this code.
    Told(u16),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// What both directions know.
struct Shared<'a> {
    watch: Option<&'a Watch>,
    moved_at: Cell<Instant>,
    /// The client has whole frames only: one more can be put after them.
    is_between_frames: Cell<bool>,
    /// What the client was sent, in bytes.
    sent: &'a Cell<u64>,
}

/// Joins two sides until both have said all, either breaks, nothing moved for `idle_timeout`, or `stop` comes: a
/// WebSocket does not end because the proxy is to stop, so it has a deadline then (`drain_max`).
///
/// Without a watch nothing is read. With one, the client is told by a Close frame why it must go, where the node is not in
/// the midst of a frame. `sent` counts the bytes that it is sent. Whether both sides have said all.
pub async fn relay<C, N>(
    client: Side<C>,
    node: Side<N>,
    watch: Option<&Watch>,
    idle_timeout: Duration,
    sent: &Cell<u64>,
    stop: impl Future<Output = ()>,
) -> bool
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    let ((mut from_client, mut to_client), (mut from_node, mut to_node)) = (split(client.stream), split(node.stream));
    let shared =
        Shared { watch, moved_at: Cell::new(Instant::now()), is_between_frames: Cell::new(watch.is_some()), sent };
    let ended = {
        let up = upstream(&mut from_client, client.start, &mut to_node, &shared);
        let down = downstream(&mut from_node, node.start, &mut to_client, &shared);
        tokio::select! {
            both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
            () = idle(&shared, idle_timeout) => Err(Ended::Told(GOING_AWAY)),
            () = stop => Err(Ended::Told(GOING_AWAY)),
        }
    };
    let is_whole = ended.is_ok();
    match ended {
        Ok(()) => {}
        Err(Ended::Broken(error)) => tracing::debug!(%error, "an upgraded connection broke"),
        Err(Ended::Told(code)) => {
            drop((from_node, to_node));
            if shared.is_between_frames.get() {
                // Whether it hears it is the client's business.
                let _ = timeout(FAREWELL_MAX, farewell(&mut from_client, &mut to_client, code)).await;
            }
        }
    }
    is_whole
}

/// Waits until nothing has moved for `idle_timeout`. Before that, what rests is made small.
async fn idle(shared: &Shared<'_>, idle_timeout: Duration) {
    loop {
        let moved_at = shared.moved_at.get();
        sleep_until(moved_at + REST_AFTER.min(idle_timeout)).await;
        if moved_at == shared.moved_at.get() {
            shared.watch.into_iter().for_each(Watch::rest);
            sleep_until(moved_at + idle_timeout).await;
        }
        if shared.moved_at.get().elapsed() >= idle_timeout {
            return;
        }
    }
}

/// From the client to the node. What is read of it is never held.
async fn upstream<C: AsyncRead, N: AsyncWrite>(
    client: &mut ReadHalf<C>,
    start: Bytes,
    node: &mut WriteHalf<N>,
    shared: &Shared<'_>,
) -> Result<(), Ended> {
    let mut bytes = BytesMut::from(start);
    loop {
        if !bytes.is_empty() {
            if let Some(watch) = shared.watch.filter(|watch| !watch.said(&bytes)) {
                return Err(watch.refused(Refusal::RecordingDown, Reach::NotForwarded, TRY_AGAIN_LATER));
            }
            if node.write_all(&bytes).await.is_err() || node.flush().await.is_err() {
                return Ok(()); // the node takes no more; what it has said is still on its way
            }
            bytes = BytesMut::new(); // nothing is kept for a connection at rest
        }
        if receive(client, &mut bytes, shared).await? == 0 {
            let _ = node.shutdown().await; // it has gone before
            return Ok(());
        }
    }
}

/// From the node to the client.
async fn downstream<N: AsyncRead, C: AsyncWrite>(
    node: &mut ReadHalf<N>,
    start: Bytes,
    client: &mut WriteHalf<C>,
    shared: &Shared<'_>,
) -> Result<(), Ended> {
    let bytes = BytesMut::from(start);
    let mut out = Outgoing {
        client,
        shared,
        bytes,
        read: 0,
        clear: 0,
        gone: 0,
        ends_frame: false,
        held_since: None,
        share: None,
    };
    loop {
        match shared.watch {
            Some(watch) => out.judge(watch).await?,
            None => (out.read, out.clear) = (out.bytes.len(), out.bytes.len()),
        }
        out.let_out().await?;
        if out.take(node).await? == 0 {
            return out.end().await;
        }
    }
}

/// What came from the node and is not yet with the client.
struct Outgoing<'a, C> {
    client: &'a mut WriteHalf<C>,
    shared: &'a Shared<'a>,
    bytes: BytesMut,
    /// How much of it is read, how much of that may go, and whether a frame ends there.
    read: usize,
    clear: usize,
    ends_frame: bool,
    /// How much went before it.
    gone: u64,
    /// Since when the start of a message waits for its end, and what of the budget it takes.
    held_since: Option<Instant>,
    share: Option<Share>,
}

/// A stretch of the node's stream that was read.
struct Stretch {
    /// Where it ends, counted from the start of the stream.
    end: u64,
    ends_frame: bool,
    /// What is to come before it may go.
    first: Result<Recorded, Ended>,
}

impl<C: AsyncWrite> Outgoing<'_, C> {
    /// Reads what came, and decides how much may go. Everything in it is on its way to the file before the first of it is
    /// waited for, so that they share a commit.
    async fn judge(&mut self, watch: &Watch) -> Result<(), Ended> {
        let until = Instant::now() + watch.recorder.config().commit_wait_max;
        for stretch in self.read(watch) {
            if !matches!(stretch.first, Ok(Recorded::Nothing)) {
                self.let_out().await?; // what is before it neither waits nor goes down with it
            }
            let wait_max = until.saturating_duration_since(Instant::now());
            if watch.recorder.wait(stretch.first?, wait_max).await == Verdict::Refuse {
                return Err(watch.refused(Refusal::NotRecorded, Reach::Executed, TRY_AGAIN_LATER));
            }
            (self.clear, self.ends_frame) = ((stretch.end - self.gone) as usize, stretch.ends_frame);
        }
        Ok(())
    }

    /// The stretches up to the start of what is still to come whole: one for each message of one read that has news.
    fn read(&mut self, watch: &Watch) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut rest = &self.bytes[self.read..];
        loop {
            let item = watch.node.borrow_mut().next(&mut rest);
            let is_last = item.is_none();
            let first = match item {
                Some(Item::Text(message)) => Ok(watch.told(&message)),
                Some(Item::Unread(trouble) | Item::Lost(trouble)) => watch.missed(trouble).map(|()| Recorded::Nothing),
                Some(Item::Other) | None => Ok(Recorded::Nothing),
            };
            self.read = self.bytes.len() - rest.len();
            let reader = watch.node.borrow();
            let is_over = is_last || first.is_err();
            if !reader.holds() {
                let (end, ends_frame) = (self.gone + self.read as u64, reader.is_between_frames());
                match (&first, stretches.last_mut()) {
                    // What brings nothing new goes with what is before it.
                    (Ok(Recorded::Nothing), Some(last)) => (last.end, last.ends_frame) = (end, ends_frame),
                    _ => stretches.push(Stretch { end, ends_frame, first }),
                }
            }
            if is_over {
                return stretches;
            }
        }
    }

    async fn let_out(&mut self) -> io::Result<()> {
        if self.clear == 0 {
            return Ok(());
        }
        self.shared.is_between_frames.set(false);
        self.client.write_all(&self.bytes[..self.clear]).await?;
        self.client.flush().await?;
        self.bytes.advance(self.clear);
        self.gone += self.clear as u64;
        self.shared.sent.set(self.gone);
        (self.read, self.clear) = (self.read - self.clear, 0);
        (self.held_since, self.share) = (None, None);
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new(); // nothing is kept for a connection at rest
        }
        self.shared.is_between_frames.set(self.ends_frame);
        Ok(())
    }

    /// Takes more from the node. 0: it has said all.
    async fn take<N: AsyncRead>(&mut self, node: &mut ReadHalf<N>) -> Result<usize, Ended> {
        let held = self.bytes.len();
        let Some(watch) = self.shared.watch.filter(|_| held > 0) else {
            return Ok(receive(node, &mut self.bytes, self.shared).await?);
        };
        let until = *self.held_since.get_or_insert_with(Instant::now) + MESSAGE_TIME_MAX;
        let Ok(received) = timeout_at(until, receive(node, &mut self.bytes, self.shared)).await else {
            self.give_up(watch, Trouble::TooSlow)?;
            return Ok(held);
        };
        let received = received?;
        let so_far = if self.share.is_none() { held } else { 0 };
        let share = self.share.get_or_insert_with(|| Share::of(&watch.budget));
        if !share.grow(so_far + received) {
            self.give_up(watch, Trouble::TooLong)?;
        }
        Ok(received)
    }

    /// What is held is not waited for any longer.
    fn give_up(&mut self, watch: &Watch, trouble: Trouble) -> Result<(), Ended> {
        let (Item::Unread(trouble) | Item::Lost(trouble)) = watch.node.borrow_mut().let_pass(trouble) else {
            return Ok(());
        };
        watch.missed(trouble)
    }

    /// The node has said all. What it did not say to the end goes on as it is, where nothing must be kept back.
    async fn end(mut self) -> Result<(), Ended> {
        if self.shared.watch.is_none_or(|watch| watch.recorder.passes_unrecorded()) {
            self.clear = self.bytes.len();
            self.let_out().await?;
        }
        Ok(self.client.shutdown().await?)
    }
}

/// Appends what comes next. 0: nothing more will come.
async fn receive<S: AsyncRead>(
    stream: &mut ReadHalf<S>,
    bytes: &mut BytesMut,
    shared: &Shared<'_>,
) -> io::Result<usize> {
    let received = poll_fn(|context| {
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut room = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut room))?;
        bytes.extend_from_slice(room.filled());
        Poll::Ready(io::Result::Ok(room.filled().len()))
    });
    let received = received.await?;
    shared.moved_at.set(Instant::now());
    Ok(received)
}

/// A Close frame, and then time to read it: a stream that is dropped with something unread is reset.
async fn farewell<C: AsyncRead + AsyncWrite>(
    from_client: &mut ReadHalf<C>,
    to_client: &mut WriteHalf<C>,
    code: u16,
) -> io::Result<()> {
    let [high, low] = code.to_be_bytes();
    to_client.write_all(&[0x88, 2, high, low]).await?;
    to_client.shutdown().await?;
    let mut ignored = [0; 512];
    while from_client.read(&mut ignored).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::archive;
    use crate::gms::mask::Masks;
    use crate::recorder::{self, WriterThread};
    use crate::store::{Options, Run, Store};
    use crate::telemetry::metrics::Metrics;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn recorder(folder: &tempfile::TempDir) -> WriterThread {
        let options = Options {
            path: folder.path().join("a.db"),
            create: true,
            file_mode: 0o600,
            quiet_after: Duration::from_secs(1),
            async_quiet_after: Duration::from_secs(1),
            masks: Masks::default(),
        };
        let run = Run::plain();
        let store = Store::open(&options, &run).await.expect("a new archive");
        let config = recorder::Config::default();
        let (evidence, metrics) = (archive::Config::default(), Arc::new(Metrics::default()));
        let start = recorder::Start { config, evidence, store, options, run, metrics };
        Recorder::start(start).expect("a thread")
    }

    fn watch(writer: &WriterThread) -> Watch {
        let budget = Budget::new(1 << 20, 1 << 20, 1 << 20, writer.recorder().metrics.inspected_bytes.clone());
        let (method, path) = ("GET".into(), "/genesys/cometd".into());
        let (node, client, request_id) = (None, String::new(), None);
        let facts = ExchangeFacts {
            method,
            path,
            node,
            client,
            request_id,
            trace_id: None,
            duration_ms: 0,
            maskings: Vec::new(),
        };
        Watch::new(writer.recorder(), &Arc::new(budget), Arc::new(facts), Vec::new(), "")
    }

    fn side(start: &'static [u8]) -> (Side<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 10);
        (Side { stream: ours, start: Bytes::from_static(start) }, theirs)
    }

    /// What either peer has in the end, where both say nothing but what was read of them before, and the proxy stops.
    async fn check(watch: Option<&Watch>, node_said: &'static [u8], client_has: &[u8]) {
        let ((client, mut to_client), (node, mut to_node)) = (side(b"from the client"), side(node_said));
        let (mut client_read, mut node_read) = (Vec::new(), Vec::new());
        let (stop, sent) = (sleep_until(Instant::now() + Duration::from_millis(100)), Cell::new(0));
        let peers = async {
            to_node.read_to_end(&mut node_read).await.expect("an end");
            to_client.read_to_end(&mut client_read).await.expect("an end")
        };
        let relayed = async { tokio::join!(relay(client, node, watch, PATIENCE, &sent, stop), peers) };
        timeout(PATIENCE, relayed).await.expect("the stop ends it");
        assert_eq!((&client_read[..], &node_read[..]), (client_has, &b"from the client"[..]));
    }

    #[tokio::test]
    async fn when_the_proxy_stops_a_client_is_told_between_two_frames() {
        let folder = tempfile::tempdir().expect("a folder");
        let writer = recorder(&folder).await;
        let going_away = [0x88, 2, 0x03, 0xe9];
        check(None, b"some other protocol", b"some other protocol").await;
        check(Some(&watch(&writer)), b"", &going_away).await;
        check(Some(&watch(&writer)), b"\x89\x01p", &[&b"\x89\x01p"[..], &going_away].concat()).await;
        check(Some(&watch(&writer)), b"\x82\x05part", b"\x82\x05part").await;
        // The start of a message that never came whole is nobody's.
        check(Some(&watch(&writer)), b"\x81\x05part", &going_away).await;
        assert_eq!(writer.recorder().metrics.websockets.get(), 0);
        writer.close(PATIENCE);
    }

    #[tokio::test]
    async fn a_connection_at_rest_is_small() {
        let ((client, _), (node, _), sent) = (side(b""), side(b""), Cell::new(0));
        let bytes = size_of_val(&relay(client, node, None, PATIENCE, &sent, pending()));
        assert!(bytes < 3_000, "{bytes} bytes, without streams and what is remembered");
    }
}
