//! The files in a request's body, by their hashes, as it goes by. Knows multipart bodies, not what they are sent for.

use memchr::memmem::Finder;

use super::Hashed;
use crate::gms::request::{boundary_of, disposition};

/// Files of one form that are told apart; what comes behind them is not. GMS's own limit is ten.
const FILES_MAX: usize = 64;
/// The fields of a part: a disposition and a type.
const PART_HEAD_BYTES_MAX: usize = 8 << 10;
/// A form, and parts of a part of it: several files in one field were sent so once (RFC 2388, section 4.2). Deeper goes nobody.
const LEVELS_MAX: usize = 2;

/// A file of a request.
#[derive(Debug, Clone, Default)]
pub struct FormFile {
    /// What of it has come.
    pub hashed: Hashed,
    /// Its end has come.
    pub is_whole: bool,
}

/// Reads the files of a form (multipart/form-data, RFC 7578), or a body that is a file itself, as it goes by.
#[derive(Debug)]
pub struct FormFiles {
    /// Of the form, and within it of the part that is read. None where the body is the file.
    levels: Vec<Delimiter>,
    place: Place,
    /// What cannot be told yet: the start of a delimiter perhaps, or of a part's fields.
    held: Vec<u8>,
    files: Vec<FormFile>,
}

/// What parts the parts.
#[derive(Debug)]
struct Delimiter {
    /// A line's end, two dashes and the boundary (RFC 2046, section 5.1.1). The carriage return before it is looked for apart.
    finder: Finder<'static>,
    /// Whether the lines of this sender end in CR LF, as they should; known by the first delimiter.
    has_returns: Option<bool>,
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

/// A delimiter that was found.
struct Found {
    /// Where what was before it ends.
    at: usize,
    /// Where it ends itself.
    end: usize,
    level: usize,
}

impl FormFiles {
    /// For a form of this Content-Type; none where it is no form with parts.
    pub fn of(content_type: &str) -> Option<Self> {
        let levels = vec![Delimiter::new(boundary_of(content_type)?)];
        // The first delimiter has no line before it.
        Some(Self { levels, place: Place::Between, held: b"\r\n".to_vec(), files: Vec::new() })
    }

    /// For a body that is a file itself.
    pub fn of_body() -> Self {
        Self { levels: Vec::new(), place: Place::File, held: Vec::new(), files: Vec::new() }
    }

    /// Takes the next stretch of the body.
    pub fn take(&mut self, part: &[u8]) {
        if self.place == Place::Over || part.is_empty() {
            return;
        }
        if self.levels.is_empty() {
            if self.files.is_empty() {
                self.files.push(FormFile::default());
            }
            return self.files[0].hashed.take(part);
        }
        self.held.extend_from_slice(part);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Some(used) = self.step(rest) {
            rest = &rest[used..];
        }
        self.held = rest.to_vec();
    }

    /// What has come, once no more does. `is_over`: the body has ended.
    pub fn finish(mut self, is_over: bool) -> Vec<FormFile> {
        let is_body = self.levels.is_empty();
        if self.place == Place::File
            && let Some(file) = self.files.last_mut()
        {
            file.hashed.take(&self.held);
            file.is_whole = is_body && is_over;
        }
        self.files
    }

    /// One step on, and how much it took; none where more must come first.
    fn step(&mut self, rest: &[u8]) -> Option<usize> {
        match self.place {
            Place::Between | Place::File => self.content(rest),
            Place::Delimited => {
                let is_end = rest.starts_with(b"--");
                if is_end {
                    self.levels.pop();
                }
                self.place = match () {
                    () if self.levels.is_empty() || self.files.len() >= FILES_MAX => Place::Over,
                    () if is_end => Place::Between,
                    () => Place::Head,
                };
                Some(0)
            }
            Place::Head => {
                let Some((end, blank)) = head_end(rest) else {
                    if rest.len() > PART_HEAD_BYTES_MAX {
                        self.place = Place::Over;
                    }
                    return None;
                };
                Some(self.part(&String::from_utf8_lossy(&rest[..end]), blank))
            }
            Place::Over => None,
        }
    }

