//! How an answer gets onto the wire: framing, encoding, pace, and the ways it can break there. Below hyper it watches
//! the socket, so that the account knows which answers were written completely. What an answer says is not its concern.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::faults::{Encoding, Fate, Garble};
use super::world::{Receipt, World};

/// Pieces that a slow answer is written in.
const SLOW_PIECES: usize = 8;
/// Long enough for hyper to write what it has before the connection breaks behind it.
const BEFORE_THE_BREAK: Duration = Duration::from_millis(2);
/// What downloads are made of; large enough to be cheap, small enough to show backpressure.
static FILLING: [u8; 64 * 1024] = [b'G'; 64 * 1024];

/// An answer before it is dressed for the wire.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) content: Content,
    pub(super) receipt: Receipt,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Content {
    Whole(Bytes),
    /// So many bytes of filling, never held in memory.
    Fill(u64),
}

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &str, content: Content) -> Self {
        let headers = vec![(header::CONTENT_TYPE, content_type.to_owned())];
        Self { status, headers, content, receipt: Receipt::default() }
    }

    pub(super) fn json(status: u16, value: &Value, receipt: Receipt) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content = Content::Whole(value.to_string().into());
        Self { receipt, ..Self::new(status, "application/json;charset=UTF-8", content) }
    }

    /// The page Jetty shows for what it does not serve.
    pub(super) fn page(status: StatusCode, path: &str) -> Self {
        let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
        let path = path.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let page = format!(
            "<html>\n<head>\n<meta http-equiv=\"Content-Type\" content=\"text/html;charset=ISO-8859-1\"/>\n\
             <title>Error {code} {reason}</title>\n</head>\n<body><h2>HTTP ERROR {code}</h2>\n\
             <p>Problem accessing {path}. Reason:\n<pre>    {reason}</pre></p>\n</body>\n</html>\n"
        );
        Self::new(status, "text/html;charset=iso-8859-1", Content::Whole(page.into()))
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Dresses the answer as its exchange is fated.
    pub(super) fn dress(self, fate: &Fate, connection: &Arc<Connection>) -> Response<Wire> {
        let Self { status, headers, content, receipt } = self;
        let mut response = Response::new(Wire::default());
        *response.status_mut() = status;
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().append(name, value);
            }
        }
        match content {
            Content::Fill(bytes) => *response.body_mut() = Wire::filled(bytes),
            Content::Whole(body) => {
                let body = garbled(body, fate.garble);
                let body = encoded(body, fate, response.headers_mut());
                // What nobody can read was not delivered.
                let note = fate.garble.is_none().then(|| Note { receipt, connection: Arc::clone(connection) });
                *response.body_mut() = Wire::of(body, fate, note);
            }
        }
        response
    }
}

fn garbled(body: Bytes, garble: Option<Garble>) -> Bytes {
    match garble {
        Some(Garble::Malformed) => [&body[..body.len().saturating_sub(1)], b",]"].concat().into(),
        Some(Garble::Python) => serde_json::from_slice(&body).map_or(body, |value: Value| python(&value).into()),
        Some(Garble::Truncated) | None => body,
    }
}

/// A value as Python's `repr` prints it.
fn python(value: &Value) -> String {
    let joined = |pieces: Vec<String>| pieces.join(", ");
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n")),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(python).collect())),
        Value::Object(members) => {
            format!("{{{}}}", joined(members.iter().map(|(k, v)| format!("'{k}': {}", python(v))).collect()))
        }
    }
}

fn encoded(body: Bytes, fate: &Fate, headers: &mut http::HeaderMap) -> Bytes {
    let Some(encoding) = fate.encoding else { return body };
    let odd = !fate.number.is_multiple_of(2);
    let (name, encoded) = match encoding {
        Encoding::Gzip => ("gzip", gzip(&body, odd)),
        Encoding::Deflate if odd => ("deflate", raw_deflate(&body)),
        Encoding::Deflate => ("deflate", zlib(&body)),
        Encoding::Zstd => ("zstd", zstd::encode_all(&body[..], 3)),
    };
    // Encoding into memory does not fail; were it to, the plain body is still true.
    let Ok(encoded) = encoded else { return body };
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    encoded.into()
}

