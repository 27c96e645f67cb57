//! `backup`: a copy of a live archive, verified before it gets its name; what it says of what is not in it.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::output::{Cell, Format, Look, Output, counted, labelled, plain_line};
use super::progress::progress;
use super::reading::{Case, Reading};
use super::snapshot::parse_mode;
use super::transcript::bytes_for_people;
use crate::archive::verify::{Answer, Question, verify};
use crate::store::audit::Snapshot;
use crate::store::backup::{self, Pace};
use crate::store::read::{Archive, Totals};
use crate::store::spool;
use crate::units;

const EXAMPLE: &str = "\
Example:
  gms-recorder backup /mnt/backup/transcripts-monday.db --rate 20MiB

Exit codes:
  0  the backup is on disk, and as sound as `verify` can say
  1  there is none: it could not be written, or what was copied is not as it was sealed
  2  wrong usage or configuration";

/// Back up the archive as it is at this moment, while `serve` goes on writing.
///
/// The copy is made page by page as DEST.partial, checked (PRAGMA integrity_check, then all that `verify` does), and named DEST
/// once it is on disk. Nothing is overwritten. Until it is copied the write-ahead log of the archive grows by what is recorded
/// meanwhile. The private key is not in it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The file to make.
    dest: PathBuf,
    /// Copy no more than this a second, such as 20MiB [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Permissions of the copy, octal [default: as the archive's]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<u32>,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let bytes = units::parse_size(text)?;
    if bytes == 0 { Err("at 0 bytes a second it would never end".into()) } else { Ok(bytes as u64) }
}

/// What belongs to an archive and is in no backup.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// The private key of its checkpoints.
    pub key_file: PathBuf,
    /// What could not be written into it yet.
    pub spool: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading, left_out: LeftOut) -> anyhow::Result<()> {
    let database = &reading.database;
    reading.to_stdout(&args.case, args.look, async |output| back_up(&args, database, left_out, output).await).await
}

async fn back_up(args: &Args, database: &Path, left_out: LeftOut, output: &mut Output<'_>) -> anyhow::Result<()> {
    // Opened once beforehand, so that what is no archive is said before anything is made.
    Archive::open(database).await?.close().await?;
    Snapshot::open(database)?; // without seals nothing could be verified
    let part = backup::begin(database, &args.dest, args.mode)?;
    let (from, rate) = (database.to_owned(), args.rate);
    let part = interruptible(move |stop| {
        let mut teller = Teller::new("copied");
        let pace = Pace { bytes_per_second: rate, stop };
        backup::fill(&part, &from, &pace, &mut |done, all| teller.show(done, all))?;
        Ok(part)
    })
    .await?;
    let answer = checked(part.path(), Question::default()).await?;
    let mut copy = Archive::open(part.path()).await?;
    let totals = copy.totals().await?;
    copy.close().await?;
    backup::finish(part, &args.dest)?;
    let made = Made { path: std::path::absolute(&args.dest)?, totals, answer, left_out };
    made.print(output)?;
    output.rows = made.totals.chats + made.totals.events;
    Ok(())
}

/// Runs what blocks, and tells it to stop where somebody interrupts.
pub(super) async fn interruptible<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut task = {
        let stop = stop.clone();
        tokio::task::spawn_blocking(move || work(&stop))
    };
    tokio::select! {
        done = &mut task => done?,
        _ = tokio::signal::ctrl_c() => {
            stop.store(true, Ordering::Release);
            task.await?
        }
    }
}

/// Everything in a copy is as it was sealed.
pub(super) async fn checked(copy: &Path, question: Question) -> anyhow::Result<Answer> {
    let path = copy.to_owned();
    let verifying = tokio::task::spawn_blocking(move || verify(&path, &question, &mut progress("leaves")));
    let answer = tokio::select! {
        answer = verifying => answer??,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted: nothing was made"),
    };
    let faults: Vec<String> = answer.all_faults().map(|fault| plain_line(&fault.to_string())).collect();
    anyhow::ensure!(
        faults.is_empty(),
        "what was copied is not as it was sealed ({} in all), so that it is no backup; see `gms-recorder verify`; `snapshot` \
         copies an archive as it is. The first: {}",
        counted(answer.fault_count().try_into()?, "fault"),
        faults.join("; ")
    );
    Ok(answer)
}

/// How much is done, on a terminal.
pub(super) struct Teller {
    what: &'static str,
    is_terminal: bool,
    last: Option<Instant>,
}

impl Teller {
    const EVERY: Duration = Duration::from_millis(500);

    pub(super) fn new(what: &'static str) -> Self {
        Self { what, is_terminal: io::stderr().is_terminal(), last: None }
    }

    pub(super) fn show(&mut self, done: u64, all: u64) {
        if !self.is_terminal || done < all && self.last.is_some_and(|last| last.elapsed() < Self::EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let end = if done >= all { "\r\x1b[K" } else { "" };
        let (done, all) = (bytes_for_people(done), bytes_for_people(all));
        let _ = write!(io::stderr(), "\r\x1b[K{} {done} of {all}{end}", self.what); // nobody is told, and nothing is lost
    }
}

struct Made {
    path: PathBuf,
    totals: Totals,
    answer: Answer,
    left_out: LeftOut,
}

const NAMES: [&str; 8] = ["path", "bytes", "chats", "events", "leaves", "signed_leaves", "key_file", "spool_bytes"];

impl Made {
    fn print(&self, output: &mut Output<'_>) -> anyhow::Result<()> {
        let bytes = self.path.metadata()?.len();
        let (leaves, signed) = (self.answer.found.leaves, self.answer.last.as_ref().map_or(0, |last| last.size));
        let spooled = spool::waiting_bytes(&self.left_out.spool);
        let (name, key_file) = (self.path.display().to_string(), self.left_out.key_file.display().to_string());
        output.header(&NAMES)?;
        if output.format != Format::Text {
            let number = |number: u64| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
            let (chats, events) = (self.totals.chats.into(), self.totals.events.into());
            let of_tree = [number(leaves), number(signed), key_file.into(), number(spooled)];
            let [leaves, signed, key_file, spooled] = of_tree;
            return Ok(output
                .record(&NAMES, &[name.into(), number(bytes), chats, events, leaves, signed, key_file, spooled])?);
        }
        output.line(&plain_line(&name))?;
        labelled(output, "size", &format!("{} ({bytes} bytes)", bytes_for_people(bytes)))?;
        let holds = format!("{}, {}", counted(self.totals.chats, "chat"), counted(self.totals.events, "event"));
        labelled(output, "contains", &holds)?;
        let sound = format!("as it was sealed: {leaves} leaves, the first {signed} of them signed");
        labelled(output, "verified", &sound)?;
        let key = format!(
            "the private key {}: keep a copy of it elsewhere, not beside a backup, since who has both can sign another past. \
             Without it a restored archive is read and verified as ever, and nothing that is recorded later can be signed",
            plain_line(&key_file)
        );
        labelled(output, "without", &key)?;
        if spooled > 0 {
            let spool = plain_line(&self.left_out.spool.display().to_string());
            let what = format!(
                "the spool {spool} ({}): what is recorded there is not in the archive yet",
                bytes_for_people(spooled)
            );
            labelled(output, "without", &what)?;
        }
        if self.answer.found.is_unclean {
            let what =
                "text that was removed may still be in its unused space, as in the archive's: a `serve` cleans it";
            labelled(output, "note", what)?;
        }
        Ok(())
    }
}
