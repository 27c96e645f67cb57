//! How results reach a reader: text for eyes, JSON lines for programs, CSV for spreadsheets.
//!
//! Everything that came from outside (customers, nodes, SQL results, error messages) passes [`shown`] on its way to a
//! terminal, so that it can be read but not drive it. Colour is written as private marks ([`Ink`]) that `shown` lets no
//! outside text contain, and that become escape sequences, or nothing, when a line is printed.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde::de::IgnoredAny;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people: aligned, wrapped to the terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// With a header line, safe to open in a spreadsheet: a cell that a spreadsheet would run as a formula starts with an
    /// apostrophe, control characters are spelt out.
    Csv,
}

/// What every reading command can be told about its output.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[group(skip)]
pub struct Look {
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Read and show times in UTC, not in the local zone. (JSON and CSV always show UTC.)
    #[arg(long)]
    pub utc: bool,
}

/// What the caller typed cannot be meant: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Where results go, and how they look there.
pub struct Output<'a> {
    sink: &'a mut (dyn Write + Send),
    /// How to print.
    pub format: Format,
    /// Columns to fill in text.
    pub width: usize,
    /// Rows that were shown: events, chats, errors.
    pub rows: i64,
    colour: bool,
}

impl<'a> Output<'a> {
    /// An output with everything said; [`to_stdout`] asks the terminal.
    pub fn new(sink: &'a mut (dyn Write + Send), format: Format, width: usize, colour: bool) -> Self {
        Self { sink, format, width, rows: 0, colour }
    }

    /// Prints one line of text, which may hold [`Ink`].
    ///
    /// # Errors
    /// As the sink.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        let text = if self.colour { coloured(text) } else { without_ink(text) };
        writeln!(self.sink, "{}", text.trim_end())
    }

    /// Prints one record in the machine's format asked for.
    ///
    /// # Errors
    /// As the sink.
    pub fn record<N: AsRef<str>>(&mut self, names: &[N], cells: &[Cell]) -> io::Result<()> {
        self.rows += 1;
        match self.format {
            Format::Csv => self.csv(cells.iter().map(Cell::for_csv)),
            Format::Json | Format::Text => writeln!(self.sink, "{}", json_object(names, cells)),
        }
    }

    /// Prints a whole JSON document, over several lines.
    ///
    /// # Errors
    /// As the sink.
    pub fn document(&mut self, document: &serde_json::Value) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.sink, document)?;
        writeln!(self.sink)
    }

    /// Prints bytes as they are: a whole document of another kind than lines.
    ///
    /// # Errors
    /// As the sink.
    pub fn verbatim(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)
    }

    /// Prints the header line where the format has one.
    ///
    /// # Errors
    /// As the sink.
    pub fn header<N: AsRef<str>>(&mut self, names: &[N]) -> io::Result<()> {
        match self.format {
            Format::Csv => self.csv(names.iter().map(|name| csv_text(name.as_ref()))),
            Format::Json | Format::Text => Ok(()),
        }
    }

    /// Prints a remark about the result: beside it, so that a program that reads the result does not meet it.
    ///
    /// # Errors
    /// As the sink.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        match self.format {
            Format::Text => wrap(text, self.width).iter().try_for_each(|line| self.line(&Ink::Dim.on(line))),
            Format::Json | Format::Csv => writeln!(io::stderr(), "{}", without_ink(text)),
        }
    }

    /// What was looked for, within a line: bold, or marked where there is no bold.
    pub fn found(&self, text: &str) -> String {
        if self.colour { Ink::Bold.on(text) } else { format!("«{text}»") }
    }

    /// Hands everything on to the terminal or file.
    ///
    /// # Errors
    /// As the sink.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn csv(&mut self, cells: impl Iterator<Item = String>) -> io::Result<()> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(cells)?;
        let line = writer.into_inner().map_err(|failed| io::Error::other(failed.to_string()))?;
        self.sink.write_all(&line)
    }
}

