//! A file as its receiver keeps it: without the Content-Encoding that it came in, by its hash, as it goes by. Nothing of it is
//! kept but what a decoder must remember, 32 KiB.

use std::io::{self, Write};

use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::Hashed;

/// What is decoded of one file at most, as a bomb must cost something to whoever sends it: hashing takes seconds here. GMS takes
/// files of 10 MB unless told otherwise.
const DECODED_BYTES_MAX: u64 = 256 << 20;

/// The hash of a file that comes encoded, perhaps.
#[derive(Debug)]
pub struct Received {
    as_it_came: Hashed,
    decoding: Decoding,
    decoded_bytes_max: u64,
}

#[derive(Debug)]
enum Decoding {
    /// It is not encoded.
    None,
    Gzip(Box<MultiGzDecoder<Hashed>>),
    Zlib(Box<ZlibDecoder<Hashed>>),
    /// In an encoding that is not undone here, damaged, or too long.
    Impossible,
}

impl Received {
    /// Of an answer with this Content-Encoding.
    pub fn new(content_encoding: Option<&str>) -> Self {
        let coding = content_encoding.unwrap_or_default().trim();
        let is = |name: &str| coding.eq_ignore_ascii_case(name);
        let decoding = match () {
            () if coding.is_empty() || is("identity") => Decoding::None,
            () if is("gzip") || is("x-gzip") => Decoding::Gzip(Box::new(MultiGzDecoder::new(Hashed::default()))),
            () if is("deflate") => Decoding::Zlib(Box::new(ZlibDecoder::new(Hashed::default()))),
            () => Decoding::Impossible,
        };
        Self { as_it_came: Hashed::default(), decoding, decoded_bytes_max: DECODED_BYTES_MAX }
    }

    /// Takes the next stretch.
    pub fn take(&mut self, part: &[u8]) {
        self.as_it_came.take(part);
        if self.decoding.take(part).is_err() || self.decoding.bytes() > self.decoded_bytes_max {
            self.decoding = Decoding::Impossible;
        }
    }

    /// The hash of what has come: decoded, or else, where it is encoded and that cannot be undone, as it came, in `Err`.
    /// `is_whole`: its end has come.
    ///
    /// # Errors
    /// See above.
    pub fn finish(self, is_whole: bool) -> Result<Hashed, Hashed> {
        // Without any content nothing is encoded.
        match self.decoding {
            Decoding::None => Ok(self.as_it_came),
            _ if self.as_it_came.bytes() == 0 => Ok(self.as_it_came),
            decoding => decoding.finish(is_whole).map_err(|_| self.as_it_came),
        }
    }
}

impl Decoding {
    fn take(&mut self, part: &[u8]) -> io::Result<()> {
        match self {
            Self::None | Self::Impossible => Ok(()),
            Self::Gzip(decoder) => decoder.write_all(part),
            Self::Zlib(decoder) => decoder.write_all(part),
        }
    }

    /// What has come out so far.
    fn bytes(&self) -> u64 {
        match self {
            Self::None | Self::Impossible => 0,
            Self::Gzip(decoder) => decoder.get_ref().bytes(),
            Self::Zlib(decoder) => decoder.get_ref().bytes(),
        }
    }

    fn finish(self, is_whole: bool) -> io::Result<Hashed> {
        match self {
            Self::None | Self::Impossible => Err(io::ErrorKind::Unsupported.into()),
            Self::Gzip(decoder) if is_whole => decoder.finish(),
            Self::Zlib(decoder) if is_whole => decoder.finish(),
            // What broke off has no end to check, and what a decoder holds back is of it, too.
            Self::Gzip(mut decoder) => decoder.flush().map(|()| decoder.get_ref().clone()),
            Self::Zlib(mut decoder) => decoder.flush().map(|()| decoder.get_ref().clone()),
        }
    }
}

impl Write for Hashed {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.take(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish()).expect("in memory")
    }

    fn zlib(content: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).and_then(|()| encoder.finish()).expect("in memory")
    }

    fn said(hashed: &Hashed) -> (u64, String) {
        (hashed.bytes(), hashed.sha256())
    }

    /// Whatever the pieces are.
    #[track_caller]
    fn check(encoding: Option<&str>, came: &[u8], is_whole: bool, expected: Result<&[u8], &[u8]>) {
        let hash = |content: &[u8]| {
            let mut hashed = Hashed::default();
            hashed.take(content);
            said(&hashed)
        };
        for piece in [1, 7, came.len().max(1)] {
            let mut received = Received::new(encoding);
            came.chunks(piece).for_each(|piece| received.take(piece));
            let found = received.finish(is_whole);
            let found = found.as_ref().map(said).map_err(said);
            assert_eq!(found, expected.map(hash).map_err(hash), "{encoding:?} in pieces of {piece}");
        }
    }

    #[test]
    fn the_hash_is_of_what_is_kept() {
        let content = b"content ".repeat(20_000);
        let (gzipped, zlibbed) = (gzip(&content), zlib(&content));
        check(None, &content, true, Ok(&content));
        check(None, &gzipped, true, Ok(&gzipped)); // an archive, and kept as one
        check(Some("identity"), &content, false, Ok(&content));
        check(Some("gzip"), &gzipped, true, Ok(&content));
        check(Some("X-GZip"), &[gzipped.clone(), gzip(b"more")].concat(), true, Ok(&[&content[..], b"more"].concat()));
        check(Some("deflate"), &zlibbed, true, Ok(&content));
        check(Some("gzip"), b"", true, Ok(b""));
    }

    #[test]
    fn what_cannot_be_decoded_is_hashed_as_it_came() {
        let gzipped = gzip(b"content");
        for (encoding, came) in [
            ("br", &gzipped[..]),
            ("gzip, gzip", &gzipped),
            ("gzip", b"no gzip at all"),
            ("gzip", &gzipped[..gzipped.len() - 1]),
            ("gzip", &[&gzipped[..gzipped.len() - 6], b"xxxxxx"].concat()),
            ("deflate", &gzipped),
        ] {
            check(Some(encoding), came, true, Err(came));
        }
    }

    #[test]
    fn what_broke_off_is_decoded_as_far_as_it_came() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"first").and_then(|()| encoder.flush()).expect("in memory");
        let begun = encoder.get_ref().clone();
        check(Some("gzip"), &begun, false, Ok(b"first"));
        check(Some("gzip"), &begun, true, Err(&begun));
    }

    #[test]
    fn a_bomb_is_decoded_to_the_bound() {
        let mut received = Received { decoded_bytes_max: 1 << 20, ..Received::new(Some("gzip")) };
        let zeros = gzip(&vec![0; 1 << 19]);
        for _ in 0..3 {
            received.take(&zeros);
        }
        assert!(matches!(received.decoding, Decoding::Impossible));
        let as_it_came = received.finish(true).expect_err("it was given up");
        assert_eq!(as_it_came.bytes(), zeros.len() as u64 * 3);
    }
}
