//! A list of chat ids as UCS, Info Mart or a spreadsheet writes it: commas, semicolons, tabs or bars, quoted or not, with a line
//! of names or without. What it has is found by the names, or else by looking.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use csv::{Position, StringRecord};

use super::super::output::{Usage, plain_line};
use super::super::when;
use super::super::when::Clock;
use crate::store::read::listing::Listed;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// What parts the cells of a line.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Among so many lines is the one of the names: reports have a title above it.
const NAMES_WITHIN: usize = 10;
/// Lines looked at to find out which column is meant.
const LOOKED_AT: usize = 200;
/// A record longer than this is none: mostly a quotation mark that was never closed.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// Names of columns with a chat's id, as people and systems write them: letters and digits only, small ones.
const ID_NAMES: [&str; 8] =
    ["chatid", "gmschatid", "ixnid", "interactionid", "mediaserverixnguid", "mediaserverixnid", "sessionid", "id"];
/// The same of when a chat began.
const TIME_NAMES: [&str; 12] = [
    "starttime",
    "startdate",
    "startdatetime",
    "startedat",
    "starttsms",
    "startts",
    "createdat",
    "createddate",
    "establishedat",
    "timestamp",
    "time",
    "date",
];
/// Of the values of a column that holds ids so many percent look like them.
const LIKE_PERCENT: usize = 80;

/// A list that is being read.
pub struct List {
    records: csv::Reader<Bounded<Box<dyn Read>>>,
    left: Rc<Cell<u64>>,
    /// Those looked at beforehand, with their lines; without names.
    looked_at: std::vec::IntoIter<(u64, StringRecord)>,
    id: usize,
    time: Option<usize>,
    /// The option's value, until a time of that column is read.
    time_wanted: Option<String>,
    /// In words.
    pub columns: String,
    /// What is no line with an id.
    pub faults: Faults,
}

/// What of a list is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Lines without an id, and the first of them.
    pub blank: Option<(u64, u64)>,
    /// Times that are none, and the line of the first.
    pub times: Option<(u64, u64)>,
}

fn count(fault: &mut Option<(u64, u64)>, line: u64) {
    let (count, first) = fault.unwrap_or((0, line));
    *fault = Some((count + 1, first));
}

/// The line of a quotation mark that opens a cell, and what ends the cell is not there.
#[derive(Debug, thiserror::Error)]
#[error("line {0}: a quotation mark is never closed")]
struct Unclosed(u64);

/// Where in a cell one is; with the line of the mark that opened it.
#[derive(Debug, Clone, Copy)]
enum Place {
    Begin,
    Bare,
    Quoted(u64),
    Closed(u64),
}

/// Follows quotation marks as csv understands them, which takes all that comes after a stray one for its cell.
struct Quotes {
    delimiter: u8,
    line: u64,
    place: Place,
}

impl Quotes {
    /// A cell of several lines whose closing mark is followed by more was closed by the mark that opens another.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), Unclosed> {
        for byte in bytes {
            self.place = match (self.place, *byte) {
                (Place::Begin, b'"') => Place::Quoted(self.line),
                (Place::Quoted(opened), b'"') => Place::Closed(opened),
                (Place::Closed(opened), b'"') => Place::Quoted(opened),
                (Place::Quoted(opened), _) => Place::Quoted(opened),
                (_, byte) if byte == b'\n' || byte == self.delimiter => Place::Begin,
                (Place::Closed(opened), byte) if opened < self.line && !byte.is_ascii_whitespace() => {
                    return Err(Unclosed(opened));
                }
                _ => Place::Bare,
            };
            self.line += u64::from(*byte == b'\n');
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Unclosed> {
        if let Place::Quoted(opened) = self.place { Err(Unclosed(opened)) } else { Ok(()) }
    }
}

/// A reader that gives a record only so many bytes.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
    quotes: Quotes,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            self.quotes.end().map_err(io::Error::other)?;
            return Err(io::Error::other("it is longer than 1 MiB"));
        }
        let read = self.inner.read(buffer)?;
        let quotes = if read == 0 { self.quotes.end() } else { self.quotes.pass(&buffer[..read]) };
        quotes.map_err(io::Error::other)?;
        self.left.set(self.left.get().saturating_sub(read as u64));
        Ok(read)
    }
}

