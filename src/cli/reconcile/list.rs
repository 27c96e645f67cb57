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

/// What parts the cells of a line.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Lines looked at to find out which column is meant.
const LOOKED_AT: usize = 200;
/// A record longer than this is a quote that was never closed.
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

/// A reader that gives a record only so many bytes.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::Error::other("a record is longer than 1 MiB: is a quote never closed?"));
        }
        let read = self.inner.read(buffer)?;
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
        Self::read(inner, column, time_column)
    }

    fn read(inner: Box<dyn Read>, column: Option<&str>, time_column: Option<&str>) -> anyhow::Result<Self> {
        let mut inner = BufReader::with_capacity(1 << 16, inner);
        let delimiter = delimiter(inner.fill_buf()?)?;
        let left = Rc::new(Cell::new(RECORD_BYTES_MAX));
        let bounded = Bounded { inner: Box::new(inner) as Box<dyn Read>, left: left.clone() };
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
        let Columns { id, time, has_names, words } = Columns::find(&looked_at, column, time_column)?;
        if has_names {
            looked_at.remove(0);
        }
        let (looked_at, faults) = (looked_at.into_iter(), Faults::default());
        Ok(Self { records, left, looked_at, id, time, columns: words, faults })
    }

    /// The next line with an id; None at the end.
    ///
    /// # Errors
    /// It cannot be read: the line is said.
    pub fn next(&mut self, clock: &Clock) -> anyhow::Result<Option<Listed>> {
        loop {
            let record = match self.looked_at.next() {
                Some(record) => Some(record),
                None => next(&mut self.records, &self.left)?,
            };
            let Some((line, record)) = record else { return Ok(None) };
            let chat_id = record.get(self.id).unwrap_or_default().trim();
            if chat_id.is_empty() {
                count(&mut self.faults.blank, line);
                continue;
            }
            let text = self.time.and_then(|at| record.get(at)).map(str::trim).filter(|text| !text.is_empty());
            let at = text.and_then(|text| time(text, clock));
            if text.is_some() && at.is_none() {
                count(&mut self.faults.times, line);
            }
            return Ok(Some(Listed { line: i64::try_from(line)?, chat_id: chat_id.to_owned(), at }));
        }
    }
}

fn next<R: Read>(records: &mut csv::Reader<R>, left: &Cell<u64>) -> anyhow::Result<Option<(u64, StringRecord)>> {
    left.set(RECORD_BYTES_MAX);
    let mut record = StringRecord::new();
    match records.read_record(&mut record) {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some((record.position().map_or(0, Position::line), record))),
        Err(error) => {
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

/// The one that the first line has most of.
fn delimiter(begin: &[u8]) -> Result<u8, Usage> {
    if begin.starts_with(&[0xff, 0xfe]) || begin.starts_with(&[0xfe, 0xff]) {
        return Err(Usage("the list is UTF-16: save it as \"CSV UTF-8\"".into()));
    }
    let (mut counts, mut is_quoted) = ([0_usize; DELIMITERS.len()], false);
    for byte in begin.iter().take_while(|byte| **byte != b'\n') {
        is_quoted ^= *byte == b'"';
        if let Some(at) = DELIMITERS.iter().position(|known| known == byte).filter(|_| !is_quoted) {
            counts[at] += 1;
        }
    }
    // The first of those that are equal: max_by_key would take the last.
    let most = counts.iter().copied().max().unwrap_or(0);
    Ok(counts.iter().position(|count| *count == most).map_or(b',', |at| DELIMITERS[at]))
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
        let Some((_, first)) = records.first() else { return Err(Usage("the list is empty".into())) };
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
        let has_names = first.get(id).is_some_and(|cell| {
            let is_named =
                column.is_some_and(|name| is_called(cell, name)) || ID_NAMES.contains(&simple(cell).as_str());
            is_named || !looks_like_id(cell) && records.len() > 1
        });
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
        Ok(Self { id, time, has_names, words: format!("ids in {}, times in {times}", word(id)) })
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

/// Seconds or milliseconds since 1970, or a time as other options take it.
fn time(text: &str, clock: &Clock) -> Option<i64> {
    match text.parse::<i64>() {
        Ok(seconds @ 100_000_000..=9_999_999_999) => Some(seconds * 1_000),
        Ok(milliseconds @ 100_000_000_000..=9_999_999_999_999) => Some(milliseconds),
        Ok(_) => None,
        Err(_) => when::moment(text, clock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], column: Option<&str>, time_column: Option<&str>) -> anyhow::Result<(Vec<Listed>, Faults)> {
        let mut list = List::read(Box::new(io::Cursor::new(text.to_vec())), column, time_column)?;
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
        let long = [b"id\n\"", &vec![b'x'; 3 << 20][..]].concat();
        let rows = [
            (&b""[..], None, "the list is empty"),
            (b"\xff\xfei\0d\0", None, "save it as \"CSV UTF-8\""),
            (b"name,age\nAnna,30\nBob,31\n", None, "the first line has: name, age"),
            (b"id\nx\n", Some("chat"), "the list has no such column; its first line has: id"),
            (b"id\nx\n\xe9\n", None, "line 3 of the list cannot be read: it is not UTF-8"),
            (&long, None, "is a quote never closed?"),
        ];
        for (text, column, wanted) in rows {
            let error = lines(text, column, None).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let (found, faults) = lines(b"id,time\n,1\n \nx,no time\ny\n", None, None).expect("a list");
        assert_eq!(found.len(), 2);
        assert_eq!(faults, Faults { blank: Some((2, 2)), times: Some((1, 4)) });
    }
}
