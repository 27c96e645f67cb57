//! The bodies on their way through: what is copied, how it is framed on its way out, and that an end is seen exactly once.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::answer::Refusal;
use super::file::Download;
use super::framing::{Ambiguous, Decoder, Framing, SizeLine};
use super::head::{Head, Known};
use super::limits::{self, Pace};
use super::socket::Watch;
use super::tap::Share;
use super::upstream::Lease;
use super::wire::{READ_BYTES_MAX, Wire};
use crate::gms::files::{FormFile, FormFiles};

/// Messages up to this size go out as one piece.
const GATHERED_BYTES_MAX: usize = 2 << 10;

/// So much of a request's body comes before a node is asked, or all of it: whoever sends theirs slowly must not hold a
/// connection to a node meanwhile. Most forms are smaller.
const AHEAD_BYTES: usize = 8 << 10;

/// So much of an answer is read in pieces as large as they come; by far most answers are shorter.
const FREELY_BYTES: usize = 128 << 10;

/// What is read at a time of the rest. A client that takes nothing of it leaves one such piece with us.
const LATER_BYTES_MAX: usize = 8 << 10;

/// What can go wrong with a body under way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection it comes on failed.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The connection ended before it did.
    #[error("it broke off")]
    BrokeOff,
    /// It cannot be told where it ends.
    #[error("{0}")]
    Ambiguous(#[from] Ambiguous),
    /// It is over `body_bytes_max`.
    #[error("it is too large")]
    TooLarge,
}

impl Error {
    /// What the client of a request's body is answered.
    pub fn refusal(&self) -> Refusal {
        if matches!(self, Self::TooLarge) { Refusal::LargeBody } else { Refusal::BadRequest }
    }
}

/// How a body is framed on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// There is none.
    None,
    /// Its length was told in the head.
    Sized,
    /// In chunks.
    Chunked,
    /// It ends with the connection: for a client of HTTP/1.0.
    UntilClose,
}

impl Outgoing {
    /// Of a request: as it came.
    pub fn of_request(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::None,
            Framing::Chunked => Self::Chunked,
            Framing::Length(_) | Framing::UntilClose => Self::Sized,
        }
    }

    /// Of an answer: as it came, as far as the client's version can say so. What ends with the node's connection goes out in
    /// chunks, so that the client's goes on.
    pub fn of_answer(framing: Framing, client_is_http_10: bool) -> Self {
        match framing {
            Framing::None => Self::None,
            Framing::Length(_) => Self::Sized,
            Framing::Chunked | Framing::UntilClose if client_is_http_10 => Self::UntilClose,
            Framing::Chunked | Framing::UntilClose => Self::Chunked,
        }
    }

    /// Writes a part of a body behind what is to be sent anyway.
    pub fn append(self, out: &mut Vec<u8>, part: &[u8]) {
        match self {
            Self::Chunked if !part.is_empty() => {
                out.extend_from_slice(SizeLine::new(part.len()).as_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
            _ => out.extend_from_slice(part),
        }
    }

    /// What follows the last part: for chunks the last one and the trailer section, its empty line included.
    pub fn last(self, trailer: &[u8]) -> Vec<u8> {
        match self {
            Self::Chunked if trailer.is_empty() => b"0\r\n\r\n".to_vec(),
            Self::Chunked => [b"0\r\n", trailer].concat(),
            _ => Vec::new(),
        }
    }

    /// Sends what stands before a part, the part, and what follows it. Where they are small, as one piece: copying them
    /// together costs less than what the kernel does for a vector of them. `before` is empty afterwards.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub fn send(
        self,
        wire: &Wire,
        context: &mut Context<'_>,
        before: &mut Vec<u8>,
        part: &[u8],
        last: &[u8],
    ) -> io::Result<()> {
        let sent = if before.len() + part.len() <= GATHERED_BYTES_MAX {
            self.append(before, part);
            before.extend_from_slice(last);
            wire.send(context, [before])
        } else if self == Self::Chunked && !part.is_empty() {
            wire.send(context, [before, SizeLine::new(part.len()).as_bytes(), part, b"\r\n", last])
        } else {
            wire.send(context, [before, part, last])
        };
        before.clear();
        sent
    }
}

