//! Undoes a Content-Encoding on a copy, within a bound that a bomb meets quickly. Knows nothing of what is inside.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};

/// RFC 9659: a zstd content needs no window over 8 MiB; the library's own bound is 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The window of a brotli stream is the crate's to allocate; this is only how much input it takes at once.
const BROTLI_INPUT_BYTES: usize = 4_096;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// A body with its encodings undone, as far as they could be.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The whole content; its start, where there was trouble.
    pub bytes: Cow<'a, [u8]>,
    /// Why `bytes` is not all.
    pub trouble: Option<Trouble>,
}

/// Why a body could not be decoded to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// An encoding that nobody here knows.
    UnknownEncoding,
    /// The stream is damaged or breaks off.
    Broken,
    /// More than the bound came out.
    TooLong,
    /// Characters in an encoding that nobody here knows: there are zeros among the bytes.
    UnknownCharacters,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownEncoding => "the encoding is unknown",
            Self::Broken => "the encoded stream is damaged or breaks off",
            Self::TooLong => "it decodes to more than the bound",
            Self::UnknownCharacters => "the characters are in an unknown encoding, neither UTF-8 nor UTF-16",
        })
    }
}

/// Undoes the codings of a Content-Encoding field, the last one first (RFC 9110, 8.4): gzip with all its members, deflate
/// with or without the zlib frame, br, zstd with all its frames. An empty body is empty in every coding.
///
/// Gzip is recognised without a field too, and a body that is plainly JSON is left alone whatever the field says.
pub fn decode<'a>(body: &'a [u8], content_encoding: Option<&str>, bytes_max: usize) -> Decoded<'a> {
    let mut decoded = Decoded { bytes: Cow::Borrowed(body), trouble: None };
    for coding in content_encoding.unwrap_or_default().rsplit(',').map(str::trim) {
        if decoded.bytes.is_empty() {
            return decoded;
        }
        undo(&mut decoded, coding, bytes_max);
        if decoded.trouble.is_some() {
            return decoded;
        }
    }
    if decoded.bytes.starts_with(&GZIP_MAGIC) {
        undo(&mut decoded, "gzip", bytes_max);
    }
    if decoded.bytes.len() > bytes_max {
        decoded.trouble = Some(Trouble::TooLong);
    }
    decoded
}

fn undo(decoded: &mut Decoded<'_>, coding: &str, bytes_max: usize) {
    let is = |name: &str| coding.eq_ignore_ascii_case(name);
    let plain = coding.is_empty() || is("identity");
    if plain || (starts_like_json(&decoded.bytes) && !is("br") && !is("deflate")) {
        return;
    }
    let body = &*decoded.bytes;
    let (bytes, trouble) = match () {
        () if is("gzip") || is("x-gzip") => gzip(body, bytes_max),
        () if is("deflate") => deflate(body, bytes_max),
        () if is("br") => brotli(body, bytes_max),
        () if is("zstd") => zstd(body, bytes_max),
        () => (Vec::new(), Some(Trouble::UnknownEncoding)),
    };
    // `{` and `[` can begin a deflate or brotli stream too: only when it leads nowhere is the field taken for wrong.
    if trouble == Some(Trouble::Broken) && bytes.is_empty() && starts_like_json(body) {
        return;
    }
    *decoded = Decoded { bytes: Cow::Owned(bytes), trouble };
}

