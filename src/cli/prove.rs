//! `prove`: what somebody needs who has not the archive to see that a chat's rows are what was recorded.

use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::custody;
use super::output::{Format, Look, Output, plain_line};
use super::progress::progress;
use super::reading::{Case, Reading};
use super::verify::in_words;
use crate::archive::bundle::sealed_row;
use crate::archive::note::{self, PublicKey};
use crate::store::audit::Snapshot;
use crate::store::audit::proof::{Field, Proof, Subject};
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
/// text: give it to nobody who may not read the chat. Of a chat that was erased or purged it proves that, by whom and why; of an
/// act, all that it did.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The chat.
    #[arg(required_unless_present = "act")]
    chat_id: Option<String>,
    /// An erasure, a purge, a hold, by its number: its certificate.
    #[arg(long, value_name = "NUMBER", conflicts_with = "chat_id")]
    act: Option<i64>,
    #[command(flatten)]
    case: Case,
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, reading: &Reading, key_file: &Path) -> anyhow::Result<()> {
    let (look, case) = (Look { format: Format::Json, ..Look::default() }, args.case.clone());
    match reading.to_stdout(&case, look, async |output| print(args, &reading.database, key_file, output).await).await {
        Ok(()) => Ok(()),
        Err(error) => Err(in_words(error, &reading.database).await),
    }
}

async fn print(args: Args, database: &Path, key_file: &Path, output: &mut Output<'_>) -> anyhow::Result<()> {
    // Opened once beforehand, for its words about what is no archive.
    Archive::open(database).await?.close().await?;
    let subject = match (args.chat_id, args.act) {
        (Some(chat_id), _) => Subject::Chat(chat_id),
        (None, act) => Subject::Act(act.unwrap_or_default()),
    };
    let (database, key_file) = (database.to_owned(), key_file.to_owned());
    let Proved { proof, newer, signer, has_erased_nothing } =
        tokio::task::spawn_blocking(move || prove(&subject, &database, &key_file)).await??;
    output.document(&proof)?;
    output.rows = proof["rows"].as_array().map_or(0, |rows| rows.len() as i64);
    if newer > 0 {
        writeln!(io::stderr(), "{newer} rows are newer than the last checkpoint and not in the proof; {signer}")?;
    }
    if has_erased_nothing {
        writeln!(
            io::stderr(),
            "act {} erased nothing: this proves that it was asked for, and no more",
            proof["act_id"]
        )?;
    }
    Ok(())
}

/// A proof, and what it cannot say.
pub(super) struct Proved {
    pub proof: Value,
    /// How many rows are too new for it.
    pub newer: u64,
    /// Who signs them, and when.
    pub signer: String,
    /// It is of an erasure, and of all that it did: nothing.
    pub has_erased_nothing: bool,
}

/// Proves it up to the last checkpoint.
///
/// # Errors
/// There is nothing of the subject; nothing of it is signed; the evidence is damaged.
pub(super) fn prove(subject: &Subject, database: &Path, key_file: &Path) -> anyhow::Result<Proved> {
    let snapshot = Snapshot::open(database)?;
    let stored = snapshot.keys()?;
    let keys: Vec<PublicKey> = stored.iter().filter_map(|key| PublicKey::parse(&key.vkey)).collect();
    let known: Vec<String> = stored.iter().map(|key| key.vkey.clone()).collect();
    let why_not =
        custody::unsigned_because(key_file, &known).map(|why| format!("nothing is signed: {}", plain_line(&why)));
    let last = snapshot.checkpoints()?.pop().ok_or_else(|| match &why_not {
        None => anyhow::anyhow!("nothing is signed yet: a running `serve` signs checkpoints"),
        Some(why_not) => anyhow::anyhow!("{why_not}"),
    })?;
    let signer = why_not.unwrap_or_else(|| "a running `serve` signs them within evidence.checkpoint_interval".into());
    let (checkpoint, key) = note::open(&last.note, &keys)
        .map_err(|flaw| anyhow::anyhow!("the last checkpoint proves nothing: {flaw}; see `gms-recorder verify`"))?;
    let size = checkpoint.size;
    let mut tell = progress("leaves");
    let proofs = snapshot.prove(subject, size, &mut |done| tell(done, size))?;
    let (name, id, lists) = match subject {
        Subject::Chat(chat_id) => ("chat", chat_id.clone(), "chats"),
        Subject::Act(id) => ("act", id.to_string(), "access"),
    };
    let newer = proofs.newer;
    anyhow::ensure!(
        newer > 0 || !proofs.rows.is_empty(),
        "there is no {name} {id} in {}: `gms-recorder {lists}` lists them",
        database.display()
    );
    anyhow::ensure!(!proofs.rows.is_empty(), "none of the {name}'s {newer} rows is signed yet: {signer}");
    let rows: Vec<Value> = proofs.rows.iter().map(row).collect();
    let mut proof = match subject {
        Subject::Chat(chat_id) => json!({ "chat_id": chat_id }),
        Subject::Act(id) => json!({ "act_id": id }),
    };
    proof["checkpoint"] = json!(last.note);
    proof["key"] = json!(key.vkey());
    proof["successions"] = stored.iter().skip(1).map(|key| key.statement.as_str()).collect();
    proof["newer_rows"] = json!(newer);
    proof["rows"] = json!(rows);
    let has_erased_nothing = newer == 0
        && proofs.rows.iter().any(|row| row.fields.contains(&("kind", Field::Text("erase".into()))))
        && proofs.rows.iter().all(|row| row.table != "erasures");
    Ok(Proved { proof, newer, signer, has_erased_nothing })
}

fn row(proof: &Proof) -> Value {
    let path: Vec<String> = proof.path.iter().map(|hash| BASE64_STANDARD.encode(hash)).collect();
    let mut row = sealed_row(proof.table, &proof.fields, &proof.place);
    row["path"] = json!(path);
    row
}