impl List {
    /// Opens one, `-` for stdin, and finds its columns.
    ///
    /// # Errors
    /// It cannot be read, or has no column of ids: which it has is said.
    pub fn open(path: &Path, column: Option<&str>, time_column: Option<&str>) -> anyhow::Result<Self> {
        let named = |error: io::Error| anyhow::anyhow!("{}: {error}", plain_line(&path.display().to_string()));
        let inner: Box<dyn Read> = match path.as_os_str() == "-" {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(path).map_err(named)?),
        };
        let mut inner = BufReader::with_capacity(1 << 16, inner);
        inner.fill_buf().map_err(named)?;
        Self::read(inner, column, time_column)
    }

    fn read(
        mut inner: BufReader<Box<dyn Read>>,
        column: Option<&str>,
        time_column: Option<&str>,
    ) -> anyhow::Result<Self> {
        if inner.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            inner.consume(BYTE_ORDER_MARK.len());
        }
        let begin = inner.fill_buf()?;
        let (delimiter, is_said) = (delimiter(begin, column)?, separator(begin).is_some());
        let left = Rc::new(Cell::new(RECORD_BYTES_MAX));
        let quotes = Quotes { delimiter, line: 1, place: Place::Begin };
        let bounded = Bounded { inner: Box::new(inner) as Box<dyn Read>, left: left.clone(), quotes };
        // Not CR LF as one: csv counts such a line only once it reads the next. What is left of a CR is trimmed.
        let mut records = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .terminator(csv::Terminator::Any(b'\n'))
            .has_headers(false)
            .flexible(true)
            .from_reader(bounded);
        let mut looked_at = Vec::new();
        while looked_at.len() < LOOKED_AT {
            let Some(record) = next(&mut records, &left)? else { break };
            looked_at.push(record);
        }
        if is_said {
            looked_at.remove(0);
        }
        let cells = looked_at.iter().map(|(_, record)| record.iter().map(str::to_owned).collect());
        let title = names_at(cells, column).unwrap_or(0);
        looked_at.drain(..title);
        let Columns { id, time, has_names, words } = Columns::find(&looked_at, column, time_column)?;
        if has_names {
            looked_at.remove(0);
        }
        let (looked_at, faults) = (looked_at.into_iter(), Faults::default());
        let time_wanted = time_column.map(str::to_owned);
        Ok(Self { records, left, looked_at, id, time, time_wanted, columns: words, faults })
    }

    /// The next line with an id; None at the end.
    ///
    /// # Errors
    /// It cannot be read: the line is said. At the end, that no time of a column named for them could be.
    pub fn next(&mut self, clock: &Clock) -> anyhow::Result<Option<Listed>> {
        loop {
            let record = match self.looked_at.next() {
                Some(record) => Some(record),
                None => next(&mut self.records, &self.left)?,
            };
            let Some((line, record)) = record else { return Ok(self.end().map(|()| None)?) };
            let chat_id = record.get(self.id).unwrap_or_default().trim();
            if chat_id.is_empty() {
                count(&mut self.faults.blank, line);
                continue;
            }
            anyhow::ensure!(!chat_id.contains('\n'), Unclosed(line));
            let text = self.time.and_then(|at| record.get(at)).map(str::trim).filter(|text| !text.is_empty());
            let at = text.and_then(|text| time(text, clock));
            if text.is_some() && at.is_none() {
                count(&mut self.faults.times, line);
            }
            if at.is_some() {
                self.time_wanted = None;
            }
            return Ok(Some(Listed { line: i64::try_from(line)?, chat_id: chat_id.to_owned(), at }));
        }
    }

    fn end(&self) -> Result<(), Usage> {
        let (Some(name), Some((_, first))) = (&self.time_wanted, self.faults.times) else { return Ok(()) };
        Err(Usage(format!(
            "--time-column \"{}\": none of its times can be read, the first is in line {first}; what can: 2026-11-26 16:43, \
             26.11.2026 16:43, RFC 3339, seconds or milliseconds since 1970",
            plain_line(name)
        )))
    }
}

