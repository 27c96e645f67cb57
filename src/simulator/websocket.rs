//! WebSocket at a node: the handshake, and messages in frames (RFC 6455), deflated where the client offers it (RFC 7692).
//! What the messages say is not its concern.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{Answer, Content};

/// What the key is answered with (RFC 6455, section 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What a sender cuts off the end of a deflated message (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// A message goes out in fragments of this many bytes, so that whoever reads along meets them.
const FRAGMENT_BYTES: usize = 700;
/// What a client may say in one message: far more than a CometD client does.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What a client said.
#[derive(Debug)]
pub(super) enum Said {
    Text(Vec<u8>),
    Ping(Bytes),
    /// It closes, or its connection is over.
    Close,
}

/// A client's connection after the handshake.
pub(super) struct WebSocket {
    stream: TokioIo<Upgraded>,
    received: BytesMut,
    /// The fragments of a message so far, and whether it is deflated.
    message: Vec<u8>,
    is_deflated: bool,
    deflate: Option<(Compress, Decompress)>,
}

/// The answer to a request that asks for a WebSocket; none to any other.
pub(super) fn handshake(head: &Parts, deflates: bool) -> Option<Answer> {
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    let asks = head.headers.get(header::UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize());
    let answer = Answer {
        status: StatusCode::SWITCHING_PROTOCOLS,
        headers: vec![(header::UPGRADE, "websocket".into()), (header::CONNECTION, "Upgrade".into())],
        content: Content::Whole(Bytes::new()),
        receipt: Default::default(),
    };
    let answer = answer.with(header::SEC_WEBSOCKET_ACCEPT, accept);
    let deflates = deflates && offers_deflate(&head.headers);
    asks.then(|| match deflates {
        true => answer.with(header::SEC_WEBSOCKET_EXTENSIONS, "permessage-deflate"),
        false => answer,
    })
}

fn offers_deflate(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    lines.any(|line| line.contains("permessage-deflate"))
}

impl WebSocket {
    /// A connection whose handshake was answered.
    pub(super) fn new(stream: Upgraded, is_deflated: bool) -> Self {
        let deflate = is_deflated.then(|| (Compress::new(Compression::fast(), false), Decompress::new(false)));
        let (received, message) = (BytesMut::new(), Vec::new());
        Self { stream: TokioIo::new(stream), received, message, is_deflated: false, deflate }
    }

    /// Waits for the next message or control frame. May be dropped while it waits.
    ///
    /// # Errors
    /// Where the connection breaks or the client breaks the rules.
    pub(super) async fn receive(&mut self) -> io::Result<Said> {
        loop {
            while let Some((first, payload)) = self.frame()? {
                if let Some(said) = self.take(first, payload)? {
                    return Ok(said);
                }
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Ok(Said::Close);
            }
        }
    }

    /// The next whole frame: its first byte, and its payload unmasked.
    fn frame(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        let [first, second, rest @ ..] = &self.received[..] else { return Ok(None) };
        let (length, rest, skipped) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest, 4),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest, 10)
            }
            (126 | 127, _) => return Ok(None),
            (length, rest) => (u64::from(length), rest, 2),
        };
        if second & 0x80 == 0 || length > MESSAGE_BYTES_MAX as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some(payload) = rest.get(..length as usize) else { return Ok(None) };
        let unmasked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let first = *first;
        self.received.advance(skipped + mask.len() + length as usize);
        Ok(Some((first, unmasked)))
    }

    fn take(&mut self, first: u8, payload: Bytes) -> io::Result<Option<Said>> {
        match first & 0x0f {
            0 => {}
            1 | 2 => self.is_deflated = first & 0x40 != 0,
            8 => return Ok(Some(Said::Close)),
            9 => return Ok(Some(Said::Ping(payload))),
            _ => return Ok(None),
        }
        self.message.extend_from_slice(&payload);
        if self.message.len() > MESSAGE_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if first & 0x80 == 0 {
            return Ok(None);
        }
        let message = std::mem::take(&mut self.message);
        Ok(Some(Said::Text(if self.is_deflated { self.inflated(message)? } else { message })))
    }

    fn inflated(&mut self, mut message: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some((_, stream)) = &mut self.deflate else { return Err(io::ErrorKind::InvalidData.into()) };
        message.extend(TAIL);
        let (mut inflated, start) = (Vec::with_capacity(message.len() * 4), stream.total_in());
        while stream.total_in() - start < message.len() as u64 || inflated.len() == inflated.capacity() {
            inflated.reserve(message.len());
            let rest = &message[(stream.total_in() - start) as usize..];
            stream.decompress_vec(rest, &mut inflated, FlushDecompress::Sync)?;
            if inflated.len() > MESSAGE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(inflated)
    }

    /// Sends a message, in fragments.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub(super) async fn send(&mut self, text: &str) -> io::Result<()> {
        let (payload, mut first) = match &mut self.deflate {
            Some((stream, _)) => (deflated(stream, text.as_bytes())?, 0x41),
            None => (text.as_bytes().to_vec(), 0x01),
        };
        let mut frames = BytesMut::new();
        let mut pieces = payload.chunks(FRAGMENT_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { 0x80 } else { 0 };
            append(&mut frames, std::mem::take(&mut first) | last, piece);
        }
        self.stream.write_all(&frames).await?;
        self.stream.flush().await
    }

    /// Answers a ping, or a Close.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub(super) async fn answer(&mut self, said: &Said) -> io::Result<()> {
        let mut frame = BytesMut::new();
        match said {
            Said::Ping(payload) => append(&mut frame, 0x8a, payload),
            _ => append(&mut frame, 0x88, &1000_u16.to_be_bytes()),
        }
        self.stream.write_all(&frame).await?;
        self.stream.flush().await
    }
}

fn append(frames: &mut BytesMut, first: u8, payload: &[u8]) {
    frames.extend_from_slice(&[first]);
    match u8::try_from(payload.len()) {
        Ok(length @ ..=125) => frames.extend_from_slice(&[length]),
        // No piece is longer than a fragment.
        _ => frames.extend_from_slice(&[&[126][..], &(payload.len() as u16).to_be_bytes()].concat()),
    }
    frames.extend_from_slice(payload);
}

fn deflated(stream: &mut Compress, text: &[u8]) -> io::Result<Vec<u8>> {
    let (mut deflated, start) = (Vec::with_capacity(text.len() + 64), stream.total_in());
    while stream.total_in() - start < text.len() as u64 || deflated.len() == deflated.capacity() {
        deflated.reserve(text.len() + 64);
        let rest = &text[(stream.total_in() - start) as usize..];
        stream.compress_vec(rest, &mut deflated, FlushCompress::Sync)?;
    }
    deflated.truncate(deflated.len().saturating_sub(TAIL.len()));
    Ok(deflated)
}
