//! `restore`: a backup takes the place of an archive once it was found to be sound. What was there is kept.

mod undone;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::actor::actor;
use super::backup::{Teller, checked, interruptible};
use super::custody;
use super::output::{self, Cell, Format, Ink, Look, Output, counted, labelled, plain_line};
use super::verify::keys;
use super::when::{self, Clock};
use crate::archive::key;
use crate::archive::verify::{Answer, Question};
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::audit::Snapshot;
use crate::store::backup::{self, Pace, Part, Replaced};
use crate::store::custody::{Act, Custody, Kind, Undone};
use crate::store::read::{Archive, Totals};
use crate::store::{ArchiveLock, inspect, spool};

const EXAMPLE: &str = "\
Example:
  gms-recorder restore /mnt/backup/transcripts-monday.db --anchor /mnt/audit/checkpoints

Exit codes:
  0  the backup is at its place
  1  it is not: the archive is as it was
  2  wrong usage or configuration";

/// The migration that brought the table of acts.
const ACTS_MIGRATION: i64 = 7;

/// Put a backup in the place of the archive (--database), while no `serve` runs on it.
///
/// The backup is copied beside the archive and checked there first (PRAGMA integrity_check, then all that `verify` does). What is at the path is
/// kept beside it as PATH.before-TIME, never deleted. The restored archive says in its acts that it was restored, when and
/// from where. What was erased, purged, masked, held and released after the backup was made is undone: it is said, with the commands
/// that do it again.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The backup, or a snapshot.
    backup: PathBuf,
    /// A file or folder of checkpoints kept elsewhere (as of `verify`): the backup is held against it, and it is said what was
    /// recorded after the backup; again for each.
    #[arg(long = "anchor", value_name = "PATH")]
    anchors: Vec<PathBuf>,
    /// A file with the public key that you were given (as of `verify`); again for each.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: &Config, config_file: Option<PathBuf>) -> anyhow::Result<()> {
    let database = &config.recording.database;
    let keys = keys(&args.keys)?;
    anyhow::ensure!(!is_same(&args.backup, database), "{} is the archive itself", args.backup.display());
    Archive::open(&args.backup).await?.close().await?;
    let backup = Snapshot::open(&args.backup)?;
    let archive_id = backup.archive_id().to_owned();
    anyhow::ensure!(
        !backup.has_star()?,
        "{} has the analyst's tables (`snapshot --star`), with copies of texts that no erasure would know of: restore a `backup`, or a \
         plain `snapshot`",
        args.backup.display()
    );
    drop(backup);
    let lock = ArchiveLock::acquire(database).map_err(|error| anyhow::anyhow!("{error}: stop it first"))?;
    let is_readable = check_former(database, &archive_id).await?;
    let former = (is_readable && database.exists()).then(|| database.clone());
    let question = Question { anchors: args.anchors.clone(), keys, is_copy: true, copy_of: former.clone() };
    let part = copied(&args.backup, database).await?;
    let answer = checked(part.path(), question).await?;
    let signed = note(&part, &args, &answer, config).await?;
    let undone = former.and_then(|former| Undone::between(&former, part.path()).ok());
    let mut copy = Archive::open(part.path()).await?;
    let totals = copy.totals().await?;
    copy.close().await?;
    let replaced = backup::replace(part, database, &stamp(), &lock)?;
    let path = std::path::absolute(database)?;
    let (spool, config) = (config.spool(), config_file.map(std::path::absolute).transpose()?);
    let told = Told { path, archive_id, totals, answer, replaced, is_readable, signed, undone, spool, config };
    output::to_stdout(args.look, async |output| told.print(&Clock::now(args.look.utc), output)).await
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// An archive is replaced by a backup of its own. One that cannot be read any longer says nothing: false.
async fn check_former(database: &Path, archive_id: &str) -> anyhow::Result<bool> {
    if !database.exists() {
        return Ok(true);
    }
    let Ok(archive) = Archive::open(database).await else { return Ok(false) };
    archive.close().await?;
    let Ok(former) = Snapshot::open(database) else { return Ok(false) };
    let former = former.archive_id();
    anyhow::ensure!(
        former == archive_id,
        "the backup is of another archive ({archive_id}) than {} ({former}): name another --database, or move that archive \
         away first",
        database.display()
    );
    Ok(true)
}

