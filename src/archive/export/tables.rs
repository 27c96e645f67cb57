//! Exports as tables: a file for each, as JSON Lines, CSV or Parquet. They hold all that the archive has of the chats.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use super::folder::{Document, Folder};
use super::parquet::Parquet;
use super::{Error, Tally};
use crate::store::audit::Snapshot;
use crate::store::audit::extract::{Record, Table};
use crate::store::audit::proof::Field;
use crate::units::iso;

/// The first column of every table.
pub(super) const AT_UTC: &str = "at_utc";

/// How a row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A JSON object a line.
    JsonLines,
    /// RFC 4180, made safe for spreadsheets.
    Csv,
    /// Columns, each of its own type.
    Parquet,
}

impl Encoding {
    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// One table, while it is written.
#[derive(Debug)]
pub struct Sheet {
    table: Table,
    to: To,
}

#[derive(Debug)]
enum To {
    JsonLines(Document),
    Csv(Document),
    Parquet(Box<Parquet>),
}

impl Sheet {
    /// Begins it in a folder, `within` ending in a slash or empty.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(folder: &Folder, within: &str, table: Table, encoding: Encoding) -> Result<Self, Error> {
        let mut document = folder.create(format!("{within}{}.{}", table.name(), encoding.ending()))?;
        let to = match encoding {
            Encoding::JsonLines => To::JsonLines(document),
            Encoding::Csv => {
                write_csv(&mut document, names(table).map(Cow::Borrowed))?;
                To::Csv(document)
            }
            Encoding::Parquet => To::Parquet(Box::new(Parquet::begin(document, table)?)),
        };
        Ok(Self { table, to })
    }

    /// One more row.
    ///
    /// # Errors
    /// The file system's.
    pub fn row(&mut self, record: &Record) -> Result<(), Error> {
        let at = time(self.table, record);
        match &mut self.to {
            To::JsonLines(document) => json_line(document, record, at.and_then(iso).as_deref())?,
            To::Csv(document) => {
                let at = at.and_then(iso).map_or(Cow::Borrowed(""), Cow::Owned);
                write_csv(document, std::iter::once(at).chain(record.iter().map(|(_, field)| cell(field))))?;
            }
            To::Parquet(parquet) => parquet.row(at, record)?,
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(self, folder: &Folder) -> Result<(), Error> {
        let document = match self.to {
            To::JsonLines(document) | To::Csv(document) => document,
            To::Parquet(parquet) => parquet.end()?,
        };
        folder.close(document).map(drop)
    }
}

/// All tables of the chats.
#[derive(Debug)]
pub struct Tables(Vec<Sheet>);

impl Tables {
    /// Begins them.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(folder: &Folder, within: &str, encoding: Encoding) -> Result<Self, Error> {
        let sheets = Table::OF_CHAT.map(|table| Sheet::begin(folder, within, table, encoding));
        Ok(Self(sheets.into_iter().collect::<Result<_, _>>()?))
    }

    /// A chat, with all that is of it.
    ///
    /// # Errors
    /// The archive's and the file system's.
    pub fn chat(&mut self, snapshot: &Snapshot, chat: &Record, tally: &mut Tally) -> Result<(), Error> {
        let chat_id = chat.text("chat_id").unwrap_or_default();
        for sheet in &mut self.0 {
            if sheet.table == Table::Chats {
                sheet.row(chat)?;
                continue;
            }
            let table = sheet.table;
            snapshot.each_of_chat::<Error>(table, chat_id, |row| {
                tally.add(table);
                sheet.row(&row)
            })?;
        }
        Ok(())
    }

    /// Ends them.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(self, folder: &Folder) -> Result<(), Error> {
        self.0.into_iter().try_for_each(|sheet| sheet.close(folder))
    }
}

/// The time that is shown for people in [`AT_UTC`], in milliseconds since the epoch. Views have it as text.
fn time(table: Table, record: &Record) -> Option<i64> {
    let of_text = |text: &str| text.parse().map(Timestamp::as_millisecond).ok();
    record.integer(clock(table)).or_else(|| record.text(clock(table)).and_then(of_text))
}