fn next<R: Read>(records: &mut csv::Reader<R>, left: &Cell<u64>) -> anyhow::Result<Option<(u64, StringRecord)>> {
    left.set(RECORD_BYTES_MAX);
    let mut record = StringRecord::new();
    match records.read_record(&mut record) {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some((record.position().map_or(0, Position::line), record))),
        Err(error) => {
            if let csv::ErrorKind::Io(error) = error.kind()
                && error.get_ref().is_some_and(|why| why.is::<Unclosed>())
            {
                anyhow::bail!("{error}");
            }
            let line = error.position().map_or_else(|| records.position().line(), Position::line);
            let why = match error.kind() {
                csv::ErrorKind::Utf8 { .. } => "it is not UTF-8: save the list as \"CSV UTF-8\"".into(),
                csv::ErrorKind::Io(error) => error.to_string(),
                _ => error.to_string(),
            };
            anyhow::bail!("line {line} of the list cannot be read: {why}")
        }
    }
}

/// What a first line such as `sep=;` says, which Excel reads and writes.
fn separator(begin: &[u8]) -> Option<u8> {
    let line = begin.split(|byte| *byte == b'\n').next()?;
    let (name, value) = line.strip_suffix(b"\r").unwrap_or(line).split_at_checked(4)?;
    match value {
        [byte] if byte.is_ascii() && name.eq_ignore_ascii_case(b"sep=") => Some(*byte),
        _ => None,
    }
}

/// The one that is said; else that the line of the names, or the first, has most of.
fn delimiter(begin: &[u8], column: Option<&str>) -> Result<u8, Usage> {
    if begin.starts_with(&[0xff, 0xfe]) || begin.starts_with(&[0xfe, 0xff]) {
        return Err(Usage("the list is UTF-16: save it as \"CSV UTF-8\"".into()));
    }
    if let Some(separator) = separator(begin) {
        return Ok(separator);
    }
    let mut lines = begin.split(|byte| *byte == b'\n');
    let cell = |cell: &[u8]| String::from_utf8_lossy(cell).replace('"', "");
    let cells = lines.clone().map(|line| line.split(|byte| DELIMITERS.contains(byte)).map(cell).collect());
    let line = lines.nth(names_at(cells, column).unwrap_or(0)).unwrap_or_default();
    let (mut counts, mut is_quoted) = ([0_usize; DELIMITERS.len()], false);
    for byte in line {
        is_quoted ^= *byte == b'"';
        if let Some(at) = DELIMITERS.iter().position(|known| known == byte).filter(|_| !is_quoted) {
            counts[at] += 1;
        }
    }
    // The first of those that are equal: max_by_key would take the last.
    let most = counts.iter().copied().max().unwrap_or(0);
    Ok(counts.iter().position(|count| *count == most).map_or(b',', |at| DELIMITERS[at]))
}

/// Which of the first lines has the names: a title may stand above it, but no id.
fn names_at(lines: impl Iterator<Item = Vec<String>>, column: Option<&str>) -> Option<usize> {
    let column = column.filter(|name| name.parse::<usize>().is_err());
    let mut lines = lines.take(NAMES_WITHIN).take_while(|cells| !cells.iter().any(|cell| looks_like_id(cell)));
    lines.position(|cells| cells.iter().any(|cell| is_name(cell, column)))
}

/// Of the column of ids.
fn is_name(cell: &str, column: Option<&str>) -> bool {
    column.is_some_and(|name| is_called(cell, name)) || ID_NAMES.contains(&simple(cell).as_str())
}

/// Where what stands.
struct Columns {
    id: usize,
    time: Option<usize>,
    has_names: bool,
    words: String,
}

impl Columns {
    fn find(records: &[(u64, StringRecord)], column: Option<&str>, time_column: Option<&str>) -> Result<Self, Usage> {
        let Some((line, first)) = records.first() else { return Err(Usage("the list is empty".into())) };
        let id = match column {
            Some(name) => named(first, name, "--column")?,
            None => found(records).ok_or_else(|| {
                let names: Vec<String> = first.iter().map(plain_line).collect();
                Usage(format!(
                    "no column of the list looks like chat ids: name it with --column (the first line has: {})",
                    names.join(", ")
                ))
            })?,
        };
        let has_names =
            first.get(id).is_some_and(|cell| is_name(cell, column) || !looks_like_id(cell) && records.len() > 1);
        let time = match time_column {
            Some(name) => Some(named(first, name, "--time-column")?),
            None if has_names => TIME_NAMES.iter().find_map(|name| first.iter().position(|cell| simple(cell) == *name)),
            None => None,
        };
        let word = |at: usize| match has_names {
            true => format!("\"{}\"", plain_line(first.get(at).unwrap_or_default().trim())),
            false => format!("column {}", at + 1),
        };
        let times = time.map_or_else(|| "none".to_owned(), word);
        let named_in = if has_names && *line > 1 { format!("; named in line {line}") } else { String::new() };
        Ok(Self { id, time, has_names, words: format!("ids in {}, times in {times}{named_in}", word(id)) })
    }
}

