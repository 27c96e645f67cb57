//! Getting chats out, into the archives and tools that people have already: some of them or all, out of one snapshot, in the
//! order of their keys, into a folder that has its name only when all of it is there. The same snapshot gives the same bytes:
//! nothing of the clock, of the machine or of chance is in them.
//!
//! It knows formats and folders; whose chats are meant is for others to find out, and it does not know SQL.

pub mod actiance;
pub mod folder;
pub mod mail;
pub mod page;
pub mod parquet;
pub mod tables;
pub mod words;

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::json;

use crate::store;
use crate::store::audit::Snapshot;
use crate::store::audit::extract::{Record, Scope, Table};
use crate::units;

use actiance::Actiance;
use folder::Folder;
use mail::Mails;
use page::Pages;
use tables::{Encoding, Sheet, Tables};

/// Files in one folder of those that have a file a chat: more make folders slow in what people look at them with.
const FILES_A_FOLDER: u64 = 1_000;

/// What becomes of a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Tables, as JSON Lines.
    #[serde(rename = "jsonl")]
    JsonLines,
    /// Tables, as CSV.
    Csv,
    /// Tables, as Parquet.
    Parquet,
    /// A page a chat.
    Html,
    /// A mail a chat.
    Eml,
    /// One XML file.
    Actiance,
}

impl Format {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Html => "html",
            Self::Eml => "eml",
            Self::Actiance => "actiance",
        }
    }

    /// Whether it holds all of the rows, and errors alone make sense in it.
    pub fn is_of_tables(self) -> bool {
        matches!(self, Self::JsonLines | Self::Csv | Self::Parquet)
    }

    /// Of its tables; of those beside what is for people.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::JsonLines => Encoding::JsonLines,
            Self::Parquet => Encoding::Parquet,
            Self::Csv | Self::Html | Self::Eml | Self::Actiance => Encoding::Csv,
        }
    }
}

/// Whether the errors that clients were given are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Errors {
    /// No.
    #[default]
    Without,
    /// Those of the chats, and those of no chat that are in the scope.
    With,
    /// They alone.
    Only,
}

/// What is exported, and as what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which chats.
    pub scope: Scope,
    /// What was looked for to find them.
    pub search: Option<String>,
    /// As what.
    pub format: Format,
    /// Errors.
    pub errors: Errors,
    /// What addresses in mails and in Actiance's XML end with: `invalid` is nobody's (RFC 2606).
    pub mail_domain: String,
    /// Which delivery it is, where it is one.
    pub delivery: Option<serde_json::Value>,
}

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally([u64; 9]);

impl Tally {
    const TABLES: [Table; 8] = [
        Table::Chats,
        Table::Attributes,
        Table::Events,
        Table::Variants,
        Table::Holes,
        Table::Maskings,
        Table::Files,
        Table::Errors,
    ];

    /// One more row.
    pub fn add(&mut self, table: Table) {
        self.0[table as usize] += 1;
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Rows of a table.
    pub fn of(&self, table: Table) -> u64 {
        self.0[table as usize]
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// A file or folder.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What came of it.
        #[source]
        error: io::Error,
    },
    /// Some file of it.
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
    /// The name is taken.
    #[error("{} exists already, and an export overwrites nothing: name another folder", .0.display())]
    Exists(PathBuf),
    /// Somebody makes the same export.
    #[error("{} is there, and another export goes on in it", .0.display())]
    UnderWay(PathBuf),
    /// Something else has the name that it has while it is written.
    #[error("{} is there, and is no export that was interrupted: move it away, or name another folder", .0.display())]
    Foreign(PathBuf),
    /// It was told to.
    #[error("interrupted: nothing was exported")]
    Stopped,
    /// What was written is not what the archive has.
    #[error(
        "the export has {written} rows of {table}, and the archive {has}: nothing was exported; `gms-recorder verify` tells \
         whether the archive is damaged"
    )]
    Count {
        /// Of what.
        table: &'static str,
        /// In the export.
        written: u64,
        /// In the archive.
        has: u64,
    },
    /// What is in a column is not of its kind.
    #[error(
        "{table}.{column} has a value that is {has}: gms-recorder did not write that; `gms-recorder verify` tells what was changed"
    )]
    Kind {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What it should not be.
        has: &'static str,
    },
    /// What the bundle needs is not there.
    #[error("{0}")]
    Unproved(String),
}