/// The column that says it.
fn clock(table: Table) -> &'static str {
    match table {
        Table::Chats => "first_seen_at",
        Table::Attributes | Table::Errors => "observed_at",
        Table::Events => "utc_time",
        Table::Files | Table::Removals => "at",
        Table::Variants | Table::Maskings => "recorded_at",
        Table::Holes => "",
    }
}

/// The columns of a file.
pub(super) fn names(table: Table) -> impl Iterator<Item = &'static str> {
    std::iter::once(AT_UTC).chain(table.columns().iter().copied())
}

fn json_line(to: &mut impl Write, record: &Record, at: Option<&str>) -> io::Result<()> {
    write!(to, "{{\"{AT_UTC}\":")?;
    serde_json::to_writer(&mut *to, &at)?;
    for (name, field) in record.iter() {
        write!(to, ",\"{name}\":")?;
        match field {
            Field::Null => write!(to, "null")?,
            Field::Integer(number) => write!(to, "{number}")?,
            // JSON has no infinities.
            Field::Real(number) => serde_json::to_writer(&mut *to, &serde_json::Number::from_f64(*number))?,
            Field::Text(text) => serde_json::to_writer(&mut *to, text)?,
            Field::Blob(bytes) => serde_json::to_writer(&mut *to, &BASE64_STANDARD.encode(bytes))?,
        }
    }
    writeln!(to, "}}")
}

fn write_csv<'c>(to: &mut impl Write, cells: impl Iterator<Item = Cow<'c, str>>) -> io::Result<()> {
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).buffer_capacity(1 << 9).from_writer(Vec::new());
    for cell in cells {
        writer.write_field(cell.as_bytes())?;
    }
    writer.write_record(None::<&[u8]>)?;
    let line = writer.into_inner().map_err(|failed| io::Error::other(failed.to_string()))?;
    to.write_all(&line)
}

fn cell(field: &Field) -> Cow<'_, str> {
    match field {
        Field::Null => Cow::Borrowed(""),
        Field::Integer(number) => Cow::Owned(number.to_string()),
        Field::Real(number) => Cow::Owned(number.to_string()),
        Field::Text(text) => unarmed(text),
        Field::Blob(bytes) => Cow::Owned(BASE64_STANDARD.encode(bytes)),
    }
}

/// A text that no spreadsheet runs: an apostrophe stands before what would begin a formula (OWASP, CSV injection; the
/// full-width forms too), at the beginning and wherever a spreadsheet that takes semicolons, tabs or lines for borders of cells
/// would see a beginning. Before an apostrophe there stands another one, so that the text can be had back: take away one
/// apostrophe at the beginning, and one after each `;`, tab, CR, LF.
fn unarmed(text: &str) -> Cow<'_, str> {
    const BORDERS: [char; 4] = [';', '\t', '\r', '\n'];
    const ARMED: [char; 10] = ['=', '+', '-', '@', '＝', '＋', '－', '＠', '\'', '|'];
    let mut is_beginning = true;
    let mut out = String::new();
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        if is_beginning && (ARMED.contains(&c) || BORDERS.contains(&c) && at == 0) {
            out.push_str(&text[taken..at]);
            out.push('\'');
            taken = at;
        }
        is_beginning = BORDERS.contains(&c);
    }
    match taken == 0 && out.is_empty() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(out + &text[taken..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_the_text_can_be_had_back() {
        let rows = [
            ("", ""),
            ("plain", "plain"),
            ("=1+1", "'=1+1"),
            ("'=1+1", "''=1+1"),
            ("-5", "'-5"),
            ("a;=cmd|' /C calc'!A0;b", "a;'=cmd|' /C calc'!A0;b"),
            ("\t=1", "'\t'=1"),
            (";x", "';x"),
            ("one\n- two\r\n+three", "one\n'- two\r\n'+three"),
            ("＝1", "'＝1"),
            ("a 'quote' @home", "a 'quote' @home"),
        ];
        for (text, wanted) in rows {
            assert_eq!(unarmed(text), wanted);
            let mut back = String::new();
            let mut before = None;
            for c in wanted.chars() {
                let is_ours = c == '\'' && before.is_none_or(|before| [';', '\t', '\r', '\n'].contains(&before));
                if !is_ours {
                    back.push(c);
                }
                before = Some(c);
            }
            assert_eq!(back, text);
        }
    }
}