/// The trailer section as it goes on: the fields that the head announced, and of those none that is the head's business.
pub fn announced(head: Option<&Head>, trailer: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = (!trailer.is_empty()).then(|| Head::parse_fields(trailer).ok()).flatten();
    for (known, name, value) in fields.iter().flat_map(Head::fields) {
        let is_announced = |token: &str| token.as_bytes().eq_ignore_ascii_case(name);
        if known == Known::Other && head.is_some_and(|head| head.tokens(Known::Trailer).any(is_announced)) {
            out.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
        }
    }
    if !out.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A request's body on its way to the node: its start is kept, and when its last part came is known.
#[derive(Debug)]
pub struct Upload {
    source: Source,
    outgoing: Outgoing,
    /// The request's head, where it announces trailers.
    announcing: Option<Head>,
    state: RefCell<UploadState>,
    moved_at: Cell<Instant>,
    is_over: Cell<bool>,
}

/// Where a request's body comes from.
#[derive(Debug)]
enum Source {
    /// After its head, on the client's connection.
    Wire(Rc<Wire>),
    /// On a stream of HTTP/2.
    Stream(RefCell<Incoming>),
}

#[derive(Debug)]
struct UploadState {
    decoder: Decoder,
    /// The client waits to be told that its body is wanted.
    awaits_continue: bool,
    kept: Vec<u8>,
    kept_max: usize,
    pace: Pace,
    /// So much more may come.
    bytes_left: u64,
    /// Reads the files in it, where it is a form that may have some.
    files: Option<Box<FormFiles>>,
}

impl UploadState {
    /// Keeps what is to be kept of a part that came.
    fn take(&mut self, part: &[u8]) -> Result<(), Error> {
        self.bytes_left = self.bytes_left.checked_sub(part.len() as u64).ok_or(Error::TooLarge)?;
        self.pace.moved(part.len(), Instant::now);
        let room = self.kept_max - self.kept.len();
        self.kept.extend_from_slice(&part[..part.len().min(room)]);
        if let Some(files) = &mut self.files {
            files.take(part);
        }
        Ok(())
    }
}

impl Upload {
    /// The body after a head that was read from a client.
    pub fn new(client: &Rc<Wire>, head: &Head, framing: Framing, began: Instant, limits: &limits::Config) -> Rc<Self> {
        let awaits_continue = head.has_token(Known::Expect, "100-continue") && !head.is_http_10();
        Self::from(Source::Wire(client.clone()), awaits_continue, head, framing, began, limits)
    }

    /// The body of a request on a stream of HTTP/2.
    pub fn of_stream(
        incoming: Incoming,
        head: &Head,
        framing: Framing,
        began: Instant,
        limits: &limits::Config,
    ) -> Rc<Self> {
        Self::from(Source::Stream(RefCell::new(incoming)), false, head, framing, began, limits)
    }

    fn from(
        source: Source,
        awaits_continue: bool,
        head: &Head,
        framing: Framing,
        began: Instant,
        limits: &limits::Config,
    ) -> Rc<Self> {
        let decoder = Decoder::new(framing);
        let is_over = Cell::new(decoder.is_over());
        let (pace, bytes_left) = (Pace::new(limits), limits.body_bytes_max as u64);
        let (kept, kept_max, files) = (Vec::new(), 0, None);
        let state = UploadState { decoder, awaits_continue, kept, kept_max, pace, bytes_left, files };
        let outgoing = Outgoing::of_request(framing);
        let announcing = head.has(Known::Trailer).then(|| head.clone());
        Rc::new(Self { source, outgoing, announcing, state: state.into(), moved_at: Cell::new(began), is_over })
    }

    /// Keeps at most so many bytes of its start.
    pub fn keep(&self, bytes_max: usize) {
        self.state.borrow_mut().kept_max = bytes_max;
    }

    /// Hashes the files in it.
    pub fn hash_files(&self, files: FormFiles) {
        self.state.borrow_mut().files = Some(Box::new(files));
    }

    /// The files of it that came so far, once.
    pub fn take_files(&self) -> Vec<FormFile> {
        let files = self.state.borrow_mut().files.take();
        files.map(|files| files.finish(self.is_over())).unwrap_or_default()
    }

    /// All of it was taken.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// When its last part came; at first, when the exchange began.
    pub fn moved_at(&self) -> Instant {
        self.moved_at.get()
    }

    /// When its client has taken too long with the next part; none while nobody waits for it.
    pub fn due(&self) -> Option<Instant> {
        if self.is_over() { None } else { self.state.borrow().pace.due() }
    }

    /// What was kept so far. Nothing of it can move on meanwhile.
    pub fn kept(&self) -> Ref<'_, [u8]> {
        Ref::map(self.state.borrow(), |state| &state.kept[..])
    }

    /// Writes what has come with the head behind it, so that small requests are one piece.
    ///
    /// # Errors
    /// Where it is no body.
    pub fn start(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Source::Wire(client) = &self.source else { return Ok(()) };
        if self.is_over() || client.is_blank() {
            return Ok(());
        }
        // What has come is handed over at once: nothing waits, so nobody needs waking.
        let mut nobody = Context::from_waker(Waker::noop());
        let part = self.poll_take(&mut nobody, |part, last| {
            self.outgoing.append(out, part);
            out.extend_from_slice(last);
        });
        match part {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Waits for the start of it, or all where that is little, and writes it behind the head.
    ///
    /// # Errors
    /// As [`Upload::start`]; and where it breaks off.
    pub async fn gather(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let enough = out.len() + AHEAD_BYTES;
        poll_fn(|context| {
            while !self.is_over() && out.len() < enough {
                self.ask_for_it(context)?;
                ready!(self.poll_take(context, |part, last| {
                    self.outgoing.append(out, part);
                    out.extend_from_slice(last);
                }))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Tells a client that waits for it that its body is wanted.
    fn ask_for_it(&self, context: &mut Context<'_>) -> Result<(), Error> {
        let Source::Wire(client) = &self.source else { return Ok(()) };
        if std::mem::take(&mut self.state.borrow_mut().awaits_continue) && client.is_blank() {
            client.send(context, [b"HTTP/1.1 100 Continue\r\n\r\n"]).map_err(Error::Broken)?;
        }
        match client.poll_flush(context) {
            Poll::Ready(Err(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Moves on what has come. Ready when all of it went out.
    ///
    /// # Errors
    /// Of the client's side in `Err`; of the node's in `Ok(Err)`.
    pub fn poll_pump(&self, context: &mut Context<'_>, node: &Wire) -> Poll<Result<io::Result<()>, Error>> {
        loop {
            if let Err(error) = ready!(node.poll_flush(context)) {
                return Poll::Ready(Ok(Err(error)));
            }
            if self.is_over() {
                return Poll::Ready(Ok(Ok(())));
            }
            self.ask_for_it(context)?;
            let mut waker = Context::from_waker(context.waker());
            let mut sent = Ok(());
            ready!(self.poll_take(context, |part, last| {
                sent = self.outgoing.send(node, &mut waker, &mut Vec::new(), part, last);
            }))?;
            if let Err(error) = sent {
                return Poll::Ready(Ok(Err(error)));
            }
        }
    }

    /// Takes the next part, and with the last one what follows it.
    fn poll_take(&self, context: &mut Context<'_>, give: impl FnOnce(&[u8], &[u8])) -> Poll<Result<(), Error>> {
        let taken = match &self.source {
            Source::Wire(client) => self.poll_take_wire(client, context, give),
            Source::Stream(incoming) => self.poll_take_stream(&mut incoming.borrow_mut(), context, give),
        };
        let Poll::Ready(is_over) = taken else {
            self.state.borrow_mut().pace.wait(Instant::now);
            return Poll::Pending;
        };
        let is_over = is_over?;
        self.is_over.set(is_over);
        if !is_over {
            self.moved_at.set(Instant::now()); // more is to come: it may take long
        }
        Poll::Ready(Ok(()))
    }

    fn poll_take_wire(
        &self,
        client: &Wire,
        context: &mut Context<'_>,
        give: impl FnOnce(&[u8], &[u8]),
    ) -> Poll<Result<bool, Error>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let taken = client.poll_part(context, READ_BYTES_MAX, |bytes| {
            if bytes.is_empty() {
                return (0, Err(Error::BrokeOff));
            }
            let decoded = match state.decoder.decode(bytes) {
                Ok(decoded) => decoded,
                Err(ambiguous) => return (0, Err(ambiguous.into())),
            };
            let part = &bytes[..decoded.data];
            if let Err(too_large) = state.take(part) {
                return (0, Err(too_large));
            }
            let is_over = state.decoder.is_over();
            let last = if is_over { self.last(&state.decoder.take_trailer()) } else { Vec::new() };
            give(part, &last);
            (decoded.used, Ok(is_over))
        });
        taken.map(|taken| taken?)
    }

    /// HTTP/2 has framed it: what came of it is all that its sender meant.
    fn poll_take_stream(
        &self,
        incoming: &mut Incoming,
        context: &mut Context<'_>,
        give: impl FnOnce(&[u8], &[u8]),
    ) -> Poll<Result<bool, Error>> {
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(context)).transpose().map_err(io::Error::other)?;
        let trailers = match frame.map(Frame::into_data) {
            Some(Ok(part)) => {
                self.state.borrow_mut().take(&part)?;
                let is_over = incoming.is_end_stream();
                give(&part, &if is_over { self.last(&[]) } else { Vec::new() });
                return Poll::Ready(Ok(is_over));
            }
            Some(Err(frame)) => frame.into_trailers().unwrap_or_default(),
            None => HeaderMap::new(),
        };
        let mut section = Vec::new();
        for (name, value) in &trailers {
            section.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        if !section.is_empty() {
            section.extend_from_slice(b"\r\n");
        }
        give(&[], &self.last(&section));
        Poll::Ready(Ok(true))
    }

    fn last(&self, trailer: &[u8]) -> Vec<u8> {
        self.outgoing.last(&announced(self.announcing.as_ref(), trailer))
    }
}

/// An answer's body from a node. The connection goes back to the pool when the end was seen, and only then.
#[derive(Debug)]
pub struct NodeBody {
    decoder: Decoder,
    lease: Option<Lease>,
    /// Bytes so far.
    came: usize,
    /// What it is told to, where it is a file.
    download: Option<Box<Download>>,
}

/// A part of an answer's body.
#[derive(Debug)]
pub struct Part<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// After the last one: the trailer section as it came, empty where there is none.
    pub end: Option<Vec<u8>>,
}

impl NodeBody {
    /// The body, and the connection it comes on.
    pub fn new(framing: Framing, lease: Lease) -> Self {
        let mut body = Self { decoder: Decoder::new(framing), lease: Some(lease), came: 0, download: None };
        body.let_go();
        body
    }

    /// It is a file: what is still to come of it goes there, too.
    pub fn is_download(&mut self, mut download: Box<Download>) {
        download.take(b"", self.is_over());
        self.download = Some(download).filter(|_| !self.is_over());
    }

    /// Whether its end was seen.
    pub fn is_over(&self) -> bool {
        self.decoder.is_over()
    }

    /// How much is still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Moves on what is left of the request, should there be any.
    pub fn pump(&self, context: &mut Context<'_>) {
        self.lease.iter().for_each(|lease| lease.pump(context));
    }

    /// When a part of the request came last, where the node answers before it has the whole of it.
    pub fn request_moved_at(&self) -> Option<Instant> {
        self.lease.as_ref()?.request_moved_at()
    }

    /// Hands over the next part. The rest of the request is moved on meanwhile.
    ///
    /// # Errors
    /// Where it breaks off. Then the connection is closed.
    pub fn poll_part<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(Part<'_>) -> T,
    ) -> Poll<Result<T, Error>> {
        let Some(lease) = &self.lease else {
            return Poll::Ready(match self.is_over() {
                true => Ok(take(Part { bytes: b"", end: Some(Vec::new()) })),
                false => Err(Error::BrokeOff),
            });
        };
        lease.pump(context);
        let (decoder, came, download) = (&mut self.decoder, &mut self.came, &mut self.download);
        let bytes_max = if *came < FREELY_BYTES { READ_BYTES_MAX } else { LATER_BYTES_MAX };
        let taken = lease.wire().poll_part(context, bytes_max, |bytes| {
            if bytes.is_empty() {
                let end = decoder.ends_here().then(Vec::new).ok_or(Error::BrokeOff);
                download.iter_mut().for_each(|download| download.take(b"", end.is_ok()));
                return (0, end.map(|end| take(Part { bytes: b"", end: Some(end) })));
            }
            match decoder.decode(bytes) {
                Ok(decoded) => {
                    let end = decoder.is_over().then(|| decoder.take_trailer());
                    *came += decoded.used;
                    let bytes = &bytes[..decoded.data];
                    download.iter_mut().for_each(|download| download.take(bytes, end.is_some()));
                    (decoded.used, Ok(take(Part { bytes, end })))
                }
                Err(ambiguous) => (0, Err(ambiguous.into())),
            }
        });
        let taken = ready!(taken).map_err(Error::Broken).and_then(|taken| taken);
        if taken.is_err() {
            self.lease = None;
        }
        self.let_go();
        Poll::Ready(taken)
    }

    fn let_go(&mut self) {
        if self.is_over()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
            self.download = None; // whoever is told of it need not wait for the client to take the rest
        }
    }
}

/// An answer as it goes to its client.
#[derive(Debug)]
pub enum Reply {
    /// Held, read and let go.
    Held {
        /// Its head.
        head: Head,
        /// How it came.
        framing: Framing,
        /// Its body.
        bytes: Bytes,
        /// The trailer section that came after it, or nothing.
        trailer: Vec<u8>,
        /// Whether its end came. Where not, the client must see that too.
        is_whole: bool,
        /// What it takes of the budget until the client has it.
        share: Option<Share>,
    },
    /// Straight through, after what was taken from its start.
    Stream {
        /// Its head.
        head: Head,
        /// How it comes.
        framing: Framing,
        /// What was read before it was let through.
        start: Bytes,
        /// The rest.
        rest: NodeBody,
    },
    /// The protocol changes: from here on the two connections are joined.
    Switch {
        /// The node's 101.
        head: Head,
        /// Its connection.
        lease: Lease,
        /// With what it is recorded, if it is.
        watch: Option<Box<Watch>>,
    },
}

impl Reply {
    /// An answer of the proxy's own.
    pub fn own(head: Head, bytes: Bytes) -> Self {
        let framing = Framing::Length(bytes.len() as u64);
        Self::Held { head, framing, bytes, trailer: Vec::new(), is_whole: true, share: None }
    }

    /// The same without its body.
    pub fn without_body(head: Head) -> Self {
        let (framing, bytes) = (Framing::None, Bytes::new());
        Self::Held { head, framing, bytes, trailer: Vec::new(), is_whole: true, share: None }
    }

    /// Its head.
    pub fn head(&self) -> &Head {
        match self {
            Self::Held { head, .. } | Self::Stream { head, .. } | Self::Switch { head, .. } => head,
        }
    }
}
