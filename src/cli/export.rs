//! `export`: chats in the formats that archives, spreadsheets and people take, in a folder of their own; or what is new, by and by.

mod deliveries;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::output::{Format as Print, Ink, Look, Output, Usage, counted, labelled, plain_line};
use super::progress::progress;
use super::reading::{Case, Reading};
use super::scope::Selection;
use super::search;
use super::when::Clock;
use crate::archive::bundle::{self, Bundled};
use crate::archive::export::{self, Errors, Format, Plan, Tally};
use crate::config::Config;
use crate::store::audit::Snapshot;
use crate::store::audit::extract::{self, Table};
use crate::store::read::Archive;

const EXAMPLE: &str = "\
Example:
  gms-recorder export /srv/handover/march --format html --since 2026-03-01 --until 2026-04-01
  gms-recorder export --continue smarsh      everything since the last time, to [export.targets.smarsh]

Formats:
  jsonl     tables of chats, attributes, events, variants, holes, maskings, files; a JSON object a line
  csv       the same tables as CSV. No cell is a formula: an apostrophe stands before what would be one
  parquet   the same tables as Parquet, each column of its own type, packed with zstd
  html      a page a chat, to be read and printed, and a list of them; no script, nothing is loaded
  eml       a mail a chat, as Global Relay and Smarsh take them in
  actiance  one XML file in the form of Actiance Vantage
html, eml and actiance leave typing notices out.";

/// Write chats to a new folder, in a format that other archives and people can use.
///
/// Whole chats are written, in the order of their ids, out of one snapshot, while `serve` goes on. The folder is DEST.partial
/// until all of it is there, on disk, and counted against the archive; nothing is overwritten. The same snapshot gives the
/// same bytes. For an archive of many gigabytes export from a `snapshot` of it: a long reader keeps the write-ahead log from
/// being folded in.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The folder to make.
    #[arg(required_unless_present_any = ["target", "list"])]
    dest: Option<PathBuf>,
    /// Bring everything since the last time to this target of the configuration ([export.targets]), as `serve` does by itself: chats that
    /// are over, whole; what was added to chats that it has; what was removed of these.
    #[arg(long = "continue", value_name = "TARGET", conflicts_with_all = [
        "dest", "format", "chats", "since", "at", "who", "until", "service", "party", "errors", "errors_only", "bundle", "case",
    ])]
    target: Option<String>,
    /// List what was delivered to targets, when and where; with --format jsonl or csv for programs.
    #[arg(long, conflicts_with_all = ["dest", "target"])]
    list: bool,
    /// What to write [default: jsonl]
    #[arg(long, value_enum)]
    format: Option<As>,
    /// A chat; again for each.
    #[arg(long = "chat", value_name = "CHAT_ID", conflicts_with = "who")]
    chats: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Chats with this party: a nickname, or the number of a participant.
    #[arg(long, value_name = "NAME")]
    party: Option<String>,
    /// Chats in which this is found, as `gms-recorder search` finds it: words, "a phrase", begin*, -without, this OR that.
    #[arg(long, value_name = "QUERY")]
    search: Option<String>,
    /// With the errors that clients were given: those of the chats, and those of no chat in that time.
    #[arg(long)]
    errors: bool,
    /// Errors alone, as jsonl, csv or parquet.
    #[arg(long, conflicts_with = "errors")]
    errors_only: bool,
    /// As a bundle that proves itself: a BagIt bag with all rows of the chats, what proves them, and what is said of completeness.
    /// `verify --bundle` checks it, without the archive; so can others, by the README.txt in it.
    #[arg(long, conflicts_with = "errors_only")]
    bundle: bool,
    /// What made-up addresses end with, <party>@<chat>.<DOMAIN>: one of yours where an archive wants that.
    #[arg(long, value_name = "DOMAIN", default_value = "invalid", value_parser = parse_domain)]
    mail_domain: String,
    /// Read times in UTC, not in the local zone. (Exports always show UTC.)
    #[arg(long)]
    utc: bool,
    #[command(flatten)]
    case: Case,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum As {
    /// Tables as JSON Lines.
    #[default]
    #[value(alias = "json")]
    Jsonl,
    /// Tables as CSV.
    Csv,
    /// Tables as Parquet.
    Parquet,
    /// A page a chat.
    Html,
    /// A mail a chat.
    Eml,
    /// One XML file.
    Actiance,
}

