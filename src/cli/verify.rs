//! `verify`: is the archive whole and unaltered, and how much does that say?

mod bundle;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::output::{self, Cell, Format, Ink, Look, Output, Usage, counted, labelled, plain_line};
use super::progress::progress;
use super::when::{self, Clock};
use crate::archive::note::{Checkpoint, PublicKey};
use crate::archive::verify::{Answer, Question, verify};
use crate::store::audit::Snapshot;
use crate::store::inspect;
use crate::store::read::Archive;
use crate::store::read::acts::{Act, Acts};

const EXAMPLE: &str = "\
Example:
  gms-recorder verify --anchor /mnt/audit/checkpoints --key auditor/gms-recorder.vkey

Exit codes:
  0  what is sealed is as it was sealed; it is said how much is not signed or not sealed yet
  1  something is not: the first faults are named; or not all could be checked with the --key, or
     none leads to who signed a bundle; or the archive, the bundle or an anchor could not be read
  2  wrong usage: a --key that is none, an --anchor without a note";

/// What an archive says that has no seals, or none any more.
const WITHOUT_SEALS: &str = "of a release that does not seal";

/// Hold every row of the archive against its seal, the seals against the tree, and the tree against every signed checkpoint.
///
/// Reads one snapshot of the archive, while `serve` goes on writing. For an archive of many gigabytes verify a `snapshot` of
/// it: a long reader keeps the write-ahead log from being folded in.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// A file of checkpoints that was kept elsewhere (evidence.anchor_file), or a folder of .note files, as downloaded from a
    /// bucket or kept with time stamps (.tsr) beside them; again for each.
    #[arg(long = "anchor", value_name = "PATH")]
    anchors: Vec<PathBuf>,
    /// A file with the public keys that you were given (lines such as gms-recorder/…+…+…); again for each. Else those count
    /// that the archive itself names.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A bundle of `export --bundle`, instead of an archive. Needs nothing but it and a --key.
    #[arg(long, value_name = "FOLDER", conflicts_with = "anchors", requires = "keys")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user; a fault of the archive is one.
pub async fn run(args: Args, database: &Path) -> anyhow::Result<()> {
    if let Some(bundle) = &args.bundle {
        return bundle::run(bundle, keys(&args.keys)?, args.look).await;
    }
    match hold(args, database).await {
        Ok(()) => Ok(()),
        Err(error) => Err(in_words(error, database).await),
    }
}

/// SQLite names a table that was dropped, and the seals do not say that they are gone. Whether there was one the migrations tell.
pub(super) async fn in_words(error: anyhow::Error, database: &Path) -> anyhow::Error {
    let said = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let named = said.split("no such table: ").nth(1).and_then(|rest| rest.split([' ', ':', ',']).next());
    let named = named.map(|name| name.trim_start_matches("main."));
    let Some(table) = named.or(said.contains(WITHOUT_SEALS).then_some("seals")) else { return error };
    match inspect::pending(database).await {
        Ok(migrations) if migrations.pending.is_empty() => anyhow::anyhow!(
            "NOT AS IT WAS SEALED: the table {} is missing, and this archive had one: somebody has dropped it",
            plain_line(table)
        ),
        _ => error,
    }
}

async fn hold(args: Args, database: &Path) -> anyhow::Result<()> {
    // Opened once beforehand, for its words about what is no archive.
    let mut archive = Archive::open(database).await?;
    let restores = restores(&mut archive).await;
    archive.close().await?;
    let question = Question { anchors: args.anchors.clone(), keys: keys(&args.keys)?, ..Question::default() };
    let began = Instant::now();
    let answer = {
        let database = database.to_owned();
        tokio::task::spawn_blocking(move || verify(&database, &question, &mut progress("leaves"))).await??
    };
    let archive_id = Snapshot::open(database)?.archive_id().to_owned();
    let told = Told { answer, restores, path: std::path::absolute(database)?, archive_id, took: began.elapsed() };
    output::to_stdout(args.look, async |output| told.print(&args, output)).await?;
    match told.answer.fault_count() {
        0 => Ok(()),
        1 if told.answer.is_of_later_key => anyhow::bail!("not all of the archive can be checked with this key"),
        count => anyhow::bail!("the archive is not as it was sealed: {}", counted(count.try_into()?, "fault")),
    }
}

/// More of them are told by `access --kind restore`.
const RESTORES_TOLD: i64 = 3;

/// When the archive was put back from a backup, the last time first. Of one in which that cannot be read the faults tell.
async fn restores(archive: &mut Archive) -> Vec<Act> {
    let of = Acts { kind: Some("restore".into()), ..Acts::default() };
    archive.acts(&of, None, RESTORES_TOLD).await.ok().flatten().unwrap_or_default()
}

