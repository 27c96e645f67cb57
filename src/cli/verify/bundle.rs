//! `verify --bundle`: did it come over whole, and are its rows what was recorded and signed?

use std::path::Path;

use super::counted_u64;
use crate::archive::bundle::check::{Answer, check};
use crate::archive::note::{Checkpoint, PublicKey};
use crate::cli::output::{self, Cell, Format, Ink, Look, Output, labelled, plain_line};
use crate::cli::when::{self, Clock};

/// Checks the bundle.
///
/// # Errors
/// What to tell the user; a fault of the bundle is one.
pub(super) async fn run(bundle: &Path, keys: Vec<PublicKey>, look: Look) -> anyhow::Result<()> {
    anyhow::ensure!(
        bundle.join("bagit.txt").exists(),
        "{} is no bundle: it has no bagit.txt; `export --bundle` makes one",
        bundle.display()
    );
    let folder = bundle.to_owned();
    let answer = tokio::task::spawn_blocking(move || check(&folder, &keys)).await??;
    output::to_stdout(look, async |output| match output.format {
        Format::Text => text(&answer, &Clock::now(look.utc), output),
        Format::Json | Format::Csv => record(&answer, output),
    })
    .await?;
    match answer.faults.count {
        0 => Ok(()),
        1 if answer.is_signer_unknown => anyhow::bail!("the bundle is not proved by the keys given"),
        count => anyhow::bail!("the bundle is not as it was made: {}", counted_u64(count, "fault")),
    }
}

const NAMES: [&str; 10] = [
    "sound",
    "faults",
    "files",
    "proved",
    "sealed_later",
    "unproved",
    "archive_id",
    "checkpoint",
    "signed_leaves",
    "signed_at",
];

fn record(answer: &Answer, output: &mut Output<'_>) -> anyhow::Result<()> {
    let fault = |fault: &crate::store::audit::Fault| {
        serde_json::json!({ "subject": fault.subject, "what": fault.what }).to_string()
    };
    let faults: Vec<String> = answer.faults.told.iter().map(fault).collect();
    let number = |number: u64| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let signed = answer.checkpoint.as_ref();
    let of = |cell: fn(&Checkpoint) -> Cell| signed.map_or(Cell::Null, cell);
    let cells = [
        number(u64::from(answer.faults.count == 0)),
        output::json_array(&faults),
        number(answer.files),
        number(answer.proved),
        number(answer.sealed_later),
        number(answer.unproved),
        of(|signed| signed.archive_id.as_str().into()),
        of(|signed| signed.number.into()),
        of(|signed| Cell::Integer(signed.size.cast_signed())),
        of(|signed| when::iso(signed.at).into()),
    ];
    output.header(&NAMES)?;
    Ok(output.record(&NAMES, &cells)?)
}

fn text(answer: &Answer, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    match answer.faults.count {
        0 => output.line("its rows are what was recorded and signed")?,
        1 if answer.is_signer_unknown => output.line(&Ink::Red.on("NOT PROVED"))?,
        _ => output.line(&Ink::Red.on("NOT AS IT WAS MADE"))?,
    }
    for fault in &answer.faults.told {
        output.line(&format!("  {}", plain_line(&fault.to_string())))?;
    }
    let as_they_were = if answer.faults.count == 0 { ", as the manifest has them" } else { " looked at" };
    labelled(output, "files", &format!("{}{as_they_were}", counted_u64(answer.files, "file")))?;
    labelled(output, "proved", &counted_u64(answer.proved, "row"))?;
    let what = "sealed later than they were written, and nothing vouches for them before that; nothing proves how many they are";
    labelled(output, "only said", &format!("{} {what}", counted_u64(answer.sealed_later, "row")))?;
    if answer.unproved > 0 {
        let what = "newer than the checkpoint: nothing vouches for them (data/unproved.jsonl)";
        labelled(output, "not proved", &format!("{} {what}", counted_u64(answer.unproved, "row")))?;
    }
    if let Some(signed) = &answer.checkpoint {
        let Checkpoint { archive_id, size, number, at, .. } = signed;
        let at = clock.date_time(*at);
        labelled(output, "signed", &format!("checkpoint {number} of archive {archive_id}: {size} leaves at {at}"))?;
    }
    Ok(())
}