/// Runs a command's printing on stdout. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// As the printing.
pub async fn to_stdout(
    look: Look,
    print: impl AsyncFnOnce(&mut Output<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let mut sink = io::BufWriter::new(stdout);
    let mut output = Output::new(&mut sink, look.format, terminal_width(), colour);
    let printed = print(&mut output).await;
    // Also after a failure: what was printed before it stands before its message.
    let flushed = output.flush();
    match printed.and(flushed.map_err(Into::into)) {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The terminal's width, else `COLUMNS`, else 100. Bounded below, so that the narrowest window still shows words.
fn terminal_width() -> usize {
    let asked = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    asked.filter(|columns| *columns > 0).or_else(told).unwrap_or(100).clamp(40, 1_000)
}

/// One value of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing known.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// Text.
    Text(String),
    /// JSON as text: an object in JSON, the text itself in CSV.
    Json(String),
    /// Bytes: hex digits.
    Blob(Vec<u8>),
}

impl Cell {
    /// As text, before [`shown`]. Nothing is empty.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Null => "".into(),
            Self::Integer(number) => number.to_string().into(),
            Self::Real(number) => number.to_string().into(),
            Self::Text(text) | Self::Json(text) => text.into(),
            Self::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        }
    }

    /// Numbers align to the right.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Integer(_) | Self::Real(_))
    }

    fn for_csv(&self) -> String {
        if self.is_number() { self.text().into_owned() } else { csv_text(&self.text()) }
    }

    fn for_json(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Null => "null".into(),
            Self::Integer(number) => number.to_string(),
            // JSON has no infinities.
            Self::Real(number) => {
                serde_json::Number::from_f64(*number).map_or("null".into(), |number| number.to_string())
            }
            Self::Text(text) => quoted(text),
            // Verbatim, digits and all; it is one line because a line break in JSON is only space between tokens.
            Self::Json(text) => match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => text.replace(['\n', '\r'], " "),
                Err(_) => quoted(text),
            },
            Self::Blob(_) => quoted(&self.text()),
        }
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A JSON object on one line. What could drive a terminal is escaped, which changes nothing for a program that reads it.
pub fn json_object<N: AsRef<str>>(names: &[N], cells: &[Cell]) -> String {
    let field = |(name, cell): (&N, &Cell)| format!("{}:{}", Cell::from(name.as_ref()).for_json(), cell.for_json());
    let fields: Vec<_> = names.iter().zip(cells).map(field).collect();
    escaped(&format!("{{{}}}", fields.join(",")))
}

/// A JSON array of such objects.
pub fn json_array(objects: &[String]) -> Cell {
    Cell::Json(format!("[{}]", objects.join(",")))
}

fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match is_harmful(c) || is_joiner(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            false => out.push(c),
        }
    }
    out
}

/// A cell that a spreadsheet takes as text: what starts like a formula (OWASP, CSV injection; the full-width forms too)
/// gets a leading apostrophe.
fn csv_text(text: &str) -> String {
    const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
    let safe: String = plain(text, |c| matches!(c, '\n' | '\t' | '\r'));
    if text.starts_with(FORMULA) { format!("'{safe}") } else { safe }
}

/// Colour as marks within text. A mark is a control character, which [`shown`] lets no outside text keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Beside the point.
    Dim,
    /// The point.
    Bold,
    /// What went wrong.
    Red,
    /// What to be careful about.
    Yellow,
    /// The customer.
    Green,
    /// The other side.
    Cyan,
}

const INK_END: char = '\u{f}';

impl Ink {
    const ALL: [(Self, char, &'static str); 6] = [
        (Self::Dim, '\u{1}', "\u{1b}[2m"),
        (Self::Bold, '\u{2}', "\u{1b}[1m"),
        (Self::Red, '\u{3}', "\u{1b}[31m"),
        (Self::Yellow, '\u{4}', "\u{1b}[33m"),
        (Self::Green, '\u{5}', "\u{1b}[32m"),
        (Self::Cyan, '\u{6}', "\u{1b}[36m"),
    ];

    fn mark(self) -> char {
        Self::ALL.iter().find(|(ink, ..)| *ink == self).map_or(INK_END, |(_, mark, _)| *mark)
    }

    /// The text in this ink.
    pub fn on(self, text: &str) -> String {
        format!("{}{text}{INK_END}", self.mark())
    }
}

fn is_ink(c: char) -> bool {
    matches!(c, '\u{1}'..='\u{6}' | INK_END)
}

/// The text without its marks.
pub fn without_ink(text: &str) -> String {
    text.replace(is_ink, "")
}

fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match Ink::ALL.iter().find(|(_, mark, _)| *mark == c) {
            Some((.., sequence)) => out.push_str(sequence),
            None if c == INK_END => out.push_str("\u{1b}[0m"),
            None => out.push(c),
        }
    }
    out
}