pub(super) fn keys(files: &[PathBuf]) -> anyhow::Result<Vec<PublicKey>> {
    let mut keys = Vec::new();
    for file in files {
        let usage = |why: String| Usage(format!("--key {}: {why}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| usage(error.to_string()))?;
        let before = keys.len();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let key = PublicKey::parse(line);
            keys.push(key.ok_or_else(|| usage("it has a line that is no public key of signed notes".into()))?);
        }
        if keys.len() == before {
            return Err(usage("it has no public key; `gms-recorder key list` prints those of an archive".into()).into());
        }
    }
    Ok(keys)
}

struct Told {
    answer: Answer,
    restores: Vec<Act>,
    path: PathBuf,
    archive_id: String,
    took: Duration,
}

const NAMES: [&str; 21] = [
    "sound",
    "faults",
    "rows",
    "leaves",
    "checkpoints",
    "signed_leaves",
    "anchored",
    "anchored_leaves",
    "stamps",
    "last_stamp_at",
    "sealed_later",
    "unsealed",
    "removed_leaves",
    "removed_chats",
    "uncleaned",
    "seconds",
    "strength",
    "warnings",
    "archive",
    "archive_id",
    "restored_at",
];

impl Told {
    fn print(&self, args: &Args, output: &mut Output<'_>) -> anyhow::Result<()> {
        match output.format {
            Format::Text => self.text(args, output),
            Format::Json | Format::Csv => self.record(args, output),
        }
    }

    fn record(&self, args: &Args, output: &mut Output<'_>) -> anyhow::Result<()> {
        let Answer { found, checkpoints, last, anchored, last_anchored, .. } = &self.answer;
        let faults: Vec<String> = self
            .answer
            .all_faults()
            .map(|fault| serde_json::json!({ "subject": fault.subject, "what": fault.what }).to_string())
            .collect();
        let number = |number: u64| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let leaves = |checkpoint: &Option<Checkpoint>| number(checkpoint.as_ref().map_or(0, |last| last.size));
        let cells = [
            number(u64::from(self.answer.fault_count() == 0)),
            output::json_array(&faults),
            number(found.rows),
            number(found.leaves),
            number(*checkpoints),
            leaves(last),
            number(*anchored),
            leaves(last_anchored),
            number(self.answer.stamps),
            self.answer.last_stamp.as_ref().map_or(Cell::Null, |stamp| Cell::Integer(stamp.at)),
            number(found.sealed_later.map_or(0, |(leaves, ..)| leaves)),
            number(found.unsealed),
            number(found.erased),
            found.removals.0.into(),
            number(u64::from(found.is_unclean)),
            Cell::Real(self.took.as_secs_f64()),
            self.strength(args).into(),
            Cell::Json(serde_json::json!(self.answer.warnings).to_string()),
            self.path.display().to_string().into(),
            self.archive_id.as_str().into(),
            self.restores.first().and_then(|last| when::iso(last.at)).into(),
        ];
        output.header(&NAMES)?;
        Ok(output.record(&NAMES, &cells)?)
    }

    fn text(&self, args: &Args, output: &mut Output<'_>) -> anyhow::Result<()> {
        let clock = Clock::now(args.look.utc);
        let Answer { found, checkpoints, last, anchored, last_anchored, .. } = &self.answer;
        let faults = self.answer.fault_count();
        match (faults, found.unsealed, last) {
            (1, ..) if self.answer.is_of_later_key => {
                output.line(&Ink::Red.on("NOT ALL OF IT CAN BE CHECKED; what can be is as it was sealed"))?;
            }
            (1.., ..) => output.line(&Ink::Red.on("NOT AS IT WAS SEALED"))?,
            (0, 1.., _) => output.line("NOT EVERYTHING IS SEALED; what is sealed is as it was sealed")?,
            (0, 0, None) => output.line("everything recorded is as it was sealed; nothing of it is signed")?,
            (0, 0, Some(_)) => output.line("everything recorded is as it was sealed")?,
        }
        for fault in self.answer.all_faults() {
            output.line(&format!("  {}", plain_line(&fault.to_string())))?;
        }
        let untold = faults.saturating_sub(self.answer.all_faults().count() as u64);
        if untold > 0 {
            output.line(&format!("  and {untold} more"))?;
        }
        let of = |number: u64, noun: &str| counted(i64::try_from(number).unwrap_or(i64::MAX), noun);
        labelled(output, "archive", &plain_line(&format!("{}, {}", self.path.display(), self.archive_id)))?;
        let leaves = found.leaves;
        let rows = format!("{} fit their seals; the tree has {leaves} leaves", of(found.rows, "row"));
        labelled(output, "rows", &rows)?;
        labelled(output, "signed", &signed(*checkpoints, last.as_ref(), leaves, &clock))?;
        if !args.anchors.is_empty() {
            labelled(output, "anchored", &signed(*anchored, last_anchored.as_ref(), leaves, &clock))?;
        }
        if let Some(last) = &self.answer.last_stamp {
            let (stamps, leaves) = (of(self.answer.stamps, "time stamp"), last.checkpoint.size);
            let (at, said) = (clock.date_time(last.at), clock.date_time(last.checkpoint.at));
            let what = format!("by the last {leaves} leaves were there at {at} (the recorder's clock: {said})");
            labelled(output, "stamped", &format!("{stamps}; {what}; whether the authority says so, of each .tsr:"))?;
            output.line(&plain_line(&openssl(&last.file)))?; // whole, to be copied
        }
        if let Some((leaves, first, last)) = found.sealed_later {
            let (first, last) = (clock.date_time(first), clock.date_time(last));
            let days = if first == last { format!("at {first}") } else { format!("from {first} to {last}") };
            let what = "what a release without seals has written; before that nothing vouches for it";
            labelled(output, "later", &format!("{} sealed {days}: {what}", of(leaves, "row")))?;
        }
        if found.unsealed > 0 {
            let what = "not sealed: a release without seals has written them, or somebody by hand; the next `serve` seals them \
                        as they are, marked as sealed later";
            labelled(output, "unsealed", &format!("{} {what}", of(found.unsealed, "row")))?;
        }
        if found.erased > 0 {
            let (chats, acts) = found.removals;
            let (chats, acts) = (counted(chats, "chat"), counted(acts, "act"));
            let masked = counted(found.masked_chats, "chat");
            let unclean = match found.is_unclean {
                true => "; some of what was removed is still to be overwritten, which a running `serve` does",
                false => "",
            };
            let what = format!(
                "{chats} removed, rows of {masked} masked, by {acts} ({} leaves): see the view removals and `access`{unclean}",
                found.erased
            );
            labelled(output, "removed", &what)?;
        }
        for Act { id, at, who, via, .. } in &self.restores {
            let who = via.as_ref().map_or(who.clone(), |via| format!("{who} ({via})"));
            let what = format!(
                "{} by {} (act {id}), from a backup: what was signed between that backup and then is missing because of it",
                clock.date_time(*at),
                output::shown(&who)
            );
            labelled(output, "restored", &what)?;
        }
        for warning in &self.answer.warnings {
            labelled(output, "warning", &Ink::Yellow.on(warning))?;
        }
        labelled(output, "strength", self.strength(args))?;
        let seconds = self.took.as_secs_f64().max(0.001);
        Ok(output.note(&format!("it took {seconds:.1} s: {} leaves a second", (leaves as f64 / seconds) as u64))?)
    }

    /// What a sound answer says, and what not.
    fn strength(&self, args: &Args) -> &'static str {
        if self.answer.against_anchors > 0 {
            return "outside anchor, and this archive is not all that it knows: see above. Only what lies under those of its checkpoints \
                    that fit is what was there when they were signed";
        }
        match (self.answer.anchored == 0, args.keys.is_empty()) {
            (true, true) => {
                "no outside anchor, and the archive's own word for its key: shows accidents and changes by hand, not what \
                 somebody did who has the key (the operator) or took the last checkpoints away, nor a file that was rolled \
                 back or swapped"
            }
            (true, false) => {
                "no outside anchor: shows changes to what a checkpoint still covers by everybody who does not have the \
                 private key; not that the last checkpoints were taken away, nor a file that was rolled back"
            }
            (false, true) => {
                "outside anchor: what it has cannot have been changed since by anybody who cannot change the anchor too. \
                 The key is the archive's own word; give --key"
            }
            (false, false) => {
                "outside anchor and a public key that you brought: what is anchored cannot have been changed since, not even \
                 by the operator, unless the anchor can be changed too"
            }
        }
    }
}

/// Whose signature a time stamp has is for openssl to say.
fn openssl(stamp: &Path) -> String {
    let note = stamp.with_extension("note");
    format!("            openssl ts -verify -data {} -in {} -CAfile tsa-ca.pem", note.display(), stamp.display())
}

fn signed(count: u64, last: Option<&Checkpoint>, leaves: u64, clock: &Clock) -> String {
    let Some(last) = last else { return "by no checkpoint".into() };
    let rest = match leaves - last.size.min(leaves) {
        0 => "all of it".to_owned(),
        rest => format!("the last {rest} leaves are newer: nobody vouches for them yet"),
    };
    format!(
        "{} to {}, {rest}",
        counted(i64::try_from(count).unwrap_or(i64::MAX), "checkpoint"),
        clock.date_time(last.at)
    )
}

fn counted_u64(number: u64, noun: &str) -> String {
    counted(i64::try_from(number).unwrap_or(i64::MAX), noun)
}
