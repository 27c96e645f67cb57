//! The files in a form, by their hashes, as it goes by. Knows multipart bodies, not what they are sent for.

use memchr::memmem::{Finder, find};

use super::Hashed;
use crate::gms::request::{boundary_of, disposition};

/// Files of one form that are told apart; what comes behind them is not. GMS's own limit is ten.
const FILES_MAX: usize = 64;
/// The fields of a part: a disposition and a type.
const PART_HEAD_BYTES_MAX: usize = 8 << 10;

/// A file of a form.
#[derive(Debug, Clone, Default)]
pub struct FormFile {
    /// What of it has come.
    pub hashed: Hashed,
    /// Its end has come.
    pub is_whole: bool,
}

/// Reads the files of a form (multipart/form-data, RFC 7578) as it goes by.
#[derive(Debug)]
pub struct FormFiles {
    delimiter: Finder<'static>,
    place: Place,
    /// What cannot be told yet: the start of a delimiter perhaps, or of a part's fields.
    held: Vec<u8>,
    files: Vec<FormFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter, or in a part that is no file.
    Between,
    /// Behind a delimiter: another part follows, or the end.
    Delimited,
    /// In the fields of a part.
    Head,
    /// In a file.
    File,
    /// Nothing more is read: the form is over, or none.
    Over,
}

impl FormFiles {
    /// For a body of this Content-Type; none where it is no form with parts.
    pub fn of(content_type: &str) -> Option<Self> {
        let boundary = boundary_of(content_type)?;
        // The delimiter begins with the end of the line before it (RFC 2046, section 5.1.1); the first has none.
        let delimiter = Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        Some(Self { delimiter, place: Place::Between, held: b"\r\n".to_vec(), files: Vec::new() })
    }

    /// Takes the next stretch of the body.
    pub fn take(&mut self, part: &[u8]) {
        if self.place == Place::Over {
            return;
        }
        self.held.extend_from_slice(part);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Some(used) = self.step(rest) {
            rest = &rest[used..];
        }
        self.held = rest.to_vec();
    }

    /// What has come, once no more does.
    pub fn finish(mut self) -> Vec<FormFile> {
        if self.place == Place::File
            && let Some(file) = self.files.last_mut()
        {
            file.hashed.take(&self.held);
        }
        self.files
    }

    /// One step on, and how much it took; none where more must come first.
    fn step(&mut self, rest: &[u8]) -> Option<usize> {
        match self.place {
            Place::Between | Place::File => {
                let (used, is_end) = self.delimiter_in(rest);
                if self.place == Place::File
                    && let Some(file) = self.files.last_mut()
                {
                    file.hashed.take(&rest[..used]);
                    file.is_whole = is_end;
                }
                if is_end {
                    self.place = Place::Delimited;
                    return Some(used + self.delimiter.needle().len());
                }
                (used > 0).then_some(used)
            }
            Place::Delimited => {
                let is_part = !rest.starts_with(b"--") && self.files.len() < FILES_MAX;
                self.place = if is_part { Place::Head } else { Place::Over };
                Some(0)
            }
            Place::Head => {
                let Some(end) = find(rest, b"\r\n\r\n") else {
                    if rest.len() > PART_HEAD_BYTES_MAX {
                        self.place = Place::Over;
                    }
                    return None;
                };
                let is_file = disposition(&String::from_utf8_lossy(&rest[..end])).is_some_and(|part| part.is_file);
                self.place = if is_file { Place::File } else { Place::Between };
                self.files.extend(is_file.then(FormFile::default));
                Some(end + 4)
            }
            Place::Over => None,
        }
    }