impl As {
    fn format(self) -> Format {
        match self {
            Self::Jsonl => Format::JsonLines,
            Self::Csv => Format::Csv,
            Self::Parquet => Format::Parquet,
            Self::Html => Format::Html,
            Self::Eml => Format::Eml,
            Self::Actiance => Format::Actiance,
        }
    }
}

fn parse_domain(text: &str) -> Result<String, String> {
    match export::is_domain(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is no domain such as archive.example.com")),
    }
}

impl Args {
    /// Whether it is about targets of the configuration.
    pub fn is_of_targets(&self) -> bool {
        self.target.is_some() || self.list
    }
}

/// Runs the command where it is about targets of the configuration.
///
/// # Errors
/// What to tell the user.
pub async fn run_of_targets(args: Args, config: &Config) -> anyhow::Result<()> {
    match &args.target {
        Some(target) => deliveries::deliver(target, config).await,
        None => deliveries::list(args.format, args.utc, config).await,
    }
}

/// Runs the command where it makes a folder.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let look = Look { format: Print::Text, utc: args.utc };
    reading.to_stdout(&args.case, look, async |output| print(&args, &reading.database, output).await).await
}

async fn print(args: &Args, database: &Path, output: &mut Output<'_>) -> anyhow::Result<()> {
    let clock = Clock::now(args.utc);
    let dest = args.dest.as_deref().unwrap_or(Path::new(""));
    let (plan, dest) = (plan(args, &clock, database).await?, std::path::absolute(dest)?);
    if args.bundle {
        let bundled = work(database, &dest, &plan, bundle::bundle).await?;
        say(&dest, &plan, &bundled.tally, output)?;
        return say_proof(&dest, &bundled, &clock, output);
    }
    let tally = work(database, &dest, &plan, export::export).await?;
    say(&dest, &plan, &tally, output)
}

/// What the command line means.
async fn plan(args: &Args, clock: &Clock, database: &Path) -> anyhow::Result<Plan> {
    let errors = match (args.errors, args.errors_only) {
        (_, true) => Errors::Only,
        (true, false) => Errors::With,
        (false, false) => Errors::Without,
    };
    let format = args.format.unwrap_or_default().format();
    if errors == Errors::Only && !format.is_of_tables() {
        let what = "--errors-only is of tables: take --format jsonl, csv or parquet";
        return Err(Usage(format!("{what}, not {}", format.as_str())).into());
    }
    let (from, until) = args.selection.scope.times.range(clock)?;
    let query = args.search.as_deref().map(search::query).transpose()?;
    let mut archive = Archive::open(database).await?;
    let of_customer = args.selection.scope.chat_ids(&mut archive).await?;
    for chat_id in &args.chats {
        if archive.chat(chat_id).await?.is_none() {
            let removed =
                archive.removal(chat_id).await?.map_or(String::new(), |removal| format!(": it was {removal}"));
            anyhow::bail!("there is no chat {} in {}{removed}", plain_line(chat_id), database.display());
        }
    }
    archive.close().await?;
    let mut chat_ids = if args.chats.is_empty() { of_customer } else { Some(args.chats.clone()) };
    if let Some(query) = &query {
        // Rows that the index does not have yet are looked through: nothing is missed.
        let found = Snapshot::open(database)?.chats_with(query)?;
        chat_ids = Some(match chat_ids {
            Some(chosen) => chosen.into_iter().filter(|chat_id| found.contains(chat_id)).collect(),
            None => found.into_iter().collect(),
        });
    }
    let (service, party) = (args.selection.service.clone(), args.party.clone());
    let scope = extract::Scope { chat_ids, from, until, service, party };
    let (search, mail_domain) = (args.search.clone(), args.mail_domain.clone());
    Ok(Plan { scope, search, format, errors, mail_domain, delivery: None })
}

