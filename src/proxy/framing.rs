//! Where a body ends (RFC 9112, sections 6 and 7), strictly: a framing that two parsers could read differently is refused.
//! Pure: bytes in, bytes out.

use super::head::{Head, Known, Malformed};

/// A chunk of more is nobody's honest chunk, and its size would overflow somebody's arithmetic.
const CHUNK_BYTES_MAX: u64 = 1 << 40;
/// The longest line of a chunk's size with its extensions.
const SIZE_LINE_BYTES_MAX: u32 = 256;
/// The longest trailer section.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// How a body's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// With the connection: an answer only.
    UntilClose,
}

/// Why a body cannot be told from what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Not one number of digits, once.
    #[error("a Content-Length that is not one number")]
    ContentLength,
    /// Not exactly `chunked`.
    #[error("a Transfer-Encoding other than chunked")]
    TransferEncoding,
    /// Both, or the second one from a peer of HTTP/1.0.
    #[error("a Transfer-Encoding where a Content-Length stands, or in HTTP/1.0")]
    Both,
    /// Chunks that are none.
    #[error("chunks that are malformed")]
    Chunk,
    /// A trailer section that is none.
    #[error("a trailer section that is malformed: {0}")]
    Trailer(#[from] Malformed),
}

impl Framing {
    /// Of a request's body.
    ///
    /// # Errors
    /// Where RFC 9112, section 6.3 wants it refused.
    pub fn of_request(head: &Head) -> Result<Self, Ambiguous> {
        Self::declared(head).map(|declared| declared.unwrap_or(Self::None))
    }

    /// Of an answer's body, which depends on what was asked.
    ///
    /// # Errors
    /// As [`Framing::of_request`].
    pub fn of_answer(head: &Head, method: &str) -> Result<Self, Ambiguous> {
        let declared = Self::declared(head)?;
        match head.status() {
            100..200 | 204 | 304 => Ok(Self::None),
            _ if method == "HEAD" => Ok(Self::None),
            _ => Ok(declared.unwrap_or(Self::UntilClose)),
        }
    }

    fn declared(head: &Head) -> Result<Option<Self>, Ambiguous> {
        let length = match head.raw_value(Known::ContentLength) {
            Some(_) if head.repeats(Known::ContentLength) => return Err(Ambiguous::ContentLength),
            Some(value) => Some(digits(value).ok_or(Ambiguous::ContentLength)?),
            None => None,
        };
        let is_chunked = match head.raw_value(Known::TransferEncoding) {
            Some(coding) if head.repeats(Known::TransferEncoding) || !coding.eq_ignore_ascii_case(b"chunked") => {
                return Err(Ambiguous::TransferEncoding);
            }
            coding => coding.is_some(),
        };
        match (length, is_chunked) {
            (Some(_), true) => Err(Ambiguous::Both),
            (None, true) if head.is_http_10() => Err(Ambiguous::Both),
            (None, true) => Ok(Some(Self::Chunked)),
            (length, false) => Ok(length.map(Self::Length)),
        }
    }
}

/// One or more digits, and nothing else.
fn digits(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// Takes a body's framing off, wherever the bytes are cut.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    trailer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are to come, of a body or, inside chunks, of a chunk.
    Length(u64),
    UntilClose,
    Size {
        value: u64,
        digits: u32,
    },
    Extension {
        size: u64,
        length: u32,
    },
    SizeEnd(u64),
    Data(u64),
    DataEnd {
        seen_return: bool,
    },
    Trailer,
    Over,
}

/// What was made of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// So many bytes at the start are the body's now.
    pub data: usize,
    /// So many bytes were the message's; what follows them is another's.
    pub used: usize,
}