/// Outside text made safe for one line of a terminal: what would be obeyed is spelt out, dim.
pub fn shown(text: &str) -> String {
    spelt(text, |_| false, |name| Ink::Dim.on(name))
}

/// As [`shown`], for text of several lines: line breaks stay, for [`wrap`] to indent.
pub fn shown_lines(text: &str) -> String {
    spelt(&text.replace("\r\n", "\n"), |c| c == '\n', |name| Ink::Dim.on(name))
}

/// As [`shown`], without ink: for error messages and other plain text.
pub fn plain_line(text: &str) -> String {
    plain(text, |_| false)
}

fn plain(text: &str, keep: impl Fn(char) -> bool) -> String {
    spelt(text, keep, str::to_owned)
}

/// No script stacks more marks on one letter; more of them climb over the neighbouring lines.
const MARKS_MAX: usize = 8;

fn spelt(text: &str, keep: impl Fn(char) -> bool, write: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        marks = if c.width() == Some(0) { marks + 1 } else { 0 };
        let joins =
            is_joiner(c) && before.is_some_and(|b: char| !b.is_ascii()) && chars.peek().is_some_and(|n| !n.is_ascii());
        let harmful = is_harmful(c) || (is_joiner(c) && !joins) || marks > MARKS_MAX;
        match harmful && !keep(c) {
            true => out.push_str(&write(&name(c))),
            false => out.push(c),
        }
        before = Some(c);
    }
    out
}

/// Zero-width (non-)joiners build emoji and spell Persian between letters of such scripts; elsewhere they only hide.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Control characters, what turns the direction of text, breaks lines, or cannot be seen (Unicode Technical Report 36).
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{feff}'
        )
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// `␛` for a control character that has a picture, `\u{202e}` for others.
fn name(c: char) -> String {
    let picture = match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{7f}' => Some('␡'),
        _ => None,
    };
    picture.map_or_else(|| c.escape_unicode().to_string(), String::from)
}

/// The columns that text fills on a terminal; ink fills none.
pub fn width(text: &str) -> usize {
    text.split(is_ink).map(UnicodeWidthStr::width).sum()
}

/// Breaks text into lines of at most `columns`, at spaces where there are any. Line breaks in it are kept; ink is ended
/// with its line and taken up again in the next.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut rest = paragraph.trim_end_matches(' ');
        while let Some(cut) = break_at(rest, columns) {
            lines.push(rest[..cut].trim_end_matches(' ').to_owned());
            rest = rest[cut..].trim_start_matches(' ');
        }
        lines.push(rest.to_owned());
    }
    carry_ink(lines)
}

/// Where the first line of a text ends that is too wide for one: after its last space, else anywhere that parts no emoji.
fn break_at(text: &str, columns: usize) -> Option<usize> {
    let (mut filled, mut space, mut place) = (0, None, None);
    let mut before = '\0';
    for (at, c) in text.char_indices() {
        let joined = before == '\u{200d}' || c.width().unwrap_or(0) == 0;
        let wide = match c {
            '\u{fe0f}' => 1, // asks for the emoji form, which is two wide
            _ if is_ink(c) || before == '\u{200d}' => 0,
            _ => c.width().unwrap_or(0),
        };
        if !joined {
            place = Some(at).filter(|at| *at > 0);
        }
        if c == ' ' {
            space = Some(at + 1);
        }
        filled += wide;
        if filled > columns {
            let first = text.chars().next().map_or(0, char::len_utf8);
            return Some(space.or(place).unwrap_or(first));
        }
        before = c;
    }
    None
}

fn carry_ink(mut lines: Vec<String>) -> Vec<String> {
    let mut open = None;
    for line in &mut lines {
        if let Some(mark) = open {
            line.insert(0, mark);
        }
        open = match line.rfind(is_ink).and_then(|at| line[at..].chars().next()) {
            Some(INK_END) | None => None,
            mark => mark,
        };
        if open.is_some() {
            line.push(INK_END);
        }
    }
    lines
}

/// `1 hole`, `2 holes`: for nouns whose plural ends in s.
pub fn counted(count: i64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Fills up with spaces to `columns`.
pub fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Cuts to `columns`, with `…` where something was cut.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let line = wrap(text, columns.saturating_sub(1)).into_iter().next().unwrap_or_default();
    format!("{line}…")
}