/// What makes a folder of chats.
type Make<T> = fn(&Path, &Path, &Plan, &AtomicBool, &mut dyn FnMut(u64, u64)) -> Result<T, export::Error>;

async fn work<T: Send + 'static>(database: &Path, dest: &Path, plan: &Plan, make: Make<T>) -> anyhow::Result<T> {
    let (database, dest, plan) = (database.to_owned(), dest.to_owned(), plan.clone());
    let mut tell = progress("chats, then leaves");
    until_interrupted(move |stop| Ok(make(&database, &dest, &plan, &stop, &mut tell)?)).await
}

/// On a thread of its own, until it is done or interrupted: then it ends within a chat, and leaves nothing.
async fn until_interrupted<T: Send + 'static>(
    work: impl FnOnce(Arc<AtomicBool>) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut work = {
        let stop = stop.clone();
        tokio::task::spawn_blocking(move || work(stop))
    };
    tokio::select! {
        done = &mut work => done?,
        _ = interrupted() => {
            stop.store(true, Ordering::Relaxed);
            work.await?
        }
    }
}

/// SIGINT, SIGTERM. Never, where they cannot be had.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => std::future::pending().await,
    }
}

fn say(dest: &Path, plan: &Plan, tally: &Tally, output: &mut Output<'_>) -> anyhow::Result<()> {
    let of = |table: Table, noun: &str| counted(i64::try_from(tally.of(table)).unwrap_or(i64::MAX), noun);
    output.line(&plain_line(&dest.display().to_string()))?;
    let chats = [of(Table::Chats, "chat"), of(Table::Events, "event")];
    let errors = of(Table::Errors, "error");
    let held = match plan.errors {
        Errors::Without => chats.join(", "),
        Errors::With => format!("{}, {errors}", chats.join(", ")),
        Errors::Only => errors,
    };
    labelled(output, "contains", &format!("{held}, as the archive has them"))?;
    labelled(output, "format", plan.format.as_str())?;
    if tally.rows() == 0 {
        output.note(&Ink::Yellow.on("the archive has nothing of what was asked for: the folder has no row"))?;
    }
    // Whoever has the folder can read all of it.
    output.rows = i64::try_from(tally.rows()).unwrap_or(i64::MAX);
    Ok(())
}

fn say_proof(dest: &Path, bundled: &Bundled, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let Bundled { proved, unproved, checkpoint, .. } = bundled;
    let of = |number: u64, noun: &str| counted(i64::try_from(number).unwrap_or(i64::MAX), noun);
    let (number, at) = (checkpoint.number, clock.date_time(checkpoint.at));
    labelled(output, "proved", &format!("{} by checkpoint {number} of {at}", of(*proved, "row")))?;
    if *unproved > 0 {
        let hint = "a running `serve` signs them within evidence.checkpoint_interval";
        labelled(output, "newer", &format!("{} not proved: {hint}", of(*unproved, "row")))?;
    }
    let name = plain_line(&dest.display().to_string()).replace('\'', "'\\''");
    labelled(output, "check it", &format!("gms-recorder verify --bundle '{name}' --key FILE"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_such() {
        for (text, wanted) in [
            ("invalid", true),
            ("chats.example.com", true),
            ("", false),
            ("a..b", false),
            ("-a", false),
            ("a b", false),
            ("a\r\n", false),
        ] {
            assert_eq!(parse_domain(text).is_ok(), wanted, "{text}");
        }
    }
}