    /// How far it is to the next delimiter; or, without one, to where one may begin.
    fn delimiter_in(&self, rest: &[u8]) -> (usize, bool) {
        let length = self.delimiter.needle().len();
        for at in self.delimiter.find_iter(rest) {
            match rest.get(at + length..at + length + 2) {
                None => return (at, false),
                Some(b"--" | b"\r\n" | [b' ' | b'\t', _]) => return (at, true),
                Some(_) => {} // a longer word that begins like it
            }
        }
        ((rest.len() + 1).saturating_sub(length), false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxk";

    fn files_of(body: &[u8], piece: usize) -> Vec<FormFile> {
        let mut files = FormFiles::of(&format!("multipart/form-data; boundary={BOUNDARY}")).expect("a form with parts");
        body.chunks(piece).for_each(|piece| files.take(piece));
        files.finish()
    }

    fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (disposition, content) in parts {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\nX: y\r\n\r\n");
            body.extend_from_slice(&[head.as_bytes(), content, b"\r\n"].concat());
        }
        body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        body
    }

    fn hashed(content: &[u8]) -> Hashed {
        let mut hashed = Hashed::default();
        hashed.take(content);
        hashed
    }

    #[test]
    fn the_hash_is_of_the_file_and_of_nothing_around_it() {
        let tricky = format!("a\r\n--{BOUNDARY}x\r\n--\r\n\r\n-- {BOUNDARY}\r\n");
        let body = form(&[
            ("name=\"secureKey\"", b"0123456789abcdef"),
            ("name=\"file\"; filename=\"a.bin\"", tricky.as_bytes()),
            ("name=\"userData[file-description]\"", b"mine"),
            ("name=\"file\"; filename=\"empty\"", b""),
        ]);
        for piece in [1, 2, 3, 7, 64, body.len()] {
            let files = files_of(&body, piece);
            assert_eq!(files.len(), 2, "in pieces of {piece}");
            assert!(files.iter().all(|file| file.is_whole), "in pieces of {piece}");
            assert_eq!(files[0].hashed.sha256(), hashed(tricky.as_bytes()).sha256(), "in pieces of {piece}");
            assert_eq!(files[0].hashed.bytes(), tricky.len() as u64);
            // SHA-256 of nothing.
            assert_eq!(
                files[1].hashed.sha256(),
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_file_is_known_however_its_part_says_so() {
        for part in [
            &b"name=\"file\"; filename=\"caf\xe9.png\""[..],
            b"NAME=\"file\"; FILENAME=\"a.png\"",
            b"name=\"file\"; filename*=UTF-8''a.png",
            b"name=\"file\"",
        ] {
            let head = [format!("--{BOUNDARY}\r\nContent-Disposition: form-data; ").as_bytes(), part].concat();
            let body = [&head[..], format!("\r\n\r\ncontent\r\n--{BOUNDARY}--\r\n").as_bytes()].concat();
            let files = files_of(&body, 9);
            assert_eq!((files.len(), files[0].hashed.bytes()), (1, 7), "{}", part.escape_ascii());
        }
    }

    #[test]
    fn a_form_that_breaks_off_leaves_what_came() {
        let body = form(&[("name=\"file\"; filename=\"a\"", b"content")]);
        let cut = body.len() - BOUNDARY.len() - 8 - 3;
        let files = files_of(&body[..cut], 5);
        assert_eq!((files.len(), files[0].is_whole), (1, false));
        assert_eq!(files[0].hashed.sha256(), hashed(b"cont").sha256());
    }

    #[test]
    fn what_is_no_form_has_no_files() {
        assert!(FormFiles::of("application/x-www-form-urlencoded").is_none());
        assert!(FormFiles::of("multipart/form-data").is_none());
        assert!(files_of(b"nothing of the kind", 4).is_empty());
        assert!(files_of(&[b'x'; 100_000], 1_000).is_empty());
        let endless = [format!("--{BOUNDARY}\r\n").as_bytes(), &[b'x'; 100_000]].concat();
        assert!(files_of(&endless, 1_000).is_empty());
    }

    proptest! {
        #[test]
        fn any_file_comes_out_of_any_pieces(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
            piece in 1_usize..200,
        ) {
            let parts: Vec<(&str, &[u8])> =
                contents.iter().map(|content| ("name=\"file\"; filename=\"f\"", &content[..])).collect();
            let files = files_of(&form(&parts), piece);
            let found: Vec<String> = files.iter().map(|file| file.hashed.sha256()).collect();
            let expected: Vec<String> = contents.iter().map(|content| hashed(content).sha256()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