    /// What is between two delimiters.
    fn content(&mut self, rest: &[u8]) -> Option<usize> {
        let found = self.delimiter_in(rest);
        let used = found.as_ref().map_or_else(|may_begin| *may_begin, |found| found.at);
        if self.place == Place::File
            && let Some(file) = self.files.last_mut()
        {
            file.hashed.take(&rest[..used]);
            file.is_whole = found.is_ok();
        }
        let Ok(Found { end, level, .. }) = found else { return (used > 0).then_some(used) };
        self.levels.truncate(level + 1);
        self.levels[level].learn(&rest[end..]);
        self.place = Place::Delimited;
        Some(end)
    }

    /// A part begins behind these fields, of which the last ends at `blank`. Returns how much of them is done with.
    fn part(&mut self, head: &str, blank: usize) -> usize {
        let disposition = disposition(head);
        let has_name = disposition.as_ref().is_some_and(|part| part.has_file_name);
        if let Some(boundary) = parts_of(head).filter(|_| !has_name && self.levels.len() < LEVELS_MAX) {
            self.levels.push(Delimiter::new(boundary));
            self.place = Place::Between;
            return blank - 1; // its first delimiter may follow at once, and begins with the end of a line
        }
        let is_file = self.levels.len() > 1 || disposition.is_some_and(|part| part.is_file);
        self.place = if is_file { Place::File } else { Place::Between };
        self.files.extend(is_file.then(FormFile::default));
        blank
    }

    /// The next delimiter of any level; or, without one, how far it is to where one may begin.
    fn delimiter_in(&self, rest: &[u8]) -> Result<Found, usize> {
        let found = self.levels.iter().enumerate().map(|(level, delimiter)| delimiter.find(rest, level));
        // One that only may begin is at the end, behind all that were found.
        let (found, may_begin): (Vec<_>, Vec<_>) = found.partition(Result::is_ok);
        let nearest = found.into_iter().flatten().min_by_key(|found| found.at);
        nearest.ok_or_else(|| may_begin.into_iter().filter_map(Result::err).min().unwrap_or(rest.len()))
    }
}

impl Delimiter {
    fn new(boundary: &str) -> Self {
        Self { finder: Finder::new(format!("\n--{boundary}").as_bytes()).into_owned(), has_returns: None }
    }

    fn find(&self, rest: &[u8], level: usize) -> Result<Found, usize> {
        let length = self.finder.needle().len();
        for at in self.finder.find_iter(rest) {
            let end = at + length;
            let has_return = at > 0 && rest[at - 1] == b'\r';
            let begins = at - usize::from(has_return);
            match rest.get(end..end + 2) {
                None => return Err(begins),
                // Among lines that end in CR LF, a bare LF is the file's own.
                Some(_) if self.has_returns == Some(true) && !has_return => {}
                Some(b"--" | [b'\n', _] | b"\r\n" | [b' ' | b'\t', _]) => return Ok(Found { at: begins, end, level }),
                Some(_) => {} // a longer word that begins like it
            }
        }
        // One that has begun may have a carriage return in front.
        Err(rest.len().saturating_sub(length))
    }