async fn copied(from: &Path, database: &Path) -> anyhow::Result<Part> {
    let model = if database.exists() { database } else { from };
    let part = Part::reserve(database, ".restoring", model.metadata()?.mode() & 0o777)?;
    let from = from.to_owned();
    interruptible(move |stop| {
        let mut teller = Teller::new("copied");
        let pace = Pace { bytes_per_second: None, stop };
        backup::fill(&part, &from, &pace, &mut |done, all| teller.show(done, all))?;
        Ok(part)
    })
    .await
}

/// Writes into the copy that it was restored. Whether that is signed.
async fn note(part: &Part, args: &Args, answer: &Answer, config: &Config) -> anyhow::Result<Signed> {
    if inspect::pending(part.path()).await?.pending.contains(&ACTS_MIGRATION) {
        return Ok(Signed::WithoutActs);
    }
    let asked = serde_json::json!({
        "command": "restore",
        "backup": std::path::absolute(&args.backup)?.display().to_string(),
        "leaves": answer.found.leaves,
        "lacks_up_to": answer.later.as_ref().map(|later| later.size),
    });
    let custody = Custody::open(part.path())?;
    custody.note(&Act { kind: Kind::Restore, at: now_ms(), actor: &actor(None), asked, reason: None }, 0)?;
    let signed = match (custody::sign(&custody, config)?, key::check(&config.key_file(), &custody.keys()?)) {
        (true, _) => Signed::Now,
        (false, Err(error)) => Signed::ForWantOfKey(error),
        (false, Ok(_)) => Signed::ByServe,
    };
    drop(custody);
    backup::settle(part.path())?;
    Ok(signed)
}

/// Who signs that it was restored.
enum Signed {
    Now,
    ByServe,
    /// Nobody, until the right key is there.
    ForWantOfKey(key::Error),
    /// It is of a release that does not write it down.
    WithoutActs,
}

/// For names of files: UTC, sorted as it passes.
fn stamp() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

struct Told {
    path: PathBuf,
    archive_id: String,
    totals: Totals,
    answer: Answer,
    replaced: Replaced,
    is_readable: bool,
    signed: Signed,
    /// None: not known.
    undone: Option<Undone>,
    spool: PathBuf,
    /// The file that the configuration was read from.
    config: Option<PathBuf>,
}

const NAMES: [&str; 17] = [
    "path",
    "archive_id",
    "chats",
    "events",
    "leaves",
    "lacks_up_to_leaf",
    "lacks_up_to",
    "kept",
    "erased_later",
    "purged_later",
    "held_later",
    "released_later",
    "waiting_later",
    "masked_later",
    "events_later",
    "chats_later",
    "again",
];

