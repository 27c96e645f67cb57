//! `key`: the keys that sign an archive's checkpoints.

use std::path::Path;

use clap::Subcommand;

use super::output::{self, Cell, Format, Look, Output};
use crate::archive::key;
use crate::recorder::now_ms;
use crate::store::audit::Snapshot;
use crate::store::custody::Custody;
use crate::store::read::Archive;

const EXAMPLE: &str = "\
Example:
  gms-recorder key list";

/// See the public keys that an archive was signed with, the present one last; or go on with another one.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Print the public keys: for auditors, and for `verify --key`
    List(Look),
    /// Make another private key; the present one signs that it follows. A running `serve` takes it at once
    Rotate(Look),
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, database: &Path, key_file: &Path) -> anyhow::Result<()> {
    // Opened once beforehand, for its words about what is no archive.
    Archive::open(database).await?.close().await?;
    let (Action::List(look) | Action::Rotate(look)) = args.action;
    if matches!(args.action, Action::Rotate(_)) {
        rotate(database, key_file)?;
    }
    output::to_stdout(look, async |output| print(database, output)).await
}

/// The key that is left stays beside the file of the new one: what it signed, it signed.
fn rotate(database: &Path, key_file: &Path) -> anyhow::Result<()> {
    let custody = Custody::open(database)?;
    let known = custody.keys()?;
    let now = now_ms();
    let introduce = |vkey: &str, statement: &str| Ok(custody.add_key(vkey, now, statement)?);
    key::rotate::<anyhow::Error>(key_file, custody.archive_id(), &known, now, introduce)?;
    Ok(())
}

fn print(database: &Path, output: &mut Output<'_>) -> anyhow::Result<()> {
    let names = ["key"];
    output.header(&names)?;
    for (vkey, _) in Snapshot::open(database)?.keys()? {
        match output.format {
            Format::Text => output.line(&output::shown(&vkey))?,
            Format::Json | Format::Csv => output.record(&names, &[Cell::from(vkey)])?,
        }
    }
    Ok(())
}