    /// How lines end, by what follows it.
    fn learn(&mut self, behind: &[u8]) {
        self.has_returns.get_or_insert(!behind.starts_with(b"\n"));
    }
}

/// Where the fields of a part end, and where the blank line behind them does. Some senders end lines in a bare LF.
fn head_end(rest: &[u8]) -> Option<(usize, usize)> {
    let blank = |line: &[u8]| memchr::memmem::find(rest, line).map(|at| (at, at + line.len()));
    blank(b"\n\r\n").into_iter().chain(blank(b"\n\n")).min()
}

/// The boundary of the parts that a part consists of, by its Content-Type.
fn parts_of(head: &str) -> Option<&str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, content_type) = fields.find(|(name, _)| name.trim().eq_ignore_ascii_case("content-type"))?;
    boundary_of(content_type)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxk";

    fn files_of(body: &[u8], piece: usize) -> Vec<FormFile> {
        let mut files = FormFiles::of(&format!("multipart/form-data; boundary={BOUNDARY}")).expect("a form with parts");
        body.chunks(piece).for_each(|piece| files.take(piece));
        files.finish(true)
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

    /// Each of these is a form whose first file is `content` and whose second is `more`, without a line's end.
    #[test]
    fn forms_are_read_as_servers_read_them() {
        let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a\"";
        let inside = "Content-Disposition: file; filename=\"a\"";
        let nested = |field: &str| {
            format!(
                "--{BOUNDARY}\nContent-Disposition: form-data; name=\"{field}\"\nContent-Type: multipart/mixed; boundary=IN\n\n\
                 --IN\n{inside}\n\ncontent\n--IN\nContent-Type: text/plain\n\nmore\n--IN--\n\n\
                 --{BOUNDARY}\nContent-Disposition: form-data; name=\"x\"\n\nno file\n--{BOUNDARY}--\n"
            )
        };
        let flat = format!("--{BOUNDARY}\n{file}\n\ncontent\n--{BOUNDARY}\n{file}\nX: y\n\nmore\n--{BOUNDARY}--\n");
        let unended = format!(
            "--{BOUNDARY}\nContent-Disposition: form-data; name=\"files\"\nContent-Type: multipart/mixed; boundary=\"IN\"\n\n\
             preamble\n--IN\n{inside}\n\ncontent\n--{BOUNDARY}\n{file}\n\nmore\n--{BOUNDARY}--\n"
        );
        for form in [flat, nested("files"), nested("file"), unended] {
            for body in [form.clone(), form.replace('\n', "\r\n"), form.replace("\"\n", "\"\r\n")] {
                for piece in [1, 2, 5, 64, body.len()] {
                    let files = files_of(body.as_bytes(), piece);
                    let found: Vec<_> = files.iter().map(|file| (file.hashed.sha256(), file.is_whole)).collect();
                    let expected = [b"content".as_slice(), b"more"].map(|content| (hashed(content).sha256(), true));
                    assert_eq!(found, expected, "in pieces of {piece}: {body:?}");
                }
            }
        }
    }

    #[test]
    fn a_delimiter_within_a_part_ends_a_file_though_nothing_follows() {
        let body = format!(
            "--{BOUNDARY}\n\
             Content-Type: multipart/mixed; boundary=I\n\n--I\n\ncontent\n--I--\n"
        );
        let files = files_of(body.as_bytes(), 3);
        assert_eq!((files.len(), files[0].hashed.bytes(), files[0].is_whole), (1, 7, true));
    }

    #[test]
    fn bare_line_feeds_are_a_files_own_where_lines_end_otherwise() {
        let content = format!("a\n--{BOUNDARY}\nb\n--{BOUNDARY}--\n\r");
        let body = form(&[("name=\"file\"; filename=\"a\"", content.as_bytes())]);
        for piece in [1, 3, body.len()] {
            let files = files_of(&body, piece);
            assert_eq!(files.len(), 1);
            assert_eq!(files[0].hashed.sha256(), hashed(content.as_bytes()).sha256(), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_body_may_be_the_file_itself() {
        for (is_over, body) in [(true, form(&[])), (false, b"--XX\r\n\r\nx".to_vec())] {
            let mut files = FormFiles::of_body();
            body.chunks(3).for_each(|piece| files.take(piece));
            let files = files.finish(is_over);
            assert_eq!((files.len(), files[0].is_whole), (1, is_over));
            assert_eq!(files[0].hashed.sha256(), hashed(&body).sha256());
        }
        assert!(FormFiles::of_body().finish(true).is_empty());
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