impl Told {
    fn print(&self, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
        let (name, leaves) = (self.path.display().to_string(), self.answer.found.leaves);
        let kept = self.replaced.kept.as_ref().map(|kept| kept.display().to_string());
        output.header(&NAMES)?;
        if output.format != Format::Text {
            let number = |number: u64| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
            let later = self.answer.later.as_ref();
            let of_undone =
                |of: fn(&Undone) -> i64| self.undone.as_ref().map_or(Cell::Null, |undone| of(undone).into());
            let cells = [
                name.into(),
                self.archive_id.as_str().into(),
                self.totals.chats.into(),
                self.totals.events.into(),
                number(leaves),
                later.map_or(Cell::Null, |later| number(later.size)),
                later.map_or(Cell::Null, |later| when::iso(later.at).into()),
                kept.map_or(Cell::Null, Into::into),
                of_undone(|undone| undone.erased),
                of_undone(|undone| undone.purged),
                of_undone(|undone| undone::length(&undone.holds)),
                of_undone(|undone| undone::length(&undone.released)),
                of_undone(|undone| undone::length(&undone.waiting)),
                of_undone(|undone| undone::length(&undone.masked)),
                of_undone(|undone| undone.later.0),
                of_undone(|undone| undone.later.1),
                Cell::Json(serde_json::json!(self.again()).to_string()),
            ];
            output.record(&NAMES, &cells)?;
            return self.undone(output);
        }
        output.line(&plain_line(&name))?;
        let holds = format!("{}, {}", counted(self.totals.chats, "chat"), counted(self.totals.events, "event"));
        labelled(output, "contains", &holds)?;
        labelled(output, "verified", &format!("as it was sealed: {leaves} leaves, archive {}", self.archive_id))?;
        if let Some(later) = &self.answer.later {
            let what = format!(
                "the anchors know of {} leaves, signed at {}: what was recorded after leaf {leaves} is not in this backup, and \
                 `verify` with these anchors says so from now on",
                later.size,
                clock.date_time(later.at)
            );
            labelled(output, "lacks", &Ink::Yellow.on(&what))?;
        }
        if let Some((events @ 1.., chats)) = self.undone.as_ref().map(|undone| undone.later) {
            let (events, chats) = (counted(events, "event"), counted(chats, "chat"));
            let what =
                format!("{events} of {chats}, recorded after this backup was made: they are only in what is kept");
            labelled(output, "lacks", &Ink::Yellow.on(&what))?;
        }
        if let Some(kept) = kept {
            let what = match (self.is_readable, self.replaced.was_unreadable) {
                (true, false) => "the archive that was there",
                _ => "what was there, which could not be read",
            };
            labelled(output, "kept", &format!("{}: {what}", plain_line(&kept)))?;
        }
        if spool::waiting_bytes(&self.spool) > 0 {
            let what = format!("{}: the next `serve` writes into the archive what is in it", self.spool.display());
            labelled(output, "spool", &plain_line(&what))?;
        }
        match &self.signed {
            Signed::Now => {}
            Signed::ByServe => labelled(output, "signed", "not yet: the next `serve` does")?,
            Signed::ForWantOfKey(error) => {
                let what = format!("not yet: {error}. A `serve` that has it signs");
                labelled(output, "signed", &Ink::Yellow.on(&plain_line(&what)))?;
            }
            Signed::WithoutActs => {
                labelled(output, "note", "of a release without acts: that it was restored is written nowhere in it")?
            }
        }
        self.undone(output)
    }

    /// What does again what was undone.
    fn again(&self) -> Vec<String> {
        let (Some(undone), Some(kept)) = (&self.undone, &self.replaced.kept) else { return Vec::new() };
        undone::commands(undone, &undone::Place { database: &self.path, config: self.config.as_deref(), kept })
    }

    /// Among the results for people; beside them for programs.
    fn undone(&self, output: &mut Output<'_>) -> anyhow::Result<()> {
        let what = match &self.undone {
            Some(undone) => undone::in_words(undone),
            None => Some(
                "there is no archive that tells what was erased, purged, masked or held after this backup was made: look it up \
                 elsewhere, and do it again"
                    .into(),
            ),
        };
        let Some(what) = what else { return Ok(()) };
        match output.format {
            Format::Text => labelled(output, "undone", &Ink::Yellow.on(&what))?,
            Format::Json | Format::Csv => output.note(&format!("undone: {what}"))?,
        }
        for command in self.again() {
            match output.format {
                Format::Text => output.line(&format!("            {command}"))?, // whole, to be copied
                Format::Json | Format::Csv => output.note(&command)?,
            }
        }
        Ok(())
    }
}