/// The first byte that is no white space opens an object or an array.
pub(super) fn starts_like_json(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['))
}

type Outcome = (Vec<u8>, Option<Trouble>);

/// All members. What follows the last one and starts no other is padding, and ignored.
fn gzip(mut body: &[u8], bytes_max: usize) -> Outcome {
    let mut decoded = Vec::new();
    let mut members = 0;
    while body.starts_with(&GZIP_MAGIC[..2]) || members == 0 {
        let trouble = drain(GzDecoder::new(&mut body), &mut decoded, bytes_max);
        if trouble.is_some() {
            return (decoded, trouble);
        }
        members += 1;
    }
    (decoded, None)
}

/// "deflate" means zlib by RFC 9110, and a bare deflate stream by long habit.
fn deflate(body: &[u8], bytes_max: usize) -> Outcome {
    let framed = collect(ZlibDecoder::new(body), bytes_max);
    if framed.1 != Some(Trouble::Broken) {
        return framed;
    }
    let bare = collect(DeflateDecoder::new(body), bytes_max);
    if bare.1.is_none() || bare.0.len() > framed.0.len() { bare } else { framed }
}

fn brotli(body: &[u8], bytes_max: usize) -> Outcome {
    collect(brotli_decompressor::Decompressor::new(body, BROTLI_INPUT_BYTES), bytes_max)
}

fn zstd(body: &[u8], bytes_max: usize) -> Outcome {
    match zstd_frames(body) {
        Ok(decoder) => collect(decoder, bytes_max),
        Err(_) => (Vec::new(), Some(Trouble::Broken)),
    }
}

fn zstd_frames<'a>(body: impl BufRead + 'a) -> io::Result<impl Read + 'a> {
    let mut decoder = ::zstd::stream::read::Decoder::with_buffer(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn collect(decoder: impl Read, bytes_max: usize) -> Outcome {
    let mut decoded = Vec::new();
    let trouble = drain(decoder, &mut decoded, bytes_max);
    (decoded, trouble)
}

/// Appends what comes out, up to the bound.
fn drain(decoder: impl Read, decoded: &mut Vec<u8>, bytes_max: usize) -> Option<Trouble> {
    let room = bytes_max.saturating_sub(decoded.len()) as u64;
    let ended = decoder.take(room.saturating_add(1)).read_to_end(decoded);
    let is_too_long = decoded.len() > bytes_max;
    decoded.truncate(bytes_max);
    match ended {
        _ if is_too_long => Some(Trouble::TooLong),
        Ok(_) => None,
        Err(_) => Some(Trouble::Broken),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzipped(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish()).expect("in memory")
    }

    fn zlibbed(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish()).expect("in memory")
    }

    fn deflated(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish()).expect("in memory")
    }

    fn brotlied(content: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        brotli::BrotliCompress(&mut &*content, &mut encoded, &brotli::enc::BrotliEncoderParams::default())
            .expect("in memory");
        encoded
    }

    fn zstded(content: &[u8]) -> Vec<u8> {
        ::zstd::encode_all(content, 0).expect("in memory")
    }

    #[track_caller]
    fn check(body: &[u8], encoding: &str, expected: &[u8], trouble: Option<Trouble>) {
        let decoded = decode(body, Some(encoding), 1_000);
        assert_eq!((&*decoded.bytes, decoded.trouble), (expected, trouble), "{encoding}");
    }

    #[test]
    fn every_coding_is_undone() {
        let content = br#"{"statusCode":0}"#;
        check(content, "", content, None);
        check(content, "identity", content, None);
        check(&gzipped(content), "gzip", content, None);
        check(&gzipped(content), "X-GZIP", content, None);
        check(&gzipped(content), "", content, None);
        check(&zlibbed(content), "deflate", content, None);
        check(&deflated(content), "deflate", content, None);
        check(&brotlied(content), "br", content, None);
        check(&zstded(content), "zstd", content, None);
        check(&brotlied(&gzipped(content)), "gzip, br", content, None);
        check(&zstded(&deflated(content)), "deflate,identity , zstd", content, None);
    }

    #[test]
    fn all_members_and_frames_are_read() {
        check(&[gzipped(b"a"), gzipped(b"b")].concat(), "gzip", b"ab", None);
        check(&[gzipped(b"a"), b"\0\0padding".to_vec()].concat(), "gzip", b"a", None);
        check(&[zstded(b"a"), zstded(b"b")].concat(), "zstd", b"ab", None);
    }

    #[test]
    fn odd_bodies_are_met_calmly() {
        use Trouble::{Broken, UnknownEncoding};
        for encoding in ["gzip", "deflate", "br", "zstd", "gzip, br", "x-none"] {
            check(b"", encoding, b"", None);
        }
        check(b"{\"a\":1}", "gzip", b"{\"a\":1}", None);
        check(b" [1]", "deflate", b" [1]", None);
        check(b"<html>", "gzip", b"", Some(Broken));
        check(b"<html>", "compress", b"", Some(UnknownEncoding));
        let whole = gzipped(b"hello");
        let cut = decode(&whole[..whole.len() - 9], Some("gzip"), 1_000);
        assert_eq!(cut.trouble, Some(Broken));
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let zeros = vec![0; 1 << 20];
        let bombs = [
            ("gzip", gzipped(&zeros)),
            ("deflate", zlibbed(&zeros)),
            ("br", brotlied(&zeros)),
            ("zstd", zstded(&zeros)),
        ];
        for (encoding, bomb) in bombs {
            check(&bomb, encoding, &[0; 1_000], Some(Trouble::TooLong));
        }
        assert_eq!(decode(&zeros, None, 10).trouble, Some(Trouble::TooLong));
        assert_eq!(decode(&zeros[..10], None, 10).trouble, None);
    }

    proptest! {
        #[test]
        fn whatever_comes_never_panics(body in any::<Vec<u8>>(), encoding in "(gzip|deflate|br|zstd|,| ){0,4}") {
            let decoded = decode(&body, Some(&encoding), 64);
            prop_assert!(decoded.bytes.len() <= 64 || decoded.trouble == Some(Trouble::TooLong));
        }

        #[test]
        fn what_was_encoded_comes_back(content in any::<Vec<u8>>()) {
            prop_assume!(!content.starts_with(&GZIP_MAGIC));
            for (encoding, body) in [("gzip", gzipped(&content)), ("deflate", zlibbed(&content)), ("deflate", deflated(&content)), ("br", brotlied(&content)), ("zstd", zstded(&content))] {
                prop_assert_eq!(&*decode(&body, Some(encoding), 1 << 20).bytes, &*content, "{}", encoding);
            }
        }
    }
}
