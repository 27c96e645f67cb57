//! One direction of a WebSocket connection, read in passing: frames, fragments, masks (RFC 6455) and permessage-deflate
//! (RFC 7692), on a copy and within a bound. Knows nothing of what the messages say.
//!
//! The bytes go on whatever is found here: what cannot be read is told as [`Trouble`], and reading stops where what
//! follows could not be understood either.

use std::fmt;
use std::io::{Read, Write};

use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};

/// Two bytes, a length of eight, a mask of four (RFC 6455, section 5.2).
const HEAD_BYTES_MAX: usize = 14;
/// The payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;
/// What a sender cuts off the end of a deflated message (RFC 7692, section 7.2.1).
const DEFLATE_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The largest LZ77 window, as a power of two: deflate knows no longer distance, and it is what nobody agreed otherwise on.
const WINDOW_BITS_MAX: u8 = 15;
/// What room inflating asks for at a time.
const INFLATE_STEP_BYTES: usize = 4_096;

/// What a direction's bytes hold, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A text message, whole: unmasked, inflated, its fragments joined. It may be no UTF-8.
    Text(Vec<u8>),
    /// A control frame, or the end of a message that is not for reading: binary, or told as unread before.
    Other,
    /// The message that is under way will pass unread. Reading goes on after it.
    Unread(Trouble),
    /// Nothing can be read from here on. It is the last item.
    Lost(Trouble),
}

/// Why something was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A message over the bound, as it is on the wire or inflated.
    TooLong,
    /// A message that was not waited for to its end.
    TooSlow,
    /// A frame that RFC 6455 forbids.
    Forbidden(&'static str),
    /// Reserved bits that no agreed extension known here explains.
    UnknownExtension,
    /// A deflated message that does not inflate.
    Undeflatable,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a WebSocket message is over the bound for one, or for all that are held",
            Self::TooSlow => "a WebSocket message took too long to come whole",
            Self::Forbidden(what) => what,
            Self::UnknownExtension => "a WebSocket frame is of an extension that is not known here",
            Self::Undeflatable => "a WebSocket message is damaged: it does not inflate",
        })
    }
}

/// Reads one direction. It holds one message at most, and of what came before only what inflating the next one takes.
#[derive(Debug)]
pub struct Reader {
    inflater: Option<Inflater>,
    bytes_max: usize,
    head: Head,
    stage: Stage,
    message: Option<Message>,
}

/// Where in a frame the stream stands.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Head,
    Payload(Frame),
    Lost,
}

/// The bytes of a frame's head, as far as they came.
#[derive(Debug, Default)]
struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    length: usize,
}

/// A frame whose head was read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    is_final: bool,
    is_deflated: bool,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    /// How much of the payload came, and how much there is.
    came: u64,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Control,
}

/// A message under way.
#[derive(Debug)]
struct Message {
    is_text: bool,
    is_deflated: bool,
    /// Nobody wants what it says: it goes by uncopied.
    is_passing: bool,
    payload: Vec<u8>,
}

impl Reader {
    /// The readers of the client's and of the node's direction, after a handshake whose answer has these
    /// `Sec-WebSocket-Extensions` (all lines, comma-separated). The answer alone says what is agreed (RFC 7692, section 5).
    ///
    /// The bounds are those of a message of the client and of the node, in bytes, on the wire and inflated.
    pub fn pair(extensions: &str, client_bytes_max: usize, node_bytes_max: usize) -> (Self, Self) {
        let mut agreed = extensions.split(',').map(|extension| extension.split(';').map(str::trim));
        let deflate = agreed.find_map(|mut words| {
            let name = words.next()?;
            name.eq_ignore_ascii_case("permessage-deflate").then_some(words)
        });
        let inflaters = deflate.map(|parameters| {
            let (mut client, mut node) = (Inflater::default(), Inflater::default());
            for (name, value) in parameters.map(|word| word.split_once('=').unwrap_or((word, ""))) {
                match &*name.trim_end().to_ascii_lowercase() {
                    "client_no_context_takeover" => client.window_bytes_max = 0,
                    "server_no_context_takeover" => node.window_bytes_max = 0,
                    "client_max_window_bits" => client.bound_window(value),
                    "server_max_window_bits" => node.bound_window(value),
                    _ => {}
                }
            }
            (client, node)
        });
        let (client, node) = inflaters.unzip();
        (Self::new(client, client_bytes_max), Self::new(node, node_bytes_max))
    }