impl Decoder {
    /// For a body of that framing.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailer: Vec::new() }
    }

    /// Whether the end was seen.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// How many bytes of the body are still to come, where its length says so.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Over => Some(0),
            _ => None,
        }
    }

    /// The peer will send no more. Whether that may be the end here.
    pub fn ends_here(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Over;
        }
        self.is_over()
    }

    /// The trailer section that came, its empty line included; empty where there was none.
    pub fn take_trailer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailer)
    }

    /// Takes the framing off what came. The body's bytes are moved together at the start of `bytes`.
    ///
    /// # Errors
    /// Where the framing is broken. What was good before that is lost with it.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Ambiguous> {
        match self.state {
            State::Length(left) => {
                let data = left.min(bytes.len() as u64) as usize;
                self.state = if data as u64 == left { State::Over } else { State::Length(left - data as u64) };
                Ok(Decoded { data, used: data })
            }
            State::UntilClose => Ok(Decoded { data: bytes.len(), used: bytes.len() }),
            _ => self.decode_chunks(bytes),
        }
    }

    fn decode_chunks(&mut self, bytes: &mut [u8]) -> Result<Decoded, Ambiguous> {
        let (mut data, mut at) = (0, 0);
        while at < bytes.len() && self.state != State::Over {
            if let State::Data(left) = self.state {
                let length = left.min((bytes.len() - at) as u64) as usize;
                bytes.copy_within(at..at + length, data);
                (data, at) = (data + length, at + length);
                let left = left - length as u64;
                self.state = if left == 0 { State::DataEnd { seen_return: false } } else { State::Data(left) };
            } else {
                self.state = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(Decoded { data, used: at })
    }

    /// One byte outside of a chunk's data.
    fn step(&mut self, byte: u8) -> Result<State, Ambiguous> {
        match (self.state, byte) {
            (State::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                let value = value << 4 | u64::from(digit);
                let fits = value < CHUNK_BYTES_MAX && digits < 16;
                fits.then_some(State::Size { value, digits: digits + 1 }).ok_or(Ambiguous::Chunk)
            }
            (State::Size { digits: 0, .. }, _) => Err(Ambiguous::Chunk),
            (State::Size { value, .. }, b'\r') => Ok(State::SizeEnd(value)),
            (State::Size { value, .. }, b';') => Ok(State::Extension { size: value, length: 0 }),
            (State::Extension { size, .. }, b'\r') => Ok(State::SizeEnd(size)),
            // Nobody here asks for extensions: they are not passed on (RFC 9112, section 7.1.1).
            (State::Extension { size, length }, b' '..=b'~' | b'\t' | 0x80..) if length < SIZE_LINE_BYTES_MAX => {
                Ok(State::Extension { size, length: length + 1 })
            }
            (State::SizeEnd(0), b'\n') => Ok(State::Trailer),
            (State::SizeEnd(size), b'\n') => Ok(State::Data(size)),
            (State::DataEnd { seen_return: false }, b'\r') => Ok(State::DataEnd { seen_return: true }),
            (State::DataEnd { seen_return: true }, b'\n') => Ok(State::Size { value: 0, digits: 0 }),
            (State::Trailer, byte) => self.trailer_byte(byte),
            _ => Err(Ambiguous::Chunk),
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, Ambiguous> {
        self.trailer.push(byte);
        let ended = match self.trailer[..] {
            [b'\r', b'\n'] => true,
            [b'\n'] => return Err(Ambiguous::Trailer(Malformed::LineEnd)),
            [.., before, b'\n'] if before != b'\r' => return Err(Ambiguous::Trailer(Malformed::LineEnd)),
            [.., b'\r', b'\n', b'\r', b'\n'] => true,
            _ => false,
        };
        if self.trailer.len() > TRAILER_BYTES_MAX {
            return Err(Ambiguous::Trailer(Malformed::TooLong));
        }
        if !ended {
            return Ok(State::Trailer);
        }
        if self.trailer.len() == 2 {
            self.trailer = Vec::new();
        } else {
            Head::parse_fields(&self.trailer)?;
        }
        Ok(State::Over)
    }
}

/// The line before a chunk's data.
#[derive(Debug)]
pub struct SizeLine {
    bytes: [u8; 18],
    from: usize,
}

impl SizeLine {
    /// For a chunk of that many bytes.
    pub fn new(size: usize) -> Self {
        let mut bytes = [0; 18];
        bytes[16..].copy_from_slice(b"\r\n");
        let (mut from, mut left) = (16, size);
        loop {
            from -= 1;
            bytes[from] = b"0123456789abcdef"[left & 0xf];
            left >>= 4;
            if left == 0 {
                return Self { bytes, from };
            }
        }
    }

    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::Kind;
    use super::*;

    fn request(fields: &str) -> Head {
        let text = format!("POST / HTTP/1.1\r\n{fields}\r\n");
        Head::parse(text.into(), Kind::Request).expect("a head")
    }

    #[test]
    fn a_request_is_framed_in_one_way_or_refused() {
        let check = |fields: &str, expected: Result<Framing, Ambiguous>| {
            assert_eq!(Framing::of_request(&request(fields)), expected, "{fields:?}");
        };
        check("", Ok(Framing::None));
        check("Content-Length: 0\r\n", Ok(Framing::Length(0)));
        check("Content-Length: 12\r\n", Ok(Framing::Length(12)));
        check("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked));
        for length in ["", "+5", "-1", "5, 5", "0x5", "5 5", "99999999999999999999", "٥"] {
            check(&format!("Content-Length: {length}\r\n"), Err(Ambiguous::ContentLength));
        }
        check("Content-Length: 5\r\nContent-Length: 5\r\n", Err(Ambiguous::ContentLength));
        for coding in ["", "identity", "gzip, chunked", "chunked, chunked", "chunked,", "xchunked", "chunked;q=1"] {
            check(&format!("Transfer-Encoding: {coding}\r\n"), Err(Ambiguous::TransferEncoding));
        }
        let twice = "Transfer-Encoding: chunked\r\n".repeat(2);
        check(&twice, Err(Ambiguous::TransferEncoding));
        check("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Ambiguous::Both));
    }

    #[test]
    fn an_answer_is_framed_by_what_was_asked_too() {
        let check = |line: &str, fields: &str, method: &str, expected: Result<Framing, Ambiguous>| {
            let text = format!("{line}\r\n{fields}\r\n");
            let head = Head::parse(text.into(), Kind::Answer).expect("a head");
            assert_eq!(Framing::of_answer(&head, method), expected, "{line} {fields} {method}");
        };
        check("HTTP/1.1 200 OK", "", "GET", Ok(Framing::UntilClose));
        check("HTTP/1.1 200 OK", "Content-Length: 4\r\n", "GET", Ok(Framing::Length(4)));
        check("HTTP/1.1 200 OK", "Content-Length: 4\r\n", "HEAD", Ok(Framing::None));
        check("HTTP/1.1 204 No Content", "", "GET", Ok(Framing::None));
        check("HTTP/1.1 304 Not Modified", "Content-Length: 4\r\n", "GET", Ok(Framing::None));
        check("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n", "GET", Err(Ambiguous::Both));
        check("HTTP/1.1 200 OK", "Content-Length: 5, 5\r\n", "GET", Err(Ambiguous::ContentLength));
    }

    /// Decodes with the bytes cut at every place.
    fn decode(framing: Framing, wire: &[u8]) -> Result<(Vec<u8>, usize, Vec<u8>, bool), Ambiguous> {
        let mut outcomes = Vec::new();
        for cut in 0..=wire.len() {
            let mut decoder = Decoder::new(framing);
            let mut run = || {
                let (mut body, mut used) = (Vec::new(), 0);
                for part in [&wire[..cut], &wire[cut..]] {
                    let mut part = part.to_vec();
                    let decoded = decoder.decode(&mut part)?;
                    body.extend_from_slice(&part[..decoded.data]);
                    used += decoded.used;
                }
                Ok((body, used))
            };
            let outcome = run();
            outcomes.push(outcome.map(|(body, used)| (body, used, decoder.take_trailer(), decoder.is_over())));
        }
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "it depends on where the bytes are cut");
        outcomes.swap_remove(0)
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        let check = |framing, wire: &[u8], body: &[u8], used: usize, trailer: &[u8], over: bool| {
            assert_eq!(decode(framing, wire), Ok((body.to_vec(), used, trailer.to_vec(), over)));
        };
        check(Framing::Length(3), b"abcde", b"abc", 3, b"", true);
        check(Framing::Length(3), b"ab", b"ab", 2, b"", false);
        check(Framing::UntilClose, b"ab", b"ab", 2, b"", false);
        check(Framing::Chunked, b"3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\n\r\nGET", b"abcde", 26, b"", true);
        check(Framing::Chunked, b"1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n", b"a", 21, b"X-Sum: 7\r\n\r\n", true);
        check(Framing::Chunked, b"00A\r\n0123456789\r\n", b"0123456789", 17, b"", false);
    }

    #[test]
    fn how_much_is_left_is_known_where_a_length_says_so_and_only_some_bodies_end_with_the_connection() {
        let check = |framing, left: [Option<u64>; 2], ends_here: bool| {
            let mut decoder = Decoder::new(framing);
            let before = decoder.left();
            decoder.decode(&mut b"1\r\n".to_vec()).expect("it is sound");
            assert_eq!([before, decoder.left()], left, "{framing:?}");
            assert_eq!((decoder.ends_here(), decoder.is_over()), (ends_here, ends_here), "{framing:?}");
        };
        check(Framing::None, [Some(0); 2], true);
        check(Framing::Length(3), [Some(3), Some(0)], true);
        check(Framing::Length(5), [Some(5), Some(2)], false);
        check(Framing::Chunked, [None; 2], false);
        check(Framing::UntilClose, [None; 2], true);
    }

    #[test]
    fn chunks_size_lines_and_trailers_are_bounded() {
        let check = |wire: &[u8], fits: bool| {
            assert_eq!(Decoder::new(Framing::Chunked).decode(&mut wire.to_vec()).is_ok(), fits);
        };
        check(b"000000ffffffffff\r\n", true);
        check(b"10000000000\r\n", false);
        let extension = |length| format!("1;{}\r\n", "x".repeat(length)).into_bytes();
        check(&extension(SIZE_LINE_BYTES_MAX as usize), true);
        check(&extension(SIZE_LINE_BYTES_MAX as usize + 1), false);
        let trailer = |length| format!("0\r\nX: {}\r\n\r\n", "x".repeat(length - "X: \r\n\r\n".len())).into_bytes();
        check(&trailer(TRAILER_BYTES_MAX), true);
        check(&trailer(TRAILER_BYTES_MAX + 1), false);
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        for wire in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"0x1\r\n",
            b"1\n",
            b"1\r\na\n",
            b"1\r\nab\r\n",
            b"1;\na\r\n",
            b"ffffffffffffffff\r\n",
            b"00000000000000001\r\n",
            b"0\r\n\n",
            b"0\r\nbad\r\n\r\n",
            b"0\r\nA: b\n\r\n",
        ] {
            assert!(decode(Framing::Chunked, wire).is_err(), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn size_lines_are_hexadecimal() {
        for (size, line) in [(0, "0\r\n"), (10, "a\r\n"), (65_536, "10000\r\n"), (usize::MAX, "ffffffffffffffff\r\n")] {
            assert_eq!(SizeLine::new(size).as_bytes(), line.as_bytes());
        }
    }
}