/// A column by its name, or by its number from 1.
fn named(first: &StringRecord, name: &str, option: &str) -> Result<usize, Usage> {
    if let Some(at) = first.iter().position(|cell| is_called(cell, name)) {
        return Ok(at);
    }
    let number = name.parse::<usize>().ok().filter(|number| (1..=first.len()).contains(number));
    number.map(|number| number - 1).ok_or_else(|| {
        let names: Vec<String> = first.iter().map(plain_line).collect();
        Usage(format!(
            "{option} \"{}\": the list has no such column; its first line has: {}",
            plain_line(name),
            names.join(", ")
        ))
    })
}

fn is_called(cell: &str, name: &str) -> bool {
    cell.trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(name.trim())
}

/// By the names of the first line; else the first column whose values look like ids.
fn found(records: &[(u64, StringRecord)]) -> Option<usize> {
    let (_, first) = records.first()?;
    let by_name = ID_NAMES.iter().find_map(|name| first.iter().position(|cell| simple(cell) == *name));
    let looks = |at: &usize| {
        let values =
            || records.iter().skip(1).filter_map(|(_, record)| record.get(*at)).filter(|cell| !cell.trim().is_empty());
        let all = values().count();
        match all {
            0 => first.get(*at).is_some_and(looks_like_id),
            all => values().filter(|cell| looks_like_id(cell)).count() * 100 >= all * LIKE_PERCENT,
        }
    };
    by_name.or_else(|| (0..first.len()).find(looks))
}

/// As GMS makes them: 16 letters and digits, some of each, beginning with a digit.
fn looks_like_id(cell: &str) -> bool {
    let cell = cell.trim_start_matches('\u{feff}').trim();
    let has = |kind: fn(&char) -> bool| cell.chars().any(|c| kind(&c));
    cell.len() == 16
        && cell.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && has(char::is_ascii_digit)
        && has(char::is_ascii_alphabetic)
}