    fn new(inflater: Option<Inflater>, bytes_max: usize) -> Self {
        Self { inflater, bytes_max, head: Head::default(), stage: Stage::Head, message: None }
    }

    /// Takes bytes from the front until an item is whole, and returns it; none where the bytes are used up before.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Item> {
        while !bytes.is_empty() {
            let item = match self.stage {
                Stage::Head => self.read_head(bytes),
                Stage::Payload(frame) => self.read_payload(frame, bytes),
                Stage::Lost => {
                    *bytes = &[];
                    return None;
                }
            };
            match item {
                Ok(None) => {}
                Ok(Some(item)) => return Some(item),
                Err(trouble) => return Some(self.lose(trouble)),
            }
        }
        None
    }

    /// Whether what came after the last item may be part of a text message, or of a frame not yet known.
    pub fn holds(&self) -> bool {
        let is_text = self.message.as_ref().is_some_and(|message| message.is_text && !message.is_passing);
        match self.stage {
            Stage::Lost => false,
            Stage::Head => self.head.length > 0 || is_text,
            Stage::Payload(frame) => frame.opcode == Opcode::Control || is_text,
        }
    }

    /// Whether a frame of another's could be put in here: no frame is under way.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.stage, Stage::Head) && self.head.length == 0
    }

    /// The message under way is not to be waited for any longer: it passes unread, and what depends on it is lost.
    pub fn let_pass(&mut self, trouble: Trouble) -> Item {
        let keeps_context = self.inflater.as_ref().is_some_and(|inflater| inflater.window_bytes_max > 0);
        // In the midst of a frame's head, or of a control frame, there is more to wait for than this message.
        let is_of_message = match self.stage {
            Stage::Head => self.head.length == 0,
            Stage::Payload(frame) => frame.opcode != Opcode::Control,
            Stage::Lost => false,
        };
        match &mut self.message {
            Some(message) if is_of_message && !(message.is_deflated && keeps_context) => {
                message.is_passing = true;
                message.payload = Vec::new();
                Item::Unread(trouble)
            }
            _ => self.lose(trouble),
        }
    }

    /// Nothing came for a while: what is kept takes less room until something does.
    pub fn rest(&mut self) {
        if let Some(inflater) = &mut self.inflater {
            inflater.window.pack();
        }
    }

    fn lose(&mut self, trouble: Trouble) -> Item {
        (self.stage, self.message, self.inflater) = (Stage::Lost, None, None);
        Item::Lost(trouble)
    }

    fn read_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Item>, Trouble> {
        let Some(frame) = self.head.read(bytes)? else { return Ok(None) };
        self.stage = Stage::Payload(frame);
        if frame.opcode != Opcode::Control {
            self.begin(&frame)?;
            let message = self.message.as_ref().expect("it was begun");
            let whole = frame.bytes.saturating_add(message.payload.len() as u64);
            if !message.is_passing && whole > self.bytes_max as u64 {
                return Ok(Some(self.let_pass(Trouble::TooLong)));
            }
        }
        if frame.bytes == 0 { self.end(frame) } else { Ok(None) }
    }

    /// A data frame begins a message or goes on with one.
    fn begin(&mut self, frame: &Frame) -> Result<(), Trouble> {
        match (frame.opcode, &self.message) {
            (Opcode::Continuation, None) => Err(Trouble::Forbidden("a WebSocket message begins with a continuation")),
            (Opcode::Continuation, Some(_)) if frame.is_deflated => Err(Trouble::UnknownExtension),
            (Opcode::Continuation, Some(_)) => Ok(()),
            (_, Some(_)) => Err(Trouble::Forbidden("a WebSocket message begins within another")),
            (_, None) if frame.is_deflated && self.inflater.is_none() => Err(Trouble::UnknownExtension),
            (opcode, None) => {
                // What a binary message says is nothing to us, but the next one may be deflated on top of it.
                let (is_text, is_deflated) = (opcode == Opcode::Text, frame.is_deflated);
                let is_passing = !is_text && !is_deflated;
                self.message = Some(Message { is_text, is_deflated, is_passing, payload: Vec::new() });
                Ok(())
            }
        }
    }

    fn read_payload(&mut self, mut frame: Frame, bytes: &mut &[u8]) -> Result<Option<Item>, Trouble> {
        let left = usize::try_from(frame.bytes - frame.came).unwrap_or(usize::MAX);
        let (piece, rest) = bytes.split_at(left.min(bytes.len()));
        *bytes = rest;
        if let Some(message) = self.message.as_mut().filter(|m| frame.opcode != Opcode::Control && !m.is_passing) {
            message.payload.extend_from_slice(piece);
            if let Some(mask) = frame.mask {
                let place = frame.came as usize % mask.len();
                let start = message.payload.len() - piece.len();
                let masks = mask.iter().cycle().skip(place);
                message.payload[start..].iter_mut().zip(masks).for_each(|(byte, mask)| *byte ^= mask);
            }
        }
        frame.came += piece.len() as u64;
        self.stage = Stage::Payload(frame);
        if frame.came == frame.bytes { self.end(frame) } else { Ok(None) }
    }

    /// The end of a frame, and perhaps of its message.
    fn end(&mut self, frame: Frame) -> Result<Option<Item>, Trouble> {
        self.stage = Stage::Head;
        if frame.opcode == Opcode::Control {
            return Ok(Some(Item::Other));
        }
        if !frame.is_final {
            return Ok(None);
        }
        let message = self.message.take().expect("a data frame is of a message");
        let payload = match &mut self.inflater {
            Some(inflater) if message.is_deflated && !message.is_passing => {
                match inflater.inflate(message.payload, self.bytes_max) {
                    Err(trouble) if inflater.window_bytes_max > 0 => return Err(trouble),
                    Err(trouble) => return Ok(Some(Item::Unread(trouble))),
                    Ok(inflated) => inflated,
                }
            }
            _ => message.payload,
        };
        Ok(Some(if message.is_text && !message.is_passing { Item::Text(payload) } else { Item::Other }))
    }
}

