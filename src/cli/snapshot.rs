//! `snapshot`: a consistent copy of a live archive, for analysts and backups.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::output::{Cell, Format, Look, Output, counted, labelled, plain_line};
use super::reading::{Case, Reading};
use super::transcript::bytes_for_people;
use crate::store::read::snapshot::Copy;
use crate::store::read::{self, Totals};

const EXAMPLE: &str = "\
Example:
  gms-recorder snapshot /srv/analysts/today.db --star";

/// Copy the archive as it is at this moment, while `serve` goes on writing.
///
/// The copy is one file, compact, with the archive's permissions unless --mode says others. It is written under a temporary name beside DEST and
/// gets its own when it is whole and on disk. Nothing is overwritten.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The file to make.
    dest: PathBuf,
    /// Permissions of the copy, octal, such as 0640 for a group of analysts [default: as the archive's]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<u32>,
    /// With tables of a star: chats, events, errors, hours and days, with dates and times that DuckDB and BI tools take for such.
    #[arg(long)]
    star: bool,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("\"{text}\" is no permissions such as 0640"))
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let database = &reading.database;
    reading.to_stdout(&args.case, args.look, async |output| print(&args, database, output).await).await
}

const NAMES: [&str; 4] = ["path", "bytes", "chats", "events"];

async fn print(args: &Args, database: &Path, output: &mut Output<'_>) -> anyhow::Result<()> {
    // Opened once beforehand, so that what is no archive is said before anything is made.
    read::Archive::open(database).await?.close().await?;
    let copy = Copy::begin(database, &args.dest, args.mode)?;
    let filled = tokio::select! {
        filled = fill(&copy, database, args.star) => filled,
        never = progress(&copy, database) => match never {},
        _ = tokio::signal::ctrl_c() => {
            drop(copy);
            anyhow::bail!("interrupted: no snapshot was made");
        }
    };
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    filled?;
    let totals = copy.finish().await?;
    say(&std::path::absolute(&args.dest)?, totals, output)
}

async fn fill(copy: &Copy, database: &Path, star: bool) -> Result<(), read::Error> {
    copy.fill(database).await?;
    if star { copy.add_star().await } else { Ok(()) }
}

/// Says on a terminal how far it is. Never returns.
async fn progress(copy: &Copy, database: &Path) -> std::convert::Infallible {
    const EVERY: Duration = Duration::from_millis(500);
    let mut stderr = io::stderr();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if stderr.is_terminal() {
            // The archive's own size is the most the copy can have, without what waits in its -wal.
            let (done, all) = (copy.bytes(), database.metadata().map_or(0, |found| found.len()));
            let _ = write!(
                stderr,
                "\r\x1b[Kcopied {} of at most {}\r",
                bytes_for_people(done),
                bytes_for_people(all.max(done))
            );
        }
    }
}

fn say(path: &Path, totals: Totals, output: &mut Output<'_>) -> anyhow::Result<()> {
    let bytes = path.metadata()?.len();
    let name = path.display().to_string();
    output.header(&NAMES)?;
    match output.format {
        Format::Json | Format::Csv => {
            let cells = [name.into(), Cell::from(i64::try_from(bytes)?), totals.chats.into(), totals.events.into()];
            output.record(&NAMES, &cells)?;
        }
        Format::Text => {
            let name = plain_line(&name);
            output.line(&name)?;
            labelled(output, "size", &format!("{} ({bytes} bytes)", bytes_for_people(bytes)))?;
            labelled(
                output,
                "contains",
                &format!("{}, {}", counted(totals.chats, "chat"), counted(totals.events, "event")),
            )?;
            labelled(output, "read it", &format!("sqlite3 -readonly '{}'", name.replace('\'', "'\\''")))?;
        }
    }
    // Whoever has the copy can read all of it.
    output.rows = totals.chats + totals.events;
    Ok(())
}
