//! One connection, a client's or a node's, driven by whoever uses it: no task of its own, no buffer while nothing waits.
//!
//! What comes is read into one piece of memory that all connections of a thread share, and used from there; only what
//! cannot be used at once, or sent at once, is kept with the connection.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

use super::head::{HEAD_BYTES_MAX, Head, Kind, Malformed};
use super::stream::Stream;
use super::tls;

/// What is read at once: a transcript of 300 events.
pub const READ_BYTES_MAX: usize = 64 << 10;
/// What a client may send ahead while its answer is awaited: a few pipelined polls.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// A head lives as long as its exchange, and would keep what came with it: of more than this it is a copy.
const SHARED_BYTES_MAX: usize = 8 << 10;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

/// Why no head came.
#[derive(Debug, thiserror::Error)]
pub enum NoHead {
    /// What came is none.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The connection broke, or ended within a head.
    #[error("{0}")]
    Broken(#[from] io::Error),
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: RefCell<Stream>,
    is_tls: bool,
    /// Read and not used yet.
    unread: RefCell<BytesMut>,
    /// So much of it is no whole head.
    looked: Cell<usize>,
    /// To be sent as soon as the peer takes more.
    unsent: RefCell<BytesMut>,
    /// TLS has taken something that it has not sent yet.
    is_behind: Cell<bool>,
    /// The peer sends no more.
    has_ended: Cell<bool>,
    /// Bytes that the peer took.
    sent: Cell<u64>,
}

impl Wire {
    /// Small messages do not wait for the acknowledgement of others: 300 of them take 14 s with Nagle's algorithm, and
    /// 0.85 s without.
    pub fn new(stream: Stream) -> Self {
        let _ = stream.tcp().set_nodelay(true); // a stream that is broken will say so when it is used
        Self {
            is_tls: matches!(stream, Stream::Tls(_)),
            stream: RefCell::new(stream),
            unread: RefCell::default(),
            looked: Cell::new(0),
            unsent: RefCell::default(),
            is_behind: Cell::new(false),
            has_ended: Cell::new(false),
            sent: Cell::new(0),
        }
    }

    /// The stream, and what was read of it and not used.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream.into_inner(), self.unread.into_inner())
    }

    /// Hands over what the peer sent: what waits, or else what can be read now, `bytes_max` of it; nothing at its end. `take`
    /// says how much of it was used. The rest waits.
    ///
    /// # Errors
    /// Where the connection broke.
    pub fn poll_part<T>(
        &self,
        context: &mut Context<'_>,
        bytes_max: usize,
        take: impl FnOnce(&mut [u8]) -> (usize, T),
    ) -> Poll<io::Result<T>> {
        let mut unread = self.unread.borrow_mut();
        if !unread.is_empty() {
            let (used, taken) = take(&mut unread);
            unread.advance(used);
            if unread.is_empty() {
                *unread = BytesMut::new();
            }
            return Poll::Ready(Ok(taken));
        }
        READ.with_borrow_mut(|read| {
            let bytes_max = bytes_max.min(read.len());
            let length = ready!(self.poll_read(context, &mut read[..bytes_max]))?;
            let (used, taken) = take(&mut read[..length]);
            unread.extend_from_slice(&read[used..length]);
            Poll::Ready(Ok(taken))
        })
    }