impl Head {
    /// Takes what it needs of the bytes. None where that is not all there.
    fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Trouble> {
        while self.length < self.wanted() {
            let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
            self.bytes[self.length] = *first;
            self.length += 1;
            *bytes = rest;
        }
        let frame = self.parse()?;
        self.length = 0;
        Ok(Some(frame))
    }

    /// How long the head is, as far as can be told.
    fn wanted(&self) -> usize {
        if self.length < 2 {
            return 2;
        }
        let length = match self.bytes[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.bytes[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    fn parse(&self) -> Result<Frame, Trouble> {
        let [first, second, rest @ ..] = &self.bytes;
        let (bytes, mask) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(*rest.first_chunk().expect("a head has room for it")), &rest[8..]),
            bytes => (u64::from(bytes), &rest[..]),
        };
        let mask = mask.first_chunk().copied().filter(|_| second & 0x80 != 0);
        let (is_final, is_deflated) = (first & 0x80 != 0, first & 0x40 != 0);
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8..=10 => Opcode::Control,
            _ => return Err(Trouble::Forbidden("a WebSocket frame has an opcode that means nothing")),
        };
        match () {
            () if first & 0x30 != 0 || (is_deflated && opcode == Opcode::Control) => Err(Trouble::UnknownExtension),
            () if opcode == Opcode::Control && (!is_final || bytes > CONTROL_BYTES_MAX) => {
                Err(Trouble::Forbidden("a WebSocket control frame is in fragments, or too long"))
            }
            () if bytes > i64::MAX as u64 => {
                Err(Trouble::Forbidden("a WebSocket frame's length has its highest bit set"))
            }
            () => Ok(Frame { is_final, is_deflated, opcode, mask, came: 0, bytes }),
        }
    }
}