/// Exports into `dest`, a folder that is not there yet. `progress` is told how many of how many chats are done.
///
/// # Errors
/// The archive's, the file system's; it was stopped; what was written is not what the archive has. Then `dest` is not there.
pub fn export(
    database: &Path,
    dest: &Path,
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Tally, Error> {
    let snapshot = Snapshot::open(database)?;
    let folder = Folder::begin(dest, mode(database)?)?;
    let tally = write(&snapshot, &folder, "", plan, stop, progress)?;
    folder.finish()?;
    Ok(tally)
}

/// A transcript is as private in the export as in the archive.
pub fn mode(database: &Path) -> Result<u32, Error> {
    let found = database.metadata().map_err(|error| Error::File { path: database.to_owned(), error })?;
    Ok(found.mode() & 0o777)
}

/// Writes everything that the plan wants, below `within`: a folder that ends with a slash, or nothing.
///
/// # Errors
/// As [`export`].
pub fn write(
    snapshot: &Snapshot,
    folder: &Folder,
    within: &str,
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    let mut chats = match plan.errors {
        Errors::Only => None,
        Errors::Without | Errors::With => Some(Chats::begin(snapshot, folder, within, plan)?),
    };
    let mut errors = match plan.errors {
        Errors::Without => None,
        Errors::With | Errors::Only => Some(Sheet::begin(folder, within, Table::Errors, plan.format.encoding())?),
    };
    let all = snapshot.count(Table::Chats, &plan.scope)?;
    snapshot.each_chat::<Error>(&plan.scope, |chat| {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        tally.add(Table::Chats);
        if let Some(chats) = &mut chats {
            chats.chat(snapshot, folder, &chat, &mut tally)?;
        }
        if let Some(errors) = &mut errors {
            let chat_id = chat.text("chat_id").unwrap_or_default();
            snapshot.each_of_chat(Table::Errors, chat_id, |error| error_row(errors, &error, &mut tally))?;
        }
        progress(tally.of(Table::Chats), all);
        Ok(())
    })?;
    if let Some(mut errors) = errors {
        snapshot.each_other_error(&plan.scope, |error| error_row(&mut errors, &error, &mut tally))?;
        errors.close(folder)?;
    }
    if let Some(chats) = chats {
        chats.close(folder)?;
    }
    hold(snapshot, plan, &tally)?;
    let mut about = folder.create(format!("{within}export.json"))?;
    serde_json::to_writer_pretty(&mut about, &told(snapshot, plan, &tally)?).map_err(io::Error::from)?;
    writeln!(about)?;
    folder.close(about)?;
    Ok(tally)
}

fn error_row(errors: &mut Sheet, error: &Record, tally: &mut Tally) -> Result<(), Error> {
    tally.add(Table::Errors);
    errors.row(error)
}

/// What was written against what there is, asked anew in one question a table.
fn hold(snapshot: &Snapshot, plan: &Plan, tally: &Tally) -> Result<(), Error> {
    let wanted = |table: &Table| match (table, plan.errors, plan.format) {
        (Table::Errors, errors, _) => errors != Errors::Without,
        (_, Errors::Only, _) => *table == Table::Chats,
        (Table::Chats | Table::Events, ..) => true,
        (.., format) => format.is_of_tables(),
    };
    for table in Tally::TABLES.into_iter().filter(wanted) {
        let (written, has) = (tally.of(table), snapshot.count(table, &plan.scope)?);
        if written != has {
            return Err(Error::Count { table: table.name(), written, has });
        }
    }
    Ok(())
}

/// What the export is of, for whoever has nothing but the folder.
fn told(snapshot: &Snapshot, plan: &Plan, tally: &Tally) -> Result<serde_json::Value, Error> {
    let Scope { chat_ids, from, until, service, party } = &plan.scope;
    let iso = |at: &Option<i64>| at.and_then(units::iso);
    let mut rows = serde_json::Map::new();
    for table in Tally::TABLES {
        rows.insert(table.name().into(), tally.of(table).into());
    }
    let mut told = json!({
        "archive_id": snapshot.archive_id(),
        "as_of": units::iso(snapshot.as_of()?),
        "format": plan.format.as_str(),
        "scope": {
            "chats": chat_ids.as_ref().map(Vec::len),
            "from": iso(from),
            "until": iso(until),
            "service": service,
            "party": party,
            "search": plan.search,
            "errors": match plan.errors { Errors::Without => "without", Errors::With => "with", Errors::Only => "only" },
        },
        "rows": rows,
        "written_by": concat!("gms-recorder ", env!("CARGO_PKG_VERSION")),
    });
    if let Some(delivery) = &plan.delivery {
        told["delivery"] = delivery.clone();
    }
    Ok(told)
}

/// The formats, one of them at work.
#[derive(Debug)]
enum Chats {
    Tables(Tables),
    Pages(Pages),
    Mails(Mails),
    Actiance(Actiance),
}

impl Chats {
    fn begin(snapshot: &Snapshot, folder: &Folder, within: &str, plan: &Plan) -> Result<Self, Error> {
        Ok(match plan.format {
            Format::JsonLines | Format::Csv | Format::Parquet => {
                Self::Tables(Tables::begin(folder, within, plan.format.encoding())?)
            }
            Format::Html => Self::Pages(Pages::begin(snapshot, folder, within, plan)?),
            Format::Eml => Self::Mails(Mails::begin(snapshot, within, plan)),
            Format::Actiance => Self::Actiance(Actiance::begin(folder, within, plan)?),
        })
    }

    fn chat(&mut self, snapshot: &Snapshot, folder: &Folder, chat: &Record, tally: &mut Tally) -> Result<(), Error> {
        match self {
            Self::Tables(tables) => tables.chat(snapshot, chat, tally),
            Self::Pages(pages) => pages.chat(snapshot, folder, chat, tally),
            Self::Mails(mails) => mails.chat(snapshot, folder, chat, tally),
            Self::Actiance(xml) => xml.chat(snapshot, chat, tally),
        }
    }

    fn close(self, folder: &Folder) -> Result<(), Error> {
        match self {
            Self::Tables(tables) => tables.close(folder),
            Self::Pages(pages) => pages.close(folder),
            Self::Mails(_) => Ok(()),
            Self::Actiance(xml) => xml.close(folder),
        }
    }
}

/// Names for files of which there is one a chat, in folders of [`FILES_A_FOLDER`]. The number is the chat's place in the export:
/// ids may differ in nothing but case, which some file systems do not see.
#[derive(Debug)]
struct Names {
    within: String,
    count: u64,
}

impl Names {
    fn below(within: &str) -> Self {
        Self { within: within.to_owned(), count: 0 }
    }

    /// The next one, from `within` on, its folder made, without an ending.
    fn next(&mut self, folder: &Folder, chat_id: &str) -> Result<String, Error> {
        let (part, number) = (self.count / FILES_A_FOLDER, self.count + 1);
        if self.count.is_multiple_of(FILES_A_FOLDER) {
            folder.within(&format!("{}{part:04}", self.within))?;
        }
        self.count += 1;
        let plain: String = chat_id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
        Ok(format!("{part:04}/{number:07}-{plain}"))
    }
}

/// Whether it is a name as DNS has it (RFC 1035, section 2.3.1). With a chat's label before it, it has to stay below 254.
pub fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        (1..=63).contains(&label.len()) && is_plain && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 180 && text.split('.').all(is_label)
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
