//! `purge`: what the schedule says is due goes.

use super::actor::actor;
use super::custody;
use super::output::{self, Cell, Format, Look, Output, counted, shown};
use super::progress::progress;
use super::when::{self, Clock};
use crate::archive::retention::Planned;
use crate::config::Config;
use crate::recorder::now_ms;
use crate::store::custody::Custody;

const EXAMPLE: &str = "\
Example:
  gms-recorder purge --dry-run

Exit codes:
  0  what is due is gone, but for what is held
  1  it could not be done, or not to the last byte
  2  wrong usage, or no schedule ([retention]) is configured";

/// Remove the chats that are older than the schedule says ([retention] of the configuration), counted from when they were last
/// seen, and errors and findings of no chat as old as that.
///
/// Goes in small transactions, beside live recording. What is held stays. The leaves of the tree stay: `verify` passes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    look: Look,
}

const NAMES: [&str; 7] = ["service", "keep", "before", "chats", "held", "rows_of_no_chat", "undelivered"];

/// Runs the command.
///
/// # Errors
/// What to tell the user.
pub async fn run(args: Args, config: &Config) -> anyhow::Result<()> {
    let schedule = &config.retention;
    let custody = custody::open(config).await?;
    if !schedule.is_limited() {
        let is_clean = args.dry_run || !custody.is_unclean()? || finish_cleaning(&custody, args.look).await?;
        custody.close()?;
        anyhow::ensure!(is_clean, UNCLEAN);
        let hint = "name a time under [retention] of the configuration: keep = \"7y\", or a service's under [retention.services]";
        return Err(output::Usage(format!("no schedule is configured, so that nothing is ever due: {hint}")).into());
    }
    let plan = schedule.plan(&custody, now_ms(), &config.export.awaited())?;
    let (mut is_done, mut altered) = (true, 0);
    output::to_stdout(args.look, async |output| {
        print(&plan, &Clock::now(args.look.utc), output)?;
        if args.dry_run {
            output.note("nothing was removed (--dry-run)")?;
            return Ok(());
        }
        let purged = schedule.purge(&custody, &plan, &actor(None), now_ms, &mut progress("chats"))?;
        (is_done, altered) = (custody::clean(&custody, output)?, purged.altered);
        let pages = custody.give_space_back()?;
        custody::sign(&custody, config)?;
        let (chats, rows, held) = (counted(purged.chats, "chat"), counted(purged.rows, "row"), purged.held);
        let pages = counted(i64::try_from(pages)?, "page");
        output.note(&format!("{chats} removed, {rows} in all; {held} held; {pages} given back"))?;
        custody::tell_copies(&config.recording.database, output)
    })
    .await?;
    custody.close()?;
    anyhow::ensure!(is_done, UNCLEAN);
    anyhow::ensure!(
        altered == 0,
        "{altered} of the chats and rows that are due stay: something of them is not as it was sealed. `gms-recorder verify` names it"
    );
    Ok(())
}

const UNCLEAN: &str = "not every byte of what was removed is overwritten yet: see above";

/// What an erasure had to leave because of a reader.
async fn finish_cleaning(custody: &Custody, look: Look) -> anyhow::Result<bool> {
    let mut is_clean = false;
    output::to_stdout(look, async |output| {
        is_clean = custody::clean(custody, output)?;
        if is_clean {
            output.note("what was erased before is overwritten to the last byte now")?;
        }
        Ok(())
    })
    .await?;
    Ok(is_clean)
}

fn print(plan: &[Planned], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    output.header(&NAMES)?;
    for planned in plan {
        let held = planned.due.iter().filter(|due| due.held_by.is_some()).count() as i64;
        let free = planned.due.len() as i64 - held;
        match output.format {
            Format::Text => {
                let service = planned.service.as_deref().map_or("other services".into(), shown);
                let rows = counted(planned.of_no_chat, "row");
                output.line(&format!(
                    "{service}: kept {}; last seen before {}: {} due, {held} of them held; {rows} of no chat due",
                    planned.keep,
                    clock.minute(planned.before),
                    counted(free + held, "chat"),
                ))?;
                if planned.undelivered > 0 {
                    let chats = counted(i64::try_from(planned.undelivered)?, "chat");
                    output.line(&format!("  {chats} more wait until all targets have them (export.purge_waits)"))?;
                }
            }
            Format::Json | Format::Csv => {
                let cells = [
                    Cell::from(planned.service.clone()),
                    planned.keep.to_string().into(),
                    when::iso(planned.before).into(),
                    free.into(),
                    held.into(),
                    planned.of_no_chat.into(),
                    (planned.undelivered as i64).into(),
                ];
                output.record(&NAMES, &cells)?;
            }
        }
    }
    Ok(())
}