/// Inflates the messages of one direction, each on top of those before it.
///
/// Between two messages nothing is kept but the window, and that is no longer than what was said: a zlib state would be
/// 40 KiB for every connection at rest. A window that the sender does not use does no harm.
#[derive(Debug)]
struct Inflater {
    window: Window,
    /// 0: each message stands alone.
    window_bytes_max: usize,
}

/// The last of what was said. While nothing is said it is deflated: chats are a few words in ever the same envelopes.
#[derive(Debug)]
enum Window {
    Open(Vec<u8>),
    Packed(Vec<u8>),
}

impl Default for Inflater {
    fn default() -> Self {
        Self { window: Window::Open(Vec::new()), window_bytes_max: 1 << WINDOW_BITS_MAX }
    }
}

impl Window {
    fn pack(&mut self) {
        let Self::Open(said) = self else { return };
        let mut deflater = DeflateEncoder::new(Vec::new(), Compression::default());
        let packed = deflater.write_all(said).and_then(|()| deflater.finish());
        if let Ok(mut packed) = packed
            && packed.len() < said.len()
        {
            packed.shrink_to_fit();
            *self = Self::Packed(packed);
        }
    }

    fn open(&mut self) -> Result<&mut Vec<u8>, Trouble> {
        if let Self::Packed(packed) = self {
            let mut said = Vec::new();
            DeflateDecoder::new(&packed[..]).read_to_end(&mut said).map_err(|_| Trouble::Undeflatable)?;
            *self = Self::Open(said);
        }
        match self {
            Self::Open(said) => Ok(said),
            Self::Packed(_) => Err(Trouble::Undeflatable),
        }
    }
}

impl Inflater {
    /// `client_max_window_bits=10`, also in quotes; what is no number of 8 to 15 changes nothing.
    fn bound_window(&mut self, bits: &str) {
        let bits = bits.trim().trim_matches('"').parse::<u8>().ok().filter(|bits| (8..=WINDOW_BITS_MAX).contains(bits));
        self.window_bytes_max = self.window_bytes_max.min(1 << bits.unwrap_or(WINDOW_BITS_MAX));
    }

