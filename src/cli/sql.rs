//! `sql`: one reading statement on the recorder's own SQLite, so that nobody needs another engine on a live archive.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::output::{Cell, Format, Ink, Look, Output, Table, counted, plain_line, shown, shown_lines};
use super::reading::{Case, Reading};
use crate::store::read::statement::SelectError;
use crate::store::read::{Archive, Error, Select, Value};
use crate::units;

const EXAMPLE: &str = "\
Example:
  gms-recorder sql \"SELECT * FROM daily_summary\"";

/// Longer a reader seldom wants to wait; a long reader keeps the write-ahead log from being folded in.
const TIMEOUT: &str = "10s";

/// Run one reading statement: SELECT, WITH, VALUES, EXPLAIN, or a PRAGMA that shows something.
///
/// The tables and views are described in the schema: SELECT sql FROM sqlite_master. The same with a shell:
/// `sqlite3 -readonly transcripts.db`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The statement, for example "SELECT * FROM daily_summary".
    #[arg(allow_hyphen_values = true)]
    statement: String,
    /// Stop after this long. Printing is not counted.
    #[arg(long, value_name = "DURATION", default_value = TIMEOUT, value_parser = units::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

impl Args {
    /// A statement, in text.
    pub fn of(statement: &str) -> Self {
        Self {
            statement: statement.into(),
            timeout: units::parse_duration(TIMEOUT).expect("it is one"),
            case: Case::default(),
            look: Look::default(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let databases = &reading.databases;
    reading.to_stdout(&args.case, args.look, async |output| print(&args, databases, output).await).await
}

async fn print(args: &Args, databases: &[PathBuf], output: &mut Output<'_>) -> anyhow::Result<()> {
    let select = Select::parse(&args.statement).map_err(outside)?;
    let mut archive = Archive::open_all(databases).await?;
    // Both closures print, one before the other.
    let sheet = std::cell::RefCell::new(Sheet { output, names: Vec::new(), table: Table::default(), rows: 0 });
    let selected = archive
        .select(&select, args.timeout, |names| sheet.borrow_mut().begin(names), |row| sheet.borrow_mut().row(row))
        .await;
    let finished = sheet.into_inner().finish();
    match selected {
        Ok(()) => Ok(finished?),
        Err(SelectError::Output(error)) => Err(error.into()),
        Err(SelectError::Archive(error)) => Err(outside(error)),
    }
}

/// What SQLite says repeats what the statement held: words from outside.
fn outside(error: Error) -> anyhow::Error {
    match error {
        Error::Statement(why) => anyhow::Error::msg(plain_line(&why)),
        Error::Refused(why) => super::output::Usage(plain_line(&why)).into(),
        other => other.into(),
    }
}

struct Sheet<'s, 'o> {
    output: &'s mut Output<'o>,
    names: Vec<String>,
    table: Table,
    rows: i64,
}

impl Sheet<'_, '_> {
    fn begin(&mut self, names: &[String]) -> io::Result<()> {
        self.names = names.to_vec();
        self.table = Table::new(&names.iter().map(|name| shown(name)).collect::<Vec<_>>());
        self.output.header(names)
    }

    fn row(&mut self, values: Vec<Value>) -> io::Result<()> {
        self.rows += 1;
        let cells: Vec<_> = values.into_iter().map(cell).collect();
        match self.output.format {
            Format::Json | Format::Csv => self.output.record(&self.names, &cells),
            Format::Text => {
                for (index, _) in cells.iter().enumerate().filter(|(_, cell)| cell.is_number()) {
                    self.table.align_right(index);
                }
                self.table.push(cells.iter().map(text).collect());
                self.table.print_if_long(self.output)
            }
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.table.print(self.output)?;
        match self.output.format {
            Format::Text => self.output.note(&counted(self.rows, "row")),
            Format::Json | Format::Csv => Ok(()),
        }
    }
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Null => Ink::Dim.on("NULL"),
        other => shown_lines(&other.text()),
    }
}

fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Integer(number) => Cell::Integer(number),
        Value::Real(number) => Cell::Real(number),
        Value::Text(text) => Cell::Text(text),
        Value::Blob(bytes) => Cell::Blob(bytes),
    }
}
