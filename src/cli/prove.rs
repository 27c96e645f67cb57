//! `prove`: what somebody needs who has not the archive to see that a chat's rows are what was recorded.

use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::output::{Format, Look, Output};
use super::reading::{Case, Reading};
use super::verify::Progress;
use crate::archive::note::{self, PublicKey};
use crate::store::audit::Snapshot;
use crate::store::audit::proof::{Field, Proof};
use crate::store::read::Archive;

const EXAMPLE: &str = "\
Example:
  gms-recorder prove 00001aCY6K8U003T > proof.json

Whoever has proof.json and the public key from elsewhere can check it offline: rebuild each row's
bytes (migrations/0005_seals.sql), hash them with their salt, go up the path, compare the root with
that of the signed note. tests/integration/prove.py does it in Python.";

/// Write a proof, as JSON, that the rows of a chat are leaves of the archive's tree, up to its latest signed checkpoint.
///
/// It proves that these rows were recorded so, and when they were signed; not that there are no others. It holds the chat's
/// text: give it to nobody who may not read the chat.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The chat.
    chat_id: String,
    #[command(flatten)]
    case: Case,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let (look, case) = (Look { format: Format::Json, ..Look::default() }, args.case.clone());
    reading.to_stdout(&case, look, async |output| print(args, &reading.database, output).await).await
}

async fn print(args: Args, database: &Path, output: &mut Output<'_>) -> anyhow::Result<()> {
    let mut archive = Archive::open(database).await?;
    let exists = archive.chat(&args.chat_id).await?.is_some();
    archive.close().await?;
    anyhow::ensure!(
        exists,
        "there is no chat {} in {}: `gms-recorder chats` lists them",
        args.chat_id,
        database.display()
    );
    let database = database.to_owned();
    let (proof, newer) = tokio::task::spawn_blocking(move || prove(&args.chat_id, &database)).await??;
    anyhow::ensure!(
        proof["rows"] != json!([]),
        "none of the chat's {newer} rows is signed yet: a running `serve` signs them within evidence.checkpoint_interval"
    );
    output.document(&proof)?;
    output.rows = proof["rows"].as_array().map_or(0, |rows| rows.len() as i64);
    if newer > 0 {
        let hint = "a running `serve` signs them within evidence.checkpoint_interval";
        writeln!(io::stderr(), "{newer} rows are newer than the last checkpoint and not in the proof; {hint}")?;
    }
    Ok(())
}

fn prove(chat_id: &str, database: &Path) -> anyhow::Result<(Value, u64)> {
    let snapshot = Snapshot::open(database)?;
    let keys: Vec<PublicKey> = snapshot.keys()?.iter().filter_map(|(vkey, _)| PublicKey::parse(vkey)).collect();
    let last = snapshot.checkpoints()?.pop();
    let last = last.ok_or_else(|| anyhow::anyhow!("nothing is signed yet: a running `serve` signs checkpoints"))?;
    let (checkpoint, key) = note::open(&last.note, &keys)
        .map_err(|flaw| anyhow::anyhow!("the last checkpoint proves nothing: {flaw}; see `gms-recorder verify`"))?;
    let size = checkpoint.size;
    let mut progress = Progress::default().teller();
    let proofs = snapshot.prove(chat_id, size, &mut |done| progress(done, size))?;
    let rows: Vec<Value> = proofs.rows.iter().map(row).collect();
    let proof = json!({
        "chat_id": chat_id,
        "checkpoint": last.note,
        "key": key.vkey(),
        "newer_rows": proofs.newer,
        "rows": rows,
    });
    Ok((proof, proofs.newer))
}

fn row(proof: &Proof) -> Value {
    let fields: Vec<Value> = proof.fields.iter().map(|(name, field)| named(name, field)).collect();
    let path: Vec<String> = proof.path.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect();
    json!({
        "table": proof.table,
        "fields": fields,
        "salt": BASE64_STANDARD.encode(proof.salt),
        "leaf": proof.leaf,
        "sealed_later_at": proof.sealed_later_at,
        "path": path,
    })
}

/// Name, type as in the canonical bytes, value.
fn named(name: &str, field: &Field) -> Value {
    match field {
        Field::Null => json!([name, "N", null]),
        Field::Integer(number) => json!([name, "I", number]),
        Field::Real(number) => json!([name, "R", number]),
        Field::Text(text) => json!([name, "T", text]),
        Field::Blob(bytes) => json!([name, "B", BASE64_STANDARD.encode(bytes)]),
    }
}
