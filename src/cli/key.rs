//! `key`: the keys that sign an archive's checkpoints.

use std::io::{self, Write};
use std::path::Path;

use clap::Subcommand;

use super::actor::actor;
use super::output::{self, Cell, Format, Look, Output};
use super::when::{self, Clock};
use crate::archive::key::Rotation;
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::audit::{Snapshot, StoredKey};
use crate::store::custody::{Act, Custody, Kind};
use crate::store::read::Archive;

const EXAMPLE: &str = "\
Example:
  gms-recorder key list > gms-recorder.vkey

The keys go to stdout, a line each, as `verify --key` and other tools of signed notes read them; since
when each has signed, and which one signs now, to stderr. JSON and CSV have both.";

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
    /// Print the public keys, and when each signed: for auditors, and for `verify --key`
    List(Look),
    /// Make another private key; the present one signs that it follows. A running `serve` takes it at once
    Rotate(Look),
}

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: &Config) -> anyhow::Result<()> {
    let database = &config.recording.database;
    // Opened once beforehand, for its words about what is no archive.
    Archive::open(database).await?.close().await?;
    let (Action::List(look) | Action::Rotate(look)) = args.action;
    let clock = Clock::now(look.utc);
    if matches!(args.action, Action::Rotate(_)) {
        rotate(database, &config.key_file())?;
    }
    output::to_stdout(look, async |output| print(database, &clock, output)).await
}

/// The key that is left stays beside the file of the new one: what it signed, it signed.
fn rotate(database: &Path, key_file: &Path) -> anyhow::Result<()> {
    let custody = Custody::open(database)?;
    let rotation = Rotation::begin(key_file)?;
    let (known, now) = (custody.keys()?, now_ms());
    let introduce = |former: &str, vkey: &str, statement: &str| {
        let is_added = custody.add_key(former, vkey, now, statement)?;
        anyhow::ensure!(is_added, "the archive has got another key meanwhile, by a rotation with another key file");
        Ok(())
    };
    rotation.rotate(custody.archive_id(), &known, now, introduce)?;
    let (actor, asked) = (actor(None), serde_json::json!({ "command": "key rotate" }));
    custody.note(&Act { kind: Kind::Key, at: now_ms(), actor: &actor, asked, reason: None }, 1)?;
    Ok(custody.close()?)
}

/// A public key, and when it signed.
struct Period {
    vkey: String,
    since: i64,
    /// None of the one that signs now.
    until: Option<i64>,
}

fn periods(database: &Path) -> anyhow::Result<Vec<Period>> {
    let mut periods: Vec<Period> = Vec::new();
    for StoredKey { vkey, since, .. } in Snapshot::open(database)?.keys()? {
        periods.iter_mut().last().into_iter().for_each(|former| former.until = Some(since));
        periods.push(Period { vkey, since, until: None });
    }
    Ok(periods)
}

/// The keys alone on stdout, so that a file of them is one for `--key`; when they signed beside it.
fn print(database: &Path, clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    let names = ["key", "since", "until"];
    output.header(&names)?;
    let mut remarks = Vec::new();
    for Period { vkey, since, until } in periods(database)? {
        match output.format {
            Format::Text => output.line(&output::shown(&vkey))?,
            Format::Json | Format::Csv => {
                let cells = [Cell::from(vkey.as_str()), when::iso(since).into(), until.and_then(when::iso).into()];
                output.record(&names, &cells)?;
            }
        }
        let id = vkey.split('+').nth(1).unwrap_or_default();
        remarks.push(match until {
            Some(until) => format!("{id}  signed from {} to {}", clock.date_time(since), clock.date_time(until)),
            None => format!("{id}  signs now, since {}", clock.date_time(since)),
        });
    }
    output.flush()?;
    if output.format == Format::Text {
        remarks.iter().try_for_each(|remark| writeln!(io::stderr(), "{}", output::plain_line(remark)))?;
    }
    Ok(())
}
