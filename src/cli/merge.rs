//! `merge`: another proxy's archive comes into this one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::actor::actor;
use super::custody;
use super::output::{self, Cell, Format, Look, Output, counted, labelled, plain_line};
use super::progress::progress;
use super::verify::keys;
use crate::archive::verify::{Question, verify};
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::custody::{Act, Kind, Merged, Other};
use crate::store::read::Archive;

const EXAMPLE: &str = "\
Example:
  gms-recorder merge /mnt/proxy-b/transcripts.db --database /var/lib/gms-recorder/transcripts.db

Exit codes:
  0  all of it is in
  1  it is not, or not all: run it again, which brings what is missing
  2  wrong usage or configuration";

/// Bring in another proxy's archive: of an HA pair, of a machine that is given up.
///
/// Goes in small transactions, beside live recording; what is interrupted is gone on with by running it again, and the same or
/// a later copy brings only what is new. An event that is here already is a duplicate or a variant. Nothing is brought that was
/// erased or purged on either side, and nothing here is removed. The other archive is verified first and not
/// changed: keep it, since its seals are what vouches for its rows before today.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The other archive, or better a backup of it.
    other: PathBuf,
    /// Checkpoints of the other archive that were kept elsewhere (as of `verify`); again for each.
    #[arg(long = "anchor", value_name = "PATH")]
    anchors: Vec<PathBuf>,
    /// A file with the public key of the other archive that you were given (as of `verify`); again for each.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Why: it is kept with the act.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// What for: a case, a ticket.
    #[arg(long = "case", value_name = "REF")]
    case_ref: Option<String>,
    #[command(flatten)]
    look: Look,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: Config) -> anyhow::Result<()> {
    Archive::open(&args.other).await?.close().await?;
    // Before it is verified: what is written to it meanwhile is not brought.
    let other = Other::open(&args.other)?;
    let question = Question { anchors: args.anchors.clone(), keys: keys(&args.keys)?, is_copy: true, copy_of: None };
    let path = args.other.clone();
    let answer = tokio::task::spawn_blocking(move || verify(&path, &question, &mut progress("leaves"))).await??;
    let first = answer.all_faults().next().map(|fault| plain_line(&fault.to_string())).unwrap_or_default();
    anyhow::ensure!(
        answer.fault_count() == 0,
        "{} is not as it was sealed, and nothing of it is brought: {first}",
        args.other.display()
    );
    let stop = Arc::new(AtomicBool::new(false));
    let custody = custody::open(&config).await?.until(stop.clone());
    let asked = serde_json::json!({
        "command": "merge",
        "other": std::path::absolute(&args.other)?.display().to_string(),
        "archive_id": other.archive_id(),
    });
    let (actor, reason) = (actor(args.case_ref.as_deref()), args.reason.clone());
    let mut merging = tokio::task::spawn_blocking(move || {
        let act = Act { kind: Kind::Merge, at: now_ms(), actor: &actor, asked, reason: reason.as_deref() };
        let merged = custody.merge(&other, &act, &config.recording.masks, now_ms, &mut progress("rows"))?;
        let is_signed = custody::sign(&custody, &config)?;
        anyhow::Ok((merged, is_signed, other.archive_id().to_owned(), custody.rules_applied()?))
    });
    let (merged, is_signed, archive_id, rules) = tokio::select! {
        merged = &mut merging => merged??,
        _ = tokio::signal::ctrl_c() => {
            stop.store(true, Ordering::Release);
            merging.await??
        }
    };
    output::to_stdout(args.look, async |output| {
        print(&merged, &archive_id, is_signed, output)?;
        let came = merged.new + merged.variant + merged.attributes + merged.errors + merged.findings > 0;
        for rule in rules.into_iter().filter(|_| came) {
            let rule = plain_line(&rule);
            output.note(&format!(
                "rule {rule} was applied here, not to what came: gms-recorder mask --rule {rule} --dry-run"
            ))?;
        }
        Ok(())
    })
    .await
}

const NAMES: [&str; 15] = [
    "archive_id",
    "new",
    "duplicate",
    "variant",
    "suppressed",
    "chats",
    "attributes",
    "errors",
    "findings",
    "outages",
    "files",
    "runs",
    "tombstones",
    "erased_there",
    "signed",
];

fn print(merged: &Merged, archive_id: &str, is_signed: bool, output: &mut Output<'_>) -> anyhow::Result<()> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    output.header(&NAMES)?;
    if output.format != Format::Text {
        let Merged { new, duplicate, variant, suppressed, chats, attributes, errors, findings, .. } = *merged;
        let Merged { outages, files, runs, tombstones, erased_there, .. } = *merged;
        let counts = [
            new,
            duplicate,
            variant,
            suppressed,
            chats,
            attributes,
            errors,
            findings,
            outages,
            files,
            runs,
            tombstones,
            erased_there,
            u64::from(is_signed),
        ];
        let cells: Vec<Cell> =
            std::iter::once(archive_id.into()).chain(counts.map(|count| Cell::Integer(number(count)))).collect();
        return Ok(output.record(&NAMES, &cells)?);
    }
    let of = |count: u64, noun: &str| counted(number(count), noun);
    output.line(&format!("archive {archive_id} is in"))?;
    let events = format!(
        "{} new, {}, {}, {} suppressed, as erased or purged",
        merged.new,
        of(merged.duplicate, "duplicate"),
        of(merged.variant, "variant"),
        merged.suppressed
    );
    labelled(output, "events", &events)?;
    let rest = [
        of(merged.chats, "chat"),
        of(merged.attributes, "attribute"),
        of(merged.errors, "error"),
        of(merged.findings, "finding"),
        of(merged.outages, "outage"),
        of(merged.files, "file"),
        of(merged.runs, "run"),
    ];
    labelled(output, "new too", &rest.join(", "))?;
    if merged.tombstones > 0 {
        let what = "were erased or purged there: they are not recorded here either, if they are delivered again";
        labelled(output, "removed", &format!("{} {what}", of(merged.tombstones, "chat")))?;
    }
    if merged.erased_there > 0 {
        let what = "of those that were erased or purged there: `erase` or `purge` here what is to go. They are those of \
                    the other archive's view removals";
        labelled(output, "stay", &format!("{} {what}", of(merged.erased_there, "chat")))?;
    }
    if !is_signed {
        labelled(output, "signed", "not yet, for want of the private key: a running `serve` does within a minute")?;
    }
    Ok(())
}