    fn inflate(&mut self, mut payload: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, Trouble> {
        payload.extend(DEFLATE_TAIL);
        let mut input = &payload[..];
        let mut inflated = Vec::new();
        let mut kept = 0;
        let mut stream = self.stream()?;
        loop {
            inflated.reserve(INFLATE_STEP_BYTES);
            let before = (stream.total_in(), stream.total_out());
            let status = stream.decompress_vec(input, &mut inflated, FlushDecompress::Sync);
            let status = status.map_err(|_| Trouble::Undeflatable)?;
            let (taken, given) = (stream.total_in() - before.0, stream.total_out() - before.1);
            input = &input[taken as usize..];
            let has_room = inflated.len() < inflated.capacity();
            match status {
                _ if inflated.len() > bytes_max => return Err(Trouble::TooLong),
                // A sender may end its stream and begin another within a message (RFC 7692, section 7.2.3.4).
                Status::StreamEnd if !input.is_empty() => {
                    self.keep(&inflated[kept..])?;
                    kept = inflated.len();
                    stream = self.stream()?;
                }
                _ if input.is_empty() && has_room => break,
                _ if taken == 0 && given == 0 => return Err(Trouble::Undeflatable),
                _ => {}
            }
        }
        self.keep(&inflated[kept..])?;
        Ok(inflated)
    }

    fn stream(&mut self) -> Result<Decompress, Trouble> {
        let mut stream = Decompress::new(false);
        let window = self.window.open()?;
        if !window.is_empty() {
            stream.set_dictionary(window).map_err(|_| Trouble::Undeflatable)?;
        }
        Ok(stream)
    }

    /// The last of what was said is what the next message may refer to.
    fn keep(&mut self, inflated: &[u8]) -> Result<(), Trouble> {
        let window = self.window.open()?;
        let fresh = &inflated[inflated.len().saturating_sub(self.window_bytes_max)..];
        let surplus = (window.len() + fresh.len()).saturating_sub(self.window_bytes_max);
        window.drain(..surplus);
        window.reserve_exact(fresh.len());
        window.extend_from_slice(fresh);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    const BYTES_MAX: usize = 10_000;
    const DEFLATE: &str = "permessage-deflate";

    /// One frame: first byte (FIN 0x80, RSV1 0x40, opcode), payload, and whether it is masked.
    fn frame(first: u8, payload: &[u8], is_masked: bool) -> Vec<u8> {
        let mask_bit = if is_masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match payload.len() {
            length @ ..=125 => bytes.push(mask_bit | length as u8),
            length @ ..=0xffff => {
                bytes.push(mask_bit | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(mask_bit | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        let mask = if is_masked { [0x37, 0xfa, 0x21, 0x3d] } else { [0; 4] };
        bytes.extend(&mask[..if is_masked { 4 } else { 0 }]);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Given up in the midst of a frame's head or of a control frame: nothing is held after that, or whoever waits for the
    /// rest would wait, give up and wait again without an end.
    #[test]
    fn what_is_given_up_holds_nothing_any_more() {
        let start = frame(0x01, b"[{\"a", false);
        for rest in [&b""[..], &b"\x80"[..], &b"\x89\x05a"[..]] {
            let (_, mut reader) = Reader::pair("", BYTES_MAX, BYTES_MAX);
            let bytes = [&start, rest].concat();
            let mut left = &bytes[..];
            while reader.next(&mut left).is_some() {}
            assert!(reader.holds(), "{rest:?}");
            reader.let_pass(Trouble::TooSlow);
            assert!(!reader.holds(), "{rest:?}");
        }
    }

    /// Deflates as RFC 7692 says, on top of what this deflater did before.
    fn deflate(deflater: &mut Compress, text: &[u8]) -> Vec<u8> {
        if text.is_empty() {
            return vec![0]; // zlib does not flush twice; section 7.2.3.6
        }
        let mut deflated = Vec::with_capacity(text.len() * 2 + 100);
        deflater.compress_vec(text, &mut deflated, FlushCompress::Sync).expect("in memory");
        assert!(deflated.ends_with(&DEFLATE_TAIL));
        deflated.truncate(deflated.len() - DEFLATE_TAIL.len());
        deflated
    }

    fn deflater() -> Compress {
        Compress::new(Compression::default(), false)
    }

    /// All items of a stream that comes in these pieces, of the node's direction.
    fn items<'a>(extensions: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Item> {
        let (_, mut reader) = Reader::pair(extensions, 0, BYTES_MAX);
        let mut items = Vec::new();
        for mut piece in pieces {
            while let Some(item) = reader.next(&mut piece) {
                items.push(item);
            }
            assert!(piece.is_empty());
            reader.rest();
        }
        items
    }

    /// The same items, whatever the pieces.
    fn check(extensions: &str, frames: &[Vec<u8>], wanted: &[Item]) {
        let stream = frames.concat();
        for size in [1, 2, 3, 7, 4_096, stream.len().max(1)] {
            assert_eq!(items(extensions, stream.chunks(size)), wanted, "in pieces of {size}");
        }
    }

    fn text(text: &[u8]) -> Item {
        Item::Text(text.to_vec())
    }

    #[test]
    fn what_rfc_6455_allows_is_read() {
        let long = vec![b'x'; 300];
        check("", &[frame(0x81, b"Hello", true)], &[text(b"Hello")]);
        check("", &[frame(0x81, b"", false)], &[text(b"")]);
        check("", &[frame(0x81, &long, true), frame(0x81, b"y", false)], &[text(&long), text(b"y")]);
        let fragments = [frame(0x01, b"Hel", false), frame(0x89, b"ping", false), frame(0x00, b"", false)];
        let all = [&fragments[..], &[frame(0x80, b"lo", false)]].concat();
        check("", &all, &[Item::Other, text(b"Hello")]);
        check("", &[frame(0x82, &[0xff; 200], false), frame(0x81, b"a", false)], &[Item::Other, text(b"a")]);
        check("", &[frame(0x88, &[3, 0xe8], true)], &[Item::Other]);
        // What the RFC's section 5.7 shows.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        check("", &[hello.to_vec()], &[text(b"Hello")]);
    }

    #[test]
    fn what_is_over_the_bound_passes_unread_and_what_follows_is_read() {
        let long = vec![b'x'; BYTES_MAX + 1];
        let wanted = [Item::Unread(Trouble::TooLong), Item::Other, text(b"a")];
        check("", &[frame(0x81, &long, false), frame(0x81, b"a", false)], &wanted);
        let fragments = [frame(0x01, &long[..BYTES_MAX], false), frame(0x80, b"xx", false), frame(0x81, b"a", false)];
        check("", &fragments, &wanted);
        let bomb = deflate(&mut deflater(), &long);
        let alone = "permessage-deflate; server_no_context_takeover";
        let wanted = [Item::Unread(Trouble::TooLong), text(b"a")];
        check(alone, &[frame(0xc1, &bomb, false), frame(0x81, b"a", false)], &wanted);
        // With a context the next message may refer to what was not inflated.
        check(DEFLATE, &[frame(0xc1, &bomb, false), frame(0x81, b"a", false)], &[Item::Lost(Trouble::TooLong)]);
    }

    #[test]
    fn what_the_rfcs_forbid_ends_the_reading() {
        let good = || frame(0x81, b"a", false);
        for (bytes, extensions, trouble) in [
            (frame(0x83, b"", false), "", "opcode"),
            (frame(0x80, b"a", false), "", "continuation"),
            ([frame(0x01, b"a", false), good()].concat(), "", "within another"),
            (frame(0x09, b"a", false), "", "fragments"),
            (frame(0x89, &[0; 126], false), "", "too long"),
            (vec![0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "", "highest bit"),
            (frame(0xc1, b"a", false), "", "extension"),
            (frame(0xa1, b"a", false), DEFLATE, "extension"),
            (frame(0xc9, b"a", false), DEFLATE, "extension"),
            ([frame(0x01, b"a", false), frame(0xc0, b"a", false)].concat(), DEFLATE, "extension"),
            (frame(0xc1, b"\xff\xff\xff", false), DEFLATE, "inflate"),
        ] {
            let found = items(extensions, [&[good(), bytes, good()].concat()[..]]);
            let [first, Item::Lost(found)] = &found[..] else { panic!("{trouble}: {found:?}") };
            assert!(*first == text(b"a") && found.to_string().contains(trouble), "{trouble}: {found}");
        }
    }

    #[test]
    fn deflated_messages_are_read_whatever_was_agreed() {
        let said: Vec<String> = (0..50).map(|n| format!("{{\"text\":\"message {n} of a long chat\"}}")).collect();
        let wanted: Vec<Item> = said.iter().map(|said| text(said.as_bytes())).collect();
        for agreed in [
            DEFLATE,
            "x-unknown, Permessage-Deflate; server_no_context_takeover; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=\"9\"",
        ] {
            let mut one = Compress::new_with_window_bits(Compression::default(), false, 9);
            let frames: Vec<_> = said
                .iter()
                .map(|said| {
                    if agreed.contains("server_no") {
                        one.reset();
                    }
                    frame(0xc1, &deflate(&mut one, said.as_bytes()), false)
                })
                .collect();
            check(agreed, &frames, &wanted);
        }
        // RFC 7692, section 7.2.3: the same message twice, a stored block, an end of the stream within, not deflated.
        let frames = [
            frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], true),
            frame(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00], true),
            frame(0xc1, &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], true),
            frame(0xc1, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], true),
            frame(0x41, &[0xf2, 0x48, 0xcd], true),
            frame(0x80, &[0xc9, 0xc9, 0x07, 0x00], true),
            frame(0x81, b"Hello", true),
        ];
        check(DEFLATE, &frames, &vec![text(b"Hello"); 6]);
    }

    #[test]
    fn what_is_kept_at_rest_is_small() {
        let (_, mut reader) = Reader::pair(DEFLATE, 0, BYTES_MAX);
        let mut one = deflater();
        for n in 0..400 {
            let said = format!(
                r#"[{{"channel":"/service/chatV2/s","data":{{"messages":[{{"index":{n},"text":"{}"}}]}}}}]"#,
                n * n * n
            );
            let bytes = frame(0xc1, &deflate(&mut one, said.as_bytes()), false);
            assert_eq!(reader.next(&mut &bytes[..]), Some(text(said.as_bytes())));
            if n % 100 == 99 {
                reader.rest();
            }
        }
        let Some(Inflater { window: Window::Packed(packed), .. }) = &reader.inflater else { panic!("{reader:?}") };
        assert!(packed.capacity() < 5_000, "{}", packed.capacity());
    }

    #[test]
    fn a_message_that_is_not_waited_for_passes() {
        let (_, mut reader) = Reader::pair("", 0, BYTES_MAX);
        let stream = [frame(0x01, b"Hel", false), frame(0x80, b"lo", false), frame(0x81, b"a", false)].concat();
        let (mut first, mut rest) = stream.split_at(5);
        assert_eq!(reader.next(&mut first), None);
        assert!(reader.holds() && reader.is_between_frames());
        assert_eq!(reader.let_pass(Trouble::TooLong), Item::Unread(Trouble::TooLong));
        assert!(!reader.holds());
        assert_eq!([reader.next(&mut rest), reader.next(&mut rest)], [Some(Item::Other), Some(text(b"a"))]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_items(
            stream in proptest::collection::vec(any::<u8>(), 0..300), is_deflated: bool, size in 1_usize..40,
        ) {
            let agreed = if is_deflated { DEFLATE } else { "" };
            prop_assert_eq!(items(agreed, stream.chunks(size)), items(agreed, [&stream[..]]));
        }

        #[test]
        fn messages_come_out_as_they_went_in(
            said in proptest::collection::vec(("[ -~]{0,300}", any::<bool>(), 1_usize..400), 0..12), size in 1_usize..600,
        ) {
            let mut one = deflater();
            let mut stream = Vec::new();
            for (said, is_deflated, fragment) in &said {
                let deflated = if *is_deflated { deflate(&mut one, said.as_bytes()) } else { said.as_bytes().to_vec() };
                let mut pieces = deflated.chunks(*fragment).peekable();
                let mut first = if *is_deflated { 0x41 } else { 0x01 };
                while let Some(piece) = pieces.next() {
                    let last = if pieces.peek().is_none() { 0x80 } else { 0 };
                    stream.extend(frame(std::mem::take(&mut first) | last, piece, fragment % 2 == 0));
                }
                if deflated.is_empty() {
                    stream.extend(frame(0x81, b"", false));
                }
            }
            let wanted: Vec<Item> = said.iter().map(|(said, ..)| text(said.as_bytes())).collect();
            prop_assert_eq!(items(DEFLATE, stream.chunks(size)), wanted);
        }
    }
}