/// Two members say the same as one, and a decoder that stops after the first shows itself.
fn gzip(body: &[u8], in_two: bool) -> io::Result<Vec<u8>> {
    let (first, second) = body.split_at(if in_two { body.len() / 2 } else { body.len() });
    let mut encoded = Vec::new();
    for member in [Some(first), in_two.then_some(second)].into_iter().flatten() {
        let mut encoder = flate2::write::GzEncoder::new(encoded, flate2::Compression::default());
        encoder.write_all(member)?;
        encoded = encoder.finish()?;
    }
    Ok(encoded)
}

fn zlib(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body)?;
    encoder.finish()
}

fn raw_deflate(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body)?;
    encoder.finish()
}

/// The body of a response as hyper draws it: steps, one after the other.
#[derive(Debug, Default)]
pub(super) struct Wire {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The length to announce; none where the body is framed in chunks.
    announced: Option<u64>,
    note: Option<Note>,
}

#[derive(Debug)]
enum Step {
    Write(Bytes),
    Fill(u64),
    Pause(Duration),
    Break,
}

/// A receipt, and the connection whose writing completes it.
#[derive(Debug)]
struct Note {
    receipt: Receipt,
    connection: Arc<Connection>,
}

impl Wire {
    fn filled(bytes: u64) -> Self {
        let steps = if bytes > 0 { VecDeque::from([Step::Fill(bytes)]) } else { VecDeque::new() };
        Self { steps, announced: Some(bytes), ..Self::default() }
    }

    fn of(body: Bytes, fate: &Fate, note: Option<Note>) -> Self {
        let length = body.len() as u64;
        let truncated = fate.garble == Some(Garble::Truncated);
        let written = if truncated { body.slice(..body.len() / 2) } else { body };
        let mut steps = paced(&written, fate.slow);
        if truncated {
            steps.extend([Step::Pause(BEFORE_THE_BREAK), Step::Break]);
        }
        let announced = (!fate.chunked).then_some(length);
        let mut wire = Self { steps, pause: None, announced, note };
        wire.settle_at_end();
        wire
    }

    /// Hands the receipt to the connection once the last step is drawn: hyper buffers it before it writes again.
    fn settle_at_end(&mut self) {
        if self.steps.is_empty()
            && let Some(Note { receipt, connection }) = self.note.take()
        {
            connection.unwritten().push(receipt);
        }
    }

    fn step(&mut self, step: Step) -> Option<io::Result<Frame<Bytes>>> {
        match step {
            Step::Write(bytes) => Some(Ok(Frame::data(bytes))),
            Step::Fill(bytes) => {
                let now = bytes.min(FILLING.len() as u64);
                if bytes > now {
                    self.steps.push_front(Step::Fill(bytes - now));
                }
                Some(Ok(Frame::data(Bytes::from_static(&FILLING[..now as usize]))))
            }
            Step::Pause(duration) => {
                self.pause = Some(Box::pin(tokio::time::sleep(duration)));
                None
            }
            Step::Break => Some(Err(io::Error::other("the simulated node breaks off"))),
        }
    }
}

/// The steps that write a body at once, or slowly in pieces.
fn paced(body: &Bytes, slow: Option<Duration>) -> VecDeque<Step> {
    let Some(whole) = slow else {
        return if body.is_empty() { VecDeque::new() } else { VecDeque::from([Step::Write(body.clone())]) };
    };
    let piece = body.len().div_ceil(SLOW_PIECES).max(1);
    let starts = (0..body.len()).step_by(piece);
    let pieces = starts.map(|from| Step::Write(body.slice(from..(from + piece).min(body.len()))));
    pieces.flat_map(|write| [Step::Pause(whole / SLOW_PIECES as u32), write]).collect()
}