    /// The next message's head; none where the peer has ended before its first byte.
    ///
    /// # Errors
    /// Where what came is no head, or breaks off.
    pub fn poll_head(&self, context: &mut Context<'_>, kind: Kind) -> Poll<Result<Option<Head>, NoHead>> {
        loop {
            if let Some(head) = self.take_head(kind)? {
                return Poll::Ready(Ok(Some(head)));
            }
            if ready!(self.poll_more(context))? == 0 {
                return Poll::Ready(match self.is_blank() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                });
            }
        }
    }

    fn take_head(&self, kind: Kind) -> Result<Option<Head>, Malformed> {
        let mut unread = self.unread.borrow_mut();
        let looked = self.looked.get();
        // Some clients end a form with one line too many (RFC 9112, section 2.2).
        match &unread[..] {
            b"\r" if kind == Kind::Request => return Ok(None),
            [b'\r', b'\n', ..] if looked == 0 && kind == Kind::Request => unread.advance(2),
            _ => {}
        }
        // Only a line's end can be a head's: so it is read at most twice as many times as it may have lines.
        if memchr::memchr2(b'\r', b'\n', &unread[looked..]).is_none() && unread.len() <= HEAD_BYTES_MAX {
            self.looked.set(unread.len());
            return Ok(None);
        }
        let Some((head, length)) = Head::read(&unread, kind)? else {
            self.looked.set(unread.len());
            return Ok(None);
        };
        self.looked.set(0);
        let bytes = match unread.len() {
            all if all == length => std::mem::take(&mut *unread).freeze(),
            all if all <= SHARED_BYTES_MAX => unread.split_to(length).freeze(),
            _ => {
                let bytes = Bytes::copy_from_slice(&unread[..length]);
                unread.advance(length);
                bytes
            }
        };
        Ok(Some(head.bind(bytes)))
    }

    /// Whether nothing of the next message has come yet.
    pub fn is_blank(&self) -> bool {
        self.unread.borrow().is_empty()
    }

    /// Whether the peer has said that it sends no more.
    pub fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Whether the peer of an idle connection has said nothing, not even that it ends, as far as this thread was told;
    /// with `surely`, as far as the kernel knows.
    pub fn is_quiet(&self, surely: bool) -> bool {
        if !self.is_blank() || self.has_ended() {
            return false;
        }
        // Not within tokio's budget for a task: out of it, every connection would seem quiet.
        let mut nobody = Context::from_waker(Waker::noop());
        let read = pin!(unconstrained(poll_fn(|context| READ.with_borrow_mut(|read| self.poll_read(context, read)))));
        if read.poll(&mut nobody).is_ready() {
            return false;
        }
        let stream = self.stream.borrow();
        !surely || recv(stream.tcp(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
    }

    /// Reads ahead while the peer waits for an answer. Ready with false when it ends, with true when it breaks.
    pub fn poll_gone(&self, context: &mut Context<'_>) -> Poll<bool> {
        while self.unread.borrow().len() < AHEAD_BYTES_MAX {
            match ready!(self.poll_more(context)) {
                Ok(0) => return Poll::Ready(false),
                Ok(_) => {}
                Err(_) => return Poll::Ready(true),
            }
        }
        Poll::Pending
    }

    /// Reads behind what waits. 0: the peer has ended.
    fn poll_more(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ.with_borrow_mut(|read| {
            let length = ready!(self.poll_read(context, read))?;
            self.unread.borrow_mut().extend_from_slice(&read[..length]);
            Poll::Ready(Ok(length))
        })
    }

    fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, &mut buffer))?;
        let length = buffer.filled().len();
        self.has_ended.set(length == 0);
        Poll::Ready(Ok(length))
    }

    /// Sends slices one after another: what the peer takes at once; the rest is kept for [`Wire::poll_flush`].
    ///
    /// # Errors
    /// Where the connection is broken: then nothing of these slices went out, or by TLS perhaps a part.
    pub fn send<const N: usize>(&self, context: &mut Context<'_>, slices: [&[u8]; N]) -> io::Result<()> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut unsent = self.unsent.borrow_mut();
        let mut sent = match unsent.is_empty() && length > 0 {
            true => self.try_send(context, slices)?,
            false => 0,
        };
        if sent == length {
            return Ok(());
        }
        for slice in slices {
            let skipped = sent.min(slice.len());
            unsent.extend_from_slice(&slice[skipped..]);
            sent -= skipped;
        }
        Ok(())
    }

    fn try_send<const N: usize>(&self, context: &mut Context<'_>, slices: [&[u8]; N]) -> io::Result<usize> {
        let mut stream = self.stream.borrow_mut();
        let stream = Pin::new(&mut *stream);
        let sent = match N {
            1 => stream.poll_write(context, slices[0]),
            _ => stream.poll_write_vectored(context, &slices.map(IoSlice::new)),
        };
        match sent {
            Poll::Ready(sent) => sent.inspect(|sent| self.count(*sent)),
            Poll::Pending => Ok(0),
        }
    }

    fn count(&self, sent: usize) {
        self.is_behind.set(self.is_tls);
        self.sent.set(self.sent.get() + sent as u64);
    }

    /// Whether nobody on the way can read it.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether what waits is TLS, on a connection in clear text.
    pub fn speaks_tls(&self) -> bool {
        !self.is_tls && tls::begins_record(&self.unread.borrow())
    }

    /// How many bytes the peer took so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Whether everything given to [`Wire::send`] went out.
    pub fn is_flushed(&self) -> bool {
        self.unsent.borrow().is_empty() && !self.is_behind.get()
    }

    /// Ready when everything given to [`Wire::send`] went out.
    ///
    /// # Errors
    /// Where the connection broke.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            let sent = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, &unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.count(sent);
            unsent.advance(sent);
            if unsent.is_empty() {
                *unsent = BytesMut::new();
            }
        }
        if self.is_behind.get() {
            ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_flush(context))?;
            self.is_behind.set(false);
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that no more comes.
    ///
    /// # Errors
    /// Where the connection broke.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(context)
    }

    /// Says so before it is closed, where the protocol wants that (TLS), if it can be said at once.
    pub fn close(&self) {
        if self.is_tls() {
            let _ = self.poll_end(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Reads and drops. Ready at the peer's end, where the connection breaks, and after so many bytes.
    pub fn poll_drained(&self, context: &mut Context<'_>, bytes_max: &mut usize) -> Poll<()> {
        *self.unread.borrow_mut() = BytesMut::new();
        while *bytes_max > 0 {
            match ready!(READ.with_borrow_mut(|read| self.poll_read(context, read))) {
                Ok(0) | Err(_) => break,
                Ok(length) => *bytes_max = bytes_max.saturating_sub(length),
            }
        }
        Poll::Ready(())
    }

    /// The peer will see a reset instead of an end, once this is dropped.
    pub fn reset_at_close(&self) {
        let _ = self.stream.borrow().tcp().set_zero_linger(); // a stream that is broken is reset already
    }
}