/// Prints `text` under a label, continuation lines indented to where it starts.
///
/// # Errors
/// As the sink.
pub fn labelled(output: &mut Output<'_>, label: &str, text: &str) -> io::Result<()> {
    const LABEL: usize = 12;
    let mut lines = wrap(text, output.width.saturating_sub(LABEL)).into_iter();
    let first = lines.next().unwrap_or_default();
    output.line(&format!("{}{first}", Ink::Dim.on(&padded(&format!("  {label}"), LABEL))))?;
    lines.try_for_each(|line| output.line(&format!("{:LABEL$}{line}", "")))
}

/// One column of a [`Table`].
#[derive(Debug, Clone)]
struct Column {
    name: String,
    right: bool,
    width: usize,
    width_min: usize,
}

/// Rows with aligned columns: too long a cell is wrapped within its column, so that nothing is cut. Cells are finished text:
/// they went through [`shown_lines`] and may hold ink.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// Narrower columns than this are not read but deciphered.
const COLUMN_MIN: usize = 8;
/// What is kept whole is kept so up to this: a GMS chat id (16), a time with its offset (23).
const KEPT_MAX: usize = 24;
const GAP: usize = 2;

impl Table {
    /// A table with these columns; those whose name ends in `>` align to the right.
    pub fn new<N: AsRef<str>>(names: &[N]) -> Self {
        let column = |name: &N| {
            let right = name.as_ref().ends_with('>');
            let name = name.as_ref().trim_end_matches('>').to_owned();
            Column { width: width(&name), width_min: COLUMN_MIN, name, right }
        };
        Self { columns: names.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Has the first `columns` columns narrowed last: ids and times, which lose their sense in pieces.
    #[must_use]
    pub fn keeping(mut self, columns: usize) -> Self {
        self.columns.iter_mut().take(columns).for_each(|column| column.width_min = KEPT_MAX);
        self
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        for (column, cell) in self.columns.iter_mut().zip(&row) {
            column.width = cell.split('\n').map(width).max().unwrap_or(0).max(column.width);
        }
        self.rows.push(row);
    }

    /// Aligns a column of numbers to the right.
    pub fn align_right(&mut self, index: usize) {
        if let Some(column) = self.columns.get_mut(index) {
            column.right = true;
        }
    }

    /// Prints what has been added, once that is much: a long result is not gathered whole.
    ///
    /// # Errors
    /// As the sink.
    pub fn print_if_long(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        const ROWS_MAX: usize = 1_000;
        if self.rows.len() < ROWS_MAX { Ok(()) } else { self.print(output) }
    }

    /// Prints what has been added: as a table, or a block a row where the window is too narrow for so many columns.
    ///
    /// # Errors
    /// As the sink.
    pub fn print(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        output.rows += rows.len() as i64;
        if rows.is_empty() {
            return Ok(());
        }
        if !self.fit(output.width) {
            return self.print_blocks(&rows, output);
        }
        let names: Vec<_> = self.columns.iter().map(|column| column.name.clone()).collect();
        self.print_row(&names, output, |text| Ink::Bold.on(text))?;
        rows.iter().try_for_each(|row| self.print_row(row, output, str::to_owned))
    }

    /// Narrows the widest columns until the table fits. False where it cannot.
    fn fit(&mut self, columns: usize) -> bool {
        let room = columns.saturating_sub(GAP * self.columns.len().saturating_sub(1));
        while self.columns.iter().map(|column| column.width).sum::<usize>() > room {
            let spare = |column: &&mut Column| column.width > column.width_min;
            match self.columns.iter_mut().filter(spare).max_by_key(|column| column.width) {
                Some(widest) => widest.width -= 1,
                None => return false,
            }
        }
        true
    }

    fn print_row(&self, row: &[String], output: &mut Output<'_>, ink: impl Fn(&str) -> String) -> io::Result<()> {
        let cells: Vec<_> = self.columns.iter().zip(row).map(|(column, cell)| wrap(cell, column.width)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let parts = self.columns.iter().zip(&cells).map(|(column, lines)| {
                let text = lines.get(at).map_or("", String::as_str);
                let space = " ".repeat(column.width.saturating_sub(width(text)));
                if column.right { format!("{space}{}", ink(text)) } else { format!("{}{space}", ink(text)) }
            });
            output.line(&parts.collect::<Vec<_>>().join(&" ".repeat(GAP)))?;
        }
        Ok(())
    }

    fn print_blocks(&self, rows: &[Vec<String>], output: &mut Output<'_>) -> io::Result<()> {
        let label = self.columns.iter().map(|column| width(&column.name)).max().unwrap_or(0).min(24);
        for (number, row) in rows.iter().enumerate() {
            output.line(&Ink::Dim.on(&format!("── row {}", number + 1)))?;
            for (column, cell) in self.columns.iter().zip(row) {
                let lines = wrap(cell, output.width.saturating_sub(label + GAP));
                for (at, line) in lines.iter().enumerate() {
                    let name = if at == 0 { cut(&column.name, label) } else { String::new() };
                    output.line(&format!("{}  {line}", Ink::Bold.on(&padded(&name, label))))?;
                }
            }
        }
        Ok(())
    }
}

/// What a command prints, for tests of it.
#[cfg(test)]
pub(crate) async fn captured(
    format: Format,
    columns: usize,
    print: impl AsyncFnOnce(&mut Output<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut sink = Vec::new();
    print(&mut Output::new(&mut sink, format, columns, false)).await?;
    Ok(String::from_utf8(sink)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(
        format: Format,
        columns: usize,
        colour: bool,
        print: impl FnOnce(&mut Output<'_>) -> io::Result<()>,
    ) -> String {
        let mut sink = Vec::new();
        print(&mut Output::new(&mut sink, format, columns, colour)).expect("memory takes it");
        String::from_utf8(sink).expect("UTF-8")
    }

    #[test]
    fn outside_text_is_shown_not_obeyed() {
        let rows = [
            ("plain ünï 漢字 🙂", "plain ünï 漢字 🙂"),
            ("\u{1b}[31mred\u{1b}[0m", "␛[31mred␛[0m"),
            ("bell\u{7} back\u{8} nul\0 del\u{7f}", "bell␇ back␈ nul␀ del␡"),
            ("c1 \u{9b}31m \u{85}", "c1 \\u{9b}31m \\u{85}"),
            ("a\u{202e}gpj.exe\u{2066}b\u{200f}c\u{61c}", "a\\u{202e}gpj.exe\\u{2066}b\\u{200f}c\\u{61c}"),
            ("one\u{2028}two\u{2029}three", "one\\u{2028}two\\u{2029}three"),
            ("pay\u{200b}pal\u{feff} ad\u{200d}min", "pay\\u{200b}pal\\u{feff} ad\\u{200d}min"),
            ("👩\u{200d}👧 می\u{200c}خواهم", "👩\u{200d}👧 می\u{200c}خواهم"),
            ("tags \u{e0041}\u{e007f}", "tags \\u{e0041}\\u{e007f}"),
            ("line\r\nbreak\ttab", "line␍␊break␉tab"),
            ("our marks \u{1}\u{2}\u{f}", "our marks ␁␂␏"),
        ];
        for (text, wanted) in rows {
            assert_eq!(shown(text).replace(is_ink, ""), wanted, "{text:?}");
            assert_eq!(plain_line(text), wanted, "{text:?}");
            for colour in [true, false] {
                let line = printed(Format::Text, 80, colour, |output| output.line(&shown(text)));
                let left = line.trim_end_matches('\n').replace("\u{1b}[2m", "").replace("\u{1b}[0m", "");
                assert_eq!(left, wanted, "{text:?}");
            }
        }
    }

    #[test]
    fn marks_do_not_pile_up() {
        let zalgo = format!("z{}", "\u{301}".repeat(40));
        assert_eq!(plain_line(&zalgo).matches("\\u{301}").count(), 40 - MARKS_MAX);
    }

    #[test]
    fn json_escapes_what_a_terminal_would_obey_and_loses_nothing() {
        let hostile = "\u{9b}2J \u{202e}x\u{2028}y \u{7f} \u{1b}[0m \"q\" 👩\u{200d}👧 \u{e0041}";
        let cells = [Cell::from(hostile), Cell::Json("{\"a\" :\n 1.00000000000000000000001}".into())];
        let line = printed(Format::Json, 80, true, |output| output.record(&["text", "data"], &cells));
        assert!(!line.trim_end().chars().any(is_harmful), "{line:?}");
        assert!(line.contains("1.00000000000000000000001"));
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["text"], hostile);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn csv_is_safe_in_a_spreadsheet() {
        let rows = [
            (Cell::from("=1+1"), "'=1+1"),
            (Cell::from("+49 30"), "'+49 30"),
            (Cell::from("-2+3+cmd|' /C calc'!A0"), "'-2+3+cmd|' /C calc'!A0"),
            (Cell::from("@SUM(A1)"), "'@SUM(A1)"),
            (Cell::from("\tx"), "'\tx"),
            (Cell::from("\rx"), "\"'\rx\""),
            (Cell::from("＝1"), "'＝1"),
            (Cell::Integer(-5), "-5"),
            (Cell::Real(-0.5), "-0.5"),
            (Cell::Json("{\"a\":1}".into()), "\"{\"\"a\"\":1}\""),
            (Cell::from("two\nlines, \"quoted\""), "\"two\nlines, \"\"quoted\"\"\""),
            (Cell::from("esc \u{1b}[2J"), "esc ␛[2J"),
            (Cell::Blob(vec![0, 255]), "00ff"),
            (Cell::Null, ""),
        ];
        for (cell, wanted) in rows {
            let cells = [cell, Cell::Integer(1)];
            let line = printed(Format::Csv, 80, true, |output| output.record(&["a", "b"], &cells));
            assert_eq!(line, format!("{wanted},1\r\n"));
        }
        assert_eq!(printed(Format::Csv, 80, true, |output| output.header(&["a", "=b"])), "a,'=b\r\n");
    }

    #[test]
    fn lines_are_wrapped_by_what_they_fill() {
        let rows: [(&str, usize, &[&str]); 9] = [
            ("", 10, &[""]),
            ("a b", 10, &["a b"]),
            ("hello there world", 11, &["hello there", "world"]),
            ("hello there world", 10, &["hello", "there", "world"]),
            ("one\n two", 10, &["one", " two"]),
            ("abcdefghij", 4, &["abcd", "efgh", "ij"]),
            ("漢字漢字漢", 5, &["漢字", "漢字", "漢"]),
            ("🙂🙂🙂", 4, &["🙂🙂", "🙂"]),
            ("👩\u{200d}👧👩\u{200d}👧", 2, &["👩\u{200d}👧", "👩\u{200d}👧"]),
        ];
        for (text, columns, wanted) in rows {
            assert_eq!(wrap(text, columns), wanted, "{text}");
        }
        for text in ["x".repeat(5_000), "漢 ".repeat(3_000), "e\u{301}".repeat(500), "❤\u{fe0f}".repeat(99)] {
            for columns in [1, 2, 3, 17, 80] {
                assert!(wrap(&text, columns).iter().all(|line| width(line) <= columns.max(2)), "{columns}");
            }
        }
    }

    #[test]
    fn ink_does_not_leak_over_line_ends() {
        let lines = wrap(&Ink::Red.on("one two three"), 5);
        assert_eq!(lines, [Ink::Red.on("one"), Ink::Red.on("two"), Ink::Red.on("three")]);
        assert_eq!(printed(Format::Text, 80, true, |output| output.line(&lines[0])), "\u{1b}[31mone\u{1b}[0m\n");
        assert_eq!(printed(Format::Text, 80, false, |output| output.line(&lines[0])), "one\n");
    }

    #[test]
    fn tables_align_wrap_and_fall_back_to_blocks() {
        let table = || {
            let mut table = Table::new(&["name", "n>", "words"]);
            table.push(vec!["漢字".into(), "1".into(), "some words that are long".into()]);
            table.push(vec!["ab".into(), "100".into(), "x".into()]);
            table
        };
        let wide = "name    n  words\n漢字    1  some words that are long\nab    100  x\n";
        assert_eq!(printed(Format::Text, 80, false, |output| table().print(output)), wide);
        let narrow = "name    n  words\n漢字    1  some words\n           that are\n           long\nab    100  x\n";
        assert_eq!(printed(Format::Text, 21, false, |output| table().print(output)), narrow);
        let blocks = printed(Format::Text, 14, false, |output| table().print(output));
        assert!(blocks.starts_with("── row 1\nname   漢字\nn      1\nwords  some\n"), "{blocks}");
    }
}