impl Body for Wire {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let wire = self.get_mut();
        loop {
            if let Some(pause) = &mut wire.pause {
                ready!(pause.as_mut().poll(cx));
                wire.pause = None;
            }
            let Some(step) = wire.steps.pop_front() else { return Poll::Ready(None) };
            let frame = wire.step(step);
            wire.settle_at_end();
            if frame.is_some() {
                return Poll::Ready(frame);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.pause.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// One connection of a client: what of it is still to be written, and whether it shall end in a reset.
#[derive(Debug)]
pub(super) struct Connection {
    world: Arc<World>,
    reset: AtomicBool,
    requests: AtomicU64,
    unwritten: Mutex<Vec<Receipt>>,
    /// What becomes of the connection after its last answer, and whether a WebSocket on it is deflated.
    upgrade: Mutex<Option<(OnUpgrade, bool)>>,
}

impl Connection {
    pub(super) fn new(world: Arc<World>) -> Arc<Self> {
        let (reset, requests) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Self { world, reset, requests, unwritten: Mutex::default(), upgrade: Mutex::default() })
    }

    /// The connection becomes a WebSocket when the answer to this request is written.
    pub(super) fn upgrade(&self, upgrade: OnUpgrade, is_deflated: bool) {
        *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, is_deflated));
    }

    /// What it became.
    pub(super) fn take_upgrade(&self) -> Option<(OnUpgrade, bool)> {
        self.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The connection shall end with RST, once it is dropped.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// The number of this request on its connection, from 1.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn unwritten(&self) -> MutexGuard<'_, Vec<Receipt>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, and settles what is complete when all that hyper has buffered went out. Both happen under the world's
    /// lock: who has read an answer finds it in the account.
    fn settling(&self, buffered: usize, write: impl FnOnce() -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut unwritten = self.unwritten();
        if unwritten.is_empty() {
            drop(unwritten);
            return write();
        }
        let mut state = self.world.lock();
        let written = write();
        if matches!(written, Poll::Ready(Ok(count)) if count == buffered) {
            unwritten.drain(..).for_each(|receipt| state.settle(receipt));
        }
        written
    }
}

/// A client's socket as hyper uses it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TokioIo<TcpStream>,
    connection: Arc<Connection>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self { stream: TokioIo::new(stream), connection }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Relaxed) {
            // Without it the connection ends all the same, only more politely.
            let _polite = self.stream.inner().set_zero_linger();
        }
    }
}

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, connection } = self.get_mut();
        connection.settling(buf.len(), || Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, connection } = self.get_mut();
        let buffered = bufs.iter().map(|buf| buf.len()).sum();
        connection.settling(buffered, || Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The service gives up the connection instead of answering.
#[derive(Debug)]
pub(super) struct Aborted;

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the simulated node gives up the connection")
    }
}

impl std::error::Error for Aborted {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn python_prints_like_the_example_of_the_page() {
        let value = json!({"alias": "117", "chatEnded": false, "messages": [{"index": 1, "text": "it's\n"}]});
        assert_eq!(
            python(&value),
            "{'alias': '117', 'chatEnded': False, 'messages': [{'index': 1, 'text': 'it\\'s\\n'}]}"
        );
    }

    #[test]
    fn encodings_can_be_undone() {
        use std::io::Read as _;
        let body: &[u8] = br#"{"statusCode":0,"messages":[]}"#;
        let undone = |mut decoder: Box<dyn io::Read>| {
            let mut text = Vec::new();
            decoder.read_to_end(&mut text).map(|_| text).expect("decodes")
        };
        for in_two in [false, true] {
            let encoded = io::Cursor::new(gzip(body, in_two).expect("encodes"));
            assert_eq!(undone(Box::new(flate2::read::MultiGzDecoder::new(encoded))), body);
        }
        let encoded = io::Cursor::new(zlib(body).expect("encodes"));
        assert_eq!(undone(Box::new(flate2::read::ZlibDecoder::new(encoded))), body);
        let encoded = io::Cursor::new(raw_deflate(body).expect("encodes"));
        assert_eq!(undone(Box::new(flate2::read::DeflateDecoder::new(encoded))), body);
    }

    #[test]
    fn slow_is_in_pieces_that_make_the_whole() {
        let body = Bytes::from_static(b"0123456789");
        let steps = paced(&body, Some(Duration::from_millis(80)));
        let written = steps.iter().filter_map(|step| match step {
            Step::Write(bytes) => Some(bytes.clone()),
            _ => None,
        });
        assert_eq!(written.collect::<Vec<_>>().concat(), body);
        assert!(steps.len() > 4);
    }
}