/// Letters and digits only, small ones.
fn simple(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Seconds or milliseconds since 1970, a time as other options take it, or with dots.
fn time(text: &str, clock: &Clock) -> Option<i64> {
    match text.parse::<i64>() {
        Ok(seconds @ 100_000_000..=9_999_999_999) => Some(seconds * 1_000),
        Ok(milliseconds @ 100_000_000_000..=9_999_999_999_999) => Some(milliseconds),
        Ok(_) => None,
        Err(_) => when::moment(text, clock).or_else(|| when::dotted(text, clock)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], column: Option<&str>, time_column: Option<&str>) -> anyhow::Result<(Vec<Listed>, Faults)> {
        let text: Box<dyn Read> = Box::new(io::Cursor::new(text.to_vec()));
        let mut list = List::read(BufReader::new(text), column, time_column)?;
        let mut lines = Vec::new();
        while let Some(line) = list.next(&Clock::berlin())? {
            lines.push(line);
        }
        Ok((lines, list.faults))
    }

    const A: &str = "00001aCY6K8U003T";
    const B: &str = "0008TaFN3SE300QU";

    #[test]
    fn lists_of_all_kinds_are_understood() {
        let rows = [
            (format!("{A}\n{B}\n"), None, [(1, None), (2, None)]),
            (format!("chatId\n{A}\n{B}"), None, [(2, None), (3, None)]),
            (format!("\u{feff}chatId;x\r\n\"{A}\";1\r\n{B};2\r\n"), None, [(2, None), (3, None)]),
            (format!("\u{feff}{A}\r\n\r\n{B}\r\n"), None, [(1, None), (3, None)]),
            (format!("x\tIXN_ID\n1\t {A} \n2\t{B}\n"), None, [(2, None), (3, None)]),
            (format!("a,b\n1,{A}\n2,{B}\n"), None, [(2, None), (3, None)]),
            (format!("1,{A}\n2,{B}\n"), None, [(1, None), (2, None)]),
            (format!("id,\"a \"\"b\"\",\nc\"\n{A},x\n{B},y\n"), None, [(3, None), (4, None)]),
            (format!("a,b,c\nx,y,{A}\nx,y,{B}\n"), Some("3"), [(2, None), (3, None)]),
            (
                format!("Start Time,ID\n2026-11-23 14:00,{A}\n1795438920,{B}\n"),
                None,
                [(2, Some(1_795_438_800_000)), (3, Some(1_795_438_920_000))],
            ),
            (
                format!("ID|start_ts|when\n{A}|nonsense|x\n{B}|1795438920000|x\n"),
                None,
                [(2, None), (3, Some(1_795_438_920_000))],
            ),
            (
                format!("id,date\n{A},23.11.2026\n{B},23.11.2026 14:02\n"),
                None,
                [(2, Some(1_795_388_400_000)), (3, Some(1_795_438_920_000))],
            ),
            (format!("sep=;\r\nx,ChatId;ChatId\r\n1;{A}\r\n2;{B}\r\n"), None, [(3, None), (4, None)]),
            (format!("\u{feff}sep=^\n{A}^1\n{B}^2\n"), None, [(2, None), (3, None)]),
            (format!("Chats, of November, all\n\nx;ChatId\n1;{A}\n2;{B}\n"), None, [(4, None), (5, None)]),
            (format!("Chats\n\"Ref.\";x\n{A};1\n{B};2\n"), Some("Ref."), [(3, None), (4, None)]),
            (format!("{A},1\n{B},id\n"), None, [(1, None), (2, None)]),
            (format!("\u{feff}\"id\",x\n{A},\"Eva\nM.\" \n{B},\"Eva\" M. 12\"\n"), None, [(2, None), (4, None)]),
            (format!("id,\"a\"\"\n\"\"\"\r\n{A},5\" wide\n{B},\n"), None, [(3, None), (4, None)]),
        ];
        for (text, column, wanted) in rows {
            let (found, _) = lines(text.as_bytes(), column, None).unwrap_or_else(|error| panic!("{text}: {error}"));
            let told: Vec<_> = found.iter().map(|line| (line.line, line.at)).collect();
            assert_eq!(told, wanted, "{text}");
            assert_eq!([found[0].chat_id.as_str(), &found[1].chat_id], [A, B], "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_said_with_its_line() {
        let wide = [b"id\n", &vec![b'x'; 3 << 20][..]].concat();
        let long = [b"id\n\"", &vec![b'x'; 3 << 20][..]].concat();
        let rows = [
            (&b""[..], None, "the list is empty"),
            (b"\xff\xfei\0d\0", None, "save it as \"CSV UTF-8\""),
            (b"name,age\nAnna,30\nBob,31\n", None, "the first line has: name, age"),
            (b"id\nx\n", Some("chat"), "the list has no such column; its first line has: id"),
            (b"id\nx\n\xe9\n", None, "line 3 of the list cannot be read: it is not UTF-8"),
            (&long, None, "line 2: a quotation mark is never closed"),
            (b"id,x\na,\"Eva\nb,Bob\nc,Ann\n", None, "line 2: a quotation mark is never closed"),
            (b"id,x\na,y\n\"b,Bob\nc,Ann", None, "line 3: a quotation mark is never closed"),
            (b"id,x\na,y\n\"b,Bob\nc\",Ann\n", None, "line 3: a quotation mark is never closed"),
            (b"id;x\na;\"Eva\nb;\"Bob\"\nc;\"\"\n", None, "line 2: a quotation mark is never closed"),
            (b"sep=;\n", None, "the list is empty"),
            (&wide, None, "line 2 of the list cannot be read: it is longer than 1 MiB"),
        ];
        for (text, column, wanted) in rows {
            let error = lines(text, column, None).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let (found, faults) = lines(b"id,time\n,1\n \nx,no time\ny\n", None, None).expect("a list");
        assert_eq!(found.len(), 2);
        assert_eq!(faults, Faults { blank: Some((2, 2)), times: Some((1, 4)) });
    }

    #[test]
    fn a_column_named_for_times_has_one() {
        let text = b"id,Start\nx,\ny,11/26/2026 4:43 PM\nz,5\n";
        assert_eq!(lines(text, None, None).expect("a list").0.len(), 3);
        let error = lines(text, None, Some("start")).expect_err("no time").to_string();
        let wanted = "--time-column \"start\": none of its times can be read, the first is in line 3; what can: 2026-11-26 16:43";
        assert!(error.contains(wanted), "{error}");
        assert!(lines(b"id,Start\nx,nonsense\ny,2026-11-26\n", None, Some("start")).is_ok());
    }
}
