//! What the commands that change an archive have in common: why and for what, cleaning up, signing what was done.

use std::path::Path;

use super::output::{Output, Usage, plain_line};
use super::progress::progress;
use crate::archive::key;
use crate::archive::note::Checkpoint;
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::audit::Snapshot;
use crate::store::custody::{Cleaned, Custody};
use crate::store::read::Archive;
use crate::store::seal::checkpoint::Standing;
use crate::store::{self, ErrorKind};

/// `--reason`, `--case`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Why {
    /// Why: it is kept with the act, in the archive, for as long as that lasts. Name no customer in it.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// What for: a case, a ticket.
    #[arg(long = "case", value_name = "REF")]
    pub case_ref: Option<String>,
}

impl Why {
    /// The reason, without which nothing is done.
    ///
    /// # Errors
    /// None is given.
    pub fn reason(&self) -> Result<&str, Usage> {
        let wanted = || Usage("it needs a --reason, which is kept with the act".into());
        self.reason.as_deref().ok_or_else(wanted)
    }
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("a reason has words".into()) } else { Ok(text.to_owned()) }
}

/// Opens an archive to change it.
///
/// # Errors
/// What to tell the user.
pub async fn open(config: &Config) -> anyhow::Result<Custody> {
    let database = &config.recording.database;
    // Opened once beforehand, for its words about what is no archive.
    Archive::open(database).await?.close().await?;
    let custody = Custody::open(database).map_err(|error| cannot_change(database, &error))?;
    Ok(custody.with_spool(config.spool()))
}

/// Opens an archive to list what is kept of it: whoever may read the file may see that.
///
/// # Errors
/// What to tell the user.
pub async fn open_to_list(config: &Config) -> anyhow::Result<Snapshot> {
    let database = &config.recording.database;
    Archive::open(database).await?.close().await?;
    Ok(Snapshot::open(database)?)
}

/// Why somebody cannot.
pub(super) fn cannot_change(database: &Path, error: &store::Error) -> anyhow::Error {
    let hint = hint(error.kind).map_or(String::new(), |hint| format!(". {hint}"));
    anyhow::anyhow!("{} cannot be changed: {error}{hint}", database.display())
}

/// The same of what went wrong later, while it was being changed.
pub(super) fn with_hint(error: anyhow::Error) -> anyhow::Error {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<store::Error>()).map(|error| error.kind);
    match kind.and_then(hint) {
        Some(hint) => {
            let said = format!("{error}. {hint}");
            error.context(said)
        }
        None => error,
    }
}

fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::ReadOnly | ErrorKind::CannotOpen => Some(
            "That needs permission to write to the file, its -wal and -shm beside it, and their directory: run this as the user of \
             `serve`",
        ),
        ErrorKind::Busy => Some("Another process keeps the lock: try again, once it has ended"),
        ErrorKind::Full => Some(
            "That needs free space on its file system: `gms-recorder check` shows what is left; free some, and try again",
        ),
        _ => None,
    }
}

/// Overwrites what is left of what was removed, and says where something has to wait.
///
/// # Errors
/// As writing goes wrong: the removal stands, and cleaning is tried again.
pub fn clean(custody: &Custody, output: &mut Output<'_>) -> anyhow::Result<bool> {
    let cleaned = custody.clean(&mut progress("pages looked at"));
    let why = match cleaned {
        Ok(Cleaned::All) => return Ok(true),
        Ok(Cleaned::NotYet(why)) => why,
        Err(error) => error.to_string(),
    };
    output.note(&format!(
        "What was removed is in no row any longer, but not every byte of it is overwritten yet: {why}. A running `serve` tries \
         again every minute, `gms-recorder purge` each time it runs"
    ))?;
    Ok(false)
}

/// Names the files beside an archive that are copies of it, which keep what was removed: what `restore` has put aside, or left where
/// it was killed.
///
/// # Errors
/// As printing. A folder that cannot be listed tells nothing.
pub fn tell_copies(database: &Path, output: &mut Output<'_>) -> anyhow::Result<()> {
    let copies = copies(database);
    if copies.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = copies.iter().map(|name| plain_line(name)).collect();
    output.note(&format!(
        "what was removed may still be in copies beside the archive, left by `restore`, which are yours to delete: {}",
        names.join(", ")
    ))?;
    Ok(())
}

fn copies(database: &Path) -> Vec<String> {
    let Some(name) = database.file_name().map(|name| name.to_string_lossy().into_owned()) else { return Vec::new() };
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_copy = |other: &String| {
        other.strip_prefix(&name).is_some_and(|rest| rest.starts_with(".before-") || rest.starts_with(".restoring"))
    };
    let mut copies: Vec<String> = names.filter(is_copy).collect();
    copies.sort_unstable();
    copies
}

/// Why nobody signs what was done: the key is missing, or not the archive's, as `check` finds. None where it is right, or this user
/// may not see it.
pub fn unsigned_because(key_file: &Path, known: &[String]) -> Option<String> {
    match key::check(key_file, known) {
        Ok(_) | Err(key::Error::Io { .. }) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Signs what was done, where this user may read the key. False where that is left to `serve`.
///
/// # Errors
/// As writing goes wrong.
pub fn sign(custody: &Custody, config: &Config) -> anyhow::Result<bool> {
    let Ok(Some(signer)) = key::check(&config.key_file(), &custody.keys()?) else { return Ok(false) };
    let (archive_id, at) = (custody.archive_id(), now_ms());
    let note = custody.checkpoint(at, &signer.public().vkey(), |standing| {
        let Standing { number, size, root, .. } = *standing;
        signer.sign(&Checkpoint { archive_id: archive_id.into(), size, root, number, at })
    })?;
    Ok(note.is_some())
}
